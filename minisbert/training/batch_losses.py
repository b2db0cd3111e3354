"""Losses that form their comparisons from a batch: triplets of labelled texts, and a regularizer of all embeddings.

    batch_all_triplet                all triplets of the batch that violate the margin        Hermans et al. 2017, section 2
    batch_hard_triplet               per anchor the farthest positive, the closest negative   the same, equation 5
    batch_hard_soft_margin_triplet   the same with softplus in place of the margin            the same, "Soft-margin"
    batch_semi_hard_triplet          per pair the closest negative farther than the positive  Schroff et al. 2015, section 3.2
    global_orthogonal_regularization embeddings of different texts spread over the sphere     Zhang et al. 2017, section 3

The triplet losses take one text per example (S = 1) and its class: examples of a class are each other's positives, all others
negatives. Memory is B^2; the sums over B^3 triplets are fused by XLA, which never stores them. Definitions and reductions are
those of sentence-transformers 6, against which they are tested; `reference/batch_losses.py` has them in NumPy and must agree.
"""

import jax
import jax.numpy as jnp

from minisbert.arguments import check_choice
from minisbert.errors import InputError
from minisbert.similarity import cosine
from minisbert.training.ranking_losses import DISTANCES
from minisbert.training.targets import Head, Targets, labels, texts


def batch_all_triplet(
    embeddings_SBD: jax.Array,
    targets: Targets,
    head: Head | None = None,
    *,
    distance: str = "euclidean",
    margin: float = 5.0,
) -> jax.Array:
    """Batch-all triplet: the mean of d(a, p) - d(a, n) + margin over the triplets of the batch where it is positive.

    Needs: S = 1; `labels_B` class ids; batches with several texts of a class.
    Use when: texts have classes (topics, intents) and no pairs.
    See also: `batch_hard_triplet`, which uses one triplet per anchor.

    Shapes: embeddings `[1, B, D]` -> scalar. Without a violated triplet value and gradient are 0.

    Example:
        >>> embeddings_SBD = jnp.array([[[0.0], [1.0], [3.0]]])
        >>> targets = Targets(labels_B=jnp.array([0, 0, 1]))
        >>> float(batch_all_triplet(embeddings_SBD, targets))  # 1 - 3 + 5 and 1 - 2 + 5
        3.5
    """
    distance_BB, positive_BB, negative_BB = _distances("batch_all_triplet", embeddings_SBD, targets, distance)
    loss_BBB = distance_BB[:, :, None] - distance_BB[:, None, :] + margin
    violated_BBB = positive_BB[:, :, None] & negative_BB[:, None, :] & (loss_BBB > 0)
    return jnp.sum(loss_BBB, where=violated_BBB) / jnp.maximum(violated_BBB.sum(), 1)


def batch_hard_triplet(
    embeddings_SBD: jax.Array,
    targets: Targets,
    head: Head | None = None,
    *,
    distance: str = "euclidean",
    margin: float = 5.0,
) -> jax.Array:
    """Batch-hard triplet: the mean over anchors of max(0, farthest positive - closest negative + margin).

    An anchor without a positive has positive distance 0; without a negative, its largest distance is taken.

    Needs: S = 1; `labels_B` class ids; batches with several texts of a class.
    Use when: as `batch_all_triplet`, and labels are clean: the hardest triplets are often mistakes of labelling.
    See also: `batch_hard_soft_margin_triplet`, `batch_semi_hard_triplet`.

    Shapes: embeddings `[1, B, D]` -> scalar.

    Example:
        >>> embeddings_SBD = jnp.array([[[0.0], [1.0], [3.0]]])
        >>> targets = Targets(labels_B=jnp.array([0, 0, 1]))
        >>> float(batch_hard_triplet(embeddings_SBD, targets, margin=2.0))  # (1 - 3 + 2, 1 - 2 + 2, 0 - 2 + 2) / 3
        0.3333333432674408
    """
    return jnp.mean(jax.nn.relu(_hardest("batch_hard_triplet", embeddings_SBD, targets, distance) + margin))


def batch_hard_soft_margin_triplet(
    embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None, *, distance: str = "euclidean"
) -> jax.Array:
    """Soft-margin batch-hard triplet: the mean over anchors of log(1 + exp(farthest positive - closest negative)).

    Needs: S = 1; `labels_B` class ids; batches with several texts of a class.
    Use when: as `batch_hard_triplet`, and no margin is known: satisfied triplets are pulled further apart.
    See also: `batch_hard_triplet`.

    Shapes: embeddings `[1, B, D]` -> scalar.

    Example:
        >>> targets = Targets(labels_B=jnp.array([0, 0, 1, 1]))
        >>> round(float(batch_hard_soft_margin_triplet(jnp.ones((1, 4, 2)), targets)), 4)  # log(1 + exp(0 - 0))
        0.6931
    """
    return jnp.mean(jax.nn.softplus(_hardest("batch_hard_soft_margin_triplet", embeddings_SBD, targets, distance)))


