"""transformer/block.py against the NumPy twin: layer norm, activations, feed-forward, the whole post-norm block."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minisbert.reference import encoder as reference
from minisbert.transformer.block import ACTIVATIONS, Block, FeedForward, layer_norm

# Rounding of about a thousand float64 operations on numbers of size 1 to 10; 4e-15 is measured.
FLOAT64 = 1e-10
# The same in float32: two layer norms keep the values near 1, whose steps are 1.2e-7; 4e-7 is measured.
FLOAT32 = 2e-6

B, L, N, D, F = 3, 6, 4, 16, 40
MASK_BL = np.arange(L) < np.array([6, 3, 1])[:, None]
INITIAL = nnx.initializers.normal(0.02)


def with_random_params(make_module, dtype, seed=0):
    """The module of `make_module(rngs)` with random numbers in every parameter, and those numbers for the twin."""
    rng = np.random.default_rng(seed)
    definition, state = nnx.split(make_module(nnx.Rngs(0)))
    params = jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.5).astype(dtype), nnx.to_pure_dict(state))
    return nnx.merge(definition, jax.tree.map(jnp.asarray, params)), reference.float64(params)


@pytest.mark.parametrize(
    "dtype, tolerance, activation",
    [(np.float64, FLOAT64, "gelu"), (np.float64, FLOAT64, "relu"), (np.float32, FLOAT32, "gelu")],
)
def test_block_is_the_twins(dtype, tolerance, activation):
    rng = np.random.default_rng(1)
    hidden_BLD = rng.normal(size=(B, L, D)).astype(dtype)
    bias_NQK = rng.normal(size=(N, L, L)).astype(dtype)

    def make(rngs):
        return Block(
            width=D,
            heads=N,
            inner_width=F,
            activation=activation,
            epsilon=1e-5,
            hidden_dropout=0.1,
            attention_dropout=0.1,
            dtype=dtype,
            kernel_init=INITIAL,
            rngs=rngs,
        )

    with jax.enable_x64(dtype == np.float64):
        block, params = with_random_params(make, dtype)
        found = jax.jit(lambda *parts: block(*parts))(hidden_BLD, MASK_BL, bias_NQK)
    config = SimpleNamespace(num_attention_heads=N, layer_norm_eps=1e-5, hidden_act=activation)
    expected = reference.block(hidden_BLD.astype(np.float64), MASK_BL, params, config, bias_NQK)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, FLOAT64), (np.float32, FLOAT32)])
def test_feed_forward_is_the_twins_and_sees_one_token_at_a_time(dtype, tolerance):
    hidden_BLD = np.random.default_rng(2).normal(size=(B, L, D)).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        module, params = with_random_params(
            lambda rngs: FeedForward(D, F, "gelu", dtype=dtype, kernel_init=INITIAL, rngs=rngs), dtype
        )
        found = np.asarray(module(jnp.asarray(hidden_BLD)))
        alone = np.asarray(module(jnp.asarray(hidden_BLD[:1, 2:3])))
    expected = reference.feed_forward(hidden_BLD.astype(np.float64), params, "gelu")
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance)
    np.testing.assert_allclose(alone[0, 0] / scale, found[0, 2] / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_the_twins(name):
    x = np.linspace(-12, 12, 2001)
    with jax.enable_x64(True):
        found = ACTIVATIONS[name](jnp.asarray(x))
    np.testing.assert_allclose(found, reference.ACTIVATIONS[name](x), rtol=0, atol=FLOAT64)


def test_every_activation_has_a_twin():
    assert sorted(ACTIVATIONS) == sorted(reference.ACTIVATIONS)


def test_gelu_is_the_exact_one():
    # Phi(1) = 0.8413447460685429 from a table; the tanh approximation gives 0.84119.
    with jax.enable_x64(True):
        assert abs(float(ACTIVATIONS["gelu"](jnp.float64(1.0))) - 0.8413447460685429) < FLOAT64


def test_layer_norm_does_not_cancel():
    # Far from 0 the shortcut E[x^2] - E[x]^2 loses every digit of the variance in float32.
    hidden_BLD = (1e4 + np.random.default_rng(3).normal(size=(B, L, D))).astype(np.float32)
    module, params = with_random_params(lambda rngs: layer_norm(D, 1e-12, jnp.float32, rngs), np.float32)
    expected = reference.layer_norm(hidden_BLD.astype(np.float64), params, 1e-12)
    # The mean of 16 numbers near 10,000 is off by up to a float32 step there, 1e-3, against a spread of 1.
    np.testing.assert_allclose(module(jnp.asarray(hidden_BLD)), expected, rtol=0, atol=5e-3)


def test_layer_norm_is_float32_when_products_are_bfloat16():
    module = layer_norm(D, 1e-12, jnp.bfloat16, nnx.Rngs(0))
    assert module(jnp.ones((2, D), jnp.bfloat16)).dtype == jnp.float32
