"""Tokenize pairs of texts for a cross-encoder: two texts in one row of token ids.

    [CLS] A [SEP] B [SEP]        segment 0 up to the first [SEP], then 1       Devlin et al. 2019, section 3, figure 2
    <s> A </s> </s> B </s>       no segments                                   MPNet (and RoBERTa)

The family fixes the number of separators between the texts, whatever pair template tokenizer.json holds, as in transformers.
A pair that is too long loses tokens of its longer text ("longest first"); the counts say how many.
"""

from collections.abc import Sequence

import numpy as np

from minisbert.errors import InputError
from minisbert.text.tokenizer import Tokenizer
from minisbert.text.tokens import Tokens


class CrossEncoderTokenizer:
    """A tokenizer that puts two texts into one row.

    Args:
        tokenizer: of the model.
        separators: how many separators are between the texts (heads.py).
    """

    def __init__(self, tokenizer: Tokenizer, separators: int):
        self.tokenizer, self.separators = tokenizer, separators

    @property
    def special_tokens(self) -> int:
        """How many special tokens are around and between the two texts."""
        return len(self.tokenizer.prefix) + (self.separators + 1) * len(self.tokenizer.suffix)

    def tokenize(self, pairs: Sequence[tuple[str, str]], *, max_length: int) -> Tokens:
        """Token ids of each pair, at most `max_length` of them, special tokens included.

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
        before, after, cut = self.tokenizer.prefix, self.tokenizer.suffix, self.tokenizer.cut
        ids: list[list[int]] = []
        first_lengths: list[int] = []
        counts = np.empty((len(pairs), 3), np.int64)
        sides = [self.tokenizer.contents([pair[side] for pair in pairs]) for side in (0, 1)]
        for row, (a, b) in enumerate(zip(*sides, strict=True)):
            keep_a, keep_b = longest_first(len(a), len(b), room)
            first = before + cut(a, keep_a) + after
            ids.append(first + after * (self.separators - 1) + cut(b, keep_b) + after)
            first_lengths.append(len(first))
            counts[row] = len(a) + len(b) + around, len(ids[-1]), len(a) + len(b) - keep_a - keep_b
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
