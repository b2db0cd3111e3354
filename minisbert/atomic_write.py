"""Atomic writes of folders and files: written next to the target, flushed to disk, then renamed.

A reader sees the old version or the new one, never a mixture, whenever the writer is killed. A killed writer leaves a hidden
`.NAME.partial-HOST-PROCESS-...` next to the target, which the next write into the same folder removes.
"""

import ctypes
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minisbert.errors import InputError, MinisbertError, WriteError

# Without platform and uuid, whose import takes longer than reading a small model's settings.
_NODE = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
_HOST, _PROCESS = f"{zlib.crc32(_NODE.encode()):08x}", os.urandom(4).hex()
_LEFT = re.compile(r"\.(.+)\.(partial|old)-([0-9a-f]{8})-(\d+)-([0-9a-f]{8})-[0-9a-f]{8}")


def _is_model(folder: Path) -> bool:
    """Only a model may be replaced: a config.json alone could belong to any program.

    The modules of a static model or a Router are in subfolders, each with its weights.
    """
    weights = ("model.safetensors", "model.safetensors.index.json", "minisbert.safetensors")
    at_the_top = any((folder / name).is_file() for name in weights)
    if (folder / "modules.json").is_file():
        return at_the_top or any(folder.glob("*_*/model.safetensors"))
    return (folder / "config.json").is_file() and at_the_top


@contextmanager
def staged_folder(target: Path, kind: str = "model", is_kind: Callable[[Path], bool] = _is_model) -> Iterator[Path]:
    """A new empty folder next to `target` that replaces it when the block succeeds, and is deleted when it fails.

    Args:
        target: a new path, or a folder of the same kind, which is replaced.
        kind: what the folder holds, for messages.
        is_kind: whether an existing folder holds that.

    Raises:
        InputError: the target holds something else.
        WriteError: it cannot be written; the target is as it was.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(
            f"{target}: exists and is not a folder. Expected a new path, or a folder with a {kind} to replace."
        )
    if target.is_dir() and any(target.iterdir()) and not is_kind(target):
        raise InputError(
            f"{target}: holds files but no {kind}. Expected a new path, or a folder with a {kind} to replace; nothing "
            "was written."
        )
    with _next_to(target) as staging:
        staging.mkdir(parents=True)
        yield staging
        for path in [*staging.rglob("*"), staging]:
            flush(path)
        _take_place(staging, target)


@contextmanager
def whole_file(out: Path) -> Iterator[Path]:
    """A temporary path next to `out` that replaces it when the block succeeds, and is deleted when it fails.

    Raises:
        WriteError: it cannot be written; the previous version is intact.
    """
    with _next_to(out) as temporary:
        yield temporary
        flush(temporary)
        os.replace(temporary, out)


@contextmanager
def _next_to(target: Path) -> Iterator[Path]:
    """A temporary path, removed at the end; what fails in between is a WriteError about the target."""
    clear_debris(target.parent)
    temporary = path_next_to(target)
    try:
        yield temporary
    except MinisbertError:
        raise
    except OSError as error:
        raise not_written(target, error, temporary) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # which leaves a file
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def path_next_to(target: Path, kind: str = "partial") -> Path:
    """A unique hidden name on the same file system, with the process that writes there."""
    unique = f"{_HOST}-{os.getpid()}-{_PROCESS}-{os.urandom(4).hex()}"
    return target.with_name(f".{target.name}.{kind}-{unique}")


def clear_debris(folder: Path) -> None:
    """Remove what killed processes of this host left in a folder, and give a model that they moved aside its name back."""
    with suppress(OSError):  # no such folder; or another process is clearing it
        for path in folder.iterdir():
            match = _LEFT.fullmatch(path.name)
            if match is None or match[3] != _HOST or _is_running(int(match[4]), match[5]):
                continue
            if match[2] == "old" and not (folder / match[1]).exists():
                path.rename(folder / match[1])
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_running(process: int, token: str) -> bool:
    if process == os.getpid():
        return token == _PROCESS  # otherwise an earlier process had this number, as in a restarted container
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk, so that a power cut cannot undo a rename."""
    if path.is_dir() and os.name == "nt":
        return  # Windows neither needs nor allows it for folders
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def not_written(target: Path, error: OSError, partial: Path | None = None) -> WriteError:
    """The error for a file or folder that cannot be written, with the bytes written (to `partial`) and the bytes free."""
    written = _size(partial) if partial else 0
    told = WriteError(
        f"{target}: cannot be written ({error.strerror or error}; {written} bytes were written, {free_bytes(target)} are "
        "free). The previous version is intact; make room or choose another place."
    )
    told.errno = error.errno
    return told


def free_bytes(path: Path) -> int:
    """The free bytes on the disk of a path that may not exist yet."""
    there = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("."))
    with suppress(OSError):
        return shutil.disk_usage(there).free
    return 0


def _size(path: Path) -> int:
    with suppress(OSError):
        return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
    return 0


def _take_place(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
    elif not _exchanged(staging, target):
        old = path_next_to(target, "old")
        try:
            target.rename(old)
            staging.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)  # restore the previous version
            raise
        shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):  # some file systems cannot; the rename itself has succeeded
        flush(target.parent)


def _exchanged(a: Path, b: Path) -> bool:
    """Swap two names atomically with Linux's renameat2; False where it is not available."""
    if sys.platform != "linux":
        return False
    try:
        swap = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):  # a C library without it
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0
