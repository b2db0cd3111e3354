"""Exact nearest-neighbour search: the k rows of a corpus with the highest cosine or dot product with each query.

    hits = nearest(queries_BD, corpus_MD, k=10)            # hits.scores_BK, hits.rows_BK, best first
    hits = nearest(queries_BD, "embeddings.npy", k=10)     # the same for a file larger than memory
    semantic_search(queries_BD, corpus_MD, top_k=10)       # sentence-transformers' lists of {"corpus_id", "score"}

The corpus is processed in chunks. Each chunk is compared with blocks of queries, and only the best k so far are stored, so the
full similarity matrix never exists. Several devices share the work (vectors.py); each keeps its own best k, which are merged at
the end.
"""

import logging
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from minisbert.arguments import check_choice, check_positive, embedding_rows, refuse_too_long
from minisbert.errors import InputError, short_repr
from minisbert.inference.compiled import progress_bar
from minisbert.search.top_k import Best, prepare, update_top_k, update_top_k_on_cpu
from minisbert.search.vectors import Share, Vectors, device_chunks, device_shares
from minisbert.similarity import unit

logger = logging.getLogger("minisbert")
SIMILARITIES = ("cosine", "dot")
# Queries and corpus rows per product: on a CPU 8 MB of scores stay in the L3 cache. Accelerators need more.
QUERIES, ROWS, ACCELERATOR_ROWS = 512, 4096, 65_536
THREADS = 4  # blocks of queries in work at the same time
CHUNK_BYTES = 256_000_000
LARGEST = 2**31 - 1  # rows are counted in int32 on the device
RESCORED = 64  # queries whose candidates are in memory together


class Hits(NamedTuple):
    """The rows found for each query, best first; ties: the lower row first."""

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
    """The k most similar rows for each query.

    Args:
        queries_BD: one embedding or rows of them.
        corpus_MD: rows of the same width: NumPy, JAX (spread over a mesh or not), the path of a .npy file, or `Vectors`.
        k: rows per query; if the corpus is smaller, all of its rows.
        similarity: "cosine" (0 with a zero vector; a query of zeros is warned of) or "dot".
        recall: None is exact. 0.95, for example, lets an accelerator find that expected share of the k best, in less time
            (`jax.lax.approx_max_k`: Chern et al. 2022, "TPU-KNN"); ties are then in any order.
        chunk_rows: rows per chunk; by default chosen for the device.
        show_progress_bar: None shows one on a terminal when it takes longer than two seconds.

    Returns:
        float32 scores and int64 rows, both `[B, min(k, M)]`.

    Raises:
        InputError: an argument is out of range; the widths differ; a query or row contains NaN or infinity, or its squared
            length overflows float32.
        DataError: the file is missing, or not a complete .npy file of rows.

    Example:
        >>> hits = nearest([[1.0, 0.0]], np.array([[0.0, 2.0], [3.0, 0.0], [1.0, 1.0]]), k=2)
        >>> hits.rows_BK
        array([[1, 2]])
        >>> hits.scores_BK.round(4)
        array([[1.    , 0.7071]], dtype=float32)
    """
    check_choice("similarity", similarity, SIMILARITIES)
    check_positive("k", k)
    if recall is not None and (isinstance(recall, bool) or not isinstance(recall, float | int) or not 0 < recall <= 1):
        raise InputError(f"recall is {short_repr(recall)}. Expected None, or a share above 0 and up to 1.")
    corpus = Vectors.of(corpus_MD)
    M, D = corpus.shape
    queries = embedding_rows("queries", queries_BD)
    if queries.shape[1] != D:
        raise InputError(f"queries have width {queries.shape[1]}, the corpus {D}. Expected embeddings of one model.")
    if M > LARGEST:
        raise InputError(f"corpus has {M} rows. Expected at most {LARGEST}; split the corpus.")
    B, K = len(queries), min(int(k), M)
    if not B or not K:
        return Hits(np.empty((B, K), np.float32), np.empty((B, K), np.int64))
    check_queries(queries)
    shares = device_shares(corpus)
    size = _chunk_rows(chunk_rows, max(share.most_rows for share in shares), D)
    with progress_bar(M, show_progress_bar, "rows", "search") as bar:
        return _search(scaled(queries, similarity), shares, K, size, similarity, recall, bar)


