"""How a folder stores a static model: the sizes of its table, and its one tensor. `encoders/static.py` computes."""

from dataclasses import dataclass
from typing import Any

from minisbert import limits
from minisbert.checkpoint.convert import Rule
from minisbert.checkpoint.settings import Settings
from minisbert.checkpoint.static_folder import TABLE


@dataclass(frozen=True)
class Config:
    """The sizes of the table, taken from the weights (checkpoint/static_folder.py)."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int = 0
    initializer_range: float = 1.0  # as in sentence-transformers' fresh tables
    max_positions = property(lambda _: limits.TOKENS, doc="The longest input in tokens: as long as memory allows.")

    @staticmethod
    def from_json(values: dict[str, Any], where: Any = "model.safetensors") -> "Config":
        """The sizes that `static_config` gives; one ModelFolderError names each that is missing or out of bounds."""
        settings = Settings(values, where)
        config = Config(settings.size("vocab_size"), settings.size("hidden_size"))
        settings.finish()
        return config


# Where each tensor of a static model goes; see bert.py for how to read the table.
RULES = [Rule(TABLE, "token_embedding.embedding", "V,D")]
PASSTHROUGH: list[str] = []
PREFIX = ""
