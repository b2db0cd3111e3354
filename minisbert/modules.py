"""The modules with weights between encoder and sentence embedding: weighted layer pooling, Dense, LayerNorm.

    WeightedLayerPooling    sum_i w_i h_i / sum_i w_i                  over layers i; `pooling.weighted_layers`
    Dense                   activation(x W + b), + x or + x R          as LaBSE and GTR end with
    LayerNorm               (x - mean) / sqrt(variance + 1e-5) a + b   (Ba et al. 2016, section 3)

Each has a row in `HEADS`: settings (checkpoint/modules.py, with the names of its tensors in the folder) -> the flax module. A
new one is a class here, its settings there, and a row in both tables. `reference/` must agree.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint import modules
from minisbert.pooling import TRAINED_POOLINGS, weighted_layers

# Names of checkpoint/modules.py's table.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda x: x,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
}
EPSILON = 1e-5  # LayerNorm modules have no setting for it


def abstract(make: Callable[[Any], nnx.Module]) -> tuple[nnx.GraphDef[Any], dict[Any, Any]]:
    """A module without its arrays: flax's definition for `nnx.merge`, and the nested dict of parameter shapes.

    Nothing is allocated.

    Args:
        make: makes the module with the `rngs` that it is given.

    Example:
        >>> _, shapes = abstract(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
        >>> shapes["kernel"].shape
        (3, 2)
    """
    definition, state = nnx.split(nnx.eval_shape(lambda: make(_OneKey())))
    return definition, nnx.to_pure_dict(state)


class _OneKey:
    """Replaces `nnx.Rngs`: shapes need no randomness, and counting keys would take most of the time."""

    def params(self) -> jax.Array:
        return jax.random.key(0)


class LayerPooling(nnx.Module):
    """hidden_IBLD of all layers -> hidden_BLD."""

    def __init__(self, settings: modules.WeightedLayerPooling, *, rngs: nnx.Rngs):
        self.start = settings.layer_start
        self.weights = nnx.Param(jnp.ones(settings.layers))

    def __call__(self, hidden_IBLD: list[jax.Array]) -> jax.Array:
        return weighted_layers(hidden_IBLD[self.start :], self.weights[...])


class Dense(nnx.Module):
    """sentence_BD -> sentence_BE, in the dtype of the input."""

    def __init__(self, settings: modules.Dense, *, rngs: nnx.Rngs):
        self.activation = ACTIVATIONS[settings.activation]
        self.linear = nnx.Linear(settings.in_features, settings.out_features, use_bias=settings.bias, rngs=rngs)
        self.adds = settings.residual
        widths = (settings.in_features, settings.out_features)
        self.residual = nnx.Linear(*widths, use_bias=False, rngs=rngs) if settings.maps_residual else None

    def __call__(self, sentence_BD: jax.Array) -> jax.Array:
        dense_BE = self.activation(self.linear(sentence_BD))
        if not self.adds:
            return dense_BE
        return dense_BE + (sentence_BD if self.residual is None else self.residual(sentence_BD))


class LayerNorm(nnx.Module):
    """sentence_BD -> sentence_BD."""

    def __init__(self, settings: modules.LayerNorm, *, rngs: nnx.Rngs):
        # The variance as mean((x - mean)^2), as in transformer/block.py, but in the dtype of the input.
        self.norm = nnx.LayerNorm(settings.dimension, epsilon=EPSILON, use_fast_variance=False, rngs=rngs)

    def __call__(self, sentence_BD: jax.Array) -> jax.Array:
        return self.norm(sentence_BD)


# Settings -> the flax module, made with (settings, rngs=)
HEADS: dict[type, Callable[..., nnx.Module]] = {
    modules.WeightedLayerPooling: LayerPooling,
    modules.TrainedPooling: lambda given, *, rngs: TRAINED_POOLINGS[given.name](given.dimension, rngs=rngs),
    modules.Dense: Dense,
    modules.LayerNorm: LayerNorm,
}
