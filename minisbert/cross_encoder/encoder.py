"""CrossEncoder: score pairs of texts. Load a model, predict, rank, put a fresh head on an encoder, save.

    (query, document) -> [CLS] query [SEP] document [SEP] -> transformer -> head -> logits -> activation -> score

It reads both texts at once: more exact than comparing embeddings, but nothing can be prepared. Retrieve with a
SentenceEncoder, then rank the first hundred with this. Names and defaults are those of sentence-transformers. The work
is done elsewhere: cross_encoder/tokens.py makes the rows, cross_encoder/model.py computes, cross_encoder/pretrained.py reads and writes folders.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.arguments import (
    as_pairs,
    check_bool,
    check_choice,
    check_positive,
    check_predict_options,
    check_text,
    seed_number,
)
from minisbert.cross_encoder.folder import ACTIVATION_CLASSES
from minisbert.cross_encoder.heads import HEADS
from minisbert.cross_encoder.model import define_cross_encoder
from minisbert.cross_encoder.pretrained import (
    PretrainedCrossEncoder,
    load_cross_encoder,
    save_cross_encoder,
    with_fresh_head,
)
from minisbert.cross_encoder.scores import activation_of, scores_from_logits
from minisbert.cross_encoder.tokens import CrossEncoderTokenizer, TokenizedPairs
from minisbert.errors import InputError, MinisbertError, short_repr
from minisbert.inference.batching import Batch, batches
from minisbert.inference.compiled import COMPUTE_DTYPES, Forward, progress_bar, run_ahead
from minisbert.inference.token_budgets import default_shapes
from minisbert.pretrained import Pretrained, cast_matrices, load_pretrained
from minisbert.text.tokenizer import CHUNK, TokenCount

logger = logging.getLogger("minisbert")


class CrossEncoder:
    """A model that scores pairs of texts: one number a pair, or C logits.

    Args:
        model: a folder, a known name, a name on the hub, or what `load_cross_encoder` read.
        num_labels: what the model should have; another number is refused, see `from_encoder` for a new head.
        max_length: tokens kept of a pair, special tokens included; by default the model's setting.
        compute_dtype: "float32", or "bfloat16" for the encoder's matrix products (norms, softmax, head stay float32).
        token_budget: tokens computed at once, padding counted; by default as in SentenceEncoder.
        revision, cache, offline: where a model that is no folder comes from; see `SentenceEncoder.load`.

    Raises:
        ModelFolderError: the folder is not a whole cross-encoder that minisbert computes.
        DownloadError: the model is not at hand and cannot be fetched.
        InputError: an argument is not what it should be.

    Example:
        >>> model = CrossEncoder.from_encoder("weights/tiny-bert", seed=0)
        >>> model.predict([("a man eats", "someone has a meal"), ("a man eats", "a red car")]).shape
        (2,)
    """

    def __init__(
        self,
        model: str | Path | PretrainedCrossEncoder,
        *,
        num_labels: int | None = None,
        max_length: int | None = None,
        compute_dtype: str = "float32",
        token_budget: int | str | None = None,
        revision: str | None = None,
        cache: str | Path | None = None,
        offline: bool | None = None,
    ):
        check_choice("compute_dtype", compute_dtype, tuple(COMPUTE_DTYPES))
        if not isinstance(model, PretrainedCrossEncoder):
            model = load_cross_encoder(_locate(model, revision, cache, offline))
        self.pretrained = model
        self.compute_dtype = compute_dtype
        if num_labels is not None and check_positive("num_labels", num_labels) != self.num_labels:
            raise InputError(
                f"num_labels is {num_labels}, but the model in {model.folder.path} has {self.num_labels}. Expected "
                f"{self.num_labels}; for a fresh head with {num_labels} write CrossEncoder.from_encoder(encoder, ...)."
            )
        self.shapes = default_shapes(token_budget, model.model_config, compute_dtype)
        self.tokenizer = CrossEncoderTokenizer(model.tokenizer, HEADS[model.model_config.model_type].separators)
        self.activation_fn = model.folder.activation
        limit = model.folder.max_seq_length
        self._max_seq_length = min(limit or model.max_positions, model.max_positions)
        if max_length is not None:
            self.max_seq_length = max_length
        dtype = COMPUTE_DTYPES[compute_dtype]
        definition, _ = define_cross_encoder(model.model_config, dtype)
        self.forward = Forward(
            definition,
            cast_matrices(model.params, dtype),
            compute_dtype,
            {"logits": lambda model, *batch: model(*batch)},
        )

    @staticmethod
    def from_encoder(
        encoder: Any,
        num_labels: int = 1,
        *,
        seed: int = 0,
        max_length: int | None = None,
        revision: str | None = None,
        cache: str | Path | None = None,
        offline: bool | None = None,
    ) -> "CrossEncoder":
        """A pretrained encoder with a fresh head, to be trained: until then its scores mean nothing.

        Args:
            encoder: a SentenceEncoder, or a folder or name of one or of a bare transformer. Its weights are shared, not
                copied; training copies them.
            num_labels: 1 for a score (BCE, MSE, margin-MSE), the number of classes for cross-entropy.
            seed: of the head's random numbers.
            max_length, revision, cache, offline: as for the class.

        Raises:
            ModelFolderError, DownloadError: the encoder cannot be read, or its family has no head here.
            InputError: an argument is not what it should be.

        Example:
            >>> CrossEncoder.from_encoder("weights/tiny-mpnet", num_labels=3).predict(("a dog", "a cat")).shape
            (3,)
        """
        check_positive("num_labels", num_labels)
        seed_number("seed", seed)
        given = getattr(encoder, "pretrained", encoder)
        if isinstance(given, Pretrained):
            if getattr(encoder, "compute_dtype", "float32") != "float32":
                raise InputError(f"the encoder's weights were cast to {encoder.compute_dtype}. Expected float32.")
        elif isinstance(given, PretrainedCrossEncoder):
            raise InputError(
                "encoder is a CrossEncoder, which has a head. Expected a SentenceEncoder, or the name of an encoder."
            )
        else:
            given = load_pretrained(_locate(given, revision, cache, offline))
        return CrossEncoder(with_fresh_head(given, num_labels, seed), max_length=max_length)

    # --- pairs to scores -------------------------------------------------------------------------------------------

    def predict(
        self,
        pairs: Sequence[tuple[str, str]] | tuple[str, str] | np.ndarray,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: str | Callable[[np.ndarray], Any] | None = None,
        apply_softmax: bool = False,
        on_truncate: str = "warn",
    ) -> Any:
        """Score one pair or many.

        Args:
            pairs: a pair of texts, or a list of pairs.
            batch_size: pairs computed at once; by default as many as fit `token_budget`.
            show_progress_bar: None shows one on a terminal when it takes longer than two seconds.
            activation_fn: identity, sigmoid, tanh or relu, or a function of the logits `[pairs, C]`; by default the
                folder's, where it says none sigmoid for one label and identity for several.
            apply_softmax: afterwards make the C numbers of each pair sum to 1; for one label it does nothing.
            on_truncate: "warn", "error" or "ignore" when a pair is longer than `max_seq_length`.

        Returns:
            float32 `[pairs]` for one label, `[pairs, C]` for several, in the order of the pairs; for a single pair one
            number, or `[C]`.

        Raises:
            InputError: an argument or a pair is not what it should be; nothing is computed then.

        Example:
            >>> model = CrossEncoder.from_encoder("weights/tiny-bert", num_labels=3)
            >>> model.predict([("a cat", "a dog")], apply_softmax=True).sum().round(6).tolist()
            1.0
        """
        rows, single = as_pairs(pairs)
        activation = activation_of(self.activation_fn if activation_fn is None else activation_fn)
        check_predict_options(on_truncate, batch_size, apply_softmax, show_progress_bar)
        if on_truncate == "error":
            self.tokenizer.refuse_long(rows, max_length=self.max_seq_length)
        logits_BC = np.empty((len(rows), self.num_labels), np.float32)
        cut = [0]
        first_lengths: list[int] = []
        stream = batches(
            self._tokenized(rows, cut, first_lengths),
            self.shapes,
            padding_id=self.padding_id,
            max_positions=self.pretrained.max_positions,
            batch_size=batch_size,
        )
        with progress_bar(len(rows), show_progress_bar, "pairs", "predict") as bar:
            for batch, computed_BC in run_ahead(stream, lambda batch: self._start(batch, first_lengths)):
                logits_BC[batch.rows] = np.asarray(computed_BC)[: len(batch.rows)]
                bar.update(len(batch.rows))
        if not np.isfinite(logits_BC).all():
            raise MinisbertError("a logit is not finite: the weights overflow. Use another model.")
        if cut[0] and on_truncate == "warn":
            logger.warning(
                f"{cut[0]} of {len(rows)} pairs are longer than max_seq_length {self.max_seq_length} and were cut; "
                "token_counts() tells which. on_truncate='ignore' silences this, 'error' refuses them."
            )
        scores = scores_from_logits(logits_BC, activation, apply_softmax)
        return scores[0] if single else scores

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: str | Callable[[np.ndarray], Any] | None = None,
        on_truncate: str = "warn",
    ) -> list[dict[str, Any]]:
        """Documents by their score with the query, best first; of equal scores the earlier document.

        Args:
            query, documents: one text, and a list of them.
            top_k: how many to return, by default all.
            return_documents: each with its "text".
            batch_size, show_progress_bar, activation_fn, on_truncate: see `predict`.

        Returns:
            a dict a document: "corpus_id" (its number in `documents`), "score", and "text" where asked for.

        Raises:
            InputError: as `predict`, or a model with more than one label.

        Example:
            >>> model = CrossEncoder.from_encoder("weights/tiny-bert")
            >>> sorted(model.rank("a cat", ["a dog", "a car"], top_k=1, return_documents=True)[0])
            ['corpus_id', 'score', 'text']
        """
        if self.num_labels != 1:
            raise InputError(
                f"rank: the model has {self.num_labels} labels. Expected 1, a score to sort by; use predict for classes."
            )
        check_text("query", query)
        if isinstance(documents, np.ndarray):
            documents = documents.tolist()
        if not isinstance(documents, list | tuple) or not documents:
            raise InputError(f"documents is {short_repr(documents)}. Expected a list of texts, at least one.")
        for row, document in enumerate(documents):
            check_text(f"documents[{row}]", document)
        if top_k is not None:
            check_positive("top_k", top_k)
        check_bool("return_documents", return_documents)
        scores = self.predict(
            [(query, document) for document in documents],
            batch_size,
            show_progress_bar,
            activation_fn,
            False,
            on_truncate,
        )
        best = np.argsort(-scores, kind="stable")[:top_k].tolist()
        found: list[dict[str, Any]] = [{"corpus_id": i, "score": float(scores[i])} for i in best]
        return [{**hit, "text": documents[hit["corpus_id"]]} for hit in found] if return_documents else found

    def token_counts(self, pairs: Sequence[tuple[str, str]] | tuple[str, str]) -> list[TokenCount]:
        """The truncation ledger: for each pair its tokens, how many are kept and how many dropped.

        Example:
            >>> CrossEncoder.from_encoder("weights/tiny-bert").token_counts(("a b", "c"))
            [TokenCount(tokens=6, kept=6, dropped=0)]
        """
        return self.tokenize(as_pairs(pairs)[0]).token_counts()

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> TokenizedPairs:
        """Token ids of pairs as the model reads them, cut to `max_seq_length`, without padding."""
        return self.tokenizer.tokenize(pairs, max_length=self.max_seq_length)

    def _tokenized(self, pairs: Sequence[Any], cut: list[int], first_lengths: list[int]) -> Iterator[list[int]]:
        """Token ids, pair by pair; counts what was cut, and notes what is segment 0, on the way."""
        for start in range(0, len(pairs), CHUNK):
            tokens = self.tokenize(pairs[start : start + CHUNK])
            cut[0] += tokens.truncated
            first_lengths += tokens.first_lengths
            yield from tokens.ids

    def _start(self, batch: Batch, first_lengths: Sequence[int]) -> Any:
        """Start computing the logits of a batch; `first_lengths` are the tokens of segment 0 of every pair so far."""
        first_lengths_B = np.zeros(len(batch.token_ids_BL), np.int32)
        first_lengths_B[: len(batch.rows)] = [first_lengths[row] for row in batch.rows]
        return self.forward("logits", batch.token_ids_BL, batch.lengths_B, first_lengths_B)

    # --- settings --------------------------------------------------------------------------------------------------

    @property
    def model_config(self) -> Any:
        """What the model consists of."""
        return self.pretrained.model_config

    @property
    def num_labels(self) -> int:
        """How many logits a pair has: C."""
        return self.pretrained.model_config.num_labels

    @property
    def padding_id(self) -> int:
        """The token id that fills rows."""
        value = self.pretrained.folder.config.get("pad_token_id")
        return value if isinstance(value, int) else 0

    @property
    def max_seq_length(self) -> int:
        """Tokens kept of a pair, special tokens included; may be set, up to the encoder's positions."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        check_positive("max_seq_length", value)
        least = self.tokenizer.special_tokens + 2
        if not least <= value <= self.pretrained.max_positions:
            raise InputError(
                f"max_seq_length is {value}. Expected {least} to {self.pretrained.max_positions}, the special tokens and one "
                "more of each text up to the positions of this encoder."
            )
        self._max_seq_length = value

    @property
    def training_task(self) -> Any:
        """How `minisbert.train` trains this model: a `training.task.TrainingTask`."""
        from minisbert.cross_encoder.training import CROSS_ENCODER

        return CROSS_ENCODER

    def save(self, path: str | Path) -> None:
        """Write a folder that sentence-transformers' CrossEncoder reads too; it appears whole or not at all.

        Raises:
            InputError: the path is taken by something else than a model, the weights were cast to bfloat16, or the
                activation has no name in the table.
        """
        if not isinstance(path, str | Path) or not str(path).strip():
            raise InputError(f"path is {short_repr(path)}. Expected the folder to write, as str or Path.")
        if self.compute_dtype != "float32":
            raise InputError(f"the weights were cast to {self.compute_dtype}. Load in float32 to save them whole.")
        check_choice("activation_fn", self.activation_fn, tuple(ACTIVATION_CLASSES.values()))
        folder = replace(self.pretrained.folder, max_seq_length=self.max_seq_length, activation=self.activation_fn)
        save_cross_encoder(replace(self.pretrained, folder=folder, params=self.forward.params), Path(path))

    def __repr__(self) -> str:
        settings = {"max_seq_length": self.max_seq_length, "num_labels": self.num_labels}
        return f"CrossEncoder({settings}, activation_fn={self.activation_fn!r}) with {self.model_config.model_type} encoder"


def _locate(model: Any, revision: str | None, cache: str | Path | None, offline: bool | None) -> Path:
    from minisbert.download.locate import locate

    return locate(model, revision=revision, cache=cache, offline=offline)
