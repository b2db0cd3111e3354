"""DeBERTa-v2 and v3 (He et al. 2021, "DeBERTa"; He et al. 2023, "DeBERTaV3"), as an encoder.

    x_t    = LayerNorm(token embedding)                             and a position or segment embedding in some models
    output = Block_layers(... Block_1(x, distances))                BERT's blocks with disentangled attention

Every layer has the same embeddings of distances (transformer/disentangled.py). Left out: the enhanced mask decoder, which only
pre-training uses; the convolution of v2's largest models; DeBERTa's first version; dropout of the embeddings of distances (it
would be one mask per batch). `reference/deberta.py` must agree.
"""

from functools import partial
from itertools import repeat
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minisbert.checkpoint.families.deberta import PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
from minisbert.transformer.block import FeedForward, PostNormBlock, embedding_table, layer_norm, stack
from minisbert.transformer.disentangled import DisentangledSelfAttention
from minisbert.transformer.dropout import dropout, fold
from minisbert.transformer.positions import distance_row


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal, width = nnx.initializers.normal(config.initializer_range), config.hidden_size
        self.config = config

        def table(rows: int, width: int) -> nnx.Embed | None:
            return embedding_table(rows, width, dtype, normal, rngs) if rows else None

        self.token_embedding = embedding_table(config.vocab_size, config.embedding_size, dtype, normal, rngs)
        positions = config.max_position_embeddings if config.position_biased_input else 0
        self.position_embedding = table(positions, config.embedding_size)
        self.segment_embedding = table(config.type_vocab_size, config.embedding_size)
        # In float32 at least, as the embeddings are.
        exact = jnp.promote_types(dtype, jnp.float32)
        wide = partial(nnx.Linear, config.embedding_size, width, use_bias=False, dtype=exact, kernel_init=normal)
        self.embedding_projection = None if config.narrow is None else wide(rngs=rngs)
        self.embedding_norm = layer_norm(width, config.layer_norm_eps, dtype, rngs)
        self.distance_embedding = embedding_table(2 * config.span, width, dtype, normal, rngs)
        self.distance_norm = layer_norm(width, config.layer_norm_eps, dtype, rngs) if config.norm_distances else None
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

        Distances are the same in a row that holds several texts; `positions_BL` counts where there is a table of positions.
        """
        config, L = self.config, token_ids_BL.shape[1]
        hidden_BLD = self.token_embedding(token_ids_BL)
        if (table := self.position_embedding) is not None:
            hidden_BLD = hidden_BLD + (table.embedding[:L] if positions_BL is None else table(positions_BL))
        if (table := self.segment_embedding) is not None:
            hidden_BLD = hidden_BLD + (table.embedding[0] if segment_ids_BL is None else table(segment_ids_BL))
        if self.embedding_projection is not None:
            hidden_BLD = self.embedding_projection(hidden_BLD)
        hidden_BLD = self.embedding_norm(hidden_BLD)
        hidden_BLD = dropout(hidden_BLD, config.hidden_dropout_prob, fold(dropout_keys_BL, 0))
        settings = (config.span, config.position_buckets, config.max_relative_positions)
        distances_RD = self.distance_embedding(jnp.asarray(distance_row(np.arange(-L, L + 1), *settings)))
        if self.distance_norm is not None:
            distances_RD = self.distance_norm(distances_RD)
        return stack(self.blocks, hidden_BLD, mask_BL, dropout_keys_BL, repeat((distances_RD,)))


def _block(config: Config, dtype: Any, rngs: nnx.Rngs) -> PostNormBlock:
    options: Any = {"dtype": dtype, "kernel_init": nnx.initializers.normal(config.initializer_range), "rngs": rngs}
    width = config.hidden_size
    return PostNormBlock(
        DisentangledSelfAttention(
            width,
            config.num_attention_heads,
            terms=config.pos_att_type,
            own_maps=config.own_maps,
            dropout_rate=config.attention_probs_dropout_prob,
            **options,
        ),
        FeedForward(width, config.intermediate_size, config.hidden_act, **options),
        width=width,
        epsilon=config.layer_norm_eps,
        hidden_dropout=config.hidden_dropout_prob,
        dtype=dtype,
        rngs=rngs,
    )
