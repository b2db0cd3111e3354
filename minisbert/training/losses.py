"""Losses: from the embeddings of a batch to a scalar to minimize. `LOSSES` lists them all.

Every loss is a pure function `loss(embeddings_SBD, targets, head=None, **options)` -> float32 scalar. Axis 0 holds the S
texts of an example: anchor, positive, then hard negatives. `Targets` holds what is known about them, `head` the loss's own
parameters. Losses of labelled pairs are in pair_losses.py, ranking losses in ranking_losses.py; here are distillation,
Matryoshka (a wrapper around any loss) and `LOSSES`. To add a loss, write one function and one row.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from minisbert.errors import InputError
from minisbert.similarity import normalize
from minisbert.training.pair_losses import (
    CONCATENATIONS,
    contrastive,
    cosent,
    cosine_similarity,
    initial_softmax_head,
    online_contrastive,
    softmax,
    softmax_logits,
)
from minisbert.training.ranking_losses import DIRECTIONS, DISTANCES, margin_mse, multiple_negatives_ranking, triplet
from minisbert.training.targets import Head, Targets, texts

__all__ = [
    "CONCATENATIONS",
    "DIRECTIONS",
    "DISTANCES",
    "LOSSES",
    "Head",
    "Loss",
    "Targets",
    "contrastive",
    "cosent",
    "cosine_similarity",
    "initial_softmax_head",
    "margin_mse",
    "matryoshka",
    "mse",
    "multiple_negatives_ranking",
    "online_contrastive",
    "resolve_loss",
    "softmax",
    "softmax_logits",
    "triplet",
]


def mse(embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None) -> jax.Array:
    """Distillation: the mean of (student - teacher)^2 (Reimers & Gurevych 2020, section 2).

    Needs: S >= 1; `teacher_SBD` embeddings of the student's width, one per text or one per example for all its texts.
    Use when: a model should copy a larger one, or a translation should get the embedding of its original.
    See also: `margin_mse`, which copies a teacher's scores.

    Shapes: embeddings `[S, B, D]`, teacher `[S, B, D]`, `[1, B, D]` or `[B, D]` -> scalar.

    Example:
        >>> float(mse(jnp.ones((2, 4, 8)), Targets(teacher_SBD=jnp.zeros((4, 8)))))
        1.0
    """
    teacher, shape = targets.teacher_SBD, texts("mse", embeddings_SBD, 1).shape
    if teacher is None or teacher.shape not in (shape, (1, *shape[1:]), shape[1:]):
        raise InputError(
            f"mse: targets.teacher_SBD has shape {None if teacher is None else teacher.shape}, the embeddings {shape}. "
            "Expected the teacher's embeddings in the same shape, or without S. If the widths differ, take a teacher of "
            "this width or reduce its embeddings (PCA)."
        )
    return jnp.mean((embeddings_SBD - teacher) ** 2)


def matryoshka(
    loss: Callable[..., jax.Array], dimensions: Sequence[int], weights: Sequence[float] | None = None
) -> Callable[..., jax.Array]:
    """Any loss on the first d dimensions of each embedding, for several d: sum over d of weight_d * loss(first d).

    Kusupati et al. 2022, section 3, equation 1. The truncated embeddings are scaled to length 1 before the loss, as they
    are in a search. A teacher's embeddings are truncated too, but not scaled. All d share one softmax head and use its rows
    for the first d dimensions (MRL-E, "efficient": W^(d) = W_{1:d}).

    Needs: what the wrapped loss needs. Weights default to 1.
    Use when: users should be able to truncate embeddings to save memory. Include the full width, or it is not trained.
    See also: `truncate_dim` of SentenceEncoder, which truncates.

    Example:
        >>> embeddings_SBD = jnp.array([[[1.0, 0.0]], [[1.0, 1.0]]])
        >>> loss = matryoshka(cosine_similarity, [2, 1], [1.0, 10.0])
        >>> round(float(loss(embeddings_SBD, Targets(labels_B=jnp.zeros(1)))), 4)  # 1/2 + 10 * 1
        10.5
    """
    weights = [1.0] * len(dimensions) if weights is None else weights
    if not dimensions or min(dimensions) < 1 or len(weights) != len(dimensions):
        raise InputError(
            f"matryoshka: dimensions are {dimensions}, weights {weights}. Expected at least one dimension, each at least "
            "1, and as many weights."
        )

    def summed(embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None, **options: Any) -> jax.Array:
        width = embeddings_SBD.shape[-1]
        if max(dimensions) > width:
            raise InputError(f"matryoshka: dimension {max(dimensions)} is more than the embeddings' {width}.")
        total = jnp.zeros((), embeddings_SBD.dtype)
        for dimension, weight in zip(dimensions, weights, strict=True):
            short_SBD = normalize(embeddings_SBD[..., :dimension])
            short_teacher = None if targets.teacher_SBD is None else targets.teacher_SBD[..., :dimension]
            short_head = _first_rows(head, width, dimension) if head and "kernel" in head else head
            total += weight * loss(short_SBD, targets._replace(teacher_SBD=short_teacher), short_head, **options)
        return total

    return summed


def _first_rows(head: Head, width: int, dimension: int) -> Head:
    # The kernel's rows are parts (u, v, |u - v|) of `width` rows each; every part keeps its first rows.
    kernel_PDC = head["kernel"].reshape(-1, width, head["kernel"].shape[1])
    return {**head, "kernel": kernel_PDC[:, :dimension].reshape(-1, kernel_PDC.shape[2])}


@dataclass(frozen=True)
class Loss:
    """A loss, and what the trainer and the command line need to know about it: a row of `LOSSES`, or a setting."""

    function: Callable[..., jax.Array]
    # The kind of label ("score" includes 0 / 1); "any" takes what the data has.
    needs: Literal["any", "none", "class", "score", "margin", "teacher"] = "any"
    least_texts: int = 1  # S, texts per example
    most_texts: int | None = None  # None: any number
    # Whether examples of a batch are compared with each other (as negatives, or in order). The loss of a batch is then not
    # the mean over its parts, and accumulating gradients over parts is wrong without GradCache.
    in_batch: bool = False
    # (key, dimension, classes, **options) -> the loss's own parameters before training, a dict of arrays.
    head: Callable[..., Head] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options and their defaults, from the function's signature.

        Example:
            >>> LOSSES["triplet"].options
            {'distance': 'euclidean', 'margin': 5.0}
        """
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


LOSSES: dict[str, Loss] = {
    # name: function, needs, least and most texts
    "softmax": Loss(softmax, "class", 2, 2, head=initial_softmax_head),
    "cosine_similarity": Loss(cosine_similarity, "score", 2, 2),
    "cosent": Loss(cosent, "score", 2, 2, in_batch=True),
    "contrastive": Loss(contrastive, "score", 2, 2),
    "online_contrastive": Loss(online_contrastive, "score", 2, 2, in_batch=True),
    "multiple_negatives_ranking": Loss(multiple_negatives_ranking, "none", 2, None, in_batch=True),
    "triplet": Loss(triplet, "none", 3, 3),
    "margin_mse": Loss(margin_mse, "margin", 3, None),
    "mse": Loss(mse, "teacher", 1, None),
}


def resolve_loss(given: Any, table: Mapping[str, Loss] = LOSSES) -> Loss:
    """The loss of a setting: a name in the table, a `Loss`, or a function, which takes any data.

    Example:
        >>> resolve_loss("triplet").least_texts, resolve_loss(triplet).least_texts
        (3, 1)
    """
    if isinstance(given, Loss):
        return given
    return table[given] if isinstance(given, str) else Loss(given)
