"""The battery of bad inputs: what a case is, how it is run, and what its outcome is called. The cases are in room_*.py.

    Case("encode", "a list with None", act, refused("InputError", "sentences[1]"))

`act(lib, work)` does one thing with a library (libraries.py) and an empty folder of its own. What must happen is either
an error of a given class whose message holds given words, or the correct result, known by a check. Cases with `peer` use
only what sentence-transformers has too, and are run against it by the same code (run_battery.py --peer).
"""

import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

WEIGHTS = Path(__file__).parents[2] / "weights"

# What can come of a case. The first two are well; a battery is passed when there is nothing else.
CORRECT, CLEAR = "correct result", "clear error"
UNCLEAR, REFUSED_GOOD = "unclear error", "good input refused"
BARE, SILENT, HANG, CRASH, RAN = "bare traceback", "silent garbage", "hang", "crash", "planted code ran"
OUTCOMES = (CORRECT, CLEAR, UNCLEAR, REFUSED_GOOD, BARE, SILENT, HANG, CRASH, RAN)
WELL = (CORRECT, CLEAR)

# Every message says what was expected or what to do; the last two are the flag parser's words.
ADVICE = re.compile(
    "expect|fetch|download|use another|do not use|check the|correct|remove|choose|shorten|make it|make the|make room"
    "|where you trust|look at|lower the|load |start again|start the same|name the|pass |write |required|helptext",
    re.IGNORECASE,
)
LONGEST_MESSAGE = 8000


class Refused(NamedTuple):
    """An error of this class, or one derived from it, whose message holds all the words: the place, the value."""

    error: str
    words: tuple[str, ...]


class Gives(NamedTuple):
    """A result that the check takes for right."""

    what: str
    check: Callable[[Any, Any], bool]  # (library, result)


@dataclass(frozen=True)
class Case:
    """One row of the battery."""

    room: str
    name: str
    act: Callable[[Any, "Work"], Any]  # (library, work)
    expect: Refused | Gives
    peer: bool = False
    # A result that would be right although minisbert refuses the input: a list made of a generator, say. Only
    # sentence-transformers is ever judged by it.
    harmless: Callable[[Any, Any], bool] | None = None
    seconds: float = 20.0
    fast: bool = True  # in the half that every CI run does

    @property
    def id(self) -> str:
        """The name that reports and tests know it by."""
        return f"{self.room}: {self.name}"


def refused(error: str, *words: str) -> Refused:
    """What must happen, in short."""
    return Refused(error, words)


@dataclass
class Work:
    """What a case may use: a folder of its own, and the path that planted code would write to."""

    folder: Path
    canary: Path

    def model(self, name: str = "tiny-bert") -> Path:
        """A copy of a tiny model, to be spoiled."""
        return Path(shutil.copytree(WEIGHTS / name, self.folder / "model"))

    def file(self, name: str, content: str | bytes) -> Path:
        """A file in the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


class Outcome(NamedTuple):
    """What came of a case."""

    outcome: str
    detail: str


def run_case(case: Case, lib: Any) -> Outcome:
    """Run one case in this process, in a folder that is gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="bad-input-"))
    work = Work(root / "work", root / "canary")
    work.folder.mkdir()
    before = set(sys.modules)
    try:
        with _apart(work.folder), _limited(case.seconds):
            outcome = _judged(case, lib, work)
        ran = work.canary.exists() or any("evil" in name for name in set(sys.modules) - before)
        return Outcome(RAN, outcome.detail) if ran else outcome
    finally:
        for name in set(sys.modules) - before:
            if "evil" in name:
                del sys.modules[name]
        shutil.rmtree(root, ignore_errors=True)


def _judged(case: Case, lib: Any, work: Work) -> Outcome:
    try:
        result = case.act(lib, work)
        if isinstance(case.expect, Gives):
            right = case.expect.check(lib, result)
            return Outcome(CORRECT if right else SILENT, f"{case.expect.what}: {_shown(result)}")
        harmless = lib.name != "minisbert" and case.harmless is not None and case.harmless(lib, result)
        return Outcome(CORRECT if harmless else SILENT, f"no error, but {_shown(result)}")
    except TimeLimit:
        return Outcome(HANG, f"more than {case.seconds:g} s")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of the tokenizers library is not an Exception
        return lib.judge(error, case.expect)


