"""Examining one spoiled file after another: who complains, how long it takes, how much memory it takes.

    campaign("safetensors", count=2000, seed=0)     # -> Report: how many were refused, how many taken, what went wrong

A file must be refused by one of minisbert's errors that names it, or be taken for what the reference reader takes it for
(fuzz_targets.py); within a second of this thread (more on a slow processor: `slowness`), and within the file's size + 64 MB
of memory, or three times its size.
"""

import hashlib
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz_targets import TARGETS, Target
from mutators import mutated

from minisbert.errors import MinisbertError

HOUSE = Path(__file__).parents[2]
SEEDS = Path(__file__).parent / "seeds"
MEMORY_FOLDER = "/dev/shm" if os.path.isdir("/dev/shm") else None  # files are written by the thousand
SECONDS = 1.0
HANGS = 30  # seconds after which a reader is interrupted
MEMORY = 64_000_000
ROOM = 6_000_000_000  # bytes of addresses that a reader may ask for on top; beyond, allocations fail


@dataclass
class Report:
    """What a campaign found."""

    refused: int = 0
    taken: int = 0
    slowest: float = 0.0
    most_memory: int = 0
    # Where which error came from -> what it said, and the first file that shows it.
    failures: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def add(self, other: "Report") -> None:
        """The sum of two."""
        self.refused, self.taken = self.refused + other.refused, self.taken + other.taken
        self.slowest, self.most_memory = max(self.slowest, other.slowest), max(self.most_memory, other.most_memory)
        self.failures = {**other.failures, **self.failures}


class Hang(BaseException):
    """A reader that does not come back; no Exception, so that no reader takes it for one of its own."""


def campaign(
    name: str, count: int, seed: int = 0, *, first: int = 0, at: Any = None, folder: Path | None = None
) -> Report:
    """So many spoiled files of one target. The n-th file depends on target, seed and n alone.

    Args:
        first: the number of the first file.
        at: its `value` is set to each file's number; with `folder`, another process can tell which file ended this one.
        folder: where the files are written; by default one of their own.
    """
    target, report = TARGETS[name], Report()
    starts = target.starts() + seeds(name)
    with workplace(target, folder) as here:
        for content in starts[: 0 if first else None]:
            examine(target, here, content, report)  # whatever is loaded on first use is loaded now
        report = Report(failures=report.failures)
        for number in range(first, count):
            if at is not None:
                at.value = number
            content = mutated(starts, target.mutations, random.Random(f"{name} {seed} {number}"))
            examine(target, here, content, report)
    return report


def apart(name: str, count: int, seed: int = 0) -> Report:
    """The same in a process of its own, and in another when a file ends it."""
    context = multiprocessing.get_context("fork")
    total, first = Report(), 0
    with tempfile.TemporaryDirectory(prefix="minisbert-fuzz-", dir=MEMORY_FOLDER) as scratch:
        while first < count:
            folder = Path(scratch) / str(first)
            folder.mkdir()
            at, (receiver, sender) = context.Value("q", first), context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(sender, name, count, seed, first, at, folder))
            process.start()
            sender.close()
            with suppress(EOFError):
                total.add(receiver.recv())
            process.join()
            if process.exitcode == 0:
                break
            content = (folder / TARGETS[name].file).read_bytes()
            total.failures.setdefault(f"the process ended with code {process.exitcode}", ("", content))
            first = at.value + 1
    return total


def _work(sender: Any, name: str, count: int, seed: int, first: int, at: Any, folder: Path) -> None:
    global memory
    memory = Memory()  # of this process
    sender.send(campaign(name, count, seed, first=first, at=at, folder=folder))


def seeds(name: str) -> list[bytes]:
    """Files that once went wrong."""
    return [file.read_bytes() for file in sorted((SEEDS / name).glob("*"))]


def keep(name: str, content: bytes) -> Path:
    """Put a file among the seeds."""
    file = SEEDS / name / hashlib.sha256(content).hexdigest()[:12]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


@contextmanager
def workplace(target: Target, folder: Path | None = None) -> Iterator[Path]:
    """A folder with what belongs around the target's file, where no reader can take all memory or run for ever."""

    def hangs(*_: object) -> None:
        raise Hang

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    former = signal.signal(signal.SIGALRM, hangs)
    own = None if folder else Path(tempfile.mkdtemp(prefix="minisbert-fuzz-", dir=MEMORY_FOLDER))
    folder = folder or own
    try:
        target.prepare(folder)
        resource.setrlimit(resource.RLIMIT_AS, (memory.now("VmSize") + ROOM, hard))
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, former)
        if own:
            shutil.rmtree(own)


def examine(target: Target, folder: Path, content: bytes, report: Report) -> None:
    """Let the target read one file, and note how it went."""
    file = folder / target.file
    file.write_bytes(content)
    before = memory.forget_peak()
    started = time.thread_time()
    signal.alarm(HANGS)
    kind = words = ""
    try:
        target.check(file, content)
        report.taken += 1
    except MinisbertError as error:
        report.refused += 1
        if str(folder) not in str(error):
            kind, words = "the error does not name the place", str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(HOUSE)]
        kind, words = (
            f"{type(error).__name__} in {Path(frames[-1].filename).name}, line {frames[-1].lineno}",
            str(error),
        )
    finally:
        signal.alarm(0)
    seconds, more = time.thread_time() - started, memory.now("VmHWM") - before
    report.slowest, report.most_memory = max(report.slowest, seconds), max(report.most_memory, more)
    if not kind and seconds > SECONDS and seconds > SECONDS * slowness():
        kind = f"more than {SECONDS:.0f} s"
    if not kind and more > max(len(content) + MEMORY, 3 * len(content)):
        kind = f"more than {MEMORY // 10**6} MB"
    if kind:
        report.failures.setdefault(kind, (words[:200], content))


def slowness() -> float:
    """How many times longer this processor takes now than one that counts to a million in 50 ms; at least 1."""
    started = time.thread_time()
    for _ in range(1_000_000):
        pass
    return max(1.0, (time.thread_time() - started) / 0.05)


class Memory:
    """This process's memory, told by a Linux kernel; elsewhere everything is 0."""

    def __init__(self) -> None:
        known = Path("/proc/self/clear_refs").exists()
        # Held open, because opening takes longer than a reader.
        self.status = Path("/proc/self/status").open("rb", buffering=0) if known else None  # noqa: SIM115
        self.forget = Path("/proc/self/clear_refs").open("wb", buffering=0) if known else None  # noqa: SIM115

    def now(self, key: str = "VmRSS") -> int:
        """Bytes; "VmHWM" is the most since `forget_peak`, "VmSize" the addresses in use."""
        if self.status is None:
            return 0
        self.status.seek(0)
        return int(re.search(rf"{key}:\s+(\d+) kB".encode(), self.status.read(10_000)).group(1)) * 1024  # type: ignore[union-attr]

    def forget_peak(self) -> int:
        """Let the peak be measured anew; returns the memory now."""
        if self.forget is not None:
            self.forget.write(b"5")
        return self.now()


memory = Memory()
