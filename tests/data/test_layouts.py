"""Layouts of data that people have: csv, quoted tsv, blank lines, other column names, lists, uneven rows. None loses a text."""

import csv
import io
import json
import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest

from minisbert.data.columns import read_sentences
from minisbert.data.examples import open_examples, text_columns
from minisbert.data.rows import sources
from minisbert.errors import DataError, InputError
from minisbert.evaluation.binary_classification import read_labelled
from minisbert.evaluation.sts import read_sts

HARD = ['say "stop"', "a\ttab", "two\nlines", "semi;colon, comma", "plain", '"whole"', "é 中 🙂"]


def written(texts, delimiter=",", quoting=csv.QUOTE_MINIMAL, end="\n"):
    out = io.StringIO()
    rows = [["id", "text"], *([str(i), text] for i, text in enumerate(texts))]
    csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(rows)
    return out.getvalue()


def lines(*objects):
    return "".join(json.dumps(one) + "\n" for one in objects)


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize(("name", "delimiter"), [("s.csv", ","), ("s.csv", ";"), ("s.csv", "\t"), ("s.tsv", "\t")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_a_csv_writer_wrote_is_read_back(tmp_path, name, delimiter, quoting, end):
    file = tmp_path / name
    file.write_bytes(("\ufeff" + written(HARD, delimiter, quoting, end)).encode())
    sentences = read_sentences(str(file))
    assert sentences.texts == HARD
    assert sentences.file.place(6) == f"{file}, row 8"


@pytest.mark.parametrize(
    "texts", [['she said "no" twice', '"All of it"'], ['a 5" nail', "x"], ['"', "x"], ['"a" and "b"', "x"]]
)
def test_quotation_marks_of_a_plain_tsv_stay(tmp_path, texts):
    file = tmp_path / "s.tsv"
    file.write_text("id\ttext\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts)))
    assert read_sentences(str(file)).texts == texts


def test_quotes_that_may_be_either_are_kept_and_reported(tmp_path, caplog):
    file = tmp_path / "s.tsv"
    file.write_text('id\ttext\n0\t"All of it"\n')
    with caplog.at_level(logging.WARNING):
        assert read_sentences(str(file)).texts == ['"All of it"']
    assert "line 2: a cell begins and ends with quotation marks" in caplog.text


@pytest.mark.parametrize(
    "rows",
    [
        [("who is happy?", '"We are happy.', "A dog"), ("who is it?", 'It is good."', "A cat"), ("a", "b", "c")],
        [("who is it?", '"We are', 'happy"')],
        [("who is it?", '"We are', "b"), ("", "", ""), ("c", "d", 'happy"')],
    ],
)
def test_quotes_that_open_in_one_cell_and_close_in_another_join_nothing(tmp_path, rows, caplog):
    file = tmp_path / "t.tsv"
    header = ("anchor", "positive", "negative1")
    file.write_text("".join("\t".join(row).rstrip("\t") + "\n" for row in (header, *rows)))
    with caplog.at_level(logging.WARNING):
        assert list(zip(*open_examples(str(file)).take(range(sum(map(any, rows))))[0], strict=True)) == [
            *filter(any, rows)
        ]
    assert ("line 2: a cell begins and ends with quotation marks" in caplog.text) == (rows[0][0] == "who is happy?")


def test_a_cell_with_line_breaks_is_one_where_doubled_quotes_show_a_csv_writer(tmp_path):
    texts = ["two\nlines", 'say "stop"']
    file = tmp_path / "s.tsv"
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([["text"], *([text] for text in texts)])
    file.write_text(out.getvalue())
    assert read_sentences(str(file)).texts == texts


SCORED = [("a", "b", "0.5"), ("c", "d", "0.1")]
TSV = "sentence1\tsentence2\tscore\n" + "".join("\t".join(row) + "\n" for row in SCORED)
CSV = TSV.replace("\t", ",")
JSONL = [json.dumps({"sentence1": a, "sentence2": b, "score": float(c)}) for a, b, c in SCORED]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("end.tsv", TSV + "\n"),
        ("crlf.tsv", (TSV + "\n\n").replace("\n", "\r\n")),
        ("middle.tsv", TSV.replace("\nc", "\n\n \nc")),
        ("end.csv", CSV + "\n\n"),
        ("middle.csv", CSV.replace("\nc", "\n\nc")),
        ("end.jsonl", "\n".join(JSONL) + "\n\n"),
        ("begin.jsonl", "\n" + "\n".join(JSONL)),
        ("middle.jsonl", "\n  \n\n".join(JSONL) + "\n   "),
        ("long.jsonl", " " * 20 + "\n" + ("\n" + " " * 4000 + "\r\n").join(JSONL) + "\n" + " " * 16),
        ("long.tsv", TSV.replace("\nc", "\n" + " " * 99 + "\nc")),
    ],
)
def test_blank_lines_are_no_rows(tmp_path, name, content):
    file = tmp_path / name
    file.write_text(content)
    examples = open_examples(str(file))
    texts, scores = examples.take([1, 0])
    assert texts == [["c", "a"], ["d", "b"]] and scores.tolist() == pytest.approx([0.1, 0.5])
    assert read_sts(file).first == ("a", "c")
    line = content.split("\n").index(
        next(
            one
            for one in content.split("\n")
            if "c" in one and "d" in one and "sentence1\t" not in one and "sentence1," not in one
        )
    )
    assert examples.rows.place(1).endswith(f" {line + 1}"), "places count blank lines"
    assert read_sentences(str(file), "sentence1").file.place(1) == examples.rows.place(1)


@pytest.mark.parametrize(("name", "content"), [("a.txt", "one\n\n \r\ntwo\n\n"), ("a.tsv", "text\n\none\n\ntwo\n\n")])
def test_blank_lines_of_texts_are_no_rows_in_training_only(tmp_path, name, content):
    (file := tmp_path / name).write_bytes(content.encode())
    examples = open_examples(str(file))
    assert examples.take([0, 1])[0] == [["one", "two"]] and len(examples) == 2
    assert len(read_sentences(str(file)).texts) == content.count("\n") - (name == "a.tsv")


def test_a_json_array_of_texts_is_a_row_per_text(tmp_path):
    (file := tmp_path / "a.json").write_text('["one", "two", "three"]')
    assert open_examples(str(file)).take(range(3))[0] == [["one", "two", "three"]]
    assert read_sentences(str(file)).texts == ["one", "two", "three"]
    file.write_text('["one", "two"]\n["three", "four"]\n')  # lines, each with the texts of one row
    assert open_examples(str(file)).take(range(2))[0] == [["one", "three"], ["two", "four"]]


def test_a_set_of_texts_is_an_anchor_with_its_positives(tmp_path):
    """The layout of sentence-transformers' training data in which all texts of a row mean the same."""
    (file := tmp_path / "a.jsonl").write_text(lines({"set": ["a", "b", "c"]}, {"set": ["d", "e"]}))
    assert open_examples(str(file)).take(range(3))[0] == [["a", "a", "d"], ["b", "c", "e"]]
    for alone, missing in ((["a"], "no positive"), ([], "no positive")):
        file.write_text(lines({"set": alone}, {"set": ["d", "e"]}))
        with pytest.raises(DataError, match=f"line 1: {missing}"):
            open_examples(str(file))


def test_a_column_of_splits_is_named_since_all_rows_are_used(tmp_path, caplog):
    (file := tmp_path / "a.tsv").write_text("split\tscore\tsentence1\tsentence2\ntrain\t1\ta\tb\ntest\t0\tc\td\n")
    for read in (open_examples, read_sts):
        caplog.clear()
        assert len(read(str(file))) == 2
        assert "its rows are of the splits 'test', 'train' (column 'split'), and all are used" in caplog.text
    file.write_text("split\tscore\tsentence1\tsentence2\ntrain\t1\ta\tb\ntrain\t0\tc\td\n")
    caplog.clear()
    assert len(read_sts(file)) == 2 and not caplog.text


def test_true_and_false_are_scores_and_a_decimal_comma_is_named(tmp_path):
    (file := tmp_path / "a.jsonl").write_text(lines(*({"text1": "a", "text2": "b", "label": x} for x in (True, False))))
    assert read_sts(file).gold == (1.0, 0.0)
    (file := tmp_path / "a.csv").write_text("sentence1;sentence2;score\na;b;0,3\n")
    with pytest.raises(DataError, match="a finite number with a point before its decimals"):
        read_sts(file)
    with pytest.raises(DataError, match=r"'score' is \[0, 3\]\. Expected a finite number; correct"):
        open_examples({"sentence1": ["a"], "sentence2": ["b"], "score": [[0, 3]]}, label_kind="score")


@pytest.mark.parametrize(
    ("rows", "examples"),
    [
        (  # FlagEmbedding: the third row's negatives are dealt out two by two
            [
                {"query": "q", "pos": ["p"], "neg": ["n", "m"], "prompt": "x"},
                {"query": "r", "pos": ["s", "t"], "neg": ["u", "v"]},
                {"query": "w", "pos": ["x"], "neg": ["1", "2", "3"]},
            ],
            ["q p n m", "r s u v", "r t u v", "w x 1 2", "w x 3 1"],
        ),
        (  # Tevatron
            [
                {
                    "query_id": "1",
                    "query": "q",
                    "positive_passages": [{"docid": "a", "title": "t", "text": "p"}],
                    "negative_passages": [{"docid": "b", "title": "", "text": "n"}],
                }
            ],
            ["q t_p n"],
        ),
        (  # DPR: short answers next to passages are not texts to embed
            [
                {
                    "question": "q",
                    "answers": ["short"],
                    "positive_ctxs": [{"title": "t", "text": "p"}],
                    "negative_ctxs": [{"title": "", "text": "n"}],
                    "hard_negative_ctxs": [{"title": "u", "text": "m"}],
                }
            ],
            ["q t_p n u_m"],
        ),
        ([{"query": "q", "answers": ["short", "a"], "positive": "p", "neg": ["n"]}], ["q p n"]),
        ([{"question": "q", "answers": ["a", "b"]}], ["q a", "q b"]),
        ([{"anchor": "q", "positive": "p", "negatives": ["n", "m"]}], ["q p n m"]),
        (
            [
                {"anchor": "q", "positive": "p", "negative_1": "n"},
                {"anchor": "r", "positive": "s", "negative_1": "t", "negative_2": "u"},
            ],
            ["q p n", "r s t", "r s u"],
        ),
        (
            [
                {"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "m"},
                {"anchor": "r", "positive": "s", "negative_1": "t", "negative_2": None},
            ],
            ["q p n", "q p m", "r s t"],
        ),
        ([{"query": "q", "pos": ["p", "s"]}, {"query": "r", "pos": ["t"]}], ["q p", "q s", "r t"]),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "json", "memory", "parquet"])
def test_no_text_of_a_list_is_lost(tmp_path, rows, examples, kind):
    file = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        file.write_text(lines(*rows))
    elif kind == "json":  # one array
        file.write_text(json.dumps(rows, indent=1))
    elif kind == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(
            pa.Table.from_pylist(rows, pa.Table.from_pylist(rows[::-1]).schema if "negative_2" in rows[-1] else None),
            file,
        )
    found = open_examples(rows if kind == "memory" else str(file))
    texts, _ = found.take(range(len(found)))
    assert [" ".join(one.replace(" ", "_") for one in row) for row in zip(*texts, strict=True)] == examples


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"query": "q", "pos": ["p"], "neg": ["n"]}, {"query": "q", "pos": ["p"], "neg": []}],
            "line 2: no negative, but",
        ),
        ([{"query": "q", "pos": [], "neg": ["n"]}], "line 1: no positive"),
        ([{"query": "q", "pos": [3], "neg": ["n"]}], "line 1: 'pos' is 3"),
        ([{"query": "q", "pos": [{"body": "p"}]}], "line 1: 'pos' is {'body': 'p'}"),
        ([{"anchor": "a", "positive": "b"}, {"anchor": "a", "positive": "b", "negative": "c"}], "line 1: no negative"),
        (
            [{"sentence1": "a", "sentence2": "b"}, {"sentence1": "a", "sentence2": "b", "score": 1}],
            "line 1: the columns",
        ),
    ],
)
def test_rows_that_lack_a_text_are_named(tmp_path, rows, words):
    file = tmp_path / "data.jsonl"
    file.write_text(lines(*rows))
    with pytest.raises(DataError, match=r"data\.jsonl, ") as caught:
        open_examples(str(file))
    assert words in str(caught.value)
    with pytest.raises(DataError, match=words.split(": ")[1].split(",")[0].replace("{", r"\{")):
        open_examples(rows)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "it is empty"),
        ('[{"anchor": "a", "positive": "b"}, 3]', "not an array of objects"),
        ('[{"anchor": "a", "positive": "b"},\n{"anchor": "a"', "line 2 column 15"),
        ("[" * 100_000, "not an array of objects"),
        ('[{"anchor": "a", "positive": "b", "anchor": "c"}]', "the key 'anchor' is there twice"),
        ('[{"anchor": "a", "positive": "b"}, {"anchor": "a"}]', "row 2: the columns are 'anchor'"),
        ('[["a", "b"], ["c", 4]]', "row 2: '[\"c\", 4]' is not an object"),
    ],
    ids=range(7),
)
def test_a_damaged_json_array_is_named(tmp_path, content, words):
    file = tmp_path / "data.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"data\.json[:,] ") as caught:
        open_examples(str(file))
    assert words in str(caught.value)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_lines_of_lists_are_no_array(tmp_path, mark):
    file = tmp_path / "data.json"
    for content in ('["a", "b"]\n["c", "d"]\n', '[["a", "b"], ["c", "d"]]'):
        file.write_text(mark + content, encoding="utf-8")
        assert open_examples(str(file)).take([0, 1])[0] == [["a", "c"], ["b", "d"]]


