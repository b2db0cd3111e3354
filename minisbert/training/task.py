"""Training a cross-encoder: the siamese step with the joint forward pass, where a row holds two texts.

    logits = model([CLS] A [SEP] B [SEP])                       all pairs of the batch in one forward pass
    loss       = L(logits, targets)                             any row of joint_losses.JOINT_LOSSES

Steps, state, dropout keys and GradCache are siamese.py's; the rows are feed.pair_batch's. At the bottom stand the two
ways to train that the loop knows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from minisbert.cross_encoder.encoder import CrossEncoder
from minisbert.cross_encoder.losses import JOINT_LOSSES
from minisbert.cross_encoder.model import define_pair
from minisbert.data.examples import Examples
from minisbert.data.sampler import Batch
from minisbert.errors import DataError, InputError
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.sentence_model import define
from minisbert.training.collate import pair_batch, train_batch
from minisbert.training.config import TrainConfig, check_examples
from minisbert.training.losses import LOSSES, Loss
from minisbert.training.siamese import TrainBatch


def check_pairs(examples: Sequence[Examples], config: TrainConfig, encoder: CrossEncoder) -> None:
    """Data that a loss cannot use, or a head that does not fit it.

    Raises:
        InputError: naming the file and what the loss needs; another number of labels than classes; prompts.
        DataError: a label out of the loss's range, with its row.
    """
    check_examples(examples, config, JOINT_LOSSES)
    if any(config.prompts):
        raise InputError(
            f"prompts are {config.prompts!r}. Expected none: a cross-encoder puts nothing before its pairs."
        )
    for example in examples:
        data = example.dataset
        labels = len(data.classes) if JOINT_LOSSES[config.loss].needs == "class" else 1
        if encoder.num_labels != labels:
            has = f"has {labels} classes ({', '.join(data.classes[:5])})" if data.classes else "has scores"
            raise InputError(
                f"{data.source}: {has}, but the model has num_labels {encoder.num_labels}; {config.loss} needs {labels}. "
                "Make the model with CrossEncoder.from_encoder(encoder, num_labels), or take another loss."
            )
        if data.classes != examples[0].dataset.classes:
            raise InputError(
                f"{data.source}: classes {data.classes}, but {examples[0].dataset.source} has "
                f"{examples[0].dataset.classes}. Expected the same classes in all data sets."
            )
        if config.loss == "binary_cross_entropy":
            _refuse_outside(example, 0.0, 1.0)


def _refuse_outside(example: Examples, low: float, high: float) -> None:
    for start in range(0, len(example), 4096):
        _, labels_B = example.take(range(start, min(start + 4096, len(example))))
        assert labels_B is not None
        outside = np.flatnonzero((labels_B < low) | (labels_B > high))
        if outside.size:
            row = start + int(outside[0])
            raise DataError(
                f"{example.rows.place(row)}: the score is {labels_B[outside[0]]:g}. Expected {low:g} to {high:g} for "
                "binary_cross_entropy; say score_range, for example (0, 5) for STS, or take mse."
            )


class TrainingTask(NamedTuple):
    """All that the loop must know of a kind of model to train it."""

    losses: Mapping[str, Loss]
    define: Callable[..., Any]
    batch: Callable[[Batch, Any, TrainConfig, int], tuple[TrainBatch, int]]
    check: Callable[[Sequence[Examples], TrainConfig, Any], None]
    rows: str  # what is cut when it is too long
    kind: tuple[str, str]  # for the model card: what the model is, and how the hub calls it


def _siamese_batch(
    batch: Batch, encoder: SentenceEncoder, config: TrainConfig, multiple: int
) -> tuple[TrainBatch, int]:
    return train_batch(batch, encoder.tokenizer, prompts=config.prompts, **_limits(encoder, multiple))


def _joint_batch(batch: Batch, encoder: CrossEncoder, config: TrainConfig, multiple: int) -> tuple[TrainBatch, int]:
    return pair_batch(batch, encoder.tokenizer, **_limits(encoder, multiple))


def _limits(encoder: Any, multiple: int) -> dict[str, int]:
    return {
        "max_length": encoder.max_seq_length,
        "padding_id": encoder.padding_id,
        "multiple": multiple,
    }


SIAMESE = TrainingTask(
    losses=LOSSES,
    define=define,
    batch=_siamese_batch,
    check=lambda examples, config, encoder: check_examples(examples, config),
    rows="texts",
    kind=("sentence embedding model", "sentence-similarity"),
)
CROSS_ENCODER = TrainingTask(
    losses=JOINT_LOSSES,
    define=define_pair,
    batch=_joint_batch,
    check=check_pairs,
    rows="pairs",
    kind=("cross-encoder", "cross-encoder"),
)


def task_for(encoder: Any) -> TrainingTask:
    """How this model is trained.

    Raises:
        InputError: it is neither a SentenceEncoder nor a CrossEncoder, or has a Router.
    """
    if getattr(encoder, "towers", None):
        raise InputError(
            f"encoder has a Router with the routes {', '.join(encoder.towers)}. Expected one model, whose columns share its "
            "weights: train a route by itself (encoder.towers['...']), put it back there, and save the whole."
        )
    for kind, way in ((SentenceEncoder, SIAMESE), (CrossEncoder, CROSS_ENCODER)):
        if isinstance(encoder, kind):
            return way
    raise InputError(f"encoder is a {type(encoder).__name__}. Expected a SentenceEncoder or a CrossEncoder.")
