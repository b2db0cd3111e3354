"""The index: ids and texts, one model only, quantized search against exact search, folders complete or refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from minisbert import DataError, InputError, SentenceEncoder
from minisbert.checkpoint.convert import flatten, nest
from minisbert.checksums import sealed
from minisbert.search.exact import nearest
from minisbert.search.fingerprint import fingerprint
from minisbert.search.index import BACKENDS, Index

WEIGHTS = Path(__file__).parents[2] / "weights"
TEXTS = ["a man plays the guitar", "the city at night", "a woman sings", "women read books by the sea"]
LIBRARY = {"faiss": "faiss", "usearch": "usearch.index"}


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder.load(WEIGHTS / "tiny-bert")


def made(rows, width=32, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def need(backend):
    if backend != "exact":
        pytest.importorskip(LIBRARY[backend], reason=f"pip install -e '.[{backend}]'")


def test_texts_are_found_by_their_meaning(encoder, tmp_path):
    index = Index(encoder)
    index.add(TEXTS[:2], ids=["guitar", "city"])
    index.add(TEXTS[2:], ids=["sings", 7])
    hits = index.search(TEXTS, k=1)
    assert [(hit.id, hit.text) for (hit,) in hits] == list(zip(["guitar", "city", "sings", 7], TEXTS, strict=True))
    assert index.search(TEXTS[3], k=1) == hits[3]
    assert hits[0][0].score == pytest.approx(1, abs=1e-6)
    assert len(index.search("anything", k=99)) == 4
    assert Index(encoder).search("anything") == [] and index.search([]) == []
    index.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index", encoder)
    assert loaded.search(TEXTS, k=3) == index.search(TEXTS, k=3)
    loaded.add(["a dog"])
    assert loaded.ids == ["guitar", "city", "sings", 7, 4] and loaded.search("a dog", k=1)[0].id == 4


def test_texts_in_what_encode_takes(encoder):
    expected = Index(encoder)
    expected.add(TEXTS)
    pandas = pytest.importorskip("pandas", reason="pip install -e '.[parity]'")
    for make in (pandas.Series, iter, lambda some: np.array(some, np.dtypes.StringDType())):
        index = Index(encoder)
        index.add(make(TEXTS))
        assert index.texts == TEXTS and index.search(make(TEXTS), 2) == expected.search(TEXTS, 2)
    index = Index()
    index.add(row for row in np.eye(3))
    assert [hit.id for hit in index.search(pandas.Series([0.0, 0, 1]), 1)] == [2]
    with pytest.raises(InputError, match=r"items\[1\] is nan"):
        Index(encoder).add(pandas.Series(["a", None]))


def test_nothing_is_added_and_found_for_nothing(encoder):
    index = Index(encoder)
    for nothing in ([], (), np.array([]), iter([])):
        index.add(nothing)
    assert len(index) == 0
    index.add(TEXTS)
    index.add([])
    assert len(index) == 4 and index.search(np.array([])) == []
    with pytest.raises(InputError, match="ids has 1 items, there are 0 rows"):
        index.add([], ids=["a"])


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_small_types_of_whole_numbers(precision):
    index = Index(precision=precision)
    index.add(made(900))
    assert index.search(made(1), np.uint8(200), oversample=np.int8(3)) == index.search(made(1), 200, oversample=3)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_finds_what_exact_search_finds(backend, similarity, tmp_path):
    need(backend)
    rows, queries = made(2000, 24, 1), made(20, 24, 2)
    index = Index(backend=backend, similarity=similarity)
    index.add(rows[:1500])
    index.search(queries, 1)  # so that the graph grows afterwards
    index.add(rows[1500:])
    index.save(tmp_path / "index")
    expected = nearest(queries, rows, 10, similarity=similarity)
    for one in (index, *(Index.load(tmp_path / "index", trust_graph=trust) for trust in (False, True))):
        hits = one.nearest(queries, 10)
        shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(hits.rows_BK, expected.rows_BK, strict=True)])
        assert shared >= (1 if backend == "exact" else 0.97)
        np.testing.assert_allclose(hits.scores_BK[:, 0], expected.scores_BK[:, 0], rtol=1e-5)
        if similarity == "cosine":  # no row is lost: each is the nearest one of itself
            np.testing.assert_array_equal(one.nearest(rows, 1).rows_BK[:, 0], np.arange(2000))


@pytest.mark.parametrize(("precision", "least", "alone"), [("int8", 1.0, 0.95), ("binary", 0.85, 0.45)])
def test_quantized_search_with_and_without_rescoring(precision, least, alone, tmp_path):
    """Rows around 50 centres in 256 dimensions. Measured overlap: int8 1.0 / 0.98, binary 0.93 / 0.56."""
    centres = made(50, 256, 1)
    rows = centres[np.arange(2000) % 50] + 0.7 * made(2000, 256, 2)
    queries = centres[:30] + 0.7 * made(30, 256, 3)
    expected = nearest(queries, rows, 10)

    def overlap(index):
        hits = index.nearest(queries, 10)
        assert (np.diff(hits.scores_BK, axis=1) <= 0).all()
        return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(hits.rows_BK, expected.rows_BK, strict=True)]), hits

    both, one = Index(precision=precision), Index(precision=precision, rescore=False)
    for index in (both, one):
        index.add(rows)
        index.save(tmp_path / str(index.rescore))
    shared, hits = overlap(both)
    assert shared >= least
    if shared == 1:
        np.testing.assert_allclose(hits.scores_BK, expected.scores_BK, atol=2e-6)
    assert alone <= overlap(one)[0] <= shared
    assert not (tmp_path / "False" / "embeddings.npy").exists()
    for index in (both, one):
        loaded = Index.load(tmp_path / str(index.rescore))
        assert (loaded.nearest(queries, 10).rows_BK == index.nearest(queries, 10).rows_BK).all()


def test_int8_codes_are_decoded_to_the_middle_of_their_step():
    rows = np.array([[0.0, -2.0], [255.0, 2.0], [100.2, 0.0]], np.float32)
    index = Index(precision="int8", rescore=False, similarity="dot")
    index.add(rows)
    scores = {hit.id: hit.score for hit in index.search([1.0, 0.0], 3)}
    assert scores == pytest.approx({0: 0.5, 1: 255.5, 2: 100.5})


def test_ranges_stay_and_values_outside_are_reported(caplog):
    index = Index(precision="int8")
    index.add(made(100))
    ranges = index.ranges_2D.copy()
    assert not caplog.records
    index.add(made(10) * 9)
    assert (index.ranges_2D == ranges).all()
    assert "are outside the ranges" in caplog.text


def test_a_fingerprint_is_the_models(encoder, tmp_path):
    mine = fingerprint(encoder)
    encoder.save(tmp_path / "copy")
    assert fingerprint(SentenceEncoder.load(tmp_path / "copy")) == mine
    assert fingerprint(SentenceEncoder.load(WEIGHTS / "tiny-bert", compute_dtype="bfloat16")) != mine
    for name, content in [
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}),
        ("sentence_bert_config.json", {"max_seq_length": 12}),
    ]:
        other = tmp_path / name[:4]
        shutil.copytree(tmp_path / "copy", other)
        settings = json.loads((other / name).read_text()) | content
        (other / name).write_text(json.dumps(settings))
        assert fingerprint(SentenceEncoder.load(other)) != mine, name
    changed = SentenceEncoder.load(WEIGHTS / "tiny-bert")
    flat = flatten(changed.params)
    name = min(flat)
    assert fingerprint(changed.with_params(nest({**flat, name: flat[name] + 1e-3}))) != mine


def test_models_are_never_mixed(encoder, tmp_path):
    index = Index(encoder)
    index.add(TEXTS)
    index.save(tmp_path / "index")
    other = SentenceEncoder.load(WEIGHTS / "tiny-bert")
    other.max_seq_length = 10
    with pytest.raises(InputError, match="Expected the same model"):
        Index.load(tmp_path / "index", other)
    with pytest.raises(InputError, match="Expected the same model"):
        Index.load(tmp_path / "index", fingerprint="another")
    assert Index.load(tmp_path / "index").nearest(made(1), 2).rows_BK.shape == (1, 2)
    with pytest.raises(InputError, match="has no encoder"):
        Index.load(tmp_path / "index").search("text")
    with pytest.raises(InputError, match="fingerprint="):
        Index(object())
    with pytest.raises(InputError, match="have width 5, the index 32"):
        index.add(made(2, 5))


@pytest.mark.parametrize(
    ("items", "options", "word"),
    [
        (["a", 3], {}, "Expected text"),
        (["a", "b"], {"ids": ["x"]}, "ids has 1 items, there are 2"),
        (["a", "b"], {"ids": ["x", "x"]}, r"ids\[1\] is 'x', which is already in the index"),
        (["a", "b"], {"ids": ["x", 0]}, r"ids\[1\] is 0, which is already in the index"),
        (["a", "b"], {"ids": ["x", 1.5]}, r"ids\[1\] is 1.5 \(float\)"),
        (["a", "b"], {"ids": ["x", "\ud800"]}, r"ids\[1\] contains the lone surrogate"),
        (["a"], {"texts": ["a"]}, "given twice"),
        (np.full((2, 32), np.nan), {}, r"items\[0\] contains NaN"),
        (np.full((2, 32), 1e30), {}, "too long"),
        (made(2), {"texts": ["a"]}, "texts has 1 items"),
    ],
)
def test_nothing_is_added_when_something_is_wrong(encoder, items, options, word):
    index = Index(encoder)
    index.add(["first"])
    with pytest.raises(InputError, match=word):
        index.add(items, **options)
    assert len(index) == 1 and len(index.search("first", k=5)) == 1
    index.add(["second"])
    assert index.ids == [0, 1]


def test_the_callers_array_may_change():
    rows, index = made(5), Index()
    index.add(rows)
    rows[:] = 0
    assert index.search(made(5)[3], 1)[0].id == 3


def test_options_that_do_not_go_together_are_refused():
    for options, word in [
        ({"precision": "int8", "backend": "faiss"}, "with backend"),
        ({"precision": "uint8"}, "precision is 'uint8'"),
        ({"similarity": "euclidean"}, "similarity is 'euclidean'"),
        ({"backend": "annoy"}, "backend is 'annoy'"),
    ]:
        with pytest.raises(InputError, match=word):
            Index(**options)
    with pytest.raises(InputError, match="multiple of 8"):
        Index(precision="binary").add(made(3, 12))
    with pytest.raises(InputError, match="there is one row"):
        Index(precision="int8").add(made(1))
    with pytest.raises(InputError, match="index is empty"):
        Index().save("nowhere")


@pytest.mark.parametrize("backend", LIBRARY)
def test_a_missing_library_is_named(backend, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, LIBRARY[backend], None)
    index = Index(backend=backend)
    index.add(made(3))
    with pytest.raises(InputError, match=rf"minisbert\[{backend}\]"):
        index.search(made(1))


# --- folders -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    index = Index(precision="int8")
    index.add(made(20), ids=[f"r{i}" for i in range(20)], texts=[f"text {i}\u2028" for i in range(20)])
    index.save(tmp_path / "index")
    return tmp_path / "index"


def edit(**changes):
    def edited(folder):
        settings = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(sealed(settings | changes)))

    return edited


def replace_in(name, before, after):
    def replaced(folder):
        content = (folder / name).read_bytes()
        assert before in content
        (folder / name).write_bytes(content.replace(before, after))

    return replaced


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda f: (f / "index.json").unlink(), "cannot be read as an index"),
        (lambda f: (f / "index.json").write_text("{"), "cannot be read as an index"),
        (edit(version=2), "version 1"),
        (replace_in("index.json", b'"keep_texts": true', b'"keep_texts": false'), "not those that were written"),
        (replace_in("embeddings.npy", bytes(made(20)[:1].tobytes()[:8]), bytes(8)), r"embeddings\.npy: .*not the file"),
        (edit(rows=-1), "'rows' is -1"),
        (edit(precision=["int8"]), "'precision' is"),
        (edit(width=31), r"Expected float32 \[20, 31\]"),
        (edit(rows=21), r"Expected float32 \[21, 32\]"),
        (lambda f: (f / "rows.jsonl").write_text('{"id": 1}\n'), "not the file that was saved"),
        (lambda f: (f / "codes.npy").unlink(), "codes.npy: missing"),
        (lambda f: (f / "ranges.npy").write_bytes(b""), "ranges.npy: missing, or not"),
        (lambda f: (f / "embeddings.npy").unlink(), "no such file"),
        (lambda f: (f / "embeddings.npy").write_bytes((f / "embeddings.npy").read_bytes()[:-1]), "as its header says"),
        (lambda f: np.save(f / "embeddings.npy", np.zeros((20, 32))), "holds float64"),
    ],
)
def test_a_spoiled_folder_is_refused(folder, spoil, word):
    assert Index.load(folder).texts[3] == "text 3\u2028"
    spoil(folder)
    with pytest.raises(DataError, match=word):
        Index.load(folder)


def test_a_folder_of_an_earlier_version_loads_and_vectors_may_be_left_unverified(folder):
    replace_in("embeddings.npy", made(20)[:1].tobytes()[:8], bytes(8))(folder)
    assert Index.load(folder, verify=False).texts[3] == "text 3\u2028"
    settings = json.loads((folder / "index.json").read_text())
    del settings["checksum"], settings["sha256"]["embeddings.npy"]
    (folder / "index.json").write_text(json.dumps(settings))
    assert Index.load(folder).texts[3] == "text 3\u2028"


def test_a_folder_is_replaced_whole_or_stays(folder, tmp_path, monkeypatch):
    index = Index()
    index.add(made(3))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="holds files but no minisbert index"):
        index.save(tmp_path / "mine")
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr("minisbert.search.index_folder.digest", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "mine"]
    monkeypatch.undo()
    index.save(folder)
    assert len(Index.load(folder)) == 3 and not (folder / "codes.npy").exists()


def test_a_loaded_index_survives_its_folder_being_replaced(tmp_path):
    for seed in (1, 2):
        index = Index()
        index.add(made(50, seed=seed))
        index.save(tmp_path / "index")
        if seed == 1:
            held, query = Index.load(tmp_path / "index"), made(50, seed=1)[7]
    assert held.search(query, 1)[0].id == 7 and held.search(query, 1)[0].score == pytest.approx(1)


def test_parquet_for_other_stores(folder, tmp_path, encoder):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install -e '.[parquet]'")
    Index.load(folder).export_parquet(tmp_path / "v.parquet")
    table = parquet.read_table(tmp_path / "v.parquet")
    assert str(table.schema.field("embedding").type).replace("element", "item") == "fixed_size_list<item: float>[32]"
    assert table["id"].to_pylist()[:2] == ["r0", "r1"] and table["text"][4].as_py() == "text 4\u2028"
    assert (np.array(table["embedding"].to_pylist(), np.float32) == made(20)).all()
    with pytest.raises(InputError, match="no float32 vectors"):
        Index().export_parquet(tmp_path / "w.parquet")
    index = Index()
    index.add(made(3), ids=[1, "1", "b"])
    with pytest.raises(InputError, match="ids has 1 and '1', which are the same text"):
        index.export_parquet(tmp_path / "w.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "v.parquet"]
