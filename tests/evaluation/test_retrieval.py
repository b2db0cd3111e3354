"""Retrieval metrics against plain loops, BEIR files read strictly, and ties ranked as by sentence-transformers."""

import json
import math

import numpy as np
import pytest

from minisbert import DataError, InputError, mine_paraphrases
from minisbert.evaluation.retrieval import (
    RetrievalData,
    evaluate_rankings,
    evaluate_retrieval,
    rankings_of,
    read_retrieval,
)


def made(queries=40, documents=60, seed=0):
    """Judgements with gains -1 to 3, some queries without a relevant document, rankings of all lengths."""
    rng = np.random.default_rng(seed)
    corpus = {f"d{i}": f"text {i}" for i in range(documents)}
    names = [f"q{i}" for i in range(queries)]
    relevant = {}
    for query in names:
        some = rng.choice(documents, rng.integers(1, 20), replace=False)
        relevant[query] = {f"d{i}": int(rng.integers(-1, 4)) for i in some}
    relevant["q3"] = {"d1": 0}
    rankings = {q: [f"d{i}" for i in rng.permutation(documents)[: rng.integers(0, documents)]] for q in names}
    return RetrievalData("made", corpus, {q: q for q in names}, relevant), rankings


def by_loops(data, rankings, name, k, graded):
    """The textbook's sums, one query at a time."""
    values = []
    for query in data.queries:
        gains = {d: g for d, g in data.relevant[query].items() if g > 0}
        if not gains:
            continue
        top = rankings[query][:k]
        hits = [d in gains for d in top]
        if name == "accuracy":
            value = float(any(hits))
        elif name == "precision":
            value = sum(hits) / k
        elif name == "recall":
            value = sum(hits) / len(gains)
        elif name == "mrr":
            value = next((1 / rank for rank, hit in enumerate(hits, 1) if hit), 0.0)
        elif name == "map":
            value = sum(sum(hits[:r]) / r for r in range(1, len(hits) + 1) if hits[r - 1]) / min(k, len(gains))
        else:
            worth = gains if graded else dict.fromkeys(gains, 1)
            best = sorted(gains, key=worth.__getitem__, reverse=True)[:k]
            sums = []
            for some in (top, best):
                sums.append(sum(worth.get(d, 0) / math.log2(r + 1) for r, d in enumerate(some, 1)))
            dcg, ideal = sums
            value = dcg / ideal
        values.append(value)
    return np.mean(values)


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("name", ["accuracy", "precision", "recall", "mrr", "map", "ndcg"])
def test_metrics_equal_the_textbook_definitions(name, graded):
    data, rankings = made()
    ks = (1, 2, 7, 30, 200)
    result = evaluate_rankings(data, rankings, graded=graded, ks={name: ks})
    assert len(result.queries) == len(data.judged()) < 40
    for k in ks:
        assert result.scores[f"{name}@{k}"] == pytest.approx(by_loops(data, rankings, name, k, graded), abs=1e-12)


def test_a_perfect_ranking_and_an_empty_one():
    data, _ = made()
    perfect = {q: sorted(docs, key=lambda d, docs=docs: -docs[d]) for q, docs in data.relevant.items()}
    scores = evaluate_rankings(data, perfect, graded=True).scores
    assert scores["ndcg@10"] == pytest.approx(1) and scores["map@100"] == pytest.approx(1) and scores["mrr@10"] == 1
    assert set(evaluate_rankings(data, dict.fromkeys(data.queries, ())).scores.values()) == {0.0}
    assert list(scores) == [f"{n}@{k}" for n in ("accuracy", "precision", "recall") for k in (1, 3, 5, 10)] + [
        *("mrr@10", "ndcg@10", "map@100")
    ]


def test_bad_rankings_are_refused():
    data, rankings = made()
    for change, word in [({"q0": ["d1", "d1"]}, "has a document twice"), ({"q0": None}, "has no query 'q0'")]:
        bad = {q: r for q, r in (rankings | change).items() if r is not None}
        with pytest.raises(InputError, match=word):
            evaluate_rankings(data, bad)
    for ks in ({"bleu": (1,)}, {"ndcg": (0,)}, {"ndcg": 10}, [10]):
        with pytest.raises(InputError, match="ks"):
            evaluate_rankings(data, rankings, ks=ks)


