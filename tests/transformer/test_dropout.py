"""transformer/dropout.py: nothing without a key; with one, a sentence's mask follows from its own key alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minisbert.transformer.block import Block
from minisbert.transformer.dropout import dropout, fold

# A count of n independent draws lies within 5 standard deviations but once in 1.7 million seeds; the seed is fixed.
DEVIATIONS = 5
# Two shapes of one block in float32, on values of size 1; at most rounding steps of 1.2e-7 add up.
ACROSS_SHAPES = 2e-6

KEYS_B = jax.random.split(jax.random.key(7), 6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_key_or_no_rate_is_the_identity(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5, 4)), dtype)
    assert dropout(x, 0.3, None) is x
    assert dropout(x, 0.0, KEYS_B) is x
    assert fold(None, 3) is None
    assert dropout(x, 0.3, KEYS_B).dtype == dtype


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_elements_are_dropped_or_scaled_at_the_rate(rate):
    x = jnp.asarray(np.random.default_rng(1).uniform(1, 2, size=(6, 100, 200)), jnp.float32)
    dropped = np.asarray(dropout(x, rate, KEYS_B))
    kept = dropped != 0
    np.testing.assert_array_equal(dropped[kept], np.asarray(x / (1 - rate))[kept])
    for kept_of_one in kept:
        n = kept_of_one.size
        assert abs(kept_of_one.sum() - n * (1 - rate)) < DEVIATIONS * np.sqrt(n * rate * (1 - rate))


def test_the_expectation_is_the_input():
    rate, draws = 0.4, 4000
    x = jnp.asarray([[1.0, -2.0, 3.0]])
    keys = jax.random.split(jax.random.key(1), draws)
    mean = np.asarray(dropout(jnp.repeat(x, draws, axis=0), rate, keys).mean(axis=0))
    deviation = np.abs(np.asarray(x[0])) * np.sqrt(rate / (1 - rate) / draws)
    assert np.all(np.abs(mean - np.asarray(x[0])) < DEVIATIONS * deviation)


def test_a_sentences_mask_follows_from_its_own_key():
    x = jnp.ones((6, 8, 16))
    together = np.asarray(dropout(x, 0.5, KEYS_B))
    order = np.array([4, 2, 0, 5, 1, 3])
    np.testing.assert_array_equal(dropout(x, 0.5, KEYS_B[order]), together[order])
    for b in range(6):
        np.testing.assert_array_equal(dropout(x[:1], 0.5, KEYS_B[b : b + 1])[0], together[b])
    assert len({mask.tobytes() for mask in together}) == 6


def test_fold_gives_every_place_and_sentence_its_own_key():
    folded = [jax.random.key_data(fold(KEYS_B, number)) for number in range(5)]
    assert len({tuple(key) for keys_B in folded for key in np.asarray(keys_B).tolist()}) == 5 * 6
    np.testing.assert_array_equal(jax.random.key_data(fold(KEYS_B[2:3], 4))[0], folded[4][2])


def test_the_gradient_passes_only_where_elements_are_kept():
    x = jnp.ones((6, 10))
    dropped = dropout(x, 0.5, KEYS_B)
    np.testing.assert_array_equal(jax.grad(lambda x: dropout(x, 0.5, KEYS_B).sum())(x), dropped)


def test_a_block_drops_each_sentence_alike_whatever_its_neighbours():
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
    run = jax.jit(lambda hidden_BLD, mask_BL, keys_B: block(hidden_BLD, mask_BL, None, keys_B))
    together = np.asarray(run(hidden_BLD, mask_BL, KEYS_B))
    order = np.array([3, 5, 1, 0, 2, 4])
    np.testing.assert_array_equal(run(hidden_BLD[order], mask_BL[order], KEYS_B[order]), together[order])
    alone = run(hidden_BLD[3:4], mask_BL[3:4], KEYS_B[3:4])[0]
    np.testing.assert_allclose(alone, together[3], rtol=0, atol=ACROSS_SHAPES)
    assert np.abs(together - np.asarray(run(hidden_BLD, mask_BL, None))).max() > 0.1
