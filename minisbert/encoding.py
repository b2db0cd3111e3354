"""`SentenceEncoder.encode`, step by step: texts -> token batches -> results as they come -> arrays in the texts' order.

    stream                 tokenizes, batches and computes, a little ahead of the reader
    sentence_embeddings    one array
    token_embeddings       an array a text, or a dict a text with everything

What the options mean is said in sentence_encoder.py.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minisbert.errors import MinisbertError
from minisbert.forward import Forward, Result
from minisbert.text.batching import ShapeTable, batches
from minisbert.text.tokenizer import CHUNK, Tokenizer

logger = logging.getLogger("minisbert")


def stream(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    forward: Forward,
    *,
    prompt: str,
    max_length: int,
    shapes: ShapeTable,
    capacity: int,
    padding_id: int,
    batch_size: int | None,
    with_tokens: bool,
    warn: bool,
) -> Iterator[Result]:
    """The results of all texts, a batch at a time; warns once at the end about texts that were cut.

    Args:
        prompt: put before each text.
        max_length: tokens kept of a text.
        shapes, capacity, padding_id, batch_size: see `batches`.
        with_tokens: token embeddings too.
        warn: say it where texts were cut.
    """
    truncated = 0

    def tokenized() -> Iterator[list[int]]:
        nonlocal truncated
        for start in range(0, len(texts), CHUNK):
            tokens = tokenizer.tokenize(texts[start : start + CHUNK], max_length=max_length, prompt=prompt)
            truncated += tokens.truncated
            yield from tokens.ids

    rectangles = batches(tokenized(), shapes, padding_id=padding_id, capacity=capacity, batch_size=batch_size)
    prompt_length = tokenizer.prompt_length(prompt, max_length=max_length) if prompt else 0
    yield from forward.run(rectangles, prompt_length, with_tokens=with_tokens)
    if truncated and warn:
        logger.warning(
            f"{truncated} of {len(texts)} sentences are longer than max_seq_length {max_length} and were cut; "
            "token_counts() tells which. on_truncate='ignore' silences this, 'error' refuses them."
        )


def sentence_embeddings(
    results: Iterable[Result], count: int, dimension: int, *, normalize: bool, bar: Any
) -> np.ndarray:
    """float32 [count, dimension].

    Args:
        dimension: of each embedding so many numbers are kept.
        normalize: scale each to length 1 after that.
        bar: told how many are done.

    Raises:
        MinisbertError: an embedding is not finite.
    """
    embeddings = np.empty((count, dimension), np.float32)
    for rows, sentence_BD, _ in results:
        embeddings[rows] = _finish(sentence_BD, dimension, normalize)
        bar.update(len(rows))
    if not np.isfinite(embeddings).all():
        raise MinisbertError("an embedding is not finite: the weights overflow. Use another model.")
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
