"""`minisbert convert`: there and back to the bit; nothing is overwritten that should not be."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from minisbert import SentenceEncoder
from minisbert.errors import ModelFolderError

KERNEL = "params/blocks.0.attention.qkv.kernel"
WEIGHTS = Path(__file__).parents[2] / "weights"


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}


def test_there_and_back(run, tiny, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    count = len(load_file(Path(tiny) / "model.safetensors"))
    result = run("convert", tiny, "--out", ours)
    assert result.code == 0
    assert f"{count} tensors, identical bit for bit." in result.out
    assert (ours / "minisbert.safetensors").is_file()
    assert not (ours / "model.safetensors").exists()
    assert run("convert", "--back", ours, "--out", theirs).code == 0
    assert files_of(theirs) == files_of(tiny)


@pytest.mark.parametrize("name", ["README.md", "LICENSE"])
def test_what_a_link_leads_to_is_not_copied(run, tiny, tmp_path, name):
    folder = shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "outside").write_text("secret")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "outside")
    result = run("convert", folder, "--out", tmp_path / "ours")
    assert result.code != 0 and f"{name}: is a link that leads out of the model folder" in result.err
    assert not (tmp_path / "ours").exists()


def test_a_converted_folder_loads(run, tiny, sentences, tmp_path):
    assert run("convert", tiny, "--out", tmp_path / "ours").code == 0
    expected = SentenceEncoder.load(tiny).encode(sentences)
    np.testing.assert_array_equal(SentenceEncoder.load(str(tmp_path / "ours")).encode(sentences), expected)


def test_dtypes_names_and_unused_tensors_come_back(run, tiny_bert, tmp_path):
    """An old checkpoint: prefix, TensorFlow's names of layer norms, float16, a pooler, and -0.0."""
    old = tmp_path / "old"
    shutil.copytree(tiny_bert, old)
    tensors = load_file(old / "model.safetensors")
    renamed = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor.astype(np.float16)
        for name, tensor in tensors.items()
    }
    renamed["bert.pooler.dense.weight"] = np.full((32, 32), -0.0, np.float32)
    renamed["bert.embeddings.position_ids"] = np.arange(64)[None]
    save_file(renamed, old / "model.safetensors", metadata={"format": "pt"})
    assert run("convert", old, "--out", tmp_path / "ours").code == 0
    assert run("convert", "--back", tmp_path / "ours", "--out", tmp_path / "back").code == 0
    assert files_of(tmp_path / "back") == files_of(old)


def test_dense_modules_and_plain_folders(run, tiny_bert, tmp_path):
    model = tmp_path / "with-dense"
    shutil.copytree(tiny_bert, model)
    chain = json.loads((model / "modules.json").read_text())
    chain.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (model / "modules.json").write_text(json.dumps(chain))
    (model / "2_Dense").mkdir()
    settings = {"in_features": 32, "out_features": 4, "bias": False}
    (model / "2_Dense" / "config.json").write_text(json.dumps(settings))
    save_file({"linear.weight": np.eye(4, 32, dtype=np.float32)}, model / "2_Dense" / "model.safetensors")
    plain = tmp_path / "plain"
    shutil.copytree(tiny_bert, plain)
    (plain / "modules.json").unlink()
    shutil.rmtree(plain / "1_Pooling")
    for source in (model, plain):
        ours, theirs = tmp_path / f"{source.name}-ours", tmp_path / f"{source.name}-theirs"
        assert run("convert", source, "--out", ours).code == 0
        assert run("convert", "--back", ours, "--out", theirs).code == 0
        assert files_of(theirs) == files_of(source)


