"""Paraphrases, near-duplicates and translations: the best pairs among all pairs of one set, or across two sets.

    mine_paraphrases(encoder, sentences)        # [[score, i, j], ...], as sentence-transformers' util.paraphrase_mining
    best_pairs(embeddings, k=10)                # the ten most similar pairs: SBERT section 1's 50 million comparisons
    pairs_above(embeddings, 0.95)               # near-duplicates
    bitext_pairs(english, german)               # one to one, by the margin score of Artetxe & Schwenk 2019

The result is exact: all pairs are compared, block by block (all_pairs.py), and only pairs that can still be in the result are
stored. If only few pairs are wanted, a first pass in bfloat16 finds the rows that can contain them (screening.py).
sentence-transformers compares each sentence with its `top_k` neighbours only.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minisbert.arguments import check_finite, check_list, check_positive
from minisbert.errors import InputError
from minisbert.evaluation.embedding import refuse_quantized
from minisbert.mining.all_pairs import COLUMNS, checked_rows, upper_blocks
from minisbert.mining.screening import row_bounds
from minisbert.search.exact import nearest

# From this many rows on, screening pays off if few pairs are wanted; rows per exact comparison after it.
SCREENED, TOGETHER = 4096, 32


class Pairs(NamedTuple):
    """Pairs of rows, best first; ties: the pair with the lower rows first.

    BLAS may sum the products of equal rows in different orders: where their scores differ in the last bits, they do not tie.
    """

    scores_K: np.ndarray  # float32
    rows_K2: np.ndarray  # int64; within one set the lower row comes first


def mine_paraphrases(
    encoder: Any, sentences: Sequence[str], max_pairs: int = 500_000, **options: Any
) -> list[list[Any]]:
    """The most similar pairs of sentences, like sentence-transformers' `util.paraphrase_mining` of unlimited `top_k`.

    There each sentence is compared with its 100 (`top_k`) nearest only, so fewer pairs may be found than `max_pairs`.

    Args:
        options: for `encoder.encode`, except `precision`.

    Returns:
        `[cosine, i, j]` for each pair of sentences i < j, best first.

    Example:
        >>> from minisbert import SentenceEncoder
        >>> encoder = SentenceEncoder.load("weights/tiny-bert")
        >>> [(i, j) for _, i, j in mine_paraphrases(encoder, ["a cat", "stocks fell", "a cat"], max_pairs=1)]
        [(0, 2)]
    """
    check_positive("max_pairs", max_pairs)
    refuse_quantized(options)
    if others := sorted(options.keys() & {"top_k", "score_function"}):
        raise InputError(f"mine_paraphrases got {others[0]}. Expected none: it compares all pairs, by their cosine.")
    for name in options.keys() & {"query_chunk_size", "corpus_chunk_size"}:  # change nothing
        check_positive(name, options.pop(name))
    found = best_pairs(encoder.encode(check_list("sentences", sentences), **options), max_pairs)
    return [[score, i, j] for score, (i, j) in zip(found.scores_K.tolist(), found.rows_K2.tolist(), strict=True)]


def best_pair(embeddings_MD: Any, *, similarity: str = "cosine") -> tuple[int, int]:
    """The two most similar rows. Raises InputError: fewer than two rows; see `best_pairs`.

    Example:
        >>> best_pair([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
        (1, 2)
    """
    found = best_pairs(embeddings_MD, 1, similarity=similarity)
    if not len(found.rows_K2):
        raise InputError("embeddings has fewer than 2 rows. Expected at least 2, to make a pair.")
    first, second = found.rows_K2[0].tolist()
    return first, second


def best_pairs(
    embeddings_MD: Any, k: int = 10, *, similarity: str = "cosine", show_progress_bar: bool | None = None
) -> Pairs:
    """The k most similar pairs of different rows.

    Args:
        k: pairs wanted; if there are fewer, all pairs.
        similarity: "cosine" (0 with a zero vector) or "dot".
        show_progress_bar: None shows one on a terminal when it takes longer than two seconds.

    Returns:
        `min(k, M (M - 1) / 2)` scores and pairs of rows.

    Raises:
        InputError: NaN or infinity in a row, a row too long for float32, or an argument out of range.

    Example:
        >>> best_pairs([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]], k=2).rows_K2.tolist()
        [[1, 2], [0, 2]]
    """
    k = check_positive("k", k)
    rows_MD = checked_rows("embeddings", embeddings_MD, similarity)
    best = _Best(k)
    if len(rows_MD) >= SCREENED and k <= len(rows_MD) // 64:
        _search_promising(rows_MD, best, show_progress_bar)
    else:
        for first, column, scores_BC in upper_blocks(rows_MD, show_progress_bar):
            best.add(np.arange(first, first + len(scores_BC)), column, scores_BC)
    return best.pairs()


def pairs_above(
    embeddings_MD: Any,
    threshold: float,
    *,
    similarity: str = "cosine",
    limit: int = 1_000_000,
    show_progress_bar: bool | None = None,
) -> Pairs:
    """Each pair of different rows with at least this similarity: near-duplicates.

    Args:
        embeddings_MD, similarity, show_progress_bar: see `best_pairs`.
        limit: the largest number of pairs allowed: a low threshold can match nearly all of them.

    Raises:
        InputError: see `best_pairs`; more than `limit` pairs.

    Example:
        >>> pairs_above([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]], 0.7).rows_K2.tolist()
        [[1, 2]]
    """
    floor, most = np.float32(check_finite("threshold", threshold)), check_positive("limit", limit)
    rows_MD = checked_rows("embeddings", embeddings_MD, similarity)
    found, count = [], 0
    for first, column, scores_BC in upper_blocks(rows_MD, show_progress_bar):
        b, c = (scores_BC >= floor).nonzero()
        count += len(b)
        if count > most:
            raise InputError(
                f"more than {most} pairs have a similarity of at least {threshold:g}. Expected fewer; raise the "
                "threshold or the limit."
            )
        found.append(Pairs(scores_BC[b, c], np.stack([b + first, c + column], axis=1)))
    return _ranked(found)


def bitext_pairs(
    a_BD: Any, b_MD: Any, *, neighbours: int = 4, threshold: float | None = None, show_progress_bar: bool | None = None
) -> Pairs:
    """Pairs of sentences from two sets with the same meaning, one to one, such as translations.

    The score of x and y is their cosine divided by the mean cosine with their `neighbours` nearest in the other set, half
    from each side: cos(x, y) / (sum_z cos(x, z) / 2k + sum_z cos(y, z) / 2k), the "ratio" margin of Artetxe & Schwenk
    2019, equations 2 and 3. It penalizes sentences that are near to everything. Candidates are each row's best match by this
    score, in both directions ("max"). The best pair is taken first, and each row is in one pair at most. A pair whose mean
    is not above 0 (a zero vector) has no ratio and is skipped.

    Args:
        a_BD, b_MD: rows of the same model.
        neighbours: k; if a set is smaller, all of its rows.
        threshold: the lowest score; 1.06 to 1.2 is usual. None keeps all pairs.
        show_progress_bar: see `best_pairs`.

    Returns:
        margin scores, and rows of a and of b.

    Raises:
        InputError: see `best_pairs`; sets of different width.

    Example:
        >>> bitext_pairs([[1.0, 0.1], [0.1, 1.0]], [[0.0, 1.0], [1.0, 0.0]], neighbours=2).rows_K2.tolist()
        [[0, 1], [1, 0]]
    """
    check_positive("neighbours", neighbours)
    lowest = -np.inf if threshold is None else check_finite("threshold", threshold)
    a, b = checked_rows("a", a_BD), checked_rows("b", b_MD)
    if not len(a) or not len(b):
        return _ranked([])
    if a.shape[1] != b.shape[1]:
        raise InputError(f"a has width {a.shape[1]}, b {b.shape[1]}. Expected embeddings of one model.")
    # The rows have length 1, so their dot product is the cosine.
    of_a = nearest(a, b, neighbours, similarity="dot", show_progress_bar=show_progress_bar)
    of_b = nearest(b, a, neighbours, similarity="dot", show_progress_bar=show_progress_bar)
    mean_a, mean_b = of_a.scores_BK.mean(axis=1), of_b.scores_BK.mean(axis=1)
    candidates = []
    for hits, mean, others, order in ((of_a, mean_a, mean_b, (0, 1)), (of_b, mean_b, mean_a, (1, 0))):
        around_BK = (mean[:, None] + others[hits.rows_BK]) / 2
        margin_BK = np.where(around_BK > 0, hits.scores_BK / np.where(around_BK > 0, around_BK, 1), -np.inf)
        own, place = np.arange(len(margin_BK)), margin_BK.argmax(axis=1)
        rows = np.stack([own, hits.rows_BK[own, place]], axis=1)[:, order]
        candidates.append(Pairs(margin_BK[own, place].astype(np.float32), rows))
    ranked = _ranked(candidates)
    free_a, free_b = np.ones(len(a), bool), np.ones(len(b), bool)
    chosen = []
    for place, (score, (i, j)) in enumerate(zip(ranked.scores_K.tolist(), ranked.rows_K2.tolist(), strict=True)):
        if score >= lowest and score > -np.inf and free_a[i] and free_b[j]:
            free_a[i] = free_b[j] = False
            chosen.append(place)
    return Pairs(ranked.scores_K[chosen], ranked.rows_K2[chosen])


def _search_promising(rows_MD: np.ndarray, best: "_Best", show_progress_bar: bool | None) -> None:
    """Compare rows in the order of their bounds, until no remaining row can be in one of the best pairs."""
    bound_M = row_bounds(rows_MD, show_progress_bar)
    order = np.argsort(-bound_M, kind="stable")
    for start in range(0, len(order), TOGETHER):
        if bound_M[order[start]] < best.threshold:
            return
        rows_B = np.sort(order[start : start + TOGETHER])
        for column in range(0, len(rows_MD), COLUMNS):
            scores_BC = rows_MD[rows_B] @ rows_MD[column : column + COLUMNS].T
            scores_BC[np.arange(column, column + scores_BC.shape[1]) <= rows_B[:, None]] = -np.inf
            best.add(rows_B, column, scores_BC)


class _Best:
    """The best k pairs of the blocks so far, and the score that a new pair must reach."""

    def __init__(self, k: int):
        self.k, self.threshold = k, np.float32(-np.inf)
        self._found: list[Pairs] = []
        self._count = 0

    def add(self, rows_B: np.ndarray, column: int, scores_BC: np.ndarray) -> None:
        """Add the pairs of one block that can be among the best; rows ascend, and columns start at `column`."""
        highest_B = scores_BC.max(axis=1)
        floor = self.threshold
        if self.k <= len(highest_B):  # k rows with such a maximum: k pairs at least as good
            floor = max(floor, np.partition(highest_B, -self.k)[-self.k])
        # -inf marks entries that are not pairs. A tie can still win by its lower rows, so it stays until the final ranking.
        hit = np.flatnonzero((highest_B >= floor) & (highest_B > -np.inf))
        some_BC = scores_BC[hit]
        place = np.flatnonzero((some_BC >= floor) & (some_BC > -np.inf))
        flat = some_BC.ravel()
        if len(place) > self.k:
            place = place[_first(flat[place], self.k)]
        b, c = np.divmod(place, scores_BC.shape[1])
        self._found.append(Pairs(flat[place], np.stack([rows_B[hit[b]], c + column], axis=1)))
        self._count += len(place)
        if self._count > self.k:
            self._found, self._count = [self.pairs()], self.k
        if self._count == self.k:
            self.threshold = min(part.scores_K.min() for part in self._found if len(part.scores_K))

    def pairs(self) -> Pairs:
        """The best k so far, ranked."""
        ranked = _ranked(self._found)
        return Pairs(ranked.scores_K[: self.k], ranked.rows_K2[: self.k])


def _first(values: np.ndarray, k: int) -> np.ndarray:
    """The positions of the k highest values (ties: the first), in ascending order, without a full sort."""
    kth = np.partition(values, len(values) - k)[len(values) - k]
    above, equal = values > kth, np.flatnonzero(values == kth)
    above[equal[: k - above.sum()]] = True
    return np.flatnonzero(above)


def _ranked(parts: list[Pairs]) -> Pairs:
    empty = Pairs(np.empty(0, np.float32), np.empty((0, 2), np.int64))
    scores_K, rows_K2 = (np.concatenate(part) for part in zip(empty, *parts, strict=True))
    order = np.lexsort((rows_K2[:, 1], rows_K2[:, 0], -scores_K))
    return Pairs(scores_K[order], rows_K2[order])
