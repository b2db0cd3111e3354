"""encoders/mpnet.py on the tiny checkpoint: the NumPy twin block by block and whole, and padding that counts for nothing."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minisbert.encoders import mpnet
from minisbert.pretrained import load_pretrained
from minisbert.reference import encoder as reference

TINY = Path(__file__).parents[2] / "weights" / "tiny-mpnet"

# Rounding of float64; 3e-15 is measured over the whole encoder.
FLOAT64 = 1e-10
# Token embeddings end in a layer norm and are up to 4 in size, where a float32 step is 2.4e-7; 1e-6 is measured.
FLOAT32 = 2e-6
# The same for two shapes of one program, which sum in different orders; the mean of a sentence's tokens is tighter.
ACROSS_SHAPES = 5e-6
ACROSS_SHAPES_MEAN = 1e-6

LENGTHS_B = np.array([16, 9, 1, 5])
L = 16
MASK_BL = np.arange(L) < LENGTHS_B[:, None]
# The family's own padding token, from which it counts positions.
PADDING = mpnet.PADDING_ID


def random_tokens(config):
    """token_ids_BL."""
    token_ids_BL = np.random.default_rng(0).integers(5, config.vocab_size, MASK_BL.shape).astype(np.int32)
    return np.where(MASK_BL, token_ids_BL, PADDING).astype(np.int32)


@pytest.fixture(scope="module")
def pretrained():
    return load_pretrained(TINY)


@pytest.fixture(scope="module")
def config(pretrained):
    return pretrained.model_config.encoder


@pytest.fixture(scope="module")
def params(pretrained):
    """The encoder's parameters as float32 NumPy arrays."""
    return jax.tree.map(np.asarray, pretrained.params["encoder"])


def encoder(config, params, dtype):
    """The JAX encoder with these parameters in `dtype`."""
    definition, _ = nnx.split(nnx.eval_shape(lambda: mpnet.Encoder(config, dtype=dtype, rngs=nnx.Rngs(0))))
    return nnx.merge(definition, jax.tree.map(lambda x: jnp.asarray(x, dtype), params))


@pytest.fixture(scope="module")
def run(config, params):
    """The float32 encoder, compiled: token_ids_BL, mask_BL -> hidden_BLD as NumPy."""
    model = encoder(config, params, np.float32)
    compiled = jax.jit(lambda token_ids_BL, mask_BL: model(token_ids_BL, mask_BL)[-1])
    return lambda token_ids_BL, mask_BL: np.asarray(compiled(token_ids_BL.astype(np.int32), mask_BL))


@pytest.fixture(scope="module")
def slopes(config, params):
    """weight_BLD, token_ids_BL, mask_BL -> the gradient of sum(weight_BLD * hidden_BLD) in every parameter."""
    definition, state = nnx.split(encoder(config, params, np.float32))

    def score(params, weight_BLD, token_ids_BL, mask_BL):
        return jnp.sum(weight_BLD * nnx.merge(definition, params)(token_ids_BL, mask_BL)[-1])

    compiled = jax.jit(jax.grad(score))
    return lambda *parts: jax.tree.map(np.asarray, compiled(nnx.to_pure_dict(state), *parts))


def test_the_whole_encoder_is_the_twins(config, params):
    token_ids_BL = random_tokens(config)
    with jax.enable_x64(True):
        model = encoder(config, params, np.float64)
        found = np.asarray(jax.jit(lambda *parts: model(*parts)[-1])(token_ids_BL, MASK_BL))
    assert found.dtype == np.float64
    # Padding too: its numbers mean nothing, but the two programs compute the same.
    np.testing.assert_allclose(found, reference.mpnet(params, config, token_ids_BL, MASK_BL), rtol=0, atol=FLOAT64)


def test_segments_are_ignored(config, params):
    token_ids_BL = random_tokens(config)
    segment_ids_BL = np.ones_like(token_ids_BL)
    model = encoder(config, params, np.float32)
    programs = [str(jax.make_jaxpr(model)(token_ids_BL, MASK_BL, segments)) for segments in (None, segment_ids_BL)]
    assert len(programs[0].splitlines()) == len(programs[1].splitlines())
    found, expected = (reference.mpnet(params, config, token_ids_BL, MASK_BL, x) for x in (segment_ids_BL, None))
    np.testing.assert_array_equal(found, expected)


def test_float32_is_the_twin_up_to_rounding(config, params, run):
    token_ids_BL = random_tokens(config)
    expected = reference.mpnet(params, config, token_ids_BL, MASK_BL)
    np.testing.assert_allclose(run(token_ids_BL, MASK_BL), expected, rtol=0, atol=FLOAT32)


