"""Ranking metrics: accuracy, precision, recall, MRR, MAP and nDCG at k. Pure functions that return one value per query.

All take `gains_BK`, the gain of the document at each rank for the query (0: not relevant, or no document), and
`ideal_BK`, the gains of the query's relevant documents, highest first, padded with 0. Sources: Manning, Raghavan &
Schütze 2008, "Introduction to Information Retrieval", section 8.4; nDCG: Järvelin & Kekäläinen 2002, "Cumulated
gain-based evaluation of IR techniques", with the logarithm of rank + 1 (as in trec_eval). The literature differs on how k
affects recall and MAP; this follows sentence-transformers' InformationRetrievalEvaluator.
"""

from collections.abc import Callable

import numpy as np


def accuracy(gains_BK: np.ndarray, ideal_BK: np.ndarray, k: int) -> np.ndarray:
    """1 where a relevant document is among the first k ("success at k").

    Example:
        >>> accuracy(np.array([[0, 1], [1, 0]]), np.ones((2, 1)), 1)
        array([0., 1.])
    """
    return np.where((gains_BK[:, :k] > 0).any(axis=1), 1.0, 0.0)


def precision(gains_BK: np.ndarray, ideal_BK: np.ndarray, k: int) -> np.ndarray:
    """The share of relevant documents among the first k; also divided by k where the ranking is shorter.

    Example:
        >>> precision(np.array([[0, 1, 0, 1]]), np.ones((1, 2)), 4)
        array([0.5])
    """
    return np.asarray((gains_BK[:, :k] > 0).sum(axis=1) / k)


def recall(gains_BK: np.ndarray, ideal_BK: np.ndarray, k: int) -> np.ndarray:
    """The share of the query's relevant documents that are among the first k.

    Example:
        >>> recall(np.array([[0, 1, 0, 1]]), np.ones((1, 4)), 4)
        array([0.5])
    """
    return np.asarray((gains_BK[:, :k] > 0).sum(axis=1) / (ideal_BK > 0).sum(axis=1))


def mrr(gains_BK: np.ndarray, ideal_BK: np.ndarray, k: int) -> np.ndarray:
    """1 / rank of the first relevant document, or 0 if none is among the first k.

    Example:
        >>> mrr(np.array([[0, 1, 1], [0, 0, 0]]), np.ones((2, 2)), 3)
        array([0.5, 0. ])
    """
    found_BK = gains_BK[:, :k] > 0
    return np.where(found_BK.any(axis=1), 1 / (1 + found_BK.argmax(axis=1)), 0.0)


def average_precision(gains_BK: np.ndarray, ideal_BK: np.ndarray, k: int) -> np.ndarray:
    """The sum of the precisions at each relevant rank up to k, divided by the largest possible sum. Its mean is MAP.

    Example:
        >>> average_precision(np.array([[1, 0, 1]]), np.ones((1, 2)), 3).round(4)
        array([0.8333])
    """
    found_BK = gains_BK[:, :k] > 0
    precision_BK = found_BK.cumsum(axis=1) / np.arange(1, found_BK.shape[1] + 1)
    return np.asarray((precision_BK * found_BK).sum(axis=1) / np.minimum(k, (ideal_BK > 0).sum(axis=1)))


def ndcg(gains_BK: np.ndarray, ideal_BK: np.ndarray, k: int) -> np.ndarray:
    """The gains discounted by log2(rank + 1), divided by those of the ideal ranking.

    Example:
        >>> ndcg(np.array([[0, 1]]), np.array([[1, 0]]), 2).round(4)
        array([0.6309])
    """
    return np.asarray(_dcg(gains_BK[:, :k]) / _dcg(ideal_BK[:, :k]))


def _dcg(gains_BK: np.ndarray) -> np.ndarray:
    return np.asarray(gains_BK @ (1 / np.log2(np.arange(gains_BK.shape[1]) + 2)))


Metric = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
# name -> the function, and its default cut-offs (those of sentence-transformers)
METRICS: dict[str, tuple[Metric, tuple[int, ...]]] = {
    "accuracy": (accuracy, (1, 3, 5, 10)),
    "precision": (precision, (1, 3, 5, 10)),
    "recall": (recall, (1, 3, 5, 10)),
    "mrr": (mrr, (10,)),
    "ndcg": (ndcg, (10,)),
    "map": (average_precision, (100,)),
}
