"""Reads the folder of a transformer: config.json, length limit, whether it lowercases its texts.

sentence_bert_config.json has max_seq_length and do_lower_case up to sentence-transformers 5.3, tokenizer_config.json has
model_max_length from 5.4. A key or value that is not understood is refused, since guessing could change the embeddings.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from minisbert import limits
from minisbert.checkpoint.adapter import ADAPTER_FILE, base_of
from minisbert.checkpoint.keys import ARGUMENTS, LENGTH_FILE
from minisbert.checkpoint.kinds import OTHER_ENDINGS, OTHER_TYPES, refuse_other_kinds
from minisbert.checkpoint.settings import ModelFiles, Settings, first_architecture
from minisbert.checkpoint.task_adapters import without_tasks
from minisbert.errors import ModelFolderError, folder_error

if TYPE_CHECKING:
    from minisbert.checkpoint.folder import ModelFolder

# The names under which sentence-transformers has written the length limit; the first that holds a setting counts.
_KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_LENGTH_FILES = tuple(f"sentence_{kind}_config.json" for kind in _KINDS)


def read_config(files: ModelFiles, place: Path, scores: bool = False) -> tuple[dict[str, Any], Path]:
    """The config.json of a transformer, or of the model that an adapter in its place changes; and where that file is.

    Args:
        scores: it may be a reranker's.
    """
    base = base_of(files, place) if files.has(place / ADAPTER_FILE) else None
    file = (base or place) / "config.json"
    config: dict[str, Any] = (files if base in (None, place) else ModelFiles(file.parent, files.allow_links)).json(file)
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(model_type, str) or model_type == "static":  # our own name for models without config.json
        raise folder_error(file, "no 'model_type' string", "a Hugging Face encoder's settings")
    if not scores and (model_type in OTHER_TYPES or first_architecture(config).endswith(OTHER_ENDINGS)):
        refuse_other_kinds(files)
    return without_tasks(config, file) if "lora_adaptations" in config else config, file


def read_length_file(
    files: ModelFiles, folder: "ModelFolder", kind: tuple[str, str, str], *, required: bool = False
) -> None:
    """max_seq_length and do_lower_case: sentence_bert_config.json or its kin, else the limit of tokenizer_config.json.

    Args:
        kind: the transformer's task, output and method output in the new dialect.
        required: the file must name that task and output.
    """
    # sentence-transformers reads them only where there is a modules.json.
    plain = not files.has(files.folder / "modules.json")
    if plain:
        _refuse_chat_template(files, folder)
    for name in () if plain else _LENGTH_FILES:
        file = folder.transformer_path / name
        if not files.has(file) or files.json(file) == {}:
            continue
        (task, output, method_output), settings = kind, Settings(files.json(file), file)
        files.ignored[name] = settings.by_table(LENGTH_FILE)
        for key, value in (("transformer_task", task), ("module_output_name", output)):
            if required or key in settings.values:
                settings.choice(key, [value])
        text_only = {"text": {"method": "forward", "method_output_name": method_output}}
        if settings.values.get("modality_config", text_only) != text_only:
            settings.complain("modality_config", f"{text_only}, text in and {method_output} out")
        if (length := settings.size("max_seq_length", None)) is not None:
            folder.max_seq_length, folder.sources["max_seq_length"] = length, name
        # Of the arguments for transformers only the tokenizer's length limit changes something.
        for part, table in ARGUMENTS.items():
            if settings.values.get(part) is not None:
                arguments = Settings(settings.values[part], f"{file}, {part!r}")
                files.ignored[name] |= {f"{part}.{key}": value for key, value in arguments.by_table(table).items()}
                arguments.finish()
                if (length := model_max_length(arguments)) is not None:
                    folder.max_seq_length, folder.sources["max_seq_length"] = length, f"{name}, {part}"
                    folder.is_tokenizers_limit = True
        if settings.values.get("do_lower_case") is not None:
            folder.do_lower_case = settings.flag("do_lower_case")
        folder.sources["do_lower_case"] = name
        settings.finish()
        break
    if folder.max_seq_length is None and (length := model_max_length(folder.tokenizer_settings())) is not None:
        folder.max_seq_length, folder.sources["max_seq_length"] = length, "tokenizer_config.json"
        folder.is_tokenizers_limit = True


def _refuse_chat_template(files: ModelFiles, folder: "ModelFolder") -> None:
    """Without modules.json, sentence-transformers 5.4 and later writes each text as a message of a chat where it can."""
    settings, jinja = folder.tokenizer_settings(), folder.transformer_path / "chat_template.jinja"
    if files.has(jinja) or settings.values.get("chat_template") is not None:
        raise ModelFolderError(
            f"{jinja if files.has(jinja) else settings.where}: a 'chat_template', and no modules.json, so that "
            "sentence-transformers writes each text as a message of a chat, which is not computed here. Expected none; delete "
            "it to embed the texts alone."
        )


def model_max_length(settings: Settings) -> int | None:
    """The length limit in tokenizer_config.json, if it has one; raises ModelFolderError if it is not a length."""
    key = "model_max_length" if "model_max_length" in settings.values else "max_len"
    length: Any = settings.values.get(key)
    if type(length) in (int, float) and length >= limits.ROWS:
        return None  # transformers writes "no limit" as 1e30
    length = settings.size(key, None)
    settings.finish()
    return cast(int | None, length)
