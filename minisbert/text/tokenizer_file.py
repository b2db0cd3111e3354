"""Builds the tokenizer of a folder: from tokenizer.json, from the class that the files next to it name, or from both.

A class is built as transformers builds it: vocabulary, normalizer, pre-tokenizer, added tokens, special tokens around a text.
"""

import base64
import json
from collections.abc import Iterator
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from minisbert.checkpoint.folder import ModelFolder
from minisbert.checkpoint.json_file import parse_json
from minisbert.errors import MinisbertError, ModelFolderError
from minisbert.text.tokenizer_classes import BUILT, QWEN_SPLIT
from minisbert.text.tokenizer_config import TokenizerConfig, read_tokenizer_config
from minisbert.text.tokenizer_limits import check_limits, steps_of


class Source(NamedTuple):
    """What a tokenizer is built from."""

    where: Path  # the file, for messages
    backend: Any  # tokenizer.json's `tokenizers.Tokenizer`; None without that file
    config: TokenizerConfig | None  # None where tokenizer.json alone counts
    vocabulary: Any = None  # piece -> id; for Unigram a list of piece and log probability
    merges: Any = None  # pairs of pieces, the first to join first; byte-pair encoding only
    charsmap: bytes | None = None  # sentencepiece's normalization map; Unigram only


def read_tokenizer(folder: ModelFolder) -> Source:
    """What the tokenizer of a folder with tokenizer.json is built from: that file, and what those next to it change.

    Of a static model it alone counts, without special tokens around a text.
    """
    import tokenizers

    file = folder.transformer_path / "tokenizer.json"
    content = folder.tokenizer_files[file.name]
    values = parse_json(content, file)
    if isinstance(values, dict):
        check_limits(values, file)
    try:
        backend = tokenizers.Tokenizer.from_buffer(content)
    except BaseException as error:
        raise refusal(error, ModelFolderError, f"{file}: not a tokenizer that the tokenizers library reads") from None
    for token, number in _placed_tokens({} if folder.is_static else values.get("post_processor") or {}):
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
    if folder.is_static:
        return Source(file, backend, None)
    config = read_tokenizer_config(folder, values)
    if config.name not in BUILT:
        if config.name:
            _check_options(config, backend)
        return Source(file, backend, config)
    parts = values["model"]
    if BUILT[config.name][0] == "WordPiece":  # the library reads no more of it, and has checked no more
        return Source(file, backend, config, parts["vocab"])
    merges = parts.get("merges") and [tuple(one.split(" ") if isinstance(one, str) else one) for one in parts["merges"]]
    steps = steps_of(values.get("normalizer"))  # older files leave out the type of some
    maps = [step["precompiled_charsmap"] for step in steps if step.get("type") == "Precompiled"]
    return Source(file, backend, config, parts["vocab"], merges, base64.b64decode(maps[0]) if maps else None)


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


def _check_options(config: TokenizerConfig, backend: Any) -> None:
    """Refuses options that disagree with tokenizer.json, from which this class is read."""
    settings, values = config.settings, config.settings.values
    steps = [json.loads(part.__getstate__()) if part else {} for part in (backend.normalizer, backend.pre_tokenizer)]
    written = json.dumps(steps)
    signs = {
        "do_lower_case": ('"lowercase": true', '"Lowercase"'),
        "add_prefix_space": ('"add_prefix_space": true', '"Prepend"', '_scheme": "always"', '_scheme": "first"'),
    }
    for key, texts in signs.items():
        does = any(text in written for text in texts)
        if values.get(key) not in (None, does):
            settings.complain(key, f"{str(does).lower()}, as tokenizer.json has it")
    for key, default in (("strip_accents", None), ("tokenize_chinese_chars", True), ("keep_accents", False)):
        if values.get(key) not in (None, default):
            settings.complain(key, f"{json.dumps(default)}, because {config.name} is read from tokenizer.json")
    settings.finish()


