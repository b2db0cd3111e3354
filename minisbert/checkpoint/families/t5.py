"""How a folder stores a T5's encoder: the settings in config.json, and where each tensor goes. `encoders/t5.py` computes."""

from dataclasses import dataclass
from typing import Any

from minisbert import limits
from minisbert.checkpoint.convert import Rule, matrix
from minisbert.checkpoint.settings import ACTIVATIONS, Settings

_NAMES = {
    "d_model": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "d_kv": "head_dim",
    "layer_norm_epsilon": "rms_norm_eps",
    "dropout_rate": "hidden_dropout_prob",
}


@dataclass(frozen=True)
class Config:
    """The settings in a T5's config.json, under the names that other families have for them."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    head_dim: int
    gated: bool
    hidden_act: str
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    rms_norm_eps: float = 1e-6
    hidden_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    plain = property(lambda config: not config.gated, doc="The feed-forward net has no gate.")
    query_width = property(lambda config: config.num_attention_heads * config.head_dim, doc="Of all heads together.")
    max_positions = property(lambda _: limits.TOKENS, doc="The longest input in tokens: distances have no end.")

    @staticmethod
    def from_json(values: dict[str, Any], where: Any = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        settings.rename(_NAMES)
        nets = {f"{gate}{name}": name for name in ACTIVATIONS for gate in ("", "gated-")}
        # "gated-gelu" is the name of T5 1.1's, which has the approximation.
        usual = "gated-gelu" if values.get("model_type") == "mt5" else "relu"
        net = settings.choice("feed_forward_proj", nets, default=usual)
        gated, activation = net.startswith("gated-"), "gelu_new" if net == "gated-gelu" else nets[net]
        # transformers writes what it takes from the name, and reads it back.
        settings.choice("is_gated_act", [gated], default=gated, why="as 'feed_forward_proj' has it")
        settings.choice("dense_act_fn", [activation], default=activation, why="as 'feed_forward_proj' has it")
        buckets = settings.size("relative_attention_num_buckets", 32)
        if buckets % 4:
            settings.complain("relative_attention_num_buckets", "a multiple of 4: two directions, each near and far")
        return settings.encoder(
            Config,
            heads=None,
            head_dim=settings.size("head_dim", 64, (1, limits.WIDTH)),
            gated=gated,
            hidden_act=activation,
            relative_attention_num_buckets=buckets,
            relative_attention_max_distance=settings.size(
                "relative_attention_max_distance", 128, (buckets // 4 + 1, limits.ROWS)
            ),
        )


# Where each tensor of a T5 checkpoint goes; see checkpoint/families/bert.py for how to read the table.
_LAYER = "encoder.block.{i}.layer."
_INNER = _LAYER + "1.DenseReluDense.wi"
RULES = [
    Rule("shared.weight", "token_embedding.embedding", "V,D"),
    Rule(
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "relative_position_bias.table.embedding",
        "R,N",
    ),
    Rule(_LAYER + "0.layer_norm.weight", "blocks.{i}.attention_norm.scale", "D"),
    matrix(_LAYER + "0.SelfAttention.q", "blocks.{i}.attention.query", "D,A"),
    matrix([_LAYER + f"0.SelfAttention.{part}" for part in "kv"], "blocks.{i}.attention.key_value", "D,2A"),
    matrix(_LAYER + "0.SelfAttention.o", "blocks.{i}.attention.output", "A,D"),
    Rule(_LAYER + "1.layer_norm.weight", "blocks.{i}.feed_forward_norm.scale", "D"),
    matrix(_INNER, "blocks.{i}.feed_forward.up", "D,F", when="plain"),
    matrix([_INNER + "_0", _INNER + "_1"], "blocks.{i}.feed_forward.up", "D,2F", when="gated"),
    matrix(_LAYER + "1.DenseReluDense.wo", "blocks.{i}.feed_forward.down", "F,D"),
    Rule("encoder.final_layer_norm.weight", "final_norm.scale", "D"),
]
# The decoder, and the tied names of the token table.
PASSTHROUGH = ["encoder.embed_tokens.weight", "decoder.*", "lm_head.*", "qa_outputs.*"]
PASSTHROUGH += ["classifier.*", "classification_head.*"]
PREFIX = "transformer."  # T5ForTokenClassification and similar classes put it before every name
