"""Pairs that belong together, found among all: the best of one set, near-duplicates, translations in two sets.

    best_pairs(embeddings, k=10)                # the ten most similar pairs of one set: SBERT section 1's 50 million pairs
    pairs_above(embeddings, 0.95)               # near-duplicates
    bitext_pairs(english, german)               # one to one, by the margin score of Artetxe & Schwenk 2019

Exact: all pairs are compared, by blocks (mining/all_pairs.py), and what is kept is what can still be among the answers, so that
memory follows the answer and not the pairs. Where few of many are wanted, a first look in bfloat16 tells which rows can hold
one of them (screening.py); the answer is the same. sentence-transformers' `paraphrase_mining` gives the same pairs where its
`top_k` neighbours of a sentence are enough. Hard negatives stand in mining/hard_negatives.py.
"""

from typing import Any, NamedTuple

import numpy as np

from minisbert.arguments import check_positive
from minisbert.errors import InputError, short_repr
from minisbert.mining.all_pairs import COLUMNS, comparable_rows, upper_blocks
from minisbert.mining.screening import row_bounds
from minisbert.search.exact import nearest

# From here on a first look in bfloat16 (screening.py) pays, where few pairs are wanted. Rows compared exactly after it.
SCREENED, TOGETHER = 4096, 32


class Pairs(NamedTuple):
    """Pairs of rows, best first; of equal scores the pair whose rows stand first."""

    scores_K: np.ndarray  # float32
    rows_K2: np.ndarray  # int64; in one set the first is the lower


def best_pair(embeddings_MD: Any, *, similarity: str = "cosine") -> tuple[int, int]:
    """The two rows that are most alike.

    Raises:
        InputError: fewer than two rows; see `best_pairs`.

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
        embeddings_MD: rows.
        k: pairs wanted; fewer rows give all of their pairs, one row or none gives no pair.
        similarity: "cosine" (0 with a zero vector) or "dot".
        show_progress_bar: None shows one on a terminal when it takes longer than two seconds.

    Returns:
        scores and rows, `[min(k, M (M - 1) / 2)]`.

    Raises:
        InputError: NaN or infinity in a row, a row too long for float32, or an argument out of range.

    Example:
        >>> best_pairs([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]], k=2).rows_K2.tolist()
        [[1, 2], [0, 2]]
    """
    check_positive("k", k)
    rows_MD = comparable_rows("embeddings", embeddings_MD, similarity)
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
    """Every pair of different rows with at least this similarity: near-duplicates.

    Args:
        embeddings_MD, similarity, show_progress_bar: see `best_pairs`.
        threshold: the lowest similarity that counts.
        limit: more pairs than this are refused: a low threshold can ask for nearly all of them.

    Raises:
        InputError: see `best_pairs`; more than `limit` pairs.

    Example:
        >>> pairs_above([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]], 0.7).rows_K2.tolist()
        [[1, 2]]
    """
    floor, most = finite("threshold", threshold), check_positive("limit", limit)
    scores, rows, count = [np.empty(0, np.float32)], [np.empty((0, 2), np.int64)], 0
    for first, column, scores_BC in upper_blocks(
        comparable_rows("embeddings", embeddings_MD, similarity), show_progress_bar
    ):
        b, c = (scores_BC >= np.float32(floor)).nonzero()
        count += len(b)
        if count > most:
            raise InputError(
                f"more than {most} pairs have a similarity of at least {threshold:g}. Expected fewer; raise the "
                "threshold or the limit."
            )
        scores.append(scores_BC[b, c])
        rows.append(np.stack([b + first, c + column], axis=1))
    return _ranked(np.concatenate(scores), np.concatenate(rows))


