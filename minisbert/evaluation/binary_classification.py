"""Binary classification of pairs of texts (duplicates, paraphrases) by a threshold on their similarity.

    scores = evaluate_binary(encoder, read_labelled("pairs.tsv"))["cosine"]
    scores.accuracy, scores.accuracy_threshold, scores.f1, scores.average_precision, scores.matthews

The metrics are those of sentence-transformers' BinaryClassificationEvaluator: the best accuracy and the best F1 over all
thresholds between neighbouring scores, average precision (the area under the steps of precision over recall; Manning et
al. 2008, section 8.4), and the correlation of Matthews 1975 at the threshold of the best F1. One difference: distances are
negated here, so euclidean and manhattan thresholds have the opposite sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from minisbert.data.conventions import CLASSES
from minisbert.errors import DataError, InputError
from minisbert.evaluation.embedding import Encoder, embed_columns
from minisbert.evaluation.sts import TEXTS, read_pairs
from minisbert.similarity import PAIRWISE_SIMILARITIES


@dataclass(frozen=True)
class LabelledPairs:
    """Pairs of texts with labels: 1 if they belong together, else 0.

    Raises:
        DataError: columns of different lengths, another label, or all labels the same.
    """

    name: str
    first: tuple[str, ...] = field(repr=False)
    second: tuple[str, ...] = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not len(self.first) == len(self.second) == len(self.labels):
            lengths = f"{len(self.first)}, {len(self.second)} and {len(self.labels)}"
            raise DataError(f"{self.name}: {lengths} texts and labels. Expected the same number of each.")
        for row, label in enumerate(self.labels):
            if label not in (0, 1):
                raise DataError(f"{self.name}, pair {row}: the label is {label!r:.80}. Expected 0 or 1.")
        if set(self.labels) != {0, 1}:
            raise DataError(f"{self.name}: labels are {sorted(set(self.labels))}. Expected both 0 and 1 among them.")


class BinaryScores(NamedTuple):
    """The metrics of one similarity."""

    accuracy: float
    accuracy_threshold: float
    f1: float
    precision: float
    recall: float
    f1_threshold: float
    average_precision: float
    matthews: float


def read_labelled(
    file: Any, texts: Sequence[str | Sequence[str]] = TEXTS, label: str | Sequence[str] = CLASSES
) -> LabelledPairs:
    """Pairs with labels 0 and 1, or false and true, from a row file (see data/rows.py).

    Raises:
        DataError: missing or damaged; a column is missing; see `LabelledPairs`.
        InputError: an unsupported kind of file; not two text columns.
    """
    return LabelledPairs(*read_pairs(file, texts, label))


def evaluate_binary(encoder: Encoder, pairs: Any, **options: Any) -> dict[str, BinaryScores]:
    """The metrics of each similarity; each distinct text is embedded once.

    Args:
        pairs: `LabelledPairs`, or a file or rows for `read_labelled`.
        options: for `encoder.encode`.

    Raises:
        InputError: a similarity is not finite.
        DataError: see `read_labelled`.
    """
    pairs = pairs if isinstance(pairs, LabelledPairs) else read_labelled(pairs)
    a_BD, b_BD = embed_columns(encoder.encode, pairs.first, pairs.second, **options)
    labels_B = np.array(pairs.labels)
    return {name: binary_scores(alike(a_BD, b_BD), labels_B) for name, alike in PAIRWISE_SIMILARITIES.items()}


def binary_scores(scores_B: np.ndarray, labels_B: np.ndarray) -> BinaryScores:
    """The metrics of finite scores against labels 0 and 1. A pair whose score reaches the threshold is predicted to be 1.

    Raises:
        InputError: a score is not finite, or a label is not 0 or 1.

    Example:
        >>> scores = binary_scores(np.array([0.9, 0.8, 0.3, 0.1]), np.array([1, 0, 1, 0]))
        >>> scores.accuracy, round(scores.accuracy_threshold, 2), scores.f1, round(scores.f1_threshold, 2)
        (0.75, 0.85, 0.8, 0.2)
        >>> round(scores.average_precision, 4), round(scores.matthews, 4)
        (0.8333, 0.5774)
    """
    scores_B, labels_B = np.asarray(scores_B), np.asarray(labels_B)
    if scores_B.dtype.kind in "bui":  # the negative of an unsigned number is a large one
        scores_B = scores_B.astype(np.float64)
    if scores_B.shape != labels_B.shape or scores_B.ndim != 1 or set(labels_B.tolist()) != {0, 1}:
        raise InputError("expected as many scores as labels, and labels of 0 and 1, each at least once.")
    if not np.isfinite(scores_B).all():
        raise InputError("a score is not finite. Expected finite embeddings of ordinary size; use another model.")
    order = np.argsort(-scores_B, kind="stable")
    scores_B, labels_B = scores_B[order], labels_B[order] == 1
    # No threshold separates equal scores, so counts are taken at the last of each run of equal scores.
    last = np.append(scores_B[1:] != scores_B[:-1], True).nonzero()[0]
    positives, negatives = int(labels_B.sum()), int((~labels_B).sum())
    hits, taken = labels_B.cumsum()[last], last + 1
    misses = taken - hits

    right = np.append(negatives, hits + negatives - misses)  # at 0: nothing is predicted to be 1
    best = int(right.argmax())
    above = np.nextafter(scores_B[0], np.inf, dtype=np.result_type(scores_B.dtype, np.float16))
    accuracy_threshold = above if best == 0 else _between(scores_B, last[best - 1])

    precision, recall = hits / taken, hits / positives
    # The formula of sentence-transformers, not 2 hits / (taken + positives): rounding decides ties.
    f1 = 2 * precision * recall / np.where(hits > 0, precision + recall, 1)
    cut = int(f1.argmax())
    average_precision = (np.diff(recall, prepend=0) * precision).sum()
    tp, fp, fn, tn = hits[cut], misses[cut], positives - hits[cut], negatives - misses[cut]
    sides = float(tp + fp) * float(tp + fn) * float(tn + fp) * float(tn + fn)
    return BinaryScores(
        accuracy=float(right[best]) / len(labels_B),
        accuracy_threshold=float(accuracy_threshold),
        f1=float(f1[cut]),
        precision=float(precision[cut]),
        recall=float(recall[cut]),
        f1_threshold=float(_between(scores_B, last[cut])),
        average_precision=float(average_precision),
        matthews=float((tp * tn - fp * fn) / np.sqrt(sides)) if sides else 0.0,
    )


def _between(scores_B: np.ndarray, i: int) -> Any:
    """Half-way to the next lower score; the score itself where rounding would give the lower one."""
    if i + 1 == len(scores_B):
        return scores_B[i]
    middle = (scores_B[i] + scores_B[i + 1]) / 2
    return scores_B[i] if middle == scores_B[i + 1] else middle
