"""Loads a model folder into parameters and a tokenizer, and writes one.

Loading joins what checkpoint/ reads (settings, tensors) with an encoder family's Config and RULES (encoders/). Saving makes an
ordinary sentence-transformers folder in the older dialect, which every reader knows; it appears complete or not at all.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.arguments import check_bool
from minisbert.atomic_write import staged_folder
from minisbert.checkpoint.convert import Converted, Put, convert, export, flatten, nest, table_for
from minisbert.checkpoint.converted import CONVERTED, read_converted
from minisbert.checkpoint.folder import ModelFolder, read_folder
from minisbert.checkpoint.folder_writer import chain_of, note_dtype, write_chain, write_module, write_router
from minisbert.checkpoint.modules import WithWeights
from minisbert.checkpoint.router import Router, check_names
from minisbert.checkpoint.static_folder import with_length_limit
from minisbert.checkpoint.tensors import WEIGHTS, open_tensors, write_tensors
from minisbert.download.locate import locate
from minisbert.encoders import FAMILIES
from minisbert.errors import ModelFolderError
from minisbert.fork import note_use
from minisbert.model_config import ModelConfig
from minisbert.text.tokenizer import Tokenizer

logger = logging.getLogger("minisbert")


@dataclass
class Pretrained:
    """A model read from a folder."""

    folder: ModelFolder
    model_config: ModelConfig
    params: dict[Any, Any]  # nested dict of arrays, float32
    tokenizer: Tokenizer
    # What `export` needs besides `params`: tensors passed through, original names and dtypes.
    original: Converted = field(default_factory=lambda: Converted({}))
    # A Router's routes, each a model of its own. All else is then the main route's.
    routes: dict[str, "Pretrained"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A model whose parts were changed is saved with these.
        self.folder = replace(self.folder, encoder=self.model_config.encoder, modules=self.model_config.modules)

    @property
    def max_positions(self) -> int:
        """The longest row of tokens the encoder takes."""
        return int(self.model_config.encoder.max_positions)


def on_device(array: np.ndarray) -> Any:
    """The array on JAX's default device."""
    import jax

    note_use()
    return jax.device_put(array)


def load_pretrained(
    path: Path,
    *,
    put: Put | None = on_device,
    allow_pickle_weights: bool = False,
    allow_links: bool = False,
    adapter: str | None = None,
) -> Pretrained:
    """Read a model folder.

    Args:
        path: a sentence-transformers, plain Hugging Face, or model2vec folder.
        put: places one finished parameter, a float32 array; None leaves it in its file, for the NumPy engine (`convert`).
        allow_pickle_weights: read weights that are only in a pickle, its tensors and nothing else (checkpoint/pickled.py).
        allow_links: read files that are links out of the folder, which those of strangers could use to read other files.
        adapter: the one to merge where the folder has several, such as a task of jina-embeddings-v3.

    Raises:
        ModelFolderError: see `read_folder`, `convert`, `Tokenizer.from_folder`; or the tokenizer gives ids that the
            embedding table does not have.
    """
    check_bool("allow_pickle_weights", allow_pickle_weights)
    check_bool("allow_links", allow_links)
    folder = read_folder(path, locate, allow_pickle_weights, allow_links, adapter)
    for note in folder.notes:
        logger.warning(note)
    loaded: dict[Path, Converted] = {}
    if folder.router is None:
        return load_chain(folder, put, loaded)
    routes = {name: load_chain(route, put, loaded) for name, route in folder.routes.items()}
    return replace(routes[folder.router.main], folder=folder, routes=routes)


def load_chain(folder: ModelFolder, put: Put | None, loaded: dict[Path, Converted]) -> Pretrained:
    """One encoder and the modules after it.

    Args:
        loaded: folder -> the module read from it; routes that name the same module share its arrays. Grows.
    """
    model_config = ModelConfig.of(folder)
    tokenizer = Tokenizer.from_folder(folder)
    check_tokenizer(tokenizer, folder)
    family = FAMILIES[model_config.model_type]
    table = table_for(family.RULES, folder.encoder)
    place = folder.transformer_path
    if place not in loaded and (place / CONVERTED).is_file():
        if folder.adapt is not None:
            raise ModelFolderError(
                f"{place}: holds {CONVERTED} and an adapter, which is merged into original weights. Expected one of them; "
                "convert the weights back with `minisbert convert --back`."
            )
        loaded[place] = read_converted(place, {rule.path: rule.shape for rule in table}, put)
    elif place not in loaded:
        names = {"passthrough": family.PASSTHROUGH, "prefix": family.PREFIX}
        loaded[place] = convert(folder.open_encoder(), table, put=put, **names)
    original = loaded[place]
    params = {"encoder": nest(original.params)}
    for module in model_config.modules:
        if isinstance(module, WithWeights):
            place = folder.path / module.path
            if place not in loaded:
                loaded[place] = convert(open_tensors(place, folder.allow_pickle_weights), module.rules(), put=put)
            heads = params.setdefault("heads", {})
            heads[len(heads)] = nest(loaded[place].params)
    return Pretrained(folder, model_config, params, tokenizer, replace(original, params={}))