def test_evaluations_find_the_same_columns(tmp_path):
    file = tmp_path / "quora.csv"
    file.write_text('id,question1,question2,is_duplicate\n1,"a, b",c,1.0\n2,d,e,0\n')
    assert read_labelled(file).first == ("a, b", "d") and read_labelled(file).labels == (1.0, 0.0)
    assert read_sts(file).gold == (1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "sentence1,sentence2,label\na,b,True\nc,d,False\n"),
        ("a.tsv", "sentence1\tsentence2\tis_selected\na\tb\t1\nc\td\t0\n"),
        ("a.jsonl", lines(*({"sentence1": "a", "sentence2": "b", "label": label} for label in (True, False)))),
    ],
)
def test_labels_true_and_false_are_1_and_0(tmp_path, name, content):
    file = tmp_path / name
    file.write_text(content)
    assert read_labelled(file).labels == (1, 0)
    for label_kind in (None, "class", "score"):
        assert open_examples(str(file), label_kind=label_kind).take([0, 1])[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"anchor": "cat", "positive": "dog"}, "column 'anchor' is 'cat'. Expected a list, with one value per row"),
        ({"anchor": ["cat"], "positive": {"0": "dog"}}, "column 'positive' is {'0': 'dog'}. Expected a list"),
        ({"anchor": ["cat"], "positive": 3}, "column 'positive' is 3. Expected a list"),
        ({1: ["cat"], "1": ["dog"]}, "the columns are '1', '1'. Expected exactly one named '1'"),
    ],
)
def test_columns_in_memory_that_are_no_lists_are_refused(data, words):
    with pytest.raises((DataError, InputError)) as caught:
        open_examples(data)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "labels", "kind", "found"),
    [
        (["a", "b"], [0, 0], "pairs", []),  # 0 is the default: there are no labels
        (["a", "b", "c"], [0, 0], "triplets", []),
        (["a", "b"], [0, 1], "nli", ["0", "1"]),
        (["a", "b"], [0.0, 0.5], "scored", [0.0, 0.5]),
        (["a"], [2, 0], "labelled", ["2", "0"]),
    ],
)
def test_input_examples_are_rows(texts, labels, kind, found):
    rows = [SimpleNamespace(guid="", texts=texts, label=label) for label in labels]
    assert sources(rows) == {"0": rows}
    examples = open_examples(rows, label_kind="class" if kind == "labelled" else "any")
    assert (examples.dataset.kind, len(examples)) == (kind, 2)
    columns, given = examples.take([0, 1])
    assert columns == [[text, text] for text in texts]
    classes = examples.dataset.classes
    assert [classes[one] if classes else one for one in ([] if given is None else given.tolist())] == found
    rows[1].texts = []
    with pytest.raises(InputError, match=r"0-based row 0: .* Expected a list of dicts"):
        open_examples(rows)


