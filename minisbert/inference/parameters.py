"""A model's parameters: replaced by others, or moved from the files that the NumPy engine maps to where JAX computes."""

import copy
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from minisbert.checkpoint.convert import flatten, nest
from minisbert.checkpoint.tensors import Columns
from minisbert.errors import InputError
from minisbert.pretrained import Pretrained, on_device

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
    return replace(model, params=nest({name: on_device(np.ascontiguousarray(leaf)) for name, leaf in flat.items()}))


def with_params(model: Encoder, params: dict[Any, Any]) -> Encoder:
    """A copy of the model with other parameters, for `encode`, `train` and `save` alike; compiled programs are shared.

    Args:
        model: a SentenceEncoder or CrossEncoder; with a Router, take one of its `routes`.
        params: nested like `model.params`, with arrays of the same shapes.

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
