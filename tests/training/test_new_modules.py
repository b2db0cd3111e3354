"""Modules added to a model and layers taken from it: the result, its folder, and sentence-transformers' reading of it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from minisbert import SentenceEncoder
from minisbert.errors import InputError
from minisbert.training.new_modules import add_dense, add_normalize, keep_layers

WEIGHTS = Path(__file__).parents[2] / "weights"
TEXTS = ["a cat eats", "the red dog runs", "a man"]


def checked(model, folder):
    """Its embeddings, after a check that the saved folder gives the same, here and in sentence-transformers."""
    found = model.encode(TEXTS)
    model.save(folder)
    np.testing.assert_allclose(SentenceEncoder(folder).encode(TEXTS), found, atol=1e-6)
    if importlib.util.find_spec("sentence_transformers"):
        library = importlib.import_module("sentence_transformers").SentenceTransformer(str(folder), device="cpu")
        np.testing.assert_allclose(library.encode(TEXTS), found, atol=1e-5)  # of size 7
    return found


def test_a_dense_from_a_matrix_and_a_normalize(tmp_path):
    encoder = SentenceEncoder(WEIGHTS / "tiny-bert")
    weights_ED = np.random.default_rng(0).normal(size=(8, 32))
    expected = encoder.encode(TEXTS) @ weights_ED.T
    smaller = add_dense(encoder, weights_ED, bias=False, activation="identity")
    np.testing.assert_allclose(checked(smaller, tmp_path / "dense"), expected, atol=1e-5)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(checked(add_normalize(smaller), tmp_path / "both"), expected, atol=1e-5)
    assert encoder.encode("a cat").shape == (32,), "the given model does not change"


def test_a_dense_with_random_weights_follows_the_modules_of_the_model(tmp_path):
    encoder = SentenceEncoder(WEIGHTS / "tiny-layers")
    found = checked(add_dense(encoder, 5, seed=1), tmp_path / "dense")
    assert found.shape == (3, 5) and (np.abs(found) < 1).all()
    assert (add_dense(encoder, 5, seed=1).encode(TEXTS) == found).all()
    assert (add_dense(encoder, 5, seed=2).encode(TEXTS) != found).any()


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-mpnet", "tiny-distilbert", "tiny-roberta"])
def test_layers_that_stay_give_their_hidden_states(tmp_path, name):
    encoder = SentenceEncoder(WEIGHTS / name)
    encoder.prompts = {"query": "a "}
    shorter = keep_layers(encoder, [0])
    checked(shorter, tmp_path / "model")
    assert shorter.prompts["query"] == "a " and len(shorter.params["encoder"]["blocks"]) == 1
    for all_layers, first in zip(
        *(model.encode(TEXTS, output_value="hidden_states") for model in (encoder, shorter)), strict=True
    ):
        np.testing.assert_allclose(first, all_layers[:2], atol=1e-6)
    last = keep_layers(encoder, [len(encoder.params["encoder"]["blocks"]) - 1])
    assert np.abs(last.encode(TEXTS) - shorter.encode(TEXTS)).max() > 1e-4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda model: add_dense(model, np.eye(31)),
            r"Expected the number of output features, or finite weights \[out_features, 32\]",
        ),
        (lambda model: add_dense(model, np.full((2, 32), np.nan)), "finite weights"),
        (lambda model: add_dense(model, 0), "weights is 0"),
        (lambda model: add_dense(model, 4, activation="softmax"), "Expected one of .identity"),
        (lambda model: keep_layers(model, [1, 0]), "Expected numbers from 0 to 1, in rising order"),
        (lambda model: keep_layers(model, []), "Expected numbers"),
        (lambda model: keep_layers(model, [True]), "Expected numbers"),
        (lambda model: keep_layers("weights/tiny-bert", [0]), "encoder is 'weights/tiny-bert'. Expected a SentenceEnc"),
        (lambda model: add_dense(model, True), "weights is True"),
        (lambda model: add_normalize(SentenceEncoder(WEIGHTS / "tiny-bert", engine="numpy")), "Expected engine='jax'"),
        (lambda model: keep_layers(model, [2]), "Expected numbers"),
        (lambda model: keep_layers(SentenceEncoder(WEIGHTS / "tiny-albert"), [0]), "of the family albert. Expected"),
        (lambda model: keep_layers(SentenceEncoder(WEIGHTS / "tiny-layers"), [0]), "which averages its layers"),
        (lambda model: add_normalize(SentenceEncoder(WEIGHTS / "tiny-router")), "Router"),
    ],
)
def test_what_cannot_be_changed_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        change(SentenceEncoder(WEIGHTS / "tiny-bert"))
