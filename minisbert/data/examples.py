"""Training examples: interpret the columns of a data file, and check every row before the first step.

    nli = open_examples("nli.tsv.gz")                            # columns found by convention: see conventions.py
    texts, labels = nli.take([3, 1])                             # [["premise", ...], ["hypothesis", ...]], int32 [2]

The kinds are those that the losses need: NLI rows (Reimers & Gurevych 2019, section 3.1), pairs and triplets for in-batch
negatives (Henderson et al. 2017), scored pairs (STS), a teacher's scores, and its margins (Hofstätter et al. 2020). Rows are
read on demand (rows.py); sampler.py decides which row goes into which batch.
"""

import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from minisbert.arguments import check_choice, check_list
from minisbert.data.conventions import CONVENTIONS, LABEL_KINDS, Columns, LabelKind, find_columns, label_column
from minisbert.data.lists import columns_of, with_label_columns, with_plain_rows
from minisbert.data.rows import RowFile, Rows
from minisbert.data.values import as_score, listed, text, truth_as_number, warn_of_splits
from minisbert.errors import DataError, InputError, short_repr

logger = logging.getLogger("minisbert")

# Established class orders: SNLI and MultiNLI as on the hub, GLUE's RTE.
KNOWN_CLASSES = (("entailment", "neutral", "contradiction"), ("entailment", "not_entailment"))
# A column with more distinct values than this holds scores or text, not classes.
MOST_CLASSES = 10_000
_NUMBER = re.compile("[0-9]{1,6}")


@dataclass(frozen=True)
class Dataset:
    """A description of a data set, saved with the model and compared when a run resumes; `classes[i]` is the name of id i."""

    source: str
    kind: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    label_kind: LabelKind
    classes: tuple[str, ...]
    score_range: tuple[float, float] | None
    rows: int
    sha256: str


@dataclass(frozen=True)
class Examples:
    """The examples of a data set, by number; created by `open_examples`."""

    dataset: Dataset
    rows: Rows = field(repr=False)

    def __len__(self) -> int:
        return self.dataset.rows

    def take(self, numbers: Iterable[int]) -> tuple[list[list[str]], np.ndarray | None]:
        """The texts and labels of some examples. Raises DataError: the file has changed since it was opened.

        Returns:
            S lists of B texts, one list per text column; int32 `[B]` class ids, float32 `[B]` scores or margins (float32
            `[B, columns]` if there are several label columns), or None without labels. Of an uneven list of documents the
            texts end with "", the labels with NaN.
        """
        data = self.dataset
        columns: list[list[str]] = [[] for _ in data.texts]
        labels, ids, uneven = [], _ids(data.classes) if data.classes else {}, self.rows.file.uneven
        for row in numbers:
            values, place = self.rows[row], self.rows.place(row)
            for name, value, column in zip(data.texts, values, columns, strict=False):
                column.append("" if value is None and uneven and name != data.texts[0] else text(value, name, place))
            for i, value in enumerate(values[len(data.texts) :]):
                labels.append(math.nan if value is None and uneven else _label(value, data, i, ids, place))
        if not data.labels:
            return columns, None
        dtype = np.int32 if data.label_kind == "class" else np.float32
        labels_BC = np.array(labels, dtype).reshape(-1, len(data.labels))
        return columns, labels_BC[:, 0] if len(data.labels) == 1 else labels_BC

    def parts(self) -> Iterator[tuple[range, list[list[str]], np.ndarray | None]]:
        """All examples in order, some thousand at a time: their numbers, texts and labels."""
        for start in range(0, len(self), 4096):
            numbers = range(start, min(start + 4096, len(self)))
            yield numbers, *self.take(numbers)


