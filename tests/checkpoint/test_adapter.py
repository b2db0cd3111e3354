"""LoRA adapters: the weights that are read are W + scale * B A; what is not computed is refused by its key."""

import json
import math
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minisbert import SentenceEncoder

BASE = "weights/tiny-bert"
MATRIX, TABLE = "encoder.layer.0.attention.self.query", "embeddings.word_embeddings"
TEXTS = ["two dogs run", "a cat"]


def adapter(folder, tensors=None, with_base=False, **settings):
    """A folder with the modules of the base model and an adapter of it."""
    shutil.copytree(BASE, folder)
    if not with_base:
        (folder / "model.safetensors").unlink()
        (folder / "config.json").unlink()
    values = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "base_model_name_or_path": None if with_base else BASE}
    (folder / "adapter_config.json").write_text(json.dumps(values | settings))
    save_file(parts() if tensors is None else tensors, folder / "adapter_model.safetensors")
    return folder


def parts(rank=2, name=MATRIX):
    rng = np.random.default_rng(0)
    return {
        f"base_model.model.{name}.lora_A.weight": rng.normal(0, 0.3, (rank, 32)).astype(np.float32),
        f"base_model.model.{name}.lora_B.weight": rng.normal(0, 0.3, (32, rank)).astype(np.float32),
    }


def merged(folder, scale, tensors=None):
    """The base model with the product added to its file."""
    shutil.copytree(BASE, folder)
    (folder / "model.safetensors").unlink()
    weights, (a, b) = load_file(f"{BASE}/model.safetensors"), (tensors or parts()).values()
    weights[f"{MATRIX}.weight"] = weights[f"{MATRIX}.weight"] + np.float32(scale) * (b @ a)
    save_file(weights, folder / "model.safetensors")
    return SentenceEncoder(folder).encode(TEXTS)


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 3.0),
        ({"use_rslora": True}, 6 / 2**0.5),
        ({"alpha_pattern": {"attention.self.query": 1}}, 0.5),
        ({"r": 64, "rank_pattern": {".*query": 2}}, 3.0),
        ({"lora_dropout": 0.1, "target_modules": ["query"], "bias": "none", "task_type": "FEATURE_EXTRACTION"}, 3.0),
    ],
)
def test_the_product_is_added(tmp_path, with_base, settings, scale):
    encoder = SentenceEncoder(adapter(tmp_path / "adapter", with_base=with_base, **settings))
    expected = merged(tmp_path / "merged", scale)
    assert np.abs(encoder.encode(TEXTS) - SentenceEncoder(BASE).encode(TEXTS)).max() > 1e-3
    assert np.allclose(encoder.encode(TEXTS), expected, atol=1e-6)
    encoder.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "adapter_config.json").exists()
    assert np.array_equal(SentenceEncoder(tmp_path / "saved").encode(TEXTS), encoder.encode(TEXTS))


@pytest.mark.parametrize(
    ("settings", "tensors", "words"),
    [
        ({"peft_type": "IA3", "init_ia3_weights": True}, None, r"'peft_type' is 'IA3'.*merge_and_unload"),
        ({"use_dora": True}, None, "'use_dora' is True"),
        ({"bias": "all"}, None, "'bias' is 'all'"),
        ({"modules_to_save": ["pooler"]}, None, "'modules_to_save'"),
        ({"init_lora_weights": "pissa"}, None, "'init_lora_weights' is 'pissa'"),
        ({"fan_in_fan_out": True}, None, "'fan_in_fan_out'"),
        ({"r": 3}, None, "is 3, that of its tensors 2"),
        ({"lora_alpha": "6"}, None, "'lora_alpha' is '6'"),
        ({"rank_pattern": {"(": 2}}, None, "'rank_pattern' is .* ends too early"),
        ({"rank_pattern": {r"(\w+\.?)+x": 2}}, None, "'rank_pattern' is .* repeats a group"),  # would search for ever
        ({"alpha_pattern": {f"x{i}": 2 for i in range(1001)}}, None, "at most 1000 names"),
        ({"alpha_pattern": {MATRIX: math.nan}}, None, "'alpha_pattern' is .*each with a number"),
        ({"alpha_pattern": {MATRIX: 10**400}}, None, "'alpha_pattern' is .*each with a number"),
        ({"base_model_name_or_path": "x" * 100_000}, None, "base_model_name_or_path|x is not|xxx"),
        ({}, {name: value * np.float32(np.nan) for name, value in parts().items()}, "has NaN or infinity"),
        ({}, {name: value * np.float32(1e30) for name, value in parts().items()}, "has NaN or infinity"),
        ({}, {name: value.astype(np.int32) for name, value in parts().items()}, "is int32"),
        ({}, parts() | {f"{MATRIX}.lora_A.weight": np.ones((2, 32), np.float32)}, "are both the A of"),
        ({"new_setting": 1}, None, "'new_setting' is 1; expected no such setting"),
        ({"base_model_name_or_path": "no/such folder"}, None, "no/such folder"),
        ({}, parts(name="encoder.layer.9.attention.self.query"), "is the A or B of 0 tensors"),
        ({}, dict([*parts().items()][:1]), r"has \['A'\]"),
        ({}, {name: value[:1] for name, value in parts().items()}, "the product"),
        ({}, {"base_model.model.pooler.weight": np.ones(2, np.float32)}, "is the A or B of 0 tensors"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(tmp_path, settings, tensors, words):
    with pytest.raises(Exception, match=words) as caught:
        SentenceEncoder(adapter(tmp_path / "adapter", tensors, **settings), offline=True)
    assert caught.value.__class__.__module__ == "minisbert.errors"


@pytest.mark.parity
@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"target_modules": ["query", "dense", "word_embeddings"]}]
)
@pytest.mark.parametrize("base", ["tiny-bert", "tiny-roberta", "tiny-modernbert"])
def test_the_same_embeddings_as_peft(tmp_path, base, options):
    peft, st = pytest.importorskip("peft"), pytest.importorskip("sentence_transformers")
    import torch
    from transformers import AutoModel

    targets = ["Wqkv", "Wo"] if base == "tiny-modernbert" else ["query", "value"]
    targets = targets if base == "tiny-modernbert" else options.get("target_modules", targets)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=9, init_lora_weights=False, **{**options, "target_modules": targets})
    model = peft.get_peft_model(AutoModel.from_pretrained(f"weights/{base}"), config)
    shutil.copytree(
        f"weights/{base}", tmp_path / "adapter", ignore=shutil.ignore_patterns("model.safetensors", "config.json")
    )
    shutil.copytree(f"weights/{base}/1_Pooling", tmp_path / "adapter" / "1_Pooling", dirs_exist_ok=True)
    model.save_pretrained(tmp_path / "adapter")
    expected = st.SentenceTransformer(str(tmp_path / "adapter"), device="cpu").encode(TEXTS)
    plain = SentenceEncoder(f"weights/{base}").encode(TEXTS)
    found = SentenceEncoder(tmp_path / "adapter").encode(TEXTS)
    assert np.abs(plain - expected).max() > 1e-3
    assert np.abs(found - expected).max() < 2e-6 * max(1, np.abs(expected).max())
