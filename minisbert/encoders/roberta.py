"""RoBERTa (Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach"), as an encoder.

    x_t    = LayerNorm(token embedding + position embedding + segment embedding)      positions start after the padding row
    output = Block_layers(... Block_1(x))                                             BERT's blocks

XLM-R (Conneau et al. 2020) and CamemBERT (Martin et al. 2020) are the same encoder under other `model_type`s, with
other vocabularies. Unlike in BERT, positions are counted from `pad_token_id + 1`, so a table of 514 rows takes 512
tokens, and there is one segment in all published models. Left out: heads, pooler, decoders, relative positions.
`reference/roberta.py` is the same in NumPy and must agree.
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
from minisbert.transformer.positions import offset_position_ids


@dataclass(frozen=True)
class Config:
    """The settings in a RoBERTa's config.json, under the names of that file."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    pad_token_id: int = 1
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02

    @property
    def max_positions(self) -> int:
        """The longest input in tokens: the table's first rows, up to the padding row, have no positions."""
        return self.max_position_embeddings - self.pad_token_id - 1

    @staticmethod
    def from_json(values: dict[str, Any], where: Path | str = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        vocab_size = settings.integer("vocab_size", at_least=2, at_most=limits.ROWS)
        pad_token_id = settings.integer("pad_token_id", at_least=0, at_most=vocab_size - 1, default=1)
        return settings.encoder(
            Config,
            vocab_size=vocab_size,
            pad_token_id=pad_token_id,
            max_position_embeddings=settings.integer(
                "max_position_embeddings", at_least=pad_token_id + 2, at_most=limits.ROWS
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
        if segment_ids_BL is None:
            segment_BLD = self.segment_embedding.embedding[0]
        else:
            segment_BLD = self.segment_embedding(segment_ids_BL)
        hidden_BLD = self.embedding_norm(self.token_embedding(token_ids_BL) + position_BLD + segment_BLD)
        hidden_BLD = dropout(hidden_BLD, self.config.hidden_dropout_prob, fold(dropout_keys_BL, 0))
        hidden_IBLD = [hidden_BLD]
        for layer, block in enumerate(self.blocks, start=1):
            hidden_IBLD.append(block(hidden_IBLD[-1], mask_BL, dropout_keys_BL=fold(dropout_keys_BL, layer)))
        return hidden_IBLD


# Where each tensor of a RoBERTa checkpoint goes; see encoders/bert.py for how to read the table.
_LAYER = "encoder.layer.{i}."
RULES = [
    Rule("embeddings.word_embeddings.weight", "token_embedding.embedding", "V,D"),
    Rule("embeddings.position_embeddings.weight", "position_embedding.embedding", "P,D"),
    Rule("embeddings.token_type_embeddings.weight", "segment_embedding.embedding", "S,D"),
    *norm("embeddings.LayerNorm", "embedding_norm", "D"),
    *linear(
        [_LAYER + f"attention.self.{part}" for part in ("query", "key", "value")], "blocks.{i}.attention.qkv", "D,3D"
    ),
    *linear(_LAYER + "attention.output.dense", "blocks.{i}.attention.output", "D,D"),
    *norm(_LAYER + "attention.output.LayerNorm", "blocks.{i}.attention_norm", "D"),
    *linear(_LAYER + "intermediate.dense", "blocks.{i}.feed_forward.up", "D,F"),
    *linear(_LAYER + "output.dense", "blocks.{i}.feed_forward.down", "F,D"),
    *norm(_LAYER + "output.LayerNorm", "blocks.{i}.feed_forward_norm", "D"),
]
PASSTHROUGH = ["embeddings.position_ids", "pooler.dense.*", "lm_head.*", "classifier.*"]
PREFIX = "roberta."  # RobertaForMaskedLM and its kin, XLM-R's and CamemBERT's too, put it before every name
MODULE = TRANSFORMER
