"""Tokenize pairs of texts for a cross-encoder: two texts in one row of token ids.

    [CLS] A [SEP] B [SEP]        segment 0 up to the first [SEP], then 1       Devlin et al. 2019, section 3, figure 2
    <s> A </s> </s> B </s>       no segments                                   RoBERTa, MPNet

The tokenizer's pair template says which special tokens are around and between the texts, and which tokens are segment 1.
A pair that is too long loses tokens of its longer text ("longest first"); the counts say how many.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from minisbert.errors import InputError, ModelFolderError
from minisbert.text.tokenizer import Tokenizer, Tokens

Pairs = Sequence[tuple[str, str]] | tuple[str, str]


class CrossEncoderTokenizer:
    """A tokenizer that puts two texts into one row.

    Raises:
        ModelFolderError: a pair template other than A, then B, with special tokens around and between them.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        (first, a, _), (second, b, _) = islice(tokenizer.samples(), 2)
        pair = tokenizer.backend.encode(first, second)
        self.before = tokenizer.prefix
        start = len(self.before) + len(a)
        end = start + (*pair.special_tokens_mask[start:], 0).index(0)
        self.between, self.after = pair.ids[start:end], pair.ids[end + len(b) :]
        parts = (*self.before, *a, *self.between, *b, *self.after)
        if (*pair.ids,) != parts:
            raise ModelFolderError(
                f"{tokenizer.where}: the tokenizer reads the pair of {first!r} and {second!r} as {pair.ids}, the texts alone "
                f"as {a} and {b}. Expected the first text, then the second, with special tokens around and between; use "
                "another model."
            )
        # Whether the model gets to know which text a token is of.
        self.segments = tokenizer.token_types and 1 in pair.type_ids
        # How many of the tokens between the texts are the first text's.
        self.first_between = pair.type_ids[start:].index(1) if self.segments else min(1, len(self.between))
        if self.segments and (pair.type_ids != sorted(pair.type_ids) or self.first_between > len(self.between)):
            raise ModelFolderError(
                f"{tokenizer.where}: a pair has the segments {pair.type_ids}. Expected 0 for the first text and 1 for the "
                "second; use another model."
            )

    @property
    def special_tokens(self) -> int:
        """How many special tokens are around and between the two texts."""
        return len(self.before) + len(self.between) + len(self.after)

    def tokenize(
        self, pairs: Sequence[tuple[str, str]], *, max_length: int, prompt: str = "", exact: bool = True
    ) -> Tokens:
        """Token ids of each pair, at most `max_length` of them, special tokens included.

        Args:
            prompt: put before the first text of each.
            exact: as for `Tokenizer.tokenize`; without it the ids are the same.

        Raises:
            InputError: an item is not text, or `max_length` leaves no room for a token of each text.
        """
        around = self.special_tokens
        room = max_length - around
        if room < 2:
            raise InputError(
                f"max_seq_length is {max_length}, but this model puts {around} special tokens around each pair. Expected "
                f"at least {around + 2}."
            )
        cut = self.tokenizer.cut
        ids: list[list[int]] = []
        first_lengths: list[int] = []
        counts = np.empty((len(pairs), 3), np.int64)
        options: Any = {"room": room, "exact": exact}
        first = self.tokenizer.contents([pair[0] for pair in pairs], prompt, **options)
        second = self.tokenizer.contents([pair[1] for pair in pairs], **options)
        for row, ((a, length_a), (b, length_b)) in enumerate(zip(first, second, strict=True)):
            if not exact and room % 2 and min(length_a, length_b) > room:  # which is longer decides on the odd token
                ((_, length_a),) = self.tokenizer.contents([pairs[row][0]], prompt, room=room)
                ((_, length_b),) = self.tokenizer.contents([pairs[row][1]], room=room)
            keep_a, keep_b = longest_first(length_a, length_b, room)
            ids.append([*self.before, *cut(a, keep_a), *self.between, *cut(b, keep_b), *self.after])
            first_lengths.append(len(self.before) + keep_a + self.first_between)
            counts[row] = length_a + length_b + around, len(ids[-1]), length_a + length_b - keep_a - keep_b
        return Tokens(ids, counts, first_lengths)


def longest_first(a: int, b: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts fit in `room`: the longer text is cut until both are equally long.

    If both are cut, the odd token goes to the longer text, or of equally long ones to the second, as in the tokenizers library.

    Example:
        >>> [longest_first(a, b, 7) for a, b in [(3, 4), (2, 9), (9, 2), (9, 8), (8, 9), (8, 8)]]
        [(3, 4), (2, 5), (5, 2), (4, 3), (3, 4), (3, 4)]
    """
    if a + b <= room:
        return a, b
    short = min(a, b, room // 2)
    return (room - short, short) if a > b else (short, room - short)
