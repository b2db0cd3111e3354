"""Hard negatives: for each anchor, the texts most similar to it that are not its positives.

    mined = hard_negatives(encoder, anchors, positives, number=5, relative_margin=0.05)
    mined.rows[0]                               # (anchor, positive, negative, negative, ...)

The result is that of sentence-transformers' `mine_hard_negatives` with format "n-tuple" and strategy "top". A margin to the
positive excludes texts that are probably unlabelled positives (Moreira et al. 2024, "NV-Retriever", TopK-PercPos). Two
differences: the anchor's own text is never its negative, and `rescore` also ranks the negatives where no score or margin
is limited (there sentence-transformers does not ask its cross-encoder).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from json import dumps
from typing import Any, NamedTuple

import numpy as np

from minisbert.arguments import check_choice, check_finite, check_list, check_positive, count_from_zero
from minisbert.errors import DataError, InputError, short_repr
from minisbert.evaluation.embedding import QueryEncoder, refuse_quantized
from minisbert.search.exact import nearest
from minisbert.search.rerank import checked_scores
from minisbert.similarity import pairwise_cosine

Rescore = Callable[[list[tuple[str, str]]], Any]  # pairs -> one score per pair, such as CrossEncoder.predict


class Mined(NamedTuple):
    """Rows for training, and how many pairs were left out because they had too few negatives."""

    rows: list[tuple[str, ...]]
    left_out: int


def hard_negatives(
    encoder: QueryEncoder,
    anchors: Sequence[str],
    positives: Sequence[str],
    corpus: Sequence[str] | None = None,
    *,
    number: int = 1,
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    rescore: Rescore | None = None,
    **options: Any,
) -> Mined:
    """Mine rows (anchor, positive, negatives), the hardest negative first.

    Args:
        encoder: embeds anchors by `encode_query`, all others by `encode_document`; scores are cosines.
        anchors, positives: pairs of texts, row by row. No positive of an anchor becomes its negative.
        corpus: more candidate texts; all positives are candidates.
        range_min: skip this many of the hardest remaining candidates.
        range_max: consider this many candidates, and as many more as an anchor has positives at most; by default ten times
            `number` with a limit or `rescore`, else `number`, plus `range_min` and those positives.
        max_score, min_score: leave out negatives that score higher, or lower.
        absolute_margin: a negative scores at least this much less than the positive (the lowest of several).
        relative_margin: the same as a share of the positive's score, 0.05 for 5 %.
        rescore: scores candidates and positives again: pairs -> scores, for example `CrossEncoder.predict`.
        options: for both encode methods, except `precision`; with `query_` or `corpus_` before their name for one of them,
            as in `query_prompt` and `corpus_prompt_name`.

    Raises:
        InputError: no pairs, or columns of different lengths; an argument out of range; `rescore` does not return one
            finite score per pair.

    Example:
        >>> class Letters:
        ...     def encode_query(self, texts):
        ...         return np.array([[text.count(letter) for letter in "abc"] for text in texts], np.float32)
        ...     encode_document = encode_query
        >>> hard_negatives(Letters(), ["a", "c"], ["aab", "cc"], ["ab", "bbc"]).rows
        [('a', 'aab', 'ab'), ('c', 'cc', 'bbc')]
    """
    if rescore is not None and not callable(rescore):
        raise InputError(
            f"rescore is {short_repr(rescore)}. Expected a function of pairs, such as CrossEncoder.predict."
        )
    wanted = check_positive("number", number)
    refuse_quantized({**_options("query_", options), **_options("corpus_", options)})
    given = {"max_score": max_score, "min_score": min_score}
    given |= {"absolute_margin": absolute_margin, "relative_margin": relative_margin}
    limits = {name: check_finite(name, value) for name, value in given.items() if value is not None}
    range_min = count_from_zero("range_min", range_min)
    range_max = None if range_max is None else check_positive("range_max", range_max)
    if range_max is not None and range_max - range_min < wanted:
        raise InputError(
            f"range_max is {range_max}, range_min {range_min}. Expected at least {wanted} candidates in between, one per "
            "negative; raise range_max."
        )
    texts_a, texts_p = check_list("anchors", anchors), check_list("positives", positives)
    if not texts_a or len(texts_a) != len(texts_p):
        raise InputError(f"{len(texts_a)} anchors and {len(texts_p)} positives. Expected equal numbers, at least one.")
    pairs = list(dict.fromkeys(zip(texts_a, texts_p, strict=True)))
    pool = list(dict.fromkeys([*texts_p, *(check_list("corpus", corpus) if corpus is not None else [])]))
    row_of = {text: row for row, text in enumerate(pool)}
    positives_of: dict[str, list[int]] = {}  # anchor -> rows of its positives
    for a, p in pairs:
        positives_of.setdefault(a, []).append(row_of[p])
    asked_BD = np.asarray(encoder.encode_query(list(positives_of), **_options("query_", options)), np.float32)
    pool_MD = np.asarray(encoder.encode_document(pool, **_options("corpus_", options)), np.float32)
    most = max(Counter(texts_a).values())  # positives of an anchor; as there, repeated pairs count
    if range_max is None:
        range_max = range_min + wanted * (10 if limits or rescore is not None else 1) + most
    hits = nearest(asked_BD, pool_MD, range_max + most + 1)  # one more, because the anchor itself may be found

    negatives: dict[str, list[int]] = {}
    for b, (anchor, own) in enumerate(positives_of.items()):
        place_K = np.flatnonzero(hits.rows_BK[b] != row_of.get(anchor, -1))[: range_max + most]
        place_C = place_K[~np.isin(hits.rows_BK[b][place_K], own)]
        rows_C, scores_C = hits.rows_BK[b][place_C], hits.scores_BK[b][place_C].astype(np.float64)
        if rescore is None:
            positive = float(pairwise_cosine(asked_BD[b : b + 1], pool_MD[own]).min())
        else:
            asked = [(anchor, pool[row]) for row in own]
            positive = min(checked_scores("rescore", rescore(asked), len(asked)))
            if len(rows_C):
                asked = [(anchor, pool[row]) for row in rows_C.tolist()]
                scores_C = np.array(checked_scores("rescore", rescore(asked), len(asked)))
        negatives[anchor] = _hardest(rows_C, scores_C, positive, limits)[range_min:range_max][:wanted]
    rows = [(a, p, *(pool[row] for row in negatives[a])) for a, p in pairs if len(negatives[a]) == wanted]
    return Mined(rows, len(pairs) - len(rows))


def _options(side: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options for one of the encode methods: those of both, and its own ("query_prompt" as "prompt")."""
    both = {name: value for name, value in options.items() if not name.startswith(("query_", "corpus_"))}
    return both | {name.removeprefix(side): value for name, value in options.items() if name.startswith(side)}


