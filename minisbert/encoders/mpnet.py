"""MPNet (Song et al. 2020, "MPNet: Masked and Permuted Pre-training for Language Understanding"), as an encoder.

    x_t    = LayerNorm(token embedding + position embedding)        positions start after the padding row
    output = Block_layers(... Block_1(x, bias), bias)               bias: T5's relative positions, one table for all layers

Differences from BERT: no segments, positions counted from `padding id + 1`, and a learned score per head and distance added
to every layer's attention. Left out: permuted pre-training (two-stream attention, its head), pooler. `reference/` is
the same in NumPy and must agree.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert import limits
from minisbert.checkpoint.convert import Rule, linear, norm
from minisbert.checkpoint.modules import TRANSFORMER
from minisbert.checkpoint.settings import Settings
from minisbert.transformer.block import ACTIVATIONS, Block, embedding_table, layer_norm
from minisbert.transformer.dropout import dropout, fold
from minisbert.transformer.positions import RelativePositionBias, offset_position_ids

# The family fixes the padding row; config.json may repeat it but not change it.
PADDING_ID = 1


@dataclass(frozen=True)
class Config:
    """The settings in an MPNet's config.json, under the names of that file."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    relative_attention_num_buckets: int = 32
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02

    @property
    def max_positions(self) -> int:
        """The longest input in tokens: the table's first rows, up to the padding row, have no positions."""
        return self.max_position_embeddings - PADDING_ID - 1

    @staticmethod
    def from_json(values: dict[str, Any], where: Path | str = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        settings.choice("pad_token_id", [PADDING_ID], default=PADDING_ID, why="MPNet counts positions from it")
        return settings.encoder(
            Config,
            vocab_size=settings.integer("vocab_size", at_least=PADDING_ID + 1, at_most=limits.ROWS),
            max_position_embeddings=settings.integer(
                "max_position_embeddings", at_least=PADDING_ID + 2, at_most=limits.ROWS
            ),
            relative_attention_num_buckets=settings.choice(
                "relative_attention_num_buckets", [32], default=32, why="transformers computes 32 for every value"
            ),
            hidden_act=settings.choice("hidden_act", ACTIVATIONS, default="gelu"),
        )


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.initializer_range)
        self.config = config
        self.token_embedding = embedding_table(config.vocab_size, config.hidden_size, dtype, normal, rngs)
        self.position_embedding = embedding_table(
            config.max_position_embeddings, config.hidden_size, dtype, normal, rngs
        )
        self.embedding_norm = layer_norm(config.hidden_size, config.layer_norm_eps, dtype, rngs)
        self.relative_position_bias = RelativePositionBias(
            config.relative_attention_num_buckets,
            config.num_attention_heads,
            dtype=dtype,
            embedding_init=normal,
            rngs=rngs,
        )
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
        """hidden_BLD of every layer, the input of the first block included; arguments as for encoders/bert.py.

        There are no segments, so `segment_ids_BL` is ignored.
        """
        position_BLD = self.position_embedding(offset_position_ids(token_ids_BL, PADDING_ID, positions_BL))
        hidden_BLD = self.embedding_norm(self.token_embedding(token_ids_BL) + position_BLD)
        hidden_BLD = dropout(hidden_BLD, self.config.hidden_dropout_prob, fold(dropout_keys_BL, 0))
        bias_NQK = self.relative_position_bias(token_ids_BL.shape[1])
        hidden_IBLD = [hidden_BLD]
        for layer, block in enumerate(self.blocks, start=1):
            hidden_IBLD.append(block(hidden_IBLD[-1], mask_BL, bias_NQK, dropout_keys_BL=fold(dropout_keys_BL, layer)))
        return hidden_IBLD


# Where each tensor of an MPNet checkpoint goes; see encoders/bert.py for how to read the table.
_LAYER = "encoder.layer.{i}."
RULES = [
    Rule("embeddings.word_embeddings.weight", "token_embedding.embedding", "V,D"),
    Rule("embeddings.position_embeddings.weight", "position_embedding.embedding", "P,D"),
    *norm("embeddings.LayerNorm", "embedding_norm", "D"),
    Rule("encoder.relative_attention_bias.weight", "relative_position_bias.table.embedding", "R,N"),
    *linear([_LAYER + f"attention.attn.{part}" for part in "qkv"], "blocks.{i}.attention.qkv", "D,3D"),
    *linear(_LAYER + "attention.attn.o", "blocks.{i}.attention.output", "D,D"),
    *norm(_LAYER + "attention.LayerNorm", "blocks.{i}.attention_norm", "D"),
    *linear(_LAYER + "intermediate.dense", "blocks.{i}.feed_forward.up", "D,F"),
    *linear(_LAYER + "output.dense", "blocks.{i}.feed_forward.down", "F,D"),
    *norm(_LAYER + "output.LayerNorm", "blocks.{i}.feed_forward_norm", "D"),
]
PASSTHROUGH = ["embeddings.position_ids", "pooler.dense.*", "lm_head.*", "classifier.*"]
PREFIX = "mpnet."  # MPNetForMaskedLM and similar classes put it before every name
MODULE = TRANSFORMER
