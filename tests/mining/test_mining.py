"""Pairs and hard negatives against brute force in float64 and sentence-transformers, with ties and bad values."""

import sys
import types

import numpy as np
import pytest

from minisbert import DataError, InputError, SentenceEncoder, community_detection, semantic_search
from minisbert.mining import all_pairs as blocks
from minisbert.mining import paraphrases as mining
from minisbert.mining import screening
from minisbert.mining.hard_negatives import hard_negatives, triplet_lines
from minisbert.mining.paraphrases import best_pair, best_pairs, bitext_pairs, mine_paraphrases, pairs_above

TOLERANCE = 2e-6  # float32 products of unit rows in another order of summation; measured 3e-7


def made(rows, width=12, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def all_pairs(rows, similarity="cosine"):
    """The definition: every pair, a stable sort."""
    x = unit(rows) if similarity == "cosine" else np.asarray(rows, np.float64)
    i, j = np.triu_indices(len(x), 1)
    scores = (x @ x.T)[i, j]
    order = np.argsort(-scores, kind="stable")
    return scores[order], np.stack([i, j], axis=1)[order]


@pytest.fixture(params=[(1024, 16_384), (16, 64), (7, 10)], ids=str)
def small_blocks(request, monkeypatch):
    monkeypatch.setattr(blocks, "ROWS", request.param[0])
    monkeypatch.setattr(blocks, "COLUMNS", request.param[1])


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("rows, k", [(2, 1), (3, 10), (64, 1), (129, 7), (129, 300), (65, 10_000)])
def test_best_pairs_as_a_sort_of_all(small_blocks, similarity, rows, k):
    embeddings = made(rows, seed=rows)
    scores, pairs = all_pairs(embeddings, similarity)
    found = best_pairs(embeddings, k, similarity=similarity)
    assert found.scores_K.dtype == np.float32 and found.rows_K2.dtype == np.int64
    assert (found.rows_K2 == pairs[:k]).all() and len(found.rows_K2) == min(k, rows * (rows - 1) // 2)
    np.testing.assert_allclose(found.scores_K, scores[:k], rtol=1e-5, atol=TOLERANCE)


@pytest.mark.parametrize("k", [1, 5, 40, 500])
def test_ties_go_to_the_lower_rows(small_blocks, k):
    """Small whole numbers are exact in float32, so that nearly every score is tied."""
    embeddings = np.random.default_rng(1).integers(-1, 2, (90, 4)).astype(np.float32)
    scores, pairs = all_pairs(embeddings, "dot")
    found = best_pairs(embeddings, k, similarity="dot")
    assert (found.rows_K2 == pairs[:k]).all() and (found.scores_K == scores[:k]).all()


def awkward():
    rng = np.random.default_rng(7)
    near = made(1, 40) + 0.002 * made(300, 40)  # closer together than bfloat16 can tell
    ties = rng.integers(-1, 2, (300, 6)).astype(np.float32)
    scaled = made(300) * 10.0 ** rng.uniform(-3, 3, (300, 1)).astype(np.float32)
    negative = -abs(made(1, 8)) * np.sign(rng.normal(size=(300, 1))).astype(np.float32)
    return {"random": made(300), "near": near, "ties": ties, "scaled": scaled, "opposed": negative, "zero": 0 * near}


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("name", awkward())
def test_a_first_look_in_bfloat16_changes_nothing(name, similarity, monkeypatch):
    embeddings = awkward()[name]
    expected = [best_pairs(embeddings, k, similarity=similarity) for k in (1, 4)]
    monkeypatch.setattr(mining, "SCREENED", 2)
    monkeypatch.setattr(mining, "TOGETHER", 8)
    monkeypatch.setattr(screening, "TILE", 64)
    for found, direct in zip([best_pairs(embeddings, k, similarity=similarity) for k in (1, 4)], expected, strict=True):
        np.testing.assert_allclose(found.scores_K, direct.scores_K, rtol=1e-5, atol=TOLERANCE)
        if name in ("random", "scaled") or (name, similarity) == ("ties", "dot"):  # others tie within rounding
            assert (found.rows_K2 == direct.rows_K2).all()
    rows = blocks.checked_rows("rows", embeddings, similarity)
    products = rows.astype(np.float64) @ rows.T.astype(np.float64)
    highest = np.where(np.tri(300, dtype=bool), -np.inf, products).max(axis=1)
    assert (screening.row_bounds(rows) >= highest).all()


def test_pairs_above(small_blocks):
    embeddings = made(100)
    scores, pairs = all_pairs(embeddings)
    count = int((scores >= 0.4).sum())
    assert 5 < count < 1000
    assert (pairs_above(embeddings, 0.4).rows_K2 == pairs[:count]).all()
    assert len(pairs_above(embeddings, 0.4, limit=count).rows_K2) == count
    with pytest.raises(InputError, match=f"more than {count - 1} pairs have a similarity of at least 0.4"):
        pairs_above(embeddings, 0.4, limit=count - 1)
    assert len(pairs_above(embeddings, 1.1).rows_K2) == 0


def test_a_zero_vector_is_similar_to_nothing():
    embeddings = np.array([[0, 0], [1, 0], [0, 0], [1, 1]], np.float32)
    found = best_pairs(embeddings, 6)
    assert found.rows_K2[0].tolist() == [1, 3] and (found.scores_K[1:] == 0).all()
    assert len(pairs_above(embeddings, 0.1).rows_K2) == 1
    assert bitext_pairs(embeddings, embeddings, neighbours=1).rows_K2.tolist() == [[1, 1], [3, 3]]


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_to_pair(rows):
    embeddings = np.ones((rows, 3), np.float32)
    assert best_pairs(embeddings).rows_K2.shape == pairs_above(embeddings, 0).rows_K2.shape == (0, 2)
    assert bitext_pairs(embeddings, np.ones((0, 3))).rows_K2.shape == (0, 2)
    with pytest.raises(InputError, match="fewer than 2 rows"):
        best_pair(embeddings)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_bad_rows_are_named(bad):
    embeddings = made(5)
    embeddings[3, 1] = bad
    for call in (best_pair, best_pairs, lambda x: pairs_above(x, 0.5)):
        with pytest.raises(InputError, match=r"embeddings\[3\]"):
            call(embeddings)
    with pytest.raises(InputError, match=r"b\[3\]"):
        bitext_pairs(made(4), embeddings)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: best_pairs(x, 0), "k is 0"),
        (lambda x: best_pairs(x, True), "k is True"),
        (lambda x: best_pairs(x, similarity="euclidean"), "similarity is 'euclidean'"),
        (lambda x: pairs_above(x, float("nan")), "threshold is nan"),
        (lambda x: pairs_above(x, "0.9"), "threshold is '0.9'"),
        (lambda x: pairs_above(x, 0.9, limit=0), "limit is 0"),
        (lambda x: bitext_pairs(x, made(3, 5)), "a has width 12, b 5"),
        (lambda x: bitext_pairs(x, x, neighbours=0), "neighbours is 0"),
        (lambda x: best_pairs("texts"), "embeddings is 'texts'"),
    ],
)
def test_arguments_out_of_range(call, message):
    with pytest.raises(InputError, match=message):
        call(made(4))


