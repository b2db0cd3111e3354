"""export/onnx.py: the file, run by ONNX Runtime, gives the model's embeddings for any number of rows."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minisbert import SentenceEncoder
from minisbert.checkpoint.folder import Pooling
from minisbert.commands import main
from minisbert.errors import InputError, MinisbertError
from minisbert.export import onnx as onnx_model
from minisbert.export.onnx import TOLERANCE, export_onnx
from minisbert.inference.batching import rectangle

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import TWINS, tiny

WHY = "the onnx extra is not installed: pip install jax2onnx onnxruntime (it takes an older orbax-checkpoint)"
TEXTS = ["a man plays the guitar", "", "é 中 cats", "the dog is red and blue and runs in the green river"]


@pytest.mark.parametrize("family", TWINS)
def test_the_file_computes_the_same_embeddings(family, tmp_path):
    pytest.importorskip("jax2onnx", reason=WHY)
    onnxruntime = pytest.importorskip("onnxruntime", reason=WHY)
    encoder = SentenceEncoder.load(tiny(family))
    export_onnx(encoder, tmp_path / "model.onnx", length=32)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 4):  # the number of rows is free
        ids = encoder.tokenizer.tokenize(TEXTS[:count], max_length=32).ids
        batch = rectangle(list(enumerate(ids)), count, 32, encoder.padding_id)
        [found] = session.run(["embeddings"], {"token_ids": batch.token_ids_BL, "lengths": batch.lengths_B})
        expected = np.stack([encoder.encode(text) for text in TEXTS[:count]])
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch, capsys):
    pytest.importorskip("jax2onnx", reason=WHY)
    encoder = SentenceEncoder.load(tiny("bert"))
    monkeypatch.setattr(onnx_model, "TOLERANCE", -1.0)
    with pytest.raises(MinisbertError, match="apart from the model's"):
        export_onnx(encoder, tmp_path / "model.onnx", length=16)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert main(["export", str(tiny("bert")), str(tmp_path / "model.onnx"), "--onnx-length", "16"]) == 0
    assert "model.onnx" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_bad_arguments(tmp_path, monkeypatch):
    encoder = SentenceEncoder.load(tiny("bert"))
    for length in (2, 65, 16.0):
        with pytest.raises(InputError, match="Expected 3 to 64 tokens"):
            export_onnx(encoder, tmp_path / "model.onnx", length=length)
    with pytest.raises(InputError, match=r"ends in \.onnx"):
        export_onnx(encoder, tmp_path / "model", length=16)
    with pytest.raises(InputError, match="loaded in float32"):
        export_onnx(SentenceEncoder.load(tiny("bert"), compute_dtype="bfloat16"), tmp_path / "model.onnx", length=16)
    model_config = replace(encoder.model_config, modules=(Pooling(include_prompt=False),))
    leaving = SentenceEncoder(replace(encoder.pretrained, model_config=model_config))
    with pytest.raises(InputError, match="leaves prompts out of its pooling"):
        export_onnx(leaving, tmp_path / "model.onnx", length=16)
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(InputError, match="pip install jax2onnx onnxruntime"):
        export_onnx(encoder, tmp_path / "model.onnx", length=16)
    assert list(tmp_path.iterdir()) == []
