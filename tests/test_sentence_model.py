"""sentence_model.py: token ids to sentence embeddings against the NumPy twin, for both families and every pooling.

The twin's Dense is one line, here: tanh(x W + b).
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minisbert.checkpoint.modules import POOLING_MODES, Dense, Normalize, Pooling
from minisbert.inference.compiled import cast_params
from minisbert.pretrained import load_pretrained, save_pretrained
from minisbert.reference import encoder as reference
from minisbert.reference import pooling as reference_pooling
from minisbert.reference import similarity as reference_similarity
from minisbert.sentence_model import define, initial_params
from minisbert.transformer import dropout
from minisbert.transformer.dropout import threefry

WEIGHTS = Path(__file__).parents[1] / "weights"
FAMILIES = ["bert", "mpnet"]

# float64 rounding over the whole model, on embeddings of length 1; 4e-16 is measured.
FLOAT64 = 1e-10
# float32, on embeddings of length 1; 1.3e-7 is measured.
FLOAT32 = 2e-6
# bfloat16 keeps 8 bits: each product is off by up to 2^-9 = 0.2 %, at random, in a few matrices one after the other
# around a float32 residual stream. The angle that remains is below 0.5 degrees: 1 - cosine = 2e-5 is measured.
BFLOAT16_COSINE = 0.9999

LENGTHS_B = np.array([16, 9, 1, 5])
L = 16
MASK_BL = np.arange(L) < LENGTHS_B[:, None]
ALL = (Pooling(POOLING_MODES), Normalize())


@pytest.fixture(scope="module", params=FAMILIES)
def pretrained(request):
    return load_pretrained(WEIGHTS / f"tiny-{request.param}")


def random_tokens(pretrained):
    """token_ids_BL with the family's padding token in the padding, and that token."""
    padding = 1 if pretrained.model_config.model_type == "mpnet" else 0
    token_ids_BL = np.random.default_rng(0).integers(5, pretrained.model_config.encoder.vocab_size, MASK_BL.shape)
    return np.where(MASK_BL, token_ids_BL, padding).astype(np.int32), padding


@cache
def compiled(model_config, dtype):
    """params, token_ids_BL, lengths_B, prompt_length -> sentence_BD."""
    definition, _ = define(model_config, dtype)
    return jax.jit(lambda params, *parts: nnx.merge(definition, params)(*parts).sentence_BD)


def embed(model_config, params, token_ids_BL, lengths_B=LENGTHS_B, *, dtype=np.float32, prompt_length=0):
    """The JAX model's sentence_BD as NumPy."""
    with jax.enable_x64(dtype == np.float64):
        params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
        return np.asarray(compiled(model_config, dtype)(params, token_ids_BL, lengths_B, prompt_length))


def twin_tokens(pretrained, token_ids_BL):
    """The twin's token embeddings."""
    encoder = {"bert": reference.bert, "mpnet": reference.mpnet}[pretrained.model_config.model_type]
    params = jax.tree.map(np.asarray, pretrained.params["encoder"])
    return encoder(params, pretrained.model_config.encoder, token_ids_BL, MASK_BL)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, FLOAT64), (np.float32, FLOAT32)])
def test_every_pooling_then_normalize_is_the_twins(pretrained, dtype, tolerance):
    token_ids_BL, _ = random_tokens(pretrained)
    model_config = replace(pretrained.model_config, modules=ALL)
    found = embed(model_config, pretrained.params, token_ids_BL, dtype=dtype)
    pooled_BD = reference_pooling.pool(twin_tokens(pretrained, token_ids_BL), MASK_BL, POOLING_MODES)
    assert found.dtype == dtype and found.shape == (4, model_config.dimension) == pooled_BD.shape
    np.testing.assert_allclose(found, reference_similarity.normalize(pooled_BD), rtol=0, atol=tolerance)