# --- two sets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neighbours", [1, 4, 50])
def test_bitext_pairs_follow_the_formula(neighbours):
    # Off centre, so that no mean cosine is below 0.
    a, b = made(30, seed=1), np.concatenate([made(30, seed=1) + 0.6 * made(30, seed=2), made(8, seed=3)])
    a, b = a + 1, b + 1
    cosines = unit(a) @ unit(b).T
    mean_a = np.sort(cosines, axis=1)[:, -neighbours:].mean(axis=1)
    mean_b = np.sort(cosines, axis=0)[-neighbours:].mean(axis=0)
    margin = cosines / ((mean_a[:, None] + mean_b[None]) / 2)
    near_a = [np.argsort(-row, kind="stable")[:neighbours] for row in cosines]
    near_b = [np.argsort(-row, kind="stable")[:neighbours] for row in cosines.T]
    candidates = {(i, max(js, key=lambda j, i=i: margin[i, j])) for i, js in enumerate(near_a)}
    candidates |= {(max(rows, key=lambda i, j=j: margin[i, j]), j) for j, rows in enumerate(near_b)}
    expected, taken_a, taken_b = [], set(), set()
    for i, j in sorted(candidates, key=lambda pair: -margin[pair]):
        if i not in taken_a and j not in taken_b:
            expected.append((i, int(j)))
            taken_a.add(i)
            taken_b.add(j)
    found = bitext_pairs(a, b, neighbours=neighbours)
    if neighbours > 1:  # with one, each other's nearest have 1, but for rounding
        assert list(map(tuple, found.rows_K2.tolist())) == expected
        half = float(found.scores_K[10])
        assert len(bitext_pairs(a, b, neighbours=neighbours, threshold=half).scores_K) == 11
    assert set(map(tuple, found.rows_K2.tolist())) == set(expected)
    np.testing.assert_allclose(found.scores_K, [margin[pair] for pair in expected], rtol=1e-5)


