"""`minisbert mine`, `cluster` and `pairwise-cost` on a tiny model: what they print, write and refuse."""

import json
import sys
import types

import numpy as np
import pytest

LINES = ["a man plays the guitar", "", "the city at night", "a man plays the guitar", "women read books"]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


def test_the_best_pairs(run, tiny, corpus):
    result = run("mine", corpus, "--model", tiny, "--top", 2)
    assert result.code == 0, result.err
    lines = [line.split("\t") for line in result.out.splitlines()]
    assert lines[0] == ["1.0000", "1", "4", LINES[0], LINES[3]] and len(lines) == 2
    records = [json.loads(line) for line in run("mine", corpus, "--model", tiny, "--json").out.splitlines()]
    assert len(records) == 6 and records[0]["lines"] == [1, 4]
    assert run("mine", corpus, "--model", tiny, "--threshold", "0.99999").out.splitlines() == ["\t".join(lines[0])]


def test_pairs_of_two_files(run, tiny_bert, corpus, tmp_path):
    (tmp_path / "other.txt").write_text("\n".join([LINES[4], LINES[2]]))
    result = run("mine", corpus, "--with-file", tmp_path / "other.txt", "--model", tiny_bert, "--neighbours", 2)
    assert {tuple(line.split("\t")[1:3]) for line in result.out.splitlines()} == {("3", "2"), ("5", "1")}


def test_nothing_to_pair(run, tiny_bert, corpus, tmp_path):
    (tmp_path / "blank.txt").write_text("\n \n")
    for words in [("FILE", "--with-file", tmp_path / "blank.txt"), (tmp_path / "blank.txt",)]:
        result = run("mine", *(corpus if word == "FILE" else word for word in words), "--model", tiny_bert)
        assert (result.code, result.out) == (0, ""), result.err


@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
def test_negatives_for_training(run, tiny_bert, tmp_path, kind):
    (tmp_path / "pairs.tsv").write_text("q\ta\na man\tthe man\na city\tthe city\nbooks\tthe books\n")
    out = tmp_path / f"triplets.{kind}"
    words = ("mine", tmp_path / "pairs.tsv", "--model", tiny_bert, "--anchor", "q", "--positive", "a")
    result = run(*words, "--negatives", out, "--number", 2)
    assert (result.code, result.out) == (0, f"3 rows in {out}; 0 pairs had too few negatives\n")
    assert len(out.read_text().splitlines()) == (4 if kind == "tsv" else 3)
    result = run(*words, "--negatives", tmp_path / "none.tsv", "--max-score", "-1")
    assert result.code == 2 and "no pair has 1 negative(s) within the limits" in result.err
    assert not (tmp_path / "none.tsv").exists()


def test_clusters(run, tiny_bert, corpus, tmp_path):
    out, picture = tmp_path / "clusters.jsonl", tmp_path / "map.html"
    words = ("cluster", corpus, "--model", tiny_bert, "--threshold", "0.9999", "--min-size", 2)
    result = run(*words, "--out", out, "--map", picture)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith("   0       2  ") and lines[0].endswith(LINES[0])
    assert lines[1] == "1 clusters of 4 sentences; 2 in none"
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["line"], r["cluster"]) for r in records] == [(1, 0), (3, -1), (4, 0), (5, -1)]
    assert LINES[2] in picture.read_text()
    result = run("cluster", corpus, "--model", tiny_bert)
    assert result.out.splitlines()[-1] == "No group is large and close enough. Lower --threshold or --min-size."


def test_clusters_with_known_classes(run, tiny_bert, tmp_path):
    pytest.importorskip("sklearn", reason="pip install -e '.[cluster]'")
    (tmp_path / "s.tsv").write_text("text\tlabel\na man\tx\na man\tx\nbooks\ty\nbooks\ty\n")
    words = ("--method", "kmeans", "--clusters", 2, "--label-column", "label", "--map", tmp_path / "map.png")
    result = run("cluster", tmp_path / "s.tsv", "--model", tiny_bert, *words)
    assert "V-measure 1.0000 (homogeneity 1.0000, completeness 1.0000)" in result.out, result.err
    assert (tmp_path / "map.png").exists()


