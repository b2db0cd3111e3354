"""The table of losses: from the embeddings of a batch to a scalar to minimize. `LOSSES` lists them all.

Every loss is a pure function `loss(embeddings_SBD, targets, head=None, **options)` -> float32 scalar. Axis 0 holds the S
texts of an example: anchor, positive, then hard negatives. `Targets` holds what is known about them, `head` the loss's own
parameters. The functions are in

    pair_losses.py       labelled pairs                   teacher_losses.py    with another model
    ranking_losses.py    anchors and their positives      batch_losses.py      triplets and moments of a batch
    denoising.py         texts alone, with a decoder      nested_losses.py     wrappers: shorter embeddings, earlier layers

To add a loss, write one function and one row here, then its NumPy twin and a test case (CONTRIBUTING.md).
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax

from minisbert.arguments import check_choice, check_positive
from minisbert.data.conventions import LABEL_KINDS
from minisbert.training.batch_losses import (
    batch_all_triplet,
    batch_hard_soft_margin_triplet,
    batch_hard_triplet,
    batch_semi_hard_triplet,
    global_orthogonal_regularization,
)
from minisbert.training.denoising import damaged_batch, denoising_auto_encoder, initial_decoder
from minisbert.training.nested_losses import adaptive_layer, matryoshka
from minisbert.training.pair_losses import (
    CONCATENATIONS,
    angle,
    contrastive,
    contrastive_tension,
    cosent,
    cosine_similarity,
    initial_softmax_head,
    online_contrastive,
    softmax,
    softmax_logits,
)
from minisbert.training.ranking_losses import (
    contrastive_tension_in_batch,
    initial_scale,
    mega_batch_margin,
    multiple_negatives_ranking,
    triplet,
)
from minisbert.training.siamese import TrainBatch
from minisbert.training.targets import Head, Targets
from minisbert.training.teacher_losses import distill_kl_div, embed_distill, gist, initial_projection, margin_mse, mse

if TYPE_CHECKING:
    from minisbert.data.sampler import Batch

__all__ = [
    "CONCATENATIONS",
    "LOSSES",
    "Head",
    "Loss",
    "Targets",
    "adaptive_layer",
    "angle",
    "batch_all_triplet",
    "batch_hard_soft_margin_triplet",
    "batch_hard_triplet",
    "batch_semi_hard_triplet",
    "contrastive",
    "contrastive_tension",
    "contrastive_tension_in_batch",
    "cosent",
    "cosine_similarity",
    "denoising_auto_encoder",
    "distill_kl_div",
    "embed_distill",
    "gist",
    "global_orthogonal_regularization",
    "initial_softmax_head",
    "margin_mse",
    "matryoshka",
    "mega_batch_margin",
    "mse",
    "multiple_negatives_ranking",
    "online_contrastive",
    "softmax",
    "softmax_logits",
    "triplet",
]


@dataclass(frozen=True)
class Loss:
    """A loss, and what the trainer and the command line need to know about it: a row of `LOSSES`, or a setting."""

    function: Callable[..., jax.Array]
    # The kind of label ("score" includes 0 / 1); "any" accepts any label, or none. "teacher": no labels, but a teacher's
    # embeddings of the texts (`targets.teacher_SBD`). "relevance": a number for each text but the first, `labels_B`
    # [B, S - 1]; NaN where an example has fewer of them than others.
    needs: Literal["any", "none", "class", "score", "margin", "relevance", "teacher"] = "any"
    least_texts: int = 1  # S, texts per example
    most_texts: int | None = None  # None: any number
    # Whether examples of a batch are compared with each other (as negatives, or in order). The loss of a batch is then not
    # the mean over its parts, and accumulating gradients over parts is wrong without GradCache.
    in_batch: bool = False
    # (key, dimension, classes, **options) -> the loss's own parameters before training, a dict of arrays.
    head: Callable[..., Head] | None = None
    # Whether it needs a guide's embeddings of the texts too (`targets.guide_SBD`).
    guide: bool = False
    # What it sees: sentence embeddings; "layers": embeddings_SBID, those of the token embeddings and of every block; "tokens":
    # embeddings_SBLD, a text's token embeddings, zeros after its end.
    embeds: Literal["sentences", "layers", "tokens"] = "sentences"
    # (batch, **options) -> the batch with more text columns, such as documents of other examples.
    more_texts: "Callable[..., Batch] | None" = None
    # Called instead of `collate.train_batch` for the arrays of a batch: with the same arguments, and the loss's options.
    collate: Callable[..., tuple[TrainBatch, int]] | None = None
    # Whether it runs the model too: `head["model"]` is the network with its parameters, and `head` gets them as `params`.
    model: bool = False

    def __post_init__(self) -> None:
        check_choice("needs", self.needs, LABEL_KINDS[1:])
        check_choice("embeds", self.embeds, ("sentences", "layers", "tokens"))
        check_positive("least_texts", self.least_texts)
        if self.most_texts is not None:
            check_positive("most_texts", self.most_texts)

    @property
    def options(self) -> dict[str, Any]:
        """The options and their defaults, from the function's signature.

        Example:
            >>> LOSSES["triplet"].options
            {'distance': 'euclidean', 'margin': 5.0}
        """
        parameters = list(inspect.signature(self.function).parameters.values())
        after_head = [p for p in parameters[3:] if p.kind is p.POSITIONAL_OR_KEYWORD]
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY or p in after_head}


LOSSES: dict[str, Loss] = {
    # name: function, needs, least and most texts
    "softmax": Loss(softmax, "class", 2, 2, head=initial_softmax_head),
    "cosine_similarity": Loss(cosine_similarity, "score", 2, 2),
    "cosent": Loss(cosent, "score", 2, 2, in_batch=True),
    "angle": Loss(angle, "score", 2, 2, in_batch=True),
    "contrastive": Loss(contrastive, "score", 2, 2),
    "online_contrastive": Loss(online_contrastive, "score", 2, 2, in_batch=True),
    "contrastive_tension": Loss(contrastive_tension, "score", 2, 2),
    "multiple_negatives_ranking": Loss(multiple_negatives_ranking, "none", 2, None, in_batch=True),
    "contrastive_tension_in_batch": Loss(contrastive_tension_in_batch, "none", 2, 2, in_batch=True, head=initial_scale),
    "gist": Loss(gist, "none", 2, None, in_batch=True, guide=True),
    "mega_batch_margin": Loss(mega_batch_margin, "none", 2, 2, in_batch=True),
    "triplet": Loss(triplet, "none", 3, 3),
    "batch_all_triplet": Loss(batch_all_triplet, "class", 1, 1, in_batch=True),
    "batch_hard_triplet": Loss(batch_hard_triplet, "class", 1, 1, in_batch=True),
    "batch_hard_soft_margin_triplet": Loss(batch_hard_soft_margin_triplet, "class", 1, 1, in_batch=True),
    "batch_semi_hard_triplet": Loss(batch_semi_hard_triplet, "class", 1, 1, in_batch=True),
    "margin_mse": Loss(margin_mse, "margin", 3, None),
    "distill_kl_div": Loss(distill_kl_div, "margin", 3, None),
    "mse": Loss(mse, "teacher", 1, None),
    "embed_distill": Loss(embed_distill, "teacher", 1, None, head=initial_projection),
    "global_orthogonal_regularization": Loss(global_orthogonal_regularization, "none", 1, None, in_batch=True),
    "denoising_auto_encoder": Loss(
        denoising_auto_encoder, "none", 1, 2, head=initial_decoder, collate=damaged_batch, model=True
    ),
}
