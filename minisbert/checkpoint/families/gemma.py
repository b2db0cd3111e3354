"""How a folder stores a Gemma 3 text model: config.json, and where each tensor goes. `encoders/gemma.py` computes."""

from dataclasses import dataclass
from typing import Any

from minisbert import limits
from minisbert.checkpoint.convert import Rule, linear, matrix
from minisbert.checkpoint.layer_settings import FULL, LOCAL, head_width, key_heads, layer_types, rotary_base
from minisbert.checkpoint.settings import Settings


@dataclass(frozen=True)
class Config:
    """The settings in a Gemma 3 text model's config.json, under the names of that file."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    num_key_value_heads: int
    head_dim: int
    layer_types: tuple[str, ...]
    causal: bool
    attention_bias: bool = False
    sliding_window: int = 4096
    query_pre_attn_scalar: float = 256.0
    global_rope_theta: float = 1_000_000.0
    local_rope_theta: float = 10_000.0
    hidden_activation: str = "gelu_pytorch_tanh"
    rms_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    max_positions = property(lambda _: limits.TOKENS, doc="The longest input in tokens: rotary positions have no end.")
    query_width = property(lambda config: config.num_attention_heads * config.head_dim, doc="Of all query heads.")
    key_width = property(lambda config: config.num_key_value_heads * config.head_dim, doc="Of all key heads.")

    @staticmethod
    def from_json(values: dict[str, Any], where: Any = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        layers = settings.size("num_hidden_layers")
        heads = settings.size("num_attention_heads")
        width = settings.size("hidden_size")
        settings.absent(["rope_scaling"], "rotary positions are computed as trained, not stretched")
        settings.absent(["attn_logit_softcapping"], "scores are not capped")
        settings.choice(
            "is_causal", [True], default=True, why="'use_bidirectional_attention' says which tokens are seen"
        )
        pattern = settings.size("sliding_window_pattern", 6)
        both = settings.values.get("use_bidirectional_attention") is not None
        return settings.encoder(
            Config,
            heads=None,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads(settings, heads, 4),
            head_dim=head_width(settings, width, heads, 256),
            layer_types=layer_types(settings, layers, lambda layer: LOCAL if (layer + 1) % pattern else FULL),
            causal=not (both and settings.flag("use_bidirectional_attention")),
            global_rope_theta=rotary_base(settings, "rope_theta", 1_000_000.0, FULL),
            local_rope_theta=rotary_base(settings, "rope_local_base_freq", 10_000.0, LOCAL),
        )


# Where each tensor of a Gemma 3 checkpoint goes; see qwen.py for how to read the table.
_LAYER = "layers.{i}."
_GATED = [_LAYER + "mlp.gate_proj", _LAYER + "mlp.up_proj"]
_KEY_VALUE = [_LAYER + f"self_attn.{part}_proj" for part in "kv"]
RULES = [
    Rule("embed_tokens.weight", "token_embedding.embedding", "V,D"),
    Rule(_LAYER + "input_layernorm.weight", "blocks.{i}.attention_norm.scale", "D"),
    *linear(_LAYER + "self_attn.q_proj", "blocks.{i}.attention.query", "D,A", bias_when="attention_bias"),
    *linear(_KEY_VALUE, "blocks.{i}.attention.key_value", "D,2G", bias_when="attention_bias"),
    *linear(_LAYER + "self_attn.o_proj", "blocks.{i}.attention.output", "A,D", bias_when="attention_bias"),
    Rule(_LAYER + "self_attn.q_norm.weight", "blocks.{i}.attention.query_norm.scale", "H"),
    Rule(_LAYER + "self_attn.k_norm.weight", "blocks.{i}.attention.key_norm.scale", "H"),
    Rule(_LAYER + "post_attention_layernorm.weight", "blocks.{i}.after_attention.scale", "D"),
    Rule(_LAYER + "pre_feedforward_layernorm.weight", "blocks.{i}.feed_forward_norm.scale", "D"),
    matrix(_GATED, "blocks.{i}.feed_forward.up", "D,2F"),
    matrix(_LAYER + "mlp.down_proj", "blocks.{i}.feed_forward.down", "F,D"),
    Rule(_LAYER + "post_feedforward_layernorm.weight", "blocks.{i}.after_feed_forward.scale", "D"),
    Rule("norm.weight", "final_norm.scale", "D"),
]
PASSTHROUGH = ["lm_head.*", "score.*"]
PREFIX = "model."  # Gemma3ForCausalLM puts it before every name