def open_examples(
    source: Any,
    *,
    kind: str | None = None,
    texts: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    score_range: tuple[float, float] | None = None,
    columns: Sequence[str] = (),
    label_kind: str | None = None,
) -> Examples:
    """Open a data file, find its columns and check every row.

    Args:
        source: .csv, .tsv, .jsonl or .txt (also .gz), .parquet, "hub:org/name", or rows in memory (see rows.py).
        kind: a name in `CONVENTIONS`; by default the one that matches the columns.
        texts: the text columns in order, if their names differ from the convention.
        labels: the label columns, likewise.
        classes: the names of the classes in the order of their ids; by default a known order (`KNOWN_CLASSES`), else
            sorted. Labels that are numbers are ids, unless a class is named by a number.
        score_range: the lowest and highest score, which are mapped to 0 and 1: (0, 5) for STS. By default scores are not
            mapped and must be in -1 ... 1 (a teacher's scores of single pairs: any number).
        columns: the names of all columns of a .csv or .tsv without a header line.
        label_kind: what the loss needs, one of `LABEL_KINDS`. A label column of whole numbers holds scores with "score", else
            classes. The label of a single text is read with "class" only, lists of documents of any length with "relevance".

    Raises:
        InputError: an option is unknown or not a list of names, a class is there twice; the columns match no kind or several.
        DataError: the first row that is malformed, lacks a text, or has a label out of range; no rows at all.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "nli.tsv")
        ...     _ = file.write_text("label\\tpremise\\thypothesis\\nneutral\\tA dog.\\tA sad dog.\\n")
        ...     open_examples(str(file), classes=["entailment", "neutral", "contradiction"]).take([0])
        ([['A dog.'], ['A sad dog.']], array([1], dtype=int32))
    """
    check_choice("label_kind", label_kind, LABEL_KINDS)
    for option, given in (("texts", texts), ("labels", labels), ("classes", classes), ("columns", columns)):
        if given is None or (isinstance(given, tuple) and not given):
            continue
        if len(check_list(option, given)) > len(set(given)) and option == "classes":
            raise InputError(f"classes is {short_repr(given)}. Expected the name of each class once.")
    file = _open(source, columns, kind, texts or (), labels or (), uneven=label_kind == "relevance")
    if file.lists:
        texts, labels = columns_of(file, texts or ()), columns_of(file, labels or ())
    found = find_columns(file.source, file.header, kind, texts, labels)
    if kind is None and not labels and found[0].kind == "labelled" and label_kind != "class":
        found = find_columns(file.source, file.header, "texts", texts)  # labels are for losses that need classes
    if kind is None and found[0].kind in ("pairs", "triplets") and label_kind not in (None, "any", "none", "teacher"):
        label = label_column(file.header)  # of a query and a response, or of triplets: for losses that need one
        found = find_columns(file.source, file.header, None, found[0].texts, [label]) if label else found
    if label_kind == "none" and found[0].kind == "pairs" and (label := label_column(file.header)):
        _warn_of_labels(file, label)
    rows = Rows(file, (*found[0].texts, *found[0].labels))
    kind, text_columns, label_columns = found[0] if len(found) == 1 else _by_values(found, rows, label_kind)
    label_kind = CONVENTIONS[kind].label_kind
    if score_range is not None and (label_kind != "score" or not score_range[0] < score_range[1]):
        raise InputError(
            f"{file.source}: score_range is {score_range} for {kind}. Expected (lowest, highest), for scored."
        )
    names = tuple(classes or (_class_names(rows, len(text_columns)) if label_kind == "class" else ()))
    data = Dataset(
        file.source, kind, text_columns, label_columns, label_kind, names, score_range, len(rows), rows.sha256()
    )
    examples = Examples(data, rows)
    # Read every row once, so that a mistake in the last line is found now and not hours later.
    for _ in examples.parts():
        pass
    warn_of_splits(file)
    if unused := sorted({*file.header} - {*rows.columns}):
        logger.info(f"{file.source}: read as {kind}, from {listed(rows.columns)}; not used: {listed(unused)}.")
    return examples


def _open(
    source: Any,
    columns: Sequence[str],
    kind: str | None,
    texts: Sequence[str],
    labels: Sequence[str] = (),
    *,
    uneven: bool = True,
) -> RowFile:
    file = RowFile(source, columns)
    file.blank_texts = False
    if file.kind in ("txt", "tsv", "csv"):  # cells hold no lists
        return file
    return with_plain_rows(with_label_columns(file, texts, labels, uneven=uneven), kind)


