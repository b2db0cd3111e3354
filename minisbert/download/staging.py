"""A model folder in the making: files wait in a staging folder until all are there and proven, then one rename.

A reader therefore sees a whole model or none. What an interrupted run left in staging is proven again and kept, so a
rerun fetches only what is missing. The rooms:

    models/<org>--<name>/<revision>/              the finished folder, with minisbert_source.json: what came from where
    models/<org>--<name>/.partial-<revision>/     staging: proven files at their final relative path
    models/<org>--<name>/.partial-<revision>/.incoming/    bytes still arriving
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minisbert.atomic_write import flush
from minisbert.download.catalog import FileRecord, Model
from minisbert.errors import DownloadError

MANIFEST = "minisbert_source.json"
_INCOMING = ".incoming"


@dataclass(frozen=True)
class Delivery:
    """What a source hands over once every file stands in staging: the files, who vouched for them, the exact commit."""

    files: Mapping[str, FileRecord]
    source: str
    verified_by: str
    commit: str


def digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Args:
        path: any readable file; it is streamed, never held in memory.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_digest(path: Path) -> str:
    """Git's own name for the file's content: what a hub lists for the files it does not keep in LFS."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(f"blob {path.stat().st_size}\0".encode())).hexdigest()


def problem_with(path: Path, record: FileRecord) -> str | None:
    """Why `path` is not the file that `record` describes, or None when size and digest agree."""
    if not path.is_file():
        return "missing"
    if (size := path.stat().st_size) != record.size:
        return f"{size} bytes, expected {record.size}"
    for kind, expected, compute in (("sha256", record.sha256, digest), ("git sha1", record.git_sha1, _git_digest)):
        if expected and (found := compute(path)) != expected:
            return f"{kind} {found}, expected {expected}"
    return None


def holds(staging: Path, name: str, record: FileRecord) -> bool:
    """Whether staging already has this file, proven; a wrong one left there is removed."""
    path = staging / name
    if problem_with(path, record) is None:
        return True
    path.unlink(missing_ok=True)
    return False


def incoming(staging: Path, name: str, record: FileRecord) -> Path:
    """Where the bytes of a file may pile up. The digest is in the name: bytes of two versions never mix."""
    folder = staging / _INCOMING
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name.replace('/', '__')}.{(record.sha256 or record.git_sha1 or 'any')[:16]}"


def incoming_folder(staging: Path, name: str) -> Path:
    """A folder of its own for what a source needs on the way (wheels), gone when the model is finished."""
    folder = staging / _INCOMING / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def accept(staging: Path, name: str, record: FileRecord, arrived: Path) -> None:
    """Move an arrived file to its place in staging if it is what it must be; otherwise delete it.

    Raises:
        DownloadError: the size or a digest differs.
    """
    if problem := problem_with(arrived, record):
        arrived.unlink(missing_ok=True)
        raise DownloadError(f"{name}: {problem}")
    flush(arrived)
    place = staging / name
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(arrived, place)


def finish(staging: Path, home: Path, model: Model, delivery: Delivery, set_aside: Sequence[str] = ()) -> None:
    """Write the manifest, drop everything that is not the model's, and rename staging to its final name.

    `set_aside` tells which sources were tried before and what was wrong with them; a false digest should leave a trace.
    """
    manifest = {
        "name": model.name,
        "repository": model.repository,
        "revision": model.revision,
        "commit": delivery.commit,
        "source": delivery.source,
        "verified by": delivery.verified_by,
        "set aside": list(set_aside),
        "files": {
            name: {"size": record.size, "sha256": record.sha256 or digest(staging / name)}
            for name, record in sorted(delivery.files.items())
        },
    }
    for path in sorted(staging.rglob("*"), reverse=True):  # children come before their folder
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(staging).as_posix() not in delivery.files:
            path.unlink()
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    flush(staging / MANIFEST)
    flush(staging)
    os.replace(staging, home)
    flush(home.parent)


def faults(home: Path, model: Model) -> list[str]:
    """What a finished folder lacks, file by file; empty when it is whole.

    Sizes only: every digest was proven before the folder got its name, and hashing gigabytes at each load would cost
    more than loading them.
    """
    try:
        listed = json.loads((home / MANIFEST).read_text(encoding="utf-8"))["files"]
        sizes = {name: int(entry["size"]) for name, entry in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [f"{MANIFEST}: missing or not readable"]
    sizes |= {name: record.size for name, record in model.files.items()}
    found = ((name, problem_with(home / name, FileRecord(size))) for name, size in sizes.items())
    return [f"{name}: {problem}" for name, problem in found if problem]


def reopen(home: Path, staging: Path) -> None:
    """Turn a damaged finished folder back into staging, so that its good files need not be fetched again."""
    if staging.exists():
        shutil.rmtree(home)
    else:
        os.replace(home, staging)
