"""The files of hostile_files.py: each made to cost time or memory, in place of a good one in a tiny model's folder."""

import copy
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

MODELS = Path(__file__).parents[2] / "weights"
MB = 1_000_000


class Hostile(NamedTuple):
    """One file, which takes the place of a good one in a copy of a tiny model's folder."""

    name: str
    file: str
    content: Callable[[], bytes]
    model: str = "tiny-bert"


def deep(levels: int = 100_000) -> bytes:
    return b"[" * levels + b"]" * levels


def lists(megabytes: float) -> bytes:
    """The most memory per byte that JSON has."""
    return b"[" + b"[]," * int(megabytes * MB / 3) + b"[]]"


def doubled(file: str) -> Callable[[], bytes]:
    """The first key of the first object twice: with another value first, so that a reader that takes the last sees nothing."""

    def content() -> bytes:
        good = (MODELS / "tiny-bert" / file).read_bytes()
        key = good.split(b'"')[1]
        return good.replace(b"{", b'{"' + key + b'": "other", ', 1)

    return content


def changed(file: str, change: Callable[[Any], Any], model: str = "tiny-bert") -> Callable[[], bytes]:
    """The file of a good model, changed as JSON."""

    def content() -> bytes:
        values = json.loads((MODELS / model / file).read_bytes())
        return json.dumps(change(values) or values).encode()

    return content


def header(text: bytes, data: int = 0) -> bytes:
    return len(text).to_bytes(8, "little") + text + bytes(data)


def tensors(count: int, *, doubled: bool = False) -> bytes:
    """A header with so many empty tensors."""
    one = '"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    names = [one % (number // 2 if doubled else number) for number in range(count)]
    return header(b"{" + ",".join(names).encode() + b"}")


def vocabulary(pieces: dict[str, int]) -> Callable[[], bytes]:
    return changed("tokenizer.json", lambda values: values["model"]["vocab"].update(pieces))


def unigram(pieces: Callable[[], list[str]]) -> Callable[[], bytes]:
    def change(values: Any) -> None:
        values["model"]["vocab"] += [[piece, -9.5] for piece in pieces()]

    return changed("tokenizer.json", change, "tiny-xlm-roberta")


def pattern(regex: str) -> Callable[[], bytes]:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return changed("tokenizer.json", lambda values: values.update(pre_tokenizer=split), "tiny-modernbert")


def steps(count: int) -> Callable[[], bytes]:
    rules = [{"type": "Replace", "pattern": {"String": "a"}, "content": "b"}] * count
    change: Any = lambda values: values.update(normalizer={"type": "Sequence", "normalizers": rules})  # noqa: E731
    return changed("tokenizer.json", change, "tiny-modernbert")


def added(count: int, end: str = "") -> Callable[[], bytes]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    tokens = [{"id": 10**6 + i, "content": f"<{i}>{end}", **flags} for i in range(count)]
    return changed("tokenizer.json", lambda values: values["added_tokens"].extend(tokens))


# --- pickled weights, adapters, sentencepiece ------------------------------------------------------------------------


def pickled(program: bytes, entries: int = 0) -> Callable[[], bytes]:
    """An archive with this program, and so many more names of the same bytes."""

    def content() -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            file.writestr("archive/data.pkl", program)
            file.writestr("archive/data/0", bytes(100_000))
            for number in range(entries):
                file.filelist.append(copy.copy(file.getinfo("archive/data/0")))
                file.filelist[-1].filename = f"archive/data/{number + 1}"
        return out.getvalue()

    return content


def adapter(**settings: Any) -> Callable[[], bytes]:
    return lambda: json.dumps({"peft_type": "LORA", "r": 2} | settings).encode()


def matrices(count: int) -> bytes:
    """So many matrices of an adapter, of which none fits the base."""
    return save({f"base_model.model.{number}.lora_A.weight": np.ones((1, 1), np.float32) for number in range(count)})


def pieces(texts: Iterable[bytes]) -> bytes:
    """A sentencepiece model of these pieces, without scores: each a field 1 with a field 1."""
    return b"".join(_field(_field(text)) for text in texts)


def _field(content: bytes) -> bytes:
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return b"\x0a" + length + bytes([size]) + content


