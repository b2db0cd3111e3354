"""The tiny models that the tests run on are those that make_tiny.py writes, byte for byte."""

import runpy
from pathlib import Path

import pytest

WEIGHTS = Path(__file__).parents[1] / "weights"


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-static"])  # with and without a tokenizer's further files
def test_the_same_bytes(tmp_path, name):
    script = runpy.run_path(str(WEIGHTS / "make_tiny.py"))
    script["make"].__globals__["HERE"] = tmp_path
    script["make"](name, list(script["MODELS"]).index(name))
    assert _files(tmp_path / name) == _files(WEIGHTS / name)


def _files(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