def bitext_pairs(
    a_BD: Any, b_MD: Any, *, neighbours: int = 4, threshold: float | None = None, show_progress_bar: bool | None = None
) -> Pairs:
    """Sentences of two sets that say the same, one to one: translations, say.

    The score of x and y is their cosine over the mean cosine with their `neighbours` nearest of the other set, half from
    each side: cos(x, y) / (sum_z cos(x, z) / 2k + sum_z cos(y, z) / 2k), the "ratio" margin of Artetxe & Schwenk 2019,
    equations 2 and 3. It takes sentences that are near to everything for what they are. Candidates are the nearest of
    each row, both ways ("max"); the best goes first, and then neither of its rows is free. A pair whose mean is not above
    0 (a zero vector) has no ratio and is left out.

    Args:
        a_BD, b_MD: rows of the same model.
        neighbours: k; a smaller set gives all of its rows.
        threshold: leave out lower scores; 1.06 to 1.2 is usual. None keeps a pair for every row that finds one.
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
    lowest = -np.inf if threshold is None else finite("threshold", threshold)
    a, b = comparable_rows("a", a_BD), comparable_rows("b", b_MD)
    if a.shape[1] != b.shape[1]:
        raise InputError(f"a is {a.shape[1]} wide, b {b.shape[1]}. Expected embeddings of one model.")
    if not len(a) or not len(b):
        return Pairs(np.empty(0, np.float32), np.empty((0, 2), np.int64))
    # The rows are of length 1 already, so that their dot product is the cosine.
    of_a = nearest(a, b, neighbours, similarity="dot", show_progress_bar=show_progress_bar)
    of_b = nearest(b, a, neighbours, similarity="dot", show_progress_bar=show_progress_bar)
    mean_a, mean_b = of_a.scores_BK.mean(axis=1), of_b.scores_BK.mean(axis=1)
    scores, rows = [], []
    for hits, mean, others, forward in ((of_a, mean_a, mean_b, True), (of_b, mean_b, mean_a, False)):
        around_BK = (mean[:, None] + others[hits.rows_BK]) / 2
        margin_BK = np.where(around_BK > 0, hits.scores_BK / np.where(around_BK > 0, around_BK, 1), -np.inf)
        mine, place = np.arange(len(margin_BK)), margin_BK.argmax(axis=1)
        its = hits.rows_BK[mine, place]
        scores.append(margin_BK[mine, place])
        rows.append(np.stack([mine, its] if forward else [its, mine], axis=1))
    ranked = _ranked(np.concatenate(scores).astype(np.float32), np.concatenate(rows))
    free_a, free_b = np.ones(len(a), bool), np.ones(len(b), bool)
    kept = []
    for place, (score, (i, j)) in enumerate(zip(ranked.scores_K.tolist(), ranked.rows_K2.tolist(), strict=True)):
        if score >= lowest and score > -np.inf and free_a[i] and free_b[j]:
            free_a[i] = free_b[j] = False
            kept.append(place)
    return Pairs(ranked.scores_K[kept], ranked.rows_K2[kept])


def _search_promising(rows_MD: np.ndarray, best: "_Best", show_progress_bar: bool | None) -> None:
    """Rows in the order of the best that they may hold, until no other can hold any."""
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


# --- the best so far -----------------------------------------------------------------------------------------------


class _Best:
    """The best k pairs of the blocks seen, and the score that a pair must reach to be among them."""

    def __init__(self, k: int):
        self.k, self.threshold = k, np.float32(-np.inf)
        self._found: list[Pairs] = []
        self._count = 0

    def add(self, rows_B: np.ndarray, column: int, scores_BC: np.ndarray) -> None:
        """Take what may be among the best from one block: of ascending rows, and of columns from `column` on."""
        highest_B = scores_BC.max(axis=1)
        floor = self.threshold
        if self.k <= len(highest_B):  # k rows with such a maximum: k pairs at least as good
            floor = max(floor, np.partition(highest_B, -self.k)[-self.k])
        # -inf marks what is no pair. An equal score may win by its rows, so that it is kept until the ranking.
        hit = np.flatnonzero((highest_B >= floor) & (highest_B > -np.inf))
        some_BC = scores_BC[hit]
        place = np.flatnonzero((some_BC >= floor) & (some_BC > -np.inf))
        flat = some_BC.ravel()
        if len(place) > self.k:
            place = place[_first(flat[place], self.k)]
        b, c = np.divmod(place, scores_BC.shape[1])
        rows = np.stack([rows_B[hit[b]], c + column], axis=1)
        self._found.append(Pairs(flat[place], rows))
        self._count += len(place)
        if self._count > self.k:
            best = self.pairs()
            self._found, self._count = [best], len(best.scores_K)
        # k found are a bar for what comes, however low they stand among themselves.
        if self._count == self.k:
            self.threshold = min(part.scores_K.min() for part in self._found if len(part.scores_K))

    def pairs(self) -> Pairs:
        """The best k so far, ranked."""
        empty = Pairs(np.empty(0, np.float32), np.empty((0, 2), np.int64))
        scores, rows = (np.concatenate(part) for part in zip(empty, *self._found, strict=True))
        ranked = _ranked(scores, rows)
        return Pairs(ranked.scores_K[: self.k], ranked.rows_K2[: self.k])


def _first(values: np.ndarray, k: int) -> np.ndarray:
    """Where the k highest stand, of equal ones the first, in order of place; without sorting all."""
    kth = np.partition(values, len(values) - k)[len(values) - k]
    above, equal = values > kth, np.flatnonzero(values == kth)
    above[equal[: k - above.sum()]] = True
    return np.flatnonzero(above)


def _ranked(scores_K: np.ndarray, rows_K2: np.ndarray) -> Pairs:
    order = np.lexsort((rows_K2[:, 1], rows_K2[:, 0], -scores_K))
    return Pairs(scores_K[order], rows_K2[order])


def finite(name: str, value: Any) -> float:
    """A finite number.

    Raises:
        InputError: naming the argument and its value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise InputError(f"{name} is {short_repr(value)}. Expected a finite number.")
    return float(value)
