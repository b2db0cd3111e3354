"""Losses of a cross-encoder: from the logits of a batch of pairs to a scalar to minimize. `CROSS_ENCODER_LOSSES` lists them.

Their form is that of training/losses.py, `loss(logits_SBC, targets, head=None, **options)` -> scalar float32, with S pairs
per example (a query with each of its S documents) and C logits per pair. `head` is unused: the classification head is part of
the model. Definitions and reductions are those of sentence-transformers 6, against which they are tested;
`reference/cross_encoder.py` is the same in NumPy and must agree.

All losses take logits, before the activation that `predict` applies. Those of lists of documents are in list_losses.py.
"""

from typing import Any

import jax
import jax.numpy as jnp

from minisbert.arguments import check_choice
from minisbert.cross_encoder.list_losses import (
    adr_mse,
    lambda_loss,
    list_mle,
    list_net,
    one_logit_each,
    p_list_mle,
    rank_net,
)
from minisbert.data.sampler import Batch
from minisbert.errors import InputError
from minisbert.training.losses import Loss
from minisbert.training.targets import Head, Targets, labels, margins


def binary_cross_entropy(
    logits_SBC: jax.Array, targets: Targets, head: Head | None = None, *, pos_weight: float = 1.0
) -> jax.Array:
    """Binary cross-entropy: the mean of -(w y log σ(x) + (1 - y) log(1 - σ(x))), x the logit (Nogueira & Cho 2019).

    Needs: S = 1 pair, C = 1; `labels_B` from 0 (not relevant) to 1 (relevant).
    Use when: pairs are labelled relevant or not, or scored from 0 to 1. `pos_weight` w compensates for rare positives.
    See also: `cross_entropy` for classes.

    Shapes: logits `[1, B, 1]` -> scalar.

    Example:
        >>> round(float(binary_cross_entropy(jnp.zeros((1, 2, 1)), Targets(labels_B=jnp.array([0.0, 1.0])))), 4)  # log 2
        0.6931
    """
    logit_B = one_logit_each("binary_cross_entropy", logits_SBC, 1, 1)[0]
    y_B = labels("binary_cross_entropy", targets, logits_SBC)
    # softplus(-x) = -log σ(x), without its overflow.
    return jnp.mean(pos_weight * y_B * jax.nn.softplus(-logit_B) + (1 - y_B) * jax.nn.softplus(logit_B))


def cross_entropy(logits_SBC: jax.Array, targets: Targets, head: Head | None = None) -> jax.Array:
    """Cross-entropy: the mean of -log softmax(logits)[class] (Devlin et al. 2019, section 4.1).

    Needs: S = 1 pair, C >= 2; `labels_B` int32 class ids from 0.
    Use when: pairs have classes, as in NLI.
    See also: `losses.softmax`, for bi-encoders.

    Shapes: logits `[1, B, C]` -> scalar.

    Example:
        >>> round(float(cross_entropy(jnp.zeros((1, 2, 3)), Targets(labels_B=jnp.array([0, 2])))), 4)  # log 3
        1.0986
    """
    class_B = labels("cross_entropy", targets, logits_SBC)
    if logits_SBC.shape[0] != 1 or logits_SBC.shape[2] < 2 or not jnp.issubdtype(class_B.dtype, jnp.integer):
        raise InputError(
            f"cross_entropy: logits have shape {logits_SBC.shape}, labels_B is {class_B.dtype}. Expected [1, B, C] with "
            "C >= 2 and whole numbers; make the model with num_labels = the number of classes."
        )
    log_p_BC = jax.nn.log_softmax(logits_SBC[0])
    return -jnp.mean(jnp.take_along_axis(log_p_BC, class_B[:, None], axis=1))


def mse(logits_SBC: jax.Array, targets: Targets, head: Head | None = None) -> jax.Array:
    """Regression: the mean of (logit - score)^2.

    Needs: S = 1 pair, C = 1; `labels_B` scores.
    Use when: a teacher has scored pairs one by one, or scores have any range.
    See also: `margin_mse`, which compares only differences.

    Shapes: logits `[1, B, 1]` -> scalar.

    Example:
        >>> float(mse(jnp.zeros((1, 2, 1)), Targets(labels_B=jnp.array([1.0, 3.0]))))
        5.0
    """
    logit_B = one_logit_each("mse", logits_SBC, 1, 1)[0]
    return jnp.mean((logit_B - labels("mse", targets, logits_SBC)) ** 2)


