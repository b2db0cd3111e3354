"""The training losses in plain float64 NumPy, one loop per sum of the formula.

    softmax, cosine_similarity, triplet    Reimers & Gurevych 2019 (Sentence-BERT), section 3
    multiple_negatives_ranking             Henderson et al. 2017, section 4.4; Li et al. 2023 (GTE) for the wide set
    mega_batch_margin                      Wieting & Gimpel 2018, section 3
    contrastive_tension (and in batch)     Carlsson et al. 2021
    cosent, angle                          Huang et al. 2024; Li & Li 2024
    contrastive                            Hadsell, Chopra & LeCun 2006, section 2.1
    online_contrastive                     sentence-transformers; no paper

Those with another model are in teacher_losses.py, triplets of a batch in batch_losses.py, wrappers in nested_losses.py. The
names and options are those of minisbert/training. `texts_SBD` holds S texts of each of B examples: anchor, positive,
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


def cosent(texts_SBD: np.ndarray, score_B: Sequence[float], scale: float = 20.0, compare: Compare = cosine) -> float:
    """log(1 + sum over score_i > score_j of exp(scale (s_j - s_i))), s the cosine of each pair."""
    s_B = [compare(u_D, v_D) for u_D, v_D in zip(*texts_SBD, strict=True)]
    terms = [0.0]  # log of the 1
    for s_i, score_i in zip(s_B, score_B, strict=True):
        for s_j, score_j in zip(s_B, score_B, strict=True):
            if score_i > score_j:
                terms.append(scale * (s_j - s_i))
    return log_sum_exp(terms)


def angle(texts_SBD: np.ndarray, score_B: Sequence[float], scale: float = 20.0) -> float:
    """The same with |Re(z w*) + Im(z w*)| for the cosine, z and w the complex halves of u / |u| and v / |v|."""
    return cosent(texts_SBD, score_B, scale, complex_angle)


def complex_angle(u_D: np.ndarray, v_D: np.ndarray) -> float:
    """|Re(z w*) + Im(z w*)|; a vector of odd width has a 0 appended.

    Example:
        >>> round(complex_angle(np.array([1.0, 0.0]), np.array([3.0, 4.0])), 6)  # |0.6 - 0.8|
        0.2
    """
    z, w = (complex_halves(x_D) for x_D in (u_D, v_D))
    product = (z * w.conj()).sum()
    return float(abs(product.real + product.imag))


def complex_halves(x_D: np.ndarray) -> np.ndarray:
    """x / |x| as complex numbers: the first half real, the second imaginary."""
    length = math.sqrt(dot(x_D, x_D))
    x_D = x_D / (length if length > 0 else 1.0)
    half = -(-len(x_D) // 2)
    imaginary = np.zeros(half)
    imaginary[: len(x_D) - half] = x_D[half:]
    return x_D[:half] + 1j * imaginary


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


def contrastive_tension(texts_SBD: np.ndarray, same_B: Sequence[float]) -> float:
    """-(y log σ(u . v) + (1 - y) log(1 - σ(u . v))), summed."""
    loss = 0.0
    for u_D, v_D, y in zip(*texts_SBD, same_B, strict=True):
        x = dot(u_D, v_D)
        loss += y * log_sum_exp([0.0, -x]) + (1 - y) * log_sum_exp([0.0, x])
    return loss


# --- ranking ---------------------------------------------------------------------------------------------------------


def multiple_negatives_ranking(
    texts_SBD: np.ndarray,
    hash_SB: np.ndarray | None = None,
    scale: float = 20.0,
    similarity: str = "cosine",
    directions: Sequence[str] = ("query_to_doc",),
    partition_mode: str = "joint",
    hardness_mode: str | None = None,
    hardness_strength: float = 0.0,
    frozen_SBD: np.ndarray | None = None,
) -> float:
    """log sum over candidates of exp(s) - s(anchor, positive), averaged; s = scale * similarity.

    A text is named by (s, b): text s of example b. s = 0 is the anchor, 1 the positive, 2 and on hard negatives.
    The hardness of negatives is that of `frozen_SBD`, the same texts, which finite differences do not vary.
    """
    compare = SIMILARITIES[similarity]
    count, batch = texts_SBD.shape[:2]
    hash_SB = np.arange(count * batch).reshape(count, batch) if hash_SB is None else hash_SB
    anchors = [(0, b) for b in range(batch)]
    documents = [(s, b) for s in range(1, count) for b in range(batch)]
    frozen_SBD = texts_SBD if frozen_SBD is None else frozen_SBD

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
                    score = scale * compare(texts_SBD[this], texts_SBD[candidate])
                    weighted = {
                        "in_batch_negatives": candidate[1] != i,
                        "hard_negatives": candidate[1] == i and candidate[0] > 1,
                        "all_negatives": not paired,
                    }
                    if direction == "query_to_doc" and weighted.get(str(hardness_mode)):
                        score += hardness_strength * compare(frozen_SBD[this], frozen_SBD[candidate])
                    scores.append(score)
            sums.append(scores)
        if partition_mode == "joint":
            log_sum = log_sum_exp([score for scores in sums for score in scores])
        else:
            log_sum = mean([log_sum_exp(scores) for scores in sums])
        losses.append(log_sum - scale * compare(texts_SBD[0, i], texts_SBD[1, i]))
    return mean(losses)


def contrastive_tension_in_batch(
    texts_SBD: np.ndarray, log_scale: float, hash_SB: np.ndarray | None = None, scale: float = 20.0
) -> float:
    """The mean of both directions' cross-entropies of exp(log_scale) * cosine; `scale` is that before training."""
    both = [
        multiple_negatives_ranking(texts, hash_SB if hash_SB is None else hash_SB[order], math.exp(log_scale))
        for texts, order in ((texts_SBD, [0, 1]), (texts_SBD[::-1], [1, 0]))
    ]
    return mean(both)


def mega_batch_margin(
    texts_SBD: np.ndarray, hash_SB: np.ndarray | None = None, positive_margin: float = 0.8, negative_margin: float = 0.3
) -> float:
    """max(0, m+ - cos(a_i, p_i)) + max(0, cos(a_i, p_j) - m-) for the closest other positive j, averaged."""
    anchors, positives = texts_SBD
    losses = []
    for i, anchor_D in enumerate(anchors):
        loss = max(0, positive_margin - cosine(anchor_D, positives[i]))
        others = [
            cosine(anchor_D, positive_D)
            for j, positive_D in enumerate(positives)
            if j != i and (hash_SB is None or hash_SB[1, j] not in (hash_SB[0, i], hash_SB[1, i]))
        ]
        losses.append(loss + max(0, max(others) - negative_margin) if others else loss)
    return mean(losses)


def triplet(texts_SBD: np.ndarray, distance: str = "euclidean", margin: float = 5.0) -> float:
    """max(0, d(a, p) - d(a, n) + margin), averaged."""
    apart = DISTANCES[distance]
    return mean([max(0, apart(a_D, p_D) - apart(a_D, n_D) + margin) for a_D, p_D, n_D in zip(*texts_SBD, strict=True)])
