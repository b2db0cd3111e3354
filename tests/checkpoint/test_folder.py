"""A model folder that lies, lacks something or attacks: one clear error, naming the file and the key; nothing of it runs.

Tables of cases, each a change to a good tiny model. A `Case` says what is changed, and which words the message must
hold: the place, and what was found or expected. Writing: whole or not at all.
"""

import errno
import json
import os
import pickle
import re
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minisbert import CrossEncoder, SentenceEncoder, atomic_write, limits
from minisbert.checkpoint.folder_writer import write_json
from minisbert.checkpoint.json_file import read_json
from minisbert.errors import InputError, MinisbertError, ModelFolderError
from minisbert.pretrained import load_pretrained

WEIGHTS = Path(__file__).parents[2] / "weights"
MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"
J = "tokenizer.json"
NORM, TABLE = "embeddings.LayerNorm.weight", "embeddings.word_embeddings.weight"
HUGE = 10**30
VOCABULARY = json.loads((WEIGHTS / "tiny-bert" / "config.json").read_text())["vocab_size"]


class Case(NamedTuple):
    name: str
    change: Callable[[Path], Any]
    words: tuple[str, ...]
    family: str = "bert"


def case(name: str, change: Callable[[Path], Any], *words: str, family: str = "bert") -> Any:
    return pytest.param(Case(name, change, words, family), id=f"{family}: {name}"[:80])


@pytest.fixture
def model(tmp_path) -> Callable[[str], Path]:
    def copy(family: str = "bert") -> Path:
        return Path(shutil.copytree(WEIGHTS / f"tiny-{family}", tmp_path / "model"))

    return copy


def refused(call: Callable[[], Any], *words: str, kind: type[MinisbertError] = ModelFolderError) -> str:
    """One error of our own, of readable length, that holds the words and says what was expected or what to do."""
    with pytest.raises(MinisbertError) as caught:
        call()
    message = str(caught.value)
    assert isinstance(caught.value, kind), message
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    assert re.search("expect|fetch|download|use another|do not use|check|correct|where you trust", message, re.I), (
        message
    )
    assert len(message) < 8000, f"{len(message)} characters"
    return message


def check(case: Case, folder: Path) -> None:
    """The folder of the case is refused by name, and nothing of it runs."""
    shutil.copytree(WEIGHTS / f"tiny-{case.family}", folder)
    case.change(folder)
    refused(lambda: load_pretrained(folder), str(folder), *case.words)
    assert not (folder.parent / "canary").exists()


def edit(relative: str, *path: Any, **values: Any) -> Callable[[Path], None]:
    """Set keys of a JSON file, or of what lies at `path` in it."""

    def change(folder: Path) -> None:
        file = folder / relative
        content = json.loads(file.read_text())
        place = content
        for step in path:
            place = place[step]
        place.update(values)
        file.write_text(json.dumps(content))

    return change


def drop(relative: str, *keys: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / relative).read_text())
        for key in keys:
            del content[key]
        (folder / relative).write_text(json.dumps(content))

    return change


def write(relative: str, content: Any) -> Callable[[Path], None]:
    """Replace a file; bytes and text as they are, anything else as JSON."""

    def change(folder: Path) -> None:
        file = folder / relative
        file.parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content if isinstance(content, str) else json.dumps(content))

    return change


def wrong(
    relative: str, key: str, *values: Any, also: tuple[str, ...] = (), change: Any = None, family: str = "bert"
) -> list[Any]:
    """A case for each value that a key of a JSON file may not have; the message names both."""
    made = change or (lambda **setting: edit(relative, **setting))
    return [
        case(f"{key} is {value!r:.20}", made(**{key: value}), relative, f"'{key}'", *also, family=family)
        for value in values
    ]


