"""The lock of CI pins an exact version of everything that CI installs, within the ranges of pyproject.toml."""

import tomllib
from pathlib import Path

import pytest

requirements = pytest.importorskip("packaging.requirements", reason="comes with pytest")

ROOT = Path(__file__).parents[1]
EXTRAS = ("test", "docs", "notebooks", "parity")  # what .ci/run installs


def name_of(name: str) -> str:
    return name.lower().replace("_", "-")


def pins() -> dict[str, str]:
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in found), "a line that is not an exact version"
    return {name_of(name): version for name, version in found}


def asked() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]


@pytest.mark.parametrize("line", asked())
def test_the_lock_has_it_within_its_range(line):
    requirement = requirements.Requirement(line)
    assert requirement.specifier.contains(pins()[name_of(requirement.name)])
