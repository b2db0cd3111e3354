"""The benchmarks run to their last line on a tiny model; their results are not judged."""

import runpy
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TINY = ["--model", str(TESTS.parent / "weights" / "tiny-bert")]


@pytest.mark.parametrize(
    "script, options, last",
    [
        ("benchmarks/profile_forward.py", ["--rows", "2", "--length", "8", "--rounds", "2"], "tokens per second"),
        ("benchmarks/scaling.py", ["--largest", "1000"], "most to least"),
        pytest.param(
            "benchmarks/sweep.py",
            ["--poolings", "mean_tokens", "--rates", "1e-5", "--steps", "1"],
            "of processor time",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_it_measures(script, options, last, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, *TINY, *options])
    runpy.run_path(str(TESTS / script), run_name="__main__")
    assert last in capsys.readouterr().out.splitlines()[-1]
