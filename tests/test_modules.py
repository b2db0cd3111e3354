"""Modules between the encoder and the sentence embedding against the NumPy twin; the face of a model with several routes."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minisbert import SentenceEncoder
from minisbert.checkpoint.modules import LayerNorm, WeightedLayerPooling
from minisbert.encoders import FAMILIES
from minisbert.errors import InputError
from minisbert.inference.batching import ShapeTable
from minisbert.modules import HEADS
from minisbert.pooling import weighted_layers
from minisbert.pretrained import load_pretrained
from minisbert.reference import pooling as reference_pooling
from minisbert.reference import similarity as reference_similarity
from minisbert.reference.encoder import layer_norm
from minisbert.sentence_model import define

WEIGHTS = Path(__file__).parents[1] / "weights"
# Rounding of float64.
FLOAT64 = 1e-12
TINY = sorted(path.name for path in WEIGHTS.glob("tiny-*") if (path / "config.json").exists())


def float64(params):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float64), params)


def test_weighted_layers_is_the_twins():
    random = np.random.default_rng(0)
    hidden_IBLD, weight_I = random.normal(size=(4, 2, 5, 3)), random.normal(size=4)
    with jax.enable_x64(True):
        found_BLD = weighted_layers(list(hidden_IBLD), jnp.asarray(weight_I))
    expected_BLD = reference_pooling.weighted_layers(list(hidden_IBLD), weight_I)
    np.testing.assert_allclose(found_BLD, expected_BLD, rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("name", TINY)
def test_layers_of_every_family(name):
    """The input of the first block and the output of each block, all different."""
    pretrained = load_pretrained(WEIGHTS / name)
    config = pretrained.model_config.encoder
    encoder = FAMILIES[pretrained.model_config.model_type].Encoder
    definition, _ = nnx.split(nnx.eval_shape(lambda: encoder(config, rngs=nnx.Rngs(0))))
    ids_BL, mask_BL = np.array([[2, 9, 8, 3], [2, 7, 3, 0]], np.int32), np.arange(4) < np.array([[4], [3]])

    run = jax.jit(lambda params: nnx.merge(definition, params)(ids_BL, mask_BL))
    layers_IBLD = run(pretrained.params["encoder"])
    assert len(layers_IBLD) == config.num_hidden_layers + 1
    for below, above in pairwise(layers_IBLD):
        assert np.abs(np.asarray(below) - np.asarray(above)).max() > 1e-2


def test_a_chain_of_all_of_them_is_the_twins():
    """tiny-layers in float64, module by module in NumPy after the encoder's own layers (whose twin has its own test)."""
    pretrained = load_pretrained(WEIGHTS / "tiny-layers")
    mixed, pooling, norm, dense, _ = pretrained.model_config.modules
    ids_BL = np.array([[2, 9, 8, 11, 3], [2, 7, 3, 0, 0]], np.int32)
    lengths_B = np.array([5, 3])
    mask_BL = np.arange(5) < lengths_B[:, None]
    with jax.enable_x64(True):
        params = float64(pretrained.params)
        definition, _ = define(pretrained.model_config, np.float64)

        @jax.jit
        def run(params):
            model = nnx.merge(definition, params)
            return model(ids_BL, lengths_B), model.encoder(ids_BL, mask_BL)

        found, layers_IBLD = jax.tree.map(np.asarray, run(params))
    heads = jax.tree.map(np.asarray, params["heads"])
    token_BLD = reference_pooling.weighted_layers(layers_IBLD[mixed.layer_start :], heads[0]["weights"])
    np.testing.assert_allclose(found.token_BLD, token_BLD, rtol=0, atol=FLOAT64)
    pooled_BD = reference_pooling.pool(token_BLD, mask_BL, pooling.modes)
    normed_BD = layer_norm(pooled_BD, heads[1]["norm"], 1e-5)
    dense_BD = np.tanh(normed_BD @ heads[2]["linear"]["kernel"] + heads[2]["linear"]["bias"])
    np.testing.assert_allclose(found.sentence_BD, reference_similarity.normalize(dense_BD), rtol=0, atol=FLOAT64)
    assert (norm, dense.out_features) == (LayerNorm(40), pretrained.model_config.dimension)


def test_where_a_module_lies_is_no_part_of_what_it_computes():
    assert LayerNorm(3, "3_LayerNorm") == LayerNorm(3, "1_LayerNorm")
    assert "path" not in repr(WeightedLayerPooling(0, 2, "here"))
    first, again = (load_pretrained(WEIGHTS / name).model_config for name in ("tiny-layers", "tiny-router"))
    assert again.modules == first.modules and hash(again) == hash(first)


