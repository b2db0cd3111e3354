"""`demo`, `similarity`, `inspect` and `download` on tiny models, and the demo's published numbers on the real one."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from minisbert import DownloadError, SentenceEncoder
from minisbert.commands import demo as demo_command
from minisbert.commands import main
from minisbert.download.locate import locate

WEIGHTS = Path(__file__).parents[2] / "weights"
PNG = b"\x89PNG\r\n\x1a\n"


# --- demo ------------------------------------------------------------------------------------------------------------


def test_demo_of_a_model_without_a_table(run, tiny, tmp_path):
    out = tmp_path / "demo.png"
    result = run("demo", tiny, "--out", out)
    assert result.code == 0
    assert "  0  the fifty mannequin heads floating in the pool" in result.out
    assert f"heat-map  written to {out.resolve()}" in result.out
    assert result.out.endswith(f"{Path(tiny).name} has no published table to compare with.\n")
    assert out.read_bytes().startswith(PNG)


def test_demo_fails_when_the_numbers_differ(run, tiny_bert, tmp_path):
    impostor = tmp_path / "all-mpnet-base-v2"
    shutil.copytree(tiny_bert, impostor)
    result = run("demo", impostor, "--out", tmp_path / "demo.png")
    assert result.code == 1
    assert result.out.splitlines()[-1].startswith("largest absolute difference from the published table: 9.")


def test_demo_refuses_another_kind_of_picture_first(run, tmp_path):
    result = run("demo", "no-such-model", "--out", tmp_path / "demo.svg")
    assert result.code == 2
    assert "demo.svg: this kind of output file is not supported. Expected a name that ends in .png." in result.err


def test_the_tables_are_whole():
    for table in (demo_command.PUBLISHED | demo_command.COMPUTED).values():
        assert list(table) == [(i, j) for i in range(len(demo_command.SENTENCES)) for j in range(i)]


@pytest.mark.real
@pytest.mark.parametrize(
    ("words", "name", "source"),
    [
        ([], "all-MiniLM-L6-v2", "sentence-transformers"),
        (["all-mpnet-base-v2"], "all-mpnet-base-v2", "the published table"),
    ],
)
def test_demo_gives_the_reference_numbers(words, name, source, tmp_path, capsys):
    try:
        locate(name, offline=True)
    except DownloadError as error:
        pytest.skip(f"{name} is not on this machine: {error}")
    out = tmp_path / "demo.png"
    assert main(["demo", *words, "--out", str(out), "--offline"]) == 0
    label, _, rest = capsys.readouterr().out.splitlines()[-1].partition(": ")
    assert label == f"largest absolute difference from {source}"
    assert float(rest.split()[0]) <= 1e-6
    assert out.read_bytes().startswith(PNG)


# --- similarity ------------------------------------------------------------------------------------------------------


def test_similarity_of_two(run, tiny_bert):
    encoder = SentenceEncoder.load(tiny_bert)
    a, b = encoder.encode(["a cat", "a dog"])
    result = run("similarity", tiny_bert, "a cat", "a dog")
    assert result == (0, f"{encoder.similarity(a, b).item():.6f}\n", "")


def test_similarity_of_several(run, tiny_bert, tmp_path):
    sentences = ["costs $5 or $6_", "中 🙂", "", "-- a dash"]  # nothing of these may upset the picture
    out = tmp_path / "s.png"
    result = run("similarity", tiny_bert, "--out", out, "--", *sentences)
    assert (result.code, result.err) == (0, "")
    encoder = SentenceEncoder.load(tiny_bert)
    embeddings = encoder.encode(sentences)
    rows = [line.split()[1:] for line in result.out.splitlines()[-4:]]
    np.testing.assert_allclose(np.array(rows, float), encoder.similarity(embeddings, embeddings), atol=6e-5)
    assert out.read_bytes().startswith(PNG)


def test_similarity_needs_two(run, tiny_bert):
    assert run("similarity", tiny_bert, "alone").code == 2


# --- inspect ---------------------------------------------------------------------------------------------------------


def test_inspect_for_machines(run, tiny):
    facts = json.loads(run("inspect", tiny, "--json").out)
    encoder = SentenceEncoder.load(tiny)
    assert facts["repr"] == repr(encoder)
    assert facts["embedding_dimension"] == encoder.get_embedding_dimension()
    assert facts["max_seq_length"] == {"value": 64, "from": "sentence_bert_config.json"}
    (weights,) = facts["weights"]
    (file,) = weights["files"]
    assert file["sha256"] == hashlib.sha256((Path(tiny) / "model.safetensors").read_bytes()).hexdigest()
    assert weights["values"] == facts["parameters"]
    settings = {setting["name"]: setting for setting in facts["settings"]}
    assert settings["hidden_act"] == {"name": "hidden_act", "value": "gelu", "from": "config.json"}
    assert settings["Pooling.modes"] == {"name": "Pooling.modes", "value": ["mean"], "from": "1_Pooling/config.json"}
    assert settings["truncate_dim"] == {"name": "truncate_dim", "value": None, "from": "default"}
    # Every setting of config.json is there, applied or ignored.
    settings |= {setting["name"]: setting for setting in facts["ignored"] if setting["from"] == "config.json"}
    assert settings["architectures"] in facts["ignored"] and settings["hidden_size"] in facts["settings"]
    config = json.loads((Path(tiny) / "config.json").read_text())
    assert all(settings[name]["value"] == value for name, value in config.items())


def test_inspect_for_people(run, tiny):
    out = run("inspect", tiny).out
    assert out.startswith("SentenceEncoder(\n  (0): Transformer(")
    assert "\nmax_seq_length       64, from sentence_bert_config.json\n" in out
    assert "  sha256 " in out


def test_inspect_of_a_router_and_a_static_model(run):
    router = run("inspect", WEIGHTS / "tiny-router").out
    assert router.startswith("a Router with 2 routes, by default document\n\nroute query\nSentenceEncoder(\n")
    assert "\nroute document\nSentenceEncoder(\n  (0): Transformer(" in router
    assert "10000000, from the positions of the encoder (no file sets a limit)" in router
    facts = json.loads(run("inspect", WEIGHTS / "tiny-router", "--json").out)
    assert (facts["default_route"], list(facts["routes"])) == ("document", ["query", "document"])
    document = facts["routes"]["document"]
    assert sum(part["values"] for part in document["weights"]) == document["parameters"]
    source = "document_1_WeightedLayerPooling/config.json"
    assert {"name": "WeightedLayerPooling.layer_start", "value": 1, "from": source} in document["settings"]
    alone = json.loads(run("inspect", WEIGHTS / "tiny-static", "--json").out)
    assert alone["settings"][1] == {"name": "vocab_size", "value": 187, "from": "model.safetensors"}


def test_inspect_says_which_file_of_the_tokenizer_counts(run, tiny_bert, tmp_path):
    model = shutil.copytree(tiny_bert, tmp_path / "model")
    file = model / "tokenizer_config.json"
    options = {"truncation_side": "left", "cls_token": "[CLS]", "use_fast": True}
    file.write_text(json.dumps(json.loads(file.read_text()) | options))
    (model / "special_tokens_map.json").write_text('{"cls_token": "[MASK]"}')
    facts = json.loads(run("inspect", model, "--json").out)
    settings = {one["name"]: (one["value"], one["from"]) for one in facts["settings"]}
    ignored = [(one["name"], one["from"]) for one in facts["ignored"]]
    assert settings["tokenizer.truncation_side"] == ("left", file.name)
    assert settings["tokenizer.cls_token"] == ("[MASK]", "special_tokens_map.json")
    assert ("cls_token", file.name) in ignored and ("use_fast", file.name) in ignored


def test_inspect_of_an_adapter(run, tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "adapter")
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": str(tiny_bert)}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    name, parts = "base_model.model.encoder.layer.0.attention.self.query", {"lora_A": (2, 32), "lora_B": (32, 2)}
    tensors = {f"{name}.{part}.weight": np.ones(shape, np.float32) for part, shape in parts.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    out = run("inspect", folder).out
    assert "adapter_model.safetensors" in out and f"merged into the weights of {tiny_bert}" in out


def test_inspect_says_what_is_assumed(run, tiny_bert, tmp_path):
    model = tmp_path / "plain"
    shutil.copytree(tiny_bert, model)
    for name in (
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer_config.json",
        "config_sentence_transformers.json",
    ):
        (model / name).unlink()
    (model / "minisbert_source.json").write_text('{"source": "the hub", "files": {}}')
    out = run("inspect", model).out
    assert "no modules.json, so mean pooling over the transformer is used, without" in out
    assert "64, from the positions of the encoder (no file sets a limit)" in out
    assert "assumed: no modules.json" in out
    assert "the hub" not in out  # whoever made the folder may have made that file too


def test_inspect_of_something_else(run, tmp_path):
    result = run("inspect", tmp_path)
    assert result.code == 2
    assert result.err.startswith(f"minisbert: error: {tmp_path}/config.json: no such file.")


# --- download --------------------------------------------------------------------------------------------------------


def test_download_prints_where(run, tiny_bert):
    assert run("download", tiny_bert, tiny_bert) == (0, f"{tiny_bert}\n" * 2, "")


def test_download_offline(run, tmp_path):
    result = run("download", "nobody/nothing", "--offline", "--cache", tmp_path / "cache")
    assert result.code == 2
    assert result.err.startswith("minisbert: error: nobody/nothing could not be downloaded.")
