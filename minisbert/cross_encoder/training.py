"""Training a cross-encoder: the step of training/siamese.py, where each sequence holds two texts.

    logits = model([CLS] A [SEP] B [SEP])       all pairs of the batch in one forward pass
    loss   = L(logits, targets)                 any row of losses.CROSS_ENCODER_LOSSES

State, dropout keys, GradCache and the trainer are those of training/. This file adds the batch of pairs, what its losses
require of the data, and `CROSS_ENCODER`, by which the trainer finds them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minisbert.cross_encoder.encoder import CrossEncoder
from minisbert.cross_encoder.losses import CROSS_ENCODER_LOSSES
from minisbert.cross_encoder.model import define_cross_encoder
from minisbert.cross_encoder.predict import check_prompt
from minisbert.cross_encoder.tokens import CrossEncoderTokenizer
from minisbert.data.examples import Examples
from minisbert.data.sampler import Batch
from minisbert.errors import InputError
from minisbert.training.collate import batch_arrays, column_prompts
from minisbert.training.config import TrainConfig
from minisbert.training.config_checks import check_scores
from minisbert.training.record import name_of
from minisbert.training.siamese import TrainBatch
from minisbert.training.task import TrainingTask


def cross_encoder_batch(
    batch: Batch,
    tokenizer: CrossEncoderTokenizer,
    *,
    max_length: int,
    padding_id: int,
    prompts: Sequence[str] = (),
    multiple: int = 1,
) -> tuple[TrainBatch, int]:
    """The arrays of one step: the first of S texts paired with each of the others, S - 1 pairs per example.

    Documents that a query lacks, whose label is NaN, are not computed.

    Args:
        max_length: tokens per pair; longer pairs are cut.
        prompts: the first is put before the first text of each pair.
        multiple: see `training.collate.train_batch`.

    Returns:
        the arrays, on the host, and how many pairs were cut.
    """
    first, *others = batch.texts
    exists_SB, labels = np.ones((len(others), len(first)), bool), batch.labels
    if labels is not None and labels.shape == (len(first), len(others)):
        exists_SB = ~np.isnan(labels.T)
    pairs = [(first[b], others[s][b]) for s, b in zip(*np.nonzero(exists_SB), strict=True)]
    before = prompts[0] if prompts else ""
    tokens = tokenizer.tokenize(pairs, max_length=max_length, prompt=before, exact=False)
    packing: Any = {"padding_id": padding_id, "first_lengths": tokens.first_lengths, "multiple": multiple}
    return batch_arrays(batch, tokens.ids, exists_SB=exists_SB, **packing), tokens.truncated


def check_cross_encoder_examples(examples: Sequence[Examples], config: TrainConfig, model: CrossEncoder) -> None:
    """Check that the model's head fits the data.

    Raises:
        InputError: naming the file and what the head needs, or prompts of other texts than the first.
        DataError: naming the row whose label is out of the loss's range.
    """
    for example in examples:
        data = example.dataset
        before, *others = column_prompts(config.prompts, data.texts)
        check_prompt(model, before)
        if any(others) and not isinstance(config.prompts, str):
            raise InputError(
                f"prompts is {config.prompts!r}. Expected one for {data.texts[0]!r}: a cross-encoder reads a prompt before the "
                "first text of a pair."
            )
        labels = len(data.classes) if CROSS_ENCODER.loss(config).needs == "class" else 1
        if model.num_labels != labels:
            has = f"{len(data.classes)} classes ({', '.join(data.classes[:5])})" if data.classes else "scores"
            raise InputError(
                f"{data.source}: the data has {has}, the model num_labels {model.num_labels}. Expected {labels} for "
                f"{name_of(config.loss)}: make it with CrossEncoder.from_encoder(encoder, num_labels), or take another loss."
            )
        if config.loss == "binary_cross_entropy":
            check_scores(example, "binary_cross_entropy", "mse")


CROSS_ENCODER = TrainingTask(
    losses=CROSS_ENCODER_LOSSES,
    define=define_cross_encoder,
    batch=cross_encoder_batch,
    check=check_cross_encoder_examples,
    sequence="pair",
    model_name="cross-encoder",
    hub_tag="cross-encoder",
)
