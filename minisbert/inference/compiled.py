"""The compiled forward pass: token batches in, embeddings (or logits of pairs) out, with the device kept busy.

The one place where encoding and scoring are compiled. Each shape is compiled once, and the ledger says which, and how long it
took; XLA's results are kept in a cache folder, so a second process does not compile again. Batches are sent off
without waiting, and read back a few batches later, while the next are already computed and tokenized.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from minisbert.arguments import check_positive
from minisbert.cross_encoder.model import CrossEncoderConfig, define_cross_encoder
from minisbert.download.locate import cache_folder
from minisbert.errors import MinisbertError
from minisbert.inference.batching import ACCELERATOR, Batch, ShapeTable, rectangle
from minisbert.inference.token_budgets import cached_token_budget, machine_and_model
from minisbert.sentence_model import Embeddings, ModelConfig, define
from minisbert.text.packing import PackedBatch, PackedTexts, empty_batch, packed_shapes

COMPUTE_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# Batches computed ahead of the one being read back.
IN_FLIGHT = 4
AnyBatch = TypeVar("AnyBatch", bound=NamedTuple)
# Threads that ask for a new shape at once compile it once.
_COMPILING = threading.Lock()


class Result(NamedTuple):
    """What was computed for one batch, its filling rows left out."""

    rows: list[int]  # which sentences
    sentence_BD: np.ndarray
    tokens: list[tuple[np.ndarray, np.ndarray]]  # (ids, token embeddings) a sentence, where asked for


class Compilation(NamedTuple):
    """One line of the compile ledger."""

    rows: int
    length: int
    output: str
    seconds: float


class Devices:
    """This host's devices, each with all parameters and its share of a batch's rows; of one device nothing is seen."""

    def __init__(self) -> None:
        here = jax.local_devices()
        self.mesh = Mesh(np.array(here), ("rows",)) if len(here) > 1 else None
        self._placed: tuple[Any, Any] = (None, None)  # what was given, and where it is

    def params(self, params: Any) -> Any:
        """The parameters on every device; placed once, not at every call."""
        if self.mesh is None:
            return params
        given, placed = self._placed
        if given is not params:
            placed = jax.device_put(params, NamedSharding(self.mesh, PartitionSpec()))
            self._placed = params, placed
        return placed

    def rows(self, *arrays: np.ndarray) -> Sequence[Any]:
        """Arrays of B rows spread over the devices; B is a multiple of them (`ShapeTable.devices`)."""
        if self.mesh is None:
            return arrays
        return jax.device_put(arrays, NamedSharding(self.mesh, PartitionSpec("rows")))


class Forward:
    """A model ready to compute.

    Args:
        design: what the model consists of.
        params: its parameters, in the compute dtype where that differs (see `pretrained.cast_matrices`).
        compute_dtype: "float32" or "bfloat16".
    """

    def __init__(self, model_config: ModelConfig, params: dict[Any, Any], compute_dtype: str):
        enable_compilation_cache()
        self.params = params
        self.devices = Devices()
        self.compilations: list[Compilation] = []
        self._shapes: set[tuple[int, int, str]] = set()
        dtype = COMPUTE_DTYPES[compute_dtype]
        definition, _ = define(model_config, dtype)

        def embed(params: Any, token_ids_BL: jax.Array, lengths_B: jax.Array, prompt_length: jax.Array) -> Embeddings:
            # "highest": float32 means float32 on every device, not its short-cuts (TF32, bfloat16 passes).
            with jax.default_matmul_precision("highest" if compute_dtype == "float32" else "default"):
                return nnx.merge(definition, params)(token_ids_BL, lengths_B, prompt_length)

        def embed_packed(params: Any, texts: PackedTexts) -> jax.Array:
            with jax.default_matmul_precision("highest" if compute_dtype == "float32" else "default"):
                return nnx.merge(definition, params).packed(texts)

        # What a caller does not ask for is not computed or copied.
        self._sentences = jax.jit(lambda *arguments: embed(*arguments).sentence_BD)
        self._tokens = jax.jit(embed)
        self._packed = jax.jit(embed_packed)

    def start(self, batch: Batch | PackedBatch, prompt_length: int = 0, *, with_tokens: bool = False) -> Any:
        """Send one batch to the device; returns at once unless the shape is new and must be compiled."""
        params = self.devices.params(self.params)
        if isinstance(batch, PackedBatch):
            B, L = batch.texts.token_ids_PL.shape
            texts = PackedTexts(*self.devices.rows(*batch.texts))
            return self._start("packed sentence embeddings", B, L, self._packed, params, texts)
        B, L = batch.token_ids_BL.shape
        arguments = (params, *self.devices.rows(batch.token_ids_BL, batch.lengths_B), np.int32(prompt_length))
        if with_tokens:
            return self._start("token embeddings", B, L, self._tokens, *arguments)
        return self._start("sentence embeddings", B, L, self._sentences, *arguments)

    def _start(self, output: str, B: int, L: int, compute: Callable[..., Any], *arguments: Any) -> Any:
        if (B, L, output) in self._shapes:
            return compute(*arguments)
        with _COMPILING:
            started = time.perf_counter()
            result = compute(*arguments)
            if (B, L, output) not in self._shapes:  # another thread may have been here before
                self.compilations.append(Compilation(B, L, output, time.perf_counter() - started))
                self._shapes.add((B, L, output))
            return result

    def run(
        self, batches: Iterable[Batch | PackedBatch], prompt_length: int = 0, *, with_tokens: bool = False
    ) -> Iterator[Result]:
        """Compute batch after batch, a few ahead of the reader."""
        for batch, computed in ahead(batches, lambda b: self.start(b, prompt_length, with_tokens=with_tokens)):
            yield read_back(batch, computed)

    def warm_up(
        self, shapes: ShapeTable, tokens: int, *, max_positions: int, padding_id: int, packing: bool = False
    ) -> None:
        """Compile every shape of the table, and of packed rows, that texts of up to `tokens` tokens can need."""
        longest = max(shapes.length(tokens, max_positions), shapes.single(tokens, max_positions))
        for rows, length in shapes.all(max_positions):
            if length <= longest:
                self.start(rectangle([], rows, length, padding_id))
        for rows, length in packed_shapes(shapes.token_budget, shapes.devices, tokens) if packing else ():
            self.start(empty_batch(rows, length, padding_id))


class PairForward:
    """The same for a cross-encoder: batches of pairs in, logits out.

    Args:
        design: what the model consists of.
        params: its parameters, in the compute dtype where that differs (see `pretrained.cast_matrices`).
        compute_dtype: "float32" or "bfloat16".
    """

    def __init__(self, model_config: CrossEncoderConfig, params: dict[Any, Any], compute_dtype: str):
        enable_compilation_cache()
        self.params = params
        self.devices = Devices()
        self.compilations: list[Compilation] = []
        self._shapes: set[tuple[int, int]] = set()
        definition, _ = define_cross_encoder(model_config, COMPUTE_DTYPES[compute_dtype])

        def score(params: Any, token_ids_BL: jax.Array, lengths_B: jax.Array, first_lengths_B: jax.Array) -> jax.Array:
            with jax.default_matmul_precision("highest" if compute_dtype == "float32" else "default"):
                return nnx.merge(definition, params)(token_ids_BL, lengths_B, first_lengths_B)

        self._score = jax.jit(score)

    def start(self, batch: Batch, first_lengths: Sequence[int]) -> Any:
        """Send one batch to the device; returns at once unless the shape is new and must be compiled."""
        B, L = batch.token_ids_BL.shape
        first_lengths_B = np.zeros(B, np.int32)
        first_lengths_B[: len(batch.rows)] = [first_lengths[row] for row in batch.rows]
        rows = self.devices.rows(batch.token_ids_BL, batch.lengths_B, first_lengths_B)
        arguments = (self.devices.params(self.params), *rows)
        if (B, L) in self._shapes:
            return self._score(*arguments)
        with _COMPILING:
            started = time.perf_counter()
            logits_BC = self._score(*arguments)
            if (B, L) not in self._shapes:
                self.compilations.append(Compilation(B, L, "logits of pairs", time.perf_counter() - started))
                self._shapes.add((B, L))
            return logits_BC

    def run(self, batches: Iterable[Batch], first_lengths: Sequence[int]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Compute batch after batch, a few ahead of the reader: which pairs, and their logits.

        Args:
            first_lengths: for every pair its tokens of segment 0; may grow while the batches are read.
        """
        for batch, logits_BC in ahead(batches, lambda b: self.start(b, first_lengths)):
            yield batch.rows, np.asarray(logits_BC)[: len(batch.rows)]


