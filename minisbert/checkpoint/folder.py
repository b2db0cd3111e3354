"""A sentence-transformers model folder, read exactly and written plainly.

    config.json, model.safetensors, tokenizer.json      the transformer, as Hugging Face keeps it
    modules.json                                        the chain: Transformer, Pooling, then Dense / Normalize
    1_Pooling/config.json, 2_Dense/...                  one folder a module
    sentence_bert_config.json                           max_seq_length, do_lower_case
    config_sentence_transformers.json                   prompts, similarity function, truncate_dim

Two dialects are in use: up to sentence-transformers 5.3 pooling is six booleans and the length limit stands in
`sentence_bert_config.json`; from 5.4 pooling is one `pooling_mode` and the limit is the tokenizer's. Both are read;
the older is written, because every reader knows it. Reading is strict: a module, key or value that is not understood
is refused, since guessing could change the embeddings. Names of classes are looked up in the tables below; nothing a
folder names is ever imported.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minisbert import limits
from minisbert.checkpoint.kinds import refuse_cross_encoder
from minisbert.checkpoint.links import refuse_links_out
from minisbert.checkpoint.settings import Settings, encodable, read_json
from minisbert.checkpoint.tensors import inside
from minisbert.errors import ModelFolderError

# The class names of both dialects -> what we call the module.
_PREFIXES = ("sentence_transformers.models", "sentence_transformers.base.modules")
_MODULES = "sentence_transformers.sentence_transformer.modules"
MODULE_TYPES = {
    f"{prefix}.{path}": kind
    for kind, paths in {
        "transformer": ("Transformer", "transformer.Transformer"),
        "pooling": ("Pooling", "pooling.Pooling"),
        "dense": ("Dense", "dense.Dense"),
        "normalize": ("Normalize", "normalize.Normalize"),
    }.items()
    for prefix in (*_PREFIXES, _MODULES)
    for path in paths
}

# Old boolean -> pooling mode; the order is the order in which several modes are concatenated.
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLING_MODES = tuple(POOLING_FLAGS.values())

# The activations of Dense modules: their class -> our name (see dense.py). Looked up, never imported.
DENSE_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
}

SIMILARITY_NAMES = ("cosine", "dot", "euclidean", "manhattan")

_LENGTH_FILE = "sentence_bert_config.json"
_MODEL_FILE = "config_sentence_transformers.json"


@dataclass(frozen=True)
class Pooling:
    """Token embeddings -> one vector; several modes are concatenated in the order given."""

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True


@dataclass(frozen=True)
class Dense:
    """A linear map with an activation on the sentence embedding; its weights lie in `path`."""

    in_features: int
    out_features: int
    bias: bool = True
    activation: str = "tanh"
    path: str = ""


@dataclass(frozen=True)
class Normalize:
    """Scale the sentence embedding to length 1."""


Module = Pooling | Dense | Normalize


@dataclass
class ModelFolder:
    """Everything a model folder says, except the tensors and the tokenizer's insides."""

    path: Path  # holds modules.json
    transformer_path: Path  # holds config.json, the weights and the tokenizer
    model_type: str
    config: dict[str, Any]
    modules: tuple[Module, ...] = (Pooling(),)
    max_seq_length: int | None = None
    do_lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str = "cosine"
    truncate_dim: int | None = None
    # Which file each setting came from, for `minisbert inspect`.
    sources: dict[str, str] = field(default_factory=dict)
    # What was assumed where the folder is silent; said aloud by the caller.
    notes: list[str] = field(default_factory=list)


def read_folder(path: Path) -> ModelFolder:
    """Read a model folder of either dialect, or a plain Hugging Face folder (then: mean pooling, said in `notes`).

    Raises:
        ModelFolderError: anything missing, malformed, or not computed by minisbert, with the file and the key.
    """
    path = Path(path)
    if not path.is_dir():
        raise ModelFolderError(f"{path}: no such folder. Expected a model folder or a known model name.")
    refuse_links_out(path)
    refuse_cross_encoder(path)
    chain = _read_chain(path / "modules.json") if (path / "modules.json").exists() else None
    transformer_path = inside(path, chain[0][1], path / "modules.json") if chain else path
    refuse_links_out(path, (path / where for _, where in chain or ()))
    config = read_json(transformer_path / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelFolderError(
            f"{transformer_path / 'config.json'}: no 'model_type' string. Expected a Hugging Face encoder's settings; "
            "fetch the model again."
        )
    folder = ModelFolder(path, transformer_path, config["model_type"], config)
    folder.sources.update(dict.fromkeys(config, "config.json"))
    if chain is None:
        folder.notes.append(f"{path}: no modules.json, so mean pooling over the transformer is used.")
        folder.sources["modules"] = "assumed: no modules.json"
    else:
        folder.sources["modules"] = "modules.json"
        width = config.get("hidden_size") or config.get("dim")  # DistilBERT says dim
        folder.modules = tuple(_read_module(path, kind, where, width) for kind, where in chain[1:])
        _check_chain(folder)
    _read_lengths(folder)
    _read_model_settings(folder)
    return folder


def _read_chain(file: Path) -> list[tuple[str, str]]:
    """modules.json -> (kind, folder) pairs, the transformer first."""
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
                "Expected Transformer, Pooling, Dense or Normalize of sentence-transformers; use another model."
            )
        inside(file.parent, path, file)
        chain.append((MODULE_TYPES[kind], path))
    kinds = [kind for kind, _ in chain]
    if kinds[0] != "transformer" or kinds.count("transformer") > 1 or kinds[1:2] != ["pooling"]:
        raise ModelFolderError(
            f"{file}: the chain is {' -> '.join(kinds)}; expected transformer -> pooling, then any dense and "
            "normalize. Use another model."
        )
    if kinds.count("pooling") > 1:
        raise ModelFolderError(f"{file}: pooling stands {kinds.count('pooling')} times in the chain; expected once.")
    return chain


