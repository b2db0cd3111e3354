"""Exported models: the same embeddings as the model, without its code; a folder that was changed is refused by file."""

import hashlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from minisbert import SentenceEncoder, checksums
from minisbert.commands import main
from minisbert.errors import InputError, ModelFolderError
from minisbert.export.exported_folder import SETTINGS, TOKENIZER, WEIGHTS
from minisbert.export.runtime import ExportedEncoder
from minisbert.export.stablehlo import export_stablehlo, padded_lengths
from minisbert.inference.batching import ShapeTable

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import ENCODERS, tiny

# The same operations; the rows are padded to other lengths, so that XLA sums in another order. 5e-7 is measured.
TOLERANCE = 1e-6
TEXTS = ["a man plays the guitar", "", "é 中 cats", "red " * 100, "the dog is red and blue and runs in the green river"]


@cache
def encoder(family: str) -> SentenceEncoder:
    model = SentenceEncoder.load(tiny(family))
    model.shapes = ShapeTable(lengths=(64,), single_lengths=(64,))
    return model


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "bert"
    export_stablehlo(encoder("bert"), folder)
    return folder


@pytest.fixture
def copy(bert, tmp_path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def sealed(folder: Path, **settings) -> None:
    """Change the settings, and all digests to what the files are now: what somebody who wants to deceive would do."""
    content = json.loads((folder / SETTINGS).read_text()) | settings
    content["sha256"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in (*content["programs"], WEIGHTS, TOKENIZER)
    }
    (folder / SETTINGS).write_text(json.dumps(checksums.sealed(content)))


# Positions from a table, rotary, and relative to each other.
FEW = ("bert", "qwen3", "deberta-v2")


@pytest.mark.parametrize(
    "family", [*FEW, *(pytest.param(one, marks=pytest.mark.nightly) for one in ENCODERS if one not in FEW)]
)
def test_the_program_computes_the_same_embeddings(family, tmp_path):
    model = encoder(family)
    export_stablehlo(model, tmp_path / "out")
    exported = ExportedEncoder.load(tmp_path / "out")
    any_length = list(exported.settings["programs"].values()) == [None]
    assert any_length == (family == "bert")  # the others compute their positions from the length
    expected = model.encode(TEXTS, on_truncate="ignore")
    found = exported.encode(TEXTS)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_options_and_settings(tmp_path):
    model = SentenceEncoder.load(tiny("bert"))
    model.prompts["find"] = "red dog: "
    model.truncate_dim, model.max_seq_length = 8, 20
    export_stablehlo(model, tmp_path / "out", platforms=["cpu"])
    exported = ExportedEncoder.load(tmp_path / "out")
    assert exported.settings["lengths"] == [16, 20]
    for options in ({}, {"prompt_name": "find"}, {"prompt": "the "}, {"normalize_embeddings": True}):
        expected = model.encode(TEXTS, on_truncate="ignore", **options)
        np.testing.assert_allclose(exported.encode(TEXTS, **options), expected, rtol=0, atol=TOLERANCE)
    assert exported.encode("a cat").shape == (8,)
    assert exported.encode([]).shape == (0, 8)
    np.testing.assert_allclose(exported.encode(TEXTS, batch_size=2), exported.encode(TEXTS), rtol=0, atol=TOLERANCE)


def test_a_prompt_that_the_pooling_leaves_out(tmp_path):
    model = SentenceEncoder.load(tiny("bert"))
    model.save(tmp_path / "model")
    file = tmp_path / "model" / "1_Pooling" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"include_prompt": False}))
    model = SentenceEncoder.load(tmp_path / "model")
    export_stablehlo(model, tmp_path / "out")
    options = {"prompt": "the dog: "}
    expected = model.encode("a cat", **options)
    np.testing.assert_allclose(
        ExportedEncoder.load(tmp_path / "out").encode("a cat", **options), expected, rtol=0, atol=TOLERANCE
    )
    assert np.abs(expected - encoder("bert").encode("a cat", **options)).max() > 1e-3


