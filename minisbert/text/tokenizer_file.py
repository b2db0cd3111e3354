"""Reads tokenizer.json, and what the files next to it change. What it may describe is limited in tokenizer_limits.py."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from minisbert import limits
from minisbert.checkpoint.json_file import is_text, parse_json
from minisbert.checkpoint.settings import Settings
from minisbert.errors import MinisbertError, ModelFolderError
from minisbert.text.tokenizer_config import (
    ALIASES,
    ALWAYS_ITS_OWN,
    BUILT,
    BY_MODEL_TYPE,
    COUNT_PADDING,
    FURTHER,
    IN_PYTHON,
    READ_FROM_FILE,
    REFUSED_KEYS,
    SPECIAL_TOKENS,
    TOKEN_TYPES,
    Source,
    TokenizerConfig,
    as_object,
    check_options,
    further_parts,
    further_tokens,
    merge_older_files,
    own_flags,
    read_token,
)
from minisbert.text.tokenizer_limits import check_limits


def read_tokenizer(
    files: Mapping[str, bytes], file: Path, model: Mapping[str, Any] | None, *, special_tokens: bool = True
) -> Source:
    """What the tokenizer is built from: tokenizer.json, and what the files next to it change.

    Args:
        files: name -> content of the tokenizer's files.
        file: the path of tokenizer.json, for messages.
        model: config.json; None for a static model, whose tokenizer.json alone counts.
        special_tokens: check the special tokens that it puts around a text; False where the model uses none.

    Raises:
        ModelFolderError: not JSON, not a tokenizer; rules that make texts much longer; pieces chosen at random; special
            tokens that the vocabulary lacks.
    """
    import tokenizers

    content = files[file.name]
    values = parse_json(content, file)
    if isinstance(values, dict):
        check_limits(values, file)
    try:
        backend = tokenizers.Tokenizer.from_buffer(content)
    except BaseException as error:
        raise refusal(error, ModelFolderError, f"{file}: not a tokenizer that the tokenizers library reads") from None
    for token, number in _placed_tokens(values.get("post_processor") or {}) if special_tokens else ():
        known = None if token is None else backend.token_to_id(token)
        if known != number:
            raise ModelFolderError(
                f"{file}: the post_processor puts the special token {token!r} as id {number} around a text, but in the "
                f"vocabulary it {'is not' if known is None else f'is {known}'}. Download the model again."
            )
    unknown = values["model"].get("unk_token")
    if unknown is not None and backend.token_to_id(unknown) is None:
        raise ModelFolderError(
            f"{file}: the unknown token {unknown!r:.100} is not in the vocabulary, so that no unknown word can be read. "
            "Download the model again."
        )
    if model is None:
        return Source(file, backend, None)
    config = read_tokenizer_config(files, file.parent, model, values)
    if config.name not in BUILT:
        if config.name:
            check_options(config, backend)
        return Source(file, backend, config)
    parts = values["model"]
    is_word_piece = BUILT[config.name][0] == "WordPiece"
    return Source(file, backend, config, parts["vocab"], *(() if is_word_piece else further_parts(values)))


def read_tokenizer_config(
    files: Mapping[str, bytes], folder: Path, model: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> TokenizerConfig:
    """The settings of a folder's tokenizer.

    Args:
        files: name -> content of the tokenizer's files.
        folder: where they are, for messages.
        model: config.json.
        tokenizer: tokenizer.json, {} where there is none.

    Raises:
        ModelFolderError: a class or setting that is not computed here, or a malformed one.
    """
    from tokenizers import AddedToken

    file = folder / "tokenizer_config.json"
    settings = Settings(parse_json(files.get(file.name, b"{}"), file), file)
    values = settings.values
    name = _class_name(settings, model, tokenizer)
    refused = set(REFUSED_KEYS) - ({"unk_id"} if name == "DebertaV2Tokenizer" else set())
    settings.absent(sorted(refused), "it changes how texts become tokens, which is not computed here")
    if not values.get("extra_special_tokens") and "additional_special_tokens" in values:
        values["extra_special_tokens"] = values.pop("additional_special_tokens")
    added: dict[int, Any] = {}
    if "added_tokens_decoder" in values:
        for number, token in as_object(values["added_tokens_decoder"], file).items():
            if number.isascii() and number.isdigit():
                added[int(number)] = read_token("added_tokens_decoder", token, settings)
            else:
                settings.complain("added_tokens_decoder", "an object of id to token")
    else:
        if "special_tokens_map.json" in files or "added_tokens.json" in files:
            merge_older_files(files, folder, settings, added)
        for token in tokenizer.get("added_tokens") or ():  # the library has checked them
            number = token.pop("id")
            added[number] = AddedToken(**token)
    if len(added) > limits.ADDED_TOKENS:
        raise ModelFolderError(
            f"{file}: {len(added)} added tokens, with those of the files next to it. Expected at most {limits.ADDED_TOKENS}; "
            "use another model."
        )
    by_text = {}
    for token in added.values():
        by_text[getattr(token, "content", token)] = token
    named: dict[str, Any] = {}
    defaults = BUILT[name][1] if name in BUILT else {}
    for key in SPECIAL_TOKENS:
        if values.get(key) is not None:
            token = values[key] if is_text(values[key]) else read_token(key, values[key], settings)
            named[key] = by_text.get(getattr(token, "content", token), token)
        elif key in defaults:
            named[key] = defaults[key]
            if key in values and key not in ("pad_token", "mask_token"):
                settings.complain(key, "a string: it is part of every text, or of those with an unknown word")
        if name in ("MPNetTokenizer", "CamembertTokenizer") and isinstance(named.get(key), str):
            named[key] = own_flags(name, key, named[key])
    extra: list[Any] = []
    for key in values:
        if key in FURTHER or (key.endswith("_token") and key not in SPECIAL_TOKENS):
            extra = further_tokens(settings, named)
            break
    if name == "CamembertTokenizer" and not extra:
        extra = ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]
    if name == "T5Tokenizer" and not any("<extra_id_" in str(token) for token in extra):
        count = settings.integer("extra_ids", at_least=0, at_most=limits.ADDED_TOKENS, default=100)
        extra = [*extra, *(f"<extra_id_{number}>" for number in range(count))]
    side = (tokenizer.get("truncation") or {}).get("direction", "Right").lower()
    keep_end = settings.choice("truncation_side", ["right", "left"], default=side) == "left"
    side = (tokenizer.get("padding") or {}).get("direction", "Right").lower()
    side = settings.choice("padding_side", ["right", "left"], default=side)
    if side == "left" and model.get("model_type") in COUNT_PADDING:
        found = "" if "padding_side" in values else ", where tokenizer.json has 'direction': 'Left'"
        settings.complain(
            "padding_side", f"'right'{found}, because padding on the left moves the positions of shorter texts"
        )
    given = values.get("tokenizer_class") or model.get("tokenizer_class") or name
    types = str(given).removesuffix("Fast").removesuffix("Tokenizer") in TOKEN_TYPES and bool(name)
    inputs = values.get("model_input_names", ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])])
    if not isinstance(inputs, list) or "input_ids" not in inputs or "attention_mask" not in inputs:
        settings.complain("model_input_names", "a list with 'input_ids' and 'attention_mask'")
    settings.flag("split_special_tokens", default=False)
    settings.finish()
    types = isinstance(inputs, list) and "token_type_ids" in inputs
    return TokenizerConfig(name, settings, named, added, extra, keep_end, types)


def _class_name(settings: Settings, model: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str:
    """The class that transformers takes; "" where it reads tokenizer.json as it is."""
    model_type = model.get("model_type")
    given = settings.values.get("tokenizer_class") or model.get("tokenizer_class")
    if given is not None and not is_text(given):
        settings.complain("tokenizer_class", "a string")
        given = None
    default = BY_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None
    if default == "" or not (given or default):
        return ""
    if model_type in ALWAYS_ITS_OWN:
        return default or ""
    name = (given or default or "").removesuffix("Fast")
    family = name.removesuffix("Tokenizer")
    if family in IN_PYTHON:
        raise ModelFolderError(
            f"{settings.where}: 'tokenizer_class' is {name!r}, which splits texts in Python code of its own. Expected a "
            "class that the tokenizers library computes; use another model."
        )
    name = f"{ALIASES[family]}Tokenizer" if family in ALIASES else name
    kind, expected = (
        (tokenizer.get("model") or {}).get("type"),
        BUILT[name][0] if name in BUILT else READ_FROM_FILE.get(family),
    )
    if expected is not None and kind is not None and kind != expected:
        raise ModelFolderError(
            f"{settings.where}: the tokenizer's class is {name}, which is a {expected} model, but tokenizer.json has "
            f"{kind!r:.100}. Expected both of one kind; if tokenizer.json is right, set 'tokenizer_class' to "
            "'PreTrainedTokenizerFast'."
        )
    return "" if name in ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend") else name


def refusal(error: BaseException, kind: type[MinisbertError], what: str) -> MinisbertError:
    """The error to raise for one of the library; an interrupt is raised again.

    The library's panics do not derive from Exception; only their class's name tells them from interrupts.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return kind(f"{what} ({error!s:.300}). Expected a tokenizer that takes any text; download the model again.")


def _placed_tokens(processor: dict[str, Any]) -> Iterator[tuple[str | None, int | None]]:
    """Each special token that a post-processor places, with the id it gives it; None where one of the two lacks."""
    kind = processor.get("type")  # the library has checked what each kind holds
    if kind == "Sequence":
        for part in processor["processors"]:
            yield from _placed_tokens(part)
    elif kind == "TemplateProcessing":
        for placed in processor["special_tokens"].values():
            yield from zip_longest(placed["tokens"], placed["ids"])
    elif kind in ("BertProcessing", "RobertaProcessing"):
        yield from (tuple(processor[key]) for key in ("cls", "sep"))
