"""The static encoder: its NumPy twin, texts without tokens, and training on the same loop as every other."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from minisbert import SentenceEncoder
from minisbert.checkpoint.modules import Pooling
from minisbert.errors import InputError
from minisbert.pretrained import load_pretrained
from minisbert.reference.pooling import mean
from minisbert.reference.similarity import normalize
from minisbert.reference.static import static
from minisbert.search.fingerprint import fingerprint
from minisbert.sentence_model import define
from minisbert.text.packing import pack
from minisbert.training.config import TrainConfig
from minisbert.training.trainer import train

WEIGHTS = Path(__file__).parents[2] / "weights"
STATIC, ROUTER = WEIGHTS / "tiny-static", WEIGHTS / "tiny-router"
# float32, on embeddings of length 1; 1e-7 is measured.
FLOAT32 = 2e-6
TEXTS = ["a cat", "", "the man plays guitar on the street", "\u200b", "sea " * 700, "xyz é 中"]


def twin(texts: list[str]) -> np.ndarray:
    """The embeddings in float64, from tokens without special ones."""
    pretrained = load_pretrained(STATIC)
    ids = [pretrained.tokenizer.backend.encode(text, add_special_tokens=False).ids for text in texts]
    L = max(map(len, ids))
    token_ids_BL = np.array([row + [0] * (L - len(row)) for row in ids])
    mask_BL = np.arange(L) < np.array([len(row) for row in ids])[:, None]
    params = jax.tree.map(np.asarray, pretrained.params["encoder"])
    return normalize(mean(static(params, pretrained.model_config.encoder, token_ids_BL, mask_BL), mask_BL))


def test_encode_is_the_twins():
    encoder = SentenceEncoder.load(STATIC)
    found_BD = encoder.encode(TEXTS)
    np.testing.assert_allclose(found_BD, twin(TEXTS), rtol=0, atol=FLOAT32)
    assert (found_BD[[1, 3]] == 0).all(), "a text without tokens is the zero vector"
    assert encoder.token_counts("a cat")[0].tokens == 2, "no special tokens"
    assert encoder.token_counts("sea " * 700)[0].dropped == 0, "no limit"
    there, back = encoder.encode(["a man eats a dog", "dog a eats man a"])
    np.testing.assert_allclose(there, back, rtol=0, atol=FLOAT32)


def test_a_prompt_counts_as_text():
    encoder = SentenceEncoder.load(STATIC)
    np.testing.assert_allclose(encoder.encode("cat", prompt="the "), twin(["the cat"])[0], rtol=0, atol=FLOAT32)


def test_packed_texts_are_as_they_are_alone_the_empty_ones_too():
    """Training packs texts; one without tokens is zero there too, and so is its slope."""
    pretrained = load_pretrained(STATIC)
    ids = pretrained.tokenizer.tokenize(TEXTS, max_length=1000).ids
    rows, where = pack(ids, padding_id=0)
    for modules in (pretrained.model_config.modules, (Pooling(),)):
        model_config = replace(pretrained.model_config, modules=modules)
        definition, _ = define(model_config)

        def embed(params, definition=definition, width=model_config.dimension):
            return nnx.merge(definition, params).packed(rows).reshape(-1, width)[where]

        expected_BD = twin(TEXTS)
        if modules == pretrained.model_config.modules:
            np.testing.assert_allclose(jax.jit(embed)(pretrained.params), expected_BD, rtol=0, atol=FLOAT32)
        slopes = jax.jit(jax.grad(lambda params, embed=embed: embed(params)[np.array([1, 3])].sum()))(pretrained.params)
        assert all((np.asarray(slope) == 0).all() for slope in jax.tree.leaves(slopes))
        slopes = jax.jit(jax.grad(lambda params, embed=embed: embed(params).sum()))(pretrained.params)
        assert all(np.isfinite(slope).all() for slope in jax.tree.leaves(slopes))


@pytest.fixture
def pairs(tmp_path) -> str:
    words = "man woman child dog cat water red blue green walk run eat play sing music guitar".split()
    random = np.random.default_rng(0)
    rows = [f"the {word} {random.choice(words)}\ta {word}" for word in words]
    file = tmp_path / "pairs.tsv"
    file.write_text("anchor\tpositive\n" + "".join(row + "\n" for row in rows))
    return str(file)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_it_trains_on_the_loop_of_every_encoder(pairs, tmp_path):
    config = TrainConfig(data=(pairs,), batch_size=8, learning_rate=3e-2, epochs=6)
    given = SentenceEncoder.load(STATIC)
    trained = train(given, config, tmp_path / "run", show_progress=False)
    steps = losses(tmp_path / "run")
    assert np.mean(steps[-4:]) < 0.7 * np.mean(steps[:4])
    loaded = SentenceEncoder.load(tmp_path / "run" / "final")
    np.testing.assert_array_equal(loaded.encode(TEXTS), trained.encode(TEXTS))
    assert fingerprint(loaded) == fingerprint(trained) != fingerprint(given)


def test_a_route_is_trained_by_itself_and_put_back(pairs, tmp_path):
    config = TrainConfig(data=(pairs,), batch_size=8, learning_rate=1e-2, max_steps=2)
    router = SentenceEncoder.load(ROUTER)
    before, query = fingerprint(router), router.encode_query(TEXTS[:3])
    with pytest.raises(InputError, match=r"routes query, document.*one route by itself"):
        train(router, config, tmp_path / "refused", show_progress=False)
    assert not (tmp_path / "refused").exists()
    router.routes["query"] = train(router.routes["query"], config, tmp_path / "run", show_progress=False)
    assert np.abs(router.encode_query(TEXTS[:3]) - query).max() > 1e-3
    assert fingerprint(router) != before
    router.save(tmp_path / "saved")
    saved = SentenceEncoder.load(tmp_path / "saved")
    np.testing.assert_array_equal(saved.encode_query(TEXTS), router.encode_query(TEXTS))
    np.testing.assert_array_equal(saved.encode_document(TEXTS), SentenceEncoder.load(ROUTER).encode_document(TEXTS))
    assert fingerprint(saved) == fingerprint(router)
