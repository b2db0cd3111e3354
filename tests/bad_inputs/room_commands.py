"""Command lines: unknown words, invalid options, damaged files, outputs that must not be written.

A command runs in this process; its exit code must be 2, its message on stderr must contain the words, and neither the output
nor a partial file next to it may exist afterwards.
"""

import contextlib
import io
import sys
from collections.abc import Callable
from typing import Any

import pytest
from battery import WEIGHTS, Case, Gives, Work, refused

Act = Callable[[Any, Work], Any]
TINY = str(WEIGHTS / "tiny-bert")
TEXT = "a man eats\na woman sings\na red dog\n"
PAIRS = "anchor\tpositive\n" + "".join(f"a man {i}\ta dog {i}\n" for i in range(8))
STS = "score\tsentence1\tsentence2\n1\ta man\ta dog\n2\ta cat\ta dog\n3\ta cat\ta cat\n"


def command(*words: str, stdin: bytes = b"", **files: str | bytes) -> Act:
    """Run `minisbert WORDS` in a folder with some files (`text__txt` is text.txt); what it says is raised on exit code 2."""

    def act(lib: Any, work: Work) -> Any:
        from minisbert import SentenceEncoder
        from minisbert.commands import main
        from minisbert.errors import MinisbertError

        load = SentenceEncoder.load
        for name, content in files.items():
            work.file(name.replace("__", "."), content)
        before = sorted(path for path in work.folder.rglob("*"))
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            patch.setattr(
                SentenceEncoder,
                "load",
                staticmethod(lambda name, **o: lib.encoder if _is_tiny(name, o) else load(name, **o)),
            )
            code = main([word.replace("TINY", TINY) for word in words])
            out.flush()
        told = out.buffer.getvalue().decode() + err.getvalue()  # type: ignore[attr-defined]
        if "Traceback" in told:
            raise RuntimeError(told)
        if code == 2:
            left = [
                path.name for path in sorted(work.folder.rglob("*")) if path not in before and "cache" not in path.parts
            ]
            assert not left, f"left behind: {left}"
            raise MinisbertError(told)
        return code, told

    return act


def _is_tiny(name: Any, options: dict[str, Any]) -> bool:
    return name == TINY and options.get("compute_dtype", "float32") == "float32"


