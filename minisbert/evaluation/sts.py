"""Semantic textual similarity (STS): the correlation of a model's similarities with human scores.

    print(evaluate_sts(encoder, ["sts12.tsv.gz", "sts13.tsv.gz"]))

Computed as in SBERT section 4 (Reimers & Gurevych 2019, who argue for Spearman's rank correlation over Pearson's) and in mteb.
For several sets, such as the parts of STS12-16, two protocols are in use whose results differ by points (Gao et al. 2021,
"SimCSE", appendix B), so both are reported: "pooled", one correlation over the pairs of all sets together, and "mean of
subsets", the unweighted mean of the correlations of the sets.

Intervals come from the percentile bootstrap (bootstrap.py); two models are compared on the same draws (Koehn 2004, "Statistical
significance tests for machine translation evaluation", section 3). They capture the choice of pairs, not the training seed.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from minisbert.arguments import seed_number
from minisbert.data.columnar import MEMORY
from minisbert.data.columns import read_columns
from minisbert.data.conventions import FIRST, SCORES, SECOND
from minisbert.data.rows import sources
from minisbert.data.values import as_score
from minisbert.errors import DataError, InputError
from minisbert.evaluation.bootstrap import Group, Interval, interval, mean_of_subsets, pooled, two_sided_p
from minisbert.evaluation.embedding import Encoder, embed_columns
from minisbert.similarity import PAIRWISE_SIMILARITIES

TEXTS = (FIRST, SECOND)  # the names of the columns; the first one present
POOLED = "pooled"
PROTOCOLS = {POOLED: pooled, "mean of subsets": mean_of_subsets}
logger = logging.getLogger("minisbert")


class ConstantError(DataError):
    """A correlation with values that are all the same, which is undefined."""


@dataclass(frozen=True)
class STSPairs:
    """Pairs of sentences with gold scores; a higher score means more similar.

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
            raise DataError(f"{self.name}: {lengths} sentences and scores. Expected the same number of each.")
        if len(self.gold) < 2:
            raise DataError(f"{self.name}: {len(self.gold)} pair(s). Expected at least 2, to correlate them.")
        gold = tuple(as_score(score, "score", f"{self.name}, pair {row}") for row, score in enumerate(self.gold))
        object.__setattr__(self, "gold", gold)
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
    """The correlations of a model's similarities with the gold scores; printed as a table, times 100."""

    scores: tuple[STSScore, ...]
    confidence: float
    pairs: tuple[STSPairs, ...] = field(repr=False)
    # Per set: float64 [pairs] by name.
    similarities: tuple[dict[str, np.ndarray], ...] = field(repr=False, compare=False)

    def score(self, name: str | None = None, similarity: str = "cosine") -> STSScore:
        """The score of a set, of "pooled" or of "mean of subsets"; by default of the only set, or "pooled"."""
        wanted = name or (POOLED if len(self.pairs) > 1 else self.pairs[0].name)
        for score in self.scores:
            if (score.name, score.similarity) == (wanted, similarity):
                return score
        raise InputError(f"there is no score for {wanted!r} by {similarity!r}. Expected names from the printed table.")

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


def read_sts(file: Any, texts: Sequence[str | Sequence[str]] = TEXTS, score: str | None = None) -> STSPairs:
    """Read scored pairs from a row file (see data/rows.py) or rows in memory.

    Args:
        file: the path; or rows, such as a pandas or datasets table.
        texts: the two columns with the sentences; by default those of well-known data sets (data/conventions.py).
        score: the column with the gold score; by default the first of score, relatedness, similarity, ..., label.

    Raises:
        InputError: an unsupported kind of file, or not two text columns.
        DataError: missing or damaged; a column is missing; a row without text or finite score; see `STSPairs`.
    """
    return STSPairs(*read_pairs(file, texts, score or SCORES))


