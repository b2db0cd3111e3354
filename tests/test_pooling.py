"""pooling.py against the NumPy twin; padding has value and gradient exactly 0 in each of the six."""

import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minisbert import InputError, SentenceEncoder, pooling
from minisbert.checkpoint.modules import POOLING_MODES, Dense, Pooling
from minisbert.model_config import with_pooling
from minisbert.pooling import POOLINGS, pool
from minisbert.reference import pooling as reference

# A sum of at most 8 numbers of size 1 in float64; 4e-16 is measured.
FLOAT64 = 1e-10
# The same in float32, where 2e-7 is measured.
FLOAT32 = 2e-6

B, L, D = 5, 8, 6
MASK_BL = np.arange(L) < np.array([8, 5, 1, 4, 7])[:, None]
# The first two tokens of two sentences do not count, as with a prompt that is left out.
PROMPT_BL = MASK_BL & ~((np.arange(L) < 2) & np.array([[True], [True], [False], [False], [False]]))
HIDDEN_BLD = np.random.default_rng(0).normal(size=(B, L, D))


def test_the_tables_have_the_names_of_model_folders():
    assert set(POOLINGS) == set(reference.POOLINGS) == set(POOLING_MODES)


@pytest.mark.parametrize("mask_BL", [MASK_BL, PROMPT_BL], ids=["padded", "without prompt"])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, FLOAT64), (np.float32, FLOAT32)])
@pytest.mark.parametrize("mode", POOLING_MODES)
def test_poolings_are_the_twins(mode, dtype, tolerance, mask_BL):
    hidden_BLD = HIDDEN_BLD.astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        found = POOLINGS[mode](jnp.asarray(hidden_BLD), jnp.asarray(mask_BL))
    assert found.dtype == dtype
    expected = reference.POOLINGS[mode](hidden_BLD.astype(np.float64), mask_BL)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_several_poolings_stand_side_by_side_in_the_order_given():
    modes = ["lasttoken", "mean", "cls"]
    found = pool(jnp.asarray(HIDDEN_BLD, jnp.float32), jnp.asarray(MASK_BL), modes)
    assert found.shape == (B, 3 * D)
    np.testing.assert_allclose(found, reference.pool(HIDDEN_BLD, MASK_BL, modes), rtol=0, atol=FLOAT32)
    np.testing.assert_array_equal(found[:, 2 * D :], HIDDEN_BLD[:, 0].astype(np.float32))


SEGMENT_L = np.array([0, 0, 0, 1, 1, 2, -1, -1])  # a row with texts of 3, 2 and 1 tokens, and padding
MASK_BTL = np.stack([np.roll(SEGMENT_L, shift - 2) == np.arange(3)[:, None] for shift in range(B)])


