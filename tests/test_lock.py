"""The lock of CI names an exact version for everything that is installed there, within the ranges of setup.cfg."""

from configparser import ConfigParser
from pathlib import Path

import pytest

requirements = pytest.importorskip("packaging.requirements", reason="comes with pytest")

ROOT = Path(__file__).parents[1]
EXTRAS = ("test", "parity")  # what .ci/run installs


def name_of(name: str) -> str:
    return name.lower().replace("_", "-")


def pins() -> dict[str, str]:
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in found), "a line that is no exact version"
    return {name_of(name): version for name, version in found}


def asked() -> list[str]:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in EXTRAS)]
    return [line for text in texts for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("line", asked())
def test_the_lock_has_it_within_its_range(line):
    requirement = requirements.Requirement(line)
    assert requirement.specifier.contains(pins()[name_of(requirement.name)])