def test_classes_may_be_whole_numbers(run, tiny_bert, tmp_path):
    rows = [{"text": "a man", "label": 1}, {"text": "books", "label": 0}]
    file = tmp_path / "s.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("cluster", file, "--model", tiny_bert, "--min-size", 1, "--threshold", 0.999, "--label-column", "label")
    result = run(*words)
    assert "V-measure 1.0000 (homogeneity 1.0000, completeness 1.0000)" in result.out, result.err
    file.write_text(file.read_text() + '{"text": "sea", "label": null}\n')
    assert "line 3: 'label' is None (NoneType). Expected text" in run(*words).err


@pytest.mark.parametrize(
    "words, message",
    [
        (("mine", "FILE", "--top", "0"), "expected --top, at least 1"),
        (("mine", "FILE", "--top", "1", "--threshold", "0.5"), "expected --top, at least 1"),
        (("mine", "FILE", "--negatives", "x.tsv", "--top", "1"), "--negatives cannot be combined"),
        (("mine", "FILE", "--negatives", "x.csv"), "ends in .tsv, .jsonl"),
        (("mine", "FILE", "--negatives", "x.tsv"), "plain text has one column"),
        (("cluster", "FILE", "--label-column", "x"), "plain text has one column"),
        (("mine", "-", "--with-file", "-"), "stdin is used for both sides"),
        (("mine", "none.txt"), "no such file"),
        (("cluster", "FILE", "--clusters", "3"), "--clusters is not for communities"),
        (("cluster", "FILE", "--method", "hdbscan", "--seed", "3"), "Expected --min-size there"),
        (("cluster", "FILE", "--map", "x.svg"), "ends in .png, .html"),
        (("cluster", "FILE", "--words", "0"), "--words is 0"),
        (("pairwise-cost", "--sentences", "1"), "at least 2 --sentences"),
        (("pairwise-cost", "--corpus", "FILE", "--sentences", "9"), "4 sentences. Expected 9"),
        (("pairwise-cost", "--out", "x.pdf"), "ends in .png"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(run, corpus, words, message):
    model = ("no-such-model",) if words[0] == "pairwise-cost" else ("--model", "no-such-model")
    result = run(words[0], *model, *(str(corpus) if word == "FILE" else word for word in words[1:]))
    assert result.code == 2 and message in result.err and not result.out


def test_a_missing_scikit_learn_is_said_before_work(run, corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    result = run("cluster", corpus, "--model", "no-such-model", "--method", "kmeans")
    assert result.code == 2 and "needs scikit-learn" in result.err


def test_pairwise_cost(run, tiny_bert, tmp_path, monkeypatch):
    """With a stand-in for the cross-encoder, which has a speed and no other interest here."""

    class CrossEncoder:
        pretrained = None

        def __init__(self, model, **options):
            pass

        @staticmethod
        def from_encoder(encoder, num_labels):
            return CrossEncoder(encoder)

        def predict(self, pairs):
            return np.zeros(len(pairs))

    monkeypatch.setitem(
        sys.modules, "minisbert.cross_encoder.encoder", types.SimpleNamespace(CrossEncoder=CrossEncoder)
    )
    out = tmp_path / "cost.png"
    result = run("pairwise-cost", tiny_bert, "--sentences", 20, "--pairs", 5, "--out", out)
    assert result.code == 0, result.err
    assert "190 pairs" in result.out and "extrapolated from 5 pairs" in result.out and "peak memory" in result.out
    assert out.exists()
    assert "not measured" in run("pairwise-cost", tiny_bert, "--sentences", 20, "--pairs", 0).out
