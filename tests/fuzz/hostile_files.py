"""Files that are made to cost time or memory, one of each kind and cap: each gets an error of ours, soon.

    python tests/fuzz/hostile_files.py                  the table; exit code 1 where a row fails
    python tests/fuzz/hostile_files.py --only vocab     the rows with this word in their name

A file may take 1 s of processor time, and its size + 64 MB of memory or three times its size (fuzzing.py measures both).
"""

import argparse
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import fuzzing
import numpy as np
from fuzz_targets import MODELS, Target

from minisbert import fork
from minisbert.pretrained import load_pretrained

MB = 1_000_000


class Hostile(NamedTuple):
    """One file, which takes the place of a good one in a copy of a tiny model's folder."""

    name: str
    file: str
    content: Callable[[], bytes]
    model: str = "tiny-bert"


def deep(levels: int = 100_000) -> bytes:
    return b"[" * levels + b"]" * levels


def lists(megabytes: float) -> bytes:
    """The most memory per byte that JSON has."""
    return b"[" + b"[]," * int(megabytes * MB / 3) + b"[]]"


def doubled(file: str) -> Callable[[], bytes]:
    """The first key of the first object twice: with another value first, so that a reader that takes the last sees nothing."""

    def content() -> bytes:
        good = (MODELS / "tiny-bert" / file).read_bytes()
        key = good.split(b'"')[1]
        return good.replace(b"{", b'{"' + key + b'": "other", ', 1)

    return content


def changed(file: str, change: Callable[[Any], Any], model: str = "tiny-bert") -> Callable[[], bytes]:
    """The file of a good model, changed as JSON."""

    def content() -> bytes:
        values = json.loads((MODELS / model / file).read_bytes())
        return json.dumps(change(values) or values).encode()

    return content


def header(text: bytes, data: int = 0) -> bytes:
    return len(text).to_bytes(8, "little") + text + bytes(data)


def tensors(count: int, *, doubled: bool = False) -> bytes:
    """A header with so many empty tensors."""
    one = '"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    names = [one % (number // 2 if doubled else number) for number in range(count)]
    return header(b"{" + ",".join(names).encode() + b"}")


def vocabulary(pieces: dict[str, int]) -> Callable[[], bytes]:
    return changed("tokenizer.json", lambda values: values["model"]["vocab"].update(pieces))


def unigram(pieces: Callable[[], list[str]]) -> Callable[[], bytes]:
    def change(values: Any) -> None:
        values["model"]["vocab"] += [[piece, -9.5] for piece in pieces()]

    return changed("tokenizer.json", change, "tiny-xlm-roberta")


def pattern(regex: str) -> Callable[[], bytes]:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return changed("tokenizer.json", lambda values: values.update(pre_tokenizer=split), "tiny-modernbert")


def steps(count: int) -> Callable[[], bytes]:
    rules = [{"type": "Replace", "pattern": {"String": "a"}, "content": "b"}] * count
    change: Any = lambda values: values.update(normalizer={"type": "Sequence", "normalizers": rules})  # noqa: E731
    return changed("tokenizer.json", change, "tiny-modernbert")


def added(count: int) -> Callable[[], bytes]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    tokens = [{"id": 10**6 + i, "content": f"<{i}>", **flags} for i in range(count)]
    return changed("tokenizer.json", lambda values: values["added_tokens"].extend(tokens))


