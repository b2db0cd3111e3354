"""How a folder stores Qwen3, Qwen2, Mistral, EuroBERT: config.json, and where each tensor goes. `encoders/qwen.py` computes."""

from dataclasses import dataclass
from typing import Any

from minisbert import limits
from minisbert.checkpoint.convert import Rule, linear, matrix
from minisbert.checkpoint.layer_settings import FULL, LOCAL, head_width, key_heads, layer_types, rotary_base
from minisbert.checkpoint.settings import Settings


@dataclass(frozen=True)
class Config:
    """The settings in config.json, under the names of that file."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    num_key_value_heads: int
    head_dim: int
    windows: tuple[int | None, ...]  # of each layer; None: the whole text
    causal: bool
    query_key_norm: bool
    qkv_bias: bool
    output_bias: bool
    rope_theta: float
    hidden_act: str = "silu"
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
        kind = settings.choice("model_type", ["qwen3", "qwen2", "mistral", "eurobert"])
        layers = settings.size("num_hidden_layers")
        heads = settings.size("num_attention_heads")
        width = settings.size("hidden_size")
        settings.absent(["rope_scaling"], "rotary positions are computed as trained, not stretched")
        settings.choice("mlp_bias", [False], default=False, why="no published model has biases there")
        # EuroBERT is an encoder whatever the file says.
        causal = kind != "eurobert" and settings.flag("is_causal", default=True)
        bias = kind in ("qwen3", "eurobert") and settings.flag("attention_bias", default=False)
        return settings.encoder(
            Config,
            heads=None,
            remote_code=() if causal else ("modeling_qwen.Qwen2", "modeling_eurobert.EuroBert"),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads(settings, heads, {"eurobert": None, "mistral": 8}.get(kind, 32)),
            head_dim=head_width(settings, width, heads, 128 if kind == "qwen3" else None),
            windows=_windows(settings, kind, layers, causal),
            causal=causal,
            query_key_norm=kind == "qwen3",
            qkv_bias=bias or kind == "qwen2",
            output_bias=bias,
            rope_theta=rotary_base(settings, "rope_theta", 10_000.0),
            rms_norm_eps=settings.size("rms_norm_eps", 1e-5 if kind == "eurobert" else 1e-6),
        )


def _windows(settings: Settings, kind: str, layers: int, causal: bool) -> tuple[int | None, ...]:
    """How many tokens away each layer sees, or None for all: Mistral's in all layers, Qwen's, if used, in later ones."""
    size: int | None = None
    if kind == "mistral" or (kind != "eurobert" and settings.flag("use_sliding_window", default=False)):
        has = settings.values.get("sliding_window", 4096) is not None
        size = settings.size("sliding_window", 4096) if has else None
    reach = size if size is None or not causal else size - 1  # without a causal mask the bound itself counts too
    if kind in ("mistral", "eurobert"):
        return (reach,) * layers
    first = settings.size("max_window_layers", 28)
    kinds = layer_types(settings, layers, lambda layer: FULL if reach is None or layer < first else LOCAL)
    if reach is None and LOCAL in kinds:
        settings.complain("layer_types", f"only {FULL!r}, because there is no sliding window")
    return tuple(reach if kind == LOCAL else None for kind in kinds)


# Where each tensor of a checkpoint goes; see bert.py for how to read the table. Of A, G and H: A all query heads, G
# all key heads, H one head.
_LAYER = "layers.{i}."
_GATED = [_LAYER + "mlp.gate_proj", _LAYER + "mlp.up_proj"]
_KEY_VALUE = [_LAYER + f"self_attn.{part}_proj" for part in "kv"]
RULES = [
    Rule("embed_tokens.weight", "token_embedding.embedding", "V,D"),
    Rule(_LAYER + "input_layernorm.weight", "blocks.{i}.attention_norm.scale", "D"),
    *linear(_LAYER + "self_attn.q_proj", "blocks.{i}.attention.query", "D,A", bias_when="qkv_bias"),
    *linear(_KEY_VALUE, "blocks.{i}.attention.key_value", "D,2G", bias_when="qkv_bias"),
    *linear(_LAYER + "self_attn.o_proj", "blocks.{i}.attention.output", "A,D", bias_when="output_bias"),
    Rule(_LAYER + "self_attn.q_norm.weight", "blocks.{i}.attention.query_norm.scale", "H", when="query_key_norm"),
    Rule(_LAYER + "self_attn.k_norm.weight", "blocks.{i}.attention.key_norm.scale", "H", when="query_key_norm"),
    Rule(_LAYER + "post_attention_layernorm.weight", "blocks.{i}.feed_forward_norm.scale", "D"),
    matrix(_GATED, "blocks.{i}.feed_forward.up", "D,2F"),
    matrix(_LAYER + "mlp.down_proj", "blocks.{i}.feed_forward.down", "F,D"),
    Rule("norm.weight", "final_norm.scale", "D"),
]
PASSTHROUGH = ["lm_head.*", "score.*", "classifier.*", "qa_outputs.*"]
PREFIX = "model."  # Qwen3ForCausalLM and similar classes put it before every name
