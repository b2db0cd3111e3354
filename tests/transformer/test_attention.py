"""transformer/attention.py against the NumPy twin, and what holds exactly: padding has weight, value and gradient 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minisbert.reference import encoder as reference
from minisbert.transformer.attention import MultiHeadSelfAttention, scaled_dot_product_attention

# Rounding of a few hundred float64 operations on numbers of size 1; about 1e-15 is measured.
FLOAT64 = 1e-10
# The same in float32, whose rounding is 1.2e-7; 8e-7 is measured.
FLOAT32 = 2e-6

B, L, N, H = 3, 7, 4, 8
D = N * H
MASK_BL = np.arange(L) < np.array([7, 4, 1])[:, None]


def random_parts(dtype=np.float64):
    """query, key, value `[B, N, L, H]` and bias `[N, L, L]`."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(B, N, L, H)) for _ in range(3)] + [rng.normal(size=(N, L, L))]
    return [part.astype(dtype) for part in parts]


def twin_attention(query_BNLH, key_BNLH, value_BNLH, mask_BL, bias_NQK):
    """The twin's attention, head by head."""
    heads = [
        reference.scaled_dot_product_attention(
            query_BNLH[:, n].astype(np.float64),
            key_BNLH[:, n].astype(np.float64),
            value_BNLH[:, n].astype(np.float64),
            mask_BL,
            0.0 if bias_NQK is None else bias_NQK[n],
        )
        for n in range(N)
    ]
    return np.stack(heads, axis=1)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, FLOAT64), (np.float32, FLOAT32)])
def test_attention_is_the_twins(dtype, tolerance, with_bias):
    query, key, value, bias = random_parts(dtype)
    bias = bias if with_bias else None
    with jax.enable_x64(dtype == np.float64):
        context = scaled_dot_product_attention(*map(jnp.asarray, (query, key, value, MASK_BL)), bias)
    assert context.dtype == dtype
    np.testing.assert_allclose(context, twin_attention(query, key, value, MASK_BL, bias), rtol=0, atol=tolerance)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, FLOAT64), (np.float32, FLOAT32)])
def test_multi_head_self_attention_is_the_twins(dtype, tolerance, with_bias):
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=(B, L, D)).astype(dtype)
    bias = rng.normal(size=(N, L, L)).astype(dtype) if with_bias else None
    with jax.enable_x64(dtype == np.float64):
        module = MultiHeadSelfAttention(
            D, N, dropout_rate=0.1, dtype=dtype, kernel_init=nnx.initializers.normal(0.02), rngs=nnx.Rngs(0)
        )
        definition, state = nnx.split(module)
        params = jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.2).astype(dtype), nnx.to_pure_dict(state))
        output = nnx.merge(definition, jax.tree.map(jnp.asarray, params))(jnp.asarray(hidden), MASK_BL, bias)
    expected = reference.multi_head_self_attention(
        hidden.astype(np.float64), MASK_BL, reference.float64(params), N, bias
    )
    np.testing.assert_allclose(output, expected, rtol=0, atol=tolerance)


def test_the_content_of_padding_never_changes_a_bit():
    query, key, value, bias = random_parts(np.float32)
    real_BNLH = np.broadcast_to(MASK_BL[:, None, :, None], key.shape)
    other_key, other_value = np.where(real_BNLH, key, 1e6), np.where(real_BNLH, value, 1e30)
    attend = jax.jit(scaled_dot_product_attention)
    expected = attend(query, key, value, MASK_BL, bias)
    found = attend(query, other_key.astype(np.float32), other_value.astype(np.float32), MASK_BL, bias)
    assert np.array_equal(found, expected)


def test_the_gradient_of_real_tokens_with_respect_to_padding_is_exactly_zero():
    query, key, value, bias = random_parts(np.float32)
    real_BNLH = np.broadcast_to(MASK_BL[:, None, :, None], key.shape)
    weight = np.random.default_rng(2).normal(size=query.shape).astype(np.float32) * real_BNLH

    def score(key, value):
        return jnp.sum(weight * scaled_dot_product_attention(query, key, value, MASK_BL, bias))

    key_gradient, value_gradient = map(np.asarray, jax.grad(score, argnums=(0, 1))(key, value))
    for gradient in (key_gradient, value_gradient):
        assert np.abs(gradient[~real_BNLH]).max() == 0
    # With one real key in the last sentence the weights are fixed; the values of all sentences have a slope.
    assert np.abs(value_gradient[real_BNLH]).min() > 0
    assert np.abs(key_gradient[:2][real_BNLH[:2]]).min() > 0


