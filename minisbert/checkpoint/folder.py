"""A sentence-transformers model folder, read exactly and written plainly.

    config.json, model.safetensors, tokenizer.json      the transformer, as Hugging Face keeps it
    modules.json                                        the chain of modules: Transformer, Pooling, ...: modules.py
    1_Pooling/config.json, 2_Dense/...                  one folder a module
    router_config.json                                  several chains in one folder: router.py
    sentence_bert_config.json                           max_seq_length, do_lower_case
    config_sentence_transformers.json                   prompts, similarity function, truncate_dim

Two dialects are in use: up to sentence-transformers 5.3 pooling is six booleans and the length limit stands in
`sentence_bert_config.json`; from 5.4 pooling is one `pooling_mode` and the limit is the tokenizer's. Both are read;
the older is written, because every reader knows it. A static model has neither config.json nor limit
(static_folder.py). Reading is strict: a key or value that is not understood is refused, since guessing could change the
embeddings.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minisbert import limits
from minisbert.checkpoint.kinds import refuse_other_kinds
from minisbert.checkpoint.links import refuse_links_out
from minisbert.checkpoint.modules import (
    MODULE_TYPES,
    Given,
    Module,
    Normalize,
    Part,
    Pooling,
    check_order,
    read_module,
)
from minisbert.checkpoint.router import Router, read_router
from minisbert.checkpoint.settings import Settings, encodable, read_json
from minisbert.checkpoint.static_folder import length_limit, static_config
from minisbert.checkpoint.tensors import inside
from minisbert.errors import ModelFolderError

SIMILARITY_NAMES = ("cosine", "dot", "euclidean", "manhattan")

_LENGTH_FILE = "sentence_bert_config.json"
_MODEL_FILE = "config_sentence_transformers.json"


@dataclass
class ModelFolder:
    """Everything a model folder says, except the tensors and the tokenizer's insides."""

    path: Path  # holds modules.json
    transformer_path: Path  # holds the encoder: config.json (but a static model's), the weights and the tokenizer
    model_type: str
    config: dict[str, Any]
    modules: tuple[Module, ...] = (Pooling(),)
    max_seq_length: int | None = None
    do_lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str = "cosine"
    truncate_dim: int | None = None
    # Of a Router: how a route is chosen, and each route as a folder of its own. The rest is then the main route's.
    router: Router | None = None
    routes: dict[str, "ModelFolder"] = field(default_factory=dict)
    # Which file each setting came from, for `minisbert inspect`; and each module.
    sources: dict[str, str] = field(default_factory=dict)
    module_sources: tuple[str, ...] = ()
    # What was assumed where the folder is silent; said aloud by the caller.
    notes: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Of the token embeddings."""
        return self.config.get("hidden_size") or self.config["dim"]  # DistilBERT says dim


def read_folder(path: Path) -> ModelFolder:
    """Read a model folder of either dialect, or a plain Hugging Face folder (then: mean pooling, said in `notes`).

    Raises:
        ModelFolderError: anything missing, malformed, or not computed by minisbert, with the file and the key.
    """
    path = Path(path)
    if not path.is_dir():
        raise ModelFolderError(f"{path}: no such folder. Expected a model folder or a known model name.")
    refuse_links_out(path)
    refuse_other_kinds(path)
    file = path / "modules.json"
    if not file.exists():
        folder = _read_plain(path)
    else:
        parts = _read_chain(file)
        refuse_links_out(path, (path / part.path for part in parts))
        routers = [i for i, part in enumerate(parts) if part.kind == "router"]
        if len(routers) > 1:
            raise ModelFolderError(f"{file}: {len(routers)} Routers in the chain; expected one. Use another model.")
        folder = _read_routes(path, parts, routers[0]) if routers else _read_parts(path, parts, file)
    for one in (folder, *folder.routes.values()):
        _read_model_settings(one)
    return folder


def _read_plain(path: Path) -> ModelFolder:
    """A folder without modules.json: a transformer's, or a static model's as model2vec wrote it at first."""
    config = _read_config(path)
    if config["model_type"] != "model2vec":
        folder = _encoder_folder(path, path, config)
        folder.notes.append(f"{path}: no modules.json, so mean pooling over the transformer is used.")
        folder.module_sources = ("assumed: no modules.json",)
        return folder
    settings = Settings(config, path / "config.json")
    normalize = settings.flag("normalize", default=False)
    settings.finish()
    folder = _encoder_folder(path, path, static_config(path))
    folder.modules = (Pooling(), Normalize()) if normalize else (Pooling(),)
    folder.module_sources = ("a static model's", "config.json")[: len(folder.modules)]
    folder.notes.append(
        f"{path}: no modules.json; a model2vec folder, read as sentence-transformers reads those that have one: unknown "
        "tokens count in the mean (model2vec itself leaves them out)."
    )
    return folder


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path / "config.json")
    # "static" is our own name for what has no config.json.
    if (
        not isinstance(config, dict)
        or not isinstance(config.get("model_type"), str)
        or config["model_type"] == "static"
    ):
        raise ModelFolderError(
            f"{path / 'config.json'}: no 'model_type' string. Expected a Hugging Face encoder's settings; "
            "fetch the model again."
        )
    return config


def _read_chain(file: Path) -> list[Part]:
    """modules.json -> the modules in their order."""
    entries = read_json(file)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ModelFolderError(f"{file}: expected a list of modules. Fetch the model again.")
    if len(entries) > limits.LAYERS:
        raise ModelFolderError(f"{file}: {len(entries)} modules, more than any model has. Fetch the model again.")
    chain = []
    for row, entry in enumerate(entries):
        settings = Settings(entry, file)
        path, kind = settings.text("path"), settings.text("type")
        settings.choice("idx", [row], default=row, why="modules stand in their order")
        settings.finish()
        if kind not in MODULE_TYPES:
            raise ModelFolderError(
                f"{file}: module {path!r} is of type {kind!r}, which minisbert does not compute (and never imports). "
                "Expected Transformer, StaticEmbedding, Router, Pooling, WeightedLayerPooling, Dense, LayerNorm or "
                "Normalize of sentence-transformers; use another model."
            )
        inside(file.parent, path, file)
        chain.append(Part(MODULE_TYPES[kind], path))
    return chain


def _read_routes(path: Path, parts: list[Part], at: int) -> ModelFolder:
    """Each route as a chain of its own: what stands before the Router, the route's modules, what stands after."""
    router, chains = read_router(path, parts[at].path)
    file = path / "modules.json"
    routes = {name: _read_parts(path, [*parts[:at], *chain, *parts[at + 1 :]], file) for name, chain in chains.items()}
    widths = {name: _embedding_width(one) for name, one in routes.items()}
    if len(set(widths.values())) > 1:
        raise ModelFolderError(
            f"{file}: the routes give embeddings of different widths, {widths}, which cannot be compared. Expected one "
            "width; use another model."
        )
    return replace(routes[router.main], router=router, routes=routes)


