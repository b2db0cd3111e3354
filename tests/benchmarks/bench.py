"""Benchmark: minisbert side by side with every other library that is installed, in one run.

python tests/benchmarks/bench.py --model all-MiniLM-L6-v2 --workload short --count 10000 --out bench.json --plot bench.png
python tests/benchmarks/bench.py --workload one --peer onnxruntime openvino --compute-dtype float32

minisbert/data/synthetic.py makes the texts. bench_peers.py lists the contestants, bench_rounds.py lets them take turns, each in
a process of bench_worker.py, and bench_report.py and bench_plot.py show the results.
"""

import shlex
import sys
from collections.abc import Iterable
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from minisbert.commands.outputs import check_output, write_lines
from minisbert.errors import InputError, MinisbertError

if TYPE_CHECKING:
    from bench_peers import Contestant
    from bench_rounds import Race

# Texts of a workload where --count is not given: a round of each takes some seconds on a laptop.
COUNTS = {"short": 2000, "long": 200, "one": 200, "cold": 1, "memory": 1000, "train": 512}
# About 230 tokens, a little under the 256 at which all-MiniLM-L6-v2 truncates.
WORDS_OF_A_LONG_TEXT = 176
# The embeddings with which the others are compared: the first of these that is there.
REFERENCES = ("sentence-transformers float32", "minisbert float32")
SCRIPT = "python tests/benchmarks/bench.py"
EXTRA = "pip install 'minisbert[bench]'"


def bench(
    *,
    model: Annotated[str, arg(metavar="MODEL")] = "all-MiniLM-L6-v2",
    workload: tuple[Literal["short", "long", "one", "cold", "memory", "train"], ...] = (
        "short",
        "long",
        "one",
        "cold",
        "memory",
        "train",
    ),
    texts: Annotated[str | None, arg(metavar="FILE")] = None,
    count: Annotated[int | None, arg(metavar="N")] = None,
    rounds: Annotated[int, arg(metavar="N")] = 5,
    peer: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = ("installed",),
    compute_dtype: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16"),
    out: Annotated[str | None, arg(metavar="JSON")] = None,
    plot: Annotated[str | None, arg(metavar="PNG")] = None,
    offline: bool = False,
) -> int:
    """Race minisbert against the other libraries that are installed.

    Every contestant has a process of its own; only one computes at a time, and they take turns, round after round.
    Prints medians, the ratios minisbert / other with their spread, and the differences of the embeddings.

    Example: python tests/benchmarks/bench.py --model all-MiniLM-L6-v2 --workload one --count 20 --rounds 2 --peer none

    Args:
        model: a folder, a known name, or a name on the hub.
        workload: short: sentences per second; long: texts of about 230 tokens; one: latency of one sentence; cold:
            seconds from process start to first vector; memory: peak of a short run; train: pairs of sentences per second
            in complete training steps.
        texts: a file of sentences (.txt, or .jsonl, .tsv, .parquet with a "text" column) instead of generated ones.
        count: texts of every workload but cold; by default 2000 short, 200 long, 200 single, 1000 for memory,
            512 (two per pair) to train on.
        rounds: turns of each contestant.
        peer: installed (all that are), none, or names of sentence-transformers, torch-compile, onnxruntime, openvino,
            ctranslate2.
        compute_dtype: contestants that compute in another dtype are left out.
        out: also write all measurements here.
        plot: also draw the figures here.
        offline: never open a socket.
    """
    contestants, left_out = _contestants(peer, compute_dtype)
    _check_numbers(count, rounds, workload, compute_dtype)
    if out is not None:
        check_output(out, (".json",), source=texts or "")
    if plot is not None:
        check_output(plot, (".png",))
    work = _texts(workload, texts, count)

    from datetime import UTC, datetime
    from tempfile import TemporaryDirectory

    from bench_report import machine, versions
    from bench_rounds import Race

    from minisbert.download.locate import locate

    # Everything that decides the figures, as a command that repeats them.
    flags: dict[str, Any] = {"model": [model], "workload": workload, "texts": [texts], "count": [count]}
    flags |= {"rounds": [rounds], "peer": peer, "compute-dtype": compute_dtype}
    words = SCRIPT.split()
    for flag, values in flags.items():
        words += [] if values[0] is None else ["--" + flag, *map(str, values)]
    record: dict[str, Any] = {
        "command": shlex.join(words),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model,
        "machine": machine(),
        "versions": versions(),
    }
    folder = locate(model, offline=offline)
    with TemporaryDirectory(prefix="minisbert-bench-", ignore_cleanup_errors=True) as workplace:
        race = Race(contestants, _witness(contestants), folder, Path(workplace), rounds, _say)
        race.run(work)
        ours = [key for key in race.failed if key.startswith("minisbert ")]
        if ours:
            raise MinisbertError(f"{ours[0]} failed, so there is nothing to compare. {race.failed[ours[0]]}")
        record |= _results(race, work)
    record["left_out"] = {**left_out, **race.failed}
    print("\n".join(_report(record)))
    if peer == ("installed",) and {one.peer for one in contestants} == {"minisbert"}:
        print(f"\nminisbert ran alone. {EXTRA} brings sentence-transformers to compare it with.")
    if out is not None:
        from json import dumps

        write_lines(out, [dumps(record, indent=2), "\n"])
    if plot is not None:
        from bench_plot import save_bench_plot

        save_bench_plot(plot, record)
    return 0


