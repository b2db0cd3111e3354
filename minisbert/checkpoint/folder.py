"""Reads the settings of a sentence-transformers model folder: modules, prompts, length limit.

    config.json, model.safetensors, tokenizer.json      the transformer, as Hugging Face stores it
    modules.json, 1_Pooling/config.json, ...            the chain of modules: modules.py; several chains: router.py
    sentence_bert_config.json                           max_seq_length, do_lower_case: transformer_folder.py
    config_sentence_transformers.json                   prompts, similarity function, truncate_dim

Two dialects are read. Up to sentence-transformers 5.3 pooling is six booleans and the length limit is in
`sentence_bert_config.json`; from 5.4 pooling is one `pooling_mode` and the limit is the tokenizer's. The older is written.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from minisbert import limits
from minisbert.checkpoint.adapter import ADAPTER_FILE
from minisbert.checkpoint.families import FAMILIES
from minisbert.checkpoint.json_file import parse_json
from minisbert.checkpoint.keys import MODEL_FILE, MODULE
from minisbert.checkpoint.kinds import MODULE_TYPES, Part, refuse_other_kinds, unknown_type
from minisbert.checkpoint.modules import MODULES, Given, Module, Normalize, Pooling
from minisbert.checkpoint.router import Router, read_router
from minisbert.checkpoint.settings import ModelFiles, Settings, first_architecture
from minisbert.checkpoint.static_folder import StaticTensors, read_length_limit, static_config
from minisbert.checkpoint.task_adapters import JINA_MODULE, check_name, has_tasks, read_adapters
from minisbert.checkpoint.tensors import WEIGHTS, inside, open_tensors
from minisbert.checkpoint.transformer_folder import read_config, read_length_file
from minisbert.errors import ModelFolderError, folder_error

SIMILARITY_NAMES = ["cosine", "dot", "euclidean", "manhattan"]  # register.py adds to them
_MODEL_FILE = "config_sentence_transformers.json"
_POOLED = ("pooling", "trained_pooling", "static_embedding")  # after these the chain has a sentence embedding
# The orders of modules that give a sentence embedding.
_CHAIN = re.compile(
    "(static_embedding|transformer( -> weighted_layer_pooling)? -> (trained_)?pooling)( -> (dense|layer_norm|normalize))*"
)


@dataclass
class ModelFolder:
    """All settings of a model folder, and its tokenizer's files; not the tensors."""

    path: Path  # has modules.json
    transformer_path: Path  # has the encoder: config.json (except a static model's), weights and tokenizer
    model_type: str
    config: dict[str, Any]
    encoder: Any = None  # the family's Config: what config.json says, checked
    modules: tuple[Module, ...] = (Pooling(),)
    tokenizer_files: dict[str, bytes] = field(default_factory=dict)
    max_seq_length: int | None = None
    is_tokenizers_limit: bool = False  # `max_seq_length` is, as opposed to one set for this model
    do_lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str = "cosine"
    truncate_dim: int | None = None
    # A Router's choice of a route, and each route as a folder of its own. All else is then the main route's.
    router: Router | None = None
    routes: dict[str, "ModelFolder"] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)  # the file that each setting came from
    module_sources: tuple[str, ...] = ()  # and each module
    # What was assumed where the folder is silent; the caller logs it.
    notes: list[str] = field(default_factory=list)
    allow_pickle_weights: bool = False
    # Settings that change no embedding: file -> key -> value.
    ignored: dict[str, dict[str, Any]] = field(default_factory=dict)
    # What an adapter changes: the folder of those weights, if another, and how their tensors change.
    weights_path: Path | None = None
    adapt: Callable[[Any], Any] | None = None

    def open_encoder(self) -> Any:
        """The encoder's tensors, with what an adapter adds."""
        if self.is_static:
            return StaticTensors(self.transformer_path)
        tensors = open_tensors(self.weights_path or self.transformer_path, self.allow_pickle_weights)
        return tensors if self.adapt is None else self.adapt(tensors)

    def tokenizer_settings(self, name: str = "tokenizer_config.json") -> Settings:
        """The object in one of the tokenizer's files, empty where there is no such file."""
        file = self.transformer_path / name
        return Settings(parse_json(self.tokenizer_files.get(name, b"{}"), file), file)

    @property
    def is_static(self) -> bool:
        """The encoder is a table of vectors: without config.json, without special tokens around a text (static_folder.py)."""
        return self.model_type == "static"

    @property
    def longest(self) -> int:
        """The longest row of tokens: `max_seq_length` as far as the encoder has positions, by default as far as trained."""
        positions: int = self.encoder.max_positions
        if self.max_seq_length is None or self.is_tokenizers_limit:
            positions = min(positions, getattr(self.encoder, "max_position_embeddings", positions))
        return min(self.max_seq_length or positions, positions)

    @property
    def padding_id(self) -> int:
        """The token id that fills rows."""
        value = self.config.get("pad_token_id")
        return value if isinstance(value, int) else 0


