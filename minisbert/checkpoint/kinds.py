"""Which kind of model a folder holds, so that the wrong class can say which one is right, or that there is none.

A bi-encoder (SentenceEncoder) embeds one text; a cross-encoder (CrossEncoder) scores two. Other kinds that
sentence-transformers and its kin write are known by name, in the tables, and refused as what they are. Only what a
folder clearly says counts; a damaged file is left to the reader that will name it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minisbert.checkpoint.settings import read_json
from minisbert.errors import ModelFolderError

SPARSE = "a sparse model (SPLADE and its kin): a number for each word of a vocabulary, not a dense embedding"
MULTI_VECTOR = "a multi-vector model (ColBERT and its kin): a vector for each token, compared by maximal similarity"
IMAGES = "a model of images and texts (CLIP)"
SOUNDS = "a model of sounds"
WORDS = "word vectors with a network of an older kind on them"

# The last part of a module's class -> the kind of model that has it.
_OTHER_CLASSES = {
    **dict.fromkeys(("SpladePooling", "MLMTransformer", "SparseAutoEncoder", "CSRSparsity", "CSR"), SPARSE),
    **dict.fromkeys(("SparseStaticEmbedding", "IDF"), SPARSE),
    **dict.fromkeys(("MultiVectorMask", "ColBERT"), MULTI_VECTOR),
    **dict.fromkeys(("BaseTokenPooling", "HierarchicalTokenPooling", "LambdaTokenPooling"), MULTI_VECTOR),
    "CLIPModel": IMAGES,
    **dict.fromkeys(("WordEmbeddings", "WordWeights", "BoW", "CNN", "LSTM"), WORDS),
}
# `model_type` of config_sentence_transformers.json; of config.json; the first of its `architectures`.
_OTHER_MODELS = {"SparseEncoder": SPARSE, "MultiVectorEncoder": MULTI_VECTOR, "ColBERT": MULTI_VECTOR}
_OTHER_TYPES = {
    **dict.fromkeys(("clip", "chinese_clip", "siglip", "siglip2", "blip", "vit", "dinov2", "clip_text_model"), IMAGES),
    **dict.fromkeys(("whisper", "wav2vec2", "hubert", "clap", "wavlm"), SOUNDS),
}
_OTHER_ARCHITECTURES = {"HF_ColBERT": MULTI_VECTOR, "ColBERT": MULTI_VECTOR}


def refuse_other_kinds(path: Path) -> None:
    """The folder is a bi-encoder's as far as it says: no cross-encoder, and no kind that minisbert has not.

    Raises:
        ModelFolderError: naming the kind, and where the folder says so.
    """
    refuse_cross_encoder(path)
    if told := next(_signs_of_other_kinds(path), None):
        raise ModelFolderError(
            f"{told}. Expected a model that gives one dense embedding a text; minisbert computes no other kind: use "
            "another model, or sentence-transformers for this one."
        )


def _signs_of_other_kinds(path: Path) -> Iterator[str]:
    # Looked for in lists of the names: what stands in a file may be of any type, which no dict would take as a key.
    file = path / "config_sentence_transformers.json"
    if (name := _values(file).get("model_type")) in list(_OTHER_MODELS):
        yield f"{file}: 'model_type' is {name!r}, {_OTHER_MODELS[name]}"
    file = path / "modules.json"
    content = _read(file)
    for entry in content if isinstance(content, list) else []:
        name = str(entry.get("type")) if isinstance(entry, dict) else ""
        if name.startswith(("sentence_transformers.", "pylate.")) and name.rsplit(".", 1)[-1] in _OTHER_CLASSES:
            yield f"{file}: has a module {name!r}, {_OTHER_CLASSES[name.rsplit('.', 1)[-1]]}"
    file = path / "config.json"
    if (name := _values(file).get("model_type")) in list(_OTHER_TYPES):
        yield f"{file}: 'model_type' is {name!r}, {_OTHER_TYPES[name]}"
    names = _values(file).get("architectures")
    if isinstance(names, list) and names and names[0] in list(_OTHER_ARCHITECTURES):
        yield f"{file}: 'architectures' is {names!r:.200}, {_OTHER_ARCHITECTURES[names[0]]}"


def sign_of_cross_encoder(path: Path) -> str | None:
    """Where the folder says that it is a cross-encoder's, or None."""
    if (path / "modules.json").exists():
        file, key = path / "config_sentence_transformers.json", "model_type"
        return f"{file}: {key!r} is 'CrossEncoder'" if _values(file).get(key) == "CrossEncoder" else None
    file, key = path / "config.json", "architectures"
    names = _values(file).get(key)
    if isinstance(names, list) and names and str(names[0]).endswith("ForSequenceClassification"):
        return f"{file}: {key!r} is {names!r:.200}, a classifier"
    return None


def refuse_cross_encoder(path: Path) -> None:
    """The folder is not a cross-encoder's.

    Raises:
        ModelFolderError: it says that it is one, and what to load it with.
    """
    if told := sign_of_cross_encoder(path):
        raise ModelFolderError(
            f"{told}. Expected a model that embeds single texts; this one scores pairs: load it with CrossEncoder(...)."
        )


def refuse_bi_encoder(path: Path) -> None:
    """The folder is not a bi-encoder's.

    Raises:
        ModelFolderError: its modules pool token embeddings, and what to load it with.
    """
    file = path / "modules.json"
    content = _read(file)
    entries = content if isinstance(content, list) else []
    types = [str(entry.get("type")) for entry in entries if isinstance(entry, dict)]
    if any(name.endswith("Pooling") for name in types):
        raise ModelFolderError(
            f"{file}: the modules are {', '.join(name.rsplit('.', 1)[-1] for name in types)}. Expected a model that "
            "scores pairs; this one embeds single texts: load it with SentenceEncoder.load(...), or put a fresh head on "
            "it with CrossEncoder.from_encoder(...) and train that."
        )


def _read(file: Path) -> Any:
    try:
        return read_json(file) if file.exists() else None
    except ModelFolderError:
        return None


def _values(file: Path) -> dict[str, Any]:
    content = _read(file)
    return content if isinstance(content, dict) else {}
