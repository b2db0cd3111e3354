"""Similarity of sentence embeddings: cosine, dot product, and (negated) euclidean and manhattan distance.

Each comes for all pairs, `similarity_BM` of `a_BD` and `b_MD`, and row by row, `similarity_B` of `a_BD` and `b_BD`.
Distances are negated, so that larger always means more alike. Pure functions; `reference/similarity.py` is the same
in NumPy and must agree.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def normalize(sentence_BD: jax.Array) -> jax.Array:
    """Scale each row to length 1; a zero row stays zero.

    Example:
        >>> normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(3).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    square_B1 = jnp.sum(sentence_BD * sentence_BD, axis=-1, keepdims=True)
    # The root is taken of a number above 0 only: its slope at 0 is infinite and would turn gradients into NaN.
    norm_B1 = jnp.sqrt(jnp.where(square_B1 > 0, square_B1, 1))
    return sentence_BD / jnp.maximum(norm_B1, 1e-12)


def dot(a_BD: jax.Array, b_MD: jax.Array) -> jax.Array:
    """All dot products.

    Example:
        >>> dot(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
        [[11.0, 2.0]]
    """
    return jnp.einsum("BD,MD->BM", a_BD, b_MD, precision=jax.lax.Precision.HIGHEST)


def cosine(a_BD: jax.Array, b_MD: jax.Array) -> jax.Array:
    """All cosines; a zero vector has cosine 0 with everything (SBERT section 3, "cosine-similarity").

    Example:
        >>> cosine(jnp.array([[1.0, 0.0]]), jnp.array([[2.0, 0.0], [0.0, 5.0]])).tolist()
        [[1.0, 0.0]]
    """
    return dot(normalize(a_BD), normalize(b_MD))


def euclidean(a_BD: jax.Array, b_MD: jax.Array) -> jax.Array:
    """All negated euclidean distances, from the differences: exact 0 for equal rows, no cancellation.

    Example:
        >>> euclidean(jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]])).tolist()
        [[-5.0]]
    """
    return jax.lax.map(lambda a_D: -jnp.sqrt(jnp.sum((a_D - b_MD) ** 2, axis=-1)), a_BD)


def manhattan(a_BD: jax.Array, b_MD: jax.Array) -> jax.Array:
    """All negated manhattan distances.

    Example:
        >>> manhattan(jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]])).tolist()
        [[-7.0]]
    """
    return jax.lax.map(lambda a_D: -jnp.sum(jnp.abs(a_D - b_MD), axis=-1), a_BD)


def pairwise_dot(a_BD: jax.Array, b_BD: jax.Array) -> jax.Array:
    """Row-by-row dot products, `similarity_B`."""
    return jnp.sum(a_BD * b_BD, axis=-1)


def pairwise_cosine(a_BD: jax.Array, b_BD: jax.Array) -> jax.Array:
    """Row-by-row cosines, `similarity_B`."""
    return pairwise_dot(normalize(a_BD), normalize(b_BD))


def pairwise_euclidean(a_BD: jax.Array, b_BD: jax.Array) -> jax.Array:
    """Row-by-row negated euclidean distances, `similarity_B`."""
    return -jnp.sqrt(jnp.sum((a_BD - b_BD) ** 2, axis=-1))


def pairwise_manhattan(a_BD: jax.Array, b_BD: jax.Array) -> jax.Array:
    """Row-by-row negated manhattan distances, `similarity_B`."""
    return -jnp.sum(jnp.abs(a_BD - b_BD), axis=-1)


Similarity = Callable[[jax.Array, jax.Array], jax.Array]

# The names of model folders.
SIMILARITIES: dict[str, Similarity] = {
    "cosine": cosine,
    "dot": dot,
    "euclidean": euclidean,
    "manhattan": manhattan,
}
PAIRWISE_SIMILARITIES: dict[str, Similarity] = {
    "cosine": pairwise_cosine,
    "dot": pairwise_dot,
    "euclidean": pairwise_euclidean,
    "manhattan": pairwise_manhattan,
}
