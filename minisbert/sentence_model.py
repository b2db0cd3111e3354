"""The whole model as one module: tokens -> transformer -> pooling -> Dense / Normalize -> sentence embedding.

This is the bi-encoder of SBERT (Reimers & Gurevych 2019, figure 2). `SentenceEncoder` puts text on one end of it;
training differentiates it. A `Design` says which parts it has; the parts are the folder's.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint import folder
from minisbert.dense import Dense
from minisbert.encoders import FAMILIES
from minisbert.pooling import pool
from minisbert.similarity import normalize


@dataclass(frozen=True)
class Design:
    """What the model consists of: an encoder family with its Config, then pooling and the modules after it."""

    model_type: str
    config: Any
    modules: tuple[folder.Module, ...] = (folder.Pooling(),)

    @property
    def dimension(self) -> int:
        """Width of the sentence embedding."""
        width = self.config.hidden_size
        for module in self.modules:
            if isinstance(module, folder.Pooling):
                width *= len(module.modes)
            elif isinstance(module, folder.Dense):
                width = module.out_features
        return width

    def describe(self) -> list[str]:
        """A line for each module after the transformer, as sentence-transformers prints them."""
        lines = []
        for module in self.modules:
            settings = {key: value for key, value in vars(module).items() if key != "path"}
            if isinstance(module, folder.Pooling):
                modes = module.modes[0] if len(module.modes) == 1 else module.modes
                settings = {
                    "embedding_dimension": self.config.hidden_size,
                    "pooling_mode": modes,
                    "include_prompt": module.include_prompt,
                }
            lines.append(f"{type(module).__name__}({settings or ''})")
        return lines


class Embeddings(NamedTuple):
    """What the model computes for a batch."""

    token_BLD: jax.Array
    sentence_BD: jax.Array


class SentenceModel(nnx.Module):
    """token ids -> `Embeddings`; the one set of weights that a siamese network uses for every text."""

    def __init__(self, design: Design, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.design = design
        self.encoder = FAMILIES[design.model_type].Encoder(design.config, dtype=dtype, rngs=rngs)
        self.dense = nnx.List(
            [
                Dense(m.in_features, m.out_features, bias=m.bias, activation=m.activation, rngs=rngs)
                for m in design.modules
                if isinstance(m, folder.Dense)
            ]
        )

    def __call__(
        self,
        token_ids_BL: jax.Array,
        lengths_B: jax.Array,
        prompt_length: jax.Array | int = 0,
        keys_B: jax.Array | None = None,
    ) -> Embeddings:
        """Embed a batch of token rows, padded on the right.

        Args:
            token_ids_BL: token ids; beyond a row's length they are padding and count for nothing.
            lengths_B: how many tokens of each row are real; 0 makes a row of padding (its embedding is meaningless).
            prompt_length: tokens of a prompt to leave out of the pooling, where the model asks for that.
            keys_B: one dropout key per sentence; None means inference.
        """
        position_L = jnp.arange(token_ids_BL.shape[1])
        mask_BL = position_L < lengths_B[:, None]
        token_BLD = self.encoder(token_ids_BL, mask_BL, keys_B=keys_B)
        sentence_BD = token_BLD
        dense = iter(self.dense)
        for module in self.design.modules:
            if isinstance(module, folder.Pooling):
                counts_BL = mask_BL if module.include_prompt else mask_BL & (position_L >= prompt_length)
                sentence_BD = pool(token_BLD, counts_BL, module.modes)
            elif isinstance(module, folder.Dense):
                sentence_BD = next(dense)(sentence_BD)
            else:
                sentence_BD = normalize(sentence_BD)
        return Embeddings(token_BLD, sentence_BD)


@cache
def define(design: Design, dtype=jnp.float32) -> tuple[nnx.GraphDef, dict[Any, Any]]:
    """The model without its numbers: flax's definition, and the tree of parameter shapes. Nothing is allocated.

    `nnx.merge(definition, params)` inside `jax.jit` or `jax.grad` gives the module back; `params` is a nested dict of
    arrays of these shapes.
    """
    definition, state = nnx.split(nnx.eval_shape(lambda: SentenceModel(design, dtype=dtype, rngs=nnx.Rngs(0))))
    return definition, nnx.to_pure_dict(state)


def initial_params(design: Design, seed: int) -> dict[Any, Any]:
    """Random parameters, as before any training (normal with the config's `initializer_range`)."""
    model = SentenceModel(design, rngs=nnx.Rngs(seed))
    return nnx.to_pure_dict(nnx.state(model))
