"""Exact search against a plain sort of all similarities, at the edges of every chunk and block, and with bad numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minisbert import DataError, InputError
from minisbert.search import exact, top_k
from minisbert.search.exact import nearest, semantic_search
from minisbert.search.top_k import block_top_k, update_top_k
from minisbert.search.vectors import NpyFile, Vectors

TOLERANCE = 2e-6  # float32 products of unit rows in another order of summation; measured 3e-7


@pytest.fixture(autouse=True, scope="module", params=["numpy", "jax"])
def engine(request):
    """Every test by both: in NumPy, and on the devices, where larger searches are done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "NUMPY_PRODUCTS", 1 << 40 if request.param == "numpy" else 0)
        yield request.param


def made(rows, width, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def whole(queries, corpus, k, similarity="cosine"):
    """Float64, all similarities in one matrix, a stable sort: the definition."""
    q, c = queries.astype(np.float64), np.asarray(corpus, np.float64)
    if similarity == "cosine":
        q, c = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (q, c))
    scores = q @ c.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize(
    ("queries", "rows", "k", "chunk"),
    [
        (1, 1, 1, None),
        (3, 700, 10, None),
        (9, 5000, 10, None),
        (600, 2000, 3, 512),
        (5, 1000, 300, 128),
        (2, 97, 97, 16),
    ],
)
def test_as_a_sort_of_all_similarities(similarity, queries, rows, k, chunk):
    q, c = made(queries, 24, 1), made(rows, 24, 2)
    hits = nearest(q, c, k, similarity=similarity, chunk_rows=chunk)
    scores, found = whole(q, c, k, similarity)
    assert hits.scores_BK.dtype == np.float32 and hits.rows_BK.dtype == np.int64
    assert (hits.rows_BK == found).all()
    np.testing.assert_allclose(hits.scores_BK, scores, rtol=1e-5, atol=TOLERANCE)


@pytest.mark.parametrize("chunk", [None, 64, 100, 256])
def test_ties_go_to_the_lower_row(chunk):
    """Small whole numbers are exact in float32, so that nearly every score is tied, zeros of both signs among them."""
    rng = np.random.default_rng(3)
    q, c = (rng.integers(-1, 2, (n, 5)).astype(np.float32) for n in (40, 900))
    c[:7] = -0.0
    hits = nearest(q, c, 50, similarity="dot", chunk_rows=chunk)
    scores, found = whole(q, c, 50, "dot")
    assert (hits.rows_BK == found).all() and (hits.scores_BK == scores).all()


@pytest.mark.parametrize("order", ["ascending", "descending", "all equal"])
def test_every_order_of_the_corpus(order, engine, monkeypatch):
    """Ascending, each chunk holds only better rows than those before, and is ranked whole; descending, none is."""
    ranked = []
    device = top_k.update_top_k
    monkeypatch.setattr(top_k, "update_top_k", lambda *a, **o: ranked.append(a[3]) or device(*a, **o))
    number = {"ascending": np.arange(1, 1001), "descending": np.arange(1000, 0, -1), "all equal": np.ones(1000)}
    corpus = number[order].astype(np.float32)[:, None]
    hits = nearest([[1.0], [2.0]], corpus, 5, similarity="dot", chunk_rows=64)
    assert (hits.rows_BK == ([999, 998, 997, 996, 995] if order == "ascending" else [0, 1, 2, 3, 4])).all()
    assert engine == "numpy" or ranked == (list(range(0, 1000, 64)) if order == "ascending" else [0])


def test_equal_rows_of_ordinary_numbers_tie_too():
    c = np.tile(made(7, 384, 4), (1500, 1))
    hits = nearest(made(33, 384, 5), c, 40)
    assert (np.diff(hits.rows_BK, axis=1) == 7).all(), "the row most alike repeats every 7 rows"


@pytest.mark.parametrize("count", [None, 4000])
@pytest.mark.parametrize("k", [1, 3, 16])
def test_blocks_rank_as_top_k(k, count):
    """Few high scores, many times each, so that a block's second best ties with the best of an earlier block."""
    scores = np.floor(30 * np.random.default_rng(k).random((200, 4096)) ** 99).astype(np.float32)
    scores[:, 4000:] = 99.0 if count else 0.0
    values, columns = jax.jit(block_top_k, static_argnums=2)(scores, count, k)
    expected, places = jax.lax.top_k(scores[:, :count], k)
    assert (values == expected).all() and (columns == places).all()


@pytest.mark.parametrize("width", [64, 4096])
def test_zeros_of_both_signs_tie(width):
    zeros = np.where(np.random.default_rng(0).random((5, width)) < 0.5, np.float32(0.0), np.float32(-0.0))
    _, columns = block_top_k(jnp.asarray(zeros), None, 7)
    assert (columns == np.arange(7)).all()