@pytest.mark.parametrize("padding", [0, np.nan])
@pytest.mark.parametrize("mode", [*POOLING_MODES, "first_and_last"])
def test_texts_that_share_a_row_are_pooled_as_if_alone(mode, padding, monkeypatch):
    """Sums are then matrix products; the others, and a pooling from outside, are called for each text."""
    both = lambda module: lambda *given: module.cls(*given) + module.last_token(*given)  # noqa: E731
    monkeypatch.setitem(POOLINGS, "first_and_last", both(pooling))
    monkeypatch.setitem(reference.POOLINGS, "first_and_last", both(reference))
    hidden_BLD = np.where(MASK_BTL.any(axis=1)[:, :, None], HIDDEN_BLD, padding).astype(np.float32)
    position_BL = sum(mask_BL * (mask_BL.cumsum(axis=1) - 1) for mask_BL in MASK_BTL.swapaxes(0, 1))
    found_BTD = pool(jnp.asarray(hidden_BLD), jnp.asarray(MASK_BTL), [mode], jnp.asarray(position_BL))
    for b, t in np.ndindex(B, 3):
        alone_1LD = hidden_BLD[b, MASK_BTL[b, t]][None].astype(np.float64)
        expected = reference.POOLINGS[mode](alone_1LD, np.ones(alone_1LD.shape[:2], bool))[0]
        np.testing.assert_allclose(found_BTD[b, t], expected, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("mode", POOLING_MODES)
@pytest.mark.parametrize("padding", [1e30, -1e30, np.inf, np.nan])
def test_the_content_of_padding_never_changes_a_bit(mode, padding):
    hidden_BLD = HIDDEN_BLD.astype(np.float32)
    other_BLD = np.where(MASK_BL[:, :, None], hidden_BLD, np.float32(padding))
    found = [POOLINGS[mode](jnp.asarray(x), jnp.asarray(MASK_BL)) for x in (hidden_BLD, other_BLD)]
    assert np.array_equal(*found) and np.isfinite(found[1]).all()


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_the_gradient_with_respect_to_padding_is_exactly_zero(mode):
    weight_BD = np.random.default_rng(1).normal(size=(B, D)).astype(np.float32)
    gradient_BLD = jax.grad(lambda x: jnp.sum(weight_BD * POOLINGS[mode](x, jnp.asarray(MASK_BL))))(
        jnp.asarray(HIDDEN_BLD, jnp.float32)
    )
    assert np.abs(np.asarray(gradient_BLD)[~MASK_BL]).max() == 0
    assert np.abs(np.asarray(gradient_BLD)).sum(axis=(1, 2)).min() > 0


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_a_row_of_padding_gives_no_nan(mode):
    mask_BL = MASK_BL.copy()
    mask_BL[1] = False
    hidden_BLD = jnp.asarray(HIDDEN_BLD, jnp.float32)
    sentence_BD = POOLINGS[mode](hidden_BLD, jnp.asarray(mask_BL))
    # tanh keeps max pooling's lowest number, which marks an empty row, from overflowing in the square.
    gradient_BLD = jax.grad(lambda x: jnp.sum(jnp.tanh(POOLINGS[mode](x, jnp.asarray(mask_BL))) ** 2))(hidden_BLD)
    assert np.isfinite(sentence_BD).all() and np.isfinite(gradient_BLD).all()
    if mode != "max" and mode != "cls":
        assert not np.asarray(sentence_BD)[1].any()  # nor the numbers of padding


def test_a_model_with_another_pooling(tmp_path):
    encoder = SentenceEncoder("weights/tiny-bert")
    whole = encoder.encode(["a cat", "a dog sees the cat"], output_value=None)
    changed = encoder.with_pooling("cls", "max")
    changed.save(tmp_path / "changed")
    for model in (changed, SentenceEncoder(tmp_path / "changed")):
        for text, tokens in zip(["a cat", "a dog sees the cat"], whole, strict=True):
            token_LD = tokens["token_embeddings"]
            expected = np.concatenate([token_LD[0], token_LD.max(axis=0)])
            np.testing.assert_allclose(model.encode(text), expected, atol=1e-6)
    assert "cls" in repr(changed) and "mean" in repr(encoder)  # the first model is as it was
    np.testing.assert_allclose(encoder.encode("a cat"), whole[0]["sentence_embedding"], atol=1e-6)


@pytest.mark.parametrize(
    "folder, modes, message",
    [
        ("tiny-bert", (), "Expected one or more of cls, max, mean"),
        ("tiny-bert", ("CLS",), "modes is ('CLS',)"),
        ("tiny-bert", (["cls", "max"],), "modes is (['cls', 'max'],)"),
        ("tiny-static", ("max",), "averages its tokens itself"),
        ("tiny-router", ("max",), "Expected one of model.routes"),
    ],
)
def test_another_pooling_is_refused_where_there_is_none(folder, modes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        SentenceEncoder(f"weights/{folder}").with_pooling(*modes)


def test_a_dense_layer_after_the_pooling_limits_its_width():
    encoder = SentenceEncoder("weights/tiny-bert")
    config = replace(encoder.model_config, modules=(Pooling(), Dense(64, 32, True, "tanh")))
    with pytest.raises(InputError, match="was trained for 1 of them"):
        with_pooling(SimpleNamespace(model_config=config), "max", "cls")
