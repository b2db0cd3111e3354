"""Reads tokenizer.json without trusting it: checks what the `tokenizers` library would do before it does it.

The library runs what the file describes: rules that rewrite a text, splits by patterns, tokens put around it. None of that
is code, but a rule can make a text a million times as long, a pattern can search forever (the library gives up with a panic),
and pieces can be chosen at random.
"""

import base64
import math
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from minisbert import limits
from minisbert.checkpoint.settings import parse_json
from minisbert.errors import MinisbertError, ModelFolderError
from minisbert.text.tokenizer_config import TokenizerConfig, add_tokens, build, check_options, read_tokenizer_config


def read_tokenizer(
    files: Mapping[str, bytes], file: Path, model: Mapping[str, Any] | None, *, special_tokens: bool = True
) -> tuple[Any, TokenizerConfig | None]:
    """The `tokenizers.Tokenizer` of a tokenizer.json, with what the other files change in it, and those settings.

    Args:
        files: name -> content of the tokenizer's files.
        file: the path of tokenizer.json, for messages.
        model: config.json; None for a static model, whose tokenizer.json alone counts.
        special_tokens: check the special tokens that it puts around a text; False where the model uses none.

    Raises:
        ModelFolderError: not JSON, not a tokenizer; rules that make texts much longer; pieces chosen at random; special
            tokens that the vocabulary lacks.
    """
    import tokenizers

    content = files[file.name]
    values = parse_json(content, file)
    if isinstance(values, dict):
        _refuse_harm(values, file)
    try:
        backend = tokenizers.Tokenizer.from_buffer(content)
    except BaseException as error:
        raise refusal(error, ModelFolderError, f"{file}: not a tokenizer that the tokenizers library reads") from None
    for token, number in _placed_tokens(values.get("post_processor") or {}) if special_tokens else ():
        known = None if token is None else backend.token_to_id(token)
        if known != number:
            raise ModelFolderError(
                f"{file}: the post_processor puts the special token {token!r} as id {number} around a text, but in the "
                f"vocabulary it {'is not' if known is None else f'is {known}'}. Download the model again."
            )
    unknown = values["model"].get("unk_token")
    if unknown is not None and backend.token_to_id(unknown) is None:
        raise ModelFolderError(
            f"{file}: the unknown token {unknown!r:.100} is not in the vocabulary, so that no unknown word can be read. "
            "Download the model again."
        )
    if model is None:
        return backend, None
    config = read_tokenizer_config(files, file.parent, model, values)
    if not config.is_built:
        if config.name:
            check_options(config, backend)
        add_tokens(backend, config)
        return backend, config
    vocabulary, merges = (values["model"].get(key) for key in ("vocab", "merges"))
    pairs = merges and [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges]
    charsmap = next(_charsmaps(values.get("normalizer")), None)
    try:
        return build(config, vocabulary, pairs, backend.post_processor, charsmap), config
    except MinisbertError:
        raise
    except BaseException as error:
        raise refusal(error, ModelFolderError, f"{file}: not the tokenizer of {config.name}") from None


def _charsmaps(normalizer: Any) -> Iterator[bytes]:
    """sentencepiece's normalization maps in a tokenizer.json."""
    if isinstance(normalizer, dict):
        if normalizer.get("type") == "Precompiled":
            yield base64.b64decode(normalizer["precompiled_charsmap"])
        for part in normalizer.get("normalizers", ()):
            yield from _charsmaps(part)


def refusal(error: BaseException, kind: type[MinisbertError], what: str) -> MinisbertError:
    """The error to raise for one of the library; an interrupt is raised again.

    The library's panics do not derive from Exception; only their class's name tells them from interrupts.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return kind(f"{what} ({error!s:.300}). Expected a tokenizer that takes any text; download the model again.")


def _refuse_harm(values: dict[str, Any], file: Path) -> None:
    """No rules that make texts much longer, no random pieces, no pieces that crash the library."""
    try:
        growth = _growth(values.get("normalizer")) * _growth(values.get("pre_tokenizer"))
    except RecursionError:
        growth = math.inf
    if growth > limits.TEXT_GROWTH:
        raise ModelFolderError(
            f"{file}: normalizer and pre_tokenizer can make a text {growth:.3g} times as long. Expected at most "
            f"{limits.TEXT_GROWTH} times; do not use this model."
        )
    model = values.get("model")
    if not isinstance(model, dict):
        return  # left to the library's own complaint
    if model.get("dropout") not in (None, 0):
        raise ModelFolderError(
            f"{file}: the model's 'dropout' is {model['dropout']!r:.100}, which splits the same text differently each time. "
            "Expected null; correct the file."
        )
    vocabulary = model.get("vocab")
    longest = 0
    for piece in vocabulary if isinstance(vocabulary, dict | list) else ():
        text = piece[0] if isinstance(piece, list) and piece else piece
        longest = max(longest, len(text) if isinstance(text, str) else 0)
    if longest > limits.PIECE_LENGTH:
        # The tokenizers library overflows its stack, and ends the process, over a piece of a hundred thousand characters.
        raise ModelFolderError(
            f"{file}: a piece of the vocabulary has {longest} characters. Expected at most {limits.PIECE_LENGTH}. The file is "
            "damaged or not a model's; download the model again."
        )


def _growth(step: Any) -> float:
    """How many times as long one rule, or several in a row, can make a text."""
    if not isinstance(step, dict):
        return 1.0  # no rule; the library complains about a malformed one
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
    """Length of the longest output of a sentencepiece map: a trie's size in four bytes, the trie, outputs ended by zeros."""
    try:
        blob = base64.b64decode(charsmap) if isinstance(charsmap, str) else b""
    except ValueError:
        return 1.0
    entries = blob[4 + int.from_bytes(blob[:4], "little") :].split(b"\0")
    return max(1.0, *(len(entry.decode("utf-8", "replace")) for entry in entries))


def _placed_tokens(processor: dict[str, Any]) -> Iterator[tuple[str | None, int | None]]:
    """Each special token that a post-processor places, with the id it gives it; None where one of the two lacks."""
    kind = processor.get("type")  # the library has checked what each kind holds
    if kind == "Sequence":
        for part in processor["processors"]:
            yield from _placed_tokens(part)
    elif kind == "TemplateProcessing":
        for placed in processor["special_tokens"].values():
            yield from zip_longest(placed["tokens"], placed["ids"])
    elif kind in ("BertProcessing", "RobertaProcessing"):
        yield from (tuple(processor[key]) for key in ("cls", "sep"))
