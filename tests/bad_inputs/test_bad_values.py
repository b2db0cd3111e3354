"""Bad values in everything that compares embeddings: a clear error or the defined answer, never a spoiled order.

One table of ways to search (exact, from a file, quantized, by graphs) times one table of bad values, then the same for mining
and clustering. Rows are few, so that every way looks at all of them and has one right answer.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from minisbert import InputError, SearchError, SentenceEncoder
from minisbert.mining.clustering import (
    agglomerative,
    community_detection,
    hdbscan,
    kmeans,
    medoid_rows,
    pca_2d,
)
from minisbert.mining.hard_negatives import hard_negatives
from minisbert.mining.paraphrases import best_pair, best_pairs, bitext_pairs, pairs_above
from minisbert.search.exact import nearest
from minisbert.search.hnsw import GRAPHS
from minisbert.search.index import Hit, Index
from minisbert.search.rerank import retrieve_and_rerank

WEIGHTS = Path(__file__).parents[2] / "weights"
WIDTH = 16
ROWS = np.random.default_rng(1).normal(size=(7, WIDTH)).astype(np.float32)
ASKED = np.random.default_rng(2).normal(size=(3, WIDTH)).astype(np.float32)


def through_file(queries, corpus, k, folder):
    np.save(folder / "corpus.npy", np.asarray(corpus))
    return nearest(queries, folder / "corpus.npy", k)


def through_index(**options):
    def search(queries, corpus, k, folder):
        index = Index(**options)
        index.add(corpus)
        return index.nearest(queries, k)

    return search


def through_saved(**options):
    def search(queries, corpus, k, folder):
        index = Index(**options)
        index.add(corpus)
        index.save(folder / "index")
        return Index.load(folder / "index").nearest(queries, k)

    return search


def through_graph(library):
    def search(queries, corpus, k, folder):
        graph = GRAPHS[library](WIDTH)
        graph.add(corpus)
        return graph.search(queries, k)

    return search


WAYS = {
    "nearest": lambda queries, corpus, k, folder: nearest(queries, corpus, k),
    "nearest, two chunks": lambda queries, corpus, k, folder: nearest(queries, corpus, k, chunk_rows=4),
    "nearest, recall 1": lambda queries, corpus, k, folder: nearest(queries, corpus, k, recall=1.0),
    "file": through_file,
    "index": through_index(),
    "index, saved": through_saved(),
    "index, int8": through_index(precision="int8"),
    "index, int8 alone": through_index(precision="int8", rescore=False),
    "index, binary": through_index(precision="binary"),
    "index, binary alone": through_index(precision="binary", rescore=False),
    "index, faiss": through_index(backend="faiss"),
    "index, usearch": through_index(backend="usearch"),
    "faiss": through_graph("faiss"),
    "usearch": through_graph("usearch"),
}
EXACT = [name for name in WAYS if "alone" not in name and name not in GRAPHS]  # those that give exact cosines
MAKES_INDEX = [name for name in WAYS if name.startswith("index")]


@pytest.fixture(params=WAYS)
def way(request):
    return pick(request.param)


def pick(name):
    """The way of that name; skips where its library is not installed."""
    for library, module in (("faiss", "faiss"), ("usearch", "usearch.index")):
        if library in name:
            pytest.importorskip(module, reason=f"pip install -e '.[{library}]'")
    return WAYS.get(name)


def spoiled(rows, row, value):
    rows = rows.copy()
    rows[row, 3] = value
    return rows


# Every bad call: what is asked, in what, how many; and a word of the error.
BAD = {
    **{f"{v} in a query": (spoiled(ASKED, 1, v), ROWS, 2, r"queries\[1\]") for v in (np.nan, np.inf, -np.inf, 3e38)},
    **{f"{v} in a row": (ASKED, spoiled(ROWS, 5, v), 2, r"\[5\]") for v in (np.nan, np.inf, -np.inf, 3e38)},
    "nan in the last row": (ASKED, spoiled(ROWS, 6, np.nan), 2, r"\[6\]"),
    "nan, k = 1": (ASKED, spoiled(ROWS, 0, np.nan), 1, r"\[0\]"),
    "a query of another width": (ASKED[:, :-1], ROWS, 2, "width 15"),
    "a query that is wider": (np.tile(ASKED, 2), ROWS, 2, "width 32"),
    "no width": (ASKED[:, :0], ROWS, 2, "Expected"),
    **{f"k = {k!r}": (ASKED, ROWS, k, "k is") for k in (-1, 1.5, True, None, "3", float("nan"), float("inf"), [2])},
    "text": ("a cat", ROWS, 2, "Expected"),
    "numbers as text": ([["1"] * WIDTH], ROWS, 2, "Expected"),
    "complex numbers": (ASKED * 1j, ROWS, 2, "Expected"),
    "three dimensions": (ASKED[None], ROWS, 2, "shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case, way, tmp_path):
    queries, corpus, k, word = BAD[case]
    with pytest.raises(InputError, match=word):
        way(queries, corpus, k, tmp_path)


def test_k_beyond_the_corpus_returns_all_rows(way, tmp_path):
    hits = way(ASKED, ROWS, 50, tmp_path)
    found = [[row for row in rows if row >= 0] for rows in hits.rows_BK.tolist()]  # -1 fills up what a graph gives
    assert [sorted(rows) for rows in found] == [list(range(7))] * 3
    for scores in hits.scores_BK[:, :7]:
        assert np.isfinite(scores).all() and (np.diff(scores) <= 0).all()


def test_k_of_0_is_refused(way, tmp_path):
    with pytest.raises(InputError, match="k is 0"):
        way(ASKED, ROWS, 0, tmp_path)


def test_no_query_has_no_answer(way, tmp_path):
    hits = way(ASKED[:0], ROWS, 2, tmp_path)
    assert hits.scores_BK.shape == hits.rows_BK.shape == (0, 2)


def test_an_empty_corpus_has_no_answer(way, tmp_path, request):
    if "saved" in request.node.name:
        with pytest.raises(InputError, match="the index is empty"):
            way(ASKED, ROWS[:0], 2, tmp_path)
        return
    hits = way(ASKED, ROWS[:0], 2, tmp_path)
    assert (hits.rows_BK == -1).all() and hits.rows_BK.shape[0] == 3


@pytest.mark.parametrize("name", EXACT)
def test_a_zero_vector_has_cosine_0_with_everything(name, tmp_path):
    way = pick(name)
    corpus = ROWS.copy()
    corpus[4] = 0
    hits = way(np.concatenate([ASKED[:1], np.zeros((1, WIDTH), np.float32)]), corpus, 7, tmp_path)
    cosines = corpus[:, :] @ ASKED[0] / np.maximum(np.linalg.norm(corpus, axis=1), 1e-12) / np.linalg.norm(ASKED[0])
    assert hits.rows_BK[0].tolist() == np.argsort(-cosines, kind="stable").tolist()
    np.testing.assert_allclose(hits.scores_BK[0], np.sort(cosines)[::-1], atol=1e-6)
    assert hits.scores_BK[0, hits.rows_BK[0] == 4] == 0
    assert hits.scores_BK[1].tolist() == [0] * 7 and hits.rows_BK[1].tolist() == list(range(7))


@pytest.mark.parametrize("name", EXACT)
def test_equal_rows_come_in_their_order(name, tmp_path):
    hits = pick(name)(ASKED[:1], np.repeat(ROWS[:1], 5, axis=0), 5, tmp_path)
    assert hits.rows_BK.tolist() == [[0, 1, 2, 3, 4]]


# --- the index: what is added, by whom ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKES_INDEX)
def test_a_bad_addition_changes_nothing(name, tmp_path):
    pick(name)
    options = {"precision": "int8"} if "int8" in name else {"precision": "binary"} if "binary" in name else {}
    options |= {"backend": next((graph for graph in GRAPHS if graph in name), "exact"), "rescore": "alone" not in name}
    index = Index(**options)
    index.add(ROWS[:4])
    before = index.nearest(ASKED, 4)
    for bad in (spoiled(ROWS, 2, np.nan), spoiled(ROWS, 2, 3e38), ROWS[:, :8], ROWS[:, :0], "text", [["x"] * WIDTH]):
        with pytest.raises(InputError):
            index.add(bad)
    after = index.nearest(ASKED, 9)
    assert len(index) == 4 and (after.rows_BK == before.rows_BK).all() and (after.scores_BK == before.scores_BK).all()


def test_models_are_never_mixed(tmp_path):
    bert, mpnet = (SentenceEncoder.load(WEIGHTS / f"tiny-{name}") for name in ("bert", "mpnet"))
    index = Index(bert)
    index.add(["a cat", "a dog"])
    index.save(tmp_path / "index")
    with pytest.raises(InputError, match="Expected the same model"):
        Index.load(tmp_path / "index", mpnet)
    with pytest.raises(InputError, match="width 24"):
        index.search(np.ones(24, np.float32))
    for k in (0, -1, 1.5, True, None, "3"):
        with pytest.raises(InputError, match="k is"):
            index.search("a cat", k)
    assert len(index.search("a cat", 9)) == 2


class Broken:
    """A model that overflows."""

    def encode(self, texts, **options):
        return np.full((len(texts), WIDTH), np.nan, np.float32)

    encode_query = encode_document = encode


def test_nan_from_a_model_is_reported():
    index = Index(Broken(), fingerprint="broken")
    with pytest.raises(InputError, match=r"embeddings\[0\] contains NaN"):
        index.add(["a"])
    index.add(ROWS)
    with pytest.raises(InputError, match=r"queries\[0\] contains NaN"):
        index.search("a")
    with pytest.raises(InputError, match="NaN"):
        hard_negatives(Broken(), ["a"], ["b"], ["c", "d"])


@pytest.mark.parametrize(
    ("precision", "backend"), [("float32", "exact"), ("int8", "exact"), *(("float32", graph) for graph in GRAPHS)]
)
def test_nan_in_a_saved_index_is_reported(precision, backend, tmp_path):
    """A file that changed after it was written, its size kept."""
    pick(backend)
    index = Index(precision=precision, backend=backend)
    index.add(ROWS)
    index.save(tmp_path / "index")
    (file,) = (tmp_path / "index").glob("embeddings*.npy")
    np.save(file, spoiled(ROWS, 2, np.nan))
    with pytest.raises(SearchError, match=re.escape(file.name)):
        Index.load(tmp_path / "index").nearest(ASKED, 7)


class NoNumbers:
    def predict(self, pairs):
        return [float("nan")] * len(pairs)


def test_a_reranker_without_numbers_is_refused():
    class Found:
        def search(self, queries, k=10):
            return [[Hit("a", 0.9, "text")]] * len(queries)

    with pytest.raises(InputError, match="finite number"):
        retrieve_and_rerank("query", Found(), NoNumbers())
    with pytest.raises(InputError, match="k is 0"):
        retrieve_and_rerank("query", Found(), NoNumbers(), k=0)


# --- mining and clustering ------------------------------------------------------------------------------------------

NEEDS_SKLEARN = {"kmeans", "agglomerative", "hdbscan"}
TASKS = {
    "best_pair": lambda rows: best_pair(rows),
    "best_pairs": lambda rows: best_pairs(rows, 3),
    "best_pairs, dot": lambda rows: best_pairs(rows, 3, similarity="dot"),
    "pairs_above": lambda rows: pairs_above(rows, -1.0),
    "bitext_pairs, first": lambda rows: bitext_pairs(rows, ROWS),
    "bitext_pairs, second": lambda rows: bitext_pairs(ROWS, rows),
    "community_detection": lambda rows: community_detection(rows, -1.0, 2),
    "kmeans": lambda rows: kmeans(rows, 2),
    "agglomerative": lambda rows: agglomerative(rows, 2),
    "hdbscan": lambda rows: hdbscan(rows, 2),
    "medoid_rows": lambda rows: medoid_rows(rows, [0] * len(rows)),
    "pca_2d": lambda rows: pca_2d(rows),
}


@pytest.fixture(params=TASKS)
def task(request):
    if request.param in NEEDS_SKLEARN:
        pytest.importorskip("sklearn", reason="pip install -e '.[cluster]'")
    return TASKS[request.param]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_bad_row_is_named_by_every_task(task, value):
    with pytest.raises(InputError, match=r"\[5\]"):
        task(spoiled(ROWS, 5, value))


@pytest.mark.parametrize("rows", ["text", [["1"] * 4], np.ones((2, 2, 2)), np.ones((3, 0)), [[1.0], [1.0, 2.0]]])
def test_every_task_refuses_values_that_are_not_rows(task, rows):
    with pytest.raises(InputError, match="Expected"):
        task(rows)


def test_a_zero_vector_spoils_no_task(task):
    rows = ROWS.copy()
    rows[4] = 0
    task(rows)


def test_zero_vectors_are_similar_to_nothing():
    rows = np.concatenate([ROWS[:2], np.zeros((2, WIDTH), np.float32)])
    everything = pairs_above(rows, -1.0)
    assert len(everything.rows_K2) == 6
    zeros = [
        tuple(pair) for pair, s in zip(everything.rows_K2.tolist(), everything.scores_K.tolist(), strict=True) if s == 0
    ]
    assert zeros == [(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert [[0, 1]] not in community_detection(rows, 0.5, 2)


def test_no_rows_and_one():
    none, one = ROWS[:0], ROWS[:1]
    for rows in (none, one):
        assert best_pairs(rows, 3).rows_K2.shape == (0, 2) and pairs_above(rows, 0.1).rows_K2.shape == (0, 2)
        assert community_detection(rows, 0.5, 2) == []
        with pytest.raises(InputError, match="fewer than 2 rows"):
            best_pair(rows)
    assert bitext_pairs(none, ROWS).rows_K2.shape == bitext_pairs(ROWS, none).rows_K2.shape == (0, 2)
    assert pca_2d(none).shape == (0, 2) and medoid_rows(none, []) == []


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None, "3"])
def test_a_bad_count_is_refused(k):
    for call in (
        lambda: best_pairs(ROWS, k),
        lambda: bitext_pairs(ROWS, ROWS, neighbours=k),
        lambda: community_detection(ROWS, 0.5, k),
        lambda: kmeans(ROWS, k),
    ):
        with pytest.raises(InputError, match=r"is .*Expected a whole number of at least 1"):
            call()


def test_more_than_there_are():
    assert len(best_pairs(ROWS, 10_000).rows_K2) == 21
    assert len(bitext_pairs(ROWS, ROWS, neighbours=100).rows_K2) == 7
    pytest.importorskip("sklearn", reason="pip install -e '.[cluster]'")
    for call in (lambda: kmeans(ROWS, 8), lambda: agglomerative(ROWS, 8), lambda: hdbscan(ROWS, 8)):
        with pytest.raises(InputError, match="embeddings has 7 rows"):
            call()