def test_a_table_of_pyarrow_has_rows():
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"query": ["q"], "docs": [["p", "n"]], "labels": [[True, False]]})
    texts, labels_BC = open_examples(table, label_kind="relevance").take([0])
    assert texts == [["q"], ["p"], ["n"]] and labels_BC.tolist() == [[1, 0]]


def test_two_columns_of_one_name_are_refused():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame([["q", "a"], ["r", "b"]], columns=["text", "text"])
    with pytest.raises(DataError, match=r"the columns are 'text', 'text'\. Expected exactly one named 'text'"):
        open_examples(table)


def test_a_first_cell_of_any_length_and_bare_carriage_returns(tmp_path):
    file = tmp_path / "s.csv"
    file.write_text("a" * 200_000 + ",b\n")
    limit = csv.field_size_limit(131_072)  # Python's default, which another file may have raised
    try:
        assert open_examples(str(file), columns=["anchor", "positive"]).take([0])[0][1] == ["b"]
    finally:
        csv.field_size_limit(limit)
    file.write_bytes(b"anchor,positive\ra,b\r")
    with pytest.raises(DataError, match=r"s\.csv, line 1: a carriage return \(.r\) outside quotation marks"):
        open_examples(str(file))


def test_unused_columns_are_logged(tmp_path, caplog):
    file = tmp_path / "data.tsv"
    file.write_text("id\tanchor\tpositive\n7\ta\tb\n")
    with caplog.at_level(logging.INFO, "minisbert"):
        open_examples(str(file))
    assert "read as pairs, from 'anchor', 'positive'; not used: 'id'" in caplog.text