def build(source: Source) -> Any:
    """The `tokenizers.Tokenizer`: built as transformers builds its class, then with its added tokens."""
    from tokenizers import AddedToken

    backend, config = source.backend, source.config
    if config is None:
        return backend
    kind = BUILT[config.name][0] if config.name in BUILT else None
    try:
        if kind is not None:
            backend = _MAKERS.get(config.name, _MAKERS[kind])(source, config)
    except MinisbertError:
        raise
    except BaseException as error:
        name = f"{source.where} with merges.txt" if source.backend is None and kind == "BPE" else source.where
        raise refusal(error, ModelFolderError, f"{name}: not the vocabulary of {config.name}") from None
    config.settings.finish()
    known = set(map(attrgetter("content"), (*backend.get_added_tokens_decoder().values(), *config.added.values())))
    tokens = [config.added[number] for number in sorted(config.added)]
    for token in dict.fromkeys((*config.named.values(), *config.extra)):
        if getattr(token, "content", token) not in known:
            tokens.append(token)
    tokens = [AddedToken(token, special=True) if isinstance(token, str) else token for token in tokens]
    special = set(config.special.values())
    for token in tokens:
        token.special = token.special or token.content in special
    backend.add_tokens(tokens)
    if (
        config.name == "Qwen2Tokenizer"
    ):  # its class adds its special tokens once more, as texts: spaces next to them stay
        texts = {*special, *(getattr(token, "content", token) for token in config.extra)}
        backend.add_tokens([AddedToken(text, special=True) for text in sorted(texts)])
    backend.encode_special_tokens = config.settings.values.get("split_special_tokens") is True
    try:
        if kind is not None:
            backend.post_processor = _ends(source, config, backend)
    except (TypeError, ValueError) as error:  # an empty one, or one with a colon
        name = f"{config.settings.where}: not special tokens that {config.name} can put around a text: {config.special!r:.200}"
        raise refusal(error, ModelFolderError, name) from None
    return backend


def _word_piece(source: Source, config: TokenizerConfig) -> Any:
    """BERT's words, and pieces of words that begin with ## (Schuster & Nakajima 2012)."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    settings, unknown = config.settings, config.special["unk_token"]
    # tokenizer.json's model has read the vocabulary.
    model = models.WordPiece(source.vocabulary) if source.backend is None else source.backend.model
    model.unk_token = unknown
    model.continuing_subword_prefix, model.max_input_chars_per_word = "##", 100  # the class's own
    backend = Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", default=True),
        strip_accents=settings.choice("strip_accents", [None, True, False], default=None),
        lowercase=settings.flag("do_lower_case", default=True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if unknown not in source.vocabulary:
        raise ModelFolderError(
            f"{source.where}: the unknown token {unknown!r:.100} is not in the vocabulary, so that no "
            "unknown word can be read. Correct 'unk_token' in tokenizer_config.json or special_tokens_map.json."
        )
    return backend


def _byte_pairs(source: Source, config: TokenizerConfig) -> Any:
    """RoBERTa's pairs of bytes (Radford et al. 2019)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    config.settings.flag("trim_offsets", default=True)  # of `_ends`
    backend = Tokenizer(
        models.BPE(source.vocabulary, source.merges, continuing_subword_prefix="", end_of_word_suffix="")
    )
    space = config.settings.flag("add_prefix_space", default=False)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    backend.decoder = decoders.ByteLevel()
    return backend


