"""Spearman and Pearson correlations with gold scores, and their bootstrap confidence intervals.

The percentile bootstrap (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13): all pairs are resampled with
replacement, and the correlation is computed for each draw. Spearman is the Pearson correlation of ranks, with ties at their
mean rank; each draw is ranked again. Several series (similarities, or models) share the draws, so differences are paired.

A group is a set of pairs: `(gold_P, series_MP)`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

Group = tuple[np.ndarray, np.ndarray]
# groups, draws, generator -> [2 (Spearman, Pearson), M, draws]; without a generator, the groups themselves as one "draw".
Protocol = Callable[[Sequence[Group], int, np.random.Generator | None], np.ndarray]

CHUNK = 1_000_000  # pairs ranked per batch


class Interval(NamedTuple):
    """A value and its confidence interval (NaN without a bootstrap); printed times 100."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        around = f" [{100 * self.low:6.2f}, {100 * self.high:6.2f}]" if np.isfinite(self.low) else ""
        return f"{100 * self.value:6.2f}{around}"


def pooled(groups: Sequence[Group], draws: int, generator: np.random.Generator | None) -> np.ndarray:
    """The correlations over the pairs of all groups together.

    Example:
        >>> pooled([(np.array([1.0, 2, 3]), np.array([[1.0, 2, 9]]))], 1, None).round(4).ravel()
        array([1.    , 0.9177])
    """
    gold_P = np.concatenate([gold_P for gold_P, _ in groups])
    series_MP = np.concatenate([series_MP for _, series_MP in groups], axis=1)
    if generator is None:
        return _correlations(gold_P[None], series_MP[:, None])
    results, size = [], len(gold_P)
    for start in range(0, draws, rows := max(1, CHUNK // size)):
        drawn_RP = generator.integers(0, size, (min(rows, draws - start), size))
        results.append(_correlations(gold_P[drawn_RP], series_MP[:, drawn_RP]))
    return np.concatenate(results or [np.empty((2, len(series_MP), 0))], axis=2)


def mean_of_subsets(groups: Sequence[Group], draws: int, generator: np.random.Generator | None) -> np.ndarray:
    """The unweighted mean of the correlations of the groups; pairs are drawn within each group."""
    return np.asarray(np.mean([pooled([group], draws, generator) for group in groups], axis=0))


def interval(value: float, draws_R: np.ndarray, confidence: float) -> Interval:
    """A value with the interval that holds the central `confidence` share of its draws; undefined draws are ignored.

    Example:
        >>> interval(0.5, np.arange(101) / 100, 0.5)
        Interval(value=0.5, low=0.25, high=0.75)
    """
    draws_R = draws_R[np.isfinite(draws_R)]
    if not len(draws_R):
        return Interval(float(value), np.nan, np.nan)
    low, high = np.quantile(draws_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(value), float(low), float(high))


def two_sided_p(differences_R: np.ndarray) -> float:
    """The p-value: twice the share of draws on the other side of 0, with one added so that it is never 0.

    Davison & Hinkley 1997, "Bootstrap Methods and their Application", section 4.4.

    Example:
        >>> two_sided_p(np.array([0.1] * 98 + [-0.1]))
        0.04
    """
    differences_R = differences_R[np.isfinite(differences_R)]
    smaller = min((differences_R <= 0).sum(), (differences_R >= 0).sum())
    return min(1.0, 2 * (1 + int(smaller)) / (len(differences_R) + 1))


def _correlations(gold_RP: np.ndarray, series_MRP: np.ndarray) -> np.ndarray:
    ranks_RP = stats.rankdata(gold_RP, axis=1)
    spearman_MR = [_pearson(ranks_RP, stats.rankdata(series_RP, axis=1)) for series_RP in series_MRP]
    pearson_MR = [_pearson(gold_RP, series_RP) for series_RP in series_MRP]
    return np.array([spearman_MR, pearson_MR])


def _pearson(x_RP: np.ndarray, y_RP: np.ndarray) -> np.ndarray:
    # A draw of equal values has no correlation, NaN; their mean may differ from them by a rounding.
    constant_R = (x_RP == x_RP[:, :1]).all(axis=1) | (y_RP == y_RP[:, :1]).all(axis=1)
    x_RP = x_RP - x_RP.mean(axis=1, keepdims=True)
    y_RP = y_RP - y_RP.mean(axis=1, keepdims=True)
    square_R = np.einsum("RP,RP->R", x_RP, x_RP) * np.einsum("RP,RP->R", y_RP, y_RP)
    with np.errstate(invalid="ignore", divide="ignore"):
        found_R = np.einsum("RP,RP->R", x_RP, y_RP) / np.sqrt(square_R)
    return np.where(constant_R, np.nan, np.clip(found_R, -1, 1))
