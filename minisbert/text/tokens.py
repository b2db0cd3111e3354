"""Token ids of several texts, with a count of the tokens that did not fit."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from minisbert.errors import InputError


class TokenCount(NamedTuple):
    """A text's tokens before and after truncation, special tokens included: `tokens == kept + dropped`."""

    tokens: int
    kept: int
    dropped: int


class Tokens(NamedTuple):
    """Tokenized sentences: ids after truncation, and the counts."""

    ids: list[list[int]]
    counts: np.ndarray  # int64 [sentences, 3]: tokens, kept, dropped
    first_lengths: Sequence[int] = ()  # of pairs of texts: how many tokens of each are the first text's (segment 0)

    def token_counts(self) -> list[TokenCount]:
        """The counts, a named row per sentence."""
        return [TokenCount(*row) for row in self.counts.tolist()]

    @property
    def truncated(self) -> int:
        """How many sentences lost tokens."""
        return int((self.counts[:, 2] > 0).sum())


def check_fit(name: str, chunks: Iterable[Tokens], max_length: int, purpose: str) -> None:
    """Check that nothing was cut.

    Args:
        name: of the argument that holds the texts.
        chunks: the tokens of all texts, a chunk at a time.
        purpose: what is done with the texts.

    Raises:
        InputError: naming the first text that does not fit.
    """
    for row, count in enumerate(count for tokens in chunks for count in tokens.token_counts()):
        if count.dropped:
            raise InputError(
                f"{name}[{row}] has {count.tokens} tokens, {count.dropped} more than max_seq_length {max_length}. Shorten "
                f"it, or pass on_truncate='warn' to {purpose} its beginning."
            )
