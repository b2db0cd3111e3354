"""BERT with rotary positions: nomic-embed-text, GTE v1.5 and mGTE, jina-embeddings-v3.

    x_t    = LayerNorm(token embedding + segment embedding)         no position table
    output = Block_layers(... Block_1(x))                           BERT's post-norm blocks, queries and keys rotated

Nussbaum et al. 2024, "Nomic Embed"; Zhang et al. 2024, "mGTE"; Sturua et al. 2024, "jina-embeddings-v3". The first two have a
gated feed-forward net (Shazeer 2020), nomic without biases; some of GTE's models have stretched positions and no segments.
Left out: nomic's mixture of experts, positions that stretch with the length of a batch, unpadding. A task's adapter of jina v3
is merged when the weights are read (checkpoint/task_adapters.py).
The settings and weight tables are in checkpoint/families/rotary_bert.py. `reference/rotary_bert.py` must agree.
"""

from itertools import repeat
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.families.rotary_bert import PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
from minisbert.transformer.block import FeedForward, PostNormBlock, embedding_table, layer_norm, stack
from minisbert.transformer.dropout import dropout, fold
from minisbert.transformer.positions import rotary_angles
from minisbert.transformer.prenorm import GatedFeedForward, RotarySelfAttention


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal, width = nnx.initializers.normal(config.initializer_range), config.hidden_size
        self.config = config
        self.token_embedding = embedding_table(config.vocab_size, width, dtype, normal, rngs)
        segments = config.type_vocab_size
        self.segment_embedding = embedding_table(segments, width, dtype, normal, rngs) if segments else None
        self.embedding_norm = layer_norm(width, config.layer_norm_eps, dtype, rngs)
        self.blocks = nnx.List([_block(config, dtype, rngs) for _ in range(config.num_hidden_layers)])

    def __call__(
        self,
        token_ids_BL: jax.Array,
        mask_BL: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> list[jax.Array]:
        """hidden_BLD of every layer, the input of the first block included; arguments as for encoders/bert.py.

        `positions_BL` is ignored, as in encoders/modernbert.py; so is `segment_ids_BL` where there are no segments.
        """
        config = self.config
        hidden_BLD = self.token_embedding(token_ids_BL)
        if (table := self.segment_embedding) is not None:
            hidden_BLD = hidden_BLD + (table.embedding[0] if segment_ids_BL is None else table(segment_ids_BL))
        hidden_BLD = self.embedding_norm(hidden_BLD)
        hidden_BLD = dropout(hidden_BLD, config.hidden_dropout_prob, fold(dropout_keys_BL, 0))
        head_width = config.hidden_size // config.num_attention_heads
        angles = rotary_angles(
            token_ids_BL.shape[1], head_width, config.rope_theta, hidden_BLD.dtype, config.rope_factor
        )
        return stack(self.blocks, hidden_BLD, mask_BL, dropout_keys_BL, repeat((angles,)))


def _block(config: Config, dtype: Any, rngs: nnx.Rngs) -> PostNormBlock:
    options: Any = {"dtype": dtype, "kernel_init": nnx.initializers.normal(config.initializer_range), "rngs": rngs}
    width, heads, inner_width = config.hidden_size, config.num_attention_heads, config.intermediate_size
    net = (width, inner_width, config.hidden_act)
    rate = config.hidden_dropout_prob if config.inner_dropout else 0.0
    attention_dropout = config.attention_probs_dropout_prob
    return PostNormBlock(
        RotarySelfAttention(width, heads, dropout_rate=attention_dropout, use_bias=config.use_bias, **options),
        GatedFeedForward(*net, dropout_rate=rate, down_bias=config.use_bias, swapped=True, **options)
        if config.gated
        else FeedForward(*net, dropout_rate=rate, **options),
        width=width,
        epsilon=config.layer_norm_eps,
        hidden_dropout=config.hidden_dropout_prob,
        dtype=dtype,
        rngs=rngs,
    )
