"""Staging of a download: files collect in a staging folder until all are complete and verified, then it is renamed.

A reader therefore sees a complete model or none. A rerun checks the files that an interrupted run left in staging and downloads
only what is missing:

    models/<org>--<name>/<revision>/              the finished folder, with minisbert_source.json: where it came from
    models/<org>--<name>/.partial-<revision>/     staging: verified files at their final relative path
    models/<org>--<name>/.partial-<revision>/.incoming/    bytes still arriving
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minisbert.atomic_write import flush
from minisbert.download.catalog import FileRecord, Model
from minisbert.errors import DownloadError

MANIFEST = "minisbert_source.json"


@dataclass(frozen=True)
class Delivery:
    """The result of a source once every file is in staging: the files, the origin of their digests, and the exact commit."""

    files: Mapping[str, FileRecord]
    source: str
    verified_by: str
    commit: str


def digest(path: Path) -> str:
    """The sha256 of a file in hexadecimal; the file is streamed. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_digest(path: Path) -> str:
    """Git's hash of a file, which the hub lists for files that are not in LFS."""
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


def incoming(staging: Path, name: str) -> Path:
    """A path for bytes that are still arriving; `finish` deletes leftovers."""
    folder = staging / ".incoming"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def collect(
    staging: Path,
    files: Mapping[str, FileRecord],
    bring: Callable[[str, FileRecord, Path], bool | None],
    advance: Callable[[int], object] = lambda size: None,
) -> list[str]:
    """Bring every file missing from staging, and move it into place if it matches its record.

    Args:
        bring: `bring(name, record, path)` writes one file to a path, which may hold its first bytes from an earlier run;
            it returns False if it does not have the file.
        advance: called with the size of each file already in staging.

    Returns:
        The names of the files that `bring` does not have.

    Raises:
        DownloadError: a file arrived with another size or digest; it is deleted.
    """
    absent = []
    for name, record in files.items():
        place = staging / name
        if problem_with(place, record) is None:
            advance(record.size)
            continue
        place.unlink(missing_ok=True)
        # The digest in the name separates the bytes of two versions.
        version = (record.sha256 or record.git_sha1 or "any")[:16]
        arrived = incoming(staging, f"{name.replace('/', '__')}.{version}")
        if bring(name, record, arrived) is False:
            absent.append(name)
            continue
        if problem := problem_with(arrived, record):
            arrived.unlink(missing_ok=True)
            raise DownloadError(f"{name}: {problem}")
        flush(arrived)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(arrived, place)
    return absent


def finish(staging: Path, home: Path, model: Model, delivery: Delivery, set_aside: Sequence[str] = ()) -> None:
    """Write the manifest, delete everything that does not belong to the model, and rename staging to its final name.

    Args:
        set_aside: the sources tried before and what was wrong with each, so that a wrong digest is on record.
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
    """What is wrong with a finished folder, file by file; empty if it is complete.

    Only sizes are checked: every digest was checked before the folder got its name, and hashing gigabytes on each load
    would take longer than loading them.
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
    """Turn a damaged finished folder back into staging, so that its good files are not downloaded again."""
    if staging.exists():
        shutil.rmtree(home)
    else:
        os.replace(home, staging)
