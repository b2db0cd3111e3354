"""Training examples: interpret the columns of a data file, and check every row before the first step.

    nli = open_examples("nli.tsv.gz")                            # columns found by convention: see CONVENTIONS
    nli.dataset                                                  # its kind, columns, classes, rows, sha256
    texts, labels = nli.take([3, 1])                             # [["premise", ...], ["hypothesis", ...]], int32 [2]

The kinds are those that the losses need: NLI rows (Reimers & Gurevych 2019, section 3.1), pairs and triplets for
in-batch negatives (Henderson et al. 2017), scored pairs (STS), a teacher's scores, and its margins (Hofstätter et al.
2020). Rows are read on demand (rows.py); sampler.py decides which row goes into which batch. Prompts, tokens and the
choice of a loss are up to the trainer.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from minisbert.data.rows import RowFile, Rows, as_number, listed, text, wrong_columns
from minisbert.errors import DataError, InputError

LabelKind = Literal["none", "class", "score", "margin"]


@dataclass(frozen=True)
class Convention:
    """The columns that identify a kind of data: the possible names of each text and label, best first.

    A name with `{i}` matches all columns of that name: without a number, then numbered from 1.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: tuple[tuple[str, ...], ...] = ()
    label_kind: LabelKind = "none"
    lowest: float = -1.0
    highest: float = 1.0  # of a score, if no score_range is given


ANCHOR, POSITIVE = ("anchor", "query", "question"), ("positive", "answer", "document")
FIRST, SECOND = ("sentence1", "premise"), ("sentence2", "hypothesis")
CONVENTIONS = {
    "texts": Convention((("text", "sentence"),)),
    "pairs": Convention((ANCHOR, POSITIVE)),
    "triplets": Convention((ANCHOR, POSITIVE, ("negative{i}",))),
    "nli": Convention((FIRST, SECOND), (("label", "gold_label"),), "class"),
    "scored": Convention((FIRST, SECOND), (("score", "relatedness", "similarity"),), "score"),
    "distilled": Convention(
        (ANCHOR, POSITIVE), (("teacher_score",),), "score", lowest=float("-inf"), highest=float("inf")
    ),
    "margins": Convention((ANCHOR, POSITIVE, ("negative{i}",)), (("margin{i}",),), "margin"),
    "teacher": Convention(
        (ANCHOR, POSITIVE, ("negative{i}",)), (("positive_score",), ("negative_score{i}",)), "margin"
    ),
}

# Established class orders: SNLI and MultiNLI as on the hub, GLUE's RTE.
KNOWN_CLASSES = (("entailment", "neutral", "contradiction"), ("entailment", "not_entailment"))
# A column with more distinct values than this holds scores or text, not classes.
MOST_CLASSES = 10_000


@dataclass(frozen=True)
class Dataset:
    """A description of a data set, for model cards, and so that a run does not resume on other data.

    `dataclasses.asdict` of it is saved with the model; `classes[i]` is the name of class id i.
    """

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
        """The texts and labels of some examples.

        Returns:
            S lists of B texts, one list per text column; int32 `[B]` class ids, float32 `[B]` scores or margins (float32
            `[B, columns]` if there are several label columns), or None without labels.

        Raises:
            DataError: the file has changed since it was opened.
        """
        data = self.dataset
        columns: list[list[str]] = [[] for _ in data.texts]
        labels, ids = [], dict(zip(data.classes, range(len(data.classes)), strict=True))
        for row in numbers:
            values, place = self.rows[row], self.rows.place(row)
            for name, value, column in zip(data.texts, values, columns, strict=False):
                column.append(text(value, name, place))
            for i, value in enumerate(values[len(data.texts) :]):
                labels.append(_label(value, data, i, ids, place))
        if not data.labels:
            return columns, None
        dtype = np.int32 if data.label_kind == "class" else np.float32
        labels_BC = np.array(labels, dtype).reshape(-1, len(data.labels))
        return columns, labels_BC[:, 0] if len(data.labels) == 1 else labels_BC


def open_examples(
    source: str,
    *,
    kind: str | None = None,
    texts: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    score_range: tuple[float, float] | None = None,
) -> Examples:
    """Open a data file, find its columns and check every row.

    Args:
        source: .tsv, .jsonl or .txt (also .gz), .parquet, or "hub:org/name" (see rows.py).
        kind: a name in `CONVENTIONS`; by default the one that matches the columns.
        texts: the text columns in order, if their names differ from the convention; needs `kind`.
        labels: the label columns, likewise.
        classes: the names of the classes in the order of their ids; by default a known order (`KNOWN_CLASSES`), else
            sorted. Labels that are numbers are ids.
        score_range: the lowest and highest score, which are mapped to 0 and 1: (0, 5) for STS. By default scores are not
            mapped and must be in -1 ... 1 (a teacher's scores of single pairs: any number).

    Raises:
        InputError: an option is unknown, or the columns match no kind or several.
        DataError: the first row that is malformed, lacks a text, or has a label out of range; no rows at all.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "nli.tsv")
        ...     _ = file.write_text("label\\tpremise\\thypothesis\\nneutral\\tA dog.\\tA sad dog.\\n")
        ...     open_examples(str(file), classes=["entailment", "neutral", "contradiction"]).take([0])
        ([['A dog.'], ['A sad dog.']], array([1], dtype=int32))
    """
    file = RowFile(source)
    kind, text_columns, label_columns = _columns(file, kind, texts, labels)
    label_kind = CONVENTIONS[kind].label_kind
    if score_range is not None and (label_kind != "score" or not score_range[0] < score_range[1]):
        raise InputError(f"{source}: score_range is {score_range} for {kind}. Expected (lowest, highest), for scored.")
    rows = Rows(file, (*text_columns, *label_columns))
    names = tuple(classes or (_class_names(rows, len(text_columns)) if label_kind == "class" else ()))
    data = Dataset(
        file.source, kind, text_columns, label_columns, label_kind, names, score_range, len(rows), rows.sha256()
    )
    examples = Examples(data, rows)
    # Read every row once, so that a mistake in the last line is found now and not hours later.
    for start in range(0, len(rows), 4096):
        examples.take(range(start, min(start + 4096, len(rows))))
    return examples


