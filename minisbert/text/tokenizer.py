"""Text -> token ids, with a count of the tokens that did not fit.

The `tokenizers` library splits texts, by the model folder's `tokenizer.json` (or vocabulary files in the oldest folders:
text/vocabulary.py). This file adds lower-casing where the folder asks for it, prompts, special tokens, and truncation that is
counted: a text is tokenized in full and then cut.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisbert.arguments import as_list
from minisbert.checkpoint.folder import ModelFolder
from minisbert.errors import InputError, ModelFolderError
from minisbert.text.tokenizer_file import read_tokenizer, refusal
from minisbert.text.vocabulary import from_vocabulary

# Sentences tokenized per chunk: the device computes the batches of one chunk while the next is tokenized.
CHUNK = 1024


class TokenCount(NamedTuple):
    """A text's tokens before and after truncation, special tokens included: `tokens == kept + dropped`."""

    tokens: int
    kept: int
    dropped: int


class Tokens(NamedTuple):
    """Tokenized sentences: ids after truncation, and the counts."""

    ids: list[list[int]]
    counts: np.ndarray  # int64 [sentences, 3]: tokens, kept, dropped
    first_lengths: Sequence[int] = ()  # of pairs of texts: how many tokens of each are the first text's (segment 0)

    def token_counts(self) -> list[TokenCount]:
        """The counts, a named row per sentence."""
        return [TokenCount(*row) for row in self.counts.tolist()]

    @property
    def truncated(self) -> int:
        """How many sentences lost tokens."""
        return int((self.counts[:, 2] > 0).sum())


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
        self.rows: int | None = None  # of the embedding table, where the tokenizer has tokens beyond it
        self.prefix, self.suffix = self._special_tokens() if special_tokens else ([], [])
        self.special_tokens = len(self.prefix) + len(self.suffix)  # around each text

    @staticmethod
    def from_folder(folder: ModelFolder) -> "Tokenizer":
        """The tokenizer of a model folder.

        Raises:
            ModelFolderError: no tokenizer file, one that cannot be read, or one without special tokens around a text.
        """
        file, files = folder.transformer_path / "tokenizer.json", folder.tokenizer_files
        module = folder.encoder_module
        special_tokens, model = module.special_tokens, folder.config if module.has_config else None
        if file.name in files:
            backend, config = read_tokenizer(files, file, model, special_tokens=special_tokens)
        else:
            file, backend, config = from_vocabulary(files, folder.transformer_path, folder.config)
        tokenizer = Tokenizer(
            backend,
            file,
            lower_case=folder.do_lower_case,
            special_tokens=special_tokens,
            keep_end=config is not None and config.keep_end,
        )
        if special_tokens and not (tokenizer.prefix and tokenizer.suffix):
            raise ModelFolderError(
                f"{file}: puts no special tokens before or after a text. Expected them on both sides, as every family here "
                "was trained with; download the model again."
            )
        return tokenizer

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text, found by tokenizing a word."""
        try:
            bare = self.backend.encode("a", add_special_tokens=False).ids
            full = self.backend.encode("a", add_special_tokens=True).ids
        except BaseException as error:
            raise refusal(error, ModelFolderError, f"{self.where}: the tokenizer fails on the text 'a'") from None
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        raise ModelFolderError(
            f"{self.where}: the tokenizer changes a text when it adds special tokens ({bare} became {full}). Expected "
            "special tokens before and after; use another model."
        )

    @property
    def lower_cases(self) -> bool:
        """Whether the text is lower-cased first."""
        return _lower_cases(self.backend)

    def check_rows(self, rows: int) -> int | None:
        """Notes how many rows the embedding table has; returns the largest id beyond it that is not an added token's.

        A text with an added token beyond the table is refused when it comes (`contents`).
        """
        words = self.backend.get_vocab(with_added_tokens=True).values()
        largest = max(words, default=0)
        if max((largest, *self.prefix, *self.suffix)) < rows:
            return None
        self.rows = rows
        base = max(self.backend.get_vocab(with_added_tokens=False).values(), default=0)
        worst = max((base, *self.prefix, *self.suffix))
        return worst if worst >= rows else None

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
        return (encoding.ids for encoding in encodings)

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


def _lower_cases(backend: Any) -> bool:
    """Whether the tokenizer lower-cases by itself."""
    steps = backend.normalizer.__getstate__().decode().replace(" ", "") if backend.normalizer else ""
    return '"lowercase":true' in steps or '"Lowercase"' in steps


def check_fit(name: str, chunks: Iterable[Tokens], max_length: int, purpose: str) -> None:
    """Check that nothing was cut.

    Args:
        name: of the argument that holds the texts.
        chunks: the tokens of all texts, a chunk at a time.
        purpose: what is done with the texts.

    Raises:
        InputError: naming the first text that does not fit.
    """
    for row, count in enumerate(count for tokens in chunks for count in tokens.token_counts()):
        if count.dropped:
            raise InputError(
                f"{name}[{row}] has {count.tokens} tokens, {count.dropped} more than max_seq_length {max_length}. Shorten "
                f"it, or pass on_truncate='warn' to {purpose} its beginning."
            )
