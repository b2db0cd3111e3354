"""Packs several texts into each row of a batch, so that little padding is computed.

With one text per row a training batch of 64 SNLI pairs has 2.2 computed tokens per real token; packed, 1.1. For packing to
change only the speed,

    a token attends only to tokens of its own text     `segmentation_PL`, which text of the row a token belongs to
    its position counts from the start of its text     `position_PL`
    pooling takes each text separately                 `SentenceModel.packed`, `CrossEncoderModel.packed`

Letters: P packed rows, T slots of a row (one text each), L tokens of a row.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

# A row has the first of these lengths that holds the longest text; each is twice the one before, and so beyond the last.
ROW_LENGTHS = (64, 128, 256, 512)
# A row has one slot per 4 tokens, [CLS] and [SEP] included.
TOKENS_PER_SLOT = 4
# Texts are packed once they fill this many batches: more texts fit better, but wait longer.
WINDOW = 4
Array = Any  # NumPy's when made, JAX's inside a compiled step


class PackedTexts(NamedTuple):
    """P rows of L tokens with up to T texts each."""

    token_ids_PL: Array  # int32
    position_PL: Array  # int32, a token's position in its own text
    segmentation_PL: Array  # int32, which text of the row a token belongs to; -1 = padding
    lengths_PT: Array  # int32, tokens of each text; 0 = no text in this slot
    prompts_PT: Array  # int32, tokens of a text's prompt, which some models leave out of the pooling
    first_lengths_PT: Array  # int32, tokens of a pair's first text; all tokens of a single text

    def pad_to(self, rows: int, length: int, padding_id: int) -> "PackedTexts":
        """The same texts in more and longer rows, padded as `pack` pads."""
        (P, L), T = self.token_ids_PL.shape, self.lengths_PT.shape[1]

        def pad(array: Array, columns: int, value: int = 0) -> Array:
            return np.pad(array, [(0, rows - P), (0, columns - array.shape[1])], constant_values=value)

        token_ids_PL, position_PL, segmentation_PL, *per_text = self
        return PackedTexts(
            pad(token_ids_PL, length, padding_id),
            pad(position_PL, length),
            pad(segmentation_PL, length, -1),
            *(pad(array, T * length // L) for array in per_text),
        )


def pack(
    texts: Sequence[Sequence[int]],
    *,
    padding_id: int,
    prompt_lengths: Sequence[int] | None = None,
    first_lengths: Sequence[int] | None = None,
    multiple: int = 1,
) -> tuple[PackedTexts, np.ndarray]:
    """Token ids of texts -> packed rows, and where each text went: row * T + slot, `[len(texts)]`.

    Best fit, longest first: each text goes into the fullest row that still holds it.

    Args:
        prompt_lengths: tokens of each text's prompt.
        first_lengths: tokens of the first text, where each text is a pair.
        multiple: the number of rows is a multiple of this (devices).

    Example:
        >>> rows, where = pack([[5, 6, 7], [8, 9]], padding_id=0)
        >>> rows.token_ids_PL.shape, rows.segmentation_PL[0, :6].tolist(), where.tolist()
        ((1, 64), [0, 0, 0, 1, 1, -1], [0, 1])
    """
    lengths = list(map(len, texts))
    L = _row_length(max(lengths, default=1))
    rows = _best_fit(lengths, L, L // TOKENS_PER_SLOT)
    P = _rounded(len(rows), multiple)
    return _filled(texts, rows, P, L, padding_id, prompt_lengths, first_lengths)


class PackedBatch(NamedTuple):
    """Packed rows for encoding, and where each text is in them."""

    rows: list[int]  # which sentences
    texts: PackedTexts
    where: np.ndarray  # int32, each sentence's row * T + slot


def packed_batches(
    tokenized: Iterable[Sequence[int]], *, tokens: int, padding_id: int, prompt_length: int = 0, devices: int = 1
) -> Iterator["PackedBatch | tuple[int, Sequence[int]]"]:
    """A stream of texts -> batches of full rows, all of the shape `stream_shape`, as texts come in.

    Texts that are longer than a row come out as (place in the stream, token ids). So do all texts if they are too few for the
    first batch: then its program need not be compiled.

    Args:
        tokens: tokens of a batch on one device.
        prompt_length: tokens of the prompt before every text.
    """
    P, L = stream_shape(tokens, devices)
    waiting: list[tuple[int, Sequence[int]]] = []
    first = True

    def sent(*, last: bool) -> Iterator[PackedBatch]:
        # The fullest rows are sent; the texts of the others wait for the next window. A last batch is sent with empty rows;
        # as the first one only if 3/8 of its rows are filled, since each text alone takes less time than a nearly empty batch.
        nonlocal waiting, first
        texts, prompts = [ids for _, ids in waiting], [prompt_length] * len(waiting)
        rows = _best_fit(list(map(len, texts)), L, L // TOKENS_PER_SLOT)
        rows.sort(key=lambda row: -sum(len(texts[text]) for text in row))
        spare = (P * 5 // 8 if first and len(rows) < P else P - 1) if last else 0
        full = (len(rows) + spare) // P * P
        for start in range(0, full, P):
            chosen, first = rows[start : start + P], False
            filled, where = _filled(texts, chosen, P, L, padding_id, prompts, None)
            packed = [text for row in chosen for text in row]
            yield PackedBatch([waiting[text][0] for text in packed], filled, where[packed])
        waiting = [waiting[text] for row in rows[full:] for text in row]

    tokens_waiting = 0
    for place, ids in enumerate(tokenized):
        if len(ids) > L:
            yield place, ids
            continue
        waiting.append((place, ids))
        tokens_waiting += len(ids)
        if tokens_waiting >= WINDOW * P * L:
            yield from sent(last=False)
            tokens_waiting = sum(len(ids) for _, ids in waiting)
    yield from sent(last=True)
    yield from waiting


def stream_shape(tokens: int, devices: int) -> tuple[int, int]:
    """The (P, L) of `packed_batches`: as many rows of the shortest length as `tokens` per device fill."""
    return devices * max(1, tokens // ROW_LENGTHS[0]), ROW_LENGTHS[0]


def empty_batch(P: int, L: int, padding_id: int) -> PackedBatch:
    """P empty rows of L tokens, to compile with."""
    return PackedBatch([], *_filled([], [], P, L, padding_id, None, None))


def _filled(
    texts: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
    P: int,
    L: int,
    padding_id: int,
    prompt_lengths: Sequence[int] | None,
    first_lengths: Sequence[int] | None,
) -> tuple[PackedTexts, np.ndarray]:
    """P rows of L tokens with the texts that `rows` lists for each, and where each text is."""
    T = L // TOKENS_PER_SLOT
    token_ids_PL = np.full((P, L), padding_id, np.int32)
    position_PL = np.zeros((P, L), np.int32)
    segmentation_PL = np.full((P, L), -1, np.int32)
    lengths_PT, prompts_PT, first_lengths_PT = np.zeros((3, P, T), np.int32)
    where = np.empty(len(texts), np.int32)
    for p, row in enumerate(rows):
        start = 0
        for t, text in enumerate(row):
            length = lengths_PT[p, t] = len(texts[text])
            end = start + length
            token_ids_PL[p, start:end] = texts[text]
            position_PL[p, start:end] = np.arange(length)
            segmentation_PL[p, start:end] = t
            prompts_PT[p, t] = prompt_lengths[text] if prompt_lengths else 0
            first_lengths_PT[p, t] = first_lengths[text] if first_lengths else length
            where[text] = p * T + t
            start = end
    return PackedTexts(token_ids_PL, position_PL, segmentation_PL, lengths_PT, prompts_PT, first_lengths_PT), where


def packed_shape(texts: int, length: int, multiple: int = 1) -> tuple[int, int]:
    """The rows P and their length L if all texts have `length` tokens: the most that this many texts can need.

    Example:
        >>> packed_shape(32, 128), packed_shape(32, 30, multiple=8)
        ((32, 128), (16, 64))
    """
    L = _row_length(length)
    return _rounded(-(-texts // min(L // length, L // TOKENS_PER_SLOT)), multiple), L


def _best_fit(lengths: Sequence[int], L: int, T: int) -> list[list[int]]:
    rows: list[list[int]] = []
    rows_by_free: list[list[int]] = [[] for _ in range(L + 1)]
    for text in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        free = next((free for free in range(lengths[text], L) if rows_by_free[free]), L)
        if free < L:
            row = rows_by_free[free].pop()
        else:
            row = len(rows)
            rows.append([])
        rows[row].append(text)
        if len(rows[row]) < T:
            rows_by_free[free - lengths[text]].append(row)
    return rows


def _row_length(longest: int) -> int:
    length = ROW_LENGTHS[0]
    while length < longest:
        length *= 2
    return length


def _rounded(rows: int, multiple: int) -> int:
    # Up to 16 rows exactly, then to 4 binary digits: few shapes are compiled, with at most an eighth of the rows empty.
    step = 1 << max(0, rows.bit_length() - 4)
    rows = -(-rows // step) * step
    return -(-max(rows, 1) // multiple) * multiple
