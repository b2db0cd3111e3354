"""Parquet files, data sets from the hub, rows in memory and a .json array as lines of JSON, one per row, as in a .jsonl.

    header, lines = parquet_table("pairs.parquet")
    for line in lines(header[:2]): ...

All are unpacked into a file, so that training depends neither on the cache of the datasets library nor on what becomes of the
rows in memory.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from minisbert.checkpoint.json_file import each_key_once
from minisbert.data.values import BOM, names_of_texts, wrong_columns
from minisbert.errors import DataError, InputError, needs, short_repr

HUB = "hub:"
MEMORY = "the rows in memory"
ANY = "a list of dicts or of tuples of texts, a dict of columns, or a table with columns"
BLOCK = 1 << 20  # bytes in memory

# The names of the columns, and the rows of some of them as lines.
Table = tuple[tuple[str, ...], Callable[[Sequence[str]], Iterator[bytes]]]


def parquet_library() -> Any:
    """pyarrow.parquet. Raises InputError if it is not installed."""
    with needs("parquet files need pyarrow", "parquet", "use .jsonl"):
        import pyarrow.parquet
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

    Raises InputError: another form, or `datasets` is not installed. DataError: it cannot be fetched.
    """
    name, subset, split, *rest = (*source.removeprefix(HUB).split(":"), "", "")
    if not name or any(rest):
        raise InputError(f"{source}: expected {HUB}ORG/NAME, with :SUBSET or :SUBSET:SPLIT after it; correct the name.")
    with needs(
        f"{source}: data sets from the hub need the datasets library", "hub", "pass a .tsv, .jsonl or .parquet file"
    ):
        import datasets
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
    return json.dumps(row, default=_plain).encode() + b"\n"


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's; anything else that JSON cannot express (bytes, dates) as an object, which is
    rejected as text and as a number."""
    return value.tolist() if hasattr(value, "tolist") else {type(value).__name__: str(value)}


def is_table(value: Any) -> bool:
    """Whether a value is rows with columns, not a column."""
    rows = isinstance(value, list) and value and (isinstance(value[0], Mapping | tuple | list) or _is_example(value[0]))
    return (
        bool(rows)
        or isinstance(value, Mapping)
        or hasattr(value, "column_names")
        or type(value).__name__ == "DataFrame"
    )


def memory_table(data: Any) -> Table:
    """Rows in memory, in any of these forms:

        [{"anchor": "who eats?", "positive": "a man eats"}]            rows with names
        [("who eats?", "a man eats")]                                  texts: anchor, positive, negatives
        [InputExample(texts=["a", "b"], label=1.0)]                    as scripts of sentence-transformers have them
        {"sentence1": [...], "sentence2": [...], "score": [...]}
        frame                                                          anything with columns, or with len and rows by number

    Raises InputError: another form, or a column that is not a list. DataError: no rows, two columns of one name, or columns of
    different lengths.
    """
    names: Any = data.keys() if isinstance(data, Mapping) else getattr(data, "column_names", None)
    if names is None:
        names = getattr(data, "columns", None)
    if names is not None and not callable(names):
        header_names = list(map(str, names))
        if doubled := [name for name in header_names if header_names.count(name) > 1]:
            raise wrong_columns(MEMORY, doubled[0], header_names)  # data[name] is then both, or fails
        columns = {str(name): _values(str(name), data[name]) for name in names}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{MEMORY}: columns of different lengths, {lengths}. Expected one length.")
        data = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    elif isinstance(data, str | bytes) or not hasattr(data, "__len__") or not hasattr(data, "__iter__"):
        raise InputError(f"data is {short_repr(data)}. Expected files, or {ANY}.")
    if not len(data):
        raise DataError(f"{MEMORY}: no rows. Expected at least one.")
    if all(map(_is_example, data)):
        data = _rows_of(data)
    header: dict[str, None] = {}  # of every row: one may have more negatives than the first
    for row, given in enumerate(data):
        header.update(dict.fromkeys(_record(given, row)))

    def lines(columns: Sequence[str]) -> Iterator[bytes]:
        for row, given in enumerate(data):
            record = _record(given, row)
            found = {name: record[name] for name in columns if name in record}
            # A row without one of the columns is written whole, so that its reader's error can list those that it has.
            yield _line(record if len(found) < len(columns) else found)

    return tuple(header), lines


def _is_example(row: Any) -> bool:
    return isinstance(texts := getattr(row, "texts", None), list | tuple) and len(texts) > 0 and hasattr(row, "label")


def _rows_of(examples: Iterable[Any]) -> list[dict[str, Any]]:
    """InputExamples by column. If all labels are the number 0, as by default, there is no column of labels."""
    labels = [{} if type(one.label) is int and one.label == 0 else {"label": one.label} for one in examples]
    if any(labels):
        labels = [{"label": one.label} for one in examples]
    rows = []
    for one, label in zip(examples, labels, strict=True):
        names = ("sentence1", "sentence2") if label and len(one.texts) == 2 else names_of_texts(len(one.texts))
        rows.append(dict(zip(names, one.texts, strict=True)) | label)
    return rows


def _values(name: str, column: Any) -> list[Any]:
    """The values of a column in memory. A text would be read letter by letter, a dict by its keys, a set in any order."""
    if isinstance(column, str | bytes | Mapping | Set) or not isinstance(column, Iterable):
        raise InputError(f"{MEMORY}: column {name!r} is {short_repr(column)}. Expected a list, with one value per row.")
    return list(column.to_pylist() if hasattr(column, "to_pylist") else column)  # pyarrow's values are its own objects


def _record(given: Any, row: int) -> dict[str, Any]:
    """A row in memory by column."""
    if isinstance(given, Mapping):
        return {str(name): value for name, value in given.items()}
    if isinstance(given, tuple | list) and given:
        texts = [isinstance(value, str) for value in given]
        if all(texts):
            return dict(zip(names_of_texts(len(given)), given, strict=True))
        if texts == [True, True, False] and isinstance(given[2], float):
            return dict(zip(("sentence1", "sentence2", "score"), given, strict=True))
    raise InputError(f"{MEMORY}, 0-based row {row}: {short_repr(given)}. Expected {ANY}; name the columns with dicts.")


COLUMNAR: dict[str, Callable[[Any], Table]] = {"parquet": parquet_table, "hub": hub_table, "memory": memory_table}


def json_rows(file: Any) -> tuple[Any, str]:
    """The lines of an open .json, and what an error calls one of them: as they are, or the rows of its one array.

    Raises DataError: a damaged array, a key twice in one object, or something other than objects, lists and texts.
    """
    starts_array = file.read(BLOCK).removeprefix(BOM).lstrip().startswith(b"[")
    file.seek(0)
    if not starts_array:
        return file, "line"
    try:
        rows, wrong = json.load(file, object_pairs_hook=each_key_once), "it is empty or holds something else"
    except (ValueError, RecursionError) as error:
        rows, wrong = None, str(error)
    if isinstance(rows, list) and rows and all(isinstance(row, str) for row in rows):
        rows = [{"text": row} for row in rows]  # as the datasets library reads it
    if isinstance(rows, list) and rows and all(isinstance(row, dict | list) for row in rows):
        return unpacked(file.name, map(_line, rows)), "row"
    file.seek(0)
    try:
        first = json.loads(next(filter(bytes.strip, file), b""))
    except (ValueError, RecursionError):
        first = []
    file.seek(0)
    if first and all(isinstance(value, str) for value in first):
        return file, "line"  # each a list of texts
    raise DataError(
        f"{file.name}: not an array of objects ({wrong}). Expected one like [{{...}}, {{...}}], or one object per line; "
        "correct the file."
    )


def unpacked(source: str, lines: Iterable[bytes]) -> Any:
    """Copy the lines to an unnamed temporary file. Raises DataError: the disk is full."""
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
