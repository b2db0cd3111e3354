"""A model folder <-> a model that computes: design, parameters, tokenizer.

Reading joins what checkpoint/ reads (settings, tensors) with what encoders/ defines (Config, Encoder, RULES). Writing
makes an ordinary sentence-transformers folder, in the older dialect that every reader knows, and makes it whole or
not at all.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minisbert.checkpoint import folder as folders
from minisbert.checkpoint.convert import Converted, Rule, convert, export, flatten, nest
from minisbert.checkpoint.converted import CONVERTED, read_converted
from minisbert.checkpoint.folder import ModelFolder
from minisbert.checkpoint.folder_writer import write_settings
from minisbert.checkpoint.settings import read_bytes
from minisbert.checkpoint.tensors import WEIGHTS, SafetensorsFiles, write_tensors
from minisbert.checkpoint.whole_folder import staged_folder
from minisbert.encoders import FAMILIES
from minisbert.errors import ModelFolderError
from minisbert.sentence_model import Design, define
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

SOON_DEFINED = 48  # layers


@dataclass
class Pretrained:
    """A model read from a folder."""

    folder: ModelFolder
    design: Design
    params: dict[Any, Any]  # nested dict of arrays, float32
    tokenizer: Tokenizer
    tokenizer_files: dict[str, bytes]
    leftover: Converted = field(default_factory=lambda: Converted({}))  # carried tensors, original names and dtypes

    @property
    def capacity(self) -> int:
        """The longest row of tokens the encoder takes."""
        return self.design.config.positions


def read_design(folder: ModelFolder) -> Design:
    """The parts a folder asks for.

    Raises:
        ModelFolderError: a family that minisbert does not have, or settings it does not compute.
    """
    file = folder.transformer_path / "config.json"
    if folder.model_type not in FAMILIES:
        raise ModelFolderError(
            f"{file}: 'model_type' is {folder.model_type!r}. Expected one of {', '.join(sorted(FAMILIES))}; use another "
            "model, or add the family (CONTRIBUTING.md)."
        )
    config = FAMILIES[folder.model_type].Config.from_json(folder.config, file)
    return Design(folder.model_type, config, folder.modules)


def load_pretrained(path: Path, *, put: Callable[[str, np.ndarray], Any] | None = None) -> Pretrained:
    """Read a model folder.

    Args:
        path: of a sentence-transformers or plain Hugging Face folder.
        put: places one finished parameter, called with our flat path and a float32 array; by default on JAX's
            default device.

    Raises:
        ModelFolderError: see `read_folder`, `convert`, `Tokenizer.from_folder`; and a tokenizer with ids that the
            embedding table does not have.
    """
    folder = folders.read_folder(path)
    for note in folder.notes:
        logger.warning(note)
    design = read_design(folder)
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer.largest_id() >= design.config.vocab_size:
        raise ModelFolderError(
            f"{tokenizer.where}: gives ids up to {tokenizer.largest_id()}, but config.json's vocab_size is "
            f"{design.config.vocab_size}. The tokenizer is another model's; fetch the model again."
        )
    if folder.max_seq_length is not None and folder.max_seq_length <= tokenizer.special_tokens:
        raise ModelFolderError(
            f"{folder.path}: max_seq_length is {folder.max_seq_length}, but the tokenizer puts {tokenizer.special_tokens} "
            f"special tokens around each text. Expected at least {tokenizer.special_tokens + 1}; correct the settings."
        )
    refuse_layers(folder, design.config.num_hidden_layers)
    put = put or (lambda path, array: jax.device_put(array))
    shapes = {name: tuple(leaf.shape) for name, leaf in flatten(define(design)[1]).items()}
    converted = _read_encoder(folder, design, shapes, lambda path, array: put(f"encoder.{path}", array))
    params = {f"encoder.{name}": array for name, array in converted.params.items()}
    params.update(_read_dense(folder, put))
    files = {name: folder.transformer_path / name for name in TOKENIZER_FILES}
    return Pretrained(
        folder=folder,
        design=design,
        params=nest(params),
        tokenizer=tokenizer,
        tokenizer_files={name: read_bytes(file) for name, file in files.items() if file.is_file()},
        leftover=replace(converted, params={}),
    )


def refuse_layers(folder: ModelFolder, layers: int) -> None:
    """The weights are many enough for the layers that config.json tells of: defining a thousand takes minutes, which is not
    spent on those that are not there. A few are, and then every missing tensor is named.

    Raises:
        ModelFolderError: they are not.
    """
    here = folder.transformer_path
    tensors = SafetensorsFiles(here, CONVERTED if (here / CONVERTED).is_file() else WEIGHTS)
    per_layer = [rule for rule in FAMILIES[folder.model_type].RULES if "{i}" in rule.ours]
    if per_layer and layers > max(SOON_DEFINED, len(tensors.shapes())):
        raise ModelFolderError(
            f"{here / 'config.json'}: 'num_hidden_layers' is {layers}, but {tensors.where.name} has "
            f"{len(tensors.shapes())} tensors. Expected several for each layer; fetch the model again."
        )


def _read_encoder(
    folder: ModelFolder, design: Design, shapes: Mapping[str, Any], put: Callable[[str, np.ndarray], Any]
) -> Converted:
    encoder_shapes = {
        name.removeprefix("encoder."): shape for name, shape in shapes.items() if name.startswith("encoder.")
    }
    if (folder.transformer_path / CONVERTED).is_file():
        return read_converted(folder.transformer_path, encoder_shapes, put)
    family = FAMILIES[design.model_type]
    return convert(
        SafetensorsFiles(folder.transformer_path),
        family.RULES,
        encoder_shapes,
        layers=design.config.num_hidden_layers,
        carried=family.CARRIED,
        prefix=family.PREFIX,
        put=put,
    )


def _dense_rules(module: folders.Dense) -> list[Rule]:
    rules = [Rule("linear.weight", "kernel", transpose=True)]
    return rules + [Rule("linear.bias", "bias")] if module.bias else rules


def _read_dense(folder: ModelFolder, put: Callable[[str, np.ndarray], Any]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    dense = [module for module in folder.modules if isinstance(module, folders.Dense)]
    for i, module in enumerate(dense):
        shapes = {"kernel": (module.in_features, module.out_features), "bias": (module.out_features,)}
        here = f"dense.{i}.linear."
        read = convert(
            SafetensorsFiles(folder.path / module.path),
            _dense_rules(module),
            shapes,
            layers=0,
            put=lambda path, array, here=here: put(here + path, array),  # type: ignore[misc]
        )
        params.update({here + name: array for name, array in read.params.items()})
    return params


def encoder_tensors(model: Pretrained) -> dict[str, np.ndarray]:
    """The encoder's weights under the names of its family's checkpoints, with everything the original carried."""
    flat = flatten(model.params["encoder"])
    converted = replace(model.leftover, params=flat)
    return export(converted, FAMILIES[model.design.model_type].RULES, layers=model.design.config.num_hidden_layers)


def save_pretrained(model: Pretrained, target: Path) -> None:
    """Write a model folder that minisbert, sentence-transformers and text-embeddings-inference read.

    The folder is made beside the target and renamed when whole; a model that stood there is replaced.

    Raises:
        InputError: the target is a file, or a folder with something else than a model in it.
        OSError: the disk is full or not writable; the target is as it was.
    """
    target = Path(target).absolute()
    with staged_folder(target) as staging:
        _write_folder(model, staging)


def _write_folder(model: Pretrained, path: Path) -> None:
    places = write_settings(replace(model.folder, modules=model.design.modules), path)
    write_tensors(path / "model.safetensors", encoder_tensors(model))
    for name, content in model.tokenizer_files.items():
        (path / name).write_bytes(content)
    if "tokenizer.json" not in model.tokenizer_files:
        model.tokenizer.backend.save(str(path / "tokenizer.json"))
    dense = 0
    for module, here in zip(model.design.modules, places, strict=True):
        if isinstance(module, folders.Dense):
            linear = Converted(flatten(model.params["dense"][dense]["linear"]))
            write_tensors(here / "model.safetensors", export(linear, _dense_rules(module), layers=0))
            dense += 1


def cast_matrices(params: dict[Any, Any], dtype: Any) -> dict[Any, Any]:
    """The blocks' matrices in the compute dtype, cast once; tables, biases and norms stay float32."""
    flat = flatten(params)
    return nest(
        {
            name: jnp.asarray(leaf, dtype) if name.endswith(".kernel") and ".blocks." in name else leaf
            for name, leaf in flat.items()
        }
    )
