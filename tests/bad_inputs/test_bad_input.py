"""Bad arguments: one clear error of minisbert's own type that names the argument (and the row) and what was expected.

Nothing is computed then, and nothing is changed. Bad model folders are in tests/checkpoint/test_folder.py.
"""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minisbert import SentenceEncoder, quantize_embeddings
from minisbert.errors import InputError, MinisbertError

WEIGHTS = Path(__file__).parents[1] / "weights"
NAN = float("nan")


@pytest.fixture(scope="module")
def shared() -> SentenceEncoder:
    return SentenceEncoder.load(WEIGHTS / "tiny-bert")


@pytest.fixture
def encoder(shared, monkeypatch) -> SentenceEncoder:
    """The shared encoder; settings that a test changes are put back."""
    for name in ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim"):
        value = getattr(shared, name)
        monkeypatch.setattr(shared, name, dict(value) if isinstance(value, dict) else value)
    return shared


def refused(call: Callable[[], Any], *words: str, kind: type[MinisbertError] = InputError) -> str:
    with pytest.raises(MinisbertError) as caught:
        call()
    message = str(caught.value)
    assert isinstance(caught.value, kind), message
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    assert re.search("expect|shorten", message, re.I), message
    assert len(message) < 1000, f"{len(message)} characters"
    return message


# --- sentences -----------------------------------------------------------------------------------------------------

NO_SENTENCES = {
    "None": None,
    "NaN": NAN,
    "a number": 3,
    "a float": 1.5,
    "True": True,
    "bytes": b"text",
    "a bytearray": bytearray(b"text"),
    "an object": object(),
    "a dict": {"a sentence": 1},
    "a set": {"a sentence"},
    "a frozenset": frozenset(["a sentence"]),
    "a generator": (text for text in ["a", "b"]),
    "an iterator": iter(["a", "b"]),
    "a map": map(str, [1, 2]),
    "a range": range(3),
    "dict keys": {"a": 1}.keys(),
    "a path": Path("a"),
    "a lock": threading.Lock(),
    "a class": str,
    "a 0-d array": np.array("text"),
    "a 2-d array": np.array([["a", "b"]]),
    "a huge number": 10**5000,
}
BAD_ROWS = {
    "None in a list": (["fine", None, "fine"], 1),
    "NaN in a list": (["fine", NAN], 1),
    "a number in a list": (["fine", "fine", 3], 2),
    "a bool in a list": ([True], 0),
    "bytes in a list": ([b"text"], 0),
    "a list in a list": ([["a", "b"], ["c"]], 0),
    "a pair in a list": ([("a", "b")], 0),
    "an empty list in a list": (["fine", []], 1),
    "a dict in a list": (["fine", {"text": "a"}], 1),
    "an array in a list": (["fine", np.array(["a"])], 1),
    "a list deep in a list": ([[[["a"]]]], 0),
    "None in a tuple": (("fine", None), 1),
    "None in an array": (np.array(["fine", None], dtype=object), 1),
    "an array of numbers": (np.array([1, 2]), 0),
    "an array of floats": (np.array([NAN]), 0),
    "an array of bytes": (np.array([b"a"]), 0),
    "a list that holds itself": ((lambda x: (x.append(x), x)[1])([]), 0),
    "a lone high surrogate": (["fine", "x\ud800y"], 1),
    "a lone low surrogate": (["\udfff"], 0),
    "surrogates in the wrong order": (["fine", "\udc00\ud800"], 1),
    "a surrogate of surrogateescape": (["fine", "fine", b"\xff".decode("utf-8", "surrogateescape")], 2),
    "a huge number in a list": (["fine", 10**5000], 1),
    "one bad row far down": ([*["fine"] * 2500, None], 2500),
}
METHODS = ["encode", "encode_query", "encode_document", "token_counts"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NO_SENTENCES)
def test_no_sentences(encoder, name, method):
    refused(lambda: getattr(encoder, method)(NO_SENTENCES[name]), "sentences")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows(encoder, name, method):
    sentences, row = BAD_ROWS[name]
    refused(lambda: getattr(encoder, method)(sentences), f"sentences[{row}]")


