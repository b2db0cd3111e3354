"""The training losses in plain float64 NumPy, one loop per sum of the formula.

    softmax, cosine_similarity, triplet    Reimers & Gurevych 2019 (Sentence-BERT), section 3
    multiple_negatives_ranking             Henderson et al. 2017, section 4.4; Li et al. 2023 (GTE) for the wide set
    margin_mse                             Hofstätter et al. 2020
    cosent                                 Huang et al. 2024
    contrastive                            Hadsell, Chopra & LeCun 2006, section 2.1
    online_contrastive                     sentence-transformers; no paper
    mse                                    Reimers & Gurevych 2020, section 2
    matryoshka                             Kusupati et al. 2022, section 3

The names and options are those of minisbert/training. `texts_SBD` holds S texts of each of B examples: anchor, positive,
hard negatives. Left out: gradients (tests use finite differences of these functions).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

# --- two vectors -----------------------------------------------------------------------------------------------------


def dot(u_D: np.ndarray, v_D: np.ndarray) -> float:
    """u . v"""
    return float((u_D * v_D).sum())


def cosine(u_D: np.ndarray, v_D: np.ndarray) -> float:
    """u . v / (|u| |v|), and 0 if either vector is zero.

    Example:
        >>> cosine(np.array([1.0, 0.0]), np.array([3.0, 4.0]))
        0.6
    """
    lengths = math.sqrt(dot(u_D, u_D)) * math.sqrt(dot(v_D, v_D))
    return dot(u_D, v_D) / lengths if lengths > 0 else 0.0


Compare = Callable[[np.ndarray, np.ndarray], float]
SIMILARITIES: dict[str, Compare] = {"dot": dot, "cosine": cosine}
DISTANCES: dict[str, Compare] = {
    "euclidean": lambda u_D, v_D: math.sqrt(dot(u_D - v_D, u_D - v_D)),
    "manhattan": lambda u_D, v_D: float(np.abs(u_D - v_D).sum()),
    "cosine": lambda u_D, v_D: 1 - cosine(u_D, v_D),
}


def mean(values: Sequence[float]) -> float:
    """The sum divided by the number of values."""
    return sum(values) / len(values)


def log_sum_exp(values: Sequence[float]) -> float:
    """log of the sum of exp(x), the largest factored out first so that no exp overflows.

    Example:
        >>> round(log_sum_exp([1000.0, 1000.0]), 6)  # 1000 + log 2
        1000.693147
    """
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values))


# --- labelled pairs --------------------------------------------------------------------------------------------------


def softmax(
    texts_SBD: np.ndarray,
    class_B: Sequence[int],
    kernel_FC: np.ndarray,
    bias_C: np.ndarray,
    concatenation: str = "u,v,|u-v|",
) -> float:
    """-log softmax(features W + b)[class], averaged."""
    losses = []
    for u_D, v_D, wanted in zip(*texts_SBD, class_B, strict=True):
        parts = {"u": u_D, "v": v_D, "|u-v|": np.abs(u_D - v_D), "u*v": u_D * v_D}
        features_F = np.concatenate([parts[name] for name in concatenation.split(",")])
        logits_C = features_F @ kernel_FC + bias_C
        losses.append(log_sum_exp(list(logits_C)) - logits_C[wanted])
    return mean(losses)


def cosine_similarity(texts_SBD: np.ndarray, score_B: Sequence[float]) -> float:
    """(cos(u, v) - score)^2, averaged."""
    return mean([(cosine(u_D, v_D) - score) ** 2 for u_D, v_D, score in zip(*texts_SBD, score_B, strict=True)])


def cosent(texts_SBD: np.ndarray, score_B: Sequence[float], scale: float = 20.0) -> float:
    """log(1 + sum over score_i > score_j of exp(scale (cos_j - cos_i)))."""
    cos_B = [cosine(u_D, v_D) for u_D, v_D in zip(*texts_SBD, strict=True)]
    terms = [0.0]  # log of the 1
    for cos_i, score_i in zip(cos_B, score_B, strict=True):
        for cos_j, score_j in zip(cos_B, score_B, strict=True):
            if score_i > score_j:
                terms.append(scale * (cos_j - cos_i))
    return log_sum_exp(terms)


def contrastive(texts_SBD: np.ndarray, alike_B: Sequence[float], margin: float = 0.5) -> float:
    """(y d^2 + (1 - y) max(0, margin - d)^2) / 2 with d = 1 - cos(u, v), averaged."""
    losses = []
    for u_D, v_D, y in zip(*texts_SBD, alike_B, strict=True):
        d = 1 - cosine(u_D, v_D)
        losses.append((y * d**2 + (1 - y) * max(0, margin - d) ** 2) / 2)
    return mean(losses)


def online_contrastive(texts_SBD: np.ndarray, label_B: Sequence[float], margin: float = 0.5) -> float:
    """The summed terms of similar pairs beyond the closest dissimilar one, and of dissimilar pairs within the farthest."""
    distance_B = [1 - cosine(u_D, v_D) for u_D, v_D in zip(*texts_SBD, strict=True)]
    alike = [d for d, label in zip(distance_B, label_B, strict=True) if label == 1]
    unlike = [d for d, label in zip(distance_B, label_B, strict=True) if label == 0]
    loss = 0.0
    for d in alike:
        if d > (min(unlike) if unlike else mean(alike)):
            loss += d**2
    for d in unlike:
        if d < (max(alike) if alike else mean(unlike)):
            loss += max(0, margin - d) ** 2
    return loss


# --- ranking ---------------------------------------------------------------------------------------------------------


def multiple_negatives_ranking(
    texts_SBD: np.ndarray,
    hash_SB: np.ndarray | None = None,
    scale: float = 20.0,
    similarity: str = "cosine",
    directions: Sequence[str] = ("query_to_doc",),
    partition_mode: str = "joint",
) -> float:
    """log sum over candidates of exp(s) - s(anchor, positive), averaged; s = scale * similarity.

    A text is named by (s, b): text s of example b. s = 0 is the anchor, 1 the positive, 2 and on hard negatives.
    """
    compare = SIMILARITIES[similarity]
    count, batch = texts_SBD.shape[:2]
    hash_SB = np.arange(count * batch).reshape(count, batch) if hash_SB is None else hash_SB
    anchors = [(0, b) for b in range(batch)]
    documents = [(s, b) for s in range(1, count) for b in range(batch)]

    losses = []
    for i in range(batch):
        sums = []
        for direction in directions:
            asking, asked = direction.split("_to_")
            this, other = ((0, i), (1, i)) if asking == "query" else ((1, i), (0, i))
            scores = []
            for candidate in anchors if asked == "query" else documents:
                paired = candidate == other
                of_this_kind = asking == asked and candidate[1] == i  # itself, or its fellow documents
                same_text = hash_SB[candidate] in (hash_SB[this], hash_SB[other])
                if paired or not (of_this_kind or same_text):
                    scores.append(scale * compare(texts_SBD[this], texts_SBD[candidate]))
            sums.append(scores)
        if partition_mode == "joint":
            log_sum = log_sum_exp([score for scores in sums for score in scores])
        else:
            log_sum = mean([log_sum_exp(scores) for scores in sums])
        losses.append(log_sum - scale * compare(texts_SBD[0, i], texts_SBD[1, i]))
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


def triplet(texts_SBD: np.ndarray, distance: str = "euclidean", margin: float = 5.0) -> float:
    """max(0, d(a, p) - d(a, n) + margin), averaged."""
    apart = DISTANCES[distance]
    return mean([max(0, apart(a_D, p_D) - apart(a_D, n_D) + margin) for a_D, p_D, n_D in zip(*texts_SBD, strict=True)])


# --- distillation, and the wrapper -----------------------------------------------------------------------------------


def mse(texts_SBD: np.ndarray, teacher_SBD: np.ndarray) -> float:
    """(student - teacher)^2, averaged over texts, examples and dimensions; a teacher `[B, D]` is one for all texts."""
    losses = []
    for s in range(len(texts_SBD)):
        teacher_BD = teacher_SBD if teacher_SBD.ndim == 2 else teacher_SBD[s % len(teacher_SBD)]
        losses.append(float(((texts_SBD[s] - teacher_BD) ** 2).mean()))
    return mean(losses)


def matryoshka(
    loss: Callable[[np.ndarray], float], texts_SBD: np.ndarray, dimensions: Sequence[int], weights: Sequence[float]
) -> float:
    """sum over d of weight_d * loss(the first d numbers of each embedding, scaled to length 1)."""
    total = 0.0
    for d, weight in zip(dimensions, weights, strict=True):
        short_SBD = texts_SBD[:, :, :d].copy()
        for short_D in short_SBD.reshape(-1, d):  # a view: short_SBD changes with it
            length = math.sqrt(dot(short_D, short_D))
            short_D /= length if length > 0 else 1.0
        total += weight * loss(short_SBD)
    return total