def read_folder(
    path: Path,
    find: Callable[[str], Path] = Path,
    allow_pickle_weights: bool = False,
    allow_links: bool = False,
    adapter: str | None = None,
) -> ModelFolder:
    """Read a model folder of either dialect, or a plain Hugging Face folder (`notes` then says which pooling).

    Args:
        find: the folder of the model that an adapter changes, from its name.
        allow_pickle_weights: read weights that are only in a pickle (pickled.py).
        allow_links: follow links out of the folder.
        adapter: the one to merge where the folder has several (task_adapters.py).

    Raises:
        ModelFolderError: another kind of model, or anything missing, malformed, or not computed; with the file and the key.
    """
    files = ModelFiles(path, allow_links, find, adapter)
    try:
        file = files.folder / "modules.json"
        if is_plain := not files.has(file):
            folder = _read_plain(files)
        else:
            parts = read_chain(files, file)
            read = _read_routes if "router" in map(attrgetter("kind"), parts) else read_parts
            folder = read(files, parts, file)
        for one in (folder, *folder.routes.values()):
            one.allow_pickle_weights = allow_pickle_weights
            if not is_plain:
                _read_model_settings(files, one)
    except ModelFolderError:
        refuse_other_kinds(files)  # then what its reader misses is not what is wrong
        raise
    folder.ignored = files.ignored
    return folder


def _read_plain(files: ModelFiles) -> ModelFolder:
    """A folder without modules.json, read as sentence-transformers does, or a static model's as model2vec first wrote it."""
    path = files.folder
    config, file = read_config(files, path)
    if config["model_type"] != "model2vec":
        folder = _read_encoder(files, path, config, file)
        # Of a decoder, the last token has seen the whole text.
        is_decoder = first_architecture(config).endswith("ForCausalLM") and bool(config.get("is_causal", True))
        folder.modules = (Pooling(("lasttoken" if is_decoder else "mean",)),)
        used = f"{'last-token' if is_decoder else 'mean'} pooling over the transformer is used"
        folder.notes.append(f"{path}: no modules.json, so {used}, without settings of sentence-transformers.")
        folder.module_sources = ("assumed: no modules.json",)
        return folder
    settings = Settings(config, file)
    normalize = settings.flag("normalize", default=False)
    settings.finish()
    folder = _read_encoder(files, path, static_config(path), path / WEIGHTS)
    folder.modules = (Pooling(), Normalize()) if normalize else (Pooling(),)
    folder.module_sources = ("a static model's", "config.json")[: len(folder.modules)]
    folder.notes.append(
        f"{path}: no modules.json; a model2vec folder, read as sentence-transformers reads those that have one: unknown "
        "tokens count in the mean (model2vec itself leaves them out)."
    )
    return folder


def _read_routes(files: ModelFiles, parts: list[Part], file: Path) -> ModelFolder:
    """Each route as a chain of its own: the modules before the Router, the route's, those after the Router."""
    at, *others = (row for row, part in enumerate(parts) if part.kind == "router")
    if others:
        raise ModelFolderError(f"{file}: {len(others) + 1} Routers in the chain. Expected one; use another model.")
    router, chains = read_router(files, parts[at].path)
    routes, widths = {}, {}
    for name, chain in chains.items():
        routes[name] = read_parts(files, [*parts[:at], *chain, *parts[at + 1 :]], file)
        widths[name] = routes[name].encoder.hidden_size
        for module in routes[name].modules:
            widths[name] = module.width(widths[name])
    if len(set(widths.values())) > 1:
        found = f"the routes give embeddings of different widths, {widths}"
        raise folder_error(file, found, "one width", "use another model")
    return replace(routes[router.main], router=router, routes=routes)


def read_chain(files: ModelFiles, file: Path, scores: bool = False) -> list[Part]:
    """modules.json, `scores`: a reranker's -> the modules in their order, but those that only change training."""
    entries = files.json(file)
    if not isinstance(entries, list) or not 1 <= len(entries) <= limits.LAYERS:
        found = f"a list of {len(entries)}" if isinstance(entries, list) else type(entries).__name__
        raise folder_error(file, found, f"a list of 1 to {limits.LAYERS} modules")
    chain: list[Part] = []
    number = -1
    ignored = files.ignored.setdefault(file.name, {})
    for row, entry in enumerate(entries):
        settings = Settings(entry, file)
        for key, value in settings.by_table(MODULE).items():
            if key != "name":
                ignored[f"{row}.{key}"] = value
        path, kind = settings.text("path"), settings.text("type")
        number = settings.size("idx", number + 1, (number + 1, limits.ROWS))  # in their order; a gap changes nothing
        settings.finish()
        place = inside(file.parent, path, file)
        if kind == JINA_MODULE and has_tasks(files.json(place / "config.json")):
            kind = "sentence_transformers.models.Transformer"
        if kind not in MODULE_TYPES:
            raise unknown_type(path, kind, file, scores=scores)
        part = Part(MODULE_TYPES[kind], path)
        if part.kind == "dropout" and any(one.kind in _POOLED for one in chain):
            ignored[f"{row}.type"] = kind  # only training drops numbers, here inside the encoder only
        else:
            chain.append(part)
    return chain


