"""Embeddings of texts as they come from a file or a generator, of which only a part is in memory.

for embeddings in encode_stream(encoder, open("lines.txt")):
    ...
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from minisbert.arguments import check_positive
from minisbert.errors import InputError, short_repr
from minisbert.sentence_encoder import SentenceEncoder


def encode_stream(
    encoder: SentenceEncoder, sentences: Iterable[str], *, part: int = 65_536, **options: Any
) -> Iterator[np.ndarray]:
    """Embed any number of texts; memory follows the part, not their number.

    Args:
        sentences: strings, read no further than they are embedded.
        part: texts embedded at once.
        options: of `SentenceEncoder.encode`, but `out` and the precisions that need the range of all embeddings.

    Returns:
        the embeddings in the texts' order, an array for each part.

    Raises:
        InputError: an option or a text is not what it should be; the parts before it have been handed out.

    Example:
        >>> encoder = SentenceEncoder.load("weights/tiny-bert")
        >>> [part.shape for part in encode_stream(encoder, ("a", "b", "c"), part=2)]
        [(2, 32), (1, 32)]
    """
    check_positive("part", part)
    if isinstance(sentences, str) or not isinstance(sentences, Iterable):
        raise InputError(
            f"sentences is {short_repr(sentences)} ({type(sentences).__name__}). Expected many strings, one after the other; "
            "encode takes a single one."
        )
    if options.get("precision") in ("int8", "uint8") or options.get("out") is not None:
        raise InputError("out, int8 and uint8 are for all sentences at once, which a stream never has. Use encode.")
    texts = iter(sentences)
    parts = iter(lambda: list(islice(texts, part)), [])
    return (encoder.encode(some, **options) for some in parts)
