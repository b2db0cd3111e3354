"""Triplet accuracy: how often the anchor is more similar to the positive than to the negative.

    evaluate_triplets(encoder, read_triplets("triplets_dev.tsv.gz"))       # {"cosine": 0.87, "dot": 0.87, ...}

SBERT section 4.4 (Wikipedia sections), counted as in sentence-transformers' TripletEvaluator: a tie counts as wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.data.columnar import MEMORY
from minisbert.data.columns import read_columns
from minisbert.data.conventions import ANCHOR, POSITIVE
from minisbert.errors import DataError, InputError, short_repr
from minisbert.evaluation.embedding import QueryEncoder, as_floats, embed_columns, refuse_quantized
from minisbert.similarity import PAIRWISE_SIMILARITIES

COLUMNS = (ANCHOR, POSITIVE, ("negative", "negative_1", "neg"))


@dataclass(frozen=True)
class Triplets:
    """Anchors, each with a similar text and a less similar one; at least one.

    Raises:
        DataError: no triplets, or columns of different lengths.
    """

    name: str
    anchors: tuple[str, ...] = field(repr=False)
    positives: tuple[str, ...] = field(repr=False)
    negatives: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        lengths = [len(self.anchors), len(self.positives), len(self.negatives)]
        if min(lengths) < 1 or len(set(lengths)) > 1:
            raise DataError(
                f"{self.name}: {lengths} anchors, positives and negatives. Expected the same number of each, at least 1."
            )


def read_triplets(file: Any, columns: Sequence[str | Sequence[str]] = COLUMNS) -> Triplets:
    """Read triplets from a row file (see data/rows.py) or rows in memory.

    Raises:
        DataError: missing or damaged; a column is missing; an empty text.
        InputError: an unsupported kind of file; not three columns.
    """
    if len(columns) != 3:
        raise InputError(f"columns is {short_repr(columns)}. Expected the names of three.")
    return Triplets(str(file) if isinstance(file, str | Path) else MEMORY, *read_columns(file, columns))


def triplet_accuracy(
    anchor_BD: np.ndarray,
    positive_BD: np.ndarray,
    negative_BD: np.ndarray,
    similarity: str = "cosine",
    margin: float = 0,
) -> float:
    """The share of rows where the positive is more similar than the negative, by more than the margin.

    Raises:
        InputError: an unknown similarity, or scores that are not finite.

    Example:
        >>> a = np.array([[1.0, 0.0], [1.0, 0.0]])
        >>> triplet_accuracy(a, np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[0.0, 1.0], [1.0, 2.0]]))
        0.5
    """
    number = isinstance(margin, int | float | np.number) and np.isfinite(margin)
    if similarity not in PAIRWISE_SIMILARITIES or not number:
        raise InputError(
            f"similarity is {short_repr(similarity)}, margin {short_repr(margin)}. Expected one of "
            f"{', '.join(PAIRWISE_SIMILARITIES)}, and a finite number."
        )
    alike = PAIRWISE_SIMILARITIES[similarity]
    anchor_BD, positive_BD, negative_BD = map(as_floats, (anchor_BD, positive_BD, negative_BD))
    positive_B, negative_B = alike(anchor_BD, positive_BD), alike(anchor_BD, negative_BD)
    if not (np.isfinite(positive_B).all() and np.isfinite(negative_B).all()):
        raise InputError("a similarity is not finite. Expected finite embeddings of ordinary size; use another model.")
    return float((positive_B > negative_B + margin).mean())


def evaluate_triplets(encoder: QueryEncoder, triplets: Any, *, margin: float = 0, **options: Any) -> dict[str, float]:
    """Accuracy for each similarity. Anchors are embedded as queries, the other texts as documents.

    Args:
        triplets: `Triplets`, or a file or rows for `read_triplets`.
        options: for `encode_query` and `encode_document`, except `precision`.
    """
    triplets = triplets if isinstance(triplets, Triplets) else read_triplets(triplets)
    refuse_quantized(options)
    (anchor_BD,) = embed_columns(encoder.encode_query, triplets.anchors, **options)
    documents = triplets.positives, triplets.negatives
    positive_BD, negative_BD = embed_columns(encoder.encode_document, *documents, **options)
    return {name: triplet_accuracy(anchor_BD, positive_BD, negative_BD, name, margin) for name in PAIRWISE_SIMILARITIES}
