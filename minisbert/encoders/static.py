"""A static encoder: one vector per token, independent of its context; the smallest encoder, a baseline for the others.

    h_t = E[token t]                           no position, no attention, no layer
    s   = mean of h_t over the tokens of a text      its pooling, always (sentence_model.py)

The table may be learned by itself or distilled from a transformer (Tulkens & van Dongen 2024, "Model2Vec"). A text is a
bag of words to it: order does not count, and most of what training can do is to find out which words matter (compare
Arora et al. 2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings"). A text has no special tokens around
it; one without tokens has the zero vector. Left out: model2vec skips unknown tokens, sentence-transformers'
StaticEmbedding does not. `reference/static.py` is the same in NumPy and must agree.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.families.static import PASSTHROUGH, PREFIX, RULES, Config  # noqa: F401
from minisbert.transformer.block import embedding_table


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.initializer_range)
        self.config = config
        self.token_embedding = embedding_table(config.vocab_size, config.hidden_size, dtype, normal, rngs)

    def __call__(
        self,
        token_ids_BL: jax.Array,
        mask_BL: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> list[jax.Array]:
        """hidden_BLD, the tokens' rows of the table, as the one layer. The other arguments are ignored: no dropout."""
        return [self.token_embedding(token_ids_BL)]
