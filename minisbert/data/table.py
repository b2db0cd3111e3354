"""Training rows in memory, read like those of a file: lists, dicts of columns, pandas and datasets tables.

[{"anchor": "who eats?", "positive": "a man eats"}]            rows with names
[("who eats?", "a man eats")]                                  texts: anchor, positive, negatives
{"sentence1": [...], "sentence2": [...], "score": [...]}
frame                                                          anything with columns, or with len and rows by number
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minisbert.data.rows import RowFile
from minisbert.data.values import listed
from minisbert.errors import DataError, InputError, short_repr

ANY = "a list of dicts or of tuples of texts, a dict of columns, or a table with columns"


def sources(data: Any) -> tuple[Any, ...]:
    """What `TrainConfig.data` names: a tuple or a list of files, a tuple of any sources, or one source in memory.

    Example:
        >>> sources(("a.tsv", "b.tsv")), len(sources([{"text": "a"}, {"text": "b"}]))
        (('a.tsv', 'b.tsv'), 1)
    """
    files = isinstance(data, list) and data and all(isinstance(one, str | Path) for one in data)
    return tuple(data) if files or isinstance(data, tuple) else (data,)


def row_file(source: Any, names: Sequence[str] = ()) -> RowFile:
    """The rows of a file (see `RowFile`), or of a source in memory."""
    return RowFile(source, names) if isinstance(source, str | Path) else MemoryFile(source)


class MemoryFile(RowFile):
    """Rows in memory.

    Raises:
        InputError: something else than rows.
        DataError: no rows, or columns of different lengths.

    Example:
        >>> file = MemoryFile([("who eats?", "a man eats")])
        >>> file.header, list(file.rows(("positive",)))
        (('anchor', 'positive'), [('the rows in memory, 0-based row 0', ('a man eats',))])
    """

    def __init__(self, data: Any):
        self.source, self.kind, self.unit, self.first, self._skipped = "the rows in memory", "hub", "0-based row", 0, []
        self._table = self._json_lines
        names: Any = data.keys() if isinstance(data, Mapping) else getattr(data, "column_names", None)
        if names is None:
            names = getattr(data, "columns", None)
        if names is not None and not callable(names):
            columns = {str(name): list(data[name]) for name in names}
            lengths = {name: len(column) for name, column in columns.items()}
            if len(set(lengths.values())) > 1:
                raise DataError(f"{self.source}: columns of different lengths, {lengths}. Expected one length.")
            self._data: Any = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        elif isinstance(data, str | bytes) or not hasattr(data, "__len__") or not hasattr(data, "__iter__"):
            raise InputError(f"data is {short_repr(data)}. Expected files, or {ANY}.")
        else:
            self._data = data
        if not len(self._data):
            raise DataError(f"{self.source}: no rows. Expected at least one.")
        self.header = _names(next(iter(self._data)), self.source)

    def _json_lines(self, columns: Sequence[str]) -> Iterator[bytes]:
        for row, given in enumerate(self._data):
            if isinstance(given, tuple | list):
                given = dict(zip(self.header, given, strict=False))
            if not isinstance(given, Mapping) or not all(name in given for name in columns):
                missing = listed(name for name in columns if not isinstance(given, Mapping) or name not in given)
                raise DataError(f"{self.place(row)}: there is no {missing}. Expected the columns of the first row.")
            yield json.dumps({name: given[name] for name in columns}, default=_plain).encode() + b"\n"


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's; of anything else the text, which is then refused where it is not text."""
    return value.tolist() if hasattr(value, "tolist") else {"value": repr(value)}


def _names(row: Any, place: str) -> tuple[str, ...]:
    """The columns of rows like this one."""
    if isinstance(row, Mapping):
        return tuple(map(str, row))
    if isinstance(row, tuple | list) and row:
        texts = [isinstance(value, str) for value in row]
        if all(texts):
            negatives = (f"negative{i}" for i in range(1, len(row) - 1))
            return ("text",) if len(row) == 1 else ("anchor", "positive", *negatives)
        if texts == [True, True, False] and isinstance(row[2], float):
            return ("sentence1", "sentence2", "score")
    raise InputError(f"{place}: the first is {short_repr(row)}. Expected {ANY}; name the columns with dicts.")
