"""The rows of a data file by number, for files larger than memory: tsv, jsonl, parquet, or a data set of the hub.

    rows = Rows("pairs.tsv.gz", ("sentence1", "sentence2"))
    len(rows), rows[41], rows.place(41)        # (550152, ("A man ...", "Someone ..."), "pairs.tsv.gz, line 43")

What stays in memory is where each row begins (eight bytes a row). One pass finds that out; a row is read and parsed
when it is asked for. sources.py makes a plain file of lines of every kind of source.

.tsv: a header line, no quoting. .jsonl: an object a line. Both also as .gz. UTF-8, strictly.
"hub:org/name", "hub:org/name:subset" or "hub:org/name:subset:split": a data set by name, through `datasets` (the split
is "train" unless named).
"""

import gzip
import json
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.data.sources import BLOCK, file_kind, hub_data, opened, parquet_library, reading
from minisbert.errors import DataError

BOM = b"\xef\xbb\xbf"  # the mark that some editors put before UTF-8


def column_names(source: str) -> tuple[str, ...]:
    """The columns of a file: a tsv's header, a parquet's schema, the keys of a jsonl's first object.

    Raises:
        InputError: a kind of file that is not read here; a library for it is missing.
        DataError: missing, damaged or empty.
    """
    kind = file_kind(source)
    if kind == "hub":
        return tuple(hub_data(source).column_names)
    with reading(source):
        if kind == "parquet":
            with parquet_library().ParquetFile(source) as file:
                return tuple(file.schema_arrow.names)
        with gzip.open(source) if source.lower().endswith(".gz") else Path(source).open("rb") as file:
            line = _decoded(file.readline().removeprefix(BOM), f"{source}, line 1")
    if not line:
        raise DataError(f"{source}: empty. Expected {'a header line' if kind == 'tsv' else 'an object a line'}.")
    return tuple(line.split("\t") if kind == "tsv" else _record(line, f"{source}, line 1"))


class Rows:
    """The rows of one file, by number.

    Args:
        source: a path, or "hub:org/name".
        columns: the columns wanted, in the order in which a row's values are.

    Raises:
        InputError: a kind of file that is not read here; a library for it is missing.
        DataError: missing, damaged, empty, without one of the columns, or no room to unpack it.
    """

    def __init__(self, source: str, columns: Sequence[str]):
        self.source, self.columns = str(source), tuple(columns)
        kind = file_kind(self.source)
        header = column_names(self.source)
        for column in self.columns:
            if header.count(column) != 1:
                raise no_column(self.source, column, header)
        with reading(self.source):
            self._file, self.sha256 = opened(self.source, kind, self.columns)
            starts = line_starts(self._file)
        self._tsv = kind == "tsv"
        self._width, self._at = len(header), [header.index(column) for column in self.columns]
        self._starts = starts[1:] if self._tsv else starts
        self._unit, self._first = ("line", 2 if self._tsv else 1) if kind in ("tsv", "jsonl") else ("row", 0)
        # One file position for all threads that ask for rows.
        self._lock = threading.Lock()
        if len(self) == 0:
            raise DataError(f"{self.source}: no rows. Expected at least one; check the file.")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row: int) -> tuple[Any, ...]:
        """The row's values. Raises DataError when the row is malformed, IndexError when there is no such row."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        start, end = int(self._starts[row]), int(self._starts[row + 1])
        with self._lock:
            self._file.seek(start)
            raw = self._file.read(end - start)
        if len(raw) != end - start:
            raise DataError(
                f"{self.place(row)}: the file has become shorter while in use. Leave data alone in training."
            )
        place = self.place(row)
        line = _decoded(raw, place)
        if not self._tsv:
            record = _record(line, place)
            for column in self.columns:
                if column not in record:
                    raise no_column(place, column, record)
            return tuple(record[column] for column in self.columns)
        # No quoting (csv.QUOTE_NONE): a quotation mark is part of the sentence, and a cell cannot hold a tab.
        cells = line.split("\t")
        if len(cells) != self._width:
            raise DataError(
                f"{place}: {len(cells)} cell(s), but the header has {self._width}. Expected one cell a column, "
                "separated by tabs; remove tabs and line breaks from the text."
            )
        return tuple(cells[i] for i in self._at)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return (self[row] for row in range(len(self)))

    def place(self, row: int) -> str:
        """Where a row stands, for messages: lines are counted from 1, rows of parquet and the hub from 0."""
        return f"{self.source}, {self._unit} {self._first + row}"


def line_starts(file: BufferedIOBase) -> np.ndarray:
    """Where each line begins, and at last where the file ends: int64 `[lines + 1]`.

    Example:
        >>> import io
        >>> line_starts(io.BytesIO(b"one\\ntwo")).tolist()
        [0, 4, 7]
    """
    file.seek(0)
    begin = len(BOM) if file.read(len(BOM)) == BOM else 0
    file.seek(begin)
    parts, end = [np.array([begin], np.int64)], begin
    while block := file.read(BLOCK):
        parts.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + (end + 1))
        end += len(block)
    starts = np.concatenate(parts)
    return starts if starts[-1] == end else np.append(starts, end)


# --- values --------------------------------------------------------------------------------------------------------


def text(value: Any, column: str, place: str) -> str:
    """`value`, after a check that it is text with something in it.

    Raises:
        DataError: not text, blank, or with half a surrogate pair, which no tokenizer takes.
    """
    if not isinstance(value, str):
        raise DataError(
            f"{place}: {column!r} is {value!r:.80} ({type(value).__name__}). Expected text; correct or remove the row."
        )
    if not value.strip():
        raise DataError(f"{place}: {column!r} is {value!r:.80}. Expected text that is not empty; remove the row.")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{place}: {column!r} is {value!r:.80}, with half a surrogate pair. Expected valid Unicode.")
    return value


def number(value: Any, column: str, place: str) -> float:
    """`value` as a finite float; tsv holds numbers as text.

    Raises:
        DataError: not a number, NaN or infinite.

    Example:
        >>> number("2.50", "score", "sts.tsv, line 2")
        2.5
    """
    known = isinstance(value, int | float | str) and not isinstance(value, bool)
    try:
        found = float(value) if known and "_" not in str(value) else None
    except (ValueError, OverflowError):
        found = None
    if found is None or not math.isfinite(found):
        raise DataError(f"{place}: {column!r} is {value!r:.80}. Expected a finite number; correct or remove the row.")
    return found


def no_column(place: str, column: str, columns: Iterable[str]) -> DataError:
    """The complaint about a column that is missing, or there twice."""
    here = ", ".join(f"{name!r:.60}" for name in list(columns)[:20]) or "nothing"
    return DataError(f"{place}: no (single) column {column!r}. Expected one; found {here}.")


def _decoded(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: byte {error.start + 1} is {raw[error.start : error.end]!r}, which is not UTF-8. "
            "Expected UTF-8 text; convert the file, for example with iconv."
        ) from None


def _record(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: {line[:80]!r} is not JSON ({error}). Expected an object a line.") from None
    if not isinstance(record, dict):
        raise DataError(f'{place}: {line[:80]!r} is no object. Expected one, like {{"sentence1": "..."}}.')
    return record
