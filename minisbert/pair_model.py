"""The cross-encoder as one module: two texts in one row of tokens -> transformer -> head -> logits.

    [CLS] A [SEP] B [SEP] -> hidden_BLD -> hidden vector of the first token -> logits_BC

Devlin et al. 2019, section 4.1 (sentence pair classification); Nogueira & Cho 2019 for ranking. Every token of A sees
every token of B, which the bi-encoder of sentence_model.py cannot: more exact, and one forward pass for each pair. The
encoder is the same; the head stands in its family's file.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from minisbert.definition import without_numbers
from minisbert.encoders import FAMILIES
from minisbert.text.packing import PackedTexts
from minisbert.transformer.dropout import fold, packed_token_keys


@dataclass(frozen=True)
class PairDesign:
    """What the model consists of: an encoder family with its Config, and a head with C labels."""

    model_type: str
    config: Any
    num_labels: int
    classifier_dropout: float | None = None  # None: the rate of the hidden layers


class PairModel(nnx.Module):
    """token ids of pairs -> logits_BC."""

    def __init__(self, design: PairDesign, *, dtype=jnp.float32, rngs: nnx.Rngs):
        family = FAMILIES[design.model_type]
        self.design = design
        self.encoder = family.Encoder(design.config, dtype=dtype, rngs=rngs)
        self.head = family.Head(design.config, design.num_labels, design.classifier_dropout, dtype=dtype, rngs=rngs)

    def __call__(self, token_ids_BL: jax.Array, lengths_B: jax.Array, first_lengths_B: jax.Array) -> jax.Array:
        """Logits of a batch of pairs, a pair a row, padded on the right.

        Args:
            token_ids_BL: token ids; beyond a row's length they are padding and count for nothing.
            lengths_B: how many tokens of each row are real.
            first_lengths_B: how many of them belong to the first text (segment 0); the others are segment 1.
        """
        position_L = jnp.arange(token_ids_BL.shape[1])
        mask_BL = position_L < lengths_B[:, None]
        segment_ids_BL = (position_L >= first_lengths_B[:, None]).astype(jnp.int32)
        hidden_BLD = self.encoder(token_ids_BL, mask_BL, segment_ids_BL)
        return self.head(hidden_BLD[:, :1])[:, 0]

    def packed(self, rows: PackedTexts, keys_PT: jax.Array | None = None) -> jax.Array:
        """Logits of packed rows (text/packing.py), logits_PTC, as if each pair stood alone; empty slots are meaningless.

        Args:
            keys_PT: one dropout key per pair; None means inference.
        """
        slots_PL = jnp.asarray(rows.slots_PL)
        looks_PQK = slots_PL[:, :, None] == slots_PL[:, None, :]
        keys_PL = None if keys_PT is None else packed_token_keys(keys_PT, slots_PL, rows.positions_PL)
        first_length_PL = jnp.take_along_axis(jnp.asarray(rows.first_lengths_PT), jnp.maximum(slots_PL, 0), axis=1)
        segment_ids_PL = (rows.positions_PL >= first_length_PL).astype(jnp.int32)
        hidden_PLD = self.encoder(rows.token_ids_PL, looks_PQK, segment_ids_PL, keys_PL, rows.positions_PL)
        first_PT = jnp.cumsum(rows.lengths_PT, axis=1) - rows.lengths_PT  # where in its row a pair begins
        first_PT = jnp.minimum(first_PT, slots_PL.shape[1] - 1)
        first_PTD = jnp.take_along_axis(hidden_PLD, first_PT[:, :, None], axis=1)
        # The encoder's dropout has folded 0 (embeddings) to `num_hidden_layers` into the keys.
        return self.head(first_PTD, fold(keys_PT, self.design.config.num_hidden_layers + 1))


def define_pair(design: PairDesign, dtype=jnp.float32) -> tuple[nnx.GraphDef, dict[Any, Any]]:
    """The model without its numbers, as `sentence_model.define`: flax's definition, and the tree of parameter shapes."""
    return _define(design, jnp.dtype(dtype))


@cache
def _define(design: PairDesign, dtype: jnp.dtype) -> tuple[nnx.GraphDef, dict[Any, Any]]:
    return without_numbers(lambda rngs: PairModel(design, dtype=dtype, rngs=rngs))


def initial_head(design: PairDesign, seed: int) -> dict[Any, Any]:
    """A head before any training: matrices normal with the config's `initializer_range`, biases 0."""
    family = FAMILIES[design.model_type]
    head = family.Head(
        design.config, design.num_labels, design.classifier_dropout, dtype=jnp.float32, rngs=nnx.Rngs(seed)
    )
    return nnx.to_pure_dict(nnx.state(head))
