"""Communities against their definition and sentence-transformers; clusters, names and scores against scikit-learn."""

import re
import sys
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest

from minisbert import InputError
from minisbert.commands.cluster_map import look, save_map
from minisbert.mining import all_pairs as blocks
from minisbert.mining import clustering
from minisbert.mining.clustering import (
    community_detection,
    community_labels,
    medoid_rows,
    pca_2d,
    v_measure,
    word_labels,
)


def blobs(rows=300, groups=12, width=24, seed=0, noise=(0.1, 0.9)):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, rows)
    spread = rng.uniform(*noise, (rows, 1))
    return (rng.normal(size=(groups, width))[group] + spread * rng.normal(size=(rows, width))).astype(np.float32), group


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def by_definition(embeddings, threshold, least):
    cosines = unit(embeddings) @ unit(embeddings).T
    groups = [
        (i, [j for j in np.argsort(-row, kind="stable").tolist() if row[j] >= threshold])
        for i, row in enumerate(cosines)
    ]
    used, found = set(), []
    for centre, near in sorted((g for g in groups if len(g[1]) >= least), key=lambda g: -len(g[1])):
        free = [j for j in near if j not in used and j != centre]
        if centre not in used and len(free) + 1 >= least:
            found.append([centre, *free])
            used.update(found[-1])
    return sorted(found, key=len, reverse=True)


def test_no_rows_make_no_clusters():
    assert community_detection([]) == [] and medoid_rows([], []) == []
    with pytest.raises(InputError, match="embeddings has 0 rows"):
        clustering.agglomerative([], 2)


@pytest.mark.parametrize("threshold, least", [(0.5, 2), (0.7, 5), (0.75, 1), (0.1, 10), (-0.2, 3), (0.99, 2)])
@pytest.mark.parametrize("size", [(1024, 16_384, 256), (32, 64, 5)], ids=str)
def test_communities_as_defined(threshold, least, size, monkeypatch):
    monkeypatch.setattr(blocks, "ROWS", size[0])
    monkeypatch.setattr(blocks, "COLUMNS", size[1])
    monkeypatch.setattr(clustering, "CENTRES", size[2])
    embeddings, _ = blobs()
    found = community_detection(embeddings, threshold, least)
    assert found == by_definition(embeddings, threshold, least)
    labels = community_labels(found, len(embeddings))
    assert [np.flatnonzero(labels == c).tolist() for c in range(len(found))] == [sorted(some) for some in found]


@pytest.mark.parity
@pytest.mark.parametrize("threshold, least", [(0.6, 3), (0.75, 10), (0.4, 2)])
def test_communities_as_sentence_transformers(threshold, least):
    util = pytest.importorskip("sentence_transformers", reason="pip install -e '.[parity]'").util
    embeddings, _ = blobs(700, 30, seed=3)
    theirs = util.community_detection(embeddings, threshold, least)
    assert community_detection(embeddings, threshold, least) == theirs and theirs


def test_communities_at_the_edges():
    assert community_detection(np.empty((0, 3))) == []
    assert community_detection([[1.0, 0.0]], 0.5, 1) == [[0]]
    zeros = np.zeros((4, 2), np.float32)
    assert community_detection(zeros, 0.5, 1) == []
    assert community_detection(np.ones((5, 2)), 0.9, 5) == [[0, 1, 2, 3, 4]]
    assert community_detection(np.ones((5, 2)), 0.9, 6) == []
    bad = np.ones((3, 2))
    bad[1, 0] = np.nan
    for embeddings, options, message in [
        (bad, {}, r"embeddings\[1\] contains NaN"),
        (zeros, {"threshold": float("inf")}, "threshold is inf"),
        (zeros, {"min_community_size": 0}, "min_community_size is 0"),
    ]:
        with pytest.raises(InputError, match=message):
            community_detection(embeddings, **options)


