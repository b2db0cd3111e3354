"""The rule engine: `export(convert(x)) == x` to the bit, and one error names every tensor that does not fit.

On the tiny checkpoints exhaustively; on the real ones too where they are in the cache (marked `real`).
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from minisbert import CrossEncoder, SentenceEncoder
from minisbert.checkpoint.convert import Converted, convert, export, flatten, nest, table_for
from minisbert.checkpoint.tensors import INDEX, WEIGHTS, SafetensorsFiles, write_tensors
from minisbert.download.locate import locate
from minisbert.encoders import FAMILIES
from minisbert.errors import DownloadError, ModelFolderError

TINY = Path(__file__).parents[2] / "weights"
TINIES = ["tiny-bert", "tiny-mpnet", "tiny-roberta", "tiny-distilbert", "tiny-albert", "tiny-modernbert"]
TINIES += ["tiny-qwen3", "tiny-gemma3_text", "tiny-nomic_bert", "tiny-gte", "tiny-t5", "tiny-deberta-v2"]
# Families without BERT's layer norms; how many tensors layer 0 has, if not BERT's number (ModernBERT's lacks its first norm).
YOUNG = ("modernbert", "qwen3", "gemma3_text", "nomic_bert", "t5")
TENSORS = {"modernbert": 5, "qwen3": 11, "gemma3_text": 13, "nomic_bert": 9, "gte": 11, "t5": 10}
FAMILY = {name: name.removeprefix("tiny-") for name in TINIES}
FAMILY |= {"all-MiniLM-L6-v2": "bert", "all-mpnet-base-v2": "mpnet"}
REAL = [pytest.param(name, marks=pytest.mark.real) for name in ("all-MiniLM-L6-v2", "all-mpnet-base-v2")]
# Stand in the same checkpoints, are not computed, and come back.
PASSTHROUGH = {
    "qwen3": {"lm_head.weight": np.ones((10, 24), np.float32)},
    "gemma3_text": {"lm_head.weight": np.ones((10, 24), np.float32)},
    "nomic_bert": {"cls.predictions.decoder.bias": np.ones(10, np.float32)},
    "t5": {"decoder.final_layer_norm.weight": np.ones(24, np.float32), "lm_head.weight": np.ones((9, 24), np.float32)},
    "deberta-v2": {
        "embeddings.position_embeddings.weight": np.ones((64, 24), np.float32),
        "cls.predictions.bias": np.ones(9),
    },
    "gte": {"pooler.dense.bias": np.ones(24, np.float32), "classifier.bias": np.ones(2, np.float32)},
    "bert": {
        "embeddings.position_ids": np.arange(64)[None],
        "pooler.dense.weight": np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32),
        "cls.predictions.bias": np.arange(188, dtype=np.float32),
        "qa_outputs.bias": np.ones(2, np.float32),
    },
    "mpnet": {
        "pooler.dense.bias": np.arange(36, dtype=np.float32),
        "lm_head.layer_norm.weight": np.ones(36, np.float32),
    },
    "roberta": {
        "embeddings.position_ids": np.arange(66)[None],
        "qa_outputs.bias": np.ones(2, np.float32),
        "pooler.dense.weight": np.random.default_rng(0).normal(size=(36, 36)).astype(np.float32),
        "lm_head.bias": np.arange(10, dtype=np.float32),
        "classifier.out_proj.bias": np.ones(1, np.float32),
    },
    "distilbert": {
        "vocab_transform.weight": np.random.default_rng(0).normal(size=(30, 30)).astype(np.float32),
        "vocab_layer_norm.bias": np.ones(30, np.float32),
        "vocab_projector.bias": np.arange(188, dtype=np.float32),
        "pre_classifier.bias": np.ones(30, np.float32),
    },
    "albert": {
        "pooler.weight": np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32),
        "predictions.LayerNorm.gamma": np.ones(16, np.float32),
        "predictions.bias": np.arange(10, dtype=np.float32),
        "sop_classifier.classifier.bias": np.ones(2, np.float32),
    },
    "modernbert": {
        "head.dense.weight": np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32),
        "head.norm.weight": np.ones(24, np.float32),
        "decoder.bias": np.arange(10, dtype=np.float32),
    },
}

Arrays = dict[str, np.ndarray]


class InMemory:
    """A checkpoint that is a dict."""

    where = "checkpoint in memory"

    def __init__(self, arrays: Arrays):
        self.arrays = arrays

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.arrays.items()}

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name]


def folder(name: str) -> Path:
    if name.startswith("tiny"):
        return TINY / name
    try:
        return locate(name, offline=True)
    except DownloadError:
        pytest.skip(f"{name} is not in the cache: minisbert download {name}")


def read(tensors, place: Path, family: str, **options) -> Converted:
    code = FAMILIES[family]
    config = code.Config.from_json(json.loads((place / "config.json").read_text()))
    table = table_for(code.RULES, config)
    return convert(tensors, table, passthrough=code.PASSTHROUGH, prefix=code.PREFIX, **options)


def layers(place: Path, family: str) -> int:
    return FAMILIES[family].Config.from_json(json.loads((place / "config.json").read_text())).num_hidden_layers


def written_back(converted: Converted, place: Path, family: str) -> Arrays:
    config = FAMILIES[family].Config.from_json(json.loads((place / "config.json").read_text()))
    return export(converted, table_for(FAMILIES[family].RULES, config))


def same_bits(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype, name
        assert ours[name].shape == array.shape, name
        assert ours[name].tobytes() == array.tobytes(), name


@pytest.fixture(params=TINIES)
def tiny(request) -> tuple[Path, str, Arrays]:
    place = TINY / request.param
    return place, FAMILY[request.param], load_file(place / WEIGHTS)


# --- there and back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TINIES, *REAL])
def test_export_of_convert_is_the_file_to_the_bit(name, tmp_path):
    place, family = folder(name), FAMILY[name]
    converted = read(SafetensorsFiles(place), place, family)
    assert all(array.dtype == np.float32 for array in converted.params.values())
    back = written_back(converted, place, family)
    same_bits(back, load_file(place / WEIGHTS))
    write_tensors(tmp_path / WEIGHTS, back)
    same_bits(load_file(tmp_path / WEIGHTS), load_file(place / WEIGHTS))


def prefixed(arrays: Arrays, family: str) -> Arrays:
    heads = {n: a for n, a in PASSTHROUGH[family].items() if not n.startswith(("embeddings.", "pooler."))}
    return {FAMILIES[family].PREFIX + name: array for name, array in arrays.items()} | heads


def with_old_names(arrays: Arrays, family: str) -> Arrays:
    """TensorFlow's names of layer norms; the heads of the oldest checkpoints have these too, and are carried as they are."""
    names = {
        n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta") for n in arrays
    }
    assert any("gamma" in name for name in names.values()) == (family not in YOUNG)  # too young for them
    heads = {"cls.predictions.transform.LayerNorm.gamma": np.ones(32, np.float32)} if family == "bert" else {}
    return {names[name]: array for name, array in arrays.items()} | heads


