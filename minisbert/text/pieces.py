"""Splits a long text where its tokens split too, so that it is tokenized piece by piece, and only as far as needed.

The tokenizers library takes 150 bytes per character. A text may be split before a space between two words if everything the
tokenizer does stays within words: then the tokens of the pieces, one after another, are those of the whole text. That holds for
the pre-tokenizers and normalizers in the tables below; with any other the text is not split.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from minisbert.text.tokenizer_classes import QWEN_SPLIT
from minisbert.text.tokenizer_limits import steps_of

# The pre-tokenizers that split at a space, and those that only look at neighbouring characters.
_SPLIT_AT_SPACES = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "ByteLevel", "Metaspace")
_PRE_TOKENIZERS = (*_SPLIT_AT_SPACES, "Punctuation", "Digits")
_NORMALIZERS = "BertNormalizer Lowercase NFC NFD NFKC NFKD StripAccents Nmt Precompiled Replace".split()
# Before a space with a letter or digit on both sides: no space is removed or joined there, and no accent belongs to it.
BOUNDARY = re.compile(r"(?<=[^\W_]) (?=[^\W_])")
_LOOK_BACK = 4_096


def splits_at_spaces(backend: Any) -> bool:
    """Whether the tokens of a text are those of its pieces, split at `BOUNDARY`; `backend`: a `tokenizers.Tokenizer`."""
    for token in backend.get_added_tokens_decoder().values():
        if re.search(r"\s", token.content) or (token.rstrip and token.content[-1:].isalnum()):
            return False  # it has a space, or takes the one after it
    rules, splits = (
        [step for step in steps_of(part and json.loads(part.__getstate__())) if step["type"] != "Sequence"]
        for part in (backend.normalizer, backend.pre_tokenizer)
    )
    known = all(split["type"] in _PRE_TOKENIZERS or _at_spaces(split) for split in splits)
    return known and any(map(_at_spaces, splits)) and all(map(_stays_in_words, rules))


def _stays_in_words(rule: dict[str, Any]) -> bool:
    found = rule.get("pattern", {}).get("String")
    return rule["type"] in _NORMALIZERS and (
        rule["type"] != "Replace" or (found is not None and not re.search(r"\s", found))
    )


def _at_spaces(split: dict[str, Any]) -> bool:
    if split["type"] == "Split":
        return bool(split["pattern"] == {"Regex": QWEN_SPLIT})
    whole = {"ByteLevel": "use_regex", "Metaspace": "split"}.get(split["type"])
    return split["type"] in _SPLIT_AT_SPACES and (whole is None or split.get(whole) is not False)


def pieces(text: str, size: int, *, from_end: bool = False) -> Iterator[str]:
    """The text in pieces of about `size` characters, split at `BOUNDARY`, the first or the last first; longer without one.

    Example:
        >>> list(pieces("one two three", 2)), list(pieces("one two three", 2, from_end=True))
        (['one', ' two', ' three'], [' three', ' two', 'one'])
    """
    start, end = 0, len(text)
    while from_end and end:
        start = _boundary_before(text, end - size)
        yield text[start:end]
        end = start
    while start < end:
        found = BOUNDARY.search(text, start + size)
        after = found.start() if found else end
        yield text[start:after]
        start = after


def _boundary_before(text: str, end: int) -> int:
    back = _LOOK_BACK
    while end > 0:
        start = max(0, end - back)
        if found := [match.start() for match in BOUNDARY.finditer(text, start, end + 2)]:
            return found[-1]
        if not start:
            break
        back *= 4
    return 0
