"""`minisbert search` and `minisbert retrieval` on a tiny model: what they print, keep and refuse."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from minisbert import SentenceEncoder

sys.path.insert(0, str(Path(__file__).parents[1]))
from cross_encoder_cases import tiny as tiny_pair

LINES = ["a man plays the guitar", "", "the city at night", "women read books by the sea"]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


def records(out):
    return [json.loads(line) for line in out.splitlines()]


def test_a_query_as_a_word_of_the_command(run, tiny, corpus):
    result = run("search", LINES[2], "--corpus", corpus, "--model", tiny, "--top", "2")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == LINES[2] and lines[1].split() == ["1", "1.0000", "3", *LINES[2].split()]
    assert lines[2].split()[0] == "2" and lines[3] == "" and len(lines) == 4


def test_queries_of_a_file_and_typed_ones_agree(run, tiny_bert, corpus, tmp_path):
    (tmp_path / "queries.txt").write_bytes(b"\xef\xbb\xbfa man\n\nthe sea\n")
    words = ("search", "--corpus", corpus, "--model", tiny_bert, "--json")
    result = run(*words, "--queries", tmp_path / "queries.txt")
    hits = records(result.out)
    assert [(hit["query"], hit["rank"]) for hit in hits] == [(q, r) for q in ("a man", "the sea") for r in (1, 2, 3)]
    assert {hit["id"]: hit["text"] for hit in hits} == {1: LINES[0], 3: LINES[2], 4: LINES[3]}
    typed = run(*words, stdin=b"\xef\xbb\xbfa man\n\nthe sea")
    assert (typed.code, typed.err) == (0, "")
    for one, other in zip(records(typed.out), hits, strict=True):
        assert one | {"score": 0} == other | {"score": 0} and one["score"] == pytest.approx(other["score"], abs=1e-6)
    assert run(*words, "--queries", "-", stdin=b"a man\n").out == "".join(typed.out.splitlines(keepends=True)[:3])


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_an_index_is_saved_and_used(run, tiny_bert, corpus, tmp_path, precision):
    folder = tmp_path / "index"
    options = ("--model", tiny_bert, "--json")
    first = run("search", LINES[3], "--corpus", corpus, "--precision", precision, "--save-index", folder, *options)
    assert first.code == 0 and records(first.out)[0]["text"] == LINES[3]
    corpus.unlink()
    assert run("search", LINES[3], "--index", folder, *options).out == first.out


def test_hybrid_search(run, tiny_bert, corpus):
    pytest.importorskip("bm25s", reason="pip install -e '.[bm25]'")
    result = run("search", "guitar", "--corpus", corpus, "--model", tiny_bert, "--hybrid", "--json")
    assert records(result.out)[0]["text"] == LINES[0]


def test_mistakes_are_found_before_the_model_is_loaded(run, corpus, tmp_path):
    for words, message in [
        (("a",), "either --corpus FILE or --index"),
        (("a", "--corpus", corpus, "--index", tmp_path), "either --corpus FILE or --index"),
        (("a", "--corpus", corpus, "--queries", corpus), "queries are given twice"),
        (("a", "--index", tmp_path, "--precision", "int8"), "need --corpus"),
        (("a", "--corpus", corpus, "--top", "0"), "--top is 0"),
        (("--corpus", "-"), "no queries can follow"),
        (("--corpus", "-", "--queries", "-"), "no queries can follow"),
        (("a", "--corpus", tmp_path / "none.txt"), "none.txt: no such file"),
        (("--corpus", corpus, "--queries", tmp_path / "none.txt"), "none.txt: no such file"),
    ]:
        result = run("search", *words, "--model", "no-such-model")
        assert result.code == 2 and not result.out
        assert message in result.err


def test_mistakes_with_a_model(run, tiny_bert, corpus, tmp_path):
    (tmp_path / "blank.txt").write_text("\n \n")
    for words, stdin, message in [
        (("a", "--corpus", tmp_path / "blank.txt"), b"", "contains no text"),
        (("a", "--index", tmp_path), b"", "cannot be read as an index"),
        (("--corpus", corpus), b"\xff\n", "stdin, line 1: byte 1"),
    ]:
        result = run("search", *words, "--model", tiny_bert, stdin=stdin)
        assert result.code == 2 and message in result.err


# --- retrieval -----------------------------------------------------------------------------------------------------


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "collection"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": "", "text": line} for i, line in enumerate(LINES)]
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, documents)).encode()))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "a man plays the guitar"}\n')
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq\td0\t1\nq\td2\t2\n")
    return folder


def test_retrieval(run, tiny, collection, tmp_path):
    pytest.importorskip("bm25s", reason="pip install -e '.[bm25]'")
    out = tmp_path / "scores.json"
    result = run("retrieval", tiny, collection, "--split", "dev", "--bm25", "--json", out)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == tiny and lines[1] == f"{collection}: 1 queries, x 100" and "accuracy" in lines[2]
    assert "BM25" in lines and "both, by reciprocal rank fusion" in lines
    scores = json.loads(out.read_text())["scores"]
    assert scores[tiny]["accuracy@1"] == scores["BM25"]["accuracy@1"] == 1
    assert scores["BM25"]["recall@10"] == 0.5


def test_retrieval_then_a_cross_encoder(run, tiny_bert, collection, tmp_path):
    """Each of the rankings again, its first three documents in the order of the scores that the model gives by itself."""
    pytest.importorskip("bm25s", reason="pip install -e '.[bm25]'")
    model, cross = tiny_pair("bert", seed=2), tmp_path / "cross"
    model.save(cross)
    out = tmp_path / "scores.json"
    words = ["--split", "dev", "--bm25", "--rerank", cross, "--candidates", "3", "--json", out]
    result = run("retrieval", tiny_bert, collection, *words)
    assert result.code == 0, result.err
    scores = json.loads(out.read_text())["scores"]
    plain = [tiny_bert, "BM25", "both, by reciprocal rank fusion"]
    assert list(scores) == [*plain, *(f"{name}, then {cross}" for name in plain)]
    query, encoder = LINES[0], SentenceEncoder.load(tiny_bert, compute_dtype="float32", offline=False)
    order = encoder.similarity(encoder.encode([query]), encoder.encode(LINES))[0].argsort()[::-1][:3].tolist()
    logits = model.predict([(query, LINES[row]) for row in order], activation_fn="identity")
    assert order[int(logits.argmax())] not in (0, 2), (
        "it puts a wrong document first, so that the order is seen to change"
    )
    assert scores[tiny_bert]["mrr@10"] == 1 and scores[f"{tiny_bert}, then {cross}"]["mrr@10"] == 0.5

    tiny_pair("bert", num_labels=3).save(tmp_path / "classes")
    result = run("retrieval", tiny_bert, collection, "--split", "dev", "--rerank", tmp_path / "classes")
    assert result.code == 2 and "has 3 labels. Expected 1" in result.err


def test_retrieval_mistakes_are_found_before_the_model_is_loaded(run, collection, tmp_path):
    for words, message in [
        ((collection,), "no qrels.tsv or qrels/test.tsv"),
        ((collection, "--split", "dev", "--json", tmp_path / "x.txt"), "ends in .json"),
        ((tmp_path / "none",), "no corpus.jsonl"),
        ((collection, "--split", "dev", "--candidates", "0"), "--candidates is 0"),
    ]:
        result = run("retrieval", "no-such-model", *words)
        assert result.code == 2 and message in result.err