def _contestants(peer: tuple[str, ...], dtypes: tuple[str, ...]) -> "tuple[list[Contestant], dict[str, str]]":
    """The contestants asked for that can start, and why others cannot."""
    from bench_peers import CONTESTANTS
    from bench_report import installed_version

    known = list(dict.fromkeys(one.peer for one in CONTESTANTS if one.peer != "minisbert"))
    if peer not in [("installed",), ("none",)] and (not peer or set(peer) - set(known)):
        named = " ".join(peer) or "empty"
        raise InputError(f"--peer is {named}. Expected installed, none, or some of {', '.join(known)}.")
    contestants, left_out = [], {}
    for one in CONTESTANTS:
        if one.dtype in dtypes and (one.peer in ("minisbert", *peer) or peer == ("installed",)):
            missing = [package for package in one.needs if installed_version(package) is None]
            if missing:
                left_out[one.key] = f"not installed: {', '.join(missing)}"
            else:
                contestants.append(one)
    return contestants, left_out


def _check_numbers(count: int | None, rounds: int, workload: tuple[str, ...], dtypes: tuple[str, ...]) -> None:
    if count is not None and count < 1:
        raise InputError(f"--count is {count}. Expected at least 1.")
    if rounds < 1:
        raise InputError(f"--rounds is {rounds}. Expected at least 1.")
    if not workload:
        raise InputError(f"--workload is empty. Expected some of {', '.join(COUNTS)}.")
    if not dtypes:
        raise InputError("--compute-dtype is empty. Expected float32, bfloat16, or both.")


def join_sentences(sentences: Iterable[str], count: int) -> list[str]:
    """Long texts of consecutive sentences, starting over when they run out.

    Args:
        sentences: at least one of them not empty.
        count: how many texts.

    Example:
        >>> [len(text.split()) >= WORDS_OF_A_LONG_TEXT for text in join_sentences(["a cat sits", "a dog"], 2)]
        [True, True]
    """
    texts, parts, words = [], [], 0
    for sentence in cycle(sentences):
        parts.append(sentence)
        words += len(sentence.split())
        if words >= WORDS_OF_A_LONG_TEXT:
            texts.append(" ".join(parts))
            parts, words = [], 0
            if len(texts) == count:
                break
    return texts