def test_pairs_with_labels_that_the_loss_does_not_take_are_named(caplog):
    def warning(label_kind, **columns):
        caplog.clear()
        open_examples({"query": ["q", "r"], "passage": ["p", "n"], **columns}, label_kind=label_kind)
        return caplog.text

    assert "'score' is not used, because the loss takes no labels" in warning("none", score=[1, 0])
    assert not warning("none", score=[1, 1]) and not warning("score", score=[1, 0]) and not warning("none", id=[1, 2])
    assert not warning("none", negative=["n", "p"], score=[1, 0])  # a margin


@pytest.mark.parametrize("name", ["label", "labels", "score", "scores"])
def test_a_label_has_any_name_that_sentence_transformers_knows(name):
    for texts in (("sentence1", "sentence2"), ("query", "answer")):
        data = {texts[0]: ["a", "b"], texts[1]: ["c", "d"], name: [0.25, 1]}
        assert open_examples(data, label_kind="score").take([0, 1])[1].tolist() == [0.25, 1]


QUERY = {"query": "q", "positive": "p", "negative_1": "n", "negative_2": "m"}


@pytest.mark.parametrize(
    ("row", "texts", "names", "labels"),
    [
        ({"query": "q", "docs": ["p", "n", "m"], "labels": [2, 0, 1]}, "q p n m", "score", [2, 0, 1]),
        ({"query": "q", "passages": ["p", "n"], "is_selected": [0, 1]}, "q p n", "score", [0, 1]),
        ({**QUERY, "label": [3.5, -1, 2]}, "q p n m", "score", [3.5, -1, 2]),
        ({**QUERY, "score": [4.5, 1]}, "q p n m", "margin", [4.5, 1]),
    ],
)
def test_a_list_of_labels_becomes_a_column_per_text(tmp_path, row, texts, names, labels):
    file = tmp_path / "lists.jsonl"
    file.write_text(lines(row, row))
    for source in (str(file), [row, row], {name: [value, value] for name, value in row.items()}):
        examples = open_examples(source, label_kind="margin")
        found, label_BC = examples.take([1])
        assert " ".join(column[0] for column in found) == texts
        assert label_BC.tolist() == [labels] and all(names in name for name in examples.dataset.labels)


