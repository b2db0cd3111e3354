"""evaluation/softmax_classifier.py: what the softmax loss has trained predicts afterwards, from final/ and from best/."""

from pathlib import Path

import numpy as np
import pytest

from minisbert import SentenceEncoder
from minisbert.checkpoint.tensors import write_tensors
from minisbert.errors import InputError, ModelFolderError
from minisbert.evaluation.softmax_classifier import SoftmaxClassifier
from minisbert.training.config import TrainConfig
from minisbert.training.softmax_head import HEAD_FILE, read_head
from minisbert.training.trainer import train

TINY_BERT = Path(__file__).parents[2] / "weights" / "tiny-bert"
NOUNS = ("cat", "dog", "house", "river", "tree", "stone", "book", "train")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two texts are the same, or not: learnt in a few steps."""
    folder = tmp_path_factory.mktemp("run")
    rows = ["sentence1\tsentence2\tlabel"]
    for i, noun in enumerate(NOUNS):
        for j, other in enumerate(NOUNS):
            rows += [f"the {noun}\tthe {other}\t{'same' if i == j else 'other'}"] * (7 if i == j else 1)
    (folder / "pairs.tsv").write_text("\n".join(rows) + "\n")
    config = TrainConfig(
        data=(str(folder / "pairs.tsv"),),
        loss="softmax",
        loss_options={"concatenation": "|u-v|"},
        epochs=4,
        learning_rate=3e-3,
        evaluate_every=10,
        dropout=False,
    )
    train(SentenceEncoder.load(TINY_BERT), config, folder / "run", score=lambda model: 1.0, show_progress=False)
    return folder / "run"


@pytest.mark.parametrize("name", ["final", "best"])
def test_the_head_predicts(run, name):
    classifier = SoftmaxClassifier.load(run / name)
    assert sorted(classifier.classes) == ["other", "same"] and classifier.head.concatenation == "|u-v|"
    pairs = [("the cat", "the cat"), ("the dog", "the stone"), ("the book", "the book")]
    found = classifier.predict(pairs)
    assert found.probabilities.shape == (3, 2)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)
    if name == "final":
        assert found.labels == ["same", "other", "same"]
        # The formula, in NumPy.
        u, v = classifier.encoder.encode([a for a, _ in pairs]), classifier.encoder.encode([b for _, b in pairs])
        logits = np.abs(u - v) @ classifier.head.kernel + classifier.head.bias
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    assert classifier.predict([]).labels == []
    assert classifier.predict(iter(pairs)).labels == found.labels


def test_no_head_a_wrong_head_and_no_pairs_are_refused(run, tmp_path):
    with pytest.raises(ModelFolderError, match=r"softmax_head.safetensors is missing"):
        SoftmaxClassifier.load(TINY_BERT)
    with pytest.raises(ModelFolderError, match=r"expected|Expected"):
        read_head(run / "final", 31)
    write_tensors(
        tmp_path / HEAD_FILE,
        {"kernel": np.full((32, 2), np.nan, np.float32), "bias": np.zeros(2, np.float32)},
        {"classes": '["a", "b"]', "concatenation": "|u-v|"},
    )
    with pytest.raises(ModelFolderError, match="finite"):
        read_head(tmp_path, 32)
    zeros = {"kernel": np.zeros((32, 2), np.float32), "bias": np.zeros(2, np.float32)}
    write_tensors(tmp_path / HEAD_FILE, zeros, {"classes": "[" * 100_000, "concatenation": "|u-v|"})
    with pytest.raises(ModelFolderError, match="two classes"):
        read_head(tmp_path, 32)
    with pytest.raises(InputError, match=r"pairs is \["):
        SoftmaxClassifier.load(run / "final").predict(["not a pair"])
    with pytest.raises(InputError, match="pairs is None"):
        SoftmaxClassifier.load(run / "final").predict(None)
