"""LoRA adapters: the weights that are read are W + scale * B A; what is not computed is refused by its key."""

import json
import math
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minisbert import SentenceEncoder
from minisbert.checkpoint.convert import Converted, export, table_for
from minisbert.commands import main
from minisbert.encoders import FAMILIES
from minisbert.errors import ModelFolderError

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


def test_what_is_merged_into_16_bits_is_not_rounded(tmp_path):
    """Neither by the file nor by a reader that follows the dtype of config.json."""
    folder = adapter(tmp_path / "adapter", with_base=True)
    weights = {name: array.astype(np.float16) for name, array in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    SentenceEncoder(folder).save(tmp_path / "saved")
    dtypes = {name: array.dtype for name, array in load_file(tmp_path / "saved/model.safetensors").items()}
    assert {name for name, dtype in dtypes.items() if dtype == np.float32} == {f"{MATRIX}.weight"}
    assert json.loads((tmp_path / "saved/config.json").read_text())["dtype"] == "float32"


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
        ({}, {name: value * np.float32(np.nan) for name, value in parts().items()}, r"^\S*adapter_model.safe.* NaN or"),
        ({}, {name: value * np.float32(1e30) for name, value in parts().items()}, "has NaN or infinity"),
        ({}, {name: value.astype(np.int32) for name, value in parts().items()}, "is int32"),
        ({}, parts() | {f"{MATRIX}.lora_A.weight": np.ones((2, 32), np.float32)}, "are both the A of"),
        ({"new_setting": 1}, None, "'new_setting' is 1; expected no such setting"),
        ({"base_model_name_or_path": "no/such folder"}, None, "no/such folder"),
        ({}, parts(name="encoder.layer.9.attention.self.query"), "is the A or B of 0 tensors"),
        ({}, dict([*parts().items()][:1]), r"has \['A'\]"),
        ({}, {name: value[:1] for name, value in parts().items()}, "the product"),
        ({"rank_pattern": {"query": 0}}, parts(rank=0), r"the product of B \(32, 0\) and A \(0, 32\)"),
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


# --- several adapters in one folder -----------------------------------------------------------------------------------

TASKS, RANK = ("retrieval.query", "separation", "text-matching"), 2
JINA = {"vocab_size": 452, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
JINA |= {"max_position_embeddings": 64, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}
CODE = {"AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA"}


def jina_tensors(row=None):
    """Random weights as transformers names them, with the product of one task; and all the parts of the first layout."""
    random, family = np.random.default_rng(0), FAMILIES["jina_embeddings_v3"]
    config = family.Config.from_json(JINA | {"model_type": "jina_embeddings_v3"})
    table = table_for(family.RULES, config)
    params = {rule.path: random.normal(size=rule.shape).astype(np.float32) / 4 for rule in table}
    merged, first = export(Converted(params), table), {}
    for name, tensor in list(merged.items()):
        if tensor.ndim == 1:
            first[f"roberta.{name}"] = tensor
            continue
        outer, inner = tensor.shape
        table, n = "embeddings" in name, len(TASKS)
        a = random.normal(size=(n, outer, RANK) if table else (n, RANK, inner)).astype(np.float32)
        b = random.normal(size=(n, RANK, inner) if table else (n, outer, RANK)).astype(np.float32)
        module = f"roberta.{name.removesuffix('.weight')}.parametrizations.weight."
        first |= {f"{module}original": tensor, f"{module}0.lora_A": a, f"{module}0.lora_B": b}
        if row is not None:
            merged[name] = tensor + np.float32(3 / RANK) * (a[row] @ b[row] if table else b[row] @ a[row])
    return merged, first


def jina(folder, tensors, module="custom_st.Transformer", **settings):
    """XLM-R's tiny folder with these weights, in the layout of jina-embeddings-v3 as first published."""
    shutil.copytree("weights/tiny-xlm-roberta", folder)
    (folder / "config.json").write_text(json.dumps({**JINA, **settings}))
    chain = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([{**chain[0], "type": module, "kwargs": ["task"]}, *chain[1:]]))
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling | {"word_embedding_dimension": 24}))
    save_file(tensors, folder / "model.safetensors")
    return folder


