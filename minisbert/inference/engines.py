"""The two engines that compute embeddings: JAX, compiled for any device, and NumPy, which starts sooner and needs no JAX.

Each has one forward pass with the same call, `forward(params, output, *arrays of a batch)`; the rest of `encode` is shared.
A model's parameters are placed for its engine here, and replaced by others.
"""

import copy
import logging
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minisbert.arguments import check_bool, check_choice
from minisbert.checkpoint.convert import flatten, nest
from minisbert.checkpoint.tensors import Columns
from minisbert.errors import InputError
from minisbert.model_config import ModelConfig
from minisbert.pretrained import Pretrained, on_device

logger = logging.getLogger("minisbert")
ENGINES = ("jax", "numpy")
COMPUTE_DTYPES = ("float32", "bfloat16", "float64")
# With less, JAX ends the process when it starts its threads.
JAX_ADDRESS_SPACE = 2_000_000_000


def check_engine(engine: Any, compute_dtype: Any = "float32", packing: Any = None) -> None:
    """An engine that is installed and has these options.

    Raises:
        InputError: it does not, and which one does.
    """
    check_choice("engine", engine, ENGINES)
    check_choice("compute_dtype", compute_dtype, COMPUTE_DTYPES)
    if packing is not None:
        check_bool("packing", packing)
    if engine == "jax" and (space := _address_space()) < JAX_ADDRESS_SPACE:
        raise InputError(
            f"engine is 'jax', but this process has too little memory for it: {space / 1e9:.1f} GB of addresses (ulimit -v). "
            f"Expected at least {JAX_ADDRESS_SPACE / 1e9:.0f} GB, or engine='numpy' (commands: --engine numpy)."
        )
    if engine == "jax" and not has_jax():
        raise InputError(
            "engine is 'jax', but jax and flax cannot be imported. Expected an installed engine: engine='numpy' (commands: "
            "--engine numpy), which encodes without them, or install them with `pip install jax flax optax`. If they are "
            "installed, there is too little memory for them."
        )
    if engine == "jax":
        return
    if compute_dtype != "float32":
        raise InputError(
            f"compute_dtype is {compute_dtype!r} with engine 'numpy'. Expected 'float32'; use engine='jax' for {compute_dtype}."
        )
    if packing:
        raise InputError(
            "packing is True with engine 'numpy'. Expected False, since it computes texts of equal length without padding; use "
            "engine='jax' for packed rows."
        )


def _address_space() -> float:
    """The bytes of addresses that this process may use, as `ulimit -v` sets them."""
    try:
        import resource
    except ImportError:  # Windows
        return math.inf
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return math.inf if limit == resource.RLIM_INFINITY else limit


def has_jax() -> bool:
    """Whether JAX and Flax can be imported; imports them."""
    try:
        import flax  # noqa: F401
        import jax  # noqa: F401
    except ImportError:
        return False
    return True


def warn_where_slow(compute_dtype: str, platform: str) -> None:
    """Log, once per process, that float32 is faster: on a CPU that emulates products of bfloat16."""
    if compute_dtype == "bfloat16" and platform == "cpu" and not cpu_multiplies_bfloat16():
        _warn_of_emulation()


@cache
def _warn_of_emulation() -> None:
    logger.warning(
        "compute_dtype is bfloat16, but this processor has no instructions for products of bfloat16 (amx_bf16 or "
        "avx512_bf16), so it is slower than float32 here. Use compute_dtype='float32' on this machine."
    )


def cpu_multiplies_bfloat16() -> bool:
    """Whether Linux lists such an instruction for this processor (x86 or Arm); True where it cannot be asked."""
    try:
        words = Path("/proc/cpuinfo").read_text(errors="replace").split()
    except OSError:
        return True
    return not {"amx_bf16", "avx512_bf16", "bf16"}.isdisjoint(words)


def make_forward(config: ModelConfig, engine: str, compute_dtype: str) -> Any:
    """The forward pass of a model on an engine, whose options `check_engine` has passed; a function of the parameters."""
    if engine == "numpy":
        from minisbert.inference.numpy_engine import NumpyForward

        return NumpyForward(config)

    from minisbert.inference.compiled import COMPUTE_DTYPES, Forward
    from minisbert.inference.encode import OUTPUTS
    from minisbert.sentence_model import define

    definition, _ = define(config, COMPUTE_DTYPES[compute_dtype])
    return Forward(definition, compute_dtype, OUTPUTS)


def need_jax(model: Any, what: str) -> None:
    """The model was loaded for JAX.

    Args:
        what: what is to be done with it, for the message.

    Raises:
        InputError: it was loaded for the NumPy engine, which only encodes.
    """
    if getattr(model, "engine", "jax") != "jax":
        raise InputError(
            f"the model was loaded with engine={model.engine!r}, which only encodes. Expected engine='jax' to {what}: load it "
            "with SentenceEncoder(name)."
        )


Encoder = TypeVar("Encoder", bound=Any)


def params_for(model: Pretrained, engine: str) -> Pretrained:
    """The model for this engine: parameters that were left in their files for NumPy move to JAX's device for JAX.

    Raises:
        InputError: the model has a part that NumPy does not compute.
    """
    if engine == "numpy":
        from minisbert.inference.numpy_engine import check_parts

        check_parts(model.model_config)
    flat = flatten(model.params)
    if engine == "numpy" or not any(isinstance(leaf, Columns | np.ndarray) for leaf in flat.values()):
        return model
    return replace(model, params=nest({name: on_device(np.asarray(leaf, order="C")) for name, leaf in flat.items()}))


def with_params(model: Encoder, params: dict[Any, Any]) -> Encoder:
    """A copy of the model with other parameters, for `encode`, `train` and `save` alike; compiled programs are shared.

    Args:
        model: a SentenceEncoder or CrossEncoder; with a Router, take one of its `routes`.
        params: nested like `model.params`, with arrays of the same shapes; float64 and bfloat16 become float32.

    Raises:
        InputError: an array is missing, unknown, or of another shape or kind.

    Example:
        >>> import jax
        >>> from minisbert import SentenceEncoder
        >>> encoder = SentenceEncoder("weights/tiny-bert")
        >>> halved = encoder.with_params(jax.tree.map(lambda leaf: leaf / 2, encoder.params))
        >>> bool((halved.encode("a cat") == encoder.encode("a cat")).all())
        False
    """
    import jax
    import jax.numpy as jnp

    if getattr(model, "routes", None):
        raise InputError("the model has a Router, each of whose routes has parameters. Expected one of model.routes.")
    expected, found = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (model.params, params)
    )
    complaints = [f"missing: {name}" for name in expected.keys() - found.keys()]
    complaints += [f"unknown: {name}" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        shape, dtype = np.shape(found[name]), getattr(found[name], "dtype", None)
        if shape != np.shape(expected[name]) or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            complaints.append(f"{name} is {dtype} {list(shape)}, expected float32 {list(np.shape(expected[name]))}")
    if complaints:
        raise InputError(
            f"params do not fit the model: {'; '.join(sorted(complaints)):.1000}. Expected a tree like model.params."
        )
    return replace_params(model, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params))


def replace_params(model: Encoder, params: dict[Any, Any]) -> Encoder:
    """`with_params` for parameters that are known to fit."""
    copied = copy.copy(model)
    copied.forward = model.forward  # made now where it was not, so that both share it
    copied.pretrained = replace(model.pretrained, params=params)
    return copied
