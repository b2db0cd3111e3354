"""Fifty training steps of a real model against sentence-transformers: each loss, and the weights at the end."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from minisbert.download.locate import locate
from minisbert.errors import DownloadError
from minisbert.pretrained import load_pretrained

pytest.importorskip("sentence_transformers")
sys.path.insert(0, str(Path(__file__).parents[1] / "goldens"))
from trajectory import RUNS, ours, theirs

pytestmark = pytest.mark.parity

RELATIVE_LOSS, WEIGHTS = 1e-4, 1e-4


@pytest.mark.parametrize("name", RUNS)
def test_fifty_steps_from_a_real_model(name, tmp_path, record_property):
    try:
        folder = locate("all-MiniLM-L6-v2", offline=True)
    except DownloadError:
        pytest.skip("all-MiniLM-L6-v2 is not in the cache: minisbert download all-MiniLM-L6-v2")
    expected = theirs(folder, RUNS[name], 2e-5, save=tmp_path / "theirs")
    losses, params = ours(folder, RUNS[name], 2e-5)
    worst = np.max(np.abs(np.divide(losses, expected) - 1))
    their_params = load_pretrained(tmp_path / "theirs").params
    moved = load_pretrained(folder).params
    difference = max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, their_params)))
    movement = max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, moved)))
    print(f"{name}: losses differ by {worst:.1e} relative, weights by {difference:.1e} (they moved by {movement:.1e})")
    assert worst <= RELATIVE_LOSS
    assert difference <= WEIGHTS
    assert movement > 1e-4
