"""Dropout as a function of keys (Srivastava et al. 2014), one key per token.

A module with its own random state draws different masks when the batch is split, padded, packed or sharded. Here a token's
mask depends only on its key, and the key only on its text and its position there (`token_keys`). So a text gets the same mask
with any neighbours, in any row, on any device. On TPUs the masks come from a cheaper generator (tpu.py): other masks, with the
same properties. `dropout_keys_BL=None` means inference: nothing is dropped.
"""

from functools import partial

import jax
import jax.numpy as jnp

from minisbert.transformer.target import on_tpu, widened
from minisbert.transformer.tpu import GOLDEN, own_gradient, random_bits


def token_keys(dropout_keys_BL: jax.Array, positions_BL: jax.Array) -> jax.Array:
    """Each token's own key, from the key of its text and its position in the text."""
    return jax.vmap(jax.vmap(jax.random.fold_in))(dropout_keys_BL, positions_BL)


def fold(dropout_keys_BL: jax.Array | None, number: int) -> jax.Array | None:
    """A fresh key per token for the `number`-th dropout layer; None stays None."""
    if dropout_keys_BL is None:
        return None
    return jax.vmap(jax.vmap(partial(jax.random.fold_in, data=number)))(dropout_keys_BL)


def dropout(x_BLD: jax.Array, rate: float, dropout_keys_BL: jax.Array | None) -> jax.Array:
    """Set each element to 0 with probability `rate` and scale the rest by 1 / (1 - rate).

    Args:
        x_BLD: `[B, L, D]`; other shapes are not supported.
        rate: probability of dropping, 0 <= rate < 1.
        dropout_keys_BL: one key per token, or None for inference.

    Example:
        >>> dropout(jnp.ones((1, 2, 3)), 0.5, None).tolist()
        [[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]
    """
    if dropout_keys_BL is None or rate == 0.0:
        return x_BLD
    word_BL12, count_D = jax.random.key_data(dropout_keys_BL)[:, :, None], jnp.arange(x_BLD.shape[-1], dtype=jnp.uint32)
    if on_tpu():
        word_BLD = word_BL12[..., 0] + count_D * jnp.uint32(GOLDEN)
        return _keep(own_gradient(x_BLD), rate, random_bits(word_BLD, word_BL12[..., 1]))
    first_BLD, second_BLD = threefry(word_BL12[..., 0], word_BL12[..., 1], jnp.uint32(0), count_D)
    return _keep(x_BLD, rate, first_BLD ^ second_BLD)  # the bits of jax.random.bits with such a key


def dropout_weights(weights_BNQK: jax.Array, rate: float, dropout_keys_BL: jax.Array | None) -> jax.Array:
    """Dropout of attention weights: the mask of a weight follows from its two tokens and its head.

    The generator is keyed by the query's key, and counts by the key token's key and the head. Positions in the row do not
    matter, so a text gets the same mask in a packed row as alone.

    Args:
        weights_BNQK: Q and K are the same tokens.
        rate, dropout_keys_BL: as for `dropout`.
    """
    if dropout_keys_BL is None or rate == 0.0:
        return weights_BNQK
    N = weights_BNQK.shape[1]
    word_BL2 = jax.random.key_data(dropout_keys_BL)
    if on_tpu():
        query_B1Q12, key_B1K2 = word_BL2[:, None, :, None], word_BL2[:, None, None]
        head_N11 = jnp.arange(N, dtype=jnp.uint32)[:, None, None] * jnp.uint32(GOLDEN)
        # The first word of one token with the second of the other: (Q, K) and (K, Q) get different bits.
        first_BNQK = query_B1Q12[..., 0] + key_B1K2[..., 1] + head_N11
        return _keep(weights_BNQK, rate, random_bits(first_BNQK, query_B1Q12[..., 1] + key_B1K2[..., 0]))
    head_N11, pairs = jnp.arange(N, dtype=jnp.uint32)[:, None, None], -(-N // 2)
    query_B1Q12, key_B1K = word_BL2[:, None, :, None], word_BL2[:, None, None, :, 0]
    # A call gives two words, for two heads. Each head calls for itself: storing the other's takes longer than computing it.
    first_BNQK, second_BNQK = threefry(query_B1Q12[..., 0], query_B1Q12[..., 1], key_B1K, head_N11 % pairs)
    return _keep(weights_BNQK, rate, jnp.where(head_N11 < pairs, first_BNQK, second_BNQK))


@partial(jax.jit, inline=True)
def threefry(key_0: jax.Array, key_1: jax.Array, x_0: jax.Array, x_1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two random words from a key and a count of two words each, uint32 (threefry2x32, 20 rounds; Salmon et al. 2011).

    The generator of `jax.random`, bit by bit. On a CPU `jax.random` keeps the rounds in a loop, and each round's words go
    through memory: dropout of 1,408 x 384 numbers takes 3.8 ms with it and 0.5 ms with this. Not compiled by itself: its
    hundred operations are traced once per shape and put into each program, which saves MPNet a third of its tracing.

    Example:
        >>> [int(word) for word in threefry(*jnp.zeros((4, 1), jnp.uint32))[0]]
        [1797259609]
    """
    keys = key_0, key_1, key_0 ^ key_1 ^ jnp.uint32(0x1BD11BDA)
    x_0, x_1 = x_0 + key_0, x_1 + key_1
    for i in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
            x_0 = x_0 + x_1
            x_1 = (x_1 << turn | x_1 >> 32 - turn) ^ x_0
        x_0, x_1 = x_0 + keys[(i + 1) % 3], x_1 + keys[(i + 2) % 3] + jnp.uint32(i + 1)
    return x_0, x_1


def _keep(x: jax.Array, rate: float, bits: jax.Array) -> jax.Array:
    # 32 random bits are below rate * 2^32 with probability `rate`.
    keep = bits >= jnp.uint32(int(rate * 2**32))
    # Divided in float32: in bfloat16 0.9 would be 0.8984, and the mean of what is kept 0.16 % too large.
    return jnp.where(keep, (widened(x) / (1.0 - rate)).astype(x.dtype), jnp.zeros((), x.dtype))
