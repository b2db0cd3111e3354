"""encoders/deberta.py: distances and their buckets, forms of config.json, other settings. The rest is in test_families.py."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from minisbert.encoders import FAMILIES
from minisbert.reference.deberta import distance_row
from minisbert.transformer.positions import distance_row as row_of_distance

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import tiny

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
    distance = np.arange(600)
    ahead, back = (row_of_distance(sign * distance, span, buckets, farthest) for sign in (1, -1))
    assert ahead.tolist() == [distance_row(d, span, buckets, farthest) for d in range(600)]
    inside = ahead < 2 * span - 1
    np.testing.assert_array_equal(2 * span - back[inside], ahead[inside])
    assert (ahead[0], ahead[-1], back[0], back[-1]) == (span, 2 * span - 1, span, back.min())