def table() -> Iterator[Hostile]:
    """Every row."""
    settings = {
        "config.json": "tiny-bert",
        "modules.json": "tiny-bert",
        "1_Pooling/config.json": "tiny-bert",
        "sentence_bert_config.json": "tiny-bert",
        "config_sentence_transformers.json": "tiny-bert",
        "tokenizer_config.json": "tiny-bert",
        "special_tokens_map.json": "tiny-bert",
        "added_tokens.json": "tiny-bert",
        "4_Dense/config.json": "tiny-layers",
        "router_config.json": "tiny-router",
        "model.safetensors.index.json": "tiny-bert",
        "tokenizer.json": "tiny-bert",
    }
    for file, model in settings.items():
        for name, content in {
            "48 MB of spaces": lambda: b"{" + b" " * 48 * MB + b"}",
            "48 MB of lists": lambda: lists(48),
            "7 MB of lists": lambda: lists(7),
            "0.9 MB of lists": lambda: lists(0.9),
            "deep": deep,
            "a number of 900,000 digits": lambda: b'{"a": ' + b"1" * 900_000 + b"}",
        }.items():
            yield Hostile(f"{file}: {name}", file, content, model)
    for file in ("config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "tokenizer.json"):
        yield Hostile(f"{file}: a key twice", file, doubled(file))
    yield Hostile(
        "modules.json: 10,000 modules", "modules.json", changed("modules.json", lambda values: values * 3_000 + values)
    )
    yield Hostile(
        "config_sentence_transformers.json: 50,000 wrong settings",
        "config_sentence_transformers.json",
        lambda: json.dumps({str(number): 1 for number in range(50_000)}).encode(),
    )
    yield Hostile(
        "tokenizer_config.json: 60,000 added tokens",
        "tokenizer_config.json",
        lambda: json.dumps({"added_tokens_decoder": {str(i): {"content": f"<{i}>"} for i in range(60_000)}}).encode(),
    )
    yield Hostile("tokenizer.json: 6 MB of lists", "tokenizer.json", lambda: lists(6))
    yield Hostile("tokenizer.json: 60 MB of text", "tokenizer.json", lambda: b'{"a": "' + b"x" * 60 * MB + b'"}')
    yield Hostile(
        "tokenizer.json: 3,000,000 pieces",
        "tokenizer.json",
        lambda: vocabulary({f"{i:x}": i for i in range(3_000_000)})(),
    )
    yield Hostile("tokenizer.json: a piece of 100,000 letters", "tokenizer.json", vocabulary({"x" * 100_000: 7}))
    for name, pieces in {
        "10,000 pieces of 4,000 letters": lambda: [f"{i:05d}" + "x" * 4_000 for i in range(10_000)],
        "a piece of 100,000 letters": lambda: ["x" * 100_000],
    }.items():
        yield Hostile(f"tokenizer.json: {name} (Unigram)", "tokenizer.json", unigram(pieces), "tiny-xlm-roberta")
    yield Hostile("tokenizer.json: 100,000 added tokens", "tokenizer.json", lambda: added(100_000)())
    yield Hostile("tokenizer.json: 50,000 rules", "tokenizer.json", lambda: steps(50_000)(), "tiny-modernbert")
    for regex in ("(a+)+b", "(a|a)*[^a]", "a*a*a*[^a]", "(?:a{0,30}){0,30}[^a]", "a?" * 40 + "a" * 40, r"(a*)\1[^a]"):
        name = f"tokenizer.json: the pattern {regex[:20]}"
        yield Hostile(name, "tokenizer.json", pattern(regex), "tiny-modernbert")
    for file in ("vocab.txt", "vocab.json", "merges.txt"):
        model = "tiny-bert" if file == "vocab.txt" else "tiny-roberta"
        for name, content in {
            "200 MB": lambda: bytes(200 * MB),
            "60 MB of lines": lambda: b"a\n" * 30 * MB,
            "a line of 1 MB": lambda: b"a" * MB + b"\n",
        }.items():
            yield Hostile(f"{file}: {name}", file, content, model)
    weights = "model.safetensors"
    yield Hostile(f"{weights}: a header of 10^18 bytes", weights, lambda: (10**18).to_bytes(8, "little") + bytes(100))
    yield Hostile(f"{weights}: a header of 99 MB", weights, lambda: header(b"{" + b" " * 99 * MB + b"}"))
    yield Hostile(f"{weights}: 48 MB of lists", weights, lambda: header(lists(48)))
    yield Hostile(f"{weights}: 7 MB of lists", weights, lambda: header(lists(7)))
    yield Hostile(f"{weights}: 20,000 names twice", weights, lambda: tensors(20_000, doubled=True))
    yield Hostile(f"{weights}: 1,000,000 tensors", weights, lambda: tensors(1_000_000))
    yield Hostile(f"{weights}: 19,000 tensors", weights, lambda: tensors(19_000))
    yield Hostile(f"{weights}: deep", weights, lambda: header(deep()))
    yield Hostile(
        f"{weights}: a tensor of 2^60 rows",
        weights,
        lambda: header(json.dumps({"x": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}).encode()),
    )
    yield Hostile(
        f"{weights}.index.json: 19,000 shards",
        f"{weights}.index.json",
        lambda: json.dumps({"weight_map": {str(i): f"{i}.safetensors" for i in range(19_000)}}).encode(),
    )


def examined(hostile: Hostile) -> tuple[str, fuzzing.Report]:
    """How it went, and the error; in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_examine, args=(sender, hostile))
    process.start()
    sender.close()
    words, report = "", fuzzing.Report()
    with suppress(EOFError):
        words, report = receiver.recv()
    process.join()
    if process.exitcode:
        report.failures[f"the process ended with code {process.exitcode}"] = ("", b"")
    return words, report


def _examine(sender: Any, hostile: Hostile) -> None:
    fuzzing.memory = fuzzing.Memory()  # of this process
    fork._forked = False  # the model is loaded with NumPy alone, which a forked process can
    os.environ["MINISBERT_OFFLINE"] = "1"
    words = ""

    def prepare(folder: Path) -> None:
        shutil.copytree(MODELS / hostile.model, folder, dirs_exist_ok=True)
        if hostile.file in ("vocab.txt", "vocab.json", "merges.txt"):
            (folder / "tokenizer.json").unlink()
        if hostile.file == "added_tokens.json":
            (folder / "tokenizer_config.json").unlink()
        if hostile.file.endswith("index.json"):
            (folder / "model.safetensors").unlink()

    def check(file: Path, content: bytes) -> None:
        nonlocal words
        folder = file.parents[hostile.file.count("/")]
        try:
            model = load_pretrained(folder, put=np.asarray)
            model.tokenizer.tokenize(["a" * 300], max_length=100)
        except fuzzing.MinisbertError as error:
            words = str(error).replace(str(folder), "")
            raise

    report = fuzzing.Report()
    fuzzing.SECONDS, fuzzing.HANGS = 1.0, 60
    target = Target(hostile.file, lambda: [], (), check, prepare)
    with fuzzing.workplace(target) as folder:
        fuzzing.examine(target, folder, hostile.content(), report)
    if not report.refused and not report.failures:
        report.failures["taken"] = ("", b"")
    failures = {kind: (said, b"") for kind, (said, _) in report.failures.items()}
    sender.send((words, replace(report, failures=failures)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a word in a row's name")
    options = parser.parse_args()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    load_pretrained(MODELS / "tiny-bert", put=np.asarray)  # whatever is loaded on first use is loaded now
    load_pretrained(MODELS / "tiny-xlm-roberta", put=np.asarray)
    failed = 0
    print(f"{'file':<62}{'processor':>10}{'memory':>10}  error")
    for hostile in table():
        if options.only not in hostile.name:
            continue
        words, report = examined(hostile)
        failed += bool(report.failures)
        wrong = "; ".join(f"{kind} {said[:60]}" for kind, (said, _) in report.failures.items())
        print(
            f"{hostile.name:<62}{report.slowest:>8.2f} s{report.most_memory / MB:>7.0f} MB  "
            f"{'FAILED: ' + wrong + ' ' if wrong else ''}{words[:70]}",
            flush=True,
        )
    print(f"{failed} rows failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
