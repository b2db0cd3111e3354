"""The encoder of a command, on the engine that is named, or else on the faster one for its texts."""

from collections.abc import Iterable
from typing import Any

from minisbert import SentenceEncoder
from minisbert.errors import InputError
from minisbert.inference.engines import has_jax

# NumPy embeds texts of up to this many characters together, on two cores with all-MiniLM-L6-v2, while JAX would be imported.
CHARACTERS = 10_000


def load_encoder(model: str, texts: Iterable[str], engine: str, **options: Any) -> SentenceEncoder:
    """The model on this engine. "auto" is NumPy for a few short texts, if it has the model's parts and the options.

    Example:
        >>> load_encoder("weights/tiny-bert", ["a dog"], "auto").engine
        'numpy'
        >>> load_encoder("weights/tiny-bert", ["a dog"], "auto", packing=True).engine
        'jax'
    """
    if engine == "auto":
        engine = "jax"
        if sum(map(len, texts)) <= CHARACTERS:
            try:
                return SentenceEncoder.load(model, engine="numpy", **options)
            except InputError:
                if not has_jax():
                    raise
    return SentenceEncoder.load(model, engine=engine, **options)
