"""How a folder stores a RoBERTa: config.json, and where each tensor goes. `encoders/roberta.py` computes."""

from dataclasses import dataclass
from typing import Any

from minisbert import limits
from minisbert.checkpoint.families import bert
from minisbert.checkpoint.settings import Settings


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
    # The longest input in tokens: the table's first rows, up to the padding row, have no positions.
    max_positions = property(lambda config: config.max_position_embeddings - config.pad_token_id - 1)
    # encoders/bert.py asks for these; RoBERTa's embeddings have the width of the blocks, and there are no tasks.
    embedding_size = property(lambda config: config.hidden_size)
    narrow, task_type_vocab_size = None, 0

    @staticmethod
    def from_json(values: dict[str, Any], where: Any = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        vocab_size = settings.size("vocab_size", bounds=(2, limits.ROWS))
        pad_token_id = settings.size("pad_token_id", 1, (0, vocab_size - 1))
        return settings.encoder(
            Config,
            vocab_size=vocab_size,
            pad_token_id=pad_token_id,
            max_position_embeddings=settings.size("max_position_embeddings", bounds=(pad_token_id + 2, limits.ROWS)),
        )


# Its tensors have BERT's names.
RULES = bert.RULES
PASSTHROUGH = ["embeddings.position_ids", "pooler.dense.*", "lm_head.*", "classifier.*", "qa_outputs.*"]
PREFIX = "roberta."  # RobertaForMaskedLM and its kin, XLM-R's and CamemBERT's too, put it before every name
