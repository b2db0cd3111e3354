"""From the texts of a batch to the arrays of a step: prompts, tokens, packed rows, targets.

Shapes are few, so that a run compiles few programs: see text/packing.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minisbert.data.examples import text_hashes
from minisbert.data.sampler import Batch
from minisbert.text.packing import PackedTexts, pack
from minisbert.text.tokenizer import Tokenizer
from minisbert.training.siamese import TrainBatch
from minisbert.training.targets import Targets

# An example's own number for dropout is its row in its data set, moved by this much per data set.
_DATASET_STRIDE = 1 << 27


def train_batch(
    batch: Batch,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    padding_id: int,
    prompts: Sequence[str] = (),
    multiple: int = 1,
) -> tuple[TrainBatch, int]:
    """The arrays of one step, on the host, and how many of its texts were cut.

    Args:
        batch: texts by column, from `Batches.batch_at`.
        max_length: tokens kept of a text; what is longer is cut, as in encoding.
        padding_id: what fills the rows.
        prompts: a text to put before each column, "" for none.
        multiple: the number of packed rows is a multiple of this (devices).
    """
    texts, prompt_lengths, cut = [], [], 0
    for s, column in enumerate(batch.texts):
        prompt = prompts[s] if s < len(prompts) else ""
        tokenized = tokenizer.tokenize(column, max_length=max_length, prompt=prompt)
        texts += tokenized.ids
        cut += tokenized.truncated
        prompt_lengths += [tokenizer.prompt_length(prompt, max_length=max_length) if prompt else 0] * len(column)
    rows, where = pack(texts, padding_id=padding_id, prompt_lengths=prompt_lengths, multiple=multiple)
    hashes_SB = np.stack([text_hashes(column) for column in batch.texts])
    return batch_arrays(batch, rows, where, hashes_SB), cut


def batch_arrays(batch: Batch, rows: PackedTexts, where: np.ndarray, hashes_SB: np.ndarray | None = None) -> TrainBatch:
    """Packed rows with what the step needs to know of each text: its example, its column, its place, its targets."""
    index_SB = where.reshape(-1, len(batch.rows_B))
    S, B = index_SB.shape
    example_ids_B = (batch.rows_B + batch.dataset * _DATASET_STRIDE).astype(np.uint32)
    examples_PT = np.zeros(rows.lengths_PT.shape, np.uint32)
    columns_PT = np.zeros(rows.lengths_PT.shape, np.int32)
    examples_PT.flat[where] = np.tile(example_ids_B, S)
    columns_PT.flat[where] = np.repeat(np.arange(S), B)
    targets = Targets(_device(batch.labels), _device(hashes_SB))
    return TrainBatch(rows, _device(examples_PT), _device(columns_PT), _device(index_SB), targets)


def _device(array: Any) -> Any:
    # The arrays are NumPy's until the step takes them; the types speak of what the step sees.
    return array
