"""Information retrieval: does a search find the documents that people judged relevant?

    data = read_retrieval("cranfield")               # a folder in BEIR's layout: data/retrieval.py
    print(evaluate_retrieval(encoder, data))
    print(evaluate_rankings(data, rankings_of(BM25(*data.texts_and_ids()), data)))

Thakur et al. 2021, "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval Models". The metrics
are those of sentence-transformers' InformationRetrievalEvaluator: a document is relevant or not. `graded=True` computes nDCG
from graded relevance, as in BEIR's tables. Queries without a relevant document do not count.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.arguments import check_path, check_positive
from minisbert.data.retrieval import RetrievalData, read_retrieval
from minisbert.errors import InputError, short_repr
from minisbert.evaluation.embedding import QueryEncoder, refuse_quantized
from minisbert.evaluation.ranking_metrics import METRICS
from minisbert.search.index import Index
from minisbert.search.searcher import Searcher

DEPTH = max(k for _, ks in METRICS.values() for k in ks)

Rankings = Mapping[str, Sequence[str]]  # query -> documents, best first


@dataclass(frozen=True)
class RetrievalResult:
    """The metrics per query; their means over the queries are printed times 100."""

    name: str
    queries: tuple[str, ...] = field(repr=False)
    per_query: Mapping[str, np.ndarray] = field(repr=False)  # "ndcg@10" -> one value per query
    rankings: Rankings = field(repr=False)

    @property
    def scores(self) -> dict[str, float]:
        """ "ndcg@10" and so on -> the mean."""
        return {name: float(values.mean()) for name, values in self.per_query.items()}

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.queries)} queries, x 100"]
        for metric in METRICS:
            found = [(name.split("@"), score) for name, score in self.scores.items()]
            cells = [f"@{k:<3} {100 * score:6.2f}" for (name, k), score in found if name == metric]
            lines.append("   ".join([f"{metric:10}", *cells]))
        return "\n".join(lines)


def evaluate_rankings(
    data: RetrievalData, rankings: Rankings, *, graded: bool = False, ks: Mapping[str, Sequence[int]] | None = None
) -> RetrievalResult:
    """Score rankings from any source.

    Args:
        rankings: for every query that counts, document ids, best first.
        graded: compute nDCG from graded instead of binary relevance.
        ks: metric -> cut-offs; by default those of `METRICS`.

    Raises:
        InputError: a query has no ranking, a document occurs twice in one, no ranked document is in the corpus (ids of
            another type?), an unknown metric, or k below 1.

    Example:
        >>> data = RetrievalData("toy", {"a": "", "b": ""}, {"q": ""}, {"q": {"b": 1}})
        >>> evaluate_rankings(data, {"q": ["a", "b"]}).scores["mrr@10"]
        0.5
    """
    cutoffs = _cutoffs(ks)
    queries = data.judged()
    depth = max((k for places in cutoffs.values() for k in places), default=0)
    most = max(sum(gain > 0 for gain in data.relevant[q].values()) for q in queries)
    gains_BK, ideal_BK = np.zeros((len(queries), depth)), np.zeros((len(queries), max(depth, most)))
    ranked: set[str] = set()
    for b, query in enumerate(queries):
        if query not in rankings:
            raise InputError(
                f"rankings has no query {query!r}. Expected a ranking for each query with relevant documents."
            )
        ranking = list(rankings[query])
        if len(set(ranking)) < len(ranking):
            raise InputError(f"rankings[{query!r}] has a document twice. Expected each document once.")
        gains = {one: (gain if graded else 1.0) for one, gain in data.relevant[query].items() if gain > 0}
        gains_BK[b, : len(ranking)] = [gains.get(one, 0.0) for one in ranking[:depth]]
        ideal_BK[b, : len(gains)] = sorted(gains.values(), reverse=True)
        ranked.update(ranking)
    if ranked and ranked.isdisjoint(data.corpus) and not gains_BK.any():
        raise InputError(
            f"rankings has no document of the corpus, but {short_repr(next(iter(ranked)))}, for example. Expected ids such as "
            f"{short_repr(next(iter(data.corpus), None))}; give a searcher the ids too: BM25(*data.texts_and_ids())."
        )
    per_query = {
        f"{name}@{k}": metric(gains_BK, ideal_BK, k)
        for name, (metric, _) in METRICS.items()
        for k in cutoffs.get(name, ())
    }
    return RetrievalResult(data.name, tuple(queries), per_query, rankings)


def _cutoffs(ks: Mapping[str, Iterable[int]] | None) -> dict[str, tuple[int, ...]]:
    if ks is None:
        return {name: tuple(default) for name, (_, default) in METRICS.items()}
    if not isinstance(ks, Mapping):
        raise InputError(f"ks is {short_repr(ks)}. Expected a dict of metric to cut-offs, {{'ndcg': [10]}}.")
    cutoffs = {}
    for name, places in ks.items():
        if name not in METRICS or not isinstance(places, Iterable) or isinstance(places, str):
            raise InputError(
                f"ks has {name!r}: {short_repr(places)}. Expected {', '.join(METRICS)}, each with a list of numbers."
            )
        cutoffs[name] = tuple(check_positive(f"a number of ks[{name!r}]", k) for k in places)
    return cutoffs


def evaluate_retrieval(
    encoder: QueryEncoder,
    data: RetrievalData | str | Path,
    *,
    similarity: str | None = None,
    graded: bool = False,
    ignore_identical_ids: bool = False,
    **options: Any,
) -> RetrievalResult:
    """Embed the corpus and the queries, search exactly, and score the rankings.

    Args:
        data: `RetrievalData`, or a folder for `read_retrieval`.
        similarity: "cosine" or "dot"; by default the model's, or cosine.
        graded: see `evaluate_rankings`.
        ignore_identical_ids: see `rankings_of`.
        options: for both encode methods (batch_size, show_progress_bar, on_truncate, ...), except `precision`.

    Raises:
        InputError: see `nearest`.
    """
    refuse_quantized(options)
    if not isinstance(data, RetrievalData):
        data = read_retrieval(check_path(data, "data", "RetrievalData, or a folder in BEIR's layout"))
    index = index_of(encoder, data, similarity=similarity, **options)
    queries = data.judged()
    embeddings = encoder.encode_query([data.queries[query] for query in queries], **options)
    found = index.search(embeddings, DEPTH + ignore_identical_ids)
    return evaluate_rankings(data, _rankings(queries, found, DEPTH, ignore_identical_ids), graded=graded)


def index_of(encoder: QueryEncoder, data: RetrievalData, *, similarity: str | None = None, **options: Any) -> Index:
    """An index of the embedded corpus."""
    refuse_quantized(options)
    texts, ids = data.texts_and_ids()
    index = Index(encoder, similarity=similarity, fingerprint="this evaluation's")
    index.add(np.asarray(encoder.encode_document(texts, **options)), ids, texts=texts)
    return index


def rankings_of(
    searcher: Searcher, data: RetrievalData, k: int = DEPTH, *, ignore_identical_ids: bool = False
) -> Rankings:
    """The documents that a searcher (Index, BM25, Hybrid) over the corpus finds for the queries that count.

    Args:
        ignore_identical_ids: leave out the document with the query's own id, as BEIR's tables do: in ArguAna and Quora the
            queries are documents too.
    """
    queries, k = data.judged(), check_positive("k", k)
    found = searcher.search([data.queries[query] for query in queries], k + ignore_identical_ids)
    return _rankings(queries, found, k, ignore_identical_ids)


def _rankings(queries: Iterable[str], found: Iterable[Any], k: int, ignore_identical_ids: bool) -> dict[str, list[str]]:
    rankings = {}
    for query, hits in zip(queries, found, strict=True):
        rankings[query] = [hit.id for hit in hits if not (ignore_identical_ids and hit.id == query)][:k]
    return rankings
