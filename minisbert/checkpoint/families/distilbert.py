"""How a folder stores a DistilBERT: config.json, and where each tensor goes. `encoders/distilbert.py` computes."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from minisbert.checkpoint.convert import Rule, linear, norm
from minisbert.checkpoint.settings import Settings


@dataclass(frozen=True)
class Config:
    """The settings in a DistilBERT's config.json, under the names of that file."""

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    hidden_dim: int
    max_position_embeddings: int
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02
    max_positions = property(lambda config: config.max_position_embeddings, doc="The longest input in tokens.")
    # The names that encoders/bert.py asks for; DistilBERT has no segments and no tasks.
    hidden_size = embedding_size = property(attrgetter("dim"))
    num_hidden_layers = property(attrgetter("n_layers"))
    num_attention_heads = property(attrgetter("n_heads"))
    intermediate_size = property(attrgetter("hidden_dim"))
    hidden_act = property(attrgetter("activation"))
    hidden_dropout_prob = property(attrgetter("dropout"))
    attention_probs_dropout_prob = property(attrgetter("attention_dropout"))
    layer_norm_eps, narrow, type_vocab_size, task_type_vocab_size = 1e-12, None, 0, 0

    @staticmethod
    def from_json(values: dict[str, Any], where: Any = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        settings.choice("sinusoidal_pos_embds", [False], default=False, why="positions are trained here, those are not")
        settings.absent(["hidden_size", "num_hidden_layers"], "DistilBERT's are dim and n_layers; two could disagree")
        settings.absent(["num_attention_heads"], "DistilBERT's is n_heads")
        return settings.encoder(Config, width="dim", heads="n_heads")


# Where each tensor of a DistilBERT checkpoint goes; see bert.py for how to read the table.
_LAYER = "transformer.layer.{i}."
RULES = [
    Rule("embeddings.word_embeddings.weight", "token_embedding.embedding", "V,D"),
    Rule("embeddings.position_embeddings.weight", "position_embedding.embedding", "P,D"),
    *norm("embeddings.LayerNorm", "embedding_norm", "D"),
    *linear([_LAYER + f"attention.{part}_lin" for part in "qkv"], "blocks.{i}.attention.qkv", "D,3D"),
    *linear(_LAYER + "attention.out_lin", "blocks.{i}.attention.output", "D,D"),
    *norm(_LAYER + "sa_layer_norm", "blocks.{i}.attention_norm", "D"),
    *linear(_LAYER + "ffn.lin1", "blocks.{i}.feed_forward.up", "D,F"),
    *linear(_LAYER + "ffn.lin2", "blocks.{i}.feed_forward.down", "F,D"),
    *norm(_LAYER + "output_layer_norm", "blocks.{i}.feed_forward_norm", "D"),
]
PASSTHROUGH = ["embeddings.position_ids", "vocab_*", "pre_classifier.*", "classifier.*", "qa_outputs.*"]
PREFIX = "distilbert."  # DistilBertForMaskedLM and similar classes put it before every name
