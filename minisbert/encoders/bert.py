"""BERT, the encoder of the SBERT paper (Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers").

    x_t    = LayerNorm(token embedding + position embedding + segment embedding)      section 3, figure 2
    output = Block_layers(... Block_1(x))                                             post-norm blocks

ELECTRA (Clark et al. 2020) and ERNIE (Sun et al. 2019) are the same encoder under other names, each with one difference:
ELECTRA's small models have narrow embeddings and a linear map to the width of the blocks; ERNIE may add a task embedding.

Left out: the pre-training heads, decoders, relative positions. The pooler is kept for export but not computed: a sentence
embedding pools all tokens. `reference/` is the same in NumPy and must agree.
"""

from functools import partial
from itertools import cycle, islice
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.families.bert import PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
from minisbert.transformer.block import Block, embedding_table, layer_norm, stack
from minisbert.transformer.dropout import dropout, fold


class Encoder(nnx.Module):
    """token ids -> token embeddings. `config` is a Config, or that of a relative (ALBERT, RoBERTa, ...)."""

    def __init__(self, config: Any, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.initializer_range)
        self.config = config
        width, tasks = config.embedding_size, config.task_type_vocab_size
        segments = config.type_vocab_size
        self.token_embedding = embedding_table(config.vocab_size, width, dtype, normal, rngs)
        self.position_embedding = embedding_table(config.max_position_embeddings, width, dtype, normal, rngs)
        self.segment_embedding = embedding_table(segments, width, dtype, normal, rngs) if segments else None
        self.task_embedding = embedding_table(tasks, width, dtype, normal, rngs) if tasks else None
        self.embedding_norm = layer_norm(width, config.layer_norm_eps, dtype, rngs)
        # In float32 at least, as the embeddings are.
        exact = jnp.promote_types(dtype, jnp.float32)
        linear_map = partial(nnx.Linear, width, config.hidden_size, dtype=exact, kernel_init=normal, rngs=rngs)
        self.embedding_projection = None if config.narrow is None else linear_map()
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
        """hidden_BLD of every layer, the input of the first block included.

        Args:
            token_ids_BL: rows of the token table; L is at most `config.max_positions`.
            mask_BL: True = real token; or mask_BQK, True where Q may attend to K (see attention.py).
            segment_ids_BL: 0 for the first text, 1 for the second (cross-encoders); None means all 0.
            dropout_keys_BL: one dropout key per token, None for inference.
            positions_BL: each token's position in its text, where a row holds several texts; None means 0, 1, 2, ...
        """
        positions_BL = self.position_ids(token_ids_BL, positions_BL)
        L, positions, segments = token_ids_BL.shape[1], self.position_embedding, self.segment_embedding
        # 0, 1, 2, ... are a slice of the table, without a lookup.
        position_BLD = positions.embedding[:L] if positions_BL is None else positions(positions_BL)
        hidden_BLD = self.token_embedding(token_ids_BL) + position_BLD
        if segments is not None:
            hidden_BLD = hidden_BLD + (segments.embedding[0] if segment_ids_BL is None else segments(segment_ids_BL))
        if self.task_embedding is not None:
            hidden_BLD = hidden_BLD + self.task_embedding.embedding[0]
        hidden_BLD = self.embedding_norm(hidden_BLD)
        hidden_BLD = dropout(hidden_BLD, self.config.hidden_dropout_prob, fold(dropout_keys_BL, 0))
        if self.embedding_projection is not None:
            hidden_BLD = self.embedding_projection(hidden_BLD)
        # Fewer blocks than layers (ALBERT) run in turn.
        layers = islice(cycle(self.blocks), self.config.num_hidden_layers)
        return stack(layers, hidden_BLD, mask_BL, dropout_keys_BL)

    def position_ids(self, token_ids_BL: jax.Array, positions_BL: jax.Array | None) -> jax.Array | None:
        """Rows of the position table; None for 0, 1, 2, ..."""
        return positions_BL
