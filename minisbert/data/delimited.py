"""CSV files, and .tsv files whose cells are quoted as in CSV, as lines of JSON, which rows.py reads like .jsonl.

    text,label
    "a man, eating",1          a cell in quotation marks may hold delimiters, line breaks and doubled quotation marks

Quoting is that of RFC 4180, which spreadsheets and pandas write. The delimiter of a .csv is a comma, or what separates the
columns of its first line: a semicolon (spreadsheets where the comma is the decimal point), a tab or a bar.
"""

import csv
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from minisbert.data.columnar import BLOCK, Table
from minisbert.data.values import BOM, decoded
from minisbert.errors import DataError

logger = logging.getLogger("minisbert")

DELIMITERS = (",", ";", "\t", "|")
# A record of tab-separated cells, each quoted or without quotation marks, and a quoted cell that needs its quotes.
_RECORD = re.compile(r'(?:"(?:[^"]|"")*"|[^"\t\r\n]*)(?:\t(?:"(?:[^"]|"")*"|[^"\t\r\n]*))*\r?\n?')
_NEEDED = re.compile(r'""|[\t\r\n]')
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


def csv_table(file: Any, source: str, names: Sequence[str] = (), delimiter: str | None = None) -> Table:
    """The columns and rows of an open file; by default `delimiter` is found in the first line, and so are the `names`.

    Raises DataError: empty, not UTF-8, or badly quoted; a row with another number of cells than the header.
    """
    first = decoded(file.readline().removeprefix(BOM), f"{source}, line 1")
    if delimiter is None:
        widths = {one: len(next(_cells([first], source, one, strict=False), [])) for one in DELIMITERS}
        fits = [one for one, width in widths.items() if width == (len(names) or width) and width > 1]
        delimiter = (fits or [","])[0]
    header = tuple(names or next(_records(file, source, delimiter), ()))

    def lines(columns: Sequence[str]) -> Iterator[bytes]:
        for number, row in enumerate(_records(file, source, delimiter), start=1):
            if number == 1 and not names:
                continue
            if row and len(row) != len(header):  # an empty line is a row of no cells, which readers skip
                raise DataError(
                    f"{source}, row {number}: {len(row)} cell(s), but the header has {len(header)}. Expected one cell per "
                    f"column, separated by {delimiter!r}; put cells that contain it in quotation marks."
                )
            record = dict(zip(header, row, strict=False))
            yield json.dumps({name: record[name] for name in columns}).encode() + b"\n" if row else b"\n"

    return header, lines


def _records(file: Any, source: str, delimiter: str) -> Iterator[list[str]]:
    file.seek(0)
    text = (
        decoded(line.removeprefix(BOM) if number == 1 else line, f"{source}, line {number}")
        for number, line in enumerate(file, start=1)
    )
    return _cells(text, source, delimiter)


def _cells(lines: Iterable[str], source: str, delimiter: str, *, strict: bool = True) -> Iterator[list[str]]:
    """The cells of each record. Raises DataError for bad quoting (unless not `strict`) and for line ends of "\\r" alone."""
    csv.field_size_limit(2**31 - 1)  # the default refuses documents of more than 131,072 characters
    reader = csv.reader(lines, delimiter=delimiter, strict=strict)
    try:
        yield from reader
    except csv.Error as error:
        if "new-line" in str(error):
            wrong = r"a carriage return (\r) outside quotation marks. Expected lines that end in \n or \r\n; convert the file"
        else:
            wrong = f"the quoting is damaged ({error}). Expected a quoted cell to end in a quotation mark, and those inside it "
            wrong += "to be doubled; make the file again"
        raise DataError(f"{source}, line {reader.line_num}: {wrong}.") from None


def is_quoted(file: Any, source: str) -> bool:
    """Whether the cells of a .tsv are quoted as in CSV; a quotation mark is otherwise part of the text.

    They are if all cells of the header are quoted. They are also if only cells that need quotes have them, as a CSV writer puts
    them, and a line has doubled quotes or the lines of a record cannot be rows by themselves. Logs a warning where a reader
    could take the file either way; it is then read line by line, which loses no row.
    """
    file.seek(0)
    if not any(b'"' in block for block in iter(partial(file.read, BLOCK), b"")):
        return False
    file.seek(0)
    everywhere, needed, doubtful, spanning, tabs = False, False, 0, 0, 0
    lines = enumerate(file, start=1)
    for number, line in lines:
        tabs = line.count(b"\t") if number == 1 else tabs
        if b'"' not in line:
            continue
        record, rows = line.removeprefix(BOM) if number == 1 else line, line.count(b"\t") == tabs
        while record.count(b'"') % 2 and (following := next(lines, None)):  # a quoted cell has a line break
            record += following[1]
            rows &= following[1].count(b"\t") == tabs or not following[1].strip()
            if len(record) > BLOCK:
                return False
        text = decoded(record, f"{source}, line {number}")
        if not _RECORD.fullmatch(text):
            return False
        quoted = re.findall(r'(?:^|\t)"((?:[^"]|"")*)"', text)
        everywhere |= number == 1 and len(quoted) == text.count("\t") + 1
        if everywhere:
            continue
        # Each line is a row by itself, and together they do not have a cell per column.
        if rows and _QUOTED.sub("", text).count("\t") != tabs:
            return False
        if not all(map(_NEEDED.search, quoted)):
            doubtful = doubtful or number
        elif rows and len(record) > len(line):  # quotation marks around several rows, or one cell with line breaks
            spanning = spanning or number
        else:
            needed = True
    if doubtful := doubtful or (0 if needed else spanning):
        logger.warning(
            f"{source}, line {doubtful}: a cell begins and ends with quotation marks. They are read as part of the text, and "
            "each line as a row; if they are only quoting, save the file as .csv."
        )
    return everywhere or (needed and not doubtful)
