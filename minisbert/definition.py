"""A flax module without its numbers: what `nnx.merge` needs beside the parameters, and the shapes of those."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx


def without_numbers(make: Callable[[Any], nnx.Module]) -> tuple[nnx.GraphDef, dict[Any, Any]]:
    """flax's definition of a module, and the nested dict of its parameters' shapes. Nothing is allocated.

    Args:
        make: makes the module with the `rngs` that it is given.

    Example:
        >>> _, shapes = without_numbers(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
        >>> shapes["kernel"].shape
        (3, 2)
    """
    definition, state = nnx.split(nnx.eval_shape(lambda: make(OneKey())))
    return definition, nnx.to_pure_dict(state)


class OneKey:
    """Stands in for `nnx.Rngs`: shapes need no randomness, and counting keys would take most of the time."""

    def params(self) -> jax.Array:
        """The same key for every parameter."""
        return jax.random.key(0)