def semantic_search(
    query_embeddings: Any,
    corpus_embeddings: Any,
    top_k: int = 10,
    *,
    similarity: str = "cosine",
    show_progress_bar: bool | None = None,
) -> list[list[dict[str, Any]]]:
    """`nearest` with the result of sentence-transformers' `util.semantic_search`.

    Args:
        query_embeddings, corpus_embeddings, top_k, similarity, show_progress_bar: see `nearest`.

    Returns:
        for each query a list of {"corpus_id": row, "score": similarity}, best first.

    Raises:
        InputError: see `nearest`.

    Example:
        >>> semantic_search([[1.0, 0.0]], [[0.0, 2.0], [3.0, 0.0]], top_k=1)
        [[{'corpus_id': 1, 'score': 1.0}]]
    """
    check_positive("top_k", top_k)
    hits = nearest(
        query_embeddings, corpus_embeddings, top_k, similarity=similarity, show_progress_bar=show_progress_bar
    )
    return [
        [{"corpus_id": row, "score": score} for row, score in zip(rows, scores, strict=True)]
        for rows, scores in zip(hits.rows_BK.tolist(), hits.scores_BK.tolist(), strict=True)
    ]


def scaled(rows_MD: np.ndarray, similarity: str) -> np.ndarray:
    """Rows whose dot product is the similarity: scaled to length 1 for cosine."""
    return unit(rows_MD) if similarity == "cosine" else rows_MD


def check_queries(queries_BD: np.ndarray) -> None:
    """Warn of queries that are zero. Raises InputError if the squared length of one overflows float32."""
    refuse_too_long("queries", queries_BD)
    zero_B = np.logical_not(queries_BD.any(axis=1))
    if zero_B.any():
        logger.warning(
            f"queries[{int(np.argmax(zero_B))}] is zero ({int(zero_B.sum())} of {len(queries_BD)} are): all its scores are 0, "
            "and its hits are the first rows. Leave empty texts out."
        )