def _read_module(folder: Path, kind: str, relative: str, width: Any) -> Module:
    file = folder / relative / "config.json"
    if kind == "pooling":
        return _read_pooling(Settings(read_json(file), file), width)
    if kind == "dense":
        return _read_dense(Settings(read_json(file), file), relative)
    if file.exists():
        settings = Settings(read_json(file), file)
        settings.known(["module_input_name", "module_output_name"])
        _expect_sentence_embedding(settings)
        settings.finish()
    return Normalize()


def _read_pooling(settings: Settings, width: Any) -> Pooling:
    settings.known(
        ["word_embedding_dimension", "embedding_dimension", "include_prompt", "pooling_mode", *POOLING_FLAGS]
    )
    if type(width) is int and 1 <= width <= limits.WIDTH:  # else config.json is complained of later
        for key in ("word_embedding_dimension", "embedding_dimension"):
            settings.integer(key, at_least=width, at_most=width, default=width)
    include_prompt = settings.flag("include_prompt", default=True)
    if "pooling_mode" in settings.values:
        mode = settings.values["pooling_mode"]
        modes = [mode] if isinstance(mode, str) else mode
        if not isinstance(modes, list) or not modes or not all(name in POOLING_MODES for name in modes):
            settings.complain("pooling_mode", f"one or a list of {', '.join(POOLING_MODES)}")
            modes = ["mean"]
    else:
        flags = [flag for flag in POOLING_FLAGS if flag in settings.values]
        modes = [POOLING_FLAGS[flag] for flag in flags if settings.flag(flag)]
        if not flags:
            modes = ["mean"]  # the default of every version
        elif not modes:
            settings.complain(flags[0], "at least one of the pooling_mode_* settings true")
    settings.finish()
    return Pooling(tuple(modes), include_prompt)


def _expect_sentence_embedding(settings: Settings) -> None:
    for key in ("module_input_name", "module_output_name"):
        settings.choice(key, ["sentence_embedding", None], default=None, why="modules after the pooling work on it")


def _read_dense(settings: Settings, relative: str) -> Dense:
    settings.known(
        ["in_features", "out_features", "bias", "activation_function", "use_residual"]
        + ["module_input_name", "module_output_name"]
    )
    settings.choice("use_residual", [False], default=False, why="a shortcut around Dense is not computed")
    _expect_sentence_embedding(settings)
    dense = Dense(
        in_features=settings.integer("in_features", at_least=1, at_most=limits.WIDTH),
        out_features=settings.integer("out_features", at_least=1, at_most=limits.WIDTH),
        bias=settings.flag("bias", default=True),
        activation=DENSE_ACTIVATIONS[
            settings.choice(
                "activation_function",
                DENSE_ACTIVATIONS,
                default="torch.nn.modules.activation.Tanh",
                why="never imported",
            )
        ],
        path=relative,
    )
    settings.finish()
    return dense


def _check_chain(folder: ModelFolder) -> None:
    """Each Dense must take what the module before it gives."""
    width = folder.config.get("hidden_size") or folder.config.get("dim")
    pooling_file = folder.path / "modules.json"
    for module in folder.modules:
        if isinstance(module, Pooling) and isinstance(width, int):
            width *= len(module.modes)
        elif isinstance(module, Dense):
            if module.in_features != width:
                raise ModelFolderError(
                    f"{folder.path / module.path / 'config.json'}: 'in_features' is {module.in_features}, but the "
                    f"module before gives {width} (see {pooling_file}). Fetch the model again."
                )
            width = module.out_features


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
