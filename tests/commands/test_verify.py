"""`minisbert verify`: a stand-in of the hub gives a tiny model; the real models where they are at hand."""

import hashlib
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hub_stand_in import COMMIT, HubStandIn, use_endpoint

from minisbert import SentenceEncoder
from minisbert.commands import main, verify
from minisbert.commands.demo import PUBLISHED, SENTENCES
from minisbert.commands.verify import GOLDENS
from minisbert.download import catalog
from minisbert.download.catalog import MODELS, FileRecord, Model
from minisbert.download.locate import locate
from minisbert.errors import DownloadError

TINY = Path(__file__).parents[2] / "weights" / "tiny-bert"


def embeddings() -> np.ndarray:
    return SentenceEncoder.load(str(TINY)).encode(SENTENCES, on_truncate="ignore")


def golden(found: np.ndarray) -> dict[str, list]:
    return {"embeddings": found[:, :8].tolist(), "norms": np.linalg.norm(found, axis=1).tolist()}


def known_as(name: str, monkeypatch: pytest.MonkeyPatch, *, digests: bool = True) -> None:
    """The tiny model as a row of the catalog, with goldens."""
    contents = {path.relative_to(TINY).as_posix(): path.read_bytes() for path in TINY.rglob("*") if path.is_file()}
    files = {file: FileRecord(len(data), hashlib.sha256(data).hexdigest()) for file, data in contents.items()}
    row = Model(name, "org/tiny", COMMIT if digests else "main", "mit", files if digests else {})
    monkeypatch.setitem(catalog._BY_NAME, name, row)
    monkeypatch.setitem(GOLDENS, name, golden(embeddings()))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's stand-in with the tiny model in it."""
    server = HubStandIn()
    server.files = {path.relative_to(TINY).as_posix(): path.read_bytes() for path in TINY.rglob("*") if path.is_file()}
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    use_endpoint(monkeypatch, server.url)
    monkeypatch.setenv("MINISBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("MINISBERT_OFFLINE")
    yield server
    server.shutdown()
    server.server_close()


def last_line(result) -> str:
    return result.out.splitlines()[-1]


def test_a_model_from_the_hub_is_verified(hub, run, monkeypatch):
    known_as("tiny", monkeypatch)
    result = run("verify", "tiny")
    assert (result.code, last_line(result)) == (0, "result   verified")
    assert f"files    all {len(hub.files)} match the catalog's sha256" in result.out
    assert " from sentence-transformers' embeddings (at most 2e-06 expected)" in result.out


def test_files_without_digests_are_reported_as_unverified(hub, run, monkeypatch):
    known_as("tiny", monkeypatch, digests=False)
    result = run("verify", "tiny")
    assert (result.code, last_line(result)) == (0, "result   verified by its embeddings; its files are unverified")
    monkeypatch.delitem(GOLDENS, "tiny")
    result = run("verify", "tiny")
    assert result.code == 1
    assert last_line(result).startswith("result   unverified: the model loads and computes, but there are no recorded")


def test_the_articles_table_is_checked(run, monkeypatch):
    known_as("tiny", monkeypatch)
    found = embeddings().astype(np.float64)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    table = {(i, j): float(found[i] @ found[j]) for i in range(5) for j in range(i)}
    monkeypatch.setitem(PUBLISHED, "tiny", table)
    assert run("verify", "tiny", "--folder", TINY).code == 0
    monkeypatch.setitem(PUBLISHED, "tiny", table | {(4, 3): table[4, 3] + 2e-6})
    result = run("verify", "tiny", "--folder", TINY)
    assert (result.code, last_line(result)) == (1, "result   WRONG: table")
    assert re.search(r"table    (2\.0|1\.9)e-06 from the article's similarities \(at most 1e-06 expected\)", result.out)


@pytest.mark.parametrize("place", [(0, 0), (4, 7)])
def test_another_number_is_wrong(run, monkeypatch, place):
    known_as("tiny", monkeypatch)
    found = embeddings()
    found[place] += 1e-5
    monkeypatch.setitem(GOLDENS, "tiny", golden(found))
    result = run("verify", "tiny", "--folder", TINY)
    assert (result.code, last_line(result)) == (1, "result   WRONG: goldens")


def test_another_length_is_wrong(run, monkeypatch):
    known_as("tiny", monkeypatch)
    found = GOLDENS["tiny"]
    monkeypatch.setitem(GOLDENS, "tiny", found | {"norms": [*found["norms"][:4], found["norms"][4] * 1.00001]})
    assert last_line(run("verify", "tiny", "--folder", TINY)) == "result   WRONG: goldens"


def test_a_changed_file_is_named(run, monkeypatch, tmp_path):
    known_as("tiny", monkeypatch)
    shutil.copytree(TINY, tmp_path / "tiny")
    file = tmp_path / "tiny" / "tokenizer_config.json"
    file.write_text(file.read_text() + "\n")
    result = run("verify", "tiny", "--folder", tmp_path / "tiny")
    assert (result.code, last_line(result)) == (1, "result   WRONG: files")
    assert "files    tokenizer_config.json: " in result.out


def test_a_name_that_is_not_catalogued(run):
    result = run("verify", "nobody/nothing")
    assert result.code == 2
    assert "'nobody/nothing' is not in the catalog. Expected one of all-mpnet-base-v2, all-MiniLM-L6-v2" in result.err


def test_the_goldens_are_of_catalogued_models_with_digests():
    """Numbers of a model whose files nobody can tell apart from another's would prove nothing."""
    assert set(GOLDENS) == {model.name for model in MODELS if model.verified}
    for numbers in GOLDENS.values():
        assert np.array(numbers["embeddings"]).shape == (len(SENTENCES), 8)
        assert len(set(map(tuple, numbers["embeddings"]))) == len(numbers["norms"]) == len(SENTENCES)
    assert set(PUBLISHED) <= {model.name for model in MODELS}
    assert verify.GOLDEN_TOLERANCE <= 2e-6


@pytest.mark.real
@pytest.mark.parametrize("name", GOLDENS)
def test_the_real_models(name, capsys):
    try:
        locate(name, offline=True)
    except DownloadError:
        pytest.skip(f"{name} is not in the cache: minisbert download {name}")
    assert main(["verify", name, "--offline"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("result   verified\n")
    assert ("table    none" in out) == (name not in PUBLISHED)
