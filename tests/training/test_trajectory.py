"""Fifty training steps give the recorded losses of sentence-transformers; tests/parity runs it on a real model."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "goldens"))
from trajectory import GOLDEN, PROSE, RUNS, digest, ours

TINY_BERT = Path(__file__).parents[2] / "weights" / "tiny-bert"
# Two libraries' rounding, fed back fifty times; see the figures in the parity test.
RELATIVE = 1e-4


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", RUNS)
def test_fifty_steps_have_the_losses_of_sentence_transformers(name):
    golden = json.loads(GOLDEN.read_text())
    assert golden["texts"] == digest(PROSE), "tests/varied_sentences.py has changed: run tests/goldens/trajectory.py"
    losses, _ = ours(TINY_BERT, RUNS[name], golden["rate"])
    np.testing.assert_allclose(losses, golden["losses"][name], rtol=RELATIVE)
    assert np.ptp(losses) > 0.01
