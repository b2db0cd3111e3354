"""SIGKILL while something is written: what stands is whole, and the next run leaves no debris. kill_savers.py does hundreds."""

import os
import random
import subprocess
import sys

import kill_savers
import pytest
from kill_savers import WRITERS, kill

from minisbert import atomic_write


@pytest.mark.parametrize("name", WRITERS)
def test_what_stands_is_whole(tmp_path, name):
    rng = random.Random(1)
    for _ in range(2):
        kill(tmp_path, rng, name)


def test_at_no_moment_is_there_no_model(tmp_path):
    """A reader that looks all the time while the folder is replaced forty times."""
    for name in "ab":
        (tmp_path / name).mkdir()
    if not atomic_write._exchanged(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this kernel or file system cannot swap two names in one step")
    kill(tmp_path, random.Random(2))
    file = tmp_path / "model" / "config.json"
    process = subprocess.Popen([sys.executable, kill_savers.__file__, "--writer", "model", "--into", str(tmp_path)])
    misses = saves = 0
    last = os.stat(file).st_ino
    while saves < 40:
        assert process.poll() is None
        try:
            now = os.stat(file).st_ino
        except FileNotFoundError:
            misses += 1
            continue
        saves, last = saves + (now != last), now
    process.kill()
    process.wait()
    assert misses == 0