def batch_semi_hard_triplet(
    embeddings_SBD: jax.Array,
    targets: Targets,
    head: Head | None = None,
    *,
    distance: str = "euclidean",
    margin: float = 5.0,
) -> jax.Array:
    """Semi-hard triplet: the mean over pairs (a, p) of max(0, d(a, p) - d(a, n) + margin).

    n is the closest negative that is farther from a than p is, or else the farthest negative. Without any negative,
    d(a, n) counts as 0.

    Needs: S = 1; `labels_B` class ids; batches with several texts of a class.
    Use when: as `batch_hard_triplet`, whose hardest negatives make training collapse early on.
    See also: `batch_all_triplet`.

    Shapes: embeddings `[1, B, D]` -> scalar. Without a pair of one class it is 0.

    Example:
        >>> embeddings_SBD = jnp.array([[[0.0], [2.0], [3.0], [-1.0]]])
        >>> targets = Targets(labels_B=jnp.array([0, 0, 1, 2]))
        >>> float(batch_semi_hard_triplet(embeddings_SBD, targets))  # a = 0: 2 - 3 + 5; a = 2: 2 - 3 + 5
        4.0
    """
    distance_BB, positive_BB, negative_BB = _distances("batch_semi_hard_triplet", embeddings_SBD, targets, distance)
    outside_BBB = negative_BB[:, None, :] & (distance_BB[:, None, :] > distance_BB[:, :, None])
    closest_BB = jnp.where(outside_BBB, distance_BB[:, None, :], jnp.inf).argmin(axis=2)
    farthest_B1 = jnp.where(negative_BB, distance_BB, 0).argmax(axis=1, keepdims=True)
    chosen_BB = _at(distance_BB, jnp.where(outside_BBB.any(axis=2), closest_BB, farthest_B1))
    chosen_BB = jnp.where(negative_BB.any(axis=1, keepdims=True), chosen_BB, 0)
    loss_BB = jax.nn.relu(distance_BB - chosen_BB + margin)
    return jnp.sum(loss_BB, where=positive_BB) / jnp.maximum(positive_BB.sum(), 1)


def _hardest(loss: str, embeddings_SBD: jax.Array, targets: Targets, distance: str) -> jax.Array:
    """Per anchor, the farthest positive minus the closest negative."""
    distance_BB, positive_BB, negative_BB = _distances(loss, embeddings_SBD, targets, distance)
    farthest_B1 = jnp.where(positive_BB, distance_BB, -1).argmax(axis=1, keepdims=True)
    positive_B1 = jnp.where(positive_BB.any(axis=1, keepdims=True), _at(distance_BB, farthest_B1), 0)
    closest_B1 = jnp.where(negative_BB, distance_BB, jnp.inf).argmin(axis=1, keepdims=True)
    largest_B1 = distance_BB.argmax(axis=1, keepdims=True)
    negative_B1 = _at(distance_BB, jnp.where(negative_BB.any(axis=1, keepdims=True), closest_B1, largest_B1))
    return (positive_B1 - negative_B1)[:, 0]


def _at(distance_BB: jax.Array, place_BM: jax.Array) -> jax.Array:
    """Distances by their places, so that the slope is that of the first of equal distances, as in PyTorch.

    That of jnp.max is shared by equal ones, and 0 / 0 where a compiler computes a distance twice and rounds it in two ways.
    """
    return jnp.take_along_axis(distance_BB, place_BM, axis=1)


def _distances(
    loss: str, embeddings_SBD: jax.Array, targets: Targets, distance: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """All distances; which pairs are of one class (and two texts), and which of two classes."""
    check_choice(f"{loss}: distance", distance, list(DISTANCES))
    (embedding_BD,) = texts(loss, embeddings_SBD, 1, 1)
    class_B = labels(loss, targets, embeddings_SBD)
    if not jnp.issubdtype(class_B.dtype, jnp.integer):
        raise InputError(
            f"{loss}: targets.labels_B is {class_B.dtype}. Expected class ids, whole numbers; for scores choose cosent."
        )
    same_BB = class_B[:, None] == class_B
    distance_BB = DISTANCES[distance](embedding_BD[:, None], embedding_BD[None])
    return distance_BB, same_BB & ~jnp.eye(len(class_B), dtype=bool), ~same_BB


def global_orthogonal_regularization(
    embeddings_SBD: jax.Array,
    targets: Targets,
    head: Head | None = None,
    *,
    mean_weight: float = 1.0,
    second_moment_weight: float = 1.0,
    aggregation: str = "mean",
) -> jax.Array:
    """Global orthogonal regularization: w1 M1^2 + w2 max(0, M2 - 1/D), M1 and M2 the moments of the cosines.

    M1 is the mean and M2 the mean square of the cosines of different texts of a column. On the uniform distribution over
    the sphere they are 0 and 1/D. Per column, then averaged (or summed) over the columns.

    Needs: S >= 1; no labels. Alone it teaches nothing about meaning: add it to another loss, in a function of your own.
    Use when: embeddings crowd in a cone, for example before quantization.
    See also: `multiple_negatives_ranking`, whose negatives spread embeddings too.

    Shapes: embeddings `[S, B, D]` -> scalar.

    Example:
        >>> round(float(global_orthogonal_regularization(jnp.ones((1, 4, 2)), Targets())), 4)  # 1^2 + (1 - 1/2)
        1.5
    """
    check_choice("global_orthogonal_regularization: aggregation", aggregation, ("mean", "sum"))
    S, B, D = texts("global_orthogonal_regularization", embeddings_SBD, 1).shape
    cosine_SBB = jnp.where(jnp.eye(B, dtype=bool), 0, jax.vmap(cosine)(embeddings_SBD, embeddings_SBD))
    pairs = max(B * (B - 1), 1)
    mean_S = cosine_SBB.sum(axis=(1, 2)) / pairs
    second_moment_S = (cosine_SBB**2).sum(axis=(1, 2)) / pairs
    term_S = mean_weight * mean_S**2 + second_moment_weight * jax.nn.relu(second_moment_S - 1 / D)
    return jnp.sum(term_S) / (S if aggregation == "mean" else 1)
