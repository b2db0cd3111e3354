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


def objects(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def labelled(*labels):
    """Pairs of a and b with these labels."""
    return "sentence1\tsentence2\tlabel\n" + "".join(f"a\tb\t{label}\n" for label in labels)


AB, AABB = [["a"], ["b"]], [["a", "a"], ["b", "b"]]
POINTS = "k1,A plane,An airplane,5\nk2,A dog,A cat,2.5\n"
TRUE, FALSE = {"text1": "a", "text2": "b", "label": True}, {"text1": "a", "text2": "b", "label": False}


@pytest.mark.parametrize(
    ("name", "content", "options", "kind", "texts", "labels"),
    [
        ("a.tsv", "text\na\n", {}, "texts", [["a"]], None),
        ("a.tsv", "query\tanswer\na\tb\n", {}, "pairs", AB, None),
        ("a.tsv", "text_a\ttext_b\na\tb\n", {}, "pairs", AB, None),
        ("a.tsv", "Query\tPassage\na\tb\n", {}, "pairs", AB, None),
        ("a.tsv", "anchor\tpositive\tnegative\na\tb\tc\n", {}, "triplets", [*AB, ["c"]], None),
        ("a.tsv", "query\tpos\tneg_1\tneg_2\nq\tp\tn\tm\n", {}, "triplets", [["q"], ["p"], ["n"], ["m"]], None),
        (
            "a.tsv",
            "negative_2\tanchor\tpositive\tnegative_1\tnegative_10\nn2\ta\tb\tn1\tn10\n",
            {},
            "triplets",
            [*AB, ["n1"], ["n2"], ["n10"]],
            None,
        ),
        ("a.tsv", "anchor\tpositive\tnegative\tmargin\na\tb\tc\t7.5\n", {}, "margins", [*AB, ["c"]], [7.5]),
        (
            "a.tsv",
            "query\tpositive\tnegative\tpositive_score\tnegative_score\na\tb\tc\t9\t-2\n",
            {},
            "teacher",
            [*AB, ["c"]],
            [[9, -2]],
        ),
        ("a.tsv", "sentence1\tsentence2\tscore\na\tb\t0.5\n", {}, "scored", AB, [0.5]),
        ("a.tsv", "Sentence1\tSentence2 \tScore\na\tb\t0.5\n", {}, "scored", AB, [0.5]),
        ("a.tsv", "pair_ID\tsentence_A\tsentence_B\tsimilarity score\n1\ta\tb\t0.5\n", {}, "scored", AB, [0.5]),
        ("a.tsv", "text1\ttext2\tlabel\na\tb\t1\n", {}, "nli", AB, [1]),
        ("a.tsv", "id\tqid1\tquestion1\tquestion2\tis_duplicate\n0\t1\ta\tb\t0\n", {}, "nli", AB, [0]),
        ("bar.csv", "sentence1|sentence2|score\na, b|c|0.5\n", {}, "scored", [["a, b"], ["c"]], [0.5]),
        ("rows.json", '["q", "p"]\n["r", "s"]\n', {}, "pairs", [["q", "r"], ["p", "s"]], None),
        ("rows.ndjson", '["q", "p", "n"]\n', {}, "triplets", [["q"], ["p"], ["n"]], None),
        ("truth.jsonl", objects(TRUE, FALSE), {}, "nli", AABB, [1, 0]),
        # The label of a text is read where classes are needed.
        ("a.tsv", "text\tlabel\na\tx\nb\t-1\n", {"label_kind": "none"}, "texts", [["a", "b"]], None),
        ("a.tsv", "text\tlabel\na\tx\nb\ty\n", {"label_kind": "class"}, "labelled", [["a", "b"]], [0, 1]),
        # Further label columns are as they are.
        (
            "a.tsv",
            "sentence1\tsentence2\tscore\tweight\na\tb\t0.5\t7\n",
            {"labels": ["score", "weight"]},
            "scored",
            AB,
            [[0.5, 7]],
        ),
        # Columns by name, without a header too.
        (
            "a.tsv",
            "left\tright\tpoints\na\tb\t5\nc\td\t1.25\n",
            {"kind": "scored", "texts": ["right", "left"], "labels": ["points"], "score_range": (0, 5)},
            "scored",
            [["b", "d"], ["a", "c"]],
            [1, 0.25],
        ),
        (
            "a.csv",
            POINTS,
            {"columns": ["key", "x", "y", "z"], "texts": ["x", "y"], "labels": ["z"], "score_range": (0, 5)},
            "scored",
            [["A plane", "A dog"], ["An airplane", "A cat"]],
            [1, 0.5],
        ),
        # Numbers in a column "label": scores if one has a fraction, else classes.
        ("a.tsv", labelled("0.83", "0.1"), {}, "scored", AABB, [0.83, 0.1]),
        ("a.tsv", labelled("0.83", "0.1"), {"kind": "scored"}, "scored", AABB, [0.83, 0.1]),
        ("a.tsv", labelled("5.0", "3.8"), {"score_range": (0, 5), "label_kind": "score"}, "scored", AABB, [1, 0.76]),
        ("a.tsv", labelled("1.0", "0.0"), {}, "nli", AABB, [1, 0]),
        ("a.tsv", labelled("1", "0"), {"label_kind": "score"}, "scored", AABB, [1, 0]),
        ("a.tsv", labelled("1.0", "0.0"), {"kind": "scored"}, "scored", AABB, [1, 0]),
    ],
)
def test_which_columns_are_read_as_what(tmp_path, name, content, options, kind, texts, labels):
    (tmp_path / name).write_text(content)
    examples = open_examples(str(tmp_path / name), **options)
    assert examples.dataset.kind == kind
    found, given = examples.take(range(len(examples)))
    assert found == texts
    if labels is None:
        assert given is None
    else:
        np.testing.assert_allclose(given, labels, rtol=1e-6)
        assert given.dtype == (np.int32 if examples.dataset.label_kind == "class" else np.float32)


def test_a_label_next_to_pairs_and_triplets_is_read_for_losses_that_need_one():
    """As sentence-transformers names the columns of its losses."""
    pairs = {"query": ["a", "b"], "response": ["c", "d"], "label": [1, 0]}
    passages = {"query": ["a", "b"], "text": ["c", "d"], "label": [1, 0]}
    triplets = {"query": ["a", "b"], "positive": ["c", "d"], "negative": ["e", "f"], "score": [0.5, 2.5]}
    for data, needs, kind in (
        (passages, "score", "scored"),
        (passages, "class", "nli"),
        (passages, None, "pairs"),
        (pairs, "score", "scored"),
        (pairs, "class", "nli"),
        (pairs, "none", "pairs"),
        (triplets, "margin", "margins"),
        (triplets, "none", "triplets"),
    ):
        examples = open_examples(data, label_kind=needs)
        texts, labels = examples.take([0, 1])
        *names, label = data
        assert examples.dataset.kind == kind and texts == [data[name] for name in names]
        assert labels is None if needs in ("none", None) else labels.tolist() == data[label]


@pytest.mark.parametrize(
    ("header", "columns", "kind"),
    [
        ("en de", ("en", "de"), "pairs"),
        ("a b c", ("a", "b", "c"), "triplets"),
        ("text", ("text", "text"), "pairs"),
        ("english non_english", ("english", "non_english"), "translations"),
        ("english non_english", (), "translations"),
        ("anchor positive original translation", (), "pairs"),
        ("text original translation", (), "texts"),
        ("original translation1 translation2", (), "translations"),
    ],
)
def test_only_their_own_names_make_texts_translations(header, columns, kind):
    data = {name: ["a", "b"] for name in header.split()}
    assert open_examples(data, texts=columns or None).dataset.kind == kind


def test_names_of_columns_in_a_file_with_a_header(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("key,left,right,points\nk1,a,b,2\n")
    with pytest.raises(InputError, match="its first line has the names of the columns"):
        open_examples(str(file), columns=["key", "left", "right", "points"], texts=["left", "right"])


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
    path.write_text(labelled(*labels))
    examples = open_examples(str(path), classes=given)
    assert examples.dataset.classes == classes and examples.take(range(len(ids)))[1].tolist() == ids


@pytest.mark.parametrize(
    ("labels", "given", "ids"),
    [
        ([1, 2], ["1", "2", "3"], [0, 1]),
        ([1.0, 2.0], ["1", "2", "3"], [0, 1]),
        ([1, 2], ["a", "b", "c"], [1, 2]),
        ([1.0, 2.0], ["a", "b", "c"], [1, 2]),
        ([1, False, True], None, [0, 1, 2]),
        (["01", "0"], None, [1, 0]),
    ],
)
def test_a_label_is_the_same_class_in_every_kind_of_file(tmp_path, labels, given, ids):
    rows = [{"sentence1": "a", "sentence2": "b", "label": label} for label in labels]
    (tmp_path / "nli.tsv").write_text(labelled(*labels))
    (tmp_path / "nli.jsonl").write_text(objects(*rows))
    for source in (str(tmp_path / "nli.tsv"), str(tmp_path / "nli.jsonl"), rows):
        assert open_examples(source, classes=given).take(range(len(ids)))[1].tolist() == ids


PAIRS, SCORED, CLASSES = "anchor\tpositive\n", "sentence1\tsentence2\tscore\n", "sentence1\tsentence2\tlabel\n"


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (SCORED + "a\tb\t1\nc\td\t4\n", {}, ["line 3", "'score' is 4", "from -1 to 1", "score_range"]),
        (SCORED + "a\tb\t1\nc\td\t6\n", {"score_range": (0, 5)}, ["line 3", "from 0 to 5"]),
        (CLASSES + "a\tb\tno\nc\td\tperhaps\n", {"classes": ["no", "yes"]}, ["line 3", "'perhaps'", "'no', 'yes'"]),
        (CLASSES + "a\tb\t99999\n", {}, ["line 2", "'99999'"]),
        (CLASSES + "a\tb\t0\n", {"classes": ["1", "2"]}, ["line 2", "'label' is '0'", "'1', '2'; remove"]),
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
def test_bad_columns_and_labels_are_refused_by_name(tmp_path, text, options, words):
    path = tmp_path / "data.tsv"
    path.write_text(text)
    with pytest.raises((DataError, InputError)) as error:
        open_examples(str(path), **options)
    for word in [str(path), *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label_kind": "bogus"}, "label_kind is 'bogus'. Expected one of"),
        ({"classes": ["a", "b", "a"]}, "Expected the name of each class once"),
        ({"classes": "ab"}, "classes is the text 'ab'. Expected a list"),
        ({"texts": "anchor"}, "texts is the text 'anchor'. Expected a list"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        open_examples([("a", "b")], **options)


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
