"""Running top-k: the k best scores so far, updated with one more chunk of a corpus. All search is compiled here.

On an accelerator, block maxima narrow the search. Only the k blocks with the highest maxima can hold one of the k best scores:
a better score elsewhere would make k + 1 blocks with a maximum at least as high. Of equal maxima the earlier block wins, as the
earlier row does. So the maxima are ranked first, then the columns of k blocks; with blocks of sqrt(M / k) columns, the fewest
columns are ranked.

On a CPU, ranking takes a fifth of the time of the matrix products and runs on a single core. There the device only computes
the block maxima, and NumPy examines the few blocks that beat the k-th best score so far: after n chunks, about k / n columns
per query. Top-10 of 1,000 queries in 100,000 x 384, in CPU seconds: the products 0.94, ranking by blocks +0.18, NumPy +0.04.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minisbert.search.vectors import DECODERS
from minisbert.similarity import is_tiny, normalize, rescale_tiny

# Scores and rows, [B, k], best first; JAX or NumPy arrays.
Best = tuple[Any, Any]
WIDTH = 16  # columns of a block whose maximum is compared with the k-th best score


@partial(jax.jit, static_argnames=("k", "recall"))
def update_top_k(
    best: Best,
    queries_BD: jax.Array,
    chunk_MD: jax.Array,
    first: jax.Array,
    count: jax.Array | None,
    *,
    k: int,
    recall: float | None,
) -> tuple[jax.Array, jax.Array]:
    """The k best after one more chunk: rows `first` to `first + count` of the corpus (count None: the whole chunk)."""
    scores_BM = _scores(queries_BD, chunk_MD)
    M = chunk_MD.shape[0]
    if recall is None:
        new_BK, column_BK = block_top_k(scores_BM, count, min(k, M))
    else:
        new_BK, column_BK = jax.lax.approx_max_k(
            _rankable(scores_BM, jnp.arange(M), count), min(k, M), recall_target=recall
        )
    # Rows of earlier chunks come first, and for ties top_k takes the first.
    scores_BC = jnp.concatenate([best[0], new_BK], axis=1)
    rows_BC = jnp.concatenate([best[1], column_BK + first], axis=1)
    scores_BK, place_BK = jax.lax.top_k(_rankable(scores_BC), k)
    return scores_BK, jnp.take_along_axis(rows_BC, place_BK, axis=1)


def _scores(queries_BD: jax.Array, chunk_MD: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        return queries_BD @ chunk_MD.T


def block_top_k(scores_BM: jax.Array, count: jax.Array | None, k: int) -> tuple[jax.Array, jax.Array]:
    """The k highest of the first `count` (None: of all) columns, by block maxima: values and columns, `[B, k]`.

    Example:
        >>> values, columns = block_top_k(jnp.arange(1024.0)[None] % 1000, None, 2)
        >>> values.tolist(), columns.tolist()
        ([[999.0, 998.0]], [[999, 998]])
    """
    B, M = scores_BM.shape
    column_M = jnp.arange(M)
    width = 1 << max(0, (M // k).bit_length() - 1) // 2  # about sqrt(M / k), a power of two
    if width < 8 or M % width:
        return jax.lax.top_k(_rankable(scores_BM, column_M, count), k)
    blocks = scores_BM.reshape(B, M // width, width)
    # Padding is masked in the maxima and again in the few candidates: masking all scores would write them to memory twice.
    maxima = _masked(blocks, column_M.reshape(M // width, width), count).max(axis=2)
    _, block_BK = jax.lax.top_k(_rankable(maxima), k)
    block_BK = jnp.sort(block_BK, axis=1)  # so that for ties the lower column comes first
    column_BC = (block_BK[:, :, None] * width + jnp.arange(width)).reshape(B, k * width)
    values_BC = jnp.take_along_axis(blocks, block_BK[:, :, None], axis=1).reshape(B, k * width)
    values_BK, place_BK = jax.lax.top_k(_rankable(values_BC, column_BC, count), k)
    return values_BK, jnp.take_along_axis(column_BC, place_BK, axis=1)


def _masked(scores: jax.Array, column: Any, count: jax.Array | None) -> jax.Array:
    return scores if count is None else jnp.where(column < count, scores, -jnp.inf)


def _rankable(scores: jax.Array, column: Any = None, count: jax.Array | None = None) -> jax.Array:
    # top_k orders by bits, -0.0 below 0.0. They must tie.
    return _masked(jnp.where(scores == 0, 0.0, scores), column, count)


# --- chunks as float32 rows ----------------------------------------------------------------------------------------


def prepare(part: jax.Array, ranges_2D: Any, *, precision: str, similarity: str) -> tuple[jax.Array, jax.Array]:
    """A chunk as float32 rows (of length 1 for cosine), and its first row that is not finite, or -1."""
    if part.dtype == jnp.float32 and similarity == "dot":
        return part, first_invalid(part)  # a compiled function would return a copy
    return _decode(part, ranges_2D, precision=precision, similarity=similarity)


@partial(jax.jit, static_argnames=("precision", "similarity"))
def _decode(part: jax.Array, ranges_2D: Any, *, precision: str, similarity: str) -> tuple[jax.Array, jax.Array]:
    chunk_MD = DECODERS[precision](part, ranges_2D)
    invalid = first_invalid(chunk_MD)
    if similarity == "cosine":
        tiny = is_tiny(chunk_MD).any()
        chunk_MD = jax.lax.cond(tiny, lambda rows_MD: normalize(rescale_tiny(rows_MD)), normalize, chunk_MD)
    return chunk_MD, invalid


@jax.jit
def first_invalid(chunk_MD: jax.Array) -> jax.Array:
    """The first row with NaN, infinity or a squared length beyond float32, or -1."""
    # NaN and infinity show in the squares. If the squared lengths of rows and queries are finite, no product overflows
    # (Cauchy-Schwarz), so all scores can be ordered.
    finite_M = jnp.isfinite((chunk_MD * chunk_MD).sum(axis=1))
    row: jax.Array = jnp.where(finite_M.all(), -1, jnp.argmin(finite_M))
    return row


# --- on a CPU ------------------------------------------------------------------------------------------------------


def update_top_k_on_cpu(
    best: Best, queries_BD: jax.Array, chunk_MD: jax.Array, first: int, count: int | None, *, k: int
) -> Best:
    """The same by a threshold; if many scores pass it, as in the first chunk, the device ranks instead.

    Example:
        >>> best = np.array([[5.0, 3.0]], np.float32), np.array([[7, 2]], np.int32)
        >>> chunk = jnp.arange(16.0)[:, None] / 4
        >>> [x.tolist() for x in update_top_k_on_cpu(best, jnp.ones((1, 1)), chunk, first=10, count=None, k=2)]
        [[[5.0, 3.75]], [[7, 25]]]
    """
    scores_BK, rows_BK = map(np.asarray, best)
    threshold_B = scores_BK[:, -1]
    M = chunk_MD.shape[0]
    if not M % WIDTH and threshold_B.min() > -np.inf:
        blocks, maxima = block_max(queries_BD, chunk_MD)
        query, column, score = _above(
            threshold_B, np.asarray(blocks), np.asarray(maxima), M if count is None else count
        )
        new_B = np.bincount(query, minlength=len(threshold_B))
        if new_B.max() <= 4 * k:
            return _merge(scores_BK, rows_BK, new_B, score, column + first)
    ranked: Best = update_top_k(best, queries_BD, chunk_MD, first, count, k=k, recall=None)
    jax.block_until_ready(ranked)
    return ranked


@jax.jit
def block_max(queries_BD: jax.Array, chunk_MD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """All scores, `[B, M / WIDTH, WIDTH]`, and the highest of each block."""
    blocks = _scores(queries_BD, chunk_MD).reshape(len(queries_BD), -1, WIDTH)
    return blocks, blocks.max(axis=2)


def _above(threshold_B: np.ndarray, blocks: np.ndarray, maxima: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    """Query, column and score of all scores above the query's threshold, in the order of queries, then columns."""
    # Strictly above: an equal score loses to the earlier row.
    query, block = np.divmod(np.flatnonzero(maxima > threshold_B[:, None]), maxima.shape[1])
    scores, column = blocks[query, block], block[:, None] * WIDTH + np.arange(WIDTH)
    place, i = np.nonzero((scores > threshold_B[query, None]) & (column < count))
    return query[place], column[place, i], scores[place, i]


def _merge(scores_BK: np.ndarray, rows_BK: np.ndarray, new_B: np.ndarray, score: np.ndarray, row: np.ndarray) -> Best:
    """Merge `new_B[b]` scores and rows for each query b, query after query, into the k best so far."""
    k = scores_BK.shape[1]
    touched = np.flatnonzero(new_B)
    # One row per query: its best so far, then the new scores; a stable sort puts the earlier of ties first.
    line = np.repeat(np.arange(len(touched)), new_B[touched])
    place = k + np.arange(len(score)) - np.repeat(np.cumsum(new_B) - new_B, new_B)
    scores = np.full((len(touched), k + new_B.max()), -np.inf, np.float32)
    rows = np.zeros(scores.shape, np.int32)
    scores[:, :k], rows[:, :k] = scores_BK[touched], rows_BK[touched]
    scores[line, place], rows[line, place] = score, row
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    scores_BK, rows_BK = scores_BK.copy(), rows_BK.copy()
    scores_BK[touched], rows_BK[touched] = (np.take_along_axis(x, order, axis=1) for x in (scores, rows))
    return scores_BK, rows_BK
