"""What tokenizer_config.json changes in a tokenizer: casing, accents, added tokens, special tokens, the side that is cut.

    tokenizer_config.json                      options of the tokenizer's class, named by `tokenizer_class`
    special_tokens_map.json, added_tokens.json the same in older folders; read where `added_tokens_decoder` is missing

transformers 5 builds the tokenizer of these classes anew: of tokenizer.json (or vocabulary files) it takes the vocabulary, the
added tokens, and the side that truncation cuts; all else comes from the class and its options. tokenizer_file.py must give the
same ids. Other classes are read from tokenizer.json; options that disagree with it are refused.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from minisbert.checkpoint.folder import ModelFolder
from minisbert.checkpoint.json_file import is_text
from minisbert.checkpoint.settings import Settings, first_architecture
from minisbert.errors import ModelFolderError, folder_error
from minisbert.text import tokenizer_classes as classes
from minisbert.text.tokenizer_limits import check_added

_MAP, _ADDED = "special_tokens_map.json", "added_tokens.json"


class TokenizerConfig(NamedTuple):
    """The settings of a folder's tokenizer, its class's defaults filled in."""

    name: str  # of the class; "" where tokenizer.json alone counts
    settings: Settings
    named: dict[str, Any]  # special tokens by name: text or AddedToken
    special: dict[str, str]  # their texts
    added: dict[int, Any]  # id -> AddedToken
    extra: list[Any]
    keep_end: bool  # truncation drops the beginning of a text
    token_types: bool  # the second text of a pair is segment 1


def read_tokenizer_config(folder: ModelFolder, tokenizer: Mapping[str, Any]) -> TokenizerConfig:
    """The settings of a folder's tokenizer; `tokenizer`: tokenizer.json, {} where there is none."""
    settings, model = folder.tokenizer_settings(), folder.config
    values = settings.values
    for key in ("add_bos_token", "add_eos_token") if tokenizer else ():
        values.pop(key, None)  # tokenizer.json's own template counts
    name = _class_name(settings, model, tokenizer)
    refused = set(classes.REFUSED_KEYS) - ({"unk_id"} if name == "DebertaV2Tokenizer" else set())
    settings.absent(sorted(refused), "it changes how texts become tokens, which is not computed here")
    if not values.get("extra_special_tokens") and "additional_special_tokens" in values:
        values["extra_special_tokens"] = values.pop("additional_special_tokens")
    added = _added_tokens(folder, settings, tokenizer)
    named = _special_tokens(name, settings, added)
    extra = _further_tokens(name, settings, named)
    check_added({*map(str, (*added.values(), *named.values(), *extra))}, settings.where)
    keep_end = _keeps_end(settings, model, tokenizer)
    token_types = _has_token_types(name, settings, model)
    settings.flag("split_special_tokens", default=False)
    settings.finish()
    special = {key: str(getattr(token, "content", token)) for key, token in named.items()}
    return TokenizerConfig(name, settings, named, special, added, extra, keep_end, token_types)


