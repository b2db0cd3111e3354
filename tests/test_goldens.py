"""minisbert against frozen numbers of sentence-transformers: token ids identical, embeddings within 2e-6.

The numbers and their recipe are in tests/goldens. This keeps the comparison in runs without sentence-transformers; the
comparison itself, on all sentences, is in tests/parity.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from minisbert import SentenceEncoder
from minisbert.download.locate import locate
from minisbert.errors import DownloadError
from minisbert.inference.batching import ShapeTable

sys.path.insert(0, str(Path(__file__).parent / "goldens"))
from cross_encoder_cases import FAMILIES, PAIRS, tiny
from make_goldens import HERE, MODELS, ROUTES, WEIGHTS, texts
from varied_sentences import digest

pytestmark = pytest.mark.usefixtures("optimized")

TOLERANCE = 2e-6
# Batches in all their shapes are computed with the first two families; one shape, compiled once, tells the others.
ONE_SHAPE = {name for name in MODELS if name.startswith("tiny") and name not in ("tiny-bert", "tiny-mpnet")}
PARAMS = [pytest.param(name, marks=[] if name.startswith("tiny") else pytest.mark.real) for name in MODELS]


def folder(name: str) -> Path:
    if name.startswith("tiny"):
        return WEIGHTS / ROUTES.get(name, (name, None))[0]
    try:
        return locate(name, offline=True)
    except DownloadError:
        pytest.skip(f"{name} is not in the cache: minisbert download {name}")


@pytest.mark.parametrize("name", PARAMS)
def test_frozen_numbers(name):
    count, dimensions = MODELS[name]
    sentences = texts(count)
    golden = np.load(HERE / f"{name}.npz")
    assert str(golden["texts"]) == digest(sentences), (
        "tests/varied_sentences.py has changed: run tests/goldens/make_goldens.py"
    )
    encoder = SentenceEncoder.load(folder(name)).route(ROUTES.get(name, (name, None))[1])
    if name in ONE_SHAPE:
        encoder.shapes = ShapeTable(lengths=(64,), single_lengths=(64,))

    tokens = encoder.tokenizer.tokenize(sentences, max_length=encoder.max_seq_length)
    expected = np.split(golden["token_ids"], np.cumsum(golden["lengths"])[:-1])
    for text, ours, theirs in zip(sentences, tokens.ids, expected, strict=True):
        assert ours == theirs.tolist(), repr(text)[:100]

    embeddings = encoder.encode(sentences, on_truncate="ignore")[:, :dimensions]
    differences = np.abs(embeddings - golden["embeddings"]).max(axis=1)
    worst = int(differences.argmax())
    assert differences.max() <= TOLERANCE, f"{differences.max():.2e} at {sentences[worst]!r:.100}"


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_numbers_of_pairs(family):
    golden = np.load(HERE / f"pairs-tiny-{family}.npz")
    assert str(golden["texts"]) == digest([text for pair in PAIRS for text in pair]), (
        "tests/cross_encoder_cases.py has changed: run tests/goldens/make_goldens.py"
    )
    model = tiny(family, 3)
    tokens = model.tokenize(PAIRS)
    expected = np.split(golden["token_ids"], np.cumsum(golden["lengths"])[:-1])
    for pair, ours, theirs in zip(PAIRS, tokens.ids, expected, strict=True):
        assert ours == theirs.tolist(), repr(pair)[:100]
    if family == "bert":  # MPNet has no segments
        assert tokens.first_lengths == golden["first_lengths"].tolist()
    logits = model.predict(PAIRS, activation_fn="identity", on_truncate="ignore")
    assert np.abs(logits - golden["logits"]).max() <= TOLERANCE
    assert len(np.unique(golden["logits"].round(3), axis=0)) >= len(PAIRS) - 1  # cut, two are one


def test_frozen_numbers_are_small_and_tell_texts_apart():
    assert max(file.stat().st_size for file in HERE.glob("*.npz")) < 8_000
    for name in MODELS:
        embeddings = np.load(HERE / f"{name}.npz")["embeddings"]
        assert np.isfinite(embeddings).all()
        assert len(np.unique(embeddings.round(4), axis=0)) > 0.8 * len(embeddings)
