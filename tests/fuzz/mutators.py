"""Ways to spoil a file: of bytes, of JSON, of lines, of safetensors. Each is a function (content, random) -> content.

The same random numbers give the same file. What knows a format (JSON values swapped for hostile ones, a header that lies
about its length) gets further into a reader than flipped bits do.
"""

import json
import random
import struct
from collections.abc import Callable
from copy import deepcopy
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]

# What readers trip over: edges of number types, no numbers at all, text that is not text, paths, code.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, -(2**63), 2**64, 10**400),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf")),
    *(
        "",
        " ",
        "a",
        "0",
        "\0",
        "\n",
        "\ud800",
        "\udfff",
        "\u2028",
        "é",
        "../x",
        "/dev/zero",
        "..",
        ".",
        "C:\\x",
        "x" * 5000,
    ),
    *("__import__('os').abort()", "{i}", "%s%n", "mean", "[CLS]", "##a", "(a+)+$"),
    *([], {}, [[]], [None], {"": None}, [0, 0], [-1, 1], [2**40, 2**40], {"type": "x"}),
)
BYTES = (b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc0\x80", b"\xed\xa0\x80", b"\r", b"\r\n", b"\n", b"\t", b'"')
LENGTHS = (0, 1, 7, 8, 9, 100, 2**16, 2**31 - 1, 2**31, 2**32, 99_999_999, 100_000_001, 2**62, 2**63, 2**64 - 1)


def flip(content: bytes, rng: random.Random) -> bytes:
    """A few bits are the other way."""
    spoiled = bytearray(content or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8))):
        spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
    return bytes(spoiled)


def put(content: bytes, rng: random.Random) -> bytes:
    """Awkward bytes are inserted, or replace others."""
    at, piece = rng.randint(0, len(content)), rng.choice(BYTES) * rng.choice((1, 1, 2, 100))
    return content[:at] + piece + content[at + rng.choice((0, len(piece))) :]


def cut(content: bytes, rng: random.Random) -> bytes:
    """The end is missing, or the beginning, or something between."""
    a, b = sorted(rng.randint(0, len(content)) for _ in range(2))
    return rng.choice((content[:a], content[a:], content[:a] + content[b:]))


def splice(content: bytes, rng: random.Random) -> bytes:
    """A piece of the file stands somewhere else too, a few times."""
    a, b, at = (rng.randint(0, len(content)) for _ in range(3))
    return content[:at] + content[min(a, b) : max(a, b)] * rng.choice((1, 1, 3)) + content[at:]


def lengthen(content: bytes, rng: random.Random) -> bytes:
    """Something follows."""
    return content + rng.choice((b"\0", b"x", b"\n", content[:64], bytes(5000)))


BINARY: tuple[Mutator, ...] = (flip, flip, put, cut, splice, lengthen)


# --- JSON ----------------------------------------------------------------------------------------------------------


def swap(content: bytes, rng: random.Random) -> bytes:
    """Values and keys of a JSON file are hostile ones, each other's, doubled or gone."""
    try:
        tree = json.loads(content)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            tree = _swapped(tree, rng)
        text = json.dumps(tree, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):  # spoiled already, or nested deeply
        return flip(content, rng)
    return _doubled_key(text, rng) if rng.random() < 0.05 else text


def nest(content: bytes, rng: random.Random) -> bytes:
    """Something is nested deeply."""
    depth = rng.choice((60, 130, 900, 3000, 100_000))
    inner = rng.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth))
    places = [i for i, byte in enumerate(content) if byte in b":,["]
    at = rng.choice(places) + 1 if places else 0
    return content[:at] + inner + rng.choice((b",", b"")) + content[at:]


def _swapped(tree: Any, rng: random.Random) -> Any:
    # Copies throughout: what stands twice in a tree could be put into itself.
    places = _places(tree)
    if not places:
        return deepcopy(rng.choice(VALUES))
    holder, key = rng.choice(places)
    way = rng.random()
    if way < 0.55:
        holder[key] = _hostile(holder[key], rng)
    elif way < 0.7:
        other, other_key = rng.choice(places)
        holder[key] = deepcopy(other[other_key])
    elif way < 0.85:
        del holder[key]
    elif isinstance(holder, dict):
        name = rng.choice([value for value in VALUES if isinstance(value, str)] + [str(k) for h, k in places[:40]])
        holder[name] = deepcopy(holder[key]) if rng.random() < 0.5 else holder.pop(key)
    else:
        holder.insert(key, deepcopy(rng.choice(VALUES)))
    return tree


