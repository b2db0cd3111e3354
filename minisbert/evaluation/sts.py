"""Semantic textual similarity: do embeddings that are close belong to sentences that people find alike?

    print(evaluate_sts(encoder, [read_sts("sts12.tsv.gz"), read_sts("sts13.tsv.gz")]))

The correlation of a similarity of embeddings with gold scores, as in SBERT section 4 (Reimers & Gurevych 2019, who argue
for Spearman's rank correlation over Pearson's) and as in mteb. Over several sets, such as the parts of STS12-16, two
protocols are in use and differ by points (Gao et al. 2021, "SimCSE", appendix B), so both are given, by name:

    pooled             one correlation over the pairs of all sets together
    mean of subsets    the plain mean of the sets' own correlations, whatever their sizes

Intervals are those of the percentile bootstrap (bootstrap.py), and two models are compared on the same draws (Koehn
2004, "Statistical significance tests for machine translation evaluation", section 3). They speak of other pairs of the
same kind, not of other seeds in training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from minisbert.arguments import seed_number
from minisbert.data.rows import Rows, column_names, no_column, number, text
from minisbert.errors import DataError, InputError
from minisbert.evaluation.bootstrap import Interval, interval, mean_of_subsets, pooled, two_sided_p
from minisbert.similarity import PAIRWISE_SIMILARITIES

TEXTS = ("sentence1", "sentence2")
SCORES = ("score", "relatedness", "label")  # the first that is there
POOLED, MEAN = "pooled", "mean of subsets"
PROTOCOLS = {POOLED: pooled, MEAN: mean_of_subsets}


class Encoder(Protocol):
    """What can be evaluated: SentenceEncoder, or anything that embeds a list of texts."""

    def encode(self, *sentences: Any, **options: Any) -> Any:
        """`encode(texts, **options)`: an embedding a text, `[texts, D]`."""


@dataclass(frozen=True)
class STSPairs:
    """Pairs of sentences with gold scores; the higher, the more alike.

    Raises:
        DataError: fewer than two pairs, columns of different lengths, scores that are not finite or all the same.
    """

    name: str
    first: tuple[str, ...] = field(repr=False)
    second: tuple[str, ...] = field(repr=False)
    gold: tuple[float, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not len(self.first) == len(self.second) == len(self.gold):
            lengths = f"{len(self.first)}, {len(self.second)} and {len(self.gold)}"
            raise DataError(f"{self.name}: {lengths} sentences and scores. Expected equally many.")
        if len(self) < 2:
            raise DataError(f"{self.name}: {len(self)} pair(s). Expected at least 2, to correlate them.")
        for row, score in enumerate(self.gold):
            number(score, "score", f"{self.name}, pair {row}")
        _refuse_constant(self.name, "gold score", np.array(self.gold))

    def __len__(self) -> int:
        return len(self.gold)


class STSScore(NamedTuple):
    """One line of a result."""

    name: str  # of the set, or of the protocol
    pairs: int
    similarity: str
    spearman: Interval
    pearson: Interval


@dataclass(frozen=True)
class STSResult:
    """How well the similarities of a model follow the gold scores; printed as a table, times 100."""

    scores: tuple[STSScore, ...]
    confidence: float
    pairs: tuple[STSPairs, ...] = field(repr=False)
    similarities: tuple[dict[str, np.ndarray], ...] = field(repr=False, compare=False)  # a set: name -> float64 [pairs]

    def score(self, name: str | None = None, similarity: str = "cosine") -> STSScore:
        """One line: of a set, of "pooled" or "mean of subsets"; by default of the only set, or pooled."""
        wanted = name or (POOLED if len(self.pairs) > 1 else self.pairs[0].name)
        for score in self.scores:
            if (score.name, score.similarity) == (wanted, similarity):
                return score
        raise InputError(f"there is no score of {wanted!r} by {similarity!r}. Expected names that the table shows.")

    def __str__(self) -> str:
        width = max(len(score.name) for score in self.scores)
        title = f"x 100, with {100 * self.confidence:g} % intervals"
        lines = [f"{'':{width}}  {'pairs':>6}  {'similarity':10}  {'Spearman':24}  Pearson   ({title})"]
        for name, pairs, similarity, spearman, pearson in self.scores:
            lines.append(f"{name:{width}}  {pairs:6}  {similarity:10}  {spearman!s:24}  {pearson}")
        return "\n".join(lines)


@dataclass(frozen=True)
class STSComparison:
    """The Spearman correlation of a second model minus that of a first, on the same pairs."""

    name: str
    difference: Interval
    p_value: float

    def __str__(self) -> str:
        return f"{self.name}: difference of Spearman x 100 {self.difference}, p = {self.p_value:.4f}"


def read_sts(file: str | Path, texts: Sequence[str] = TEXTS, score: str | None = None) -> STSPairs:
    """Pairs from .tsv (header, no quoting), .jsonl (both also .gz) or .parquet.

    Args:
        file: the path.
        texts: the two columns with the sentences.
        score: the column with the gold score; by default the first of score, relatedness, label.

    Raises:
        InputError: a kind of file that is not read here.
        DataError: missing or damaged; a column is missing; a row without text or finite score; see `STSPairs`.
    """
    header = column_names(str(file))
    found = next((name for name in SCORES if name in header), None) if score is None else score
    if found is None:
        raise no_column(str(file), "/".join(SCORES), header)
    rows = Rows(str(file), (*texts, found))
    if len(rows.columns) != 3:
        raise InputError(f"texts is {tuple(texts)}. Expected the names of two columns.")
    first, second, gold = [], [], []
    for row, (a, b, value) in enumerate(rows):
        place = rows.place(row)
        first.append(text(a, texts[0], place))
        second.append(text(b, texts[1], place))
        gold.append(number(value, found, place))
    return STSPairs(str(file), tuple(first), tuple(second), tuple(gold))


def evaluate_sts(
    encoder: Encoder,
    pairs: STSPairs | str | Path | Sequence[STSPairs | str | Path],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> STSResult:
    """Spearman and Pearson of cosine, dot, euclidean and manhattan similarity with the gold scores.

    Each distinct sentence is embedded once, whatever the number of pairs and sets it stands in.

    Args:
        encoder: the model.
        pairs: one set of pairs or several; a path is read by `read_sts`.
        resamples: draws of the bootstrap; 0 leaves the intervals out (NaN).
        confidence: share of the draws inside an interval.
        seed: of the draws.
        options: for `encoder.encode` (prompt_name, batch_size, show_progress_bar, ...).

    Raises:
        DataError: a similarity is not finite, or the same for all pairs of a set, so that nothing can correlate.
        InputError: no pairs, or an option is out of range.

    Example:
        >>> class Lengths:
        ...     def encode(self, sentences, **options):
        ...         return np.array([[len(text), 1.0] for text in sentences])
        >>> pairs = STSPairs("toy", ("a", "ab", "abc"), ("b", "abc", "a"), (5.0, 4.0, 1.0))
        >>> evaluate_sts(Lengths(), pairs).score(similarity="euclidean").spearman.value
        1.0
    """
    given = (pairs,) if isinstance(pairs, STSPairs | str | Path) else tuple(pairs)
    sets = tuple(part if isinstance(part, STSPairs) else read_sts(part) for part in given)
    if not sets:
        raise InputError("pairs is empty. Expected at least one set of pairs.")
    if resamples < 0 or not 0 < confidence < 1:
        raise InputError(f"resamples is {resamples}, confidence {confidence}. Expected >= 0, and between 0 and 1.")
    seed_number("seed", seed)
    similarities = _similarities(encoder, sets, options)
    names = tuple(PAIRWISE_SIMILARITIES)
    groups = [
        (np.array(part.gold), np.stack([by_name[name] for name in names]))
        for part, by_name in zip(sets, similarities, strict=True)
    ]
    lines = [(part.name, pooled, [group]) for part, group in zip(sets, groups, strict=True)]
    if len(sets) > 1:
        lines += [(name, protocol, groups) for name, protocol in PROTOCOLS.items()]
    scores = []
    for name, protocol, members in lines:
        values = protocol(members, 1, None)[:, :, 0]
        draws = protocol(members, resamples, np.random.default_rng(seed))
        count = sum(len(gold_P) for gold_P, _ in members)
        for i, similarity in enumerate(names):
            both = (interval(values[j, i], draws[j, i], confidence) for j in range(2))
            scores.append(STSScore(name, count, similarity, *both))
    return STSResult(tuple(scores), confidence, sets, tuple(similarities))


def sts_score(files: Sequence[str | Path]) -> Callable[[Encoder], float]:
    """A function that scores a model in one number, the Spearman of the cosine over all pairs: for `training.train`.

    Raises:
        DataError: a file that is no STS file, at once and not in the middle of a run.
    """
    sets = [read_sts(file) for file in files]
    return lambda encoder: evaluate_sts(encoder, sets, resamples=0, on_truncate="ignore").score().spearman.value


def compare_sts(
    first: STSResult, second: STSResult, *, similarity: str = "cosine", resamples: int = 1000, seed: int = 0
) -> tuple[STSComparison, ...]:
    """Whether a second model is better than a first: a paired bootstrap on the same pairs.

    Each draw of pairs scores both models; what counts is the difference, and how many draws have it the other way round.

    Args:
        first, second: results of `evaluate_sts` on the same pairs.
        similarity: which one to compare.
        resamples, seed: of the bootstrap. The interval has the first result's confidence.

    Returns:
        For one set one comparison; for several one for each protocol.

    Raises:
        InputError: the results are of other pairs, or there is no such similarity.
    """
    seed_number("seed", seed)
    if first.pairs != second.pairs:
        raise InputError("the two results are not of the same pairs. Expected the same files, in the same order.")
    if similarity not in PAIRWISE_SIMILARITIES or resamples < 1:
        raise InputError(
            f"similarity is {similarity!r}, resamples {resamples}. Expected one of {', '.join(PAIRWISE_SIMILARITIES)}, "
            "and at least 1."
        )
    groups = [
        (np.array(part.gold), np.stack([a[similarity], b[similarity]]))
        for part, a, b in zip(first.pairs, first.similarities, second.similarities, strict=True)
    ]
    protocols = PROTOCOLS if len(groups) > 1 else {first.pairs[0].name: pooled}
    result = []
    for name, protocol in protocols.items():
        a, b = protocol(groups, 1, None)[0, :, 0]
        draws_a, draws_b = protocol(groups, resamples, np.random.default_rng(seed))[0]
        difference = interval(b - a, draws_b - draws_a, first.confidence)
        result.append(STSComparison(name, difference, two_sided_p(draws_b - draws_a)))
    return tuple(result)


# --- similarities --------------------------------------------------------------------------------------------------


def _similarities(encoder: Encoder, sets: Sequence[STSPairs], options: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    distinct = {sentence: 0 for part in sets for sentence in (*part.first, *part.second)}
    distinct = {sentence: i for i, sentence in enumerate(distinct)}
    embeddings = np.asarray(encoder.encode(list(distinct), **options), np.float32)
    result = []
    for part in sets:
        a_BD, b_BD = (embeddings[[distinct[sentence] for sentence in side]] for side in (part.first, part.second))
        by_name = {}
        for name, similarity in PAIRWISE_SIMILARITIES.items():
            by_name[name] = np.asarray(similarity(jnp.asarray(a_BD), jnp.asarray(b_BD)), np.float64)
            if not np.isfinite(by_name[name]).all():
                row = int(np.flatnonzero(~np.isfinite(by_name[name]))[0])
                raise DataError(
                    f"{part.name}, pair {row}: the model's {name} is {by_name[name][row]}. Use another model."
                )
            _refuse_constant(part.name, f"model's {name}", by_name[name])
        result.append(by_name)
    return result


def _refuse_constant(place: str, what: str, values_P: np.ndarray) -> None:
    if (values_P == values_P[0]).all():
        raise DataError(
            f"{place}: the {what} is {values_P[0]:g} for all {len(values_P)} pairs. Expected different values: a "
            "constant correlates with nothing."
        )