def test_dense_and_a_prompt_left_out_of_the_pooling_are_the_twins(pretrained):
    width = pretrained.model_config.encoder.hidden_size
    modules = (Pooling(("mean", "lasttoken"), include_prompt=False), Dense(2 * width, 10), Normalize())
    model_config = replace(pretrained.model_config, modules=modules)
    rng = np.random.default_rng(1)
    kernel, bias = rng.normal(size=(2 * width, 10), scale=0.1), rng.normal(size=10)
    params = {**pretrained.params, "heads": {0: {"linear": {"kernel": kernel, "bias": bias}}}}
    token_ids_BL, _ = random_tokens(pretrained)
    found = embed(model_config, params, token_ids_BL, dtype=np.float64, prompt_length=3)
    counts_BL = MASK_BL & (np.arange(L) >= 3)
    pooled_BD = reference_pooling.pool(twin_tokens(pretrained, token_ids_BL), counts_BL, ["mean", "lasttoken"])
    expected = reference_similarity.normalize(np.tanh(pooled_BD @ kernel + bias))
    assert found.shape == (4, model_config.dimension) == (4, 10)
    longer = LENGTHS_B > 3  # the third sentence is all prompt, and so without an embedding
    np.testing.assert_allclose(found[longer], expected[longer], rtol=0, atol=FLOAT64)


@pytest.fixture(scope="module")
def slopes(pretrained):
    """token_ids_BL, lengths_B -> for each pooling, the gradient of a random projection in every parameter."""
    model_config = replace(pretrained.model_config, modules=ALL)
    definition, _ = define(model_config)
    width = pretrained.model_config.encoder.hidden_size
    projection = np.random.default_rng(2).normal(size=width).astype(np.float32)
    # One row per pooling, which looks at the columns of that pooling only.
    rows = jnp.asarray(np.kron(np.eye(len(POOLING_MODES), dtype=np.float32), projection))

    @jax.jit
    def gradients(params, token_ids_BL, lengths_B):
        def score(params):
            return rows @ nnx.merge(definition, params)(token_ids_BL, lengths_B).sentence_BD.sum(axis=0)

        return jax.jacrev(score)(params)

    return lambda *batch: jax.tree.map(np.asarray, gradients(pretrained.params, *batch))


def test_the_gradient_with_respect_to_padding_is_exactly_zero(pretrained, slopes):
    token_ids_BL, padding = random_tokens(pretrained)
    # Normalize joins the poolings, so that the others have a slope too; the padding's is 0 in each.
    for mode, tokens_VD in zip(
        POOLING_MODES, slopes(token_ids_BL, LENGTHS_B)["encoder"]["token_embedding"]["embedding"], strict=True
    ):
        assert np.abs(tokens_VD[padding]).max() == 0, mode
        assert np.abs(tokens_VD[np.unique(token_ids_BL[MASK_BL])]).max(axis=1).min() > 0, mode


def test_rows_of_padding_give_no_nan(pretrained, slopes):
    token_ids_BL, padding = random_tokens(pretrained)
    token_ids_BL[1:3] = padding
    lengths_B = np.array([16, 0, 0, 5])
    sentence_BD = embed(replace(pretrained.model_config, modules=ALL), pretrained.params, token_ids_BL, lengths_B)
    assert np.isfinite(sentence_BD).all()
    for slope in jax.tree.leaves(slopes(token_ids_BL, lengths_B)):
        assert np.isfinite(slope).all()


def test_the_content_of_padding_never_changes_a_bit(pretrained):
    token_ids_BL, _ = random_tokens(pretrained)
    model_config = replace(pretrained.model_config, modules=ALL)
    others_BL = np.where(
        MASK_BL,
        token_ids_BL,
        np.random.default_rng(3).integers(0, pretrained.model_config.encoder.vocab_size, MASK_BL.shape),
    )
    found, other = (embed(model_config, pretrained.params, ids) for ids in (token_ids_BL, others_BL.astype(np.int32)))
    np.testing.assert_array_equal(found, other)


