"""sentencepiece's own files: the pieces are those of tokenizer.json, token ids those of transformers, damage is refused."""

import base64
import contextlib
import json
import random
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from minisbert import SentenceEncoder
from minisbert.checkpoint.json_file import read_bytes
from minisbert.errors import ModelFolderError
from minisbert.text.sentencepiece import read_sentencepiece

FOLDER = "weights/tiny-xlm-roberta"
TEXTS = [
    "A man is eating food.",
    "ｆｕｌｌ  width ﬁ",
    "café naïve Straße",
    "中文 mixed",
    "<mask> </s>",
    "",
    "  two  spaces ",
]


def field(number, value):
    """One field of a protocol buffer message."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return (
        varint(number << 3 | 5) + struct.pack("<f", value)
        if isinstance(value, float)
        else varint(number << 3) + varint(value)
    )


def varint(value):
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def model(pieces, charsmap=b"", trainer=b"", normalizer=b""):
    """A sentencepiece file."""
    rows = b"".join(field(1, field(1, piece.encode()) + field(2, float(score))) for piece, score in pieces)
    return rows + field(2, field(3, 1) + trainer) + field(3, field(2, charsmap) + normalizer)


def content_of_the_tokenizer():
    """The sentencepiece file that the tiny model's tokenizer.json was written from."""
    tokenizer = json.loads(Path(FOLDER, "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    return model([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *vocab[4:-1]], charsmap_of(tokenizer))


def charsmap_of(tokenizer):
    steps = [tokenizer.get("normalizer") or {}]
    for step in steps:
        steps += step.get("normalizers", [])
        if step.get("type") == "Precompiled":
            return base64.b64decode(step["precompiled_charsmap"])
    return b""


def test_the_same_embeddings_as_with_tokenizer_json(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(FOLDER, folder)
    (folder / "tokenizer.json").unlink()
    (folder / "sentencepiece.bpe.model").write_bytes(content_of_the_tokenizer())
    encoder, expected = SentenceEncoder(folder), SentenceEncoder(FOLDER)
    assert encoder.tokenizer.backend.get_vocab() == expected.tokenizer.backend.get_vocab()
    assert np.array_equal(encoder.encode(TEXTS), expected.encode(TEXTS))
    encoder.save(tmp_path / "saved")
    assert np.array_equal(SentenceEncoder(tmp_path / "saved").encode(TEXTS), expected.encode(TEXTS))
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"tokenizer_class": "CamembertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelFolderError, match=r"sentencepiece.bpe.model: of the class 'CamembertTokenizer'"):
        SentenceEncoder(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 pieces"),
        (b"\x0a\xff", "not a sentencepiece model"),
        (b"not a model", "not a sentencepiece model"),
        (model([("a", -1)], trainer=field(3, 2)), "model_type 2"),
        (model([("a", -1)], trainer=field(24, 1)), "treat_whitespace_as_suffix"),
        (model([("a", -1)], normalizer=field(3, 0)), "add_dummy_prefix false"),
        (field(1, field(1, b"a") + field(3, 6)), "pieces for bytes"),
        (field(1, field(1, b"a") + field(3, 4)), "user-defined pieces"),
        (field(1, field(1, b"a") + field(3, 5)), "unused pieces"),
        (model([("a", -1), ("a", -2)]), "'a' is empty, there twice"),
        (model([("a", -1), ("", -2)]), "'' is empty"),
        (model([("a", float("nan"))]), "without a finite score"),
        (model([("a", -1)], charsmap=bytes(1_000_001)), "a normalization map of 1000001 bytes"),
        (field(1, field(1, b"a") + field(3, 1) * 3), "more than 3 fields"),
        (field(2, field(1, 0) * 1_001), "more than 1000 fields"),
        (field(2, field(1, 0)) * 2, "field 2 is there twice"),
        (field(3, field(1, 0)) * 2, "field 3 is there twice"),
        (field(1, field(1, b"\xff")), "not a sentencepiece model"),
        (field(1, 7), "not a sentencepiece model"),
    ],
)
def test_what_is_not_read_is_named(content, words):
    with pytest.raises(ModelFolderError, match=words):
        read_sentencepiece(content, "x.model")


@pytest.mark.parametrize(
    ("pieces", "charsmap", "words"),
    [
        ([("x" * 5_000, -1)], b"", "a piece of the vocabulary has 5000 characters"),  # longer ones crash the library
        ([(f"{i:0100}", -1) for i in range(2_000)], b"", "Expected at most 32 per piece"),
        ([], struct.pack("<I", 4) + bytes(4) + b"x" * 200 + b"\0", "can make a text 200 times as long"),
    ],
)
def test_limits_of_tokenizer_json_hold_here_too(tmp_path, pieces, charsmap, words):
    folder = tmp_path / "model"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("tokenizer.json"))
    (folder / "sentencepiece.bpe.model").write_bytes(model([("<unk>", 0), ("<s>", 0), ("</s>", 0), *pieces], charsmap))
    with pytest.raises(ModelFolderError, match=words):
        SentenceEncoder(folder)


def test_a_file_as_large_as_the_published_ones(tmp_path):
    """XLM-R's has 5 MB; other settings may have one."""
    file = tmp_path / "sentencepiece.bpe.model"
    file.write_bytes(bytes(6_000_000))
    assert len(read_bytes(file)) == 6_000_000


def test_damaged_bytes_are_refused_or_read():
    whole, rng = content_of_the_tokenizer(), random.Random(0)
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        with contextlib.suppress(ModelFolderError):
            read_sentencepiece(bytes(content[: rng.choice((None, rng.randrange(len(content))))]), "x.model")


@pytest.mark.parity
def test_the_same_ids_as_transformers(tmp_path):
    spm, transformers = pytest.importorskip("sentencepiece"), pytest.importorskip("transformers")
    pytest.importorskip("google.protobuf")
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(f"{text} number {i} of the city at night" for i, text in enumerate(TEXTS * 30)))
    folder = tmp_path / "model"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("tokenizer.json"))
    spm.SentencePieceTrainer.train(
        input=str(lines), model_prefix=str(folder / "sentencepiece.bpe"), vocab_size=120, hard_vocab_limit=False
    )
    peer, encoder = transformers.AutoTokenizer.from_pretrained(folder), SentenceEncoder(folder)
    ids = encoder.tokenizer.tokenize(TEXTS, max_length=64).ids
    assert ids == [peer(text).input_ids for text in TEXTS]