def judge_own(error: BaseException, expect: Refused | Gives) -> Outcome:
    """An error of minisbert: of the class, with the words, printable, and with advice."""
    from minisbert import errors

    message = str(error)
    detail = f"{type(error).__name__}: {message[:300]}"
    if not isinstance(error, errors.MinisbertError):
        return Outcome(BARE, detail)
    if isinstance(expect, Gives):
        return Outcome(REFUSED_GOOD, detail)
    faults = [f"it lacks {word!r}" for word in expect.words if word not in message]
    if not isinstance(error, getattr(errors, expect.error)):
        faults.append(f"expected {expect.error}")
    if not ADVICE.search(message):
        faults.append("it does not say what to do")
    if len(message) > LONGEST_MESSAGE or "\x1b" in message or not _encodable(message):
        faults.append("it cannot well be printed")
    return Outcome(UNCLEAR, f"{', '.join(faults)}: {detail}") if faults else Outcome(CLEAR, detail)


def judge_peer(error: BaseException, expect: Refused | Gives) -> Outcome:
    """An error of another library, judged kindly: clear is whatever some code raised on purpose (a `raise` stands where it
    began, or it is safetensors' own), and any other Exception whose message holds one of the words."""
    message = " ".join(str(one) for one in (error, error.__cause__, error.__context__) if one is not None).lower()
    detail = f"{type(error).__name__}: {message[:300]}"
    if isinstance(expect, Gives):
        return Outcome(REFUSED_GOOD, detail)
    named = any(word.strip("'").lower() in message for word in expect.words)
    return Outcome(CLEAR if isinstance(error, Exception) and (named or _on_purpose(error)) else BARE, detail)


def _on_purpose(error: BaseException) -> bool:
    if type(error).__name__ == "SafetensorError":
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and (frames[-1].line or "").startswith("raise ") and not isinstance(error, AssertionError)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.200}".encode("utf-8", "replace").decode()
    except Exception:
        return f"<{type(value).__name__}>"


class TimeLimit(BaseException):
    """The case took too long; no library catches it by `except Exception`."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise TimeLimit after so many seconds. What does not come back to Python is killed by run_battery.py from outside."""

    def too_long(*_: Any) -> None:
        raise TimeLimit

    former = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


@contextmanager
def _apart(folder: Path) -> Iterator[None]:
    """The case's folder as working directory and on the import path, where planted modules can be found; no network."""
    here, path, environment = Path.cwd(), list(sys.path), dict(os.environ)
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(folder / "model")]
    os.environ |= {"MINISBERT_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "MINISBERT_CACHE": str(folder / "cache")}
    try:
        yield
    finally:
        os.chdir(here)
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)


def cases(room: str | None = None, *, peer: bool = False, fast: bool = False) -> list[Case]:
    """The cases of a room, or of all: those that sentence-transformers can take, those that are fast.

    Raises:
        SystemExit: there is no such room.
    """
    import room_commands
    import room_downloads
    import room_encode
    import room_folders
    import room_search
    import room_training

    rooms = [room_encode, room_folders, room_training, room_search, room_commands, room_downloads]
    tables = {module.__name__.removeprefix("room_"): module.CASES for module in rooms}
    if room is not None and room not in tables:
        raise SystemExit(f"{room!r} is not a room. Expected one of {', '.join(tables)}.")
    found = [case for name, table in tables.items() if room in (None, name) for case in table]
    names = [case.id for case in found]
    doubled = sorted({name for name in names if names.count(name) > 1})
    assert not doubled, f"named twice: {doubled}"
    return [case for case in found if (case.peer or not peer) and (case.fast or not fast)]


def slow(case: Case, seconds: float = 60.0) -> Case:
    """The same case, only in the full run, with more time."""
    return replace(case, fast=False, seconds=seconds)