def test_the_default_is_under_weights(run, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("convert", tiny_bert).code == 0
    assert (tmp_path / "weights" / "tiny-bert" / "minisbert.safetensors").is_file()
    # Once more: the model there is replaced.
    assert run("convert", tiny_bert).code == 0
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["tiny-bert"]


def test_the_source_is_never_replaced(run, tiny_bert, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_bert, model)
    before = files_of(tmp_path)
    for out in (model, tmp_path):
        result = run("convert", model, "--out", out)
        assert result.code == 2
        assert "is or contains the source" in result.err
    assert files_of(tmp_path) == before


def test_the_wrong_direction_is_refused(run, tiny_bert, tmp_path):
    ours = tmp_path / "ours"
    assert run("convert", "--back", tiny_bert, "--out", tmp_path / "x").err.startswith(
        f"minisbert: error: {tiny_bert}: has no minisbert.safetensors."
    )
    assert run("convert", tiny_bert, "--out", ours).code == 0
    assert "is already converted" in run("convert", ours, "--out", tmp_path / "x").err
    assert "--back needs --out" in run("convert", "--back", ours).err
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_other_files_are_not_replaced(run, tiny_bert, tmp_path):
    (tmp_path / "diary.txt").write_text("my diary")
    result = run("convert", tiny_bert, "--out", tmp_path)
    assert result.code == 2
    assert "holds files but no model" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_a_failure_leaves_nothing(run, tiny_bert, tmp_path, monkeypatch):
    def disk_full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("minisbert.checkpoint.converted.write_tensors", disk_full)
    result = run("convert", tiny_bert, "--out", tmp_path / "ours")
    assert result.code == 2
    assert "ours: cannot be written (No space left on device; " in result.err
    assert "The previous version is intact" in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_that_loses_a_bit_is_not_written(run, tiny_bert, tmp_path, monkeypatch):
    from minisbert import pretrained

    honest = pretrained.encoder_tensors

    def lossy(model):
        tensors = honest(model)
        name = "embeddings.LayerNorm.bias"
        return {**tensors, name: np.nextafter(tensors[name], np.float32(1))}

    monkeypatch.setattr(pretrained, "encoder_tensors", lossy)
    result = run("convert", tiny_bert, "--out", tmp_path / "ours")
    assert result.code == 2
    assert "1 tensors do not survive the conversion: embeddings.LayerNorm.bias." in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "told"), [("tiny-router", "a Router"), ("tiny-static", "a static model")])
def test_routers_and_static_models_are_refused(run, name, told, tmp_path):
    result = run("convert", WEIGHTS / name, "--out", tmp_path / "ours")
    assert result.code == 2
    assert f"{name}: is {told}" in result.err
    assert list(tmp_path.iterdir()) == []


def rewritten(change):
    def spoil(folder):
        file = folder / "minisbert.safetensors"
        with safe_open(file, "np") as opened:
            record = opened.metadata()["minisbert"]
        tensors = load_file(file)
        save_file(tensors, file, {"minisbert": change(tensors, record) or record})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            rewritten(lambda tensors, _: tensors.update({KERNEL: tensors[KERNEL].astype(np.int32)})),
            "is int32, expected",
        ),
        (rewritten(lambda tensors, _: tensors.update({KERNEL: tensors[KERNEL] > 0})), "is bool, expected"),
        (rewritten(lambda tensors, _: tensors.update({KERNEL: np.float16(tensors[KERNEL])})), "not float32"),
        (rewritten(lambda *_: "[" * 100_000), "record of the conversion"),
        (rewritten(lambda *_: '{"renamed": {"a": ["b"]}, "dtypes": {}}'), "record of the conversion"),
        (rewritten(lambda *_: '{"renamed": {}, "dtypes": {"a": "object"}}'), "record of the conversion"),
        (lambda folder: shutil.copy(WEIGHTS / "tiny-mpnet" / "model.safetensors", folder), "which may differ"),
    ],
)
def test_a_converted_folder_of_a_stranger_is_refused(run, tiny_bert, tmp_path, spoil, told):
    assert run("convert", tiny_bert, "--out", tmp_path / "ours").code == 0
    spoil(tmp_path / "ours")
    with pytest.raises(ModelFolderError, match=told):
        SentenceEncoder(tmp_path / "ours")