def _texts(workloads: tuple[str, ...], file: str | None, count: int | None) -> dict[str, list[str]]:
    """The texts of each workload."""
    from minisbert.data.columns import read_sentences
    from minisbert.data.synthetic import make_sentences

    source = None
    if file is not None:
        source = [text for text in read_sentences(file).texts if text.strip()]
        if not source:
            raise InputError(f"{file}: no sentence that is not empty. Expected some to embed.")
        if count is not None and count > len(source) and set(workloads) - {"long", "cold"}:
            raise InputError(f"--count is {count}, but {file} has {len(source)} sentences. Expected at most as many.")
    work = {}
    for workload in dict.fromkeys(workloads):
        number = count if count is not None and workload != "cold" else COUNTS[workload]
        if workload == "long":
            # About twenty sentences make a long text; join_sentences starts again where they run out.
            work[workload] = join_sentences(source or make_sentences(20 * number), number)
        else:
            least = 4 if workload == "train" else 1  # two pairs
            work[workload] = source[:number] if source else make_sentences(max(number, least))
            if len(work[workload]) < least:
                raise InputError(
                    f"{len(work[workload])} sentences of {file} for --workload train. Expected 4, two pairs, at least; give "
                    "more, or name the other workloads."
                )
        if workload == "train":
            del work[workload][len(work[workload]) // 2 * 2 :]
    return work


def _witness(contestants: "list[Contestant]") -> "Contestant | None":
    """The reference for the embeddings, where it is not a contestant itself (`--compute-dtype bfloat16`)."""
    from bench_peers import CONTESTANTS

    peers = {one.peer for one in contestants}
    by_key = {one.key: one for one in CONTESTANTS if one.peer in peers}
    witness = next((by_key[key] for key in REFERENCES if key in by_key), None)
    return None if witness in contestants else witness


def _say(message: str) -> None:
    print(f"bench: {message}", file=sys.stderr, flush=True)


def _results(race: "Race", work: dict[str, list[str]]) -> dict[str, Any]:
    """The measured part of the record."""
    from bench_report import differences, mean_tokens, measure_record, measures, operations
    from profile_forward import matrix_rates

    def about(some: list[str]) -> dict[str, Any]:
        tokens = mean_tokens(race.folder, some)
        return {"count": len(some), "mean_tokens": tokens, "operations": operations(race.folder, tokens)}

    chosen = measures(work)
    with get_context("spawn").Pool(1) as process:
        rates = process.apply(matrix_rates)
    return {
        "rounds": race.rounds,
        "devices": race.devices,
        "matrix_rates": rates,
        "texts": {name: about(some) for name, some in work.items()},
        "measures": {name: measure_record(measure, race.raw[measure.run]) for name, measure in chosen.items()},
        "differences": {run: differences(embeddings, REFERENCES) for run, embeddings in race.embeddings.items()},
        "raw": race.raw,
    }


def _report(record: dict[str, Any]) -> list[str]:
    """The record as lines to print."""
    from bench_report import measures, table

    host = record["machine"]
    lines = [
        record["command"],
        f"{record['date']}; {host['cpu']}, {host['cores']} cores ({' '.join(host['flags']) or 'flags unknown'}), "
        f"{host['memory_gib']} GiB, {host['system']}, load before {host['load_before']}",
        ", ".join(f"{package} {version}" for package, version in record["versions"].items()),
        ", ".join(f"{dtype} products {rate / 1e9:.0f} GFLOP/s" for dtype, rate in record["matrix_rates"].items()),
        *(f"{key} on {device}" for key, device in record["devices"].items() if device != "cpu"),
        *(
            f"{name}: {about['count']} texts, mean {about['mean_tokens']:.1f} tokens"
            for name, about in record["texts"].items()
        ),
    ]
    chosen = measures(dict.fromkeys(record["texts"], ()))
    for name, part in record["measures"].items():
        differ = record["differences"].get(chosen[name].run, {})
        per_text = record["texts"][name]["operations"] if name in ("short", "long") else None
        whole = {dtype: rate / per_text for dtype, rate in record["matrix_rates"].items()} if per_text else {}
        lines += ["", *table(part, chosen[name].digits, differ, whole)]
    peers = {key for part in record["measures"].values() for key in part["best_peer"].values()}
    if peers:
        legend = (
            f"* the best other library of its dtype. Medians of {record['rounds']} rounds in turns, then minimum and"
        )
        lines += ["", f"{legend} maximum; where lower is better, a ratio under 1 is a gain."]
    if record["left_out"]:
        lines += ["", "left out:", *(f"  {key}: {reason}" for key, reason in record["left_out"].items())]
    return lines


def main(argv: list[str] | None = None) -> int:
    """Run `bench` with the words of the command line; the exit code is 2 after a mistake in them."""
    import tyro

    try:
        return tyro.cli(bench, prog=SCRIPT, args=argv, config=(tyro.conf.FlagCreatePairsOff,))
    except MinisbertError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
