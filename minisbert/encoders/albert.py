"""ALBERT (Lan et al. 2020, "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations"), as an encoder.

    x_t    = W LayerNorm(token + position + segment embedding) + b       section 3.1: embeddings of width E, then E -> D
    output = Block(... Block(x))                                         section 3.1: one layer's weights serve all layers

Differences from BERT: the embeddings are narrower than the blocks (factorised), and one block is applied repeatedly; its
activation is GELU's tanh approximation. Left out: several groups of shared layers (no published model has them),
sentence-order prediction, heads, pooler. In training, dropout is where BERT has it.
`reference/encoder.py` is the same in NumPy and must agree.
"""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.families.albert import PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
from minisbert.encoders import bert


class Encoder(bert.Encoder):
    """BERT's, with one block that runs as every layer."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        super().__init__(replace(config, num_hidden_layers=1), dtype=dtype, rngs=rngs)
        self.config = config
