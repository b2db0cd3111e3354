"""RoBERTa (Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach"), as an encoder.

    x_t    = LayerNorm(token embedding + position embedding + segment embedding)      positions start after the padding row
    output = Block_layers(... Block_1(x))                                             BERT's blocks

XLM-R (Conneau et al. 2020) and CamemBERT (Martin et al. 2020) are the same encoder under other `model_type`s, with
other vocabularies. Unlike in BERT, positions are counted from `pad_token_id + 1`, so a table of 514 rows takes 512
tokens, and there is one segment in all published models. Left out: heads, pooler, decoders, relative positions.
`reference/roberta.py` is the same in NumPy and must agree.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.families.roberta import PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
from minisbert.transformer.block import Block, embedding_table, layer_norm
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
        self.segment_embedding = embedding_table(config.type_vocab_size, config.hidden_size, dtype, normal, rngs)
        self.embedding_norm = layer_norm(config.hidden_size, config.layer_norm_eps, dtype, rngs)
        self.blocks = nnx.List(
            [Block.from_config(config, dtype, normal, rngs) for _ in range(config.num_hidden_layers)]
        )

    def __call__(
        self,
        token_ids_BL: jax.Array,
        mask_BL: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> list[jax.Array]:
        """hidden_BLD of every layer, the input of the first block included; arguments as for encoders/bert.py."""
        position_BLD = self.position_embedding(
            offset_position_ids(token_ids_BL, self.config.pad_token_id, positions_BL)
        )
        segments = self.segment_embedding
        segment_BLD = segments.embedding[0] if segment_ids_BL is None else segments(segment_ids_BL)
        hidden_BLD = self.embedding_norm(self.token_embedding(token_ids_BL) + position_BLD + segment_BLD)
        hidden_BLD = dropout(hidden_BLD, self.config.hidden_dropout_prob, fold(dropout_keys_BL, 0))
        hidden_IBLD = [hidden_BLD]
        for layer, block in enumerate(self.blocks, start=1):
            hidden_IBLD.append(block(hidden_IBLD[-1], mask_BL, dropout_keys_BL=fold(dropout_keys_BL, layer)))
        return hidden_IBLD
