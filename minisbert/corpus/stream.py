"""Embed a stream of texts, from a file or a generator, with one part in memory at a time.

for embeddings in encode_stream(encoder, open("lines.txt")):
    ...
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from minisbert.arguments import check_positive, check_stream
from minisbert.errors import InputError
from minisbert.sentence_encoder import SentenceEncoder


def encode_stream(
    encoder: SentenceEncoder, sentences: Iterable[str], *, part: int = 65_536, **options: Any
) -> Iterator[np.ndarray]:
    """Embed any number of texts in the memory of one part.

    Args:
        sentences: strings, read only as fast as they are embedded.
        part: texts per part.
        options: for `SentenceEncoder.encode`, except `out` and the precisions that need the range of all embeddings.

    Returns:
        the embeddings in the order of the texts, one array per part.

    Raises:
        InputError: an option or a text is invalid; earlier parts have been yielded by then.

    Example:
        >>> encoder = SentenceEncoder("weights/tiny-bert")
        >>> [part.shape for part in encode_stream(encoder, ("a", "b", "c"), part=2)]
        [(2, 32), (1, 32)]
    """
    check_positive("part", part)
    texts = check_stream("sentences", sentences)
    if options.get("precision") in ("int8", "uint8") or options.get("out") is not None:
        raise InputError("out, int8 and uint8 need all sentences, and a stream has only a part of them. Use encode.")
    parts = iter(lambda: list(islice(texts, part)), [])
    return (encoder.encode(some, **options) for some in parts)
