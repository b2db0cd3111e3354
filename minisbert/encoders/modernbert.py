"""ModernBERT (Warner et al. 2024, "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder ..."), as an encoder.

    x_t    = LayerNorm(token embedding)                             section 2.1.1: no position table, no segments
    output = LayerNorm(Block_layers(... Block_1(x)))                pre-norm blocks without biases, a norm at the end

Unlike in BERT, positions rotate the queries and keys (RoPE); every third layer attends to the whole text, the others to a
window of 128 tokens, with a base angle for each of the two kinds (section 2.1.2); the feed-forward net is gated.
The first layer has no norm before its attention: its input is normalized already. Left out: unpadding, heads, biases,
stretched rotary positions. `reference/modernbert.py` is the same in NumPy and must agree.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.families.modernbert import PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
from minisbert.checkpoint.layer_settings import FULL, LOCAL
from minisbert.transformer.block import embedding_table, layer_norm, stack
from minisbert.transformer.dropout import dropout, fold
from minisbert.transformer.positions import rotary_angles
from minisbert.transformer.prenorm import PreNormBlock, window_bias


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.initializer_range)
        self.config = config
        self.token_embedding = embedding_table(config.vocab_size, config.hidden_size, dtype, normal, rngs)
        norm = partial(layer_norm, config.hidden_size, config.norm_eps, dtype, rngs, use_bias=False)
        self.embedding_norm = norm()
        block = partial(
            PreNormBlock,
            width=config.hidden_size,
            heads=config.num_attention_heads,
            inner_width=config.intermediate_size,
            activation=config.hidden_activation,
            epsilon=config.norm_eps,
            attention_dropout=config.attention_dropout,
            inner_dropout=config.mlp_dropout,
            dtype=dtype,
            kernel_init=normal,
            rngs=rngs,
        )
        self.blocks = nnx.List([block(norm_first=layer > 0) for layer in range(config.num_hidden_layers)])
        self.final_norm = norm()

    def __call__(
        self,
        token_ids_BL: jax.Array,
        mask_BL: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> list[jax.Array]:
        """hidden_BLD of every layer, the input of the first block included; arguments as for encoders/bert.py.

        There are no segments, so `segment_ids_BL` is ignored. So is `positions_BL`: products of rotated queries and keys
        depend on distances alone, which are the same in a row that holds several texts.
        """
        config, L = self.config, token_ids_BL.shape[1]
        hidden_BLD = self.embedding_norm(self.token_embedding(token_ids_BL))
        hidden_BLD = dropout(hidden_BLD, config.embedding_dropout, fold(dropout_keys_BL, 0))
        exact, head_width = hidden_BLD.dtype, config.hidden_size // config.num_attention_heads
        # Kind of layer -> its angles, and what keeps its queries within their window (half of it on either side).
        looks = {
            FULL: (rotary_angles(L, head_width, config.global_rope_theta, exact), None),
            LOCAL: (
                rotary_angles(L, head_width, config.local_rope_theta, exact),
                window_bias(L, config.local_attention // 2, exact),
            ),
        }
        positions = (looks[kind] for kind in config.layer_types)
        hidden_IBLD = stack(self.blocks, hidden_BLD, mask_BL, dropout_keys_BL, positions)
        hidden_IBLD[-1] = self.final_norm(hidden_IBLD[-1])
        return hidden_IBLD