def newer_files() -> Iterator[Hostile]:
    """The rows of files that few models have."""
    file = "pytorch_model.bin"
    shared = b"}N" + b"q\x01h\x01\x86" * 60 + b"Ns."
    yield Hostile(f"{file}: 7,000,000 instructions", file, pickled(b"}" * 7 * MB + b"."))
    yield Hostile(f"{file}: a key that takes for ever to hash", file, pickled(shared))
    yield Hostile(f"{file}: a key of 200,000 tuples", file, pickled(b"}N" + b"\x85" * 200_000 + b"Ns."))
    yield Hostile(
        f"{file}: numbers of 255 bytes", file, pickled(b"}(" + (b"\x8a\xff" + b"\x7f" * 255) * 20_000 + b"t.")
    )
    yield Hostile(f"{file}: 1,000 names of the same bytes", file, pickled(b"}.", 1_000))
    yield Hostile(f"{file}: 200,000 names", file, pickled(b"}.", 200_000))
    file = "adapter_config.json"
    yield Hostile(f"{file}: 48 MB of spaces", file, lambda: b"{" + b" " * 48 * MB + b"}")
    yield Hostile(f"{file}: deep", file, deep)
    yield Hostile(f"{file}: the pattern (.*.*)*!", file, adapter(alpha_pattern={"(.*.*)*!": 2}))
    yield Hostile(f"{file}: 50,000 patterns", file, adapter(rank_pattern={f"x{i}": 2 for i in range(50_000)}))
    yield Hostile("adapter_model.safetensors: 19,000 names", "adapter_model.safetensors", lambda: matrices(19_000))
    file = "sentencepiece.bpe.model"
    for name, content in {
        "200 MB": lambda: bytes(200 * MB),
        "23 MB of empty fields": lambda: b"\x0a\x00" * 11_500_000,
        "23 MB of numbers": lambda: b"\x20\x01" * 11_500_000,
        "1,500,000 pieces": lambda: pieces(b"%d" % i for i in range(1_500_000)),
        "a piece of 1,000,000 letters": lambda: pieces([b"x" * MB]),
        "10,000 pieces of 2,000 letters": lambda: pieces(b"%05d" % i + b"x" * 2_000 for i in range(10_000)),
    }.items():
        yield Hostile(f"{file}: {name}", file, content, "tiny-xlm-roberta")


