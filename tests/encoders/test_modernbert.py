"""encoders/modernbert.py: what ModernBERT does otherwise than BERT. The rest is in test_families.py."""

import json
import sys
from pathlib import Path

from minisbert.encoders import modernbert
from minisbert.encoders.modernbert import FULL, LOCAL

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import random_encoder, tiny

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


def test_only_the_first_layer_has_no_norm_before_its_attention():
    _, params = random_encoder(modernbert, config())
    assert [("attention_norm" in block) for block in params["blocks"].values()] == [False, True, True]
    assert all("bias" not in name for name in str(params).split("'")), "no biases anywhere"