def test_no_rows_make_no_pairs():
    for found in (best_pairs([], 3), pairs_above([], 0.5), bitext_pairs([], made(2)), bitext_pairs(made(2), [])):
        assert len(found.scores_K) == 0 and found.rows_K2.shape == (0, 2)
    with pytest.raises(InputError, match="fewer than 2 rows"):
        best_pair([])


def test_small_types_of_whole_numbers():
    assert (best_pairs(made(40), np.uint8(200)).rows_K2 == best_pairs(made(40), 200).rows_K2).all()


# --- hard negatives ------------------------------------------------------------------------------------------------


class Table:
    """An encoder whose embeddings are given."""

    def __init__(self, **vectors):
        self.vectors = vectors

    def encode_query(self, texts, **options):
        return np.array([self.vectors[text] for text in texts], np.float32)

    encode_document = encode_query


def at(cosine):
    return [cosine, (1 - cosine**2) ** 0.5]


LADDER = Table(q=at(1), p=at(0.8), a=at(0.95), b=at(0.9), c=at(0.7), d=at(0.5), e=at(0.2))
CORPUS = ["e", "d", "c", "b", "a", "q"]


@pytest.mark.parametrize(
    "options, negatives",
    [
        ({}, ["a", "b"]),
        ({"range_min": 1}, ["b", "c"]),
        ({"range_min": 1, "range_max": 3}, ["b", "c"]),
        ({"max_score": 0.92}, ["b", "c"]),
        ({"absolute_margin": 0.0}, ["c", "d"]),
        ({"absolute_margin": 0.2}, ["d", "e"]),
        ({"relative_margin": 0.2}, ["d", "e"]),
        ({"max_score": 0.6, "min_score": 0.3}, None),
        ({"rescore": lambda pairs: [{"e": 9, "d": 8}.get(text, 0) for _, text in pairs]}, ["e", "d"]),
        ({"rescore": lambda pairs: [{"p": 5, "e": 9}.get(b, 3) for _, b in pairs], "absolute_margin": 1}, ["a", "b"]),
    ],
)
def test_hard_negatives(options, negatives):
    mined = hard_negatives(LADDER, ["q"], ["p"], CORPUS, number=2, **options)
    assert mined == (([("q", "p", *negatives)], 0) if negatives else ([], 1))


def test_every_positive_of_an_anchor_is_spared():
    mined = hard_negatives(LADDER, ["q", "q", "q"], ["p", "b", "p"], CORPUS, number=1, absolute_margin=0.05)
    assert mined.rows == [("q", "p", "c"), ("q", "b", "c")]  # the margin is to the lower positive


NEARER = {f"n{i}": i for i in range(1, 12)}


@pytest.mark.parametrize(
    "degrees, pairs, options, rows",
    [
        ({"p": 40, "n1": 10, "n2": 50}, ["p"], {"range_max": 1}, []),
        ({"p": 40, "n1": 10, "n2": 50}, ["p"], {"range_max": np.int32(2)}, [("q", "p", "n2")]),
        ({"p": 40, "n1": 10, "n2": 50}, ["p", "p"], {"range_max": 1}, [("q", "p", "n2")]),  # a repeated pair counts
        ({"p": 40, "q": 0, "n2": 50}, ["p"], {"range_max": 1}, [("q", "p", "n2")]),  # the anchor takes no place
        (
            {"p1": 60, "p2": 61, "p3": 62, **NEARER, "far": 80},
            ["p1", "p2", "p3"],
            {},
            [("q", f"p{i}", "far") for i in (1, 2, 3)],
        ),
    ],
)
def test_the_positives_enlarge_the_range(degrees, pairs, options, rows):
    """Expected: what sentence-transformers finds among vectors at these angles, except that it also ranks the anchor."""
    angles = {name: np.radians(angle) for name, angle in {"q": 0, **degrees}.items()}
    encoder = Table(**{name: [np.cos(angle), np.sin(angle)] for name, angle in angles.items()})
    mined = hard_negatives(encoder, ["q"] * len(pairs), pairs, list(degrees), absolute_margin=0.0, **options)
    assert mined.rows == rows


