"""The cross-encoder as one flax module: two texts in one row of tokens -> transformer -> head -> logits.

    [CLS] A [SEP] B [SEP] -> hidden_BLD -> hidden vector of the first token -> logits_BC

Devlin et al. 2019, section 4.1 (sentence pair classification); Nogueira & Cho 2019 for ranking. Every token of A attends
to every token of B, which the bi-encoder of sentence_model.py cannot do: more accurate, at one forward pass per pair. The
encoder is the same one; the head is in heads.py.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.cross_encoder.heads import Head
from minisbert.encoders import FAMILIES
from minisbert.modules import abstract
from minisbert.text.packing import PackedTexts
from minisbert.transformer.dropout import fold, packed_token_keys


@dataclass(frozen=True)
class CrossEncoderConfig:
    """The parts of the model: an encoder family with its Config, and a head with C labels."""

    model_type: str
    encoder: Any
    num_labels: int
    classifier_dropout: float | None = None  # None: the rate of the hidden layers


class CrossEncoderModel(nnx.Module):
    """token ids of pairs -> logits_BC."""

    def __init__(self, model_config: CrossEncoderConfig, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        self.model_config = model_config
        self.encoder = FAMILIES[model_config.model_type].Encoder(model_config.encoder, dtype=dtype, rngs=rngs)
        self.head = Head(model_config, dtype=dtype, rngs=rngs)

    def __call__(self, token_ids_BL: jax.Array, lengths_B: jax.Array, first_lengths_B: jax.Array) -> jax.Array:
        """Logits of a batch of pairs, one pair per row, padded on the right.

        Args:
            token_ids_BL: token ids; beyond a row's length they are padding and are ignored.
            lengths_B: how many tokens of each row are real.
            first_lengths_B: how many of them belong to the first text (segment 0); the others are segment 1.
        """
        position_L = jnp.arange(token_ids_BL.shape[1])
        mask_BL = position_L < lengths_B[:, None]
        segment_ids_BL = (position_L >= first_lengths_B[:, None]).astype(jnp.int32)
        hidden_BLD = self.encoder(token_ids_BL, mask_BL, segment_ids_BL)[-1]
        return self.head(hidden_BLD[:, :1])[:, 0]

    def packed(self, rows: PackedTexts, dropout_keys_PT: jax.Array | None = None) -> jax.Array:
        """logits_PTC of packed rows (text/packing.py), as if each pair had its own row; empty slots are meaningless.

        Args:
            dropout_keys_PT: one dropout key per pair; None means inference.
        """
        segmentation_PL = jnp.asarray(rows.segmentation_PL)
        attention_mask_PQK = segmentation_PL[:, :, None] == segmentation_PL[:, None, :]
        dropout_keys_PL = (
            None if dropout_keys_PT is None else packed_token_keys(dropout_keys_PT, segmentation_PL, rows.position_PL)
        )
        first_length_PL = jnp.take_along_axis(
            jnp.asarray(rows.first_lengths_PT), jnp.maximum(segmentation_PL, 0), axis=1
        )
        segment_ids_PL = (rows.position_PL >= first_length_PL).astype(jnp.int32)
        hidden_PLD = self.encoder(
            rows.token_ids_PL, attention_mask_PQK, segment_ids_PL, dropout_keys_PL, rows.position_PL
        )[-1]
        start_PT = jnp.cumsum(rows.lengths_PT, axis=1) - rows.lengths_PT  # where in its row a pair begins
        start_PT = jnp.minimum(start_PT, segmentation_PL.shape[1] - 1)
        first_PTD = jnp.take_along_axis(hidden_PLD, start_PT[:, :, None], axis=1)
        # The encoder's dropout has folded 0 (embeddings) to `num_hidden_layers` into the keys.
        return self.head(first_PTD, fold(dropout_keys_PT, self.model_config.encoder.num_hidden_layers + 1))


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
