"""Staging of a download: files collect in a staging folder until all are complete and verified, then it is renamed.

A reader sees a complete model or none. A rerun downloads only what is missing:

    models/<org>--<name>/<revision>/              the finished folder, with minisbert_source.json: where it came from
    models/<org>--<name>/.partial-<revision>/     staging: verified files at their final relative path
    models/<org>--<name>/.partial-<revision>/.incoming/    bytes still arriving
    models/<org>--<name>/.verified-<revision>.json         size and time of change of each file when its digest was compared
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

from minisbert.atomic_write import flush, whole_file
from minisbert.checksums import digest, is_whole, sealed
from minisbert.download.catalog import FileRecord, Model
from minisbert.errors import DownloadError

MANIFEST = "minisbert_source.json"
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)  # what a damaged record raises


@dataclass(frozen=True)
class Delivery:
    """The result of a source once every file is in staging: the files, the origin of their digests, and the exact commit."""

    files: Mapping[str, FileRecord]
    source: str
    verified_by: str
    commit: str


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
    """Write the manifest, with the sources that failed, delete what does not belong to the model, and rename staging."""
    digests = {name: record.sha256 or digest(staging / name) for name, record in sorted(delivery.files.items())}
    manifest = {
        "name": model.name,
        "repository": model.repository,
        "revision": model.revision,
        "commit": delivery.commit,
        "source": delivery.source,
        "verified by": delivery.verified_by,
        "set aside": list(set_aside),
        "files": {name: {"size": delivery.files[name].size, "sha256": sha256} for name, sha256 in digests.items()},
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
    _write_verified(home, digests)


def faults(home: Path, model: Model, *, verify: bool = False) -> list[str]:
    """What is wrong with a finished folder, file by file; empty if it is complete.

    Args:
        verify: compare every digest. Otherwise a file is read only if its size or time of change is new: hashing gigabytes
            on each load would take longer than loading them.
    """
    verified = _read_verified(home)
    try:
        listed = json.loads((home / MANIFEST).read_text(encoding="utf-8"))["files"]
        sizes = {name: FileRecord(size=index(entry["size"])) for name, entry in listed.items()}
        wrong = [f"{name}: {problem}" for name, size in sizes.items() if (problem := problem_with(home / name, size))]
        if wrong:
            return wrong
        digests = {name: str(entry["sha256"]) for name, entry in listed.items()}
    except _UNREADABLE:
        return [f"{MANIFEST}: missing or not readable"]
    digests |= {name: entry["sha256"] for name, entry in verified.items()}
    digests |= {name: record.sha256 for name, record in model.files.items() if record.sha256}
    found, compared = [], False
    for name, expected in digests.items():
        path = home / name
        if not path.is_file():
            found.append(f"{name}: missing")
        elif verify or verified.get(name) != _entry(path, expected):
            compared = True
            if (now := digest(path)) != expected:
                found.append(f"{name}: sha256 {now}, expected {expected}")
    if compared and not found:
        _write_verified(home, digests)
    return found


def _entry(path: Path, sha256: str) -> dict[str, Any]:
    status = path.stat()
    return {"size": status.st_size, "changed": status.st_mtime_ns, "sha256": sha256}


def _read_verified(home: Path) -> dict[str, dict[str, Any]]:
    """The entry of each file when its digest was last compared; empty if there is no record, or a damaged one."""
    try:
        record = json.loads(home.with_name(f".verified-{home.name}.json").read_text(encoding="utf-8"))
        entries: dict[str, dict[str, Any]] = record["files"] if is_whole(record) else {}
        return entries if all(isinstance(entry["sha256"], str) for entry in entries.values()) else {}
    except _UNREADABLE:
        return {}


def _write_verified(home: Path, digests: Mapping[str, str]) -> None:
    """Record that the digests of a folder's files were compared, and that of its manifest."""
    digests = {**digests, MANIFEST: digest(home / MANIFEST)}
    record = sealed({"files": {name: _entry(home / name, sha256) for name, sha256 in digests.items()}})
    # In a cache that cannot be written the digests are compared again next time.
    with suppress(OSError), whole_file(home.with_name(f".verified-{home.name}.json")) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def reopen(home: Path, staging: Path) -> None:
    """Turn a damaged finished folder back into staging, so that its good files are not downloaded again."""
    if staging.exists():
        shutil.rmtree(home)
    else:
        os.replace(home, staging)