def margin_mse(logits_SBC: jax.Array, targets: Targets, head: Head | None = None) -> jax.Array:
    """Margin-MSE: the mean of (x(q, p) - x(q, n) - teacher's margin)^2 over examples and negatives (Hofstätter et al. 2020).

    Needs: S >= 2 pairs (query with positive, query with each negative), C = 1; `labels_B` the margins `[B]` (one
        negative) or `[B, S - 1]`, or the teacher's scores `[B, S]`, whose differences are taken.
    Use when: a larger cross-encoder has scored triplets.
    See also: `mse`.

    Shapes: logits `[S, B, 1]` -> scalar.

    Example:
        >>> float(margin_mse(jnp.array([[[3.0]], [[1.0]]]), Targets(labels_B=jnp.array([5.0]))))  # (2 - 5)^2
        9.0
    """
    positive_B, *negatives = one_logit_each("margin_mse", logits_SBC, 2)
    margin_BN = jnp.stack([positive_B - negative_B for negative_B in negatives], axis=1)
    return jnp.mean((margin_BN - margins("margin_mse", targets, *margin_BN.shape)) ** 2)


def multiple_negatives_ranking(
    logits_SBC: jax.Array,
    targets: Targets,
    head: Head | None = None,
    *,
    scale: float = 10.0,
    num_negatives: int | None = 4,
    activation: str = "sigmoid",
) -> jax.Array:
    """Multiple negatives ranking: the mean of -log softmax(scale σ(x)) of the positive, first among S documents.

    Needs: S >= 2: query with positive, hard negatives, and documents of other queries; C = 1; no labels.
        `in_batch_negatives` adds `num_negatives` documents of other queries to a batch (None: all); the trainer calls it.
    Use when: there are pairs of question and answer without negatives.
    See also: `list_net`, where documents have relevance. `activation` "identity" leaves out σ.

    Shapes: logits `[S, B, 1]` -> scalar.

    Example:
        >>> round(float(multiple_negatives_ranking(jnp.zeros((4, 2, 1)), Targets())), 4)  # log 4
        1.3863
    """
    check_choice("multiple_negatives_ranking: activation", activation, ("sigmoid", "identity"))
    logit_SB = one_logit_each("multiple_negatives_ranking", logits_SBC, 2)
    score_SB = scale * (jax.nn.sigmoid(logit_SB) if activation == "sigmoid" else logit_SB)
    return jnp.mean(jax.nn.logsumexp(score_SB, axis=0) - score_SB[0])


def in_batch_negatives(batch: Batch, *, num_negatives: int | None = 4, **_: Any) -> Batch:
    """The batch with more text columns: for each query, documents of the next examples (of this host) with another text.

    Which examples are next is random, because the order of the data is. Where too few documents differ from the query's own
    texts, they are repeated.

    Example:
        >>> batch = Batch(0, 0, [3, 4, 5], [["a", "b", "c"], ["A", "B", "C"]], None)
        >>> in_batch_negatives(batch, num_negatives=1).texts[2:]
        [['B', 'C', 'A']]
    """
    B, columns = len(batch.rows_B), batch.texts[1:]
    count = (B - 1) * len(columns) if num_negatives is None else min(num_negatives, (B - 1) * len(columns))
    rows = []
    for b in range(B):
        own = {column[b] for column in batch.texts}
        others = [column[(b + i) % B] for column in columns for i in range(1, B)]
        others = [text for text in others if text not in own] or others
        rows.append([others[i % len(others)] for i in range(count)])
    return batch._replace(texts=[*batch.texts, *map(list, zip(*rows, strict=True))])


# name: function, needs, least and most texts per example (one more than pairs)
CROSS_ENCODER_LOSSES: dict[str, Loss] = {
    "binary_cross_entropy": Loss(binary_cross_entropy, "score", 2, 2),
    "cross_entropy": Loss(cross_entropy, "class", 2, 2),
    "mse": Loss(mse, "score", 2, 2),
    "margin_mse": Loss(margin_mse, "margin", 3, None),
    "rank_net": Loss(rank_net, "relevance", 3, None),
    "lambda_loss": Loss(lambda_loss, "relevance", 3, None),
    "list_net": Loss(list_net, "relevance", 3, None),
    "list_mle": Loss(list_mle, "relevance", 3, None),
    "p_list_mle": Loss(p_list_mle, "relevance", 3, None),
    "adr_mse": Loss(adr_mse, "relevance", 3, None),
    "multiple_negatives_ranking": Loss(
        multiple_negatives_ranking, "none", 2, None, in_batch=True, more_texts=in_batch_negatives
    ),
}
