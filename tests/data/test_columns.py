"""Sentences from every kind of file: all kinds give the same ones, and every flaw is reported with its place."""

import gzip
import io
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minisbert.data.columns import read_sentences
from minisbert.errors import DataError, InputError

TEXTS = ["a cat", "", 'the "big" dog', "é 中 🙂", "two\u2028lines\x0bof one"]


def as_bytes(kind):
    if kind == "parquet":
        pq.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), out := io.BytesIO(), row_group_size=2)
        return out.getvalue()
    if kind == "txt":
        return "\n".join(TEXTS).encode()
    if kind == "jsonl":
        return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS)).encode()
    return ("id\ttext\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(TEXTS))).encode()


@pytest.mark.parametrize("kind", ["txt", "txt.gz", "jsonl", "jsonl.gz", "tsv", "tsv.gz", "parquet"])
def test_every_kind_of_file_gives_the_same_sentences(kind, tmp_path):
    file = tmp_path / f"s.{kind}"
    content = as_bytes(kind.removesuffix(".gz"))
    file.write_bytes(gzip.compress(content, mtime=0) if kind.endswith(".gz") else content)
    assert read_sentences(str(file)).texts == TEXTS


def test_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n\nb\n")))
    sentences = read_sentences("-")
    assert sentences.texts == ["a", "", "b"] and sentences.file.place(2) == "stdin, line 3"


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        (b"a\n\n", ["a", ""]),
    ],
)
def test_lines_of_text(content, texts, tmp_path):
    file = tmp_path / "s.txt"
    file.write_bytes(content)
    assert read_sentences(str(file)).texts == texts


def test_places_are_the_lines_of_an_editor(tmp_path):
    for kind, line in (("txt", 3), ("jsonl", 3), ("tsv", 4)):
        file = tmp_path / f"s.{kind}"
        file.write_bytes(as_bytes(kind))
        assert read_sentences(str(file)).file.place(2) == f"{file}, line {line}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.txt", b"fine\nbad \xff here\n", "s.txt, line 2: byte 5 is b'\\xff', which is not UTF-8"),
        ("s.txt", "fine\n".encode("utf-16"), "s.txt, line 1: byte 1 is"),
        ("s.txt.gz", b"not packed", "s.txt.gz: cannot be read (Not a gzipped file"),
        ("s.txt.gz", gzip.compress(b"whole\n" * 99, mtime=0)[:-12], "s.txt.gz: cannot be read (Compressed file ended"),
        ("s.jsonl", b'{"text": "a"}\n{"text": \n', "s.jsonl, line 2: '{\"text\": ' is not JSON"),
        ("s.csv", b"text\na,b\n", "s.csv, row 2: 2 cell(s), but the header has 1"),
        ("s.csv", b'id,text\n1,"a\n', "s.csv, line 2: the quoting is damaged (unexpected end of data)"),
        ("s.csv", b'id,text\n1,"a"b\n', "s.csv, line 2: the quoting is damaged"),
        ("s.csv", b"id,text\n1,\xff\n", "s.csv, line 2: byte 3 is b'\\xff', which is not UTF-8"),
        ("s.csv", b"id,body\n1,a\n", "s.csv: the columns are 'id', 'body'. Expected exactly one named 'text'"),
        ("s.csv", b"", "s.csv: empty. Expected a header line"),
        ("s.jsonl", b'"a"\n', 's.jsonl, line 1: \'"a"\' is not an object. Expected one, like {"text"'),
        ("s.jsonl", b'{"txt": "a"}\n', "s.jsonl, line 1: the columns are 'txt'. Expected exactly one named 'text'"),
        ("s.jsonl", b'{"text": 5}\n', "s.jsonl, line 1: 'text' is 5 (int). Expected text"),
        ("s.jsonl", b'{"text": null}\n', "s.jsonl, line 1: 'text' is None (NoneType). Expected text"),
        ("s.jsonl", b'{"text": "\\ud800"}\n', "s.jsonl, line 1: 'text' is '\\ud800', with half a surrogate pair"),
        ("s.jsonl", b"[" * 100_000 + b"\n", "s.jsonl, line 1: '[[[[["),
        ("s.tsv", b"", "s.tsv: empty. Expected a header line"),
        ("s.tsv", b"id\tbody\n1\ta\n", "s.tsv: the columns are 'id', 'body'. Expected exactly one named 'text'"),
        ("s.tsv", b"text\ttext\na\tb\n", "s.tsv: the columns are 'text', 'text'. Expected exactly one named 'text'"),
        ("s.tsv", b"id\ttext\n1\ta\n2\n", "s.tsv, line 3: 1 cell(s), but the header has 2"),
        ("s.parquet", b"PAR1 not really", "s.parquet: cannot be read ("),
        ("s.parquet", {"body": ["a"]}, "s.parquet: the columns are 'body'. Expected exactly one named 'text'"),
        ("s.parquet", {"text": ["a", None]}, "s.parquet, 0-based row 1: 'text' is None"),
        ("s.parquet", {"text": [1, 2]}, "s.parquet, 0-based row 0: 'text' is 1 (int)"),
    ],
)
def test_flaws_are_named(name, content, message, tmp_path):
    if isinstance(content, dict):
        pq.write_table(pa.table(content), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_sentences(str(tmp_path / name))
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


@pytest.mark.parametrize("name", ["s.txt", "s.txt.gz", "s.jsonl", "s.tsv", "s.parquet"])
def test_missing_files_and_folders(name, tmp_path):
    with pytest.raises(DataError, match=r"no such file\. Expected a file of rows"):
        read_sentences(str(tmp_path / name))
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=f"{name}: cannot be read"):
        read_sentences(str(tmp_path / name))


@pytest.mark.parametrize("name", ["s.xlsx", "s", "s.parquet.gz", "s.gz"])
def test_other_kinds_are_refused(name):
    with pytest.raises(InputError, match=f"{name}: this kind of file is not supported. Expected .csv"):
        read_sentences(name)


def test_without_pyarrow(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"pip install 'minisbert\[parquet\]'"):
        read_sentences(str(tmp_path / "s.parquet"))
