"""Sentences of many lengths -> a few rectangular shapes, as a stream.

XLA compiles one program per shape, so shapes are few: a sentence goes into the smallest of a fixed table of lengths
that holds it, which follows from its own length alone. Each length has a queue; a queue that holds a full batch is
sent off, so nothing waits for the whole corpus and memory stays flat. What is left at the end goes out as few batches,
filled up with shorter sentences and empty rows, or row by row if it is little: whichever costs least.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class ShapeTable:
    """Which rectangles there are: 16 of them up to 512 tokens, however long the sentences.

    Measured for all-MiniLM-L6-v2 on two cores: any batch of 500 to 2,000 tokens runs at the same rate, and from 192
    tokens on one row alone does too, so that a short queue of long texts never waits or wastes. The lengths are dense
    where sentences are (mean 13.6 tokens: 85 % of the table's tokens are real; with 16, 32, 64, ... it would be 68 %).

    Args:
        token_budget: tokens of a full batch, padding counted.
        lengths: padded lengths, rising; beyond the last they double.
        alone_from: from this length on a full batch is one row.
        single_lengths: where a sentence that is left over can go as one row.
        devices: how many compute a rectangle together: each has as many rows as one device alone would.
        start_tokens: starting a rectangle costs as much as computing so many tokens more. Measured: a row alone takes a
            twentieth (16 tokens) to a ninth (64) of the time of a full batch on two cores; an accelerator's is a guess.
    """

    token_budget: int = 1024
    lengths: tuple[int, ...] = (12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    alone_from: int = 192
    single_lengths: tuple[int, ...] = (16, 32, 64)
    devices: int = 1
    start_tokens: int = 40

    def length(self, tokens: int, max_positions: int) -> int:
        """The padded length of a sentence, at most `capacity`.

        Example:
            >>> [ShapeTable().length(tokens, 600) for tokens in (1, 12, 13, 500, 513)]
            [12, 12, 16, 512, 600]
        """
        return _next(self.lengths, tokens, max_positions)

    def rows(self, length: int) -> int:
        """Rows of a full batch of this length.

        Example:
            >>> [ShapeTable().rows(length) for length in (16, 128, 192)]
            [64, 8, 1]
        """
        return self.devices * (1 if length >= self.alone_from else max(1, self.token_budget // length))

    def single(self, tokens: int, max_positions: int) -> int:
        """The padded length of a sentence that goes as one row."""
        longer = tuple(length for length in self.lengths if length >= self.alone_from)
        return _next(tuple(sorted({*self.single_lengths, *longer})) or self.lengths, tokens, max_positions)

    def cost(self, rows: int, length: int) -> int:
        """What a rectangle costs, in tokens of one device.

        Example:
            >>> ShapeTable().cost(1, 16), ShapeTable().cost(64, 16)
            (56, 1064)
        """
        return rows // self.devices * length + self.start_tokens

    def all(self, max_positions: int) -> list[tuple[int, int]]:
        """Every (rows, length) up to `capacity` tokens.

        Example:
            >>> len(ShapeTable().all(512))
            16
        """
        full = {
            (self.rows(self.length(length, max_positions)), self.length(length, max_positions))
            for length in self.lengths
        }
        singles = {(self.devices, self.single(length, max_positions)) for length in self.lengths}
        return sorted(full | singles)


# An accelerator wants thousands of tokens at once; padding rows cost it little, another call much.
ACCELERATOR = ShapeTable(token_budget=32_768, alone_from=1 << 30, single_lengths=(16, 64, 512), start_tokens=4096)


def _next(lengths: Sequence[int], tokens: int, max_positions: int) -> int:
    for length in lengths:
        if tokens <= length:
            return min(length, max_positions)
    length = lengths[-1]
    while length < tokens:
        length *= 2
    return min(length, max_positions)


class Batch(NamedTuple):
    """One rectangle of tokens. Rows of it beyond `len(rows)` are filling and have length 0."""

    rows: list[int]  # which sentences
    token_ids_BL: np.ndarray  # int32
    lengths_B: np.ndarray  # int32


def batches(
    tokenized: Iterable[Sequence[int]],
    shapes: ShapeTable,
    *,
    padding_id: int,
    max_positions: int,
    batch_size: int | None = None,
) -> Iterator[Batch]:
    """Rectangles that together hold every sentence once, sent off as they fill.

    Args:
        tokenized: token ids, one sentence after the other.
        shapes: the rectangles there are.
        padding_id: what fills the rows.
        capacity: the longest row the model takes.
        batch_size: rows of a full rectangle, instead of the table's; each device has equally many.
    """
    if batch_size is not None:
        batch_size = -(-batch_size // shapes.devices) * shapes.devices
    queues: dict[int, list[tuple[int, Sequence[int]]]] = {}
    for row, ids in enumerate(tokenized):
        length = shapes.length(len(ids), max_positions)
        queue = queues.setdefault(length, [])
        queue.append((row, ids))
        if len(queue) == (batch_size or shapes.rows(length)):
            yield rectangle(queue, len(queue), length, padding_id)
            queue.clear()
    left = sorted(((length, queue) for length, queue in queues.items() if queue), reverse=True)
    yield from _last(left, shapes, padding_id, max_positions, batch_size)


def _last(
    left: list[tuple[int, list[tuple[int, Sequence[int]]]]],
    shapes: ShapeTable,
    padding_id: int,
    max_positions: int,
    batch_size: int | None,
) -> Iterator[Batch]:
    """What is left over, the longest first, as rectangles and single rows: the division that costs least.

    A queue goes whole, so that where its sentences go does not depend on their order.
    """
    n = len(left)
    # least[i]: of the queues from i on. Queue i goes row by row, or fills a rectangle together with those up to end[i].
    least, end = [0] * (n + 1), [0] * n
    for i in reversed(range(n)):
        length, queue = left[i]
        full = batch_size or shapes.rows(length)
        singles = (shapes.single(len(ids), max_positions) for _, ids in queue)
        least[i] = least[i + 1] + sum(shapes.cost(shapes.devices, single) for single in singles)
        rows = 0
        for j in range(i, n):
            rows += len(left[j][1])
            if rows <= full and shapes.cost(full, length) + least[j + 1] < least[i]:
                least[i], end[i] = shapes.cost(full, length) + least[j + 1], j + 1
    i = 0
    while i < n:
        length, queue = left[i]
        if end[i]:
            texts = [text for _, queue in left[i : end[i]] for text in queue]
            yield rectangle(texts, batch_size or shapes.rows(length), length, padding_id)
        else:
            for row, ids in queue:
                yield rectangle([(row, ids)], shapes.devices, shapes.single(len(ids), max_positions), padding_id)
        i = end[i] or i + 1


def rectangle(queue: Sequence[tuple[int, Sequence[int]]], B: int, L: int, padding_id: int) -> Batch:
    """Some sentences as one batch of B rows of L tokens."""
    token_ids_BL = np.full((B, L), padding_id, np.int32)
    lengths_B = np.zeros(B, np.int32)
    for b, (_, ids) in enumerate(queue):
        token_ids_BL[b, : len(ids)] = ids
        lengths_B[b] = len(ids)
    return Batch([row for row, _ in queue], token_ids_BL, lengths_B)
