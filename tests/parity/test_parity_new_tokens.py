"""A model with new tokens, saved by minisbert and loaded by sentence-transformers: the same ids, embeddings within 2e-6."""

import sys
from pathlib import Path

import numpy as np
import pytest

from minisbert import SentenceEncoder
from minisbert.training.new_tokens import add_tokens

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import TWINS, tiny
from varied_sentences import SOME

WHY = "the parity extra is not installed: pip install torch (a CPU build will do), then pip install -e .[parity]"
pytest.importorskip("torch", reason=WHY)
peers = pytest.importorskip("sentence_transformers", reason=WHY)

pytestmark = pytest.mark.parity
TOLERANCE = 2e-6
TEXTS = ["The GUITARISTS of New York", "guitarists", "a covid-19, covid-19", "covid-19vaccine guitaristsx", *SOME[::8]]


# The others have BERT's vocabulary.
@pytest.mark.parametrize("family", [family for family in TWINS if family not in ("distilbert", "nomic_bert", "gte")])
def test_the_peer_reads_the_grown_model(family, tmp_path):
    grown = add_tokens(SentenceEncoder.load(tiny(family)), ["guitarists", "covid-19", "new york"])
    grown.save(tmp_path / "model")
    peer = peers.SentenceTransformer(str(tmp_path / "model"), device="cpu", local_files_only=True)
    theirs = [peer.preprocess([text])["input_ids"][0].tolist() for text in TEXTS]
    ours = grown.tokenizer.tokenize(TEXTS, max_length=grown.max_seq_length).ids
    assert ours == theirs
    new = set(range(grown.model_config.encoder.vocab_size - 3, grown.model_config.encoder.vocab_size))
    assert len(new & set(theirs[1])) >= 1
    embeddings = grown.encode(TEXTS, on_truncate="ignore")
    expected = np.stack([peer.encode(text) for text in TEXTS])
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=TOLERANCE)
