"""Run the battery of bad inputs and print what came of it.

python tests/bad_inputs/run_battery.py                          # all rooms against minisbert
python tests/bad_inputs/run_battery.py --room encode            # one room
python tests/bad_inputs/run_battery.py --peer                   # what sentence-transformers can take, against both libraries
python tests/bad_inputs/run_battery.py --report report.json     # every case with its outcome, too

Cases run in a process of their own, one after the other; one that hangs or crashes costs that process, not the rest.
Exit code 0: every case of minisbert came out as it must.
"""

import argparse
import json
import os
import selectors
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from battery import CRASH, HANG, OUTCOMES, WELL, Case, cases, run_case
from libraries import LIBRARIES

HERE = Path(__file__).parent
STARTING = 180.0  # seconds that a process may take to import its library
GRACE = 10.0  # beyond a case's own limit, which its process should keep by itself


class Worker:
    """A process that runs cases by their names; started when it is needed, and again after a hang or a crash."""

    def __init__(self, library: str):
        self.library = library
        self.process: subprocess.Popen | None = None

    def run(self, case: Case) -> dict[str, str]:
        """The outcome of one case, whatever becomes of the process."""
        seconds = case.seconds + GRACE + (STARTING if self.process is None else 0)
        process = self.process = self.process or self._started()
        assert process.stdin is not None
        process.stdin.write(case.id.encode("unicode_escape") + b"\n")
        process.stdin.flush()
        line = self._line(seconds)
        if line:
            return json.loads(line)
        hung = line is None
        process.kill()
        code = process.wait()
        self.process = None
        return {"outcome": HANG if hung else CRASH, "detail": "killed" if hung else f"the process ended with {code}"}

    def _started(self) -> subprocess.Popen:
        command = [sys.executable, str(HERE / "run_battery.py"), "--worker", self.library]
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
        if self.library == "peer":  # read when the library is imported, not when a case says so
            environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, env=environment, bufsize=0
        )

    def _line(self, seconds: float) -> bytes | None:
        """What the process answers; nothing (b"") when it ends, None when it takes too long."""
        assert self.process is not None and self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            # An answer is one short write: when there is something, there is all of it.
            return self.process.stdout.readline() if selector.select(seconds) else None

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def work(library: str) -> None:
    """The worker's side: names on stdin, outcomes on what was stdout; whatever libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    lib, known = LIBRARIES[library](), {case.id: case for case in cases()}
    lib.warm_up()
    for line in sys.stdin.buffer:
        outcome = run_case(known[line.strip().decode("unicode_escape")], lib)
        answers.write(json.dumps(outcome._asdict()).encode() + b"\n")


def battery(library: str, chosen: list[Case]) -> list[dict[str, str]]:
    """Every case against one library."""
    worker, records = Worker(library), []
    try:
        for case in chosen:
            records.append({"library": library, "room": case.room, "case": case.name, **worker.run(case)})
            if sys.stderr.isatty():
                print(f"\r{library}: {len(records)} of {len(chosen)}", end="", file=sys.stderr, flush=True)
    finally:
        worker.close()
    return records


def table(title: str, records: list[dict[str, str]]) -> str:
    """Counts by room and outcome."""
    rooms = list(dict.fromkeys(record["room"] for record in records))
    width = max(len(name) for name in OUTCOMES)
    lines = [f"{title}", f"{'':{width}}" + "".join(f"{room:>11}" for room in [*rooms, "all"])]
    for outcome in OUTCOMES:
        counts = Counter(record["room"] for record in records if record["outcome"] == outcome)
        cells = [*(counts[room] for room in rooms), counts.total()]
        lines.append(f"{outcome:{width}}" + "".join(f"{cell or '-':>11}" for cell in cells))
    well = sum(record["outcome"] in WELL for record in records)
    return "\n".join([*lines, f"{well} of {len(records)} cases came out well"])


def main() -> int:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description="The battery of bad inputs.")
    parser.add_argument("--room", help="one room only")
    parser.add_argument("--peer", action="store_true", help="cases that sentence-transformers can take, against both")
    parser.add_argument("--fast", action="store_true", help="only the half that every CI run does")
    parser.add_argument("--report", type=Path, help="write every case with its outcome here, as JSON")
    parser.add_argument("--worker", choices=LIBRARIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return 0
    chosen = cases(options.room, peer=options.peer, fast=options.fast)
    records = battery("minisbert", chosen)
    print(table(f"minisbert, {len(chosen)} cases", records))
    bad = [record for record in records if record["outcome"] not in WELL]
    for record in bad:
        print(f"  {record['outcome']}: {record['room']}: {record['case']}: {record['detail']}")
    if options.peer:
        theirs = battery("peer", chosen)
        print(f"\n{table(f'sentence-transformers, the same {len(chosen)} cases', theirs)}")
        records += theirs
    if options.report:
        content: dict[str, Any] = {"counts": {}, "cases": records}
        for library in dict.fromkeys(record["library"] for record in records):
            content["counts"][library] = Counter(r["outcome"] for r in records if r["library"] == library)
        options.report.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
