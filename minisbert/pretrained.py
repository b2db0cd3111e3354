"""A model folder <-> a model that computes: design, parameters, tokenizer.

Reading joins what checkpoint/ reads (settings, tensors) with what encoders/ defines (Config, Encoder, RULES). Writing
makes an ordinary sentence-transformers folder, in the older dialect that every reader knows, and makes it whole or
not at all.
"""

import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minisbert.checkpoint import folder as folders
from minisbert.checkpoint.convert import Converted, convert, export, flatten, nest
from minisbert.checkpoint.folder import ModelFolder
from minisbert.checkpoint.tensors import SafetensorsFiles, write_tensors
from minisbert.encoders import FAMILIES
from minisbert.errors import InputError, ModelFolderError
from minisbert.sentence_model import Design, define
from minisbert.text.tokenizer import Tokenizer

logger = logging.getLogger("minisbert")

# The tokenizer's files are kept as they came and written back unchanged.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "added_tokens.json",
)
CONVERTED = "minisbert.safetensors"


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
        tokenizer_files={name: file.read_bytes() for name, file in files.items() if file.is_file()},
        leftover=replace(converted, params={}),
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


def _dense_rules(module: folders.Dense) -> list[Any]:
    from minisbert.checkpoint.convert import Rule

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


class staged_folder:
    """Context manager: a new empty folder beside `target` that takes its place on success and vanishes on failure."""

    def __init__(self, target: Path):
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise InputError(
                f"{target}: exists and is not a folder. Expected a new path, or a model folder to replace."
            )
        if target.is_dir() and any(target.iterdir()) and not (target / "config.json").is_file():
            raise InputError(
                f"{target}: holds files but no model. Expected a new path, or a model folder to replace; nothing was "
                "written."
            )
        self.target = target
        self.staging = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex[:8]}")

    def __enter__(self) -> Path:
        self.staging.mkdir(parents=True)
        return self.staging

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            shutil.rmtree(self.staging, ignore_errors=True)
            return
        for file in self.staging.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        if self.target.exists():
            old = self.target.with_name(f".{self.target.name}.old-{uuid.uuid4().hex[:8]}")
            self.target.rename(old)
            self.staging.rename(self.target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            self.staging.rename(self.target)


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_folder(model: Pretrained, path: Path) -> None:
    folder = model.folder
    _write_json(path / "config.json", folder.config)
    write_tensors(path / "model.safetensors", encoder_tensors(model))
    for name, content in model.tokenizer_files.items():
        (path / name).write_bytes(content)
    if "tokenizer.json" not in model.tokenizer_files:
        model.tokenizer.backend.save(str(path / "tokenizer.json"))
    _write_json(
        path / "sentence_bert_config.json",
        {"max_seq_length": folder.max_seq_length, "do_lower_case": folder.do_lower_case},
    )
    chain = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    width = model.design.config.hidden_size
    dense = 0
    for i, module in enumerate(model.design.modules, start=1):
        kind = type(module).__name__
        here = f"{i}_{kind}"
        chain.append({"idx": i, "name": str(i), "path": here, "type": f"sentence_transformers.models.{kind}"})
        if isinstance(module, folders.Pooling):
            _write_json(path / here / "config.json", _pooling_json(module, width))
            width *= len(module.modes)
        elif isinstance(module, folders.Dense):
            _write_json(path / here / "config.json", _dense_json(module))
            params = flatten(model.params["dense"][dense]["linear"])
            write_tensors(path / here / "model.safetensors", export(Converted(params), _dense_rules(module), layers=0))
            dense += 1
        else:
            (path / here).mkdir()
    _write_json(path / "modules.json", chain)
    _write_json(path / "config_sentence_transformers.json", _model_json(folder))


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


def write_converted(path: Path, converted: Converted) -> None:
    """Our own names in one safetensors file, with all that is needed to write the original back to the bit."""
    tensors = {f"params/{name}": np.asarray(array) for name, array in converted.params.items()}
    tensors.update({f"carried/{name}": array for name, array in converted.carried.items()})
    record = {"renamed": converted.renamed, "dtypes": converted.dtypes}
    write_tensors(path / CONVERTED, tensors, {"minisbert": json.dumps(record)})


def read_converted(
    path: Path, shapes: Mapping[str, Any], put: Callable[[str, np.ndarray], Any] = lambda path, array: array
) -> Converted:
    """Read what `write_converted` wrote.

    Raises:
        ModelFolderError: tensors missing, unknown or mis-shaped, all named; a record that is not ours.
    """
    files = SafetensorsFiles(path, CONVERTED)
    try:
        record = json.loads(files.metadata()["minisbert"])
        renamed, dtypes = dict(record["renamed"]), dict(record["dtypes"])
    except (KeyError, ValueError, TypeError):
        raise ModelFolderError(
            f"{path / CONVERTED}: the record of the conversion is missing or damaged. Run `minisbert convert` again."
        ) from None
    found = {
        name.removeprefix("params/"): shape for name, shape in files.shapes().items() if name.startswith("params/")
    }
    complaints = [f"missing: {name!r}" for name in shapes.keys() - found.keys()]
    complaints += [f"unknown: {name!r}" for name in found.keys() - shapes.keys()]
    complaints += [
        f"wrong shape: {name!r} is {list(found[name])}, expected {list(shapes[name])}"
        for name in shapes.keys() & found.keys()
        if tuple(found[name]) != tuple(shapes[name])
    ]
    if complaints:
        raise ModelFolderError(f"{path / CONVERTED}: {'; '.join(sorted(complaints))}. Run `minisbert convert` again.")
    converted = Converted({}, renamed=renamed, dtypes=dtypes)
    for name in shapes:
        array = files.read(f"params/{name}")
        if not np.isfinite(array).all():
            raise ModelFolderError(
                f"{path / CONVERTED}: {name!r} holds NaN or infinity. Run `minisbert convert` again."
            )
        converted.params[name] = put(name, array)
    for name in files.shapes():
        if name.startswith("carried/"):
            converted.carried[name.removeprefix("carried/")] = files.read(name)
    return converted


def cast_matrices(params: dict[Any, Any], dtype: Any) -> dict[Any, Any]:
    """The blocks' matrices in the compute dtype, cast once; tables, biases and norms stay float32."""
    flat = flatten(params)
    return nest(
        {
            name: jnp.asarray(leaf, dtype) if name.endswith(".kernel") and ".blocks." in name else leaf
            for name, leaf in flat.items()
        }
    )
