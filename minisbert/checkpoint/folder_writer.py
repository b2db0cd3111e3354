"""The settings files of a sentence-transformers folder, in the older dialect that every reader knows.

The counterpart of folder.py and modules.py: what is written is read as the same settings. Weights and tokenizer are
written elsewhere (pretrained.py), into the places that are returned here.
"""

import json
from pathlib import Path
from typing import Any

from minisbert.checkpoint.folder import ModelFolder
from minisbert.checkpoint.modules import (
    DENSE_ACTIVATIONS,
    POOLING_FLAGS,
    POOLING_MODES,
    Dense,
    LayerNorm,
    Module,
    Normalize,
    Pooling,
    WeightedLayerPooling,
)
from minisbert.checkpoint.router import ROUTER_FILE, Router, routes_json

_PACKAGE = "sentence_transformers.models."


def write_json(path: Path, content: Any) -> None:
    """A settings file as people like to read it."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def chain_of(folder: ModelFolder) -> list[tuple[str, Module | None]]:
    """The modules to write: the class name of each and its settings, None for the encoder's.

    A static model's mean is its encoder's own business there.
    """
    if folder.model_type == "static":
        encoder, modules = "StaticEmbedding", folder.modules[1:]
    else:
        encoder, modules = "Transformer", folder.modules
    return [(encoder, None), *((type(module).__name__, module) for module in modules)]


def write_module(folder: ModelFolder, module: Module | None, here: Path) -> None:
    """The settings of one module of a chain; of the encoder, where `module` is None."""
    here.mkdir(exist_ok=True)
    if module is not None:
        content = module_json(module, folder.width)
        if content is not None:
            write_json(here / "config.json", content)
    elif folder.model_type != "static":
        write_json(here / "config.json", folder.config)
        write_json(
            here / "sentence_bert_config.json",
            {"max_seq_length": folder.max_seq_length, "do_lower_case": folder.do_lower_case},
        )


def write_chain(folder: ModelFolder, path: Path) -> list[Path]:
    """Every settings file of a model with one chain, into an empty folder.

    Returns:
        where each module of `chain_of(folder)` is.
    """
    places, entries = [], []
    for i, (name, module) in enumerate(chain_of(folder)):
        # A transformer lies at the top, where transformers' own readers look for it.
        place = "" if name == "Transformer" else f"{i}_{name}"
        write_module(folder, module, path / place)
        entries.append({"idx": i, "name": str(i), "path": place, "type": _PACKAGE + name})
        places.append(path / place)
    write_json(path / "modules.json", entries)
    write_json(path / "config_sentence_transformers.json", _model_json(folder))
    return places


def write_router(folder: ModelFolder, router: Router, structure: dict[str, list[str]], path: Path) -> None:
    """The settings files that tell of a Router, and the model's; the modules of the routes are there already.

    Args:
        structure: route -> its modules, each named as its folder, which ends in its class.
    """
    modules = [module for chain in structure.values() for module in chain]
    content = {
        "types": {module: _PACKAGE + module.rpartition("_")[2] for module in modules},
        "structure": structure,
        "parameters": routes_json(router),
    }
    write_json(path / ROUTER_FILE, content)
    write_json(path / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": _PACKAGE + "Router"}])
    write_json(path / "config_sentence_transformers.json", _model_json(folder))


def module_json(module: Module, width: int) -> dict[str, Any] | None:
    """A module's own config.json; None for one that has none.

    Args:
        width: of the token embeddings.
    """
    match module:
        case Pooling():
            return _pooling_json(module, width)
        case Dense():
            return _dense_json(module)
        case LayerNorm():
            return {"dimension": module.dimension}
        case WeightedLayerPooling():
            return {
                "word_embedding_dimension": width,
                "layer_start": module.layer_start,
                "num_hidden_layers": module.num_hidden_layers,
            }
        case Normalize():
            return None


def _pooling_json(module: Pooling, width: int) -> dict[str, Any]:
    in_order = tuple(mode for mode in POOLING_MODES if mode in module.modes)
    if module.modes != in_order:
        # The booleans have no order of their own; only the newer form can say another one.
        return {
            "embedding_dimension": width,
            "pooling_mode": list(module.modes),
            "include_prompt": module.include_prompt,
        }
    flags = {flag: mode in module.modes for flag, mode in POOLING_FLAGS.items()}
    return {"word_embedding_dimension": width, **flags, "include_prompt": module.include_prompt}


def _dense_json(module: Dense) -> dict[str, Any]:
    activation = next(theirs for theirs, ours in DENSE_ACTIVATIONS.items() if ours == module.activation)
    return {
        "in_features": module.in_features,
        "out_features": module.out_features,
        "bias": module.bias,
        "activation_function": activation,
    }


def _model_json(folder: ModelFolder) -> dict[str, Any]:
    content: dict[str, Any] = {
        "prompts": folder.prompts,
        "default_prompt_name": folder.default_prompt_name,
        "similarity_fn_name": folder.similarity_fn_name,
    }
    if folder.truncate_dim is not None:
        content["truncate_dim"] = folder.truncate_dim
    return content
