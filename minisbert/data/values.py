"""Checks of the values in a row: text, numbers, UTF-8, JSON, the columns that a file must have, and that it can be read.

Each error names the place, the column, the value, and what was expected. `text_hashes` gives texts short names.
"""

import hashlib
import json
import logging
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any

from minisbert.checkpoint.json_file import each_key_once
from minisbert.errors import DataError, MinisbertError

if TYPE_CHECKING:
    import numpy as np

    from minisbert.data.rows import RowFile

logger = logging.getLogger("minisbert")
BOM = b"\xef\xbb\xbf"  # the byte order mark that some editors put before UTF-8


def text(value: Any, column: str, place: str, *, blank: bool = False) -> str:
    """`value`, checked to be text. Raises DataError: not text, blank (unless `blank`), or with half a surrogate pair."""
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
    """`value` as a finite float; tsv and csv hold numbers as text. Raises DataError: not a number, NaN or infinite.

    Example:
        >>> as_number("2.50", "score", "sts.tsv, line 2")
        2.5
    """
    known = isinstance(value, Real | str) and not isinstance(value, bool)  # NumPy's numbers are Real
    try:
        found = float(value) if known and "_" not in str(value) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        comma = " with a point before its decimals" if isinstance(value, str) and "," in value else ""
        raise DataError(
            f"{place}: {column!r} is {value!r:.80}. Expected a finite number{comma}; correct or remove the row."
        )
    return found


def truth_as_number(value: Any) -> Any:
    """1.0 and 0.0 for true and false, which pandas writes into a .csv as text; any other value as it is."""
    return {"true": 1.0, "false": 0.0}.get(str(value).strip().lower(), value)


def as_score(value: Any, column: str, place: str) -> float:
    """The same of a score or label, which may be true or false: 1.0 or 0.0."""
    return as_number(truth_as_number(value), column, place)


def decoded(line: bytes, place: str) -> str:
    """A line as text, with its line end. Raises DataError: not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: byte {error.start + 1} is {line[error.start : error.end]!r}, which is not UTF-8. "
            "Expected UTF-8 text; convert the file, for example with iconv."
        ) from None


def stripped(line: bytes, place: str) -> str:
    """A line as text, without its line end."""
    return decoded(line, place).removesuffix("\n").removesuffix("\r")


def record_of(line: str, place: str) -> dict[str, Any]:
    """The object that a line of JSON holds. Raises DataError.

    A list of texts is an anchor, a positive and negatives; {"set": texts}, all alike, an anchor and its positives.
    """
    try:
        record = json.loads(line, object_pairs_hook=each_key_once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: {line[:80]!r} is not JSON ({error}). Expected one object per line.") from None
    if isinstance(record, list) and record and all(isinstance(one, str) for one in record):
        return dict(zip(names_of_texts(len(record)), record, strict=True))
    if isinstance(record, dict) and record.keys() == {"set"} and isinstance(record["set"], list):
        return {"anchor": record["set"][0] if record["set"] else None, "positives": record["set"][1:]}
    if not isinstance(record, dict):
        raise DataError(f'{place}: {line[:80]!r} is not an object. Expected one, like {{"text": "..."}}.')
    return record


def names_of_texts(count: int) -> tuple[str, ...]:
    """The columns of rows that are lists of texts.

    Example:
        >>> names_of_texts(4)
        ('anchor', 'positive', 'negative1', 'negative2')
    """
    return ("text",) if count == 1 else ("anchor", "positive", *(f"negative{i}" for i in range(1, count - 1)))


def matching(name: str, header: Sequence[str]) -> list[str]:
    """The columns with a name, whatever their case, spaces, `_` and `-`; the one spelled the same, if it is there.

    Example:
        >>> matching("sentence1", ["Score", "Sentence_1 "])
        ['Sentence_1 ']
    """
    return [name] * header.count(name) or [one for one in header if plain_name(one) == plain_name(name)]


def plain_name(column: str) -> str:
    """A column's name for comparisons."""
    return column.strip().casefold().translate(dict.fromkeys(map(ord, " _-")))


def wrong_columns(place: str, column: str, columns: Iterable[str]) -> DataError:
    """The error for a column that is missing or duplicated."""
    return DataError(f"{place}: the columns are {listed(columns) or 'none'}. Expected exactly one named {column!r}.")


def listed(names: Iterable[str]) -> str:
    """The first 20 names, quoted."""
    shown = [f"{name!r:.60}" for name in names]
    return ", ".join(shown[:20]) + (", ..." if len(shown) > 20 else "")


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


def warn_of_splits(file: "RowFile") -> None:
    """Logs a warning where a column names the split of each row, as in stsbenchmark.tsv.gz: every row is used."""
    for name in matching("split", file.header)[:1]:
        if len(found := {str(value) for _, (value,) in file.rows((name,), (name,))}) > 1:
            logger.warning(
                f"{file.source}: its rows are of the splits {listed(sorted(found))} (column {name!r}), and all are used. "
                "For one of them, write its rows into a file of their own."
            )


def text_hashes(texts: Sequence[str]) -> "np.ndarray":
    """A hash per text, the same in every process: uint32 `[texts]`, 4 bytes of BLAKE2b (RFC 7693).

    Example:
        >>> text_hashes(["a cat", "a dog", "a cat"])
        array([386420097, 944320793, 386420097], dtype=uint32)
    """
    import numpy as np  # the help of commands loads this file, and not NumPy

    digests = bytearray()
    for one in texts:
        digests += hashlib.blake2b(one.encode(), digest_size=4).digest()
    return np.frombuffer(digests, "<u4").astype(np.uint32)
