"""What notebooks feed to `encode` and `predict`: no text, half text, odd text, huge text, invalid options."""

from collections import UserList, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from battery import WEIGHTS, Case, Gives, refused
from checks import Check, close, embeds, embeds_as, nothing, rows_of, vector

NAN, INF = float("nan"), float("inf")
GOOD = ["a man eats", "a red dog"]
TWO = ["a", "b"]


class PretendSeries:
    """What looks like a column of a table, but is not pandas'."""

    values = np.array(TWO)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> str:
        return TWO[row]


class Rude:
    """Its repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no name")


def _itself() -> list:
    value: list = []
    value.append(value)
    return value


# --- what is not a list of sentences: (name, how it is made, what it would mean if it were taken) ----------------------

NO_SENTENCES: list[tuple[str, Callable[[], Any], list[str] | None]] = [
    ("None", lambda: None, None),
    ("NaN", lambda: NAN, None),
    ("an int", lambda: 3, None),
    ("a float", lambda: 1.5, None),
    ("True", lambda: True, None),
    ("a complex", lambda: 1j, None),
    ("a huge int", lambda: 10**5000, None),
    ("bytes", lambda: b"text", None),
    ("a bytearray", lambda: bytearray(b"text"), None),
    ("a memoryview", lambda: memoryview(b"text"), None),
    ("an object", object, None),
    ("a rude object", Rude, None),
    ("a class", lambda: str, None),
    ("a function", lambda: len, None),
    ("an exception", lambda: ValueError("x"), None),
    ("Ellipsis", lambda: ..., None),
    ("a path", lambda: Path("a"), None),
    ("a dict of sentences", lambda: {"a sentence": 1}, None),
    ("a dict of columns", lambda: {"text": TWO}, None),
    ("an empty dict", dict, None),
    ("a set", lambda: {"a sentence"}, ["a sentence"]),
    ("a frozenset", lambda: frozenset(["a sentence"]), ["a sentence"]),
    ("a zip", lambda: zip(TWO, TWO, strict=True), None),
    ("a range", lambda: range(3), None),
    ("what looks like a Series", PretendSeries, TWO),
    ("a 0-d array", lambda: np.array("text"), ["text"]),
    ("a 2-d array", lambda: np.array([["a", "b"], ["c", "d"]]), None),
    ("a 0-d array of None", lambda: np.array(None), None),
    ("a structured array", lambda: np.array([("a", 1)], dtype=[("text", "U5"), ("n", int)]), None),
    ("a masked array's mask", lambda: np.ma.masked, None),
    ("NumPy's NaT", lambda: np.datetime64("NaT"), None),
]

# What sentence-transformers takes for inputs of its own: columns and pairs by modality.
NOT_PEER = {"a dict of columns", "a 2-d array", "a list of pairs", "a dict in a list", "a text", "a text among pairs"}

# --- lists with a bad item: (name, the list, its place) ------------------------------------------------------------

BAD_ROWS: list[tuple[str, Callable[[], Any], int]] = [
    ("None first", lambda: [None, "fine"], 0),
    ("None in the middle", lambda: ["fine", None, "fine"], 1),
    ("None last in a tuple", lambda: ("fine", None), 1),
    ("NaN, as pandas has it", lambda: ["fine", NAN], 1),
    ("infinity", lambda: ["fine", INF], 1),
    ("an int", lambda: ["fine", "fine", 3], 2),
    ("ints only", lambda: [1, 2, 3], 0),
    ("True", lambda: [True], 0),
    ("bytes", lambda: [b"text"], 0),
    ("bytes after text", lambda: ["fine", b"text"], 1),
    ("a list of lists", lambda: [["a", "b"], ["c"]], 0),
    ("an empty list in a list", lambda: ["fine", []], 1),
    ("a list of pairs", lambda: [("a", "b")], 0),
    ("deep lists", lambda: [[[["a"]]]], 0),
    ("a list that holds itself", _itself, 0),
    ("a dict in a list", lambda: ["fine", {"text": "a"}], 1),
    ("a set in a list", lambda: ["fine", {"a"}], 1),
    ("an array in a list", lambda: ["fine", np.array(["a"])], 1),
    ("a generator in a list", lambda: ["fine", (c for c in "ab")], 1),
    ("a rude object in a list", lambda: ["fine", Rude()], 1),
    ("a path in a list", lambda: [Path("a")], 0),
    ("a huge int in a list", lambda: ["fine", 10**5000], 1),
    ("an array of ints", lambda: np.array([1, 2]), 0),
    ("an array of floats", lambda: np.array([NAN, 1.0]), 0),
    ("an array of bytes", lambda: np.array([b"a"]), 0),
    ("an array of bools", lambda: np.array([True, False]), 0),
    ("an array of dates", lambda: np.array(["2020-01-01"], "datetime64[D]"), 0),
    ("an object array with None", lambda: np.array(["fine", None], object), 1),
    ("an object array with NaN", lambda: np.array(["fine", NAN], object), 1),
    ("a lone high surrogate", lambda: ["fine", "x\ud800y"], 1),
    ("a lone low surrogate", lambda: ["\udfff"], 0),
    ("surrogates the wrong way round", lambda: ["fine", "\udc00\ud800"], 1),
    ("surrogateescape of a Latin-1 byte", lambda: ["fine", "fine", b"caf\xe9".decode("utf-8", "surrogateescape")], 2),
    ("one bad row in 3,000", lambda: [*["fine"] * 2999, None], 2999),
]

# --- odd text that is fine: (name, the text); each must give what it gives alone, and spoil no neighbour ------------

ODD_TEXTS: list[tuple[str, str]] = [
    ("empty", ""),
    ("a space", " "),
    ("spaces and tabs", " \t \t "),
    ("line breaks", "\n\r\n\n"),
    ("a line break inside", "a man\neats"),
    ("NUL", "\0"),
    ("NUL inside", "a\0man"),
    ("control characters", "".join(map(chr, range(1, 32)))),
    ("DEL and C1", "\x7f\x80\x9f"),
    ("a byte order mark", "\ufeffa man eats"),
    ("zero-width signs", "a\u200bman\u200c\u200d\u2060eats"),
    ("soft hyphens", "a\u00adman"),
    ("no-break spaces", "a\u00a0man\u202feats\u3000here"),
    ("line and paragraph separators", "a\u2028man\u2029eats\x85here"),
    ("right to left", "שלום עולם مرحبا"),
    ("bidi overrides", "\u202ea man\u202c eats \u2066x\u2069"),
    ("an emoji", "😀"),
    ("a family of emojis", "👩‍👩‍👧‍👦🏽"),
    ("flags", "🇩🇪🇫🇷"),
    ("Chinese", "一个男人在吃饭"),
    ("Thai", "ผู้ชายกำลังกิน"),
    ("Devanagari", "एक आदमी खाता है"),
    ("1,000 combining marks", "a" + "\u0301" * 1000),
    ("mathematical letters", "𝒶 𝓂𝒶𝓃 𝑒𝒶𝓉𝓈"),
    ("ligatures", "ﬁne oﬃce ﷺ"),
    ("dotted capital I", "İSTANBUL ẞ"),
    ("the replacement character", "\ufffd\ufffd"),
    ("non-characters", "\ufffe\uffff\U0010ffff"),
    ("private use", "\ue000\uf8ff\U000f0000"),
    ("special tokens in the text", "[CLS] a man [SEP] eats [PAD] [MASK]"),
    ("only special tokens", "[SEP][SEP][CLS]"),
    ("only padding tokens", "[PAD] [PAD]"),
    ("only punctuation", "!?.,;:-()[]{}\"'`~@#$%^&*"),
    ("a word of 10,000 letters", "x" * 10_000),
    ("digits", "0123456789" * 50),
    ("format strings", "%s %n {0} {} ${jndi:ldap://x} {{7*7}}"),
    ("markup", "<script>alert(1)</script><!-- -->"),
    ("an escape sequence", "\x1b[31mred\x1b[0m\x1b]0;title\x07"),
    ("a path", "../../etc/passwd"),
    ("code", "__import__('os').system('touch canary')"),
]

# --- lists and arrays that are fine --------------------------------------------------------------------------------

FINE: list[tuple[str, Callable[[], Any], Gives]] = [
    ("a list", lambda: list(GOOD), embeds(*GOOD)),
    ("a tuple", lambda: tuple(GOOD), embeds(*GOOD)),
    ("an array of text", lambda: np.array(GOOD), embeds(*GOOD)),
    ("an object array", lambda: np.array(GOOD, object), embeds(*GOOD)),
    ("NumPy's own strings", lambda: [np.str_(text) for text in GOOD], embeds(*GOOD)),
    ("a column of an array", lambda: np.array([GOOD, GOOD])[:, 0], embeds(GOOD[0], GOOD[0])),
    ("a reversed view", lambda: np.array(GOOD)[::-1], embeds(*GOOD[::-1])),
    ("a generator", lambda: (text for text in GOOD), embeds(*GOOD)),
    ("an iterator", lambda: iter(GOOD), embeds(*GOOD)),
    ("a map", lambda: map(str, GOOD), embeds(*GOOD)),
    ("a filter", lambda: filter(None, GOOD), embeds(*GOOD)),
    ("a deque", lambda: deque(GOOD), embeds(*GOOD)),
    ("a UserList", lambda: UserList(GOOD), embeds(*GOOD)),
    ("dict keys", lambda: dict.fromkeys(GOOD).keys(), embeds(*GOOD)),
    ("dict values", lambda: dict(enumerate(GOOD)).values(), embeds(*GOOD)),
    ("one text", lambda: GOOD[0], Gives("one vector", vector)),
    ("one NumPy string", lambda: np.str_(GOOD[0]), embeds_as(GOOD[0])),
    ("a subclass of str", lambda: type("Text", (str,), {})(GOOD[0]), embeds_as(GOOD[0])),
    ("an empty list", list, Gives("no rows", nothing)),
    ("an empty tuple", tuple, Gives("no rows", nothing)),
    ("an empty array", lambda: np.array([], object), Gives("no rows", nothing)),
    ("the same text 50 times", lambda: ["a man"] * 50, embeds(*["a man"] * 50)),
    ("long and short mixed", lambda: ["a", "man " * 60, "b"], embeds("a", "man " * 60, "b")),
    ("odd ones among good ones", lambda: ["", GOOD[0], "\0", GOOD[1], " "], embeds("", GOOD[0], "\0", GOOD[1], " ")),
    ("upper and lower case", lambda: "A MAN Eats", embeds_as("a man eats")),
    ("spaces around", lambda: "  a  man   eats ", embeds_as("a man eats")),
    ("1 MB in words", lambda: "man " * 250_000, embeds_as("man " * 200)),
    ("1 MB in one word", lambda: "x" * 1_000_000, Gives("one vector", vector)),
    ("1 MB of emojis", lambda: "😀" * 250_000, Gives("one vector", vector)),
    ("1 MB of spaces", lambda: " " * 1_000_000, embeds_as("")),
    ("1 MB of NUL", lambda: "\0" * 1_000_000, Gives("one vector", vector)),
    (
        "5,000 texts",
        lambda: ["a man", "a dog"] * 2500,
        Gives("rows alike", lambda lib, r: close(r[::2], r[:1].repeat(2500, 0))),
    ),
]

# --- options: (option, value, a result that would be right all the same) -------------------------------------------

NO_COUNT = [0, -1, True, "8", 1.5, NAN, INF, [8], 8j, b"8", 10**30]
NO_SWITCH = ["no", "False", 2, NAN, [], b"", None]
UNIT = rows_of(GOOD, normalize_embeddings=True)
PLAIN, FIRST = rows_of(GOOD), rows_of(GOOD, truncate_dim=1)
OPTIONS: list[tuple[str, Any, Check | None]] = [
    *[("batch_size", value, PLAIN) for value in NO_COUNT[:-1]],
    *[("truncate_dim", value, FIRST if value is True else None) for value in NO_COUNT[:-1]],
    *[
        ("normalize_embeddings", value, UNIT if value == 2 else PLAIN if value in (None, [], b"") else None)
        for value in NO_SWITCH
    ],
    *[("show_progress_bar", value, PLAIN) for value in NO_SWITCH[:-1]],
    *[("output_value", value, None) for value in ("nope", "", 3, True, ["sentence_embedding"])],
    *[("precision", value, PLAIN if value is None else None) for value in ("int4", "", None, 3, "FLOAT32", ["int8"])],
    *[("prompt", value, None) for value in (3, True, b"x", ["x"], {"query": "x"}, NAN, "\ud800")],
    *[("prompt_name", value, None) for value in ("nope", "", "Query", 3, True, b"query", ["query"], NAN)],
]
ARRAY = np.array([8, 8])
OWN_OPTIONS: list[tuple[str, Any]] = [
    *[("on_truncate", value) for value in ("nope", "", None, 3, True, ["warn"], {"warn"}, b"warn", np.array(["warn"]))],
    *[(option, value) for option in ("batch_size", "truncate_dim") for value in (False, 8.0, ARRAY)],
    *[(option, value) for option in ("normalize_embeddings", "show_progress_bar") for value in (0.0, ARRAY > 8)],
    *[
        (option, value)
        for option in ("output_value", "precision")
        for value in ({"float32"}, object(), np.array(["a"]))
    ],
    ("prompt_name", {"query": 1}),
]


# --- pairs for a cross-encoder: (name, the pairs, its place) --------------------------------------------------------

BAD_PAIRS: list[tuple[str, Any, str]] = [
    ("None", None, "pairs"),
    ("a text", "a man", "pairs"),
    ("an int", 3, "pairs"),
    ("an empty list", [], "pairs"),
    ("a dict", {"a": "b"}, "pairs"),
    ("one text alone", ["a man"], "pairs"),
    ("three texts", ["a", "b", "c"], "pairs"),
    ("a pair of three", [("a", "b"), ("a", "b", "c")], "pairs[1]"),
    ("a pair of one", [("a", "b"), ("a",)], "pairs[1]"),
    ("an empty pair", [("a", "b"), ()], "pairs[1]"),
    ("None in a pair", [("a", "b"), ("a", None)], "pairs[1][1]"),
    ("an int in a pair", [(3, "b")], "pairs[0][0]"),
    ("bytes in a pair", [(b"a", "b")], "pairs[0][0]"),
    ("NaN in a pair", [("a", NAN)], "pairs[0][1]"),
    ("a lone surrogate in a pair", [("a", "\ud800")], "pairs[0][1]"),
    ("a text among pairs", [("a", "b"), "ab"], "pairs[1]"),
    ("a list in a pair", [("a", ["b"])], "pairs[0][1]"),
    ("three columns", np.array([["a", "b", "c"]]), "pairs"),
]
RANKS: list[tuple[str, Any, Any, dict[str, Any], str, Check | None]] = [
    ("a query that is None", None, TWO, {}, "query", None),
    ("a query that is a list", ["a"], TWO, {}, "query", None),
    ("a query with a lone surrogate", "\ud800", TWO, {}, "query", None),
    ("documents that are None", "a", None, {}, "documents", None),
    ("documents that are one text", "a", "text", {}, "documents", None),
    ("no documents", "a", [], {}, "documents", nothing),
    ("a document that is None", "a", ["b", None], {}, "documents[1]", None),
    ("a document that is an int", "a", ["b", 3], {}, "documents[1]", None),
    *[
        (f"top_k {value!r}", "a", TWO, {"top_k": value}, "top_k", harmless)
        for value, harmless in [(0, nothing), (-1, None), ("1", None), (1.5, None), (True, lambda lib, r: len(r) == 1)]
    ],
]


def _encode(make: Callable[[], Any], **options: Any) -> Callable[[Any, Any], Any]:
    return lambda lib, work: lib.encode(make(), **options)


def _good(**options: Any) -> Callable[[Any, Any], Any]:
    return lambda lib, work: lib.encode(list(GOOD), **options)


def _set(name: str, value: Any) -> Callable[[Any, Any], Any]:
    """Set an attribute of a model of its own, then use it."""

    def act(lib: Any, work: Any) -> Any:
        model = lib.load(WEIGHTS / "tiny-bert")
        setattr(model, name, value)
        return model.encode(list(GOOD))

    return act


def _set_similarity(value: Any) -> Callable[[Any, Any], Any]:
    def act(lib: Any, work: Any) -> Any:
        model = lib.load(WEIGHTS / "tiny-bert")
        model.similarity_fn_name = value
        return model.similarity(np.ones((1, 4), np.float32), np.ones((1, 4), np.float32))

    return act


def _no_sentences() -> list[Case]:
    found = []
    for name, make, means in NO_SENTENCES:
        harmless = None if means is None else rows_of(means)
        expect = refused("InputError", "sentences")
        found.append(Case("encode", f"{name} for sentences", _encode(make), expect, name not in NOT_PEER, harmless))
    return found


def _method(name: str, *arguments: Any, **options: Any) -> Callable[[Any, Any], Any]:
    return lambda lib, work: getattr(lib.encoder, name)(*arguments, **options)


def _set_and_save(value: Any) -> Callable[[Any, Any], Any]:
    """Prompts that cannot be saved: refused, and nothing is written."""

    def act(lib: Any, work: Any) -> Any:
        model = lib.load(WEIGHTS / "tiny-bert")
        model.prompts = value
        try:
            return model.save(work.folder / "model")
        finally:
            assert not list(work.folder.iterdir())

    return act


def _default_prompt(prompts: Any, name: Any) -> Callable[[Any, Any], Any]:
    def act(lib: Any, work: Any) -> Any:
        model = lib.load(WEIGHTS / "tiny-bert")
        model.prompts, model.default_prompt_name = prompts, name
        return model.encode("a")

    return act


def _pairwise(a: Any, b: Any) -> Callable[[Any, Any], Any]:
    return lambda lib, work: lib.encoder.similarity_pairwise(a, b)


ROWS = np.ones((3, 4), np.float32)
BAD_PROMPTS = [None, "x", ["x"], {"query": 3}, {"query": None}, {3: "x"}, {"query": "\ud800"}]
TOO_LONG = ["short", "word " * 100, "also short", "word " * 200]
# What only minisbert has, or what sentence-transformers means otherwise: (name, what is done, words of the error).
OWN: list[tuple[str, Callable[[Any, Any], Any], tuple[str, ...]]] = [
    *[
        (f"{method} of {name}", _method(method, value), ("sentences",) if row is None else (f"sentences[{row}]",))
        for method in ("encode_query", "encode_document", "token_counts")
        for name, value, row in [
            ("None", None, None),
            ("a dict", {"a": 1}, None),
            ("a list with None", ["fine", None], 1),
            ("a lone surrogate", ["\ud800"], 0),
        ]
    ],
    *[
        (f"{method}, prompt_name {value!r}", _method(method, "a", prompt_name=value), ("prompt_name", "query"))
        for method in ("encode_query", "encode_document", "token_counts")
        for value in ("nope", 3)
    ],
    ("token_counts, prompt 3", _method("token_counts", "a", prompt=3), ("prompt",)),
    ("one text that is a surrogate", _method("encode", "fine until \udc00 here"), ("surrogate",)),
    (
        "token embeddings in int8",
        _method("encode", GOOD, output_value="token_embeddings", precision="int8"),
        ("precision",),
    ),
    ("texts too long", _method("encode", TOO_LONG, on_truncate="error"), ("sentences[1]", "64", "102")),
    ("one text too long", _method("encode", TOO_LONG[1], on_truncate="error"), ("64",)),
    *[
        (
            f"{option} {value!r:.20}",
            lambda lib, work, o={option: value}: lib.load(WEIGHTS / "tiny-bert", **o),
            (option,),
        )
        for option, value in [
            *[("token_budget", value) for value in (0, -1, True, "8", 1.5, NAN, [8], ARRAY)],
            *[
                ("compute_dtype", value)
                for value in ("nope", "", "FLOAT32", "float16", 3, True, None, ["float32"], {"a"})
            ],
        ]
    ],
    *[(f"truncate_dim set to {value!r}", _set("truncate_dim", value), ("truncate_dim",)) for value in NO_COUNT[:-1]],
    *[
        (f"default_prompt_name {value!r}", _default_prompt({"query": "q"}, value), ("prompt_name",))
        for value in ("nope", 3, ["query"])
    ],
    *[(f"prompts {value!r}", _default_prompt(value, "query"), ("prompt",)) for value in BAD_PROMPTS],
    *[(f"saving prompts {value!r}", _set_and_save(value), ("prompts",)) for value in BAD_PROMPTS],
    *[
        (f"similarity_pairwise of {name} for {'ba'[side]}", _pairwise(*((ROWS, value)[:: 1 - 2 * side])), ("ba"[side],))
        for side in (0, 1)
        for name, value in [
            ("None", None),
            ("texts", ["a", "b"]),
            ("another width", np.ones((3, 5))),
            ("NaN", ROWS * NAN),
        ]
    ],
    ("similarity_pairwise of 3 and 2 rows", _pairwise(ROWS, ROWS[:2]), ("3", "2")),
]


CASES = [
    *_no_sentences(),
    *[
        Case(
            "encode",
            f"{name} in a list",
            _encode(make),
            refused("InputError", f"sentences[{row}]"),
            name not in NOT_PEER,
        )
        for name, make, row in BAD_ROWS
    ],
    *[
        Case(
            "encode",
            f"odd text: {name}",
            _encode(lambda t=text: [GOOD[0], t, GOOD[1]]),
            embeds(GOOD[0], text, GOOD[1]),
            peer=True,
        )
        for name, text in ODD_TEXTS
    ],
    Case("encode", "fine: a batch size beyond all texts", _good(batch_size=10**30), embeds(*GOOD)),
    *[Case("encode", f"fine: {name}", _encode(make), expect, peer=True, seconds=60) for name, make, expect in FINE],
    *[
        Case(
            "encode",
            f"{name} {value!r:.20}",
            _good(**{name: value}),
            refused("InputError", name),
            peer=True,
            harmless=harmless,
        )
        for name, value, harmless in OPTIONS
    ],
    *[
        Case("encode", f"{name} {value!r:.20}", _good(**{name: value}), refused("InputError", name))
        for name, value in OWN_OPTIONS
    ],
    *[
        Case(
            "encode",
            f"int8 of one text, {precision}",
            _encode(lambda: ["a"], precision=precision),
            refused("InputError", precision, "range"),
            peer=True,
        )
        for precision in ("int8", "uint8")
    ],
    *[
        Case(
            "encode",
            f"max_seq_length {value!r}",
            _set("max_seq_length", value),
            refused("InputError", "max_seq_length"),
            True,
            PLAIN if value in (65, 10**6) else None,
        )
        for value in (0, -1, 2, 65, 10**6, "64", 64.5, True, None, [64], NAN)
    ],
    *[
        Case(
            "encode",
            f"similarity_fn_name {value!r}",
            _set_similarity(value),
            refused("InputError", "similarity_fn_name"),
            peer=True,
        )
        for value in ("nope", "", 3, ["cosine"], "Cosine")
    ],
    *[
        Case(
            "encode",
            f"pairs: {name}",
            lambda lib, work, p=pairs: lib.cross.predict(p),
            Gives("no scores", nothing) if name == "an empty list" else refused("InputError", place),
            name not in NOT_PEER,
            nothing if name == "an empty list" else None,
        )
        for name, pairs, place in BAD_PAIRS
    ],
    *[
        Case(
            "encode",
            f"rank: {name}",
            lambda lib, work, a=(q, d), o=options: lib.cross.rank(*a, **o),
            Gives("no hits", nothing) if name == "no documents" else refused("InputError", place),
            True,
            harmless,
        )
        for name, q, d, options, place, harmless in RANKS
    ],
    *[Case("encode", name, act, refused("InputError", *words)) for name, act, words in OWN],
    Case(
        "encode",
        "no rows are similar to nothing",
        lambda lib, work: lib.similarity(ROWS[:0], ROWS),
        Gives("no rows", nothing),
    ),
]
