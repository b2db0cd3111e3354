"""A cross-encoder's folder, read exactly and written plainly.

    config.json             id2label: one name a label; sentence_transformers: {"activation_fn": ...}
    model.safetensors       encoder and head, as transformers' ...ForSequenceClassification keeps them
    tokenizer.json, tokenizer_config.json       model_max_length is the length limit of a pair

That is the older form, and the one written here, because every version of sentence-transformers reads it, and so does
transformers alone. From 5.4 sentence-transformers adds modules.json (one Transformer), sentence_bert_config.json and
config_sentence_transformers.json, whose activation then counts; these are read too. The activation is a name looked up
in a table, never imported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisbert import limits
from minisbert.checkpoint.folder import REFUSED_ARGUMENTS, TOKENIZER_FILES, ModelFolder, model_max_length
from minisbert.checkpoint.folder_writer import write_json
from minisbert.checkpoint.kinds import refuse_bi_encoder
from minisbert.checkpoint.modules import MODULE_TYPES
from minisbert.checkpoint.settings import ModelFiles, Settings, parse_json
from minisbert.checkpoint.tensors import inside
from minisbert.errors import ModelFolderError

# What is applied to the logits: the class in the folder -> our name. The functions stand in cross_encoder/encoder.py.
ACTIVATION_CLASSES = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
}
_TOKENIZER_FILE = "tokenizer_config.json"
_LEGACY_ACTIVATION = "sbert_ce_default_activation_function"  # sentence-transformers before 4


@dataclass
class CrossEncoderFolder:
    """Everything a cross-encoder's folder says, except the tensors and the tokenizer's insides."""

    folder: ModelFolder  # without modules
    num_labels: int
    activation: str
    classifier_dropout: float | None = None


def read_cross_encoder_folder(path: Path) -> CrossEncoderFolder:
    """Read a cross-encoder's folder, of sentence-transformers or of transformers alone.

    Raises:
        ModelFolderError: a bi-encoder, or anything missing, malformed, or not computed by minisbert, with file and key.
    """
    files = ModelFiles(path)
    path = files.folder
    refuse_bi_encoder(files)
    has_modules = files.has(path / "modules.json")
    transformer_path = _transformer(files, path / "modules.json") if has_modules else path
    file = transformer_path / "config.json"
    config = Settings(files.json(file), file)
    model_type = config.text("model_type")
    num_labels = _num_labels(config)
    dropout = classifier_dropout(config)
    activation = _activation(config)
    config.finish()
    folder = ModelFolder(path, transformer_path, model_type, config.values, modules=())
    folder.tokenizer_files = files.read(transformer_path, TOKENIZER_FILES)
    if has_modules:
        _read_lengths(files, folder, transformer_path / "sentence_bert_config.json")
        activation = _read_settings(files, path / "config_sentence_transformers.json") or activation
    if folder.max_seq_length is None:
        folder.max_seq_length = length_limit(folder.tokenizer_files, transformer_path)
    return CrossEncoderFolder(folder, num_labels, activation or default_activation(num_labels), dropout)


def default_activation(num_labels: int) -> str:
    """A score of one label lies between 0 and 1; several are logits."""
    return "sigmoid" if num_labels == 1 else "identity"


def classifier_dropout(config: Settings) -> float | None:
    """The head's own rate of dropout, where config.json has one."""
    if config.values.get("classifier_dropout") is None:
        return None
    return config.number("classifier_dropout", at_least=0, below=1)


def length_limit(tokenizer_files: Mapping[str, bytes], where: Path) -> int | None:
    """The longest pair in tokens that tokenizer_config.json allows, if it says so.

    Raises:
        ModelFolderError: the file is not JSON, or its limit is no length.
    """
    return model_max_length(_tokenizer_settings(tokenizer_files, where))


def _tokenizer_settings(tokenizer_files: Mapping[str, bytes], where: Path) -> Settings:
    file = where / _TOKENIZER_FILE
    return Settings(parse_json(tokenizer_files.get(_TOKENIZER_FILE, b"{}"), file), file)


