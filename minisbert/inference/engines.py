"""The two engines that compute embeddings: JAX, compiled for any device, and NumPy, which starts sooner and needs no JAX.

Each has one forward pass with the same call, `forward(params, output, *arrays of a batch)`; the rest of `encode` is shared.
"""

from typing import Any

from minisbert.arguments import check_bool, check_choice
from minisbert.errors import InputError
from minisbert.model_config import ModelConfig

ENGINES = ("jax", "numpy")
COMPUTE_DTYPES = ("float32", "bfloat16")


def check_engine(engine: Any, compute_dtype: Any = "float32", packing: Any = None) -> None:
    """An engine that is installed and has these options.

    Raises:
        InputError: it does not, and which one does.
    """
    check_choice("engine", engine, ENGINES)
    check_choice("compute_dtype", compute_dtype, COMPUTE_DTYPES)
    if packing is not None:
        check_bool("packing", packing)
    if engine == "jax" and not has_jax():
        raise InputError(
            "engine is 'jax', but jax and flax cannot be imported. Expected an installed engine: engine='numpy' (commands: "
            "--engine numpy), which encodes without them, or install them with `pip install jax flax optax`."
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


def has_jax() -> bool:
    """Whether JAX and Flax can be imported; imports them."""
    try:
        import flax  # noqa: F401
        import jax  # noqa: F401
    except ImportError:
        return False
    return True


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
