"""What tokenizer_config.json changes in a tokenizer: casing, accents, added tokens, special tokens, the side that is cut.

    tokenizer_config.json                      options of the tokenizer's class, named by `tokenizer_class`
    special_tokens_map.json, added_tokens.json the same in older folders; read where `added_tokens_decoder` is missing

transformers 5 builds the tokenizer of these classes anew: of tokenizer.json (or vocab.txt, vocab.json with merges.txt) it
takes the vocabulary, the added tokens, and the side that truncation cuts; normalizer, pre-tokenizer and special tokens come
from the class and its options. `build` does the same with the `tokenizers` library, and must give the same ids. Every other
class is read from tokenizer.json, to which only tokens are added; options that disagree with it are refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minisbert.checkpoint.settings import Settings, is_text, parse_json
from minisbert.errors import ModelFolderError

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_APPLIED = "applied"
_HARMLESS = "harmless"  # changes no token id of a text
_REFUSED = "refused"  # would change token ids in a way that is not computed here
# Every key that transformers 5 reads. It ignores others, and so does this file; `*_token` is a further special token.
KEYS = {
    **dict.fromkeys(SPECIAL_TOKENS, _APPLIED),
    **dict.fromkeys(("tokenizer_class", "added_tokens_decoder", "truncation_side", "split_special_tokens"), _APPLIED),
    **dict.fromkeys(("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"), _APPLIED),
    **dict.fromkeys(("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space"), _APPLIED),
    **dict.fromkeys(("keep_accents", "model_max_length", "max_len", "padding_side", "model_input_names"), _APPLIED),
    **dict.fromkeys(("trim_offsets", "errors", "clean_up_tokenization_spaces", "verbose", "name_or_path"), _HARMLESS),
    **dict.fromkeys(("add_bos_token", "add_eos_token", "backend", "is_local", "local_files_only"), _HARMLESS),
    **dict.fromkeys(("chat_template", "response_template", "chat_control_tokens", "response_schema"), _HARMLESS),
    **dict.fromkeys(("processor_class", "auto_map", "files_loaded", "pad_token_type_id", "stride"), _HARMLESS),
    **dict.fromkeys(("max_length", "truncation_strategy", "pad_to_multiple_of"), _HARMLESS),
    **dict.fromkeys(("vocab_file", "merges_file", "tokenizer_file", "special_tokens_map_file"), _HARMLESS),
    **dict.fromkeys(("never_split", "do_basic_tokenize", "use_fast"), _HARMLESS),
    **dict.fromkeys(("vocab", "merges", "init_inputs", "post_processor", "tokenizer_object", "gguf_file"), _REFUSED),
    **dict.fromkeys(("tokenizer_truncation", "tokenizer_padding", "_json_truncation", "_json_padding"), _REFUSED),
    **dict.fromkeys(("fast_tokenizer_files", "_spm_precompiled_charsmap", "unk_id", "fix_mistral_regex"), _REFUSED),
}
_ROBERTA = dict(zip(SPECIAL_TOKENS, ("<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"), strict=True))
_ALBERT = _ROBERTA | {"bos_token": "[CLS]", "eos_token": "[SEP]", "sep_token": "[SEP]", "cls_token": "[CLS]"}
_BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
# Class -> the kind of tokenizers.models that it builds, and its special tokens.
BUILT: dict[str, tuple[str, dict[str, str]]] = {
    "BertTokenizer": ("WordPiece", _BERT),
    "MPNetTokenizer": ("WordPiece", _ROBERTA | {"unk_token": "[UNK]"}),
    "RobertaTokenizer": ("BPE", _ROBERTA),
    "XLMRobertaTokenizer": ("Unigram", _ROBERTA),
    "AlbertTokenizer": ("Unigram", _ALBERT | {"mask_token": "[MASK]"}),
    "CamembertTokenizer": ("Unigram", _ROBERTA),
}
_ALIASES = {
    **dict.fromkeys(("DistilBert", "Electra", "MobileBert", "ConvBert", "LayoutLM", "SqueezeBert", "Lxmert"), "Bert"),
    **dict.fromkeys(("DPRQuestionEncoder", "DPRContextEncoder", "DPRReader"), "Bert"),
    **dict.fromkeys(("Longformer", "Bart", "LED"), "Roberta"),
}
# The class where no file names one.
_BY_MODEL_TYPE = {
    **dict.fromkeys(("bert", "distilbert", "electra", "ernie", "nomic_bert"), "BertTokenizer"),
    "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer",
    **dict.fromkeys(("xlm-roberta", "gte", "jina_embeddings_v3"), "XLMRobertaTokenizer"),
    "albert": "AlbertTokenizer",
    "camembert": "CamembertTokenizer",
    "modernbert": "",  # tokenizer.json, whatever a file names
}
# Classes that transformers runs in Python; they ignore tokenizer.json.
_IN_PYTHON = {
    *("BertJapanese", "Phobert", "Bertweet", "Esm", "Canine", "Flaubert", "XLM", "BertTokenizerLegacy", "RoCBert"),
    *("Tapas", "Luke", "ProphetNet", "FSMT", "BioGpt", "ByT5", "MyT5", "Perceiver", "CTRL", "Bartpho"),
}
# Families whose positions count from the start of the row, padding included.
_COUNT_PADDING = ("bert", "distilbert", "albert", "electra", "ernie", "roberta", "xlm-roberta", "camembert", "mpnet")


class TokenizerConfig(NamedTuple):
    """The settings of a folder's tokenizer, its class's defaults filled in."""

    name: str  # of the class; "" where tokenizer.json alone counts
    settings: Settings
    named: dict[str, Any]  # special tokens by name: text or AddedToken
    added: list[Any]  # AddedToken, in the order of their ids
    extra: list[Any]
    keep_end: bool  # truncation drops the beginning of a text

    @property
    def is_built(self) -> bool:
        return self.name in BUILT


def read_tokenizer_config(
    files: Mapping[str, bytes], folder: Path, model: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> TokenizerConfig:
    """The tokenizer's settings.

    Args:
        files: name -> content of the tokenizer's files.
        folder: where they are, for messages.
        model: config.json.
        tokenizer: tokenizer.json, {} where there is none.

    Raises:
        ModelFolderError: a class or setting that is not computed here, or a malformed one.
    """
    file = folder / "tokenizer_config.json"
    settings = Settings(parse_json(files.get(file.name, b"{}"), file), file)
    # A copy: the files of older folders are merged into it.
    values = settings.values = dict(settings.values)
    why = "it changes how texts become tokens, and only the vocabulary files count here"
    settings.absent([key for key, effect in KEYS.items() if effect == _REFUSED], why)
    name = _class_name(settings, model, tokenizer)
    if not values.get("extra_special_tokens") and "additional_special_tokens" in values:
        values["extra_special_tokens"] = values.pop("additional_special_tokens")
    added: dict[int, Any] = {}
    if "added_tokens_decoder" in values:
        for number, token in _object(values["added_tokens_decoder"], "added_tokens_decoder", settings).items():
            if not (number.isascii() and number.isdigit()) or not isinstance(token, dict):
                settings.complain("added_tokens_decoder", "an object of id to token")
                continue
            added[int(number)] = _token("added_tokens_decoder", token, settings)
    else:
        _merge_older_files(files, folder, settings, added)
        for token in tokenizer.get("added_tokens") or ():
            added[token["id"]] = _token("added_tokens", {k: v for k, v in token.items() if k != "id"}, settings)
    by_text = {token.content: token for token in added.values()}
    defaults = BUILT[name][1] if name in BUILT else {}
    named: dict[str, Any] = {}
    for key in SPECIAL_TOKENS:
        if values.get(key) is not None:
            token = _token(key, values[key], settings)
            named[key] = by_text.get(getattr(token, "content", token), token)
        elif key in values and key in defaults and key not in ("pad_token", "mask_token"):
            settings.complain(key, "a string, which a text begins or ends with or an unknown word becomes")
        elif key in defaults:
            named[key] = defaults[key]
        if key in named and isinstance(named[key], str):
            named[key] = _own_flags(name, key, named[key])
    extra = values.get("extra_special_tokens") or []
    further = {k: v for k, v in values.items() if k.endswith("_token") and k not in named and isinstance(v, str | dict)}
    for part in (extra, values.get("model_specific_special_tokens") or {}):
        further |= part if isinstance(part, dict) else {}
    named |= {key: _token(key, token, settings) for key, token in further.items()}
    if not isinstance(extra, list | dict):
        settings.complain("extra_special_tokens", "a list of tokens")
    extra = [_token("extra_special_tokens", token, settings) for token in extra] if isinstance(extra, list) else []
    if name == "CamembertTokenizer" and not extra:
        extra = ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]
    keep_end = _sides(settings, model, tokenizer) == "left"
    settings.flag("split_special_tokens", default=False)
    settings.finish()
    return TokenizerConfig(name, settings, named, [token for _, token in sorted(added.items())], extra, keep_end)


def _class_name(settings: Settings, model: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str:
    """The class that transformers takes; "" where it reads tokenizer.json as it is."""
    model_type = model.get("model_type")
    given = settings.values.get("tokenizer_class") or model.get("tokenizer_class")
    if given is not None and not is_text(given):
        settings.complain("tokenizer_class", "a string")
        given = None
    default = _BY_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None
    if default == "" or not (given or default):
        return ""
    name = (given or default or "").removesuffix("Fast")
    family = name.removesuffix("Tokenizer")
    if family in _IN_PYTHON:
        raise ModelFolderError(
            f"{settings.where}: 'tokenizer_class' is {name!r}, which splits texts in Python code of its own. Expected a "
            "class that the tokenizers library computes; use another model."
        )
    name = f"{_ALIASES[family]}Tokenizer" if family in _ALIASES else name
    kind = (tokenizer.get("model") or {}).get("type")
    if name in BUILT and kind is not None and kind != BUILT[name][0]:
        raise ModelFolderError(
            f"{settings.where}: the tokenizer's class is {name}, which is a {BUILT[name][0]} model, but tokenizer.json has "
            f"{kind!r:.100}. Expected both of one kind; if tokenizer.json is right, set 'tokenizer_class' to "
            "'PreTrainedTokenizerFast'."
        )
    return "" if name in ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend") else name


def _merge_older_files(files: Mapping[str, bytes], folder: Path, settings: Settings, added: dict[int, Any]) -> None:
    """special_tokens_map.json counts more than tokenizer_config.json; added_tokens.json is an object of token to id."""
    file = folder / "special_tokens_map.json"
    for key, value in _object(parse_json(files.get(file.name, b"{}"), file), file, settings).items():
        if isinstance(value, dict) and key != "extra_special_tokens":
            value = {**value, "special": True}
        elif key == "extra_special_tokens" and isinstance(value, list):
            value = [*(settings.values.get(key) or []), *({**t, "special": True} if isinstance(t, dict) else t for t in value)]
        settings.values[key] = value
    extra = settings.values.get("extra_special_tokens")
    if extra is None and "additional_special_tokens" in settings.values:
        extra = settings.values["extra_special_tokens"] = settings.values["additional_special_tokens"]
    file = folder / "added_tokens.json"
    tokens = _object(parse_json(files.get(file.name, b"{}"), file), file, settings)
    special = [settings.values.get(key) for key in SPECIAL_TOKENS] + (extra if isinstance(extra, list) else [])
    contents = [token.get("content") if isinstance(token, dict) else token for token in special]
    for text, number in tokens.items():
        if type(number) is not int or not is_text(text):
            raise ModelFolderError(f"{file}: {text!r:.100} is {number!r:.100}. Expected an object of token to id; correct the file.")
        flags = {"special": text in contents, "normalized": text not in contents}
        added[number] = _token("added_tokens", {"content": text, **flags}, settings)


def _object(value: Any, where: Any, settings: Settings) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ModelFolderError(f"{settings.where if isinstance(where, str) else where}: expected an object, found {value!r:.100}.")
    return value


def _token(key: str, value: Any, settings: Settings) -> Any:
    """A token as text, or as the `AddedToken` of an object with its `content` and how it treats spaces."""
    from tokenizers import AddedToken

    if is_text(value):
        return value
    flags = {k: v for k, v in value.items() if k not in ("content", "__type")} if isinstance(value, dict) else {}
    known = ("single_word", "lstrip", "rstrip", "normalized", "special")
    if (
        isinstance(value, dict)
        and is_text(value.get("content"))
        and all(flag in known and isinstance(set_, bool) for flag, set_ in flags.items())
    ):
        special = {} if key.startswith("added_tokens") or "__type" in value else {"special": True}
        return AddedToken(value["content"], **{**flags, **special})
    settings.complain(key, "a string, or an object with the string 'content' and flags")
    return AddedToken("", special=True)


def _own_flags(name: str, key: str, token: str) -> Any:
    """How a class treats a special token that is given as text."""
    from tokenizers import AddedToken

    if name == "MPNetTokenizer":
        return AddedToken(token, lstrip=key == "mask_token", rstrip=False)
    if name == "CamembertTokenizer" and key == "mask_token":
        return AddedToken(token, lstrip=True, special=True)
    return token


def _sides(settings: Settings, model: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str:
    """The side that truncation cuts; padding on the left is refused where it would move a text's positions."""
    truncation, padding = (tokenizer.get(key) for key in ("truncation", "padding"))
    side = truncation.get("direction", "Right").lower() if isinstance(truncation, dict) else "right"
    cut: str = settings.choice("truncation_side", ["right", "left"], default=side)
    side = padding.get("direction", "Right").lower() if isinstance(padding, dict) else "right"
    if settings.choice("padding_side", ["right", "left"], default=side) == "left" and model.get("model_type") in _COUNT_PADDING:
        settings.complain("padding_side", "'right', because padding on the left moves the positions of shorter texts")
    names = settings.values.get("model_input_names")
    if names is not None and not (isinstance(names, list) and {"input_ids", "attention_mask"} <= set(map(str, names))):
        settings.complain("model_input_names", "a list with 'input_ids' and 'attention_mask'")
    return cut