def label_settings(num_labels: int) -> dict[str, Any]:
    """config.json's names for labels that have none."""
    names = [f"LABEL_{i}" for i in range(num_labels)]
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def write_cross_encoder_settings(pair: CrossEncoderFolder, path: Path) -> None:
    """Write config.json and the tokenizer's files, the length limit in them, into an empty folder."""
    config = {key: value for key, value in pair.folder.config.items() if key != _LEGACY_ACTIVATION}
    theirs = next(theirs for theirs, ours in ACTIVATION_CLASSES.items() if ours == pair.activation)
    config["sentence_transformers"] = {**(config.get("sentence_transformers") or {}), "activation_fn": theirs}
    write_json(path / "config.json", config)
    tokenizer_files = pair.folder.tokenizer_files
    for name, content in tokenizer_files.items():
        (path / name).write_bytes(content)
    if length_limit(tokenizer_files, path) != pair.folder.max_seq_length:
        settings = _tokenizer_settings(tokenizer_files, path).values
        write_json(path / _TOKENIZER_FILE, {**settings, "model_max_length": pair.folder.max_seq_length})


def _transformer(files: ModelFiles, file: Path) -> Path:
    """modules.json of a cross-encoder names one Transformer; its folder."""
    entries = files.json(file)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ModelFolderError(f"{file}: expected a list of modules. Fetch the model again.")
    kinds = [str(entry.get("type")) for entry in entries]
    if len(kinds) > 1 or MODULE_TYPES.get(kinds[0]) != "transformer":
        raise ModelFolderError(
            f"{file}: the modules are {', '.join(kinds):.300}. Expected one Transformer of sentence-transformers, with "
            "the head among its weights; other heads (LogitScore, Dense) are not computed. Use another model."
        )
    settings = Settings(entries[0], file)
    relative = settings.text("path")
    settings.finish()
    return inside(file.parent, relative, file)


def _num_labels(config: Settings) -> int:
    """One label a name in id2label; without any, transformers means two."""
    names = config.values.get("id2label")
    if names is None:
        return config.integer("num_labels", at_least=1, at_most=limits.LABELS, default=2)
    if (
        not isinstance(names, dict)
        or not 1 <= len(names) <= limits.LABELS
        or set(names) != set(map(str, range(len(names))))
    ):
        config.complain("id2label", "an object that names labels 0, 1, ... without gaps")
        return 1
    config.choice("num_labels", [len(names)], default=len(names), why="id2label names so many")
    return len(names)


def _activation(config: Settings) -> str | None:
    """Our name of the activation that config.json asks for, if it does."""
    ours = config.values.get("sentence_transformers")
    if ours is not None:
        settings = Settings(ours, f"{config.where}, 'sentence_transformers'")
        settings.known(["activation_fn", "version"])
        found = _named_activation(settings, "activation_fn")
        settings.finish()
        if found:
            return found
    return _named_activation(config, _LEGACY_ACTIVATION)


def _named_activation(settings: Settings, key: str) -> str | None:
    if settings.values.get(key) is None:
        return None
    return ACTIVATION_CLASSES[settings.choice(key, ACTIVATION_CLASSES, why="never imported")]


def _read_lengths(files: ModelFiles, folder: ModelFolder, file: Path) -> None:
    """sentence_bert_config.json of sentence-transformers 5.4 and later."""
    if not files.has(file):
        return
    settings = Settings(files.json(file), file)
    settings.known(
        ["max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name", "unpad_inputs"]
        + REFUSED_ARGUMENTS
    )
    settings.choice("transformer_task", ["sequence-classification"])
    settings.choice("module_output_name", ["scores"])
    settings.absent(REFUSED_ARGUMENTS, "arguments for another library could change the result")
    text_only = {"text": {"method": "forward", "method_output_name": "logits"}}
    if settings.values.get("modality_config", text_only) != text_only:
        settings.complain("modality_config", f"{text_only}, text in and logits out")
    if settings.values.get("max_seq_length") is not None:
        folder.max_seq_length = settings.integer("max_seq_length", at_least=1, at_most=limits.ROWS)
    folder.do_lower_case = settings.flag("do_lower_case", default=False)
    settings.finish()


def _read_settings(files: ModelFiles, file: Path) -> str | None:
    """The activation that config_sentence_transformers.json asks for, if it does."""
    if not files.has(file):
        return None
    settings = Settings(files.json(file), file)
    settings.known(
        ["__version__", "model_type", "prompts", "default_prompt_name", "activation_fn", "keep_in_fp32_modules"]
    )
    settings.choice("model_type", ["CrossEncoder"])
    prompts = settings.values.get("prompts")
    if isinstance(prompts, dict) and not any(prompts.values()):
        settings.values = {**settings.values, "prompts": None}
    settings.absent(["prompts", "default_prompt_name"], "prompts before pairs are not computed")
    settings.absent(["keep_in_fp32_modules"], "heads are computed in float32 anyway; remove it")
    activation = _named_activation(settings, "activation_fn")
    settings.finish()
    return activation
