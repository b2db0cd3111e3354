"""Gemma 3 (Gemma Team 2025) as an encoder: EmbeddingGemma (Vera et al. 2025, "EmbeddingGemma: Powerful and Lightweight ...").

    x_t    = sqrt(D) token embedding
    output = RMSNorm(Block_layers(... Block_1(x)))         transformer/grouped.py, with a norm before and after each sublayer

With `use_bidirectional_attention` all tokens see each other, else only those before. Every sixth layer sees the whole text, the
others a window, with a base angle for each of the two kinds. A norm's scale is 1 plus its parameter. Left out: images,
stretched rotary positions, soft caps. In training, dropout is on the attention weights. `reference/grouped.py` must agree.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.families.gemma import PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
from minisbert.checkpoint.layer_settings import FULL, LOCAL
from minisbert.transformer.block import embedding_table, stack
from minisbert.transformer.grouped import GroupedBlock, RMSNorm, Shape
from minisbert.transformer.positions import rotary_angles
from minisbert.transformer.prenorm import window_bias


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.initializer_range)
        self.config = config
        self.token_embedding = embedding_table(config.vocab_size, config.hidden_size, dtype, normal, rngs)
        shape = Shape(
            width=config.hidden_size,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            head_width=config.head_dim,
            inner_width=config.intermediate_size,
            activation=config.hidden_activation,
            epsilon=config.rms_norm_eps,
            attention_dropout=config.attention_dropout,
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            query_key_norm=True,
            scale=config.query_pre_attn_scalar**-0.5,
            norm_offset=1.0,
            norms_after=True,
        )
        options: Any = {"dtype": dtype, "kernel_init": normal, "rngs": rngs}
        self.blocks = nnx.List([GroupedBlock(shape, **options) for _ in range(config.num_hidden_layers)])
        self.final_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, offset=1.0)

    def __call__(
        self,
        token_ids_BL: jax.Array,
        mask_BL: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> list[jax.Array]:
        """hidden_BLD of every layer, the input of the first block included; arguments as for encoders/bert.py.

        There are no segments, so `segment_ids_BL` is ignored, and `positions_BL` as in encoders/modernbert.py.
        """
        config, L = self.config, token_ids_BL.shape[1]
        hidden_BLD = self.token_embedding(token_ids_BL) * config.hidden_size**0.5
        exact = hidden_BLD.dtype
        # A causal window counts the query's own token, one in both directions is halved.
        reach = config.sliding_window - 1 if config.causal else config.sliding_window // 2
        looks = {}
        for kind, theta, far in ((FULL, config.global_rope_theta, L), (LOCAL, config.local_rope_theta, reach)):
            bias_1QK = window_bias(L, far, exact, ahead=0 if config.causal else far)
            looks[kind] = (rotary_angles(L, config.head_dim, theta, exact), bias_1QK)
        positions = (looks[kind] for kind in config.layer_types)
        hidden_IBLD = stack(self.blocks, hidden_BLD, mask_BL, dropout_keys_BL, positions)
        hidden_IBLD[-1] = self.final_norm(hidden_IBLD[-1])
        return hidden_IBLD