def build(config: TokenizerConfig, vocabulary: Any, merges: Any = None, processor: Any = None, charsmap: bytes | None = None) -> Any:
    """A `tokenizers.Tokenizer` of a class in `BUILT`, its added tokens included.

    Args:
        vocabulary: piece -> id; a list of (piece, log probability) for Unigram.
        merges: pairs of pieces, the first to join first; byte-pair encoding only.
        processor: tokenizer.json's post-processor, which ALBERT's class keeps.
        charsmap: sentencepiece's normalization map; Unigram only.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    kind, _ = BUILT[config.name]
    settings, special = config.settings, {key: str(getattr(t, "content", t)) for key, t in config.named.items()}
    if kind == "WordPiece":
        backend = Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk_token"]))
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=settings.flag("tokenize_chinese_chars", default=True),
            strip_accents=settings.choice("strip_accents", [None, True, False], default=None),
            lowercase=settings.flag("do_lower_case", default=True),
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        if special["unk_token"] not in vocabulary:
            settings.complain("unk_token", f"a piece of the vocabulary, which lacks {special['unk_token']!r:.100}")
    elif kind == "BPE":
        space = settings.flag("add_prefix_space", default=False)
        backend = Tokenizer(models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=""))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
        backend.decoder = decoders.ByteLevel()
        trim = settings.flag("trim_offsets", default=True)
    else:
        backend = _unigram(config, vocabulary, special, charsmap)
    settings.finish()
    add_tokens(backend, config)
    first, last = ("bos_token", "eos_token") if config.name in ("XLMRobertaTokenizer", "CamembertTokenizer") else ("cls_token", "sep_token")
    (cls, cls_id), (sep, sep_id) = ((special[key], backend.token_to_id(special[key])) for key in (first, last))
    if config.name == "AlbertTokenizer" and processor is not None:
        backend.post_processor = processor
    elif kind == "BPE":
        backend.post_processor = processors.RobertaProcessing((sep, sep_id), (cls, cls_id), trim, space)
    elif config.name == "MPNetTokenizer":
        backend.post_processor = processors.RobertaProcessing((sep, sep_id), (cls, cls_id), True, False)
    else:
        between = [sep] if kind == "Unigram" and config.name != "AlbertTokenizer" else []
        pair = [cls, "$A", sep, *between, "$B:1", f"{sep}:1"]
        backend.post_processor = processors.TemplateProcessing(
            single=[cls, "$A", sep], pair=pair, special_tokens=[(cls, cls_id), (sep, sep_id)]
        )
    return backend


def _unigram(config: TokenizerConfig, vocabulary: Any, special: dict[str, str], charsmap: bytes | None) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces, settings = [tuple(piece) for piece in vocabulary], config.settings
    unknown = {"XLMRobertaTokenizer": 3, "AlbertTokenizer": 1}.get(config.name)
    if unknown is None:
        unknown = next((row for row, (piece, _) in enumerate(pieces) if piece == special["unk_token"]), 0)
    backend = Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=False))
    steps: list[Any] = []
    if config.name == "AlbertTokenizer":
        steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not settings.flag("keep_accents", default=False):
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        if settings.flag("do_lower_case", default=True):
            steps.append(normalizers.Lowercase())
    if charsmap is not None:
        steps.append(normalizers.Precompiled(charsmap))
    if steps:
        backend.normalizer = normalizers.Sequence(steps) if config.name == "AlbertTokenizer" else steps[0]
    scheme = "always" if settings.flag("add_prefix_space", default=True) else "never"
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    return backend


def add_tokens(backend: Any, config: TokenizerConfig) -> None:
    """Added tokens in the order of their ids, then the special tokens that are missing; the library numbers new ones."""
    from tokenizers import AddedToken

    tokens = list(config.added)
    known = {t.content for t in (*backend.get_added_tokens_decoder().values(), *tokens)}
    for token in (*config.named.values(), *config.extra):
        if getattr(token, "content", token) not in known and token not in tokens:
            tokens.append(token)
    named = {getattr(token, "content", token) for token in config.named.values()}
    tokens = [AddedToken(token, special=True) if isinstance(token, str) else token for token in tokens]
    for token in tokens:
        token.special = token.special or token.content in named
    backend.add_tokens(tokens)
    backend.encode_special_tokens = config.settings.values.get("split_special_tokens") is True


def check_options(config: TokenizerConfig, backend: Any) -> None:
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
