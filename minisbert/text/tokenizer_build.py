"""Builds the tokenizer of a folder as transformers builds its class: vocabulary, normalizer, pre-tokenizer, added tokens."""

from operator import itemgetter
from typing import Any

from minisbert.errors import MinisbertError, ModelFolderError
from minisbert.text.tokenizer_config import BUILT, QWEN_SPLIT, Source, TokenizerConfig
from minisbert.text.tokenizer_file import refusal


def build(source: Source) -> Any:
    """The `tokenizers.Tokenizer`: built as transformers builds its class, then with its added tokens.

    Raises:
        ModelFolderError: parts that do not fit, or a malformed option.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    backend, config = source.backend, source.config
    if config is None:
        return backend
    settings, kind = config.settings, BUILT[config.name][0] if config.name in BUILT else None
    special = {}
    for key, token in config.named.items():
        special[key] = getattr(token, "content", token)
    try:
        if kind == "WordPiece":
            model = (
                models.WordPiece(source.vocabulary) if backend is None else backend.model
            )  # which has read the vocabulary
            model.unk_token = special["unk_token"]
            model.continuing_subword_prefix, model.max_input_chars_per_word = "##", 100  # the class's own
            backend = Tokenizer(model)
            backend.normalizer = normalizers.BertNormalizer(
                clean_text=True,
                handle_chinese_chars=settings.flag("tokenize_chinese_chars", default=True),
                strip_accents=settings.choice("strip_accents", [None, True, False], default=None),
                lowercase=settings.flag("do_lower_case", default=True),
            )
            backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            if special["unk_token"] not in source.vocabulary:
                raise ModelFolderError(
                    f"{source.where}: the unknown token {special['unk_token']!r:.100} is not in the vocabulary, so that no "
                    "unknown word can be read. Correct 'unk_token' in tokenizer_config.json or special_tokens_map.json."
                )
        elif config.name == "Qwen2Tokenizer":
            words = source.vocabulary if isinstance(source.vocabulary, dict) else {}
            backend = Tokenizer(models.BPE(words, source.merges or []))
            backend.normalizer, backend.decoder = normalizers.NFC(), decoders.ByteLevel()
            space = settings.choice("add_prefix_space", [False, True, None], default=None) is True
            splits = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
            steps = [splits, pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False)]
            backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
        elif kind == "BPE":
            trim = settings.flag("trim_offsets", default=True)
            space = settings.flag("add_prefix_space", default=False)
            backend = Tokenizer(
                models.BPE(source.vocabulary, source.merges, continuing_subword_prefix="", end_of_word_suffix="")
            )
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
            backend.decoder = decoders.ByteLevel()
        elif kind == "Unigram":
            backend = _unigram(config, source.vocabulary, special["unk_token"], source.charsmap)
    except MinisbertError:
        raise
    except BaseException as error:
        name = f"{source.where} with merges.txt" if source.backend is None and kind == "BPE" else source.where
        raise refusal(error, ModelFolderError, f"{name}: not the vocabulary of {config.name}") from None
    settings.finish()

    known = set()
    for token in (*backend.get_added_tokens_decoder().values(), *config.added.values()):
        known.add(token.content)
    tokens = []
    for _, token in sorted(config.added.items(), key=itemgetter(0)):
        tokens.append(token)
    for token in (*config.named.values(), *config.extra):
        if getattr(token, "content", token) not in known and token not in tokens:
            tokens.append(token)
    for row, token in enumerate(tokens):
        tokens[row] = AddedToken(token, special=True) if isinstance(token, str) else token
        tokens[row].special = tokens[row].special or tokens[row].content in special.values()
    backend.add_tokens(tokens)
    backend.encode_special_tokens = settings.values.get("split_special_tokens") is True

    if kind is None:
        return backend
    starts = ("bos_token", "eos_token") if config.name in ("XLMRobertaTokenizer", "CamembertTokenizer") else None
    if config.name == "Qwen2Tokenizer":  # one end token in tokenizer.json's template, or nothing
        backend.post_processor = source.backend.post_processor if source.backend is not None else None
        return backend
    if config.name == "T5Tokenizer":
        end = [("</s>", backend.token_to_id(special["eos_token"]))]
        pair = ["$A", "</s>", "$B", "</s>"]
        backend.post_processor = processors.TemplateProcessing(single=pair[:2], pair=pair, special_tokens=end)
        return backend
    cls, sep = special[(starts or ("cls_token",))[0]], special[(starts or ("", "sep_token"))[1]]
    ends = ((cls, backend.token_to_id(cls)), (sep, backend.token_to_id(sep)))
    if config.name == "AlbertTokenizer" and source.backend is not None:
        backend.post_processor = source.backend.post_processor
    elif kind == "BPE":
        backend.post_processor = processors.RobertaProcessing(ends[1], ends[0], trim, space)
    elif config.name == "MPNetTokenizer":
        backend.post_processor = processors.RobertaProcessing(ends[1], ends[0], True, False)
    else:
        twice = kind == "Unigram" and config.name != "DebertaV2Tokenizer"
        pair = [cls, "$A", sep, *([sep] if twice else []), "$B:1", f"{sep}:1"]
        backend.post_processor = processors.TemplateProcessing(single=[cls, "$A", sep], pair=pair, special_tokens=ends)
    return backend


def _unigram(config: TokenizerConfig, vocabulary: Any, unknown_token: str, charsmap: bytes | None) -> Any:
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
