"""ModernBERT (Warner et al. 2024, "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder ..."), as an encoder.

    x_t    = LayerNorm(token embedding)                             section 2.1.1: no position table, no segments
    output = LayerNorm(Block_layers(... Block_1(x)))                pre-norm blocks without biases, a norm at the end

Unlike in BERT, positions rotate the queries and keys (RoPE); every third layer attends to the whole text, the others to a
window of 128 tokens, with a base angle for each of the two kinds (section 2.1.2); the feed-forward net is gated.
The first layer has no norm before its attention: its input is normalized already. Left out: unpadding, heads, biases,
stretched rotary positions. `reference/modernbert.py` is the same in NumPy and must agree.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert import limits
from minisbert.checkpoint.convert import Rule
from minisbert.checkpoint.layer_settings import FULL, LOCAL, layer_types, rotary_base
from minisbert.checkpoint.modules import TRANSFORMER
from minisbert.checkpoint.settings import Settings
from minisbert.transformer.block import ACTIVATIONS, embedding_table
from minisbert.transformer.dropout import dropout, fold
from minisbert.transformer.positions import rotary_angles
from minisbert.transformer.prenorm import PreNormBlock, layer_norm_without_bias, window_bias


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

    @property
    def max_positions(self) -> int:
        """The longest input in tokens, special tokens included."""
        return self.max_position_embeddings

    @staticmethod
    def from_json(values: dict[str, Any], where: Path | str = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        for key in ("attention_bias", "mlp_bias", "norm_bias"):
            settings.choice(key, [False], default=False, why="no published model has biases")
        settings.absent(["head_dim"], "heads are hidden_size / num_attention_heads wide")
        settings.absent(["rope_scaling"], "rotary positions are computed as trained, not stretched")
        layers = settings.integer("num_hidden_layers", at_least=1, at_most=limits.LAYERS)
        every = settings.integer("global_attn_every_n_layers", at_least=1, at_most=limits.LAYERS, default=3)
        return settings.encoder(
            Config,
            positions=(
                "absolute",
                "sans_pos",
                "rope",
            ),  # each name, in the files that have one, stands for the rotary ones
            even_heads=True,  # rotary positions turn pairs of numbers
            num_hidden_layers=layers,
            layer_types=layer_types(settings, layers, lambda layer: LOCAL if layer % every else FULL),
            global_rope_theta=rotary_base(settings, "global_rope_theta", 160_000.0, FULL),
            local_rope_theta=rotary_base(settings, "local_rope_theta", 10_000.0, LOCAL),
            hidden_activation=settings.choice("hidden_activation", ACTIVATIONS, default="gelu"),
        )


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.initializer_range)
        self.config = config
        self.token_embedding = embedding_table(config.vocab_size, config.hidden_size, dtype, normal, rngs)
        self.embedding_norm = layer_norm_without_bias(config.hidden_size, config.norm_eps, dtype, rngs)
        self.blocks = nnx.List(
            [
                PreNormBlock(
                    width=config.hidden_size,
                    heads=config.num_attention_heads,
                    inner_width=config.intermediate_size,
                    activation=config.hidden_activation,
                    epsilon=config.norm_eps,
                    attention_dropout=config.attention_dropout,
                    inner_dropout=config.mlp_dropout,
                    norm_first=layer > 0,
                    dtype=dtype,
                    kernel_init=normal,
                    rngs=rngs,
                )
                for layer in range(config.num_hidden_layers)
            ]
        )
        self.final_norm = layer_norm_without_bias(config.hidden_size, config.norm_eps, dtype, rngs)

    def __call__(
        self,
        token_ids_BL: jax.Array,
        mask_BL: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> list[jax.Array]:
        """hidden_BLD of every layer, the input of the first block included; arguments as for encoders/bert.py.

        There are no segments, so `segment_ids_BL` is ignored. So is `positions_BL`: products of rotated queries and keys
        depend on distances alone, which are the same in a row that holds several texts.
        """
        config, L = self.config, token_ids_BL.shape[1]
        hidden_BLD = self.embedding_norm(self.token_embedding(token_ids_BL))
        hidden_BLD = dropout(hidden_BLD, config.embedding_dropout, fold(dropout_keys_BL, 0))
        exact, head_width = hidden_BLD.dtype, config.hidden_size // config.num_attention_heads
        # Kind of layer -> its angles, and what keeps its queries within their window (half of it on either side).
        looks = {
            FULL: (rotary_angles(L, head_width, config.global_rope_theta, exact), None),
            LOCAL: (
                rotary_angles(L, head_width, config.local_rope_theta, exact),
                window_bias(L, config.local_attention // 2, exact),
            ),
        }
        hidden_IBLD = [hidden_BLD]
        for layer, (kind, block) in enumerate(zip(config.layer_types, self.blocks, strict=True), start=1):
            hidden_IBLD.append(
                block(hidden_IBLD[-1], mask_BL, *looks[kind], dropout_keys_BL=fold(dropout_keys_BL, layer))
            )
        hidden_IBLD[-1] = self.final_norm(hidden_IBLD[-1])
        return hidden_IBLD


# Where each tensor of a ModernBERT checkpoint goes; see encoders/bert.py for how to read the table. Query, key and
# value are one matrix there too, and so are the two of the gated feed-forward net.
_LAYER = "layers.{i}."
RULES = [
    Rule("embeddings.tok_embeddings.weight", "token_embedding.embedding", "V,D"),
    Rule("embeddings.norm.weight", "embedding_norm.scale", "D"),
    Rule(_LAYER + "attn_norm.weight", "blocks.{i}.attention_norm.scale", "D", first=1),
    Rule(_LAYER + "attn.Wqkv.weight", "blocks.{i}.attention.qkv.kernel", "D,3D", transpose=True),
    Rule(_LAYER + "attn.Wo.weight", "blocks.{i}.attention.output.kernel", "D,D", transpose=True),
    Rule(_LAYER + "mlp_norm.weight", "blocks.{i}.feed_forward_norm.scale", "D"),
    Rule(_LAYER + "mlp.Wi.weight", "blocks.{i}.feed_forward.up.kernel", "D,2F", transpose=True),
    Rule(_LAYER + "mlp.Wo.weight", "blocks.{i}.feed_forward.down.kernel", "F,D", transpose=True),
    Rule("final_norm.weight", "final_norm.scale", "D"),
]
PASSTHROUGH = ["head.*", "decoder.*", "classifier.*"]
PREFIX = "model."  # ModernBertForMaskedLM and similar classes put it before every name
MODULE = TRANSFORMER
