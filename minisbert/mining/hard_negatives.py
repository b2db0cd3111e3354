"""Hard negatives: for each anchor the texts that a model finds most like it, but that are not its positives.

    mined = hard_negatives(encoder, anchors, positives, number=5, relative_margin=0.05)
    mined.rows[0]                               # (anchor, positive, negative, negative, ...)

What sentence-transformers' `mine_hard_negatives` gives as "n-tuple" with its strategy "top". A margin to the positive keeps
out texts that are likely positives nobody marked (Moreira et al. 2024, "NV-Retriever", TopK-PercPos). One difference: the
anchor's own text is never its negative.
"""

from collections.abc import Callable, Iterator, Sequence
from json import dumps
from typing import Any, NamedTuple

import numpy as np

from minisbert.arguments import check_list, check_positive
from minisbert.errors import DataError, InputError, MinisbertError
from minisbert.evaluation.retrieval import Encoder
from minisbert.mining.paraphrases import finite
from minisbert.search.exact import nearest
from minisbert.similarity import pairwise_cosine

Rescore = Callable[[list[tuple[str, str]]], Any]  # pairs -> a score each, higher for more alike: CrossEncoder.predict


class Mined(NamedTuple):
    """Rows for training, and how many pairs found too few negatives and were left out."""

    rows: list[tuple[str, ...]]
    left_out: int


