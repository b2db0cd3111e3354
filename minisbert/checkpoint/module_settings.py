"""Reads the settings of each module of a chain, the transformer's length limit among them.

The two dialects have the limit in different files: sentence_bert_config.json has max_seq_length and do_lower_case up to
sentence-transformers 5.3, tokenizer_config.json has model_max_length from 5.4. A key or value that is not understood is
refused, since guessing could change the embeddings. The dataclasses are in modules.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from minisbert import limits
from minisbert.checkpoint.modules import (
    DENSE_ACTIVATIONS,
    POOLING_FLAGS,
    POOLING_MODES,
    Dense,
    LayerNorm,
    Module,
    Normalize,
    Part,
    Pooling,
    WeightedLayerPooling,
)
from minisbert.checkpoint.settings import ModelFiles, Settings, parse_json
from minisbert.errors import ModelFolderError

if TYPE_CHECKING:
    from minisbert.checkpoint.folder import ModelFolder

_LENGTH_FILE = "sentence_bert_config.json"
# Settings of sentence_bert_config.json that are arguments for another library.
_REFUSED = [f"{part}_args" for part in ("model", "tokenizer", "config")]
_REFUSED += [f"{part}_kwargs" for part in ("model", "processor", "config")]


class Given(NamedTuple):
    """What a module gets from those before it. None where config.json is wrong: the family complains about that."""

    width: int | None
    layers: int | None = None
    every_layer: bool = False  # config.json asks for the output of every layer


def read_lengths(files: ModelFiles, folder: "ModelFolder") -> None:
    """max_seq_length and do_lower_case, from the old file or, in the new dialect, the tokenizer's."""
    read_length_file(files, folder, ("feature-extraction", "token_embeddings", "last_hidden_state"))
    file = folder.transformer_path / "tokenizer_config.json"
    if folder.max_seq_length is None and file.name in folder.tokenizer_files:
        folder.max_seq_length = model_max_length(Settings(parse_json(folder.tokenizer_files[file.name], file), file))
        if folder.max_seq_length is not None:
            folder.sources["max_seq_length"] = "tokenizer_config.json"


def read_length_file(
    files: ModelFiles, folder: "ModelFolder", kind: tuple[str, str, str], *, required: bool = False
) -> None:
    """max_seq_length and do_lower_case from sentence_bert_config.json, if there is one.

    Args:
        kind: the transformer's task, output and method output in the new dialect.
        required: the file must name that task and output.
    """
    file = folder.transformer_path / _LENGTH_FILE
    if not files.has(file):
        return
    (task, output, method_output), settings = kind, Settings(files.json(file), file)
    settings.known(
        ["max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name"]
        + ["unpad_inputs", *_REFUSED]
    )
    for key, value in (("transformer_task", task), ("module_output_name", output)):
        if required or key in settings.values:
            settings.choice(key, [value])
    settings.absent(_REFUSED, "arguments for another library could change the result")
    text_only = {"text": {"method": "forward", "method_output_name": method_output}}
    if settings.values.get("modality_config", text_only) != text_only:
        settings.complain("modality_config", f"{text_only}, text in and {method_output} out")
    if settings.values.get("max_seq_length") is not None:
        folder.max_seq_length = settings.integer("max_seq_length", at_least=1, at_most=limits.ROWS)
        folder.sources["max_seq_length"] = _LENGTH_FILE
    folder.do_lower_case = settings.flag("do_lower_case", default=False)
    folder.sources["do_lower_case"] = _LENGTH_FILE
    settings.finish()


def model_max_length(settings: Settings) -> int | None:
    """The length limit in tokenizer_config.json, if it has one.

    Raises:
        ModelFolderError: it is not a length.
    """
    length = settings.values.get("model_max_length")
    # transformers writes "no limit" as 1e30.
    if length is None or (type(length) in (int, float) and length >= limits.ROWS):
        return None
    length = settings.integer("model_max_length", at_least=1, at_most=limits.ROWS)
    settings.finish()
    return length


def check_order(parts: list[Part], file: Path) -> None:
    """The modules are in an order that gives a sentence embedding.

    Raises:
        ModelFolderError: naming the chain as it is, and as it should be.
    """
    kinds, _ = zip(*parts, strict=True)
    heads = kinds[1:]
    good = kinds[0] == "static_embedding"
    if kinds[0] == "transformer":
        heads = heads[1:] if heads[:1] == ("weighted_layer_pooling",) else heads
        good, heads = heads[:1] == ("pooling",), heads[1:]
    if not good or not {*heads} <= {"dense", "layer_norm", "normalize"}:
        raise ModelFolderError(
            f"{file}: the chain is {' -> '.join(kinds)}. Expected transformer -> pooling (weighted_layer_pooling between them "
            "or not) or static_embedding alone, then any dense, layer_norm and normalize; the encoder and the pooling once. "
            "Use another model."
        )


