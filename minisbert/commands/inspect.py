"""`minisbert inspect`: what a model is, every setting with the file it comes from, and what its weights are.

    minisbert inspect all-mpnet-base-v2
    minisbert inspect weights/tiny-bert --json

Settings, headers and digests only: no weight is put on a device, nothing is computed or compiled.
"""

import dataclasses
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from minisbert.commands.tables import columns

if TYPE_CHECKING:
    from minisbert.checkpoint.folder import ModelFolder
    from minisbert.sentence_encoder import SentenceEncoder


def inspect(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    *,
    as_json: Annotated[bool, arg(name="json")] = False,
    offline: bool = False,
) -> int:
    """Show every setting of a model and which file it comes from.

    Example: minisbert inspect all-mpnet-base-v2

    Args:
        model: a folder, a known name, or a name on the hub.
        as_json: one JSON object, for machines.
        offline: never open a socket.
    """
    from minisbert.download.locate import locate

    facts = describe(locate(model, offline=offline))
    print(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else as_text(facts))
    return 0


def describe(path: Path) -> dict[str, Any]:
    """All that a model folder says, as JSON values.

    Args:
        path: a model folder.

    Raises:
        ModelFolderError: it is not a whole model that minisbert computes.

    Example:
        >>> describe(Path("weights/tiny-bert"))["max_seq_length"]
        {'value': 64, 'from': 'sentence_bert_config.json'}
    """
    from minisbert.checkpoint.folder import read_folder

    folder = read_folder(path)
    return {
        "folder": str(path),
        "source": _manifest(path),
        "notes": folder.notes,
        **_describe_chain(folder, path),
        "default_route": folder.router and folder.router.default,
        "routes": {name: _describe_chain(route, path) for name, route in folder.routes.items()},
    }


def _describe_chain(folder: "ModelFolder", path: Path) -> dict[str, Any]:
    """One encoder and the modules after it."""
    from minisbert import SentenceEncoder
    from minisbert.checkpoint.convert import flatten
    from minisbert.pretrained import Pretrained, read_model_config
    from minisbert.sentence_model import define
    from minisbert.text.tokenizer import Tokenizer

    model_config = read_model_config(folder)
    # The encoder without its weights: it answers for its settings as it would when computing.
    alone = replace(folder, router=None, routes={})
    encoder = SentenceEncoder.from_model(Pretrained(alone, model_config, {}, Tokenizer.from_folder(folder), {}))
    shapes = [leaf.shape for leaf in flatten(define(model_config)[1]).values()]
    return {
        "repr": repr(encoder),
        "embedding_dimension": encoder.get_embedding_dimension(),
        "max_seq_length": _max_seq_length(encoder),
        "similarity": folder.similarity_fn_name,
        "prompts": folder.prompts,
        "default_prompt_name": folder.default_prompt_name,
        "parameters": sum(math.prod(shape) for shape in shapes),
        "weights": [_weights(part, path) for part in _weight_folders(folder)],
        "tokenizer": _tokenizer(encoder, path),
        "settings": [{"name": name, "value": value, "from": file} for name, value, file in _settings(encoder)],
    }


def as_text(facts: dict[str, Any]) -> str:
    """What `describe` found, for people."""
    if facts["routes"]:
        told = f"a Router with {len(facts['routes'])} routes, by default {facts['default_route']}"
        # A route's own facts among what is said of the whole model.
        blocks = [(route, as_text(facts | chain | {"routes": {}})) for route, chain in facts["routes"].items()]
        return "\n\n".join([told, *(f"route {route}\n{block}" for route, block in blocks)])
    tokenizer, length = facts["tokenizer"], facts["max_seq_length"]
    prompts = [f"{name} {text!r}" for name, text in facts["prompts"].items()]
    rows = [
        ("folder", facts["folder"]),
        *[("note", note) for note in facts["notes"]],
        ("embedding dimension", facts["embedding_dimension"]),
        ("max_seq_length", f"{length['value']}, from {length['from']}"),
        ("similarity", facts["similarity"]),
        ("prompts", ", ".join(prompts) or "none"),
        ("default prompt", facts["default_prompt_name"] or "none"),
        ("parameters", f"{facts['parameters']:,}"),
        *[row for part in facts["weights"] for row in _weights_rows(part)],
        ("tokenizer", f"{tokenizer['kind']} of {tokenizer['vocabulary']:,} tokens, from {tokenizer['file']}"),
        ("special tokens", " ".join([*tokenizer["before"], "text", *tokenizer["after"]])),
        ("padding token", tokenizer["padding"]),
    ]
    settings = [(s["name"], json.dumps(s["value"], ensure_ascii=False), s["from"]) for s in facts["settings"]]
    lines = [facts["repr"], "", *columns(rows), "", *columns([("setting", "value", "from"), *settings])]
    if facts["source"] is not None:
        source = {key: value for key, value in facts["source"].items() if key != "files"}
        lines += ["", "fetched", *columns([(f"  {key}", value) for key, value in source.items()])]
    return "\n".join(lines)


