"""What is fuzzed: minisbert's readers of files, each with the reader that it must agree with where it accepts a file.

A target's `check(file, content)` reads a file of these contents and compares; it raises one of minisbert's errors where the
file is refused, and `AssertionError` where it is taken for something else than the reference reader takes it for.
"""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import ml_dtypes
import mutators
import numpy as np
import safetensors
import tokenizers
from safetensors.numpy import save

from minisbert.checkpoint import folder as folders
from minisbert.checkpoint.folder import read_folder
from minisbert.checkpoint.modules import Dense
from minisbert.checkpoint.tensors import INDEX, WEIGHTS, SafetensorsFiles
from minisbert.data.columns import read_sentences
from minisbert.data.rows import RowFile, Rows
from minisbert.data.values import text as checked
from minisbert.errors import MinisbertError
from minisbert.model_config import ModelConfig
from minisbert.search.vectors import NpyFile
from minisbert.text.tokenizer import Tokenizer

MODELS = Path(__file__).parents[2] / "weights"
TEXTS = ["a man is walking", "", "É 中 [SEP] <s> ##a 12,5%", "x" * 300]


@dataclass(frozen=True)
class Target:
    """A file that is fuzzed.

    Args:
        file: its name; `check` may look at the folder it lies in.
        starts: whole files, which the mutations start from.
        mutations: see mutators.py.
        check: see above.
        prepare: puts what else belongs there into the empty folder.
    """

    file: str
    starts: Callable[[], list[bytes]]
    mutations: tuple[mutators.Mutator, ...]
    check: Callable[[Path, bytes], None]
    prepare: Callable[[Path], None] = lambda folder: None


# --- weights -------------------------------------------------------------------------------------------------------


@cache
def tensor_files() -> list[bytes]:
    """A few tensors of every dtype, none, and a real (tiny) model's."""
    rng = np.random.default_rng(0)
    some = {"a": rng.normal(size=(3, 4)).astype(np.float32), "b.c": np.arange(5), "d": np.float16([1, np.nan])}
    some |= {"e": np.zeros((0, 3), np.float32), "f": np.ones(2, ml_dtypes.bfloat16), "g": np.array(True)}
    return [save(some, {"format": "pt"}), save({"x": some["a"]}), (MODELS / "tiny-xlm-roberta" / WEIGHTS).read_bytes()]


def check_tensors(file: Path, content: bytes) -> None:
    """Every tensor's name, shape and bytes are those of the safetensors library."""
    files = SafetensorsFiles(file.parent)
    found = {name: (list(shape), files.read(name)) for name, shape in files.shapes().items()}
    expected = dict(safetensors.deserialize(content))
    assert found.keys() == expected.keys()
    for name, (shape, array) in found.items():
        assert shape == list(array.shape) == expected[name]["shape"], name
        assert array.tobytes() == bytes(expected[name]["data"]), name


def two_shards(folder: Path) -> None:
    """The weights that an index speaks of."""
    (folder / "one.safetensors").write_bytes(save({"a": np.float32([1]), "b": np.float32([2, 3])}))
    (folder / "two.safetensors").write_bytes(save({"c": np.float32([4])}))


def index_files() -> list[bytes]:
    """An index of them."""
    places = {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}
    return [json.dumps({"metadata": {"total_size": 16}, "weight_map": places}).encode()]


def check_index(file: Path, content: bytes) -> None:
    """Nothing outside the folder is opened, and each tensor is where the index says."""
    files = SafetensorsFiles(file.parent)
    places = json.loads(content)["weight_map"]
    assert places.keys() == files.shapes().keys()
    for name, place in places.items():
        path = (file.parent / place).resolve()
        assert path.is_relative_to(file.parent.resolve()), path
        with safetensors.safe_open(str(path), "np") as there:
            assert files.read(name).tobytes() == there.get_tensor(name).tobytes()


# --- settings ------------------------------------------------------------------------------------------------------


def of_models(*names: str) -> Callable[[], list[bytes]]:
    """That file of every tiny model that has it."""
    return cache(lambda: [file.read_bytes() for name in names for file in sorted(MODELS.glob(f"tiny-*/{name}"))])


def model_without(*names: str) -> Callable[[Path], None]:
    """A folder with the settings of a tiny model."""

    def prepare(folder: Path) -> None:
        source = MODELS / "tiny-bert"
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*names, "*.safetensors"))

    return prepare


def check_config(file: Path, content: bytes) -> None:
    """Every field that the file gives has the value that Python's json reads there."""
    config = ModelConfig.of(read_folder(file.parent)).encoder
    values = json.loads(content)
    for field in fields(config):
        if values.get(field.name) is not None:
            found = getattr(config, field.name)
            given = values[field.name]
            if field.name == "pos_att_type":  # a set of names
                names = [name.strip() for name in given.lower().split("|")] if isinstance(given, str) else given
                given = [term for term in ("c2p", "p2c") if term in names]
            if field.name == "position_buckets":  # -1 means none
                given = max(0, given)
            if field.name == "max_relative_positions" and given < 1:
                given = values["max_position_embeddings"]
            assert (list(found) if isinstance(found, tuple) else found) == given, field.name


