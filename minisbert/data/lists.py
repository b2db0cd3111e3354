"""Rows with lists of positives and negatives, or uneven numbers of them, dealt out over plain rows (`with_plain_rows`):

    {"query": "q", "pos": ["p"], "neg": ["n", "m"]}                              FlagEmbedding
    {"query": "q", "positive_passages": [{"title": "t", "text": "p"}], ...}      Tevatron: title and text joined by a space
    {"question": "q", "positive_ctxs": [...], "hard_negative_ctxs": [...], ...}  DPR, likewise
    {"set": ["q", "p", "o"]}                                                     the first text is the anchor
    {"anchor": "q", "positive": "p", "negative_1": "n"}, then rows with "negative_2" too

and a list of labels put into columns of its own (`with_label_columns`), as sentence-transformers' cross-encoders and
distillation losses take it:

    {"query": "q", "docs": ["d", "e"], "labels": [2, 0]}                         positive_score, negative_score_1, ...; lists of
                                                                                 other lengths end with nulls (`uneven`)
    {"query": "q", "positive": "p", "negative": "n", "label": [9.1, 3.2]}        likewise; with one label less margin_1, ...

The positives are those of one column. Each row becomes examples of an anchor, a positive and N negatives, where N is the
fewest that a row has, until all its texts are used; the last example may repeat some. Examples of one row share their anchor:
`no_duplicates` keeps them out of each other's batch.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

from minisbert.data.rows import RowFile
from minisbert.data.values import plain_name, text
from minisbert.errors import DataError

logger = logging.getLogger("minisbert")

# Names of a list, or of the start of numbered columns, without `_`. Of several positives the first in this order counts.
_POSITIVES: tuple[str, ...] = ("positivepassages", "positivectxs", "positives", "pos", "positive")
_POSITIVES += ("document", "passage", "response", "documents", "passages", "answer", "answers")
_NEGATIVES = {"neg", "negs", "negative", "negatives", "hardnegative", "hardnegatives", "negativepassages"}
_NEGATIVES |= {"negativectxs", "hardnegativectxs"}
_MARGINS = {"margin", "positivescore", "negativescore"}  # a label per negative: their number is the same in all rows


# Names of a list with a label per text, and of the list of these texts where they are in one.
_LABELS = {"label", "labels", "score", "scores", "isselected"}
_DOCUMENTS = {"docs", *_POSITIVES}


def with_label_columns(
    file: RowFile, texts: Sequence[str] = (), labels: Sequence[str] = (), *, uneven: bool = False
) -> RowFile:
    """The file itself, or, if its first row has a list with a label per text, its rows with a column for each label.

    A list of documents becomes columns too, in its order. With `uneven` there are as many as the longest list has, and null
    stands for the documents that a row lacks, and for their labels.

    Args:
        texts, labels: columns that may be these lists whatever their names are.

    Raises DataError: a row has another number of labels than of documents, or (unless `uneven`) than the first row; no list
    has two documents.
    """
    first = next((record for _, record in file.records(file.header)), {})
    lists = [name for name, value in first.items() if isinstance(value, list)]
    label = next((name for name in lists if name in labels or plain_name(name) in _LABELS), None)
    documents = next((name for name in lists if name in texts or plain_name(name) in _DOCUMENTS), None)
    if label is None:
        return file
    uneven = uneven and documents is not None
    plain_texts = [name for name, value in first.items() if _role(name) and isinstance(value, str)]
    count = len(first[documents]) if documents else len(plain_texts)
    if uneven:
        given = (record.get(documents or "") for _, record in file.records(file.header))
        count = max(len(values) for values in given if isinstance(values, list))
        if count < 2:
            raise DataError(
                f"{file.source}: each list in {documents!r} has one entry. Expected one with two or more: nothing can be "
                "learned from the order of one document."
            )
    teacher = ["positive_score", *(f"negative_score_{i}" for i in range(1, count))]
    margins = [f"margin_{i}" for i in range(1, count)]
    found = teacher if uneven else {count: teacher, count - 1: margins}.get(len(first[label]))
    if count < 2 or found is None:
        return file
    positive = ["positive", *(f"negative_{i}" for i in range(1, count))]
    columns = {documents: positive, label: found} if documents else {label: found}
    made = file.with_table((), partial(_in_columns, file, columns, documents if uneven else None))
    made.lists, made.uneven = columns, uneven
    made.header = tuple(columns_of(made, file.header))
    return made


def columns_of(file: RowFile, names: Sequence[str]) -> list[str]:
    """The names, with the columns that a list became in its place."""
    return [column for name in names for column in file.lists.get(name, [name])]


def _in_columns(
    file: RowFile, lists: dict[str, list[str]], documents: str | None, columns: Sequence[str]
) -> Iterator[bytes]:
    """`documents` is the list whose length that of the others must be; None if it must be that of their names."""
    for place, record in file.records(file.header):
        cells = {name: record.pop(name, None) for name in lists}
        own = cells.get(documents or "")
        for name, names in lists.items():
            values, count = cells[name], max(1, len(own)) if isinstance(own, list) else len(names)
            if not isinstance(values, list) or len(values) != count or (own is not None and None in values):
                found = f"{values!r:.80}"
                if isinstance(values, list):
                    found = f"{len(values)} entries" + ", with a null" * (None in values)
                expected = "as in the first row; cut longer lists and leave out rows with shorter ones, or train a "
                expected += "CrossEncoder with a loss of lists, such as lambda_loss"
                if documents:
                    expected = "a label for each document and no null; correct or remove the row"
                raise DataError(f"{place}: {name!r} has {found}. Expected a list of {count}, {expected}.")
            record.update(zip_longest(names, values))
        yield json.dumps({name: record.get(name) for name in columns}).encode() + b"\n"


def with_plain_rows(file: RowFile, kind: str | None = None) -> RowFile:
    """The file itself, or its rows without lists and with one number of negatives.

    Reads all rows of a .jsonl once: its columns are those of every row, not only of the first. Raises DataError: an entry of a
    list is neither text nor an object with a text; a row has no positive, or alone no negative.
    """
    header = dict.fromkeys(file.header)
    if file.kind != "jsonl" and not any(map(_role, header)):
        return file
    lists: set[str] = set()
    counts: set[int] = set()
    for _, record in file.records(list(filter(_role, header))):
        header.update(dict.fromkeys(record))
        lists.update(name for name, value in record.items() if isinstance(value, list) and _role(name))
        counts.add(sum(len(_entries(value)) for name, value in record.items() if _is_negative(name)))
    file.header = tuple(header)
    uneven = len(counts) > 1 and not any(plain_name(name).rstrip("0123456789") in _MARGINS for name in header)
    named = [name for wanted in _POSITIVES for name in header if plain_name(name) == wanted]
    if not named or not (uneven or any(_is_negative(name) or name == named[0] for name in lists)):
        return file
    others = [name for name in header if not (_is_negative(name) or name == named[0])]
    count = 0 if kind == "pairs" else min(counts - {0}, default=0)
    texts = ("positive", *(f"negative_{i + 1}" for i in range(count)))
    return file.with_table(tuple(dict.fromkeys((*others, *texts))), partial(_dealt, file, named[0], texts))


def _dealt(file: RowFile, positive: str, names: Sequence[str], columns: Sequence[str]) -> Iterator[bytes]:
    """Columns of the plain rows, as lines of JSON; `names` are those of the positive and the negatives."""
    rows = examples = 0
    count = len(names) - 1
    for place, record in file.records(file.header):
        texts: dict[bool, list[str]] = {True: [], False: []}
        for name, value in record.items():
            if _is_negative(name) or name == positive:
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
            record |= dict(zip(names, dealt, strict=True))
            yield json.dumps({name: record.get(name) for name in columns}).encode() + b"\n"
        rows, examples = rows + 1, examples + size
    logger.info(
        f"{file.source}: {rows} rows with lists or uneven numbers of texts are {examples} examples of an anchor, a "
        f"positive and {count} negative(s)."
    )


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
