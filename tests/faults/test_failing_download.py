"""The download cache on a disk that fails: no half a model is ever taken for one, and the next call mends it."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from disk import Disk, leave, small_disk, snapshot

from minisbert.download import catalog, staging
from minisbert.download import locate as download
from minisbert.download.catalog import FileRecord, Model
from minisbert.errors import DownloadError

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 200, "1_Pooling/config.json": b"{ }"}
RECORDS = {name: FileRecord(len(data), hashlib.sha256(data).hexdigest()) for name, data in FILES.items()}
MOST_CALLS = 100


def give(model: Model, workplace: Path, show_progress: bool) -> staging.Delivery:
    """A source that always has the files."""

    def write(name: str, _: FileRecord, arrived: Path) -> None:
        with arrived.open("wb") as out:
            out.write(FILES[name])

    staging.collect(workplace, model.files, write)
    return staging.Delivery(model.files, "here", "catalog", model.revision)


@pytest.fixture(autouse=True)
def two_models(monkeypatch):
    for name in ("one", "two"):
        model = Model(name, f"org/{name}", "a" * 40, "mit", RECORDS)
        monkeypatch.setitem(catalog._BY_NAME, name, model)
    monkeypatch.setattr(download, "_LOCAL_SOURCES", ())
    monkeypatch.setattr(download, "_REMOTE_SOURCES", (("here", give),))
    for name in ("MINISBERT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def locate(name: str, cache: Path, offline: bool = False) -> Path:
    return download.locate(name, cache=cache, offline=offline, show_progress=False)


def is_whole(folder: Path) -> None:
    """Every file to the byte, and the record of where they came from."""
    found = snapshot(folder)
    assert json.loads(found.pop(staging.MANIFEST))["source"] == "here"
    assert found == FILES


def told(error: DownloadError, cache: Path) -> None:
    assert str(cache / "models" / "org--two") in str(error)
    assert re.search(r"\d+ bytes are free", str(error))


@pytest.mark.parametrize("damaged", [False, True], ids=["a new model", "a damaged one"])
def test_every_call_fails_once(damaged, tmp_path):
    for n in range(1, MOST_CALLS):
        cache = tmp_path / f"cache {n}"
        is_whole(locate("one", cache))
        if damaged:
            (locate("two", cache) / "config.json").write_bytes(b"damage")
        with Disk(cache, n) as disk:
            try:
                locate("two", cache)
            except DownloadError as error:
                told(error, cache)
        if disk.failed is not None:
            try:
                is_whole(locate("two", cache, offline=True))
            except DownloadError as error:
                assert "could not be downloaded" in str(error)
        is_whole(locate("one", cache, offline=True))
        is_whole(locate("two", cache))
        if disk.failed is None:
            break
    assert 8 < n < MOST_CALLS - 1, disk.calls


def test_a_full_disk(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        is_whole(locate("one", disk / "cache"))
        room, failures = 0, 0
        while room < 200_000:
            leave(disk, room)
            try:
                locate("two", disk / "cache")
                break
            except DownloadError as error:
                told(error, disk / "cache")
            is_whole(locate("one", disk / "cache", offline=True))
            room, failures = room * 2 + 4096, failures + 1
        assert failures > 1
        is_whole(locate("two", disk / "cache", offline=True))