def read_pairs(file: Any, texts: Any, number: Any) -> tuple[Any, ...]:
    """A name for a file or rows in memory, and their two columns of texts and one of numbers; see `read_columns`."""
    if len(texts) != 2:
        raise InputError(f"texts is {tuple(texts)}. Expected the names of two columns.")
    name = str(file) if isinstance(file, str | Path) else MEMORY
    return name, *read_columns(file, texts, number, as_score)


def evaluate_sts(
    encoder: Encoder, pairs: Any, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0, **options: Any
) -> STSResult:
    """Spearman and Pearson correlations of cosine, dot, euclidean and manhattan similarity with the gold scores.

    Each distinct sentence is embedded once, however many pairs and sets it is in.

    Args:
        pairs: one or several sets of pairs, or files or rows for `read_sts`.
        resamples, seed: of the bootstrap; 0 resamples leave the intervals out (NaN).
        confidence: share of the draws inside an interval.
        options: for `encoder.encode` (prompt_name, batch_size, show_progress_bar, ...).

    Raises:
        DataError: a similarity is not finite, or is the same for all pairs of a set.
        InputError: no pairs, or an option is out of range.

    Example:
        >>> class Lengths:
        ...     def encode(self, sentences, **options):
        ...         return np.array([[len(text), 1.0] for text in sentences])
        >>> pairs = STSPairs("toy", ("a", "ab", "abc"), ("b", "abc", "a"), (5.0, 4.0, 1.0))
        >>> evaluate_sts(Lengths(), pairs).score(similarity="euclidean").spearman.value
        1.0
    """
    sets = _sets(pairs)
    if resamples < 0 or not 0 < confidence < 1:
        raise InputError(f"resamples is {resamples}, confidence {confidence}. Expected >= 0, and between 0 and 1.")
    seed_number("seed", seed)
    columns = embed_columns(encoder.encode, *(side for part in sets for side in (part.first, part.second)), **options)
    similarities = tuple(map(_similarities, sets, columns[::2], columns[1::2]))
    names = tuple(PAIRWISE_SIMILARITIES)
    groups = _groups(sets, [[by_name[name] for name in names] for by_name in similarities])
    lines = [(part.name, pooled, [group]) for part, group in zip(sets, groups, strict=True)]
    if len(sets) > 1:
        lines += [(name, protocol, groups) for name, protocol in PROTOCOLS.items()]
    scores = []
    for name, protocol, members in lines:
        values = protocol(members, 1, None)[:, :, 0]
        draws = protocol(members, resamples, np.random.default_rng(seed))
        for i, similarity in enumerate(names):
            both = (interval(values[j, i], draws[j, i], confidence) for j in range(2))
            scores.append(STSScore(name, sum(len(gold_P) for gold_P, _ in members), similarity, *both))
    return STSResult(tuple(scores), confidence, sets, similarities)


def _sets(pairs: Any) -> tuple[STSPairs, ...]:
    if isinstance(pairs, list | tuple) and not pairs:
        raise InputError("pairs is empty. Expected at least one set of pairs.")
    return tuple(one if isinstance(one, STSPairs) else read_sts(one) for one in sources(pairs).values())


def sts_score(files: Any, **options: Any) -> Callable[[Encoder], float]:
    """A function for `train` that maps a model to one score: the Spearman correlation of the cosine over all pairs.

    Takes what `evaluate_sts` takes, with options for `encode` such as truncate_dim=64; an error in a file is raised here. The
    score is NaN, with a warning, where all similarities are the same.
    """
    sets = _sets(files)

    def score(encoder: Encoder) -> float:
        try:
            result = evaluate_sts(encoder, sets, **{"resamples": 0, "on_truncate": "ignore", **options})
            return result.score().spearman.value
        except ConstantError as error:  # an encoder at the start of a run may give one embedding to all texts
            logger.warning(str(error))
            return math.nan

    return score


