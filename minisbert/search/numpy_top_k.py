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

    `queries_BD` are float32, of length 1 for cosine; the corpus is in memory or in a file; `bar` counts the rows that are done.

    Raises InputError: a row contains NaN or infinity, or its squared length overflows float32.
    """
    M, B, size = corpus.shape[0], len(queries_BD), chunk_rows or ROWS
    scores_BK = np.full((B, k), -np.inf, np.float32)
    rows_BK = np.zeros((B, k), np.int64)
    # Twice the largest error of a sum of D products in float32, for rows of length 1 (Higham 2002, section 3.1).
    error_B = queries_BD.shape[1] * np.finfo(np.float32).eps * np.linalg.norm(queries_BD, axis=1).astype(float)
    for first in range(0, M, size):
        part, _ = corpus.part(first, min(size, M - first))
        chunk_MD = DECODERS[corpus.precision](part, corpus.ranges_2D).astype(np.float32, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            finite_M = np.isfinite(np.einsum("md,md->m", chunk_MD, chunk_MD))
        if not finite_M.all():
            raise invalid_rows(first + int(np.argmin(finite_M)), "encode the text again")
        chunk_MD = unit(chunk_MD) if similarity == "cosine" else chunk_MD
        # BLAS may sum a row's products in an order that depends on where the row is (its AVX2 kernels do), so that equal rows
        # would not tie. The rows that may be among the k best are summed again, each in the same order.
        rough_BM = queries_BD @ chunk_MD.T
        longest = np.sqrt(np.einsum("md,md->m", chunk_MD, chunk_MD).max(initial=0))
        for b in range(B):
            kth = np.partition(np.concatenate([scores_BK[b], rough_BM[b]]), -k)[-k]
            near = np.flatnonzero(rough_BM[b] >= kth - error_B[b] * longest)
            # Rows of earlier chunks come first, and a stable sort puts the earlier of ties first.
            scores = np.concatenate([scores_BK[b], np.einsum("md,d->m", chunk_MD[near], queries_BD[b])])
            best = np.argsort(-scores, kind="stable")[:k]
            scores_BK[b], rows_BK[b] = scores[best], np.concatenate([rows_BK[b], first + near])[best]
        bar.update(len(chunk_MD))
    return scores_BK, rows_BK


def invalid_rows(row: int, remedy: str) -> InputError:
    """The error for a row of a corpus that is not finite."""
    return InputError(
        f"corpus[{row}] contains NaN or infinity, or is too long for float32. Expected finite embeddings; {remedy}."
    )
