"""Attention maps: how much each token takes from each other one, in every layer and head of a model.

    sentence_attention(encoder, "a man eats").weights_YNQK[5, 3]                       # layer 6, head 4
    cross_encoder_attention(cross_encoder, "a man eats", "someone has a meal")         # both texts read together

The weights are those of transformer/attention.py: `attention_weights`. They show where a layer attends, not why (Jain & Wallace
2019, "Attention is not Explanation"; Wiegreffe & Pinter 2019 reply).
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minisbert.arguments import check_text, prompt_text
from minisbert.cross_encoder.encoder import CrossEncoder
from minisbert.cross_encoder.model import define_cross_encoder
from minisbert.errors import InputError, short_repr
from minisbert.explain.attribution import token_texts
from minisbert.inference.batching import rectangle
from minisbert.inference.compiled import COMPUTE_DTYPES, x64_for
from minisbert.inference.engines import need_jax
from minisbert.plain import RecordedAttention
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.sentence_model import define


class Attention(NamedTuple):
    """How much each query token takes from each key token, in every layer and head; rows sum to 1."""

    tokens: tuple[str, ...]
    weights_YNQK: np.ndarray  # float32; Y layers, N heads


def sentence_attention(encoder: SentenceEncoder, text: str) -> Attention:
    """The attention maps of one text, with the model's default prompt before it.

    Raises:
        InputError: not a SentenceEncoder, a static model, or not text.

    Example:
        >>> found = sentence_attention(SentenceEncoder.load("weights/tiny-bert"), "a cat")
        >>> found.tokens, found.weights_YNQK.shape
        (('[CLS]', 'a', 'cat', '[SEP]'), (2, 4, 4, 4))
    """
    if not isinstance(encoder, SentenceEncoder):
        raise InputError(
            f"encoder is {short_repr(encoder)}. Expected a SentenceEncoder; for pairs use cross_encoder_attention."
        )
    need_jax(encoder, "show its attention")
    encoder = encoder.route()
    if not encoder.model_config.encoder.num_hidden_layers:
        raise InputError("the model is static and has no attention. Expected a transformer; use another model.")
    check_text("text", text)
    prompt = prompt_text(None, None, encoder.prompts, encoder.default_prompt_name)
    (ids,) = encoder.tokenizer.tokenize([text], max_length=encoder.max_seq_length, prompt=prompt).ids
    definition, _ = define(encoder.model_config, COMPUTE_DTYPES[encoder.compute_dtype])
    return Attention(token_texts(encoder.tokenizer.backend, ids), _weights(encoder, definition, ids, len(ids)))


def cross_encoder_attention(model: CrossEncoder, a: str, b: str) -> Attention:
    """The attention maps of two texts that a cross-encoder reads in one row: tokens of a attend to tokens of b.

    Raises:
        InputError: not a CrossEncoder, or not text.

    Example:
        >>> cross_encoder_attention(CrossEncoder.from_encoder("weights/tiny-bert"), "a cat", "a dog").tokens
        ('[CLS]', 'a', 'cat', '[SEP]', 'a', 'dog', '[SEP]')
    """
    if not isinstance(model, CrossEncoder):
        raise InputError(f"model is {short_repr(model)}. Expected a CrossEncoder; for one text use sentence_attention.")
    check_text("a", a)
    check_text("b", b)
    tokens = model.tokenize([(a, b)])
    (ids,), (first_length,) = tokens.ids, tokens.first_lengths
    first_length = first_length if model.model_config.segments else len(ids)
    definition, _ = define_cross_encoder(model.model_config, COMPUTE_DTYPES[model.compute_dtype])
    texts = token_texts(model.tokenizer.tokenizer.backend, ids)
    return Attention(texts, _weights(model, definition, ids, first_length))


def _weights(model: Any, definition: Any, ids: Sequence[int], first_length: int) -> np.ndarray:
    """weights_YNQK of one row of tokens, segment 0 up to `first_length`."""
    L = model.shapes.length(len(ids), model.max_positions)
    batch = rectangle([(0, ids)], 1, L, model.padding_id)
    with x64_for(COMPUTE_DTYPES[model.compute_dtype]):
        weights_YNQK = _compiled(definition, model.compute_dtype)(
            model.forward.cast(model.params), batch.token_ids_BL, batch.lengths_B, np.int32(first_length)
        )
    return np.asarray(weights_YNQK)[:, :, : len(ids), : len(ids)]


@cache
def _compiled(definition: Any, compute_dtype: str) -> Callable[..., jax.Array]:
    """The encoder of a model of any family, run for its attention weights."""

    @jax.jit
    def weights(params: Any, token_ids_BL: jax.Array, lengths_B: jax.Array, first_length: jax.Array) -> jax.Array:
        encoder = nnx.merge(definition, params).encoder
        seen: list[jax.Array] = []
        for block in encoder.blocks:  # ALBERT has one block, which runs once per layer
            block.attention = RecordedAttention(getattr(block, "attention", None), seen)
        position_BL = jnp.arange(token_ids_BL.shape[1])[None]
        with jax.default_matmul_precision("default" if compute_dtype == "bfloat16" else "highest"):
            mask_BL = position_BL < lengths_B[:, None]
            # Padding is segment 0: a family may have no row for another.
            encoder(token_ids_BL, mask_BL, ((position_BL >= first_length) & mask_BL).astype(jnp.int32))
        return jnp.concatenate(seen)  # each has one row

    return weights
