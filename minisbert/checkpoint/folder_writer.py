"""Writes a sentence-transformers folder, in the older dialect that every reader knows.

The settings, and the weights of the modules after the encoder; pretrained.py adds the encoder's weights and tokenizer.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.checkpoint.convert import Converted, export, flatten
from minisbert.checkpoint.folder import ModelFolder
from minisbert.checkpoint.json_file import most_bytes, read_json
from minisbert.checkpoint.modules import Module, WithWeights
from minisbert.checkpoint.router import ROUTER_FILE, Router
from minisbert.checkpoint.tensors import WEIGHTS, write_tensors
from minisbert.errors import InputError

_PACKAGE = "sentence_transformers.models."


def write_json(path: Path, content: Any) -> None:
    """A JSON file with indentation, as people like to read it. Half a surrogate pair becomes an escape of JSON.

    Raises:
        InputError: the file would be larger than what is read, even without indentation.
    """
    path.parent.mkdir(exist_ok=True)
    most = most_bytes(path)
    for indent in (2, None):
        text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
        written = text.encode("utf-8", errors="backslashreplace")
        if len(written) <= most:
            path.write_bytes(written)
            return
    raise InputError(
        f"{path.name} would have {len(written)} bytes. Expected at most {most}, what loading reads; shorten the model's "
        "prompts, or what else it has in that file."
    )


def note_dtype(here: Path, original: Converted, tensors: Mapping[str, np.ndarray]) -> None:
    """Say float32 in config.json where a tensor is no longer in the 16 bits it was read in: readers would round it."""
    file = here / "config.json"
    if file.is_file():
        config = read_json(file)
        keys = [key for key in ("dtype", "torch_dtype") if key in config]
        before = {original.renamed.get(name, name): dtype for name, dtype in original.dtypes.items()}
        # What a LoRA adapter was merged into was read in float32: there config.json says in what it is stored.
        stored = config[keys[0]] if keys else None
        single = [name for name, tensor in tensors.items() if tensor.dtype == np.float32]
        if any(before.get(name, stored) in ("bfloat16", "float16") for name in single):
            write_json(file, config | dict.fromkeys(keys or ["dtype"], "float32"))


def chain_of(folder: ModelFolder, params: Mapping[str, Any]) -> list[tuple[str, Module | None, Mapping[str, Any]]]:
    """The modules to write: the class of each, its settings (None for the encoder's), and its parameters."""
    heads = iter(params.get("heads", {}).values())
    # A static model averages its tokens itself.
    encoder, modules = ("StaticEmbedding", folder.modules[1:]) if folder.is_static else ("Transformer", folder.modules)
    chain: list[tuple[str, Module | None, Mapping[str, Any]]] = [(encoder, None, params["encoder"])]
    for module in modules:
        chain.append((type(module).__name__, module, next(heads) if isinstance(module, WithWeights) else {}))
    return chain


def write_module(folder: ModelFolder, module: Module | None, params: Mapping[str, Any], here: Path) -> None:
    """One module of a chain, its settings and its weights; of the encoder (None) the settings alone."""
    here.mkdir(exist_ok=True)
    if module is not None:
        if (content := module.to_json(folder.encoder.hidden_size)) is not None:
            write_json(here / "config.json", content)
        if isinstance(module, WithWeights):
            write_tensors(here / WEIGHTS, export(Converted(flatten(params)), module.rules()))
    elif not folder.is_static:
        write_json(here / "config.json", folder.config)
        lengths = {"max_seq_length": folder.max_seq_length, "do_lower_case": folder.do_lower_case}
        write_json(here / "sentence_bert_config.json", lengths)


def write_chain(folder: ModelFolder, params: Mapping[str, Any], path: Path) -> Path:
    """A model with one chain, into an empty folder, but for the encoder's weights and tokenizer: returns where these belong."""
    entries = []
    for i, (name, module, weights) in enumerate(chain_of(folder, params)):
        # A transformer is at the top, where transformers looks for it.
        place = "" if name == "Transformer" else f"{i}_{name}"
        write_module(folder, module, weights, path / place)
        entries.append({"idx": i, "name": str(i), "path": place, "type": _package(name)})
    write_json(path / "modules.json", entries)
    write_json(path / "config_sentence_transformers.json", _model_json(folder))
    return path / str(entries[0]["path"])


def _package(name: str) -> str:
    return f"minisbert.{name}" if name == "TrainedPooling" else _PACKAGE + name


def write_router(folder: ModelFolder, router: Router, structure: dict[str, list[str]], path: Path) -> None:
    """The settings of a Router and its model; `structure`: route -> the folders of its modules, which end in their classes."""
    modules = [module for chain in structure.values() for module in chain]
    types = {module: _package(module.rpartition("_")[2]) for module in modules}
    parameters: dict[str, Any] = {"default_route": router.default, "allow_empty_key": router.default is not None}
    if router.mappings:  # sentence-transformers before 5.4 does not know the key
        parameters["route_mappings"] = {str((task, modality)): route for task, modality, route in router.mappings}
    content = {"types": types, "structure": structure, "parameters": parameters}
    write_json(path / ROUTER_FILE, content)
    write_json(path / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": _PACKAGE + "Router"}])
    write_json(path / "config_sentence_transformers.json", _model_json(folder))


def _model_json(folder: ModelFolder) -> dict[str, Any]:
    content: dict[str, Any] = {
        "prompts": folder.prompts,
        "default_prompt_name": folder.default_prompt_name,
        "similarity_fn_name": folder.similarity_fn_name,
    }
    if folder.truncate_dim is not None:
        content["truncate_dim"] = int(folder.truncate_dim)
    return content
