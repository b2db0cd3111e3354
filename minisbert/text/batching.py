"""Sentences of many lengths -> a few rectangular shapes, as a stream.

XLA compiles one program per shape, so shapes are few: a sentence goes into the smallest of a fixed table of lengths
that holds it, which follows from its own length alone; its neighbours never change its shape. Each length has a queue;
a queue that holds a full batch is sent off, so nothing waits for the whole corpus and memory stays flat. A full batch
has as many rows as fit a constant budget of tokens. What is left at the end goes out row by row if it is little, or as
one batch filled up with empty rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Up to 512 tokens 8 lengths, each compiled for a full batch and for one row: at most 16 programs.
LENGTHS = (16, 32, 64, 96, 128, 256, 384, 512)


class Batch(NamedTuple):
    """One rectangle of tokens. Rows of it beyond `len(rows)` are filling and have length 0."""

    rows: list[int]  # which sentences
    token_ids_BL: np.ndarray  # int32
    lengths_B: np.ndarray  # int32


def bucket_length(tokens: int, capacity: int) -> int:
    """The padded length of a sentence of `tokens` tokens: the next of `LENGTHS`, then doubling, at most `capacity`.

    Example:
        >>> [bucket_length(tokens, 600) for tokens in (1, 16, 17, 500, 513)]
        [16, 16, 32, 512, 600]
    """
    for length in LENGTHS:
        if tokens <= length:
            return min(length, capacity)
    length = LENGTHS[-1]
    while length < tokens:
        length *= 2
    return min(length, capacity)


def full_rows(length: int, token_budget: int) -> int:
    """Rows of a full batch of this length."""
    return max(1, token_budget // length)


def batches(
    tokenized: Iterable[Sequence[int]],
    *,
    padding_id: int,
    capacity: int,
    token_budget: int,
    batch_size: int | None = None,
) -> Iterator[Batch]:
    """Rectangles that together hold every sentence once, sent off as they fill.

    Args:
        tokenized: token ids, one sentence after the other.
        padding_id: what fills the rows.
        capacity: the longest row the model takes.
        token_budget: tokens in a full rectangle, padding counted.
        batch_size: rows of a full rectangle, instead of the budget.
    """
    queues: dict[int, list[tuple[int, Sequence[int]]]] = {}
    for row, ids in enumerate(tokenized):
        length = bucket_length(len(ids), capacity)
        queue = queues.setdefault(length, [])
        queue.append((row, ids))
        if len(queue) == (batch_size or full_rows(length, token_budget)):
            yield _rectangle(queue, len(queue), length, padding_id)
            queue.clear()
    for length, queue in sorted(queues.items(), reverse=True):
        full = batch_size or full_rows(length, token_budget)
        # Measured: one row alone costs about an eighth to a fourth of a full batch of 1,024 tokens.
        if len(queue) > max(1, full // 8):
            yield _rectangle(queue, full, length, padding_id)
        else:
            for item in queue:
                yield _rectangle([item], 1, length, padding_id)


def _rectangle(queue: list[tuple[int, Sequence[int]]], B: int, L: int, padding_id: int) -> Batch:
    token_ids_BL = np.full((B, L), padding_id, np.int32)
    lengths_B = np.zeros(B, np.int32)
    for b, (_, ids) in enumerate(queue):
        token_ids_BL[b, : len(ids)] = ids
        lengths_B[b] = len(ids)
    return Batch([row for row, _ in queue], token_ids_BL, lengths_B)
