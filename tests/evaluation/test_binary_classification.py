"""Triplets and labelled pairs against brute force over every threshold, and scikit-learn where it is installed."""

import numpy as np
import pytest

from minisbert import DataError, InputError
from minisbert.evaluation.binary_classification import LabelledPairs, binary_scores, evaluate_binary, read_labelled
from minisbert.evaluation.triplets import Triplets, evaluate_triplets, read_triplets, triplet_accuracy
from minisbert.quantization import quantize_embeddings


def by_force(scores, labels):
    """Accuracy and F1 at every score as threshold, and above all of them."""
    best_accuracy = max(np.mean((scores >= t) == labels) for t in [*scores, np.inf])
    f1s = []
    for t in scores:
        taken = scores >= t
        tp = (taken & (labels == 1)).sum()
        f1s.append(2 * tp / (taken.sum() + labels.sum()))
    return best_accuracy, max(f1s)


@pytest.mark.parametrize("levels", [4, 25, 10**6])
@pytest.mark.parametrize("seed", range(4))
def test_best_thresholds_are_the_best(levels, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    scores = (np.round((labels + rng.normal(size=60)) * levels) / levels).astype(np.float32)
    found = binary_scores(scores, labels)
    accuracy, f1 = by_force(scores, labels)
    assert found.accuracy == pytest.approx(accuracy) and found.f1 == pytest.approx(f1)
    # The thresholds give what they promise.
    assert np.mean((scores >= np.float32(found.accuracy_threshold)) == labels) == pytest.approx(accuracy)
    taken = scores >= np.float32(found.f1_threshold)
    assert labels[taken].mean() == pytest.approx(found.precision)
    assert taken[labels == 1].mean() == pytest.approx(found.recall)
    assert found.matthews == pytest.approx(np.corrcoef(taken, labels)[0, 1] if taken.std() else 0)


def test_average_precision_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="pip install scikit-learn")
    rng = np.random.default_rng(0)
    for levels in (3, 1000):
        labels = rng.integers(0, 2, 200)
        scores = np.round((labels + rng.normal(size=200)) * levels) / levels
        found = binary_scores(scores, labels)
        assert found.average_precision == pytest.approx(metrics.average_precision_score(labels, scores))
        assert found.matthews == pytest.approx(metrics.matthews_corrcoef(labels, scores >= found.f1_threshold))


def test_scores_that_separate_nothing():
    same = binary_scores(np.zeros(4), np.array([1, 0, 0, 0]))
    assert (
        same.accuracy == 0.75 and same.accuracy_threshold > 0 and same.matthews == 0 and same.average_precision == 0.25
    )
    perfect = binary_scores(np.array([3.0, 2.0, 1.0, 0.0]), np.array([1, 1, 0, 0]))
    assert perfect == (1, 1.5, 1, 1, 1, 1.5, 1, 1)


@pytest.mark.parametrize(
    ("scores", "labels", "word"),
    [([1, 2], [1, 1], "labels of 0 and 1"), ([1, 2], [0, 1, 1], "as many"), ([1, np.nan], [0, 1], "not finite")],
)
def test_bad_scores_are_refused(scores, labels, word):
    with pytest.raises(InputError, match=word):
        binary_scores(np.array(scores, float), np.array(labels))


class Numbers:
    """Embeds "3 4" as [3, 4]."""

    def encode(self, texts, **options):
        assert len(set(texts)) == len(texts)
        return np.array([[float(part) for part in text.split()] for text in texts], np.float32)

    encode_query = encode_document = encode


def test_every_similarity_is_scored():
    triplets = Triplets("toy", ("1 0", "0 1"), ("9 9", "0 2"), ("0 1", "9 9"))
    assert evaluate_triplets(Numbers(), triplets) == {"cosine": 1.0, "dot": 0.5, "euclidean": 0.5, "manhattan": 0.5}
    pairs = LabelledPairs("toy", ("1 0", "0 1"), ("9 0", "1 1"), (1, 0))
    scores = evaluate_binary(Numbers(), pairs)
    assert scores["cosine"].accuracy == 1 and scores["euclidean"].accuracy == 0.5