def remove(relative: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / relative
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def both(*changes: Callable[[Path], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def test_the_good_models_load():
    for family in ("bert", "mpnet"):
        assert load_pretrained(WEIGHTS / f"tiny-{family}").model_config.model_type == family


# --- any JSON file -------------------------------------------------------------------------------------------------

JSON_FILES = [
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
]
BROKEN_JSON = {
    "empty": b"",
    "blank": b" \n",
    "truncated": b'{"a": [1, 2',
    "not JSON": b"<html>404</html>",
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "null bytes": b"\0" * 100,
    "deep lists": b"[" * 200_000,
    "deep closed lists": b"[" * 200_000 + b"]" * 200_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of many digits": b'{"hidden_size": ' + b"9" * 10_000 + b"}",
    "null": b"null",
    "number": b"3",
    "text": b'"x"',
    "true": b"true",
    "list of numbers": b"[1, 2]",
}
CASES = [
    case(f"{file} is {how}", write(file, content), file) for file in JSON_FILES for how, content in BROKEN_JSON.items()
]
CASES += [case("modules.json is an object", write("modules.json", b"{}"), "modules.json")]


@pytest.mark.parametrize("file", ["config.json", "1_Pooling/config.json", "tokenizer.json"])
def test_a_folder_in_the_place_of_a_file(file, model):
    folder = model()
    (folder / file).unlink()
    (folder / file).mkdir()
    refused(lambda: load_pretrained(folder), file)


def damage_at_random(folder: Path, files: list[str], rounds: int, *, in_place: bool = False) -> None:
    """A byte changed, lost or put in: a clear error or a model that loads, never anything else.

    Args:
        in_place: only change bytes, of the header of safetensors.
    """
    good, random = {file: (folder / file).read_bytes() for file in files}, np.random.default_rng(0)
    for _ in range(rounds):
        file = files[random.integers(len(files))]
        damaged = bytearray(good[file])
        end = 8 + int.from_bytes(damaged[:8], "little") if in_place else len(damaged)
        position, way = int(random.integers(end)), 0 if in_place else random.integers(3)
        if way == 0:
            damaged[position] = random.integers(256)
        elif way == 1:
            del damaged[position]
        else:
            damaged.insert(position, int(random.integers(256)))
        (folder / file).write_bytes(damaged)
        try:
            load_pretrained(folder)
        except ModelFolderError as error:
            assert str(folder) in str(error) and (not in_place or file in str(error))
        (folder / file).write_bytes(good[file])


def test_files_damaged_at_random(model):
    folder = model()
    damage_at_random(folder, JSON_FILES, 300)
    damage_at_random(folder, [MODEL], 300, in_place=True)


# --- config.json ---------------------------------------------------------------------------------------------------

# Values of its keys, and what each family asks for: test_family_folders.py.
NO_COUNT = ["32", None, True, -1, 0, 32.5, HUGE, float("nan"), float("inf"), [], {}, [32]]
NO_NUMBER = ["0.1", None, True, -0.1, 10**400, HUGE, float("nan"), float("inf"), -float("inf"), [], {}]
CASES += [
    case("another width", edit("config.json", hidden_size=64), "64"),
    case(
        "another width twice",
        both(edit("config.json", hidden_size=64), edit("1_Pooling/config.json", word_embedding_dimension=64)),
        MODEL,
        TABLE,
        "64",
    ),
    # Refused before a model of that depth is defined, which would take hours.
    case("a thousand layers", edit("config.json", num_hidden_layers=1000), MODEL, "16005 tensors", "file has 37"),
    case("a layer too few", edit("config.json", num_hidden_layers=1), MODEL, "encoder.layer.1.output.dense.bias"),
    case("positions that are not there", edit("config.json", max_position_embeddings=512), MODEL, "512", "64"),
    *wrong(
        "config.json", "model_type", "gpt2", "roberta-evil", "", "../bert", "os.system", None, 3, ["bert"], {"a": 1}
    ),
]


def test_a_config_is_named_though_another_file_has_a_model_type(model):
    folder = both(edit(C, model_type="SentenceTransformer"), edit("config.json", hidden_act="mish"))
    folder(path := model())
    assert C not in refused(lambda: load_pretrained(path), "config.json", "'hidden_act'")


def test_the_numbers_of_config_that_are_fine(model):
    """What honest folders have, beyond the defaults."""
    folder = model()
    edit("config.json", pad_token_id=None, is_decoder=False, pruned_heads={}, hidden_dropout_prob=0, torch_dtype="x")(
        folder
    )
    assert load_pretrained(folder).model_config.encoder.hidden_dropout_prob == 0


# --- modules.json --------------------------------------------------------------------------------------------------

OLD = "sentence_transformers.models."
TRANSFORMER, POOLING = {"path": "", "type": OLD + "Transformer"}, {"path": "1_Pooling", "type": OLD + "Pooling"}
NORMALIZE = {"path": "2_Normalize", "type": OLD + "Normalize"}
DENSE = {"path": "2_Dense", "type": OLD + "Dense"}
EVIL_NAMES = [
    "os.system",
    "builtins.eval",
    "__main__.Evil",
    "evil.Evil",
    "subprocess.Popen",
    "sentence_transformers.models.Transformer.load",
    "sentence_transformers.models.LSTM",
    "sentence_transformers.models.CLIPModel",
    "sentence_transformers.models.transformer",
    "sentence_transformers.models.Pooling;import os",
    "Pooling",
    "",
]
LEAVES = [
    "..",
    "../other",
    "1_Pooling/../../other",
    "/etc",
    "/",
    "C:\\Windows",
    "..\\other",
    "1_Pooling\0",
    "~/../x/..",
]


def chain(*modules: Any) -> Callable[[Path], None]:
    return write("modules.json", list(modules))


def second_module(**values: Any) -> Callable[[Path], None]:
    return chain(TRANSFORMER, POOLING | values)


CASES += [
    *[case(f"type is {t!r}", chain(TRANSFORMER, POOLING | {"type": t}), "modules.json", repr(t)) for t in EVIL_NAMES],
    *[case(f"first is {t!r}", chain(TRANSFORMER | {"type": t}, POOLING), "modules.json", repr(t)) for t in EVIL_NAMES],
    *[case(f"path is {p!r}", chain(TRANSFORMER, POOLING | {"path": p}), "modules.json", repr(p)) for p in LEAVES],
    *[case(f"first path is {p!r}", chain(TRANSFORMER | {"path": p}, POOLING), "modules.json", repr(p)) for p in LEAVES],
    *wrong("modules.json", "path", 3, None, True, ["x"], {"x": 1}, change=second_module),
    *wrong("modules.json", "type", 3, None, True, ["x"], {"x": 1}, change=second_module),
    case("no path", chain(TRANSFORMER, {"type": OLD + "Pooling"}), "modules.json", "path", "missing"),
    case("no type", chain(TRANSFORMER, {"path": "1_Pooling"}), "modules.json", "type", "missing"),
    case("an empty module", chain(TRANSFORMER, {}), "modules.json", "path", "type"),
    case("no modules", chain(), "modules.json"),
    case("a module that is a list", chain(TRANSFORMER, ["Pooling"]), "modules.json"),
    case("a module that is null", chain(TRANSFORMER, None), "modules.json"),
    case("no pooling", chain(TRANSFORMER), "modules.json", "pooling"),
    case("no transformer", chain(POOLING), "modules.json", "transformer"),
    case("two transformers", chain(TRANSFORMER, TRANSFORMER, POOLING), "modules.json", "transformer"),
    case("two poolings", chain(TRANSFORMER, POOLING, POOLING), "modules.json", "pooling"),
    case("pooling first", chain(POOLING, TRANSFORMER), "modules.json", "pooling"),
    case("normalize before pooling", chain(TRANSFORMER, NORMALIZE, POOLING), "modules.json", "normalize"),
    case("10,000 modules", chain(TRANSFORMER, POOLING, *[NORMALIZE] * 9_998), "modules.json", "10000"),
    case("10,000 unknown modules", chain(*[{"path": "x", "type": "x"}] * 10_000), "modules.json"),
    case("a negative idx", chain(TRANSFORMER | {"idx": -1}, POOLING | {"idx": 0}), "modules.json", "idx"),
    case("idx against the order", chain(TRANSFORMER | {"idx": 1}, POOLING | {"idx": 0}), "modules.json", "idx"),
    case("idx twice", chain(TRANSFORMER | {"idx": 0}, POOLING | {"idx": 0}), "modules.json", "idx"),
    case("idx is text", chain(TRANSFORMER | {"idx": "0"}, POOLING | {"idx": "1"}), "modules.json", "idx"),
    case("a path to nothing", chain(TRANSFORMER, POOLING | {"path": "7_Pooling"}), "7_Pooling/config.json"),
    case("a path to a file", chain(TRANSFORMER, POOLING | {"path": "vocab.txt"}), "vocab.txt/config.json"),
    case("transformer elsewhere", chain(TRANSFORMER | {"path": "0_Transformer"}, POOLING), "0_Transformer/config.json"),
    case("a very long path", chain(TRANSFORMER, POOLING | {"path": "x" * 1000}), "xxx"),
    case("a Dense without a folder", chain(TRANSFORMER, POOLING, DENSE), "2_Dense/config.json"),
]


def test_a_gap_in_the_numbers_of_modules_changes_nothing(model):
    """As a hand leaves it that takes a module out of the file; sentence-transformers does not read the numbers."""
    chain(TRANSFORMER | {"idx": 1}, POOLING | {"idx": 4})(folder := model())
    assert load_pretrained(folder).folder.modules == load_pretrained(WEIGHTS / "tiny-bert").folder.modules


def test_many_normalize_modules_stay_within_bounds(model):
    """As many as the cap allows: they are read, or refused, in bounded time."""
    folder = model()
    chain(TRANSFORMER, POOLING, *[NORMALIZE] * 200)(folder)
    load_pretrained(folder)


# --- pooling, dense, normalize -------------------------------------------------------------------------------------

FLAGS = [
    "pooling_mode_cls_token",
    "pooling_mode_max_tokens",
    "pooling_mode_mean_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
]
P = "1_Pooling/config.json"
NO_MODES = [
    "attention",
    "",
    "mean_tokens",
    "MEAN",
    [],
    ["mean", "x"],
    [["mean"]],
    [3],
    3,
    None,
    {},
    True,
    ["mean"] * 101,
]
NO_WIDTHS = [33, -32, 0, "32", 32.5, HUGE, float("nan"), None, True, []]


def new_pooling(**values: Any) -> Callable[[Path], None]:
    return write(P, {"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True} | values)


CASES += [
    case("no flag is true", edit(P, **dict.fromkeys(FLAGS, False)), P, "pooling_mode"),
    *[one for flag in FLAGS for one in wrong(P, flag, "true", 1, None)],
    *wrong(P, "pooling_mode_attention", True, False),
    *wrong(P, "pooling_mode", *NO_MODES, also=("lasttoken",), change=new_pooling),
    *wrong(P, "include_prompt", "no", 0, 1, None, []),
    *wrong(P, "word_embedding_dimension", *NO_WIDTHS),
    *wrong(P, "embedding_dimension", *NO_WIDTHS, change=new_pooling),
    case("no config", remove(P), P),
]


D = "2_Dense/config.json"


def with_dense(tensors: dict[str, np.ndarray] | None = None, **values: Any) -> Callable[[Path], None]:
    """A Dense of 32 -> 5 after the pooling."""

    def change(folder: Path) -> None:
        chain(TRANSFORMER, POOLING, DENSE)(folder)
        config = {
            "in_features": 32,
            "out_features": 5,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        }
        write(D, config | values)(folder)
        good = {"linear.weight": np.ones((5, 32), np.float32), "linear.bias": np.ones(5, np.float32)}
        save_file(good if tensors is None else tensors, folder / "2_Dense" / MODEL)

    return change


def pickle_dense(folder: Path) -> None:
    with_dense()(folder)
    (folder / "2_Dense" / MODEL).unlink()
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(folder.parent / "canary")))


NO_ACTIVATIONS = ["torch.nn.modules.activation.Evil", "torch.load", "torch.hub.load"]
NO_ACTIVATIONS += ["torch.nn.modules.activation.Tanh\n", None, 3, [], {}]
WEIGHT, BIAS = np.ones((5, 32), np.float32), np.ones(5, np.float32)
DM = f"2_Dense/{MODEL}"
CASES += [
    *wrong(D, "activation_function", *EVIL_NAMES, *NO_ACTIVATIONS, change=with_dense),
    *wrong(D, "in_features", 0, -5, "5", 5.5, None, True, HUGE, float("nan"), [], change=with_dense),
    *wrong(D, "out_features", 0, -5, "5", 5.5, None, True, HUGE, float("nan"), [], change=with_dense),
    *wrong(D, "bias", "yes", 1, None, [], change=with_dense),
    case("too wide for what comes", with_dense(in_features=64), D, "in_features", "64", "32"),
    *wrong(D, "use_residual", "yes", 1, None, change=with_dense),
    *wrong(D, "module_output_name", "scores", "token_embeddings", change=with_dense),  # of a reranker; to the tokens
    *wrong(D, "module_input_name", "token_embeddings", change=with_dense),
    *wrong(D, "scale", 2, change=with_dense),
    case("no weights", both(with_dense(), remove(DM)), "2_Dense", MODEL),
    case("only a pickle", pickle_dense, "2_Dense", "pytorch_model.bin", "safetensors"),
    case("another width", with_dense({"linear.weight": WEIGHT[:4], "linear.bias": BIAS}), DM, "linear.weight", "4"),
    case("no bias", with_dense({"linear.weight": WEIGHT}), DM, "linear.bias"),
    case("a bias unasked for", with_dense(bias=False), DM, "linear.bias"),
    case("a tensor more", with_dense({"linear.weight": WEIGHT, "linear.bias": BIAS, "x": BIAS}), DM, "'x'"),
    case("NaN", with_dense({"linear.weight": WEIGHT, "linear.bias": BIAS * np.nan}), DM, "linear.bias"),
    case("whole numbers", with_dense({"linear.weight": WEIGHT.astype(int), "linear.bias": BIAS}), DM, "linear.weight"),
]


# --- lengths, prompts, similarity ----------------------------------------------------------------------------------

S, C, T = "sentence_bert_config.json", "config_sentence_transformers.json", "tokenizer_config.json"


def alone(**values: Any) -> Callable[[Path], None]:
    """Settings of tokenizer_config.json, whose length limit counts where no other file has one."""
    return both(remove(S), edit(T, **values))


CASES += [
    *wrong(S, "max_seq_length", 0, -1, "64", 64.5, True, HUGE, float("nan"), [], {}),
    *wrong(S, "do_lower_case", "no", 1, []),
    *wrong(S, "model_args", {"trust_remote_code": True, "quantization_config": {"x": 1}}),
    *[
        one
        for key in ("tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs")
        for one in wrong(S, key, {"x": 1})
    ],
    *wrong(S, "transformer_task", "fill-mask"),
    *wrong(S, "module_output_name", "logits"),
    *wrong(S, "modality_config", {"image": {"method": "os.system"}}),
    *wrong(S, "query_length", 32),
    *wrong(C, "prompts", ["x"], "x", 3, {"query": 3}, {"query": ["x"]}, True, False, 0, ""),
    *wrong(C, "prompts", {"query": "x\ud800"}, {"\ud800": "x"}),
    *wrong(C, "default_prompt_name", "query", "", 3, True, [], {}),
    *wrong(C, "similarity_fn_name", "maxsim", "", 3, True, ["cosine"], {}, "os.system", also=("cosine",)),
    *wrong(C, "truncate_dim", 0, -1, "8", 8.5, True, HUGE, float("nan"), []),
    *wrong(C, "model_type", "SparseEncoder", "CrossEncoder", "MultiVectorEncoder", "Reranker", 3, [], {}),
    *wrong(C, "model_type", ["SparseEncoder"], {"x": 1}, True, None),
    *wrong(C, "pooling", "max"),
    *wrong(C, "requirements", ["evil"]),
    *wrong(T, "model_max_length", 0, -1, "64", True, float("nan"), [], {}, change=alone),
    case("chat template", both(remove("modules.json"), edit(T, chat_template="x")), T, "'chat_template'"),
    case("a file of it", both(remove("modules.json"), write("chat_template.jinja", "x")), "chat_template.jinja"),
    *[
        case(f"{T} is {how}", both(remove(S), write(T, BROKEN_JSON[how])), T)
        for how in ("empty", "truncated", "not UTF-8", "deep lists", "null", "list of numbers")
    ],
]


@pytest.mark.parametrize("limit", [1, 2])
def test_no_room_beside_the_special_tokens(model, limit):
    """At loading, or at the latest when something is encoded."""
    folder = model()
    edit(S, max_seq_length=limit)(folder)
    refused(lambda: SentenceEncoder.load(folder).encode("a"), "max_seq_length", str(limit), kind=MinisbertError)


@pytest.mark.parametrize("family", ["modernbert", "qwen3", "nomic_bert", "deberta-v2", "bert", "roberta"])
def test_positions_without_a_table_have_no_end(model, family):
    """As in sentence-transformers: the model's own limit counts, the tokenizer's up to the positions in training."""
    folder, endless = model(family), family not in ("bert", "roberta")
    edit(T, model_max_length=100)(folder)
    edit(S, max_seq_length=None)(folder)
    encoder = SentenceEncoder(folder, engine="numpy")
    assert encoder.max_seq_length == 64
    edit(S, max_seq_length=150)(folder)
    encoder = SentenceEncoder(folder, engine="numpy")
    assert encoder.max_seq_length == (150 if endless else 64)
    if endless:
        text = "the dog runs to a house " * 40
        encoder.max_seq_length = 200
        encoder.save(folder.with_name("saved"))
        again = SentenceEncoder(folder.with_name("saved"))
        assert again.max_seq_length == 200
        np.testing.assert_allclose(
            again.encode(text, on_truncate="ignore"), encoder.encode(text, on_truncate="ignore"), atol=1e-6
        )
    else:
        with pytest.raises(InputError, match=r"max_seq_length is 65\. Expected 3 to 64"):
            encoder.max_seq_length = 65


# --- the tokenizer -------------------------------------------------------------------------------------------------

SPECIAL = ("post_processor", "special_tokens", "[CLS]")


def tokenizer(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / J).read_text())
        change(content)
        (folder / J).write_text(json.dumps(content))

    return apply


def without_tokenizer(**values: Any) -> Callable[[Path], None]:
    return both(remove(J), edit(T, **values))


CASES += [
    case("no tokenizer", both(remove(J), remove("vocab.txt")), "tokenizer.json", "vocab.txt"),
    case("an empty object", write(J, "{}"), J),
    case("no model", drop(J, "model"), J),
    case("no vocabulary", tokenizer(lambda c: c["model"].pop("vocab")), J),
    case("a vocabulary of numbers", tokenizer(lambda c: c["model"].update(vocab=[1, 2])), J),
    case("a vocabulary of text ids", tokenizer(lambda c: c["model"]["vocab"].update(a="x")), J),
    case("a negative id", tokenizer(lambda c: c["model"]["vocab"].update(a=-1)), J),
    case("an id beyond 32 bits", tokenizer(lambda c: c["model"]["vocab"].update(a=2**40)), J),
    case("an id beyond the table", tokenizer(lambda c: c["model"]["vocab"].update(zzz=VOCABULARY)), J, str(VOCABULARY)),
    case("a large id", tokenizer(lambda c: c["model"]["vocab"].update(zzz=2**31)), J, str(2**31)),
    case("[CLS] beyond the table", edit(J, *SPECIAL, ids=[99_999]), J, "99999"),
    case("a piece of 5,000 characters", tokenizer(lambda c: c["model"]["vocab"].update({"x" * 5000: 5})), J, "5000"),
    case("a special token with two ids", edit(J, *SPECIAL, ids=[2, 3]), J, "as id 3"),
    case("an unknown model", tokenizer(lambda c: c["model"].update(type="Evil")), J),
    case("a model that is a number", edit(J, model=3), J),
    case("an unknown normalizer", edit(J, normalizer={"type": "os.system"}), J),
    case("an unknown pre-tokenizer", edit(J, pre_tokenizer={"type": "Evil"}), J),
    case("an unknown version", edit(J, version="99.0"), J),
    case("a vocabulary that is not UTF-8", both(remove(J), write("vocab.txt", b"[PAD]\n\xff\xfe\n")), "vocab.txt"),
    case("a vocabulary without special tokens", both(remove(J), write("vocab.txt", "a\nb\n")), "vocab.txt", "[CLS]"),
    case("an empty vocabulary", both(remove(J), write("vocab.txt", "")), "vocab.txt", "[CLS]"),
    case(
        "a vocabulary beyond the table",
        both(remove(J), write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n" + "\n".join(f"w{i}" for i in range(300)))),
        "vocab.txt",
        "303",
    ),
    *wrong(T, "do_lower_case", "yes", 1, [], change=without_tokenizer),
    *wrong(T, "cls_token", 3, change=without_tokenizer),
    case("a cls_token that is not there", both(remove(J), edit(T, cls_token="<evil>")), "vocab.txt", "<evil>"),
]


def test_a_tokenizer_without_its_unknown_token(model):
    """Found when loading, or when a text needs it; an error of ours either way."""
    folder = model()
    tokenizer(lambda c: c["model"].update(unk_token="<gone>"))(folder)
    refused(lambda: SentenceEncoder.load(folder).encode("☃"), J, kind=MinisbertError)


def test_the_vocabulary_alone_is_enough(model):
    folder = model()
    whole = load_pretrained(folder).tokenizer
    (folder / J).unlink()
    alone = load_pretrained(folder).tokenizer
    texts = ["a cat", "Ünïcode [SEP] 中", ""]
    assert alone.tokenize(texts, max_length=64).ids == whole.tokenize(texts, max_length=64).ids


# --- weights -------------------------------------------------------------------------------------------------------


def header_and_data(file: Path) -> tuple[dict[str, Any], bytes]:
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def raw(header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def in_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        header, data = header_and_data(folder / MODEL)
        change(header)
        (folder / MODEL).write_bytes(raw(header, data))

    return apply


def content(change: Callable[[bytes, int], bytes]) -> Callable[[Path], None]:
    """Change the bytes of the weights, given with the place where the header ends."""

    def apply(folder: Path) -> None:
        old = (folder / MODEL).read_bytes()
        (folder / MODEL).write_bytes(change(old, 8 + int.from_bytes(old[:8], "little")))

    return apply


def length_of_header(value: int) -> Callable[[Path], None]:
    return content(lambda old, _: struct.pack("<Q", value) + old[8:])


def tensors(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        arrays = load_file(folder / MODEL)
        change(arrays)
        save_file(arrays, folder / MODEL)

    return apply


def spoil(name: str, value: float, dtype: Any = np.float32) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = arrays[name].astype(dtype)
        arrays[name].reshape(-1)[3] = value

    return change


CASES += [
    case("no weights", remove(MODEL), MODEL, INDEX),
    *[
        case(f"cut to {length} bytes", content(lambda old, _, length=length: old[:length]), MODEL)
        for length in (0, 1, 7, 8, 9, 100, 1000, -1, -1000, -50_000)
    ],
    *[
        case(f"cut {more} bytes after the header", content(lambda old, end, more=more: old[: end + more]), MODEL)
        for more in (-1, 0, 1, 100)
    ],
    case("a byte too many", content(lambda old, _: old + b"x"), MODEL),
    *[
        case(f"header of {value} bytes", length_of_header(value), MODEL, str(value))
        for value in (100_000_001, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)
    ],
    *[case(f"header of {value} bytes", length_of_header(value), MODEL) for value in (0, 1, 2, 100)],
    case("header is garbage", write(MODEL, raw(bytes(range(256)) * 4, bytes(1000))), MODEL),
    case("header is text", write(MODEL, raw(b"not JSON at all", bytes(1000))), MODEL),
    case("header is a list", write(MODEL, raw(b"[1, 2, 3]")), MODEL),
    case("header is null", write(MODEL, raw(b"null")), MODEL),
    case("header is empty", write(MODEL, raw({})), MODEL, TABLE),
    case("header is nested deeply", write(MODEL, raw(b'{"a":' * 50_000)), MODEL),
    case("header is not UTF-8", write(MODEL, raw(b'{"\xff": 1}')), MODEL),
    case("a web page", write(MODEL, b"<!doctype html><html><body>Not found</body></html>" * 20), MODEL),
    case("a pointer of git-lfs", write(MODEL, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), MODEL),
    case("a pickle under that name", write(MODEL, pickle.dumps({"a": 1})), MODEL),
    case("an unknown dtype", in_header(lambda h: h[NORM].update(dtype="F31")), MODEL),
    case("offsets outside", in_header(lambda h: h[NORM].update(data_offsets=[2**40, 2**40 + 128])), MODEL),
    case("offsets backwards", in_header(lambda h: h[NORM].update(data_offsets=h[NORM]["data_offsets"][::-1])), MODEL),
    case("negative offsets", in_header(lambda h: h[NORM].update(data_offsets=[-128, 0])), MODEL),
    case("offsets of another", in_header(lambda h: h[NORM].update(data_offsets=h[TABLE]["data_offsets"])), MODEL),
    case("a shape that does not fit", in_header(lambda h: h[NORM].update(shape=[33])), MODEL),
    case("a shape that overflows", in_header(lambda h: h[NORM].update(shape=[2**32, 2**32, 2**32])), MODEL),
    case("a negative shape", in_header(lambda h: h[NORM].update(shape=[-32])), MODEL),
    case("another shape of the same size", in_header(lambda h: h[NORM].update(shape=[4, 8])), MODEL, NORM, "[4, 8]"),
    case("whole numbers of the same size", in_header(lambda h: h[NORM].update(dtype="I32")), MODEL, NORM),
    case("metadata that is a number", in_header(lambda h: h.update(__metadata__=3)), MODEL),
    *[
        case(f"{value} in {np.dtype(dtype).name}", tensors(spoil(NORM, value, dtype)), MODEL, NORM)
        for value in (np.nan, np.inf, -np.inf)
        for dtype in (np.float32, np.float16, ml_dtypes.bfloat16)
    ],
    case("NaN in two", tensors(lambda a: (spoil(NORM, np.nan)(a), spoil(TABLE, np.inf)(a))), MODEL, NORM, TABLE),
    *[
        case(f"weights in {np.dtype(t).name}", tensors(lambda a, t=t: a.update({NORM: a[NORM].astype(t)})), MODEL, NORM)
        for t in (np.int8, np.int32, np.int64, np.uint8, np.bool_)
    ],
    case(
        "a dtype of 8 bits",
        in_header(lambda h: h.update(x={"dtype": "F8_E4M3", "shape": [0], "data_offsets": [0, 0]})),
        MODEL,
    ),
    case("a transposed matrix", tensors(lambda a: a.update({TABLE: np.ascontiguousarray(a[TABLE].T)})), MODEL, TABLE),
    case("a tensor less", tensors(lambda a: a.pop(NORM)), MODEL, NORM),
    case("a tensor more", tensors(lambda a: a.update(extra=a[NORM])), MODEL, "extra"),
    case(
        "another model's", lambda f: shutil.copy(WEIGHTS / "tiny-mpnet" / MODEL, f / MODEL), MODEL, "relative_attention"
    ),
    case("a folder of that name", lambda f: ((f / MODEL).unlink(), (f / MODEL).mkdir()), MODEL),
]


def test_a_header_key_given_twice(model):
    folder = model()
    header, data = header_and_data(folder / MODEL)
    text = json.dumps(header)
    doubled = text[:-1] + f', "{NORM}": {json.dumps(header[NORM])}' + "}"
    (folder / MODEL).write_bytes(raw(doubled.encode(), data))
    refused(lambda: load_pretrained(folder), MODEL)


def test_too_many_tensors(model, monkeypatch):
    monkeypatch.setattr(limits, "TENSORS", 10)
    folder = model()
    refused(lambda: load_pretrained(folder), MODEL, "10")


def sharded(change: Callable[[dict[str, Any]], Any] = lambda index: None) -> Callable[[Path], None]:
    """Two shards and an index, which `change` may make lie."""

    def apply(folder: Path) -> None:
        arrays = load_file(folder / MODEL)
        (folder / MODEL).unlink()
        index: dict[str, Any] = {"metadata": {}, "weight_map": {}}
        for i, half in enumerate((sorted(arrays)[::2], sorted(arrays)[1::2])):
            save_file({name: arrays[name] for name in half}, folder / f"shard-{i}.safetensors")
            index["weight_map"].update(dict.fromkeys(half, f"shard-{i}.safetensors"))
        change(index)
        (folder / INDEX).write_text(json.dumps(index))

    return apply


def to_shard(file: Any) -> Callable[[dict[str, Any]], None]:
    return lambda index: index["weight_map"].update({NORM: file})


OUTSIDE = ["../shard-0.safetensors", "/etc/passwd", "x/../../shard-0.safetensors", "..\\x", "\0", "C:\\x.safetensors"]
CASES += [
    *[case(f"shard is {file!r}", sharded(to_shard(file)), INDEX, repr(file)) for file in OUTSIDE],
    *[case(f"shard is {file!r}", sharded(to_shard(file)), INDEX) for file in (3, None, ["x"], {}, True)],
    case("shard is in a folder below", sharded(to_shard("below/shard-0.safetensors")), INDEX, "in this folder"),
    case("shard is missing", sharded(to_shard("shard-9.safetensors")), "shard-9.safetensors"),
    case("shard is another file", sharded(to_shard("config.json")), "config.json"),
    case("shard is a folder", sharded(to_shard("1_Pooling")), "1_Pooling"),
    case("shard is not a name", sharded(to_shard("")), INDEX),
    case(
        "a shard is cut", both(sharded(), lambda f: os.truncate(f / "shard-1.safetensors", 500)), "shard-1.safetensors"
    ),
    case("no weight_map", sharded(lambda i: i.pop("weight_map")), INDEX, "weight_map"),
    case("weight_map is a list", sharded(lambda i: i.update(weight_map=["x"])), INDEX, "weight_map"),
    case("weight_map is empty", sharded(lambda i: i.update(weight_map={})), INDEX),
    case("a tensor is not in the index", sharded(lambda i: i["weight_map"].pop(NORM)), INDEX, NORM),
    case("the index has more", sharded(lambda i: i["weight_map"].update(x="shard-0.safetensors")), INDEX, "'x'"),
    case("in the other shard", sharded(to_shard("shard-0.safetensors")), INDEX, NORM),
    *[
        case(f"index is {how}", both(sharded(), write(INDEX, BROKEN_JSON[how])), INDEX)
        for how in ("empty", "truncated", "not UTF-8", "deep lists", "null", "list of numbers")
    ],
]


@pytest.mark.parametrize("case", CASES)
def test_a_folder_that_lies(case, tmp_path):
    check(case, tmp_path / "model")


def test_honest_shards_load(model):
    folder = model()
    expected = load_pretrained(folder).params["encoder"]["token_embedding"]["embedding"]
    sharded()(folder)
    assert (load_pretrained(folder).params["encoder"]["token_embedding"]["embedding"] == expected).all()


# --- nothing of a folder runs --------------------------------------------------------------------------------------


class Evil:
    """Unpickling or calling this leaves a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return Path.write_text, (self.canary, "ran")


EVIL_CODE = "import pathlib\npathlib.Path(__file__).with_name('canary').write_text('ran')\nclass Evil: pass\n"


def evil_files(folder: Path) -> None:
    """Code and pickles under all names that other loaders run."""
    pickled = pickle.dumps({"a": Evil(folder / "canary")})
    assert pickle.loads(pickled) is not None
    assert (folder / "canary").exists(), "the canary sings when it is let out"
    (folder / "canary").unlink()
    for name in (
        "pytorch_model.bin",
        "model.pkl",
        "training_args.bin",
        "optimizer.pt",
        "pytorch_model-00001-of-00002.bin",
    ):
        (folder / name).write_bytes(pickled)
    for name in (
        "evil.py",
        "modeling_evil.py",
        "__init__.py",
        "tokenization_evil.py",
        "conftest.py",
        "sitecustomize.py",
    ):
        (folder / name).write_text(EVIL_CODE)


EVIL_CHANGES = {
    "pickle only": remove(MODEL),
    "modules.json": chain(TRANSFORMER, {"path": "1_Pooling", "type": "evil.Evil"}),
    "the transformer's type": chain({"path": "", "type": "modeling_evil.Evil"}, POOLING),
    "__main__": chain(TRANSFORMER, {"path": "1_Pooling", "type": "__main__.Evil"}),
    "an expression": chain(TRANSFORMER, {"path": "1_Pooling", "type": 'builtins.eval(\'open("canary", "w")\')'}),
    "auto_map": edit("config.json", auto_map={"AutoModel": "modeling_evil.Evil", "AutoConfig": "evil.Evil"}),
    "auto_map of a strange type": edit("config.json", auto_map={"AutoModel": "evil.Evil"}, model_type="evil"),
    "Dense activation": with_dense(activation_function="evil.Evil"),
    "Dense pickle": pickle_dense,
    "model_args": edit(S, model_args={"trust_remote_code": True, "attn_implementation": "evil.Evil"}),
}


@pytest.mark.parametrize("name", EVIL_CHANGES)
def test_nothing_of_the_folder_runs(name, model, monkeypatch):
    folder = model()
    evil_files(folder)
    EVIL_CHANGES[name](folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    refused(lambda: SentenceEncoder.load(folder))
    assert not (folder / "canary").exists()
    assert not (folder.parent / "canary").exists()
    assert not {module for module in set(sys.modules) - before if "evil" in module}


def test_evil_files_beside_good_weights_are_not_touched(model, monkeypatch):
    """A tokenizer's own auto_map or class name never runs anything either."""
    folder = model()
    evil_files(folder)
    edit(T, auto_map={"AutoTokenizer": ["evil.Evil", None]}, tokenizer_class="EvilTokenizer")(folder)
    monkeypatch.syspath_prepend(str(folder))
    try:
        load_pretrained(folder)
    except ModelFolderError as error:
        assert "auto_map" in str(error)
    assert not (folder / "canary").exists()


def test_a_pickle_is_named_with_the_way_out(model):
    folder = model()
    (folder / MODEL).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    message = refused(lambda: load_pretrained(folder), str(folder), "pytorch_model.bin", "weights_only=True")
    assert "save_file" in message


# --- the folder itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [MODEL, "config.json", "tokenizer.json", "modules.json", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs(model, name):
    """What a clone has without Git LFS, where downloading again in the same way does not help."""
    folder = model()
    if name.endswith(".bin"):
        (folder / MODEL).unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:53aa5117\nsize 90868376\n")
    refused(lambda: load_pretrained(folder, allow_pickle_weights=True), name, "`git lfs pull`")


def test_weights_in_another_format_are_named(model):
    folder = model()
    (folder / "onnx").mkdir()
    (folder / MODEL).rename(folder / "onnx/model.onnx")
    (folder / "tf_model.h5").write_bytes(b"x")
    refused(lambda: load_pretrained(folder), "Found model.onnx, tf_model.h5", MODEL)


def test_the_folder_of_the_hubs_cache_above_a_model(model, tmp_path):
    snapshot = tmp_path / "models--org--name/snapshots/abc"
    snapshot.parent.mkdir(parents=True)
    model().rename(snapshot)
    refused(lambda: load_pretrained(tmp_path / "models--org--name"), "Expected a", f"load {snapshot}.")


def test_no_folder(tmp_path):
    refused(lambda: load_pretrained(tmp_path), "config.json")  # an empty one
    (tmp_path / "file").write_text("x")
    for name in ("gone", "file"):
        refused(lambda name=name: load_pretrained(tmp_path / name), name)
        refused(lambda name=name: SentenceEncoder.load(tmp_path / name), name)


# --- writing -------------------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder.load(WEIGHTS / "tiny-mpnet")


def test_save_below_a_file(encoder, tmp_path):
    (tmp_path / "taken").write_text("precious")
    with pytest.raises((InputError, OSError), match="taken"):
        encoder.save(tmp_path / "taken" / "model")
    assert snapshot(tmp_path) == {"taken": b"precious"}


TAKEN: dict[str, dict[str, bytes]] = {
    "a file": {"taken": b"precious"},
    "other things": {"taken/chapter1.txt": b"precious"},
    "a project, whose config.json alone makes no model": {"taken/config.json": b'{"port": 8080}', "taken/app.js": b"x"},
}


@pytest.mark.parametrize("files", TAKEN.values(), ids=TAKEN)
def test_save_where_something_else_is(encoder, files, tmp_path):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    refused(lambda: encoder.save(tmp_path / "taken"), str(tmp_path / "taken"), kind=InputError)
    assert snapshot(tmp_path) == files


@pytest.mark.parametrize("target", [None, 3, b"x", "", ["x"]], ids=repr)
def test_save_to_no_path(encoder, target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(lambda: encoder.save(target), kind=InputError)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_save_below_a_read_only_folder(encoder, tmp_path):
    parent = tmp_path / "locked"
    parent.mkdir()
    parent.chmod(0o500)
    try:
        with pytest.raises((InputError, OSError), match="locked"):
            encoder.save(parent / "model")
        assert not list(parent.iterdir())
    finally:
        parent.chmod(0o700)


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("former", [False, True], ids=["nothing was there", "a model was there"])
@pytest.mark.parametrize("error", [full_disk, KeyboardInterrupt, MemoryError], ids=["full disk", "interrupt", "memory"])
def test_save_that_fails_midway(encoder, tmp_path, monkeypatch, former, error):
    import safetensors.numpy

    target = tmp_path / "model"
    if former:
        shutil.copytree(WEIGHTS / "tiny-bert", target)
    before = snapshot(tmp_path)

    def fail(tensors, path, *args, **kwargs):
        Path(path).write_bytes(b"half of the weights")
        raise error()

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises((OSError, KeyboardInterrupt, MemoryError)):
        encoder.save(target)
    assert snapshot(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == (["model"] if former else [])


def test_save_whose_last_step_fails(encoder, tmp_path, monkeypatch):
    """The new folder cannot take its place: the former model must stand where it stood."""
    target = tmp_path / "model"
    shutil.copytree(WEIGHTS / "tiny-bert", target)
    before = snapshot(target)
    rename = Path.rename

    def fail(self, to):
        if Path(to) == target and "partial" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(atomic_write, "_exchanged", lambda a, b: False)  # as where the kernel cannot swap names
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError):
        encoder.save(target)
    assert target.is_dir()
    assert snapshot(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_save_replaces_a_model_whole(encoder, tmp_path):
    target = tmp_path / "model"
    shutil.copytree(WEIGHTS / "tiny-bert", target)
    (target / "left over.txt").write_text("of the former model")
    encoder.save(target)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (target / "left over.txt").exists()
    assert load_pretrained(target).model_config == load_pretrained(WEIGHTS / "tiny-mpnet").model_config


def test_save_into_an_empty_folder_and_a_new_path(encoder, tmp_path):
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "new" / "path", str(tmp_path / "text")):
        encoder.save(target)
        assert load_pretrained(Path(target)).model_config.model_type == "mpnet"


def test_save_over_the_folder_it_was_read_from(model):
    folder = model("mpnet")
    before = snapshot(folder)
    SentenceEncoder.load(folder).save(folder)
    assert load_file(folder / MODEL).keys() == load_file(WEIGHTS / "tiny-mpnet" / MODEL).keys()
    after = snapshot(folder)
    assert after[MODEL] == before[MODEL]
    assert after["tokenizer.json"] == before["tokenizer.json"]


def test_half_a_surrogate_pair_in_a_setting_is_saved_as_it_was_read(tmp_path):
    content = {"note": "\ud800 and more", "é": "ü"}
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == content
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_settings_that_indentation_makes_too_large_are_saved_without(tmp_path):
    content = {"a": [1] * 200_000}
    write_json(tmp_path / "a.json", content)
    assert (tmp_path / "a.json").stat().st_size < 1_000_000
    assert read_json(tmp_path / "a.json") == content


def test_save_is_stable(encoder, tmp_path):
    """Reading and writing again gives the same bytes."""
    encoder.save(tmp_path / "one")
    SentenceEncoder.load(tmp_path / "one").save(tmp_path / "two")
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_saved_files_are_readable_like_others(encoder, tmp_path):
    before = os.umask(0o022)
    try:
        encoder.save(tmp_path / "model")
    finally:
        os.umask(before)
    for file in (tmp_path / "model").rglob("*"):
        assert file.stat().st_mode & 0o777 == (0o755 if file.is_dir() else 0o644), file


def test_links_out_of_the_folder_on_request(tmp_path):
    """As Nix, DVC and git-annex store a model: each file a link into a store."""
    encoder = SentenceEncoder(WEIGHTS / "tiny-bert")
    for name, model in (("bi", encoder), ("cross", CrossEncoder.from_encoder(encoder, 1, seed=0))):
        model.save(tmp_path / "store" / name)
        for file in [path for path in (tmp_path / "store" / name).rglob("*") if path.is_file()]:
            linked = tmp_path / name / file.relative_to(tmp_path / "store" / name)
            linked.parent.mkdir(parents=True, exist_ok=True)
            linked.symlink_to(file)
    with pytest.raises(ModelFolderError, match=r"leads out of the model folder.* load with allow_links=True"):
        SentenceEncoder(tmp_path / "bi")
    assert np.array_equal(SentenceEncoder(tmp_path / "bi", allow_links=True).encode("a"), encoder.encode("a"))
    with pytest.raises(ModelFolderError, match="allow_links=True"):
        CrossEncoder(tmp_path / "cross")
    assert CrossEncoder(tmp_path / "cross", allow_links=True).predict([("a", "b")]).shape == (1,)
    with pytest.raises(InputError, match="allow_links is 'yes'"):
        SentenceEncoder(tmp_path / "bi", allow_links="yes")


@pytest.mark.parametrize("name", ["config.json", "1_Pooling"])
@pytest.mark.parametrize("allow_links", [False, True])
def test_links_in_a_circle(tmp_path, name, allow_links):
    shutil.copytree(WEIGHTS / "tiny-bert", tmp_path / "model")
    (tmp_path / "model" / name).rename(tmp_path / "away")
    (tmp_path / "model" / name).symlink_to(name)
    with pytest.raises(ModelFolderError, match=f"{name}.*(to nowhere|not readable)"):
        SentenceEncoder(tmp_path / "model", allow_links=allow_links)
