"""`minisbert encode`: the embeddings are those of `SentenceEncoder.encode`, whatever the files; output is whole or absent."""

import errno
import json
import os
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from minisbert import quantize_embeddings
from minisbert.commands import encode as encode_command
from minisbert.commands import outputs


@pytest.fixture
def source(tmp_path, sentences):
    file = tmp_path / "sentences.txt"
    file.write_text("\n".join(sentences), encoding="utf-8")
    return file


def embeddings_of_lines(lines):
    records = [json.loads(line) for line in lines.splitlines()]
    return [record["text"] for record in records], np.array([r["embedding"] for r in records], np.float32)


def test_npy(run, source, tiny_bert, expected, tmp_path):
    out = tmp_path / "e.npy"
    result = run("encode", source, "--model", tiny_bert, "--out", out)
    assert result == (0, f"{out}: {len(expected)} embeddings of 32 dimensions, float32\n", "")
    np.testing.assert_array_equal(np.load(out), expected)
    assert np.load(out, mmap_mode="r").dtype == np.float32


def test_jsonl(run, source, tiny_bert, expected, sentences, tmp_path):
    out = tmp_path / "e.jsonl"
    assert run("encode", source, "--model", tiny_bert, "--out", out).code == 0
    texts, embeddings = embeddings_of_lines(out.read_text(encoding="utf-8"))
    assert texts == sentences
    np.testing.assert_array_equal(embeddings, expected)


def test_parquet(run, source, tiny_bert, expected, sentences, tmp_path):
    out = tmp_path / "e.parquet"
    assert run("encode", source, "--model", tiny_bert, "--out", out).code == 0
    table = pq.read_table(out)
    assert str(table.schema.field("embedding").type).startswith("fixed_size_list<")
    assert table.column("text").to_pylist() == sentences
    np.testing.assert_array_equal(np.array(table.column("embedding").to_pylist(), np.float32), expected)


def test_stdin_to_stdout(run, tiny_bert, expected, sentences):
    result = run("encode", "-", "--model", tiny_bert, stdin="\n".join(sentences).encode())
    texts, embeddings = embeddings_of_lines(result.out)
    assert (result.code, result.err, texts) == (0, "", sentences)
    np.testing.assert_array_equal(embeddings, expected)


@pytest.mark.parametrize("kind", ["npy", "jsonl", "parquet"])
def test_parts_make_one_file(kind, run, source, tiny_bert, sentences, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_command, "PART", 2)
    out = tmp_path / f"e.{kind}"
    result = run("encode", source, "--model", tiny_bert, "--out", out)
    assert (result.code, result.out) == (0, f"{out}: {len(sentences)} embeddings of 32 dimensions, float32\n")
    if kind == "npy":
        embeddings = np.load(out)
    elif kind == "jsonl":
        embeddings = embeddings_of_lines(out.read_text(encoding="utf-8"))[1]
    else:
        embeddings = np.array(pq.read_table(out).column("embedding").to_pylist(), np.float32)
    # Other batches, so another shape and another rounding.
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["npy", "jsonl", "parquet"])
def test_no_sentences(kind, run, tiny_bert, tmp_path):
    (tmp_path / "empty.txt").touch()
    out = tmp_path / f"e.{kind}"
    assert run("encode", tmp_path / "empty.txt", "--model", tiny_bert, "--out", out).code == 0
    if kind == "npy":
        assert np.load(out).shape == (0, 32)
    elif kind == "jsonl":
        assert out.read_bytes() == b""
    else:
        assert pq.read_table(out).num_rows == 0