def ahead(batches: Iterable[AnyBatch], start: Callable[[AnyBatch], Any]) -> Iterator[tuple[AnyBatch, Any]]:
    """Start batch after batch, `IN_FLIGHT` of them before the first is handed out."""
    pending: deque[tuple[AnyBatch, Any]] = deque()
    for batch in batches:
        pending.append((batch, start(batch)))
        if len(pending) > IN_FLIGHT:
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def read_back(batch: Batch | PackedBatch, computed: Any) -> Result:
    """Wait for a batch and bring it to the host.

    Raises:
        MinisbertError: a number that is not finite, which would spoil whatever it is compared with.
    """
    count = len(batch.rows)
    if isinstance(batch, PackedBatch):
        sentence_PTD = np.asarray(computed)
        result = Result(batch.rows, sentence_PTD.reshape(-1, sentence_PTD.shape[-1])[batch.where], [])
    elif not isinstance(computed, Embeddings):
        result = Result(batch.rows, np.asarray(computed)[:count], [])
    else:
        token_BLD, lengths = np.asarray(computed.token_BLD), batch.lengths_B[:count]
        tokens = [(batch.token_ids_BL[b, :length], token_BLD[b, :length]) for b, length in enumerate(lengths)]
        result = Result(batch.rows, np.asarray(computed.sentence_BD)[:count], tokens)
    finite = np.isfinite(result.sentence_BD).all() and all(np.isfinite(token_LD).all() for _, token_LD in result.tokens)
    if not finite:
        raise MinisbertError("an embedding is not finite: the weights overflow. Use another model.")
    return result


