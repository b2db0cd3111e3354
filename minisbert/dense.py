"""The Dense module of a model folder: activation(x W + b) on the sentence embedding, as LaBSE and GTR end with."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

# Names of checkpoint/folder.py's table.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda x: x,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
}


class Dense(nnx.Module):
    """sentence_BD -> sentence_BE, in the dtype of the input."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, activation: str, rngs: nnx.Rngs):
        self.activation = ACTIVATIONS[activation]
        self.linear = nnx.Linear(in_features, out_features, use_bias=bias, rngs=rngs)

    def __call__(self, sentence_BD: jax.Array) -> jax.Array:
        return self.activation(self.linear(sentence_BD))
