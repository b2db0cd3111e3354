"""A static encoder: one vector per token, independent of its context; the smallest encoder, a baseline for the others.

    h_t = E[token t]                           no position, no attention, no layer
    s   = mean of h_t over the tokens of a text      its pooling, always (sentence_model.py)

The table may be learned by itself or distilled from a transformer (Tulkens & van Dongen 2024, "Model2Vec"). A text is a
bag of words to it: order does not count, and most of what training can do is to find out which words matter (compare
Arora et al. 2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings"). A text has no special tokens around
it; one without tokens has the zero vector. Left out: model2vec skips unknown tokens, sentence-transformers'
StaticEmbedding does not. `reference/static.py` is the same in NumPy and must agree.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert import limits
from minisbert.checkpoint.convert import Rule
from minisbert.checkpoint.modules import STATIC_EMBEDDING
from minisbert.checkpoint.settings import Settings
from minisbert.checkpoint.static_folder import TABLE
from minisbert.transformer.block import embedding_table


@dataclass(frozen=True)
class Config:
    """The sizes of the table, taken from the weights (checkpoint/static_folder.py)."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int = 0
    initializer_range: float = 1.0  # as in sentence-transformers' fresh tables

    @property
    def max_positions(self) -> int:
        """The longest input in tokens: as long as memory allows."""
        return limits.TOKENS

    @staticmethod
    def from_json(values: dict[str, Any], where: Path | str = "model.safetensors") -> "Config":
        """The sizes that `static_config` gives; one ModelFolderError names each that is missing or out of bounds."""
        settings = Settings(values, where)
        config = Config(
            vocab_size=settings.integer("vocab_size", at_least=1, at_most=10_000_000),
            hidden_size=settings.integer("hidden_size", at_least=1, at_most=limits.WIDTH),
        )
        settings.finish()
        return config


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


# Where each tensor of a static model goes; see encoders/bert.py for how to read the table.
RULES = [Rule(TABLE, "token_embedding.embedding", "V,D")]
PASSTHROUGH: list[str] = []
PREFIX = ""
# The module in a sentence-transformers folder.
MODULE = STATIC_EMBEDDING
