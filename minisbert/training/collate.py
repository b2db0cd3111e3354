"""Collate the texts of a batch into the arrays of a step: prompts, tokens, packed rows (text/packing.py), targets."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from minisbert.data.values import listed, text_hashes
from minisbert.errors import InputError
from minisbert.text.packing import TOKENS_PER_SLOT, PackedTexts, pack
from minisbert.training.siamese import TrainBatch
from minisbert.training.targets import Targets

if TYPE_CHECKING:
    from minisbert.data.examples import Dataset
    from minisbert.data.sampler import Batch
    from minisbert.text.tokenizer import Tokenizer
    from minisbert.training.losses import Loss

logger = logging.getLogger("minisbert")
# An example's number for dropout is its row in its data set, plus this for each data set before it.
_DATASET_STRIDE = 1 << 27


def train_batch(
    batch: "Batch",
    tokenizer: "Tokenizer",
    *,
    max_length: int,
    padding_id: int,
    prompts: Sequence[str] = (),
    multiple: int = 1,
) -> tuple[TrainBatch, int]:
    """The arrays of one step, on the host, and how many of its texts were truncated.

    Args:
        batch: texts by column, from `Batches.batch_at`.
        max_length: the most tokens of a text; longer ones are truncated, as in encoding.
        prompts: the prompt of each column, "" for none; those of the last columns may be missing.
        multiple: the number of packed rows is a multiple of this (devices).
    """
    token_ids, prompt_lengths, cut = [], [], 0
    for s, column in enumerate(batch.texts):
        prompt = prompts[s] if s < len(prompts) else ""
        tokenized = tokenizer.tokenize(column, max_length=max_length, prompt=prompt, exact=False)
        token_ids += tokenized.ids
        cut += tokenized.truncated
        prompt_lengths += [tokenizer.prompt_length(prompt, max_length=max_length) if prompt else 0] * len(column)
    hashes_SB = np.stack(list(map(text_hashes, batch.texts)))
    packing: Any = {"padding_id": padding_id, "prompt_lengths": prompt_lengths, "multiple": multiple}
    return batch_arrays(batch, token_ids, hashes_SB, **packing), cut


def column_prompts(prompts: str | Sequence[str] | Mapping[str, str], columns: Sequence[str]) -> list[str]:
    """The prompt of each column, as `TrainConfig.prompts` gives them; "" for none.

    Example:
        >>> [column_prompts(prompts, ["query", "text"]) for prompts in ("a: ", ("a: ",), {"text": "b: "})]
        [['a: ', 'a: '], ['a: ', ''], ['', 'b: ']]
    """
    if isinstance(prompts, Mapping):
        return [prompts.get(name, "") for name in columns]
    given = [prompts] * len(columns) if isinstance(prompts, str) else [*prompts]
    return given + [""] * (len(columns) - len(given))


def check_column_prompts(prompts: str | Sequence[str] | Mapping[str, str], datasets: "Sequence[Dataset]") -> None:
    """Check that the prompts fit the columns; warn of columns without one next to two or more that have one.

    Raises:
        InputError: a column that no data set has, or more prompts than columns.
    """
    if isinstance(prompts, Mapping):
        columns = {name for data in datasets for name in data.texts}
        if strange := sorted(prompts.keys() - columns):
            raise InputError(f"prompts has {strange}. Expected text columns: {', '.join(sorted(columns))}.")
    elif not isinstance(prompts, str):
        for data in datasets:
            given, texts = len(prompts), len(data.texts)
            if given > texts:
                raise InputError(
                    f"{data.source}: {given} prompts for {texts} texts per row. Expected at most one per text."
                )
            if 1 < given < texts:
                logger.warning(
                    f"{data.source}: {given} prompts, and none for {listed(data.texts[given:])}. Give one per text column, '' "
                    "for none."
                )


def batch_arrays(
    batch: "Batch",
    token_ids: Sequence[Sequence[int]],
    hashes_SB: np.ndarray | None = None,
    *,
    exists_SB: np.ndarray | None = None,
    **packing: Any,
) -> TrainBatch:
    """Texts packed into rows, with each text's example, column and place, and the targets.

    Args:
        batch: the rows and labels of the examples.
        token_ids: of the texts to embed, column after column.
        exists_SB: which texts the examples have, if not all; another has the place of the first text.
        packing: the options of `pack`.
    """
    rows, where = pack(token_ids, **packing)
    if exists_SB is None:
        exists_SB = np.ones((len(token_ids) // len(batch.rows_B), len(batch.rows_B)), bool)
    index_SB = np.zeros(exists_SB.shape, np.int32)
    index_SB[exists_SB] = where
    s, b = np.nonzero(exists_SB)
    example_ids_B = (batch.rows_B + batch.dataset * _DATASET_STRIDE).astype(np.uint32)
    examples_PT = np.zeros(rows.lengths_PT.shape, np.uint32)
    columns_PT = np.zeros(rows.lengths_PT.shape, np.int32)
    examples_PT.flat[where] = example_ids_B[b]
    columns_PT.flat[where] = s
    return TrainBatch(rows, examples_PT, columns_PT, index_SB, Targets(batch.labels, hashes_SB))


def abstract_batch(P: int, L: int, S: int, B: int, loss: "Loss", negatives: int, width: int) -> TrainBatch:
    """The shapes of a batch of B examples of S texts in P rows of L tokens, with what the loss needs."""
    integers, unsigned, floats = (
        partial(jax.ShapeDtypeStruct, dtype=dtype) for dtype in ("int32", "uint32", "float32")
    )
    labels: Any = {"class": integers((B,)), "score": floats((B,)), "margin": floats((B, negatives))}
    labels["relevance"] = floats((B, S))
    per_text: Any = integers((P, L // TOKENS_PER_SLOT))
    return TrainBatch(
        rows=PackedTexts(*[integers((P, L))] * 3, *[per_text] * 3),
        examples_PT=unsigned(per_text.shape),
        columns_PT=per_text,
        index_SB=integers((S, B)),
        targets=Targets(
            labels.get(loss.needs),
            unsigned((S, B)),
            floats((S, B, width)) if loss.needs == "teacher" else None,
            floats((S, B, width)) if loss.guide else None,
            integers((B, L)) if loss.model else None,
        ),
    )