def test_the_gradient_is_that_of_the_textbook_softmax():
    # The code divides by the sum last and takes no slope through the maximum; here it is written out plainly.
    query, key, value, bias = random_parts(np.float32)
    weight = np.random.default_rng(3).normal(size=query.shape).astype(np.float32)

    def plain(query, key, value, bias):
        scores = query @ key.swapaxes(2, 3) / np.sqrt(H) + bias
        return jax.nn.softmax(jnp.where(MASK_BL[:, None, None, :], scores, -1e30), axis=-1) @ value

    with jax.enable_x64(True):
        parts = [jnp.asarray(part, jnp.float64) for part in (query, key, value, bias)]
        found, expected = (
            jax.tree.map(np.asarray, jax.jit(jax.grad(lambda parts, f=f: jnp.sum(weight * f(*parts))))(parts))
            for f in (lambda q, k, v, bias: scaled_dot_product_attention(q, k, v, jnp.asarray(MASK_BL), bias), plain)
        )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=FLOAT64)


def test_a_row_of_padding_gives_no_nan():
    query, key, value, bias = map(jnp.asarray, random_parts(np.float32))
    mask_BL = jnp.asarray(MASK_BL).at[1].set(False)

    def score(parts):
        return jnp.sum(scaled_dot_product_attention(*parts[:3], mask_BL, parts[3]) ** 2)

    context = np.asarray(scaled_dot_product_attention(query, key, value, mask_BL, bias))
    assert np.isfinite(context).all()
    # No key is better than another: the plain mean of the values.
    mean_NH = np.asarray(value)[1].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(context[1], np.broadcast_to(mean_NH, (N, L, H)), rtol=0, atol=FLOAT32)
    for gradient in jax.grad(score)((query, key, value, bias)):
        assert np.isfinite(gradient).all()


def test_large_scores_do_not_overflow():
    query, key, value, _ = random_parts(np.float32)
    context = scaled_dot_product_attention(*map(jnp.asarray, (query * 1e4, key * 1e4, value, MASK_BL)))
    expected = twin_attention(query * 1e4, key * 1e4, value, MASK_BL, None)
    # Every softmax picks one key; which one is decided by scores far apart, so that rounding has no say.
    np.testing.assert_allclose(context, expected, rtol=0, atol=FLOAT32)


def test_bfloat16_inputs_have_a_float32_softmax():
    query, key, value, _ = random_parts(np.float32)
    lower = [jnp.asarray(part, jnp.bfloat16) for part in (query, key, value)]
    program = str(jax.make_jaxpr(scaled_dot_product_attention)(*lower, MASK_BL))
    exponentials = [line for line in program.splitlines() if " exp " in line]
    assert exponentials and all("f32[" in line for line in exponentials)
    assert scaled_dot_product_attention(*lower, MASK_BL).dtype == jnp.float32


def test_dropout_of_the_weights_belongs_to_each_sentence():
    query, key, value, bias = random_parts(np.float32)
    dropout_keys_BL = jax.random.split(jax.random.key(0), query.shape[:1] + query.shape[2:3])

    def attend(rows, dropout_keys_BL):
        parts = (query[rows], key[rows], value[rows], MASK_BL[rows], bias)
        return np.asarray(scaled_dot_product_attention(*parts, dropout_rate=0.5, dropout_keys_BL=dropout_keys_BL))

    rows = np.arange(B)
    dropped = attend(rows, dropout_keys_BL)
    assert not np.allclose(dropped[0], attend(rows, None)[0])
    np.testing.assert_allclose(attend(rows[::-1], dropout_keys_BL[::-1]), dropped[::-1], rtol=0, atol=FLOAT32)


def test_a_mask_of_pairs_lets_texts_share_a_row():
    query, key, value, _ = random_parts(np.float32)
    L = query.shape[2]
    first = np.arange(L) < L // 2
    looks_BQK = np.broadcast_to(first[:, None] == first[None, :], (B, L, L))
    together = scaled_dot_product_attention(query, key, value, looks_BQK)
    for half in (slice(0, L // 2), slice(L // 2, L)):
        parts = [part[:, :, half] for part in (query, key, value)]
        alone = scaled_dot_product_attention(*parts, np.ones((B, parts[0].shape[2]), bool))
        np.testing.assert_allclose(together[:, :, half], alone, rtol=0, atol=FLOAT32)