def hard_negatives(
    encoder: Encoder,
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
    """Rows (anchor, positive, negatives), the hardest negative first.

    Args:
        encoder: embeds anchors by `encode_query`, all others by `encode_document`; scores are cosines.
        anchors, positives: pairs of texts, row by row. An anchor with several positives has all of them spared.
        corpus: where negatives come from, beside all positives.
        number: negatives a row.
        range_min: how many of the hardest that are left are skipped.
        range_max: how many of the hardest are looked at; by default ten times `number` where something filters, else
            just enough.
        max_score, min_score: leave out negatives that score higher, or lower.
        absolute_margin: a negative scores at least this much less than the positive (the lowest of several).
        relative_margin: the same as a share of the positive's score, 0.05 for 5 %.
        rescore: scores candidates and positives anew, pairs -> scores, for example `CrossEncoder.predict`.
        options: for both.

    Raises:
        InputError: no pairs, or columns of different lengths; an argument out of range; `rescore` gives something else
            than a finite score a pair.

    Example:
        >>> class Letters:
        ...     def encode_query(self, texts):
        ...         return np.array([[text.count(letter) for letter in "abc"] for text in texts], np.float32)
        ...     encode_document = encode_query
        >>> hard_negatives(Letters(), ["a", "c"], ["aab", "cc"], ["ab", "bbc"]).rows
        [('a', 'aab', 'ab'), ('c', 'cc', 'bbc')]
    """
    wanted = check_positive("number", number)
    named = {"max_score": max_score, "min_score": min_score}
    named |= {"absolute_margin": absolute_margin, "relative_margin": relative_margin}
    for name, value in named.items():
        if value is not None:
            finite(name, value)
    if isinstance(range_min, bool) or not isinstance(range_min, int) or range_min < 0:
        raise InputError(f"range_min is {range_min!r:.80}. Expected a whole number of at least 0.")
    filtered = rescore is not None or any(value is not None for value in named.values())
    if range_max is None:
        range_max = range_min + wanted * (10 if filtered else 1)
    if check_positive("range_max", range_max) - range_min < wanted:
        raise InputError(
            f"range_max is {range_max}, range_min {range_min}. Expected at least {wanted} candidates between, one for "
            "each negative; raise range_max."
        )
    texts_a, texts_p = check_list("anchors", anchors), check_list("positives", positives)
    if not texts_a or len(texts_a) != len(texts_p):
        raise InputError(f"{len(texts_a)} anchors and {len(texts_p)} positives. Expected equally many, at least one.")
    more = check_list("corpus", corpus) if corpus is not None else []

    pool, asked = list(dict.fromkeys([*texts_p, *more])), list(dict.fromkeys(texts_a))
    row_of = {text: row for row, text in enumerate(pool)}
    own: dict[str, dict[int, float]] = {anchor: {} for anchor in asked}  # anchor -> rows of its positives -> scores
    for a, p in zip(texts_a, texts_p, strict=True):
        own[a][row_of[p]] = 0.0
    asked_BD = np.asarray(encoder.encode_query(asked, **options), np.float32)
    pool_MD = np.asarray(encoder.encode_document(pool, **options), np.float32)
    spared = max(map(len, own.values())) + 1  # the positives, and the anchor itself
    hits = nearest(asked_BD, pool_MD, range_max + spared)
    for anchor, query_D in zip(asked, asked_BD, strict=True):
        rows = list(own[anchor])
        if rescore is None:
            scores = pairwise_cosine(query_D[None], pool_MD[rows]).tolist()
        else:
            scores = _rescored(rescore, anchor, [pool[row] for row in rows])
        own[anchor] = dict(zip(rows, scores, strict=True))

    chosen: dict[str, list[int]] = {}
    for anchor, found, scores_K in zip(asked, hits.rows_BK, hits.scores_BK, strict=True):
        keep = [i for i, row in enumerate(found.tolist()) if row not in own[anchor] and pool[row] != anchor]
        rows_C, scores_C = found[keep], scores_K[keep].astype(np.float64)
        if rescore is not None and keep:
            scores_C = np.array(_rescored(rescore, anchor, [pool[row] for row in rows_C.tolist()]))
        bar = min(own[anchor].values())
        fits = np.ones(len(rows_C), bool)
        if max_score is not None:
            fits &= scores_C <= max_score
        if min_score is not None:
            fits &= scores_C >= min_score
        if absolute_margin is not None:
            fits &= scores_C + absolute_margin <= bar
        if relative_margin is not None:
            fits &= scores_C <= bar - abs(bar) * relative_margin
        order = np.argsort(-scores_C[fits], kind="stable")
        chosen[anchor] = rows_C[fits][order][range_min:range_max][:wanted].tolist()

    pairs = list(dict.fromkeys(zip(texts_a, texts_p, strict=True)))
    rows_out = [(a, p, *(pool[row] for row in chosen[a])) for a, p in pairs if len(chosen[a]) == wanted]
    return Mined(rows_out, len(pairs) - len(rows_out))


def triplet_lines(rows: Sequence[tuple[str, ...]], kind: str = ".tsv") -> Iterator[str]:
    """The lines of a file that `minisbert train` reads: columns anchor, positive, negative1, negative2 ...

    Args:
        kind: ".tsv", whose cells cannot hold a tab or a line break, or ".jsonl", whose can.

    Raises:
        DataError: a text with a tab or a line break, for tsv.

    Example:
        >>> list(triplet_lines([("a", "b", "c")]))
        ['anchor\\tpositive\\tnegative1\\n', 'a\\tb\\tc\\n']
    """
    width = len(rows[0]) if rows else 3
    names = ["anchor", "positive", *(f"negative{i}" for i in range(1, width - 1))]
    if kind == ".jsonl":
        yield from (dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
        return
    yield "\t".join(names) + "\n"
    for row in rows:
        for text in row:
            if any(mark in text for mark in "\t\n\r"):
                raise DataError(
                    f"{text!r:.80} holds a tab or a line break, which no tsv cell can. Write .jsonl instead."
                )
        yield "\t".join(row) + "\n"


def _rescored(rescore: Rescore, anchor: str, texts: list[str]) -> list[float]:
    try:
        scores = np.asarray(rescore([(anchor, text) for text in texts]), np.float64)
    except MinisbertError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"rescore gave no numbers ({error}). Expected a score for each pair.") from None
    if scores.shape != (len(texts),) or not np.isfinite(scores).all():
        raise InputError(
            f"rescore gave shape {scores.shape} for {len(texts)} pairs, or NaN or infinity. Expected a finite score for "
            "each pair."
        )
    return scores.tolist()