@pytest.mark.parametrize(
    "words, message",
    [
        ({"number": 0}, "number is 0"),
        ({"range_min": -1}, "range_min is -1"),
        ({"range_min": 2, "range_max": 2}, "Expected at least 1 candidates in between"),
        ({"max_score": float("nan")}, "max_score is nan"),
        ({"rescore": lambda pairs: [0.0]}, "rescore returned"),
        ({"rescore": lambda pairs: [float("nan")] * len(pairs)}, "rescore returned"),
        ({"rescore": lambda pairs: ["high"] * len(pairs)}, "rescore returned"),
        ({"rescore": lambda pairs: [10**400] * len(pairs)}, "rescore returned"),
        ({"rescore": 3}, "rescore is 3. Expected a function"),
        ({"positives": []}, "1 anchors and 0 positives"),
        ({"positives": [3]}, "3"),
    ],
)
def test_mining_mistakes(words, message):
    with pytest.raises(InputError, match=message):
        hard_negatives(**{"encoder": LADDER, "anchors": ["q"], "positives": ["p"], "corpus": CORPUS} | words)


@pytest.mark.parametrize(
    "rows",
    [
        [("an anchor", 'a "positive"', "n1", "é 中"), ("b", "c", "d", "e")],
        [("a", '"We are happy.', "b"), ("c", 'It is good."', "d")],
        [("a", '"a ""b"" c"', '"whole"'), ("c", '"', '""')],
    ],
)
@pytest.mark.parametrize("kind", [".tsv", ".jsonl"])
def test_training_reads_the_triplets_that_are_written(kind, rows, tmp_path):
    from minisbert.data.examples import open_examples

    file = tmp_path / f"triplets{kind}"
    file.write_text("".join(triplet_lines(rows, kind)), encoding="utf-8")
    examples = open_examples(str(file))
    assert examples.dataset.kind == "triplets"
    assert list(zip(*examples.take(range(2))[0], strict=True)) == rows


def test_triplets_have_two_kinds_of_file():
    with pytest.raises(InputError, match=r"kind is 'jsonl'. Expected one of '.tsv', '.jsonl'"):
        list(triplet_lines([("a", "b", "c")], "jsonl"))


def test_a_tab_does_not_fit_into_tsv():
    with pytest.raises(DataError, match="has a tab or a line break"):
        list(triplet_lines([("a", "b", "c\td")]))
    assert '"c\\td"' in "".join(triplet_lines([("a", "b", "c\td")], ".jsonl"))


# --- sentence-transformers -----------------------------------------------------------------------------------------


@pytest.mark.parity
def test_pairs_as_sentence_transformers():
    torch = pytest.importorskip("torch", reason="pip install -e '.[parity]'")
    util = pytest.importorskip("sentence_transformers", reason="pip install -e '.[parity]'").util
    embeddings = made(200, 16)
    theirs = util.paraphrase_mining_embeddings(torch.tensor(embeddings), top_k=199, max_pairs=60)
    ours = best_pairs(embeddings, 60)
    assert ours.rows_K2.tolist() == [sorted(pair[1:]) for pair in theirs[:60]]
    np.testing.assert_allclose(ours.scores_K, [pair[0] for pair in theirs[:60]], atol=TOLERANCE)


