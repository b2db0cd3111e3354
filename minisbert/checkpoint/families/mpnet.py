"""How a folder stores an MPNet: config.json, and where each tensor goes. `encoders/mpnet.py` computes."""

from dataclasses import dataclass
from typing import Any

from minisbert import limits
from minisbert.checkpoint.convert import Rule, linear, norm
from minisbert.checkpoint.settings import Settings

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
    # The longest input in tokens: the table's first rows, up to the padding row, have no positions.
    max_positions = property(lambda config: config.max_position_embeddings - PADDING_ID - 1)

    @staticmethod
    def from_json(values: dict[str, Any], where: Any = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        settings.choice("pad_token_id", [PADDING_ID], default=PADDING_ID, why="MPNet counts positions from it")
        return settings.encoder(
            Config,
            vocab_size=settings.size("vocab_size", bounds=(PADDING_ID + 1, limits.ROWS)),
            max_position_embeddings=settings.size("max_position_embeddings", bounds=(PADDING_ID + 2, limits.ROWS)),
            relative_attention_num_buckets=settings.choice(
                "relative_attention_num_buckets", [32], default=32, why="transformers computes 32 for every value"
            ),
        )


# Where each tensor of an MPNet checkpoint goes; see bert.py for how to read the table.
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
PASSTHROUGH = ["embeddings.position_ids", "pooler.dense.*", "lm_head.*", "classifier.*", "qa_outputs.*"]
PREFIX = "mpnet."  # MPNetForMaskedLM and similar classes put it before every name
