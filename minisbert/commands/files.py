"""Files of sentences: read whole, or refused with the line at fault.

    read_sentences("talk.jsonl.gz", column="text").texts          # ["...", ...]

Plain text has a sentence a line (an empty line is an empty sentence), .jsonl an object a line, .tsv a header line and
no quoting; each may be packed as .gz. Then .parquet, and "-" for text on stdin. UTF-8, strictly. Rows keep their order
and number.
"""

import gzip
import json
import sys
import zlib
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisbert.errors import DataError, InputError, MinisbertError

STANDARD = "-"  # stdin or stdout


@dataclass(frozen=True)
class Sentences:
    """Sentences, and where each stood, so that a complaint can name its line."""

    texts: list[str]
    source: str
    unit: str = "line"
    first: int = 1  # number of the first sentence's line or row

    def place(self, row: int) -> str:
        """Where a sentence stood.

        Example:
            >>> Sentences(["a", "b"], "talk.txt").place(1)
            'talk.txt, line 2'
        """
        return f"{self.source}, {self.unit} {self.first + row}"


def read_sentences(source: str, column: str = "text") -> Sentences:
    """Every sentence of a file.

    Args:
        source: a path, or "-" for text on stdin.
        column: which field, column or key holds the sentence; plain text has none.

    Raises:
        InputError: a kind of file that is not read here.
        DataError: the file is missing, damaged, not UTF-8, lacks the column, or a value is not text.
    """
    texts = list(stream_sentences(source, column))
    if source == STANDARD:
        return Sentences(texts, "stdin")
    if source.lower().endswith(".parquet"):
        return Sentences(texts, source, unit="0-based row", first=0)
    return Sentences(texts, source, first=2 if _kind(source) == ".tsv" else 1)


def stream_sentences(source: str, column: str = "text") -> Iterator[str]:
    """The same one after the other, for files larger than memory; complaints come where the file is at fault."""
    kind = ".txt" if source == STANDARD else _kind(source)
    if kind == ".parquet" and source.lower().endswith(".parquet"):
        return _read_parquet(source, column)
    if kind == ".txt":
        return (line for _, line in _lines(source))
    if kind == ".jsonl":
        return (_json_text(line, column, f"{source}, line {number}") for number, line in _lines(source))
    if kind == ".tsv":
        return _read_tsv(source, column)
    raise InputError(
        f"{source}: sentences are not read from this kind of file. Expected .txt, .jsonl, .tsv (or these with .gz), "
        ".parquet, or - for text on stdin."
    )


def _kind(source: str) -> str:
    return Path(source.lower().removesuffix(".gz")).suffix


def _lines(source: str) -> Iterator[tuple[int, str]]:
    """Numbered lines. Only a line feed ends one: Unicode's other separators may stand inside a sentence."""
    where = "stdin" if source == STANDARD else source
    try:
        with _open(source) as stream:
            for number, raw in enumerate(stream, start=1):
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{where}, line {number}: byte {error.start + 1} is {raw[error.start : error.end]!r}, "
                        "which is not UTF-8. Expected UTF-8 text; convert the file, for example with iconv."
                    ) from None
                if number == 1:
                    line = line.removeprefix("\ufeff")  # the mark that some editors put before UTF-8
                yield number, line.removesuffix("\n").removesuffix("\r")
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(where, error) from None


def _open(source: str) -> Any:
    if source == STANDARD:
        return nullcontext(sys.stdin.buffer)
    return gzip.open(source) if source.lower().endswith(".gz") else Path(source).open("rb")


def _unreadable(where: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{where}: no such file. Expected a file of sentences; check the path.")
    why = error.strerror if isinstance(error, OSError) and error.strerror else error
    return DataError(f"{where}: cannot be read ({why}). Expected a whole, readable file; check or make it again.")


def _json_text(line: str, column: str, place: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f'{place}: {line[:80]!r} is not JSON ({error}). Expected an object a line, like {{"{column}": "..."}}.'
        ) from None
    if not isinstance(record, dict):
        raise DataError(f'{place}: {line[:80]!r} is no object. Expected one, like {{"{column}": "..."}}.')
    if column not in record:
        raise _no_column(place, column, record)
    return _text(record[column], column, place)


def _read_tsv(source: str, column: str) -> Iterator[str]:
    lines = _lines(source)
    _, first = next(lines, (0, None))
    if first is None:
        raise DataError(f"{source}: empty. Expected a header line with the names of the columns.")
    header = first.split("\t")
    if header.count(column) != 1:
        raise _no_column(f"{source}, line 1", column, header)
    for number, line in lines:
        # No quoting (csv.QUOTE_NONE): a quotation mark is part of the sentence, and a cell cannot hold a tab.
        cells = line.split("\t")
        if len(cells) != len(header):
            raise DataError(
                f"{source}, line {number}: {len(cells)} cell(s), but the header has {len(header)}. Expected one cell a "
                "column, separated by tabs; remove tabs and line breaks from the text."
            )
        yield cells[header.index(column)]


def _read_parquet(source: str, column: str) -> Iterator[str]:
    parquet, row = pyarrow_parquet(), 0
    try:
        with parquet.ParquetFile(source) as file:
            if file.schema_arrow.names.count(column) != 1:
                raise _no_column(source, column, file.schema_arrow.names)
            for batch in file.iter_batches(columns=[column]):
                for value in batch.column(0).to_pylist():
                    yield _text(value, column, f"{source}, 0-based row {row}")
                    row += 1
    except MinisbertError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise _unreadable(source, error) from None


def _no_column(place: str, column: str, columns: Collection[str]) -> DataError:
    here = ", ".join(map(repr, columns)) or "nothing"
    return DataError(f"{place}: no (single) column {column!r}. Found {here}; name the right one with --column.")


def _text(value: Any, column: str, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(
            f"{place}: {column!r} is {value!r:.80} ({type(value).__name__}). Expected text; correct or remove the row."
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"{place}: {column!r} is {value!r:.80}, with half a surrogate pair. Expected valid Unicode; correct the row."
        ) from None
    return value


def pyarrow_parquet() -> Any:
    """pyarrow.parquet, or a word on how to install it."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "parquet files need pyarrow, which is not installed. Run `pip install 'minisbert[parquet]'`, or use .jsonl."
        ) from None
    return pyarrow.parquet