def with_special_numbers(arrays: Arrays, family: str) -> Arrays:
    """Minus zero, the smallest denormal and the largest number are values like others."""
    tables = ("word_embeddings.weight", "tok_embeddings.weight", "embed_tokens.weight", "shared.weight")
    name = next(name for name in arrays if name.endswith(tables))
    table = arrays[name].copy()
    table[3, :4] = [-0.0, 1e-45, np.finfo(np.float32).max, -np.finfo(np.float32).max]
    return arrays | {name: table}


VARIANTS: dict[str, Callable[[Arrays, str], Arrays]] = {
    "with other tensors": lambda arrays, family: arrays | PASSTHROUGH[family],
    "with a prefix": prefixed,
    "with old names": with_old_names,
    "with old names and a prefix": lambda arrays, family: prefixed(with_old_names(arrays, family), family),
    "in float16": lambda arrays, _: {name: array.astype(np.float16) for name, array in arrays.items()},
    "in bfloat16": lambda arrays, _: {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()},
    "with special numbers": with_special_numbers,
}


@pytest.mark.parametrize("how", VARIANTS)
def test_the_same_model_comes_back_to_the_bit(tiny, how):
    place, family, arrays = tiny
    whole = VARIANTS[how](arrays, family)
    converted = read(InMemory(whole), place, family)
    same_bits(written_back(converted, place, family), whole)
    assert all(array.dtype == np.float32 for array in converted.params.values())
    if how == "with other tensors":
        assert converted.passthrough.keys() == PASSTHROUGH[family].keys()
    if not how.startswith("in ") and how != "with special numbers":
        same_bits(converted.params, read(InMemory(arrays), place, family).params)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_other_float_dtypes_through_a_file(tiny, dtype, tmp_path):
    place, family, arrays = tiny
    whole = {name: array.astype(dtype if "weight" in name else np.float32) for name, array in arrays.items()}
    write_tensors(tmp_path / WEIGHTS, whole)
    converted = read(SafetensorsFiles(tmp_path), place, family)
    same_bits(written_back(converted, place, family), whole)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", [SentenceEncoder, CrossEncoder])
