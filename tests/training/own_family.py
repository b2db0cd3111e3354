"""A family of encoders as a package from outside would bring it: causal blocks with grouped queries, one norm, one window.

`register_encoder("own_qwen", own_family)` reads folders whose config.json has this `model_type`. Its tensors have the names of
weights/tiny-qwen3, so a copy of that folder with another `model_type` is a model of this family.
"""

from dataclasses import dataclass, fields
from itertools import repeat

import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.convert import Rule
from minisbert.transformer.block import embedding_table, stack
from minisbert.transformer.grouped import GroupedBlock, RMSNorm, Shape
from minisbert.transformer.positions import rotary_angles
from minisbert.transformer.prenorm import window_bias

WINDOW = 5  # a token sees itself and this many before it


@dataclass(frozen=True)
class Config:
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int = 64

    @property
    def query_width(self):
        return self.num_attention_heads * self.head_dim

    @property
    def key_width(self):
        return self.num_key_value_heads * self.head_dim

    @staticmethod
    def from_json(values, where="config.json"):
        return Config(**{field.name: values[field.name] for field in fields(Config) if field.name in values})


class Encoder(nnx.Module):
    def __init__(self, config, *, dtype=jnp.float32, rngs):
        normal, self.config = nnx.initializers.normal(0.02), config
        self.token_embedding = embedding_table(config.vocab_size, config.hidden_size, dtype, normal, rngs)
        shape = Shape(
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.intermediate_size,
            activation="silu",
            epsilon=1e-6,
            attention_dropout=0.1,
            query_key_norm=True,
        )
        self.blocks = nnx.List(
            [GroupedBlock(shape, dtype=dtype, kernel_init=normal, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )
        self.final_norm = RMSNorm(config.hidden_size, 1e-6)

    def __call__(self, token_ids_BL, mask_BL, segment_ids_BL=None, dropout_keys_BL=None, positions_BL=None):
        hidden_BLD = self.token_embedding(token_ids_BL)
        angles = rotary_angles(token_ids_BL.shape[1], self.config.head_dim, 10_000.0, hidden_BLD.dtype)
        bias = window_bias(token_ids_BL.shape[1], WINDOW, hidden_BLD.dtype, ahead=0)
        hidden_IBLD = stack(self.blocks, hidden_BLD, mask_BL, dropout_keys_BL, repeat((angles, bias)))
        return [*hidden_IBLD[:-1], self.final_norm(hidden_IBLD[-1])]


LAYER, BLOCK, ATTENTION = "layers.{i}.", "blocks.{i}.", "layers.{i}.self_attn."
KEY_VALUE, GATED = (
    (ATTENTION + "k_proj.weight", ATTENTION + "v_proj.weight"),
    (LAYER + "mlp.gate_proj.weight", LAYER + "mlp.up_proj.weight"),
)
RULES = [
    Rule("embed_tokens.weight", "token_embedding.embedding", "V,D"),
    Rule(LAYER + "input_layernorm.weight", BLOCK + "attention_norm.scale", "D"),
    Rule(ATTENTION + "q_proj.weight", BLOCK + "attention.query.kernel", "D,A", transpose=True),
    Rule(KEY_VALUE, BLOCK + "attention.key_value.kernel", "D,2G", transpose=True),
    Rule(ATTENTION + "o_proj.weight", BLOCK + "attention.output.kernel", "A,D", transpose=True),
    Rule(ATTENTION + "q_norm.weight", BLOCK + "attention.query_norm.scale", "H"),
    Rule(ATTENTION + "k_norm.weight", BLOCK + "attention.key_norm.scale", "H"),
    Rule(LAYER + "post_attention_layernorm.weight", BLOCK + "feed_forward_norm.scale", "D"),
    Rule(GATED, BLOCK + "feed_forward.up.kernel", "D,2F", transpose=True),
    Rule(LAYER + "mlp.down_proj.weight", BLOCK + "feed_forward.down.kernel", "F,D", transpose=True),
    Rule("norm.weight", "final_norm.scale", "D"),
]
PASSTHROUGH, PREFIX = ["lm_head.*"], "model."