@pytest.mark.parity
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"range_min": 2, "range_max": 9},
        {"relative_margin": 0.05},
        {"absolute_margin": 0.1, "max_score": 0.7, "range_max": 20},
        {"absolute_margin": 0.0, "range_max": 4},
        {"min_score": 0.2},
    ],
    ids=str,
)
def test_hard_negatives_as_sentence_transformers(options, monkeypatch):
    torch = pytest.importorskip("torch", reason="pip install -e '.[parity]'")
    util = pytest.importorskip("sentence_transformers", reason="pip install -e '.[parity]'").util
    pandas = pytest.importorskip("pandas", reason="pip install -e '.[parity]'")
    anchors = [f"q{i % 25}" for i in range(30)]  # some with two positives
    positives, more = [f"p{i}" for i in range(30)], [f"x{i}" for i in range(60)]
    vectors = dict(zip([*dict.fromkeys(anchors), *positives, *more], unit(made(115, 6)).tolist(), strict=True))
    for i, (a, p) in enumerate(zip(anchors, positives, strict=True)):
        vectors[p] = unit([np.array(vectors[a]) + 0.3 * made(1, 6, i)[0]])[0].tolist()

    class Peer:
        device, prompts = torch.device("cpu"), {}
        similarity, similarity_pairwise = staticmethod(util.cos_sim), staticmethod(util.pairwise_cos_sim)

        def encode_query(self, texts, **kwargs):
            return np.array([vectors[text] for text in texts], np.float32)

        encode_document = encode_query

    class Dataset(pandas.DataFrame):
        """As much of `datasets.Dataset` as the function uses, so that the test needs no `datasets`."""

        column_names, from_dict = property(list), classmethod(lambda cls, columns: cls(columns))
        to_pandas = pandas.DataFrame.copy

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(Dataset=Dataset))
    monkeypatch.setattr(sys.modules[util.mine_hard_negatives.__module__], "is_datasets_available", lambda: True)
    data = Dataset({"anchor": anchors, "positive": positives})
    theirs = util.mine_hard_negatives(
        data, Peer(), corpus=more, num_negatives=3, output_format="n-tuple", verbose=False, **options
    )
    ours = hard_negatives(Table(**vectors), anchors, positives, more, number=3, **options)
    rows = list(theirs.itertuples(index=False, name=None))
    assert sorted(rows) == sorted(ours.rows) and len(rows) > 5


@pytest.mark.parametrize("name", ["top_k", "score_function"])
def test_what_limits_the_search_elsewhere_is_refused_by_name(name):
    with pytest.raises(InputError, match=f"mine_paraphrases got {name}. Expected none: it compares all pairs"):
        mine_paraphrases(LADDER, ["a man", "a dog"], **{name: 2})


def test_sizes_that_change_nothing():
    vectors = made(30)
    assert community_detection(vectors, 0.5, 2, batch_size=7) == community_detection(vectors, 0.5, 2)
    assert semantic_search(vectors, vectors, query_chunk_size=7, corpus_chunk_size=9) == semantic_search(
        vectors, vectors
    )
    encoder = SentenceEncoder("weights/tiny-static")
    found = mine_paraphrases(encoder, ["a", "b", "c"], query_chunk_size=1, corpus_chunk_size=2, batch_size=2)
    assert found == mine_paraphrases(encoder, ["a", "b", "c"])
    with pytest.raises(InputError, match="batch_size is 0"):
        community_detection(vectors, batch_size=0)
    for search, given in ((semantic_search, (vectors, vectors)), (mine_paraphrases, (encoder, ["a", "b"]))):
        with pytest.raises(InputError, match="query_chunk_size is 0"):
            search(*given, query_chunk_size=0)


def test_each_side_of_hard_negatives_has_its_prompt():
    seen = {}

    class Encoder:
        def encode_query(self, texts, **options):
            seen["query"] = options
            return LADDER.encode_query(texts)

        def encode_document(self, texts, **options):
            seen["corpus"] = options
            return LADDER.encode_document(texts)

    options = {"batch_size": 2, "query_prompt": "q: ", "corpus_prompt_name": "passage"}
    mined = hard_negatives(Encoder(), ["q"], ["p"], CORPUS, **options)
    assert mined == hard_negatives(LADDER, ["q"], ["p"], CORPUS)
    assert seen == {"query": {"batch_size": 2, "prompt": "q: "}, "corpus": {"batch_size": 2, "prompt_name": "passage"}}
    with pytest.raises(InputError, match="precision is 'int8'"):
        hard_negatives(Encoder(), ["q"], ["p"], query_precision="int8")


@pytest.mark.parity
def test_mine_paraphrases_as_sentence_transformers():
    torch = pytest.importorskip("torch", reason="pip install -e '.[parity]'")
    util = pytest.importorskip("sentence_transformers", reason="pip install -e '.[parity]'").util
    vectors = made(60, 16)

    class Given:
        def encode(self, texts, convert_to_tensor=False, **options):
            rows = np.array([vectors[int(text)] for text in texts])
            return torch.tensor(rows) if convert_to_tensor else rows

    texts = [str(row) for row in range(60)]
    theirs = util.paraphrase_mining(Given(), texts, max_pairs=40)
    ours = mine_paraphrases(Given(), texts, max_pairs=40)
    assert [pair[1:] for pair in ours] == [sorted(pair[1:]) for pair in theirs[:40]]
    np.testing.assert_allclose([pair[0] for pair in ours], [pair[0] for pair in theirs[:40]], atol=TOLERANCE)
