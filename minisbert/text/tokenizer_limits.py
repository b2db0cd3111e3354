"""What a tokenizer.json may ask of the `tokenizers` library: checked before the library reads it.

None of what the file describes is code, but a rule can make a text a million times as long, a pattern can search forever,
pieces can be chosen at random, and very long pieces or very many added tokens cost far more memory than the file.
"""

import base64
import math
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from minisbert import limits
from minisbert.checkpoint.patterns import Slow, check_pattern
from minisbert.errors import ModelFolderError, folder_error


def _at_most(limit: int, found: float, what: str, file: Path | str, of: str = "") -> None:
    if found > limit:
        raise ModelFolderError(
            f"{file}: {what}. Expected at most {limit}{of}. The file is damaged or not a model's; download the model again."
        )


def steps_of(*parts: Any) -> list[dict[str, Any]]:
    """The steps of a normalizer and a pre-tokenizer in a tokenizer.json, those of nested sequences too."""
    steps, found = list(parts), []
    for step in steps:
        if isinstance(step, dict):
            found.append(step)
            for key in ("normalizers", "pretokenizers"):
                steps += step[key] if isinstance(step.get(key), list) else []
    return found


def check_limits(values: dict[str, Any], file: Path) -> None:
    """Check a tokenizer.json; what is malformed is left to the library's own complaint."""
    rules = steps_of(values.get("normalizer"), values.get("pre_tokenizer"))
    growth = math.prod(map(_growth, rules))
    if growth > limits.TEXT_GROWTH:
        found = f"normalizer and pre_tokenizer can make a text {growth:.3g} times as long"
        raise folder_error(file, found, f"at most {limits.TEXT_GROWTH} times", "do not use this model")
    _at_most(limits.RULES, len(rules), f"{len(rules)} rules of normalizer and pre_tokenizer", file)
    for rule in rules:
        pattern = rule.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, dict) else None
        try:
            if isinstance(regex, str):
                check_pattern(regex)
        except Slow as error:
            raise ModelFolderError(
                f"{file}: the pattern {regex!r:.100} {error}, so that one text could take for ever. Expected a pattern without "
                "that; do not use this model."
            ) from None
    added = values.get("added_tokens")
    if isinstance(added, list):
        check_added([token.get("content") if isinstance(token, dict) else None for token in added], file)
    model = values.get("model")
    if not isinstance(model, dict):
        return
    if model.get("dropout") not in (None, 0):
        raise ModelFolderError(
            f"{file}: the model's 'dropout' is {model['dropout']!r:.100}, which splits the same text differently each time. "
            "Expected null; correct the file."
        )
    if isinstance(vocabulary := model.get("vocab"), dict | list):
        check_pieces(vocabulary, file)


def check_added(contents: Collection[Any], file: Path | str) -> None:
    """Check the added tokens: the library searches for all of them together, with 100 bytes of memory per character."""
    length = sum(map(_length, contents))
    found = f"{len(contents)} added tokens of {length} characters together"
    _at_most(limits.ADDED_TOKENS, len(contents), found, file)
    _at_most(limits.ADDED_TOKENS * limits.PIECE_AVERAGE, length, found, file, " characters")


def check_pieces(vocabulary: dict[str, Any] | list[Any], file: Path) -> None:
    """Check the pieces of a vocabulary, piece -> id or a list of (piece, score)."""
    if isinstance(vocabulary, dict):  # of most models; its keys are strings, so no loop in Python is needed
        lengths = list(map(len, vocabulary))
    else:
        pieces = (one[0] if isinstance(one, list) and one else one for one in vocabulary)
        lengths = [len(piece) for piece in pieces if isinstance(piece, str)]
    longest, total = max(lengths, default=0), sum(lengths)
    _at_most(limits.PIECES, len(lengths), f"{len(lengths)} pieces", file)
    # The tokenizers library overflows its stack, and ends the process, over a piece of a hundred thousand characters.
    _at_most(limits.PIECE_LENGTH, longest, f"a piece of the vocabulary has {longest} characters", file)
    if isinstance(vocabulary, list):
        # The library keeps a list in a trie with a node of 300 bytes per character (Unigram).
        average = total / (len(lengths) + 1_000)
        found = f"the {len(lengths)} pieces of the vocabulary have {total} characters"
        _at_most(limits.PIECE_AVERAGE, average, found, file, " per piece")
        return
    ids = [number for number in vocabulary.values() if isinstance(number, int)]
    if len(set(ids)) < len(ids):
        ((number, _),) = Counter(ids).most_common(1)
        one, other, *_ = (piece for piece, own in vocabulary.items() if own == number)
        raise folder_error(file, f"the pieces {one!r:.100} and {other!r:.100} have one id, {number}", "an id for each")


def _growth(rule: dict[str, Any]) -> float:
    """How many times as long one rule can make a text."""
    kind = rule.get("type")
    if kind == "Replace":
        pattern = rule.get("pattern")
        found = pattern.get("String") if isinstance(pattern, dict) else None
        return max(1.0, _length(rule.get("content")) / max(1, _length(found)))
    if kind == "Prepend":
        return max(1.0, float(_length(rule.get("prepend"))))
    if kind == "ByteLevel":
        return 4.0  # each byte of a character becomes a character
    if kind == "Precompiled":
        return _longest_entry(rule.get("precompiled_charsmap"))
    return 1.0  # a Sequence, or a rule that makes nothing longer


def _length(text: Any) -> int:
    return len(text) if isinstance(text, str) else 0


def _longest_entry(charsmap: Any) -> float:
    """Length of the longest output of a sentencepiece map: a trie's size in four bytes, the trie, outputs ended by zeros."""
    try:
        blob = base64.b64decode(charsmap) if isinstance(charsmap, str) else b""
    except ValueError:
        return 1.0
    entries = blob[4 + int.from_bytes(blob[:4], "little") :].split(b"\0")
    return max(1.0, *(len(entry.decode("utf-8", "replace")) for entry in entries))
