"""Reads modules.json: the chain of modules, each with its kind and folder, in an order that gives one result.

    Transformer -> Pooling -> Dense -> Normalize

Dropout changes nothing but training and is left out of the chain; minisbert drops numbers inside the encoder only.
"""

from pathlib import Path
from typing import NamedTuple

from minisbert import limits
from minisbert.checkpoint.keys import MODULE
from minisbert.checkpoint.modules import MODULE_TYPES
from minisbert.checkpoint.settings import ModelFiles, Settings
from minisbert.checkpoint.task_adapters import JINA_MODULE, has_tasks
from minisbert.checkpoint.tensors import inside
from minisbert.errors import ModelFolderError


class Part(NamedTuple):
    """One module of a chain: its kind and its folder, as `modules.json` or `router_config.json` names them."""

    kind: str
    path: str


def read_chain(files: ModelFiles, file: Path) -> list[Part]:
    """modules.json -> the modules in their order."""
    entries = files.json(file)
    if not isinstance(entries, list) or not 1 <= len(entries) <= limits.LAYERS:
        found = f"a list of {len(entries)}" if isinstance(entries, list) else type(entries).__name__
        raise ModelFolderError(
            f"{file}: {found}. Expected a list of 1 to {limits.LAYERS} modules; download the model again."
        )
    chain: list[Part] = []
    for row, entry in enumerate(entries):
        settings = Settings(entry, file)
        files.ignored.setdefault(file.name, {}).update(
            (f"{row}.{key}", value) for key, value in settings.by_table(MODULE).items() if key != "name"
        )
        path, kind = settings.text("path"), settings.text("type")
        settings.choice("idx", [row], default=row, why="modules are listed in their order")
        settings.finish()
        if kind == JINA_MODULE and has_tasks(files.json(inside(file.parent, path, file) / "config.json")):
            kind = "sentence_transformers.models.Transformer"
        if kind not in MODULE_TYPES:
            raise ModelFolderError(
                f"{file}: module {path!r} is of type {kind!r}, which minisbert does not compute (and never imports). "
                "Expected Transformer, StaticEmbedding, Router, Pooling, WeightedLayerPooling, Dense, LayerNorm or "
                "Normalize of sentence-transformers; use another model."
            )
        inside(file.parent, path, file)
        if MODULE_TYPES[kind] == "dropout" and any(
            part.kind in ("pooling", "trained_pooling", "static_embedding") for part in chain
        ):
            files.ignored[file.name][f"{row}.type"] = kind
            continue
        chain.append(Part(MODULE_TYPES[kind], path))
    return chain


def check_order(parts: list[Part], file: Path, scores: bool) -> None:
    """The modules are in an order that gives a sentence embedding, or the scores of a reranker.

    Raises:
        ModelFolderError: naming the chain as it is, and as it should be.
    """
    kinds, _ = zip(*parts, strict=True)
    heads = kinds[1:]
    good = kinds[0] == "static_embedding"
    if kinds[0] == "transformer":
        heads = heads[1:] if heads[:1] == ("weighted_layer_pooling",) else heads
        good, heads = heads[:1] in (("pooling",), ("trained_pooling",)), heads[1:]
    if scores and (kinds[0] != "transformer" or kinds[-1] != "dense"):
        raise ModelFolderError(
            f"{file}: the chain is {' -> '.join(kinds)}. Expected that of a reranker: transformer alone, with the head among "
            "its weights, or transformer -> pooling -> ... -> dense, whose output are the scores. Use another model."
        )
    if not good or not {*heads} <= {"dense", "layer_norm", "normalize"}:
        raise ModelFolderError(
            f"{file}: the chain is {' -> '.join(kinds)}. Expected transformer -> pooling (weighted_layer_pooling between them "
            "or not) or static_embedding alone, then any dense, layer_norm and normalize; the encoder and the pooling once. "
            "Use another model."
        )
