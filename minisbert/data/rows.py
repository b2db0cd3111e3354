"""One reader for row files: text, tsv, jsonl, parquet or a data set from the hub, in one pass or by row number.

    for place, (first, score) in RowFile("sts.tsv").rows(("sentence1", "score")):
        ...                                                   # "sts.tsv, line 2", ("A man ...", "4.2")
    rows = Rows(RowFile("pairs.tsv.gz"), ("anchor", "positive"))
    len(rows), rows[41], rows.place(41)                       # by number, for files larger than memory

    .txt, -    one text per line, without a header; "-" is stdin
    .tsv       a header line, then one row per line; no quoting, so a quotation mark is part of the text
    .jsonl     one object per line
    .parquet   needs pyarrow
    hub:NAME   "hub:org/name", "hub:org/name:subset" or "hub:org/name:subset:split", through the datasets library

Text, tsv and jsonl also as .gz; UTF-8, strictly. A new kind of file is an entry in `LINES`, a header in
`RowFile.__init__` and a branch in `RowFile.values`.

`Rows` stores only the offset of each row (8 bytes). Plain files are read in place. Files without random access (gzip), or with
slow random access (parquet decodes a whole row group per row), are unpacked once into an unnamed file in TMPDIR.
"""

import gzip
import hashlib
import json
import math
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minisbert.data.columnar import BLOCK, HUB, hub_table, parquet_table, unpacked
from minisbert.errors import DataError, InputError, MinisbertError

if TYPE_CHECKING:
    import numpy as np

STDIN = "-"
LINES = ("txt", "tsv", "jsonl")  # the kinds with one row per line
COLUMNAR = {"parquet": parquet_table, "hub": hub_table}  # these yield their rows as lines of JSON
BOM = b"\xef\xbb\xbf"  # the byte order mark that some editors put before UTF-8


def file_kind(source: str) -> str:
    """The kind of a file (a name in `LINES` or `COLUMNAR`), from its name. Raises InputError for other kinds."""
    if source == STDIN or source.startswith(HUB):
        return "txt" if source == STDIN else "hub"
    name = source.lower()
    kind = Path(name.removesuffix(".gz")).suffix.removeprefix(".")
    if kind in LINES or name.endswith(".parquet"):
        return kind
    raise InputError(
        f"{source}: this kind of file is not supported. Expected .txt, .tsv or .jsonl (or these with .gz), .parquet, "
        f"{HUB}ORG/NAME for a data set on the hub, or - for text on stdin."
    )


class RowFile:
    """An open file of rows (a path, "hub:org/name", or "-" for stdin): its columns, and its rows in one pass.

    Raises:
        InputError: a kind of file that is not read here; a library for it is missing.
        DataError: missing, damaged, or not UTF-8.
    """

    def __init__(self, source: str | Path):
        self.source, self.kind = "stdin" if source == STDIN else str(source), file_kind(str(source))
        self.unit, self.first = ("0-based row", 0) if self.kind in COLUMNAR else ("line", 1 + (self.kind == "tsv"))
        self._lines: Any
        self.header: tuple[str, ...] = ("text",)  # the names of the columns; of jsonl, the keys of the first object
        with reading(self.source):
            if self.kind in COLUMNAR:
                self.header, self._lines = COLUMNAR[self.kind](self.source)
            elif source == STDIN:
                self._lines = (line for line in sys.stdin.buffer)  # a generator: `Rows` must not read stdin in place
            else:
                self._lines = _opened(self.source)
            if self.kind in ("tsv", "jsonl"):
                self.header, first = (), self._lines.readline().removeprefix(BOM)
                if first:
                    place = f"{self.source}, line 1"
                    decoded = _decoded(first, place)
                    self.header = tuple(decoded.split("\t") if self.kind == "tsv" else _record(decoded, place))
            if self.kind == "jsonl":
                self._lines.seek(0)
        if not self.header:
            expected = "a header line with the names of the columns" if self.kind == "tsv" else "one object per line"
            raise DataError(f"{self.source}: empty. Expected {expected}.")

    def place(self, row: int) -> str:
        """The place of a row, for error messages: lines count from 1, rows of parquet and of the hub from 0."""
        return f"{self.source}, {self.unit} {self.first + row}"

    def first_of(self, *names: str) -> str:
        """The first of several names that is a column. Raises DataError if there is none."""
        for name in names:
            if name in self.header:
                return name
        raise wrong_columns(self.source, "/".join(names), self.header)

    def lines(self, columns: Sequence[str]) -> Any:
        """The undecoded lines of the rows, for `values`: an open file if it can be read in place, else an iterator."""
        # Objects are checked one by one; plain text has one column, under any name.
        named = () if self.kind == "jsonl" or (self.kind == "txt" and len(columns) == 1) else columns
        for column in named:
            if self.header.count(column) != 1:
                raise wrong_columns(self.source, column, self.header)
        return self._lines(columns) if self.kind in COLUMNAR else self._lines

    def values(self, line: bytes, row: int, columns: Sequence[str]) -> tuple[Any, ...]:
        """The values of a row, in the order of the columns. Raises DataError if the row is malformed."""
        place = self.place(row)
        decoded = _decoded(line.removeprefix(BOM) if row == 0 and self.kind != "tsv" else line, place)
        if self.kind == "txt":
            return (decoded,)
        if self.kind == "tsv":
            cells = decoded.split("\t")
            if len(cells) != len(self.header):
                raise DataError(
                    f"{place}: {len(cells)} cell(s), but the header has {len(self.header)}. Expected one cell per column, "
                    "separated by tabs; remove tabs and line breaks from the text."
                )
            record = dict(zip(self.header, cells, strict=True))
        else:
            record = _record(decoded, place)
        try:
            return tuple(map(record.__getitem__, columns))
        except KeyError as error:
            raise wrong_columns(place, error.args[0], record) from None

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Every row in order: its place, and its values in the order of the columns. Can be iterated over once."""
        with reading(self.source):
            for row, line in enumerate(self.lines(columns)):
                yield self.place(row), self.values(line, row, columns)


class Rows:
    """The rows of one file by number, without holding them in memory.

    Args:
        columns: the columns wanted, in the order of the values of a row.

    Raises:
        DataError: the file is damaged, empty or lacks a column, or there is no room to unpack it.
    """

    def __init__(self, file: RowFile, columns: Sequence[str]):
        self.file, self.columns, self.place = file, tuple(columns), file.place
        with reading(file.source):
            lines = file.lines(self.columns)
            in_place = isinstance(lines, BufferedReader)
            self._plain = lines if in_place else unpacked(file.source, lines)
            self._starts = line_starts(self._plain, lines.tell() if in_place else 0)
        # All threads share one file position.
        self._lock = threading.Lock()
        if len(self) == 0:
            raise DataError(f"{file.source}: no rows. Expected at least one; check the file.")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row: int) -> tuple[Any, ...]:
        """The row's values. Raises DataError if the row is malformed, IndexError if there is no such row."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        start, end = int(self._starts[row]), int(self._starts[row + 1])
        with self._lock:
            self._plain.seek(start)
            line = self._plain.read(end - start)
        if len(line) != end - start:
            raise DataError(
                f"{self.place(row)}: the file has become shorter since it was opened. Do not change data during training."
            )
        return self.file.values(line, row, self.columns)

    def sha256(self) -> str:
        """The sha256 of the file; for a data set from the hub, of its rows as received."""
        if isinstance(self._plain, BufferedReader) or self.file.kind == "hub":
            self._plain.seek(0)
            return hashlib.file_digest(self._plain, "sha256").hexdigest()
        with reading(self.file.source), Path(self.file.source).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def line_starts(file: BufferedReader, begin: int = 0) -> "np.ndarray":
    """The offset of each line after `begin`, and the end of the file: int64 `[lines + 1]`.

    Example:
        >>> import io
        >>> line_starts(io.BytesIO(b"one\\ntwo")).tolist()
        [0, 4, 7]
    """
    import numpy as np  # here, so that commands that read sentences start without it

    file.seek(begin)
    parts, end = [np.array([begin], np.int64)], begin
    while block := file.read(BLOCK):
        parts.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + (end + 1))
        end += len(block)
    starts = np.concatenate(parts)
    return starts if starts[-1] == end else np.append(starts, end)


