"""MPNet (Song et al. 2020, "MPNet: Masked and Permuted Pre-training for Language Understanding"), as an encoder.

    x_t    = LayerNorm(token embedding + position embedding)        positions start after the padding row
    output = Block_layers(... Block_1(x, bias), bias)               bias: T5's relative positions, one table for all layers

Differences from BERT: no segments, positions counted from `padding id + 1`, and a learned score per head and distance added
to every layer's attention. Left out: permuted pre-training (two-stream attention, its head), pooler. `reference/` is
the same in NumPy and must agree.
"""

from functools import partial
from itertools import repeat
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.families.mpnet import PADDING_ID, PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
from minisbert.transformer.attention import RelativePositionBias
from minisbert.transformer.block import Block, embedding_table, layer_norm, stack
from minisbert.transformer.dropout import dropout, fold
from minisbert.transformer.positions import offset_position_ids


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.initializer_range)
        self.config = config
        self.token_embedding = embedding_table(config.vocab_size, config.hidden_size, dtype, normal, rngs)
        self.position_embedding = embedding_table(
            config.max_position_embeddings, config.hidden_size, dtype, normal, rngs
        )
        self.embedding_norm = layer_norm(config.hidden_size, config.layer_norm_eps, dtype, rngs)
        self.relative_position_bias = RelativePositionBias(
            config.relative_attention_num_buckets,
            config.num_attention_heads,
            dtype=dtype,
            embedding_init=normal,
            rngs=rngs,
        )
        block = partial(Block.from_config, config, dtype=dtype, kernel_init=normal, rngs=rngs)
        self.blocks = nnx.List([block() for _ in range(config.num_hidden_layers)])

    def __call__(
        self,
        token_ids_BL: jax.Array,
        mask_BL: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> list[jax.Array]:
        """hidden_BLD of every layer, the input of the first block included; arguments as for encoders/bert.py.

        There are no segments, so `segment_ids_BL` is ignored.
        """
        position_BLD = self.position_embedding(offset_position_ids(token_ids_BL, PADDING_ID, positions_BL))
        hidden_BLD = self.embedding_norm(self.token_embedding(token_ids_BL) + position_BLD)
        hidden_BLD = dropout(hidden_BLD, self.config.hidden_dropout_prob, fold(dropout_keys_BL, 0))
        bias_NQK = self.relative_position_bias(token_ids_BL.shape[1])
        return stack(self.blocks, hidden_BLD, mask_BL, dropout_keys_BL, repeat((bias_NQK,)))