def compare_sts(
    first: STSResult, second: STSResult, *, similarity: str = "cosine", resamples: int = 1000, seed: int = 0
) -> tuple[STSComparison, ...]:
    """Whether a second model is better than a first: a paired bootstrap on the same pairs, one comparison per protocol.

    Both models are scored on each draw of pairs: `resamples` draws, from the `seed`. The two-sided p-value is twice
    the share of draws on the other side of 0 (bootstrap.py). The interval has the first result's confidence.

    Returns:
        One comparison for a single set, or one per protocol for several.

    Raises:
        InputError: the results are not for the same pairs, or there is no such similarity.
    """
    seed_number("seed", seed)
    if first.pairs != second.pairs:
        raise InputError("the two results are not for the same pairs. Expected the same files, in the same order.")
    if similarity not in PAIRWISE_SIMILARITIES or resamples < 1:
        raise InputError(
            f"similarity is {similarity!r}, resamples {resamples}. Expected {' or '.join(PAIRWISE_SIMILARITIES)}, and >= 1."
        )
    both = zip(first.similarities, second.similarities, strict=True)
    groups = _groups(first.pairs, [[a[similarity], b[similarity]] for a, b in both])
    result = []
    for name, protocol in (PROTOCOLS if len(groups) > 1 else {first.pairs[0].name: pooled}).items():
        a, b = protocol(groups, 1, None)[0, :, 0]
        draws_a, draws_b = protocol(groups, resamples, np.random.default_rng(seed))[0]
        difference = interval(b - a, draws_b - draws_a, first.confidence)
        result.append(STSComparison(name, difference, two_sided_p(draws_b - draws_a)))
    return tuple(result)


def compare(
    model_a: Encoder,
    model_b: Encoder,
    data: Any,
    *,
    similarity: str = "cosine",
    resamples: int = 1000,
    seed: int = 0,
    **options: Any,
) -> STSComparison:
    """Spearman of `model_b` minus that of `model_a`, with its paired bootstrap interval and p-value; several sets are pooled.

    Arguments and errors as for `evaluate_sts` and `compare_sts`.

    Example:
        >>> from types import SimpleNamespace as Model
        >>> lengths = Model(encode=lambda texts, **options: np.array([[len(text), 1.0] for text in texts]))
        >>> pairs = STSPairs("toy", ("a", "ab", "abc"), ("b", "abc", "a"), (5.0, 4.0, 1.0))
        >>> compare(lengths, lengths, pairs, resamples=10).difference.value
        0.0
    """
    a, b = (evaluate_sts(model, data, resamples=0, **options) for model in (model_a, model_b))
    return compare_sts(a, b, similarity=similarity, resamples=resamples, seed=seed)[0]


def _groups(sets: Sequence[STSPairs], series: Sequence[Sequence[np.ndarray]]) -> list[Group]:
    return [(np.array(part.gold), np.stack(one)) for part, one in zip(sets, series, strict=True)]


def _similarities(part: STSPairs, a_BD: np.ndarray, b_BD: np.ndarray) -> dict[str, np.ndarray]:
    a, b = jnp.asarray(a_BD, jnp.float32), jnp.asarray(b_BD, jnp.float32)
    by_name = {name: np.asarray(alike(a, b), np.float64) for name, alike in PAIRWISE_SIMILARITIES.items()}
    for name, values_P in by_name.items():
        if not np.isfinite(values_P).all():
            row = int(np.flatnonzero(~np.isfinite(values_P))[0])
            raise DataError(f"{part.name}, pair {row}: the model's {name} is {values_P[row]}. Use another model.")
        _refuse_constant(part.name, f"model's {name}", values_P)
    return by_name


def _refuse_constant(place: str, what: str, values_P: np.ndarray) -> None:
    if (values_P == values_P[0]).all():
        raise ConstantError(
            f"{place}: the {what} is {values_P[0]:g} for all {len(values_P)} pairs. Expected different values: the "
            "correlation with a constant is undefined."
        )
