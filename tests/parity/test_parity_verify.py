"""The numbers that `minisbert verify` compares with, made again by sentence-transformers."""

import sys
from pathlib import Path

import numpy as np
import pytest

from minisbert.commands.verify import GOLDENS
from minisbert.download.locate import locate
from minisbert.errors import DownloadError

sys.path.insert(0, str(Path(__file__).parents[1] / "goldens"))
from article import DIMENSIONS, reference_embeddings

WHY = "the parity extra is not installed: pip install torch (a CPU build will do), then pip install -e .[parity]"
pytest.importorskip("sentence_transformers", reason=WHY)

pytestmark = pytest.mark.parity
# sentence-transformers on another machine rounds differently; eight decimals are printed.
TOLERANCE = 1e-6


@pytest.mark.parametrize("name", GOLDENS)
def test_sentence_transformers_gives_them_again(name):
    try:
        locate(name, offline=True)
    except DownloadError:
        pytest.skip(f"{name} is not in the cache: minisbert download {name}")
    embeddings = reference_embeddings(name)
    np.testing.assert_allclose(embeddings[:, :DIMENSIONS], GOLDENS[name]["embeddings"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), GOLDENS[name]["norms"], rtol=TOLERANCE)
