"""How a folder stores a ModernBERT: config.json, and where each tensor goes. `encoders/modernbert.py` computes."""

from dataclasses import dataclass
from typing import Any

from minisbert import limits
from minisbert.checkpoint.convert import Rule, matrix
from minisbert.checkpoint.layer_settings import FULL, LOCAL, layer_types, rotary_base
from minisbert.checkpoint.settings import Settings


@dataclass(frozen=True)
class Config:
    """The settings in a ModernBERT's config.json, in either of its forms, under the names of that file."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    layer_types: tuple[str, ...]
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    local_attention: int = 128
    hidden_activation: str = "gelu"
    norm_eps: float = 1e-5
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    mlp_dropout: float = 0.0
    initializer_range: float = 0.02
    max_positions = property(lambda _: limits.TOKENS, doc="The longest input in tokens: rotary positions have no end.")

    @staticmethod
    def from_json(values: dict[str, Any], where: Any = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        for key in ("attention_bias", "mlp_bias", "norm_bias"):
            settings.choice(key, [False], default=False, why="no published model has biases")
        settings.absent(["head_dim"], "heads are hidden_size / num_attention_heads wide")
        settings.absent(["rope_scaling"], "rotary positions are computed as trained, not stretched")
        layers = settings.size("num_hidden_layers")
        every = settings.size("global_attn_every_n_layers", 3)
        return settings.encoder(
            Config,
            positions=("absolute", "sans_pos", "rope"),  # each name that a file may have stands for the rotary ones
            even_heads=True,  # rotary positions turn pairs of numbers
            num_hidden_layers=layers,
            layer_types=layer_types(settings, layers, lambda layer: LOCAL if layer % every else FULL),
            global_rope_theta=rotary_base(settings, "global_rope_theta", 160_000.0, FULL),
            local_rope_theta=rotary_base(settings, "local_rope_theta", 10_000.0, LOCAL),
        )


# Where each tensor goes; see bert.py for how to read the table. Query, key and value are one matrix there too, and so are the
# two of the gated feed-forward net.
_LAYER = "layers.{i}."
RULES = [
    Rule("embeddings.tok_embeddings.weight", "token_embedding.embedding", "V,D"),
    Rule("embeddings.norm.weight", "embedding_norm.scale", "D"),
    Rule(_LAYER + "attn_norm.weight", "blocks.{i}.attention_norm.scale", "D", first=1),
    matrix(_LAYER + "attn.Wqkv", "blocks.{i}.attention.qkv", "D,3D"),
    matrix(_LAYER + "attn.Wo", "blocks.{i}.attention.output", "D,D"),
    Rule(_LAYER + "mlp_norm.weight", "blocks.{i}.feed_forward_norm.scale", "D"),
    matrix(_LAYER + "mlp.Wi", "blocks.{i}.feed_forward.up", "D,2F"),
    matrix(_LAYER + "mlp.Wo", "blocks.{i}.feed_forward.down", "F,D"),
    Rule("final_norm.weight", "final_norm.scale", "D"),
]
PASSTHROUGH = ["head.*", "decoder.*", "classifier.*"]
PREFIX = "model."  # ModernBertForMaskedLM and similar classes put it before every name