def test_the_edges_of_k_and_of_the_corpus():
    q, c = made(2, 4, 1), made(5, 4, 2)
    assert nearest(q, c, 9).rows_BK.shape == (2, 5)
    assert sorted(nearest(q, c, 9).rows_BK[0]) == [0, 1, 2, 3, 4]
    assert nearest(q, c[:0], 3).rows_BK.shape == (2, 0)
    assert nearest(q[:0], c, 3).scores_BK.shape == (0, 3)
    assert nearest(q[0], c, 3).rows_BK.shape == (1, 3)


def test_a_zero_vector_has_cosine_0_with_everything():
    c = np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], np.float32)
    hits = nearest(np.array([[1.0, 0.0], [0.0, 0.0]]), c, 3)
    assert hits.rows_BK.tolist() == [[2, 1, 0], [0, 1, 2]]
    assert hits.scores_BK.tolist() == [[1, 0, -1], [0, 0, 0]]


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_not_finite_is_refused_by_row(value, similarity):
    q, c = made(3, 8, 1), made(2000, 8, 2)
    bad = c.copy()
    bad[1234, 5] = value
    with pytest.raises(InputError, match=r"corpus\[1234\] contains NaN or infinity"):
        nearest(q, bad, 2, similarity=similarity, chunk_rows=500)
    bad = q.copy()
    bad[2, 0] = value
    with pytest.raises(InputError, match=r"queries\[2\]"):
        nearest(bad, c, 2, similarity=similarity)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_overflow_is_refused(similarity):
    """No square, or only their sum, or one product and not the other (inf - inf) fits into float32."""
    for long in ([1e30, 0.0], [1.5e19, 1.5e19], [1e30, -1e30]):
        with pytest.raises(InputError, match=r"queries\[1\] is too long"):
            nearest(np.array([[1.0, 2.0], long]), made(3, 2), 1, similarity=similarity)
        with pytest.raises(InputError, match=r"corpus\[2\] .* too long"):
            nearest(made(3, 2), np.array([[1.0, 2.0], [0.0, 1.0], long]), 1, similarity=similarity)
    large = np.array([[1.8e19, 0.0], [-1.8e19, 0.0], [0.0, 1.8e19]], np.float32)
    hits = nearest(large, large, 3, similarity=similarity)
    assert np.isfinite(hits.scores_BK).all() and hits.rows_BK[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((np.ones((1, 3)), np.ones((2, 4))), "width 3, the corpus 4"),
        ((np.ones((1, 4)), np.ones(4)), "Expected rows"),
        ((np.ones((1, 4)), np.ones((2, 4), np.int8)), "quantized"),
        ((np.ones((1, 4)), [[1.0, 2.0], [1.0]]), "all of one width"),
        ((np.ones((1, 4)), np.ones((2, 4)), -1), "k is -1"),
        ((np.ones((1, 4)), np.ones((2, 4)), True), "k is True"),
        (("text", np.ones((2, 4))), "Expected embeddings"),
    ],
)
def test_bad_arguments_are_refused(arguments, word):
    with pytest.raises(InputError, match=word):
        nearest(*arguments)


def test_bad_options_are_refused():
    with pytest.raises(InputError, match="similarity is 'euclidean'"):
        nearest(np.ones((1, 4)), np.ones((2, 4)), similarity="euclidean")
    with pytest.raises(InputError, match=r"recall is 1\.5"):
        nearest(np.ones((1, 4)), np.ones((2, 4)), recall=1.5)
    with pytest.raises(InputError, match="chunk_rows is 0"):
        nearest(np.ones((1, 4)), np.ones((2, 4)), chunk_rows=0)


def test_approximate_search_with_recall():
    q, c = made(20, 16, 1), made(3000, 16, 2)
    hits, (_, found) = nearest(q, c, 10, recall=0.9), whole(q, c, 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(hits.rows_BK, found, strict=True)])
    assert shared >= 0.85
    assert (np.diff(hits.scores_BK, axis=1) <= 0).all()


def test_numpy_jax_mapped_arrays_and_files_agree(tmp_path, engine):
    q, c = made(4, 12, 1), made(1000, 12, 2)
    np.save(tmp_path / "c.npy", c)
    expected = nearest(q, c, 7, chunk_rows=300)
    for corpus in (
        jnp.asarray(c),
        tmp_path / "c.npy",
        str(tmp_path / "c.npy"),
        np.load(tmp_path / "c.npy", mmap_mode="r"),
    ):
        hits = nearest(jnp.asarray(q), corpus, 7, chunk_rows=300)
        # A JAX array is searched by JAX whatever its size, and NumPy's products differ in the last bits.
        other = engine == "numpy" and isinstance(corpus, jax.Array)
        assert (hits.rows_BK == expected.rows_BK).all()
        np.testing.assert_allclose(hits.scores_BK, expected.scores_BK, rtol=0, atol=TOLERANCE if other else 0)
    half = nearest(q, c.astype(np.float16), 7)
    assert half.rows_BK.shape == (4, 7) and abs(half.scores_BK - expected.scores_BK).max() < 1e-3


