"""Reads tokenizer.json, and what the files next to it change. What it may describe is limited in tokenizer_limits.py."""

import base64
import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from minisbert import limits
from minisbert.checkpoint.json_file import is_text, parse_json
from minisbert.checkpoint.settings import Settings
from minisbert.errors import MinisbertError, ModelFolderError
from minisbert.text.tokenizer_config import (
    BUILT,
    COUNT_PADDING,
    FURTHER,
    REFUSED_KEYS,
    SPECIAL_TOKENS,
    TOKEN_TYPES,
    Source,
    TokenizerConfig,
    as_object,
    class_name,
    further_tokens,
    merge_older_files,
    own_flags,
    read_token,
)
from minisbert.text.tokenizer_limits import check_limits


def read_tokenizer(files: Mapping[str, bytes], file: Path, model: Mapping[str, Any] | None) -> Source:
    """What the tokenizer is built from: tokenizer.json, and what the files next to it change.

    Args:
        files: name -> content of the tokenizer's files.
        file: the path of tokenizer.json, for messages.
        model: config.json; None for a static model, whose tokenizer.json alone counts, without special tokens around a text.

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
    for token, number in _placed_tokens({} if model is None else values.get("post_processor") or {}):
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
            _check_options(config, backend)
        return Source(file, backend, config)
    parts = values["model"]
    is_word_piece = BUILT[config.name][0] == "WordPiece"
    return Source(file, backend, config, parts["vocab"], *(() if is_word_piece else _further_parts(values)))


def _further_parts(tokenizer: Mapping[str, Any]) -> tuple[Any, bytes | None]:
    """The merges of a tokenizer.json, and its sentencepiece map."""
    merges = tokenizer["model"].get("merges")
    pairs = merges and [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges]
    steps = [tokenizer.get("normalizer")]
    for step in steps:
        if isinstance(step, dict) and step.get("type") == "Precompiled":
            return pairs, base64.b64decode(step["precompiled_charsmap"])
        steps += step.get("normalizers", []) if isinstance(step, dict) else []
    return pairs, None


def _check_options(config: TokenizerConfig, backend: Any) -> None:
    """Options of a class that is read from tokenizer.json agree with that file.

    Raises:
        ModelFolderError: naming those that do not.
    """
    settings, values = config.settings, config.settings.values
    steps = [json.loads(part.__getstate__()) if part else {} for part in (backend.normalizer, backend.pre_tokenizer)]
    written = json.dumps(steps)
    lowers = '"lowercase": true' in written or '"Lowercase"' in written
    if values.get("do_lower_case") not in (None, lowers):
        settings.complain("do_lower_case", f"{str(lowers).lower()}, as tokenizer.json has it")
    spaces = [
        '"add_prefix_space": true' in written or '"prepend_scheme": "always"' in written or '"Prepend"' in written,
        '"prepend_scheme": "first"' in written,
    ]
    if values.get("add_prefix_space") not in (None, any(spaces)):
        settings.complain("add_prefix_space", f"{str(any(spaces)).lower()}, as tokenizer.json has it")
    for key, default in (("strip_accents", None), ("tokenize_chinese_chars", True), ("keep_accents", False)):
        if values.get(key) not in (None, default):
            settings.complain(key, f"{json.dumps(default)}, because {config.name} is read from tokenizer.json")
    settings.finish()


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
    name = class_name(settings, model, tokenizer)
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
