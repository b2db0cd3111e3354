"""Pickled weights: tensors are read, and nothing else ever runs. Every program with another name or instruction is refused."""

import contextlib
import copy
import io
import json
import os
import pickle
import pickletools
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from minisbert import CrossEncoder, SentenceEncoder
from minisbert.checkpoint.pickled import PickledTensors
from minisbert.errors import ModelFolderError

torch = pytest.importorskip("torch")
FOLDER = Path("weights/tiny-bert")
TEXTS = ["a cat", "two dogs run"]


def tensors():
    return {name: torch.from_numpy(value.copy()) for name, value in load_file(FOLDER / "model.safetensors").items()}


def pickled_model(folder, content=None):
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    if isinstance(content, bytes):
        (folder / "pytorch_model.bin").write_bytes(content)
    else:
        torch.save(tensors() if content is None else content, folder / "pytorch_model.bin")
    return folder


def archive(program):
    """An archive with this program and one storage of four numbers."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", np.arange(4, dtype=np.float32).tobytes())
    return out.getvalue()


def test_only_on_request(tmp_path):
    folder = pickled_model(tmp_path / "model")
    with pytest.raises(ModelFolderError, match="allow_pickle_weights=True"):
        SentenceEncoder(folder)
    found = SentenceEncoder(folder, allow_pickle_weights=True)
    assert np.array_equal(found.encode(TEXTS), SentenceEncoder(FOLDER).encode(TEXTS))
    found.save(tmp_path / "saved")
    assert not list((tmp_path / "saved").rglob("*.bin"))


def test_shards(tmp_path):
    folder, every = pickled_model(tmp_path / "model"), tensors()
    (folder / "pytorch_model.bin").unlink()
    names = {name: f"pytorch_model-{i % 2 + 1:05}-of-00002.bin" for i, name in enumerate(every)}
    for file in set(names.values()):
        torch.save({name: every[name] for name in every if names[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    found = SentenceEncoder(folder, allow_pickle_weights=True)
    assert np.array_equal(found.encode(TEXTS), SentenceEncoder(FOLDER).encode(TEXTS))


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
def test_every_dtype_and_view(tmp_path, dtype):
    base = (torch.arange(24).reshape(4, 6) % 2).to(getattr(torch, dtype))
    given = {
        "whole": base,
        "turned": base.T,
        "part": base[1:3, 2:],
        "one": base[0, 0],
        "none": base[:0],
        "parameter": base,
    }
    if dtype.startswith(("float", "bfloat")):
        given["parameter"] = torch.nn.Parameter(base)
    torch.save(given, tmp_path / "pytorch_model.bin")
    found = PickledTensors(tmp_path)
    for name, tensor in given.items():
        assert found.shapes()[name] == tuple(tensor.shape)
        assert np.array_equal(found.read(name).astype(np.float64), tensor.detach().to(torch.float64).numpy())


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


CANARY = Path("/tmp") / f"minisbert-canary-{os.getpid()}"
EVIL = {
    "os.system": Evil(os.system, f"touch {CANARY}"),
    "eval": Evil(eval, f"open({str(CANARY)!r}, 'w')"),
    "a call in a list": [Evil(os.mkdir, str(CANARY))],
    "a call as a value": {"x": Evil(os.mkdir, str(CANARY))},
    "a call as a key": {Evil(os.mkdir, str(CANARY)): 1},
    "another class": {"x": Path("x")},
    "a set": {"x": {1}},
    "no tensor": {"x": 3},
    "no dict": [1],
    "bytes": {"x": b"x"},
}


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_other_objects_are_refused_and_nothing_runs(tmp_path, name, protocol):
    (tmp_path / "pytorch_model.bin").write_bytes(archive(pickle.dumps(EVIL[name], protocol)))
    with pytest.raises(ModelFolderError, match="nothing else"):
        PickledTensors(tmp_path)
    assert not CANARY.exists()


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK%ctQ"


def program(count=b"\x04", offset=b"\x00", shape=b"\x04", stride=b"\x01", name=b"ctorch._utils\n_rebuild_tensor_v2\n"):
    storage = STORAGE.replace(b"%c", count)
    return (
        b"\x80\x02}X\x01\x00\x00\x00x"
        + name
        + b"("
        + storage
        + b"K"
        + offset
        + b"K"
        + shape
        + b"\x85K"
        + stride
        + b"\x85\x89}tRs."
    )


def test_the_program_by_hand(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(archive(program()))
    assert PickledTensors(tmp_path).read("x").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "content",
    [
        program(count=b"\x05"),  # more values than the storage has
        program(offset=b"\x01"),
        program(stride=b"\x02"),
        program(shape=b"\x05"),
        program(stride=b"\x00", shape=b"\xff"),
        program(name=b"cos\nsystem\n"),
        program(name=b"ctorch\nload\n"),
        program(name=b"ctorch._utils _rebuild_tensor_v2\n\n"),
        program()[:-5],
        b"\x80\x02}(X\x01\x00\x00\x00xs.",
        b"\x80\x02.",
        b"",
        b"\x80\x02h\x00.",
        b"\x80\x02}X\x01\x00\x00\x00xh\x07s.",
        b"\x80\x02}q\x00X\x01\x00\x00\x00xh\x00s.",
        b"\x80\x02}\x81.",
        b"\x80\x02}(u" * 5,
        b"\x80\x02}N" + b"q\x01h\x01\x86" * 60 + b"Ns.",  # a key that takes for ever to hash
        b"\x80\x02}N" + b"\x85" * 200_000 + b"Ns.",  # and one that overflows the stack
        b"\x80\x02}\x8a\xff" + bytes(255) + b"0.",
        b"\x80\x02" + b"}" * 600_000 + b".",
        program()[:-1] + program()[3:],  # a name twice
        program(shape=b"\x04\x85" + b"K\x01" * 40 + b"t"),
    ],
)
def test_damaged_programs_are_refused(tmp_path, content):
    (tmp_path / "pytorch_model.bin").write_bytes(archive(content))
    with pytest.raises(ModelFolderError):
        PickledTensors(tmp_path).read("x")


def listed(entries):
    """The archive of one tensor whose directory lists entries again, or has more of them."""
    out = io.BytesIO(archive(program()))
    with zipfile.ZipFile(out, "a") as file:
        file.writestr("archive/more", bytes(1_000))
        for number in range(entries):
            file.filelist.append(copy.copy(file.getinfo("archive/more")))
            file.filelist[-1].filename = f"archive/data/{number + 1}"
        file._didModify = True
    return out.getvalue()


@pytest.mark.parametrize(("entries", "words"), [(0, None), (200, "its entries have"), (150_000, "a directory of")])
def test_directories_that_cost_more_than_the_file_has(tmp_path, entries, words):
    (tmp_path / "pytorch_model.bin").write_bytes(listed(entries))
    with pytest.raises(ModelFolderError, match=words) if words else contextlib.nullcontext():
        PickledTensors(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps({"x": 1}), b"\x80\x02}."])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ModelFolderError, match="not an archive of tensors"):
        PickledTensors(tmp_path)


def test_spoiled_archives_are_refused_or_read(tmp_path, monkeypatch):
    """Bytes and opcodes changed at random, with every way to call something replaced by a trap."""
    monkeypatch.setattr(pickle, "loads", lambda *a, **k: pytest.fail("unpickled"))
    opcodes, rng, outcomes = [one.code.encode("latin-1") for one in pickletools.opcodes], random.Random(0), set()
    for _ in range(1500):
        content = bytearray(program())
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(content))
            content[place : place + rng.choice((0, 1, 1, 2))] = rng.choice(
                (rng.choice(opcodes), bytes([rng.randrange(256)]))
            )
        whole = archive(bytes(content))
        if rng.random() < 0.2:
            whole = bytearray(whole)
            whole[rng.randrange(len(whole))] = rng.randrange(256)
        (tmp_path / "pytorch_model.bin").write_bytes(bytes(whole))
        try:
            found = PickledTensors(tmp_path)
            for name in found.shapes():
                assert found.read(name).size <= 4
            outcomes.add("read")
        except ModelFolderError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"} and not CANARY.exists()


def test_an_archive_of_two_folders_is_refused(tmp_path):
    out = io.BytesIO(archive(program()))
    with zipfile.ZipFile(out, "a") as file:
        file.writestr("archive/other/data/0", bytes(16))
    (tmp_path / "pytorch_model.bin").write_bytes(out.getvalue())
    with pytest.raises(ModelFolderError, match="more than one folder"):
        PickledTensors(tmp_path)


@pytest.mark.parametrize("below", [False, True])
def test_links_out_of_the_folder_are_refused(tmp_path, below):
    folder, every = pickled_model(tmp_path / "model"), tensors()
    link = folder / "below" / "x.bin" if below else folder / "pytorch_model.bin"
    (folder / "pytorch_model.bin").rename(tmp_path / "outside.bin")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "outside.bin")
    if below:
        names = dict.fromkeys(every, "below/x.bin")
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ModelFolderError, match=r"leads out of the model folder|in this folder"):
        SentenceEncoder(folder, allow_pickle_weights=True)


def test_a_cross_encoder_on_request(tmp_path):
    model = CrossEncoder.from_encoder(FOLDER, 1, seed=0)
    model.save(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    torch.save(
        {name: torch.from_numpy(value) for name, value in load_file(weights).items()},
        weights.with_name("pytorch_model.bin"),
    )
    weights.unlink()
    with pytest.raises(ModelFolderError, match="allow_pickle_weights=True"):
        CrossEncoder(tmp_path / "model")
    found = CrossEncoder(tmp_path / "model", allow_pickle_weights=True)
    assert np.array_equal(found.predict([TEXTS[:2]]), model.predict([TEXTS[:2]]))
