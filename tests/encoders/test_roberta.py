"""encoders/roberta.py: what RoBERTa does otherwise than BERT. The rest is in test_families.py."""

import json
import sys
from pathlib import Path

import numpy as np

from minisbert.encoders import FAMILIES, bert, roberta

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import TWINS, compiled, random_encoder, tiny

# Rounding of float32 on numbers up to 4; 1e-6 is measured.
FLOAT32 = 2e-6
SETTINGS = json.loads((tiny("roberta") / "config.json").read_text())


def test_xlm_r_and_camembert_are_the_same_encoder():
    assert FAMILIES["xlm-roberta"] is FAMILIES["camembert"] is FAMILIES["roberta"]
    assert FAMILIES["roberta"].Encoder is roberta.Encoder


def test_it_is_bert_with_positions_from_the_padding_token_on():
    """The same weights in BERT, its position table cut at the front, on tokens without padding: the same."""
    padding = 3  # not the usual 1
    values = {**SETTINGS, "pad_token_id": padding, "num_hidden_layers": 1}
    config = roberta.Config.from_json(values)
    assert config.max_positions == 66 - padding - 1
    ours, params = random_encoder(roberta, config)
    table = params["position_embedding"]["embedding"]
    shifted = {**params, "position_embedding": {"embedding": np.roll(table, -padding - 1, axis=0)}}
    theirs = compiled(bert, bert.Config.from_json(values), shifted)
    token_ids_BL = np.random.default_rng(0).integers(4, config.vocab_size, (2, config.max_positions))
    mask_BL = np.ones_like(token_ids_BL, bool)
    np.testing.assert_allclose(ours(token_ids_BL, mask_BL), theirs(token_ids_BL, mask_BL), rtol=0, atol=FLOAT32)


def test_a_padding_token_within_a_text_is_no_position():
    """A text may spell `<pad>`: that token has the padding row, and the tokens after it are counted on."""
    config = roberta.Config.from_json({**SETTINGS, "num_hidden_layers": 1})
    model, params = random_encoder(roberta, config)
    token_ids_BL = np.array([[0, 7, 1, 1, 9, 2]], np.int32)
    mask_BL = np.ones_like(token_ids_BL, bool)
    expected = TWINS["roberta"](params, config, token_ids_BL, mask_BL)
    np.testing.assert_allclose(model(token_ids_BL, mask_BL), expected, rtol=0, atol=FLOAT32)
