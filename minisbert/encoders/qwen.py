"""Language models as encoders: Qwen3 (Yang et al. 2025), Qwen2, Mistral, and EuroBERT (Boizard et al. 2025).

    x_t    = token embedding
    output = RMSNorm(Block_layers(... Block_1(x)))         transformer/grouped.py: RMS norm, grouped queries, rotary, SwiGLU

A token sees those before it, so that the last one has seen the whole text (last-token pooling); with `is_causal` false, and
in EuroBERT, all tokens see each other. Positions are distances, so padding on either side gives the same. Qwen3 has norms on
queries and keys, Qwen2 biases on queries, keys and values, Mistral a window. Left out: stretched rotary positions, caches,
biases in the feed-forward net. In training, dropout is on the attention weights. `reference/grouped.py` must agree.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert import limits
from minisbert.checkpoint.convert import Rule, linear
from minisbert.checkpoint.layer_settings import FULL, LOCAL, head_width, key_heads, layer_types, rotary_base
from minisbert.checkpoint.modules import TRANSFORMER
from minisbert.checkpoint.settings import Settings
from minisbert.transformer.block import ACTIVATIONS, embedding_table
from minisbert.transformer.dropout import fold
from minisbert.transformer.grouped import GroupedBlock, RMSNorm, Shape
from minisbert.transformer.positions import rotary_angles
from minisbert.transformer.prenorm import window_bias


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

    @property
    def max_positions(self) -> int:
        """The longest input in tokens."""
        return self.max_position_embeddings

    @property
    def query_width(self) -> int:
        """Of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Of all key heads together."""
        return self.num_key_value_heads * self.head_dim

    @staticmethod
    def from_json(values: dict[str, Any], where: Path | str = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        kind = settings.choice("model_type", ["qwen3", "qwen2", "mistral", "eurobert"])
        layers = settings.integer("num_hidden_layers", at_least=1, at_most=limits.LAYERS)
        heads = settings.integer("num_attention_heads", at_least=1, at_most=limits.WIDTH)
        width = settings.integer("hidden_size", at_least=1, at_most=limits.WIDTH)
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
            hidden_act=settings.choice("hidden_act", ACTIVATIONS, default="silu"),
            rms_norm_eps=settings.number(
                "rms_norm_eps", at_least=1e-20, below=0.1, default=1e-5 if kind == "eurobert" else 1e-6
            ),
        )


def _windows(settings: Settings, kind: str, layers: int, causal: bool) -> tuple[int | None, ...]:
    """How many tokens away each layer sees, or None for all.

    Mistral has one window for all layers; Qwen's later layers have one where `use_sliding_window` is true.
    """
    size: int | None = None
    has = kind == "mistral" or (kind != "eurobert" and settings.flag("use_sliding_window", default=False))
    if has and settings.values.get("sliding_window", 4096) is not None:
        size = settings.integer("sliding_window", at_least=1, at_most=limits.ROWS, default=4096)
    reach = size if size is None or not causal else size - 1  # without a causal mask the bound itself counts too
    if kind in ("mistral", "eurobert"):
        return (reach,) * layers
    first = settings.integer("max_window_layers", at_least=0, at_most=limits.ROWS, default=28)
    kinds = layer_types(settings, layers, lambda layer: FULL if reach is None or layer < first else LOCAL)
    if reach is None and LOCAL in kinds:
        settings.complain("layer_types", f"only {FULL!r}, because there is no sliding window")
    return tuple(reach if kind == LOCAL else None for kind in kinds)


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.initializer_range)
        self.config = config
        self.token_embedding = embedding_table(config.vocab_size, config.hidden_size, dtype, normal, rngs)
        shape = Shape(
            width=config.hidden_size,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            head_width=config.head_dim,
            inner_width=config.intermediate_size,
            activation=config.hidden_act,
            epsilon=config.rms_norm_eps,
            attention_dropout=config.attention_dropout,
            qkv_bias=config.qkv_bias,
            output_bias=config.output_bias,
            query_key_norm=config.query_key_norm,
        )
        self.blocks = nnx.List(
            [GroupedBlock(shape, dtype=dtype, kernel_init=normal, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )
        self.final_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def __call__(
        self,
        token_ids_BL: jax.Array,
        mask_BL: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> list[jax.Array]:
        """hidden_BLD of every layer, the input of the first block included; arguments as for encoders/bert.py.

        There are no segments, so `segment_ids_BL` is ignored, and `positions_BL` as in encoders/modernbert.py.
        """
        config, L = self.config, token_ids_BL.shape[1]
        hidden_BLD = self.token_embedding(token_ids_BL)
        angles = rotary_angles(L, config.head_dim, config.rope_theta, hidden_BLD.dtype)
        biases = {}
        for window in set(config.windows):
            reach = L if window is None else window
            biases[window] = window_bias(L, reach, hidden_BLD.dtype, ahead=0 if config.causal else reach)
        hidden_IBLD = [hidden_BLD]
        for layer, (window, block) in enumerate(zip(config.windows, self.blocks, strict=True), start=1):
            hidden_IBLD.append(block(hidden_IBLD[-1], mask_BL, angles, biases[window], fold(dropout_keys_BL, layer)))
        hidden_IBLD[-1] = self.final_norm(hidden_IBLD[-1])
        return hidden_IBLD


# Where each tensor of a checkpoint goes; see encoders/bert.py for how to read the table. Of A, G and H: A all query heads, G
# all key heads, H one head.
_LAYER = "layers.{i}."
_GATED = (_LAYER + "mlp.gate_proj.weight", _LAYER + "mlp.up_proj.weight")
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
    Rule(_GATED, "blocks.{i}.feed_forward.up.kernel", "D,2F", transpose=True),
    Rule(_LAYER + "mlp.down_proj.weight", "blocks.{i}.feed_forward.down.kernel", "F,D", transpose=True),
    Rule("norm.weight", "final_norm.scale", "D"),
]
PASSTHROUGH = ["lm_head.*", "score.*", "classifier.*"]
PREFIX = "model."  # Qwen3ForCausalLM and similar classes put it before every name
MODULE = TRANSFORMER
