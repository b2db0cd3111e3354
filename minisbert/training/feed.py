"""From the texts of a batch to the arrays of a step: prompts, tokens, one padded length, targets.

Shapes are few, so that a run compiles few programs: the length of a batch is the smallest of text/batching.py's table
that holds its longest text.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minisbert.text.batching import ShapeTable
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
    S, B = len(columns), len(batch.rows_B)
    lengths_SB = np.array([[len(ids) for ids in column] for column in columns], np.int32)
    L = SHAPES.length(int(lengths_SB.max()), capacity)
    token_ids_SBL = np.full((S, B, L), padding_id, np.int32)
    for s, column in enumerate(columns):
        for b, ids in enumerate(column):
            token_ids_SBL[s, b, : len(ids)] = ids
    labels_B: Any = batch.labels
    hashes_SB: Any = np.stack([text_hashes(texts) for texts in batch.texts])
    example_ids_B: Any = (batch.rows_B + batch.dataset * _DATASET_STRIDE).astype(np.uint32)
    tokens: Any = token_ids_SBL
    lengths: Any = lengths_SB
    return TrainBatch(tokens, lengths, example_ids_B, Targets(labels_B, hashes_SB)), cut
