"""Loads a cross-encoder's folder into parameters and a tokenizer, puts a fresh head on an encoder, and writes a folder.

The counterpart of minisbert/pretrained.py, and as strict: the encoder's rules and the head's (heads.py) are read in one pass,
so that one error names every tensor that is unknown, missing, doubled or mis-shaped.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minisbert import limits
from minisbert.atomic_write import staged_folder
from minisbert.checkpoint.convert import (
    Converted,
    Rule,
    canonical_names,
    convert,
    export,
    flatten,
    nest,
    rule_shapes,
)
from minisbert.checkpoint.settings import Settings
from minisbert.checkpoint.tensors import WEIGHTS, SafetensorsFiles, write_tensors
from minisbert.cross_encoder.folder import (
    CrossEncoderFolder,
    classifier_dropout,
    default_activation,
    label_settings,
    length_limit,
    read_cross_encoder_folder,
    write_cross_encoder_settings,
)
from minisbert.cross_encoder.heads import HEADS
from minisbert.cross_encoder.model import CrossEncoderConfig, initial_head
from minisbert.encoders import FAMILIES
from minisbert.errors import InputError, ModelFolderError
from minisbert.pretrained import Pretrained, check_tokenizer, tokenizer_files
from minisbert.text.tokenizer import Tokenizer

# A pretrained encoder's own first matrix for [CLS] (BERT's); a fresh head starts from it.
_POOLER = "pooler."
# Settings of an encoder's config.json that a cross-encoder replaces.
_REPLACED = ("dtype", "torch_dtype", "num_labels", "problem_type", "id2label", "label2id", "sentence_transformers")


@dataclass
class PretrainedCrossEncoder:
    """A cross-encoder read from a folder."""

    folder: CrossEncoderFolder
    model_config: CrossEncoderConfig
    params: dict[Any, Any]  # nested dict of arrays, float32: {"encoder", "head"}
    tokenizer: Tokenizer
    # What `export` needs besides `params`: tensors passed through, original names and dtypes.
    original: Converted = field(default_factory=lambda: Converted({}))


def load_cross_encoder(path: Path) -> PretrainedCrossEncoder:
    """Read a cross-encoder's folder.

    Raises:
        ModelFolderError: see `read_cross_encoder_folder`, `convert`, `Tokenizer.from_folder`; or an encoder without a head.
    """
    folder = read_cross_encoder_folder(path)
    _check_family(folder)
    family, head = FAMILIES[folder.model_type], HEADS[folder.model_type]
    config = family.Config.from_json(folder.config, folder.transformer_path / "config.json")
    tokenizer = Tokenizer.from_folder(folder)
    _check_texts(folder, config, tokenizer)
    tensors = SafetensorsFiles(folder.transformer_path)
    names = [part for rule in head.rules for part in rule.parts if not part.startswith(_POOLER)]
    if not canonical_names(list(tensors.shapes()), family.PREFIX, head.passthrough).keys() & set(names):
        raise ModelFolderError(
            f"{tensors.where}: no classification head. Expected {', '.join(names)}. The folder holds an encoder: load it with "
            "SentenceEncoder(...), or put a fresh head on it with CrossEncoder.from_encoder(...)."
        )
    rules, layers = _rules(folder.model_type), config.num_hidden_layers
    converted = convert(
        tensors,
        rules,
        rule_shapes(rules, config, layers, C=folder.num_labels),
        layers=layers,
        passthrough=head.passthrough,
        prefix=family.PREFIX,
        put=jax.device_put,
    )
    model_config = CrossEncoderConfig(folder.model_type, config, folder.num_labels, folder.classifier_dropout)
    return PretrainedCrossEncoder(
        folder, model_config, nest(converted.params), tokenizer, replace(converted, params={})
    )


def with_fresh_head(encoder: Pretrained, num_labels: int, seed: int) -> PretrainedCrossEncoder:
    """A pretrained encoder with a head of random numbers, to be trained.

    BERT's head starts from the pretrained pooler if the folder has one, as in transformers. The length limit is the
    tokenizer's, because the bi-encoder's limit applies to one text.

    Raises:
        ModelFolderError: a family without a head here, or without a second segment.
        InputError: too many labels.
    """
    if num_labels > limits.LABELS:
        raise InputError(f"num_labels is {num_labels}. Expected at most {limits.LABELS}.")
    base = encoder.folder
    if base.router is not None:
        raise ModelFolderError(
            f"{base.path}: has a Router with the routes {', '.join(base.router.names)}. Expected one transformer; use "
            "another model."
        )
    _check_family(base)
    settings = Settings(base.config, base.transformer_path / "config.json")
    dropout = classifier_dropout(settings)
    settings.finish()
    head_format = HEADS[base.model_type]
    config = {key: value for key, value in base.config.items() if key not in _REPLACED}
    config |= {"architectures": [head_format.architecture], "dtype": "float32", **label_settings(num_labels)}
    folder = CrossEncoderFolder(
        base.path,
        base.transformer_path,
        base.model_type,
        config,
        modules=(),
        tokenizer_files=base.tokenizer_files,
        max_seq_length=length_limit(base),
        do_lower_case=base.do_lower_case,
        sources=base.sources,
        num_labels=num_labels,
        activation=default_activation(num_labels),
        classifier_dropout=dropout,
    )
    model_config = CrossEncoderConfig(base.model_type, encoder.model_config.encoder, num_labels, dropout)
    _check_texts(folder, model_config.encoder, encoder.tokenizer)
    head = {f"head.{name}": leaf for name, leaf in flatten(initial_head(model_config, seed)).items()}
    for rule in head_format.rules:
        pooler = encoder.original.passthrough.get(rule.parts[0]) if rule.parts[0].startswith(_POOLER) else None
        if pooler is not None and pooler.shape == head[rule.path].shape and np.isfinite(pooler).all():
            head[rule.path] = jnp.asarray(pooler.T if rule.transpose else pooler, jnp.float32)
    model = PretrainedCrossEncoder(
        folder, model_config, {"encoder": encoder.params["encoder"], **nest(head)}, encoder.tokenizer
    )
    # In a file the names of the encoder, with the pooler, have the family's prefix; those of the classifier have none.
    prefix = FAMILIES[base.model_type].PREFIX
    model.original.renamed = {name: prefix + name for name in _tensors(model) if not name.startswith("classifier.")}
    return model


def save_cross_encoder(model: PretrainedCrossEncoder, target: Path) -> None:
    """Write a folder that minisbert, sentence-transformers and transformers read; it appears whole or not at all.

    Raises:
        InputError: the target is a file, or a folder with something other than a model in it.
        WriteError: the disk is full or not writable; the target is unchanged.
    """
    folder = replace(model.folder, tokenizer_files=tokenizer_files(model.folder, model.tokenizer))
    with staged_folder(Path(target).absolute()) as staging:
        write_cross_encoder_settings(folder, staging)
        write_tensors(staging / WEIGHTS, _tensors(model))


def _tensors(model: PretrainedCrossEncoder) -> dict[str, np.ndarray]:
    """The weights under the names of the family's checkpoints."""
    config = model.model_config
    converted = replace(model.original, params=flatten(model.params))
    return export(converted, _rules(config.model_type), layers=config.encoder.num_hidden_layers)


