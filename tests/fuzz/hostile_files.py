"""Files that are made to cost time or memory, one of each kind and cap: each gets an error of ours, soon.

    python tests/fuzz/hostile_files.py                  the table; exit code 1 where a row fails
    python tests/fuzz/hostile_files.py --only vocab     the rows with this word in their name

A file may take 1 s of processor time (more on a slow processor), and its size + 64 MB of memory or three times its size
(fuzzing.py measures both). One that takes longer is measured twice more, and its best time counts: what else the machine
does only adds to it.
"""

import argparse
import multiprocessing
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
from fuzz_targets import Target
from hostile_table import MB, MODELS, Hostile, adapter, matrices, table

from minisbert import fork
from minisbert.pretrained import load_pretrained


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
        if hostile.file in ("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model"):
            (folder / "tokenizer.json").unlink()
        if hostile.file == "added_tokens.json":
            (folder / "tokenizer_config.json").unlink()
        if hostile.file.endswith(("index.json", ".bin")):
            (folder / "model.safetensors").unlink()
        if hostile.file.startswith("adapter"):
            (folder / "adapter_config.json").write_bytes(adapter()())
            (folder / "adapter_model.safetensors").write_bytes(matrices(1))

    def check(file: Path, content: bytes) -> None:
        nonlocal words
        folder = file.parents[hostile.file.count("/")]
        try:
            model = load_pretrained(folder, put=np.asarray, allow_pickle_weights=hostile.file.endswith(".bin"))
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
        for _ in range(2):
            if report.failures.keys() == {f"more than {fuzzing.SECONDS:.0f} s"}:
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
