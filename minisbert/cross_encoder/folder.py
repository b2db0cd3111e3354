"""Reads and writes the settings of a cross-encoder's folder.

    config.json             id2label: one name per label; sentence_transformers: {"activation_fn": ...}
    model.safetensors       encoder and head, as transformers' ...ForSequenceClassification stores them
    tokenizer.json, tokenizer_config.json       model_max_length is the length limit of a pair

This older form is the one written, because transformers and every version of sentence-transformers read it. From 5.4 on
sentence-transformers adds modules.json (one Transformer), sentence_bert_config.json and config_sentence_transformers.json,
whose activation then takes precedence; these are read too, and written for a model with prompts, which the older form
cannot hold. Rerankers of modules (Transformer, Pooling, Dense, LayerNorm, Dense) have no older form either. Activations are
looked up by name in a table, never imported.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisbert import limits
from minisbert.checkpoint.folder import ModelFolder, read_chain, read_parts
from minisbert.checkpoint.folder_writer import write_chain, write_json
from minisbert.checkpoint.kinds import refuse_bi_encoder
from minisbert.checkpoint.settings import ModelFiles, Settings
from minisbert.checkpoint.transformer_folder import model_max_length, read_length_file

# The activation's class in a folder -> our name; predict.py has the functions.
ACTIVATION_CLASSES = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.Softmax": "softmax",
}
ACTIVATIONS_BY_NAME = {ours: name for name, ours in ACTIVATION_CLASSES.items()}
ACTIVATION_CLASSES |= {f"torch.nn.{name.rpartition('.')[2]}": ours for name, ours in ACTIVATION_CLASSES.items()}
_TOKENIZER_FILE = "tokenizer_config.json"
# The newer form: its only module, and what sentence_bert_config.json says of it (task, output, output of the method).
_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
_OUTPUT = ("sequence-classification", "scores", "logits")
_LEGACY_ACTIVATION = "sbert_ce_default_activation_function"  # sentence-transformers before 4


@dataclass
class CrossEncoderFolder(ModelFolder):
    """All settings of a cross-encoder's folder, and its tokenizer's files; not the tensors.

    It has no modules, or those of a reranker: pooling and what follows it, up to a Dense whose output are the scores.
    """

    num_labels: int = 1
    activation: str = "sigmoid"


def read_cross_encoder_folder(
    path: Path, allow_pickle_weights: bool = False, allow_links: bool = False
) -> CrossEncoderFolder:
    """Read a folder of sentence-transformers or of transformers alone; arguments as for `read_folder`.

    Raises:
        ModelFolderError: a bi-encoder, or anything missing, malformed, or not computed by minisbert, with file and key.
    """
    files = ModelFiles(path, allow_links)
    refuse_bi_encoder(files)
    chain = files.folder / "modules.json"
    parts = read_chain(files, chain, scores=True) if files.has(chain) else []
    if parts and [part.kind for part in parts] != ["transformer"]:
        folder = CrossEncoderFolder(**vars(read_parts(files, parts, chain, scores=True)))
        config = Settings(folder.config, folder.transformer_path / "config.json")
        folder.num_labels = folder.modules[-1].width(0)
    else:
        place = files.folder / parts[0].path if parts else files.folder
        file = place / "config.json"
        config = Settings(files.json(file), file)
        folder = CrossEncoderFolder(
            files.folder,
            place,
            config.text("model_type"),
            config.values,
            modules=(),
            tokenizer_files=files.tokenizer_files(place),
            sources=dict.fromkeys(config.values, "config.json"),
            num_labels=_num_labels(config),
        )
        if parts:
            read_length_file(files, folder, _OUTPUT, required=True)
    activation = _activation(config)
    config.finish()
    if parts:
        activation = _read_settings(files, folder) or activation
    if folder.max_seq_length is None and (length := length_limit(folder)) is not None:
        folder.max_seq_length, folder.is_tokenizers_limit = length, True
        folder.sources["max_seq_length"] = _TOKENIZER_FILE
    folder.activation = activation or default_activation(folder.num_labels)
    folder.allow_pickle_weights = allow_pickle_weights
    return folder


def default_activation(num_labels: int) -> str:
    """The default activation: sigmoid for one label, logits for several."""
    return "sigmoid" if num_labels == 1 else "identity"


def length_limit(folder: ModelFolder) -> int | None:
    """The longest pair in tokens that tokenizer_config.json allows, if it sets a limit.

    Raises:
        ModelFolderError: the file is not JSON, or its limit is not a length.
    """
    return model_max_length(folder.tokenizer_settings())


def label_settings(num_labels: int) -> dict[str, Any]:
    """config.json's default names for labels."""
    names = [f"LABEL_{i}" for i in range(num_labels)]
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def write_cross_encoder_settings(folder: CrossEncoderFolder, params: dict[str, Any], path: Path) -> None:
    """Write config.json and the tokenizer's files, with the length limit in them, into an empty folder.

    A reranker of modules gets modules.json too, and a folder for each module. A model with prompts, or that reads more tokens
    than it was trained with, gets a modules.json of one Transformer: the older form cannot say so.
    """
    length = folder.max_seq_length
    longer = length is not None and length > getattr(folder.encoder, "max_position_embeddings", length)
    config = {key: value for key, value in folder.config.items() if key != _LEGACY_ACTIVATION}
    activation = ACTIVATIONS_BY_NAME[folder.activation]
    config["sentence_transformers"] = {**(config.get("sentence_transformers") or {}), "activation_fn": activation}
    if folder.modules:
        write_chain(folder, params, path)
    elif folder.prompts or longer:
        task, output, method_output = _OUTPUT
        modality = {"text": {"method": "forward", "method_output_name": method_output}}
        of_transformer = {"transformer_task": task, "modality_config": modality, "module_output_name": output}
        write_json(path / "sentence_bert_config.json", of_transformer | ({"max_seq_length": length} if longer else {}))
        write_json(path / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": _TRANSFORMER}])
    if folder.modules or folder.prompts or longer:
        settings: dict[str, Any] = {
            "model_type": "CrossEncoder",
            "activation_fn": activation,
            "prompts": folder.prompts,
            "default_prompt_name": folder.default_prompt_name,
        }
        write_json(path / "config_sentence_transformers.json", settings)
    write_json(path / "config.json", config)
    for name, content in folder.tokenizer_files.items():
        (path / name).write_bytes(content)
    if length_limit(folder) != length:
        settings = {**folder.tokenizer_settings().values, "model_max_length": length}
        write_json(path / _TOKENIZER_FILE, settings)


def _num_labels(config: Settings) -> int:
    """One label per name in id2label; without names transformers assumes two labels."""
    names = config.values.get("id2label")
    if names is None:
        return config.size("num_labels", 2, (1, limits.LABELS))
    if (
        not isinstance(names, dict)
        or not 1 <= len(names) <= limits.LABELS
        or names.keys() != {str(i) for i in range(len(names))}
    ):
        config.complain("id2label", "an object that names labels 0, 1, ... without gaps")
        return 1
    config.choice("num_labels", [len(names)], default=len(names), why="the number of names in id2label")
    return len(names)


def _activation(config: Settings) -> str | None:
    """Our name of the activation in config.json, if it has one."""
    content = config.values.get("sentence_transformers")
    if content is not None:
        settings = Settings(content, f"{config.where}, 'sentence_transformers'")
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


def _read_settings(files: ModelFiles, folder: CrossEncoderFolder) -> str | None:
    """The prompts in config_sentence_transformers.json; returns the activation, if it has one."""
    file = files.folder / "config_sentence_transformers.json"
    if not files.has(file):
        return None
    settings = Settings(files.json(file), file)
    settings.known(
        ["__version__", "model_type", "prompts", "default_prompt_name", "activation_fn", "keep_in_fp32_modules"]
    )
    settings.choice("model_type", ["CrossEncoder"])
    folder.prompts, folder.default_prompt_name = settings.prompts()
    settings.absent(["keep_in_fp32_modules"], "heads are computed in float32 anyway; remove it")
    activation = _named_activation(settings, "activation_fn")
    settings.finish()
    return activation