def test_lists_of_documents_may_have_any_length_where_relevance_is_asked_for(tmp_path):
    rows = [{"query": "q", "docs": ["p", "n", "m"][:size], "labels": [3, 0, 0][:size]} for size in (2, 3, 1)]
    file = tmp_path / "lists.jsonl"
    file.write_text(lines(*rows))
    for source in (str(file), rows, {name: [row[name] for row in rows] for name in rows[0]}):
        texts, labels_BC = open_examples(source, label_kind="relevance").take([0, 1, 2])
        assert texts == [["q", "q", "q"], ["p", "p", "p"], ["n", "n", ""], ["", "m", ""]]
        np.testing.assert_array_equal(labels_BC, [[3, 0, np.nan], [3, 0, 0], [3, np.nan, np.nan]])
    assert text_columns(str(file)) == ("query", "positive", "negative_1", "negative_2")


def test_lists_may_have_any_names():
    rows = [{"id": i, "q": "q", "candidates": ["p", "n"][: 2 - i], "relevant": [True, False][: 2 - i]} for i in (0, 1)]
    named = {"texts": ("q", "candidates"), "labels": ("relevant",)}
    examples = open_examples(rows, label_kind="relevance", **named)
    assert examples.dataset.texts == ("q", "positive", "negative_1")
    texts, labels_BC = examples.take([0, 1])
    assert texts == [["q", "q"], ["p", "p"], ["n", ""]]
    np.testing.assert_array_equal(labels_BC, [[1, 0], [1, np.nan]])
    rows = [{"query": row["q"], "docs": row["candidates"], "labels": row["relevant"]} for row in rows]
    found = open_examples(rows, label_kind="relevance", texts=("query", "docs"), labels=("labels",)).take([0, 1])
    np.testing.assert_array_equal(found[1], labels_BC)


