"""Exact nearest-neighbour search: the k rows of a corpus with the highest cosine or dot product with each query.

    hits = nearest(queries_BD, corpus_MD, k=10)            # hits.scores_BK, hits.rows_BK, best first
    hits = nearest(queries_BD, "embeddings.npy", k=10)     # the same for a file larger than memory
    semantic_search(queries_BD, corpus_MD, top_k=10)       # sentence-transformers' lists of {"corpus_id", "score"}

The corpus is processed in chunks. Each chunk is compared with blocks of queries, and only the best k so far are stored, so the
full similarity matrix never exists. A small search is done in NumPy (numpy_top_k.py), any other by JAX (on_devices.py).
"""

import logging
from typing import Any, NamedTuple

import numpy as np

from minisbert.arguments import check_choice, check_positive, embedding_rows, no_rows, refuse_too_long
from minisbert.errors import InputError, short_repr
from minisbert.inference.stream import ProgressBar
from minisbert.search.numpy_top_k import invalid_rows, search_in_numpy
from minisbert.search.vectors import Vectors
from minisbert.similarity import unit

logger = logging.getLogger("minisbert")
SIMILARITIES = ("cosine", "dot")
# Products of numbers up to which NumPy searches an array: JAX takes longer to start, and to compile a new shape.
NUMPY_PRODUCTS = 1 << 28
LARGEST = 2**31 - 1  # rows are counted in int32 on the device
RESCORED = 64  # queries whose candidates are in memory together


class Hits(NamedTuple):
    """The rows found for each query, best first; ties: the lower row first.

    In NumPy equal rows have equal scores. JAX's products of equal rows can differ in the last bits; then they do not tie.
    """

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
        similarity: "cosine" (0 with a zero vector; of a query of zeros a warning says so) or "dot".
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
    k = check_positive("k", k)
    chunk_rows = None if chunk_rows is None else check_positive("chunk_rows", chunk_rows)
    if recall is not None and (isinstance(recall, bool) or not isinstance(recall, float | int) or not 0 < recall <= 1):
        raise InputError(f"recall is {short_repr(recall)}. Expected None, or a share above 0 and up to 1.")
    queries = np.empty((0, 1), np.float32) if no_rows(queries_BD) else embedding_rows("queries", queries_BD)
    corpus = Vectors.of(queries[:0] if no_rows(corpus_MD) else corpus_MD)
    M, D = corpus.shape
    if not no_rows(queries_BD) and queries.shape[1] != D:
        raise InputError(f"queries have width {queries.shape[1]}, the corpus {D}. Expected embeddings of one model.")
    if M > LARGEST:
        raise InputError(f"corpus has {M} rows. Expected at most {LARGEST}; split the corpus.")
    B, K = len(queries), min(k, M)
    if not B or not K:
        return Hits(np.empty((B, K), np.float32), np.empty((B, K), np.int64))
    check_queries(queries)
    queries = scaled(queries, similarity)
    with ProgressBar(M, show_progress_bar, "rows", "search") as bar:
        in_numpy = corpus.on_host and B * M * D <= NUMPY_PRODUCTS and recall is None
        if corpus.on_host and not in_numpy:
            from minisbert.inference.engines import has_jax  # imported here: it loads the readers of model folders

            in_numpy = not has_jax()
        if in_numpy:
            return Hits(*search_in_numpy(queries, corpus, K, similarity, chunk_rows, bar))
        from minisbert.search.on_devices import search_on_devices

        return Hits(*search_on_devices(queries, corpus, K, similarity, recall, chunk_rows, bar))


def semantic_search(
    query_embeddings: Any,
    corpus_embeddings: Any,
    top_k: int = 10,
    *,
    similarity: str = "cosine",
    show_progress_bar: bool | None = None,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500_000,
) -> list[list[dict[str, Any]]]:
    """`nearest`, whose arguments and errors it has, with the result of sentence-transformers' `util.semantic_search`.

    Args:
        query_chunk_size, corpus_chunk_size: change nothing; see `chunk_rows` of `nearest`.

    Returns:
        for each query a list of {"corpus_id": row, "score": similarity}, best first.

    Raises:
        InputError: see `nearest`.

    Example:
        >>> semantic_search([[1.0, 0.0]], [[0.0, 2.0], [3.0, 0.0]], top_k=1)
        [[{'corpus_id': 1, 'score': 1.0}]]
    """
    for name, size in (
        ("top_k", top_k),
        ("query_chunk_size", query_chunk_size),
        ("corpus_chunk_size", corpus_chunk_size),
    ):
        check_positive(name, size)
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


def rescore(queries_BD: np.ndarray, candidates: Hits, floats: Any, k: int, similarity: str) -> Hits:
    """The best k of each query's candidates by their float32 vectors; ties: the lower row first.

    Quantized vectors or a graph propose candidates, and the exact similarity ranks them, as in Yamada et al. 2021,
    "Efficient Passage Retrieval with Hashing for Open-domain Question Answering", section 3.

    Args:
        candidates: only their rows are used; row -1 is not a candidate.
        floats: float32 `[M, D]`, an array or a NpyFile.

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
        rows_M = np.maximum(rows_BC, 0).ravel()
        rows_MD = floats[rows_M]
        with np.errstate(over="ignore", invalid="ignore"):
            invalid_M = ~np.isfinite(np.einsum("MD,MD->M", rows_MD, rows_MD))
        if invalid_M.any():  # the file may have changed since it was written
            raise invalid_rows(rows_M[np.argmax(invalid_M)], "make the index again")
        rows_BCD = scaled(rows_MD, similarity).reshape(*rows_BC.shape, rows_MD.shape[1])
        scores_BC = np.einsum("BD,BCD->BC", scaled(queries_BD[b : b + RESCORED], similarity), rows_BCD)
        scores_BC = np.where(rows_BC < 0, -np.inf, scores_BC).astype(np.float32)
        order_BK = np.lexsort((rows_BC, -scores_BC), axis=1)[:, :k]
        scores.append(np.take_along_axis(scores_BC, order_BK, axis=1))
        rows.append(np.take_along_axis(rows_BC, order_BK, axis=1))
    return Hits(np.concatenate(scores), np.concatenate(rows)) if scores else Hits(*(x[:, :k] for x in candidates))
