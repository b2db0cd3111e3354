"""Hybrid search: several rankings combined by reciprocal rank fusion.

    Hybrid([index, BM25(texts, ids)]).search("where is the cat?", k=10)

Cormack, Clarke & Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods":

    score(d) = sum over rankings of 1 / (60 + rank of d)        ranks from 1; a ranking without d adds nothing

Only ranks matter, so cosines and BM25 scores need no common scale.
"""

from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

from minisbert.arguments import as_list, check_positive
from minisbert.errors import InputError, short_repr
from minisbert.search.searcher import Hit, Searcher

Id = TypeVar("Id", bound=Hashable)
CONSTANT = 60  # from the paper; the higher, the less the top ranks dominate


def reciprocal_rank_fusion(rankings: Sequence[Sequence[Id]], constant: float = CONSTANT) -> list[tuple[Id, float]]:
    """Ids with their fused scores, best first; ties: in order of first appearance, ranking by ranking.

    Args:
        rankings: ids, best first, each once per ranking.
        constant: added to every rank.

    Raises:
        InputError: an id is twice in one ranking, or the constant is not positive.

    Example:
        >>> [(one, round(score, 4)) for one, score in reciprocal_rank_fusion([["a", "b"], ["b", "c"]])]
        [('b', 0.0325), ('a', 0.0164), ('c', 0.0161)]
    """
    if not isinstance(rankings, list | tuple):
        raise InputError(f"rankings is {short_repr(rankings)}. Expected a list of rankings, each a list of ids.")
    if not isinstance(constant, int | float) or not constant > 0:
        raise InputError(f"constant is {short_repr(constant)}. Expected a number above 0; the paper uses 60.")
    scores: dict[Id, float] = {}
    for number, ranking in enumerate(rankings):
        if len(set(ranking)) < len(ranking):
            raise InputError(f"rankings[{number}] has an id twice. Expected each id once.")
        for rank, one in enumerate(ranking, start=1):
            scores[one] = scores.get(one, 0.0) + 1 / (constant + rank)
    return sorted(scores.items(), key=lambda item: -item[1])


class Hybrid:
    """Several searchers over the same ids, such as an Index and a BM25, combined; `candidates` hits are taken from each.

    `constant` is that of `reciprocal_rank_fusion`.

    Example:
        >>> class Fixed:
        ...     def __init__(self, *ids): self.hits = [Hit(one, 1.0) for one in ids]
        ...     def search(self, queries, k=10): return [self.hits[:k] for _ in queries]
        >>> [hit.id for hit in Hybrid([Fixed("a", "b"), Fixed("b", "c")]).search("any", k=2)]
        ['b', 'a']
    """

    def __init__(self, searchers: Sequence[Searcher], *, candidates: int = 100, constant: float = CONSTANT):
        if not isinstance(searchers, list | tuple) or not searchers:
            raise InputError(f"searchers is {short_repr(searchers)}. Expected a list of searchers, at least one.")
        self.searchers, self.candidates, self.constant = searchers, check_positive("candidates", candidates), constant

    def search(self, queries: str | Sequence[str], k: int = 10) -> Any:
        """A list of `Hit` with fused scores, best first; for several queries a list of such lists."""
        texts, single = as_list(queries, "queries")
        k = check_positive("k", k)
        found = [searcher.search(texts, max(k, self.candidates)) for searcher in self.searchers]
        fused = []
        for lists in zip(*found, strict=True):
            text_of = {hit.id: hit.text for hits in reversed(lists) for hit in hits}
            ranked = reciprocal_rank_fusion([[hit.id for hit in hits] for hits in lists], self.constant)
            fused.append([Hit(one, score, text_of[one]) for one, score in ranked[:k]])
        return fused[0] if single else fused
