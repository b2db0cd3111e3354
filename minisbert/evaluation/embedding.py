"""The encoder interfaces that evaluation needs, and embeddings of columns of texts, each distinct text embedded once."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np

from minisbert.errors import InputError, short_repr


class Encoder(Protocol):
    """Anything that embeds a list of texts, such as SentenceEncoder."""

    def encode(self, *sentences: Any, **options: Any) -> Any:
        """`encode(texts, **options)`: one embedding per text, `[texts, D]`."""


class QueryEncoder(Protocol):
    """Anything that embeds queries and documents, such as SentenceEncoder."""

    def encode_query(self, *sentences: Any, **options: Any) -> Any:
        """`encode_query(texts, **options)`: one embedding per text, `[texts, D]`."""

    def encode_document(self, *sentences: Any, **options: Any) -> Any:
        """`encode_document(texts, **options)`: one embedding per text, `[texts, D]`."""


def embed_columns(encode: Callable[..., Any], *columns: Sequence[str], **options: Any) -> list[np.ndarray]:
    """The embeddings of each column of texts, `[len(column), D]`; `encode` is a method of an encoder, `options` its options.

    Quantized embeddings are compared as numbers, packed ones bit by bit.

    Example:
        >>> embed_columns(lambda texts: [[len(text)] for text in texts], ["a", "bc"], ["bc"])
        [array([[1.],
               [2.]], dtype=float32), array([[2.]], dtype=float32)]
    """
    rows = {text: row for row, text in enumerate(dict.fromkeys(chain(*columns)))}
    embeddings = np.asarray(encode(list(rows), **options))
    embeddings = as_floats(unpacked(embeddings) if options.get("precision") in ("binary", "ubinary") else embeddings)
    return [embeddings[[rows[text] for text in column]] for column in columns]


def unpacked(packed_BX: np.ndarray) -> np.ndarray:
    """The bits of "binary" (int8) or "ubinary" (uint8) embeddings as 0 and 1, float32.

    Example:
        >>> unpacked(np.array([[170]], np.uint8)).tolist()
        [[1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]]
    """
    offset = 128 if packed_BX.dtype == np.int8 else 0
    return np.unpackbits((packed_BX.astype(np.int16) + offset).astype(np.uint8), axis=1).astype(np.float32)


def as_floats(array: np.ndarray) -> np.ndarray:
    """float32 instead of a type whose products wrap around or overflow: integers and float16."""
    array = np.asarray(array)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def refuse_quantized(options: Mapping[str, Any]) -> None:
    """Reject a precision of `encode` where embeddings are compared that do not share their ranges, or are packed bits."""
    if options.get("precision", "float32") != "float32":
        raise InputError(
            f"precision is {short_repr(options['precision'])}. Expected 'float32': here embeddings of several calls are "
            "compared, whose ranges differ; search quantized ones with Index(precision=...)."
        )
