"""One reader for rows: text, tsv, jsonl, parquet, a data set from the hub or rows in memory, in one pass or by row number.

    for place, (first, score) in RowFile("sts.tsv").rows(("sentence1", "score")):
        ...                                                   # "sts.tsv, line 2", ("A man ...", "4.2")
    rows = Rows(RowFile("pairs.tsv.gz"), ("anchor", "positive"))
    len(rows), rows[41], rows.place(41)                       # by number, for files larger than memory

    .txt, -    one text per line, without a header; "-" is stdin
    .csv       a header line, then rows whose cells may be quoted (delimited.py)
    .tsv       a header line, then one row per line; a quotation mark is part of the text, unless a CSV writer made the file
    .jsonl     one object per line, or a list of texts; also as .ndjson and .json; a .json may be one array, of objects or texts
    .parquet   needs pyarrow
    hub:NAME   "hub:org/name", "hub:org/name:subset" or "hub:org/name:subset:split", through the datasets library
    in memory  lists, dicts of columns, pandas and datasets tables: see `columnar.memory_table`

Text, csv, tsv and jsonl also as .gz; UTF-8, strictly. An empty line is a text in .txt and in a .tsv of one column (in training
no row), and no row elsewhere. Columns are found whatever their case, spaces, `_` and `-`.
`Rows` stores the offset of each row (8 bytes). Plain files are read in place, others unpacked into an unnamed file in TMPDIR.
"""

import gzip
import hashlib
import sys
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import Any

from minisbert.data.columnar import BLOCK, COLUMNAR, HUB, MEMORY, is_table, json_rows, unpacked
from minisbert.data.delimited import csv_table, is_quoted
from minisbert.data.values import BOM, matching, plain_name, reading, record_of, stripped, wrong_columns
from minisbert.errors import DataError, InputError

STDIN = "-"
LINES = ("txt", "tsv", "jsonl", "csv")  # the kinds of plain files


def sources(data: Any) -> dict[str, Any]:
    """The sources that `TrainConfig.data` names: a dict of files or tables; of a tuple, or of one source, by their number.

    Example:
        >>> sources(("a.tsv", "b.tsv")), list(sources({"faq": [("who eats?", "a man eats")], "web": "b.tsv"}))
        ({'0': 'a.tsv', '1': 'b.tsv'}, ['faq', 'web'])
    """
    if isinstance(data, Mapping) and data and all(is_table(one) or _is_file(one) for one in data.values()):
        if "train" in data:
            raise InputError(f"data is the splits {', '.join(data)}. Expected one of them: data['train'].")
        return {str(name): one for name, one in data.items()}
    several = isinstance(data, list) and data and not is_table(data)
    return dict(zip(map(str, count()), data if several or isinstance(data, tuple) else (data,), strict=False))


def _is_file(source: Any) -> bool:
    with suppress(InputError):
        return file_kind(source) != "memory"
    return False


def file_kind(source: Any) -> str:
    """The kind of a source (a name in `LINES` or `COLUMNAR`), from its name. Raises InputError for other kinds."""
    if not isinstance(source, str | Path):
        return "memory"
    name = str(source).lower()
    if name == STDIN or str(source).startswith(HUB):
        return "txt" if name == STDIN else "hub"
    kind = Path(name.removesuffix(".gz")).suffix.removeprefix(".")
    kind = {"ndjson": "jsonl", "json": "jsonl"}.get(kind, kind)
    if kind in LINES or name.endswith(".parquet"):
        return kind
    raise InputError(
        f"{source}: this kind of file is not supported. Expected .csv, .tsv, .jsonl or .txt (or these with .gz), "
        f".parquet, {HUB}ORG/NAME for a data set on the hub, or - for text on stdin."
    )