def test_trained_weights_are_not_rounded_to_the_dtype_of_the_file(kind, dtype, tmp_path):
    first, half, unchanged, trained = (tmp_path / name for name in ("first", "half", "unchanged", "trained"))
    load = SentenceEncoder if kind is SentenceEncoder else CrossEncoder.from_encoder
    load(TINY / "tiny-bert").save(first)
    shutil.copytree(first, half)
    arrays = {name: array.astype(dtype) for name, array in load_file(first / WEIGHTS).items()}
    write_tensors(half / WEIGHTS, arrays)
    config = json.loads((first / "config.json").read_text()) | {"dtype": dtype}
    (half / "config.json").write_text(json.dumps(config))
    model = kind(half)
    model.save(unchanged)
    same_bits(load_file(unchanged / WEIGHTS), arrays)
    assert json.loads((unchanged / "config.json").read_text())["dtype"] == dtype
    params = nest({path: np.asarray(array) * np.float32(1.0001) for path, array in flatten(model.params).items()})
    model.pretrained = dataclasses.replace(model.pretrained, params=params)
    model.save(trained)
    same_bits(flatten(kind(trained).params), flatten(params))
    assert json.loads((trained / "config.json").read_text())["dtype"] == "float32"  # or readers would round them


def shards(place: Path, arrays: Arrays, count: int, target: Path) -> dict[str, str]:
    names = sorted(arrays)
    weight_map = {}
    for i in range(count):
        file = f"model-{i + 1:05}-of-{count:05}.safetensors"
        part = {name: arrays[name] for name in names[i::count]}
        write_tensors(target / file, part)
        weight_map.update(dict.fromkeys(part, file))
    (target / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return weight_map


def test_shards_with_an_index(tiny, tmp_path):
    place, family, arrays = tiny
    shards(place, arrays, 3, tmp_path)
    converted = read(SafetensorsFiles(tmp_path), place, family)
    same_bits(written_back(converted, place, family), arrays)


def test_parameters_are_put_one_by_one(tiny):
    place, family, arrays = tiny
    seen = []

    def put(array):
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        seen.append(array)
        return array

    converted = read(InMemory(arrays), place, family, put=put)
    assert set(map(id, seen)) == set(map(id, converted.params.values()))


# --- what does not fit ---------------------------------------------------------------------------------------------


def complaint(tensors, place: Path, family: str) -> str:
    with pytest.raises(ModelFolderError) as caught:
        read(tensors, place, family)
    return str(caught.value)


def named(message: str) -> set[str]:
    """The tensors in quotes."""
    return set(re.findall(r"'([\w.]+)'", message))


def test_one_layer_too_many_and_one_too_few(tiny):
    place, family, arrays = tiny
    count = 1 if family == "albert" else layers(place, family)  # ALBERT's file holds one layer
    stem = {"albert": "albert_layer_groups", "t5": "block"}.get(family, "layers" if family in YOUNG else "layer")
    first, next_one, last_one = (f"{stem}.{i}." for i in (0, count, count - 1))
    extra = {n.replace(first, next_one): a for n, a in arrays.items() if first in n}
    message = complaint(InMemory(arrays | extra), place, family)
    assert named(message) == set(extra)
    assert len(extra) == TENSORS.get(family, 16)
    last = {name for name in arrays if last_one in name}
    message = complaint(InMemory({n: a for n, a in arrays.items() if n not in last}), place, family)
    assert named(message) == last


def wrong_shapes(array: np.ndarray) -> list[np.ndarray]:
    """Other shapes: an axis more, an axis longer or shorter, flat, empty, a single number; transposed if that differs."""
    longer = np.concatenate([array, array[:1]])
    others = [array[None], longer, array[:-1], array.reshape(-1, 1), array[:0], array.reshape(-1)[0].reshape(())]
    others.append(array[..., :-1])
    if array.ndim == 2:
        others += [array.reshape(-1)]
        if array.shape[0] != array.shape[1]:
            others += [np.ascontiguousarray(array.T)]
    return others


def test_every_changed_tensor_is_named(tiny):
    """Each one by itself: dropped, added, renamed, in other shapes."""
    place, family, arrays = tiny
    for name, array in arrays.items():
        others, added = {n: a for n, a in arrays.items() if n != name}, f"{name}.copy"
        new, shape = name.replace("weight", "wait").replace("bias", "buyers"), list(array.shape)
        missing, changes = f"missing: {name!r} {shape}", [(arrays | {added: array}, {added}, [f"unknown: {added!r}"])]
        changes.append((others, {name}, [missing]))
        changes.append((others | {new: array}, {name, new}, [missing, f"unknown: {new!r}"]))
        for other in wrong_shapes(array):
            wrong = f"wrong shape: {name!r} is {list(other.shape)}, expected {shape}"
            changes.append((arrays | {name: other}, {name}, [wrong]))
        for changed, expected, words in changes:
            message = complaint(InMemory(changed), place, family)
            assert named(message) == expected
            assert all(word in message for word in words), message


def test_every_doubled_tensor_is_named(tiny):
    """The same tensor with and without the prefix, or under its old and its new name."""
    place, family, arrays = tiny
    prefix = FAMILIES[family].PREFIX
    for name, array in arrays.items():
        message = complaint(InMemory(arrays | {prefix + name: array}), place, family)
        assert "doubled" in message
        assert {name, prefix + name} <= named(message)
        if "LayerNorm" in name:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            message = complaint(InMemory(arrays | {old: array}), place, family)
            assert "doubled" in message
            assert named(message) == {name, old}


def test_the_same_tensor_in_two_shards_is_named(tiny, tmp_path):
    place, _, arrays = tiny
    name = sorted(arrays)[1]
    shards(place, arrays, 3, tmp_path)
    first = tmp_path / "model-00001-of-00003.safetensors"
    write_tensors(first, load_file(first) | {name: arrays[name]})
    with pytest.raises(ModelFolderError, match=re.escape(name)):
        SafetensorsFiles(tmp_path)


def test_an_index_that_does_not_agree_names_every_tensor(tiny, tmp_path):
    place, _, arrays = tiny
    weight_map = shards(place, arrays, 3, tmp_path)
    lost = sorted(weight_map)[:2]
    changed = {name: file for name, file in weight_map.items() if name not in lost}
    changed |= {"no.such.tensor": "model-00001-of-00003.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": changed}))
    with pytest.raises(ModelFolderError) as caught:
        SafetensorsFiles(tmp_path)
    assert {*lost, "no.such.tensor"} <= named(str(caught.value))
    assert INDEX in str(caught.value)


