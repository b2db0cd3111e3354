"""transformer/dropout.py: nothing without keys; with them, a token's mask follows from its own key alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.random import threefry2x32_p

from minisbert.transformer.block import Block
from minisbert.transformer.dropout import dropout, dropout_weights, fold, token_keys

# A count of n independent draws lies within 5 standard deviations but once in 1.7 million seeds; the seed is fixed.
DEVIATIONS = 5
# Two shapes of one block in float32, on values of size 1; at most rounding steps of 1.2e-7 add up.
ACROSS_SHAPES = 2e-6

KEYS_BL = jax.random.split(jax.random.key(7), (6, 5))


def random(*shape):
    return jnp.asarray(np.random.default_rng(1).uniform(1, 2, size=shape), jnp.float32)


def kept_shares(dropped, x, rate):
    """The share of elements kept, by text; what is kept is scaled."""
    kept = np.asarray(dropped) != 0
    np.testing.assert_array_equal(np.asarray(dropped)[kept], np.asarray(x / (1 - rate))[kept])
    return kept.reshape(len(kept), -1).mean(axis=1), kept[0].size


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_keys_or_no_rate_is_the_identity(dtype):
    x_BLD, weights_BNQK = random(6, 5, 4).astype(dtype), random(6, 3, 5, 5).astype(dtype)
    assert dropout(x_BLD, 0.3, None) is dropout(x_BLD, 0.0, KEYS_BL) is x_BLD
    assert dropout_weights(weights_BNQK, 0.3, None) is dropout_weights(weights_BNQK, 0.0, KEYS_BL) is weights_BNQK
    assert fold(None, 3) is None
    assert dropout(x_BLD, 0.3, KEYS_BL).dtype == dropout_weights(weights_BNQK, 0.3, KEYS_BL).dtype == dtype


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_elements_are_dropped_or_scaled_at_the_rate(rate):
    dropout_keys_BL = jax.random.split(jax.random.key(7), (6, 50))
    for x, drop in ((random(6, 50, 200), dropout), (random(6, 5, 50, 50), dropout_weights)):
        shares, n = kept_shares(drop(x, rate, dropout_keys_BL), x, rate)
        assert np.all(np.abs(shares - (1 - rate)) < DEVIATIONS * np.sqrt(rate * (1 - rate) / n))


def test_weights_of_different_heads_queries_and_keys_are_dropped_independently():
    kept = np.asarray(dropout_weights(jnp.ones((1, 4, 200, 200)), 0.5, tokens(200)))[0] != 0
    for axis in range(3):
        agreement = np.mean(kept == np.roll(kept, 1, axis=axis))
        assert abs(agreement - 0.5) < DEVIATIONS * np.sqrt(0.25 / kept.size)


def tokens(number):
    return jax.random.split(jax.random.key(3), (1, number))


def test_the_random_bits_are_those_of_jax():
    x_BLD, weights_BNQK = random(6, 5, 7), random(6, 3, 5, 5)
    words_BL2 = jax.random.key_data(KEYS_BL)
    bits_BLD = jax.vmap(jax.vmap(lambda key: jax.random.bits(key, (7,))))(KEYS_BL)
    pairs = words_BL2[:, None, :, None, 0], words_BL2[:, None, :, None, 1], words_BL2[:, None, None, :, 0]
    # Two calls, of two words each, for heads 0 to 2.
    words = jnp.broadcast_arrays(*pairs, jnp.arange(2, dtype=jnp.uint32)[:, None, None])
    bits_BNQK = jnp.concatenate(threefry2x32_p.bind(*words), axis=1)[:, :3]
    for x, bits, drop in ((x_BLD, bits_BLD, dropout), (weights_BNQK, bits_BNQK, dropout_weights)):
        np.testing.assert_array_equal(drop(x, 0.5, KEYS_BL), jnp.where(bits >= np.uint32(2**31), x / 0.5, 0))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_kept_is_scaled_in_float32(dtype):
    x_BLD, weights_BNQK = random(6, 5, 400).astype(dtype), random(6, 3, 5, 5).astype(dtype)
    for x, drop in ((x_BLD, dropout), (weights_BNQK, dropout_weights)):
        dropped = np.asarray(drop(x, 0.1, KEYS_BL))
        exact = np.asarray((x.astype(jnp.float32) / 0.9).astype(dtype))
        np.testing.assert_array_equal(dropped, np.where(dropped == 0, 0, exact).astype(dropped.dtype))


def test_the_expectation_is_the_input():
    rate, draws = 0.4, 4000
    x_D = jnp.asarray([1.0, -2.0, 3.0])
    mean_D = np.asarray(dropout(jnp.tile(x_D, (1, draws, 1)), rate, tokens(draws))[0].mean(axis=0))
    deviation_D = np.abs(np.asarray(x_D)) * np.sqrt(rate / (1 - rate) / draws)
    assert np.all(np.abs(mean_D - np.asarray(x_D)) < DEVIATIONS * deviation_D)


def test_a_tokens_mask_follows_from_its_own_key():
    x_BLD = jnp.ones((6, 5, 16))
    together = np.asarray(dropout(x_BLD, 0.5, KEYS_BL))
    b, l = np.array([4, 2, 0, 5]), np.array([1, 0, 3, 4])
    np.testing.assert_array_equal(dropout(x_BLD[:1, :4], 0.5, KEYS_BL[b, l][None])[0], together[b, l])
    assert len({mask.tobytes() for mask in together.reshape(30, 16)}) == 30


def test_a_weights_mask_follows_from_its_two_tokens():
    weights_BNQK = jnp.ones((6, 3, 5, 5))
    together = np.asarray(dropout_weights(weights_BNQK, 0.5, KEYS_BL))
    order = np.array([3, 0, 4, 1])
    some = np.asarray(dropout_weights(weights_BNQK[2:3, :, :4, :4], 0.5, KEYS_BL[2:3, order]))
    np.testing.assert_array_equal(some[0], together[2][:, order][:, :, order])


def test_fold_and_place_give_every_token_its_own_key():
    folded = [jax.random.key_data(fold(KEYS_BL, number)) for number in range(5)]
    assert len({tuple(key) for keys in folded for key in np.asarray(keys).reshape(-1, 2).tolist()}) == 5 * 30
    np.testing.assert_array_equal(jax.random.key_data(fold(KEYS_BL[2:3], 4))[0], folded[4][2])
    text_BL = jnp.repeat(KEYS_BL[:, :1], 5, axis=1)
    of_tokens = np.asarray(jax.random.key_data(token_keys(text_BL, jnp.tile(jnp.arange(5), (6, 1)))))
    assert len({tuple(key) for key in of_tokens.reshape(-1, 2).tolist()}) == 30


def test_the_gradient_passes_only_where_elements_are_kept():
    for x, drop in ((jnp.ones((6, 5, 10)), dropout), (jnp.ones((6, 2, 5, 5)), dropout_weights)):
        np.testing.assert_array_equal(jax.grad(lambda x: drop(x, 0.5, KEYS_BL).sum())(x), drop(x, 0.5, KEYS_BL))  # noqa: B023


def test_the_dropout_of_a_sentence_does_not_depend_on_its_neighbours():
    block = Block(
        width=16,
        heads=2,
        inner_width=32,
        activation="gelu",
        epsilon=1e-5,
        hidden_dropout=0.3,
        attention_dropout=0.3,
        dtype=jnp.float32,
        kernel_init=nnx.initializers.normal(0.3),
        rngs=nnx.Rngs(0),
    )
    hidden_BLD = np.random.default_rng(2).normal(size=(6, 5, 16)).astype(np.float32)
    mask_BL = np.arange(5) < np.array([5, 3, 1, 4, 2, 5])[:, None]
    run = jax.jit(
        lambda hidden_BLD, mask_BL, dropout_keys_BL: block(hidden_BLD, mask_BL, dropout_keys_BL=dropout_keys_BL)
    )
    together = np.asarray(run(hidden_BLD, mask_BL, KEYS_BL))
    order = np.array([3, 5, 1, 0, 2, 4])
    np.testing.assert_array_equal(run(hidden_BLD[order], mask_BL[order], KEYS_BL[order]), together[order])
    alone = run(hidden_BLD[3:4], mask_BL[3:4], KEYS_BL[3:4])[0]
    np.testing.assert_allclose(alone, together[3], rtol=0, atol=ACROSS_SHAPES)
    assert np.abs(together - np.asarray(run(hidden_BLD, mask_BL, None))).max() > 0.1
