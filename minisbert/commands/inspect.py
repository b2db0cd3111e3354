"""`minisbert inspect`: the parts of a model, every setting with the file it comes from, and its weights.

It reads only settings, tensor headers and digests: nothing is put on a device, computed or compiled.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from minisbert.commands.flags import Model, Offline
from minisbert.commands.tables import columns

if TYPE_CHECKING:
    from minisbert.checkpoint.folder import ModelFolder
    from minisbert.sentence_encoder import SentenceEncoder


def inspect(
    model: Positional[Model],
    *,
    as_json: Annotated[bool, arg(name="json")] = False,
    offline: Offline = False,
) -> int:
    """Show every setting of a model and which file it comes from.

    Example: minisbert inspect all-mpnet-base-v2

    Args:
        as_json: print one JSON object.
    """
    from minisbert.download.locate import locate

    facts = describe(locate(model, offline=offline))
    print(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else as_text(facts))
    return 0


def describe(path: Path) -> dict[str, Any]:
    """Everything in a model folder, as JSON values.

    Example:
        >>> describe(Path("weights/tiny-bert"))["max_seq_length"]
        {'value': 64, 'from': 'sentence_bert_config.json'}
    """
    from minisbert.checkpoint.folder import read_folder
    from minisbert.checkpoint.json_file import read_json
    from minisbert.download.locate import cache_folder
    from minisbert.download.staging import MANIFEST

    folder = read_folder(path)
    # Only our own cache says where a model is from: anyone can put such a file into a folder.
    ours = path.resolve().is_relative_to((cache_folder() / "models").resolve())
    source = read_json(path / MANIFEST) if ours and (path / MANIFEST).exists() else None
    return {
        "folder": str(path),
        "source": source if isinstance(source, dict) else None,
        "notes": folder.notes,
        **_describe_chain(folder, path),
        "default_route": folder.router and folder.router.default,
        "routes": {name: _describe_chain(route, path) for name, route in folder.routes.items()},
    }


def _describe_chain(folder: "ModelFolder", path: Path) -> dict[str, Any]:
    """One encoder and the modules after it."""
    from minisbert import SentenceEncoder
    from minisbert.checkpoint.convert import flatten
    from minisbert.checkpoint.modules import WithWeights
    from minisbert.model_config import ModelConfig
    from minisbert.pretrained import Pretrained
    from minisbert.sentence_model import define
    from minisbert.text.tokenizer import Tokenizer

    model_config = ModelConfig.of(folder)
    # Without weights the encoder still reports the settings it would compute with.
    alone = dataclasses.replace(folder, router=None, routes={})
    encoder = SentenceEncoder(Pretrained(alone, model_config, {}, Tokenizer.from_folder(folder)))
    modules = [folder.path / module.path for module in folder.modules if isinstance(module, WithWeights)]
    return {
        "repr": repr(encoder),
        "embedding_dimension": encoder.get_embedding_dimension(),
        "max_seq_length": _max_seq_length(encoder),
        "similarity": folder.similarity_fn_name,
        "prompts": folder.prompts,
        "default_prompt_name": folder.default_prompt_name,
        "parameters": sum(math.prod(leaf.shape) for leaf in flatten(define(model_config)[1]).values()),
        "weights": [_weights(part, path) for part in (folder.transformer_path, *modules)],
        "tokenizer": _tokenizer(encoder, path),
        "settings": [dict(zip(("name", "value", "from"), row, strict=True)) for row in _settings(encoder)],
        "ignored": [dict(zip(("name", "value", "from"), row, strict=True)) for row in _ignored(encoder)],
    }


def as_text(facts: dict[str, Any]) -> str:
    """The result of `describe` as lines of text."""
    if facts["routes"]:
        title = f"a Router with {len(facts['routes'])} routes, by default {facts['default_route']}"
        routes = [(name, as_text(facts | chain | {"routes": {}})) for name, chain in facts["routes"].items()]
        return "\n\n".join([title, *(f"route {name}\n{text}" for name, text in routes)])
    tokenizer, length = facts["tokenizer"], facts["max_seq_length"]
    rows = [
        ("folder", facts["folder"]),
        *[("note", note) for note in facts["notes"]],
        ("embedding dimension", facts["embedding_dimension"]),
        ("max_seq_length", f"{length['value']}, from {length['from']}"),
        ("similarity", facts["similarity"]),
        ("prompts", ", ".join(f"{name} {text!r}" for name, text in facts["prompts"].items()) or "none"),
        ("default prompt", facts["default_prompt_name"] or "none"),
        ("parameters", f"{facts['parameters']:,}"),
    ]
    for part in facts["weights"]:
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in part["dtypes"].items())
        rows.append(("weights", f"{part['tensors']} tensors ({dtypes}), {part['values']:,} numbers"))
        for file in part["files"]:
            rows += [("  file", f"{file['file']}, {file['bytes']:,} bytes"), ("  sha256", file["sha256"])]
    rows += [
        ("tokenizer", f"{tokenizer['kind']} of {tokenizer['vocabulary']:,} tokens, from {tokenizer['file']}"),
        ("special tokens", " ".join([*tokenizer["before"], "text", *tokenizer["after"]])),
        ("padding token", tokenizer["padding"]),
    ]
    lines = [facts["repr"], "", *columns(rows)]
    for title, key, width in (("setting", "settings", 100), ("ignored: changes no embedding", "ignored", 60)):
        shown = [(s["name"], f"{json.dumps(s['value'], ensure_ascii=False):.{width}}", s["from"]) for s in facts[key]]
        lines += ["", *columns([(title, "value", "from"), *shown])] if shown else []
    if facts["source"] is not None:
        source = {key: value for key, value in facts["source"].items() if key != "files"}
        lines += ["", "fetched", *columns([(f"  {key}", value) for key, value in source.items()])]
    return "\n".join(lines)


def _max_seq_length(encoder: "SentenceEncoder") -> dict[str, Any]:
    folder, value = encoder.pretrained.folder, encoder.max_seq_length
    source = folder.sources.get("max_seq_length")
    if folder.max_seq_length == value:
        return {"value": value, "from": source}
    limit = f"{source} asks for {folder.max_seq_length}" if source else "no file sets a limit"
    return {"value": value, "from": f"the positions of the encoder ({limit})"}


def _weights(part: Path, model: Path) -> dict[str, Any]:
    """The tensors of one folder, and the files that hold them."""
    from minisbert.checkpoint.adapter import ADAPTER_WEIGHTS
    from minisbert.checkpoint.converted import CONVERTED
    from minisbert.checkpoint.tensors import INDEX, WEIGHTS, SafetensorsFiles, read_index
    from minisbert.checksums import digest

    tensors = SafetensorsFiles(
        part, next((one for one in (CONVERTED, ADAPTER_WEIGHTS) if (part / one).is_file()), WEIGHTS)
    )
    files = read_index(tensors.where, ".safetensors")[1] if tensors.where.name == INDEX else [tensors.where]
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
    tokenizer, backend = encoder.tokenizer, encoder.tokenizer.backend
    return {
        "file": Path(tokenizer.where).relative_to(path).as_posix(),
        "kind": type(backend.model).__name__,
        "vocabulary": backend.get_vocab_size(with_added_tokens=True),
        "before": [backend.id_to_token(token) for token in tokenizer.prefix],
        "after": [backend.id_to_token(token) for token in tokenizer.suffix],
        "padding": backend.id_to_token(encoder.padding_id),
    }


def _settings(encoder: "SentenceEncoder") -> list[tuple[str, Any, str]]:
    """(name, value, file) of every setting; "default" where no file sets it, "derived" where it follows from other keys."""
    folder = encoder.pretrained.folder
    read = _keys_read(encoder)
    rows = [(name, value, folder.sources[name]) for name, value in folder.config.items() if name in read]
    config = encoder.model_config.encoder
    defaults = {one.name: one.default for one in dataclasses.fields(config)}
    for name, value in dataclasses.asdict(config).items():
        if name not in folder.config:
            rows.append((name, value, "default" if value == defaults[name] else "derived from config.json"))
    for module, source in zip(folder.modules, folder.module_sources, strict=True):
        name, values = type(module).__name__, dataclasses.asdict(module)
        rows += [(f"{name}.{key}", value, source) for key, value in values.items()] or [(name, True, source)]
    rows += [(f"tokenizer.{key}", value, file) for key, value, file, applied in _tokenizer_keys(folder) if applied]
    names = ("max_seq_length", "do_lower_case", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
    return rows + [(name, getattr(folder, name), folder.sources.get(name, "default")) for name in names]


def _keys_read(encoder: "SentenceEncoder") -> set[str]:
    """The keys of config.json that the encoder's family reads."""
    from minisbert.encoders import FAMILIES

    folder, seen = encoder.pretrained.folder, {"model_type", "pad_token_id"}

    class Noted(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            return self[key] if key in self else default  # noqa: SIM401 (it would call itself)

        def __contains__(self, key: object) -> bool:
            seen.add(str(key))
            return super().__contains__(key)

        def __getitem__(self, key: str) -> Any:
            seen.add(key)
            return super().__getitem__(key)

    FAMILIES[folder.model_type].Config.from_json(Noted(folder.config), folder.transformer_path / "config.json")
    return seen


def _ignored(encoder: "SentenceEncoder") -> list[tuple[str, Any, str]]:
    """(name, value, file) of the settings that change no embedding: by the tables of keys, and what no family reads."""
    folder, read = encoder.pretrained.folder, _keys_read(encoder)
    rows = [(name, value, folder.sources[name]) for name, value in folder.config.items() if name not in read]
    rows += [(name, value, file) for file, values in folder.ignored.items() for name, value in values.items()]
    return rows + [(key, value, file) for key, value, file, applied in _tokenizer_keys(folder) if not applied]


def _tokenizer_keys(folder: Any) -> Iterator[tuple[str, Any, str, bool]]:
    """(key, value, file, whether it is applied) of the files next to tokenizer.json."""
    from minisbert.checkpoint.keys import APPLIED
    from minisbert.text.tokenizer_classes import KEYS
    from minisbert.text.tokenizer_config import read_tokenizer_config

    files = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    settings, special, added = (folder.tokenizer_settings(file).values for file in files)
    name = read_tokenizer_config(folder, {}).name
    applied = {key for key, effect in KEYS.items() if effect == APPLIED}
    applied |= {key for key in (*settings, *special) if key.endswith("_token")}
    if not name:  # the class has none of these options: tokenizer.json alone has them
        applied -= {"do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space"}
    if folder.is_static:
        applied = set()
    older = bool(applied) and "added_tokens_decoder" not in settings  # with it the older files are not read
    for key, value in settings.items():
        yield key, value, files[0], key in applied and not (older and key in special)
    for key, value in special.items():
        yield key, value, files[1], older and key in applied
    if added:
        yield "tokens", added, files[2], older
