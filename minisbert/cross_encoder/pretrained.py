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
from minisbert.arguments import check_bool
from minisbert.atomic_write import staged_folder
from minisbert.checkpoint.convert import (
    Converted,
    Rule,
    canonical_names,
    convert,
    export,
    flatten,
    linear,
    nest,
    table_for,
)
from minisbert.checkpoint.folder_writer import note_dtype
from minisbert.checkpoint.settings import Settings
from minisbert.checkpoint.tensors import WEIGHTS, open_tensors, write_tensors
from minisbert.cross_encoder.folder import (
    CrossEncoderFolder,
    default_activation,
    label_settings,
    length_limit,
    read_cross_encoder_folder,
    write_cross_encoder_settings,
)
from minisbert.cross_encoder.heads import HEADS, HeadConfig
from minisbert.cross_encoder.model import CrossEncoderConfig, initial_head
from minisbert.cross_encoder.tokens import CrossEncoderTokenizer
from minisbert.download.locate import locate
from minisbert.encoders import FAMILIES
from minisbert.errors import InputError, ModelFolderError
from minisbert.inference.engines import need_jax
from minisbert.pretrained import Pretrained, check_tokenizer, load_chain, load_pretrained, tokenizer_files
from minisbert.text.tokenizer import Tokenizer

# Settings of an encoder's config.json that a cross-encoder replaces.
_REPLACED = ("dtype", "torch_dtype", "num_labels", "problem_type", "id2label", "label2id", "sentence_transformers")


@dataclass
class PretrainedCrossEncoder:
    """A cross-encoder read from a folder."""

    folder: CrossEncoderFolder
    model_config: CrossEncoderConfig
    params: dict[Any, Any]  # nested dict of arrays, float32: {"encoder", "head"}, or "heads" where it is of modules
    tokenizer: Tokenizer
    # What `export` needs besides `params`: tensors passed through, original names and dtypes.
    original: Converted = field(default_factory=lambda: Converted({}))


def load_cross_encoder(
    path: Path, allow_pickle_weights: bool = False, allow_links: bool = False
) -> PretrainedCrossEncoder:
    """Read a cross-encoder's folder; arguments as for `load_pretrained`.

    Raises:
        ModelFolderError: see `read_cross_encoder_folder`, `convert`, `Tokenizer.from_folder`; or an encoder without a head.
    """
    check_bool("allow_pickle_weights", allow_pickle_weights)
    check_bool("allow_links", allow_links)
    folder = read_cross_encoder_folder(path, allow_pickle_weights, allow_links)
    _check_family(folder)
    if folder.modules:
        return _load_reranker(folder)
    family, form = FAMILIES[folder.model_type], HEADS[folder.model_type]
    config = folder.encoder = family.Config.from_json(folder.config, folder.transformer_path / "config.json")
    head = _head_config(folder)
    tokenizer = Tokenizer.from_folder(folder)
    _check_texts(folder, tokenizer)
    tensors = open_tensors(folder.transformer_path, allow_pickle_weights)
    names = [part for rule in linear(form.output, "", "D,C") for part in rule.parts]
    if not canonical_names(list(tensors.shapes()), family.PREFIX, form.passthrough).keys() & set(names):
        raise ModelFolderError(
            f"{tensors.where}: no classification head. Expected {', '.join(names)}. The folder holds an encoder: load it with "
            "SentenceEncoder(...), or put a fresh head on it with CrossEncoder.from_encoder(...)."
        )
    segments = CrossEncoderTokenizer(tokenizer).segments
    model_config = CrossEncoderConfig(folder.model_type, config, folder.num_labels, head, segments)
    table, passthrough = _table(model_config), form.passthrough
    converted = convert(tensors, table, passthrough=passthrough, prefix=family.PREFIX, put=jax.device_put)
    return PretrainedCrossEncoder(
        folder, model_config, nest(converted.params), tokenizer, replace(converted, params={})
    )


def encoder_alone(encoder: Any, **options: Any) -> Pretrained:
    """What was read of a SentenceEncoder, or of the name or folder of an encoder.

    Args:
        options: of `locate`.

    Raises:
        ModelFolderError, DownloadError: the encoder cannot be read.
        InputError: a CrossEncoder, or a SentenceEncoder of the NumPy engine.
    """
    need_jax(encoder, "put a head on it")
    given = getattr(encoder, "pretrained", encoder)
    if isinstance(given, PretrainedCrossEncoder):
        raise InputError(
            "encoder is a CrossEncoder, which has a head. Expected a SentenceEncoder, or the name of an encoder."
        )
    return given if isinstance(given, Pretrained) else load_pretrained(locate(given, **options))