def test_no_code_of_the_model_is_needed(bert):
    code = (
        "import sys; from minisbert.export.runtime import ExportedEncoder; "
        f"ExportedEncoder.load({str(bert)!r}).encode(['a cat']); "
        "print(sorted(name for name in sys.modules if name.split('.')[0] in "
        "('minisbert', 'flax', 'optax', 'safetensors', 'transformers', 'huggingface_hub')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    names = [
        "arguments",
        "checkpoint",
        "checkpoint.archive",
        "checkpoint.json_file",
        "checkpoint.patterns",
        "checksums",
        "errors",
    ]
    names += ["export", "export.exported_folder", "export.runtime", "limits", "text", "text.tokenizer_limits"]
    assert done.stdout == f"{['minisbert', *(f'minisbert.{name}' for name in names)]}\n", done.stderr


def test_one_program_for_three_kinds_of_device(bert):
    program = jax.export.deserialize(bytearray((bert / "model.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert (bert / "model.stablehlo").stat().st_size < 200_000  # the weights are not in it
    assert not program.has_vjp()


@pytest.mark.parametrize("longest, lengths", [(8, [8]), (16, [16]), (17, [16, 17]), (64, [16, 32, 64])])
def test_padded_lengths(longest, lengths):
    assert padded_lengths(longest) == lengths


def test_the_command(tmp_path, capsys):
    assert main(["export", str(tiny("bert")), str(tmp_path / "out"), "--platforms", "cpu"]) == 0
    assert "largest difference from the model's" in capsys.readouterr().out
    assert main(["export", str(tiny("bert")), str(tmp_path / "out"), "--platforms", "cpu"]) == 0  # replaced
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    assert main(["export", str(tiny("bert")), str(tmp_path / "notes")]) == 2
    assert "holds files but no exported model" in capsys.readouterr().err
    assert main(["export", str(tiny("bert")), str(tmp_path / "other"), "--platforms", "abacus"]) == 2
    assert "Expected some of cpu, cuda" in capsys.readouterr().err


def test_a_tokenizer_that_needs_minisberts_code_is_refused(tmp_path):
    encoder = SentenceEncoder(tiny("bert"))
    encoder.tokenizer.keep_end = True
    with pytest.raises(InputError, match="truncates on the left"):
        export_stablehlo(encoder, tmp_path / "exported")
    encoder.tokenizer.keep_end, encoder.tokenizer.rows = False, 100
    with pytest.raises(InputError, match="beyond the embedding table"):
        export_stablehlo(encoder, tmp_path / "exported")


def test_a_router_is_refused_and_one_route_is_not(tmp_path):
    model = SentenceEncoder(Path(__file__).parents[2] / "weights" / "tiny-router")
    with pytest.raises(InputError, match=r"Expected a single model"):
        export_stablehlo(model, tmp_path / "out")
    export_stablehlo(model.routes["query"], tmp_path / "out")
    np.testing.assert_allclose(
        ExportedEncoder.load(tmp_path / "out").encode("a cat"), model.encode("a cat", task="query"), atol=1e-6
    )


def test_bfloat16_is_refused(tmp_path):
    with pytest.raises(InputError, match="loaded in float32"):
        export_stablehlo(SentenceEncoder.load(tiny("bert"), compute_dtype="bfloat16"), tmp_path / "out")


# --- what is not as it was written -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.stablehlo", WEIGHTS, TOKENIZER])
def test_a_changed_or_missing_file_is_named(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelFolderError, match=f"{name}: sha256 is"):
        ExportedEncoder.load(copy)
    (copy / name).unlink()
    with pytest.raises(ModelFolderError, match=f"{name}: no such file"):
        ExportedEncoder.load(copy)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lengths": []}, "lengths"),
        ({"lengths": [64, 16]}, "lengths"),
        ({"lengths": ["16"]}, "lengths"),
        ({"padding_id": "0"}, "padding_id"),
        ({"prompts": None}, "prompts"),
        ({"news": 1}, "news"),
        ({"programs": {"model.stablehlo": 16}}, "programs"),
        ({"platforms": ["tpu"]}, "made for tpu, this machine computes on cpu"),
        ({"platforms": [["cpu"]]}, "platforms"),
        ({"prefix": [10**6]}, "prefix has the id 1000000, and the embedding table 187 rows"),
        ({"padding_id": 187}, "padding_id has the id 187"),
        ({"lengths": [16, 10**9]}, "lengths"),
        ({"lengths": [16, 10_000]}, "lengths up to 10000, and the model has 64 positions"),
        ({"lengths": [2]}, "prefix"),
        ({"dimension": 10**6}, r"gives float32 \[1, 32\] for one text"),
        ({"truncate_dim": -1}, "truncate_dim"),
        ({"prompts": {"query": 3}}, "prompts"),
        ({"default_prompt_name": "nobody"}, "default_prompt_name"),
        ({"similarity_fn_name": "euclid"}, "similarity_fn_name"),
    ],
)
def test_altered_settings_are_refused(copy, change, told):
    sealed(copy, **change)
    with pytest.raises(ModelFolderError, match=told):
        ExportedEncoder.load(copy)


@pytest.mark.parametrize("content", ["", "[]", "{}", "nonsense"])
def test_a_folder_without_an_exported_model(tmp_path, content):
    with pytest.raises(ModelFolderError, match="minisbert export"):
        ExportedEncoder.load(tmp_path)
    (tmp_path / SETTINGS).write_text(content)
    with pytest.raises(ModelFolderError, match="minisbert export"):
        ExportedEncoder.load(tmp_path)


def test_a_path_out_of_the_folder_is_refused(copy):
    content = json.loads((copy / SETTINGS).read_text())
    content["programs"] = {"../model.stablehlo": None}
    content["sha256"] |= {"../model.stablehlo": content["sha256"].pop("model.stablehlo")}
    (copy / SETTINGS).write_text(json.dumps(checksums.sealed(content)))
    (copy.parent / "model.stablehlo").write_bytes((copy / "model.stablehlo").read_bytes())
    with pytest.raises(ModelFolderError, match="no such file"):
        ExportedEncoder.load(copy)


def test_weights_of_another_model_are_named(copy):
    with np.load(copy / WEIGHTS) as archive:
        weights = dict(archive)
    weights["encoder.embedding_norm.bias"] = np.zeros(7, np.float32)
    np.savez(copy / WEIGHTS, **weights)
    sealed(copy)
    with pytest.raises(ModelFolderError, match=r"does not fit it in encoder\.embedding_norm\.bias"):
        ExportedEncoder.load(copy)


def with_weights(change, **options):
    def spoil(folder):
        with np.load(folder / WEIGHTS) as archive:
            weights = dict(archive)
        change(weights)
        (np.savez_compressed if options else np.savez)(folder / WEIGHTS, **weights)

    return spoil


SLOW = {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated", "invert": False}


def with_tokenizer(**changes):
    return lambda f: (f / TOKENIZER).write_text(json.dumps(json.loads((f / TOKENIZER).read_text()) | changes))


def header_of_4_gb(folder):
    content = (folder / WEIGHTS).read_bytes()
    before = b"'shape': (32,), }"
    assert before in content
    (folder / WEIGHTS).write_bytes(content.replace(before, b"'shape': (1e9), }".ljust(len(before))))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            with_weights(lambda w: w.update({min(w): w[min(w)] * np.nan})),
            r"weights\.npz: cannot .* has NaN or infinity",
        ),
        (with_weights(lambda w: w.update({min(w): w[min(w)].astype(np.int32)})), "is int32, not float32"),
        (with_weights(lambda w: None, compressed=True), "is compressed"),
        (with_weights(dict.clear), "does not fit it in"),
        (header_of_4_gb, r"weights\.npz: cannot be read"),
        (lambda f: (f / WEIGHTS).write_bytes(b"PK"), r"weights\.npz: cannot be read"),
        (lambda f: (f / TOKENIZER).write_text("{}"), r"tokenizer\.json: not a tokenizer"),
        (lambda f: (f / TOKENIZER).write_bytes(b"\xff"), r"tokenizer\.json: not readable as JSON"),
        (lambda f: (f / TOKENIZER).write_bytes(b"[" * 100_000), r"tokenizer\.json: not readable as JSON"),
        (with_tokenizer(pre_tokenizer=SLOW), "repeats a group that matches in several ways"),
        (with_tokenizer(model={"vocab": {"x" * 100_000: 0}}), "has 100000 characters"),
        (
            lambda f: (f / TOKENIZER).write_text((f / TOKENIZER).read_text().replace(": 186", ": 9999")),
            r"tokenizer\.json: a token has the id 9999",
        ),
        (lambda f: (f / SETTINGS).write_text("[" * 100_000), "not readable"),
        (lambda f: (f / SETTINGS).write_text(" " * 1_000_001), "not readable"),
    ],
)
def test_files_that_a_stranger_sealed_are_refused(copy, spoil, told):
    spoil(copy)
    if told != "not readable":
        sealed(copy)
    with pytest.raises(ModelFolderError, match=told):
        ExportedEncoder.load(copy)


