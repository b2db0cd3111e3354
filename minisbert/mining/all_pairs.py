"""All pairwise similarities of one set, block by block: the upper triangle of a matrix that is never stored as a whole.

    for first, column, scores in upper_blocks(rows_MD):      # scores[b, c]: row first + b with row column + c

The matrix is symmetric, so only half is computed. This runs on the host, because the next step picks few values out of many.
Best pair of 10,000 x 384: 0.8 of the time of `rows @ rows.T` and argmax, where NumPy also computes half of the product; with
blocks of 512 x 512 it takes twice as long.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from minisbert.arguments import check_choice, embedding_rows, no_rows, refuse_too_long
from minisbert.inference.stream import ProgressBar
from minisbert.search.exact import SIMILARITIES, scaled

# One buffer of 1024 x 16,384 float32 scores: 67 MB.
ROWS, COLUMNS = 1024, 16_384


def checked_rows(name: str, value: Any, similarity: str = "cosine") -> np.ndarray:
    """Embeddings as float32 rows whose dot products are similarities: length 1 for cosine; a zero vector stays zero.

    Raises InputError: not rows of embeddings; NaN or infinity; a row so long that a product could overflow float32; an unknown
    similarity.

    Example:
        >>> checked_rows("embeddings", [[3.0, 4.0], [0.0, 0.0]]).round(2).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    check_choice("similarity", similarity, SIMILARITIES)
    rows_MD = np.empty((0, 1), np.float32) if no_rows(value) else embedding_rows(name, value)
    refuse_too_long(name, rows_MD)
    return np.ascontiguousarray(scaled(rows_MD, similarity))


def upper_blocks(rows_MD: np.ndarray, show_progress_bar: bool | None = None) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield the dot products of each row with each later row, block by block.

    Yields:
        the first row, the first column, and the products `[B, C]`, with -inf on and below the diagonal. The next block
        overwrites the array.

    Example:
        >>> [(first, column, scores)] = upper_blocks(np.array([[1.0], [2.0], [3.0]], np.float32))
        >>> scores.tolist()
        [[-inf, 2.0, 3.0], [-inf, -inf, 6.0], [-inf, -inf, -inf]]
    """
    M = len(rows_MD)
    below = np.tri(min(ROWS, M), dtype=bool)
    buffer = np.empty(min(ROWS, M) * min(COLUMNS, M), np.float32)
    with ProgressBar(M * (M - 1) // 2, show_progress_bar, "pairs", "compare") as bar:
        for first in range(0, M, ROWS):
            block_BD = rows_MD[first : first + ROWS]
            B = len(block_BD)
            for column in range(first, M, COLUMNS):
                other_CD = rows_MD[column : column + COLUMNS]
                scores_BC = buffer[: B * len(other_CD)].reshape(B, len(other_CD))
                np.matmul(block_BD, other_CD.T, out=scores_BC)
                if column == first:
                    scores_BC[:, :B][below[:B, :B]] = -np.inf
                yield first, column, scores_BC
            bar.update(B * (M - first) - B * (B + 1) // 2)
