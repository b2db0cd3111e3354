"""A model folder <-> a model that computes: design, parameters, tokenizer.

Reading joins what checkpoint/ reads (settings, tensors) with what encoders/ defines (Config, Encoder, RULES). Writing
makes an ordinary sentence-transformers folder, in the older dialect that every reader knows, and makes it whole or
not at all.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minisbert.atomic_write import staged_folder
from minisbert.checkpoint.convert import Converted, Rule, convert, export, flatten, nest, refuse_too_few
from minisbert.checkpoint.converted import CONVERTED, read_converted
from minisbert.checkpoint.folder import ModelFolder, read_folder
from minisbert.checkpoint.folder_writer import chain_of, write_chain, write_module, write_router
from minisbert.checkpoint.modules import Module
from minisbert.checkpoint.router import Router, check_names
from minisbert.checkpoint.settings import read_bytes
from minisbert.checkpoint.static_folder import StaticTensors, with_length_limit
from minisbert.checkpoint.tensors import WEIGHTS, SafetensorsFiles, write_tensors
from minisbert.encoders import FAMILIES
from minisbert.errors import ModelFolderError
from minisbert.modules import HEADS
from minisbert.sentence_model import ModelConfig, define
from minisbert.text.tokenizer import Tokenizer

logger = logging.getLogger("minisbert")

# The tokenizer's files are kept as they came and written back unchanged.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)


@dataclass
class Pretrained:
    """A model read from a folder."""

    folder: ModelFolder
    model_config: ModelConfig
    params: dict[Any, Any]  # nested dict of arrays, float32
    tokenizer: Tokenizer
    tokenizer_files: dict[str, bytes]
    original: Converted = field(default_factory=lambda: Converted({}))  # carried tensors, original names and dtypes
    # Of a Router: each route as a model of its own. The rest is then the main route's.
    routes: dict[str, "Pretrained"] = field(default_factory=dict)

    @property
    def max_positions(self) -> int:
        """The longest row of tokens the encoder takes."""
        return self.model_config.encoder.max_positions


def read_model_config(folder: ModelFolder) -> ModelConfig:
    """The parts a folder asks for.

    Raises:
        ModelFolderError: a family that minisbert does not have, or settings it does not compute.
    """
    file = folder.transformer_path / (WEIGHTS if folder.model_type == "static" else "config.json")
    if folder.model_type not in FAMILIES:
        raise ModelFolderError(
            f"{file}: 'model_type' is {folder.model_type!r}. Expected one of {', '.join(sorted(FAMILIES))}; use another "
            "model, or add the family (CONTRIBUTING.md)."
        )
    config = FAMILIES[folder.model_type].Config.from_json(folder.config, file)
    return ModelConfig(folder.model_type, config, folder.modules)


def load_pretrained(path: Path, *, put: Callable[[str, np.ndarray], Any] | None = None) -> Pretrained:
    """Read a model folder.

    Args:
        path: of a sentence-transformers or plain Hugging Face folder, or of model2vec's.
        put: places one finished parameter, called with our flat path and a float32 array; by default on JAX's
            default device.

    Raises:
        ModelFolderError: see `read_folder`, `convert`, `Tokenizer.from_folder`; and a tokenizer with ids that the
            embedding table does not have.
    """
    folder = read_folder(path)
    for note in folder.notes:
        logger.warning(note)
    put = put or (lambda path, array: jax.device_put(array))
    if folder.router is None:
        return _load_chain(folder, put, {})
    # A module that several routes name is read, and kept in memory, once.
    modules: dict[tuple[Path, str], Converted] = {}
    routes = {name: _load_chain(route, put, modules) for name, route in folder.routes.items()}
    return replace(routes[folder.router.main], folder=folder, routes=routes)


def _load_chain(
    folder: ModelFolder, put: Callable[[str, np.ndarray], Any], modules: dict[tuple[Path, str], Converted]
) -> Pretrained:
    """One encoder and the modules after it.

    Args:
        modules: those read so far, by their folder and what they are; grows.
    """
    model_config = read_model_config(folder)
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer.largest_id() >= model_config.encoder.vocab_size:
        raise ModelFolderError(
            f"{tokenizer.where}: gives ids up to {tokenizer.largest_id()}, but {folder.sources['vocab_size']}'s vocab_size "
            f"is {model_config.encoder.vocab_size}. The tokenizer is another model's; fetch the model again."
        )
    if folder.max_seq_length is not None and folder.max_seq_length <= tokenizer.special_tokens:
        raise ModelFolderError(
            f"{folder.path}: max_seq_length is {folder.max_seq_length}, but the tokenizer puts {tokenizer.special_tokens} "
            f"special tokens around each text. Expected at least {tokenizer.special_tokens + 1}; correct the settings."
        )
    _refuse_too_few(folder, model_config)
    shapes = {name: tuple(leaf.shape) for name, leaf in flatten(define(model_config)[1]).items()}

    def read(place: Path, ours: str, read_tensors: Callable[..., Converted]) -> Converted:
        inner = {name.removeprefix(ours): shape for name, shape in shapes.items() if name.startswith(ours)}
        key = place, ours.split(".")[0]
        if key not in modules:
            modules[key] = read_tensors(inner, lambda name, array: put(ours + name, array))
        return modules[key]

    encoder = read(folder.transformer_path, "encoder.", lambda *more: _read_encoder(folder, model_config, *more))
    params = {f"encoder.{name}": array for name, array in encoder.params.items()}
    for i, module in enumerate(m for m in model_config.modules if type(m) in HEADS):
        place, rules = folder.path / module.path, HEADS[type(module)].rules(module)  # type: ignore[union-attr]
        head = read(place, f"heads.{i}.", partial(_read_head, place, rules))
        params.update({f"heads.{i}.{name}": array for name, array in head.params.items()})
    files = {name: folder.transformer_path / name for name in TOKENIZER_FILES}
    return Pretrained(
        folder=folder,
        model_config=model_config,
        params=nest(params),
        tokenizer=tokenizer,
        tokenizer_files={name: read_bytes(file) for name, file in files.items() if file.is_file()},
        original=replace(encoder, params={}),
    )


def _refuse_too_few(folder: ModelFolder, model_config: ModelConfig) -> None:
    family, layers = FAMILIES[model_config.model_type], model_config.encoder.num_hidden_layers
    if (folder.transformer_path / CONVERTED).is_file():
        ours = [Rule(f"params/{rule.path}", rule.path, first=rule.first) for rule in family.RULES]
        refuse_too_few(SafetensorsFiles(folder.transformer_path, CONVERTED), ours, layers=layers)
    else:
        refuse_too_few(
            _tensors(folder, model_config),
            family.RULES,
            layers=layers,
            passthrough=family.PASSTHROUGH,
            prefix=family.PREFIX,
        )


def _tensors(folder: ModelFolder, model_config: ModelConfig) -> SafetensorsFiles | StaticTensors:
    return (StaticTensors if model_config.model_type == "static" else SafetensorsFiles)(folder.transformer_path)


def _read_encoder(
    folder: ModelFolder, model_config: ModelConfig, shapes: Mapping[str, Any], put: Callable[[str, np.ndarray], Any]
) -> Converted:
    if (folder.transformer_path / CONVERTED).is_file():
        return read_converted(folder.transformer_path, shapes, put)
    family = FAMILIES[model_config.model_type]
    return convert(
        _tensors(folder, model_config),
        family.RULES,
        shapes,
        layers=model_config.encoder.num_hidden_layers,
        passthrough=family.PASSTHROUGH,
        prefix=family.PREFIX,
        put=put,
    )


def _read_head(
    place: Path, rules: list[Rule], shapes: Mapping[str, Any], put: Callable[[str, np.ndarray], Any]
) -> Converted:
    return convert(SafetensorsFiles(place), rules, shapes, layers=0, put=put)


def encoder_tensors(model: Pretrained) -> dict[str, np.ndarray]:
    """The encoder's weights under the names of its family's checkpoints, with everything the original carried."""
    flat = flatten(model.params["encoder"])
    converted = replace(model.original, params=flat)
    return export(
        converted, FAMILIES[model.model_config.model_type].RULES, layers=model.model_config.encoder.num_hidden_layers
    )


def join_routes(routes: Mapping[str, Pretrained], default: str | None = None) -> Pretrained:
    """Several models as the routes of one, as a Router folder has them: a small one for queries, a large for documents.

    Args:
        routes: route -> model; "query" and "document" are what `encode_query` and `encode_document` ask for.
        default: the route of texts without a task; None means that there is none.

    Raises:
        ModelFolderError: a name that is none, an unknown default, embeddings of different widths, a Router in a Router.

    Example:
        >>> static, layers = (load_pretrained(Path("weights", name)) for name in ("tiny-static", "tiny-layers"))
        >>> list(join_routes({"query": static, "document": layers}, default="document").routes)
        ['query', 'document']
    """
    check_names(routes, "join_routes")
    widths = {name: route.model_config.dimension for name, route in routes.items()}
    if len(set(widths.values())) > 1 or any(route.routes for route in routes.values()):
        raise ModelFolderError(
            f"join_routes: embeddings of the widths {widths}. Expected one width, and routes without a Router of their own."
        )
    if default is not None and default not in routes:
        raise ModelFolderError(f"join_routes: default is {default!r}. Expected one of {', '.join(routes)}, or None.")
    router = Router(tuple(routes), default)
    folders = {name: replace(route.folder, modules=route.model_config.modules) for name, route in routes.items()}
    folder = replace(folders[router.main], router=router, routes=folders)
    return replace(routes[router.main], folder=folder, routes=dict(routes))


def save_pretrained(model: Pretrained, target: Path) -> None:
    """Write a model folder that minisbert, sentence-transformers and text-embeddings-inference read.

    The folder is made beside the target and renamed when whole; a model that stood there is replaced.

    Raises:
        InputError: the target is a file, or a folder with something else than a model in it.
        WriteError: the disk is full or not writable; the target is as it was.
    """
    target = Path(target).absolute()
    with staged_folder(target) as staging:
        if model.folder.router is None:
            folder = replace(model.folder, modules=model.model_config.modules)
            for (_, module), here, weights in zip(
                chain_of(folder), write_chain(folder, staging), _weights(model), strict=True
            ):
                _write_weights(model, module, weights, here)
        else:
            write_router(model.folder, model.folder.router, _write_routes(model, staging), staging)


def _write_routes(model: Pretrained, path: Path) -> dict[str, list[str]]:
    """The modules of every route, a folder each; returns which a route has.

    What two routes share in memory is written once and named by both, so that it stays one when it is trained.
    """
    written: dict[Any, str] = {}
    structure: dict[str, list[str]] = {}
    for name, route in model.routes.items():
        folder = replace(route.folder, modules=route.model_config.modules)
        structure[name] = []
        for i, ((kind, module), weights) in enumerate(zip(chain_of(folder), _weights(route), strict=True)):
            leaves = tuple(id(leaf) for leaf in flatten(weights).values())
            # An encoder is one with another only if it reads texts as that does.
            reads = (folder.max_seq_length, folder.do_lower_case, *sorted(route.tokenizer_files.items()))
            same = (kind, module, leaves, reads if module is None else ())
            if not leaves or same not in written:
                written[same] = f"{name}_{i}_{kind}"
                write_module(folder, module, path / written[same])
                _write_weights(route, module, weights, path / written[same])
            structure[name].append(written[same])
    return structure


def _weights(model: Pretrained) -> list[dict[Any, Any]]:
    """The parameters of each module of `chain_of(model.folder)`, {} where it has none."""
    modules = (
        model.model_config.modules[1:] if model.model_config.model_type == "static" else model.model_config.modules
    )
    heads = iter(model.params.get("heads", {}).values())
    return [model.params["encoder"], *(next(heads) if type(module) in HEADS else {} for module in modules)]


def _write_weights(model: Pretrained, module: Module | None, weights: dict[Any, Any], here: Path) -> None:
    """What write_module leaves out: tensors, and the tokenizer's files."""
    if module is not None:
        if weights:
            rules = HEADS[type(module)].rules(module)
            write_tensors(here / WEIGHTS, export(Converted(flatten(weights)), rules, layers=0))
        return
    write_tensors(here / WEIGHTS, encoder_tensors(model))
    files = dict(model.tokenizer_files)
    if "tokenizer.json" not in files:
        files["tokenizer.json"] = model.tokenizer.backend.to_str(pretty=True).encode()
    if model.model_config.model_type == "static":
        files["tokenizer.json"] = with_length_limit(files["tokenizer.json"], model.folder.max_seq_length)
    for name, content in files.items():
        (here / name).write_bytes(content)


def cast_matrices(params: dict[Any, Any], dtype: Any) -> dict[Any, Any]:
    """The blocks' matrices in the compute dtype, cast once; tables, biases and norms stay float32."""
    flat = flatten(params)
    return nest(
        {
            name: jnp.asarray(leaf, dtype) if name.endswith(".kernel") and ".blocks." in name else leaf
            for name, leaf in flat.items()
        }
    )
