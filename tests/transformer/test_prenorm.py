"""transformer/prenorm.py and rotary positions: the NumPy twin, and what the papers promise, exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minisbert.reference import modernbert as reference
from minisbert.reference.encoder import scaled_dot_product_attention as twin_attention
from minisbert.transformer.positions import rotary_angles, rotate
from minisbert.transformer.prenorm import GatedFeedForward, PreNormBlock, RotarySelfAttention, window_bias

B, L, N, H = 2, 11, 3, 8
D = N * H
# Rounding of float64, and of float32 on numbers up to 5.
TOLERANCES = [(np.float64, 1e-10), (np.float32, 5e-6)]
MASK_BL = np.arange(L) < np.array([L, 7])[:, None]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def module(kind, dtype, *sizes, **options):
    """A module with random parameters in `dtype`, and those parameters as NumPy."""
    options |= {"dtype": dtype, "kernel_init": nnx.initializers.zeros}
    definition, state = nnx.split(nnx.eval_shape(lambda: kind(*sizes, rngs=nnx.Rngs(0), **options)))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) / 4, nnx.to_pure_dict(state))
    return nnx.merge(definition, jax.tree.map(lambda x: jnp.asarray(x, dtype), params)), params


@pytest.mark.parametrize("theta", [10_000.0, 160_000.0])
@pytest.mark.parametrize("dtype, tolerance", TOLERANCES)
def test_rotation_is_the_twins(dtype, tolerance, theta):
    x_BLH = random(B, 40, H)
    with jax.enable_x64(True):
        found = rotate(jnp.asarray(x_BLH, dtype)[:, None], *rotary_angles(40, H, theta, dtype))[:, 0]
    assert found.dtype == dtype
    np.testing.assert_allclose(found, reference.rotated(x_BLH, theta), rtol=0, atol=tolerance)


def test_a_product_of_turned_vectors_depends_on_their_distance_alone():
    """RoFormer's promise, equation 11: <R_q x, R_k y> is a function of q - k."""
    x_1LH, y_1LH = (np.broadcast_to(random(1, 1, H, seed=seed), (1, L, H)) for seed in (1, 2))
    angles = rotary_angles(L, H, 10_000.0, np.float64)
    with jax.enable_x64(True):
        scores_QK = np.asarray(rotate(x_1LH[:, None], *angles)[0, 0] @ rotate(y_1LH[:, None], *angles)[0, 0].T)
    for distance in range(-L + 1, L):
        same = np.diagonal(scores_QK, distance)
        np.testing.assert_allclose(same, same[0], rtol=0, atol=1e-12)
    assert np.ptp(scores_QK[0]) > 0.1
    # Turning keeps lengths, and position 0 is not turned.
    with jax.enable_x64(True):
        turned = np.asarray(rotate(x_1LH[:, None], *angles)[0, 0])
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x_1LH[0], axis=-1), rtol=1e-14)
    np.testing.assert_array_equal(turned[0], x_1LH[0, 0])


def test_an_odd_width_has_no_pairs():
    with pytest.raises(ValueError, match="even"):
        rotary_angles(4, 7, 10_000.0)


def test_the_window_reaches_as_far_as_it_says():
    for reach in range(L + 2):
        bias = window_bias(L, reach)
        seen = np.ones((L, L), bool) if bias is None else np.asarray(bias[0]) == 0
        assert seen.tolist() == [[abs(q - k) <= reach for k in range(L)] for q in range(L)]


@pytest.mark.parametrize("reach", [None, 0, 3])
@pytest.mark.parametrize("dtype, tolerance", TOLERANCES)
def test_rotary_attention_is_the_twins(dtype, tolerance, reach):
    hidden_BLD, theta = random(B, L, D), 10_000.0
    with jax.enable_x64(dtype == np.float64):
        attention, params = module(RotarySelfAttention, dtype, D, N, dropout_rate=0.0)
        bias = None if reach is None else window_bias(L, reach, dtype)
        found = attention(jnp.asarray(hidden_BLD, dtype), MASK_BL, rotary_angles(L, H, theta, dtype), bias)
    expected = reference.rotary_attention(hidden_BLD, MASK_BL, params, N, theta, reach)
    np.testing.assert_allclose(np.asarray(found)[MASK_BL], expected[MASK_BL], rtol=0, atol=tolerance)


def test_beyond_the_window_and_in_the_padding_the_gradient_is_exactly_zero():
    """Through one local layer a token feels its neighbours, and no other, to the last bit."""
    sizes = {"width": D, "heads": N, "inner_width": 20, "activation": "gelu", "epsilon": 1e-5, "norm_first": True}
    block, _ = module(PreNormBlock, np.float32, attention_dropout=0.0, inner_dropout=0.0, **sizes)
    angles, bias = rotary_angles(L, H, 10_000.0), window_bias(L, 2)

    @jax.jit
    @jax.grad
    def slope(hidden_BLD, query):
        return block(hidden_BLD, MASK_BL, angles, bias)[:, query].sum()

    for query in (0, 4, 6):
        felt_BL = np.abs(slope(random(B, L, D).astype(np.float32), query)).max(axis=-1) > 0
        expected_BL = (np.abs(np.arange(L) - query) <= 2) & MASK_BL
        np.testing.assert_array_equal(felt_BL, expected_BL)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_the_gated_feed_forward_is_the_twins(activation):
    hidden_BLD = random(B, L, D)
    with jax.enable_x64(True):
        net, params = module(GatedFeedForward, np.float64, D, 20, activation, dropout_rate=0.0)
        found = net(jnp.asarray(hidden_BLD))
    expected = reference.gated_feed_forward(hidden_BLD, params, activation)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_the_twin_sees_no_farther_than_its_reach():
    """The twin itself by hand: with reach 0 a query sees its own value alone."""
    hidden_BLD = random(1, 4, 4)
    params = {"qkv": {"kernel": random(4, 12, seed=1)}, "output": {"kernel": np.eye(4)}}
    mask_BL = np.ones((1, 4), bool)
    found = reference.rotary_attention(hidden_BLD, mask_BL, params, 2, 10_000.0, 0)
    np.testing.assert_allclose(found, hidden_BLD @ params["qkv"]["kernel"][:, 8:], rtol=0, atol=1e-12)
    # One token is at position 0, where nothing is turned: plain attention.
    whole = reference.rotary_attention(hidden_BLD[:, :1], mask_BL[:, :1], params, 1, 10_000.0, None)
    parts = np.split(hidden_BLD[:, :1] @ params["qkv"]["kernel"], 3, axis=-1)
    np.testing.assert_allclose(whole, twin_attention(*parts, mask_BL[:, :1]), rtol=0, atol=1e-12)