def _class_name(settings: Settings, model: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str:
    """The class that transformers takes; "" where it reads tokenizer.json as it is."""
    model_type = model.get("model_type")
    given = settings.values.get("tokenizer_class") or model.get("tokenizer_class")
    if given is not None and not is_text(given):
        settings.complain("tokenizer_class", "a string")
        given = None
    default = classes.BY_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None
    if default == "" or not (given or default):
        return ""
    if model_type in classes.ALWAYS_ITS_OWN:
        return default or ""
    name = (given or default or "").removesuffix("Fast")
    family = name.removesuffix("Tokenizer")
    if family in classes.IN_PYTHON:
        raise ModelFolderError(
            f"{settings.where}: 'tokenizer_class' is {name!r}, which splits texts in Python code of its own. Expected a "
            "class that the tokenizers library computes; use another model."
        )
    name = f"{classes.ALIASES[family]}Tokenizer" if family in classes.ALIASES else name
    kind = (tokenizer.get("model") or {}).get("type")
    expected = classes.BUILT[name][0] if name in classes.BUILT else classes.READ_FROM_FILE.get(family)
    if expected is not None and kind is not None and kind != expected:
        raise ModelFolderError(
            f"{settings.where}: the tokenizer's class is {name}, which is a {expected} model, but tokenizer.json has "
            f"{kind!r:.100}. Expected both of one kind; if tokenizer.json is right, set 'tokenizer_class' to "
            "'PreTrainedTokenizerFast'."
        )
    return "" if name in ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend") else name


def _added_tokens(folder: ModelFolder, settings: Settings, tokenizer: Mapping[str, Any]) -> dict[int, Any]:
    """id -> token beyond the vocabulary: of `added_tokens_decoder`, else of the older files and of tokenizer.json."""
    from tokenizers import AddedToken

    added: dict[int, Any] = {}
    key = "added_tokens_decoder"
    if key in settings.values:
        for number, token in Settings(settings.values[key], f"{settings.where}, {key!r}").values.items():
            if number.isascii() and number.isdigit() and len(number) < 20 and isinstance(token, dict):
                added[int(number)] = _read_token(key, token, settings)
            else:
                settings.complain(key, "an object of id to token, which is an object with 'content'")
        return added
    if not folder.tokenizer_files.keys().isdisjoint((_MAP, _ADDED)):
        _merge_older_files(folder, settings, added)
    for token in tokenizer.get("added_tokens") or ():  # the library has checked them
        number = token.pop("id")
        added[number] = AddedToken(**token)
    return added


def _merge_older_files(folder: ModelFolder, settings: Settings, added: dict[int, Any]) -> None:
    """special_tokens_map.json counts more than tokenizer_config.json; added_tokens.json is an object of token to id."""
    for key, value in folder.tokenizer_settings(_MAP).values.items():
        if isinstance(value, dict) and key != "extra_special_tokens":
            value = {**value, "special": True}
        elif key == "extra_special_tokens" and isinstance(value, list):
            before = settings.values.get(key) or []
            if not isinstance(before, list):
                settings.complain(key, f"a list of tokens, as in {_MAP}")
                before = []
            value = [*before, *({**t, "special": True} if isinstance(t, dict) else t for t in value)]
        settings.values[key] = value
        settings.names[key] = f"{key} of {_MAP}"
    extra, older = settings.values.get("extra_special_tokens"), "additional_special_tokens"
    if extra is None and older in settings.values:
        settings.names["extra_special_tokens"] = settings.names.get(older, older)
        extra = settings.values["extra_special_tokens"] = settings.values[older]
    tokens, file = folder.tokenizer_settings(_ADDED).values, folder.transformer_path / _ADDED
    check_added(tokens, file)
    special = [settings.values.get(key) for key in classes.SPECIAL_TOKENS] + (extra if isinstance(extra, list) else [])
    texts = [token.get("content") if isinstance(token, dict) else token for token in special]
    contents = {text for text in texts if isinstance(text, str)}  # a list would be searched for each token
    for text, number in tokens.items():
        if type(number) is not int or not is_text(text):
            raise folder_error(
                file, f"{text!r:.100} is {number!r:.100}", "an object of token to id", "correct the file"
            )
        flags = {"special": text in contents, "normalized": text not in contents}
        added[number] = _read_token("added_tokens", {"content": text, **flags}, settings)


def _read_token(key: str, value: Any, settings: Settings) -> Any:
    """A token as text, or as the `AddedToken` of an object with its `content` and how it treats spaces."""
    from tokenizers import AddedToken

    if is_text(value):
        return value
    flags = {k: v for k, v in value.items() if k not in ("content", "__type")} if isinstance(value, dict) else {}
    known = {"single_word", "lstrip", "rstrip", "normalized", "special"}
    are_flags = flags.keys() <= known and all(isinstance(flag, bool) for flag in flags.values())
    if isinstance(value, dict) and is_text(value.get("content")) and are_flags:
        special = {} if key.startswith("added_tokens") or "__type" in value else {"special": True}
        return AddedToken(value["content"], **{**flags, **special})
    settings.complain(key, "a string, or an object with the string 'content' and flags")
    return AddedToken("", special=True)


def _special_tokens(name: str, settings: Settings, added: Mapping[int, Any]) -> dict[str, Any]:
    """The special tokens by name: the folder's, else those of the class."""
    from tokenizers import AddedToken

    values, named = settings.values, {}
    by_text = {getattr(token, "content", token): token for token in added.values()}
    defaults = classes.BUILT[name][1] if name in classes.BUILT else {}
    for key in classes.SPECIAL_TOKENS:
        if values.get(key) is not None:
            token = values[key] if is_text(values[key]) else _read_token(key, values[key], settings)
            named[key] = by_text.get(getattr(token, "content", token), token)
        elif name == "Qwen2Tokenizer" and key == "unk_token" and key in values:
            continue  # null in published folders: bytes leave no word unknown
        elif key in defaults:
            named[key] = defaults[key]
            if key in values and key not in ("pad_token", "mask_token"):
                settings.complain(key, "a string: it is part of every text, or of those with an unknown word")
        if isinstance(named.get(key), str) and name == "MPNetTokenizer":
            named[key] = AddedToken(named[key], lstrip=key == "mask_token", rstrip=False)
        elif isinstance(named.get(key), str) and (name, key) == ("CamembertTokenizer", "mask_token"):
            named[key] = AddedToken(named[key], lstrip=True, special=True)
    return named


def _further_tokens(name: str, settings: Settings, named: dict[str, Any]) -> list[Any]:
    """Adds the special tokens of other names to `named`; returns those without a name, among them those of the class."""
    extra = _unnamed_tokens(settings, named)
    if name == "CamembertTokenizer" and not extra:
        return ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]
    if name == "T5Tokenizer" and not any("<extra_id_" in str(token) for token in extra):
        extra += [f"<extra_id_{number}>" for number in range(settings.size("extra_ids", 100))]
    return extra


