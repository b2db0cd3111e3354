"""DistilBERT (Sanh et al. 2019, "DistilBERT, a distilled version of BERT"), as an encoder.

    x_t    = LayerNorm(token embedding + position embedding)        section 2: BERT without segments and pooler
    output = Block_layers(... Block_1(x))                           BERT's blocks, half as many

config.json and the weights have names of their own. Left out: distillation, heads, sinusoidal positions that are not
trained. In training, dropout is where BERT has it (transformers omits the one after the attention).
`reference/distilbert.py` is the same in NumPy and must agree.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.convert import Rule, linear, norm
from minisbert.checkpoint.modules import TRANSFORMER
from minisbert.checkpoint.settings import Settings
from minisbert.transformer.block import ACTIVATIONS, Block, embedding_table, layer_norm
from minisbert.transformer.dropout import dropout, fold

# The family fixes it; config.json has no key for it.
EPSILON = 1e-12


@dataclass(frozen=True)
class Config:
    """The settings in a DistilBERT's config.json, under the names of that file."""

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    hidden_dim: int
    max_position_embeddings: int
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02

    @property
    def hidden_size(self) -> int:
        """`dim`, under the name it has in every other family."""
        return self.dim

    @property
    def num_hidden_layers(self) -> int:
        """`n_layers`, under the name it has in every other family."""
        return self.n_layers

    @property
    def num_attention_heads(self) -> int:
        """`n_heads`, likewise."""
        return self.n_heads

    @property
    def intermediate_size(self) -> int:
        """`hidden_dim`, likewise."""
        return self.hidden_dim

    @property
    def max_positions(self) -> int:
        """The longest input in tokens, special tokens included."""
        return self.max_position_embeddings

    @staticmethod
    def from_json(values: dict[str, Any], where: Path | str = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        settings.choice("sinusoidal_pos_embds", [False], default=False, why="positions are trained here, those are not")
        settings.absent(["hidden_size", "num_hidden_layers"], "DistilBERT's are dim and n_layers; two could disagree")
        settings.absent(["num_attention_heads"], "DistilBERT's is n_heads")
        activation = settings.choice("activation", ACTIVATIONS, default="gelu")
        return settings.encoder(Config, width="dim", heads="n_heads", activation=activation)


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.initializer_range)
        self.config = config
        self.token_embedding = embedding_table(config.vocab_size, config.dim, dtype, normal, rngs)
        self.position_embedding = embedding_table(config.max_position_embeddings, config.dim, dtype, normal, rngs)
        self.embedding_norm = layer_norm(config.dim, EPSILON, dtype, rngs)
        self.blocks = nnx.List(
            [
                Block(
                    width=config.dim,
                    heads=config.n_heads,
                    inner_width=config.hidden_dim,
                    activation=config.activation,
                    epsilon=EPSILON,
                    hidden_dropout=config.dropout,
                    attention_dropout=config.attention_dropout,
                    dtype=dtype,
                    kernel_init=normal,
                    rngs=rngs,
                )
                for _ in range(config.n_layers)
            ]
        )

    def __call__(
        self,
        token_ids_BL: jax.Array,
        mask_BL: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> list[jax.Array]:
        """hidden_BLD of every layer, the input of the first block included; arguments as for encoders/bert.py.

        There are no segments, so `segment_ids_BL` is ignored.
        """
        if positions_BL is None:
            position_BLD = self.position_embedding.embedding[: token_ids_BL.shape[1]]
        else:
            position_BLD = self.position_embedding(positions_BL)
        hidden_BLD = self.embedding_norm(self.token_embedding(token_ids_BL) + position_BLD)
        hidden_BLD = dropout(hidden_BLD, self.config.dropout, fold(dropout_keys_BL, 0))
        hidden_IBLD = [hidden_BLD]
        for layer, block in enumerate(self.blocks, start=1):
            hidden_IBLD.append(block(hidden_IBLD[-1], mask_BL, dropout_keys_BL=fold(dropout_keys_BL, layer)))
        return hidden_IBLD


# Where each tensor of a DistilBERT checkpoint goes; see encoders/bert.py for how to read the table.
_LAYER = "transformer.layer.{i}."
RULES = [
    Rule("embeddings.word_embeddings.weight", "token_embedding.embedding", "V,D"),
    Rule("embeddings.position_embeddings.weight", "position_embedding.embedding", "P,D"),
    *norm("embeddings.LayerNorm", "embedding_norm", "D"),
    *linear([_LAYER + f"attention.{part}_lin" for part in "qkv"], "blocks.{i}.attention.qkv", "D,3D"),
    *linear(_LAYER + "attention.out_lin", "blocks.{i}.attention.output", "D,D"),
    *norm(_LAYER + "sa_layer_norm", "blocks.{i}.attention_norm", "D"),
    *linear(_LAYER + "ffn.lin1", "blocks.{i}.feed_forward.up", "D,F"),
    *linear(_LAYER + "ffn.lin2", "blocks.{i}.feed_forward.down", "F,D"),
    *norm(_LAYER + "output_layer_norm", "blocks.{i}.feed_forward_norm", "D"),
]
PASSTHROUGH = ["embeddings.position_ids", "vocab_*", "pre_classifier.*", "classifier.*", "qa_outputs.*"]
PREFIX = "distilbert."  # DistilBertForMaskedLM and similar classes put it before every name
MODULE = TRANSFORMER
