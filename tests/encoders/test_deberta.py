"""encoders/deberta.py: distances and their buckets, forms of config.json, other settings. The rest is in test_families.py."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from minisbert.encoders import FAMILIES
from minisbert.reference.deberta import distance_row
from minisbert.transformer.positions import distance_rows

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import TWINS, random_encoder, tiny

SETTINGS = json.loads((tiny("deberta-v2") / "config.json").read_text())


def config(**values):
    return FAMILIES["deberta-v2"].Config.from_json({**SETTINGS, **values})


def test_the_forms_of_config_json():
    """As in deberta-v3-base: terms with | between; a list is the same, and so is the longest text as the largest distance."""
    assert config(pos_att_type=["c2p", "p2c"], max_relative_positions=64) == config()
    assert config().pos_att_type == ("c2p", "p2c")
    assert (config().span, config(position_buckets=-1).span) == (12, 64)
    assert config(pos_att_type=None).pos_att_type == ()


@pytest.mark.parametrize(("span", "buckets", "farthest"), [(256, 256, 512), (12, 12, 64), (4, 4, 40), (20, 0, 20)])
def test_rows_of_distances(span, buckets, farthest):
    """In float32 as trained, and by the twin in whole numbers; each distance and its opposite are as far from the middle."""
    rows_QK = distance_rows(600, span, buckets, farthest)
    expected = [distance_row(distance, span, buckets, farthest) for distance in range(600)]
    assert rows_QK[:, 0].tolist() == expected
    first, inside = rows_QK[0], expected < np.array(2 * span - 1)
    np.testing.assert_array_equal(2 * span - first[inside], np.array(expected)[inside])
    assert (rows_QK[0, 0], rows_QK.min(), rows_QK.max()) == (span, rows_QK[0, -1], 2 * span - 1)


@pytest.mark.parametrize(
    "values",
    [
        {"share_att_key": False, "position_biased_input": True, "type_vocab_size": 2},
        {"pos_att_type": "c2p", "norm_rel_ebd": "none", "embedding_size": 10},
        {"pos_att_type": "p2c", "position_buckets": -1, "max_relative_positions": 5},
        {"pos_att_type": []},
    ],
    ids=str,
)
def test_other_settings_are_the_twins(values):
    chosen = config(**values)
    model, params = random_encoder(FAMILIES["deberta-v2"], chosen)
    random = np.random.default_rng(0)
    token_ids_BL, segment_ids_BL = random.integers(5, 60, (2, 20)), random.integers(0, 2, (2, 20))
    mask_BL = np.arange(20) < np.array([20, 13])[:, None]
    for parts in ((token_ids_BL, mask_BL), (token_ids_BL, mask_BL, segment_ids_BL)):
        expected = TWINS["deberta-v2"](params, chosen, *parts)
        np.testing.assert_allclose(model(*parts)[mask_BL], expected[mask_BL], rtol=0, atol=2e-6)


def test_dropout_follows_each_sentences_key_alone():
    chosen = config(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    model, _ = random_encoder(FAMILIES["deberta-v2"], chosen)
    token_ids_BL = np.random.default_rng(0).integers(5, 60, (3, 4))
    mask_BL = np.arange(4) < np.array([4, 1, 3])[:, None]
    keys_BL, others_BL = (jax.random.split(jax.random.key(seed), token_ids_BL.shape) for seed in (0, 1))
    found = model(token_ids_BL, mask_BL, None, keys_BL)
    backwards = model(token_ids_BL[::-1], mask_BL[::-1], None, keys_BL[::-1])[::-1]
    np.testing.assert_allclose(backwards[mask_BL], found[mask_BL], rtol=0, atol=5e-6)
    for other in (model(token_ids_BL, mask_BL), model(token_ids_BL, mask_BL, None, others_BL)):
        assert np.abs(found - other)[mask_BL].max() > 0.1
