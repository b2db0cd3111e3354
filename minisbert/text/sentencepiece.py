"""Reads the vocabulary of a sentencepiece model (*.model; Kudo & Richardson 2018): pieces, scores, and the normalization map.

The file is a protocol buffer message, of which only these fields are read (numbers as in sentencepiece_model.proto):

    1 pieces: 1 piece, 2 score, 3 type        2 trainer_spec: 3 model_type        3 normalizer_spec: 2 precompiled_charsmap, 3-6

Only unigram models (Kudo 2018) with the usual treatment of spaces are read: these `tokenizers` computes exactly.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

from minisbert import limits
from minisbert.errors import ModelFolderError, folder_error

UNIGRAM = 1
# Types of pieces that are not split as the usual ones are.
_ODD_TYPES = {4: "user-defined pieces", 5: "unused pieces", 6: "pieces for bytes"}
_FIELDS, _OF_A_PIECE = 1_000, 3  # of one message inside the file; a thousand in each piece would take many seconds


def read_sentencepiece(content: bytes, where: Path | str) -> tuple[list[tuple[str, float]], bytes | None]:
    """The pieces of a unigram model with their log probabilities, by id, and the normalization map."""
    pieces: dict[str, float] = {}
    model_type, charsmap, odd, seen = UNIGRAM, b"", set[str](), set[int]()
    try:
        for _ in _fields(content, limits.PIECES + _FIELDS):
            pass  # counted before any is read
        for field, value in _fields(content, limits.PIECES + _FIELDS):
            if field in seen:
                raise ValueError(f"field {field} is there twice")
            seen |= {field} & {2, 3}
            if field == 1:
                piece, score, kind = "", 0.0, 1
                for number, part in _fields(_bytes(value), _OF_A_PIECE):
                    piece = _bytes(part).decode() if number == 1 else piece
                    score = struct.unpack("<f", _bytes(part))[0] if number == 2 else score
                    kind = part if number == 3 and isinstance(part, int) else kind
                if not piece or piece in pieces or not math.isfinite(score):
                    raise ValueError(f"the piece {piece!r:.100} is empty, there twice, or without a finite score")
                pieces[piece] = score
                odd |= {_ODD_TYPES[kind]} if kind in _ODD_TYPES else set()
            elif field == 2:
                for number, part in _fields(_bytes(value)):
                    model_type = part if number == 3 and isinstance(part, int) else model_type
                    odd |= {"treat_whitespace_as_suffix"} if number == 24 and part else set()
            elif field == 3:
                for number, part in _fields(_bytes(value)):
                    charsmap = _bytes(part) if number == 2 else charsmap
                    named = {3: "add_dummy_prefix", 4: "remove_extra_whitespaces", 5: "escape_whitespaces"}
                    odd |= {f"{named[number]} false"} if number in named and not part else set()
    except (ValueError, struct.error, IndexError, TypeError) as error:
        raise folder_error(where, f"not a sentencepiece model ({error})", "one") from None
    if not pieces or len(pieces) > limits.PIECES:
        raise folder_error(where, f"{len(pieces)} pieces", f"1 to {limits.PIECES}")
    if len(charsmap) > limits.CONFIG_BYTES:
        odd.add(f"a normalization map of {len(charsmap)} bytes")
    if model_type != UNIGRAM or odd:
        found = ", ".join(sorted(odd)) or f"model_type {model_type}"
        raise ModelFolderError(
            f"{where}: {found}. Expected a unigram model with the usual spaces; write tokenizer.json."
        )
    return list(pieces.items()), charsmap or None


def _fields(message: bytes, most: int = _FIELDS) -> Iterator[tuple[int, int | bytes]]:
    """The number and value of each field of a message."""
    place, count, end = 0, 0, len(message)
    while place < end:
        if (count := count + 1) > most:
            raise ValueError(f"more than {most} fields")
        key, place = (message[place], place + 1) if message[place] < 128 else _varint(message, place)
        kind = key & 7
        if kind in (0, 2):  # one byte nearly always: without a call, a million fields take half the time
            size, place = (message[place], place + 1) if message[place] < 128 else _varint(message, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if kind == 0:
            yield key >> 3, size
            continue
        if place + size > end:
            raise ValueError("it ends early")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """A whole number in 7-bit groups, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        value |= (byte & 127) << shift
        place += 1
        if byte < 128:
            return value, place
    raise ValueError("a number of more than 10 bytes")


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where bytes belong")
    return value
