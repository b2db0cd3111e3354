"""Training data: what is read from every kind of file, and what is refused, by name."""

import gzip
import json
import sys
import types
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from minisbert import DataError, InputError
from minisbert.data import rows as rows_file
from minisbert.data.conventions import CONVENTIONS
from minisbert.data.examples import open_examples
from minisbert.data.rows import RowFile, Rows

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def write_pairs(path: Path, count: int, prefix: str = "") -> str:
    path.write_text("anchor\tpositive\n" + "".join(f"{prefix}a{i}\t{prefix}p{i}\n" for i in range(count)))
    return str(path)


# --- files ---------------------------------------------------------------------------------------------------------

NLI = [('a "cat"', "é 中", "neutral"), ("b", "line\u2028inside", "entailment"), ("c", "d", "contradiction")]


def nli_file(folder: Path, kind: str) -> Path:
    path = folder / f"nli.{kind}"
    if kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = dict(zip(("sentence1", "sentence2", "label"), map(list, zip(*NLI, strict=True)), strict=True))
        parquet.write_table(pyarrow.table({"extra": [None] * 3, **columns}), path, row_group_size=2)
        return path
    if kind.startswith("tsv"):
        lines = ["label\tsentence1\tsentence2"] + [f"{label}\t{a}\t{b}" for a, b, label in NLI]
    else:
        lines = [json.dumps({"sentence1": a, "sentence2": b, "label": label, "n": 1}) for a, b, label in NLI]
    data = b"\xef\xbb\xbf" + "\r\n".join(lines).encode()  # a mark at the front, CR LF, no line end at the last
    path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    return path


