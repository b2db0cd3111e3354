"""BM25 against its formula, reciprocal rank fusion against the paper's sum, reranking with a made-up scorer."""

import math
import re
import sys

import numpy as np
import pytest

from minisbert import InputError
from minisbert.search.fusion import Hybrid, reciprocal_rank_fusion
from minisbert.search.index import Hit, Index
from minisbert.search.rerank import retrieve_and_rerank

TEXTS = ["cat sits mat", "dogs bark loudly", "cat cat barks", "stocks fell", "cat sits mat"]


def bm25_by_hand(query, texts, k1=1.5, b=0.75):
    """Lucene's form: idf = ln(1 + (N - n + 0.5) / (n + 0.5)), tf / (tf + k1 (1 - b + b length / mean))."""
    words = [re.findall(r"\w\w+", text) for text in texts]
    mean = sum(map(len, words)) / len(words)
    scores = []
    for some in words:
        score = 0.0
        for word in query.split():
            n = sum(word in other for other in words)
            tf = some.count(word)
            score += math.log(1 + (len(words) - n + 0.5) / (n + 0.5)) * tf / (tf + k1 * (1 - b + b * len(some) / mean))
        scores.append(score)
    return np.array(scores)


def test_bm25_is_its_formula():
    pytest.importorskip("bm25s", reason="pip install -e '.[bm25]'")
    from minisbert.search.bm25 import BM25

    words = BM25(TEXTS, ids=["a", "b", "c", "d", "e"])
    for query in ("cat", "cat barks", "dogs stocks zebra"):
        expected = bm25_by_hand(query, TEXTS)
        order = [i for i in np.argsort(-expected, kind="stable") if expected[i] > 0]
        hits = words.search(query)
        assert [hit.id for hit in hits] == ["abcde"[i] for i in order], query
        np.testing.assert_allclose([hit.score for hit in hits], expected[order], rtol=1e-5)
        assert [hit.text for hit in hits] == [TEXTS[i] for i in order]
    assert words.search(["zebra", "", "the"]) == [[], [], []] and words.search([]) == []
    assert [hit.id for hit in words.search("cat", k=2)] == ["c", "a"]
    for arguments, word in [
        ((["the", "5"],), "texts has no word to index"),
        (([],), "texts is empty"),
        ((TEXTS, ["x"]), "ids has 1 items"),
    ]:
        with pytest.raises(InputError, match=word):
            BM25(*arguments)
    with pytest.raises(InputError, match="k1 is -1"):
        BM25(TEXTS, k1=-1)


def test_without_bm25s_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    from minisbert.search.bm25 import BM25

    with pytest.raises(InputError, match=r"minisbert\[bm25\]"):
        BM25(TEXTS)


def test_fusion_is_the_papers_sum():
    rng = np.random.default_rng(0)
    rankings = [rng.permutation(30)[: rng.integers(1, 30)].tolist() for _ in range(4)]
    fused = dict(reciprocal_rank_fusion(rankings))
    assert list(fused.values()) == sorted(fused.values(), reverse=True)
    for one in range(30):
        expected = sum(1 / (60 + ranking.index(one) + 1) for ranking in rankings if one in ranking)
        assert fused.get(one, 0) == pytest.approx(expected)
    assert reciprocal_rank_fusion([["a", "b"]], constant=1) == [("a", 1 / 2), ("b", 1 / 3)]
    assert [one for one, _ in reciprocal_rank_fusion([["b"], ["a"]])] == ["b", "a"], "ties by who comes first"
    assert reciprocal_rank_fusion([]) == []
    with pytest.raises(InputError, match=r"rankings\[1\] has an id twice"):
        reciprocal_rank_fusion([["a"], ["b", "b"]])
    with pytest.raises(InputError, match="constant is 0"):
        reciprocal_rank_fusion([["a"]], constant=0)


class Fixed:
    """A searcher that knows its answers; notes how many are wanted."""

    def __init__(self, *hits):
        self.hits, self.asked = list(hits), []

    def search(self, queries, k=10):
        self.asked.append(k)
        return [self.hits[:k] for _ in queries]


def test_hybrid_search_goes_deep_and_keeps_texts():
    one, two = Fixed(Hit("a", 3.0, "A"), Hit("b", 2.0, "B")), Fixed(Hit("b", 0.4, None), Hit("c", 0.3, "C"))
    hits = Hybrid([one, two], candidates=50).search("query", k=2)
    assert [(hit.id, hit.text) for hit in hits] == [("b", "B"), ("a", "A")]
    assert one.asked == two.asked == [50]
    with pytest.raises(InputError, match=r"searchers is .*at least one"):
        Hybrid([])


class Lengths:
    """A reranker that likes long texts; notes its pairs."""

    def predict(self, pairs, **options):
        self.pairs, self.options = pairs, options
        return np.array([len(text) for _, text in pairs], np.float32)


def test_the_reranker_decides():
    found = Fixed(Hit("a", 0.9, "xx"), Hit("b", 0.8, "xxx"), Hit("c", 0.7, "yy"), Hit("d", 0.6, "xxxx"))
    lengths = Lengths()
    hits = retrieve_and_rerank(["one", "two"], found, lengths, k=3, candidates=3, batch_size=5)
    assert [[(hit.id, hit.score) for hit in some] for some in hits] == [[("b", 3), ("a", 2), ("c", 2)]] * 2
    assert lengths.pairs[:3] == [("one", "xx"), ("one", "xxx"), ("one", "yy")] and lengths.options == {"batch_size": 5}
    assert retrieve_and_rerank("one", found, lengths, k=3, candidates=3) == hits[0]
    assert retrieve_and_rerank([], found, lengths) == []
    assert retrieve_and_rerank("one", Fixed(), lengths) == []


@pytest.mark.parametrize(
    ("scores", "word"),
    [([1.0], "for 2 pairs"), ([1.0, np.nan], "one finite number per pair"), ([[1, 2], [3, 4]], "several classes")],
)
def test_bad_scores_are_refused(scores, word):
    class Bad:
        def predict(self, pairs):
            return scores

    with pytest.raises(InputError, match=word):
        retrieve_and_rerank("one", Fixed(Hit("a", 1, "a"), Hit("b", 1, "b")), Bad())


def test_candidates_need_texts_and_must_be_enough():
    with pytest.raises(InputError, match="has no text"):
        retrieve_and_rerank("one", Fixed(Hit("a", 1)), Lengths())
    with pytest.raises(InputError, match="candidates is 3, k 10"):
        retrieve_and_rerank("one", Fixed(), Lengths(), candidates=3)


def test_an_index_is_a_searcher():
    class Letters:
        similarity_fn_name = "cosine"

        def encode_document(self, texts, **options):
            return np.array([[text.count(c) for c in "abc"] for text in texts], np.float32)

        encode_query = encode_document

    index = Index(Letters(), fingerprint="letters")
    index.add(["ab", "aab", "c"])
    hits = retrieve_and_rerank("a", index, Lengths(), k=2, candidates=3)
    assert [hit.text for hit in hits] == ["aab", "ab"]