def _qwen(source: Source, config: TokenizerConfig) -> Any:
    """Qwen's pairs of bytes, within the parts of its own split."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = source.vocabulary if isinstance(source.vocabulary, dict) else {}
    backend = Tokenizer(models.BPE(words, source.merges or []))
    backend.normalizer, backend.decoder = normalizers.NFC(), decoders.ByteLevel()
    space = config.settings.choice("add_prefix_space", [False, True, None], default=None) is True
    letters = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"), letters])
    return backend


def _unigram(source: Source, config: TokenizerConfig) -> Any:
    """The classes of sentencepiece's kind: pieces with log probabilities (Kudo 2018)."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces, settings = [tuple(piece) for piece in source.vocabulary], config.settings
    unknown = {"XLMRobertaTokenizer": 3, "AlbertTokenizer": 1, "T5Tokenizer": 2}.get(config.name)
    unknown_token, deberta = config.special["unk_token"], config.name == "DebertaV2Tokenizer"
    if deberta:
        given = settings.size("unk_id", 1, (0, len(pieces) - 1))
        unknown = pieces.index((unknown_token, 0.0)) if (unknown_token, 0.0) in pieces else given
    elif unknown is None:
        unknown = next((row for row, (piece, _) in enumerate(pieces) if piece == unknown_token), 0)
    backend = Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=False))
    steps: list[Any] = []
    if config.name == "AlbertTokenizer":
        steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        accents = settings.flag("keep_accents", default=False)
        steps += [] if accents else [normalizers.NFKD(), normalizers.StripAccents()]
        steps += [normalizers.Lowercase()] if settings.flag("do_lower_case", default=True) else []
    splits: list[Any] = [pre_tokenizers.WhitespaceSplit()]
    if deberta:  # transformers 5 leaves out sentencepiece's map
        steps = [normalizers.Lowercase()] if settings.flag("do_lower_case", default=False) else []
        steps += [normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC()]
        steps.append(normalizers.Strip(left=False, right=True))
        splits = [pre_tokenizers.Punctuation("isolated")] if settings.flag("split_by_punct", default=False) else []
    elif source.charsmap is not None:
        steps.append(normalizers.Precompiled(source.charsmap))
    if steps:
        backend.normalizer = normalizers.Sequence(steps) if len(steps) > 1 else steps[0]
    space = settings.choice("add_prefix_space", [True, False, None], default=True) or config.name == "T5Tokenizer"
    scheme = "always" if space else "first" if deberta else "never"
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, metaspace])
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    return backend


# Kind of model, or class where it differs -> what builds it.
_MAKERS = {"WordPiece": _word_piece, "BPE": _byte_pairs, "Qwen2Tokenizer": _qwen, "Unigram": _unigram}


def _ends(source: Source, config: TokenizerConfig, backend: Any) -> Any:
    """What puts a class's special tokens around a text, and around and between two."""
    from tokenizers import processors

    name, settings, special = config.name, config.settings, config.special
    if source.backend is not None and name in ("Qwen2Tokenizer", "AlbertTokenizer"):
        return source.backend.post_processor  # of Qwen's: one end token, or nothing
    if name == "Qwen2Tokenizer":
        return _switched_ends(config, backend)
    if name == "T5Tokenizer":
        end = [("</s>", backend.token_to_id(special["eos_token"]))]
        pair = ["$A", "</s>", "$B", "</s>"]
        return processors.TemplateProcessing(single=pair[:2], pair=pair, special_tokens=end)
    first, last = "cls_token", "sep_token"
    if name in ("XLMRobertaTokenizer", "CamembertTokenizer"):
        first, last = "bos_token", "eos_token"
    cls, sep = special[first], special[last]
    ends = [(cls, backend.token_to_id(cls)), (sep, backend.token_to_id(sep))]
    if name == "RobertaTokenizer":
        trim = settings.flag("trim_offsets", default=True)
        return processors.RobertaProcessing(ends[1], ends[0], trim, settings.flag("add_prefix_space", default=False))
    if name == "MPNetTokenizer":
        return processors.RobertaProcessing(ends[1], ends[0], True, False)
    # XLM-R's and CamemBERT's second text is segment 0 too, after one more special token.
    second = [sep, "$B", sep] if first == "bos_token" else ["$B:1", f"{sep}:1"]
    pair = [cls, "$A", sep, *second]
    return processors.TemplateProcessing(single=pair[:3], pair=pair, special_tokens=ends)


def _switched_ends(config: TokenizerConfig, backend: Any) -> Any:
    """`add_bos_token` and `add_eos_token`: the template of a class that has none of its own."""
    from tokenizers import processors

    ends, special = [], config.special
    for key in ("bos_token", "eos_token"):
        flag = config.settings.values.get(f"add_{key}")
        # A string is not a switch but one more special token.
        ends.append([special[key]] if flag and not isinstance(flag, str) and key in special else [])
    first, last = ends
    single, second = [*first, "$A", *last], [f"{token}:1" for token in (*first, "$B", *last)]
    ids = [(token, backend.token_to_id(token)) for token in (*first, *last)]
    return processors.TemplateProcessing(single=single, pair=[*single, *second], special_tokens=ids)


def refusal(error: BaseException, kind: type[MinisbertError], what: str) -> MinisbertError:
    """The error to raise for one of the library; an interrupt is raised again.

    The library's panics do not derive from Exception; only their class's name tells them from interrupts.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return kind(f"{what} ({error!s:.300}). Expected a tokenizer that takes any text; download the model again.")
