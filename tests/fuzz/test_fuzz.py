"""A few hundred spoiled files a reader on every test run; run_fuzzing.py reads thousands. And each file that once went wrong.

The second that a file may take is one of this thread's processor time, so a busy machine does not count.
"""

import random
import subprocess
import sys
from types import SimpleNamespace

import fuzzing
import hostile_files
import mutators
import pytest
from fuzz_targets import TARGETS
from fuzzing import SEEDS, Report, campaign, examine, seeds, workplace
from hostile_files import Hostile, examined

from minisbert.errors import DataError

COUNT = 150


@pytest.mark.parametrize("name", TARGETS)
def test_spoiled_files_are_refused_or_read_as_the_reference_does(name):
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="pip install -e '.[parquet]'")
    report = campaign(name, COUNT, seed=1)
    assert report.failures == {}
    assert report.refused + report.taken == COUNT
    assert min(report.refused, report.taken) > COUNT // 50  # neither all good nor hopeless


@pytest.mark.parametrize("name", sorted(folder.name for folder in SEEDS.iterdir()))
def test_what_once_went_wrong_does_not_again(name):
    target, report = TARGETS[name], Report()
    with workplace(target) as folder:
        for content in seeds(name):
            examine(target, folder, content, report)
    assert report.failures == {}


@pytest.mark.parametrize("name", ["a key twice", "2^60", "(a+)+b", "60,000 added", "0.9 MB of lists"])
def test_hostile_files_are_refused_in_time(name):
    # In a new process: a copy of this one, which other tests filled, would be slower.
    done = subprocess.run([sys.executable, hostile_files.__file__, "--only", name], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("\n0 rows failed\n"), done.stdout
    assert done.stdout.count("\n") > 2  # the heading, a row, the sum


def test_a_hostile_file_that_is_taken_is_a_failure():
    good = Hostile("good", "config.json", (hostile_files.MODELS / "tiny-bert" / "config.json").read_bytes)
    assert [*examined(good)[1].failures] == ["taken"]


# --- the examiner itself -------------------------------------------------------------------------------------------


def refuses_without_place(file, content):
    raise DataError("no")


def takes_what_is_wrong(file, content):
    assert content == b"good", "wrong"


def takes_memory(file, content):
    b"x" * (fuzzing.MEMORY + 20_000_000)  # no more: a slow machine must write it within the second


def takes_time(file, content):
    while True:
        pass


class Panic(BaseException):
    pass


def panics(file, content):
    raise Panic("thread 7 panicked")


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (refuses_without_place, "does not name the place"),
        (takes_what_is_wrong, "AssertionError in test_fuzz.py"),
        (takes_memory, "more than 64 MB"),
        (takes_time, "Hang"),
        (panics, "Panic in test_fuzz.py"),
        (lambda file, content: bytes(10**11), "MemoryError"),
    ],
)
def test_the_examiner_sees_a_bad_reader(check, told, monkeypatch):
    if check is takes_memory and not fuzzing.memory.now():
        pytest.skip("no kernel that tells the peak of a process's memory")
    if check is takes_time:
        monkeypatch.setattr(fuzzing, "HANGS", 1)
    target, report = SimpleNamespace(file="x", prepare=lambda folder: None, check=check), Report()
    with workplace(target) as folder:
        examine(target, folder, b"bad", report)
    assert [told in f"{kind}: {words}" for kind, (words, _) in report.failures.items()] == [True]


def test_the_same_number_gives_the_same_file():
    for target in TARGETS.values():
        starts = target.starts()
        one, two = (mutators.mutated(starts, target.mutations, random.Random("7")) for _ in range(2))
        assert one == two
