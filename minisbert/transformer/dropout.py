"""Dropout as a function of a key (Srivastava et al. 2014), one key per sentence.

A module that stores its own random state gives other masks when the batch is split, padded or sharded. Here the
mask of a sentence follows from that sentence's key alone, so the same example is dropped the same way whatever
stands beside it and on whichever device it is computed. `keys_B=None` means inference: nothing is dropped.
"""

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, rate: float, keys_B: jax.Array | None) -> jax.Array:
    """Set each element to 0 with probability `rate` and scale the rest by 1 / (1 - rate).

    Args:
        x: any array with the sentences on axis 0, `[B, ...]`.
        rate: probability of dropping, 0 <= rate < 1.
        keys_B: one key per sentence, or None for inference.

    Example:
        >>> dropout(jnp.ones((2, 3)), 0.5, None).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    if keys_B is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys_B)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


def fold(keys_B: jax.Array | None, number: int) -> jax.Array | None:
    """A fresh key per sentence for the `number`-th place that drops; None stays None."""
    if keys_B is None:
        return None
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys_B)
