"""How a folder stores a BERT: config.json, and where each tensor goes. `encoders/bert.py` computes."""

from dataclasses import dataclass
from typing import Any

from minisbert.checkpoint.convert import Rule, linear, norm
from minisbert.checkpoint.settings import Settings


@dataclass(frozen=True)
class Config:
    """The settings in a BERT's config.json, under the names of that file."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    narrow: int | None = None  # ELECTRA's embedding_size, where it differs from hidden_size
    task_type_vocab_size: int = 0  # ERNIE's tasks; every text has the first
    max_positions = property(lambda config: config.max_position_embeddings, doc="The longest input in tokens.")
    embedding_size = property(lambda config: config.narrow or config.hidden_size, doc="Of the tables.")

    @staticmethod
    def from_json(values: dict[str, Any], where: Any = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        model_type, narrow, tasks = values.get("model_type"), None, 0
        if model_type == "electra":
            narrow = settings.size("embedding_size", 128)
        if model_type == "ernie" and settings.flag("use_task_id", default=False):
            tasks = settings.size("task_type_vocab_size", 3)
        narrow = None if narrow == values.get("hidden_size") else narrow
        return settings.encoder(Config, narrow=narrow, task_type_vocab_size=tasks)


# Where each tensor of a BERT checkpoint goes: its name there, our path, our shape in letters (checkpoint/convert.py). {i} is
# the layer. Several names on the left are joined along the output axis: query, key, value -> qkv.
_LAYER = "encoder.layer.{i}."
RULES = [
    Rule("embeddings.word_embeddings.weight", "token_embedding.embedding", "V,E"),
    Rule("embeddings.position_embeddings.weight", "position_embedding.embedding", "P,E"),
    Rule("embeddings.token_type_embeddings.weight", "segment_embedding.embedding", "S,E"),
    Rule("embeddings.task_type_embeddings.weight", "task_embedding.embedding", "T,E", when="task_type_vocab_size"),
    *norm("embeddings.LayerNorm", "embedding_norm", "E"),
    *linear("embeddings_project", "embedding_projection", "E,D", when="narrow"),
    *linear(
        [_LAYER + f"attention.self.{part}" for part in ("query", "key", "value")], "blocks.{i}.attention.qkv", "D,3D"
    ),
    *linear(_LAYER + "attention.output.dense", "blocks.{i}.attention.output", "D,D"),
    *norm(_LAYER + "attention.output.LayerNorm", "blocks.{i}.attention_norm", "D"),
    *linear(_LAYER + "intermediate.dense", "blocks.{i}.feed_forward.up", "D,F"),
    *linear(_LAYER + "output.dense", "blocks.{i}.feed_forward.down", "F,D"),
    *norm(_LAYER + "output.LayerNorm", "blocks.{i}.feed_forward_norm", "D"),
]
# Other tensors of the same checkpoints: not computed, but written back.
PASSTHROUGH = ["embeddings.position_ids", "pooler.dense.*", "cls.*", "classifier.*", "qa_outputs.*"]
PREFIX = "bert."  # BertForMaskedLM and similar classes put it before every name
