"""SentenceEncoder: the face of the package. Load a model, encode text, compare embeddings, save.

    text -> tokens -> transformer -> token embeddings -> pooling -> sentence embedding -> similarity

The names and defaults are those that users of sentence-transformers know. The work is done elsewhere: text/ makes
token batches, sentence_model.py computes, pretrained.py and checkpoint/ read and write folders.
"""

from dataclasses import replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, Unpack, overload

import numpy as np

from minisbert import arguments as checks
from minisbert.download.locate import locate
from minisbert.inference.batching import ShapeTable
from minisbert.inference.callers import (
    MODEL_NAMES,
    OF_SAVE,
    SETTINGS,
    FamiliarEncoder,
    called_inputs,
    check_callers_keywords,
    class_keywords,
    other_names,
)
from minisbert.inference.encode import Array, EncodeOptions, Matrix, PerToken, Texts, Vector, per_text, results, warm_up
from minisbert.inference.engines import check_engine, make_forward, params_for, with_params
from minisbert.inference.stream import Compilation, progress
from minisbert.inference.token_budgets import default_shapes
from minisbert.model_config import with_pooling
from minisbert.pretrained import Pretrained, load_pretrained, on_device, save_pretrained
from minisbert.quantization import quantize_embeddings
from minisbert.similarity import PAIRWISE_SIMILARITIES, SIMILARITIES, normalize
from minisbert.text.tokenizer import TokenCount