@pytest.mark.parametrize("kind", ["tsv", "tsv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_every_kind_of_file(tmp_path, kind):
    path = nli_file(tmp_path, kind)
    examples = open_examples(str(path))
    texts, labels = examples.take([2, 0, 1])
    assert texts == [[NLI[i][0] for i in (2, 0, 1)], [NLI[i][1] for i in (2, 0, 1)]]
    assert labels.tolist() == [2, 1, 0] and labels.dtype == np.int32
    assert asdict(examples.dataset) == {
        "source": str(path),
        "kind": "nli",
        "texts": ("sentence1", "sentence2"),
        "labels": ("label",),
        "label_kind": "class",
        "classes": ("entailment", "neutral", "contradiction"),
        "score_range": None,
        "rows": 3,
        "sha256": sha256(path.read_bytes()).hexdigest(),
    }


def test_a_data_set_of_the_hub(monkeypatch):
    class HubData:
        column_names = ("premise", "hypothesis", "label")
        features = types.MappingProxyType(
            {"label": types.SimpleNamespace(names=["entailment", "neutral", "contradiction"])}
        )

        def select_columns(self, columns):
            return ({"premise": f"p{i}", "hypothesis": f"h{i}", "label": i % 3} for i in range(7))

    asked = []
    fake = types.SimpleNamespace(load_dataset=lambda *a, **k: asked.append((a, k)) or HubData())
    monkeypatch.setitem(sys.modules, "datasets", fake)
    examples = open_examples("hub:org/snli:plain:dev")
    assert examples.dataset.classes == ("entailment", "neutral", "contradiction")
    assert examples.take([4])[0] == [["p4"], ["h4"]] and examples.take([4])[1].tolist() == [1]
    assert asked == [(("org/snli", "plain"), {"split": "dev"})], "the data set is opened once"
    assert open_examples("hub:org/snli").dataset.sha256 == examples.dataset.sha256
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="need the datasets library"):
        open_examples("hub:org/snli")


def test_a_file_is_opened_once(monkeypatch, tmp_path):
    source, opened, as_before = write_pairs(tmp_path / "pairs.tsv", 3), [], Path.open
    monkeypatch.setattr(Path, "open", lambda path, *mode: opened.append(path.name) or as_before(path, *mode))
    open_examples(source)
    assert opened == ["pairs.tsv"]


def test_line_starts_of_blocks(monkeypatch, tmp_path):
    monkeypatch.setattr(rows_file, "BLOCK", 7)
    rows = Rows(RowFile(write_pairs(tmp_path / "pairs.tsv", 30)), ("positive",))
    assert [value for (value,) in rows] == [f"p{i}" for i in range(30)]
    assert rows.place(29).endswith("line 31")


@pytest.mark.parametrize(
    ("header", "row", "kind", "labels"),
    [
        ("text", "a", "texts", None),
        ("query\tanswer", "a\tb", "pairs", None),
        ("anchor\tpositive\tnegative", "a\tb\tc", "triplets", None),
        ("negative_2\tanchor\tpositive\tnegative_1\tnegative_10", "n2\ta\tb\tn1\tn10", "triplets", None),
        ("sentence1\tsentence2\tscore", "a\tb\t0.5", "scored", 0.5),
        ("anchor\tpositive\tnegative\tmargin", "a\tb\tc\t7.5", "margins", 7.5),
        ("query\tpositive\tnegative\tpositive_score\tnegative_score", "a\tb\tc\t9\t-2", "teacher", [9, -2]),
    ],
)
def test_conventions(tmp_path, header, row, kind, labels):
    path = tmp_path / "data.tsv"
    path.write_text(f"{header}\n{row}\n")
    examples = open_examples(str(path))
    assert examples.dataset.kind == kind
    texts, found = examples.take([0])
    assert (None if found is None else found[0].tolist()) == labels
    if "negative_2" in header:
        assert texts == [["a"], ["b"], ["n1"], ["n2"], ["n10"]]


def test_the_label_of_a_text_is_read_where_classes_are_needed(tmp_path):
    path = tmp_path / "data.tsv"
    path.write_text("text\tlabel\na\tx\nb\t-1\n")
    assert open_examples(str(path), label_kind="none").dataset.kind == "texts"
    path.write_text("text\tlabel\na\tx\nb\ty\n")
    texts, classes = open_examples(str(path), label_kind="class").take([1])
    assert texts == [["b"]] and classes.tolist() == [1]


def test_further_label_columns_are_as_they_are(tmp_path):
    path = tmp_path / "data.tsv"
    path.write_text("sentence1\tsentence2\tscore\tweight\na\tb\t0.5\t7\n")
    examples = open_examples(str(path), labels=["score", "weight"])
    assert examples.dataset.kind == "scored" and examples.take([0])[1].tolist() == [[0.5, 7.0]]


def test_columns_by_name_and_score_range(tmp_path):
    path = tmp_path / "data.tsv"
    path.write_text("left\tright\tpoints\na\tb\t5\nc\td\t1.25\n")
    examples = open_examples(str(path), kind="scored", texts=["right", "left"], labels=["points"], score_range=(0, 5))
    texts, scores = examples.take([0, 1])
    assert texts == [["b", "d"], ["a", "c"]] and scores.tolist() == [1.0, 0.25] and scores.dtype == np.float32


@pytest.mark.parametrize(
    ("labels", "given", "classes", "ids"),
    [
        (["not_entailment", "entailment"], None, ("entailment", "not_entailment"), [1, 0]),
        (["yes", "no", "maybe"], None, ("maybe", "no", "yes"), [2, 1, 0]),
        (["2", "0"], None, ("0", "1", "2"), [2, 0]),
        (["no", "yes"], ["no", "yes"], ("no", "yes"), [0, 1]),
    ],
)
def test_classes(tmp_path, labels, given, classes, ids):
    path = tmp_path / "nli.tsv"
    path.write_text("premise\thypothesis\tlabel\n" + "".join(f"a\tb\t{label}\n" for label in labels))
    examples = open_examples(str(path), classes=given)
    assert examples.dataset.classes == classes and examples.take(range(len(ids)))[1].tolist() == ids


PAIRS, SCORED, CLASSES = "anchor\tpositive\n", "sentence1\tsentence2\tscore\n", "sentence1\tsentence2\tlabel\n"


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, ["empty", "header line"]),
        (PAIRS, {}, ["no rows"]),
        (PAIRS + "a\tb\nc\t\n", {}, ["line 3", "'positive' is ''", "not empty"]),
        (PAIRS + "a\tb\n \td\n", {}, ["line 3", "'anchor' is ' '"]),
        (PAIRS + "a\tb\nc\n", {}, ["line 3", "1 cell(s)", "has 2"]),
        (PAIRS.encode() + b"a\tb\nc\t\xff\n", {}, ["line 3", "not UTF-8"]),
        (SCORED + "a\tb\t1\nc\td\tnan\n", {}, ["line 3", "'score' is 'nan'", "finite number"]),
        (SCORED + "a\tb\t1\nc\td\t4\n", {}, ["line 3", "'score' is 4", "from -1 to 1", "score_range"]),
        (SCORED + "a\tb\t1\nc\td\t6\n", {"score_range": (0, 5)}, ["line 3", "from 0 to 5"]),
        (CLASSES + "a\tb\tneutral\nc\td\t-\n", {}, ["line 3", "'label' is '-'"]),
        (CLASSES + "a\tb\t0\nc\td\t-1\n", {}, ["line 3", "'label' is '-1'"]),
        (CLASSES + "a\tb\tno\nc\td\tperhaps\n", {"classes": ["no", "yes"]}, ["line 3", "'perhaps'", "'no', 'yes'"]),
        (CLASSES + "a\tb\t99999\n", {}, ["line 2", "'99999'"]),
        (
            "x\ty\n1\t2\n",
            {},
            ["'x', 'y'", "match none of", "pairs: anchor/query/question/", "positive/answer/document/"],
        ),
        ("sentence1\tsentence2\tlabel\tscore\na\tb\t0\t1\n", {}, ["several kinds: nli, scored"]),
        (PAIRS + "a\tb\n", {"kind": "triplets"}, ["not those of triplets", "negative{i}"]),
        (PAIRS + "a\tb\n", {"kind": "duets"}, ["kind is 'duets'", "triplets"]),
        (PAIRS + "a\tb\n", {"kind": "pairs", "texts": ["anchor", "other"]}, ["'other'", "'anchor', 'positive'"]),
        (PAIRS + "a\tb\n", {"score_range": (0, 5)}, ["score_range"]),
        ("anchor\tanchor\tpositive\na\tb\tc\n", {}, ["'anchor'"]),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, text, options, words):
    path = tmp_path / "data.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((DataError, InputError)) as error:
        open_examples(str(path), **options)
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_a_file_that_shrinks_is_noticed(tmp_path):
    path = tmp_path / "pairs.tsv"
    examples = open_examples(write_pairs(path, 20_000))
    path.write_text(PAIRS + "a\tb\n")
    with pytest.raises(DataError, match=r"line 19001: the file has become shorter"):
        examples.take([18_999])


# --- real data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "options", "kind", "rows"),
    [
        ("nli/snli_dev.tsv.gz", {}, "nli", 9834),
        ("nli/rte_train.tsv.gz", {}, "nli", 2487),
        ("nli/triplets_dev.tsv.gz", {}, "triplets", 2951),
        ("sts/stsb_train.tsv.gz", {"score_range": (0, 5)}, "scored", 5749),
        ("sts/sick_trial.tsv.gz", {"kind": "scored", "score_range": (1, 5)}, "scored", 500),
    ],
)
def test_public_data_sets(file, options, kind, rows):
    path = DATA / file
    if not path.exists():
        pytest.skip(f"{path} is not there")
    examples = open_examples(str(path), **options)
    assert (examples.dataset.kind, len(examples)) == (kind, rows)


def test_the_conventions_say_what_losses_need():
    assert {convention.label_kind for convention in CONVENTIONS.values()} == {"none", "class", "score", "margin"}