def _embedding_width(folder: ModelFolder) -> int | None:
    width = _sane(folder.config.get("hidden_size") or folder.config.get("dim"))
    for module in folder.modules:
        width = None if width is None else module.width(width)
    return width


def _read_parts(path: Path, parts: list[Part], file: Path) -> ModelFolder:
    """A chain: its encoder, then the modules after that, each told what the ones before give."""
    check_order(parts, file)
    (kind, relative), *rest = parts
    transformer_path = inside(path, relative, file)
    is_static = kind == "static_embedding"
    config = static_config(transformer_path) if is_static else _read_config(transformer_path)
    modules: list[Module] = [Pooling()] if is_static else []
    sources = ["a static model's"] if is_static else []
    width = _sane(config.get("hidden_size") or config.get("dim"))
    layers = _sane(config.get("num_hidden_layers") or config.get("n_layers"))
    for part in rest:
        given = Given(width, layers, config.get("output_hidden_states") is True)
        modules.append(read_module(part, path, given))
        width = None if width is None else modules[-1].width(width)
        own = f"{part.path}/config.json"
        sources.append(own if (path / own).exists() else "modules.json")
    folder = _encoder_folder(path, transformer_path, config)
    folder.modules, folder.module_sources = tuple(modules), tuple(sources)
    return folder


