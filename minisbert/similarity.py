"""Similarity of sentence embeddings: cosine, dot product, and (negated) euclidean and manhattan distance.

Each has two forms: all pairs, `similarity_BM` of `a_BD` and `b_MD`, and row by row, `similarity_B` of `a_BD` and `b_BD`.
Distances are negated, so larger always means more similar. The functions are pure and take NumPy or JAX arrays; NumPy arrays
stay in NumPy, so a few vectors on the host need no compilation. Arithmetic is that of the arrays' type, in which int8 wraps
around and float16 overflows: make quantized embeddings float32 first. `reference/similarity.py` must agree.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or jax.Array


def normalize(sentence_BD: Array) -> Array:
    """Scale each row to length 1; a zero row stays zero.

    Example:
        >>> normalize(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    xp = sentence_BD.__array_namespace__()
    square_B1 = (sentence_BD * sentence_BD).sum(axis=-1, keepdims=True)
    # sqrt gets positive numbers only: its slope at 0 is infinite and would turn gradients into NaN.
    norm_B1 = xp.sqrt(xp.where(square_B1 > 0, square_B1, 1))
    return sentence_BD / xp.maximum(norm_B1, 1e-12)


def rescale_tiny(sentence_BD: Array) -> Array:
    """Multiply rows whose squares underflow by a power of two, which changes no cosine; leave the others unchanged.

    Example:
        >>> normalize(rescale_tiny(np.float32([[3e-30, 4e-30], [3, 4]]))).round(3).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.6000000238418579, 0.800000011920929]]
    """
    xp = sentence_BD.__array_namespace__()
    _, exponent_B1 = xp.frexp(abs(sentence_BD).max(axis=-1, keepdims=True))
    return xp.where(is_tiny(sentence_BD)[..., None], xp.ldexp(sentence_BD, -exponent_B1), sentence_BD)


def is_tiny(sentence_BD: Array) -> Array:
    """Which rows are so short that float32 may lose their squares, and `normalize` may not scale them to length 1."""
    return (sentence_BD * sentence_BD).sum(axis=-1) < 1e-23


def unit(sentence_BD: Array) -> Array:
    """Each row scaled to length 1; in NumPy also those whose squares underflow. A row of zeros stays zero."""
    if isinstance(sentence_BD, np.ndarray) and sentence_BD.size and is_tiny(sentence_BD).any():
        sentence_BD = rescale_tiny(sentence_BD)
    return normalize(sentence_BD)


def dot(a_BD: Array, b_MD: Array) -> Array:
    """All dot products. On an accelerator JAX rounds products unless `jax.default_matmul_precision("highest")` is set.

    Example:
        >>> dot(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
        [[11.0, 2.0]]
    """
    return a_BD @ b_MD.T


def cosine(a_BD: Array, b_MD: Array) -> Array:
    """All cosines; a zero vector has cosine 0 with everything (SBERT section 3, "cosine-similarity").

    JAX rows shorter than 1e-12 are divided by 1e-12, as in torch, so that their cosines are nearer to 0; NumPy rows are not.

    Example:
        >>> cosine(np.array([[1.0, 0.0]]), np.array([[2.0, 0.0], [0.0, 5.0]])).tolist()
        [[1.0, 0.0]]
    """
    return unit(a_BD) @ unit(b_MD).T


def euclidean(a_BD: Array, b_MD: Array) -> Array:
    """All negated euclidean distances, from the differences: exact 0 for equal rows, no cancellation.

    Example:
        >>> euclidean(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]])).tolist()
        [[-5.0]]
    """
    return _row_by_row(pairwise_euclidean, a_BD, b_MD)


def manhattan(a_BD: Array, b_MD: Array) -> Array:
    """All negated manhattan distances.

    Example:
        >>> manhattan(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]])).tolist()
        [[-7.0]]
    """
    return _row_by_row(pairwise_manhattan, a_BD, b_MD)


def pairwise_dot(a_BD: Array, b_BD: Array) -> Array:
    """Row-by-row dot products, `similarity_B`."""
    return (a_BD * b_BD).sum(axis=-1)


def pairwise_cosine(a_BD: Array, b_BD: Array) -> Array:
    """Row-by-row cosines, `similarity_B`."""
    return pairwise_dot(unit(a_BD), unit(b_BD))


def pairwise_euclidean(a_BD: Array, b_BD: Array) -> Array:
    """Row-by-row negated euclidean distances, `similarity_B`."""
    xp = a_BD.__array_namespace__()
    square_B = ((a_BD - b_BD) ** 2).sum(axis=-1)
    # As in `normalize`: equal rows have distance 0 with slope 0, not NaN.
    return xp.where(square_B > 0, -xp.sqrt(xp.where(square_B > 0, square_B, 1)), 0)


def pairwise_manhattan(a_BD: Array, b_BD: Array) -> Array:
    """Row-by-row negated manhattan distances, `similarity_B`."""
    return -abs(a_BD - b_BD).sum(axis=-1)


Similarity = Callable[[Array, Array], Array]


def _row_by_row(pairwise: Similarity, a_BD: Array, b_MD: Array) -> Array:
    # One row at a time: all differences together would be B * M * D numbers.
    if a_BD.ndim == 1:  # one vector, as `dot` and `cosine` take it
        return pairwise(a_BD, b_MD)
    xp = a_BD.__array_namespace__()
    rows = [pairwise(a_D, b_MD) for a_D in a_BD]
    return xp.stack(rows) if rows else xp.zeros((0, len(b_MD)), dtype=a_BD.dtype)


# The names that model folders use.
SIMILARITIES: dict[str, Similarity] = {"cosine": cosine, "dot": dot, "euclidean": euclidean, "manhattan": manhattan}
PAIRWISE_SIMILARITIES: dict[str, Similarity] = {
    "cosine": pairwise_cosine,
    "dot": pairwise_dot,
    "euclidean": pairwise_euclidean,
    "manhattan": pairwise_manhattan,
}
