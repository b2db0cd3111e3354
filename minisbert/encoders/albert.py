"""ALBERT (Lan et al. 2020, "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations"), as an encoder.

    x_t    = W LayerNorm(token + position + segment embedding) + b       section 3.1: embeddings of width E, then E -> D
    output = Block(... Block(x))                                         section 3.1: one layer's weights serve all layers

Differences from BERT: the embeddings are narrower than the blocks (factorised), and one block is applied repeatedly; its
activation is GELU's tanh approximation. Left out: several groups of shared layers (no published model has them),
sentence-order prediction, heads, pooler. In training, dropout is where BERT has it.
`reference/albert.py` is the same in NumPy and must agree.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.convert import Rule, linear, norm
from minisbert.checkpoint.modules import TRANSFORMER
from minisbert.checkpoint.settings import Settings
from minisbert.transformer.block import ACTIVATIONS, Block, embedding_table, layer_norm
from minisbert.transformer.dropout import dropout, fold


@dataclass(frozen=True)
class Config:
    """The settings in an ALBERT's config.json, under the names of that file."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    embedding_size: int = 128
    type_vocab_size: int = 2
    hidden_act: str = "gelu_new"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02

    @property
    def max_positions(self) -> int:
        """The longest input in tokens, special tokens included."""
        return self.max_position_embeddings

    @staticmethod
    def from_json(values: dict[str, Any], where: Path | str = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        settings.choice("num_hidden_groups", [1], default=1, why="all layers share one set of weights")
        settings.choice("inner_group_num", [1], default=1, why="a shared layer is one block")
        return settings.encoder(Config, hidden_act=settings.choice("hidden_act", ACTIVATIONS, default="gelu_new"))


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.initializer_range)
        narrow = config.embedding_size
        self.config = config
        self.token_embedding = embedding_table(config.vocab_size, narrow, dtype, normal, rngs)
        self.position_embedding = embedding_table(config.max_position_embeddings, narrow, dtype, normal, rngs)
        self.segment_embedding = embedding_table(config.type_vocab_size, narrow, dtype, normal, rngs)
        self.embedding_norm = layer_norm(narrow, config.layer_norm_eps, dtype, rngs)
        # In float32 at least, as the embeddings are.
        exact = jnp.promote_types(dtype, jnp.float32)
        self.embedding_projection = nnx.Linear(narrow, config.hidden_size, dtype=exact, kernel_init=normal, rngs=rngs)
        # A list of one, so that its matrices have the same paths as in every family.
        self.blocks = nnx.List([Block.from_config(config, dtype, normal, rngs)])

    def __call__(
        self,
        token_ids_BL: jax.Array,
        mask_BL: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> list[jax.Array]:
        """hidden_BLD of every layer, the input of the first block included; arguments as for encoders/bert.py."""
        if positions_BL is None:
            position_BLE = self.position_embedding.embedding[: token_ids_BL.shape[1]]
        else:
            position_BLE = self.position_embedding(positions_BL)
        if segment_ids_BL is None:
            segment_BLE = self.segment_embedding.embedding[0]
        else:
            segment_BLE = self.segment_embedding(segment_ids_BL)
        narrow_BLE = self.embedding_norm(self.token_embedding(token_ids_BL) + position_BLE + segment_BLE)
        narrow_BLE = dropout(narrow_BLE, self.config.hidden_dropout_prob, fold(dropout_keys_BL, 0))
        hidden_BLD = self.embedding_projection(narrow_BLE)
        (block,) = self.blocks
        hidden_IBLD = [hidden_BLD]
        for layer in range(1, self.config.num_hidden_layers + 1):
            hidden_IBLD.append(block(hidden_IBLD[-1], mask_BL, dropout_keys_BL=fold(dropout_keys_BL, layer)))
        return hidden_IBLD


# Where each tensor of an ALBERT checkpoint goes; see encoders/bert.py for how to read the table. There is no {i}: the
# file holds one layer.
_LAYER = "encoder.albert_layer_groups.0.albert_layers.0."
RULES = [
    Rule("embeddings.word_embeddings.weight", "token_embedding.embedding", "V,E"),
    Rule("embeddings.position_embeddings.weight", "position_embedding.embedding", "P,E"),
    Rule("embeddings.token_type_embeddings.weight", "segment_embedding.embedding", "S,E"),
    *norm("embeddings.LayerNorm", "embedding_norm", "E"),
    *linear("encoder.embedding_hidden_mapping_in", "embedding_projection", "E,D"),
    *linear([_LAYER + f"attention.{part}" for part in ("query", "key", "value")], "blocks.0.attention.qkv", "D,3D"),
    *linear(_LAYER + "attention.dense", "blocks.0.attention.output", "D,D"),
    *norm(_LAYER + "attention.LayerNorm", "blocks.0.attention_norm", "D"),
    *linear(_LAYER + "ffn", "blocks.0.feed_forward.up", "D,F"),
    *linear(_LAYER + "ffn_output", "blocks.0.feed_forward.down", "F,D"),
    *norm(_LAYER + "full_layer_layer_norm", "blocks.0.feed_forward_norm", "D"),
]
PASSTHROUGH = [
    "embeddings.position_ids",
    "pooler.*",
    "predictions.*",
    "sop_classifier.*",
    "classifier.*",
    "qa_outputs.*",
]
PREFIX = "albert."  # AlbertForMaskedLM and similar classes put it before every name
MODULE = TRANSFORMER
