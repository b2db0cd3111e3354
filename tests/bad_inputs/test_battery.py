"""The fast half of the battery, case by case in this process; `python tests/bad_inputs/run_battery.py` runs all of it.

And the runner itself: what it must tell apart, it does.
"""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import battery
from battery import Case, Gives, cases, refused, run_case
from libraries import Minisbert

ALL = cases()


@functools.cache
def lib() -> Minisbert:
    """The library with its models loaded once."""
    found = Minisbert()
    found.warm_up()
    return found


@pytest.mark.parametrize("case", [case for case in ALL if case.fast], ids=lambda case: ascii(case.id)[1:-1][:100])
def test_case(case):
    outcome, detail = run_case(case, lib())
    expected = battery.CORRECT if isinstance(case.expect, Gives) else battery.CLEAR
    assert outcome == expected, detail


def test_there_are_enough():
    assert len(ALL) >= 300
    assert {case.room for case in ALL} == {"encode", "folders", "training", "search", "commands", "downloads"}
    assert sum(case.fast for case in ALL) >= len(ALL) / 2
    assert sum(case.peer for case in ALL) >= 285


# --- the runner ----------------------------------------------------------------------------------------------------


def raises(error: BaseException) -> Any:
    def act(lib: Any, work: Any) -> Any:
        raise error

    return act


def sings(lib: Any, work: Any) -> None:
    work.canary.write_text("ran")


def imports_evil(lib: Any, work: Any) -> None:
    work.file("evil_module.py", "x = 1")
    __import__("evil_module")


def own(name: str, message: str) -> Exception:
    from minisbert import errors

    return getattr(errors, name)(message)


GOOD = "config.json: 'x' is 3. Expected 4; fetch the model again."
CONFIG = refused("ModelFolderError", "config.json", "3")
OUTCOMES = {
    "a clear error": (raises(own("ModelFolderError", GOOD)), CONFIG, battery.CLEAR),
    "an error without the place": (raises(own("ModelFolderError", "3. Expected 4.")), CONFIG, battery.UNCLEAR),
    "an error of another class": (raises(own("InputError", GOOD)), CONFIG, battery.UNCLEAR),
    "an error without advice": (raises(own("ModelFolderError", "config.json is 3.")), CONFIG, battery.UNCLEAR),
    "an error that is not printable": (raises(own("ModelFolderError", GOOD + "\ud800")), CONFIG, battery.UNCLEAR),
    "a library's own error": (raises(ValueError(GOOD)), CONFIG, battery.BARE),
    "a panic": (raises(type("PanicException", (BaseException,), {})(GOOD)), CONFIG, battery.BARE),
    "no error": (lambda lib, work: 3, CONFIG, battery.SILENT),
    "a right result": (lambda lib, work: 3, Gives("three", lambda lib, r: r == 3), battery.CORRECT),
    "a wrong result": (lambda lib, work: 4, Gives("three", lambda lib, r: r == 3), battery.SILENT),
    "an error for good input": (
        raises(own("InputError", GOOD)),
        Gives("any", lambda lib, r: True),
        battery.REFUSED_GOOD,
    ),
    "a hang": (lambda lib, work: time.sleep(60), CONFIG, battery.HANG),
    "a canary": (sings, CONFIG, battery.RAN),
    "an import from the folder": (imports_evil, CONFIG, battery.RAN),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_outcomes_are_told_apart(name):
    act, expect, outcome = OUTCOMES[name]
    here, path, environment = os.getcwd(), list(sys.path), dict(os.environ)
    assert run_case(Case("runner", name, act, expect, seconds=0.5), lib()).outcome == outcome
    assert (os.getcwd(), sys.path, dict(os.environ)) == (here, path, environment)


@pytest.mark.parametrize(
    "code, starting, outcome",
    [("import os; os.abort()", 4.0, battery.CRASH), ("import time; time.sleep(60)", 0.5, battery.HANG)],
)
def test_a_process_that_crashes_or_hangs_costs_only_itself(code, starting, outcome, monkeypatch):
    import run_battery as run

    script = f"import sys; sys.stdin.readline(); {code}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    start = lambda self: subprocess.Popen([sys.executable, "-c", script], **pipes)  # noqa: E731
    monkeypatch.setattr(run.Worker, "_started", start)
    monkeypatch.setattr(run, "GRACE", 1.0)
    monkeypatch.setattr(run, "STARTING", starting)
    worker = run.Worker("minisbert")
    found = [worker.run(Case("runner", "x", sings, CONFIG, seconds=0.1)) for _ in range(2)]
    worker.close()
    assert [one["outcome"] for one in found] == [outcome, outcome]


def test_the_report(tmp_path, monkeypatch, capsys):
    import run_battery as run

    chosen = cases("downloads")[:3]
    monkeypatch.setattr(run, "cases", lambda *a, **k: chosen)
    monkeypatch.setattr(run.Worker, "run", lambda self, case: {"outcome": battery.CLEAR, "detail": ""})
    monkeypatch.setattr(sys, "argv", ["run_battery.py", "--report", str(tmp_path / "report.json"), "--peer"])
    assert run.main() == 0
    assert "3 of 3 cases came out well" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"] == {"minisbert": {"clear error": 3}, "peer": {"clear error": 3}}
    monkeypatch.setattr(run.Worker, "run", lambda self, case: {"outcome": battery.SILENT, "detail": "x"})
    monkeypatch.setattr(sys, "argv", ["run_battery.py"])
    assert run.main() == 1
