"""Embeddings, indexes, clusters, mining, evaluation: invalid rows, limits of zero, damaged folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from battery import Case, Gives, Refused, Work, refused
from checks import close, nothing

NAN, INF = float("nan"), float("inf")
ROWS = np.array([[1, 0, 0, 0], [0, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 3]], np.float32)
Act = Callable[[Any, Work], Any]

# --- not embeddings: (name, value, words next to the argument's name) -----------------------------------------------


def with_row(value: float) -> np.ndarray:
    """Good rows, and one number of the third."""
    rows = ROWS.copy()
    rows[2, 1] = value
    return rows


NO_ROWS: list[tuple[str, Any, str]] = [
    ("None", None, ""),
    ("text", "text", ""),
    ("texts", ["text", "text"], ""),
    ("numbers as text", ["1.0", "2.0", "3.0", "4.0"], ""),
    ("a number", 3, ""),
    ("a dict", {"a": 1}, ""),
    ("ragged rows", [[1.0, 2.0], [1.0]], ""),
    ("three axes", np.ones((2, 2, 4), np.float32), ""),
    ("objects", np.array([[object()] * 4]), ""),
    ("None in a row", [[1.0, None, 1.0, 1.0]], ""),
    ("complex numbers", np.ones((2, 4), complex), ""),
    ("another width", np.ones((3, 5), np.float32), "5"),
    ("no width", np.ones((3, 0), np.float32), ""),
    ("NaN in the third row", with_row(NAN), "[2]"),
    ("infinity in the third row", with_row(INF), "[2]"),
    ("a row beyond float32", np.full((3, 4), 1e300), "[0]"),
    ("a row whose square overflows", with_row(1e30), "[2]"),
]


def _two(verb: str, side: int, value: Any) -> Act:
    """A verb of two sets of rows, one of which is bad."""

    def act(lib: Any, work: Work) -> Any:
        sides: list[Any] = [ROWS, ROWS]
        sides[side] = value
        return lib.similarity(*sides) if verb == "similarity" else lib.search(*sides, 2)

    return act


def finite_scores(lib: Any, result: Any) -> bool:
    """No score is NaN, and equal rows are most alike."""
    return bool(np.isfinite(np.asarray(result, np.float32)).all())


def _expected(argument: str, name: str, words: str) -> Refused:
    if (argument, name) == ("corpus", "text"):  # the name of a file
        return refused("DataError", "text", "no such file")
    return refused("InputError", argument + words if words.startswith("[") else words)


BOTH_SIDES = [
    Case(
        "search",
        f"{verb}: {name} for {names[side]}",
        _two(verb, side, value),
        _expected(names[side], name, words),
        peer=True,
    )
    for verb, names in (("similarity", "ab"), ("search", ("queries", "corpus")))
    for side in (0, 1)
    for name, value, words in NO_ROWS
]

# --- limits ---------------------------------------------------------------------------------------------------------

NO_COUNT = [0, -1, 1.5, "2", True, None, NAN, [2]]
LIMITS = [
    *[
        Case(
            "search",
            f"search: k {value!r}",
            lambda lib, work, v=value: lib.search(ROWS, ROWS, v),
            refused("InputError", "k"),
            peer=True,
            harmless=(lambda lib, r, v=value: r[1].shape == (4, v)) if value in (0, True) else None,
        )
        for value in NO_COUNT
    ],
    Case(
        "search",
        "fine: k beyond the corpus",
        lambda lib, work: lib.search(ROWS, ROWS, 99),
        Gives(
            "every row, best first", lambda lib, r: r[1].shape == (4, 4) and bool((r[1][:, 0] == np.arange(4)).all())
        ),
        peer=True,
    ),
    Case(
        "search",
        "fine: a zero vector",
        lambda lib, work: lib.similarity(np.zeros((1, 4), np.float32), ROWS),
        Gives("cosines of 0", lambda lib, r: close(r, np.zeros((1, 4)))),
        peer=True,
    ),
    Case(
        "search",
        "fine: no queries",
        lambda lib, work: lib.search(ROWS[:0], ROWS, 2),
        Gives("no rows", lambda lib, r: len(r[0]) == 0),
        peer=True,
    ),
    *[
        Case(
            "search",
            f"communities: {name} {value!r}",
            lambda lib, work, o={name: value}: lib.communities(ROWS, **o),
            refused("InputError", word),
            peer=True,
            harmless=nothing if value in (INF, True) else None,  # nothing is so alike
        )
        for name, word, values in [
            ("threshold", "threshold", (NAN, INF, "0.75", None, True)),
            ("size", "min_community_size", (0, -1, 1.5, "2", None)),
        ]
        for value in values
    ],
    *[
        Case(
            "search",
            f"communities: {name}",
            lambda lib, work, v=value: lib.communities(v),
            refused("InputError"),
            peer=True,
        )
        for name, value, _ in NO_ROWS
        if name not in ("another width",)
    ],
]

# --- quantization ---------------------------------------------------------------------------------------------------

RANGES: list[tuple[str, Any]] = [
    ("text", "x"),
    ("one row", np.ones(4)),
    ("three rows", np.ones((3, 4))),
    ("another width", np.ones((2, 5))),
    ("NaN", np.full((2, 4), NAN)),
    ("high below low", np.array([[1.0] * 4, [0.0] * 4])),
]
QUANTIZE = [
    *[
        Case(
            "search",
            f"quantize: {name}, {precision}",
            lambda lib, work, v=value, p=precision: lib.quantize(v, p),
            refused("InputError", "embeddings"),
            peer=True,
        )
        for name, value in [
            ("None", None),
            ("text", "text"),
            ("ragged rows", [[1.0], [1.0, 2.0]]),
            ("int8 already", ROWS.astype(np.int8)),
            ("NaN", with_row(NAN)),
            ("infinity", with_row(INF)),
        ]
        for precision in ("int8", "ubinary")
    ],
    *[
        Case(
            "search",
            f"quantize: ranges of {name}",
            lambda lib, work, v=value: lib.quantize(ROWS, "int8", v),
            refused("InputError", "ranges"),
            peer=True,
        )
        for name, value in RANGES
    ],
    *[
        Case(
            "search",
            f"quantize: precision {value!r}",
            lambda lib, work, v=value: lib.quantize(ROWS, v),
            refused("InputError", "precision"),
            peer=True,
        )
        for value in ("int4", "", None, 3, ["int8"])
    ],
]

# --- minisbert's own: Index, files, fusion, BM25, mining, clustering, evaluation -------------------------------------


def index(**options: Any) -> Act:
    """Make an index, add rows."""

    def act(lib: Any, work: Work) -> Any:
        from minisbert.search.index import Index

        made = Index(**options)
        made.add(ROWS)
        return made.search(ROWS[0], 2)

    return act


def adding(*arguments: Any, **options: Any) -> Act:
    """Add something to an index that has an encoder."""

    def act(lib: Any, work: Work) -> Any:
        from minisbert.search.index import Index

        made = Index(lib.encoder)
        made.add(["a man"], ids=["first"])
        return made.add(*arguments, **options)

    return act


def asking(*arguments: Any, **options: Any) -> Act:
    """Ask an index of four rows."""

    def act(lib: Any, work: Work) -> Any:
        from minisbert.search.index import Index

        made = Index()
        made.add(ROWS)
        return made.search(*arguments, **options)

    return act


def saved(spoil: Callable[[Path], Any], precision: str = "float32") -> Act:
    """Save an index, spoil its folder, load and ask it."""

    def act(lib: Any, work: Work) -> Any:
        from minisbert.search.index import Index

        made = Index(precision=precision)
        made.add(np.tile(ROWS, (1, 2)), texts=["a", "b", "c", "d"])
        folder = work.folder / "my.index"
        made.save(folder)
        spoil(folder)
        return Index.load(folder).search(np.tile(ROWS[0], 2), 2)

    return act


def settings(**values: Any) -> Callable[[Path], Any]:
    """Set keys of index.json."""

    def spoil(folder: Path) -> None:
        file = folder / "index.json"
        from minisbert.checksums import sealed

        file.write_text(json.dumps(sealed(json.loads(file.read_text()) | values)))

    return spoil


def content(name: str, data: bytes) -> Callable[[Path], Any]:
    """Another content of a file."""
    return lambda folder: (folder / name).write_bytes(data)


def shortened(name: str, length: int) -> Callable[[Path], Any]:
    """Only the first bytes of a file."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def npy(array: Any, name: str = "embeddings.npy") -> Callable[[Path], Any]:
    """Another array in the place of one."""
    return lambda folder: np.save(folder / name, array, allow_pickle=True)


