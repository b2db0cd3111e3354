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

# module -> the public names that it defines
_DEFINES = {
    "minisbert.sentence_encoder": "SentenceEncoder",
    "minisbert.cross_encoder.encoder": "CrossEncoder",
    "minisbert.training.trainer": "train",
    "minisbert.training.config": "TrainConfig",
    "minisbert.evaluation.sts": "evaluate_sts compare",
    "minisbert.search.index": "Index",
    "minisbert.search.exact": "semantic_search",
    "minisbert.mining.paraphrases": "mine_paraphrases",
    "minisbert.mining.clustering": "community_detection",
    "minisbert.quantization": "quantize_embeddings",
    "minisbert.inference.compiled": "enable_compilation_cache",
    "minisbert.register": "register_encoder register_loss register_pooling register_similarity",
    "minisbert.errors": "MinisbertError InputError ModelFolderError DownloadError WriteError DataError SearchError "
    "TrainingError TrainingStopped",
}
_NAMES = {name: module for module, names in _DEFINES.items() for name in names.split()}
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