def check_tokenizer(tokenizer: Tokenizer, folder: ModelFolder) -> None:
    """Raises ModelFolderError if the tokenizer does not fit the encoder's embedding table or the length limit."""
    largest, special, vocab_size = tokenizer.largest_id, tokenizer.special_tokens, folder.encoder.vocab_size
    if largest >= vocab_size:
        # An added token without a row is an error only of the text that has it.
        tokenizer.rows = vocab_size
        words = tokenizer.backend.get_vocab(with_added_tokens=False).values()
        largest = max(words, default=0)
        for number in (*tokenizer.prefix, *tokenizer.suffix):
            if largest < vocab_size <= number:
                raise ModelFolderError(
                    f"{tokenizer.where}: the special token {tokenizer.backend.id_to_token(number)!r:.100} around each text has "
                    f"the id {number}, but {folder.sources['vocab_size']}'s vocab_size is {vocab_size}. Expected one with an "
                    "embedding; correct the special tokens in tokenizer_config.json or special_tokens_map.json."
                )
    if largest >= vocab_size:
        raise ModelFolderError(
            f"{tokenizer.where}: gives ids up to {largest}, but {folder.sources['vocab_size']}'s vocab_size is {vocab_size}. "
            "The tokenizer is another model's; download the model again."
        )
    if folder.longest <= special:
        where = (
            folder.sources.get("max_seq_length", "the tokenizer")
            if folder.longest == folder.max_seq_length
            else "the positions of config.json"
        )
        raise ModelFolderError(
            f"{folder.path}: max_seq_length is {folder.longest}, from {where}, but the tokenizer puts {special} special tokens "
            f"around each text. Expected at least {special + 1}; correct the settings."
        )


def encoder_tensors(model: Pretrained) -> dict[str, np.ndarray]:
    """The encoder's weights under the names of its family's checkpoints, with the tensors passed through."""
    config = model.model_config
    converted = replace(model.original, params=flatten(model.params["encoder"]))
    return export(converted, table_for(FAMILIES[config.model_type].RULES, config.encoder))


def join_routes(routes: Mapping[str, Pretrained], default: str | None = None) -> Pretrained:
    """Joins several models as the routes of one Router, such as a small one for queries and a large one for documents.

    Args:
        routes: route -> model; `encode_query` takes the route "query", `encode_document` "document".
        default: the route of texts without a task; None refuses such texts.

    Raises:
        ModelFolderError: a bad name, an unknown default, embeddings of different widths, a Router in a Router.

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
    folders = {name: route.folder for name, route in routes.items()}
    folder = replace(folders[router.main], router=router, routes=folders)
    return replace(routes[router.main], folder=folder, routes=dict(routes))


def save_pretrained(model: Pretrained, target: Path) -> None:
    """Write a model folder that minisbert, sentence-transformers and text-embeddings-inference read.

    The folder is written next to the target and renamed when complete; it replaces a model that is there.

    Raises:
        InputError: the target is a file, or a folder with something else than a model in it.
        WriteError: the disk is full or not writable; the target is unchanged.
    """
    folder = model.folder
    with staged_folder(Path(target).absolute()) as staging:
        if folder.router is None:
            _write_encoder(model, write_chain(folder, model.params, staging))
        else:
            write_router(folder, folder.router, _write_routes(model, staging), staging)


def _write_routes(model: Pretrained, path: Path) -> dict[str, list[str]]:
    """Write one folder per module; returns route -> its modules.

    A module that two routes share in memory is written once and named by both, so that it stays shared in training.
    """
    written: dict[Any, str] = {}
    structure: dict[str, list[str]] = {}
    for name, route in model.routes.items():
        structure[name], folder = [], route.folder
        for i, (kind, module, weights) in enumerate(chain_of(folder, route.params)):
            leaves = tuple(id(leaf) for leaf in flatten(weights).values())
            # Encoders are the same only if they also read texts in the same way.
            reads = (folder.max_seq_length, folder.do_lower_case, *sorted(folder.tokenizer_files.items()))
            same = (kind, module, leaves, reads if module is None else ())
            if not leaves or same not in written:
                written[same] = f"{name}_{i}_{kind}"
                write_module(folder, module, weights, path / written[same])
                if module is None:
                    _write_encoder(route, path / written[same])
            structure[name].append(written[same])
    return structure


def _write_encoder(model: Pretrained, here: Path) -> None:
    """The encoder's tensors, and its tokenizer's files."""
    tensors = encoder_tensors(model)
    write_tensors(here / WEIGHTS, tensors)
    if model.original.dtypes:  # it has other tensors than float32
        note_dtype(here, model.original, tensors)
    files = tokenizer_files(model.folder, model.tokenizer)
    if model.folder.is_static:
        files["tokenizer.json"] = with_length_limit(files["tokenizer.json"], model.folder.max_seq_length)
    for name, content in files.items():
        (here / name).write_bytes(content)


def tokenizer_files(folder: ModelFolder, tokenizer: Tokenizer) -> dict[str, bytes]:
    """The tokenizer's files as they were read, with a tokenizer.json if the folder had none."""
    return {"tokenizer.json": tokenizer.backend.to_str(pretty=True).encode(), **folder.tokenizer_files}
