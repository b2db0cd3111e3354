"""A cross-encoder's folder <-> a model that computes: design, parameters, tokenizer. The counterpart of pretrained.py.

The weights are read as strictly: the family's RULES for the encoder and its HEAD_RULES for the head in one pass, so that
every tensor that is unknown, missing, doubled or mis-shaped stands in one error.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
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
from minisbert.checkpoint.folder import ModelFolder
from minisbert.checkpoint.settings import Settings
from minisbert.checkpoint.tensors import SafetensorsFiles, write_tensors
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
from minisbert.pretrained import Pretrained
from minisbert.text.tokenizer import Tokenizer

# A pretrained encoder's own first matrix for [CLS], which a fresh head starts from (BERT's).
_POOLER = "pooler."


@dataclass
class PretrainedCrossEncoder:
    """A cross-encoder read from a folder."""

    pair: CrossEncoderFolder
    model_config: CrossEncoderConfig
    params: dict[Any, Any]  # nested dict of arrays, float32: {"encoder", "head"}
    tokenizer: Tokenizer
    original: Converted = field(
        default_factory=lambda: Converted({})
    )  # tensors passed through, original names and dtypes

    @property
    def max_positions(self) -> int:
        """The longest row of tokens the encoder takes."""
        return self.model_config.encoder.max_positions


def load_cross_encoder(path: Path) -> PretrainedCrossEncoder:
    """Read a cross-encoder's folder.

    Raises:
        ModelFolderError: see `read_cross_encoder_folder`, `convert`, `Tokenizer.from_folder`; an encoder without a head.
    """
    pair = read_cross_encoder_folder(path)
    folder = pair.folder
    file = folder.transformer_path / "config.json"
    family = _family(folder.model_type, file)
    config = family.Config.from_json(folder.config, file)
    model_config = CrossEncoderConfig(folder.model_type, config, pair.num_labels, pair.classifier_dropout)
    tokenizer = Tokenizer.from_folder(folder)
    _check_tokenizer(tokenizer, folder, model_config)
    tensors = SafetensorsFiles(folder.transformer_path)
    _refuse_headless(tensors, folder.model_type)
    rules, layers = _rules(folder.model_type), config.num_hidden_layers
    converted = convert(
        tensors,
        rules,
        rule_shapes(rules, config, layers, C=pair.num_labels),
        layers=layers,
        passthrough=HEADS[folder.model_type].passthrough,
        prefix=family.PREFIX,
        put=jax.device_put,
    )
    return PretrainedCrossEncoder(pair, model_config, nest(converted.params), tokenizer, replace(converted, params={}))


def with_fresh_head(encoder: Pretrained, num_labels: int, seed: int) -> PretrainedCrossEncoder:
    """A cross-encoder to be trained: a pretrained encoder with a head of random numbers.

    BERT's pooler is the pretrained one where the folder holds it, as in transformers. The length limit is the
    tokenizer's, since the bi-encoder's was for one text.

    Raises:
        ModelFolderError: a family without a head here, or without a second segment.
        InputError: more labels than any model has.
    """
    if num_labels > limits.LABELS:
        raise InputError(f"num_labels is {num_labels}. Expected at most {limits.LABELS}.")
    given = encoder.folder
    if given.router is not None:
        raise ModelFolderError(
            f"{given.path}: has a Router with the routes {', '.join(given.router.names)}. Expected one transformer; use "
            "another model."
        )
    file = given.transformer_path / "config.json"
    family = _family(given.model_type, file)
    settings = Settings(given.config, file)
    dropout = classifier_dropout(settings)
    settings.finish()
    model_config = CrossEncoderConfig(given.model_type, encoder.model_config.encoder, num_labels, dropout)
    not_ours = ("dtype", "torch_dtype", "num_labels", "problem_type", "id2label", "label2id", "sentence_transformers")
    config = {key: value for key, value in given.config.items() if key not in not_ours}
    config |= {
        "architectures": [HEADS[given.model_type].architecture],
        "dtype": "float32",
        **label_settings(num_labels),
    }
    folder = ModelFolder(
        given.path,
        given.transformer_path,
        given.model_type,
        config,
        modules=(),
        tokenizer_files=given.tokenizer_files,
        max_seq_length=length_limit(given.tokenizer_files, given.transformer_path),
        do_lower_case=given.do_lower_case,
    )
    _check_tokenizer(encoder.tokenizer, folder, model_config)
    head = {f"head.{name}": leaf for name, leaf in flatten(initial_head(model_config, seed)).items()}
    for rule in HEADS[given.model_type].rules:
        pooler = encoder.original.passthrough.get(rule.parts[0]) if rule.parts[0].startswith(_POOLER) else None
        if pooler is not None and pooler.shape == head[rule.path].shape and np.isfinite(pooler).all():
            head[rule.path] = jnp.asarray(pooler.T if rule.transpose else pooler, jnp.float32)
    params = {"encoder": encoder.params["encoder"], **nest(head)}
    # In the file the encoder's names, the pooler's among them, have the family's prefix; the classifier's have none.
    names = export(Converted(flatten(params)), _rules(given.model_type), layers=model_config.encoder.num_hidden_layers)
    renamed = {name: family.PREFIX + name for name in names if not name.startswith("classifier.")}
    return PretrainedCrossEncoder(
        CrossEncoderFolder(folder, num_labels, default_activation(num_labels), dropout),
        model_config,
        params,
        encoder.tokenizer,
        Converted({}, renamed=renamed),
    )


def save_cross_encoder(model: PretrainedCrossEncoder, target: Path) -> None:
    """Write a cross-encoder's folder that minisbert, sentence-transformers and transformers read, whole or not at all.

    Raises:
        InputError: the target is a file, or a folder with something else than a model in it.
        WriteError: the disk is full or not writable; the target is as it was.
    """
    converted = replace(model.original, params=flatten(model.params))
    with staged_folder(Path(target).absolute()) as staging:
        write_cross_encoder_settings(model.pair, staging)
        if "tokenizer.json" not in model.pair.folder.tokenizer_files:
            (staging / "tokenizer.json").write_text(model.tokenizer.backend.to_str(pretty=True), encoding="utf-8")
        tensors = export(
            converted, _rules(model.model_config.model_type), layers=model.model_config.encoder.num_hidden_layers
        )
        write_tensors(staging / "model.safetensors", tensors)


def _family(model_type: str, file: Path) -> ModuleType:
    if model_type not in HEADS:
        raise ModelFolderError(
            f"{file}: 'model_type' is {model_type!r}. Expected one of {', '.join(sorted(HEADS))}, the families with a "
            "cross-encoder's head: use another model, or add the head (CONTRIBUTING.md)."
        )
    return FAMILIES[model_type]


def _rules(model_type: str) -> list[Rule]:
    encoder = [rule._replace(path=f"encoder.{rule.path}") for rule in FAMILIES[model_type].RULES]
    return encoder + HEADS[model_type].rules


def _check_tokenizer(tokenizer: Tokenizer, folder: ModelFolder, model_config: CrossEncoderConfig) -> None:
    """The encoder has a row for all that the tokenizer gives, and saving keeps what it does."""
    file = folder.transformer_path / "config.json"
    if folder.do_lower_case and not Tokenizer.from_folder(replace(folder, do_lower_case=False)).lower_cases:
        raise ModelFolderError(
            f"{folder.transformer_path}: the settings ask for lower case, tokenizer.json does not lower-case. A "
            "cross-encoder's folder can say so in tokenizer.json only; expected a lower-casing normalizer there."
        )
    if tokenizer.largest_id() >= model_config.encoder.vocab_size:
        raise ModelFolderError(
            f"{tokenizer.where}: gives ids up to {tokenizer.largest_id()}, but config.json's vocab_size is "
            f"{model_config.encoder.vocab_size}. The tokenizer is another model's; fetch the model again."
        )
    if getattr(model_config.encoder, "type_vocab_size", 2) < 2:
        raise ModelFolderError(
            f"{file}: 'type_vocab_size' is {model_config.encoder.type_vocab_size}. Expected at least 2: a cross-encoder marks "
            "the second text as segment 1. Use another model."
        )


def _refuse_headless(tensors: SafetensorsFiles, model_type: str) -> None:
    found = canonical_names(list(tensors.shapes()), FAMILIES[model_type].PREFIX, HEADS[model_type].passthrough)
    wanted = [part for rule in HEADS[model_type].rules for part in rule.parts if not part.startswith(_POOLER)]
    if not any(part in found for part in wanted):
        raise ModelFolderError(
            f"{tensors.where}: no classification head. Expected {', '.join(wanted)}. The folder holds an encoder: load "
            "it with SentenceEncoder.load(...), or put a fresh head on it with CrossEncoder.from_encoder(...)."
        )
