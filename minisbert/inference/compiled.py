"""A compiled forward pass: arrays of one batch in, embeddings or logits out, with the device always busy.

All encoding and scoring is compiled here. `Forward` compiles each batch shape once and logs how long that took; it starts
batches without waiting (`stream.run_ahead`). `enable_compilation_cache` saves compiled programs on disk for the next process.
"""

import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from minisbert.checkpoint.convert import flatten, nest
from minisbert.download.locate import cache_folder
from minisbert.fork import note_use
from minisbert.inference.engines import warn_where_slow
from minisbert.inference.stream import Compilation
from minisbert.transformer.target import traced_for

COMPUTE_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}
# Programs of up to this many tokens are compiled with `few_token_options`.
FEW_TOKENS = 32
# Threads that need the same new shape compile it once.
_COMPILING = threading.Lock()


class Forward:
    """A model's outputs, each compiled once per batch shape. The parameters are an argument of each call, not part of it.

    With several local devices, each holds all parameters and computes its share of a batch's rows.

    Args:
        definition: the model without its parameters, as `sentence_model.define` returns it.
        compute_dtype: "float32", "bfloat16", or "float64", for which these programs alone run with JAX's x64 mode.
        outputs: output name -> function of the model and the arrays of a batch.

    Example:
        >>> linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> definition, state = nnx.split(linear)
        >>> forward = Forward(definition, "float32", {"sum": lambda model, x_BD: model(x_BD).sum(axis=1)})
        >>> forward(state, "sum", np.ones((4, 3), np.float32)).shape
        (4,)
    """

    def __init__(self, definition: Any, compute_dtype: str, outputs: Mapping[str, Callable[..., Any]]):
        self._dtype = COMPUTE_DTYPES[compute_dtype]
        self.compilations: list[Compilation] = []
        devices = jax.local_devices()
        warn_where_slow(compute_dtype, devices[0].platform)
        self._mesh = Mesh(np.array(devices), ("rows",)) if len(devices) > 1 else None
        make = partial(compiled_output, definition, compute_dtype, backend=jax.default_backend(), mesh=self._mesh)
        self._make = {output: partial(make, function) for output, function in outputs.items()}
        # (output, rows, length) -> its program, once that is compiled for this shape.
        self._programs: dict[tuple[str, int, int], Any] = {}
        # On a CPU, batches are started in two threads, each of which waits for its result (stream.run_ahead).
        self.wait = jax.block_until_ready if len(devices) == 1 and devices[0].platform == "cpu" else None
        x86 = platform.machine() in ("x86_64", "AMD64")
        self._few = FEW_TOKENS if x86 and self.wait is not None and compute_dtype == "float32" else 0
        # The parameters of the last call; their cast form; that form's copies on all devices.
        self._cast: tuple[Any, Any] = (None, None)
        self._placed: tuple[Any, Any] = (None, None)

    def cast(self, params: Any) -> Any:
        """The parameters as the programs take them, cast once (`cast_params`)."""
        if self._dtype == jnp.float32:
            return params
        original, cast = self._cast
        if original is not params:
            with x64_for(self._dtype):
                cast = cast_params(params, self._dtype)
            self._cast = params, cast
        return cast

    def __call__(self, params: Any, output: str, *arrays: Any) -> Any:
        """Start computing one output of a batch. Returns without waiting, unless the shape is new and must be compiled.

        Args:
            params: the parameters in float32.
            output: a name in `outputs`.
            arrays: the arguments of that function; the first is `[rows, tokens]`. Arrays with axes are split by rows over
                the devices, so the number of rows must be a multiple of the number of devices (`ShapeTable.devices`).
        """
        note_use()
        with x64_for(self._dtype):
            return self._started(params, output, *arrays)

    def _started(self, params: Any, output: str, *arrays: Any) -> Any:
        params, (rows, length) = self.cast(params), arrays[0].shape
        if self._mesh is not None:
            params, arrays = self._on_all_devices(self._mesh, params, arrays)
        shape = output, rows, length
        if (program := self._programs.get(shape)) is not None:
            return program(params, *arrays)
        with _COMPILING:
            program = self._make[output](few=rows * length <= self._few)
            started = time.perf_counter()
            result = program(params, *arrays)
            if shape not in self._programs:  # another thread may have compiled it meanwhile
                self.compilations.append(Compilation(rows, length, output, time.perf_counter() - started))
                self._programs[shape] = program
            return result

    def _on_all_devices(self, mesh: Mesh, params: Any, arrays: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """The parameters copied to each device (once, not per call), and the rows of the arrays spread over them."""
        original, placed = self._placed
        if original is not params:
            placed = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
            self._placed = params, placed
        by_rows = NamedSharding(mesh, PartitionSpec("rows"))
        return placed, tuple(jax.device_put(array, by_rows) if np.ndim(array) else array for array in arrays)


@lru_cache(maxsize=64)
def compiled_output(
    definition: Any,
    compute_dtype: str,
    output: Callable[..., Any],
    backend: str,
    mesh: Mesh | None = None,
    *,
    few: bool = False,
) -> Any:
    """One output as a jitted function of parameters and arrays; models of the same definition share it, as those of a sweep.

    Args:
        few: compile it for up to `FEW_TOKENS` tokens.
    """
    # "highest": real float32 on every device, without shortcuts (TF32, bfloat16 passes).
    precision = "default" if compute_dtype == "bfloat16" else "highest"

    def apply(params: Any, *arrays: jax.Array) -> Any:
        with jax.default_matmul_precision(precision), traced_for(backend, mesh, few=few):
            return output(nnx.merge(definition, params), *arrays)

    return jax.jit(apply, compiler_options=few_token_options() if few else None)


@cache
def few_token_options() -> dict[str, str]:
    """Options with which XLA computes products by Eigen instead of YNN; none where this XLA has no such option.

    YNN packs the matrix of each product anew. For a batch that pays, for a sentence it takes most of the time: 16 tokens of
    MiniLM take 5.2 ms instead of 7.2, 32 take 8.5 instead of 9.8; of MPNet 30 instead of 43, and 70 either way. From 128
    tokens on YNN is up to 9 % faster (two cores, AMD EPYC with AVX2).
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except RuntimeError:
        return {}
    return options


def x64_for(dtype: Any) -> AbstractContextManager[Any]:
    """JAX's x64 mode for what runs inside, if this compute dtype is float64."""
    return jax.enable_x64(True) if dtype == jnp.float64 else nullcontext()


def cast_params(params: dict[Any, Any], dtype: Any) -> dict[Any, Any]:
    """The parameters for a compute dtype; in bfloat16 tables, biases and norms stay float32."""
    if dtype == jnp.float32:
        return params
    flat = flatten(params)
    for name, leaf in flat.items():
        if dtype == jnp.float64 or (name.endswith(".kernel") and ".blocks." in name):
            flat[name] = jnp.asarray(leaf, dtype)
    return nest(flat)


def enable_compilation_cache() -> Path | None:
    """Save XLA's compiled programs in the user's cache folder, so that the next process need not compile them again.

    This sets global options of JAX. The command line calls it; importing minisbert or loading a model does not. If JAX already
    has a cache folder, it stays. MINISBERT_COMPILATION_CACHE=0 turns the call off.

    Returns:
        The folder, or None if the call is turned off.
    """
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if folder is None and os.environ.get("MINISBERT_COMPILATION_CACHE") != "0":
        folder = str(cache_folder() / "compiled")
        jax.config.update("jax_compilation_cache_dir", folder)
        # Most programs are small; each saves a fifth of a second or more.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return Path(folder) if folder else None
