"""`SentenceEncoder.encode`, step by step: texts -> token batches -> results as they come -> arrays in the texts' order.

    embed                  all of it
    stream                 tokenizes, batches and computes, a little ahead of the reader
    sentence_embeddings    one array
    token_embeddings       an array a text, or a dict a text with everything

What the options mean is said in sentence_encoder.py.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minisbert.inference.batching import Batch, ShapeTable, batches
from minisbert.inference.compiled import Forward, Result, progress_bar
from minisbert.quantization import quantize_embeddings
from minisbert.text.packing import PackedBatch, packed_batches
from minisbert.text.tokenizer import CHUNK, Tokenizer

logger = logging.getLogger("minisbert")


def embed(
    model: Any,
    texts: Sequence[str],
    *,
    prompt: str,
    dimension: int,
    batch_size: int | None,
    show_progress_bar: bool | None,
    output_value: str | None,
    precision: str,
    normalize_embeddings: bool,
    on_truncate: str,
    out: np.ndarray | None,
) -> Any:
    """What `encode` returns for these texts.

    Args:
        model: a SentenceEncoder without routes.
        prompt: put before each text.
        dimension: of each embedding so many numbers are kept.

    The others are as `SentenceEncoder.encode` has them.
    """
    if on_truncate == "error":
        model.tokenizer.refuse_long(texts, max_length=model.max_seq_length, prompt=prompt)
    with_tokens = output_value != "sentence_embedding"
    with progress_bar(len(texts), show_progress_bar) as bar:
        results = stream(
            texts,
            model.tokenizer,
            model.forward,
            prompt=prompt,
            max_length=model.max_seq_length,
            shapes=model.shapes,
            max_positions=model.pretrained.max_positions,
            padding_id=model.padding_id,
            batch_size=batch_size,
            packing=model.packing,
            with_tokens=with_tokens,
            warn=on_truncate == "warn",
        )
        options: dict[str, Any] = {"normalize": normalize_embeddings, "bar": bar}
        if with_tokens:
            return token_embeddings(results, len(texts), dimension, **options, whole=output_value is None)
        embeddings = sentence_embeddings(results, len(texts), dimension, **options, out=out)
    return embeddings if precision == "float32" else quantize_embeddings(embeddings, precision)


def stream(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    forward: Forward,
    *,
    prompt: str,
    max_length: int,
    shapes: ShapeTable,
    max_positions: int,
    padding_id: int,
    batch_size: int | None,
    packing: bool,
    with_tokens: bool,
    warn: bool,
) -> Iterator[Result]:
    """The results of all texts, a batch at a time; warns once at the end about texts that were cut.

    Args:
        prompt: put before each text.
        max_length: tokens kept of a text.
        shapes, capacity, padding_id, batch_size: see `batches`.
        packing: full batches have several texts a row (text/packing.py).
        with_tokens: token embeddings too; these texts are not packed.
        warn: say it where texts were cut.
    """
    truncated = 0

    def tokenized() -> Iterator[list[int]]:
        nonlocal truncated
        for start in range(0, len(texts), CHUNK):
            tokens = tokenizer.tokenize(texts[start : start + CHUNK], max_length=max_length, prompt=prompt)
            truncated += tokens.truncated
            yield from tokens.ids

    prompt_length = tokenizer.prompt_length(prompt, max_length=max_length) if prompt else 0

    def batched() -> Iterator[Batch | PackedBatch]:
        ids: Iterable[Sequence[int]] = tokenized()
        places: list[int] | None = None
        if packing and not with_tokens and batch_size is None:
            budget = {"tokens": shapes.token_budget, "devices": shapes.devices}
            left = yield from packed_batches(ids, padding_id=padding_id, prompt_length=prompt_length, **budget)
            places, ids = [place for place, _ in left], [ids for _, ids in left]
        for batch in batches(ids, shapes, padding_id=padding_id, max_positions=max_positions, batch_size=batch_size):
            yield batch if places is None else batch._replace(rows=[places[row] for row in batch.rows])

    yield from forward.run(batched(), prompt_length, with_tokens=with_tokens)
    if truncated and warn:
        logger.warning(
            f"{truncated} of {len(texts)} sentences are longer than max_seq_length {max_length} and were cut; "
            "token_counts() tells which. on_truncate='ignore' silences this, 'error' refuses them."
        )


def sentence_embeddings(
    results: Iterable[Result], count: int, dimension: int, *, normalize: bool, bar: Any, out: np.ndarray | None = None
) -> np.ndarray:
    """float32 [count, dimension].

    Args:
        dimension: of each embedding so many numbers are kept.
        normalize: scale each to length 1 after that.
        bar: told how many are done.
        out: such an array, to be filled.
    """
    embeddings = np.empty((count, dimension), np.float32) if out is None else out
    for rows, sentence_BD, _ in results:
        embeddings[rows] = _finish(sentence_BD, dimension, normalize)
        bar.update(len(rows))
    return embeddings


def token_embeddings(
    results: Iterable[Result], count: int, dimension: int, *, normalize: bool, bar: Any, whole: bool
) -> list[Any]:
    """For each sentence float32 [tokens, width]; or with `whole` a dict of that, the tokens and the sentence embedding.

    Arguments as for `sentence_embeddings`.
    """
    items: list[Any] = [None] * count
    for rows, sentence_BD, tokens in results:
        finished_BD = _finish(sentence_BD, dimension, normalize)
        for row, (ids, token_LD), sentence_D in zip(rows, tokens, finished_BD, strict=True):
            everything = {"input_ids": ids, "token_embeddings": token_LD, "sentence_embedding": sentence_D}
            items[row] = everything if whole else token_LD
        bar.update(len(rows))
    return items


def _finish(sentence_BD: np.ndarray, dimension: int, normalize: bool) -> np.ndarray:
    sentence_BD = sentence_BD[:, :dimension]
    if normalize:
        norm_B1 = np.linalg.norm(sentence_BD, axis=1, keepdims=True)
        sentence_BD = sentence_BD / np.maximum(norm_B1, 1e-12)
    return sentence_BD
