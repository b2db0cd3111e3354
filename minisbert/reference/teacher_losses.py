"""Losses with another model in plain float64 NumPy: distillation of embeddings and scores, and a guide for negatives.

    mse, embed_distill     Reimers & Gurevych 2020, section 2; Kim et al. 2023
    margin_mse             Hofstätter et al. 2020
    distill_kl_div         Hinton et al. 2015, section 2; Lin, Yang & Lin 2020
    gist                   Solatorio 2024

Names, options and `texts_SBD` as in losses.py. Left out: gradients.
"""

import math
from collections.abc import Sequence

import numpy as np

from minisbert.reference.losses import DISTANCES, SIMILARITIES, cosine, log_sum_exp, mean


def mse(texts_SBD: np.ndarray, teacher_SBD: np.ndarray) -> float:
    """(student - teacher)^2, averaged over texts, examples and dimensions; a teacher `[B, D]` is one for all texts."""
    losses = []
    for s in range(len(texts_SBD)):
        teacher_BD = teacher_SBD if teacher_SBD.ndim == 2 else teacher_SBD[s % len(teacher_SBD)]
        losses.append(float(((texts_SBD[s] - teacher_BD) ** 2).mean()))
    return mean(losses)


def embed_distill(
    texts_SBD: np.ndarray,
    teacher_SBD: np.ndarray,
    kernel_DE: np.ndarray | None = None,
    bias_E: np.ndarray | None = None,
    distance: str = "cosine",
    projection_dim: int | None = None,
) -> float:
    """The distance of each student's (projected) embedding and the teacher's, averaged."""
    losses = []
    for s in range(len(texts_SBD)):
        teacher_BE = teacher_SBD if teacher_SBD.ndim == 2 else teacher_SBD[s % len(teacher_SBD)]
        for student_D, teacher_E in zip(texts_SBD[s], teacher_BE, strict=True):
            student_E = student_D if kernel_DE is None else student_D @ kernel_DE + bias_E
            if distance == "mse":
                losses.append(float(((student_E - teacher_E) ** 2).mean()))
            else:
                losses.append(DISTANCES["euclidean" if distance == "l2" else distance](student_E, teacher_E))
    return mean(losses)


def margin_mse(texts_SBD: np.ndarray, margin_BN: np.ndarray, similarity: str = "dot") -> float:
    """((s(a, p) - s(a, n)) - teacher's margin)^2, averaged; one margin per negative, or N + 1 scores to subtract."""
    compare = SIMILARITIES[similarity]
    count, batch = texts_SBD.shape[:2]
    negatives = count - 2
    losses = []
    for b in range(batch):
        anchor_D, positive_D, *negative_ND = texts_SBD[:, b]
        teacher_N = np.atleast_1d(margin_BN[b])
        if len(teacher_N) == negatives + 1:
            teacher_N = teacher_N[0] - teacher_N[1:]
        for negative_D, teacher in zip(negative_ND, teacher_N, strict=True):
            margin = compare(anchor_D, positive_D) - compare(anchor_D, negative_D)
            losses.append((margin - teacher) ** 2)
    return mean(losses)


def distill_kl_div(
    texts_SBD: np.ndarray,
    score_BM: np.ndarray,
    similarity: str = "dot",
    temperature: float = 1.0,
    student_temperature: float | None = None,
    teacher_temperature: float | None = None,
) -> float:
    """T^2 sum over candidates of p log(p / q), averaged: p the softmax of the teacher's scores, q of the student's.

    `score_BM` has one score per candidate, or one margin per negative (the positive's score minus its own).
    """
    student = temperature if student_temperature is None else student_temperature
    teacher = temperature if teacher_temperature is None else teacher_temperature
    compare = SIMILARITIES[similarity]
    losses = []
    for b in range(texts_SBD.shape[1]):
        anchor_D, *candidates = texts_SBD[:, b]
        given = list(np.atleast_1d(score_BM[b]))
        if len(given) < len(candidates):
            given = [0.0, *(-margin for margin in given)]
        log_p = log_softmax([score / teacher for score in given])
        log_q = log_softmax([compare(anchor_D, candidate_D) / student for candidate_D in candidates])
        losses.append(student**2 * sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True)))
    return mean(losses)


def log_softmax(values: Sequence[float]) -> list[float]:
    """log of exp(x) divided by the sum of exp."""
    total = log_sum_exp(values)
    return [value - total for value in values]


def gist(
    texts_SBD: np.ndarray,
    guide_SBE: np.ndarray,
    hash_SB: np.ndarray | None = None,
    temperature: float = 0.01,
    margin_strategy: str = "absolute",
    margin: float = 0.0,
    contrast_anchors: bool = True,
    contrast_positives: bool = True,
) -> float:
    """log sum over the remaining candidates of exp(cos / T) - cos(anchor, positive) / T, averaged.

    A text is named by (s, b), as in `losses.multiple_negatives_ranking`.
    """
    count, batch = texts_SBD.shape[:2]
    hash_SB = np.arange(count * batch).reshape(count, batch) if hash_SB is None else hash_SB
    losses = []
    for i in range(batch):
        limit = cosine(guide_SBE[0, i], guide_SBE[1, i])
        limit -= margin if margin_strategy == "absolute" else abs(limit) * margin
        pairs = [((0, i), (s, b)) for s in range(1, count) for b in range(batch)]
        pairs += [((0, i), (0, b)) for b in range(batch) if b != i and contrast_anchors]
        pairs += [((1, i), (1, b)) for b in range(batch) if b != i and contrast_positives]
        scores = []
        for this, other in pairs:
            same_text = hash_SB[other] in (hash_SB[0, i], hash_SB[1, i])
            if (this, other) == ((0, i), (1, i)) or not (
                same_text or cosine(guide_SBE[this], guide_SBE[other]) > limit
            ):
                scores.append(cosine(texts_SBD[this], texts_SBD[other]) / temperature)
        losses.append(log_sum_exp(scores) - cosine(texts_SBD[0, i], texts_SBD[1, i]) / temperature)
    return mean(losses)