def _rules(model_type: str) -> list[Rule]:
    encoder = [rule._replace(path=f"encoder.{rule.path}") for rule in FAMILIES[model_type].RULES]
    return encoder + HEADS[model_type].rules


def _check_family(folder: Any) -> None:
    if folder.model_type not in HEADS:
        raise ModelFolderError(
            f"{folder.transformer_path}/config.json: 'model_type' is {folder.model_type!r}. Expected one of "
            f"{', '.join(sorted(HEADS))}, the families with a cross-encoder's head: use "
            "another model, or add the head (CONTRIBUTING.md)."
        )


def _check_texts(folder: CrossEncoderFolder, config: Any, tokenizer: Tokenizer) -> None:
    """The encoder has embeddings for everything the tokenizer produces, and saving preserves how texts are read."""
    if folder.do_lower_case and not Tokenizer.from_folder(replace(folder, do_lower_case=False)).lower_cases:
        raise ModelFolderError(
            f"{folder.transformer_path}: the settings ask for lower case, tokenizer.json does not lower-case. Expected a "
            "lower-casing normalizer in tokenizer.json, the only place where a cross-encoder's folder can set it."
        )
    check_tokenizer(tokenizer, folder, config.vocab_size)
    if getattr(config, "type_vocab_size", 2) < 2:
        raise ModelFolderError(
            f"{folder.transformer_path}/config.json: 'type_vocab_size' is {config.type_vocab_size}. Expected at least 2: a "
            "cross-encoder marks the second text as segment 1. Use another model."
        )
