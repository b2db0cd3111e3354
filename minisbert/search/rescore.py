"""Candidates in their exact order: quantized vectors or a graph propose, the float32 vectors decide.

As in Yamada et al. 2021, "Efficient Passage Retrieval with Hashing for Open-domain Question Answering", section 3.
"""

from typing import Any

import numpy as np

from minisbert.errors import InputError
from minisbert.search.exact import Hits
from minisbert.similarity import normalize

QUERIES = 64  # queries whose candidates are in memory together


def rescored(queries_BD: np.ndarray, candidates: Hits, floats: Any, k: int, similarity: str) -> Hits:
    """The best k of each query's candidates; of equal scores the lower row.

    Args:
        queries_BD: float32.
        candidates: their scores do not count; row -1 is no candidate.
        floats: float32 `[M, D]`, an array or a NpyFile.
        k: at most as many as there are candidates.
        similarity: "cosine" or "dot".

    Raises:
        InputError: a candidate holds NaN or infinity.

    Example:
        >>> rows = Hits(np.zeros((1, 3), np.float32), np.array([[2, 0, -1]]))
        >>> rescored(np.array([[1.0, 0.0]]), rows, np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), 2, "dot").rows_BK
        array([[0, 2]])
    """
    k = min(k, candidates.rows_BK.shape[1])
    scores_BK = np.empty((len(queries_BD), k), np.float32)
    rows_BK = np.empty((len(queries_BD), k), np.int64)
    for b in range(0, len(queries_BD), QUERIES):
        some = slice(b, b + QUERIES)
        rows_BC = candidates.rows_BK[some]
        rows_N = np.maximum(rows_BC, 0).ravel()
        rows_ND = floats[rows_N]
        _refuse_spoiled(rows_ND, rows_N)
        rows_BCD = scaled(rows_ND, similarity).reshape(*rows_BC.shape, rows_ND.shape[1])
        scores_BC = np.einsum("BD,BCD->BC", scaled(queries_BD[some], similarity), rows_BCD)
        scores_BC = np.where(rows_BC < 0, -np.inf, scores_BC)
        order_BK = np.lexsort((rows_BC, -scores_BC), axis=1)[:, :k]
        scores_BK[some] = np.take_along_axis(scores_BC, order_BK, axis=1)
        rows_BK[some] = np.take_along_axis(rows_BC, order_BK, axis=1)
    return Hits(scores_BK, rows_BK)


def _refuse_spoiled(rows_ND: np.ndarray, rows_N: np.ndarray) -> None:
    """A file may have changed since it was written; one score that is no number would spoil the order of all."""
    with np.errstate(over="ignore", invalid="ignore"):
        spoiled_N = ~np.isfinite(np.einsum("ND,ND->N", rows_ND, rows_ND))
    if spoiled_N.any():
        raise InputError(
            f"corpus[{rows_N[np.argmax(spoiled_N)]}] holds NaN or infinity, or is too long for float32. Expected "
            "finite embeddings; make the index again."
        )


def scaled(rows_MD: np.ndarray, similarity: str) -> np.ndarray:
    """Rows whose dot products are the similarity."""
    return normalize(rows_MD) if similarity == "cosine" else rows_MD
