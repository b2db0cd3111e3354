"""Which columns of a data file are texts and which are labels, found by their names, or named explicitly."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from minisbert.data.values import listed, matching, plain_name, wrong_columns
from minisbert.errors import InputError

LabelKind = Literal["none", "class", "score", "margin"]
LABEL_KINDS = (None, "any", "none", "class", "score", "margin", "relevance", "teacher")  # what losses need


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


# The names in the data sets of sentence-transformers, SNLI, Quora, SICK, MS MARCO and FlagEmbedding.
ANCHOR = ("anchor", "query", "question")
POSITIVE = ("positive", "answer", "document", "passage", "response", "pos", "text")
NEGATIVE = ("negative{i}", "hard_negative{i}", "neg{i}")
FIRST = ("sentence1", "premise", "text1", "question1", "sentence_a", "text_a", "sent1")
SECOND = ("sentence2", "hypothesis", "text2", "question2", "sentence_b", "text_b", "sent2")
CLASSES = ("label", "gold_label", "is_duplicate", "is_selected", "entailment_judgment", "entailment_label", "labels")
_RELATED = ("relatedness", "similarity", "relatedness_score", "similarity_score")
SCORES = ("score", *_RELATED, "label", "is_duplicate", "is_selected", "scores", "labels")
# As in the parallel data sets of sentence-transformers. A teacher embeds the first text, and all copy that (training/task.py).
TRANSLATIONS = "translations"
CONVENTIONS = {
    "texts": Convention((("text", "sentence"),)),
    "labelled": Convention((("text", "sentence"),), (CLASSES,), "class"),
    "pairs": Convention(((*ANCHOR, *FIRST), (*POSITIVE, *SECOND))),
    TRANSLATIONS: Convention((("english", "original"), ("non_english{i}", "translation{i}"))),
    "triplets": Convention((ANCHOR, POSITIVE, NEGATIVE)),
    "nli": Convention((FIRST, SECOND), (CLASSES,), "class"),
    "scored": Convention((FIRST, SECOND), (SCORES,), "score"),
    "distilled": Convention(
        (ANCHOR, POSITIVE), (("teacher_score",),), "score", lowest=float("-inf"), highest=float("inf")
    ),
    "margins": Convention((ANCHOR, POSITIVE, NEGATIVE), (("margin{i}",),), "margin"),
    "teacher": Convention((ANCHOR, POSITIVE, NEGATIVE), (("positive_score",), ("negative_score{i}",)), "margin"),
}


class Columns(NamedTuple):
    """A kind of data, and the columns of a file that it uses."""

    kind: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]


def find_columns(
    source: str,
    header: Sequence[str],
    kind: str | None = None,
    texts: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> list[Columns]:
    """The kind of a file and its columns: as named, else by convention.

    Returns:
        one kind, or both "nli" and "scored" with the same columns, which only the labels' values tell apart.

    Raises:
        InputError: an unknown kind, or the columns match none or several.
        DataError: a named column is missing.
    """
    if kind is not None and kind not in CONVENTIONS:
        raise InputError(f"{source}: kind is {kind!r}. Expected one of {', '.join(CONVENTIONS)}.")
    for column in (*(texts or ()), *(labels or ())):
        if header.count(column) != 1:
            raise wrong_columns(source, column, header)
    fits: list[Columns] = []
    for name, convention in CONVENTIONS.items():
        if kind in (None, name):
            its_texts, its_labels = _found(convention.texts, header, texts), _found(convention.labels, header, labels)
            if its_texts is not None and its_labels is not None:
                fits.append(Columns(name, its_texts, its_labels))
    # Triplets are pairs with an extra column: choose the kind that uses the most columns. A text with its query is a pair.
    used = [{*one.texts, *one.labels} for one in fits]
    best = [one for one, columns in zip(fits, used, strict=True) if not any(map(columns.__lt__, used))]
    best = [one for one in best if len(one.texts) > 1 or not any({*one.texts} < {*more.texts} for more in best)]
    if labels and len(best) > 1:  # the labels' own names decide, if they are those of one kind
        best = [one for one in best if _found(CONVENTIONS[one.kind].labels, labels)] or best
        best = [one for one in best if one.kind != "distilled"] if len(best) > 1 else best
    if len(best) > 1:  # any texts could be translations: only their own names say so
        named = texts and _found(CONVENTIONS[TRANSLATIONS].texts, texts)
        best = [one for one in best if (one.kind == TRANSLATIONS) == bool(named)] or best
    if len(best) == 1 or ([one.kind for one in best] == ["nli", "scored"] and best[0][1:] == best[1][1:]):
        return best
    if kind is not None:
        wanted = " and ".join("/".join(names) for names in (*CONVENTIONS[kind].texts, *CONVENTIONS[kind].labels))
        raise InputError(
            f"{source}: columns {listed(header)} are not those of {kind}. Expected {wanted}; name the columns to use "
            "(text_columns, label_columns)."
        )
    if best:
        why = f"match several kinds: {', '.join(one.kind for one in best)}. Expected one; name it (--kind)"
    else:
        why = f"match none of these kinds: {accepted_columns()}. Rename them, or name the kind"
    raise InputError(
        f"{source}: columns {listed(header)} {why}, and the columns if they have other names (text_columns, label_columns; "
        "columns for a file without a header line)."
    )


def label_column(header: Sequence[str]) -> str | None:
    """The column named as labels or scores are, if there is one.

    Example:
        >>> label_column(["query", "response", "Label"])
        'Label'
    """
    return next((column for name in (*CLASSES, *SCORES) for column in matching(name, header)), None)


def accepted_columns() -> str:
    """The columns of every kind, with their other names."""
    kinds = {kind: ["/".join(names) for names in (*it.texts, *it.labels)] for kind, it in CONVENTIONS.items()}
    return "; ".join(f"{kind}: {', '.join(columns)}" for kind, columns in kinds.items()).replace("{i}", "")


def _found(
    wanted: Sequence[Sequence[str]], header: Sequence[str], given: Sequence[str] | None = None
) -> tuple[str, ...] | None:
    """The given columns, else those with the wanted names; None if there are not as many as wanted."""
    if given:
        more = wanted == (SCORES,) or "{i}" in "".join(map("".join, wanted))
        return tuple(given) if len(given) == len(wanted) or (more and len(given) > len(wanted)) else None
    found: list[str] = []
    for names in wanted:
        columns = next(filter(None, (list(_named(name, header)) for name in names)), [])
        if not columns:
            return None
        found += columns
    return tuple(found)


def _named(name: str, header: Sequence[str]) -> Iterator[str]:
    if "{i}" not in name:
        columns = matching(name, header)
        if len(columns) > 1 and len(set(columns)) > 1:
            raise InputError(
                f"the columns {listed(columns)} have the same name. Expected one of them; rename the others."
            )
        return iter(columns[:1])
    pattern = re.compile(re.escape(plain_name(name.replace("{i}", ""))) + "[0-9]*")
    return iter(sorted((one for one in header if pattern.fullmatch(plain_name(one))), key=_number))


def _number(column: str) -> tuple[int, str]:
    """Sorts negative, negative2, negative10."""
    plain = plain_name(column)
    return int("0" + plain[len(plain.rstrip("0123456789")) :]), column