def default_shapes(token_budget: int | None, model_config: Any, compute_dtype: str) -> ShapeTable:
    """The table of batch shapes that suits JAX's devices here and this model.

    Args:
        token_budget: of each device; None takes what `minisbert tune` kept for such a model, or the usual.

    Raises:
        InputError: the budget is no number of tokens.
    """
    shapes = ShapeTable() if jax.default_backend() == "cpu" else ACCELERATOR
    if token_budget is None:
        token_budget = cached_token_budget(machine_and_model(model_config, compute_dtype))
    if token_budget is not None:
        shapes = replace(shapes, token_budget=check_positive("token_budget", token_budget))
    return replace(shapes, devices=len(jax.local_devices()))


def enable_compilation_cache() -> Path | None:
    """Keep XLA's compiled programs in the user's cache folder, unless a folder is set already or
    MINISBERT_COMPILATION_CACHE=0 says no.

    Returns:
        the folder, or None.
    """
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if folder is None and os.environ.get("MINISBERT_COMPILATION_CACHE") != "0":
        folder = str(cache_folder() / "compiled")
        jax.config.update("jax_compilation_cache_dir", folder)
        # The small programs are most of them; each saves a fifth of a second or more.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return Path(folder) if folder else None


def progress_bar(total: int, show: bool | None, unit: str = "sentences", desc: str = "encode") -> Any:
    """A bar on stderr; None shows it on a terminal when the work takes longer than two seconds."""
    from tqdm import tqdm

    # disable=None: only on a terminal; delay: short calls stay quiet.
    options: dict[str, Any] = {"disable": None, "delay": 2} if show is None else {"disable": not show}
    return tqdm(total=total, unit=f" {unit}", desc=desc, leave=bool(show), **options)