def test_a_changed_setting_is_noticed_and_a_folder_of_an_earlier_version_loads(copy, bert):
    content = json.loads((copy / SETTINGS).read_text())
    (copy / SETTINGS).write_text(json.dumps(content | {"similarity_fn_name": "dot"}))
    with pytest.raises(ModelFolderError, match="checksum not as"):
        ExportedEncoder.load(copy)
    del content["checksum"]
    (copy / SETTINGS).write_text(json.dumps(content))
    assert (ExportedEncoder.load(copy).encode("a cat") == ExportedEncoder.load(bert).encode("a cat")).all()


def test_a_damaged_program_is_refused(copy):
    (copy / "model.stablehlo").write_bytes(b"nonsense" * 100)
    sealed(copy)
    with pytest.raises(ModelFolderError, match="not a program"):
        ExportedEncoder.load(copy)


def test_a_program_that_calls_into_the_process_is_refused(copy):
    """A custom call runs whatever is registered under its name, Python's callbacks among them."""
    with np.load(copy / WEIGHTS) as archive:
        shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in archive.items()}

    def evil(weights):
        return jax.ffi.ffi_call("a_foreign_call", jax.ShapeDtypeStruct((2,), np.float32))(weights[min(weights)])

    checks = [jax.export.DisabledSafetyCheck.custom_call("a_foreign_call")]
    program = jax.export.export(jax.jit(evil), platforms=["cpu"], disabled_checks=checks)(shapes)
    (copy / "model.stablehlo").write_bytes(program.serialize())
    sealed(copy)
    with pytest.raises(ModelFolderError, match=r"calls a_foreign_call\. Expected StableHLO alone"):
        ExportedEncoder.load(copy)


def test_a_missing_flatbuffers_is_named(bert, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)  # what makes an import fail
    with pytest.raises(InputError, match=r"pip install 'minisbert\[export\]'"):
        ExportedEncoder.load(bert)
    with pytest.raises(InputError, match=r"pip install 'minisbert\[export\]'"):
        export_stablehlo(encoder("bert"), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_bad_arguments_of_encode(bert):
    exported = ExportedEncoder.load(bert)
    with pytest.raises(InputError, match=r"sentences\[1\] is 3 \(int\)"):
        exported.encode(["a", 3])
    for sentences in (None, 5, {"a", "b"}, {"a": 1}):
        with pytest.raises(InputError, match="Expected a string or a list of strings"):
            exported.encode(sentences)
    with pytest.raises(InputError, match="Expected valid Unicode"):
        exported.encode("\ud800")
    with pytest.raises(InputError, match="prompt_name is 'x'"):
        exported.encode("a", prompt_name="x")
    with pytest.raises(InputError, match="batch_size is 0"):
        exported.encode("a", batch_size=0)
