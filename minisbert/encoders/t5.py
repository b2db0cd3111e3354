"""The encoder of T5 (Raffel et al. 2020, "Exploring the Limits of Transfer Learning ..."), as in sentence-t5 and gtr-t5.

    x_t    = token embedding
    output = RMSNorm(Block_layers(... Block_1(x, bias)))            pre-norm blocks, one bias for all layers

Sentence-T5 (Ni et al. 2021) averages the outputs and maps them with a matrix. Positions are a learned score per head and bucket
of distances (section 2.1), added to products of queries and keys that are not divided by sqrt(d_k); norms only scale; nothing
has a bias. T5 1.1 has a gated feed-forward net (Shazeer 2020). The layers are those of transformer/grouped.py with a key head
for each query head. Left out: the decoder. `reference/t5.py` must agree.
"""

from itertools import repeat
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.families.t5 import PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
from minisbert.transformer.attention import RelativePositionBias
from minisbert.transformer.block import embedding_table, stack
from minisbert.transformer.dropout import dropout, fold
from minisbert.transformer.grouped import GroupedBlock, RMSNorm, Shape


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.initializer_range)
        self.config = config
        self.token_embedding = embedding_table(config.vocab_size, config.hidden_size, dtype, normal, rngs)
        self.relative_position_bias = RelativePositionBias(
            config.relative_attention_num_buckets,
            config.num_attention_heads,
            max_distance=config.relative_attention_max_distance,
            dtype=dtype,
            embedding_init=normal,
            rngs=rngs,
        )
        shape = Shape(
            width=config.hidden_size,
            heads=config.num_attention_heads,
            key_heads=config.num_attention_heads,
            head_width=config.head_dim,
            inner_width=config.intermediate_size,
            activation=config.hidden_act,
            epsilon=config.rms_norm_eps,
            attention_dropout=config.hidden_dropout_prob,
            hidden_dropout=config.hidden_dropout_prob,
            scale=1.0,
            gated=config.gated,
        )
        options: Any = {"dtype": dtype, "kernel_init": normal, "rngs": rngs}
        self.blocks = nnx.List([GroupedBlock(shape, **options) for _ in range(config.num_hidden_layers)])
        self.final_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def __call__(
        self,
        token_ids_BL: jax.Array,
        mask_BL: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> list[jax.Array]:
        """hidden_BLD of every layer, the input of the first block included; arguments as for encoders/bert.py.

        There are no segments, so `segment_ids_BL` is ignored. So is `positions_BL`: only distances count, which are the same in
        a row that holds several texts.
        """
        rate = self.config.hidden_dropout_prob
        bias_NQK = self.relative_position_bias(token_ids_BL.shape[1])
        hidden_BLD = dropout(self.token_embedding(token_ids_BL), rate, fold(dropout_keys_BL, 0))
        hidden_IBLD = stack(self.blocks, hidden_BLD, mask_BL, dropout_keys_BL, repeat((None, bias_NQK)))
        last_keys_BL = fold(dropout_keys_BL, len(self.blocks) + 1)
        hidden_IBLD[-1] = dropout(self.final_norm(hidden_IBLD[-1]), rate, last_keys_BL)
        return hidden_IBLD
