"""Text -> token ids, with a count of the tokens that did not fit.

The `tokenizers` library splits texts. This file adds lower-casing where the folder asks for it, prompts, special tokens, and
truncation that is counted. A long text is tokenized in pieces (pieces.py), and only as far as its ids or counts are needed.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisbert.arguments import as_list
from minisbert.checkpoint.folder import ModelFolder
from minisbert.errors import InputError, ModelFolderError
from minisbert.text.pieces import pieces, splits_at_spaces
from minisbert.text.tokenizer_file import build, read_tokenizer, refusal
from minisbert.text.vocabulary import from_vocabulary

# Sentences tokenized per chunk: the device computes the batches of one chunk while the next is tokenized.
CHUNK = 1024
# Characters: of one call of the tokenizers library; of a piece of a long text; of a text that is always read whole; per token
# that is kept (words of 5 letters are common, and each longer piece of a text is read only if the one before was too short).
BATCH, PIECE, SHORT, CHARACTERS = 500_000, 65_536, 4_096, 10


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
        token_types: the second text of a pair is segment 1.
        vocabulary: the backend's, but for added tokens, where it is known: asking the backend for a large one takes a while.
    """

    def __init__(
        self,
        backend: Any,
        where: Path | str,
        *,
        lower_case: bool = False,
        special_tokens: bool = True,
        keep_end: bool = False,
        token_types: bool = False,
        vocabulary: Mapping[str, int] | None = None,
    ):
        self.backend, self.where, self.keep_end = backend, where, keep_end
        backend.no_truncation()
        backend.no_padding()
        if lower_case and not self.lower_cases:
            from tokenizers import normalizers

            steps = [normalizers.Lowercase()] + ([backend.normalizer] if backend.normalizer else [])
            backend.normalizer = normalizers.Sequence(steps)
        self.needs_tokens = special_tokens  # a static model embeds a text of no tokens as zeros
        self.token_types = token_types
        self.rows: int | None = None  # of the embedding table, where the tokenizer has tokens beyond it
        self.prefix, self.suffix = self._ends() if special_tokens else ([], [])
        self.special_tokens = len(self.prefix) + len(self.suffix)  # around each text
        known = backend.get_vocab(with_added_tokens=True) if vocabulary is None else vocabulary
        words = (*known.values(), *backend.get_added_tokens_decoder())
        self.largest_id: int = max((*words, *self.prefix, *self.suffix), default=0)  # of any text

    def samples(self) -> Iterator[tuple[str, list[int], Any]]:
        """Texts, their ids, and their encoding with special tokens: "a" and "b", or pieces of the vocabulary if it lacks these.

        Raises:
            ModelFolderError: the tokenizer fails, or gives no text of those tokens.
        """
        texts = chain.from_iterable(read() for read in (lambda: "ab", self.backend.get_vocab))
        for text in islice(texts, 1000):
            try:
                ids, whole = self.backend.encode(text, add_special_tokens=False).ids, self.backend.encode(text)
            except BaseException as error:
                raise refusal(
                    error, ModelFolderError, f"{self.where}: the tokenizer fails on the text {text!r}"
                ) from None
            if ids:
                yield text, ids, whole
        raise ModelFolderError(f"{self.where}: the tokenizer gives texts no tokens. Expected some; use another model.")

    def _ends(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text."""
        _, ids, whole = next(self.samples())
        start = (*whole.special_tokens_mask, 0).index(0)
        if whole.ids[start : start + len(ids)] != ids:
            raise ModelFolderError(
                f"{self.where}: the tokenizer changes a text when it adds special tokens ({ids} became {whole.ids}). Expected "
                "special tokens before and after; use another model."
            )
        return whole.ids[:start], whole.ids[start + len(ids) :]

    @staticmethod
    def from_folder(folder: ModelFolder) -> "Tokenizer":
        """The tokenizer of a model folder."""
        source = read_tokenizer(folder) if "tokenizer.json" in folder.tokenizer_files else from_vocabulary(folder)
        config = source.config
        return Tokenizer(
            build(source),
            source.where,
            lower_case=folder.do_lower_case,
            special_tokens=not folder.is_static,
            keep_end=config is not None and config.keep_end,
            token_types=config is not None and config.token_types,
            vocabulary=source.vocabulary if isinstance(source.vocabulary, dict) else None,
        )

    @property
    def lower_cases(self) -> bool:
        """Whether the text is lower-cased first."""
        steps = self.backend.normalizer.__getstate__().decode().replace(" ", "") if self.backend.normalizer else ""
        return '"lowercase":true' in steps or '"Lowercase"' in steps

    def cut(self, ids: list[int], room: int) -> list[int]:
        """The ids that truncation keeps: the first, or the last where the model's tokenizer truncates on the left."""
        return ids[max(0, len(ids) - room) :] if self.keep_end else ids[:room]

    def tokenize(self, sentences: Sequence[str], *, max_length: int, prompt: str = "", exact: bool = True) -> Tokens:
        """Token ids of each sentence, at most `max_length` of them, special tokens included.

        Truncation keeps all special tokens, and the beginning of a text (its end where `keep_end`).

        Args:
            exact: count all tokens of a long text. Else it is read only as far as its ids need, and its counts are at least 1
                too many where tokens are dropped.

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
        for row, (content, length) in enumerate(self.contents(sentences, prompt, room=room, exact=exact)):
            ids.append(self.prefix + content + self.suffix)
            if self.needs_tokens and not ids[-1]:
                raise InputError(
                    f"sentences[{row}] is {sentences[row]!r:.50}, which has no tokens: this model puts no special tokens "
                    "around a text. Expected a text of at least one token; leave it out."
                )
            counts[row] = length + self.special_tokens, len(ids[-1]), length - len(content)
        return Tokens(ids, counts)

    def contents(
        self, sentences: Sequence[str], prompt: str = "", *, room: int = sys.maxsize, exact: bool = True
    ) -> Iterator[tuple[list[int], int]]:
        """The token ids of each sentence that truncation to `room` keeps, without special tokens, and how many there were.

        A long text is read in pieces: of the others only the numbers of tokens are kept, and with `exact=False` not even these.
        """
        size = PIECE if exact else min(PIECE, max(SHORT, CHARACTERS * room))
        rest, batch, characters = list[Iterator[str]](), list[str](), 0
        try:
            for row, sentence in enumerate(sentences):
                text = prompt + sentence
                whole = len(text) <= size or not self._splits
                texts = iter([text]) if whole else pieces(text, size, from_end=self.keep_end)  # the last first
                batch.append(next(texts, ""))
                rest.append(texts)
                characters += len(batch[-1])
                if characters > BATCH or row == len(sentences) - 1:
                    yield from self._kept(row + 1 - len(batch), batch, rest, room, exact)
                    rest, batch, characters = [], [], 0
        except (InputError, TypeError):
            as_list(sentences)  # names the invalid one
            raise

    @cached_property
    def _splits(self) -> bool:
        return splits_at_spaces(self.backend)

    def _kept(
        self, row: int, first: list[str], rest: list[Iterator[str]], room: int, exact: bool
    ) -> Iterator[tuple[list[int], int]]:
        """`contents` of the sentences from `row` on, given as their first pieces and iterators of their further ones."""
        for number, (ids, more) in enumerate(zip(self._encoded(first), rest, strict=True), start=row):
            length, kept = len(ids), self.cut(ids, room)
            for piece in more:
                if not exact and length > room:
                    break
                (ids,) = self._encoded([piece])
                length += len(ids)
                kept = self.cut(ids + kept if self.keep_end else kept + ids, room)
            if self.rows is not None and (largest := max(kept, default=0)) >= self.rows:
                raise InputError(
                    f"sentences[{number}] has the token {self.backend.id_to_token(largest)!r}, for which the model has no "
                    f"embedding: its id is {largest}, and the table has {self.rows} rows. Expected a text without it; leave it "
                    "out."
                )
            yield kept, length

    def _encoded(self, texts: list[str]) -> Iterator[list[int]]:
        try:
            return map(attrgetter("ids"), self.backend.encode_batch_fast(texts, add_special_tokens=False))
        except BaseException as error:
            raise refusal(error, InputError, f"{self.where}: the tokenizer fails on a sentence") from None

    def refuse_long(self, sentences: Sequence[str], *, max_length: int, prompt: str = "") -> None:
        """Raises InputError for the first sentence that does not fit."""
        chunks = (sentences[start : start + CHUNK] for start in range(0, len(sentences), CHUNK))
        tokens = (self.tokenize(chunk, max_length=max_length, prompt=prompt) for chunk in chunks)
        check_fit("sentences", tokens, max_length, "embed", prompt)

    def prompt_length(self, prompt: str, *, max_length: int) -> int:
        """Tokens of a prompt at the start of a row, with the special tokens before it.

        A prompt that fills the row counts as far as it fits: the special tokens after it always belong to the text.
        """
        ((_, length),) = self.contents([prompt])
        return min(len(self.prefix) + length, max_length - len(self.suffix))


def check_fit(name: str, chunks: Iterable[Tokens], max_length: int, purpose: str, prompt: str) -> None:
    """Raises InputError for the first of the texts, the argument `name`, that was cut; `purpose`: what is done with them."""
    together = " with the prompt" if prompt else ""
    for row, count in enumerate(count for tokens in chunks for count in tokens.token_counts()):
        if count.dropped:
            raise InputError(
                f"{name}[{row}] has {count.tokens} tokens{together}, {count.dropped} more than max_seq_length {max_length}. "
                f"Shorten it, or pass on_truncate='warn' to {purpose} its beginning."
            )
