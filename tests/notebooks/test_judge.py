"""notebooks/judge.py: the truth is judged right, every known mistake is named, and an attempt never stops a notebook."""

import re
import sys

import numpy as np
import pytest
from documents import ROOT

sys.path.insert(0, str(ROOT / "notebooks"))
from judge import EXERCISES, judge

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))


def named(name, function):
    def attempt(*arguments):
        return function(*arguments)

    attempt.__name__ = name
    return attempt


@pytest.mark.parametrize("name", EXERCISES)
def test_truth_and_mistakes_are_told_apart(name, capsys):
    exercise = EXERCISES[name]
    assert judge(named(name, exercise.truth))
    assert capsys.readouterr().out == f"{name}: right, on 5 random inputs.\n"
    for what, mistake in exercise.mistakes.items():
        with np.errstate(all="ignore"):
            assert not judge(named(name, mistake))
        assert what in capsys.readouterr().out


@pytest.mark.parametrize(
    "function, told",
    [
        (lambda hidden_BLD, mask_BL: None, "not written yet. Hint: put -inf"),
        (lambda hidden_BLD, mask_BL: ..., "not written yet. Hint"),
        (lambda hidden_BLD, mask_BL: 1 / 0, "ZeroDivisionError: division by zero Hint"),
        (lambda hidden_BLD, mask_BL: hidden_BLD.max(axis=2), r"shape (3, 5); expected (3, 4). Hint"),
        (lambda hidden_BLD, mask_BL: np.zeros((3, 4)), "not yet. At [0, 0] it gives 0; expected"),
        (lambda hidden_BLD: 0, "TypeError"),
    ],
)
def test_what_is_told_of_an_attempt(function, told, capsys):
    assert not judge(named("max_pool", function))
    assert told in capsys.readouterr().out


def test_an_unknown_exercise_is_refused():
    with pytest.raises(ValueError, match=r"no exercise is called 'nobody'. Expected one of normalize"):
        judge(named("nobody", len))


@pytest.mark.parametrize("script", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_has_a_cell_to_fill_in_and_its_solution(script):
    text = script.read_text(encoding="utf-8")
    code, solution = (
        re.findall(r"^right = judge\((\w+)\)$", text, re.M),
        re.findall(r"^# assert judge\((\w+)\)$", text, re.M),
    )
    assert code and set(code) == set(solution) <= set(EXERCISES)