@pytest.mark.parametrize("name", ["docs", "answer", "passages"])
@pytest.mark.parametrize("label_kind", ["margin", "relevance"])
def test_texts_next_to_a_list_of_labels_are_no_positives(name, label_kind):
    rows = [{"query": "q", name: ["p", "n"], "labels": [1, 0]}]  # mine_hard_negatives with output_format="labeled-list"
    texts, labels_BC = open_examples(rows, label_kind=label_kind).take([0])
    assert texts == [["q"], ["p"], ["n"]] and labels_BC.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    "row, words",
    [
        ({"query": "q", "docs": ["p", "n"], "labels": [1]}, "row 1: 'labels' has 1 entries. Expected a list of 2"),
        ({"query": "q", "docs": [], "labels": []}, "row 1: 'docs' has 0 entries. Expected a list of 1"),
        ({"query": "q", "docs": ["p", None], "labels": [1, 0]}, "row 1: 'docs' has 2 entries, with a null. Expected"),
        (
            {"query": "q", "docs": ["p", "n"], "labels": [1, None]},
            "row 1: 'labels' has 2 entries, with a null. Expected",
        ),
        ({"query": "q", "docs": "p", "labels": [1, 0]}, "row 1: 'docs' has 'p'"),
        ({"query": None, "docs": ["p"], "labels": [1]}, "example 2: 'query' is None"),
        ({"query": "q", "docs": ["p", " "], "labels": [1, 0]}, "example 2: 'negative_1' is ' '"),
        (
            {"query": "q", "docs": ["p", "n"], "labels": [1, float("nan")]},
            "'negative_score_1' is nan. Expected a finite",
        ),
    ],
)
def test_a_list_of_documents_without_a_label_for_each_is_refused(row, words):
    rows = [{"query": "q", "docs": ["p", "n", "m"], "labels": [1, 0, 0]}, row]
    with pytest.raises(DataError, match=re.escape(words)):
        open_examples(rows, label_kind="relevance")


def test_lists_of_one_document_are_refused():
    rows = [{"query": "q", "docs": ["p"], "labels": [1]}] * 2
    with pytest.raises(DataError, match=r"each list in 'docs' has one entry\. Expected one with two or more"):
        open_examples(rows, label_kind="relevance")


def test_lists_of_other_lengths_are_refused():
    rows = [{"query": "q", "docs": ["p", "n", "m"][:size], "labels": [1, 0, 0][:size]} for size in (2, 3)]
    with pytest.raises(
        DataError, match=r"row 1: '(docs|labels)' has 3 entries\. Expected a list of 2.* cut longer lists"
    ):
        open_examples(rows, label_kind="margin")


def test_a_column_of_a_text_file_may_be_used_twice(tmp_path):
    file = tmp_path / "sentences.txt"
    file.write_text("one\ntwo\n")
    assert open_examples(str(file), texts=("text", "text")).take([1, 0])[0] == [["two", "one"]] * 2  # SimCSE


def test_scores_of_a_teacher_out_of_range_are_pointed_to_their_kind():
    rows = {"query": ["q", "r"], "passage": ["p", "s"], "score": [4.25, -3.5]}
    with pytest.raises(DataError, match=r"set kind='distilled' and label_columns=\('score',\)"):
        open_examples(rows, label_kind="score")
    assert open_examples(rows, kind="distilled", labels=("score",)).take([0, 1])[1].tolist() == [4.25, -3.5]


def test_several_tables_by_name_are_several_sources():
    one, other = {"anchor": ["a"], "positive": ["b"]}, {"anchor": ["c"], "positive": ["d"]}
    assert sources({"one": one, "other": other}) == {"one": one, "other": other} and sources(one) == {"0": one}
    assert sources({"a": "a.tsv", "b": one}) == {"a": "a.tsv", "b": one}  # files as well
    assert sources({"text": "a text"}) == {"0": {"text": "a text"}}  # no file
    with pytest.raises(InputError, match=r"is the splits train, test\. Expected one of them"):
        sources({"train": one, "test": other})
