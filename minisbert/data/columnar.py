"""Parquet files and data sets from the hub as lines of JSON, one object per row, which rows.py reads like .jsonl.

    header, lines = parquet_table("pairs.parquet")
    for line in lines(header[:2]): ...

Only the requested columns are read. Data sets from the hub are unpacked too, so that training does not depend on the cache of
the datasets library.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from minisbert.errors import DataError, InputError

HUB = "hub:"
BLOCK = 1 << 20  # bytes in memory

# The names of the columns, and the rows of some of them as lines.
Table = tuple[tuple[str, ...], Callable[[Sequence[str]], Iterator[bytes]]]


def parquet_library() -> Any:
    """pyarrow.parquet. Raises InputError if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "parquet files need pyarrow, which is not installed. Run `pip install 'minisbert[parquet]'`, or use .jsonl."
        ) from None
    return pyarrow.parquet


def parquet_table(source: str) -> Table:
    """A parquet file."""
    # Without these options a whole row group is read ahead in each thread.
    file = parquet_library().ParquetFile(source, pre_buffer=False, buffer_size=BLOCK)

    def lines(columns: Sequence[str]) -> Iterator[bytes]:
        for batch in file.iter_batches(batch_size=1024, columns=list(columns), use_threads=False):
            yield from map(_line, batch.to_pylist())

    return tuple(file.schema_arrow.names), lines


def hub_table(source: str) -> Table:
    """The data set named by "hub:org/name", "hub:org/name:subset" or "hub:org/name:subset:split".

    Raises:
        InputError: the name has another form, or `datasets` is not installed.
        DataError: it cannot be fetched.
    """
    name, subset, split, *rest = (*source.removeprefix(HUB).split(":"), "", "")
    if not name or any(rest):
        raise InputError(f"{source}: expected {HUB}ORG/NAME, with :SUBSET or :SUBSET:SPLIT after it; correct the name.")
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{source}: data sets from the hub need the datasets library, which is not installed. Run "
            "`pip install 'minisbert[hub]'`, or pass a .tsv, .jsonl or .parquet file."
        ) from None
    try:
        data = datasets.load_dataset(name, subset or None, split=split or "train")
    except Exception as error:  # the library has no common base class for "not found", "offline" and "choose a subset"
        raise DataError(
            f"{source}: cannot be loaded from the hub ({error}). Check its name, subset and split."
        ) from None

    def lines(columns: Sequence[str]) -> Iterator[bytes]:
        # Classes are stored as numbers, their names in the features. -1 ("no label") stays a number.
        names = {column: getattr(data.features.get(column), "names", None) for column in columns}
        for row in data.select_columns(list(columns)):
            for column, classes in names.items():
                if classes and isinstance(row[column], int) and 0 <= row[column] < len(classes):
                    row[column] = classes[row[column]]
            yield _line(row)

    return tuple(data.column_names), lines


def _line(row: dict[str, Any]) -> bytes:
    # Values that JSON cannot express (bytes, dates) become objects, which are rejected as text and as numbers.
    return json.dumps(row, default=lambda value: {type(value).__name__: str(value)}).encode() + b"\n"


def unpacked(source: str, lines: Iterable[bytes]) -> Any:
    """Copy the lines to an unnamed temporary file.

    Raises:
        DataError: the disk is full.
    """
    plain = tempfile.TemporaryFile(prefix="minisbert-")  # noqa: SIM115 (it lives as long as the rows)

    def write(line: bytes, flush: bool = False) -> None:  # separate from reading: a full disk is not a bad file
        try:
            plain.write(line)
            if flush:
                plain.flush()
        except OSError as error:
            folder = tempfile.gettempdir()
            raise DataError(
                f"{source}: cannot be unpacked into {folder} ({error.strerror or error}; "
                f"{shutil.disk_usage(folder).free} bytes are free). Make room, or set TMPDIR to another folder."
            ) from None

    for line in lines:
        write(line)
    write(b"", flush=True)
    return plain