def _unnamed_tokens(settings: Settings, named: dict[str, Any]) -> list[Any]:
    values = settings.values
    extra = values.get("extra_special_tokens") or []
    for key, value in values.items():
        if key.endswith("_token") and key not in classes.SPECIAL_TOKENS and isinstance(value, str | dict):
            named[key] = _read_token(key, value, settings)
    for key in ("extra_special_tokens", "model_specific_special_tokens"):
        part = values.get(key)
        for name, value in part.items() if isinstance(part, dict) else ():
            named[name] = _read_token(key, value, settings)
    if isinstance(extra, dict):  # tokens with names; those without are under the older key
        check_added(extra, settings.where)
        extra = values.get("additional_special_tokens") or []
    if not isinstance(extra, list):
        settings.complain("extra_special_tokens", "a list of tokens")
        return []
    check_added(extra, settings.where)
    return [_read_token("extra_special_tokens", token, settings) for token in extra]


def _keeps_end(settings: Settings, model: dict[str, Any], tokenizer: Mapping[str, Any]) -> bool:
    """Whether a text that is too long loses its beginning; complains of padding on the left where that changes numbers."""
    sides = []
    for key in ("truncation", "padding"):
        side = (tokenizer.get(key) or {}).get("direction", "Right").lower()
        sides.append(settings.choice(f"{key}_side", ["right", "left"], default=side))
    # A classifier's head takes the first token, padding or not.
    classifier = first_architecture(model).endswith("ForSequenceClassification")
    if sides[1] == "left" and (classifier or model.get("model_type") in classes.COUNT_PADDING):
        found = "" if "padding_side" in settings.values else ", where tokenizer.json has 'direction': 'Left'"
        wrong = "is then the first token of" if classifier else "on the left moves the positions of"
        settings.complain("padding_side", f"'right'{found}: padding {wrong} shorter texts")
    return sides[0] == "left"


def _has_token_types(name: str, settings: Settings, model: Mapping[str, Any]) -> bool:
    """Whether the second text of a pair is segment 1: by `model_input_names`, else by the class."""
    given = settings.values.get("tokenizer_class") or model.get("tokenizer_class") or name
    types = str(given).removesuffix("Fast").removesuffix("Tokenizer") in classes.TOKEN_TYPES and bool(name)
    usual = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    inputs = settings.values.get("model_input_names", usual)
    if not isinstance(inputs, list) or "input_ids" not in inputs or "attention_mask" not in inputs:
        settings.complain("model_input_names", "a list with 'input_ids' and 'attention_mask'")
    return isinstance(inputs, list) and "token_type_ids" in inputs
