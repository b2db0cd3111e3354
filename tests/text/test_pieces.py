"""Long texts are read in pieces: the same ids, counts and errors as from one call of the library, of which little is kept."""

import random
import sys
from pathlib import Path

import pytest
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from minisbert.errors import InputError
from minisbert.pretrained import load_pretrained
from minisbert.text import tokenizer as reader
from minisbert.text.pieces import pieces, splits_at_spaces
from minisbert.text.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import tiny

FAMILIES = ["bert", "mpnet", "roberta", "modernbert", "albert", "xlm-roberta", "static"]  # DistilBERT's is BERT's file
WORDS = [
    *(
        "the",
        "a",
        "man",
        "plays",
        "GUITAR",
        "naïve",
        "É",
        "e\u0301",
        "中文字",
        "ﬁne",
        "½",
        "x" * 90,
        "12,5%",
        "-",
        "--",
        ".",
    ),
    *(
        "[MASK]",
        "<mask>",
        "don't",
        "\n",
        "\t",
        " ",
        "  ",
        "\u3000",
        "\u200b",
        "\u00ad",
        "ſ",
        "İ",
        "Ω",
        "ΟΔΟΣ",
        "👩\u200d🔬",
        "``",
        "_",
    ),
    *("\ufc5e", "[UNK]", "</s>", "ab\u0000c", "\ufffd", "한국어", "नमस्ते", "ไทย", "\u1100\u1161"),
]


def text(generator: random.Random, words: int) -> str:
    joined = (generator.choice(WORDS) + generator.choice((" ", " ", " ", "", "  ", "\n", ". ")) for _ in range(words))
    return "".join(joined)


@pytest.mark.parametrize("keep_end", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_give_the_ids_of_the_whole_text(family, keep_end, monkeypatch):
    tokenizer = load_pretrained(tiny(family)).tokenizer
    tokenizer.keep_end = keep_end
    assert splits_at_spaces(tokenizer.backend)
    generator = random.Random(f"{family} {keep_end}")
    texts = [text(generator, generator.choice((0, 3, 30, 300))) for _ in range(150)]
    expected = [tokenizer.backend.encode(one, add_special_tokens=False).ids for one in texts]
    for size in (100, 7, 1):
        if size == 1:  # each word by itself, which takes most of the time
            texts, expected = texts[:50], expected[:50]
        monkeypatch.setattr(reader, "PIECE", size)
        monkeypatch.setattr(reader, "SHORT", size)
        monkeypatch.setattr(reader, "CHARACTERS", 1)
        for room in (1, 5, 60):
            found = tokenizer.tokenize(texts, max_length=room + tokenizer.special_tokens)
            some = tokenizer.tokenize(texts, max_length=room + tokenizer.special_tokens, exact=False)
            bare = [tokenizer.prefix + tokenizer.cut(ids, room) + tokenizer.suffix for ids in expected]
            assert found.ids == some.ids == bare
            assert found.counts[:, 0].tolist() == [len(ids) + tokenizer.special_tokens for ids in expected]
            assert found.truncated == some.truncated


@pytest.mark.parametrize("from_end", [False, True])
def test_pieces_are_the_text(from_end):
    generator = random.Random(0)
    for size in (1, 10, 1_000):
        one = text(generator, 500)
        parts = list(pieces(one, size, from_end=from_end))
        assert "".join(parts[::-1] if from_end else parts) == one
        assert len(parts) > 1
        assert max(map(len, parts)) < size + 400


SPLIT = pre_tokenizers.Split
UNSAFE = {
    "no pre-tokenizer": (None, None, ()),
    "a pattern": (None, SPLIT(".*", "isolated"), ()),
    "spaces become part of words": (None, pre_tokenizers.Metaspace(split=False), ()),
    "no splitting": (None, pre_tokenizers.ByteLevel(use_regex=False), ()),
    "a rule about spaces": (normalizers.Replace(" a", "b"), pre_tokenizers.Whitespace(), ()),
    "something before every text": (normalizers.Prepend("x"), pre_tokenizers.Whitespace(), ()),
    "a token of two words": (None, pre_tokenizers.Whitespace(), ("a man",)),
    "a token that takes the space after it": (None, pre_tokenizers.ByteLevel(), (AddedToken("man", rstrip=True),)),
    "one of several": (None, pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), SPLIT("a", "isolated")]), ()),
}


@pytest.mark.parametrize("why", UNSAFE)
def test_other_tokenizers_read_texts_whole(why, monkeypatch):
    normalizer, splitter, added = UNSAFE[why]
    backend = Backend(models.WordPiece({"a": 0, "man": 1, "[UNK]": 2}))
    if normalizer:
        backend.normalizer = normalizer
    if splitter:
        backend.pre_tokenizer = splitter
    backend.add_tokens(list(added))
    monkeypatch.setattr(reader, "PIECE", 3)
    expected = backend.encode("a man a man").ids
    assert not splits_at_spaces(backend)
    ((found, length),) = Tokenizer(backend, "here", special_tokens=False).contents(["a man a man"])
    assert found == expected and length == len(expected)


@pytest.mark.parametrize(
    ("texts", "told"), [(["a", 3], r"sentences\[1\] is 3"), (["a", "b\ud800"], r"sentences\[1\] contains")]
)
def test_an_invalid_text_is_named(texts, told):
    with pytest.raises(InputError, match=told):
        load_pretrained(tiny("bert")).tokenizer.tokenize(texts, max_length=9)
