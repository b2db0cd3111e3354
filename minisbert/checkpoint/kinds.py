"""Which of the two kinds of model a folder holds, so that the wrong class can say which one is right.

A bi-encoder (SentenceEncoder) embeds one text; a cross-encoder (CrossEncoder) scores two. Only what a folder clearly
says counts; a damaged file is left to the reader that will name it.
"""

from pathlib import Path
from typing import Any

from minisbert.checkpoint.settings import read_json
from minisbert.errors import ModelFolderError


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
