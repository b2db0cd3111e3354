"""DistilBERT (Sanh et al. 2019, "DistilBERT, a distilled version of BERT"), as an encoder.

    x_t    = LayerNorm(token embedding + position embedding)        section 2: BERT without segments and pooler
    output = Block_layers(... Block_1(x))                           BERT's blocks, half as many

config.json and the weights have names of their own. Left out: distillation, heads, sinusoidal positions that are not
trained. In training, dropout is where BERT has it (transformers omits the one after the attention).
`reference/distilbert.py` is the same in NumPy and must agree.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.families.distilbert import EPSILON, PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
from minisbert.transformer.block import Block, embedding_table, layer_norm
from minisbert.transformer.dropout import dropout, fold


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.initializer_range)
        self.config = config
        self.token_embedding = embedding_table(config.vocab_size, config.dim, dtype, normal, rngs)
        self.position_embedding = embedding_table(config.max_position_embeddings, config.dim, dtype, normal, rngs)
        self.embedding_norm = layer_norm(config.dim, EPSILON, dtype, rngs)
        self.blocks = nnx.List(
            [
                Block(
                    width=config.dim,
                    heads=config.n_heads,
                    inner_width=config.hidden_dim,
                    activation=config.activation,
                    epsilon=EPSILON,
                    hidden_dropout=config.dropout,
                    attention_dropout=config.attention_dropout,
                    dtype=dtype,
                    kernel_init=normal,
                    rngs=rngs,
                )
                for _ in range(config.n_layers)
            ]
        )

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
        L, positions = token_ids_BL.shape[1], self.position_embedding
        position_BLD = positions.embedding[:L] if positions_BL is None else positions(positions_BL)
        hidden_BLD = self.embedding_norm(self.token_embedding(token_ids_BL) + position_BLD)
        hidden_BLD = dropout(hidden_BLD, self.config.dropout, fold(dropout_keys_BL, 0))
        hidden_IBLD = [hidden_BLD]
        for layer, block in enumerate(self.blocks, start=1):
            hidden_IBLD.append(block(hidden_IBLD[-1], mask_BL, dropout_keys_BL=fold(dropout_keys_BL, layer)))
        return hidden_IBLD