def table() -> Iterator[Hostile]:
    """Every row."""
    yield from newer_files()
    settings = {
        "config.json": "tiny-bert",
        "modules.json": "tiny-bert",
        "1_Pooling/config.json": "tiny-bert",
        "sentence_bert_config.json": "tiny-bert",
        "config_sentence_transformers.json": "tiny-bert",
        "tokenizer_config.json": "tiny-bert",
        "special_tokens_map.json": "tiny-bert",
        "added_tokens.json": "tiny-bert",
        "4_Dense/config.json": "tiny-layers",
        "router_config.json": "tiny-router",
        "model.safetensors.index.json": "tiny-bert",
        "tokenizer.json": "tiny-bert",
    }
    for file, model in settings.items():
        for name, content in {
            "48 MB of spaces": lambda: b"{" + b" " * 48 * MB + b"}",
            "48 MB of lists": lambda: lists(48),
            "7 MB of lists": lambda: lists(7),
            "0.9 MB of lists": lambda: lists(0.9),
            "deep": deep,
            "a number of 900,000 digits": lambda: b'{"a": ' + b"1" * 900_000 + b"}",
        }.items():
            yield Hostile(f"{file}: {name}", file, content, model)
    for file in ("config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "tokenizer.json"):
        yield Hostile(f"{file}: a key twice", file, doubled(file))
    yield Hostile(
        "modules.json: 10,000 modules", "modules.json", changed("modules.json", lambda values: values * 3_000 + values)
    )
    yield Hostile(
        "config_sentence_transformers.json: 50,000 wrong settings",
        "config_sentence_transformers.json",
        lambda: json.dumps({str(number): 1 for number in range(50_000)}).encode(),
    )
    yield Hostile(
        "tokenizer_config.json: 60,000 added tokens",
        "tokenizer_config.json",
        lambda: json.dumps({"added_tokens_decoder": {str(i): {"content": f"<{i}>"} for i in range(60_000)}}).encode(),
    )
    yield Hostile("tokenizer.json: 6 MB of lists", "tokenizer.json", lambda: lists(6))
    yield Hostile("tokenizer.json: 60 MB of text", "tokenizer.json", lambda: b'{"a": "' + b"x" * 60 * MB + b'"}')
    yield Hostile(
        "tokenizer.json: 3,000,000 pieces",
        "tokenizer.json",
        lambda: vocabulary({f"{i:x}": i for i in range(3_000_000)})(),
    )
    yield Hostile("tokenizer.json: a piece of 100,000 letters", "tokenizer.json", vocabulary({"x" * 100_000: 7}))
    for name, pieces in {
        "5,000 pieces of 4,000 letters": lambda: [f"{i:05d}" + "x" * 4_000 for i in range(5_000)],
        "a piece of 100,000 letters": lambda: ["x" * 100_000],
    }.items():
        yield Hostile(f"tokenizer.json: {name} (Unigram)", "tokenizer.json", unigram(pieces), "tiny-xlm-roberta")
    yield Hostile("tokenizer.json: 100,000 added tokens", "tokenizer.json", lambda: added(100_000)())
    yield Hostile("tokenizer.json: an added token of 5 MB", "tokenizer.json", added(1, "x" * 5 * MB))
    yield Hostile(
        "tokenizer_config.json: 500,000 further tokens",
        "tokenizer_config.json",
        lambda: json.dumps({"extra_special_tokens": [f"<{i}>" for i in range(500_000)]}).encode(),
    )
    yield Hostile(
        "added_tokens.json: 100,000 tokens",
        "added_tokens.json",
        lambda: json.dumps({f"<{i}>": i for i in range(100_000)}).encode(),
    )
    yield Hostile("tokenizer.json: 50,000 rules", "tokenizer.json", lambda: steps(50_000)(), "tiny-modernbert")
    for regex in ("(a+)+b", "(a|a)*[^a]", "a*a*a*[^a]", "(?:a{0,30}){0,30}[^a]", "a?" * 40 + "a" * 40, r"(a*)\1[^a]"):
        name = f"tokenizer.json: the pattern {regex[:20]}"
        yield Hostile(name, "tokenizer.json", pattern(regex), "tiny-modernbert")
    for file in ("vocab.txt", "vocab.json", "merges.txt"):
        model = "tiny-bert" if file == "vocab.txt" else "tiny-roberta"
        for name, content in {
            "200 MB": lambda: bytes(200 * MB),
            "60 MB of lines": lambda: b"a\n" * 30 * MB,
            "a line of 1 MB": lambda: b"a" * MB + b"\n",
        }.items():
            yield Hostile(f"{file}: {name}", file, content, model)
    weights = "model.safetensors"
    yield Hostile(f"{weights}: a header of 10^18 bytes", weights, lambda: (10**18).to_bytes(8, "little") + bytes(100))
    yield Hostile(f"{weights}: a header of 99 MB", weights, lambda: header(b"{" + b" " * 99 * MB + b"}"))
    yield Hostile(f"{weights}: 48 MB of lists", weights, lambda: header(lists(48)))
    yield Hostile(f"{weights}: 7 MB of lists", weights, lambda: header(lists(7)))
    yield Hostile(f"{weights}: 20,000 names twice", weights, lambda: tensors(20_000, doubled=True))
    yield Hostile(f"{weights}: 1,000,000 tensors", weights, lambda: tensors(1_000_000))
    yield Hostile(f"{weights}: 19,000 tensors", weights, lambda: tensors(19_000))
    yield Hostile(f"{weights}: deep", weights, lambda: header(deep()))
    yield Hostile(
        f"{weights}: a tensor of 2^60 rows",
        weights,
        lambda: header(json.dumps({"x": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}).encode()),
    )
    yield Hostile(
        f"{weights}.index.json: 19,000 shards",
        f"{weights}.index.json",
        lambda: json.dumps({"weight_map": {str(i): f"{i}.safetensors" for i in range(19_000)}}).encode(),
    )
