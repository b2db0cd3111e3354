"""Exact search in NumPy, for a small corpus or a machine without JAX: chunk by chunk, with the k best so far."""

from typing import Any

import numpy as np

from minisbert.errors import InputError
from minisbert.search.vectors import DECODERS, Vectors
from minisbert.similarity import unit

ROWS = 4096  # of the corpus per product


def search_in_numpy(
    queries_BD: np.ndarray, corpus: Vectors, k: int, similarity: str, chunk_rows: int | None, bar: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The k best scores of each query and their rows, best first; ties: the lower row first.

    Args:
        queries_BD: float32, of length 1 for cosine.
        corpus: in memory or in a file, not on a device.
        bar: counts the rows that are done.

    Raises:
        InputError: a row contains NaN or infinity, or its squared length overflows float32.
    """
    M, B, size = corpus.shape[0], len(queries_BD), chunk_rows or ROWS
    scores_BK = np.full((B, k), -np.inf, np.float32)
    rows_BK = np.zeros((B, k), np.int64)
    for first in range(0, M, size):
        part, _ = corpus.part(first, min(size, M - first))
        chunk_MD = DECODERS[corpus.precision](part, corpus.ranges_2D).astype(np.float32, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            finite_M = np.isfinite(np.einsum("md,md->m", chunk_MD, chunk_MD))
        if not finite_M.all():
            raise invalid_rows(first + int(np.argmin(finite_M)), "encode the text again")
        chunk_MD = unit(chunk_MD) if similarity == "cosine" else chunk_MD
        new_BM = queries_BD @ chunk_MD.T
        for b in range(B):  # rows of earlier chunks come first, and a stable sort puts the earlier of ties first
            scores = np.concatenate([scores_BK[b], new_BM[b]])
            best = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
            best = best[np.argsort(-scores[best], kind="stable")][:k]
            rows = np.where(best < k, rows_BK[b][np.minimum(best, k - 1)], best - k + first)
            scores_BK[b], rows_BK[b] = scores[best], rows
        bar.update(len(chunk_MD))
    return scores_BK, rows_BK


def invalid_rows(row: int, remedy: str) -> InputError:
    """The error for a row of a corpus that is not finite."""
    return InputError(
        f"corpus[{row}] contains NaN or infinity, or is too long for float32. Expected finite embeddings; {remedy}."
    )
