"""The race of bench.py: contestants take turns, round after round, each in a process of its own.

Only one computes at a time, and within a round each has its turn (A B C, A B C, ...): a machine that gets slower or busier does
so for all, and the ratios of a round compare like with like. Before the rounds each contestant embeds the same texts once
untimed, which compiles its programs; these embeddings are compared.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_peers import SERVING, Contestant
from bench_training import PAIRS

import minisbert
from minisbert.errors import MinisbertError

# Seconds to wait for an answer.
PATIENCE = 3600
# Seconds between two turns: threads of some libraries spin for a while when their work is done.
PAUSE = 0.3
# No network, and no warnings of torch about tracing.
ENVIRONMENT = {"MINISBERT_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
# The processes of all contestants share an accelerator: none of them takes most of its memory at its start.
ENVIRONMENT |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

# Folders of compiled programs; empty ones for the very first run.
CACHES = ("MINISBERT_CACHE", "JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


class ContestantFailed(MinisbertError):
    """A contestant cannot continue; the message is the reason, in one line."""


class Worker:
    """One contestant in its own process, which ends with the `with` block."""

    def __init__(
        self, contestant: Contestant, folder: Path, workplace: Path, environment: dict[str, str] | None = None
    ):
        own = workplace / contestant.peer
        own.mkdir(exist_ok=True)
        self._log = own / "stderr.txt"
        # minisbert need not be installed, and contestants of the tests import the files of this folder.
        folders = [str(Path(__file__).parent), str(Path(minisbert.__file__).parents[1]), os.environ.get("PYTHONPATH")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *contestant.program, contestant.key, str(folder), str(own)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # An installed package has its bytecode compiled; so has this one from its second start.
                env={
                    **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
                    **ENVIRONMENT,
                    "PYTHONPYCACHEPREFIX": str(workplace / "bytecode"),
                    "PYTHONPATH": os.pathsep.join(filter(None, folders)),
                    **(environment or {}),
                },
            )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request (see `bench_worker.serve`) and wait for the answer.

        Raises:
            ContestantFailed: the answer is an error, or none came.
        """
        assert self._process.stdin and self._process.stdout
        alarm = threading.Timer(PATIENCE, self._process.kill)
        alarm.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            alarm.cancel()
        if not line:
            said = self._log.read_text(errors="replace").split("\n")
            last = next((text.strip() for text in reversed(said) if text.strip()), "without output")
            raise ContestantFailed(f"its process ended with code {self._process.wait()}: {last[:200]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContestantFailed(answer["error"])
        return answer

    def close(self) -> None:
        """End the process: by the end of its input, and if that does not do, by force."""
        assert self._process.stdin and self._process.stdout
        with suppress(OSError):  # it may be gone already
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Race:
    """A race and its results. Keys are those of the contestants.

    Args:
        contestants: timed.
        witness: embeds the texts as well, untimed, as the reference of the others; or None.
        folder: of the model.
        workplace: an empty folder.
        rounds: turns of each contestant.
        say: shows progress.
        pairs: of a training step.
        until: no further round begins after this time (`time.monotonic`).
    """

    contestants: Sequence[Contestant]
    witness: Contestant | None
    folder: Path
    workplace: Path
    rounds: int
    say: Callable[[str], None]
    pairs: int = PAIRS
    until: float = float("inf")

    # run -> key -> what was measured in each round: the seconds of each call, or for "memory" one figure in MiB
    raw: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    embeddings: dict[str, dict[str, Path]] = field(default_factory=dict)  # run -> key -> .npy
    devices: dict[str, str] = field(default_factory=dict)
    device_mib: dict[str, dict[str, float]] = field(default_factory=dict)  # run -> key, where an accelerator computes
    failed: dict[str, str] = field(default_factory=dict)  # key -> why

    def run(self, texts: dict[str, list[str]]) -> None:
        """Run the workloads.

        Args:
            texts: workload -> texts to embed.
        """
        for workload, some in texts.items():
            (self.workplace / f"{workload}.json").write_text(json.dumps(some), encoding="utf-8")
        self._prepare()
        workers: dict[str, Worker] = {}
        try:
            for workload in filter(texts.__contains__, (*SERVING, "train")):
                self._serve(workload, workers)
        finally:
            for worker in workers.values():
                worker.close()
        # The long-lived processes have ended and their memory is free.
        if "cold" in texts:
            self._fresh("cold", "cold", warm_up=True)
            self._fresh("cold empty", "cold", empty_caches=True)
        if "memory" in texts:
            self._fresh("memory", "memory")

    def _takes_part(self, contestant: Contestant, workload: str) -> bool:
        return contestant.takes_part(workload) and contestant.key not in self.failed

    def _prepare(self) -> None:
        for contestant in [*self.contestants, *filter(None, [self.witness])]:
            done = self.workplace / contestant.peer / "prepared"
            if contestant.prepare is None or done.exists():
                continue
            self.say(f"converting the model for {contestant.peer}")
            with self._failures_noted(contestant, "prepare"), self._new_worker(contestant) as worker:
                worker.ask(prepare=True)
                done.touch()

    def _serve(self, workload: str, workers: dict[str, Worker]) -> None:
        """Long-lived processes embed all texts in one call, or (workload "one") each by itself, or train on them."""
        self.raw[workload], self.embeddings[workload] = {}, {}
        request: dict[str, Any] = {"texts": str(self.workplace / f"{workload}.json")}
        request |= {"each": workload == "one", "train": workload == "train", "pairs": self.pairs}
        # Training is not compared with a witness.
        for contestant in [*self.contestants, *([self.witness] if self.witness and workload != "train" else [])]:
            key = contestant.key
            if not self._takes_part(contestant, workload):
                continue
            self.say(f"{workload}: warming up {key}")
            with self._failures_noted(contestant, workload):
                if key not in workers:
                    workers[key] = self._new_worker(contestant)
                saved = self.workplace / f"{workload} {key}.npy"
                if workload == "train":  # once over all batches, which compiles their shapes
                    workers[key].ask(**request)
                else:
                    self.devices[key] = workers[key].ask(**request, save=str(saved))["device"]
                    self.embeddings[workload][key] = saved
        self.device_mib[workload] = {}
        for number in range(1, self.rounds + 1):
            if number > 1 and time.monotonic() > self.until:
                break
            self.say(f"{workload}: round {number} of {self.rounds}")
            for contestant in self.contestants:
                if self._takes_part(contestant, workload):
                    time.sleep(PAUSE)
                    with self._failures_noted(contestant, workload):
                        answer = workers[contestant.key].ask(**request)
                        self.raw[workload].setdefault(contestant.key, []).append(answer["seconds"])
                        if answer.get("device_mib") is not None:
                            self.device_mib[workload][contestant.key] = answer["device_mib"]

    def _fresh(self, run: str, workload: str, *, warm_up: bool = False, empty_caches: bool = False) -> None:
        """Each turn is a new process: its seconds from the start to the first answer, or its peak of memory."""
        self.raw[run] = {}
        for number in range(0 if warm_up else 1, self.rounds + 1):
            self.say(f"{run}: round {number} of {self.rounds}" if number else f"{run}: warming up")
            for contestant in self.contestants:
                if not self._takes_part(contestant, workload):
                    continue
                time.sleep(PAUSE)
                with (
                    self._failures_noted(contestant, run),
                    tempfile.TemporaryDirectory(dir=self.workplace) as empty,
                ):
                    environment = dict.fromkeys(CACHES, empty) if empty_caches else {}
                    started = time.perf_counter()
                    with self._new_worker(contestant, environment) as worker:
                        answer = worker.ask(texts=str(self.workplace / f"{workload}.json"))
                        seconds = time.perf_counter() - started
                    if number:
                        figure = answer["peak_mib"] if run == "memory" else seconds
                        self.raw[run].setdefault(contestant.key, []).append([figure])

    def _new_worker(self, contestant: Contestant, environment: dict[str, str] | None = None) -> Worker:
        return Worker(contestant, self.folder, self.workplace, environment)

    @contextmanager
    def _failures_noted(self, contestant: Contestant, run: str) -> Iterator[None]:
        """A failure takes a contestant out of this and all later runs; the others continue."""
        try:
            yield
        except ContestantFailed as error:
            self.say(f"{contestant.key} is out: {error}")
            self.failed[contestant.key] = f"{run}: {error}"
            self.raw.get(run, {}).pop(contestant.key, None)