def _search(
    queries_BD: np.ndarray, shares: list[Share], k: int, size: int, similarity: str, recall: float | None, bar: Any
) -> Hits:
    B, vectors = len(queries_BD), shares[0].vectors
    rows = _block_rows(B)
    blocks = [_padded(queries_BD[b : b + rows], rows) for b in range(0, B, rows)]
    nothing: Future[Best] = Future()
    nothing.set_result((np.full((rows, k), -np.inf, np.float32), np.zeros((rows, k), np.int32)))
    update = partial(_update, k=k, recall=recall, default=jax.config.jax_default_device)  # type: ignore[attr-defined]
    queries: dict[Any, list[jax.Array]] = {}  # device -> blocks of queries
    best: dict[Any, list[Future[Best]]] = {}  # device -> the best hits so far, per block of queries
    sent: deque[tuple[int, Any, list[Future[Best]]]] = deque()
    with ThreadPoolExecutor(THREADS) as threads:
        for device, first, part, count in device_chunks(shares, size):
            if device not in queries:
                queries[device] = [jax.device_put(block, device) for block in blocks]
                best[device] = [nothing] * len(blocks)
            chunk_MD, invalid = prepare(
                jax.device_put(part, device), vectors.ranges_2D, precision=vectors.precision, similarity=similarity
            )
            chunk = chunk_MD, first, None if count == len(part) else count
            best[device] = [
                threads.submit(update, before, block, *chunk)
                for before, block in zip(best[device], queries[device], strict=True)
            ]
            sent.append((first, invalid, best[device]))
            if len(sent) > len(queries):  # at most two chunks are in a device's memory
                _wait(*sent.popleft())
            bar.update(count)
        while sent:
            _wait(*sent.popleft())
    found = [[future.result() for future in futures] for futures in best.values()]
    scores_BK, rows_BK = (
        np.concatenate([np.concatenate([np.asarray(block[i]) for block in one])[:B] for one in found], axis=1)
        for i in (0, 1)
    )
    if len(found) > 1:
        order_BK = np.lexsort((rows_BK, -scores_BK), axis=1)[:, :k]
        scores_BK, rows_BK = (np.take_along_axis(x, order_BK, axis=1) for x in (scores_BK, rows_BK))
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
    return -(-B // blocks // 8) * 8  # blocks of equal size, a multiple of 8


def _padded(rows_BD: np.ndarray, size: int) -> np.ndarray:
    return np.pad(rows_BD, ((0, size - len(rows_BD)), (0, 0)))


def _update(
    before: Future[Best],
    queries_BD: jax.Array,
    chunk_MD: jax.Array,
    first: int,
    count: int | None,
    *,
    k: int,
    recall: float | None,
    default: Any,
) -> Best:
    # In its own thread, so that NumPy ranks one block of queries while the device compares another. Threads start tasks in
    # the order of submission, so the future waited for here is running or done.
    best = before.result()
    with jax.default_device(default):  # a thread does not inherit the caller's setting
        if recall is None and next(iter(chunk_MD.devices())).platform == "cpu":
            return update_top_k_on_cpu(best, queries_BD, chunk_MD, first, count, k=k)
        return update_top_k(best, queries_BD, chunk_MD, first, count, k=k, recall=recall)


def _wait(first: int, invalid: Any, best: list[Future[Best]]) -> None:
    jax.block_until_ready([block.result() for block in best])
    if (row := int(invalid)) >= 0:
        raise _invalid(first + row, "encode the text again")


def _invalid(row: int, remedy: str) -> InputError:
    return InputError(
        f"corpus[{row}] contains NaN or infinity, or is too long for float32. Expected finite embeddings; {remedy}."
    )


def rescore(queries_BD: np.ndarray, candidates: Hits, floats: Any, k: int, similarity: str) -> Hits:
    """The best k of each query's candidates by their float32 vectors; ties: the lower row first.

    Quantized vectors or a graph propose candidates, and the exact similarity ranks them, as in Yamada et al. 2021,
    "Efficient Passage Retrieval with Hashing for Open-domain Question Answering", section 3.

    Args:
        queries_BD: float32.
        candidates: only their rows are used; row -1 is not a candidate.
        floats: float32 `[M, D]`, an array or a NpyFile.
        k: at most as many as there are candidates.
        similarity: "cosine" or "dot".

    Raises:
        InputError: a candidate contains NaN or infinity.

    Example:
        >>> rows = Hits(np.zeros((1, 3), np.float32), np.array([[2, 0, -1]]))
        >>> rescore(np.array([[1.0, 0.0]]), rows, np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), 2, "dot").rows_BK
        array([[0, 2]])
    """
    scores, rows = [], []
    for b in range(0, len(queries_BD), RESCORED):
        rows_BC = candidates.rows_BK[b : b + RESCORED]
        rows_N = np.maximum(rows_BC, 0).ravel()
        rows_ND = floats[rows_N]
        with np.errstate(over="ignore", invalid="ignore"):
            invalid_N = ~np.isfinite(np.einsum("ND,ND->N", rows_ND, rows_ND))
        if invalid_N.any():  # the file may have changed since it was written
            raise _invalid(rows_N[np.argmax(invalid_N)], "make the index again")
        rows_BCD = scaled(rows_ND, similarity).reshape(*rows_BC.shape, rows_ND.shape[1])
        scores_BC = np.einsum("BD,BCD->BC", scaled(queries_BD[b : b + RESCORED], similarity), rows_BCD)
        scores_BC = np.where(rows_BC < 0, -np.inf, scores_BC).astype(np.float32)
        order_BK = np.lexsort((rows_BC, -scores_BC), axis=1)[:, :k]
        scores.append(np.take_along_axis(scores_BC, order_BK, axis=1))
        rows.append(np.take_along_axis(rows_BC, order_BK, axis=1))
    return Hits(np.concatenate(scores), np.concatenate(rows)) if scores else Hits(*(x[:, :k] for x in candidates))
