"""The kinds of modules that are computed, and the kind of model in a folder: which class loads it, or that minisbert has none.

A bi-encoder (SentenceEncoder) embeds single texts; a cross-encoder (CrossEncoder) scores pairs; other kinds are in the tables.
Only what a folder clearly says counts; a damaged file is left to the reader that names it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from minisbert.checkpoint.settings import ModelFiles, first_architecture
from minisbert.errors import ModelFolderError

_MODEL, _CHAIN, _CONFIG = "config_sentence_transformers.json", "modules.json", "config.json"
SPARSE = "a sparse model (such as SPLADE): one number per word of a vocabulary instead of a dense embedding"
MULTI_VECTOR = "a multi-vector model (such as ColBERT): one vector per token, compared by maximal similarity"
IMAGES = "a model of images and texts (CLIP)"
SOUNDS = "an audio model"
WORDS = "word vectors under an older network"

# The class of a module -> the file of that class, which is our name of it (but for Asym, a Router before 5.0).
_CLASSES = {
    **{"Transformer": "transformer", "StaticEmbedding": "static_embedding", "Router": "router", "Asym": "asym"},
    **{"WeightedLayerPooling": "weighted_layer_pooling", "Pooling": "pooling", "Dense": "dense"},
    **{"LayerNorm": "layer_norm", "Normalize": "normalize"},
    "Dropout": "dropout",  # only training drops numbers: left out when a chain is read
}
# Up to 5.3 modules.json has the class alone or, in a Router, its file too; from 5.4 its file, in one of two packages.
_PACKAGES = ("models", "base.modules", "sentence_transformer.modules")
# A type in modules.json -> our name. Looked up; nothing that a folder names is ever imported.
MODULE_TYPES = {
    f"sentence_transformers.{package}.{path}": "router" if file == "asym" else file
    for package in _PACKAGES
    for name, file in _CLASSES.items()
    for path in (name, f"{name}.{name}", f"{file}.{name}")
}
MODULE_TYPES["minisbert.TrainedPooling"] = "trained_pooling"
# The class of a Dense module's activation -> our name (minisbert/modules.py). Looked up, never imported.
DENSE_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
}
DENSE_ACTIVATIONS |= {f"torch.nn.{name.rpartition('.')[2]}": ours for name, ours in DENSE_ACTIVATIONS.items()}


class Part(NamedTuple):
    """One module of a chain: its kind and its folder, as `modules.json` or `router_config.json` names them."""

    kind: str
    path: str


def unknown_type(
    module: str, name: Any, file: Path, *, in_router: bool = False, scores: bool = False
) -> ModelFolderError:
    """The error for a class that is not in `MODULE_TYPES`; `scores`: of a reranker."""
    here, router = (" within a Router", "") if in_router else ("", "Router, ")
    expected = f"Transformer, StaticEmbedding, {router}Pooling, WeightedLayerPooling, Dense, LayerNorm or Normalize of "
    if scores:
        expected = (
            "one Transformer with the head among its weights, or Transformer, Pooling and so on up to a Dense, of "
        )
    return ModelFolderError(
        f"{file}: module {module!r} is of type {name!r:.200}, which minisbert does not compute{here} (and never imports). "
        f"Expected {expected}sentence-transformers; use another model."
    )


# The last part of a module's class -> the kind of model that has it.
_OTHER_CLASSES = {
    **dict.fromkeys(("SpladePooling", "MLMTransformer", "SparseAutoEncoder", "CSRSparsity", "CSR"), SPARSE),
    **dict.fromkeys(("SparseStaticEmbedding", "IDF"), SPARSE),
    **dict.fromkeys(("MultiVectorMask", "ColBERT"), MULTI_VECTOR),
    **dict.fromkeys(("BaseTokenPooling", "HierarchicalTokenPooling", "LambdaTokenPooling"), MULTI_VECTOR),
    "CLIPModel": IMAGES,
    **dict.fromkeys(("WordEmbeddings", "WordWeights", "BoW", "CNN", "LSTM"), WORDS),
}
# `model_type` of config_sentence_transformers.json; `model_type` of config.json; the first of its `architectures`.
_OTHER_MODELS = {"SparseEncoder": SPARSE, "MultiVectorEncoder": MULTI_VECTOR, "ColBERT": MULTI_VECTOR}
OTHER_TYPES = {
    **dict.fromkeys(("clip", "chinese_clip", "siglip", "siglip2", "blip", "vit", "dinov2", "clip_text_model"), IMAGES),
    **dict.fromkeys(("whisper", "wav2vec2", "hubert", "clap", "wavlm"), SOUNDS),
}
_OTHER_ARCHITECTURES = {"HF_ColBERT": MULTI_VECTOR, "ColBERT": MULTI_VECTOR}
# How the first of config.json's `architectures` ends where the folder may hold another kind of model.
OTHER_ENDINGS = ("ForSequenceClassification", *_OTHER_ARCHITECTURES)


def refuse_other_kinds(files: ModelFiles) -> None:
    """Raises ModelFolderError for a cross-encoder or a kind of model that minisbert does not compute; names its sign."""
    if found := sign_of_cross_encoder(files):
        raise ModelFolderError(
            f"{found}. Expected a model that embeds single texts; this one scores pairs: load it with CrossEncoder(...)."
        )
    if found := next(_signs_of_other_kinds(files), None):
        raise ModelFolderError(
            f"{found}. Expected a model that gives one dense embedding per text; use another model, or sentence-transformers "
            "for this one."
        )


def _signs_of_other_kinds(files: ModelFiles) -> Iterator[str]:
    config = _content(files, _CONFIG, dict)
    for file, key, found, kinds in (
        (_MODEL, "model_type", _content(files, _MODEL, dict).get("model_type"), _OTHER_MODELS),
        (_CONFIG, "model_type", config.get("model_type"), OTHER_TYPES),
        (_CONFIG, "architectures", first_architecture(config), _OTHER_ARCHITECTURES),
    ):
        if found in list(kinds):  # a file may have a value of any type there, which a dict would not take as a key
            yield f"{files.folder / file}: {key!r} is {found!r}, {kinds[found]}"
    for name in _module_types(files):
        own = name.rpartition(".")[2]
        if name.startswith(("sentence_transformers.", "pylate.")) and own in _OTHER_CLASSES:
            yield f"{files.folder / _CHAIN}: has a module {name!r}, {_OTHER_CLASSES[own]}"


def sign_of_cross_encoder(files: ModelFiles) -> str | None:
    """Where the folder says that it holds a cross-encoder, or None."""
    if files.has(files.folder / _CHAIN):
        is_one = _content(files, _MODEL, dict).get("model_type") == "CrossEncoder"
        return f"{files.folder / _MODEL}: 'model_type' is 'CrossEncoder'" if is_one else None
    if (name := first_architecture(_content(files, _CONFIG, dict))).endswith("ForSequenceClassification"):
        return f"{files.folder / _CONFIG}: 'architectures' is [{name!r:.200}], a classifier"
    return None


def refuse_bi_encoder(files: ModelFiles) -> None:
    """Raises ModelFolderError for a bi-encoder, whose modules pool token embeddings; names what to load it with."""
    types = _module_types(files)
    if any(name.endswith("Pooling") for name in types) and not sign_of_cross_encoder(files):
        raise ModelFolderError(
            f"{files.folder / _CHAIN}: the modules are {', '.join(name.rsplit('.', 1)[-1] for name in types)}. "
            "Expected a model that scores pairs; this one embeds single texts: load it with SentenceEncoder(...), or put a "
            "fresh head on it with CrossEncoder.from_encoder(...) and train that."
        )


def _module_types(files: ModelFiles) -> list[str]:
    return [str(entry.get("type")) for entry in _content(files, _CHAIN, list) if isinstance(entry, dict)]


def _content(files: ModelFiles, name: str, kind: Callable[[], Any]) -> Any:
    """What a file of the folder holds; an empty list or dict where it is not of that kind, damaged, or not there."""
    file = files.folder / name
    try:
        content = files.json(file) if files.has(file) else None
    except ModelFolderError:
        content = None
    return content if type(content) is kind else kind()