# --- values --------------------------------------------------------------------------------------------------------


def text(value: Any, column: str, place: str, *, blank: bool = False) -> str:
    """`value`, checked to be text.

    Raises:
        DataError: not text, blank (unless `blank`), or with half a surrogate pair, which tokenizers do not accept.
    """
    if not isinstance(value, str):
        problem = f" ({type(value).__name__}). Expected text"
    elif not blank and not value.strip():
        problem = ". Expected text that is not empty"
    elif not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        problem = ", with half a surrogate pair. Expected valid Unicode"
    else:
        return value
    raise DataError(f"{place}: {column!r} is {value!r:.80}{problem}; correct or remove the row.")


def as_number(value: Any, column: str, place: str) -> float:
    """`value` as a finite float; tsv holds numbers as text.

    Raises:
        DataError: not a number, NaN or infinite.

    Example:
        >>> as_number("2.50", "score", "sts.tsv, line 2")
        2.5
    """
    known = isinstance(value, int | float | str) and not isinstance(value, bool)
    try:
        found = float(value) if known and "_" not in str(value) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"{place}: {column!r} is {value!r:.80}. Expected a finite number; correct or remove the row.")
    return found


def wrong_columns(place: str, column: str, columns: Iterable[str]) -> DataError:
    """The error for a column that is missing or duplicated."""
    return DataError(f"{place}: the columns are {listed(columns) or 'none'}. Expected exactly one named {column!r}.")


def listed(names: Iterable[str]) -> str:
    """The first 20 names, quoted."""
    shown = [f"{name!r:.60}" for name in names]
    return ", ".join(shown[:20]) + (", ..." if len(shown) > 20 else "")


# --- files ---------------------------------------------------------------------------------------------------------


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turn any library's error about an unreadable file into a DataError that names the file."""
    try:
        yield
    except MinisbertError:
        raise
    except FileNotFoundError:
        raise DataError(f"{source}: no such file. Expected a file of rows; check the path.") from None
    except (OSError, EOFError, zlib.error, ValueError) as error:  # pyarrow's own errors derive from ValueError
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(
            f"{source}: cannot be read ({why}). Expected a complete, readable file; check it or make it again."
        ) from None


def _opened(path: str) -> Any:
    return gzip.open(path) if path.lower().endswith(".gz") else Path(path).open("rb")


def _decoded(line: bytes, place: str) -> str:
    try:
        return line.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: byte {error.start + 1} is {line[error.start : error.end]!r}, which is not UTF-8. "
            "Expected UTF-8 text; convert the file, for example with iconv."
        ) from None


def _record(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: {line[:80]!r} is not JSON ({error}). Expected one object per line.") from None
    if not isinstance(record, dict):
        raise DataError(f'{place}: {line[:80]!r} is not an object. Expected one, like {{"text": "..."}}.')
    return record