def with_fresh_head(encoder: Pretrained, num_labels: int, seed: int) -> PretrainedCrossEncoder:
    """A pretrained encoder with a head of random numbers, to be trained.

    Its dense layer starts from the pretrained one if the folder has it (BERT's pooler, the head of a masked language model),
    as in transformers. The length limit is the tokenizer's, because the bi-encoder's limit applies to one text.

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
    _check_family(replace(base, modules=()))  # the encoder's modules are not the cross-encoder's
    head_config = _head_config(base)
    head_format = HEADS[base.model_type]
    config = {key: value for key, value in base.config.items() if key not in _REPLACED}
    config |= {"architectures": [head_format.architecture], "dtype": "float32", **label_settings(num_labels)}
    folder = CrossEncoderFolder(
        base.path,
        base.transformer_path,
        base.model_type,
        config,
        base.encoder,
        modules=(),
        tokenizer_files=base.tokenizer_files,
        max_seq_length=length_limit(base),
        is_tokenizers_limit=True,
        do_lower_case=base.do_lower_case,
        sources=base.sources,
        num_labels=num_labels,
        activation=default_activation(num_labels),
    )
    segments = CrossEncoderTokenizer(encoder.tokenizer).segments
    model_config = CrossEncoderConfig(base.model_type, encoder.model_config.encoder, num_labels, head_config, segments)
    _check_texts(folder, encoder.tokenizer)
    head = {f"head.{name}": leaf for name, leaf in flatten(initial_head(model_config, seed)).items()}
    for rule in head_format.rules(head_config):
        found = None if rule.path.startswith("head.output") else encoder.original.passthrough.get(rule.parts[0])
        if found is not None and found.shape == head[rule.path].shape and np.isfinite(found).all():
            head[rule.path] = jnp.asarray(found.T if rule.transpose else found, jnp.float32)
    model = PretrainedCrossEncoder(
        folder, model_config, {"encoder": encoder.params["encoder"], **nest(head)}, encoder.tokenizer
    )
    # In a file the names of the encoder, with its own pooler, have the family's prefix; those of the head have none.
    bare = {part for rule in head_format.rules(head_config) for part in rule.parts}
    if head_format.in_encoder:
        bare = {name for name in bare if not name.startswith(head_format.dense)}
    prefix = FAMILIES[base.model_type].PREFIX
    model.original.renamed = {name: prefix + name for name in _tensors(model) if name not in bare}
    return model


def save_cross_encoder(model: PretrainedCrossEncoder, target: Path) -> None:
    """Write a folder that minisbert, sentence-transformers and transformers read; it appears whole or not at all.

    Raises:
        InputError: the target is a file, or a folder with something other than a model in it.
        WriteError: the disk is full or not writable; the target is unchanged.
    """
    folder = replace(model.folder, tokenizer_files=tokenizer_files(model.folder, model.tokenizer))
    with staged_folder(Path(target).absolute()) as staging:
        write_cross_encoder_settings(folder, model.params, staging)
        tensors = _tensors(model)
        write_tensors(staging / WEIGHTS, tensors)
        if model.original.dtypes:  # it has other tensors than float32
            note_dtype(staging, model.original, tensors)


def _tensors(model: PretrainedCrossEncoder) -> dict[str, np.ndarray]:
    """The weights under the names of the family's checkpoints."""
    return export(replace(model.original, params=flatten(model.params)), _table(model.model_config))


def _table(config: CrossEncoderConfig) -> list[Rule]:
    """Of the encoder and of the family's own head; modules have files of their own."""
    rules = [rule._replace(path=f"encoder.{rule.path}") for rule in FAMILIES[config.model_type].RULES]
    rules += [] if config.modules else HEADS[config.model_type].rules(config.head)
    return table_for(rules, config.encoder, C=config.num_labels)


def _load_reranker(folder: CrossEncoderFolder) -> PretrainedCrossEncoder:
    """A cross-encoder of modules: an encoder with the modules after it, as a bi-encoder is read."""
    chain = load_chain(folder, jax.device_put, {})
    _check_texts(folder, chain.tokenizer)
    model_config = CrossEncoderConfig(
        folder.model_type,
        chain.model_config.encoder,
        folder.num_labels,
        segments=CrossEncoderTokenizer(chain.tokenizer).segments,
        modules=folder.modules,
    )
    return PretrainedCrossEncoder(folder, model_config, chain.params, chain.tokenizer, chain.original)


def _head_config(folder: Any) -> HeadConfig:
    settings = Settings(folder.config, folder.transformer_path / "config.json")
    head = HEADS[folder.model_type].read(settings, folder.encoder)
    settings.finish()
    return head


def _check_family(folder: Any) -> None:
    if folder.model_type not in (FAMILIES if folder.modules else HEADS):
        raise ModelFolderError(
            f"{folder.transformer_path}/config.json: 'model_type' is {folder.model_type!r}. Expected one of "
            f"{', '.join(sorted(HEADS))}, the families with a cross-encoder's head: use "
            "another model, or add the head (CONTRIBUTING.md)."
        )


def _check_texts(folder: CrossEncoderFolder, tokenizer: Tokenizer) -> None:
    """The encoder has embeddings for everything the tokenizer produces, and saving preserves how texts are read."""
    if folder.do_lower_case and not Tokenizer.from_folder(replace(folder, do_lower_case=False)).lower_cases:
        raise ModelFolderError(
            f"{folder.transformer_path}: the settings ask for lower case, tokenizer.json does not lower-case. Expected a "
            "lower-casing normalizer in tokenizer.json, the only place where a cross-encoder's folder can set it."
        )
    check_tokenizer(tokenizer, folder)
    if CrossEncoderTokenizer(tokenizer).segments and getattr(folder.encoder, "type_vocab_size", 2) == 1:
        raise ModelFolderError(
            f"{folder.transformer_path}/config.json: 'type_vocab_size' is {folder.encoder.type_vocab_size}. Expected at least "
            "2: its tokenizer marks the second text of a pair as segment 1. Use another model."
        )