def text_columns(
    source: Any,
    kind: str | None = None,
    texts: Sequence[str] | None = None,
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> tuple[str, ...]:
    """The text columns of a data file, without a check of its rows; see `open_examples`."""
    file = _open(source, columns, kind, texts or (), labels)
    return find_columns(file.source, file.header, kind, columns_of(file, texts or ()))[0].texts


# --- labels --------------------------------------------------------------------------------------------------------


def _warn_of_labels(file: RowFile, name: str) -> None:
    """Logs a warning where pairs have different labels, and a loss without labels takes all of them as positives."""
    values = (str(value) for _, (value,) in file.rows((name,), (name,)))
    first = next(values, "")
    if any(value != first for value in values):
        logger.warning(
            f"{file.source}: {name!r} is not used, because the loss takes no labels: every row is a positive pair. "
            "Leave out the other rows, or choose a loss of scores."
        )


def _by_values(found: Sequence[Columns], rows: Rows, label_kind: str | None) -> Columns:
    """Of kinds with the same columns the one that fits the labels: scores if they are numbers with a fraction, else classes."""
    (classes, scores), fraction = found, False
    for row in range(len(rows)):
        try:
            fraction = fraction or not float(truth_as_number(rows[row][-1])).is_integer()
        except (TypeError, ValueError, OverflowError):
            return classes
    return scores if fraction or label_kind == "score" else classes


def _class_names(rows: Rows, column: int) -> tuple[str, ...]:
    """The classes of a label column, in the order of their ids: a known order if there is one, else sorted."""
    names: dict[str, int] = {}
    for row in range(len(rows)):
        names.setdefault(_class_name(rows[row][column]), row)
        if len(names) > MOST_CLASSES:
            raise DataError(
                f"{rows.file.source}: {rows.columns[column]!r} has more than {MOST_CLASSES} different values. Expected "
                "classes; for scores set kind='scored'."
            )
    if all(re.fullmatch("[0-9]+", name) for name in names):
        return tuple(str(i) for i in range(min(max(map(int, names)), MOST_CLASSES - 1) + 1))
    for known in KNOWN_CLASSES:
        if names.keys() <= set(known):
            return known
    # Values such as -1, "-" or nothing mark rows without a label; they must not become classes.
    for name, row in names.items():
        if re.fullmatch(r"[-+.\s0-9]*", name) and not re.fullmatch("[0-9]+", name):
            place = rows.place(row)
            raise DataError(
                f"{place}: {rows.columns[column]!r} is {name!r}. Expected a class; remove the row, or, if the labels are "
                "scores, set kind='scored'."
            )
    return tuple(sorted(names))


def _class_name(value: Any) -> str:
    """A class as text; pandas writes the numbers of a column with gaps as 1.0."""
    return str(value).strip().removesuffix(".0") if re.fullmatch(r"\s*[0-9]+(\.0)?\s*", str(value)) else str(value)


@lru_cache(maxsize=8)
def _ids(classes: tuple[str, ...]) -> dict[str, int]:
    """The id of each class by its name, and by the id itself where no name is a number that could mean another class."""
    numbers = {} if any(map(_NUMBER.fullmatch, classes)) else {str(i): i for i in range(len(classes))}
    return numbers | {name: i for i, name in enumerate(classes)}


def _label(value: Any, data: Dataset, column: int, ids: dict[str, int], place: str) -> float:
    name = data.labels[column]
    if data.label_kind == "class":
        known = _class_name(value) if isinstance(value, str | int | float) else ""
        found = ids.get(known, ids.get(str(int(known)) if _NUMBER.fullmatch(known) else known))
        if found is not None:
            return found
        numbers = f" or a number from 0 to {len(data.classes) - 1}" if len(ids) > len(data.classes) else ""
        raise DataError(
            f"{place}: {name!r} is {value!r:.80}. Expected one of {listed(data.classes[:10])}{numbers}; remove rows without "
            "a label."
        )
    score = as_score(value, name, place)
    if data.label_kind == "score" and column == 0:  # further columns, such as weights, are as they are
        convention = CONVENTIONS[data.kind]
        low, high = data.score_range or (convention.lowest, convention.highest)
        if not low <= score <= high:
            hint = "correct the row" if data.score_range else "set score_range, for example (0, 5) for STS"
            if data.kind == "scored" and not data.score_range:
                hint += f"; for a teacher's scores set kind='distilled' and label_columns=({name!r},)"
            raise DataError(f"{place}: {name!r} is {score:g}. Expected a score from {low:g} to {high:g}; {hint}.")
        if data.score_range:
            return (score - low) / (high - low)
    return score
