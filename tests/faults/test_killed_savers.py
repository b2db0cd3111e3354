"""SIGKILL while a folder and a file are replaced: what stands is whole. A few kills; kill_savers.py does two hundred."""

import os
import random
import subprocess
import sys

import kill_savers
import pytest
from kill_savers import kill

from minisbert import atomic_write


def test_what_stands_is_whole(tmp_path):
    rng = random.Random(1)
    for _ in range(5):
        kill(tmp_path, rng)


def test_at_no_moment_is_there_no_model(tmp_path):
    """A reader that looks all the time while the folder is replaced forty times."""
    for name in "ab":
        (tmp_path / name).mkdir()
    if not atomic_write._exchanged(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this kernel or file system cannot swap two names in one step")
    kill(tmp_path, random.Random(2))
    file = tmp_path / "model" / "config.json"
    process = subprocess.Popen([sys.executable, kill_savers.__file__, "--saver", str(tmp_path)])
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
