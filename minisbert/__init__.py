"""minisbert: Sentence-BERT from scratch in NumPy and JAX/Flax.

    from minisbert import SentenceEncoder

    encoder = SentenceEncoder("all-MiniLM-L6-v2")
    embeddings = encoder.encode(["A man is eating food.", "Someone has a meal."])
    print(encoder.similarity(embeddings, embeddings))

Names are imported when they are first used, so that `import minisbert` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minisbert import pooling as pooling
    from minisbert import similarity as similarity
    from minisbert.cross_encoder.encoder import CrossEncoder as CrossEncoder
    from minisbert.errors import DataError as DataError
    from minisbert.errors import DownloadError as DownloadError
    from minisbert.errors import InputError as InputError
    from minisbert.errors import MinisbertError as MinisbertError
    from minisbert.errors import ModelFolderError as ModelFolderError
    from minisbert.errors import SearchError as SearchError
    from minisbert.errors import TrainingError as TrainingError
    from minisbert.errors import TrainingStopped as TrainingStopped
    from minisbert.errors import WriteError as WriteError
    from minisbert.evaluation.sts import compare as compare
    from minisbert.evaluation.sts import evaluate_sts as evaluate_sts
    from minisbert.inference.compiled import enable_compilation_cache as enable_compilation_cache
    from minisbert.mining.clustering import community_detection as community_detection
    from minisbert.mining.paraphrases import mine_paraphrases as mine_paraphrases
    from minisbert.quantization import quantize_embeddings as quantize_embeddings
    from minisbert.register import register_encoder as register_encoder
    from minisbert.register import register_loss as register_loss
    from minisbert.register import register_pooling as register_pooling
    from minisbert.register import register_similarity as register_similarity
    from minisbert.search.exact import semantic_search as semantic_search
    from minisbert.search.index import Index as Index
    from minisbert.sentence_encoder import SentenceEncoder as SentenceEncoder
    from minisbert.training import losses as losses
    from minisbert.training.config import TrainConfig as TrainConfig
    from minisbert.training.trainer import train as train

__version__ = "0.1.0"

# public name -> the module that defines it
_NAMES = {
    "SentenceEncoder": "minisbert.sentence_encoder",
    "CrossEncoder": "minisbert.cross_encoder.encoder",
    "train": "minisbert.training.trainer",
    "TrainConfig": "minisbert.training.config",
    "evaluate_sts": "minisbert.evaluation.sts",
    "compare": "minisbert.evaluation.sts",
    "Index": "minisbert.search.index",
    "semantic_search": "minisbert.search.exact",
    "mine_paraphrases": "minisbert.mining.paraphrases",
    "community_detection": "minisbert.mining.clustering",
    "quantize_embeddings": "minisbert.quantization",
    "enable_compilation_cache": "minisbert.inference.compiled",
    **dict.fromkeys(
        ("register_encoder", "register_loss", "register_pooling", "register_similarity"), "minisbert.register"
    ),
    "MinisbertError": "minisbert.errors",
    "InputError": "minisbert.errors",
    "ModelFolderError": "minisbert.errors",
    "DownloadError": "minisbert.errors",
    "WriteError": "minisbert.errors",
    "DataError": "minisbert.errors",
    "SearchError": "minisbert.errors",
    "TrainingError": "minisbert.errors",
    "TrainingStopped": "minisbert.errors",
}
# modules of functions that are public as a whole
_MODULES = {"losses": "minisbert.training.losses", "pooling": "minisbert.pooling", "similarity": "minisbert.similarity"}
__all__ = [*_NAMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'minisbert' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