def read_parts(files: ModelFiles, parts: list[Part], file: Path, scores: bool = False) -> ModelFolder:
    """A chain: its encoder, then each module with what it gets from those before it; `scores`: it is a reranker's."""
    kinds, _ = zip(*parts, strict=True)
    chain = " -> ".join(kinds)
    if scores and not (chain.startswith("transformer") and chain.endswith("-> dense")):
        raise ModelFolderError(
            f"{file}: the chain is {chain}. Expected that of a reranker: transformer alone, with the head among "
            "its weights, or transformer -> pooling -> ... -> dense, whose output are the scores. Use another model."
        )
    if not _CHAIN.fullmatch(chain):
        raise ModelFolderError(
            f"{file}: the chain is {chain}. Expected transformer -> pooling (weighted_layer_pooling between them or not) or "
            "static_embedding alone, then any dense, layer_norm, normalize; encoder and pooling once. Use another model."
        )
    (kind, relative), *rest = parts
    place = files.folder / relative
    is_static = kind == "static_embedding"
    config, source = (static_config(place), place / WEIGHTS) if is_static else read_config(files, place, scores)
    folder = _read_encoder(files, place, config, source)
    modules: list[Module] = [Pooling()] if is_static else []  # a static model's class averages its tokens itself
    sources = ["a static model's"] if is_static else []
    width, layers = folder.encoder.hidden_size, folder.encoder.num_hidden_layers
    every_layer = config.get("output_hidden_states") is True
    for row, part in enumerate(rest, start=1):
        own = f"{part.path}/config.json" if part.path else "config.json"  # in the model's folder that is the encoder's
        sources.append(own if part.path and files.has(files.folder / own) else "modules.json")
        # Up to 5.3 Normalize has no settings.
        values = {} if part.kind == "normalize" and sources[-1] == "modules.json" else files.json(files.folder / own)
        given = Given(width, layers, every_layer, scores and row == len(rest))
        modules.append(MODULES[part.kind].read(Settings(values, files.folder / own), given, part.path))
        width = modules[-1].width(width)
    folder.modules, folder.module_sources = tuple(modules), tuple(sources)
    return folder


def _read_encoder(files: ModelFiles, place: Path, config: dict[str, Any], file: Path) -> ModelFolder:
    """The encoder's settings, checked, its adapter, its tokenizer's files, and the length limit of its texts."""
    model_type = config["model_type"]
    if model_type not in FAMILIES:
        raise ModelFolderError(
            f"{file}: 'model_type' is {model_type!r}. Expected one of {', '.join(sorted(FAMILIES))}; use another model, or "
            "add the family (CONTRIBUTING.md)."
        )
    encoder = FAMILIES[model_type].Config.from_json(config, file)
    folder = ModelFolder(files.folder, place, model_type, config, encoder)
    folder.sources.update(dict.fromkeys(config, file.name))
    folder.tokenizer_files = files.tokenizer_files(place)
    if folder.is_static:
        check_name(files.adapter, [], place)
        read_length_limit(folder)
        return folder
    if (
        files.has(place / ADAPTER_FILE)
        or files.adapter is not None
        or "lora_adaptations" in files.json(place / "config.json")
        or any(place.glob(f"*/{ADAPTER_FILE}"))
    ):
        read_adapters(files, folder)
        base = folder.weights_path
        if base is not None and not folder.tokenizer_files:
            folder.tokenizer_files = ModelFiles(base, files.allow_links).tokenizer_files(base)
    read_length_file(files, folder, ("feature-extraction", "token_embeddings", "last_hidden_state"))
    return folder


def _read_model_settings(files: ModelFiles, folder: ModelFolder) -> None:
    """Prompts, similarity function, truncate_dim."""
    file = folder.path / _MODEL_FILE
    if not files.has(file):
        return
    settings = Settings(files.json(file), file)
    files.ignored[file.name] = settings.by_table(MODEL_FILE)
    settings.choice("model_type", ["SentenceTransformer"], default="SentenceTransformer", why="dense embeddings")
    folder.prompts, folder.default_prompt_name = settings.prompts()
    if settings.values.get("similarity_fn_name") is not None:
        folder.similarity_fn_name = settings.choice("similarity_fn_name", SIMILARITY_NAMES)
    folder.truncate_dim = settings.size("truncate_dim", None)
    # `model_type` is the encoder's in config.json, and the class's here.
    folder.sources |= dict.fromkeys(settings.values.keys() - {"model_type"}, _MODEL_FILE)
    settings.finish()
