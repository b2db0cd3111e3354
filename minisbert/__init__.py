"""minisbert: Sentence-BERT from scratch in NumPy and JAX/Flax.

    from minisbert import SentenceEncoder

    encoder = SentenceEncoder.load("all-MiniLM-L6-v2")
    embeddings = encoder.encode(["A man is eating food.", "Someone has a meal."])
    print(encoder.similarity(embeddings, embeddings))

Names are imported when they are first used, so that `import minisbert` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minisbert.cross_encoder.encoder import CrossEncoder
    from minisbert.errors import (
        DataError,
        DownloadError,
        InputError,
        MinisbertError,
        ModelFolderError,
        SearchError,
        TrainingError,
        TrainingStopped,
    )
    from minisbert.quantization import quantize_embeddings
    from minisbert.search.index import Index
    from minisbert.sentence_encoder import SentenceEncoder

__version__ = "0.1.0"

# public name -> the file it lives in
_NAMES = {
    "SentenceEncoder": "minisbert.sentence_encoder",
    "CrossEncoder": "minisbert.cross_encoder.encoder",
    "Index": "minisbert.search.index",
    "quantize_embeddings": "minisbert.quantization",
    "MinisbertError": "minisbert.errors",
    "InputError": "minisbert.errors",
    "ModelFolderError": "minisbert.errors",
    "DownloadError": "minisbert.errors",
    "DataError": "minisbert.errors",
    "SearchError": "minisbert.errors",
    "TrainingError": "minisbert.errors",
    "TrainingStopped": "minisbert.errors",
}
__all__ = [
    "CrossEncoder",
    "DataError",
    "DownloadError",
    "Index",
    "InputError",
    "MinisbertError",
    "ModelFolderError",
    "SearchError",
    "SentenceEncoder",
    "TrainingError",
    "TrainingStopped",
    "quantize_embeddings",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'minisbert' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
