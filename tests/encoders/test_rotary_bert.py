"""encoders/rotary_bert.py: the forms of config.json, and what its three layouts compute differently; see test_families.py."""

import sys
from pathlib import Path

import numpy as np
import pytest

from minisbert import limits
from minisbert.encoders import FAMILIES
from minisbert.errors import ModelFolderError
from minisbert.transformer.positions import rotary_angles

sys.path.insert(0, str(Path(__file__).parents[1]))

SIZES = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
# GPT-2's names, as in nomic's files.
OLD = {"vocab_size": 60, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_inner": 40, "activation_function": "swiglu"}
OLD |= {"model_type": "nomic_bert", "rotary_emb_fraction": 1.0, "layer_norm_epsilon": 1e-12, "n_positions": 64}
OLD |= {"resid_pdrop": 0.0, "attn_pdrop": 0.2, "prenorm": False, "qkv_proj_bias": False, "rotary_emb_scale_base": None}
CODE = {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"}


def config(model_type, **values):
    values = {**SIZES, "max_position_embeddings": 64, "model_type": model_type} | values
    return FAMILIES[model_type].Config.from_json(values)


def test_nomics_older_names_are_the_newer_ones():
    nomic = FAMILIES["nomic_bert"].Config
    newer = config("nomic_bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.2)
    assert nomic.from_json(OLD | {"auto_map": CODE}) == newer
    assert nomic.from_json(OLD | SIZES | {"max_position_embeddings": 48, "hidden_act": "silu"}) == newer
    assert nomic.from_json(OLD | {"n_inner": None}).intermediate_size == 4 * 24
    assert nomic.from_json(OLD | {"activation_function": "geglu"}).hidden_act == "gelu"
    for wrong, key in (
        ({"n_embd": 32, "hidden_size": 24}, "n_embd"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"n_head": "3"}, "n_head"),
        ({"n_layer": None}, "n_layer"),
        ({"layer_norm_epsilon": -1.0}, "layer_norm_epsilon"),
    ):
        with pytest.raises(ModelFolderError, match=f"'{key}' is "):
            nomic.from_json(OLD | wrong)


@pytest.mark.parametrize(
    ("model_type", "values", "theta", "factor", "longest"),
    [
        # As published with nomic-embed-text-v1.5 and v1, gte-base-en-v1.5, gte-multilingual-base, arctic-embed-m-v2.0.
        ("nomic_bert", {"n_positions": 8192, "rotary_emb_base": 1000, "auto_map": CODE}, 1000.0, 1.0, 8192),
        (
            "nomic_bert",
            {"n_positions": 8192, "rotary_scaling_factor": 2, "max_trained_positions": 2048},
            1000.0,
            1.0,
            2048,
        ),
        ("new", {"rope_theta": 500_000, "rope_scaling": {"type": "ntk", "factor": 2.0}}, 1e6, 2**0.25, 64),
        ("new", {"rope_theta": 20_000, "rope_scaling": {"type": "ntk", "factor": 8.0}}, 160_000.0, 8**0.25, 64),
        ("gte", {"rope_theta": 160_000, "position_embedding_type": "rope"}, 160_000.0, 1.0, 64),
        ("gte", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 9.0}}, 9.0, 3.0, 64),
        ("jina_embeddings_v3", {}, 20_000.0, 1.0, 64),
    ],
    ids=str,
)
def test_base_angles_and_lengths(model_type, values, theta, factor, longest):
    found = config(model_type, **values)
    assert (found.rope_theta, found.rope_factor, found.max_position_embeddings) == (theta, factor, longest)
    assert found.max_positions == (longest if longest == 2048 else limits.TOKENS)  # longer texts would be stretched


def test_gtes_remote_code_is_known_and_no_other():
    known = {"AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig", "AutoModel": "x--modeling.NewModel"}
    config("new", auto_map=known)
    for other in ({"AutoModel": "x--modeling.Evil"}, known | {"AutoModel": "y--modeling_new.py"}):
        with pytest.raises(ModelFolderError, match="auto_map"):
            config("new", auto_map=other)


def test_stretched_angles():
    """ "ntk": the base is multiplied, and every angle divided by f^(2 / width) (the first to the last pair, here of 4)."""
    chosen = config("new", rope_theta=100, rope_scaling={"type": "ntk", "factor": 4.0})
    cosine_LH, sine_LH = rotary_angles(5, 8, chosen.rope_theta, np.float64, chosen.rope_factor)
    frequency_H = np.array([400.0 ** (-i / 4) / 4 ** (1 / 4) for i in range(4)])
    np.testing.assert_allclose(cosine_LH, np.cos(np.arange(5)[:, None] * frequency_H), rtol=0, atol=1e-14)
    np.testing.assert_allclose(sine_LH, np.sin(np.arange(5)[:, None] * frequency_H), rtol=0, atol=1e-14)