def text_columns(source: str, kind: str | None = None) -> tuple[str, ...]:
    """The text columns of a data file, from its header alone; see `open_examples`."""
    return _columns(RowFile(source), kind, None, None)[1]


def text_hashes(texts: Sequence[str]) -> np.ndarray:
    """A hash per text, the same in every process: uint32 `[texts]`, 4 bytes of BLAKE2b (RFC 7693).

    Two different texts collide with probability 2^-32; a collision only drops one in-batch negative.

    Example:
        >>> text_hashes(["a cat", "a dog", "a cat"])
        array([386420097, 944320793, 386420097], dtype=uint32)
    """
    digests = bytearray()
    for one in texts:
        digests += hashlib.blake2b(one.encode(), digest_size=4).digest()
    return np.frombuffer(digests, "<u4").astype(np.uint32)


# --- columns -------------------------------------------------------------------------------------------------------


def _columns(
    file: RowFile, kind: str | None, texts: Sequence[str] | None, labels: Sequence[str] | None
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Kind, text columns and label columns: as named, else by convention."""
    source, header = file.source, file.header
    if kind is None and (texts or labels):
        raise InputError(
            f"{source}: columns are given without a kind. Expected kind to be one of {', '.join(CONVENTIONS)}."
        )
    if kind is not None and kind not in CONVENTIONS:
        raise InputError(f"{source}: kind is {kind!r}. Expected one of {', '.join(CONVENTIONS)}.")
    for column in (*(texts or ()), *(labels or ())):
        if column not in header:
            raise wrong_columns(source, column, header)
    fits: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    used: dict[str, set[str]] = {}
    for name, convention in CONVENTIONS.items():
        found = tuple(texts or _found(convention.texts, header)), tuple(labels or _found(convention.labels, header))
        complete = len(found[0]) >= len(convention.texts) and len(found[1]) >= len(convention.labels)
        if complete and kind in (None, name):
            fits[name], used[name] = found, {*found[0], *found[1]}
    # Triplets are pairs with an extra column: choose the kind that uses the most columns.
    best = [name for name, columns in used.items() if not any(map(columns.__lt__, used.values()))]
    if len(best) == 1:
        return best[0], *fits[best[0]]
    if kind is not None:
        wanted = " and ".join("/".join(names) for names in (*CONVENTIONS[kind].texts, *CONVENTIONS[kind].labels))
        raise InputError(
            f"{source}: columns {listed(header)} are not those of {kind}. Expected {wanted}; name the columns to use."
        )
    why = f"match several kinds: {', '.join(best)}" if best else f"match none of {', '.join(CONVENTIONS)}"
    raise InputError(
        f"{source}: columns {listed(header)} {why}. Expected the columns of one kind; name the kind, and the columns if "
        "they have other names."
    )


def _found(wanted: Iterable[Sequence[str]], header: Sequence[str]) -> list[str]:
    """The columns with the wanted names; empty if one of them is missing."""
    found: list[str] = []
    for names in wanted:
        for name in names:
            pattern = re.compile(re.escape(name).replace(r"\{i\}", "(?:_?[0-9]+)?"))
            if matches := list(filter(pattern.fullmatch, header)):
                found += sorted(matches, key=_number)
                break
        else:
            return []
    return found


def _number(column: str) -> tuple[int, str]:
    """Sorts negative, negative2, negative10."""
    return int("0" + column[len(column.rstrip("0123456789")) :]), column


# --- labels --------------------------------------------------------------------------------------------------------


def _class_names(rows: Rows, column: int) -> tuple[str, ...]:
    """The classes of a label column, in the order of their ids: a known order if there is one, else sorted."""
    names: dict[str, int] = {}
    for row in range(len(rows)):
        names.setdefault(str(rows[row][column]), row)
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
            raise DataError(f"{place}: {rows.columns[column]!r} is {name!r}. Expected a class; remove the row.")
    return tuple(sorted(names))


def _label(value: Any, data: Dataset, column: int, ids: dict[str, int], place: str) -> float:
    name = data.labels[column]
    if data.label_kind == "class":
        if isinstance(value, str) and value in ids:
            return ids[value]
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(ids):
            return value
        raise DataError(
            f"{place}: {name!r} is {value!r:.80}. Expected one of {listed(data.classes[:10])} or a number from 0 to "
            f"{len(ids) - 1}; remove rows without a label."
        )
    found = as_number(value, name, place)
    if data.label_kind == "score":
        convention = CONVENTIONS[data.kind]
        low, high = data.score_range or (convention.lowest, convention.highest)
        if not low <= found <= high:
            hint = "correct the row" if data.score_range else "set score_range, for example (0, 5) for STS"
            raise DataError(f"{place}: {name!r} is {found:g}. Expected a score from {low:g} to {high:g}; {hint}.")
        return (found - low) / (high - low) if data.score_range else found
    return found