def with_digest(folder: Path) -> None:
    """Vectors with NaN and their own digest: what a stranger would write."""
    from minisbert.checksums import digest, sealed

    npy(np.full((4, 8), NAN, np.float32))(folder)
    file = folder / "index.json"
    record = json.loads(file.read_text())
    record["sha256"]["embeddings.npy"] = digest(folder / "embeddings.npy")
    file.write_text(json.dumps(sealed(record)))


class Payload:
    """Unpickling it leaves a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.write_text, (self.canary, "ran")


def evil_npy(folder: Path) -> None:
    """An array of objects that sing when they are unpickled."""
    np.save(
        folder / "embeddings.npy", np.array([Payload(folder.parents[1] / "canary")] * 32, object), allow_pickle=True
    )


def npy_header(text: str) -> bytes:
    """A .npy file with any header."""
    data = text.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data + bytes(128)


INDEXES: list[tuple[str, Act, Refused]] = [
    *[
        (f"an index of similarity {v!r}", index(similarity=v), refused("InputError", "similarity"))
        for v in ("nope", "euclidean", 3, ["dot"])
    ],
    *[
        (f"an index of precision {v!r}", index(precision=v), refused("InputError", "precision"))
        for v in ("int4", "ubinary", None, 3)
    ],
    *[(f"an index by {v!r}", index(backend=v), refused("InputError", "backend")) for v in ("nope", None, 3)],
    *[
        (f"an index that keeps texts {v!r}", index(keep_texts=v), refused("InputError", "keep_texts"))
        for v in ("no", 2)
    ],
    *[
        (f"an index with ranges of {n}", index(precision="int8", ranges_2D=v), refused("InputError", "ranges"))
        for n, v in RANGES
    ],
    ("a binary index of width 4", index(precision="binary"), refused("InputError", "8")),
    *[(f"an index asked for k {v!r}", asking(ROWS[0], v), refused("InputError", "k")) for v in NO_COUNT],
    *[
        (f"an index asked with oversample {v!r}", asking(ROWS[0], 2, oversample=v), refused("InputError", "oversample"))
        for v in (0, -1, "4", None)
    ],
    *[
        (f"an index asked {n}", asking(v, 2), refused("InputError", "queries"))
        for n, v, _ in NO_ROWS
        if n not in ("texts", "text", "numbers as text")
    ],
    ("an index without an encoder asked a text", asking("text", 2), refused("InputError", "encoder")),
    ("adding None", adding(None), refused("InputError", "items")),
    ("adding a number", adding(3), refused("InputError", "items")),
    ("adding None among texts", adding(["a", None]), refused("InputError", "[1]")),
    ("adding NaN", adding(np.full((1, 32), NAN)), refused("InputError", "items[0]")),
    ("adding another width", adding(np.ones((1, 31))), refused("InputError", "31")),
    ("adding an id twice", adding(["a", "b"], ids=["x", "x"]), refused("InputError", "ids[1]")),
    ("adding an id that is there", adding(["a"], ids=["first"]), refused("InputError", "ids[0]")),
    ("adding ids that are a number", adding(["a"], ids=3), refused("InputError", "ids")),
    ("adding ids of None", adding(["a"], ids=[None]), refused("InputError", "ids[0]")),
    ("adding ids of floats", adding(["a"], ids=[1.5]), refused("InputError", "ids[0]")),
    ("adding an id with a lone surrogate", adding(["a"], ids=["\ud800"]), refused("InputError", "ids[0]")),
    ("adding ids that cannot be hashed", adding(["a"], ids=[["x"]]), refused("InputError", "ids[0]")),
    ("adding too few ids", adding(["a", "b"], ids=["x"]), refused("InputError", "ids")),
    ("adding texts twice", adding(["a"], texts=["a"]), refused("InputError", "texts")),
    ("adding texts that are a number", adding(np.ones((1, 32)), texts=3), refused("InputError", "texts")),
    ("adding too few texts", adding(np.ones((2, 32)), texts=["a"]), refused("InputError", "texts")),
    ("adding texts of None", adding(np.ones((1, 32)), texts=[None]), refused("InputError", "[0]")),
]
MANY = b'{"id": 0, "text": "a"}\n'
FOLDERS: list[tuple[str, Callable[[Path], Any], tuple[str, ...]]] = [
    ("no settings", lambda f: (f / "index.json").unlink(), ("index.json",)),
    ("settings that are cut", shortened("index.json", 20), ("index.json",)),
    ("settings of zeros", content("index.json", bytes(100)), ("index.json",)),
    ("settings that are a list", content("index.json", b"[]"), ("index.json",)),
    ("settings nested deeply", content("index.json", b"[" * 200_000), ("index.json",)),
    ("another format", settings(format="faiss"), ("index.json",)),
    ("a later version", settings(version=99), ("index.json",)),
    *[(f"rows {v!r}", settings(rows=v), ("index.json", "rows")) for v in (0, -1, "4", 10**30, True)],
    ("a row more", settings(rows=5), ("5",)),
    ("a width of 1e12", settings(width=10**12), ("index.json", "width")),
    ("another width", settings(width=9), ("embeddings.npy",)),
    ("a width of text", settings(width="8"), ("index.json", "width")),
    ("a similarity of no name", settings(similarity="os.system"), ("index.json", "similarity")),
    ("a similarity that is a list", settings(similarity=["dot"]), ("index.json", "similarity")),
    ("a precision of no name", settings(precision="float8"), ("index.json", "precision")),
    ("a backend of no name", settings(backend="evil.Evil"), ("index.json", "backend")),
    ("digests that are a list", settings(sha256=[]), ("index.json", "sha256")),
    ("no digests", settings(sha256={}), ("rows.jsonl",)),
    ("a fingerprint that is a number", settings(fingerprint=3), ("index.json", "fingerprint")),
    ("no rows.jsonl", lambda f: (f / "rows.jsonl").unlink(), ("rows.jsonl",)),
    ("other rows", content("rows.jsonl", MANY * 4), ("rows.jsonl",)),
    ("no embeddings", lambda f: (f / "embeddings.npy").unlink(), ("embeddings.npy",)),
    *[
        (f"embeddings cut to {n} bytes", shortened("embeddings.npy", n), ("embeddings.npy",))
        for n in (0, 5, 60, 200, -1)
    ],
    ("embeddings of another shape", npy(np.ones((4, 9), np.float32)), ("embeddings.npy",)),
    ("embeddings of float64", npy(np.ones((4, 8))), ("embeddings.npy",)),
    ("embeddings in Fortran's order", npy(np.asfortranarray(np.ones((4, 8), np.float32))), ("embeddings.npy",)),
    ("embeddings with NaN", with_digest, ("[0]",)),
    ("embeddings that are not those that were saved", npy(np.ones((4, 8), np.float32)), ("embeddings.npy",)),
    ("embeddings of one axis", npy(np.ones(32, np.float32)), ("embeddings.npy",)),
    ("embeddings that are pickled objects", evil_npy, ("embeddings.npy",)),
    (
        "a header that is code",
        content("embeddings.npy", npy_header("__import__('os').system('touch canary')")),
        ("embeddings.npy",),
    ),
    (
        "a header with a negative shape",
        content("embeddings.npy", npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4, -8)}")),
        ("embeddings.npy",),
    ),
    (
        "a header with a huge shape",
        content(
            "embeddings.npy",
            npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (10**9, 8)}".replace("10**9", "1000000000")),
        ),
        ("embeddings.npy",),
    ),
    (
        "a header with a shape of text",
        content("embeddings.npy", npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': ('4', 8)}")),
        ("embeddings.npy",),
    ),
    (
        "a header with a strange dtype",
        content("embeddings.npy", npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (4, 8)}")),
        ("embeddings.npy",),
    ),
    ("a header nested deeply", content("embeddings.npy", npy_header("(" * 100)), ("embeddings.npy",)),
    ("a pickle for embeddings", content("embeddings.npy", b"\x80\x04K\x01."), ("embeddings.npy",)),
]
INT8_FOLDERS: list[tuple[str, Callable[[Path], Any], tuple[str, ...]]] = [
    ("other codes", npy(np.ones((4, 8), np.int8), "codes.npy"), ("codes.npy",)),
    ("no ranges", lambda f: (f / "ranges.npy").unlink(), ("ranges.npy",)),
    ("codes that are cut", shortened("codes.npy", 130), ("codes.npy",)),
]


def task(module: str, name: str, *arguments: Any, **options: Any) -> Act:
    """Call a function of a module of minisbert."""

    def act(lib: Any, work: Work) -> Any:
        from importlib import import_module

        return getattr(import_module(f"minisbert.{module}"), name)(*arguments, **options)

    return act


def npy_search(data: bytes) -> Act:
    """Search in a .npy file."""

    def act(lib: Any, work: Work) -> Any:
        from minisbert.search.exact import nearest

        return nearest(ROWS, work.file("corpus.npy", data), 2)

    return act


TASKS: list[tuple[str, Act, Refused]] = [
    *[
        (
            f"nearest with recall {v!r}",
            task("search.exact", "nearest", ROWS, ROWS, 2, recall=v),
            refused("InputError", "recall"),
        )
        for v in (0, -1, 2, NAN, "0.9", True)
    ],
    *[
        (
            f"nearest by {v!r}",
            task("search.exact", "nearest", ROWS, ROWS, 2, similarity=v),
            refused("InputError", "similarity"),
        )
        for v in ("nope", "euclidean", None)
    ],
    *[
        (
            f"nearest in chunks of {v!r}",
            task("search.exact", "nearest", ROWS, ROWS, 2, chunk_rows=v),
            refused("InputError", "chunk_rows"),
        )
        for v in (0, -1, "8")
    ],
    (
        "nearest in int8",
        task("search.exact", "nearest", ROWS, ROWS.astype(np.int8), 2),
        refused("InputError", "corpus"),
    ),
    (
        "nearest in a file that is not there",
        task("search.exact", "nearest", ROWS, "nowhere.npy", 2),
        refused("DataError", "nowhere.npy"),
    ),
    ("nearest in a file that is not .npy", npy_search(b"not an array"), refused("DataError", "corpus.npy")),
    (
        "nearest in a file that claims more",
        npy_search(npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 4)}")),
        refused("DataError", "corpus.npy"),
    ),
    ("best pairs of None", task("mining.paraphrases", "best_pairs", None), refused("InputError", "embeddings")),
    (
        "best pairs with NaN",
        task("mining.paraphrases", "best_pairs", with_row(NAN)),
        refused("InputError", "embeddings[2]"),
    ),
    *[
        (f"best pairs, k {v!r}", task("mining.paraphrases", "best_pairs", ROWS, v), refused("InputError", "k"))
        for v in (0, -1, "2", None)
    ],
    ("the best pair of one row", task("mining.paraphrases", "best_pair", ROWS[:1]), refused("InputError", "2")),
    *[
        (f"pairs above {v!r}", task("mining.paraphrases", "pairs_above", ROWS, v), refused("InputError", "threshold"))
        for v in (NAN, None, "0.5")
    ],
    (
        "pairs above, with a limit of 0",
        task("mining.paraphrases", "pairs_above", ROWS, 0.5, limit=0),
        refused("InputError", "limit"),
    ),
    (
        "more pairs than the limit",
        task("mining.paraphrases", "pairs_above", ROWS, -1.0, limit=2),
        refused("InputError", "limit"),
    ),
    (
        "bitext of two widths",
        task("mining.paraphrases", "bitext_pairs", ROWS, np.ones((2, 5))),
        refused("InputError", "5"),
    ),
    (
        "bitext with 0 neighbours",
        task("mining.paraphrases", "bitext_pairs", ROWS, ROWS, neighbours=0),
        refused("InputError", "neighbours"),
    ),
    *[
        (f"k-means of {v!r} clusters", task("mining.clustering", "kmeans", ROWS, v), refused("InputError", "clusters"))
        for v in (0, -1, "2", None, True)
    ],
    ("more clusters than rows", task("mining.clustering", "kmeans", ROWS, 5), refused("InputError", "5")),
    (
        "k-means with a seed of text",
        task("mining.clustering", "kmeans", ROWS, 2, seed="x"),
        refused("InputError", "seed"),
    ),
    (
        "agglomerative of nothing said",
        task("mining.clustering", "agglomerative", ROWS),
        refused("InputError", "clusters"),
    ),
    (
        "agglomerative at a distance of NaN",
        task("mining.clustering", "agglomerative", ROWS, distance_threshold=NAN),
        refused("InputError", "distance_threshold"),
    ),
    (
        "agglomerative at a negative distance",
        task("mining.clustering", "agglomerative", ROWS, distance_threshold=-1.0),
        refused("InputError", "distance_threshold"),
    ),
    (
        "HDBSCAN of clusters of 1",
        task("mining.clustering", "hdbscan", ROWS, 1),
        refused("InputError", "min_cluster_size"),
    ),
    (
        "medoids of too few labels",
        task("mining.clustering", "medoid_rows", ROWS, [0, 1]),
        refused("InputError", "labels"),
    ),
    (
        "medoids of labels that are text",
        task("mining.clustering", "medoid_rows", ROWS, ["a"] * 4),
        refused("InputError", "labels"),
    ),
    (
        "medoids of huge labels",
        task("mining.clustering", "medoid_rows", ROWS, [0, 1, 2, 10**12]),
        refused("InputError", "labels"),
    ),
    ("medoids of None", task("mining.clustering", "medoid_rows", None, [0]), refused("InputError", "embeddings")),
    (
        "word labels of 0 words",
        task("mining.clustering", "word_labels", ["a"], [0], words=0),
        refused("InputError", "words"),
    ),
    (
        "word labels of a text that is None",
        task("mining.clustering", "word_labels", [None], [0]),
        refused("InputError", "[0]"),
    ),
    ("V-measure of nothing", task("mining.clustering", "v_measure", [], []), refused("InputError", "labels")),
    (
        "V-measure of two lengths",
        task("mining.clustering", "v_measure", ["a"], [0, 1]),
        refused("InputError", "labels"),
    ),
    ("BM25 of None", task("search.bm25", "BM25", None), refused("InputError", "texts")),
    ("BM25 of a number among texts", task("search.bm25", "BM25", ["a man", 3]), refused("InputError", "[1]")),
    ("BM25 of nothing", task("search.bm25", "BM25", []), refused("InputError", "texts")),
    ("BM25 of empty texts", task("search.bm25", "BM25", ["", " "]), refused("InputError", "texts")),
    *[
        (f"BM25 with {n} {v!r}", task("search.bm25", "BM25", ["a man"], **{n: v}), refused("InputError", n))
        for n, v in [("k1", -1), ("k1", "x"), ("k1", NAN), ("b", 2), ("b", None)]
    ],
    ("BM25 with ids of None", task("search.bm25", "BM25", ["a man"], [None]), refused("InputError", "ids[0]")),
    (
        "fusion with a constant of 0",
        task("search.fusion", "reciprocal_rank_fusion", [["a"]], 0),
        refused("InputError", "constant"),
    ),
    (
        "fusion with a constant of NaN",
        task("search.fusion", "reciprocal_rank_fusion", [["a"]], NAN),
        refused("InputError", "constant"),
    ),
    (
        "fusion with a constant of text",
        task("search.fusion", "reciprocal_rank_fusion", [["a"]], "60"),
        refused("InputError", "constant"),
    ),
    (
        "fusion of an id twice",
        task("search.fusion", "reciprocal_rank_fusion", [["a", "a"]]),
        refused("InputError", "rankings[0]"),
    ),
    ("fusion of None", task("search.fusion", "reciprocal_rank_fusion", None), refused("InputError", "rankings")),
    ("a hybrid of nothing", task("search.fusion", "Hybrid", []), refused("InputError", "searchers")),
    ("a hybrid of None", task("search.fusion", "Hybrid", None), refused("InputError", "searchers")),
]


class Scorer:
    """A cross-encoder with given scores."""

    def __init__(self, scores: Any):
        self.scores = scores

    def predict(self, pairs: Any, **options: Any) -> Any:
        """The scores, whatever the pairs."""
        return self.scores


def reranked(scores: Any, **options: Any) -> Act:
    """Retrieve two texts and rerank them by scores."""

    def act(lib: Any, work: Work) -> Any:
        from minisbert.search.index import Index
        from minisbert.search.rerank import retrieve_and_rerank

        made = Index(lib.encoder)
        made.add(["a man", "a dog"])
        return retrieve_and_rerank("a man", made, Scorer(scores), 2, **options)

    return act


def negatives(*arguments: Any, **options: Any) -> Act:
    """Mine hard negatives."""

    def act(lib: Any, work: Work) -> Any:
        from minisbert.mining.hard_negatives import hard_negatives

        return hard_negatives(lib.encoder, *arguments, **options)

    return act


def sts(data: str, name: str = "sts.tsv") -> Act:
    """Read an STS file and score tiny-bert on it."""

    def act(lib: Any, work: Work) -> Any:
        from minisbert.evaluation.sts import evaluate_sts, read_sts

        return evaluate_sts(lib.encoder, read_sts(work.file(name, data)), resamples=10)

    return act


def collection(**files: str) -> Act:
    """Read a collection in BEIR's layout."""

    def act(lib: Any, work: Work) -> Any:
        from minisbert.evaluation.retrieval import read_retrieval

        good = {
            "corpus.jsonl": '{"_id": "d1", "text": "a man"}\n{"_id": "d2", "text": "a dog"}\n',
            "queries.jsonl": '{"_id": "q1", "text": "who?"}\n',
            "qrels.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
        }
        for name, data in {**good, **{key.replace("__", "."): value for key, value in files.items()}}.items():
            if data:
                work.file(name, data)
        return read_retrieval(work.folder)

    return act