FIRST = {"model_type": "xlm-roberta", "position_embedding_type": "rotary", "rotary_emb_base": 20000.0, "auto_map": CODE}
FIRST |= {
    "lora_adaptations": list(TASKS),
    "lora_rank": RANK,
    "lora_alpha": 3,
    "lora_dropout_p": 0.0,
    "emb_pooler": None,
}
PLAIN = {"module": "sentence_transformers.models.Transformer", "model_type": "jina_embeddings_v3"}


@pytest.mark.parametrize("task", [None, *TASKS])
def test_a_task_of_jina_v3_as_first_published(tmp_path, task):
    row = None if task is None else TASKS.index(task)
    merged, first = jina_tensors(row)
    folder = jina(tmp_path / "first", first, **FIRST)
    encoder = SentenceEncoder(folder, adapter=task)
    expected = SentenceEncoder(jina(tmp_path / "merged", merged, **PLAIN)).encode(TEXTS)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(SentenceEncoder(folder, adapter=task, engine="numpy").encode(TEXTS), expected, atol=2e-6)
    encoder.save(tmp_path / "saved")
    assert np.array_equal(SentenceEncoder(tmp_path / "saved").encode(TEXTS), encoder.encode(TEXTS))


@pytest.mark.parity
def test_a_task_of_jina_v3_has_the_embeddings_of_transformers(tmp_path):
    peers = pytest.importorskip("sentence_transformers")
    merged, first = jina_tensors(1)
    encoder = SentenceEncoder(jina(tmp_path / "first", first, **FIRST), adapter=TASKS[1])
    encoder.save(tmp_path / "saved")
    for folder in (jina(tmp_path / "merged", merged, **PLAIN), tmp_path / "saved"):
        expected = peers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
        np.testing.assert_allclose(encoder.encode(TEXTS), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("settings", "adapter", "words"),
    [
        ({}, "query", "adapter is 'query'. Expected one of 'retrieval.query', 'separation', 'text-matching'"),
        ({"lora_rank": 3}, None, "Expected those of 3 tasks and rank 3"),
        ({"lora_adaptations": ["a"]}, None, "Expected those of 1 tasks"),
        ({"lora_adaptations": "a"}, None, "'lora_adaptations' is 'a'"),
        ({"lora_adaptations": 5}, None, "'lora_adaptations' is 5"),
        ({"lora_adaptations": ["", "b", "c"]}, "", "'lora_adaptations' is ['', 'b', 'c']"),
        ({"lora_adaptations": []}, "a", "adapter is 'a'. Expected None"),
        ({}, np.array(TASKS), "adapter is array("),
        ({"auto_map": {"AutoModel": "x--other.Model"}}, None, "'auto_map'"),
        ({"position_embedding_type": "absolute"}, None, "'position_embedding_type' is 'absolute'"),
        ({"model_type": "jina_embeddings_v3"}, None, "custom_st.Transformer"),
    ],
)
def test_an_unknown_task_or_layout_is_refused_by_name(tmp_path, settings, adapter, words):
    _, first = jina_tensors()
    with pytest.raises(ModelFolderError) as raised:
        SentenceEncoder(jina(tmp_path / "first", first, **{**FIRST, **settings}), adapter=adapter)
    assert words in str(raised.value)


