"""CrossEncoder: score pairs of texts. Load a model, predict, rank, put a fresh head on an encoder, save.

    (query, document) -> [CLS] query [SEP] document [SEP] -> transformer -> head -> logits -> activation -> score

It reads both texts together: more accurate than comparing embeddings, but nothing can be computed in advance. Retrieve with a
SentenceEncoder, then rank the first hundred hits with this. Names and defaults are those of sentence-transformers. tokens.py
makes the rows, model.py computes, predict.py batches, pretrained.py reads and writes folders.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from minisbert import arguments as checks
from minisbert.cross_encoder.folder import ACTIVATION_CLASSES
from minisbert.cross_encoder.model import define_cross_encoder
from minisbert.cross_encoder.predict import (
    activation_name,
    activation_of,
    logits,
    prompt_for,
    scores_from_logits,
    tokenized,
)
from minisbert.cross_encoder.pretrained import (
    PretrainedCrossEncoder,
    encoder_alone,
    load_cross_encoder,
    save_cross_encoder,
    with_fresh_head,
)
from minisbert.cross_encoder.tokens import CrossEncoderTokenizer, Pairs
from minisbert.download.locate import locate
from minisbert.errors import InputError
from minisbert.inference.callers import (
    MODEL_NAMES,
    OF_SAVE,
    PROMPTS,
    Familiar,
    called_inputs,
    check_callers_keywords,
    class_keywords,
    other_names,
)
from minisbert.inference.compiled import COMPUTE_DTYPES, Forward
from minisbert.inference.engines import with_params
from minisbert.inference.token_budgets import default_shapes
from minisbert.text.tokenizer import TokenCount, Tokens, check_fit


class CrossEncoder(Familiar):
    """Maps each pair of texts to one score, or to C logits.

    Args:
        model: a known name, a name on the hub, a folder, or the result of `load_cross_encoder`.
        num_labels: the expected number of labels; `from_encoder` makes a head with another number.
        max_length: tokens per pair, special tokens included; by default the model's setting.
        activation_fn: applied to the logits, as for `predict`; by default the model's setting.
        compute_dtype: "float32", or "bfloat16" for the encoder's matrix products (norms, softmax, head stay float32).
        token_budget: tokens per batch, padding included; by default as in SentenceEncoder.
        revision, cache, offline, token, verify, allow_pickle_weights, allow_links: see `SentenceEncoder`.
        keywords: `prompts`, added to the folder's, `default_prompt_name`; those of sentence-transformers that change nothing.

    Raises:
        ModelFolderError, DownloadError: the folder is not a complete cross-encoder, or cannot be downloaded.

    Example:
        >>> model = CrossEncoder.from_encoder("weights/tiny-bert", seed=0)
        >>> model.predict([("a man eats", "someone has a meal"), ("a man eats", "a red car")]).shape
        (2,)
    """

    @other_names({**MODEL_NAMES, "default_activation_function": "activation_fn"})
    def __init__(
        self,
        model: str | Path | PretrainedCrossEncoder,
        *,
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: str | Callable[[np.ndarray], Any] | None = None,
        compute_dtype: str = "float32",
        token_budget: int | str | None = None,
        revision: str | None = None,
        cache: str | Path | None = None,
        offline: bool | None = None,
        token: str | bool | None = None,
        verify: bool = False,
        allow_pickle_weights: bool = False,
        allow_links: bool = False,
        **keywords: Any,
    ):
        settings = class_keywords(type(self).__name__, keywords, PROMPTS)
        checks.check_choice("compute_dtype", compute_dtype, ("float32", "bfloat16"))
        if not isinstance(model, PretrainedCrossEncoder):
            place = locate(model, revision=revision, cache=cache, offline=offline, token=token, verify=verify)
            model = load_cross_encoder(place, allow_pickle_weights, allow_links)
        self.pretrained, self.compute_dtype = model, compute_dtype
        if num_labels is not None and checks.check_positive("num_labels", num_labels) != self.num_labels:
            raise InputError(
                f"num_labels is {num_labels}, but the model in {model.folder.path} has {self.num_labels}. Expected the same; "
                "for a fresh head write CrossEncoder.from_encoder(encoder, num_labels)."
            )
        self.shapes = default_shapes(token_budget, model.model_config, compute_dtype)
        self.tokenizer = CrossEncoderTokenizer(model.tokenizer)
        self.activation_fn: Any = model.folder.activation if activation_fn is None else activation_name(activation_fn)
        activation_of(self.activation_fn)
        self.padding_id, self.max_positions = model.folder.padding_id, model.model_config.encoder.max_positions
        self._max_seq_length = model.folder.longest
        self.prompts, self.default_prompt_name = dict(model.folder.prompts), model.folder.default_prompt_name
        self._change_settings(settings)
        if max_length is not None:
            self.max_seq_length = max_length

    @cached_property
    def forward(self) -> Forward:
        """The compiled forward pass, a function of the parameters."""
        definition, _ = define_cross_encoder(self.model_config, COMPUTE_DTYPES[self.compute_dtype])
        return Forward(definition, self.compute_dtype, {"logits": lambda model, *batch: model(*batch)})

    params = property(attrgetter("pretrained.params"), doc="The parameters: nested dicts of float32 arrays.")
    model_config = property(attrgetter("pretrained.model_config"), doc="What the model consists of.")
    num_labels = property(attrgetter("model_config.num_labels"), doc="Logits per pair: C.")
    with_params = with_params

    @staticmethod
    def from_encoder(
        encoder: Any,
        num_labels: int = 1,
        *,
        seed: int = 0,
        revision: str | None = None,
        cache: str | Path | None = None,
        offline: bool | None = None,
        token: str | bool | None = None,
        **options: Any,
    ) -> "CrossEncoder":
        """A pretrained encoder with a fresh head; its scores are meaningless until it is trained.

        Args:
            encoder: a SentenceEncoder, or the name or folder of an encoder. Its weights are shared until they are trained.
            num_labels: 1 for a score (BCE, MSE, margin-MSE), the number of classes for cross-entropy.
            revision, cache, offline, token, options (max_length, activation_fn, prompts, ...): as for the class.

        Raises:
            ModelFolderError, DownloadError: the encoder cannot be read, or its family has no head here.
            InputError: an argument has a wrong value.

        Example:
            >>> CrossEncoder.from_encoder("weights/tiny-mpnet", num_labels=3).predict(("a dog", "a cat")).shape
            (3,)
        """
        checks.check_positive("num_labels", num_labels)
        checks.seed_number("seed", seed)
        given = encoder_alone(encoder, revision=revision, cache=cache, offline=offline, token=token)
        return CrossEncoder(with_fresh_head(given, num_labels, seed), **options)

    # --- pairs to scores -------------------------------------------------------------------------------------------

    @other_names({"activation_fct": "activation_fn"})
    def predict(
        self,
        pairs: Pairs | np.ndarray | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: str | Callable[[np.ndarray], Any] | None = None,
        apply_softmax: bool = False,
        on_truncate: str = "warn",
        **others: Any,
    ) -> Any:
        """Score one pair of texts or many.

        Args:
            pairs: a pair of texts, or a list of pairs.
            prompt_name: a name in `prompts`, by default `default_prompt_name`; its text is put before the first text of each.
            prompt: the text itself; overrides `prompt_name`.
            batch_size: pairs per batch; by default as many as fit `token_budget`.
            show_progress_bar: None shows one on a terminal after two seconds.
            activation_fn: identity, sigmoid, tanh, relu, softmax or a function of the logits `[pairs, C]`; None: the model's.
            apply_softmax: then make the C numbers of each pair sum to 1; no effect for one label.
            on_truncate: "warn", "error" or "ignore" when a pair is longer than `max_seq_length`.
            others: keywords that change nothing here, such as convert_to_numpy=True.

        Returns:
            float32 `[pairs]` for one label, `[pairs, C]` for several; for a single pair one number, or `[C]`; for an empty list
            `[0]`, or `[0, C]`.

        Raises:
            InputError: an argument or a pair has a wrong value; nothing is computed then.

        Example:
            >>> model = CrossEncoder.from_encoder("weights/tiny-bert", num_labels=3)
            >>> model.predict([("a cat", "a dog")], apply_softmax=True).sum().round(6).tolist()
            1.0
        """
        pairs = called_inputs("pairs", pairs, others)
        check_callers_keywords("predict", others)
        rows, single = checks.as_pairs(pairs)
        before = prompt_for(self, prompt_name, prompt)
        activation = activation_of(self.activation_fn if activation_fn is None else activation_fn)
        checks.check_bool("apply_softmax", apply_softmax)
        checks.check_batch_options(on_truncate, batch_size, show_progress_bar)
        if on_truncate == "error":
            check_fit("pairs", tokenized(self, rows, before), self.max_seq_length, "score", before)
        logits_BC = logits(self, rows, before, batch_size, show_progress_bar, warn=on_truncate == "warn")
        scores = scores_from_logits(logits_BC, activation, apply_softmax)
        return scores[0] if single else scores

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Sort documents by their score with the query, best first; ties keep their order.

        Args:
            query, documents: one text, and a list of texts.
            top_k: how many to return, by default all.
            return_documents: include the "text" of each.
            prompt_name, prompt, options: as for `predict`.

        Returns:
            one dict per document: "corpus_id" (its index in `documents`), "score", and "text" where asked for.

        Raises:
            InputError: as `predict`, or the model has more than one label.

        Example:
            >>> model = CrossEncoder.from_encoder("weights/tiny-bert")
            >>> sorted(model.rank("a cat", ["a dog", "a car"], top_k=1, return_documents=True)[0])
            ['corpus_id', 'score', 'text']
        """
        if self.num_labels != 1:
            raise InputError(
                f"rank: the model has {self.num_labels} labels. Expected 1, a score to sort by; use predict for classes."
            )
        checks.check_text("query", query)
        documents = checks.check_list("documents", documents)
        if top_k is not None:
            checks.check_positive("top_k", top_k)
        checks.check_bool("return_documents", return_documents)
        scores = self.predict([(query, document) for document in documents], prompt_name, prompt, **options)
        best = np.argsort(-scores, kind="stable")[:top_k].tolist()
        texts: Any = [{"text": documents[i]} if return_documents else {} for i in best]
        return [{"corpus_id": i, "score": float(scores[i]), **text} for i, text in zip(best, texts, strict=True)]

    def token_counts(self, pairs: Pairs, prompt_name: str | None = None, prompt: str | None = None) -> list[TokenCount]:
        """For each pair the number of its tokens, those of the prompt included, and how many of them are kept and dropped.

        Example:
            >>> CrossEncoder.from_encoder("weights/tiny-bert").token_counts(("a b", "c"))
            [TokenCount(tokens=6, kept=6, dropped=0)]
        """
        return self.tokenize(pairs, prompt_name, prompt).token_counts()

    def tokenize(self, pairs: Pairs, prompt_name: str | None = None, prompt: str | None = None) -> Tokens:
        """Token ids of pairs as the model reads them, cut to `max_seq_length`, without padding."""
        rows, before = checks.as_pairs(pairs)[0], prompt_for(self, prompt_name, prompt)
        return self.tokenizer.tokenize(rows, max_length=self.max_seq_length, prompt=before)

    # --- settings --------------------------------------------------------------------------------------------------

    @property
    def training_task(self) -> Any:
        """How `minisbert.train` trains this model: a `training.task.TrainingTask`."""
        from minisbert.cross_encoder.training import CROSS_ENCODER

        return CROSS_ENCODER

    texts_per_row = 2
    max_length = Familiar.max_seq_length  # its older name, so that assigning to it takes effect

    def save(self, path: str | Path, **others: Any) -> None:
        """Write a folder that sentence-transformers' CrossEncoder reads too; it appears whole or not at all.

        Raises:
            InputError: the path holds something other than a model, or the activation has no name.
        """
        check_callers_keywords("save", others, OF_SAVE)
        activation = activation_name(self.activation_fn)
        checks.check_choice("activation_fn", activation, tuple(ACTIVATION_CLASSES.values()))
        self._check_settings()
        changed = {name: getattr(self, name) for name in ("max_seq_length", *PROMPTS)}
        folder = replace(self.pretrained.folder, activation=activation, **changed)
        save_cross_encoder(replace(self.pretrained, folder=folder), checks.check_path(path))

    def __repr__(self) -> str:
        settings = {"max_seq_length": self.max_seq_length, "num_labels": self.num_labels}
        return f"CrossEncoder({settings}, activation_fn={self.activation_fn!r}) with {self.model_config.model_type} encoder"