def _hostile(value: Any, rng: random.Random) -> Any:
    near = rng.random()
    if type(value) is int and near < 0.5:
        return rng.choice(
            (value + 1, value - 1, -value, 2 * value, value * 1000, 1000, 10**7, float(value % 2**53), str(value))
        )
    if isinstance(value, str) and near < 0.3:
        return rng.choice((value.upper(), value + "x", value[:-1], "../" + value, value + "\0", [value], "/" + value))
    if isinstance(value, list) and near < 0.3:
        times = 3 if any(isinstance(item, dict | list) for item in value) else 1 + 4000 // (len(value) + 1)
        return deepcopy(rng.choice((value * 2, value[::-1], value[1:], [value], value * times)))
    return deepcopy(rng.choice(VALUES))


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) of a JSON tree."""
    places: list[tuple[Any, Any]] = []
    holders = [tree]
    while holders:
        holder = holders.pop()
        if isinstance(holder, dict | list):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            places += [(holder, key) for key in keys]
            holders += holder.values() if isinstance(holder, dict) else holder
    return places


def _doubled_key(text: bytes, rng: random.Random) -> bytes:
    opens = [i for i, byte in enumerate(text) if byte == ord("{") and text[i + 1 : i + 2] == b'"']
    if not opens:
        return text
    at = rng.choice(opens) + 1
    key = text[at : text.index(b'"', at + 1) + 1]
    return text[:at] + key + b": " + rng.choice((b"1", b"null", b'"a"')) + b", " + text[at:]


JSON: tuple[Mutator, ...] = (swap, swap, swap, swap, swap, nest, flip, put, cut, splice)


# --- lines ---------------------------------------------------------------------------------------------------------


def lines(content: bytes, rng: random.Random) -> bytes:
    """Lines are gone, doubled, empty, at another place, with a cell more or less, ended otherwise."""
    rows = content.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, way = rng.randrange(len(rows)), rng.randrange(6)
        if way == 0 and len(rows) > 1:
            del rows[at]
        elif way == 1:
            rows.insert(at, rows[rng.randrange(len(rows))])
        elif way == 2:
            rows[at] = rng.choice((b"", b"\t", b"null", b"{}", b"[]", b'"', b"\r", b"\0", b"1e999", b"x" * 200_000))
        elif way == 3:
            rows[at] += rng.choice((b"\t", b"\tx", b"\r", b" ", b'"', b"\xff"))
        elif way == 4:
            rows[at] = b"\t".join(rows[at].split(b"\t")[: rng.randint(0, 2)])
        else:
            rows[at] = swap(rows[at], rng)
    return rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r")).join(rows)


LINES: tuple[Mutator, ...] = (lines, lines, lines, flip, put, cut, splice)


# --- safetensors: 8 bytes of header length, a JSON header, the numbers ---------------------------------------------


def lie(content: bytes, rng: random.Random) -> bytes:
    """The header's length is another than the file says."""
    said = int.from_bytes(content[:8], "little")
    length = rng.choice((*LENGTHS, said + 1, said - 1, said + 8, len(content), len(content) - 8, rng.getrandbits(64)))
    return struct.pack("<Q", length % 2**64) + content[8:]


def header(content: bytes, rng: random.Random) -> bytes:
    """The header's JSON is spoiled, its length is right."""
    size = int.from_bytes(content[:8], "little")
    text = rng.choice((swap, swap, swap, nest, flip))(content[8 : 8 + size], rng)
    if rng.random() < 0.5:
        text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


SAFETENSORS: tuple[Mutator, ...] = (header, header, header, header, lie, *BINARY)


def mutated(starts: list[bytes], mutators: tuple[Mutator, ...], rng: random.Random) -> bytes:
    """One of the good files after one or more mutations; never longer than two megabytes."""
    content = rng.choice(starts)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(mutators)(content, rng)[:2_000_000]
    return content
