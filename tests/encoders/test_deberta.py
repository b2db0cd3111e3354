"""encoders/deberta.py: distances and their buckets, forms of config.json, other settings. The rest is in test_families.py."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from minisbert.encoders import FAMILIES
from minisbert.reference.deberta import distance_row
from minisbert.transformer.positions import distance_rows

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
    rows_QK = distance_rows(600, span, buckets, farthest)
    expected = [distance_row(distance, span, buckets, farthest) for distance in range(600)]
    assert rows_QK[:, 0].tolist() == expected
    first, inside = rows_QK[0], expected < np.array(2 * span - 1)
    np.testing.assert_array_equal(2 * span - first[inside], np.array(expected)[inside])
    assert (rows_QK[0, 0], rows_QK.min(), rows_QK.max()) == (span, rows_QK[0, -1], 2 * span - 1)