@pytest.mark.parametrize("text", ["\ud800", "fine until \udc00 here"])
def test_one_text_with_a_lone_surrogate(encoder, text):
    message = refused(lambda: encoder.encode(text), "surrogate")
    message.encode("utf-8")  # the message itself can be printed


def test_messages_can_be_printed(encoder):
    for sentences, _ in BAD_ROWS.values():
        with pytest.raises(InputError) as caught:
            encoder.encode(sentences)
        str(caught.value).encode("utf-8")


def test_an_object_whose_repr_fails(encoder):
    class Rude:
        def __repr__(self):
            raise RuntimeError("no name")

    for sentences in (Rude(), ["fine", Rude()]):
        with pytest.raises(InputError, match="Rude"):
            encoder.encode(sentences)


def test_what_is_fine(encoder):
    for sentences in (["a", "b"], ("a", "b"), np.array(["a", "b"]), np.array(["a", "b"], object), [np.str_("a"), "b"]):
        assert encoder.encode(sentences).shape == (2, 32)
    assert encoder.encode(np.str_("a")).shape == (32,)
    for nothing in ([], (), np.array([]), np.array([], object)):
        assert encoder.encode(nothing).shape == (0, 32)


# --- options -------------------------------------------------------------------------------------------------------

NO_COUNT = {
    "zero": 0,
    "negative": -1,
    "True": True,
    "False": False,
    "text": "8",
    "a fraction": 1.5,
    "a whole float": 8.0,
    "NaN": NAN,
    "infinity": float("inf"),
    "a list": [8],
    "an array": np.array([8, 8]),
    "a complex": 8j,
    "bytes": b"8",
}


@pytest.mark.parametrize("option", ["batch_size", "truncate_dim"])
@pytest.mark.parametrize("name", NO_COUNT)
def test_counts_of_encode(encoder, option, name):
    refused(lambda: encoder.encode(["a", "b"], **{option: NO_COUNT[name]}), option)


@pytest.mark.parametrize("name", [*NO_COUNT, "None", "no room", "beyond the positions"])
def test_max_seq_length(encoder, name):
    value = {**NO_COUNT, "None": None, "no room": 2, "beyond the positions": 65}[name]
    before = encoder.max_seq_length
    refused(lambda: setattr(encoder, "max_seq_length", value), "max_seq_length")
    assert encoder.max_seq_length == before


@pytest.mark.parametrize("name", NO_COUNT)
def test_token_budget(shared, name):
    refused(lambda: SentenceEncoder(shared.pretrained, token_budget=NO_COUNT[name]), "token_budget")


NO_CHOICE = ["nope", "", "FLOAT32", 3, True, 0.5, b"float32", ["float32"], {"a": 1}, {"float32"}, object(), NAN]
NO_CHOICE += [np.array(["warn", "float32"])]


@pytest.mark.parametrize("value", [*NO_CHOICE, ["sentence_embedding"]], ids=lambda v: f"{type(v).__name__} {v!r:.20}")
def test_output_value(encoder, value):
    refused(lambda: encoder.encode("a", output_value=value), "output_value", "token_embeddings")


@pytest.mark.parametrize("value", [*NO_CHOICE, None, "int4"], ids=lambda v: f"{type(v).__name__} {v!r:.20}")
def test_precision(encoder, value):
    refused(lambda: encoder.encode(["a", "b"], precision=value), "precision", "ubinary")
    refused(lambda: quantize_embeddings(np.ones((2, 8), np.float32), value), "precision", "ubinary")


@pytest.mark.parametrize("value", [*NO_CHOICE, None], ids=lambda v: f"{type(v).__name__} {v!r:.20}")
def test_on_truncate(encoder, value):
    refused(lambda: encoder.encode("a", on_truncate=value), "on_truncate", "ignore")


