"""What tokenizer_config.json changes in a tokenizer: casing, accents, added tokens, special tokens, the side that is cut.

    tokenizer_config.json                      options of the tokenizer's class, named by `tokenizer_class`
    special_tokens_map.json, added_tokens.json the same in older folders; read where `added_tokens_decoder` is missing

transformers 5 builds the tokenizer of these classes anew: of tokenizer.json (or vocab.txt, vocab.json with merges.txt) it
takes the vocabulary, the added tokens, and the side that truncation cuts; normalizer, pre-tokenizer and special tokens come
from the class and its options. `build` does the same with the `tokenizers` library, and must give the same ids. Every other
class is read from tokenizer.json, to which only tokens are added; options that disagree with it are refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minisbert.checkpoint.json_file import is_text, parse_json
from minisbert.checkpoint.keys import APPLIED, HARMLESS, REFUSED, effects
from minisbert.checkpoint.settings import Settings
from minisbert.errors import ModelFolderError

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FURTHER = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
# Every key that transformers 5 reads, with its effect (checkpoint/keys.py); "refused" would change token ids. It ignores the
# others, and so does this file; `*_token` is a further special token.
KEYS = {
    **dict.fromkeys((*SPECIAL_TOKENS, *FURTHER), APPLIED),
    **effects(APPLIED, "tokenizer_class added_tokens_decoder truncation_side padding_side model_input_names extra_ids"),
    **effects(APPLIED, "do_lower_case strip_accents tokenize_chinese_chars add_prefix_space split_by_punct"),
    **effects(APPLIED, "keep_accents split_special_tokens model_max_length max_len"),
    **effects(HARMLESS, "trim_offsets errors clean_up_tokenization_spaces verbose name_or_path add_bos_token"),
    **effects(HARMLESS, "add_eos_token backend is_local local_files_only chat_template response_template"),
    **effects(HARMLESS, "response_schema processor_class auto_map files_loaded pad_token_type_id stride max_length"),
    "chat_control_tokens": HARMLESS,
    **effects(HARMLESS, "truncation_strategy pad_to_multiple_of vocab_file merges_file tokenizer_file"),
    **effects(HARMLESS, "special_tokens_map_file never_split do_basic_tokenize use_fast"),
    **effects(REFUSED, "vocab merges init_inputs post_processor tokenizer_object gguf_file fast_tokenizer_files"),
    **effects(REFUSED, "unk_id tokenizer_truncation tokenizer_padding _json_truncation _json_padding"),
    **effects(REFUSED, "fix_mistral_regex _spm_precompiled_charsmap"),
}
REFUSED_KEYS = tuple(key for key, effect in KEYS.items() if effect == REFUSED)


def _classes(value: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), value)


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
    "DebertaV2Tokenizer": ("Unigram", _BERT | {"bos_token": "[CLS]", "eos_token": "[SEP]"}),
    "T5Tokenizer": ("Unigram", {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}),
    "Qwen2Tokenizer": ("BPE", dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")),
}
# How Qwen2Tokenizer splits a text before byte-pair encoding: endings, words, single digits, signs, spaces.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ALIASES = {
    **_classes(
        "Bert", "DistilBert Electra MobileBert ConvBert LayoutLM SqueezeBert Lxmert DPRReader DPRContextEncoder"
    ),
    **_classes("Bert", "DPRQuestionEncoder"),
    **_classes("Roberta", "Longformer Bart LED"),
}
# Classes that transformers builds in other ways, from which tokenizer.json differs in what tokenizer_file.py checks, at most.
READ_FROM_FILE = {
    **_classes("BPE", "Qwen3_5 GPT2 Llama Gemma GPTNeoX Deberta Herbert CLIP"),
    **_classes("Unigram", "XLNet MBart RemBert BigBird Pegasus FNet"),
    **_classes("WordPiece", "Funnel Splinter RoFormer"),
}
# The class where no file names one.
BY_MODEL_TYPE = {
    **_classes("BertTokenizer", "bert distilbert electra ernie nomic_bert"),
    "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer",
    **_classes("XLMRobertaTokenizer", "xlm-roberta gte jina_embeddings_v3"),
    "albert": "AlbertTokenizer",
    "camembert": "CamembertTokenizer",
    "modernbert": "",  # tokenizer.json, whatever a file names
    **_classes("Qwen2Tokenizer", "qwen2 qwen3"),
    "gemma3_text": "GemmaTokenizer",
    **_classes("T5Tokenizer", "t5 mt5"),
    "deberta-v2": "DebertaV2Tokenizer",
}
# The family whose class counts, whatever a file names.
ALWAYS_ITS_OWN = ("qwen2",)
# Classes that transformers runs in Python; they ignore tokenizer.json.
IN_PYTHON = set(
    "BertJapanese Phobert Bertweet Esm Canine Flaubert XLM BertTokenizerLegacy RoCBert Tapas Luke ProphetNet FSMT BioGpt ByT5 "
    "MyT5 Perceiver CTRL Bartpho".split()
)
# Classes that tell the model which tokens are the second text's, unless `model_input_names` says otherwise.
TOKEN_TYPES = "Bert Electra MobileBert ConvBert Deberta DebertaV2 XLNet Funnel BigBird FNet".split()
# Families whose positions count from the start of the row, padding included.
COUNT_PADDING = "bert distilbert albert electra ernie roberta xlm-roberta camembert mpnet".split()


class TokenizerConfig(NamedTuple):
    """The settings of a folder's tokenizer, its class's defaults filled in."""

    name: str  # of the class; "" where tokenizer.json alone counts
    settings: Settings
    named: dict[str, Any]  # special tokens by name: text or AddedToken
    added: dict[int, Any]  # id -> AddedToken
    extra: list[Any]
    keep_end: bool  # truncation drops the beginning of a text
    token_types: bool  # the second text of a pair is segment 1


class Source(NamedTuple):
    """What a tokenizer is built from."""

    where: Path  # the file, for messages
    backend: Any  # tokenizer.json's `tokenizers.Tokenizer`; None without that file
    config: TokenizerConfig | None  # None where tokenizer.json alone counts
    vocabulary: Any = None  # piece -> id; for Unigram a list of piece and log probability
    merges: Any = None  # pairs of pieces, the first to join first; byte-pair encoding only
    charsmap: bytes | None = None  # sentencepiece's normalization map; Unigram only


def merge_older_files(files: Mapping[str, bytes], folder: Path, settings: Settings, added: dict[int, Any]) -> None:
    """special_tokens_map.json counts more than tokenizer_config.json; added_tokens.json is an object of token to id."""
    file = folder / "special_tokens_map.json"
    for key, value in as_object(parse_json(files.get(file.name, b"{}"), file), file).items():
        if isinstance(value, dict) and key != "extra_special_tokens":
            value = {**value, "special": True}
        elif key == "extra_special_tokens" and isinstance(value, list):
            value = [
                *(settings.values.get(key) or []),
                *({**t, "special": True} if isinstance(t, dict) else t for t in value),
            ]
        settings.values[key] = value
        settings.names[key] = f"{key} of {file.name}"
    extra, older = settings.values.get("extra_special_tokens"), "additional_special_tokens"
    if extra is None and older in settings.values:
        settings.names["extra_special_tokens"] = settings.names.get(older, older)
        extra = settings.values["extra_special_tokens"] = settings.values["additional_special_tokens"]
    file = folder / "added_tokens.json"
    tokens = as_object(parse_json(files.get(file.name, b"{}"), file), file)
    special = [settings.values.get(key) for key in SPECIAL_TOKENS] + (extra if isinstance(extra, list) else [])
    contents = [token.get("content") if isinstance(token, dict) else token for token in special]
    for text, number in tokens.items():
        if type(number) is not int or not is_text(text):
            raise ModelFolderError(
                f"{file}: {text!r:.100} is {number!r:.100}. Expected an object of token to id; correct the file."
            )
        flags = {"special": text in contents, "normalized": text not in contents}
        added[number] = read_token("added_tokens", {"content": text, **flags}, settings)


def as_object(value: Any, where: Path) -> dict[str, Any]:
    """The value, which must be a JSON object."""
    if not isinstance(value, dict):
        raise ModelFolderError(f"{where}: found {value!r:.100}. Expected an object {{...}}; correct the file.")
    return value


def read_token(key: str, value: Any, settings: Settings) -> Any:
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


def own_flags(name: str, key: str, token: str) -> Any:
    """How a class treats a special token that is given as text."""
    from tokenizers import AddedToken

    if name == "MPNetTokenizer":
        return AddedToken(token, lstrip=key == "mask_token", rstrip=False)
    if name == "CamembertTokenizer" and key == "mask_token":
        return AddedToken(token, lstrip=True, special=True)
    return token


def further_tokens(settings: Settings, named: dict[str, Any]) -> list[Any]:
    """Adds the special tokens of other names to `named`; returns those without a name."""
    values = settings.values
    extra = values.get("extra_special_tokens") or []
    for key, value in list(values.items()):
        if key.endswith("_token") and key not in SPECIAL_TOKENS and isinstance(value, str | dict):
            named[key] = read_token(key, value, settings)
    for key, part in (
        ("extra_special_tokens", extra),
        ("model_specific_special_tokens", values.get("model_specific_special_tokens")),
    ):
        for name, value in part.items() if isinstance(part, dict) else ():
            named[name] = read_token(key, value, settings)
    if not isinstance(extra, list | dict):
        settings.complain("extra_special_tokens", "a list of tokens")
    return [read_token("extra_special_tokens", token, settings) for token in extra] if isinstance(extra, list) else []


def class_name(settings: Settings, model: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str:
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
