"""Triplets: is the anchor more like the positive than like the negative?

    evaluate_triplets(encoder, read_triplets("triplets_dev.tsv.gz"))       # {"cosine": 0.87, "dot": 0.87, ...}

The share of triplets where it is (SBERT section 4.4, Wikipedia sections), as sentence-transformers' TripletEvaluator counts
it: a tie is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.data.rows import Rows, text
from minisbert.errors import DataError, InputError, short_repr
from minisbert.evaluation.retrieval import Encoder
from minisbert.similarity import PAIRWISE_SIMILARITIES

COLUMNS = ("anchor", "positive", "negative")


@dataclass(frozen=True)
class Triplets:
    """Anchors, each with a text like it and one less like it.

    Raises:
        DataError: none, or columns of different lengths.
    """

    name: str
    anchors: tuple[str, ...] = field(repr=False)
    positives: tuple[str, ...] = field(repr=False)
    negatives: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        lengths = [len(self.anchors), len(self.positives), len(self.negatives)]
        if min(lengths) < 1 or len(set(lengths)) > 1:
            raise DataError(
                f"{self.name}: {lengths} anchors, positives and negatives. Expected equally many, at least 1."
            )


def read_triplets(file: str | Path, columns: Sequence[str] = COLUMNS) -> Triplets:
    """Triplets from .tsv, .jsonl (both also .gz) or .parquet.

    Raises:
        DataError: missing or damaged; a column is missing; an empty text.
        InputError: a kind of file that is not read here; not three columns.
    """
    if len(columns) != 3:
        raise InputError(f"columns is {short_repr(columns)}. Expected the names of three.")
    rows = Rows(str(file), columns)
    texts = [
        tuple(text(value, name, rows.place(i)) for value, name in zip(row, columns, strict=True))
        for i, row in enumerate(rows)
    ]
    return Triplets(str(file), *zip(*texts, strict=True))


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
    if similarity not in PAIRWISE_SIMILARITIES or not np.isfinite(margin):
        raise InputError(
            f"similarity is {short_repr(similarity)}, margin {margin}. Expected one of {', '.join(PAIRWISE_SIMILARITIES)}, and a "
            "finite number."
        )
    alike = PAIRWISE_SIMILARITIES[similarity]
    positive_B, negative_B = alike(anchor_BD, positive_BD), alike(anchor_BD, negative_BD)
    if not (np.isfinite(positive_B).all() and np.isfinite(negative_B).all()):
        raise InputError("a similarity is not finite. Expected finite embeddings of ordinary size; use another model.")
    return float((positive_B > negative_B + margin).mean())


def evaluate_triplets(encoder: Encoder, triplets: Triplets, *, margin: float = 0, **options: Any) -> dict[str, float]:
    """Accuracy by each similarity; anchors are embedded as queries, the others as documents, as the peer does.

    Args:
        options: for `encode_query` and `encode_document`.
    """
    anchors = np.asarray(encoder.encode_query(list(triplets.anchors), **options))
    documents = list(dict.fromkeys((*triplets.positives, *triplets.negatives)))
    place = {one: row for row, one in enumerate(documents)}
    embeddings = np.asarray(encoder.encode_document(documents, **options))
    positives, negatives = (
        embeddings[[place[one] for one in side]] for side in (triplets.positives, triplets.negatives)
    )
    return {name: triplet_accuracy(anchors, positives, negatives, name, margin) for name in PAIRWISE_SIMILARITIES}
