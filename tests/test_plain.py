"""plain.py: the pure function is what encode computes, and what it captures is what the model computed."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minisbert import Index, InputError, SentenceEncoder
from minisbert.explain.attention import sentence_attention
from minisbert.plain import padded_tokens

sys.path.insert(0, str(Path(__file__).parent))
from families import TWINS

WEIGHTS = Path(__file__).parents[1] / "weights"
TEXTS = ["a cat", "a longer sentence about a dog", ""]
# float32 additions in another order, on embeddings of size 1.
FLOAT32 = 2e-6


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-static"])
def test_the_pure_function_is_encode(name):
    encoder = SentenceEncoder(WEIGHTS / name)
    apply, params = encoder.module()
    tokens = padded_tokens(encoder, TEXTS)
    capture = () if name == "tiny-static" else ("hidden", "attention")
    out = jax.jit(apply, static_argnames="capture")(params, *tokens, capture=capture)
    np.testing.assert_allclose(out.sentence_BD, encoder.encode(TEXTS), atol=FLOAT32)
    if not capture:
        assert out.hidden_IBLD is None and out.attention_YBNQK is None
        return
    layers = encoder.model_config.encoder.num_hidden_layers
    assert len(out.hidden_IBLD) == layers + 1 and len(out.attention_YBNQK) == layers
    np.testing.assert_array_equal(out.hidden_IBLD[-1], out.token_BLD)
    if name == "tiny-bert":
        seen = sentence_attention(encoder, TEXTS[1]).weights_YNQK
        length = tokens[1][1]
        np.testing.assert_allclose(out.attention_YBNQK[:, 1, :, :length, :length], seen, atol=FLOAT32)


@pytest.mark.usefixtures("all_shapes")  # alone, a text has the same length, and so the same bits
@pytest.mark.parametrize("name", ["tiny-bert", "tiny-layers"])
def test_encode_returns_every_layer(name):
    encoder = SentenceEncoder(WEIGHTS / name)
    apply, params = encoder.module()
    ids_BL, lengths_B = padded_tokens(encoder, TEXTS)
    hidden_IBLD = jax.jit(apply, static_argnames="capture")(params, ids_BL, lengths_B, capture=("hidden",)).hidden_IBLD
    found = encoder.encode(TEXTS, output_value="hidden_states", batch_size=2)
    assert [one.shape[1] for one in found] == lengths_B.tolist()
    for b, hidden_ILD in enumerate(found):
        np.testing.assert_allclose(hidden_ILD, hidden_IBLD[:, b, : lengths_B[b]], atol=FLOAT32)
    tokens = encoder.encode(TEXTS, output_value="token_embeddings")
    if name == "tiny-bert":  # the other averages its layers
        np.testing.assert_allclose(found[1][-1], tokens[1], atol=FLOAT32)
    np.testing.assert_array_equal(encoder.encode(TEXTS[1], output_value="hidden_states"), found[1])
    assert encoder.encode([], output_value="hidden_states") == []


def test_float64_is_the_twin_and_leaves_jax_as_it_was():
    """compute_dtype="float64": float32 weights, every operation in float64."""
    encoder = SentenceEncoder(WEIGHTS / "tiny-bert", compute_dtype="float64")
    ids_BL, lengths_B = padded_tokens(encoder, TEXTS)
    mask_BL = np.arange(ids_BL.shape[1]) < lengths_B[:, None]
    token_BLD = TWINS["bert"](
        jax.tree.map(np.asarray, encoder.params["encoder"]), encoder.model_config.encoder, ids_BL, mask_BL
    )
    expected = np.where(mask_BL[:, :, None], token_BLD, 0).sum(1) / lengths_B[:, None]
    index = Index(encoder)  # its fingerprint is the first to see the parameters
    index.add(TEXTS)
    found = encoder.encode(TEXTS)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    tokens = encoder.encode(TEXTS, output_value="token_embeddings", out=None)
    np.testing.assert_allclose(tokens[1], token_BLD[1, : lengths_B[1]], rtol=0, atol=1e-13)
    filled = encoder.encode(TEXTS, normalize_embeddings=True, out=np.empty((3, 32)))
    np.testing.assert_allclose((filled**2).sum(1), 1, rtol=0, atol=1e-14)
    np.testing.assert_allclose(sentence_attention(encoder, TEXTS[1]).weights_YNQK.sum(-1), 1, rtol=0, atol=1e-14)
    assert jnp.ones(1).dtype == jnp.float32 and not jax.config.jax_enable_x64
    with pytest.raises(InputError, match="x64 mode is off"):
        encoder.module()
    with jax.enable_x64(True):
        apply, params = encoder.module()
        np.testing.assert_allclose(jax.jit(apply)(params, ids_BL, lengths_B).sentence_BD, expected, rtol=0, atol=1e-13)


def test_the_gradient_of_each_token_by_an_edit_of_the_first_input():
    encoder = SentenceEncoder(WEIGHTS / "tiny-bert")
    apply, params = encoder.module()
    tokens = padded_tokens(encoder, ["a a a"])

    @jax.jit
    def first_number(scale_L):
        def edit(layer, hidden_BLD):
            return hidden_BLD * scale_L[:, None] if layer == 0 else hidden_BLD

        out = apply(params, *tokens, capture=("hidden",), edit=edit)
        return out.sentence_BD[0, 0], out.hidden_IBLD[0, 0]

    one_L = jnp.ones(tokens[0].shape[1])
    slope_L, _ = jax.jit(jax.grad(first_number, has_aux=True))(one_L)
    step_L = 1e-2 * jnp.eye(len(one_L))[2]
    (more, doubled_LD), (less, _) = first_number(one_L + step_L), first_number(one_L - step_L)
    assert (
        float(slope_L[2]) == pytest.approx(float(more - less) / 2e-2, rel=2e-2, abs=1e-4) and slope_L[2] != slope_L[3]
    )
    np.testing.assert_allclose(doubled_LD[2], 1.01 * first_number(one_L)[1][2], rtol=1e-5)


@pytest.mark.parametrize("name", ["tiny-modernbert", "tiny-t5", "tiny-layers", "tiny-static"])
def test_an_edit_gets_and_sets_what_capture_returns(name):
    encoder = SentenceEncoder(WEIGHTS / name)
    apply, params = encoder.module()
    tokens, seen = padded_tokens(encoder, TEXTS), {}
    whole = apply(params, *tokens, capture=("hidden",), edit=lambda layer, x: seen.setdefault(layer, x))
    assert [*seen] == [*range(len(whole.hidden_IBLD))]
    np.testing.assert_array_equal(jnp.stack([*seen.values()]), whole.hidden_IBLD)
    last = len(seen) - 1
    for layer in {0, last}:
        zeroed = apply(params, *tokens, capture=("hidden",), edit=lambda i, x, at=layer: 0 * x if i == at else x)
        assert not zeroed.hidden_IBLD[layer].any()
    if not encoder.model_config.pools_layers:
        assert not zeroed.token_BLD.any()
    edited = apply(params, *tokens, edit=lambda i, x: x.at[..., 0].add(1) if i == 0 else x).sentence_BD
    assert np.abs(edited - whole.sentence_BD).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-bert", "tiny-albert"])
def test_edits_and_dropout(name):
    encoder = SentenceEncoder(WEIGHTS / name)
    apply, params = encoder.module()
    tokens = padded_tokens(encoder, TEXTS)
    layers = []

    def half_of_the_first(layer, hidden_BLD):
        layers.append(layer)
        return hidden_BLD / 2 if layer == 1 else hidden_BLD

    @jax.jit
    def compute(key):
        whole, halved = (apply(params, *tokens, capture=("hidden",), edit=edit) for edit in (None, half_of_the_first))
        return whole, halved, apply(params, *tokens, key).sentence_BD

    whole, halved, dropped = compute(jax.random.key(0))
    assert layers == [*range(encoder.model_config.encoder.num_hidden_layers + 1)]
    np.testing.assert_allclose(halved.hidden_IBLD[1], whole.hidden_IBLD[1] / 2, atol=FLOAT32)
    assert np.abs(halved.sentence_BD - whole.sentence_BD).max() > 1e-3
    np.testing.assert_array_equal(dropped, compute(jax.random.key(0))[2])
    np.testing.assert_array_equal(dropped, compute(jax.random.PRNGKey(0))[2])
    if name == "tiny-bert":  # the other has no dropout in its config
        assert np.abs(dropped - compute(jax.random.key(1))[2]).max() > 1e-3


def test_padding_has_no_effect_and_no_gradient():
    encoder = SentenceEncoder(WEIGHTS / "tiny-static")
    apply, params = encoder.module()
    token_ids_BL, lengths_B = padded_tokens(encoder, TEXTS)
    other = token_ids_BL.copy()
    other[0, lengths_B[0] :] = 7
    np.testing.assert_array_equal(
        apply(params, other, lengths_B).sentence_BD, apply(params, token_ids_BL, lengths_B).sentence_BD
    )
    gradient = jax.grad(lambda params: jnp.sum(apply(params, other[:1], lengths_B[:1]).sentence_BD ** 2))(params)
    assert not np.any(gradient["encoder"]["token_embedding"]["embedding"][7])


def test_what_cannot_be_done_is_refused():
    apply, params = SentenceEncoder(WEIGHTS / "tiny-static").module()
    for capture in ("hidden", ("layers",)):
        with pytest.raises(InputError, match="Expected a tuple of names of hidden, attention"):
            apply(params, np.zeros((1, 2), np.int32), np.array([2]), capture=capture)
    with pytest.raises(InputError, match=r"one of model\.routes"):
        SentenceEncoder(WEIGHTS / "tiny-router").module()
