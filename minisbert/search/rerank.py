"""Retrieve and rerank: a fast search proposes candidates, and a cross-encoder scores each together with the query.

    retrieve_and_rerank("where is the cat?", index, cross_encoder, k=10)

Nogueira & Cho 2019, "Passage Re-ranking with BERT"; bi-encoder and cross-encoder compared: Reimers & Gurevych 2019, section 1.
The candidates can come from an Index, from BM25, or from both (`fusion.Hybrid`).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from minisbert.arguments import as_list, check_positive
from minisbert.errors import InputError, short_repr
from minisbert.search.searcher import Hit, Searcher


class Reranker(Protocol):
    """Scores pairs: a CrossEncoder, or anything like one."""

    def predict(self, pairs: Any, **options: Any) -> Any:
        """`predict([(query, text), ...])`: one number per pair, the higher the better."""


def retrieve_and_rerank(
    queries: str | Sequence[str],
    searcher: Searcher,
    reranker: Reranker,
    k: int = 10,
    *,
    candidates: int = 100,
    **options: Any,
) -> Any:
    """The k best candidates for each query according to the reranker, with its scores.

    Args:
        candidates: pairs scored per query; at least k.
        options: for `reranker.predict` (batch_size, show_progress_bar, ...).

    Returns:
        a list of `Hit`, best first (ties: in the searcher's order); for several queries a list of such lists.

    Raises:
        InputError: an argument is out of range; a candidate has no text; the scores are not one finite number per pair.

    Example:
        >>> class Found:
        ...     def search(self, queries, k=10): return [[Hit("a", 0.9, "long text"), Hit("b", 0.8, "text")]] * len(queries)
        >>> class Shortest:
        ...     def predict(self, pairs): return [-len(text) for _, text in pairs]
        >>> [hit.id for hit in retrieve_and_rerank("query", Found(), Shortest())]
        ['b', 'a']
    """
    texts, single = as_list(queries, "queries")
    candidates, k = check_positive("candidates", candidates), check_positive("k", k)
    if candidates < k:
        raise InputError(f"candidates is {candidates}, k {k}. Expected at least as many candidates as hits.")
    found = searcher.search(texts, candidates) if texts else []
    pairs = [(query, _text(hit)) for query, hits in zip(texts, found, strict=True) for hit in hits]
    scores = iter(checked_scores("the reranker", reranker.predict(pairs, **options), len(pairs)) if pairs else [])
    scored = [[hit._replace(score=next(scores)) for hit in hits] for hits in found]
    ranked = [sorted(hits, key=lambda hit: -hit.score)[:k] for hits in scored]
    return ranked[0] if single else ranked


class Reranked:
    """A searcher and a reranker as one searcher, used like Index, BM25 and Hybrid; see `retrieve_and_rerank`."""

    def __init__(self, searcher: Searcher, reranker: Reranker, *, candidates: int = 100, **options: Any):
        self.searcher, self.reranker, self.options = searcher, reranker, options
        self.candidates = check_positive("candidates", candidates)

    def search(self, queries: str | Sequence[str], k: int = 10) -> Any:
        """At most `candidates` hits per query, with the reranker's scores, best first."""
        k = min(check_positive("k", k), self.candidates)
        return retrieve_and_rerank(queries, self.searcher, self.reranker, k, candidates=self.candidates, **self.options)


def _text(hit: Hit) -> str:
    if hit.text is None:
        raise InputError(f"candidate {short_repr(hit.id)} has no text. Expected an index with keep_texts=True.")
    return hit.text


def checked_scores(name: str, predicted: Any, count: int) -> list[float]:
    """The scores of `count` pairs by a reranker of this name. Raises InputError: not one finite number per pair."""
    try:
        scores = np.asarray(predicted, np.float64)
    except (TypeError, ValueError, OverflowError):  # an int of hundreds of digits
        scores = np.empty(0)
    scores = scores.reshape(-1) if scores.shape == (count, 1) else scores
    if scores.shape != (count,) or not np.isfinite(scores).all():
        raise InputError(
            f"{name} returned {short_repr(predicted)} for {count} pairs. Expected one finite number per pair; a model "
            "with several classes is not a reranker."
        )
    return list(scores.tolist())