@pytest.mark.parametrize("value", [*NO_CHOICE, None, "float16"], ids=lambda v: f"{type(v).__name__} {v!r:.20}")
def test_compute_dtype(shared, value):
    refused(lambda: SentenceEncoder(shared.pretrained, compute_dtype=value), "compute_dtype", "bfloat16")


@pytest.mark.parametrize("option", ["normalize_embeddings", "show_progress_bar"])
@pytest.mark.parametrize("value", ["no", "False", 2, NAN, [], b"", 0.0, np.array([True, False])], ids=repr)
def test_switches(encoder, option, value):
    """A text "False" is true to Python: only True and False will do."""
    refused(lambda: encoder.encode("a", **{option: value}), option)


@pytest.mark.parametrize("value", [3, True, b"x", ["x"], {"query": "x"}, NAN, "\ud800"], ids=repr)
def test_prompt(encoder, value):
    refused(lambda: encoder.encode("a", prompt=value), "prompt")
    refused(lambda: encoder.token_counts("a", prompt=value), "prompt")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", ["nope", "", "Query", 3, True, b"query", ["query"], {"query": 1}, NAN], ids=repr)
def test_prompt_name(encoder, value, method):
    encoder.prompts = {"query": "find: ", "passage": "read: "}
    refused(lambda: getattr(encoder, method)("a", prompt_name=value), "prompt_name", "query", "passage")


def test_an_argument_that_is_not_there(encoder):
    """Python's own error is clear enough."""
    with pytest.raises(TypeError, match="convert_to_tensr"):
        encoder.encode("a", convert_to_tensr=True)


def test_precision_without_a_range(encoder):
    for precision in ("int8", "uint8"):
        refused(lambda precision=precision: encoder.encode("a", precision=precision), precision, "ranges")
        refused(lambda precision=precision: encoder.encode(["a"], precision=precision), precision, "ranges")


def test_precision_of_token_embeddings(encoder):
    """There is no such thing; it must not be left out silently."""
    refused(lambda: encoder.encode(["a", "b"], output_value="token_embeddings", precision="int8"), "precision")


def test_too_long_texts(encoder):
    texts = ["short", "word " * 100, "also short", "word " * 200]
    message = refused(lambda: encoder.encode(texts, on_truncate="error"), "sentences[1]", "64")
    assert "102" in message
    refused(lambda: encoder.encode("word " * 100, on_truncate="error"), "64")


# --- settings of the encoder ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["nope", "", None, 3, ["cosine"], "Cosine"], ids=repr)
def test_similarity_fn_name(encoder, value):
    def use():
        encoder.similarity_fn_name = value
        encoder.similarity(np.ones((1, 4)), np.ones((1, 4)))

    refused(use, "similarity_fn_name", "manhattan")


@pytest.mark.parametrize("name", NO_COUNT)
def test_truncate_dim_of_the_encoder(encoder, name):
    def use():
        encoder.truncate_dim = NO_COUNT[name]
        encoder.encode("a")

    refused(use, "truncate_dim")


@pytest.mark.parametrize("value", ["nope", 3, ["query"]], ids=repr)
def test_default_prompt_name(encoder, value):
    def use():
        encoder.default_prompt_name = value
        encoder.encode("a")

    refused(use, "prompt_name")


@pytest.mark.parametrize(
    "value", [None, "x", ["x"], {"query": 3}, {"query": None}, {3: "x"}, {"query": "\ud800"}], ids=repr
)
def test_prompts(encoder, value, tmp_path):
    def use():
        encoder.prompts = value
        encoder.default_prompt_name = "query"
        encoder.encode("a")

    refused(use, "prompt")

    def write():
        encoder.prompts = value
        encoder.save(tmp_path / "model")

    refused(write, "prompts")
    assert not list(tmp_path.iterdir())


# --- loading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, 3, b"all-MiniLM-L6-v2", "", "  ", ["x"], NAN, True], ids=repr)
def test_load_what_is_no_name(name):
    refused(lambda: SentenceEncoder.load(name, offline=True), "name")


