"""Language models as encoders: Qwen3 (Yang et al. 2025), Qwen2, Mistral, and EuroBERT (Boizard et al. 2025).

    x_t    = token embedding
    output = RMSNorm(Block_layers(... Block_1(x)))         transformer/grouped.py: RMS norm, grouped queries, rotary, SwiGLU

A token sees those before it, so that the last one has seen the whole text (last-token pooling); with `is_causal` false, and
in EuroBERT, all tokens see each other. Positions are distances, so padding on either side gives the same. Qwen3 has norms on
queries and keys, Qwen2 biases on queries, keys and values, Mistral a window. Left out: stretched rotary positions, caches,
biases in the feed-forward net. In training, dropout is on the attention weights. `reference/grouped.py` must agree.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.families.qwen import PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
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
            activation=config.hidden_act,
            epsilon=config.rms_norm_eps,
            attention_dropout=config.attention_dropout,
            qkv_bias=config.qkv_bias,
            output_bias=config.output_bias,
            query_key_norm=config.query_key_norm,
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

        There are no segments, so `segment_ids_BL` is ignored, and `positions_BL` as in encoders/modernbert.py.
        """
        config, L = self.config, token_ids_BL.shape[1]
        hidden_BLD = self.token_embedding(token_ids_BL)
        angles = rotary_angles(L, config.head_dim, config.rope_theta, hidden_BLD.dtype)
        biases = {}
        for window in set(config.windows):
            reach = L if window is None else window
            biases[window] = window_bias(L, reach, hidden_BLD.dtype, ahead=0 if config.causal else reach)
        positions = ((angles, biases[window]) for window in config.windows)
        hidden_IBLD = stack(self.blocks, hidden_BLD, mask_BL, dropout_keys_BL, positions)
        hidden_IBLD[-1] = self.final_norm(hidden_IBLD[-1])
        return hidden_IBLD
