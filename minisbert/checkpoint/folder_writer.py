"""The settings files of a sentence-transformers folder, in the older dialect that every reader knows.

The counterpart of folder.py: `read_folder(write_settings(folder))` gives the same settings. Weights and tokenizer are
written elsewhere (pretrained.py).
"""

import json
from pathlib import Path
from typing import Any

from minisbert.checkpoint import folder as folders
from minisbert.checkpoint.folder import ModelFolder


def write_json(path: Path, content: Any) -> None:
    """A settings file as people like to read it."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_settings(folder: ModelFolder, path: Path) -> list[Path]:
    """Write config.json, the chain of modules and the model's settings into an empty folder.

    Returns:
        the folder of each module after the transformer, in order; a Dense still wants its weights there.
    """
    write_json(path / "config.json", folder.config)
    write_json(
        path / "sentence_bert_config.json",
        {"max_seq_length": folder.max_seq_length, "do_lower_case": folder.do_lower_case},
    )
    chain = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    places = []
    width = folder.config.get("hidden_size") or folder.config["dim"]
    for i, module in enumerate(folder.modules, start=1):
        kind = type(module).__name__
        here = path / f"{i}_{kind}"
        here.mkdir()
        chain.append({"idx": i, "name": str(i), "path": here.name, "type": f"sentence_transformers.models.{kind}"})
        if isinstance(module, folders.Pooling):
            write_json(here / "config.json", _pooling_json(module, width))
        elif isinstance(module, folders.Dense):
            write_json(here / "config.json", _dense_json(module))
        places.append(here)
    write_json(path / "modules.json", chain)
    write_json(path / "config_sentence_transformers.json", _model_json(folder))
    return places


def _pooling_json(module: folders.Pooling, width: int) -> dict[str, Any]:
    in_order = tuple(mode for mode in folders.POOLING_MODES if mode in module.modes)
    if module.modes != in_order:
        # The booleans have no order of their own; only the newer form can say another one.
        return {
            "embedding_dimension": width,
            "pooling_mode": list(module.modes),
            "include_prompt": module.include_prompt,
        }
    flags = {flag: mode in module.modes for flag, mode in folders.POOLING_FLAGS.items()}
    return {"word_embedding_dimension": width, **flags, "include_prompt": module.include_prompt}


def _dense_json(module: folders.Dense) -> dict[str, Any]:
    activation = next(theirs for theirs, ours in folders.DENSE_ACTIVATIONS.items() if ours == module.activation)
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