E = ("encode", "text.txt", "--model", "TINY", "--out", "out.npy")
ENCODE: list[tuple[str, tuple[str, ...], dict[str, Any], tuple[str, ...]]] = [
    ("a file that is not there", E, {}, ("text.txt", "no such file")),
    (
        "a kind of file that is not read",
        ("encode", "a.xlsx", "--model", "TINY"),
        {"a__xlsx": TEXT},
        ("a.xlsx", ".jsonl"),
    ),
    ("a folder for a file", ("encode", ".", "--model", "TINY"), {}, (".",)),
    ("a byte that is not UTF-8", E, {"text__txt": b"fine\ncaf\xe9\n"}, ("text.txt, line 2",)),
    ("UTF-16", E, {"text__txt": TEXT.encode("utf-16")}, ("text.txt, line 1",)),
    ("a gz that is not gzip", ("encode", "a.txt.gz", "--model", "TINY"), {"a__txt__gz": TEXT}, ("a.txt.gz",)),
    ("jsonl that is not JSON", ("encode", "a.jsonl", "--model", "TINY"), {"a__jsonl": TEXT}, ("a.jsonl, line 1",)),
    (
        "jsonl without the column",
        ("encode", "a.jsonl", "--model", "TINY"),
        {"a__jsonl": '{"x": "a"}\n'},
        ("a.jsonl, line 1", "text"),
    ),
    (
        "jsonl with a number",
        ("encode", "a.jsonl", "--model", "TINY"),
        {"a__jsonl": '{"text": 3}\n'},
        ("a.jsonl, line 1", "text"),
    ),
    (
        "jsonl with a lone surrogate",
        ("encode", "a.jsonl", "--model", "TINY"),
        {"a__jsonl": '{"text": "\\ud800"}\n'},
        ("line 1",),
    ),
    (
        "jsonl nested deeply",
        ("encode", "a.jsonl", "--model", "TINY"),
        {"a__jsonl": "[" * 200_000},
        ("a.jsonl, line 1",),
    ),
    ("an empty tsv", ("encode", "a.tsv", "--model", "TINY"), {"a__tsv": ""}, ("a.tsv",)),
    ("a tsv with a cell more", ("encode", "a.tsv", "--model", "TINY"), {"a__tsv": "text\na\tb\n"}, ("a.tsv, line 2",)),
    (
        "a parquet file that is not parquet",
        ("encode", "a.parquet", "--model", "TINY"),
        {"a__parquet": TEXT},
        ("a.parquet",),
    ),
    ("no model", ("encode", "text.txt"), {"text__txt": TEXT}, ("--model",)),
    ("a model that is not there", ("encode", "text.txt", "--model", "./nowhere"), {"text__txt": TEXT}, ("nowhere",)),
    (
        "a model that is a file",
        ("encode", "text.txt", "--model", "./text.txt"),
        {"text__txt": TEXT},
        ("text.txt", "file"),
    ),
    ("a model of no name", ("encode", "text.txt", "--model", "no-such"), {"text__txt": TEXT}, ("no-such",)),
    ("an output of no kind", (*E[:-1], "out.csv"), {"text__txt": TEXT}, ("out.csv", ".npy")),
    ("an output in no folder", (*E[:-1], "nowhere/out.npy"), {"text__txt": TEXT}, ("nowhere",)),
    (
        "an output that is the input",
        ("encode", "a.jsonl", "--model", "TINY", "--out", "a.jsonl"),
        {"a__jsonl": '{"text": "a"}\n'},
        ("a.jsonl", "input"),
    ),
    *[(f"--batch-size {v}", (*E, "--batch-size", v), {"text__txt": TEXT}, ("batch",)) for v in ("0", "-1", "x", "1.5")],
    *[(f"--truncate-dim {v}", (*E, "--truncate-dim", v), {"text__txt": TEXT}, ("truncate",)) for v in ("0", "-1", "x")],
    ("--precision of no name", (*E, "--precision", "int4"), {"text__txt": TEXT}, ("int4",)),
    ("--precision int8 of one line", (*E, "--precision", "int8"), {"text__txt": "a\n"}, ("int8",)),
    ("--compute-dtype of no name", (*E, "--compute-dtype", "float16"), {"text__txt": TEXT}, ("float16",)),
    ("--prompt-name of no name", (*E, "--prompt-name", "nope"), {"text__txt": TEXT}, ("prompt_name", "nope")),
    (
        "--on-truncate error",
        (*E, "--on-truncate", "error"),
        {"text__txt": "a\n" + "man " * 100},
        ("text.txt, line 2", "64"),
    ),
    ("an option of no name", (*E, "--evil"), {"text__txt": TEXT}, ("--evil",)),
    ("an option without its value", (*E, "--batch-size"), {"text__txt": TEXT}, ("batch",)),
]
S = ("search", "who?", "--model", "TINY")
M = ("mine", "text.txt", "--model", "TINY")
K = ("cluster", "text.txt", "--model", "TINY")
T = ("train", "TINY", "run", "--data", "pairs.tsv", "--batch-size", "4")
OTHERS: list[tuple[str, tuple[str, ...], dict[str, Any], tuple[str, ...]]] = [
    ("no command", ("nope",), {}, ("nope", "encode")),
    ("a command of odd letters", ("\ud800",), {}, ("command",)),
    ("a command in capitals", ("ENCODE",), {}, ("ENCODE",)),
    ("a module for a command", ("os.system",), {}, ("os.system",)),
    ("a path for a command", ("../evil",), {}, ("evil",)),
    ("similarity of one text", ("similarity", "TINY", "a"), {}, ("B",)),
    ("similarity with an output of no kind", ("similarity", "TINY", "a", "b", "--out", "x.txt"), {}, ("x.txt", ".png")),
    ("inspect of nothing", ("inspect", "./nowhere"), {}, ("nowhere",)),
    ("download of no name", ("download", "a b"), {}, ("a b",)),
    ("download offline", ("download", "org/name", "--offline"), {}, ("org/name", "offline")),
    ("download of an odd revision", ("download", "org/name", "--revision", "../x"), {}, ("revision", "../x")),
    ("convert to the source itself", ("convert", "TINY", "--out", "TINY"), {}, ("--out",)),
    ("convert back without an output", ("convert", "TINY", "--back"), {}, ("--out",)),
    ("convert back what was not converted", ("convert", "TINY", "--back", "--out", "x"), {}, ("convert",)),
    ("convert to a folder with other things", ("convert", "TINY", "--out", "there"), {"there/x": "x"}, ("there",)),
    ("search in nothing", S, {}, ("--corpus", "--index")),
    ("search in two", (*S, "--corpus", "text.txt", "--index", "x"), {"text__txt": TEXT}, ("--corpus", "--index")),
    *[
        (f"search, --top {v}", (*S, "--corpus", "text.txt", "--top", v), {"text__txt": TEXT}, ("top",))
        for v in ("0", "-1", "x")
    ],
    ("search in an empty file", (*S, "--corpus", "text.txt"), {"text__txt": ""}, ("text.txt",)),
    ("search in blank lines", (*S, "--corpus", "text.txt"), {"text__txt": "\n \n"}, ("text.txt",)),
    ("search in no index", (*S, "--index", "."), {}, ("index.json",)),
    (
        "search with queries twice",
        (*S, "--corpus", "text.txt", "--queries", "text.txt"),
        {"text__txt": TEXT},
        ("queries",),
    ),
    (
        "search with a backend of no name",
        (*S, "--corpus", "text.txt", "--backend", "evil"),
        {"text__txt": TEXT},
        ("evil",),
    ),
    (
        "search that saves over other things",
        (*S, "--corpus", "text.txt", "--save-index", "there"),
        {"text__txt": TEXT, "there/x": "x"},
        ("there",),
    ),
    (
        "search with typed bytes that are not text",
        ("search", "--model", "TINY", "--corpus", "text.txt"),
        {"text__txt": TEXT, "stdin": b"\xff\n"},
        ("stdin, line 1",),
    ),
    *[(f"mine, --top {v}", (*M, "--top", v), {"text__txt": TEXT}, ("top",)) for v in ("0", "-1", "x")],
    ("mine, --threshold nan", (*M, "--threshold", "nan"), {"text__txt": TEXT}, ("threshold",)),
    (
        "mine, --top and --threshold",
        (*M, "--top", "2", "--threshold", "0.5"),
        {"text__txt": TEXT},
        ("--top", "--threshold"),
    ),
    ("mine, 0 neighbours", (*M, "--with-file", "text.txt", "--neighbours", "0"), {"text__txt": TEXT}, ("neighbours",)),
    ("mine negatives of plain text", (*M, "--negatives", "out.tsv"), {"text__txt": TEXT}, ("text.txt", "column")),
    (
        "mine negatives without the column",
        ("mine", "p.tsv", "--model", "TINY", "--negatives", "out.tsv", "--anchor", "x"),
        {"p__tsv": PAIRS},
        ("p.tsv", "'x'"),
    ),
    (
        "mine 0 negatives",
        ("mine", "p.tsv", "--model", "TINY", "--negatives", "out.tsv", "--number", "0"),
        {"p__tsv": PAIRS},
        ("number",),
    ),
    (
        "mine negatives over the input",
        ("mine", "p.tsv", "--model", "TINY", "--negatives", "p.tsv"),
        {"p__tsv": PAIRS},
        ("p.tsv", "input"),
    ),
    (
        "mine an empty negative range",
        ("mine", "p.tsv", "--model", "TINY", "--negatives", "out.tsv", "--range-max", "0"),
        {"p__tsv": PAIRS},
        ("range_max",),
    ),
    ("cluster by no method", (*K, "--method", "evil"), {"text__txt": TEXT}, ("evil",)),
    ("cluster, 0 clusters", (*K, "--method", "kmeans", "--clusters", "0"), {"text__txt": TEXT}, ("clusters",)),
    ("cluster, more clusters than lines", (*K, "--method", "kmeans", "--clusters", "99"), {"text__txt": TEXT}, ("99",)),
    (
        "cluster, a seed of -1",
        (*K, "--method", "kmeans", "--clusters", "2", "--seed", "-1"),
        {"text__txt": TEXT},
        ("seed",),
    ),
    ("cluster, --clusters for communities", (*K, "--clusters", "2"), {"text__txt": TEXT}, ("--clusters",)),
    ("cluster, --threshold nan", (*K, "--threshold", "nan"), {"text__txt": TEXT}, ("threshold",)),
    ("cluster, --min-size 0", (*K, "--min-size", "0"), {"text__txt": TEXT}, ("size",)),
    ("cluster, --words 0", (*K, "--words", "0"), {"text__txt": TEXT}, ("words",)),
    ("cluster nothing", K, {"text__txt": "\n\n"}, ("text.txt",)),
    ("cluster to a map of no kind", (*K, "--map", "map.pdf"), {"text__txt": TEXT}, ("map.pdf", ".png")),
    ("cluster with labels of plain text", (*K, "--label-column", "x"), {"text__txt": TEXT}, ("text.txt", "column")),
    ("evaluate no file", ("evaluate", "TINY"), {}, ("file",)),
    ("evaluate a file that is not there", ("evaluate", "TINY", "x.tsv"), {}, ("x.tsv",)),
    ("evaluate without scores", ("evaluate", "TINY", "x.tsv"), {"x__tsv": PAIRS}, ("x.tsv", "score")),
    ("evaluate one pair", ("evaluate", "TINY", "x.tsv"), {"x__tsv": STS[:46]}, ("x.tsv",)),
    ("evaluate with 0 resamples", ("evaluate", "TINY", "x.tsv", "--resamples", "0"), {"x__tsv": STS}, ("resamples",)),
    ("evaluate with a seed of -1", ("evaluate", "TINY", "x.tsv", "--seed", "-1"), {"x__tsv": STS}, ("seed",)),
    ("evaluate with a plot of no kind", ("evaluate", "TINY", "x.tsv", "--plot", "x.gif"), {"x__tsv": STS}, ("x.gif",)),
    ("retrieval in no folder", ("retrieval", "TINY", "nowhere"), {}, ("nowhere",)),
    ("pairwise-cost of one sentence", ("pairwise-cost", "TINY", "--sentences", "1"), {}, ("sentences",)),
    ("headline (the former name of pairwise-cost), a seed of -1", ("headline", "TINY", "--seed", "-1"), {}, ("seed",)),
    ("tune of 0 rounds", ("tune", "TINY", "--rounds", "0", "--no-keep"), {}, ("rounds",)),
    ("tune of a budget of 0", ("tune", "TINY", "--budgets", "0", "--no-keep"), {}, ("token_budget", "0")),
    ("tune of a budget that is no number", ("tune", "TINY", "--budgets", "many", "--no-keep"), {}, ("many",)),
    ("tune of no text", ("tune", "TINY", "--texts", "a.txt", "--no-keep"), {"a__txt": ""}, ("0 texts",)),
    ("tune of a model that is not there", ("tune", "./nowhere"), {}, ("nowhere",)),
    ("train without data", ("train", "TINY", "run"), {}, ("--data",)),
    ("train on a file that is not there", T, {}, ("pairs.tsv",)),
    *[
        (f"train, {flag} {v}", (*T, flag, v), {"pairs__tsv": PAIRS}, (word,))
        for flag, word, values in [
            ("--batch-size", "batch", ("0", "-1", "x")),
            ("--epochs", "epochs", ("0", "-1")),
            ("--max-steps", "max", ("0", "-1")),
            ("--learning-rate", "learning", ("0", "-1", "nan", "x")),
            ("--warmup", "warmup", ("-1", "2", "nan")),
            ("--loss", "loss", ("evil", "triplet")),
            ("--loss-options", "loss", ("{", "[1]", '{"evil": 1}', '{"scale": "x"}')),
            ("--scale", "scale", ("0", "-1", "nan")),
            ("--decay", "decay", ("evil",)),
            ("--compute-dtype", "compute_dtype", ("float16",)),
            ("--seed", "seed", ("-1", "x")),
            ("--devices", "devices", ("0", "-1", "99")),
            ("--layout", "layout", ("evil",)),
            ("--max-seq-length", "max", ("0", "2", "65")),
            ("--num-labels", "num", ("2", "0")),
            ("--matryoshka", "matryoshka", ("0", "64")),
            ("--evaluate", "nowhere", ("nowhere.tsv",)),
            ("--teacher", "teacher", ("evil",)),
            ("--report-to", "report_to", ("evil",)),
        ]
        for v in values
    ],
]
FINE: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    ("an empty file", E, {"text__txt": ""}),
    ("blank lines", E, {"text__txt": "\n\n"}),
    ("control characters", E, {"text__txt": "a\0b\n\x1b[31m\n"}),
    ("text on stdin", ("encode", "-", "--model", "TINY", "--out", "out.npy"), {"stdin": TEXT.encode()}),
    ("help", ("encode", "--help"), {}),
    ("the version", ("--version",), {}),
]


def _case(name: str, words: tuple[str, ...], files: dict[str, Any], expect: Any) -> Case:
    stdin = files.get("stdin", b"")
    return Case(
        "commands", name, command(*words, stdin=stdin, **{k: v for k, v in files.items() if k != "stdin"}), expect
    )


DONE = Gives("exit code 0", lambda lib, result: result[0] == 0)
CASES = [
    *[_case(f"encode: {name}", words, files, refused("MinisbertError", *told)) for name, words, files, told in ENCODE],
    *[_case(name, words, files, refused("MinisbertError", *told)) for name, words, files, told in OTHERS],
    *[_case(f"fine: {name}", words, files, DONE) for name, words, files in FINE],
]