# --- scikit-learn --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        lambda x: clustering.kmeans(x, 5),
        lambda x: clustering.agglomerative(x, 5),
        lambda x: clustering.agglomerative(x, distance_threshold=3.0),
        lambda x: clustering.hdbscan(x, 8),
    ],
)
def test_clear_groups_are_found(method):
    pytest.importorskip("sklearn", reason="pip install -e '.[cluster]'")
    embeddings, group = blobs(150, 5, noise=(0.05, 0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        labels = method(embeddings)
    assert v_measure(group, labels).v_measure == pytest.approx(1)
    sizes = np.bincount(labels)
    assert (np.diff(sizes) <= 0).all()  # the largest is number 0


def test_mistakes_with_scikit_learn(monkeypatch):
    embeddings, _ = blobs(20)
    for call, message in [
        (lambda: clustering.kmeans(embeddings, 21), "embeddings has 20 rows. Expected at least 21"),
        (lambda: clustering.kmeans(embeddings, 0), "clusters is 0"),
        (lambda: clustering.agglomerative(embeddings), "either clusters or distance_threshold"),
        (lambda: clustering.hdbscan(embeddings, 1), "min_cluster_size is 1"),
        (lambda: clustering.hdbscan(np.empty((0, 3)), 5), "has 0 rows"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    monkeypatch.setattr(clustering, "MOST_AGGLOMERATED", 19)
    with pytest.raises(InputError, match="Expected at most 19"):
        clustering.agglomerative(embeddings, 2)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(InputError, match=r"pip install 'minisbert\[cluster\]'"):
        clustering.kmeans(embeddings, 2)


def test_v_measure_as_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="pip install -e '.[cluster]'")
    rng = np.random.default_rng(5)
    for classes, clusters in [(4, 4), (1, 3), (3, 1), (1, 1), (20, 7)]:
        a, b = rng.integers(0, classes, 60), rng.integers(-1, clusters - 1, 60)
        expected = metrics.homogeneity_completeness_v_measure(a, b)
        assert v_measure([f"class {i}" for i in a], b) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(InputError, match="Expected equal numbers"):
        v_measure([1, 2], [1])


# --- what a cluster is about ---------------------------------------------------------------------------------------


def test_medoids():
    embeddings, labels = blobs(60, 4)
    cosines = unit(embeddings) @ unit(embeddings).T
    for cluster, medoid in enumerate(medoid_rows(embeddings, labels)):
        members = np.flatnonzero(labels == cluster)
        assert medoid == members[cosines[np.ix_(members, members)].sum(axis=1).argmax()]
    assert medoid_rows(np.empty((0, 2)), np.empty(0, int)) == []
    with pytest.raises(InputError, match="labels have shape"):
        medoid_rows(embeddings, labels[:-1])


def test_words_by_the_formula():
    texts = ["cat cat dog", "dog dog dog bird", "cat fish", "noise noise"]
    labels = [0, 0, 1, -1]
    # Cluster 0 has 7 words, cluster 1 has 2: A = 4.5. In all: cat 3, dog 4, bird 1, fish 1.
    weights = {"cat": 2 / 7 * np.log(1 + 4.5 / 3), "dog": 4 / 7 * np.log(1 + 4.5 / 4), "bird": np.log(5.5) / 7}
    expected = sorted(weights, key=weights.get, reverse=True)
    assert word_labels(texts, labels, 3) == [expected, ["fish", "cat"]]
    assert word_labels(["1 2 !"], [0]) == [[]]
    assert word_labels(["the cat and the dog", "it was not the fish"], [0, 1]) == [["cat", "dog"], ["fish"]]


def test_the_plane_is_pca():
    embeddings, _ = blobs(80)
    flat = pca_2d(embeddings)
    centred = unit(embeddings) - unit(embeddings).mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(abs(flat), abs(left[:, :2] * values[:2]), atol=1e-4)  # float32 products, then SVD
    assert pca_2d(np.ones((1, 3))).tolist() == [[0, 0]] and pca_2d(np.ones((3, 1))).shape == (3, 2)
    assert pca_2d(np.empty((0, 3))).shape == (0, 2)


# --- the map -------------------------------------------------------------------------------------------------------

EVIL = [
    '<script>alert("x")</script>',
    "\"' onmouseover=alert(1) x='",
    "</svg>&amp; $\\frac{",
    "{braces}\x00\x1b\u202e 中",
]


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        assert not {"src", "href", "onmouseover"} & set(attributes)
        if "data-text" in attributes:
            self.texts.append(attributes["data-text"])


def test_strangers_sentences_stay_text(tmp_path):
    out = tmp_path / "map.html"
    save_map(str(out), np.arange(8.0).reshape(4, 2), np.array([0, 1, -1, 0]), EVIL, EVIL[:2], title=EVIL[0])
    source = out.read_text(encoding="utf-8")
    page = Page()
    page.feed(source)
    assert page.tags.count("script") == 1 and page.tags.count("svg") == 1 + 3
    assert page.texts == [f"0: {EVIL[0]}", f"1: {EVIL[1]}", EVIL[2], "0: {braces}\ufffd\ufffd\ufffd 中"]
    assert "default-src 'none'" in source and "unsafe" not in source and not re.search(r"https?:", source)


def test_the_picture(tmp_path):
    out = tmp_path / "map.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_map(str(out), np.random.default_rng(0).normal(size=(40, 2)), np.arange(-1, 39), EVIL * 10, EVIL * 10)
        save_map(str(tmp_path / "no.png"), np.empty((0, 2)), np.empty(0, int), [], [])
    assert out.read_bytes()[:4] == b"\x89PNG"


def test_looks_differ():
    assert len({look(cluster)[:2] for cluster in range(-1, 22)}) == 23 and look(22) == look(99)
