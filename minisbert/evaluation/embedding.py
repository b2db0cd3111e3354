"""The encoder interfaces that evaluation needs, and embeddings of columns of texts, each distinct text embedded once."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np


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
    """The embeddings of each column of texts, `[len(column), D]`.

    Args:
        encode: a method of an encoder.
        options: for `encode`.

    Example:
        >>> embed_columns(lambda texts: [[len(text)] for text in texts], ["a", "bc"], ["bc"])
        [array([[1],
               [2]]), array([[2]])]
    """
    rows = {text: row for row, text in enumerate(dict.fromkeys(chain(*columns)))}
    embeddings = np.asarray(encode(list(rows), **options))
    return [embeddings[[rows[text] for text in column]] for column in columns]
