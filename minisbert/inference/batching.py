"""Batching: texts of many lengths -> padded rectangles of a few fixed shapes, as a stream.

XLA compiles one program per shape, so shapes must be few. Each text is padded to the smallest length in a fixed table that
fits it, independently of other texts. Each length has a queue, and a full queue becomes a batch, so memory stays flat for any
number of texts. The texts left at the end are batched in the cheapest way: as a few batches, topped up with shorter texts and
padding rows, or row by row.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from minisbert.text.packing import PackedBatch

Queue = list[tuple[int, Sequence[int]]]  # (which text, its token ids)


@dataclass(frozen=True)
class ShapeTable:
    """The allowed batch shapes: 16 up to 512 tokens.

    Measured for all-MiniLM-L6-v2 on two cores: any batch of 480 to 2,000 tokens runs at the same rate, and from 192
    tokens on a single row does too, so long texts need not wait for others. Lengths are closer together where most sentences
    are (mean 13.6 tokens): 82 % of the tokens computed are real, against 68 % with 16, 32, 64, ...

    Args:
        token_budget: tokens per full batch, padding included. With 1,024, 20 sentences took 1.3 times as long (MiniLM, MPNet),
            and 2,000 no less.
        lengths: padded lengths, ascending; beyond the last they double.
        alone_from: from this length on, a full batch is one row.
        single_lengths: padded lengths below `alone_from` of a text in a batch of its own.
        devices: how many devices share a batch; each computes as many rows as one device would alone.
        fixed: False where a shape need not be compiled: a batch is then as long as its longest text and has no padding rows.
        start_tokens: starting a batch costs as much as computing this many tokens. Measured on two cores in float32, where
            two programs run at a time: calls of 10 to 16 sentences take 0.58 to 0.94 of the time that they take with 40. In
            other dtypes it is 40; for accelerators it is a guess.
        pack_from: float32 calls with this many texts pack the short ones if the encoder's `packing` is None: 128 sentences
            take 0.7 of the time, 500 take 0.85. Not all calls, since without packing an embedding is the same to the bit
            whatever else is in a batch of that shape.
    """

    token_budget: int = 512
    lengths: tuple[int, ...] = (12, 16, 20, 24, 40, 80, 128, 192, 256, 384, 512)
    alone_from: int = 192
    single_lengths: tuple[int, ...] = (16, 24, 32, 64, 128)
    devices: int = 1
    start_tokens: int = 14
    pack_from: int = 128
    fixed: bool = True

    def length(self, tokens: int, max_positions: int, *, alone: bool = False) -> int:
        """The padded length of a text, at most `max_positions`.

        Args:
            alone: the text gets a batch of its own.

        Example:
            >>> [ShapeTable().length(tokens, 600) for tokens in (1, 12, 13, 500, 513)]
            [12, 12, 16, 512, 600]
        """
        lengths = self._singles if alone else self.lengths
        for length in lengths:
            if tokens <= length:
                return min(length, max_positions)
        length = lengths[-1]
        while length < tokens:
            length *= 2
        return min(length, max_positions)

    @cached_property
    def _singles(self) -> tuple[int, ...]:
        longer = (length for length in self.lengths if length >= self.alone_from)
        return tuple(sorted({*self.single_lengths, *longer})) or self.lengths

    def rows(self, length: int) -> int:
        """Rows of a full batch of this length.

        Example:
            >>> [ShapeTable().rows(length) for length in (16, 128, 192)]
            [32, 4, 1]
        """
        return self.devices * (1 if length >= self.alone_from else max(1, self.token_budget // length))

    def cost(self, rows: int, length: int) -> int:
        """The cost of a batch, in tokens of one device.

        Example:
            >>> ShapeTable().cost(1, 16), ShapeTable().cost(32, 16)
            (30, 526)
        """
        return rows // self.devices * length + self.start_tokens

    def all(self, max_positions: int) -> list[tuple[int, int]]:
        """Every (rows, length) up to `max_positions` tokens.

        Example:
            >>> len(ShapeTable().all(512))
            16
        """
        lengths = {self.length(tokens, max_positions) for tokens in self.lengths}
        singles = {self.length(tokens, max_positions, alone=True) for tokens in self._singles}
        return sorted(
            {(self.rows(length), length) for length in lengths} | {(self.devices, length) for length in singles}
        )


# Accelerators need thousands of tokens per batch; padding rows are cheap there, extra calls are not.
ACCELERATOR = ShapeTable(
    token_budget=32_768,
    lengths=(12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512),
    alone_from=1 << 30,
    single_lengths=(16, 64, 512),
    start_tokens=4096,
    pack_from=1 << 62,
)
# In bfloat16 a TPU computes such rows side by side, in a third of the time (tpu.encode).
TPU_BFLOAT16 = replace(ACCELERATOR, lengths=(16, 32, 64, 128, 256, 512))


def shapes_for(platform: str, compute_dtype: str) -> ShapeTable:
    """The default batch shapes on one device of this kind.

    Example:
        >>> shapes_for("tpu", "bfloat16").length(20, 512), shapes_for("tpu", "float32").length(20, 512)
        (32, 20)
    """
    if platform == "cpu":
        return ShapeTable() if compute_dtype == "float32" else replace(ShapeTable(), start_tokens=40)
    return TPU_BFLOAT16 if (platform, compute_dtype) == ("tpu", "bfloat16") else ACCELERATOR


# NumPy takes any shape; texts of equal length make a batch without padding, which needs no mask.
_EVERY = (*range(1, 64), *range(64, 128, 4), *range(128, 513, 16))
ANY_SHAPE = ShapeTable(lengths=_EVERY, single_lengths=_EVERY, start_tokens=12, pack_from=1 << 62, fixed=False)


class Batch(NamedTuple):
    """One rectangle of tokens. Its rows beyond `len(rows)` are padding and have length 0."""

    rows: list[int]  # which texts
    token_ids_BL: np.ndarray  # int32
    lengths_B: np.ndarray  # int32


def batches(
    texts: Iterable[tuple[int, Sequence[int]] | PackedBatch],
    shapes: ShapeTable,
    *,
    padding_id: int,
    max_positions: int,
    batch_size: int | None = None,
) -> Iterator[Batch | PackedBatch]:
    """Yield batches that together contain every text once, each as soon as it is full.

    Args:
        texts: (number of the text, token ids) of each; or batches that are packed already, which come out as they are.
        max_positions: the longest row that the model accepts.
        batch_size: rows of a full batch instead of the table's, rounded up to a multiple of the devices.
    """
    if batch_size is not None:
        batch_size = -(-int(batch_size) // shapes.devices) * shapes.devices  # NumPy's small types would overflow
    queues: dict[int, Queue] = {}
    for text in texts:
        if isinstance(text, PackedBatch):
            yield text
            continue
        number, ids = text
        length = shapes.length(len(ids), max_positions)
        queue = queues.setdefault(length, [])
        queue.append((number, ids))
        if len(queue) == (batch_size or shapes.rows(length)):
            yield rectangle(queue, len(queue), length, padding_id, fixed=shapes.fixed)
            del queues[length]
    yield from _last(sorted(queues.items(), reverse=True), shapes, padding_id, max_positions, batch_size)


def _last(
    left: list[tuple[int, Queue]], shapes: ShapeTable, padding_id: int, max_positions: int, batch_size: int | None
) -> Iterator[Batch]:
    """Batches of the remaining texts, longest first: full batches or single rows, whichever cost least in total.

    A queue is never split, so the shape of a text's batch does not depend on the order of the texts.
    """
    n = len(left)
    # least[i]: the cost of the queues from i on. Queue i goes row by row, or fills a batch with those up to end[i].
    least, end = [0] * (n + 1), [0] * n
    for i in reversed(range(n)):
        length, queue = left[i]
        full = batch_size or shapes.rows(length)
        least[i] = least[i + 1]
        for _, ids in queue:
            least[i] += shapes.cost(shapes.devices, shapes.length(len(ids), max_positions, alone=True))
        rows = 0
        for j in range(i, n):
            rows += len(left[j][1])
            whole = shapes.cost(full if shapes.fixed else rows, length)
            if rows <= full and whole + least[j + 1] < least[i]:
                least[i], end[i] = whole + least[j + 1], j + 1
    i = 0
    while i < n:
        length, queue = left[i]
        if end[i]:
            together: Queue = []
            for _, shorter in left[i : end[i]]:
                together += shorter
            yield rectangle(together, batch_size or shapes.rows(length), length, padding_id, fixed=shapes.fixed)
        else:
            for number, ids in queue:
                alone = shapes.length(len(ids), max_positions, alone=True)
                yield rectangle([(number, ids)], shapes.devices, alone, padding_id, fixed=shapes.fixed)
        i = end[i] or i + 1


def rectangle(
    queue: Sequence[tuple[int, Sequence[int]]], B: int, L: int, padding_id: int, *, fixed: bool = True
) -> Batch:
    """Numbered texts as one batch of B rows of L tokens; not `fixed`: as few as hold the texts."""
    if not fixed:
        B, L = len(queue), max(1, max(len(ids) for _, ids in queue))
    token_ids_BL = np.full((B, L), padding_id, np.int32)
    lengths_B = np.zeros(B, np.int32)
    rows = []
    for b, (number, ids) in enumerate(queue):
        rows.append(number)
        token_ids_BL[b, : len(ids)] = ids
        lengths_B[b] = len(ids)
    return Batch(rows, token_ids_BL, lengths_B)
