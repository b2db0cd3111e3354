"""From the texts of a batch to the arrays of a step: prompts, tokens, one padded length, targets.

Shapes are few, so that a run compiles few programs: the length of a batch is the smallest of text/batching.py's table
that holds its longest text.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minisbert.text.batching import ShapeTable
from minisbert.text.pairs import PairTokenizer
from minisbert.text.tokenizer import Tokenizer
from minisbert.training.data import text_hashes
from minisbert.training.order import Batch
from minisbert.training.siamese import TrainBatch
from minisbert.training.targets import Targets

# A training batch has a fixed number of rows; only the lengths of the table are used.
SHAPES = ShapeTable(lengths=(16, 32, 48, 64, 96, 128, 192, 256, 384, 512))
# An example's own number for dropout is its row in its data set, moved by this much per data set.
_DATASET_STRIDE = 1 << 27


def train_batch(
    batch: Batch,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    capacity: int,
    padding_id: int,
    prompts: Sequence[str] = (),
) -> tuple[TrainBatch, int]:
    """The arrays of one step, on the host, and how many of its texts were cut.

    Args:
        batch: texts by column, from `Batches.batch_at`.
        max_length: tokens kept of a text; what is longer is cut, as in encoding.
        capacity: the longest row the encoder takes.
        padding_id: what fills the rows.
        prompts: a text to put before each column, "" for none.
    """
    columns, cut = [], 0
    for s, texts in enumerate(batch.texts):
        prompt = prompts[s] if s < len(prompts) else ""
        tokenized = tokenizer.tokenize(texts, max_length=max_length, prompt=prompt)
        columns.append(tokenized.ids)
        cut += tokenized.truncated
    hashes_SB: Any = np.stack([text_hashes(texts) for texts in batch.texts])
    tokens, lengths = _padded(columns, capacity, padding_id)
    labels_B: Any = batch.labels
    return TrainBatch(tokens, lengths, _example_ids(batch), Targets(labels_B, hashes_SB)), cut


def pair_batch(
    batch: Batch, tokenizer: PairTokenizer, *, max_length: int, capacity: int, padding_id: int
) -> tuple[TrainBatch, int]:
    """The same for a cross-encoder: of S texts the first with each of the others, S - 1 pairs an example.

    Returns:
        the arrays, and how many pairs were cut.
    """
    first, *others = batch.texts
    tokenized = [tokenizer.tokenize(list(zip(first, texts, strict=True)), max_length=max_length) for texts in others]
    first_lengths: Any = np.array([pairs.first_lengths for pairs in tokenized], np.int32)
    tokens, lengths = _padded([pairs.ids for pairs in tokenized], capacity, padding_id)
    labels_B: Any = batch.labels
    arrays = TrainBatch(tokens, lengths, _example_ids(batch), Targets(labels_B), first_lengths)
    return arrays, sum(pairs.truncated for pairs in tokenized)


def _padded(columns: Sequence[Sequence[Sequence[int]]], capacity: int, padding_id: int) -> tuple[Any, Any]:
    """token_ids_SBL and lengths_SB of S columns of B rows."""
    lengths_SB = np.array([[len(ids) for ids in column] for column in columns], np.int32)
    L = SHAPES.length(int(lengths_SB.max()), capacity)
    token_ids_SBL = np.full((*lengths_SB.shape, L), padding_id, np.int32)
    for s, column in enumerate(columns):
        for b, ids in enumerate(column):
            token_ids_SBL[s, b, : len(ids)] = ids
    return token_ids_SBL, lengths_SB


def _example_ids(batch: Batch) -> Any:
    return (batch.rows_B + batch.dataset * _DATASET_STRIDE).astype(np.uint32)
