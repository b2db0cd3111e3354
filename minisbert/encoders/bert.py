"""BERT, the encoder of the SBERT paper (Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers").

    x_t    = LayerNorm(token embedding + position embedding + segment embedding)      section 3, figure 2
    output = Block_layers(... Block_1(x))                                             post-norm blocks

ELECTRA (Clark et al. 2020) and ERNIE (Sun et al. 2019) are the same encoder under other names, but for a detail each: ELECTRA's
small models have narrow embeddings and a linear map to the width of the blocks, ERNIE may add an embedding of the task.

Left out: the pre-training heads, decoders, relative positions. The pooler is kept for export but not computed: a sentence
embedding pools all tokens. `reference/` is the same in NumPy and must agree.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert import limits
from minisbert.checkpoint.convert import Rule, linear, norm
from minisbert.checkpoint.modules import TRANSFORMER
from minisbert.checkpoint.settings import Settings
from minisbert.transformer.block import ACTIVATIONS, Block, embedding_table, layer_norm
from minisbert.transformer.dropout import dropout, fold


@dataclass(frozen=True)
class Config:
    """The settings in a BERT's config.json, under the names of that file."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    narrow: int | None = None  # ELECTRA's embedding_size, where it differs from hidden_size
    task_type_vocab_size: int = 0  # ERNIE's tasks; every text has the first

    @property
    def embedding_size(self) -> int:
        """Of the tables."""
        return self.hidden_size if self.narrow is None else self.narrow

    @property
    def max_positions(self) -> int:
        """The longest input in tokens, special tokens included."""
        return self.max_position_embeddings

    @staticmethod
    def from_json(values: dict[str, Any], where: Path | str = "config.json") -> "Config":
        """Read config.json; one ModelFolderError names every key that is missing, out of bounds, or not computed."""
        settings = Settings(values, where)
        model_type, narrow, tasks = values.get("model_type"), None, 0
        if model_type == "electra":
            narrow = settings.integer("embedding_size", at_least=1, at_most=limits.WIDTH, default=128)
        if model_type == "ernie" and settings.flag("use_task_id", default=False):
            tasks = settings.integer("task_type_vocab_size", at_least=1, at_most=limits.SEGMENTS, default=3)
        return settings.encoder(
            Config,
            hidden_act=settings.choice("hidden_act", ACTIVATIONS, default="gelu"),
            narrow=None if narrow == values.get("hidden_size") else narrow,
            task_type_vocab_size=tasks,
        )


class Encoder(nnx.Module):
    """token ids -> token embeddings."""

    def __init__(self, config: Config, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(config.initializer_range)
        self.config = config
        width, tasks = config.embedding_size, config.task_type_vocab_size
        self.token_embedding = embedding_table(config.vocab_size, width, dtype, normal, rngs)
        self.position_embedding = embedding_table(config.max_position_embeddings, width, dtype, normal, rngs)
        self.segment_embedding = embedding_table(config.type_vocab_size, width, dtype, normal, rngs)
        self.task_embedding = embedding_table(tasks, width, dtype, normal, rngs) if tasks else None
        self.embedding_norm = layer_norm(width, config.layer_norm_eps, dtype, rngs)
        # In float32 at least, as the embeddings are.
        exact = jnp.promote_types(dtype, jnp.float32)
        linear_map = partial(nnx.Linear, width, config.hidden_size, dtype=exact, kernel_init=normal, rngs=rngs)
        self.embedding_projection = None if config.narrow is None else linear_map()
        self.blocks = nnx.List(
            [Block.from_config(config, dtype, normal, rngs) for _ in range(config.num_hidden_layers)]
        )

    def __call__(
        self,
        token_ids_BL: jax.Array,
        mask_BL: jax.Array,
        segment_ids_BL: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> list[jax.Array]:
        """hidden_BLD of every layer, the input of the first block included.

        Args:
            token_ids_BL: rows of the token table; L is at most `config.max_positions`.
            mask_BL: True = real token; or mask_BQK, True where Q may attend to K (see attention.py).
            segment_ids_BL: 0 for the first text, 1 for the second (cross-encoders); None means all 0.
            dropout_keys_BL: one dropout key per token, None for inference.
            positions_BL: each token's position in its text, where a row holds several texts; None means 0, 1, 2, ...
        """
        L = token_ids_BL.shape[1]
        if positions_BL is None:
            position_BLD = self.position_embedding.embedding[:L]  # 0, 1, 2, ...: a slice of the table, no lookup
        else:
            position_BLD = self.position_embedding(positions_BL)
        if segment_ids_BL is None:
            segment_BLD = self.segment_embedding.embedding[0]
        else:
            segment_BLD = self.segment_embedding(segment_ids_BL)
        hidden_BLD = self.token_embedding(token_ids_BL) + position_BLD + segment_BLD
        if self.task_embedding is not None:
            hidden_BLD = hidden_BLD + self.task_embedding.embedding[0]
        hidden_BLD = self.embedding_norm(hidden_BLD)
        hidden_BLD = dropout(hidden_BLD, self.config.hidden_dropout_prob, fold(dropout_keys_BL, 0))
        if self.embedding_projection is not None:
            hidden_BLD = self.embedding_projection(hidden_BLD)
        hidden_IBLD = [hidden_BLD]
        for layer, block in enumerate(self.blocks, start=1):
            hidden_IBLD.append(block(hidden_IBLD[-1], mask_BL, dropout_keys_BL=fold(dropout_keys_BL, layer)))
        return hidden_IBLD


# Where each tensor of a BERT checkpoint goes: its name there, our path, our shape in letters (checkpoint/convert.py). {i} is
# the layer. Several names on the left are joined along the output axis: query, key, value -> qkv.
_LAYER = "encoder.layer.{i}."
RULES = [
    Rule("embeddings.word_embeddings.weight", "token_embedding.embedding", "V,E"),
    Rule("embeddings.position_embeddings.weight", "position_embedding.embedding", "P,E"),
    Rule("embeddings.token_type_embeddings.weight", "segment_embedding.embedding", "S,E"),
    Rule("embeddings.task_type_embeddings.weight", "task_embedding.embedding", "T,E", when="task_type_vocab_size"),
    *norm("embeddings.LayerNorm", "embedding_norm", "E"),
    Rule("embeddings_project.weight", "embedding_projection.kernel", "E,D", transpose=True, when="narrow"),
    Rule("embeddings_project.bias", "embedding_projection.bias", "D", when="narrow"),
    *linear(
        [_LAYER + f"attention.self.{part}" for part in ("query", "key", "value")], "blocks.{i}.attention.qkv", "D,3D"
    ),
    *linear(_LAYER + "attention.output.dense", "blocks.{i}.attention.output", "D,D"),
    *norm(_LAYER + "attention.output.LayerNorm", "blocks.{i}.attention_norm", "D"),
    *linear(_LAYER + "intermediate.dense", "blocks.{i}.feed_forward.up", "D,F"),
    *linear(_LAYER + "output.dense", "blocks.{i}.feed_forward.down", "F,D"),
    *norm(_LAYER + "output.LayerNorm", "blocks.{i}.feed_forward_norm", "D"),
]
# Other tensors of the same checkpoints: not computed, but written back.
PASSTHROUGH = ["embeddings.position_ids", "pooler.dense.*", "cls.*", "classifier.*"]
PREFIX = "bert."  # BertForMaskedLM and similar classes put it before every name
MODULE = TRANSFORMER  # its module in a sentence-transformers folder
