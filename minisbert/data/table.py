"""Training rows in memory, read like those of a file: lists, dicts of columns, pandas and datasets tables.

[{"anchor": "who eats?", "positive": "a man eats"}]            rows with names
[("who eats?", "a man eats")]                                  texts: anchor, positive, negatives
{"sentence1": [...], "sentence2": [...], "score": [...]}
frame                                                          anything with columns, or with len and rows by number

Rows with lists of positives and negatives, or uneven numbers of them, become plain rows (`with_plain_rows`):

    {"query": "q", "pos": ["p"], "neg": ["n", "m"]}                              FlagEmbedding
    {"query": "q", "positive_passages": [{"title": "t", "text": "p"}], ...}      Tevatron: title and text joined by a space
    {"question": "q", "positive_ctxs": [...], "hard_negative_ctxs": [...], ...}  DPR, likewise
    {"anchor": "q", "positive": "p", "negative_1": "n"}, then rows with "negative_2" too

The positives are those of one column: short `answers` next to passages are not used. Each row becomes one example or more of
an anchor, a positive and N negatives, where N is the fewest that a row has. A row's positives and negatives are dealt out in
order over as many examples as it takes to use all of them; the last of these may repeat some. So nothing is left out, and
examples of one row share their anchor: `no_duplicates` keeps them out of each other's batch.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minisbert.data.conventions import POSITIVE
from minisbert.data.delimited import BOM
from minisbert.data.rows import RowFile
from minisbert.data.values import listed, names_of_texts, plain_name, record_of, stripped, text
from minisbert.errors import DataError, InputError, short_repr

ANY = "a list of dicts or of tuples of texts, a dict of columns, or a table with columns"


def sources(data: Any) -> tuple[Any, ...]:
    """What `TrainConfig.data` names: a tuple or list of files or other sources, or one source in memory, such as rows.

    Example:
        >>> sources(("a.tsv", "b.tsv")), len(sources([{"text": "a"}, {"text": "b"}]))
        (('a.tsv', 'b.tsv'), 1)
    """
    several = isinstance(data, list) and data and not any(isinstance(one, Mapping | tuple | list) for one in data)
    return tuple(data) if several or isinstance(data, tuple) else (data,)


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
            return names_of_texts(len(row))
        if texts == [True, True, False] and isinstance(row[2], float):
            return ("sentence1", "sentence2", "score")
    raise InputError(f"{place}: the first is {short_repr(row)}. Expected {ANY}; name the columns with dicts.")


# --- lists of positives and negatives --------------------------------------------------------------------------------

logger = logging.getLogger("minisbert")

# Names of a list, or of the start of numbered columns, without `_`. Of several positives the first in this order counts.
_POSITIVES: tuple[str, ...] = ("positivepassages", "positivectxs", "positives", "pos", "positive")
_POSITIVES += (
    *(name for name in map(plain_name, POSITIVE) if name != "answer"),
    "documents",
    "passages",
    "answer",
    "answers",
)
_NEGATIVES = {"neg", "negs", "negative", "negatives", "hardnegative", "hardnegatives", "negativepassages"}
_NEGATIVES |= {"negativectxs", "hardnegativectxs"}
_MARGINS = {
    "margin",
    "positivescore",
    "negativescore",
}  # labels of each negative, whose number is then the same in all rows


def with_plain_rows(file: RowFile, kind: str | None = None) -> RowFile:
    """The file itself, or its rows without lists and with one number of negatives.

    Reads all rows of a .jsonl once: its columns are those of every row, not only of the first.

    Raises:
        DataError: an entry of a list is neither text nor an object with a text; a row has no positive, or alone no negative.
    """
    header = dict.fromkeys(file.header)
    if file.kind in ("txt", "tsv", "csv") or (file.kind != "jsonl" and not any(map(_role, header))):
        return file
    lists: set[str] = set()
    counts: set[int] = set()
    for _, record in _records(file, list(filter(_role, header))):
        header.update(dict.fromkeys(record))
        lists.update(name for name, value in record.items() if isinstance(value, list) and _role(name))
        counts.add(sum(len(_entries(value)) for name, value in record.items() if _is_negative(name)))
    file.header = tuple(header)
    uneven = len(counts) > 1 and not any(plain_name(name).rstrip("0123456789") in _MARGINS for name in header)
    named = sorted((name for name in header if plain_name(name) in _POSITIVES), key=_rank)
    if not named or not (uneven or any(_is_negative(name) or name == named[0] for name in lists)):
        return file
    return _Plain(file, named[0], 0 if kind == "pairs" else min(counts - {0}, default=0))


class _Plain(RowFile):
    """The rows of a file, dealt out; `values` and places are those of lines of JSON."""

    def __init__(self, file: RowFile, positive: str, negatives: int):
        self.source, self.kind, self.unit, self.first, self._skipped = file.source, "hub", "example", 1, []
        self._positive = positive
        others = [name for name in file.header if not (_is_negative(name) or name == positive)]
        self._names = ("positive", *(f"negative_{i + 1}" for i in range(negatives)))
        self.header, self._file = tuple(dict.fromkeys((*others, *self._names))), file
        self._table = self._dealt

    def _dealt(self, columns: Sequence[str]) -> Iterator[bytes]:
        rows = examples = 0
        count = len(self._names) - 1
        for place, record in _records(self._file, self._file.header):
            texts: dict[bool, list[str]] = {True: [], False: []}
            for name, value in record.items():
                if _is_negative(name) or name == self._positive:
                    texts[_is_negative(name)] += [_text(one, name, place) for one in _entries(value)]
            positives, negatives = texts[False], texts[True]
            if not positives or (count and not negatives):
                raise DataError(
                    f"{place}: no {'negative, but other rows have some' if positives else 'positive'}. Expected at least one; "
                    "correct or remove the row."
                )
            size = max(len(positives), -(-len(negatives) // count) if count else 1)
            for i in range(size):
                dealt = [positives[i % len(positives)]]
                dealt += [negatives[(i * count + j) % len(negatives)] for j in range(count)]
                record |= dict(zip(self._names, dealt, strict=True))
                yield json.dumps({name: record.get(name) for name in columns}).encode() + b"\n"
            rows, examples = rows + 1, examples + size
        logger.info(
            f"{self.source}: {rows} rows with lists or uneven numbers of texts are {examples} examples of an anchor, a "
            f"positive and {count} negative(s)."
        )


def _records(file: RowFile, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    row = 0
    for line in file.lines(columns):
        if not file.is_empty(line, row):
            place = file.place(row)
            yield place, record_of(stripped(line.removeprefix(BOM), place), place)
            row += 1


def _rank(name: str) -> int:
    return _POSITIVES.index(plain_name(name))


def _role(name: str) -> bool:
    return plain_name(name) in _POSITIVES or _is_negative(name)


def _is_negative(name: str) -> bool:
    return plain_name(name).rstrip("0123456789") in _NEGATIVES


def _entries(value: Any) -> list[Any]:
    """The texts in a cell: of a list, or one; null is left out."""
    return [one for one in (value if isinstance(value, list) else [value]) if one is not None]


def _text(value: Any, name: str, place: str) -> str:
    if isinstance(value, dict) and "text" in value:
        parts = [value.get("title") or "", value["text"]]
        return text(
            " ".join(part for part in parts if part) if all(isinstance(p, str) for p in parts) else value, name, place
        )
    return text(value, name, place)