def test_the_longest_sentence_is_the_twins(config, params, run):
    token_ids_BL = np.random.default_rng(4).integers(2, config.vocab_size, (4, config.max_positions))
    mask_BL = np.ones_like(token_ids_BL, bool)
    expected = reference.mpnet(params, config, token_ids_BL, mask_BL)
    np.testing.assert_allclose(run(token_ids_BL, mask_BL), expected, rtol=0, atol=FLOAT32)


def test_each_block_is_the_twins(config, params):
    hidden_BLD = np.random.default_rng(1).normal(size=(len(LENGTHS_B), L, config.hidden_size))
    params64 = reference.float64(params)
    bias_NQK = reference.relative_position_bias(L, params64["relative_position_bias"]["table"]["embedding"])
    with jax.enable_x64(True):
        model = encoder(config, params, np.float64)
        for i, block in enumerate(model.blocks):
            found = np.asarray(jax.jit(lambda *parts, block=block: block(*parts))(hidden_BLD, MASK_BL, bias_NQK))
            hidden_BLD = reference.block(hidden_BLD, MASK_BL, params64["blocks"][i], config, bias_NQK)
            np.testing.assert_allclose(found, hidden_BLD, rtol=0, atol=FLOAT64, err_msg=f"block {i}")
    assert len(model.blocks) == config.num_hidden_layers == len(params["blocks"])


def test_the_gradient_with_respect_to_padding_is_exactly_zero(config, slopes):
    token_ids_BL = random_tokens(config)
    mask_BL = MASK_BL.copy()
    mask_BL[0, 9:] = False  # at most 9 tokens
    token_ids_BL = np.where(mask_BL, token_ids_BL, PADDING).astype(np.int32)
    weight_BLD = np.random.default_rng(2).normal(size=(*mask_BL.shape, config.hidden_size)) * mask_BL[:, :, None]
    gradient = slopes(weight_BLD.astype(np.float32), token_ids_BL, mask_BL)
    tokens_VD = gradient["token_embedding"]["embedding"]
    positions_LD = gradient["position_embedding"]["embedding"]
    assert np.abs(tokens_VD[PADDING]).max() == 0
    assert np.abs(tokens_VD[np.unique(token_ids_BL[mask_BL])]).max(axis=1).min() > 0
    # Rows 0 and 1 have no positions; the longest sentence has 9 tokens, in rows 2 to 10.
    assert np.abs(positions_LD[:2]).max() == 0 and np.abs(positions_LD[11:]).max() == 0
    assert np.abs(positions_LD[2:11]).max(axis=1).min() > 0
    # A learned number per distance: all the distances that occur, and no other, have a slope.
    biases_R = np.abs(gradient["relative_position_bias"]["table"]["embedding"]).max(axis=1)
    assert set(np.flatnonzero(biases_R)) == set(np.unique(reference.relative_position_buckets(9)))


def test_a_row_of_padding_gives_no_nan(config, run, slopes):
    token_ids_BL = random_tokens(config)
    mask_BL = MASK_BL.copy()
    mask_BL[1] = False
    assert np.isfinite(run(token_ids_BL, mask_BL)).all()
    weight_BLD = np.random.default_rng(2).normal(size=(*mask_BL.shape, config.hidden_size)).astype(np.float32)
    for slope in jax.tree.leaves(slopes(weight_BLD, token_ids_BL.astype(np.int32), mask_BL)):
        assert np.isfinite(slope).all()


def test_padding_changes_nothing(config, run):
    token_ids_BL = random_tokens(config)
    found = run(token_ids_BL, MASK_BL)
    # Other tokens in the padding: the same to the bit.
    others_BL = np.where(MASK_BL, token_ids_BL, np.random.default_rng(3).integers(0, config.vocab_size, MASK_BL.shape))
    np.testing.assert_array_equal(run(others_BL, MASK_BL)[MASK_BL], found[MASK_BL])
    # More padding: another shape, the same up to rounding.
    more = ((0, 0), (0, config.max_positions - L))
    longer = run(np.pad(token_ids_BL, more, constant_values=PADDING), np.pad(MASK_BL, more))[:, :L]
    np.testing.assert_allclose(longer[MASK_BL], found[MASK_BL], rtol=0, atol=ACROSS_SHAPES)
    means = [(x * MASK_BL[:, :, None]).sum(axis=1) / LENGTHS_B[:, None] for x in (longer, found)]
    np.testing.assert_allclose(*means, rtol=0, atol=ACROSS_SHAPES_MEAN)


def test_word_order_matters(config, run):
    token_ids_BL = random_tokens(config)
    there, back = run(token_ids_BL, MASK_BL)[0], run(token_ids_BL[:, ::-1], MASK_BL)[0, ::-1]
    assert np.abs(there - back).max() > 0.1