def test_cutoffs_are_any_iterable_of_whole_numbers():
    data, rankings = made()
    scores = evaluate_rankings(data, rankings, ks={"ndcg": (np.int64(k) for k in (1, 10))}).scores
    assert scores == evaluate_rankings(data, rankings, ks={"ndcg": [1, 10]}).scores and list(scores) == [
        "ndcg@1",
        "ndcg@10",
    ]


def test_rankings_with_ids_of_another_type_are_refused():
    data = RetrievalData("toy", {"0": "a", "4": "b"}, {"q": "a", "p": "b"}, {"q": {"0": 1}, "p": {"4": 1}})
    with pytest.raises(
        InputError, match=r"no document of the corpus, but [04], for example\. Expected ids such as '0'"
    ):
        evaluate_rankings(data, {"q": [0, 4], "p": []})
    assert evaluate_rankings(data, {"q": iter(["4"]), "p": [9]}).scores["mrr@10"] == 0


def test_relevant_documents_may_be_a_set():
    """As sentence-transformers' evaluator takes them."""
    texts = {"d1": "a", "d2": "b"}, {"q": "a"}
    alone = RetrievalData("toy", *texts, {"q": {"d1"}})
    assert alone == RetrievalData("toy", *texts, {"q": {"d1": 1}}) == RetrievalData("toy", *texts, {"q": ["d1"]})
    assert evaluate_rankings(alone, {"q": ["d2", "d1"]}, graded=True).scores["mrr@10"] == 0.5
    for wrong in ("d1", None, 1):
        with pytest.raises(
            DataError, match=r"toy, query 'q': .* Expected a dict of id to gain, or a set or list of ids"
        ):
            RetrievalData("toy", *texts, {"q": wrong})


class Letters:
    """Embeds a text as counts of its letters, so that many are tied."""

    def encode_query(self, texts, **options):
        self.options = options
        return np.array([[text.count(c) + 1 for c in "ab"] for text in texts], np.float32)

    encode_document = encode_query


def test_an_encoder_is_scored_and_ties_are_ordered_by_id():
    data = RetrievalData("toy", {"d9": "a", "d1": "a", "d5": "b"}, {"q": "a", "idle": "b"}, {"q": {"d9": 1}})
    encoder = Letters()
    result = evaluate_retrieval(encoder, data, batch_size=7)
    assert result.rankings == {"q": ["d1", "d9", "d5"]} and result.scores["mrr@10"] == 0.5
    assert encoder.options == {"batch_size": 7}
    assert "toy: 1 queries" in str(result) and "mrr" in str(result) and " 50.00" in str(result)


@pytest.mark.parametrize("precision", ["int8", "ubinary", 8])
def test_quantized_embeddings_are_refused(precision):
    """Those of queries and documents are not comparable."""
    with pytest.raises(InputError, match="Expected 'float32'"):
        evaluate_retrieval(Letters(), made(), precision=precision)
    with pytest.raises(InputError, match="Expected 'float32'"):
        mine_paraphrases(Letters(), ["a", "b"], precision=precision)


def test_rankings_of_any_searcher():
    class Backwards:
        def search(self, queries, k):
            from minisbert.search.index import Hit

            return [[Hit("d5", 1.0), Hit("d1", 0.5)] for _ in queries]

    data = RetrievalData("toy", {"d1": "a", "d5": "b"}, {"q": "a"}, {"q": {"d1": 1}})
    assert rankings_of(Backwards(), data) == {"q": ["d5", "d1"]}


# --- files ---------------------------------------------------------------------------------------------------------

QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\n"


@pytest.fixture
def folder(tmp_path):
    documents = [{"_id": "d1", "title": "T", "text": "one"}, {"_id": "d2", "title": "", "text": ""}]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)) + "\n")
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "what", "metadata": {}}\n{"_id": "q2", "text": "x"}\n'
    )
    (tmp_path / "qrels.tsv").write_text(QRELS)
    return tmp_path