def _hardest(rows_C: np.ndarray, scores_C: np.ndarray, positive: float, limits: Mapping[str, float]) -> list[int]:
    """The candidates within the limits, best first; `positive`: the lowest score of the anchor's positives."""
    fits_C = (scores_C <= limits.get("max_score", np.inf)) & (scores_C >= limits.get("min_score", -np.inf))
    fits_C &= scores_C + limits.get("absolute_margin", -np.inf) <= positive
    if "relative_margin" in limits:
        fits_C &= scores_C <= positive - abs(positive) * limits["relative_margin"]
    found: list[int] = rows_C[fits_C][np.argsort(-scores_C[fits_C], kind="stable")].tolist()
    return found


def triplet_lines(rows: Sequence[tuple[str, ...]], kind: str = ".tsv") -> Iterator[str]:
    """Lines of a file for `minisbert train`: columns anchor, positive, negative1, negative2 ...

    Args:
        kind: ".tsv" (no tabs or line breaks in texts; all cells are quoted as in CSV if a text begins with a quotation mark,
            which a reader could else take for quoting) or ".jsonl".

    Example:
        >>> list(triplet_lines([("a", "b", "c")]))
        ['anchor\\tpositive\\tnegative1\\n', 'a\\tb\\tc\\n']
    """
    check_choice("kind", kind, (".tsv", ".jsonl"))
    width = len(rows[0]) if rows else 3
    names = ["anchor", "positive", *(f"negative{i}" for i in range(1, width - 1))]
    if kind == ".jsonl":
        yield from (dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
        return
    quoted = any(text.startswith('"') for row in rows for text in row)
    for row in (names, *rows):
        for text in row:
            if any(mark in text for mark in "\t\n\r"):
                raise DataError(
                    f"{text!r:.80} has a tab or a line break, which a tsv cell cannot hold. Write .jsonl instead."
                )
        yield "\t".join('"' + text.replace('"', '""') + '"' if quoted else text for text in row) + "\n"