def test_fresh_modules_change_nothing_yet():
    """Layer weights start as a plain mean, a norm as a norm."""
    mixed, norm = (HEADS[type(m)](m, rngs=nnx.Rngs(0)) for m in (WeightedLayerPooling(1, 3), LayerNorm(4)))
    hidden_IBLD = [np.full((1, 1, 4), value, np.float32) for value in (9, 1, 2, 6)]
    np.testing.assert_array_equal(mixed(hidden_IBLD), np.full((1, 1, 4), 3))
    row_D = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    np.testing.assert_allclose(norm(row_D), (row_D - 2.5) / np.sqrt(1.25 + 1e-5), rtol=0, atol=1e-6)


def test_every_layer_has_a_slope():
    """Nothing that is read is left out of the computation."""
    model_config = load_pretrained(WEIGHTS / "tiny-layers").model_config
    config = replace(model_config.encoder, num_hidden_layers=1)  # one block is enough, and quick to compile
    model_config = replace(
        model_config, encoder=config, modules=(WeightedLayerPooling(0, 1), *model_config.modules[1:])
    )
    definition, shapes = define(model_config)
    random = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: random.uniform(0.1, 0.3, leaf.shape).astype(np.float32), shapes)
    ids_BL, weight_D = (
        np.array([[2, 9, 8, 11, 3]], np.int32),
        np.random.default_rng(0).normal(size=model_config.dimension),
    )
    slopes = jax.jit(
        jax.grad(lambda params: (nnx.merge(definition, params)(ids_BL, np.array([5])).sentence_BD @ weight_D)[0])
    )(params)
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        assert np.abs(slope).max() > 0, path


# --- a Router's face -------------------------------------------------------------------------------------------------

ROUTER = WEIGHTS / "tiny-router"
TEXTS = ["a cat", "the man plays guitar on the street"]


def test_the_task_chooses_the_route():
    router = SentenceEncoder.load(ROUTER)
    query, document = (SentenceEncoder.load(WEIGHTS / name) for name in ("tiny-static", "tiny-layers"))
    np.testing.assert_array_equal(router.encode_query(TEXTS), query.encode(TEXTS))
    for found in (router.encode_document(TEXTS), router.encode(TEXTS), router.encode(TEXTS, task="document")):
        np.testing.assert_array_equal(found, document.encode(TEXTS))
    tokens = router.encode(TEXTS, task="query", output_value="token_embeddings")
    assert [len(token_LD) for token_LD in tokens] == [count.tokens for count in query.token_counts(TEXTS)]
    assert router.token_counts(TEXTS, task="query") == query.token_counts(TEXTS)
    assert router.token_counts(TEXTS) == document.token_counts(TEXTS)
    assert router.similarity(router.encode_query(TEXTS), router.encode_document(TEXTS)).shape == (2, 2)
    # Where there is one way, a task changes nothing.
    np.testing.assert_array_equal(document.encode(TEXTS, task="query"), document.encode(TEXTS))


def test_settings_of_the_model_are_its_routes_too(tmp_path):
    router = SentenceEncoder.load(ROUTER)
    router.prompts |= {"query": "the ", "document": "a "}
    router.truncate_dim = 7
    router.max_seq_length = 5
    router.save(tmp_path / "saved")
    saved = SentenceEncoder.load(tmp_path / "saved")
    query, document = (SentenceEncoder.load(WEIGHTS / name) for name in ("tiny-static", "tiny-layers"))
    query.max_seq_length = document.max_seq_length = 5
    for model in (router, saved):
        assert (model.max_seq_length, model.get_embedding_dimension()) == (5, 7)
        found = model.encode_query(TEXTS, on_truncate="ignore")
        np.testing.assert_array_equal(found, query.encode(TEXTS, prompt="the ", truncate_dim=7, on_truncate="ignore"))
        found = model.encode_document(TEXTS, on_truncate="ignore")
        np.testing.assert_array_equal(found, document.encode(TEXTS, prompt="a ", truncate_dim=7, on_truncate="ignore"))
        with pytest.raises(InputError, match="max_seq_length 5"):
            model.encode_query(TEXTS, on_truncate="error")


def test_warm_up_compiles_every_route():
    router = SentenceEncoder.load(ROUTER)
    router.routes["document"].shapes = router.routes["query"].shapes = ShapeTable(lengths=(16,), single_lengths=(16,))
    log = router.warm_up(max_tokens=16)
    assert [(line.rows, line.length) for line in log] == [(1, 16), (32, 16), (8, 64)] * 2
    router.encode_query(TEXTS)
    router.encode_document(TEXTS)
    assert router.compilations == log


def test_a_router_in_words():
    lines = repr(SentenceEncoder.load(ROUTER)).splitlines()
    assert lines[:3] == [
        "SentenceEncoder(Router, by default document:",
        "  query: SentenceEncoder(",
        "    (0): StaticEmbedding({'embedding_dimension': 24})",
    ]
    assert "    (1): WeightedLayerPooling({'layer_start': 1, 'num_hidden_layers': 3})" in lines