def test_options(run, source, tiny_bert, expected, tmp_path):
    out = tmp_path / "e.npy"
    base = ["encode", source, "--model", tiny_bert, "--out", out]
    assert run(*base, "--truncate-dim", 8, "--normalize", "--batch-size", 2).code == 0
    cut = expected[:, :8] / np.linalg.norm(expected[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(out), cut, atol=1e-6)
    assert run(*base, "--prompt", "a dog: ").code == 0
    assert np.abs(np.load(out) - expected).max() > 1e-3
    assert run(*base, "--compute-dtype", "bfloat16").code == 0
    assert 0 < np.abs(np.load(out) - expected).max() < 0.1


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_precision(precision, run, source, tiny_bert, expected, tmp_path, monkeypatch):
    if "int8" in precision:  # measured over the whole file, whatever the parts
        monkeypatch.setattr(encode_command, "PART", 2)
    out = tmp_path / "e.npy"
    assert run("encode", source, "--model", tiny_bert, "--out", out, "--precision", precision).code == 0
    wanted = quantize_embeddings(expected, precision)
    assert np.load(out).dtype == wanted.dtype
    np.testing.assert_array_equal(np.load(out), wanted)


def test_long_sentences(run, source, tiny_bert, tmp_path, caplog):
    source.write_text("short\n" + "word " * 100 + "\n")
    out = tmp_path / "e.npy"
    base = ["encode", source, "--model", tiny_bert, "--out", out]
    assert run(*base).code == 0
    assert "1 of 2 sentences are longer than max_seq_length 64" in caplog.text
    out.unlink()
    result = run(*base, "--on-truncate", "error")
    assert result.code == 2
    assert result.err.startswith(f"minisbert: error: {source}, line 2: 102 tokens, 38 more than the model's 64.")
    assert not out.exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (
            "e.txt",
            "this kind of output file is not supported. Expected a name that ends in .npy, .jsonl, .parquet, - (stdout)",
        ),
        ("e", "this kind of output file is not supported"),
        ("nowhere/e.npy", "there is no folder"),
        ("folder.npy", "is a folder. Expected the name of a file."),
    ],
)
def test_outputs_that_cannot_be_written(out, message, run, source, tmp_path):
    (tmp_path / "folder.npy").mkdir()
    # Told before the model is looked for, and there is none.
    result = run("encode", source, "--model", "no-such-model", "--out", tmp_path / out)
    assert result.code == 2
    assert result.err.startswith(f"minisbert: error: {tmp_path / out}: {message}")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything is writable for this user")
def test_a_folder_that_is_not_writable(run, source, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    result = run("encode", source, "--model", "no-such-model", "--out", closed / "e.npy")
    assert "is not writable" in result.err


def test_the_input_is_not_overwritten(run, tiny_bert, tmp_path):
    file = tmp_path / "s.jsonl"
    file.write_text('{"text": "a"}\n')
    result = run("encode", file, "--model", tiny_bert, "--out", file)
    assert (result.code, result.err) == (2, f"minisbert: error: {file}: is the input file. Expected another name.\n")
    assert file.read_text() == '{"text": "a"}\n'


@pytest.mark.parametrize("kind", ["npy", "jsonl", "parquet"])
def test_a_failure_leaves_the_old_file_and_nothing_else(kind, run, source, tiny_bert, tmp_path, monkeypatch):
    out = tmp_path / f"e.{kind}"
    out.write_bytes(b"old")
    half = outputs.WRITERS[f".{kind}"]

    def disk_full(path, parts, rows):
        half(path, parts, rows)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setitem(outputs.WRITERS, f".{kind}", disk_full)
    result = run("encode", source, "--model", tiny_bert, "--out", out)
    assert result.code == 2
    assert re.fullmatch(
        rf"minisbert: error: {out}: cannot be written \(No space left on device; [1-9]\d* bytes were written, \d+ are "
        "free\\). The previous version is intact; make room or choose another place.\n",
        result.err,
    )
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([out.name, source.name])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--truncate-dim", "0"], "truncate_dim is 0. Expected a whole number of at least 1."),
        (["--batch-size", "-1"], "batch_size is -1. Expected a whole number of at least 1."),
        (["--prompt-name", "typo"], "prompt_name is 'typo'. Expected one of ['document', 'query']"),
    ],
)
def test_bad_options_leave_nothing(flags, message, run, source, tiny_bert, tmp_path):
    result = run("encode", source, "--model", tiny_bert, "--out", tmp_path / "e.npy", *flags)
    assert result.code == 2
    assert result.err.startswith(f"minisbert: error: {message}")
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