def _sane(size: Any) -> int | None:
    """A size of config.json, or None where it is none: the family will complain of it."""
    return size if type(size) is int and 1 <= size <= limits.WIDTH else None


def _encoder_folder(path: Path, transformer_path: Path, config: dict[str, Any]) -> ModelFolder:
    """The encoder's settings and length limit."""
    folder = ModelFolder(path, transformer_path, config["model_type"], config)
    if config["model_type"] == "static":
        folder.sources.update(dict.fromkeys(config, "model.safetensors"))
        folder.max_seq_length = length_limit(transformer_path)
        if folder.max_seq_length is not None:
            folder.sources["max_seq_length"] = "tokenizer.json"
    else:
        folder.sources.update(dict.fromkeys(config, "config.json"))
        _read_lengths(folder)
    return folder


def _read_lengths(folder: ModelFolder) -> None:
    """max_seq_length and do_lower_case, from the old file or, in the new dialect, the tokenizer's."""
    file = folder.transformer_path / _LENGTH_FILE
    if file.exists():
        settings = Settings(read_json(file), file)
        refused = ["model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs"]
        settings.known(
            ["max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name"]
            + ["unpad_inputs", *refused]
        )
        settings.choice("transformer_task", ["feature-extraction"], default="feature-extraction")
        settings.choice("module_output_name", ["token_embeddings"], default="token_embeddings")
        settings.absent(refused, "arguments for another library could change the result")
        text_only = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
        if settings.values.get("modality_config", text_only) != text_only:
            settings.complain("modality_config", f"{text_only}, text in and the last hidden state out")
        if settings.values.get("max_seq_length") is not None:
            folder.max_seq_length = settings.integer("max_seq_length", at_least=1, at_most=limits.ROWS)
            folder.sources["max_seq_length"] = _LENGTH_FILE
        folder.do_lower_case = settings.flag("do_lower_case", default=False)
        folder.sources["do_lower_case"] = _LENGTH_FILE
        settings.finish()
    file = folder.transformer_path / "tokenizer_config.json"
    if folder.max_seq_length is None and file.exists():
        settings = Settings(read_json(file), file)
        length = settings.values.get("model_max_length")
        # 1e30 is the library's way to say "no limit".
        if isinstance(length, int | float) and not isinstance(length, bool) and length >= limits.ROWS:
            length = None
        if length is not None:
            folder.max_seq_length = settings.integer("model_max_length", at_least=1, at_most=limits.ROWS)
            folder.sources["max_seq_length"] = "tokenizer_config.json"
            settings.finish()


def _read_model_settings(folder: ModelFolder) -> None:
    """Prompts, similarity function, truncate_dim."""
    file = folder.path / _MODEL_FILE
    if not file.exists():
        return
    settings = Settings(read_json(file), file)
    settings.known(
        ["__version__", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim", "model_type"]
        + ["requirements"]
    )
    settings.choice("model_type", ["SentenceTransformer", None], default=None, why="dense sentence embeddings")
    settings.absent(["requirements"], "what another library requires cannot be checked here")
    prompts = {} if settings.values.get("prompts") is None else settings.values["prompts"]
    if not isinstance(prompts, dict) or not all(
        isinstance(text, str) and encodable(text) for pair in prompts.items() for text in pair
    ):
        settings.complain("prompts", "an object of prompt name to text")
        prompts = {}
    folder.prompts = dict(prompts)
    folder.default_prompt_name = settings.text("default_prompt_name", default=None)
    if folder.default_prompt_name is not None and folder.default_prompt_name not in folder.prompts:
        settings.complain("default_prompt_name", f"one of the prompts {sorted(folder.prompts)}")
    if settings.values.get("similarity_fn_name") is not None:
        folder.similarity_fn_name = settings.choice("similarity_fn_name", SIMILARITY_NAMES)
    if settings.values.get("truncate_dim") is not None:
        folder.truncate_dim = settings.integer("truncate_dim", at_least=1, at_most=limits.WIDTH)
    folder.sources.update({key: _MODEL_FILE for key in settings.values if key != "__version__"})
    settings.finish()
