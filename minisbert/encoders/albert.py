"""ALBERT (Lan et al. 2020, "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations"), as an encoder.

    x_t    = W LayerNorm(token + position + segment embedding) + b       section 3.1: embeddings of width E, then E -> D
    output = Block(... Block(x))                                         section 3.1: one layer's weights serve all layers

Differences from BERT: the embeddings are narrower than the blocks (factorised), and one block is applied repeatedly; its
activation is GELU's tanh approximation. Left out: several groups of shared layers (no published model has them),
sentence-order prediction, heads, pooler. In training, dropout is where BERT has it.
`reference/albert.py` is the same in NumPy and must agree.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.families.albert import PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
from minisbert.transformer.block import Block, embedding_table, layer_norm
from minisbert.transformer.dropout import dropout, fold


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.initializer_range)
        narrow = config.embedding_size
        self.config = config
        self.token_embedding = embedding_table(config.vocab_size, narrow, dtype, normal, rngs)
        self.position_embedding = embedding_table(config.max_position_embeddings, narrow, dtype, normal, rngs)
        self.segment_embedding = embedding_table(config.type_vocab_size, narrow, dtype, normal, rngs)
        self.embedding_norm = layer_norm(narrow, config.layer_norm_eps, dtype, rngs)
        # In float32 at least, as the embeddings are.
        exact = jnp.promote_types(dtype, jnp.float32)
        self.embedding_projection = nnx.Linear(narrow, config.hidden_size, dtype=exact, kernel_init=normal, rngs=rngs)
        # A list of one, so that its matrices have the same paths as in every family.
        self.blocks = nnx.List([Block.from_config(config, dtype, normal, rngs)])

    def __call__(
        self,
        token_ids_BL: jax.Array,
        mask_BL: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> list[jax.Array]:
        """hidden_BLD of every layer, the input of the first block included; arguments as for encoders/bert.py."""
        L, positions = token_ids_BL.shape[1], self.position_embedding
        position_BLE = positions.embedding[:L] if positions_BL is None else positions(positions_BL)
        segments = self.segment_embedding
        segment_BLE = segments.embedding[0] if segment_ids_BL is None else segments(segment_ids_BL)
        narrow_BLE = self.embedding_norm(self.token_embedding(token_ids_BL) + position_BLE + segment_BLE)
        narrow_BLE = dropout(narrow_BLE, self.config.hidden_dropout_prob, fold(dropout_keys_BL, 0))
        hidden_BLD = self.embedding_projection(narrow_BLE)
        (block,) = self.blocks
        hidden_IBLD = [hidden_BLD]
        for layer in range(1, self.config.num_hidden_layers + 1):
            hidden_IBLD.append(block(hidden_IBLD[-1], mask_BL, dropout_keys_BL=fold(dropout_keys_BL, layer)))
        return hidden_IBLD