def test_the_layout_of_beir(folder):
    data = read_retrieval(folder)
    assert evaluate_retrieval(Letters(), str(folder)).scores == evaluate_retrieval(Letters(), data).scores
    with pytest.raises(InputError, match=r"data is 3\. Expected RetrievalData, or a folder"):
        evaluate_retrieval(Letters(), 3)
    assert data.corpus == {"d1": "T one", "d2": ""} and data.queries == {"q1": "what", "q2": "x"}
    assert data.relevant == {"q1": {"d1": 1, "d2": 0}} and data.judged() == ["q1"]
    (folder / "qrels").mkdir()
    (folder / "qrels.tsv").rename(folder / "qrels" / "dev.tsv")
    assert read_retrieval(folder, "dev").relevant == data.relevant
    (folder / "corpus.jsonl").write_text('{"_id": 7, "text": "no title"}\n')
    (folder / "qrels" / "test.tsv").write_text("query_id\tdoc_id\tscore\tcode\nq2\t7\t1\t4\n")
    for judgements in (
        "q2\t0\t7\t1\n",
        "q2\t7\t1\n",
        "q2 0 7 1\n\n",
        " q2  Q0 7   1\n",
        "q2 7 1\n",
    ):  # as TREC writes them
        (folder / "qrels" / "dev.tsv").write_text(judgements)
        assert read_retrieval(folder, "dev").relevant == {"q2": {"7": 1}}
    (folder / "qrels" / "dev.tsv").write_text("q2 0 7 1\nq2 7 1\n")
    with pytest.raises(DataError, match=r"line 2 has 3 columns\. Expected 4"):
        read_retrieval(folder, "dev")
    assert read_retrieval(folder).corpus == {"7": "no title"} and read_retrieval(folder).relevant == {"q2": {"7": 1}}


def test_a_collection_may_be_in_tables(folder):
    """As on the hub: judgements as objects, ids in a column `id`, no titles."""
    expected = read_retrieval(folder)
    (folder / "qrels").mkdir()
    (folder / "qrels.tsv").unlink()
    (folder / "qrels" / "test.jsonl").write_text(
        '{"query-id": "q1", "corpus-id": "d1", "score": 1}\n{"query-id": "q1", "corpus-id": "d2", "score": 0}\n'
    )
    assert read_retrieval(folder) == expected
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.csv").write_text('id,text\nd1,"T, one"\nd2,\n')
    assert read_retrieval(folder).corpus == {"d1": "T, one", "d2": ""}


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("qrels.tsv", None, ["no qrels.tsv or qrels/test.tsv"]),
        ("corpus.jsonl", None, ["no corpus.jsonl"]),
        ("qrels.tsv", "query\tcorpus-id\tscore\nq1\td1\t1\n", ["query-id/query_id"]),
        ("qrels.tsv", QRELS + "q1\td1\t0\n", ["line 4", "judged twice"]),
        ("qrels.tsv", QRELS + "q2\td1\tmuch\n", ["line 4", "'much'"]),
        ("qrels.tsv", QRELS + "q9\td1\t1\n", ["'q9' has judgements, but"]),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t0\n", ["no query has a relevant document"]),
        ("corpus.jsonl", '{"_id": "d1", "text": "a"}\n{"_id": "d1", "text": "b"}\n', ["line 2", "an earlier line"]),
        ("corpus.jsonl", '{"_id": "d1", "text": 3}\n', ["line 1", "'text' is 3"]),
        ("corpus.jsonl", '{"_id": null, "text": "a"}\n', ["line 1", "'_id' is None"]),
        ("queries.jsonl", '{"text": "a"}\n', ["'_id/id'"]),
        ("corpus.csv", "id,text\nd1,a\n", ["both corpus.jsonl and corpus.csv"]),
        ("qrels/test.tsv", QRELS, ["both qrels.tsv and qrels/test.tsv"]),
    ],
)
def test_bad_files_are_refused_by_name(folder, file, content, words):
    (folder / "qrels").mkdir()
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(DataError) as error:
        read_retrieval(folder)
    for word in words:
        assert word in str(error.value)


def test_missing_relevant_documents_count_as_not_found(folder, caplog):
    (folder / "qrels.tsv").write_text(QRELS + "q1\td77\t1\n")
    data = read_retrieval(folder)
    assert "1 relevant documents ('d77', ...) are not in the corpus" in caplog.text
    assert evaluate_rankings(data, {"q1": ["d1"]}).scores["recall@10"] == 0.5
