"""Triplet losses of a labelled batch, and global orthogonal regularization, in plain float64 NumPy, triplet by triplet.

    batch_all_triplet, batch_hard_triplet, batch_hard_soft_margin_triplet    Hermans et al. 2017, section 2
    batch_semi_hard_triplet                                                  Schroff et al. 2015, section 3.2
    global_orthogonal_regularization                                         Zhang et al. 2017, section 3

Names and options as in losses.py; the triplet losses take one text per example, `texts_SBD` with S = 1. Left out: gradients.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from minisbert.reference.losses import DISTANCES, cosine, log_sum_exp, mean

# Of one anchor: the distances of its positives, of its negatives, and of all texts.
Distances = tuple[list[float], list[float], list[float]]


def anchors(texts_SBD: np.ndarray, class_B: Sequence[int], distance: str) -> Iterator[Distances]:
    """The distances from each text of the batch to the others."""
    apart, (text_BD,) = DISTANCES[distance], texts_SBD
    for a, anchor_D in enumerate(text_BD):
        distance_B = [apart(anchor_D, other_D) for other_D in text_BD]
        positives = [d for i, d in enumerate(distance_B) if i != a and class_B[i] == class_B[a]]
        negatives = [d for i, d in enumerate(distance_B) if class_B[i] != class_B[a]]
        yield positives, negatives, distance_B


def batch_all_triplet(
    texts_SBD: np.ndarray, class_B: Sequence[int], distance: str = "euclidean", margin: float = 5.0
) -> float:
    """d(a, p) - d(a, n) + margin, averaged over the triplets where it is positive."""
    losses = []
    for positives, negatives, _ in anchors(texts_SBD, class_B, distance):
        losses += [p - n + margin for p in positives for n in negatives if p - n + margin > 0]
    return mean(losses) if losses else 0.0


def hardest(texts_SBD: np.ndarray, class_B: Sequence[int], distance: str) -> list[float]:
    """Of each anchor, the farthest positive (0 without one) minus the closest negative (the farthest text without one)."""
    return [
        max(positives, default=0.0) - min(negatives, default=max(everything))
        for positives, negatives, everything in anchors(texts_SBD, class_B, distance)
    ]


def batch_hard_triplet(
    texts_SBD: np.ndarray, class_B: Sequence[int], distance: str = "euclidean", margin: float = 5.0
) -> float:
    """max(0, farthest positive - closest negative + margin), averaged over anchors."""
    return mean([max(0.0, difference + margin) for difference in hardest(texts_SBD, class_B, distance)])


def batch_hard_soft_margin_triplet(texts_SBD: np.ndarray, class_B: Sequence[int], distance: str = "euclidean") -> float:
    """log(1 + exp(farthest positive - closest negative)), averaged over anchors."""
    return mean([log_sum_exp([0.0, difference]) for difference in hardest(texts_SBD, class_B, distance)])


def batch_semi_hard_triplet(
    texts_SBD: np.ndarray, class_B: Sequence[int], distance: str = "euclidean", margin: float = 5.0
) -> float:
    """max(0, d(a, p) - d(a, n) + margin) with the closest n farther than p, else the farthest n; averaged over (a, p)."""
    losses = []
    for positives, negatives, _ in anchors(texts_SBD, class_B, distance):
        for p in positives:
            n = min((n for n in negatives if n > p), default=max(negatives, default=0.0))
            losses.append(max(0.0, p - n + margin))
    return mean(losses) if losses else 0.0


def global_orthogonal_regularization(
    texts_SBD: np.ndarray, mean_weight: float = 1.0, second_moment_weight: float = 1.0, aggregation: str = "mean"
) -> float:
    """w1 (mean cosine)^2 + w2 max(0, mean square cosine - 1/D) of the pairs of each column, averaged or summed."""
    terms = []
    for text_BD in texts_SBD:
        cosines = [cosine(u_D, v_D) for i, u_D in enumerate(text_BD) for j, v_D in enumerate(text_BD) if i != j]
        first, second = mean(cosines), mean([c**2 for c in cosines])
        terms.append(mean_weight * first**2 + second_moment_weight * max(0.0, second - 1 / texts_SBD.shape[2]))
    return mean(terms) if aggregation == "mean" else sum(terms)
