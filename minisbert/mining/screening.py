"""Screening for the best pairs: an upper bound of each row's best product, from products in bfloat16.

bfloat16 products cost at most half as much as float32, with a known error bound. For rows u and v rounded to u' and v',
Cauchy-Schwarz gives |u v - u' v'| <= |u - u'| |v| + |u'| |v - v'|; the norms of the differences are computed. A row whose bound
is below the best exact product so far cannot be in the best pair: of 10,000 random rows only a few remain to compare exactly.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from minisbert.inference.stream import ProgressBar

TILE = 1024  # rows and columns of a product; 4 MB of scores stay in the cache
ULP = 2.0**-23


def row_bounds(rows_MD: np.ndarray, show_progress_bar: bool | None = None) -> np.ndarray:
    """For each row an upper bound on its products with later rows, float32 `[M]`.

    Example:
        >>> rows = np.array([[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]], np.float32)
        >>> bounds = row_bounds(rows)
        >>> bool(bounds[0] >= 1.02 and bounds[1] >= 0.2)
        True
    """
    M, D = rows_MD.shape
    padded_MD = jnp.pad(jnp.asarray(rows_MD), ((0, -M % TILE), (0, 0)))  # rows of zeros can only raise a bound
    rounded_MD = padded_MD.astype(jnp.bfloat16)
    best_M = []
    with ProgressBar(M * (M - 1) // 2, show_progress_bar, "pairs", "compare") as bar:
        for first in range(0, len(padded_MD), TILE):
            columns = range(first, len(padded_MD), TILE)
            tiles = [_tile_maxima(rounded_MD, first, column) for column in columns]
            best_M.append(np.asarray(functools.reduce(jnp.maximum, tiles)))
            B = min(TILE, M - first)
            bar.update(B * (M - first) - B * (B + 1) // 2)
    error_M = np.linalg.norm(rows_MD - np.asarray(rounded_MD[:M]).astype(np.float32), axis=1)
    longest = np.linalg.norm(rows_MD, axis=1).max(initial=0)
    # The last term covers float32 rounding, here and in the exact products.
    slack_M = error_M * longest + (longest + error_M.max(initial=0)) * error_M.max(initial=0) + 4 * D * ULP * longest**2
    bound_M: np.ndarray = np.concatenate(best_M)[:M] + slack_M
    return bound_M


@jax.jit
def _tile_maxima(rounded_MD: jax.Array, first: jax.Array, column: jax.Array) -> jax.Array:
    D = rounded_MD.shape[1]
    block_BD = jax.lax.dynamic_slice(rounded_MD, (first, 0), (TILE, D))
    other_CD = jax.lax.dynamic_slice(rounded_MD, (column, 0), (TILE, D))
    scores_BC = jnp.einsum("bd,cd->bc", block_BD, other_CD, preferred_element_type=jnp.float32)
    later_BC = (first + jnp.arange(TILE))[:, None] < column + jnp.arange(TILE)
    return jnp.where(later_BC, scores_BC, -jnp.inf).max(axis=1)