def test_a_tie_is_wrong_and_a_margin_counts():
    a, near, far = np.array([[1.0, 0.0]]), np.array([[1.0, 0.1]]), np.array([[1.0, 0.5]])
    assert triplet_accuracy(a, near, near) == 0 and triplet_accuracy(a, near, far) == 1
    assert triplet_accuracy(a, near, far, margin=0.2) == 0
    for options in ({"similarity": "hamming"}, {"margin": np.nan}, {"margin": {"cosine": 0.1}}):
        with pytest.raises(InputError, match="Expected one of cosine"):
            triplet_accuracy(a, near, far, **options)
    with pytest.raises(InputError, match="not finite"):
        triplet_accuracy(a, np.array([[np.inf, 0.0]]), far, "dot")


class Quantized:
    """Embeddings of a texts' bits as `encode` would quantize them."""

    def __init__(self, rows_BD):
        self.rows_BD = rows_BD

    def encode(self, texts, precision="float32"):
        return quantize_embeddings(np.array([self.rows_BD[int(text)] for text in texts]), precision)

    encode_query = encode_document = encode


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_quantized_embeddings_are_compared_as_numbers(precision):
    rows_BD = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    first, second = (tuple(map(str, range(start, start + 20))) for start in (0, 20))
    pairs = LabelledPairs("made", first, second, (0, 1) * 10)
    found = evaluate_binary(Quantized(rows_BD), pairs, precision=precision)
    numbers_BD = quantize_embeddings(rows_BD, precision).astype(np.float32)
    if "binary" in precision:
        numbers_BD = (rows_BD > 0).astype(np.float32)
    assert found == evaluate_binary(Quantized(numbers_BD), pairs)
    assert abs(found["cosine"].accuracy_threshold) <= 1
    # Queries and documents would have ranges of their own.
    with pytest.raises(InputError, match=f"precision is '{precision}'. Expected 'float32'"):
        evaluate_triplets(Quantized(rows_BD), Triplets("made", first, first, second), precision=precision)


def test_small_types_neither_wrap_around_nor_overflow():
    large = np.full((1, 8), 120, np.float16)
    assert triplet_accuracy(large, large, -large) == 1
    codes = np.array([[100, 100, 3]], np.int8)
    assert triplet_accuracy(codes, codes, -codes, "dot") == 1
    for dtype in (np.uint8, bool):
        found = binary_scores(np.array([0, 0, 5, 4]).astype(dtype), np.array([0, 0, 1, 1]))
        assert (found.accuracy, found.average_precision) == (1, 1)


def test_files_and_rows_are_scored_as_they_are(tmp_path):
    class Letters:
        def encode(self, texts, **options):
            return np.array([[text.count("a"), 1.0] for text in texts])

        encode_query = encode_document = encode

    (tmp_path / "p.tsv").write_text("sentence1\tsentence2\tlabel\na\taa\t1\nc\taaa\t0\n")
    assert evaluate_binary(Letters(), tmp_path / "p.tsv") == evaluate_binary(
        Letters(), LabelledPairs("toy", ("a", "c"), ("aa", "aaa"), (1, 0))
    )
    rows = [{"anchor": "a", "positive": "aa", "negative": "c"}]
    assert evaluate_triplets(Letters(), rows)["euclidean"] == 0.0 and "memory" in read_triplets(rows).name
    with pytest.raises(InputError, match=r"data is 3\. Expected files"):
        evaluate_triplets(Letters(), 3)


def test_files(tmp_path):
    (tmp_path / "t.tsv").write_text("anchor\tpositive\tnegative\na\tb\tc\nd\te\tf\n")
    assert read_triplets(tmp_path / "t.tsv") == Triplets(str(tmp_path / "t.tsv"), ("a", "d"), ("b", "e"), ("c", "f"))
    (tmp_path / "p.tsv").write_text("sentence1\tsentence2\tlabel\na\tb\t1\nc\td\t0\n")
    assert read_labelled(tmp_path / "p.tsv") == LabelledPairs(str(tmp_path / "p.tsv"), ("a", "c"), ("b", "d"), (1, 0))
    for rows, word in [("a\tb\t1\n", "Expected both 0 and 1"), ("a\tb\t2\nc\td\t0\n", "pair 0: the label is 2")]:
        (tmp_path / "p.tsv").write_text("sentence1\tsentence2\tlabel\n" + rows)
        with pytest.raises(DataError, match=word):
            read_labelled(tmp_path / "p.tsv")
    with pytest.raises(InputError, match="names of three"):
        read_triplets(tmp_path / "t.tsv", ("anchor", "positive"))
    with pytest.raises(DataError, match="the same number of each"):
        Triplets("toy", ("a",), ("b", "c"), ("d",))
