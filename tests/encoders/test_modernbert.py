"""encoders/modernbert.py: what ModernBERT does otherwise than BERT. The rest is in test_families.py."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from minisbert.encoders import modernbert
from minisbert.encoders.modernbert import FULL, LOCAL

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import TWINS, random_encoder, tiny

SETTINGS = json.loads((tiny("modernbert") / "config.json").read_text())


def config(**values):
    return modernbert.Config.from_json({**SETTINGS, **values})


def without(*keys):
    return {key: value for key, value in SETTINGS.items() if key not in keys}


def test_both_forms_of_config_json_say_the_same():
    """Up to transformers 4: every n-th layer and two thetas. From 5: a list of layers, an object of parameters."""
    newer = without("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta") | {
        "layer_types": [FULL, LOCAL, FULL],
        "rope_parameters": {
            FULL: {"rope_type": "default", "rope_theta": 160_000.0},
            LOCAL: {"rope_type": "default", "rope_theta": 10_000.0},
        },
    }
    assert modernbert.Config.from_json(newer) == config()
    assert config().layer_types == (FULL, LOCAL, FULL)


def test_the_defaults_are_the_peers():
    needed = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    plain = modernbert.Config.from_json({key: SETTINGS[key] for key in (*needed, "max_position_embeddings")})
    assert plain.layer_types == (FULL, LOCAL, LOCAL)
    assert (plain.global_rope_theta, plain.local_rope_theta, plain.local_attention) == (160_000, 10_000, 128)
    assert (plain.hidden_activation, plain.norm_eps) == ("gelu", 1e-5)


@pytest.mark.parametrize(
    "values",
    [
        {"global_attn_every_n_layers": 1},
        {"global_attn_every_n_layers": 3, "local_attention": 5},
        {"layer_types": [LOCAL, FULL, LOCAL], "local_attention": 0},
        {"rope_parameters": {FULL: {"rope_theta": 10}, LOCAL: None}, "local_rope_theta": 500.0},
    ],
    ids=str,
)
def test_other_windows_kinds_and_angles_are_the_twins(values):
    chosen = config(**values)
    model, params = random_encoder(modernbert, chosen)
    token_ids_BL = np.random.default_rng(0).integers(5, chosen.vocab_size, (2, 20))
    mask_BL = np.arange(20) < np.array([20, 13])[:, None]
    found = model(token_ids_BL, mask_BL)
    expected = TWINS["modernbert"](params, chosen, token_ids_BL, mask_BL)
    np.testing.assert_allclose(found[mask_BL], expected[mask_BL], rtol=0, atol=2e-6)
    plain = TWINS["modernbert"](params, config(), token_ids_BL, mask_BL)
    assert np.abs(expected - plain)[mask_BL].max() > 1e-3


def test_only_the_first_layer_has_no_norm_before_its_attention():
    _, params = random_encoder(modernbert, config())
    assert [("attention_norm" in block) for block in params["blocks"].values()] == [False, True, True]
    assert all("bias" not in name for name in str(params).split("'")), "no biases anywhere"


def test_dropout_follows_each_sentences_key_alone():
    """In training: another key, another result; the same key, the same, whatever other sentences are in the batch."""
    chosen = config(num_hidden_layers=2, embedding_dropout=0.2, attention_dropout=0.2, mlp_dropout=0.2)
    model, _ = random_encoder(modernbert, chosen)
    token_ids_BL = np.random.default_rng(0).integers(5, chosen.vocab_size, (3, 4))
    mask_BL = np.arange(4) < np.array([4, 1, 3])[:, None]
    dropout_keys_BL, others_BL = (jax.random.split(jax.random.key(seed), token_ids_BL.shape) for seed in (0, 1))
    found = model(token_ids_BL, mask_BL, None, dropout_keys_BL)
    backwards = model(token_ids_BL[::-1], mask_BL[::-1], None, dropout_keys_BL[::-1])[::-1]
    np.testing.assert_allclose(backwards[mask_BL], found[mask_BL], rtol=0, atol=5e-6)
    for other in (model(token_ids_BL, mask_BL), model(token_ids_BL, mask_BL, None, others_BL)):
        assert np.abs(found - other)[mask_BL].max() > 0.1