def test_bfloat16_points_the_same_way(pretrained):
    token_ids_BL, _ = random_tokens(pretrained)
    model_config = replace(pretrained.model_config, modules=(Pooling(("mean",)), Normalize()))
    params = cast_params(pretrained.params, jnp.bfloat16)
    lower_BD = np.asarray(compiled(model_config, jnp.bfloat16)(params, token_ids_BL, LENGTHS_B, 0))
    full_BD = reference_similarity.normalize(reference_pooling.mean(twin_tokens(pretrained, token_ids_BL), MASK_BL))
    assert lower_BD.dtype == np.float32
    assert np.sum(lower_BD * full_BD, axis=1).min() >= BFLOAT16_COSINE
    # And it is another computation: float32 would agree within FLOAT32.
    assert np.abs(lower_BD - full_BD).max() > 100 * FLOAT32


def test_every_place_of_the_papers_drops(pretrained, monkeypatch):
    # The embeddings, and in each block the attention weights and both sublayers (BERT's code; Vaswani 5.4).
    token_ids_BL, _ = random_tokens(pretrained)
    definition, shapes = define(pretrained.model_config)
    draws = []
    monkeypatch.setattr(dropout, "threefry", lambda *words: draws.append(words) or threefry(*words))

    def run(params, dropout_keys_B):
        return nnx.merge(definition, params)(token_ids_BL, LENGTHS_B, 0, dropout_keys_B)

    jax.eval_shape(run, shapes, None)
    assert not draws
    jax.eval_shape(run, shapes, jax.random.split(jax.random.key(0), 4))
    assert len(draws) == 1 + 3 * pretrained.model_config.encoder.num_hidden_layers


def test_dropout_changes_a_sentence_with_its_key_alone():
    pretrained = load_pretrained(WEIGHTS / "tiny-bert")
    token_ids_BL, _ = random_tokens(pretrained)
    # One block is enough, and quick to compile.
    model_config = replace(
        pretrained.model_config, encoder=replace(pretrained.model_config.encoder, num_hidden_layers=1)
    )
    encoder = {**pretrained.params["encoder"], "blocks": {0: pretrained.params["encoder"]["blocks"][0]}}
    definition, _ = define(model_config)

    @jax.jit
    def run(token_ids_BL, lengths_B, dropout_keys_B):
        return nnx.merge(definition, {"encoder": encoder})(token_ids_BL, lengths_B, 0, dropout_keys_B).sentence_BD

    dropout_keys_B = jax.random.split(jax.random.key(0), 4)
    dropped = np.asarray(run(token_ids_BL, LENGTHS_B, dropout_keys_B))
    order = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(run(token_ids_BL[order], LENGTHS_B[order], dropout_keys_B[order]), dropped[order])
    other = np.asarray(run(token_ids_BL, LENGTHS_B, dropout_keys_B.at[0].set(jax.random.key(9))))
    assert np.abs(other[0] - dropped[0]).max() > 1e-3
    np.testing.assert_array_equal(other[1:], dropped[1:])


def test_initial_params_follow_from_the_seed_and_have_the_defined_shapes():
    model_config = load_pretrained(WEIGHTS / "tiny-bert").model_config
    model_config = replace(model_config, encoder=replace(model_config.encoder, num_hidden_layers=1))
    _, shapes = define(model_config)
    first, again, other = (initial_params(model_config, seed) for seed in (1, 1, 2))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), first) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    assert all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(again)))
    tables = [np.asarray(params["encoder"]["token_embedding"]["embedding"]) for params in (first, other)]
    assert not np.array_equal(*tables)
    # 6,000 draws give the width of a normal distribution within 1 % (one standard deviation); the seed is fixed.
    assert abs(tables[0].std() / model_config.encoder.initializer_range - 1) < 0.05


def test_a_model_of_other_sizes_is_saved_with_its_own(tmp_path):
    small, model = {"hidden_size": 16, "intermediate_size": 24}, load_pretrained(WEIGHTS / "tiny-bert")
    model_config = replace(model.model_config, encoder=replace(model.model_config.encoder, **small))
    folder = replace(model.folder, config=model.folder.config | small)
    params = initial_params(model_config, 0)
    save_pretrained(replace(model, model_config=model_config, folder=folder, params=params), tmp_path / "small")
    assert load_pretrained(tmp_path / "small").model_config == model_config
