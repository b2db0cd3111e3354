"""Nearest neighbours, exactly: the k rows of a corpus with the highest cosine or dot product with each query.

    hits = nearest(queries_BD, corpus_MD, k=10)            # hits.scores_BK, hits.rows_BK, best first
    hits = nearest(queries_BD, "embeddings.npy", k=10)     # the same, of a file larger than memory

The corpus goes by in chunks; each is compared with blocks of queries, and what is kept is the best k so far, so that the
matrix of all similarities never exists.

Several devices share the work: chunks are dealt out to them, or, where the corpus is a JAX array spread over a mesh by rows,
each searches the rows that it holds. Each keeps its own best k, and the best of these are the best of all.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from minisbert.arguments import check_choice, check_positive, embedding_rows, refuse_too_long
from minisbert.errors import InputError, short_repr
from minisbert.search.shares import Shares
from minisbert.search.top_k import Best, best_on_device, best_on_host, prepare
from minisbert.search.vectors import Vectors
from minisbert.similarity import normalize

SIMILARITIES = ("cosine", "dot")
# Queries and corpus rows in one product: 8 MB of scores stay in the third-level cache. An accelerator wants more.
QUERIES, ROWS, ACCELERATOR_ROWS = 512, 4096, 65_536
THREADS = 4  # blocks of queries in work at once
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
    check_choice("similarity", similarity, SIMILARITIES)
    wanted = check_positive("k", k)
    share = isinstance(recall, float | int) and not isinstance(recall, bool) and 0 < recall <= 1
    if recall is not None and not share:
        raise InputError(f"recall is {short_repr(recall)}. Expected None, or a share above 0 and up to 1.")
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
    rows = _block_rows(B)
    blocks = [_filled(queries_BD[b : b + rows], rows) for b in range(0, B, rows)]
    nothing: Future[Best] = Future()
    nothing.set_result((np.full((rows, k), -np.inf, np.float32), np.zeros((rows, k), np.int32)))
    step = partial(_best_after, k=k, recall=recall, default=jax.config.jax_default_device)  # type: ignore[attr-defined]
    asked: dict[Any, list[jax.Array]] = {}
    best: dict[Any, list[Future[Best]]] = {}
    sent: deque[tuple[int, Any, list[Future[Best]]]] = deque()
    with _progress_bar(M, show_progress_bar) as bar, ThreadPoolExecutor(THREADS) as threads:
        for device, first, part, count in shares.chunks(size):
            if device not in asked:
                asked[device] = [jax.device_put(block, device) for block in blocks]
                best[device] = [nothing] * len(blocks)
            chunk_MD, bad = prepare(
                jax.device_put(part, device), corpus.ranges_2D, precision=corpus.precision, similarity=similarity
            )
            chunk = chunk_MD, first, None if count == len(part) else count
            best[device] = [
                threads.submit(step, so_far, block, *chunk)
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
            [np.concatenate([np.asarray(block.result()[i]) for block in found])[:B] for found in best.values()], axis=1
        )
        for i in (0, 1)
    )
    if len(best) > 1:  # the best of all devices' best; of equal scores the lower row
        order_BK = np.lexsort((rows_BK, -scores_BK), axis=1)[:, :k]
        scores_BK, rows_BK = (np.take_along_axis(found, order_BK, axis=1) for found in (scores_BK, rows_BK))
    return Hits(scores_BK, rows_BK.astype(np.int64))


def _chunk_rows(chunk_rows: int | None, M: int, D: int) -> int:
    if chunk_rows is not None:
        return min(check_positive("chunk_rows", chunk_rows), M)
    size = ROWS if jax.default_backend() == "cpu" else ACCELERATOR_ROWS
    while size > 256 and (size >= 2 * M or size * D * 4 > CHUNK_BYTES):  # powers of two: few shapes to compile
        size //= 2
    return size


def _block_rows(B: int) -> int:
    if B <= QUERIES:
        return next(n for n in (1, 8, 64, QUERIES) if n >= B)  # few shapes to compile
    blocks = -(-B // QUERIES)
    return -(-B // blocks // 8) * 8  # alike, filled up to a multiple of 8


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([rows, np.zeros((size - len(rows), rows.shape[1]), rows.dtype)])


def _best_after(
    so_far: Future[Best],
    queries_BD: jax.Array,
    chunk_MD: jax.Array,
    first: int,
    count: int | None,
    *,
    k: int,
    recall: float | None,
    default: Any,
) -> Best:
    # In a thread of its own, so that NumPy picks from one block of queries while the device compares another. What was
    # sent first is begun first: the future waited for here is running or done.
    before = so_far.result()
    with jax.default_device(default):  # a setting of the caller's thread
        if recall is None and next(iter(chunk_MD.devices())).platform == "cpu":
            return best_on_host(before, queries_BD, chunk_MD, first, count, k=k)
        found: Best = best_on_device(*before, queries_BD, chunk_MD, first, count, k=k, recall=recall)
        return found


def _wait(first: int, bad: Any, best: list[Future[Best]]) -> None:
    jax.block_until_ready([block.result() for block in best])
    if (row := int(bad)) >= 0:
        raise InputError(
            f"corpus[{first + row}] holds NaN or infinity, or is too long for float32. Expected finite embeddings; encode "
            "the text again."
        )


def _progress_bar(total: int, show: bool | None) -> Any:
    from tqdm import tqdm

    options: dict[str, Any] = {"disable": None, "delay": 2} if show is None else {"disable": not show}
    return tqdm(total=total, unit=" rows", desc="search", leave=bool(show), **options)