@pytest.mark.parametrize(
    "name", ["no-such-model", "a\0b", "../x/..", "a/b/c", "x" * 5000, "org/na me", "org/../x", "\ud800"]
)
def test_load_what_is_not_there(name):
    with pytest.raises(MinisbertError) as caught:
        SentenceEncoder.load(name, offline=True)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("option", ["compute_dtype", "token_budget"])
def test_load_options(option):
    refused(lambda: SentenceEncoder.load(WEIGHTS / "tiny-bert", **{option: "x"}), option)


@pytest.mark.parametrize("value", ["weights/tiny-bert", WEIGHTS / "tiny-bert", None, 3], ids=lambda v: type(v).__name__)
def test_the_class_called_with_a_name(value):
    """The habit of sentence-transformers users: the message says what to write."""
    refused(lambda: SentenceEncoder(value), "SentenceEncoder.load")


# --- similarity and quantization -----------------------------------------------------------------------------------

ROWS = np.ones((3, 4), np.float32)
NO_EMBEDDINGS = {
    "None": None,
    "text": "text",
    "texts": ["text", "text"],
    "numbers as text": ["1.0", "2.0", "3.0", "4.0"],
    "a number": 3,
    "a dict": {"a": 1},
    "ragged rows": [[1.0, 2.0], [1.0]],
    "three axes": np.ones((2, 2, 4)),
    "no axes": np.float32(1),
    "objects": np.array([[object()] * 4]),
    "None in a row": [[1.0, None, 1.0, 1.0]],
    "complex": np.ones((2, 4), complex),
    "another width": np.ones((3, 5)),
    "no width": np.ones((3, 0)),
    "NaN": ROWS * NAN,
    "infinity": ROWS * np.inf,
    "beyond float32": np.full((3, 4), 1e300),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["similarity", "similarity_pairwise"])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("name", NO_EMBEDDINGS)
def test_no_embeddings(encoder, name, side, method):
    pair: list[Any] = [ROWS, ROWS]
    pair[side] = NO_EMBEDDINGS[name]
    refused(lambda: getattr(encoder, method)(*pair), "ab"[side])


def test_the_row_that_is_not_finite(encoder):
    rows = np.ones((5, 4))
    rows[3, 1] = NAN
    refused(lambda: encoder.similarity(ROWS, rows), "b[3]")


def test_pairs_of_different_numbers(encoder):
    refused(lambda: encoder.similarity_pairwise(ROWS, ROWS[:2]), "3", "2")


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean", "manhattan"])
def test_no_rows_are_fine(encoder, function):
    encoder.similarity_fn_name = function
    assert encoder.similarity(ROWS[:0], ROWS).shape == (0, 3)
    assert encoder.similarity(ROWS, ROWS[:0]).shape == (3, 0)
    assert encoder.similarity_pairwise(ROWS[:0], ROWS[:0]).shape == (0,)


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize(
    "embeddings",
    [None, "text", ["a"], 3, {"a": 1}, [[1.0], [1.0, 2.0]], ROWS.astype(np.int8), ROWS * NAN, ROWS * np.inf],
    ids=["None", "text", "texts", "number", "dict", "ragged", "int8", "NaN", "infinity"],
)
def test_quantize_what_is_no_embeddings(embeddings, precision):
    refused(lambda: quantize_embeddings(embeddings, precision), "embeddings")


@pytest.mark.parametrize(
    "ranges",
    ["x", np.ones(4), np.ones((3, 4)), np.ones((2, 5)), np.full((2, 4), NAN), np.array([[1.0] * 4, [0.0] * 4])],
    ids=["text", "one row", "three rows", "another width", "NaN", "high below low"],
)
def test_quantize_with_ranges_that_are_none(ranges):
    refused(lambda: quantize_embeddings(ROWS, "int8", ranges), "ranges_2D")
