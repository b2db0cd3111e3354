"""SentenceEncoder: the face of the package. Load a model, encode text, compare embeddings, save.

    text -> tokens -> transformer -> token embeddings -> pooling -> sentence embedding -> similarity

The names and defaults are those that users of sentence-transformers know. The work is done elsewhere: text/ makes
token batches, sentence_model.py computes, pretrained.py and checkpoint/ read and write folders.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.arguments import as_list, check_options, check_prompts, comparable, one_of, positive, prompt_text
from minisbert.errors import InputError, MinisbertError
from minisbert.forward import COMPUTE_DTYPES, Compilation, Forward, Result, default_shapes, progress_bar
from minisbert.pretrained import Pretrained, cast_matrices, load_pretrained, save_pretrained
from minisbert.quantization import quantize_embeddings
from minisbert.similarity import PAIRWISE_SIMILARITIES, SIMILARITIES
from minisbert.text.batching import batches, rectangle
from minisbert.text.tokenizer import CHUNK, TokenCount, shown

logger = logging.getLogger("minisbert")


class SentenceEncoder:
    """A sentence embedding model: text in, one vector a text out.

    Args:
        pretrained: what `load_pretrained` read; most callers want `SentenceEncoder.load`.
        compute_dtype: "float32", or "bfloat16" for the matrix products (norms, softmax and pooling stay float32).
        token_budget: tokens computed at once, padding counted; by default what suits the device.

    Example:
        >>> encoder = SentenceEncoder.load("weights/tiny-bert")
        >>> encoder.encode(["a sentence", "another one"]).shape
        (2, 32)
    """

    def __init__(self, pretrained: Pretrained, *, compute_dtype: str = "float32", token_budget: int | None = None):
        if not isinstance(pretrained, Pretrained):
            raise InputError(
                f"pretrained is {shown(pretrained)} ({type(pretrained).__name__}). Expected a model that was read; for a "
                "name or a folder write SentenceEncoder.load(...)."
            )
        one_of("compute_dtype", compute_dtype, tuple(COMPUTE_DTYPES))
        self.pretrained = pretrained
        self.compute_dtype = compute_dtype
        self.shapes = default_shapes()
        if token_budget is not None:
            self.shapes = replace(self.shapes, token_budget=positive("token_budget", token_budget))
        # As in sentence-transformers: "query" and "document" are always there, empty where the model has none.
        self.prompts = {"query": "", "document": "", **pretrained.folder.prompts}
        self.default_prompt_name = pretrained.folder.default_prompt_name
        self.similarity_fn_name = pretrained.folder.similarity_fn_name
        self.truncate_dim = pretrained.folder.truncate_dim
        self.tokenizer = pretrained.tokenizer
        limit = pretrained.folder.max_seq_length
        self._max_seq_length = min(limit or pretrained.capacity, pretrained.capacity)
        params = cast_matrices(pretrained.params, COMPUTE_DTYPES[compute_dtype])
        self.forward = Forward(pretrained.design, params, compute_dtype)

    @staticmethod
    def load(
        name_or_folder: str | Path,
        *,
        compute_dtype: str = "float32",
        token_budget: int | None = None,
        revision: str | None = None,
        cache: str | Path | None = None,
        offline: bool | None = None,
    ) -> "SentenceEncoder":
        """A model by name ("all-mpnet-base-v2", "org/name" on the hub) or from a folder.

        Args:
            compute_dtype, token_budget: see the class.
            revision: of a hub model.
            cache: where downloaded models are kept; by default the user's cache folder.
            offline: True never opens a socket; None asks the environment (MINISBERT_OFFLINE).

        Raises:
            ModelFolderError: the folder is not a whole model that minisbert computes.
            DownloadError: the model is not at hand and cannot be fetched.
        """
        from minisbert.checkpoint.download import locate

        path = locate(name_or_folder, revision=revision, cache=cache, offline=offline)
        return SentenceEncoder(load_pretrained(path), compute_dtype=compute_dtype, token_budget=token_budget)

    # --- text to vectors -------------------------------------------------------------------------------------------

    def encode(
        self,
        sentences: str | Sequence[str] | np.ndarray,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        on_truncate: str = "warn",
    ) -> Any:
        """Embed one text or many.

        Args:
            sentences: a string, or a list, tuple or 1-d array of strings.
            prompt_name: a name in `prompts`, whose text is put before each sentence.
            prompt: such a text itself; wins over `prompt_name`.
            batch_size: sentences computed at once; by default as many as fit `token_budget`.
            show_progress_bar: None shows one on a terminal when it takes longer than two seconds.
            output_value: "sentence_embedding", "token_embeddings" (an array per sentence), or None for both in a dict
                per sentence.
            precision: see `quantize_embeddings`.
            normalize_embeddings: scale each to length 1.
            truncate_dim: keep the first dimensions only (Matryoshka models); by default the model's setting.
            on_truncate: "warn", "error" or "ignore" when a text is longer than `max_seq_length`.

        Returns:
            float32 `[sentences, dimension]`; for one string, one vector; for an empty list, `(0, dimension)`.

        Raises:
            InputError: an argument or a sentence is not what it should be; nothing is computed then.

        Example:
            >>> encoder = SentenceEncoder.load("weights/tiny-bert")
            >>> encoder.encode("one sentence").shape, encoder.encode([]).shape
            ((32,), (0, 32))
        """
        texts, single = as_list(sentences)
        truncate_dim = self.truncate_dim if truncate_dim is None else truncate_dim
        check_options(
            output_value=output_value,
            precision=precision,
            on_truncate=on_truncate,
            batch_size=batch_size,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
            show_progress_bar=show_progress_bar,
        )
        before = self._prompt(prompt, prompt_name)
        dimension = min(truncate_dim or self.design.dimension, self.design.dimension)

        if on_truncate == "error":
            self.tokenizer.refuse_long(texts, max_length=self.max_seq_length, prompt=before)
        with progress_bar(len(texts), show_progress_bar) as bar:
            results = self._run(texts, before, batch_size, on_truncate == "warn", output_value != "sentence_embedding")
            if output_value == "sentence_embedding":
                embeddings = np.empty((len(texts), dimension), np.float32)
                for rows, sentence_BD, _ in results:
                    embeddings[rows] = _finish(sentence_BD, dimension, normalize_embeddings)
                    bar.update(len(rows))
                items: Any = quantize_embeddings(embeddings, precision)
            else:
                items = [None] * len(texts)
                for rows, sentence_BD, tokens in results:
                    finished_BD = _finish(sentence_BD, dimension, normalize_embeddings)
                    for row, (ids, token_LD), sentence_D in zip(rows, tokens, finished_BD, strict=True):
                        whole = {"input_ids": ids, "token_embeddings": token_LD, "sentence_embedding": sentence_D}
                        items[row] = token_LD if output_value == "token_embeddings" else whole
                    bar.update(len(rows))
        return items[0] if single else items

    def encode_query(self, sentences: str | Sequence[str] | np.ndarray, **options: Any) -> Any:
        """`encode` with the "query" prompt, empty where the model has none (never the default prompt)."""
        if options.get("prompt") is None and options.get("prompt_name") is None and "query" in self.prompts:
            options["prompt_name"] = "query"
        return self.encode(sentences, **options)

    def encode_document(self, sentences: str | Sequence[str] | np.ndarray, **options: Any) -> Any:
        """`encode` with the model's "document", "passage" or "corpus" prompt, where it has one."""
        if options.get("prompt") is None and options.get("prompt_name") is None:
            options["prompt_name"] = next((n for n in ("document", "passage", "corpus") if n in self.prompts), None)
        return self.encode(sentences, **options)

    def token_counts(
        self, sentences: str | Sequence[str] | np.ndarray, prompt_name: str | None = None, prompt: str | None = None
    ) -> list[TokenCount]:
        """The truncation ledger: for each sentence its tokens, how many are kept and how many dropped.

        Example:
            >>> SentenceEncoder.load("weights/tiny-bert").token_counts("a b c")
            [TokenCount(tokens=5, kept=5, dropped=0)]
        """
        texts, _ = as_list(sentences)
        before = self._prompt(prompt, prompt_name)
        return self.tokenizer.tokenize(texts, max_length=self.max_seq_length, prompt=before).ledger()

    def _run(
        self, texts: Sequence[str], prompt: str, batch_size: int | None, warn: bool, with_tokens: bool
    ) -> Iterator[Result]:
        """Tokenize, batch and compute, as a stream; warns once at the end about texts that were cut."""
        truncated = [0]
        stream = batches(
            self._tokenized(texts, prompt, truncated),
            self.shapes,
            padding_id=self.padding_id,
            capacity=self.pretrained.capacity,
            batch_size=batch_size,
        )
        prompt_length = self.tokenizer.prompt_length(prompt, max_length=self.max_seq_length) if prompt else 0
        yield from self.forward.run(stream, prompt_length, with_tokens=with_tokens)
        if truncated[0] and warn:
            logger.warning(
                f"{truncated[0]} of {len(texts)} sentences are longer than max_seq_length {self.max_seq_length} and "
                "were cut; token_counts() tells which. on_truncate='ignore' silences this, 'error' refuses them."
            )

    def _tokenized(self, texts: Sequence[str], prompt: str, truncated: list[int]) -> Iterator[list[int]]:
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            tokens = self.tokenizer.tokenize(chunk, max_length=self.max_seq_length, prompt=prompt)
            truncated[0] += tokens.truncated
            yield from tokens.ids

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        return prompt_text(prompt, prompt_name, self.prompts, self.default_prompt_name)

    # --- vectors to scores -----------------------------------------------------------------------------------------

    def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Similarity of every embedding in `a` with every one in `b`, by the model's function: `[len(a), len(b)]`."""
        one_of("similarity_fn_name", self.similarity_fn_name, tuple(SIMILARITIES))
        return SIMILARITIES[self.similarity_fn_name](*comparable(a, b))

    def similarity_pairwise(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Similarity of `a[i]` with `b[i]`, by the model's function: `[len(a)]`.

        Raises:
            InputError: different numbers of embeddings, different widths, not finite.
        """
        one_of("similarity_fn_name", self.similarity_fn_name, tuple(SIMILARITIES))
        a_BD, b_BD = comparable(a, b)
        if len(a_BD) != len(b_BD):
            raise InputError(f"a has {len(a_BD)} embeddings, b {len(b_BD)}. Expected equally many.")
        return PAIRWISE_SIMILARITIES[self.similarity_fn_name](a_BD, b_BD)

    def warm_up(self, max_tokens: int | None = None) -> list[Compilation]:
        """Compile every shape that texts of up to `max_tokens` tokens can need, so that no later call waits for it.

        Returns:
            the compile ledger.

        Example:
            >>> len(SentenceEncoder.load("weights/tiny-bert").warm_up(max_tokens=16))
            3
        """
        limit = (
            self.max_seq_length if max_tokens is None else min(positive("max_tokens", max_tokens), self.max_seq_length)
        )
        capacity = self.pretrained.capacity
        longest = max(self.shapes.length(limit, capacity), self.shapes.single(limit, capacity))
        for rows, length in self.shapes.all(capacity):
            if length <= longest:
                self.forward.start(rectangle([], rows, length, self.padding_id))
        return self.compilations

    @property
    def compilations(self) -> list[Compilation]:
        """The compile ledger: every shape compiled so far and the seconds it took."""
        return self.forward.compilations

    # --- settings --------------------------------------------------------------------------------------------------

    @property
    def design(self) -> Any:
        """What the model consists of."""
        return self.pretrained.design

    @property
    def padding_id(self) -> int:
        """The token id that fills rows."""
        value = self.pretrained.folder.config.get("pad_token_id")
        return value if isinstance(value, int) else 0

    @property
    def max_seq_length(self) -> int:
        """Tokens kept of a text, special tokens included; may be set, up to the encoder's positions."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        positive("max_seq_length", value)
        if not self.tokenizer.special_tokens < value <= self.pretrained.capacity:
            raise InputError(
                f"max_seq_length is {value}. Expected {self.tokenizer.special_tokens + 1} to {self.pretrained.capacity}, "
                "the special tokens and one more up to the positions of this encoder."
            )
        self._max_seq_length = value

    def get_embedding_dimension(self) -> int:
        """Width of the embeddings that `encode` returns."""
        return min(self.truncate_dim or self.design.dimension, self.design.dimension)

    get_sentence_embedding_dimension = get_embedding_dimension

    def save(self, path: str | Path) -> None:
        """Write an ordinary sentence-transformers folder; it appears whole or not at all.

        Raises:
            InputError: the path is taken by something else than a model, or the weights were cast to bfloat16.
        """
        if not isinstance(path, str | Path) or not str(path).strip():
            raise InputError(f"path is {shown(path)}. Expected the folder to write, as str or Path.")
        check_prompts(self.prompts)
        if self.compute_dtype != "float32":
            raise InputError(f"the weights were cast to {self.compute_dtype}. Load in float32 to save them whole.")
        folder = replace(
            self.pretrained.folder,
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            similarity_fn_name=self.similarity_fn_name,
            truncate_dim=self.truncate_dim,
            max_seq_length=self.max_seq_length,
        )
        save_pretrained(replace(self.pretrained, folder=folder, params=self.forward.params), Path(path))

    def __repr__(self) -> str:
        lengths = {"max_seq_length": self.max_seq_length, "do_lower_case": self.pretrained.folder.do_lower_case}
        lines = [f"Transformer({lengths}) with {self.design.model_type} encoder", *self.design.describe()]
        return "\n".join(["SentenceEncoder(", *(f"  ({i}): {line}" for i, line in enumerate(lines)), ")"])


def _finish(sentence_BD: np.ndarray, dimension: int, normalize: bool) -> np.ndarray:
    sentence_BD = sentence_BD[:, :dimension]
    if normalize:
        norm_B1 = np.linalg.norm(sentence_BD, axis=1, keepdims=True)
        if not np.isfinite(norm_B1).all():
            raise MinisbertError("an embedding is too long for float32 to be scaled. Use another model.")
        sentence_BD = sentence_BD / np.maximum(norm_B1, 1e-12)
    return sentence_BD
