"""A disk that fails: the n-th call that changes something below a folder ends as on a full or broken disk.

    with Disk(folder, fails_at=3) as disk:       # the third open, write, flush, rename ... below it fails, once
        save(folder / "model")
    disk.failed                                  # "write model.safetensors", or None where there were fewer calls

Calls are counted where Python makes them. What a library writes by itself (tensorstore, Arrow, faiss) is met by real limits
instead: `largest_file`, the kernel's own bound, and `small_disk`, a file system of a megabyte.
"""

import builtins
import errno
import io
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
from safetensors import SafetensorError

from minisbert import atomic_write

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Disk:
    """Counts what is done below `folder`, from any thread; the call of number `fails_at` fails.

    Args:
        only: count only calls on files whose path holds this.
        error: the number that the operating system gives for the failure.
    """

    def __init__(self, folder: Path, fails_at: int | None = None, *, only: str = "", error: int = errno.ENOSPC):
        self.folder, self.fails_at, self.only, self.error = str(folder), fails_at, only, error
        self.calls: list[str] = []
        self.failed: str | None = None
        self._lock = threading.Lock()
        self._patch = pytest.MonkeyPatch()

    def count(self, what: str, path: Any) -> bool:
        """Note a call; True where it is the one to fail."""
        name = os.fspath(path) if isinstance(path, str | Path) else ""
        if not os.path.abspath(name).startswith(self.folder) or self.only not in name:
            return False
        with self._lock:
            self.calls.append(f"{what} {os.path.basename(name)}")
            if len(self.calls) != self.fails_at:
                return False
            self.failed = self.calls[-1]
            return True

    def fail(self, path: Any) -> None:
        """As the operating system says it."""
        raise OSError(self.error, os.strerror(self.error), os.fspath(path))

    def __enter__(self) -> "Disk":
        real_open, save_file, exchanged = io.open, safetensors.numpy.save_file, atomic_write._exchanged
        names: dict[int, Any] = {}  # open descriptors, which fsync and sendfile speak of

        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            writes = any(sign in mode for sign in "wax+")
            if writes and self.count("open", file):
                self.fail(file)
            stream = real_open(file, mode, *args, **kwargs)
            return Stream(stream, self, file) if writes else stream

        def save(tensors: Any, path: str, *args: Any, **kwargs: Any) -> None:
            fails = self.count("save", path)
            save_file(tensors, path, *args, **kwargs)
            if fails:
                os.truncate(path, os.path.getsize(path) // 2)
                raise SafetensorError(
                    f"Error while serializing: I/O error: {os.strerror(self.error)} (os error {self.error})"
                )

        def exchange(a: Path, b: Path) -> bool:
            return not self.count("exchange", b) and exchanged(a, b)

        def wrapped(what: str, call: Callable[..., Any], which: int = 0) -> Callable[..., Any]:
            def checked(*args: Any, **kwargs: Any) -> Any:
                path = names.get(args[which], args[which])
                if not (what == "mkdir" and os.path.isdir(path)) and self.count(what, path):
                    self.fail(path)
                return call(*args, **kwargs)

            return checked

        def open_descriptor(path: Any, *args: Any, **kwargs: Any) -> int:
            descriptor = os_open(path, *args, **kwargs)
            names[descriptor] = path
            return descriptor

        os_open = os.open
        for module in (builtins, io):
            self._patch.setattr(module, "open", opened)
        self._patch.setattr(os, "open", open_descriptor)
        for name, which in {"fsync": 0, "replace": 1, "rename": 1, "mkdir": 0, "link": 1, "symlink": 1}.items():
            self._patch.setattr(os, name, wrapped(name, getattr(os, name), which))
        self._patch.setattr(os, "sendfile", lambda *_: (_ for _ in ()).throw(OSError(errno.EINVAL, "not here")))
        self._patch.setattr(safetensors.numpy, "save_file", save)
        self._patch.setattr(atomic_write, "_exchanged", exchange)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


class Stream:
    """A file that is written to; every write is counted, and a failing one leaves half of it."""

    def __init__(self, stream: Any, disk: Disk, path: Any):
        self._stream, self._disk, self._path = stream, disk, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._stream)

    def write(self, data: Any) -> int:
        """All of it, or half and an error."""
        if self._disk.count("write", self._path):
            self._stream.write(data[: len(data) // 2])
            self._stream.flush()
            self._disk.fail(self._path)
        return self._stream.write(data)

    def writelines(self, lines: Any) -> None:
        """A write a line."""
        for line in lines:
            self.write(line)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process can become larger: a real failure of every writer, whatever it is written in."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[Path]:
    """A real file system of this size; only root may make one."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"no small file system can be made here: {made.stderr.strip() or 'mount failed'}")
    try:
        yield folder
    finally:
        # pyarrow's threads may hold a file for a moment after it was read; a file of ours left open stays busy.
        until = time.monotonic() + 20
        while subprocess.run(["umount", str(folder)]).returncode != 0:
            assert time.monotonic() < until, f"{folder}: a file on it is still open"
            time.sleep(0.1)


def leave(disk: Path, room: int) -> None:
    """Fill a small disk up to this many bytes."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    state = os.statvfs(disk)
    filler.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - room)))


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
