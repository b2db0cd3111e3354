"""The whole model as one module: tokens -> encoder -> pooling -> Dense, LayerNorm, Normalize -> sentence embedding.

This is the bi-encoder of SBERT (Reimers & Gurevych 2019, figure 2). `SentenceEncoder` adds the tokenizer; training
differentiates it. A `ModelConfig` (model_config.py) lists its parts.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from minisbert.checkpoint.modules import Module
from minisbert.encoders import FAMILIES
from minisbert.errors import InputError
from minisbert.model_config import Embeddings, ModelConfig, sentence_embedding, token_embeddings
from minisbert.modules import HEADS, abstract
from minisbert.text.packing import PackedTexts
from minisbert.transformer import tpu
from minisbert.transformer.dropout import token_keys
from minisbert.transformer.target import widened


class SentenceModel(nnx.Module):
    """token ids -> `Embeddings`; the one set of weights that a siamese network uses for every text."""

    def __init__(self, model_config: ModelConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.model_config, self.dtype = model_config, jnp.dtype(dtype)
        self.encoder = FAMILIES[model_config.model_type].Encoder(model_config.encoder, dtype=dtype, rngs=rngs)
        self.heads = heads_of(model_config.modules, rngs)

    def __call__(
        self,
        token_ids_BL: jax.Array,
        lengths_B: jax.Array,
        prompt_length: jax.Array | int = 0,
        dropout_keys_B: jax.Array | None = None,
        all_layers: bool = False,
    ) -> Embeddings:
        """Embed a batch of texts, one per row, padded on the right.

        Args:
            token_ids_BL: token ids; those beyond a row's length are padding and never count.
            lengths_B: how many tokens of each row are real; 0 makes a row of padding (its embedding is meaningless).
            prompt_length: tokens of a prompt to leave out of the pooling, for models trained that way.
            dropout_keys_B: one dropout key per text; None means inference.
            all_layers: give token_BLID, those of I layers, the input of the first block first, in place of token_BLD.
        """
        position_L = jnp.arange(token_ids_BL.shape[1])
        mask_BL = position_L < lengths_B[:, None]
        dropout_keys_BL = None
        if dropout_keys_B is not None:
            dropout_keys_BL = token_keys(*jnp.broadcast_arrays(dropout_keys_B[:, None], position_L))
        hidden_IBLD = tpu.encode(self.encoder, self.dtype, token_ids_BL, mask_BL, dropout_keys_BL=dropout_keys_BL)
        token_BLD = self._token_embeddings(hidden_IBLD)
        sentence_BD = self.embed(token_BLD, mask_BL, mask_BL & (position_L >= prompt_length))
        return Embeddings(jnp.stack([*map(widened, hidden_IBLD)], axis=2) if all_layers else token_BLD, sentence_BD)

    def tokens(self, token_ids_BL: jax.Array, mask_BL: jax.Array) -> jax.Array:
        """Token embeddings without dropout, hidden_BLD: the encoder's last layer, or a weighted mean of its layers."""
        return self._token_embeddings(self.encoder(token_ids_BL, mask_BL))

    def _token_embeddings(self, hidden_IBLD: list[jax.Array]) -> jax.Array:
        return token_embeddings(self.model_config.modules, list(self.heads), hidden_IBLD)

    def packed(
        self, rows: PackedTexts, dropout_keys_PT: jax.Array | None = None, embeds: str = "sentences"
    ) -> jax.Array:
        """Embed packed rows (text/packing.py): sentence_PTD, as if each text were alone; empty slots are meaningless.

        Args:
            dropout_keys_PT: one dropout key per text; None means inference.
            embeds: "sentences"; "layers" gives layers_PTID, the sentence embedding of every layer, the token embeddings first;
                "tokens" gives token_PTLD, each text's token embeddings, zeros after its end.
        """
        # A static model pools nothing to the zero vector with gradient 0, as an empty text does.
        fill = not self.model_config.is_static
        attention_mask_PQK, mask_PTL, keys_PL = packed_masks(rows, dropout_keys_PT, fill)
        positions = {"dropout_keys_BL": keys_PL, "positions_BL": rows.position_PL}
        hidden_IPLD = tpu.encode(self.encoder, self.dtype, rows.token_ids_PL, attention_mask_PQK, **positions)
        if embeds == "tokens":
            return tokens_per_text(self._token_embeddings(hidden_IPLD), rows.lengths_PT)
        after_prompt_PTL = mask_PTL & (rows.position_PL[:, None] >= rows.prompts_PT[:, :, None])
        if embeds == "layers":
            if self.model_config.pools_layers:
                raise InputError("the model averages its layers. Expected one that pools its last layer.")
            layers = [self.embed(layer_PLD, mask_PTL, after_prompt_PTL, rows.position_PL) for layer_PLD in hidden_IPLD]
            return jnp.stack(layers, axis=2)
        return self.embed(self._token_embeddings(hidden_IPLD), mask_PTL, after_prompt_PTL, rows.position_PL)

    def embed(
        self,
        token_BLD: jax.Array,
        mask_BL: jax.Array,
        after_prompt_BL: jax.Array,
        positions_BL: jax.Array | None = None,
    ) -> jax.Array:
        """Token embeddings -> sentence_BD: pooling and the modules after it."""
        modules, heads = self.model_config.modules, list(self.heads)
        return sentence_embedding(modules, heads, token_BLD, mask_BL, after_prompt_BL, positions_BL)


