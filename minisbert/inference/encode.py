"""Texts -> sentence embeddings, batch by batch: the pipeline behind `SentenceEncoder.encode`.

    texts -> token ids -> batches of similar lengths -> compiled forward pass -> one `Result` per batch

Texts are tokenized a chunk at a time and a few batches are computed ahead (`stream.run_ahead`), so that memory does not
grow with the number of texts. Batches come out of order; `Result.rows` says which texts they hold.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np

from minisbert import arguments as checks
from minisbert.errors import MinisbertError
from minisbert.inference.batching import Batch, batches, rectangle
from minisbert.inference.engines import need_jax
from minisbert.inference.stream import run_ahead
from minisbert.text.packing import PackedBatch, PackedTexts, empty_batch, packed_batches, stream_shape
from minisbert.text.tokenizer import CHUNK

logger = logging.getLogger("minisbert")

Texts = list[str] | tuple[str, ...] | np.ndarray
Array = np.ndarray[Any, np.dtype[np.float32]]
PerToken = Literal["token_embeddings", "hidden_states"]
Vector = np.ndarray[tuple[int], np.dtype[Any]]
Matrix = np.ndarray[tuple[int, int], np.dtype[Any]]


class EncodeOptions(TypedDict, total=False):
    """The keywords of `SentenceEncoder.encode` that do not change the type of its result."""

    prompt_name: str | None
    prompt: str | None
    batch_size: int | None
    show_progress_bar: bool | None
    precision: str
    normalize_embeddings: bool
    truncate_dim: int | None
    on_truncate: str
    task: str | None
    out: np.ndarray | None


# Output name -> function of the model and the arrays of a batch. Outputs that no caller asks for are not computed.
OUTPUTS = {
    "sentence embeddings": lambda model, *batch: model(*batch).sentence_BD,
    "token embeddings": lambda model, *batch: model(*batch),
    "hidden states": lambda model, *batch: model(*batch, all_layers=True),
    "packed sentence embeddings": lambda model, *rows: model.packed(PackedTexts(*rows)),
}


# `output_value` of `encode` -> the output that it needs
_OUTPUT_OF = {
    "sentence_embedding": "sentence embeddings",
    "token_embeddings": "token embeddings",
    "hidden_states": "hidden states",
    None: "token embeddings",
}


class Result(NamedTuple):
    """The embeddings of one batch, without its padding rows."""

    rows: list[int]  # which texts
    sentence_BD: np.ndarray
    # Per text (token ids, token embeddings [L, D] or [L, I, D]), if requested.
    tokens: list[tuple[np.ndarray, np.ndarray]]


def results(
    encoder: Any, texts: Sequence[str], prompt: str, batch_size: int | None, output_value: str | None, warn: bool
) -> Iterator[Result]:
    """The embeddings of all texts, batch by batch.

    Args:
        encoder: a SentenceEncoder without routes.
        batch_size: texts per batch, or None for as many as fit the encoder's token budget.
        output_value: of `encode`. With token embeddings or hidden states texts are not packed.
        warn: log at the end how many texts were truncated.

    Raises:
        MinisbertError: an embedding is not finite.
        InputError: hidden states of a model loaded for NumPy.
    """
    tokenizer, max_length, truncated = encoder.tokenizer, encoder.max_seq_length, 0
    with_tokens = output_value != "sentence_embedding"
    if output_value == "hidden_states":
        need_jax(encoder, "return hidden states")
    prompt_length = tokenizer.prompt_length(prompt, max_length=max_length) if prompt else 0

    def token_ids() -> Iterator[list[int]]:
        nonlocal truncated
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            tokens = tokenizer.tokenize(chunk, max_length=max_length, prompt=prompt, exact=False)
            truncated += int(np.count_nonzero(tokens.counts[:, 2]))
            yield from tokens.ids

    options = {"padding_id": encoder.padding_id, "max_positions": encoder.max_positions}
    if packs(encoder, len(texts)) and not with_tokens and batch_size is None:
        shapes, packing = encoder.shapes, {"padding_id": encoder.padding_id, "prompt_length": prompt_length}
        numbered = packed_batches(token_ids(), tokens=shapes.token_budget, devices=shapes.devices, **packing)
    else:
        numbered = enumerate(token_ids())
    stream = batches(numbered, encoder.shapes, batch_size=batch_size, **options)
    start = partial(_start, encoder, prompt_length=prompt_length, output=_OUTPUT_OF[output_value])
    for batch, computed in run_ahead(stream, start, encoder.forward.wait):
        count, tokens, finite = len(batch.rows), [], True
        if isinstance(batch, PackedBatch):
            sentence_PTD = np.asarray(computed)
            sentence_BD = sentence_PTD.reshape(-1, sentence_PTD.shape[-1])[batch.where]
        elif with_tokens:
            token_BLD, sentence_BD = np.asarray(computed.token_BLD), np.asarray(computed.sentence_BD)[:count]
            for row, length in enumerate(batch.lengths_B[:count]):
                tokens.append((batch.token_ids_BL[row, :length], token_BLD[row, :length]))
                finite = finite and bool(np.isfinite(token_BLD[row, :length]).all())
        else:
            sentence_BD = np.asarray(computed)[:count]
        if not (finite and np.isfinite(sentence_BD).all()):
            raise MinisbertError("an embedding is not finite: the weights overflow. Use another model.")
        yield Result(batch.rows, sentence_BD, tokens)
    if truncated and warn:
        logger.warning(
            f"{truncated} of {len(texts)} sentences are longer than max_seq_length {max_length} and were cut; "
            "token_counts() shows which. on_truncate='ignore' silences this, 'error' refuses them."
        )


def packs(encoder: Any, texts: int) -> bool:
    """Whether a call with this many texts packs the short ones. In bfloat16 packing changes more than the last bits."""
    if encoder.packing is None:
        return encoder.compute_dtype == "float32" and texts >= encoder.shapes.pack_from
    return bool(encoder.packing)


def per_text(
    tokens: dict[int, tuple[np.ndarray, np.ndarray]], sentence_BD: np.ndarray, output_value: str | None
) -> list[Any]:
    """Of each text its token embeddings, its hidden states, or (None) a dict with its token ids and sentence embedding too."""
    if output_value == "hidden_states":
        return [np.ascontiguousarray(np.moveaxis(tokens[row][1], 1, 0)) for row in range(len(tokens))]
    if output_value is not None:
        return [tokens[row][1] for row in range(len(tokens))]
    keys = ("input_ids", "token_embeddings", "sentence_embedding")
    return [dict(zip(keys, (*tokens[row], sentence_BD[row]), strict=True)) for row in range(len(tokens))]


def warm_up(encoder: Any, max_tokens: int | None) -> None:
    """Compile every shape, packed rows included, that texts of up to `max_tokens` tokens (None: any) can need."""
    longest_text = encoder.max_seq_length if max_tokens is None else checks.check_positive("max_tokens", max_tokens)
    tokens = min(longest_text, encoder.max_seq_length)
    shapes, max_positions = encoder.shapes, encoder.max_positions
    if not shapes.fixed:
        return
    longest = max(shapes.length(tokens, max_positions), shapes.length(tokens, max_positions, alone=True))
    for rows, length in shapes.all(max_positions):
        if length <= longest:
            _start(encoder, rectangle([], rows, length, encoder.padding_id))
    if packs(encoder, shapes.pack_from):
        _start(encoder, empty_batch(*stream_shape(shapes.token_budget, shapes.devices), encoder.padding_id))


def _start(
    encoder: Any, batch: Batch | PackedBatch, prompt_length: int = 0, output: str = "sentence embeddings"
) -> Any:
    """Start computing a batch; returns without waiting."""
    if isinstance(batch, PackedBatch):
        return encoder.forward(encoder.params, "packed sentence embeddings", *batch.texts)
    return encoder.forward(encoder.params, output, batch.token_ids_BL, batch.lengths_B, np.int32(prompt_length))