def _weights_rows(part: dict[str, Any]) -> list[tuple[str, str]]:
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in part["dtypes"].items())
    rows = [("weights", f"{part['tensors']} tensors ({dtypes}), {part['values']:,} numbers")]
    for file in part["files"]:
        rows += [("  file", f"{file['file']}, {file['bytes']:,} bytes"), ("  sha256", file["sha256"])]
    return rows


def _manifest(path: Path) -> dict[str, Any] | None:
    """What a download has noted about where the files are from."""
    from minisbert.checkpoint.settings import read_json
    from minisbert.download.staging import MANIFEST

    content = read_json(path / MANIFEST) if (path / MANIFEST).exists() else None
    return content if isinstance(content, dict) else None


def _max_seq_length(encoder: "SentenceEncoder") -> dict[str, Any]:
    folder, value = encoder.pretrained.folder, encoder.max_seq_length
    source = folder.sources.get("max_seq_length")
    if folder.max_seq_length == value:
        return {"value": value, "from": source}
    asked = f"{source} asks for {folder.max_seq_length}" if source else "no file sets a limit"
    return {"value": value, "from": f"the positions of the encoder ({asked})"}


def _weight_folders(folder: "ModelFolder") -> list[Path]:
    """The folders with tensors: the encoder's, then those of modules that have some."""
    from minisbert.modules import HEADS

    modules = [module for module in folder.modules if type(module) in HEADS]
    return [folder.transformer_path] + [folder.path / module.path for module in modules]  # type: ignore[union-attr]


def _weights(part: Path, model: Path) -> dict[str, Any]:
    from minisbert.checkpoint.converted import CONVERTED
    from minisbert.checkpoint.settings import read_json
    from minisbert.checkpoint.tensors import INDEX, WEIGHTS, SafetensorsFiles
    from minisbert.download.staging import digest

    tensors = SafetensorsFiles(part, CONVERTED if (part / CONVERTED).is_file() else WEIGHTS)
    files = [tensors.where]
    if tensors.where.name == INDEX:
        files = [part / name for name in sorted(set(read_json(tensors.where)["weight_map"].values()))]
    shapes = tensors.shapes()
    return {
        "tensors": len(shapes),
        "values": sum(math.prod(shape) for shape in shapes.values()),
        "dtypes": dict(Counter(str(tensors.read(name).dtype) for name in shapes).most_common()),
        "files": [
            {"file": file.relative_to(model).as_posix(), "bytes": file.stat().st_size, "sha256": digest(file)}
            for file in files
        ],
    }


def _tokenizer(encoder: "SentenceEncoder", path: Path) -> dict[str, Any]:
    tokenizer = encoder.tokenizer
    name = tokenizer.backend.id_to_token
    return {
        "file": Path(tokenizer.where).relative_to(path).as_posix(),
        "kind": type(tokenizer.backend.model).__name__,
        "vocabulary": tokenizer.backend.get_vocab_size(with_added_tokens=True),
        "before": [name(token) for token in tokenizer.prefix],
        "after": [name(token) for token in tokenizer.suffix],
        "padding": name(encoder.padding_id),
    }


def _settings(encoder: "SentenceEncoder") -> list[tuple[str, Any, str]]:
    """(name, value, file) of every setting; "default" where no file says anything."""
    folder = encoder.pretrained.folder
    rows = [(name, value, folder.sources[name]) for name, value in folder.config.items()]
    defaults = dataclasses.asdict(encoder.model_config.encoder)
    rows += [(name, value, "default") for name, value in defaults.items() if name not in folder.config]
    for module, source in zip(folder.modules, folder.module_sources, strict=True):
        name = type(module).__name__
        values = dataclasses.asdict(module)
        rows += [(f"{name}.{key}", value, source) for key, value in values.items()] or [(name, True, source)]
    names = ("max_seq_length", "do_lower_case", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
    rows += [(name, getattr(folder, name), folder.sources.get(name, "default")) for name in names]
    return rows