def packed_masks(
    rows: PackedTexts, dropout_keys_PT: jax.Array | None, fill: bool = True
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Of packed rows: attention_mask_PQK, the mask_PTL of each text, and each token's dropout key.

    Args:
        fill: an empty slot pools the row's first token, since pooling nothing could give a gradient of NaN.
    """
    segmentation_PL = jnp.asarray(rows.segmentation_PL)
    T, L = rows.lengths_PT.shape[1], segmentation_PL.shape[1]
    mask_PTL = segmentation_PL[:, None] == jnp.arange(T)[:, None]
    if fill:
        mask_PTL |= (rows.lengths_PT == 0)[:, :, None] & (jnp.arange(L) == 0)
    keys_PL = None
    if dropout_keys_PT is not None:
        keys_PT = jnp.take_along_axis(dropout_keys_PT, jnp.maximum(segmentation_PL, 0), axis=1)
        keys_PL = token_keys(keys_PT, rows.position_PL)
    return segmentation_PL[:, :, None] == segmentation_PL[:, None, :], mask_PTL, keys_PL


def tokens_per_text(token_PLD: jax.Array, lengths_PT: jax.Array) -> jax.Array:
    """No pooling: token_PTLD, the tokens of each text of packed rows (text/packing.py), zeros after its end.

    Example:
        >>> tokens_per_text(jnp.arange(1.0, 4.0).reshape(1, 3, 1), jnp.array([[2, 1]]))[0, :, :, 0].tolist()
        [[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]]
    """
    place_L = jnp.arange(token_PLD.shape[1])
    starts_PT1 = (jnp.cumsum(lengths_PT, axis=1) - lengths_PT)[..., None]  # texts follow each other
    tokens_PTLD = jax.vmap(lambda token_LD, index_TL: token_LD[index_TL])(token_PLD, starts_PT1 + place_L)
    return jnp.where((place_L < lengths_PT[..., None])[..., None], tokens_PTLD, 0)


def heads_of(modules: Sequence[Module], rngs: nnx.Rngs) -> nnx.List[Any]:
    """The flax modules of those modules after the encoder that have weights, in order."""
    return nnx.List([HEADS[type(module)](module, rngs=rngs) for module in modules if type(module) in HEADS])


def define(model_config: ModelConfig, dtype: DTypeLike = jnp.float32) -> tuple[nnx.GraphDef[Any], dict[Any, Any]]:
    """The model without its parameters: flax's definition, and the tree of parameter shapes. Nothing is allocated.

    `nnx.merge(definition, params)` inside `jax.jit` or `jax.grad` gives the module back; `params` is a nested dict of
    arrays of these shapes.
    """
    return _define(model_config, jnp.dtype(dtype))


@cache
def _define(model_config: ModelConfig, dtype: jnp.dtype) -> tuple[nnx.GraphDef[Any], dict[Any, Any]]:
    return abstract(lambda rngs: SentenceModel(model_config, dtype=dtype, rngs=rngs))


def initial_params(model_config: ModelConfig, seed: int) -> dict[Any, Any]:
    """Random parameters, as before any training (normal with the config's `initializer_range`)."""
    model = SentenceModel(model_config, rngs=nnx.Rngs(seed))
    return nnx.to_pure_dict(nnx.state(model))
