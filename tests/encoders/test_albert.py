"""encoders/albert.py: what ALBERT does otherwise than BERT. The rest is in test_families.py."""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from minisbert.encoders import albert, bert
from minisbert.pretrained import load_pretrained

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import TWINS, compiled, random_encoder, tiny

SETTINGS = json.loads((tiny("albert") / "config.json").read_text())
TOKENS_BL = np.random.default_rng(0).integers(5, 60, (2, 9))
MASK_BL = np.ones_like(TOKENS_BL, bool)


def test_it_is_bert_where_the_embeddings_are_wide_and_all_layers_the_same():
    """ALBERT with an identity for its projection is BERT with the one block's weights in every layer."""
    config = albert.Config.from_json({**SETTINGS, "embedding_size": SETTINGS["hidden_size"]})
    _, params = random_encoder(albert, config)
    width = config.hidden_size
    identity = {"kernel": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}
    ours = compiled(albert, config, params | {"embedding_projection": identity})
    blocks = dict.fromkeys(range(config.num_hidden_layers), params["blocks"][0])
    rest = {name: part for name, part in params.items() if name != "embedding_projection"}
    theirs = compiled(bert, bert.Config.from_json(SETTINGS), rest | {"blocks": blocks})
    np.testing.assert_allclose(ours(TOKENS_BL, MASK_BL), theirs(TOKENS_BL, MASK_BL), rtol=0, atol=2e-6)


def test_the_number_of_layers_is_no_number_of_weights():
    """One layer or seven: the same tensors, another result."""
    params = jax.tree.map(np.asarray, load_pretrained(tiny("albert")).params["encoder"])
    found = []
    for layers in (1, 7):
        config = albert.Config.from_json({**SETTINGS, "num_hidden_layers": layers})
        found.append(compiled(albert, config, params)(TOKENS_BL, MASK_BL))
        np.testing.assert_allclose(found[-1], TWINS["albert"](params, config, TOKENS_BL, MASK_BL), rtol=0, atol=5e-6)
    assert np.abs(found[0] - found[1]).max() > 0.1
