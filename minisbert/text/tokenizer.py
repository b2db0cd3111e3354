"""Text -> token ids, with a count of the tokens that did not fit.

The `tokenizers` library splits texts, by the model folder's `tokenizer.json` (or vocabulary files in the oldest folders:
text/vocabulary.py). This file adds lower-casing where the folder asks for it, prompts, special tokens, and truncation that is
counted: a text is tokenized in full and then cut.
"""

from collections.abc import Iterator, Sequence
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.arguments import as_list
from minisbert.checkpoint.folder import ModelFolder
from minisbert.errors import InputError, MinisbertError, ModelFolderError
from minisbert.text.tokenizer_config import BUILT, QWEN_SPLIT, Source, unigram
from minisbert.text.tokenizer_file import read_tokenizer, refusal
from minisbert.text.tokens import Tokens, check_fit
from minisbert.text.vocabulary import from_vocabulary

# Sentences tokenized per chunk: the device computes the batches of one chunk while the next is tokenized.
CHUNK = 1024


class Tokenizer:
    """A `tokenizers` tokenizer with the model's special tokens and length limit around each text.

    Args:
        backend: a `tokenizers.Tokenizer`; its own truncation and padding are switched off.
        where: the file of the tokenizer, for messages.
        lower_case: lower-case texts first, for models whose settings ask for it.
        special_tokens: False adds none around a text, even if the backend would (static models).
        keep_end: truncation drops the beginning of a text instead of its end.
    """

    def __init__(
        self,
        backend: Any,
        where: Path | str,
        *,
        lower_case: bool = False,
        special_tokens: bool = True,
        keep_end: bool = False,
    ):
        backend.no_truncation()
        backend.no_padding()
        if lower_case and not _lower_cases(backend):
            from tokenizers import normalizers

            steps = [normalizers.Lowercase()] + ([backend.normalizer] if backend.normalizer else [])
            backend.normalizer = normalizers.Sequence(steps)
        self.backend = backend
        self.where = where
        self.keep_end = keep_end
        self.needs_tokens = special_tokens  # a static model embeds a text of no tokens as zeros
        self.token_types = False  # the second text of a pair is segment 1
        self.rows: int | None = None  # of the embedding table, where the tokenizer has tokens beyond it
        self.prefix, self.suffix = [], []
        if special_tokens:
            try:
                bare = backend.encode("a", add_special_tokens=False).ids
                full = backend.encode("a", add_special_tokens=True).ids
            except BaseException as error:
                raise refusal(error, ModelFolderError, f"{where}: the tokenizer fails on the text 'a'") from None
            start = 0
            while full[start : start + len(bare)] != bare and start < len(full):
                start += 1
            if full[start : start + len(bare)] != bare:
                raise ModelFolderError(
                    f"{where}: the tokenizer changes a text when it adds special tokens ({bare} became {full}). Expected "
                    "special tokens before and after; use another model."
                )
            self.prefix, self.suffix = full[:start], full[start + len(bare) :]
        self.special_tokens = len(self.prefix) + len(self.suffix)  # around each text
        words = backend.get_vocab(with_added_tokens=True).values()
        self.largest_id: int = max((*words, *self.prefix, *self.suffix), default=0)  # of any text

    @staticmethod
    def from_folder(folder: ModelFolder) -> "Tokenizer":
        """The tokenizer of a model folder.

        Raises:
            ModelFolderError: no tokenizer file, one that cannot be read, or one without special tokens around a text.
        """
        file, files, module = folder.transformer_path / "tokenizer.json", folder.tokenizer_files, folder.encoder_module
        if file.name in files:
            model = folder.config if module.has_config else None
            source = read_tokenizer(files, file, model, special_tokens=module.special_tokens)
        else:
            source = from_vocabulary(files, folder.transformer_path, folder.config)
        tokenizer = Tokenizer(
            build(source),
            source.where,
            lower_case=folder.do_lower_case,
            special_tokens=module.special_tokens,
            keep_end=source.config is not None and source.config.keep_end,
        )
        tokenizer.token_types = source.config is not None and source.config.token_types
        return tokenizer

    @property
    def lower_cases(self) -> bool:
        """Whether the text is lower-cased first."""
        return _lower_cases(self.backend)

    def cut(self, ids: list[int], room: int) -> list[int]:
        """The ids that truncation keeps: the first, or the last where the model's tokenizer truncates on the left."""
        return ids[max(0, len(ids) - room) :] if self.keep_end else ids[:room]

    def tokenize(self, sentences: Sequence[str], *, max_length: int, prompt: str = "") -> Tokens:
        """Token ids of each sentence, at most `max_length` of them, special tokens included.

        Truncation keeps all special tokens, and the beginning of a text (its end where `keep_end`).

        Raises:
            InputError: a sentence that is not text or cannot be encoded as UTF-8; `max_length` too short for one token.
        """
        if max_length <= self.special_tokens:
            raise InputError(
                f"max_seq_length is {max_length}, but this model puts {self.special_tokens} special tokens around "
                f"each text. Expected at least {self.special_tokens + 1}."
            )
        room = max_length - self.special_tokens
        ids: list[list[int]] = []
        counts = np.empty((len(sentences), 3), np.int64)
        for row, content in enumerate(self.contents(sentences, prompt)):
            tokens = len(content) + self.special_tokens
            ids.append(self.prefix + self.cut(content, room) + self.suffix)
            if self.needs_tokens and not ids[-1]:
                raise InputError(
                    f"sentences[{row}] is {sentences[row]!r:.50}, which has no tokens: this model puts no special tokens "
                    "around a text. Expected a text of at least one token; leave it out."
                )
            counts[row] = tokens, len(ids[-1]), tokens - len(ids[-1])
        return Tokens(ids, counts)

    def contents(self, sentences: Sequence[str], prompt: str = "") -> Iterator[list[int]]:
        """All token ids of each sentence, without special tokens.

        Raises:
            InputError: a sentence that is not text or cannot be encoded as UTF-8.
        """
        texts = [prompt + sentence for sentence in sentences] if prompt else list(sentences)
        try:
            encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        except BaseException as error:
            as_list(sentences)  # names the invalid one
            raise refusal(error, InputError, f"{self.where}: the tokenizer fails on a sentence") from None
        if self.rows is not None:
            for row, encoding in enumerate(encodings):
                if max(encoding.ids, default=0) >= self.rows:
                    token = self.backend.id_to_token(max(encoding.ids))
                    raise InputError(
                        f"sentences[{row}] has the token {token!r}, for which the model has no embedding: its id is "
                        f"{max(encoding.ids)}, and the table has {self.rows} rows. Expected a text without it; leave it out."
                    )
        return map(attrgetter("ids"), encodings)

    def refuse_long(self, sentences: Sequence[str], *, max_length: int, prompt: str = "") -> None:
        """Every sentence fits.

        Raises:
            InputError: naming the first that does not.
        """
        chunks = (sentences[start : start + CHUNK] for start in range(0, len(sentences), CHUNK))
        tokens = (self.tokenize(chunk, max_length=max_length, prompt=prompt) for chunk in chunks)
        check_fit("sentences", tokens, max_length, "embed")

    def prompt_length(self, prompt: str, *, max_length: int) -> int:
        """Tokens of a prompt at the start of a row, with the special tokens before it.

        A prompt that fills the row counts as far as it fits: the special tokens after it always belong to the text.
        """
        (content,) = self.contents([prompt])
        return min(len(self.prefix) + len(content), max_length - len(self.suffix))


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
            backend = Tokenizer(models.WordPiece(source.vocabulary, unk_token=special["unk_token"]))
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
                    "unknown word can be read. Download the model again."
                )
        elif config.name == "Qwen2Tokenizer":
            words = source.vocabulary if isinstance(source.vocabulary, dict) else {}
            backend = Tokenizer(models.BPE(words, source.merges or []))
            backend.normalizer, backend.decoder = normalizers.NFC(), decoders.ByteLevel()
            space = settings.flag("add_prefix_space", default=False)
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
            backend = unigram(config, source.vocabulary, special["unk_token"], source.charsmap)
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
    cls, sep = special[(starts or ("cls_token",))[0]], special[(starts or ("", "sep_token"))[1]]
    ends = ((cls, backend.token_to_id(cls)), (sep, backend.token_to_id(sep)))
    if config.name == "AlbertTokenizer" and source.backend is not None:
        backend.post_processor = source.backend.post_processor
    elif kind == "BPE":
        backend.post_processor = processors.RobertaProcessing(ends[1], ends[0], trim, space)
    elif config.name == "MPNetTokenizer":
        backend.post_processor = processors.RobertaProcessing(ends[1], ends[0], True, False)
    else:
        pair = [cls, "$A", sep, *([sep] if kind == "Unigram" else []), "$B:1", f"{sep}:1"]
        backend.post_processor = processors.TemplateProcessing(single=[cls, "$A", sep], pair=pair, special_tokens=ends)
    return backend


def _lower_cases(backend: Any) -> bool:
    """Whether the tokenizer lower-cases by itself."""
    steps = backend.normalizer.__getstate__().decode().replace(" ", "") if backend.normalizer else ""
    return '"lowercase":true' in steps or '"Lowercase"' in steps
