"""Two hosts on loopback: the same weights as one host, also after a kill and a restart; one that dies ends the other.

    python tests/training/two_hosts.py equal            two processes, killed together and restarted, against one
    python tests/training/two_hosts.py stop             one of the two gets SIGTERM: both save the same step and leave
    python tests/training/two_hosts.py end              the score of the first no longer improves: both end after that step
    python tests/training/two_hosts.py deaths [N]       one of the two killed, N times (10): the other leaves within 60 s

Key biases are left out of the comparison: their gradient is 0 in exact arithmetic, and Adam makes steps of its noise.
"""

import argparse
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

TINY_BERT = Path(__file__).parents[2] / "weights" / "tiny-bert"


def pairs_file(folder: Path) -> Path:
    """144 pairs."""
    words = "cat dog house river tree stone book train cloud horse lamp road".split()
    rows = [f"the {a} and the {b}\ta {b} near a {a}" for a in words for b in words]
    file = folder / "pairs.tsv"
    file.write_text("\n".join(["anchor\tpositive", *rows]) + "\n")
    return file


def start(data: Path, run: Path, hosts: int, *options: str, model: Path = TINY_BERT) -> list[subprocess.Popen]:
    """The command on each host; one host needs no coordinator."""
    command = [sys.executable, "-m", "minisbert", "train", str(model), str(run), "--data", str(data)]
    command += ["--batch-size", "8", "--learning-rate", "1e-3", *options]
    if hosts == 1:
        return [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        subprocess.Popen(
            [*command, "--coordinator", address, "--hosts", str(hosts), "--host", str(host)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in range(hosts)
    ]


def finish(processes: list[subprocess.Popen]) -> None:
    """Wait for all; a failure shows the error output."""
    for host, process in enumerate(processes):
        _, said = process.communicate(timeout=600)
        if process.returncode:
            raise SystemExit(f"host {host} ended with {process.returncode}:\n{said}")


def wait_for_checkpoint(run: Path, step: int, processes: list[subprocess.Popen]) -> None:
    """Wait for a complete checkpoint of this step or a later one."""
    while not any(path.name.isdigit() and int(path.name) >= step for path in (run / "checkpoints").glob("*")):
        if any(process.poll() is not None for process in processes):
            finish(processes)
        time.sleep(0.05)


def distance(run: Path, other: Path) -> float:
    """Largest difference of two runs' final weights."""
    a, b = (load_file(folder / "final" / "model.safetensors") for folder in (run, other))
    return max(float(np.abs(a[name] - b[name]).max()) for name in a if not name.endswith("key.bias"))


def equal(scratch: Path, model: Path = TINY_BERT, *options: str) -> float:
    """Two hosts, killed together after a checkpoint and restarted, against one undisturbed host."""
    data, settings = pairs_file(scratch), ("--max-steps", "12", "--checkpoint-every", "4", *options)
    finish(start(data, scratch / "one", 1, *settings, model=model))
    both = start(data, scratch / "two", 2, *settings, model=model)
    wait_for_checkpoint(scratch / "two", 4, both)
    for process in both:
        process.kill()
        process.communicate()
    finish(start(data, scratch / "two", 2, *settings, model=model))
    return distance(scratch / "one", scratch / "two")


def stop(scratch: Path, model: Path = TINY_BERT) -> list[str]:
    """SIGTERM to the second of two hosts: the last message of both."""
    both = start(
        pairs_file(scratch),
        scratch / "run",
        2,
        "--epochs",
        "1000",
        "--checkpoint-every",
        "5",
        "--on-new-shape",
        "compile",
        model=model,
    )
    wait_for_checkpoint(scratch / "run", 5, both)
    both[1].terminate()
    said = [process.communicate(timeout=300)[1] for process in both]
    return [re.sub(r".*: stopped", "stopped", text.strip().splitlines()[-1]) for text in said]


def end(scratch: Path) -> list[str]:
    """Early stopping, which the first of two hosts decides: the last message of both."""
    data, scored = pairs_file(scratch), scratch / "scored.tsv"
    scored.write_text("score\tsentence1\tsentence2\n1\ta cat\ta cat\n0.5\ta dog\ta house\n0\ta tree\ta book\n")
    settings = ("--evaluate", str(scored), "--evaluate-every", "2", "--early-stopping-patience", "2")
    both = start(data, scratch / "run", 2, "--epochs", "1000", *settings, "--on-new-shape", "compile")
    said = [process.communicate(timeout=300)[1] for process in both]
    return [re.sub(r".*: (\d+ of)", r"\1", text.strip().splitlines()[-1]) for text in said]


def death(scratch: Path, victim: int, rng: random.Random) -> tuple[float, str]:
    """Kill one of two hosts: how long the other took to exit, and its last message."""
    run = scratch / "run"
    shutil.rmtree(run, ignore_errors=True)
    both = start(
        pairs_file(scratch), run, 2, "--epochs", "1000", "--checkpoint-every", "5", "--on-new-shape", "compile"
    )
    wait_for_checkpoint(run, 5, both)
    time.sleep(rng.uniform(0, 2))
    both[victim].kill()
    killed = time.monotonic()
    _, said = both[1 - victim].communicate(timeout=120)
    seconds = time.monotonic() - killed
    both[victim].communicate()
    if both[1 - victim].returncode != 2 or "minisbert: error: " not in said:
        raise SystemExit(f"host {1 - victim} ended with {both[1 - victim].returncode}:\n{said}")
    return seconds, said.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("equal", "stop", "end", "deaths"))
    parser.add_argument("times", type=int, nargs="?", default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.what == "equal":
            print(f"two hosts, killed once, against one: weights differ by at most {equal(Path(scratch)):.1e}")
            return
        if options.what in ("stop", "end"):
            print(*(stop if options.what == "stop" else end)(Path(scratch)), sep="\n")
            return
        rng, slowest = random.Random(0), 0.0
        for number in range(options.times):
            seconds, said = death(Path(scratch), number % 2, rng)
            slowest = max(slowest, seconds)
            print(
                f"{number + 1}: host {number % 2} killed, the other left after {seconds:.0f} s: {said[:160]}",
                flush=True,
            )
        print(f"{options.times} of {options.times} left with an error, the slowest after {slowest:.0f} s (bound: 60)")


if __name__ == "__main__":
    main()