def test_all_complaints_at_once(tiny):
    """Many tensors changed at random in every way: one error, exactly the changed ones named."""
    place, family, arrays = tiny
    for seed in range(60):
        random = np.random.default_rng(seed)
        names = random.permutation(sorted(arrays))[: random.integers(2, 16)]
        changed, expected = dict(arrays), set()
        for name in map(str, names):
            way = random.integers(5)
            expected.add(name)
            if way == 0:
                del changed[name]
            elif way == 1:
                changed[f"{name}.x"] = changed.pop(name)
                expected.add(f"{name}.x")
            elif way == 2:
                changed[name] = changed[name][None]
            elif way == 3:
                changed[f"extra.{name}"] = changed[name]
                expected.remove(name)
                expected.add(f"extra.{name}")
            else:
                changed[f"{FAMILIES[family].PREFIX}{name}"] = changed[name]
                expected.add(f"{FAMILIES[family].PREFIX}{name}")
        assert named(complaint(InMemory(changed), place, family)) == expected, seed


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8, np.bool_])
def test_weights_that_are_not_floats_are_all_named(tiny, dtype):
    place, family, arrays = tiny
    names = sorted(arrays)[::7]
    message = complaint(InMemory(arrays | {name: arrays[name].astype(dtype) for name in names}), place, family)
    assert named(message) == set(names)
    assert np.dtype(dtype).name in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_that_are_not_finite_are_all_named(tiny, value, dtype):
    place, family, arrays = tiny
    names = sorted(arrays)[::5]
    changed = dict(arrays)
    for name in names:
        damaged = arrays[name].astype(dtype)
        damaged.reshape(-1)[-1] = value
        changed[name] = damaged
    assert named(complaint(InMemory(changed), place, family)) == set(names)


