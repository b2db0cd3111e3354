"""The hub, asked for real: huggingface_hub talks to a stand-in server on 127.0.0.1 that can lie, stall and drop."""

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hub_stand_in import COMMIT, CONFIG, FILES, WEIGHTS, HubStandIn, use_endpoint

from minisbert import CrossEncoder, SentenceEncoder
from minisbert.download import catalog, hub, staging
from minisbert.download import locate as download
from minisbert.download.catalog import FileRecord, Model
from minisbert.errors import DownloadError, InputError, ModelFolderError


@pytest.fixture
def server(tmp_path, monkeypatch):
    from huggingface_hub import constants

    stand_in = HubStandIn()
    threading.Thread(target=stand_in.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    use_endpoint(monkeypatch, stand_in.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setenv("MINISBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    for name in ("MINISBERT_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield stand_in
    stand_in.shutdown()
    stand_in.server_close()


@pytest.fixture
def other_source(monkeypatch):
    """A catalogued "tiny", and a second source after the hub that always has it; returns how often it was asked."""
    records = {name: FileRecord(len(data), hashlib.sha256(data).hexdigest()) for name, data in FILES.items()}
    model = Model(name="tiny", repository="org/tiny", revision=COMMIT, licence="mit", files=records)
    monkeypatch.setitem(catalog._BY_NAME, "tiny", model)
    asked = []

    def give(model, workplace, show_progress):
        asked.append(model.name)
        staging.collect(workplace, model.files, lambda name, _, arrived: arrived.write_bytes(FILES[name]) > 0)
        return staging.Delivery(model.files, "other", "catalog", model.revision)

    monkeypatch.setattr(download, "_REMOTE_SOURCES", (("the hub", hub.fetch), ("the other", give)))
    return asked


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != staging.MANIFEST)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def manifest(folder: Path) -> dict:
    return json.loads((folder / staging.MANIFEST).read_text())


def no_model_in(cache: Path) -> bool:
    return all(path.name.startswith(".") for path in cache.glob("models/*/*"))


# --- what is fetched


def test_a_catalogued_model_comes_from_the_hub_and_then_from_the_cache(server, other_source):
    folder = download.locate("tiny", show_progress=False)
    assert contents(folder) == FILES
    assert (manifest(folder)["source"], manifest(folder)["verified by"]) == ("hub", "catalog")
    assert sorted(server.fetched()) == sorted(FILES)
    assert other_source == []
    server.log.clear()
    assert download.locate("tiny", show_progress=False) == folder
    assert server.log == []


def test_only_the_files_an_encoder_needs_are_fetched_of_an_uncatalogued_model(server):
    unwanted = [
        "pytorch_model.bin",
        "modeling.py",
        "README.md",
        "onnx/config.json",
        "openvino/model.safetensors",
        ".x.json",
    ]
    unwanted += [
        "eval/results.json",
        "../up.json",
        "/abs.json",
        "1_Pooling/../../up.json",
        "a\\b.json",
        "query_0_Dense/../up.json",
        "a/b/1_Dense/config.json",
        "1_A/2_B/3_C/config.json",
        "model.fp16.safetensors",
        staging.MANIFEST,
    ]
    server.files |= dict.fromkeys(unwanted, b"no")
    wanted = {
        "vocab.txt": b"[PAD]\n",
        "2_Dense/model.safetensors": b"dense",
        "router_config.json": b"{}",
        "query_0_StaticEmbedding/model.safetensors": b"table",
        "2_Router/my-route_0_Dense/config.json": b"{}",
    }
    server.files |= wanted
    folder = download.locate("org/tiny", show_progress=False)
    assert contents(folder) == FILES | wanted
    assert not set(server.fetched()) & set(unwanted)
    said = manifest(folder)
    assert (said["revision"], said["commit"], said["verified by"]) == ("main", COMMIT, "hub")
    assert said["files"]["config.json"]["sha256"] == hashlib.sha256(CONFIG).hexdigest()


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download.locate("org/tiny", show_progress=False)
    with_token = {name: token for _, name, _, token in server.log}
    assert with_token == {"config.json": True, "1_Pooling/config.json": True, "model.safetensors": False}


@pytest.mark.parametrize(("token", "sent"), [("hf_own", True), (True, True), (None, True), (False, False)])
def test_a_token_that_is_given(token, sent, server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download.locate("org/tiny", token=token, show_progress=False)
    assert {with_token for _, name, _, with_token in server.log if name == "config.json"} == {sent}
    assert not any(with_token for _, name, _, with_token in server.log if name == "model.safetensors")  # elsewhere
    assert server.tokens == ({f"Bearer {'hf_own' if token == 'hf_own' else 'hf_secret'}"} if sent else {None})


@pytest.mark.parametrize("make", [SentenceEncoder, CrossEncoder, CrossEncoder.from_encoder])
@pytest.mark.parametrize("token", ["hf_wrong\n", "", 3, b"hf_wrong"])
def test_a_token_of_the_wrong_kind_is_not_shown(make, token, server):
    with pytest.raises(InputError, match=r"^token is a ") as caught:
        make("org/tiny", token=token)
    assert "hf_wrong" not in str(caught.value)


@pytest.mark.parametrize("make", [SentenceEncoder, CrossEncoder, CrossEncoder.from_encoder])
def test_models_hand_on_their_token(make, server):
    with pytest.raises(ModelFolderError):  # its weights are random bytes
        make("org/tiny", token="hf_own")
    assert server.tokens == {"Bearer hf_own"}


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_a_pickle_only_repository_is_refused_with_the_recipe(server, pickle):
    server.files = {"config.json": CONFIG, pickle: b"\x80\x04"}
    with pytest.raises(DownloadError, match=r"(?s)pickle only.*weights_only=True.*model\.safetensors"):
        download.locate("org/tiny", show_progress=False)
    assert server.fetched() == []


def test_a_model_that_the_hub_lacks_is_reported_in_one_sentence(server):
    with pytest.raises(DownloadError, match="it has no org/nothing") as caught:
        download.locate("org/nothing", show_progress=False)
    assert caught.value.__context__ is None, "no traceback of the hub's libraries above ours"
    server.files = {"README.md": b"nothing here"}
    with pytest.raises(DownloadError, match=r"no model.safetensors with a config.json"):
        download.locate("org/tiny", show_progress=False)


# --- a hub that lies, is away, or stalls


@pytest.mark.parametrize("name", FILES)
def test_wrong_bytes_from_the_hub_are_set_aside_for_the_next_source(server, other_source, name):
    server.sent[name] = FILES[name][:-1] + bytes([FILES[name][-1] ^ 1])
    folder = download.locate("tiny", show_progress=False)
    assert contents(folder) == FILES
    assert other_source == ["tiny"]
    assert any(f"{name}: sha256" in reason for reason in manifest(folder)["set aside"])


def test_a_listing_that_differs_from_the_catalog_costs_no_download(server, other_source):
    server.files["model.safetensors"] = bytes(len(WEIGHTS))
    assert contents(download.locate("tiny", show_progress=False)) == FILES
    assert server.fetched() == []


@pytest.mark.parametrize("name", FILES)
def test_wrong_bytes_of_an_uncatalogued_model_leave_nothing(server, tmp_path, name):
    server.sent[name] = bytes(len(FILES[name]))
    with pytest.raises(DownloadError, match=f"{name}: (sha256|git sha1) .* expected"):
        download.locate("org/tiny", show_progress=False)
    assert no_model_in(tmp_path / "cache")


@pytest.mark.parametrize("length", [len(WEIGHTS) - 1, len(WEIGHTS) + 500_000])
def test_a_file_of_another_length_is_refused(server, tmp_path, length):
    server.sent["model.safetensors"] = (WEIGHTS * 3)[:length]
    with pytest.raises(DownloadError):
        download.locate("org/tiny", show_progress=False)
    assert no_model_in(tmp_path / "cache")


def test_a_full_disk_is_reported_with_the_folder_and_its_free_space(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub, "_read_file", full)
    with pytest.raises(DownloadError, match=r"cache .*org--tiny.*No space left on device; \d+ bytes are free"):
        download.locate("org/tiny", show_progress=False)
    assert no_model_in(tmp_path / "cache")


def test_a_refused_connection_moves_on_immediately(server, other_source, monkeypatch):
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    start = time.monotonic()
    folder = download.locate("tiny", show_progress=False)
    assert time.monotonic() - start < 2
    assert contents(folder) == FILES
    assert any("the hub: ConnectError" in reason for reason in manifest(folder)["set aside"])


def test_a_hub_that_never_answers_is_awaited_once(server, other_source, monkeypatch):
    monkeypatch.setattr(hub, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_endpoint(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        assert contents(download.locate("tiny", show_progress=False)) == FILES
        assert 0.4 < time.monotonic() - start < 3


def test_a_hanging_name_look_up_is_abandoned(server, other_source, monkeypatch):
    monkeypatch.setattr(hub, "LISTING_SECONDS", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5))
    start = time.monotonic()
    folder = download.locate("tiny", show_progress=False)
    assert time.monotonic() - start < 3
    assert any("no answer within" in reason for reason in manifest(folder)["set aside"])


# --- interrupted, and two processes together


def test_a_dropped_download_resumes_where_it_stopped(server):
    server.drop_after["model.safetensors"] = [150_000]
    assert contents(download.locate("org/tiny", show_progress=False)) == FILES
    ranges = [asked for _, name, asked, _ in server.log if name == "model.safetensors"]
    assert ranges == [None, "bytes=150000-"]


def test_a_server_that_cannot_resume_is_read_from_the_start(server):
    server.resumes = False
    server.drop_after["model.safetensors"] = [150_000]
    assert contents(download.locate("org/tiny", show_progress=False)) == FILES


def test_a_rerun_fetches_only_what_is_missing(server, tmp_path):
    server.drop_after["model.safetensors"] = [150_000, 0]
    with pytest.raises(DownloadError, match="when the network is back; the download resumes"):
        download.locate("org/tiny", show_progress=False)
    assert no_model_in(tmp_path / "cache")
    server.log.clear()
    assert contents(download.locate("org/tiny", show_progress=False)) == FILES
    assert server.log == [("GET", "model.safetensors", "bytes=150000-", False)]


def test_two_processes_together_download_once(server, tmp_path):
    server.delay = 0.4
    code = "from minisbert.download.locate import locate; print(locate('org/tiny', show_progress=False))"
    settings = {"HF_ENDPOINT": server.url, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(tmp_path / "home")}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60) for process in both]
    assert said[0] == said[1]
    assert contents(Path(said[0][0].strip())) == FILES
    assert said[0][1] == "", "the hub's log-in hints are not the user's business"
    assert server.listings == 1, "the second process asks nobody"
    assert sorted(server.fetched()) == sorted(FILES), "each file once"