@pytest.mark.parametrize("part", ["original", "0.lora_A", "0.lora_B"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor.astype(np.int32), "is int32. Expected floating-point numbers"),
        (lambda tensor: tensor > 0, "is bool. Expected floating-point numbers"),
        (lambda tensor: tensor * np.float32(np.inf), "NaN or infinity"),
        (lambda tensor: np.array(1, np.float32), "()"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_parts_of_a_task_that_are_no_factors_are_refused_by_name(tmp_path, part, change, words):
    _, first = jina_tensors()
    name = f"roberta.encoder.layers.0.mixer.Wqkv.parametrizations.weight.{part}"
    with pytest.raises(ModelFolderError) as raised:
        SentenceEncoder(jina(tmp_path / "first", first | {name: change(first[name])}, **FIRST), adapter=TASKS[0])
    assert words in str(raised.value) and "mixer.Wqkv" in str(raised.value)


def test_a_tensor_with_and_without_adapters_is_refused(tmp_path):
    _, first = jina_tensors()
    name = "roberta.encoder.layers.0.mixer.Wqkv"
    first[f"{name}.weight"] = first[f"{name}.parametrizations.weight.original"]
    with pytest.raises(ModelFolderError, match=r"mixer.Wqkv.weight' is there too"):
        SentenceEncoder(jina(tmp_path / "first", first, **FIRST))


def test_a_choice_that_would_have_no_effect_is_refused(tmp_path):
    for folder in (adapter(tmp_path / "adapter"), "weights/tiny-static", "weights/tiny-router"):
        with pytest.raises(ModelFolderError, match=r"adapter is 'x'\. Expected None: this model has no adapters"):
            SentenceEncoder(folder, adapter="x")


def test_converted_weights_of_an_adapted_model_are_refused(tmp_path):
    assert main(["convert", BASE, "--out", str(tmp_path / "model")]) == 0
    adapter(tmp_path / "model" / "one")
    assert SentenceEncoder(tmp_path / "model").encode(TEXTS).shape == (2, 32)
    with pytest.raises(ModelFolderError, match=r"holds minisbert\.safetensors.*adapter"):
        SentenceEncoder(tmp_path / "model", adapter="one")


def test_an_adapted_model_is_not_converted(tmp_path, capsys):
    _, first = jina_tensors()
    for folder in (adapter(tmp_path / "adapter"), jina(tmp_path / "first", first, **FIRST)):
        assert main(["convert", str(folder), "--out", str(tmp_path / "out")]) != 0
        assert "has adapters. Expected a model without; save" in capsys.readouterr().err


def test_an_adapter_in_the_cache_of_hugging_face(tmp_path):
    home, folder = tmp_path / "models--org--tiny", shutil.copytree(BASE, tmp_path / "model")
    adapter(folder / "clustering")
    expected = SentenceEncoder(folder, adapter="clustering").encode(TEXTS)
    (home / "blobs").mkdir(parents=True)
    for i, file in enumerate([path for path in folder.rglob("*") if path.is_file()]):
        file.rename(home / "blobs" / str(i))
        file.symlink_to(home / "blobs" / str(i))
    snapshot = shutil.copytree(folder, home / "snapshots" / "main", symlinks=True)
    assert np.array_equal(SentenceEncoder(snapshot, adapter="clustering").encode(TEXTS), expected)
    found = SentenceEncoder(folder, adapter="clustering", allow_links=True)
    assert np.array_equal(found.encode(TEXTS), expected)
    with pytest.raises(ModelFolderError, match="allow_links=True"):
        SentenceEncoder(folder, adapter="clustering")


def test_names_of_adapters_are_shown_without_control_characters(tmp_path, caplog):
    folder = shutil.copytree(BASE, tmp_path / "model")
    adapter(folder / "a\x1b[31m\nb")
    SentenceEncoder(folder)
    assert r"of the adapters 'a\x1b[31m\nb' none is used" in caplog.text


def test_an_adapter_in_a_folder_of_the_model(tmp_path, caplog):
    folder = shutil.copytree(BASE, tmp_path / "model")
    adapter(folder / "clustering")
    for name in ("config.json", "modules.json", "model.safetensors"):
        (folder / "clustering" / name).unlink(missing_ok=True)
    chosen = SentenceEncoder(folder, adapter="clustering").encode(TEXTS)
    np.testing.assert_allclose(chosen, merged(tmp_path / "merged", 3.0), atol=1e-6)
    plain = SentenceEncoder(folder)
    assert np.array_equal(plain.encode(TEXTS), SentenceEncoder(BASE).encode(TEXTS))
    assert "of the adapters 'clustering' none is used" in caplog.text
    with pytest.raises(ModelFolderError, match="this model has no adapters"):
        SentenceEncoder(BASE, adapter="clustering")