def test_every_single_bad_number_is_found(tiny):
    place, family, arrays = tiny
    for name in arrays:
        for position in (0, -1):
            damaged = arrays[name].copy()
            damaged.reshape(-1)[position] = np.nan
            assert named(complaint(InMemory(arrays | {name: damaged}), place, family)) == {name}


def test_float64_beyond_float32_is_refused(tiny):
    """Finite in the file, infinite when computed: refused too, and without a NumPy warning."""
    place, family, arrays = tiny
    name = sorted(arrays)[0]
    huge = arrays[name].astype(np.float64)
    huge.reshape(-1)[0] = 1e300
    assert name in complaint(InMemory(arrays | {name: huge}), place, family)


def test_float64_that_float32_cannot_hold_is_not_rounded_silently(tiny):
    """`export(convert(x)) == x` would not hold: either it comes back to the bit, or it is refused by name."""
    place, family, arrays = tiny
    name = sorted(arrays)[0]
    fine = arrays[name].astype(np.float64) + 1e-12
    whole = arrays | {name: fine}
    try:
        converted = read(InMemory(whole), place, family)
    except ModelFolderError as error:
        assert name in str(error)
        return
    same_bits(written_back(converted, place, family), whole)


def test_an_empty_checkpoint_names_every_tensor(tiny):
    place, family, arrays = tiny
    assert named(complaint(InMemory({}), place, family)) == set(arrays)


def test_the_other_family_is_refused():
    arrays = load_file(TINY / "tiny-mpnet" / WEIGHTS)
    message = complaint(InMemory(arrays), TINY / "tiny-bert", "bert")
    assert "encoder.relative_attention_bias.weight" in named(message)
    assert "embeddings.token_type_embeddings.weight" in named(message)
