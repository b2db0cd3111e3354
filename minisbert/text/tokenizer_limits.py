"""What a tokenizer.json may ask of the `tokenizers` library: checked before the library reads it.

The library runs what the file describes: rules that rewrite a text, splits by patterns, tokens put around it. None of that
is code, but a rule can make a text a million times as long, a pattern can search forever (patterns.py), pieces can be chosen
at random, and very long pieces or very many added tokens cost far more memory than the file.
"""

import base64
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from minisbert import limits
from minisbert.checkpoint.patterns import Slow, check_pattern
from minisbert.errors import ModelFolderError

_DAMAGED = "The file is damaged or not a model's; download the model again."


def check_limits(values: dict[str, Any], file: Path) -> None:
    """Check a tokenizer.json; what is malformed is left to the library's own complaint.

    Raises:
        ModelFolderError: rules that make texts much longer, too many rules, slow patterns, random pieces, pieces that crash
            the library or fill the memory, too many added tokens.
    """
    try:
        rules = [*_rules(values.get("normalizer")), *_rules(values.get("pre_tokenizer"))]
        growth = math.prod(map(_growth, rules))
    except RecursionError:
        rules, growth = [], math.inf
    if growth > limits.TEXT_GROWTH:
        raise ModelFolderError(
            f"{file}: normalizer and pre_tokenizer can make a text {growth:.3g} times as long. Expected at most "
            f"{limits.TEXT_GROWTH} times; do not use this model."
        )
    if len(rules) > limits.RULES:
        raise ModelFolderError(
            f"{file}: {len(rules)} rules of normalizer and pre_tokenizer. Expected at most {limits.RULES}. {_DAMAGED}"
        )
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
    vocabulary = model.get("vocab")
    check_pieces(vocabulary if isinstance(vocabulary, dict | list) else {}, file)


def check_added(contents: Collection[Any], file: Path | str) -> None:
    """Check the added tokens: the library searches for all of them together, with 100 bytes of memory per character.

    Raises:
        ModelFolderError: too many, or too long ones.
    """
    most, length = limits.ADDED_TOKENS * limits.PIECE_AVERAGE, sum(map(_length, contents))
    if len(contents) > limits.ADDED_TOKENS or length > most:
        raise ModelFolderError(
            f"{file}: {len(contents)} added tokens of {length} characters together. Expected at most {limits.ADDED_TOKENS} of "
            f"{most} characters. {_DAMAGED}"
        )


def check_pieces(vocabulary: dict[str, Any] | list[Any], file: Path) -> None:
    """Check the pieces of a vocabulary, piece -> id or a list of (piece, score).

    Raises:
        ModelFolderError: too many pieces, one that is too long, pieces of a list that are long on average, or two with one id.
    """
    if isinstance(vocabulary, dict):  # of most models; its keys are strings, so no loop in Python is needed
        lengths = list(map(len, vocabulary))
    else:
        pieces = (one[0] if isinstance(one, list) and one else one for one in vocabulary)
        lengths = [len(piece) for piece in pieces if isinstance(piece, str)]
    if len(lengths) > limits.PIECES:
        raise ModelFolderError(f"{file}: {len(lengths)} pieces. Expected at most {limits.PIECES}. {_DAMAGED}")
    if max(lengths, default=0) > limits.PIECE_LENGTH:
        # The tokenizers library overflows its stack, and ends the process, over a piece of a hundred thousand characters.
        raise ModelFolderError(
            f"{file}: a piece of the vocabulary has {max(lengths)} characters. Expected at most {limits.PIECE_LENGTH}. "
            f"{_DAMAGED}"
        )
    # The library keeps a list in a trie with a node of 300 bytes per character (Unigram).
    if isinstance(vocabulary, list) and sum(lengths) > limits.PIECE_AVERAGE * (len(lengths) + 1_000):
        raise ModelFolderError(
            f"{file}: the {len(lengths)} pieces of the vocabulary have {sum(lengths)} characters. Expected at most "
            f"{limits.PIECE_AVERAGE} per piece. {_DAMAGED}"
        )
    ids = [number for number in vocabulary.values() if isinstance(number, int)] if isinstance(vocabulary, dict) else []
    if isinstance(vocabulary, dict) and len(set(ids)) < len(ids):
        piece_of: dict[Any, str] = {}
        for piece, number in vocabulary.items():
            other = piece_of.setdefault(number if isinstance(number, int) else piece, piece)
            if other is not piece:
                raise ModelFolderError(
                    f"{file}: the pieces {other!r:.100} and {piece!r:.100} have one id, {number}. Expected an "
                    f"id for each. {_DAMAGED}"
                )


def _rules(step: Any) -> Iterator[dict[str, Any]]:
    """The rules of a sequence, nested ones too."""
    if isinstance(step, dict):
        yield step
        for key in ("normalizers", "pretokenizers"):
            for part in step[key] if isinstance(step.get(key), list) else ():
                yield from _rules(part)


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