def check_modules(file: Path, content: bytes) -> None:
    """The chain is the one of the file, by the last part of each type."""
    modules = read_folder(file.parent).modules
    entries = json.loads(content)
    assert [entry["type"].rpartition(".")[2] for entry in entries[1:]] == [type(module).__name__ for module in modules]


def dense_chain(folder: Path) -> None:
    """A chain of every module."""
    model_without()(folder)
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "config.json").write_text(json.dumps({"in_features": 32, "out_features": 8}))
    (folder / "modules.json").write_bytes(chain_files()[-1])


def chain_files() -> list[bytes]:
    """Chains of modules in both dialects."""
    names = ["Transformer", "Pooling", "Dense", "Normalize"]
    chain = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(names)
    ]
    return [*of_models("modules.json")(), json.dumps(chain).encode()]


# Settings files of a folder with every module: where they lie, and one that is good.
SETTINGS = {
    "1_Pooling/config.json": [
        {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
        {"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": False},
    ],
    "2_Dense/config.json": [
        {"in_features": 32, "out_features": 8, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
    ],
    "sentence_bert_config.json": [{"max_seq_length": 32, "do_lower_case": False}],
    "config_sentence_transformers.json": [
        {"__version__": {"x": "1"}, "prompts": {"query": "q: "}, "default_prompt_name": None, "truncate_dim": 8}
    ],
    "tokenizer_config.json": [{"model_max_length": 64, "do_lower_case": True, "unk_token": "[UNK]"}],
}


def settings_files() -> list[bytes]:
    """All of them in one file, each under its place, so that one target mutates them together."""
    return [json.dumps({place: one for place, (one, *_) in SETTINGS.items()}).encode(), *pooling_files()]


def pooling_files() -> list[bytes]:
    """The other dialect."""
    return [json.dumps({place: each[-1] for place, each in SETTINGS.items()}).encode()]


def check_settings(file: Path, content: bytes) -> None:
    """What the files give is what json reads there; the dialects have their own words, so a few keys are compared."""
    places = json.loads(content)
    places = places if isinstance(places, dict) else {}
    folder = file.parent
    for place in SETTINGS:
        (folder / place).unlink(missing_ok=True)
        if place in places:
            (folder / place).write_bytes(json.dumps(places[place]).encode("utf-8", "surrogatepass"))
    read = read_folder(folder)
    model, lengths = (
        places.get(f"{name}.json", {}) for name in ("config_sentence_transformers", "sentence_bert_config")
    )
    prompts = model.get("prompts") or {}
    assert read.prompts == {name: "" if prompts[name] is None else prompts[name] for name in prompts}
    assert read.default_prompt_name == model.get("default_prompt_name")
    assert read.truncate_dim == model.get("truncate_dim")
    assert read.do_lower_case == bool(lengths.get("do_lower_case"))
    if lengths.get("max_seq_length") is not None:
        assert read.max_seq_length == lengths["max_seq_length"]
    dense = next(module for module in read.modules if isinstance(module, Dense))
    assert dense.out_features == places["2_Dense/config.json"]["out_features"]


# --- tokenizers ----------------------------------------------------------------------------------------------------


def check_tokenizer(file: Path, content: bytes) -> None:
    """Token ids are those of the tokenizers library, special tokens included."""
    tokenizer = Tokenizer.from_folder(
        folders.ModelFolder(file.parent, file.parent, "bert", {}, tokenizer_files={file.name: content})
    )
    found = tokenizer.tokenize(TEXTS, max_length=10_000).ids
    reference = tokenizers.Tokenizer.from_str(content.decode())
    reference.no_truncation()
    reference.no_padding()
    assert found == [reference.encode(text).ids for text in TEXTS]
    assert max(max(ids, default=0) for ids in found) <= tokenizer.largest_id


def check_vocabulary(file: Path, content: bytes) -> None:
    """A vocabulary: a line's number is its piece's id."""
    config = {"model_type": "mpnet" if content.startswith(b"<s>") else "bert"}
    tokenizer = Tokenizer.from_folder(
        folders.ModelFolder(file.parent, file.parent, "bert", config, tokenizer_files={file.name: content})
    )
    pieces = io.TextIOWrapper(io.BytesIO(content), "utf-8").read().split("\n")  # as transformers opens the file
    for ids in tokenizer.tokenize(TEXTS, max_length=10_000).ids:
        tokens = [tokenizer.backend.id_to_token(i) for i in ids]
        # A mask token that the vocabulary lacks is added after it, as transformers does.
        assert all(token == pieces[i] or token not in pieces for i, token in zip(ids, tokens, strict=True))


# --- sentences and rows --------------------------------------------------------------------------------------------

TABLE = [
    ("id", "text", "score"),
    *(
        ("1", "a man eats", "0.5"),
        ("2", 'the "big" dog', "1"),
        ("3", "", "2"),
        ("4", "é 中 \u2028 x", "-1e3"),
        ("5", " ", "0"),
    ),
]


def tsv_files() -> list[bytes]:
    """Tables with and without the signs that some programs write."""
    text = "".join("\t".join(row) + "\n" for row in TABLE).encode()
    return [text, b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"), b"text\n" + b"a\nb\nc"]


def jsonl_files() -> list[bytes]:
    """The same as objects."""
    names, *rows = TABLE
    lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in rows]
    return ["".join(line + "\n" for line in lines).encode(), b'{"text": "\\u00e9", "more": [1, {"a": null}]}']


def from_tsv(content: bytes) -> list[str] | None:
    """Python's csv reader; None where it cannot decide: a lone carriage return, or quotes that may be quoting."""
    text = content.decode().removeprefix("\ufeff")
    if "\r" in text.replace("\r\n", "\n"):
        return None
    if re.search(r'(^|\t|\n)"', text):
        return None
    csv.field_size_limit(10_000_000)
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
    if len(rows[0]) == 1:
        rows = [row or [""] for row in rows]  # csv gives no cell for an empty line
    else:
        rows = [row for row in rows if "".join(row[:1]).strip(" \ufeff") or len(row) > 1]
    column = [name.strip().casefold() for name in rows[0]].index("text")
    return [row[column] for row in rows[1:]]


def from_jsonl(content: bytes) -> list[str] | None:
    """Python's json, a line at a time; a list of one text is that text."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    rows = [json.loads(line) for line in lines if line.strip(b" \r\n")]
    return [row[0] if isinstance(row, list) and len(row) == 1 else row["text"] for row in rows]


def rows_of(file: Path) -> list[str]:
    """The rows as training reads them, which is where a value that is not text is refused."""
    rows = Rows(RowFile(file), ["text"])
    return [text if isinstance(text, str) else checked(text, "text", rows.place(i)) for i, (text,) in enumerate(rows)]


def compared(reference: Callable[[bytes], list[str] | None]) -> Callable[[Path, bytes], None]:
    """Both readers of sentences and rows against a reference."""

    def check(file: Path, content: bytes) -> None:
        readers = (lambda: read_sentences(str(file)).texts, lambda: rows_of(file))
        refused: list[MinisbertError] = []
        for read in readers:
            try:
                texts = read()
            except MinisbertError as error:
                refused.append(error)
                continue
            expected = reference(content)
            assert expected is None or texts == expected
        if len(refused) == len(readers):
            raise refused[0]

    return check


def parquet_files() -> list[bytes]:
    """The table as parquet."""
    import pyarrow
    from pyarrow import parquet

    names, *rows = TABLE
    files = []
    for compression in ("none", "snappy"):
        sink = pyarrow.BufferOutputStream()
        columns = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
        parquet.write_table(pyarrow.table(columns), sink, compression=compression)
        files.append(sink.getvalue().to_pybytes())
    return files


def from_parquet(content: bytes) -> list[str] | None:
    """pyarrow, from memory and the whole table in one call."""
    import pyarrow
    from pyarrow import parquet

    return parquet.read_table(pyarrow.BufferReader(content), columns=["text"])["text"].to_pylist()


# --- arrays --------------------------------------------------------------------------------------------------------


def npy_files() -> list[bytes]:
    """Arrays as an index keeps them, and one that holds objects."""
    files = []
    for array in (np.arange(12, dtype="<f4").reshape(3, 4), np.int8([[1], [2]]), np.array([[None, {}]])):
        stream = io.BytesIO()
        np.save(stream, array)
        files.append(stream.getvalue())
    return files


def check_npy(file: Path, content: bytes) -> None:
    """The rows are NumPy's own."""
    found = NpyFile(file)
    expected = np.load(io.BytesIO(content), allow_pickle=False)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert found[:].tobytes() == expected.tobytes()


TARGETS: dict[str, Target] = {
    "safetensors": Target(WEIGHTS, tensor_files, mutators.SAFETENSORS, check_tensors),
    "index": Target(INDEX, index_files, mutators.JSON, check_index, two_shards),
    "config": Target(
        "config.json", of_models("config.json"), mutators.JSON, check_config, model_without("1_Pooling", "modules.json")
    ),
    "modules": Target("modules.json", chain_files, mutators.JSON, check_modules, dense_chain),
    "settings": Target("settings.json", settings_files, (mutators.swap,), check_settings, dense_chain),
    "tokenizer": Target("tokenizer.json", of_models("tokenizer.json"), mutators.JSON, check_tokenizer),
    "vocabulary": Target("vocab.txt", of_models("vocab.txt"), mutators.LINES, check_vocabulary),
    "tsv": Target("data.tsv", tsv_files, mutators.LINES, compared(from_tsv)),
    "jsonl": Target("data.jsonl", jsonl_files, mutators.LINES, compared(from_jsonl)),
    "parquet": Target("data.parquet", parquet_files, mutators.BINARY, compared(from_parquet)),
    "npy": Target("embeddings.npy", npy_files, mutators.BINARY, check_npy),
}
