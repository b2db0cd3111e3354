"""Evaluate a cross-encoder on labelled pairs of texts: Spearman correlation for scores, accuracy for classes.

evaluation/sts.py does the same for sentence embeddings.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minisbert.cross_encoder.encoder import CrossEncoder
from minisbert.data.conventions import ANCHOR, FIRST, POSITIVE, SECOND
from minisbert.data.examples import open_examples
from minisbert.data.rows import sources
from minisbert.errors import InputError
from minisbert.evaluation.bootstrap import pooled
from minisbert.evaluation.sts import read_sts

logger = logging.getLogger("minisbert")


def spearman_score(files: Any, **options: Any) -> Callable[[CrossEncoder], float]:
    """A function that returns the Spearman correlation of a model's scores with the gold scores, over all pairs.

    Args:
        files: one or several files or rows in memory, as `evaluation.sts.read_sts` reads them, or of queries and documents.
        options: for `predict` (prompt_name, prompt, batch_size, ...).

    Raises:
        DataError: a file does not hold scored pairs; raised immediately, not in the middle of a run.
    """
    sets = [read_sts(file, (FIRST + ANCHOR, SECOND + POSITIVE)) for file in sources(files).values()]
    pairs = [pair for part in sets for pair in zip(part.first, part.second, strict=True)]
    gold_P = np.array([score for part in sets for score in part.gold])

    def spearman(model: CrossEncoder) -> float:
        if model.num_labels != 1:
            raise InputError(f"the model has {model.num_labels} labels. Expected 1; for classes use accuracy_score.")
        # Logits, because an activation preserves their order but may round two of them to a tie.
        scores_P = model.predict(pairs, **{"activation_fn": "identity", "on_truncate": "ignore", **options})
        if (scores_P == scores_P[0]).all():
            logger.warning(f"{sets[0].name}: the model's score is {scores_P[0]:g} for all {len(pairs)} pairs.")
            return math.nan  # undefined; a run continues
        return float(pooled([(gold_P, np.asarray(scores_P, np.float64)[None])], 1, None)[0, 0, 0])

    return spearman


def accuracy_score(files: Any, classes: Sequence[str] | None = None, **options: Any) -> Callable[[CrossEncoder], float]:
    """A function that returns the share of pairs whose largest logit is the right class.

    Args:
        files: one or several files or rows in memory, of kind nli (see data/examples.py).
        classes: their names in the order of the model's labels; by default in the order used for training.
        options: for `predict`, as for `spearman_score`.

    Raises:
        DataError, InputError: a file does not hold classes; raised immediately, not in the middle of a run.
    """
    sets = [open_examples(file, kind="nli", classes=classes) for file in sources(files).values()]
    if any(part.dataset.classes != sets[0].dataset.classes for part in sets):
        raise InputError(
            f"the classes of {', '.join(part.dataset.source for part in sets)} differ. Expected the same; pass classes."
        )
    taken = [part.take(range(len(part))) for part in sets]
    pairs = [pair for (first, second), _ in taken for pair in zip(first, second, strict=True)]
    class_P = np.concatenate([np.asarray(labels_B) for _, labels_B in taken])

    def accuracy(model: CrossEncoder) -> float:
        if model.num_labels != len(sets[0].dataset.classes):
            raise InputError(
                f"the model has {model.num_labels} labels, the data {len(sets[0].dataset.classes)} classes. Expected "
                "equal numbers; for scores use spearman_score."
            )
        logits_PC = model.predict(pairs, **{"activation_fn": "identity", "on_truncate": "ignore", **options})
        return float((logits_PC.argmax(axis=1) == class_P).mean())

    return accuracy