class SentenceEncoder(FamiliarEncoder):
    """A sentence embedding model: maps each text to one vector.

    Args:
        model: a known name ("all-mpnet-base-v2"), a name on the hub ("org/name"), a folder, or what `load_pretrained` returns.
        engine: "jax", or "numpy", which starts sooner and needs no JAX; float32 on the CPU, no training.
        compute_dtype: "float32"; "bfloat16" for the matrix products (norms, softmax and pooling stay float32); "float64".
        token_budget: tokens per batch, padding included; by default what suits the device, or "tuned": see `minisbert tune`.
        packing: put short texts into shared rows, which changes the last bits (1e-6). None: in float32 calls of 128+ texts.
        revision, cache, offline, token, verify: of a model that is named, see `locate`.
        allow_pickle_weights: read a folder whose weights are only in pytorch_model.bin: its tensors and nothing else.
        allow_links: read files that are links out of the folder, as Nix, DVC and git-annex store them.
        adapter: which to merge where a folder has several, such as jina-embeddings-v3's "retrieval.query"; None for none.
        keywords: settings instead of the folder's (`truncate_dim`, `similarity_fn_name`, `default_prompt_name`; `prompts` are
            added to the folder's); keywords of sentence-transformers that change nothing here, such as device="cpu" on a CPU.

    Raises:
        ModelFolderError, DownloadError: the folder is not a complete model that minisbert computes, or cannot be downloaded.

    Example:
        >>> SentenceEncoder("weights/tiny-bert").encode(["a sentence", "another one"]).shape
        (2, 32)
    """

    @other_names(MODEL_NAMES)
    def __init__(
        self,
        model: str | Path | Pretrained,
        *,
        engine: str = "jax",
        compute_dtype: str = "float32",
        token_budget: int | str | None = None,
        packing: bool | None = None,
        revision: str | None = None,
        cache: str | Path | None = None,
        offline: bool | None = None,
        token: str | bool | None = None,
        verify: bool = False,
        allow_pickle_weights: bool = False,
        allow_links: bool = False,
        adapter: str | None = None,
        **keywords: Any,
    ):
        settings = class_keywords(type(self).__name__, keywords, SETTINGS) if keywords else {}
        check_engine(engine, compute_dtype, packing)
        if not isinstance(model, Pretrained):
            path = locate(model, revision=revision, cache=cache, offline=offline, token=token, verify=verify)
            options: Any = {"allow_pickle_weights": allow_pickle_weights, "allow_links": allow_links}
            model = load_pretrained(path, put=on_device if engine == "jax" else None, adapter=adapter, **options)
        self.pretrained, self.model_config = params_for(model, engine), model.model_config
        self.engine, self.compute_dtype, self.packing = engine, compute_dtype, packing
        if token_budget is not None:
            self.shapes = default_shapes(token_budget, model.model_config, compute_dtype, engine)
        # As in sentence-transformers: "query" and "document" are always there, empty where the model has none.
        folder = model.folder
        self.prompts = {"query": "", "document": "", **folder.prompts}
        self.default_prompt_name = folder.default_prompt_name
        self.similarity_fn_name, self.truncate_dim = folder.similarity_fn_name, folder.truncate_dim
        self.tokenizer, self.padding_id = model.tokenizer, folder.padding_id
        self.max_positions = model.model_config.encoder.max_positions
        self._max_seq_length = folder.longest
        if settings:
            self._change_settings(settings)
        # Each route of a Router is an encoder; the attributes above are then those of the main route.
        options = {"engine": engine, "compute_dtype": compute_dtype, "packing": packing, "token_budget": token_budget}
        self.routes: dict[str, SentenceEncoder] = {}
        for name, route in model.routes.items():
            self.routes[name] = SentenceEncoder(route, **options)

    @cached_property  # made at the first use, as `forward` is: loading a model compiles nothing
    def shapes(self) -> ShapeTable:
        """The batch shapes that are computed."""
        return default_shapes(None, self.model_config, self.compute_dtype, self.engine)

    @cached_property
    def forward(self) -> Any:
        """The engine's forward pass, a function of the parameters."""
        return make_forward(self.model_config, self.engine, self.compute_dtype)

    params = property(attrgetter("pretrained.params"), doc="The parameters: nested dicts of float32 arrays.")
    with_params, with_pooling = with_params, with_pooling

    def module(self) -> tuple[Any, Any]:
        """The model as plain JAX, (apply, params): see `minisbert.plain.module`."""
        from minisbert.plain import module

        return module(self)

    @overload
    def encode(self, sentences: str, **options: Unpack[EncodeOptions]) -> Vector: ...
    @overload
    def encode(self, sentences: Texts, **options: Unpack[EncodeOptions]) -> Matrix: ...
    @overload
    def encode(self, sentences: Texts, *, output_value: PerToken, **options: Unpack[EncodeOptions]) -> list[Array]: ...
    @overload
    def encode(self, sentences: str | Texts | None = None, *args: Any, **options: Any) -> Any: ...

    def encode(
        self,
        sentences: str | Texts | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        on_truncate: str = "warn",
        task: str | None = None,
        out: np.ndarray | None = None,
        **others: Any,
    ) -> Any:
        """Embed one text or many.

        Args:
            sentences: a string, or a list, 1-d array or other iterable of strings.
            prompt_name: a name in `prompts`; its text is put before each sentence.
            prompt: the text itself; overrides `prompt_name`.
            batch_size: sentences per batch; by default as many as fit `token_budget`.
            show_progress_bar: None shows one on a terminal after two seconds.
            output_value: "sentence_embedding", "token_embeddings" (an array per sentence), "hidden_states" (of every layer and
                the first one's input: `[layers + 1, tokens, width]` per sentence), or None for a dict of the first two.
            precision: see `quantize_embeddings`.
            normalize_embeddings: scale each to length 1.
            truncate_dim: keep the first dimensions only (Matryoshka models); by default the model's setting.
            on_truncate: "warn", "error" or "ignore" when a text is longer than `max_seq_length`.
            task: chooses the route of a model with a Router ("query", "document"); other models ignore it.
            out: an array `[sentences, dimension]` to fill and return, for example a memory-mapped file.
            others: keywords that change nothing here, such as convert_to_numpy=True.

        Returns:
            float32 (or float64) `[sentences, dimension]`; for one string `[dimension]`; for an empty list `[0, dimension]`.

        Raises:
            InputError: an argument or a sentence is invalid; nothing is computed then.

        Example:
            >>> encoder = SentenceEncoder.load("weights/tiny-bert")
            >>> encoder.encode("one sentence").shape, encoder.encode([]).shape
            ((32,), (0, 32))
        """
        if others:
            sentences = called_inputs("sentences", sentences, others)
            check_callers_keywords("encode", others)
        texts, single = checks.as_list(sentences)
        truncate_dim = self.truncate_dim if truncate_dim is None else truncate_dim
        checks.check_encode_options(
            output_value, precision, on_truncate, batch_size, truncate_dim, normalize_embeddings, show_progress_bar
        )
        prompt = checks.prompt_text(prompt, prompt_name, self.prompts, self.default_prompt_name)
        encoder = self if task is None and not self.routes else self.route(task)
        dimension = checks.kept_dimension(truncate_dim, encoder.model_config.dimension)
        dtype = np.float64 if self.compute_dtype == "float64" else np.float32
        if out is not None:
            checks.check_out(out, (len(texts), dimension), dtype, output_value, precision)
        if on_truncate == "error":
            encoder.tokenizer.refuse_long(texts, max_length=encoder.max_seq_length, prompt=prompt)
        tokens: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        embeddings = np.empty((len(texts), dimension), dtype) if out is None else out
        batches = results(encoder, texts, prompt, batch_size, output_value, on_truncate == "warn")
        for batch in progress(batches, len(texts), show_progress_bar):
            sentence_BD = batch.sentence_BD[:, :dimension]
            embeddings[batch.rows] = normalize(sentence_BD) if normalize_embeddings else sentence_BD
            tokens.update(zip(batch.rows, batch.tokens, strict=False))
        items: Any = embeddings if precision == "float32" else quantize_embeddings(embeddings, precision)
        if output_value != "sentence_embedding":
            items = per_text(tokens, embeddings, output_value)
        return items[0] if single else items

    def encode_query(
        self, sentences: Any = None, prompt_name: str | None = None, prompt: str | None = None, **options: Any
    ) -> Any:
        """`encode` for search queries: with the "query" prompt (never the default prompt) and the task "query"."""
        if prompt_name is None and prompt is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(sentences, prompt_name, prompt, **{"task": "query", **options})

    def encode_document(
        self, sentences: Any = None, prompt_name: str | None = None, prompt: str | None = None, **options: Any
    ) -> Any:
        """`encode` for documents: with the "document", "passage" or "corpus" prompt and the task "document"."""
        if prompt_name is None and prompt is None:
            prompt_name = next((name for name in ("document", "passage", "corpus") if name in self.prompts), None)
        return self.encode(sentences, prompt_name, prompt, **{"task": "document", **options})

    def token_counts(
        self, sentences: str | Texts, prompt_name: str | None = None, prompt: str | None = None, task: str | None = None
    ) -> list[TokenCount]:
        """For each sentence its number of tokens, and how many of them are kept and dropped.

        Example:
            >>> SentenceEncoder.load("weights/tiny-bert").token_counts("a b c")
            [TokenCount(tokens=5, kept=5, dropped=0)]
        """
        texts, _ = checks.as_list(sentences)
        prompt = checks.prompt_text(prompt, prompt_name, self.prompts, self.default_prompt_name)
        route = self.route(task)
        return route.tokenizer.tokenize(texts, max_length=route.max_seq_length, prompt=prompt).token_counts()

    def route(self, task: str | None = None) -> "SentenceEncoder":
        """The encoder for texts of this task: a route of a Router, or this one where the model has no Router."""
        if task is not None:
            checks.check_text("task", task)
        router = self.pretrained.folder.router
        return self if router is None else self.routes[router.of(task)]

    def similarity(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """Similarity of each row of the first with each row of the second by the model's function: `[rows, rows]`."""
        return SIMILARITIES[self.similarity_fn_name](*checks.comparable(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """Similarity of `embeddings1[i]` with `embeddings2[i]` by the model's function: `[rows]`."""
        return PAIRWISE_SIMILARITIES[self.similarity_fn_name](*checks.comparable_rows(embeddings1, embeddings2))

    def warm_up(self, max_tokens: int | None = None) -> list[Compilation]:
        """Compile every shape that texts of up to `max_tokens` tokens can need (NumPy: none); returns `compilations`.

        Example:
            >>> len(SentenceEncoder.load("weights/tiny-bert").warm_up(max_tokens=16))
            4
        """
        for route in self.routes.values() or [self]:
            warm_up(route, max_tokens)
        return self.compilations

    @property
    def compilations(self) -> list[Compilation]:
        """The compile log: every shape compiled so far, and the seconds it took."""
        return [line for route in self.routes.values() or [self] for line in route.forward.compilations]

    def save(self, path: str | Path, **others: Any) -> None:
        """Write an ordinary sentence-transformers folder; it appears whole or not at all.

        Args:
            others: keywords of sentence-transformers that change nothing here, such as safe_serialization=True.

        Raises:
            InputError: the path is taken by something else than a model; a setting that could not be read back.
        """
        if others:
            check_callers_keywords("save", others, OF_SAVE)
        folder = checks.check_path(path)
        self._check_settings()
        save_pretrained(self._current(self), folder)

    def _current(self, settings: "SentenceEncoder") -> Pretrained:
        """The model with its current settings and weights; the routes of a Router take the model's settings."""
        changed = {name: getattr(settings, name) for name in SETTINGS} | {"is_tokenizers_limit": False}
        folder = replace(self.pretrained.folder, max_seq_length=self.max_seq_length, **changed)
        routes = {name: route._current(settings) for name, route in self.routes.items()}
        return replace(self.pretrained, folder=folder, routes=routes)

    def __repr__(self) -> str:
        folder = self.pretrained.folder
        if folder.router:
            routes = [f"  {name}: {route!r}".replace("\n", "\n  ") for name, route in self.routes.items()]
            return "\n".join([f"SentenceEncoder(Router, by default {folder.router.default}:", *routes, ")"])
        lines = self.model_config.describe(max_seq_length=self.max_seq_length, do_lower_case=folder.do_lower_case)
        return "\n".join(["SentenceEncoder(", *map("  ({}): {}".format, range(len(lines)), lines), ")"])