def _read_layer_pooling(settings: Settings, given: Given, path: str) -> WeightedLayerPooling:
    settings.known(["embedding_dimension", "word_embedding_dimension", "layer_start", "num_hidden_layers"])
    if given.width is not None:
        for key in ("embedding_dimension", "word_embedding_dimension"):
            settings.integer(key, at_least=given.width, at_most=given.width, default=given.width)
    low, high = (0, limits.LAYERS) if given.layers is None else (given.layers, given.layers)
    layers = settings.integer("num_hidden_layers", at_least=low, at_most=high)
    start = settings.integer("layer_start", at_least=0, at_most=layers)
    settings.finish()
    if not given.every_layer:
        raise ModelFolderError(
            f"{settings.where}: averages layers, but 'output_hidden_states' in the transformer's config.json is not true, so "
            "that sentence-transformers silently skips this module. Expected true there; correct the file, or remove the "
            "module from the chain."
        )
    return WeightedLayerPooling(start, layers, path)


def _read_pooling(settings: Settings, given: Given, path: str) -> Pooling:
    settings.known(
        ["word_embedding_dimension", "embedding_dimension", "include_prompt", "pooling_mode", *POOLING_FLAGS]
    )
    if given.width is not None:
        for key in ("word_embedding_dimension", "embedding_dimension"):
            settings.integer(key, at_least=given.width, at_most=given.width, default=given.width)
    include_prompt = settings.flag("include_prompt", default=True)
    if "pooling_mode" in settings.values:
        mode = settings.values["pooling_mode"]
        modes = [mode] if isinstance(mode, str) else mode
        if not isinstance(modes, list) or not modes or not all(name in POOLING_MODES for name in modes):
            settings.complain("pooling_mode", f"one or a list of {', '.join(POOLING_MODES)}")
            modes = ["mean"]
    else:
        modes = []
        for flag, mode in POOLING_FLAGS.items():
            # Without any of the flags, the mean: the default of every version.
            if settings.flag(flag, default=mode == "mean" and POOLING_FLAGS.keys().isdisjoint(settings.values)):
                modes.append(mode)
        if not modes:
            settings.complain("pooling_mode_mean_tokens", "at least one of the pooling_mode_* settings true")
    settings.finish()
    return Pooling(tuple(modes), include_prompt)


def _read_normalize(settings: Settings, given: Given, path: str) -> Normalize:
    settings.known(_NAMES)
    _expect_sentence_embedding(settings)
    settings.finish()
    return Normalize()


_NAMES = ["module_input_name", "module_output_name"]


def _expect_sentence_embedding(settings: Settings) -> None:
    for key in _NAMES:
        settings.choice(key, ["sentence_embedding", None], default=None, why="modules after the pooling work on it")


def _read_layer_norm(settings: Settings, given: Given, path: str) -> LayerNorm:
    settings.known(["dimension"])
    low, high = (1, limits.WIDTH) if given.width is None else (given.width, given.width)
    dimension = settings.integer("dimension", at_least=low, at_most=high)
    settings.finish()
    return LayerNorm(dimension, path)


def _read_dense(settings: Settings, given: Given, path: str) -> Dense:
    settings.known(["in_features", "out_features", "bias", "activation_function", "use_residual", *_NAMES])
    settings.choice("use_residual", [False], default=False, why="a shortcut around Dense is not computed")
    _expect_sentence_embedding(settings)
    theirs = settings.choice(
        "activation_function", DENSE_ACTIVATIONS, default="torch.nn.modules.activation.Tanh", why="never imported"
    )
    dense = Dense(
        in_features=settings.integer("in_features", at_least=1, at_most=limits.WIDTH),
        out_features=settings.integer("out_features", at_least=1, at_most=limits.WIDTH),
        bias=settings.flag("bias", default=True),
        activation=DENSE_ACTIVATIONS[theirs],
        path=path,
    )
    settings.finish()
    if given.width is not None and dense.in_features != given.width:
        raise ModelFolderError(
            f"{settings.where}: 'in_features' is {dense.in_features}. Expected {given.width}, the width of the module before; "
            "download the model again."
        )
    return dense


# Kind of module -> reader of its settings, called with those, what the module gets, and its folder.
READERS: dict[str, Callable[[Settings, Given, str], Module]] = {
    "weighted_layer_pooling": _read_layer_pooling,
    "pooling": _read_pooling,
    "dense": _read_dense,
    "layer_norm": _read_layer_norm,
    "normalize": _read_normalize,
}