@pytest.mark.parity
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_semantic_search_as_sentence_transformers(similarity):
    util = pytest.importorskip("sentence_transformers", reason="pip install -e '.[parity]'").util
    q, c = made(7, 16, 1), made(400, 16, 2)
    score = {"cosine": util.cos_sim, "dot": util.dot_score}[similarity]
    theirs = util.semantic_search(q, c, top_k=5, score_function=score)
    ours = semantic_search(q, c, top_k=5, similarity=similarity)
    assert [[hit["corpus_id"] for hit in hits] for hits in ours] == [[hit["corpus_id"] for hit in h] for h in theirs]
    for mine, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose([h["score"] for h in mine], [h["score"] for h in their], rtol=1e-5)


def test_a_file_is_read_in_parts(tmp_path, monkeypatch):
    np.save(tmp_path / "c.npy", made(1000, 12, 2))
    asked = []
    before = Vectors.part
    monkeypatch.setattr(
        Vectors, "part", lambda self, first, size: asked.append((first, size)) or before(self, first, size)
    )
    nearest(made(1, 12), tmp_path / "c.npy", 3, chunk_rows=400)
    assert asked == [(0, 400), (400, 400), (800, 200)]
    part = NpyFile(tmp_path / "c.npy")[2:5]
    assert type(part) is np.ndarray and part.base is None, "a copy: the mapping goes, and its pages with it"


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "c.npy"
    for write, word in [
        (lambda: None, "no such file"),
        (lambda: path.write_bytes(b"text"), "cannot be read"),
        (lambda: np.save(path, np.array([["a"]], object), allow_pickle=True), "object"),
        (lambda: np.save(path, np.asfortranarray(made(4, 3))), "Fortran"),
        (lambda: np.save(path, made(4, 3)[0]), "Expected rows"),
        (
            lambda: (np.save(path, made(4, 3)), path.write_bytes(path.read_bytes().replace(b"(4, 3)", b"(-4,3)"))),
            "Expected",
        ),
        (lambda: (np.save(path, made(400, 3)), path.write_bytes(path.read_bytes()[:-9])), "as its header says"),
    ]:
        write()
        with pytest.raises((DataError, InputError), match=word):
            nearest(made(1, 3), path, 1)


def test_eight_devices_find_what_one_finds(tmp_path):
    script = Path(__file__).with_name("many_devices_search.py")
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    # How many devices did the work.
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "host": 8,
        "file": 8,
        "rows over the mesh": 8,
        "copies": 1,
        "columns over the mesh": 8,
        "both": 8,
    }


@pytest.mark.parametrize("as_jax", [False, True])
@pytest.mark.parametrize("factor", [1e-15, 1e-25, 1e-30])
def test_rows_and_queries_of_any_length_rank_as_their_directions(as_jax, factor):
    rows = np.random.default_rng(0).normal(size=(300, 24)).astype(np.float32)
    queries = rows[:7] + np.float32(0.1)
    expected = nearest(queries, rows, 300)
    small = rows * np.float32(factor)
    mixed = np.where(np.arange(300)[:, None] % 2, rows, small)
    for corpus in (small, mixed):
        found = nearest(queries * np.float32(factor), jnp.asarray(corpus) if as_jax else corpus, 300)
        np.testing.assert_allclose(found.scores_BK, expected.scores_BK, atol=1e-6)
        assert (found.rows_BK == expected.rows_BK).mean() > 0.99  # near ties may change places
    powers = nearest(queries, rows * np.float32(2**-90), 300)  # a power of two changes no bit
    assert (powers.scores_BK == expected.scores_BK).all() and (powers.rows_BK == expected.rows_BK).all()


def test_a_query_of_zeros_is_warned_of(caplog):
    nearest(np.float32([[1, 0], [0, 0], [0, 0]]), np.eye(2, dtype=np.float32), 1)
    assert "queries[1] is zero (2 of 3 are)" in caplog.text


def test_no_queries_and_no_corpus():
    assert semantic_search([], made(3, 4)) == [] and nearest([], made(3, 4), 2).rows_BK.shape == (0, 2)
    assert semantic_search(made(2, 4), []) == [[], []] and nearest([], []).rows_BK.shape == (0, 0)


def test_minus_zero_ties_with_zero_in_later_chunks():
    before = np.array([[-0.0]], np.float32), np.array([[3]], np.int32)
    scores, rows = update_top_k(before, jnp.ones((1, 1)), jnp.zeros((4, 1)), 8, None, k=1, recall=None)
    assert rows.tolist() == [[3]] and scores.tolist() == [[0]]