class RowFile:
    """An open file of rows: its columns, and its rows in passes or by number.

    Args:
        source: a path, "hub:org/name", "-" for stdin, or rows in memory.
        names: the names of the columns of a .csv or .tsv without a header line.

    Raises:
        InputError: a kind of file that is not read here; a library for it is missing.
        DataError: missing, damaged, or not UTF-8.

    Example:
        >>> file = RowFile([("who eats?", "a man eats")])
        >>> file.header, list(file.rows(("positive",)))
        (('anchor', 'positive'), [('the rows in memory, 0-based row 0', ('a man eats',))])
    """

    def __init__(self, source: Any, names: Sequence[str] = ()):
        self.kind = file_kind(source)
        path = MEMORY if self.kind == "memory" else str(source)
        self.source = "stdin" if path == STDIN else path
        self._lines: Any
        self._table: Any = None  # of a kind that is not read line by line: columns -> lines of JSON
        self._skipped: list[int] = []  # the number of rows before each empty line
        self.unit, self.blank_texts, self.uneven = "line", True, False
        self.lists: dict[str, list[str]] = {}  # the columns made of each list (data/lists.py)
        self.header: tuple[str, ...] = ("text",)  # the names of the columns; of jsonl, the keys of the first object
        if names and self.kind not in ("tsv", "csv"):
            raise InputError(f"{self.source}: columns are named. Expected only for .csv and .tsv without a header.")
        with reading(self.source):
            if self.kind in COLUMNAR:
                self.header, self._table = COLUMNAR[self.kind](source if self.kind == "memory" else path)
                self.unit = "0-based row"
            elif path == STDIN:
                self._lines = (line for line in sys.stdin.buffer)  # a generator: `Rows` must not read stdin in place
            else:
                opened: Any = gzip.open if path.lower().endswith(".gz") else Path.open
                self._lines = opened(Path(path), "rb")
                if path.lower().removesuffix(".gz").endswith(".json"):
                    self._lines, self.unit = json_rows(self._lines)
            if self.kind == "csv" or (self.kind == "tsv" and is_quoted(self._lines, self.source)):
                delimiter, self.kind, self.unit = "\t" if self.kind == "tsv" else None, "csv", "row"
                self._lines.seek(0)
                self.header, self._table = csv_table(self._lines, self.source, names, delimiter)
            elif self.kind in ("tsv", "jsonl"):
                self.header = tuple(names) or self._first_line()
        self.first = 0 if self.kind in COLUMNAR else 1 + (self.kind in ("tsv", "csv") and not names)
        if not self.header:
            expected = "a header line with the names of the columns" if self.first == 2 else "one object per line"
            raise DataError(f"{self.source}: empty. Expected {expected}.")
        first = next(self.rows(self.header), ("", ()))[1] if names else ()
        if names and list(map(plain_name, names)) == list(map(plain_name, first)):
            raise InputError(
                f"{self.source}: its first line has the names of the columns. Leave them out of the options."
            )

    def with_table(self, header: tuple[str, ...], lines: Callable[[Sequence[str]], Iterator[bytes]]) -> "RowFile":
        """The same source with rows made of its own; their places are counted as examples."""
        other = copy(self)
        other.kind, other.unit, other.first, other._skipped = "made", "example", 1, []
        other.header, other._table = header, lines
        return other

    def _first_line(self) -> tuple[str, ...]:
        """The header of a .tsv; the keys of the first object of a .jsonl."""
        self._lines.seek(0)
        for number, line in enumerate(self._lines, start=1):
            if self.kind == "tsv" or line.removeprefix(BOM).strip():
                first = stripped(line.removeprefix(BOM), place := f"{self.source}, line {number}")
                return tuple(first.split("\t") if self.kind == "tsv" else record_of(first, place))
        return ()

    def place(self, row: int) -> str:
        """The place of a row, for error messages: lines, empty ones too, count from 1, rows of tables from 0."""
        return f"{self.source}, {self.unit} {self.first + row + bisect_right(self._skipped, row)}"

    def is_empty(self, line: bytes, row: int) -> bool:
        """Whether a line is empty, and so no row. A pass asks about every line, with the number of rows before it."""
        if self.blank_texts and (self.kind == "txt" or (self.kind == "tsv" and len(self.header) == 1)):
            return False
        empty = not line.removeprefix(BOM).strip(b" \r\n")
        if empty:
            self._skipped.append(row)
        return empty

    def first_of(self, *names: str) -> str:
        """The first of several names that is a column. Raises DataError if there is none, or two are alike."""
        for name in names:
            if found := matching(name, self.header):
                if len(found) > 1:
                    raise wrong_columns(self.source, name, self.header)
                return found[0]
        raise wrong_columns(self.source, "/".join(names[:3]) + "/..." * (len(names) > 3), self.header)

    def lines(self, columns: Sequence[str]) -> Any:
        """The undecoded lines of the rows, for `values`: an open file if it can be read in place, else an iterator."""
        # Objects are checked one by one; plain text has one column, under any name.
        named = () if self.kind == "jsonl" or (self.kind == "txt" and len(columns) == 1) else columns
        for column in named:
            if self.header.count(column) != 1:
                raise wrong_columns(self.source, column, self.header)
        self._skipped.clear()  # a new pass
        if self._table is not None:
            return self._table(columns)
        if hasattr(self._lines, "seek"):
            self._lines.seek(0)
            if self.kind == "tsv" and self.first == 2:
                self._lines.readline()
        return self._lines

    def record(self, line: bytes, row: int) -> dict[str, Any]:
        """The values of a row by column; a .jsonl has all its keys. Raises DataError if the row is malformed."""
        place = self.place(row)
        content = stripped(line.removeprefix(BOM) if row == 0 and self.first == 1 else line, place)
        if self.kind == "txt":
            return {"text": content}
        if self.kind != "tsv":
            return record_of(content, place)
        cells = content.split("\t")
        if len(cells) != len(self.header):
            raise DataError(
                f"{place}: {len(cells)} cell(s), but the header has {len(self.header)}. Expected one cell per column, "
                "separated by tabs; remove tabs and line breaks from the text, or make a .csv of it."
            )
        return dict(zip(self.header, cells, strict=True))

    def values(self, record: dict[str, Any], place: str, columns: Sequence[str]) -> tuple[Any, ...]:
        """The values of a record in the order of the columns."""
        try:
            return (record["text"],) * len(columns) if self.kind == "txt" else tuple(map(record.__getitem__, columns))
        except KeyError as error:
            raise wrong_columns(place, error.args[0], record) from None

    def records(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every row in order: its place and its record."""
        row = 0
        with reading(self.source):
            for line in self.lines(columns):
                if not self.is_empty(line, row):
                    yield self.place(row), self.record(line, row)
                    row += 1

    def rows(self, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Every row in order: its place, and its values in the order of the columns; None for an `optional` one it lacks."""
        for place, record in self.records(columns):
            yield place, self.values({**dict.fromkeys(optional), **record}, place, columns)


class Rows:
    """The rows of one file by number, each with the values of `columns`, without holding them in memory.

    Raises DataError: the file is damaged, empty or lacks a column, or there is no room to unpack it.
    """

    def __init__(self, file: RowFile, columns: Sequence[str]):
        import numpy as np  # here, so that commands that read sentences start without it

        self.file, self.columns, self.place = file, tuple(columns), file.place
        empty: list[int] = []  # numbers of lines
        with reading(file.source):
            lines = file.lines(self.columns)
            in_place = isinstance(lines, BufferedReader)
            self._plain = lines if in_place else unpacked(file.source, lines)
            starts, first_bytes = line_starts(self._plain, lines.tell() if in_place else 0)
            for number in np.flatnonzero(np.isin(first_bytes, list(b" \r\n\xef"))).tolist():  # \xef may begin a BOM
                self._plain.seek(int(starts[number]))
                if file.is_empty(self._plain.readline(), number - len(empty)):
                    empty.append(number)
        self._begins, self._ends = starts[:-1], starts[1:]
        if empty:
            self._begins, self._ends = np.delete(self._begins, empty), np.delete(self._ends, empty)
        self._lock = threading.Lock()  # all threads share one file position
        if len(self) == 0:
            raise DataError(f"{file.source}: no rows. Expected at least one; check the file.")

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, row: int) -> tuple[Any, ...]:
        """The row's values. Raises DataError if the row is malformed, IndexError if there is no such row."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        with self._lock:
            begin, end = int(self._begins[row]), int(self._ends[row])
            self._plain.seek(begin)
            line = self._plain.read(end - begin)
        if len(line) != end - begin:
            raise DataError(
                f"{self.place(row)}: the file has become shorter since it was opened. Do not change data during training."
            )
        return self.file.values(self.file.record(line, row), self.place(row), self.columns)

    def sha256(self) -> str:
        """The sha256 of the file; of rows that are in no file, or made of it, of them as lines of JSON."""
        if isinstance(self._plain, BufferedReader) or self.file.kind in ("hub", "memory", "made"):
            self._plain.seek(0)
            return hashlib.file_digest(self._plain, "sha256").hexdigest()
        with reading(self.file.source), Path(self.file.source).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def line_starts(file: BufferedReader, begin: int = 0) -> tuple[Any, Any]:
    """The offset of each line after `begin`, and the end of the file: int64 `[lines + 1]`. The first byte of each line: uint8.

    Example:
        >>> import io
        >>> [part.tolist() for part in line_starts(io.BytesIO(b"one\\ntwo"))]
        [[0, 4, 7], [111, 116]]
    """
    import numpy as np

    file.seek(begin)
    starts, first_bytes, end, before = [np.zeros(0, np.int64)], [np.zeros(0, np.uint8)], begin, b"\n"
    while block := file.read(BLOCK):
        numbers = np.frombuffer(before + block, np.uint8)  # with the byte before, which says whether a line starts here
        line_ends = np.flatnonzero(numbers[:-1] == ord("\n"))
        starts.append(line_ends + end)
        first_bytes.append(numbers[line_ends + 1])
        end, before = end + len(block), block[-1:]
    return np.append(np.concatenate(starts), end), np.concatenate(first_bytes)
