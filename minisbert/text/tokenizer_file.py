"""tokenizer.json, read without trusting it: what the `tokenizers` library would do for it is looked at first.

The library runs what the file describes: rules that rewrite a text, splits by patterns, tokens put around it. None of
that is code, but a rule can make a text a million times as long, a pattern can search for ever (the library gives up, by
a panic), and tokens can be drawn by lot.
"""

import base64
import math
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from minisbert import limits
from minisbert.checkpoint.settings import read_json
from minisbert.errors import MinisbertError, ModelFolderError


def read_tokenizer(file: Path, *, special_tokens: bool = True) -> Any:
    """The `tokenizers.Tokenizer` of a tokenizer.json.

    Args:
        special_tokens: whether those that it puts around a text must be right; some models use none.

    Raises:
        ModelFolderError: not JSON, not a tokenizer; rules that make texts much longer; tokens drawn at random; special
            tokens that the vocabulary has not.
    """
    import tokenizers

    content = read_json(file)  # size and JSON first, for a clear message
    if isinstance(content, dict):
        _refuse_growth(content, file)
        _refuse_chance(content, file)
        _refuse_long_pieces(content, file)
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except BaseException as error:
        raise refusal(error, ModelFolderError, f"{file}: not a tokenizer that the tokenizers library reads") from None
    for token, number in _placed_tokens(content.get("post_processor") or {}) if special_tokens else ():
        known = None if token is None else backend.token_to_id(token)
        if known != number:
            raise ModelFolderError(
                f"{file}: the post_processor puts the special token {token!r} as id {number} around a text, but in the "
                f"vocabulary it {'is not' if known is None else f'is {known}'}. Fetch the model again."
            )
    unknown = content["model"].get("unk_token")
    if unknown is not None and backend.token_to_id(unknown) is None:
        raise ModelFolderError(
            f"{file}: the unknown token {unknown!r:.100} is not in the vocabulary, so that no other word could be read. "
            "Fetch the model again."
        )
    return backend


def refusal(error: BaseException, kind: type[MinisbertError], what: str) -> MinisbertError:
    """What to raise for an error of the library; what is none of it (an interrupt) is raised again.

    The library's panics are no Exception, and only their name tells them from others.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return kind(f"{what} ({error!s:.300}). Expected a tokenizer that takes any text; fetch the model again.")


# --- rules that make a text longer ---------------------------------------------------------------------------------


def _refuse_growth(content: dict[str, Any], file: Path) -> None:
    try:
        growth = _growth(content.get("normalizer")) * _growth(content.get("pre_tokenizer"))
    except RecursionError:
        growth = math.inf
    if growth > limits.TEXT_GROWTH:
        raise ModelFolderError(
            f"{file}: normalizer and pre_tokenizer can make a text {growth:.3g} times as long. Expected at most "
            f"{limits.TEXT_GROWTH} times; do not use this model."
        )


def _growth(step: Any) -> float:
    """How many times as long one rule can make a text, or several in a row."""
    if not isinstance(step, dict):
        return 1.0  # none; what is malformed is left to the library
    kind = step.get("type")
    if kind == "Sequence":
        parts = step.get("normalizers", step.get("pretokenizers"))
        return math.prod(map(_growth, parts)) if isinstance(parts, list) else 1.0
    if kind == "Replace":
        pattern = step.get("pattern")
        found = pattern.get("String") if isinstance(pattern, dict) else None
        return max(1.0, _length(step.get("content")) / max(1, _length(found)))
    if kind == "Prepend":
        return max(1.0, float(_length(step.get("prepend"))))
    if kind == "ByteLevel":
        return 4.0  # each byte of a character becomes a character
    if kind == "Precompiled":
        return _longest_entry(step.get("precompiled_charsmap"))
    return 1.0


def _length(text: Any) -> int:
    return len(text) if isinstance(text, str) else 0


def _longest_entry(charsmap: Any) -> float:
    """Of a sentencepiece map: four bytes that give the size of a trie, the trie, then what it maps to, ended by zeros."""
    try:
        blob = base64.b64decode(charsmap) if isinstance(charsmap, str) else b""
    except ValueError:
        return 1.0
    entries = blob[4 + int.from_bytes(blob[:4], "little") :].split(b"\0")
    return max(1.0, *(len(entry.decode("utf-8", "replace")) for entry in entries))


# --- tokens --------------------------------------------------------------------------------------------------------


def _refuse_chance(content: dict[str, Any], file: Path) -> None:
    model = content.get("model")
    chance = model.get("dropout") if isinstance(model, dict) else None
    if chance not in (None, 0):
        raise ModelFolderError(
            f"{file}: the model's 'dropout' is {chance!r:.100}, which splits a text otherwise each time. Expected null; set "
            "it so."
        )


def _refuse_long_pieces(content: dict[str, Any], file: Path) -> None:
    """The tokenizers library overflows its stack, and ends the process, over a piece of a hundred thousand characters."""
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict | list):
        return  # left to the library's own complaint
    pieces = (piece[0] if isinstance(piece, list) and piece else piece for piece in vocabulary)
    longest = max((len(piece) for piece in pieces if isinstance(piece, str)), default=0)
    if longest > limits.PIECE_LENGTH:
        raise ModelFolderError(
            f"{file}: a piece of the vocabulary has {longest} characters. Expected at most {limits.PIECE_LENGTH}; the file is "
            "damaged or not a model's; fetch the model again."
        )


def _placed_tokens(processor: dict[str, Any]) -> Iterator[tuple[str | None, int | None]]:
    """Each special token that a post-processor of tokenizer.json places, with the id it gives it; None where one lacks."""
    kind = processor.get("type")  # the library has checked what each kind holds
    if kind == "Sequence":
        for part in processor["processors"]:
            yield from _placed_tokens(part)
    elif kind == "TemplateProcessing":
        for placed in processor["special_tokens"].values():
            yield from zip_longest(placed["tokens"], placed["ids"])
    elif kind in ("BertProcessing", "RobertaProcessing"):
        yield from (tuple(processor[key]) for key in ("cls", "sep"))
