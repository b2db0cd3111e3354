"""How a folder stores an ALBERT: config.json, and where each tensor goes. `encoders/albert.py` computes."""

from dataclasses import dataclass
from typing import Any

from minisbert.checkpoint.convert import Rule, linear, norm
from minisbert.checkpoint.settings import Settings


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
    max_positions = property(lambda config: config.max_position_embeddings, doc="The longest input in tokens.")
    # encoders/bert.py asks for these: ALBERT always maps its embeddings to the width of the block, and has no tasks.
    narrow, task_type_vocab_size = property(lambda config: config.embedding_size), 0

    @staticmethod
    def from_json(values: dict[str, Any], where: Any = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        settings.choice("num_hidden_groups", [1], default=1, why="all layers share one set of weights")
        settings.choice("inner_group_num", [1], default=1, why="a shared layer is one block")
        return settings.encoder(Config)


# Where each tensor goes; see bert.py for how to read the table. There is no {i}: the file holds one layer.
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
