"""Which regular expressions of a tokenizer.json are allowed: those whose search time cannot explode.

The engine (Oniguruma) backtracks. The number of ways to match explodes where something is repeated that itself matches
in several ways, as in (a+)+b, and grows as n^k with k repetitions in a row before something that can fail, as in a*a*b.
Published tokenizers have neither, so both are refused; so are back-references and recursion.
"""

from typing import NamedTuple

LENGTH = 5_000  # characters of a pattern
REPEATS = 1_000  # of a fixed number of repetitions, nested ones multiplied
OPTIONALS = 8  # optional parts in a row before something that can fail
_OPENINGS = ("?:", "?=", "?!", "?<=", "?<!", "?>")
_LOOKS = _OPENINGS[1:5]


class _Part(NamedTuple):
    """What a part of a pattern can cost."""

    wide: int = 0  # repetitions of many lengths
    optional: int = 0  # parts that are there or not
    required: bool = True  # can fail
    ways: bool = False  # matches in several ways
    repeats: int = 1


class Slow(ValueError):
    """A pattern that is refused; the message says why."""


def check_pattern(pattern: str) -> None:
    """Raises Slow for a pattern whose search time can explode, or that cannot be judged.

    Example:
        >>> check_pattern(r" ?[^\\s\\d]+[\\r\\n]*|\\s+(?!\\S)")
        >>> check_pattern("(a+)+b")
        Traceback (most recent call last):
        minisbert.checkpoint.patterns.Slow: repeats a group that matches in several ways
    """
    if len(pattern) > LENGTH:
        raise Slow(f"has {len(pattern)} characters, more than {LENGTH}")
    try:
        _, end = _alternatives(pattern, 0)
    except (IndexError, RecursionError):
        raise Slow("ends too early, or is nested too deeply") from None
    if end < len(pattern):
        raise Slow("closes a group that was not opened")


def _alternatives(pattern: str, at: int) -> tuple[_Part, int]:
    """The pattern up to the end of its group, and where that is."""
    branches: list[_Part] = []
    parts: list[_Part] = []
    while True:
        end = at == len(pattern) or pattern[at] == ")"
        if end or pattern[at] == "|":
            branches.append(_sequence(parts))
            parts, at = [], at + (not end)
            if end:
                break
        else:
            part, at = _atom(pattern, at)
            part, at = _repeated(part, pattern, at)
            parts.append(part)
    wide, optional, required, ways, repeats = zip(*branches, strict=True)
    ways_here = len(branches) > 1 or any(ways)
    choices = (len(branches) - 1).bit_length()  # 2^n ways, as n optional parts have
    return _Part(max(wide), max(optional) + choices, all(required), ways_here, max(repeats)), at


def _sequence(parts: list[_Part]) -> _Part:
    """Parts in a row. Only those before something that can fail are tried in their other ways."""
    last = max((place for place, part in enumerate(parts) if part.required), default=0)
    before = parts[:last]
    if sum(part.wide for part in before) > 1 or sum(part.optional for part in before) > OPTIONALS:
        raise Slow("has several repetitions in a row before something that can fail")
    return _Part(
        sum(part.wide for part in parts),
        sum(part.optional for part in parts),
        any(part.required for part in parts),
        any(part.ways for part in parts),
        max((part.repeats for part in parts), default=1),
    )


def _atom(pattern: str, at: int) -> tuple[_Part, int]:
    """One character, class, escape or group."""
    first = pattern[at]
    if first == "(":
        return _group(pattern, at + 1)
    if first == "[":
        return _Part(), _class_end(pattern, at)
    if first == "\\":
        letter = pattern[at + 1]
        if letter in "123456789kgRXK":
            raise Slow(f"has the reference or operator \\{letter}")
        at += 2
        if at < len(pattern) and pattern[at] == "{" and letter in "pPxouN":
            at = pattern.index("}", at) + 1 if "}" in pattern[at:] else len(pattern)
        return _Part(), at
    return _Part(), at + 1


def _group(pattern: str, at: int) -> tuple[_Part, int]:
    opening = ""
    if pattern[at] == "?":
        opening = next((one for one in sorted(_OPENINGS, key=len, reverse=True) if pattern.startswith(one, at)), "")
        if not opening:  # flags: (?i:...) and (?i)
            end = at + 1
            while pattern[end] in "ims-":
                end += 1
            if pattern[end] not in ":)":
                raise Slow(f"has a group that opens with ({pattern[at : end + 1]}")
            opening = pattern[at : end + (pattern[end] == ":")]
    inside, end = _alternatives(pattern, at + len(opening))
    if pattern[end] != ")":
        raise IndexError
    return (_Part() if opening in _LOOKS else inside), end + 1


def _class_end(pattern: str, at: int) -> int:
    """Where a [class] ends; Oniguruma's classes can be nested."""
    depth, start = 0, at
    while True:
        one = pattern[at]
        if one == "\\":
            at += 1
        elif one == "[":
            depth, start = depth + 1, at
        elif one == "]" and pattern[start + 1 : at] not in ("", "^"):  # a first ] is a character
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1


def _repeated(part: _Part, pattern: str, at: int) -> tuple[_Part, int]:
    """The part with the quantifiers that follow it."""
    while at < len(pattern) and pattern[at] in "?*+{":
        least, most, at = _quantifier(pattern, at)
        if most is None or most - least > 3:
            if part.ways:
                raise Slow("repeats a group that matches in several ways")
            part = part._replace(wide=part.wide + 1, ways=True)
        elif most > least:
            part = part._replace(optional=part.optional + (most - least) * max(1, part.optional), ways=True)
        elif part.ways and most > 1:
            part = part._replace(wide=part.wide * most, optional=part.optional * most)
        part = part._replace(required=part.required and least > 0, repeats=part.repeats * max(1, most or least))
        if part.repeats > REPEATS:
            raise Slow(f"repeats something {part.repeats} times")
        if at < len(pattern) and pattern[at] in "?+":  # lazy, possessive
            at += 1
    return part, at


def _quantifier(pattern: str, at: int) -> tuple[int, int | None, int]:
    """The least and most repetitions, and where the quantifier ends; {} without numbers is text."""
    simple: dict[str, tuple[int, int | None]] = {"?": (0, 1), "*": (0, None), "+": (1, None)}
    if pattern[at] in simple:
        return *simple[pattern[at]], at + 1
    end = pattern.find("}", at)
    low, comma, high = pattern[at + 1 : end].partition(",")
    if end < 0 or not all(number.isdecimal() or (comma and not number) for number in (low, high or low)):
        return 1, 1, at + 1
    least = int(low or 0)
    return least, (int(high) if high else None) if comma else least, end + 1
