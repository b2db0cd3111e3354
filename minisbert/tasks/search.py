"""Nearest neighbours, exactly: the k rows of a corpus with the highest cosine or dot product with each query.

    hits = nearest(queries_BD, corpus_MD, k=10)            # hits.scores_BK, hits.rows_BK, best first
    hits = nearest(queries_BD, "embeddings.npy", k=10)     # the same, of a file larger than memory

The corpus goes by in chunks; each is compared with blocks of queries, and what is kept is the best k so far, so that the
matrix of all similarities never exists. The one place where search is compiled.

Several devices share the work: chunks are dealt out to them, or, where the corpus is a JAX array spread over a mesh by rows,
each searches the rows that it holds. Each keeps its own best k, and the best of these are the best of all.

Only the blocks of columns with the k highest maxima can hold one of the k best scores (a better score elsewhere would
make k + 1 blocks with a maximum at least as high), and of equal maxima the earlier block wins as the earlier row does.
So the maxima are ranked first, then the columns of k blocks. With blocks of sqrt(M / k) columns fewest are looked at.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minisbert.arguments import embedding_rows, one_of, positive, refuse_too_long
from minisbert.errors import InputError
from minisbert.similarity import normalize
from minisbert.tasks.shares import Shares
from minisbert.tasks.vectors import Vectors
from minisbert.text.tokenizer import shown

SIMILARITIES = ("cosine", "dot")
# Queries and corpus rows in one product: 8 MB of scores stay in the third-level cache. An accelerator wants more.
# Top-10 of 1,000 queries in 100,000 x 384, processor seconds on one core: the products 0.75, all columns ranked +0.25, by
# blocks +0.11, on the host above a running threshold +0.23.
QUERIES, ROWS, ACCELERATOR_ROWS = 512, 4096, 65_536
CHUNK_BYTES = 256_000_000
LARGEST = 2**31 - 1  # rows are counted in int32 on the device


class Hits(NamedTuple):
    """The rows found for each query, best first; of equal scores the lower row first."""

    scores_BK: np.ndarray  # float32
    rows_BK: np.ndarray  # int64


def nearest(
    queries_BD: Any,
    corpus_MD: Any,
    k: int = 10,
    *,
    similarity: str = "cosine",
    recall: float | None = None,
    chunk_rows: int | None = None,
    show_progress_bar: bool | None = None,
) -> Hits:
    """The k most similar rows for every query.

    Args:
        queries_BD: one embedding or rows of them.
        corpus_MD: rows of the same width: NumPy, JAX (spread over a mesh or not), the path of a .npy file, or `Vectors`.
        k: rows wanted; a corpus of fewer gives all of its rows.
        similarity: "cosine" (0 with a zero vector) or "dot".
        recall: None is exact; 0.95, say, lets an accelerator miss some (`jax.lax.approx_max_k`: Chern et al. 2022,
            "TPU-KNN"), the expected share of the k best that is found. Ties then fall as they may.
        chunk_rows: rows compared at once; by default what suits the device.
        show_progress_bar: None shows one on a terminal when it takes longer than two seconds.

    Returns:
        float32 scores and int64 rows, both `[B, min(k, M)]`.

    Raises:
        InputError: an argument is out of range; the widths differ; NaN or infinity in a query or a row, or one
            whose squared length float32 cannot hold, which would spoil the order.
        DataError: the file is missing, or no whole .npy file of rows.

    Example:
        >>> hits = nearest([[1.0, 0.0]], np.array([[0.0, 2.0], [3.0, 0.0], [1.0, 1.0]]), k=2)
        >>> hits.rows_BK
        array([[1, 2]])
        >>> hits.scores_BK.round(4)
        array([[1.    , 0.7071]], dtype=float32)
    """
    one_of("similarity", similarity, SIMILARITIES)
    wanted = positive("k", k)
    share = isinstance(recall, float | int) and not isinstance(recall, bool) and 0 < recall <= 1
    if recall is not None and not share:
        raise InputError(f"recall is {shown(recall)}. Expected None, or a share above 0 and up to 1.")
    corpus = Vectors.of(corpus_MD)
    M, D = corpus.shape
    queries = embedding_rows("queries", queries_BD)
    if queries.shape[1] != D:
        raise InputError(f"queries are {queries.shape[1]} wide, the corpus {D}. Expected embeddings of one model.")
    if M > LARGEST:
        raise InputError(f"corpus has {M} rows. Expected at most {LARGEST}; search it in parts.")
    B, K = len(queries), min(wanted, M)
    if not B or not K:
        return Hits(np.empty((B, K), np.float32), np.empty((B, K), np.int64))
    refuse_too_long("queries", queries)
    if similarity == "cosine":
        queries = normalize(queries)
    shares = Shares.of(corpus)
    size = _chunk_rows(chunk_rows, shares.most_rows, D)
    return _search(queries, corpus, shares, K, similarity, recall, size, show_progress_bar)


def _search(
    queries_BD: np.ndarray,
    corpus: Vectors,
    shares: Shares,
    k: int,
    similarity: str,
    recall: float | None,
    size: int,
    show_progress_bar: bool | None,
) -> Hits:
    B, M = len(queries_BD), corpus.shape[0]
    rows = next(n for n in (1, 8, 64, QUERIES) if n >= min(B, QUERIES))  # few shapes to compile
    blocks = [_filled(queries_BD[b : b + rows], rows) for b in range(0, B, rows)]
    nothing = (jnp.full((rows, k), -jnp.inf), jnp.zeros((rows, k), jnp.int32))
    asked: dict[Any, list[jax.Array]] = {}
    best: dict[Any, list[tuple[jax.Array, jax.Array]]] = {}
    sent: deque[tuple[int, Any, Any]] = deque()
    with _progress_bar(M, show_progress_bar) as bar:
        for device, first, part, count in shares.chunks(size):
            if device not in asked:
                asked[device] = [jax.device_put(block, device) for block in blocks]
                best[device] = [nothing] * len(blocks)
            chunk_MD, bad = _prepare(
                jax.device_put(part, device), corpus.ranges_2D, precision=corpus.precision, similarity=similarity
            )
            best[device] = [
                _best_after(*so_far, block, chunk_MD, first, None if count == size else count, k=k, recall=recall)
                for so_far, block in zip(best[device], asked[device], strict=True)
            ]
            sent.append((first, bad, best[device]))
            if len(sent) > len(asked):  # the chunk before is waited for: two are in a device's memory, no more
                _wait(*sent.popleft())
            bar.update(count)
        while sent:
            _wait(*sent.popleft())
    scores_BK, rows_BK = (
        np.concatenate(
            [np.concatenate([np.asarray(block[i]) for block in found])[:B] for found in best.values()], axis=1
        )
        for i in (0, 1)
    )
    if len(best) > 1:  # the best of all devices' best; of equal scores the lower row
        order_BK = np.lexsort((rows_BK, -scores_BK), axis=1)[:, :k]
        scores_BK, rows_BK = (np.take_along_axis(found, order_BK, axis=1) for found in (scores_BK, rows_BK))
    return Hits(scores_BK, rows_BK.astype(np.int64))


# --- on the device -------------------------------------------------------------------------------------------------


def best_after(
    scores_BK: jax.Array,
    rows_BK: jax.Array,
    queries_BD: jax.Array,
    chunk_MD: jax.Array,
    first: jax.Array,
    count: jax.Array | None,
    *,
    k: int,
    recall: float | None,
) -> tuple[jax.Array, jax.Array]:
    """The best k so far, after one more chunk: the rows of the corpus from `first` on, `count` of them or (None) all."""
    with jax.default_matmul_precision("highest"):
        scores_BM = queries_BD @ chunk_MD.T
    M = chunk_MD.shape[0]
    if recall is None:
        new_BK, column_BK = top_columns(scores_BM, count, min(k, M))
    else:
        some_BM = _ordered(scores_BM, jnp.arange(M), count)
        new_BK, column_BK = jax.lax.approx_max_k(some_BM, min(k, M), recall_target=recall)
    # The rows of earlier chunks stand first, and top_k keeps the first of equals.
    both = jnp.concatenate([scores_BK, new_BK], axis=1)
    both_rows = jnp.concatenate([rows_BK, column_BK + first], axis=1)
    scores_BK, place_BK = jax.lax.top_k(both, k)
    return scores_BK, jnp.take_along_axis(both_rows, place_BK, axis=1)


def top_columns(scores_BM: jax.Array, count: jax.Array | None, k: int) -> tuple[jax.Array, jax.Array]:
    """The k highest of the first `count` (None: of all) columns, by maxima of blocks: values and columns, `[B, k]`.

    Example:
        >>> values, columns = top_columns(jnp.arange(1024.0)[None] % 1000, None, 2)
        >>> values.tolist(), columns.tolist()
        ([[999.0, 998.0]], [[999, 998]])
    """
    B, M = scores_BM.shape
    column_M = jnp.arange(M)
    width = 1 << max(0, (M // k).bit_length() - 1) // 2  # about sqrt(M / k), a power of two
    if width < 8 or M % width:
        return jax.lax.top_k(_ordered(scores_BM, column_M, count), k)
    blocks = scores_BM.reshape(B, M // width, width)
    # Filling is left out of the maxima and again of the few candidates: left out of all scores at once, those would be
    # written to memory a second time.
    maxima = _real(blocks, column_M.reshape(M // width, width), count).max(axis=2)
    _, block_BK = jax.lax.top_k(_ordered(maxima), k)
    block_BK = jnp.sort(block_BK, axis=1)  # so that of equal scores the lower column stands first
    column_BC = (block_BK[:, :, None] * width + jnp.arange(width)).reshape(B, k * width)
    values_BC = jnp.take_along_axis(blocks, block_BK[:, :, None], axis=1).reshape(B, k * width)
    values_BK, place_BK = jax.lax.top_k(_ordered(values_BC, column_BC, count), k)
    return values_BK, jnp.take_along_axis(column_BC, place_BK, axis=1)


def _real(scores: jax.Array, column: Any, count: jax.Array | None) -> jax.Array:
    return scores if count is None else jnp.where(column < count, scores, -jnp.inf)


def _ordered(scores: jax.Array, column: Any = None, count: jax.Array | None = None) -> jax.Array:
    # top_k orders by bits, -0.0 below 0.0: zeros are made equal, to be ties.
    return _real(jnp.where(scores == 0, 0.0, scores), column, count)


def prepared(
    part: jax.Array, ranges_2D: jax.Array | None, *, precision: str, similarity: str
) -> tuple[jax.Array, jax.Array]:
    """A chunk as float32 rows (of length 1 for cosine), and its first row that is not finite, or -1."""
    chunk_MD = DECODERS[precision](part, ranges_2D)
    # NaN and infinity show in the squares; and where the squared lengths of rows and queries are finite, no product
    # overflows either (Cauchy-Schwarz), so that every score has its place in the order.
    finite_M = jnp.isfinite((chunk_MD * chunk_MD).sum(axis=1))
    if similarity == "cosine":
        chunk_MD = normalize(chunk_MD)
    return chunk_MD, jnp.where(finite_M.all(), -1, jnp.argmin(finite_M))


def _from_float(part: jax.Array, ranges_2D: jax.Array | None) -> jax.Array:
    return part.astype(jnp.float32)


def _from_int8(codes_MD: jax.Array, ranges_2D: Any) -> jax.Array:
    # The middle of the step that each code stands for.
    lowest_D, highest_D = ranges_2D
    return lowest_D + (codes_MD.astype(jnp.float32) + 128.5) * ((highest_D - lowest_D) / 255)


def _from_binary(codes_MX: jax.Array, ranges_2D: jax.Array | None) -> jax.Array:
    # sentence-transformers' "binary" is the packed byte minus 128. A bit stands for +1 or -1.
    packed_MX = (codes_MX.astype(jnp.int16) + 128).astype(jnp.uint8)
    return jnp.unpackbits(packed_MX, axis=1).astype(jnp.float32) * 2 - 1


DECODERS: dict[str, Callable[[Any, Any], jax.Array]] = {
    "float32": _from_float,
    "int8": _from_int8,
    "binary": _from_binary,
}
_prepare = jax.jit(prepared, static_argnames=("precision", "similarity"))
_best_after = jax.jit(best_after, static_argnames=("k", "recall"))


# --- on the host ---------------------------------------------------------------------------------------------------


def _chunk_rows(chunk_rows: int | None, M: int, D: int) -> int:
    if chunk_rows is not None:
        return min(positive("chunk_rows", chunk_rows), M)
    size = ROWS if jax.default_backend() == "cpu" else ACCELERATOR_ROWS
    while size > 256 and (size >= 2 * M or size * D * 4 > CHUNK_BYTES):  # powers of two: few shapes to compile
        size //= 2
    return size


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([rows, np.zeros((size - len(rows), rows.shape[1]), rows.dtype)])


def _wait(first: int, bad: Any, best: Any) -> None:
    jax.block_until_ready(best)
    if (row := int(bad)) >= 0:
        raise InputError(
            f"corpus[{first + row}] holds NaN or infinity, or is too long for float32. Expected finite embeddings; encode "
            "the text again."
        )


def _progress_bar(total: int, show: bool | None) -> Any:
    from tqdm import tqdm

    options: dict[str, Any] = {"disable": None, "delay": 2} if show is None else {"disable": not show}
    return tqdm(total=total, unit=" rows", desc="search", leave=bool(show), **options)