A, B = ["a man", "a woman"], ["a boy", "a girl"]
STS = "score\tsentence1\tsentence2\n1\ta man\ta dog\n2\ta cat\ta dog\n"
MORE: list[tuple[str, Act, Refused]] = [
    *[
        (f"a reranker that gives {v!r:.20}", reranked(v), refused("InputError", "reranker"))
        for v in (None, [1.0], [NAN, 1.0], [INF, 1.0], "text", [[1, 2], [3, 4]], [None, 1.0], ["a", "b"])
    ],
    ("fewer candidates than hits", reranked([1.0], candidates=1), refused("InputError", "candidates")),
    ("0 candidates", reranked([1.0], candidates=0), refused("InputError", "candidates")),
    ("negatives of None", negatives(None, None), refused("InputError", "anchors")),
    ("negatives of a number", negatives(3, B), refused("InputError", "anchors")),
    ("negatives of one text", negatives("a man", B), refused("InputError", "anchors")),
    ("negatives of two lengths", negatives(A, B[:1]), refused("InputError", "anchors")),
    ("negatives of nothing", negatives([], []), refused("InputError", "anchors")),
    ("negatives with None", negatives(A, ["a boy", None]), refused("InputError", "[1]")),
    ("0 negatives", negatives(A, B, number=0), refused("InputError", "number")),
    ("a negative range_min", negatives(A, B, range_min=-1), refused("InputError", "range_min")),
    ("a range of nothing", negatives(A, B, range_min=5, range_max=5), refused("InputError", "range_max")),
    *[
        (f"negatives with {n} NaN", negatives(A, B, **{n: NAN}), refused("InputError", n))
        for n in ("max_score", "min_score", "absolute_margin", "relative_margin")
    ],
    (
        "negatives rescored to NaN",
        negatives(A, B, rescore=lambda pairs: [NAN] * len(pairs)),
        refused("InputError", "rescore"),
    ),
    (
        "negatives rescored to text",
        negatives(A, B, rescore=lambda pairs: ["x"] * len(pairs)),
        refused("InputError", "rescore"),
    ),
    ("negatives rescored by no function", negatives(A, B, rescore=3), refused("InputError", "rescore")),
    ("STS of one pair", sts(STS[:-15]), refused("DataError", "sts.tsv")),
    ("STS of one score", sts(STS.replace("2\ta", "1\ta")), refused("DataError", "gold score")),
    ("STS with a score of NaN", sts(STS + "nan\ta\tb\n"), refused("DataError", "line 4")),
    ("STS with an empty sentence", sts(STS + "1\t\tb\n"), refused("DataError", "line 4")),
    ("STS without scores", sts("a\tb\nx\ty\n"), refused("DataError", "score")),
    ("STS that is empty", sts(""), refused("DataError", "sts.tsv")),
    ("STS of another kind of file", sts(STS, "sts.xlsx"), refused("InputError", "sts.xlsx")),
    ("a collection without queries", collection(queries__jsonl=""), refused("DataError", "queries.jsonl")),
    ("a collection without judgements", collection(qrels__tsv=""), refused("DataError", "qrels")),
    (
        "a collection judged twice",
        collection(qrels__tsv="query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td1\t1\n"),
        refused("DataError", "twice"),
    ),
    (
        "a collection with a gain of NaN",
        collection(qrels__tsv="query-id\tcorpus-id\tscore\nq1\td1\tnan\n"),
        refused("DataError", "line 2"),
    ),
    (
        "a collection with nothing relevant",
        collection(qrels__tsv="query-id\tcorpus-id\tscore\nq1\td1\t0\n"),
        refused("DataError", "relevant"),
    ),
    (
        "a collection with a strange query",
        collection(qrels__tsv="query-id\tcorpus-id\tscore\nq9\td1\t1\n"),
        refused("DataError", "q9"),
    ),
    (
        "a collection with an id twice",
        collection(corpus__jsonl='{"_id": "d1", "text": "a"}\n{"_id": "d1", "text": "b"}\n'),
        refused("DataError", "d1"),
    ),
    (
        "a collection with an id that is null",
        collection(corpus__jsonl='{"_id": null, "text": "a"}\n'),
        refused("DataError", "line 1"),
    ),
    (
        "a collection with a text that is a number",
        collection(corpus__jsonl='{"_id": "d1", "text": 5}\n'),
        refused("DataError", "line 1"),
    ),
    (
        "a collection that is no folder",
        task("evaluation.retrieval", "read_retrieval", "nowhere"),
        refused("DataError", "nowhere"),
    ),
]


def _of_folder(name: str) -> str:
    # Vectors are looked at when they are searched.
    return "InputError" if name == "embeddings with NaN" else "SearchError"


def loading(path: Any) -> Act:
    """Load an index from what is no folder of one."""
    return lambda lib, work: __import__("minisbert.search.index", fromlist=["Index"]).Index.load(path)


CASES = [
    *BOTH_SIDES,
    *LIMITS,
    *QUANTIZE,
    *[Case("search", name, act, expect) for name, act, expect in [*INDEXES, *TASKS, *MORE]],
    *[
        Case("search", f"an index's folder: {name}", saved(spoil), refused(_of_folder(name), *words))
        for name, spoil, words in FOLDERS
    ],
    *[
        Case("search", f"an int8 index's folder: {name}", saved(spoil, "int8"), refused("SearchError", *words))
        for name, spoil, words in INT8_FOLDERS
    ],
    Case(
        "search",
        "fine: an index's folder as it was",
        saved(lambda f: None),
        Gives("the row itself", lambda lib, r: r[0].id == 0),
    ),
    *[
        Case("search", f"an index loaded from {v!r}", loading(v), refused("MinisbertError"))
        for v in (None, 3, "", "nowhere", "a\0b")
    ],
]
