"""The cross-encoder as one flax module: two texts in one row of tokens -> transformer -> head -> logits.

    [CLS] A [SEP] B [SEP] -> hidden_BLD -> hidden vector of the first token -> head -> logits_BC
                                        -> pooling -> Dense, LayerNorm, ... -> logits_BC

Devlin et al. 2019, section 4.1 (sentence pair classification); Nogueira & Cho 2019 for ranking. Every token of A attends
to every token of B, which the bi-encoder of sentence_model.py cannot do: more accurate, at one forward pass per pair. The
encoder is the same one. The head is the family's own (heads.py), or the modules of the folder (modules.py).
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.checkpoint.modules import Module
from minisbert.cross_encoder.heads import Head, HeadConfig
from minisbert.encoders import FAMILIES
from minisbert.model_config import sentence_embedding, token_embeddings
from minisbert.modules import abstract
from minisbert.pooling import pool
from minisbert.sentence_model import heads_of, packed_masks
from minisbert.text.packing import PackedTexts
from minisbert.transformer import tpu
from minisbert.transformer.dropout import fold
from minisbert.transformer.target import widened


@dataclass(frozen=True)
class CrossEncoderConfig:
    """The parts of the model: an encoder family with its Config, then its own head or a chain of modules, with C labels."""

    model_type: str
    encoder: Any
    num_labels: int
    head: HeadConfig = field(default_factory=HeadConfig)
    segments: bool = True  # the second text is segment 1; else all is segment 0
    modules: tuple[Module, ...] = ()  # pooling and so on, up to a Dense with C outputs; they replace the head


class CrossEncoderModel(nnx.Module):
    """token ids of pairs -> logits_BC."""

    def __init__(self, model_config: CrossEncoderConfig, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        self.model_config, self.dtype = model_config, jnp.dtype(dtype)
        self.encoder = FAMILIES[model_config.model_type].Encoder(model_config.encoder, dtype=dtype, rngs=rngs)
        if model_config.modules:
            self.heads = heads_of(model_config.modules, rngs)
        else:
            self.head = Head(model_config, dtype=dtype, rngs=rngs)

    def __call__(self, token_ids_BL: jax.Array, lengths_B: jax.Array, first_lengths_B: jax.Array) -> jax.Array:
        """Logits of a batch of pairs, one pair per row, padded on the right.

        Args:
            token_ids_BL: token ids; beyond a row's length they are padding and are ignored.
            lengths_B: how many tokens of each row are real.
            first_lengths_B: how many of them belong to the first text (segment 0); the others are segment 1, if there are any.
        """
        position_L = jnp.arange(token_ids_BL.shape[1])
        mask_BL = position_L < lengths_B[:, None]
        segment_ids_BL = self._segments(position_L >= first_lengths_B[:, None])
        hidden_IBLD = tpu.encode(self.encoder, self.dtype, token_ids_BL, mask_BL, segment_ids_BL=segment_ids_BL)
        return self._logits(hidden_IBLD, mask_BL[:, None])[:, 0]

    def packed(self, rows: PackedTexts, dropout_keys_PT: jax.Array | None = None) -> jax.Array:
        """logits_PTC of packed rows (text/packing.py), as if each pair had its own row; empty slots are meaningless.

        Args:
            dropout_keys_PT: one dropout key per pair; None means inference.
        """
        attention_mask_PQK, mask_PTL, keys_PL = packed_masks(rows, dropout_keys_PT)
        slot_PL = jnp.maximum(jnp.asarray(rows.segmentation_PL), 0)
        first_length_PL = jnp.take_along_axis(jnp.asarray(rows.first_lengths_PT), slot_PL, axis=1)
        segment_ids_PL = self._segments(rows.position_PL >= first_length_PL)
        per_token = {"segment_ids_BL": segment_ids_PL, "dropout_keys_BL": keys_PL, "positions_BL": rows.position_PL}
        hidden_IPLD = tpu.encode(self.encoder, self.dtype, rows.token_ids_PL, attention_mask_PQK, **per_token)
        # The encoder's dropout has folded 0 (embeddings) to `num_hidden_layers` into the keys.
        keys_PT = fold(dropout_keys_PT, self.model_config.encoder.num_hidden_layers + 1)
        return self._logits(hidden_IPLD, mask_PTL, keys_PT, rows.position_PL)

    def _segments(self, second_BL: jax.Array) -> jax.Array | None:
        return second_BL.astype(jnp.int32) if self.model_config.segments else None

    def _logits(
        self,
        hidden_IBLD: list[jax.Array],
        mask_BTL: jax.Array,
        keys_BT: jax.Array | None = None,
        positions_BL: jax.Array | None = None,
    ) -> jax.Array:
        """logits_BTC of T pairs per row, each with its own mask."""
        modules = self.model_config.modules
        if not modules:
            pooling = self.model_config.head.pooling
            return self.head(pool(widened(hidden_IBLD[-1]), mask_BTL, [pooling], positions_BL), keys_BT)
        token_BLD = token_embeddings(modules, list(self.heads), hidden_IBLD)
        return sentence_embedding(modules, list(self.heads), token_BLD, mask_BTL, mask_BTL, positions_BL)


@cache
def define_cross_encoder(
    model_config: CrossEncoderConfig, dtype: Any = jnp.float32
) -> tuple[nnx.GraphDef[Any], dict[Any, Any]]:
    """flax's definition of the model, and the nested dict of its parameters' shapes, as `sentence_model.define`."""
    return abstract(lambda rngs: CrossEncoderModel(model_config, dtype=dtype, rngs=rngs))


def initial_head(model_config: CrossEncoderConfig, seed: int) -> dict[Any, Any]:
    """The parameters of an untrained head: normal matrices of scale `initializer_range`, zero biases."""
    head = Head(model_config, dtype=jnp.float32, rngs=nnx.Rngs(seed))
    return nnx.to_pure_dict(nnx.state(head))
