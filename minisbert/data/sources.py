"""Where rows come from: a data file of any kind as one plain file of lines, and its sha256.

    file, sha256 = opened("pairs.tsv.gz", ("sentence1", "sentence2"))      # an unnamed file of plain tsv

Plain .tsv and .jsonl are read in place. What has no places to go back to (gzip), or would decode a whole row group for
every row of a shuffled epoch (parquet), is unpacked once, piece by piece, into an unnamed file in the temporary folder
(TMPDIR), which vanishes with the process. A data set of the hub is unpacked alike, so that training never depends on
its library's cache.
"""

import gzip
import hashlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase, BufferedRandom
from pathlib import Path
from typing import Any

from minisbert.errors import DataError, InputError, MinisbertError

HUB = "hub:"
BLOCK = 1 << 20  # bytes held at a time


def file_kind(source: str) -> str:
    """ "tsv", "jsonl", "parquet" or "hub".

    Raises:
        InputError: none of them.
    """
    if source.startswith(HUB):
        return "hub"
    name = source.lower()
    kind = Path(name.removesuffix(".gz")).suffix.removeprefix(".")
    if kind in ("tsv", "jsonl") or name.endswith(".parquet"):
        return kind
    raise InputError(
        f"{source}: rows are not read from this kind of file. Expected .tsv or .jsonl (or these with .gz), .parquet, "
        f"or {HUB}ORG/NAME for a data set of the hub."
    )


def opened(source: str, kind: str, columns: tuple[str, ...]) -> tuple[BufferedIOBase, str]:
    """A plain file of lines, and the sha256 of the source (of a hub's data set: of the rows as they came)."""
    if kind == "hub":
        plain = _unpacked(source, _hub_lines(source, columns))
        plain.seek(0)
        return plain, hashlib.file_digest(plain, "sha256").hexdigest()
    with Path(source).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if kind == "parquet":
        return _unpacked(source, _parquet_lines(source, columns)), sha256
    if source.lower().endswith(".gz"):
        with gzip.open(source) as file:
            return _unpacked(source, iter(lambda: file.read(BLOCK), b"")), sha256
    return Path(source).open("rb"), sha256


def _unpacked(source: str, pieces: Iterable[bytes]) -> BufferedRandom:
    plain = tempfile.TemporaryFile(prefix="minisbert-")  # noqa: SIM115 (it lives as long as the rows)
    for piece in pieces:
        _write(source, plain, piece)
    _write(source, plain, b"", flush=True)
    return plain


def _write(source: str, plain: BufferedRandom, piece: bytes, flush: bool = False) -> None:
    """Apart from reading, so that a full disk is not taken for a bad file."""
    try:
        plain.write(piece)
        if flush:
            plain.flush()
    except OSError as error:
        folder = tempfile.gettempdir()
        raise DataError(
            f"{source}: cannot be unpacked into {folder} ({error.strerror or error}; {shutil.disk_usage(folder).free} "
            "bytes are free). Make room, or set TMPDIR to another folder."
        ) from None


def _parquet_lines(source: str, columns: tuple[str, ...]) -> Iterator[bytes]:
    # Without these options a whole row group is read ahead, once for each thread.
    with parquet_library().ParquetFile(source, pre_buffer=False, buffer_size=BLOCK) as file:
        for batch in file.iter_batches(batch_size=1024, columns=list(columns), use_threads=False):
            for row in batch.to_pylist():
                yield _line(row)


def _hub_lines(source: str, columns: tuple[str, ...]) -> Iterator[bytes]:
    data = hub_data(source)
    # Classes are stored as numbers; their names are in the description. -1 ("no label") stays a number.
    names = {column: getattr(data.features.get(column), "names", None) for column in columns}
    for row in data.select_columns(list(columns)):
        for column, classes in names.items():
            if classes and isinstance(row[column], int) and 0 <= row[column] < len(classes):
                row[column] = classes[row[column]]
        yield _line(row)


def _line(row: dict[str, Any]) -> bytes:
    # What JSON has no form for (bytes, dates) becomes an object, which is refused as text and as a number.
    return json.dumps(row, default=lambda value: {type(value).__name__: str(value)}).encode() + b"\n"


def hub_data(source: str) -> Any:
    """The data set that "hub:org/name", "hub:org/name:subset" or "hub:org/name:subset:split" names.

    Raises:
        InputError: the name has no such form, or `datasets` is not installed.
        DataError: it cannot be fetched.
    """
    name, subset, split, *rest = (*source.removeprefix(HUB).split(":"), "", "")
    if not name or any(rest):
        raise InputError(
            f"{source}: no data set's name. Expected {HUB}ORG/NAME, with :SUBSET or :SUBSET:SPLIT after it."
        )
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{source}: data sets of the hub need the datasets library, which is not installed. Run "
            "`pip install 'minisbert[hub]'`, or name a .tsv, .jsonl or .parquet file."
        ) from None
    try:
        return datasets.load_dataset(name, subset or None, split=split or "train")
    except Exception as error:  # the library has no common class for "not found", "offline" and "choose a subset"
        raise DataError(
            f"{source}: the hub did not give this data set ({error}). Check its name, subset and split."
        ) from None


def parquet_library() -> Any:
    """pyarrow.parquet. Raises InputError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "parquet files need pyarrow, which is not installed. Run `pip install 'minisbert[parquet]'`, or use .jsonl."
        ) from None
    return pyarrow.parquet


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Whatever a library says about a file it cannot read becomes a DataError that names the file."""
    try:
        yield
    except MinisbertError:
        raise
    except FileNotFoundError:
        raise DataError(f"{source}: no such file. Expected a file of rows; check the path.") from None
    except (OSError, EOFError, zlib.error, ValueError) as error:  # pyarrow's own errors derive from ValueError
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(
            f"{source}: cannot be read ({why}). Expected a whole, readable file; check or make it again."
        ) from None
