"""Similarity in plain NumPy: four functions of two vectors, row by row and for all pairs.

    cosine     u . v / (|u| |v|)          euclidean   -sqrt(sum_d (u_d - v_d)^2)
    dot        u . v                      manhattan   -sum_d |u_d - v_d|

Source: Reimers & Gurevych 2019 (Sentence-BERT), section 3 and table 1. Distances are negated: larger is more alike.
The names are those of minisbert/similarity.py. `pairwise_*` are the formulas; the others take them over all pairs.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

Similarity = Callable[[np.ndarray, np.ndarray], np.ndarray]


def normalize(sentence_BD: np.ndarray) -> np.ndarray:
    """u / |u|, row by row; a zero row stays zero.

    Example:
        >>> normalize(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    norm_B1 = np.sqrt((sentence_BD**2).sum(axis=-1, keepdims=True))
    return np.divide(sentence_BD, norm_B1, out=np.zeros_like(sentence_BD), where=norm_B1 > 0)


def pairwise_dot(a_BD: np.ndarray, b_BD: np.ndarray) -> np.ndarray:
    """u . v of each row of `a` with the same row of `b`."""
    return (a_BD * b_BD).sum(axis=-1)


def pairwise_cosine(a_BD: np.ndarray, b_BD: np.ndarray) -> np.ndarray:
    """u . v / (|u| |v|) of each row of `a` with the same row of `b`; 0 if either is zero."""
    return pairwise_dot(normalize(a_BD), normalize(b_BD))


def pairwise_euclidean(a_BD: np.ndarray, b_BD: np.ndarray) -> np.ndarray:
    """-|u - v| of each row of `a` with the same row of `b`."""
    return -np.sqrt(((a_BD - b_BD) ** 2).sum(axis=-1))


def pairwise_manhattan(a_BD: np.ndarray, b_BD: np.ndarray) -> np.ndarray:
    """-sum |u - v| of each row of `a` with the same row of `b`."""
    return -np.abs(a_BD - b_BD).sum(axis=-1)


def _all_pairs(pairwise: Similarity, a_BD: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """similarity_BM: each row of `a` with all rows of `b`."""
    return np.stack([pairwise(np.broadcast_to(a_D, b_MD.shape), b_MD) for a_D in a_BD])


dot, cosine = partial(_all_pairs, pairwise_dot), partial(_all_pairs, pairwise_cosine)
euclidean, manhattan = partial(_all_pairs, pairwise_euclidean), partial(_all_pairs, pairwise_manhattan)

# The names that model folders use.
SIMILARITIES: dict[str, Similarity] = {"cosine": cosine, "dot": dot, "euclidean": euclidean, "manhattan": manhattan}
PAIRWISE_SIMILARITIES: dict[str, Similarity] = {
    "cosine": pairwise_cosine,
    "dot": pairwise_dot,
    "euclidean": pairwise_euclidean,
    "manhattan": pairwise_manhattan,
}
