"""What tokenizer_config.json changes in a tokenizer: casing, accents, added tokens, special tokens, the side that is cut.

    tokenizer_config.json                      options of the tokenizer's class, named by `tokenizer_class`
    special_tokens_map.json, added_tokens.json the same in older folders; read where `added_tokens_decoder` is missing

transformers 5 builds the tokenizer of these classes anew: of tokenizer.json (or vocab.txt, vocab.json with merges.txt) it
takes the vocabulary, the added tokens, and the side that truncation cuts; normalizer, pre-tokenizer and special tokens come
from the class and its options. `build` does the same with the `tokenizers` library, and must give the same ids. Every other
class is read from tokenizer.json, to which only tokens are added; options that disagree with it are refused.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minisbert.checkpoint.json_file import is_text, parse_json
from minisbert.checkpoint.keys import APPLIED, HARMLESS, REFUSED
from minisbert.checkpoint.settings import Settings
from minisbert.errors import ModelFolderError

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FURTHER = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
# Every key that transformers 5 reads, with its effect (checkpoint/keys.py); "refused" would change token ids. It ignores the
# others, and so does this file; `*_token` is a further special token.
KEYS = {
    **dict.fromkeys(SPECIAL_TOKENS, APPLIED),
    **dict.fromkeys(("tokenizer_class", "added_tokens_decoder", "truncation_side", "split_special_tokens"), APPLIED),
    **dict.fromkeys(FURTHER, APPLIED),
    **dict.fromkeys(("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space"), APPLIED),
    **dict.fromkeys(("extra_ids", "split_by_punct", "keep_accents", "model_max_length", "max_len"), APPLIED),
    **dict.fromkeys(("padding_side", "model_input_names"), APPLIED),
    **dict.fromkeys(("trim_offsets", "errors", "clean_up_tokenization_spaces", "verbose", "name_or_path"), HARMLESS),
    **dict.fromkeys(("add_bos_token", "add_eos_token", "backend", "is_local", "local_files_only"), HARMLESS),
    **dict.fromkeys(("chat_template", "response_template", "chat_control_tokens", "response_schema"), HARMLESS),
    **dict.fromkeys(("processor_class", "auto_map", "files_loaded", "pad_token_type_id", "stride"), HARMLESS),
    **dict.fromkeys(("max_length", "truncation_strategy", "pad_to_multiple_of"), HARMLESS),
    **dict.fromkeys(("vocab_file", "merges_file", "tokenizer_file", "special_tokens_map_file"), HARMLESS),
    **dict.fromkeys(("never_split", "do_basic_tokenize", "use_fast"), HARMLESS),
    **dict.fromkeys(("vocab", "merges", "init_inputs", "post_processor", "tokenizer_object", "gguf_file"), REFUSED),
    **dict.fromkeys(("tokenizer_truncation", "tokenizer_padding", "_json_truncation", "_json_padding"), REFUSED),
    **dict.fromkeys(("fast_tokenizer_files", "_spm_precompiled_charsmap", "unk_id", "fix_mistral_regex"), REFUSED),
}
REFUSED_KEYS = tuple(key for key, effect in KEYS.items() if effect == REFUSED)
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
    **dict.fromkeys(("DistilBert", "Electra", "MobileBert", "ConvBert", "LayoutLM", "SqueezeBert", "Lxmert"), "Bert"),
    **dict.fromkeys(("DPRQuestionEncoder", "DPRContextEncoder", "DPRReader"), "Bert"),
    **dict.fromkeys(("Longformer", "Bart", "LED"), "Roberta"),
}
# Classes that transformers builds in other ways, from which tokenizer.json differs in nothing but what `check_options` sees.
READ_FROM_FILE = {
    **dict.fromkeys(("Qwen3_5", "GPT2", "Llama", "Gemma", "GPTNeoX", "Deberta", "Herbert", "CLIP"), "BPE"),
    **dict.fromkeys(("XLNet", "MBart", "RemBert", "BigBird", "Pegasus", "FNet"), "Unigram"),
    **dict.fromkeys(("Funnel", "Splinter", "RoFormer"), "WordPiece"),
}
# The class where no file names one.
BY_MODEL_TYPE = {
    **dict.fromkeys(("bert", "distilbert", "electra", "ernie", "nomic_bert"), "BertTokenizer"),
    "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer",
    **dict.fromkeys(("xlm-roberta", "gte", "jina_embeddings_v3"), "XLMRobertaTokenizer"),
    "albert": "AlbertTokenizer",
    "camembert": "CamembertTokenizer",
    "modernbert": "",  # tokenizer.json, whatever a file names
    **dict.fromkeys(("qwen2", "qwen3"), "Qwen2Tokenizer"),
    "gemma3_text": "GemmaTokenizer",
    **dict.fromkeys(("t5", "mt5"), "T5Tokenizer"),
    "deberta-v2": "DebertaV2Tokenizer",
}
# The family whose class counts, whatever a file names.
ALWAYS_ITS_OWN = ("qwen2",)
# Classes that transformers runs in Python; they ignore tokenizer.json.
IN_PYTHON = {
    *("BertJapanese", "Phobert", "Bertweet", "Esm", "Canine", "Flaubert", "XLM", "BertTokenizerLegacy", "RoCBert"),
    *("Tapas", "Luke", "ProphetNet", "FSMT", "BioGpt", "ByT5", "MyT5", "Perceiver", "CTRL", "Bartpho"),
}
# Classes that tell the model which tokens are the second text's, unless `model_input_names` says otherwise.
TOKEN_TYPES = (
    "Bert",
    "Electra",
    "MobileBert",
    "ConvBert",
    "Deberta",
    "DebertaV2",
    "XLNet",
    "Funnel",
    "BigBird",
    "FNet",
)
# Families whose positions count from the start of the row, padding included.
COUNT_PADDING = ("bert", "distilbert", "albert", "electra", "ernie", "roberta", "xlm-roberta", "camembert", "mpnet")


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


def unigram(config: TokenizerConfig, vocabulary: Any, unknown_token: str, charsmap: bytes | None) -> Any:
    """The classes of sentencepiece's kind: pieces with log probabilities (Kudo 2018)."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces, settings = [tuple(piece) for piece in vocabulary], config.settings
    unknown = {"XLMRobertaTokenizer": 3, "AlbertTokenizer": 1, "T5Tokenizer": 2}.get(config.name)
    deberta = config.name == "DebertaV2Tokenizer"
    if deberta:
        given = settings.integer("unk_id", at_least=0, at_most=len(pieces) - 1, default=1)
        unknown = pieces.index((unknown_token, 0.0)) if (unknown_token, 0.0) in pieces else given
    elif unknown is None:
        unknown = next((row for row, (piece, _) in enumerate(pieces) if piece == unknown_token), 0)
    backend = Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=False))
    steps: list[Any] = []
    if config.name == "AlbertTokenizer":
        steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not settings.flag("keep_accents", default=False):
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        if settings.flag("do_lower_case", default=True):
            steps.append(normalizers.Lowercase())
    splits: list[Any] = [pre_tokenizers.WhitespaceSplit()]
    if deberta:  # transformers 5 leaves out sentencepiece's map
        steps = [normalizers.Lowercase()] if settings.flag("do_lower_case", default=False) else []
        steps += [normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC()]
        steps.append(normalizers.Strip(left=False, right=True))
        splits = [pre_tokenizers.Punctuation("isolated")] if settings.flag("split_by_punct", default=False) else []
    elif charsmap is not None:
        steps.append(normalizers.Precompiled(charsmap))
    if steps:
        backend.normalizer = normalizers.Sequence(steps) if len(steps) > 1 else steps[0]
    space = settings.choice("add_prefix_space", [True, False, None], default=True) or config.name == "T5Tokenizer"
    scheme = "always" if space else "first" if deberta else "never"
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, metaspace])
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    return backend


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


def further_parts(tokenizer: Mapping[str, Any]) -> tuple[Any, bytes | None]:
    """The merges of a tokenizer.json, and its sentencepiece map."""
    merges = tokenizer["model"].get("merges")
    pairs = merges and [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges]
    steps = [tokenizer.get("normalizer")]
    for step in steps:
        if isinstance(step, dict) and step.get("type") == "Precompiled":
            return pairs, base64.b64decode(step["precompiled_charsmap"])
        steps += step.get("normalizers", []) if isinstance(step, dict) else []
    return pairs, None


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
