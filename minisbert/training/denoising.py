"""TSDAE: a decoder that must write a text again from the sentence embedding of what is left of it (Wang et al. 2021).

    damaged   = the text without 60 % of its tokens               `damaged_batch`
    s         = embedding of damaged
    h         = Decoder(text, s), token by token: causal self-attention, cross-attention to s, feed-forward
    loss      = mean over the text's tokens of -log softmax(E norm(activation(W h + b)) + c)[next token]

The decoder is the encoder's architecture with a causal mask and a cross-attention in each block, and by default the encoder's
own weights ("tied", section 3). Cross-attention to a single vector is short: its softmax has one term, so every token gets
W_O (W_V s + b_V) + b_O, and W_Q and W_K have no effect. Definitions and reductions are those of sentence-transformers 6
(`DenoisingAutoEncoderLoss`), against which they are tested; `reference/denoising.py` has them in NumPy and must agree.

Left out: dropout in the decoder, decoders of another family than the encoder, and a pretrained head for masked words.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minisbert.errors import InputError
from minisbert.text.packing import packed_shape
from minisbert.training.collate import batch_arrays
from minisbert.training.siamese import TrainBatch
from minisbert.training.targets import Targets, texts
from minisbert.transformer.products import product

if TYPE_CHECKING:
    from minisbert.data.sampler import Batch
    from minisbert.text.tokenizer import Tokenizer

NAME = "denoising_auto_encoder"


def denoising_auto_encoder(
    embeddings_SBD: jax.Array, targets: Targets, head: Any = None, *, tie: bool = True, deletion: float = 0.6
) -> jax.Array:
    """Denoising auto-encoder (TSDAE): the mean of -log p(token | tokens before it, sentence embedding of the damaged text).

    Needs: `tokens_BL` of the whole texts, which `damaged_batch` makes; `head` from `initial_decoder`, with the model. The data
        has one text per row, of which the share `deletion` of the tokens is deleted, or the damaged and the whole text.
        `tie` shares the encoder's weights with the decoder; otherwise the decoder starts as a copy of them.
    Use when: there are texts of the domain and nothing else.
    See also: `contrastive_tension_in_batch`, and SimCSE (`multiple_negatives_ranking` of a column named twice).

    Shapes: embeddings `[S, B, D]`, of which the first text counts -> scalar.
    """
    # Without the barrier a TPU's compiler merges the choice of a text with a sum over devices, and ends in an internal error.
    sentence_BD = texts(NAME, jax.lax.optimization_barrier(embeddings_SBD), 1, 2)[0]
    tokens_BL = targets.tokens_BL
    if not head or tokens_BL is None:
        raise InputError(f"{NAME}: the decoder or targets.tokens_BL is missing. Expected a run of the trainer.")
    encoder = head["model"].encoder
    if not tie:
        encoder = nnx.merge(nnx.graphdef(encoder), head["encoder"])
    first, table_VD = encoder.blocks[0], encoder.token_embedding.embedding[...]
    activation = first.feed_forward.activation
    dtype = first.feed_forward.up.dtype
    epsilon = first.attention_norm.epsilon
    hidden_BLD = decode(encoder, head["cross"], sentence_BD, tokens_BL[:, :-1])
    hidden_BLD = _norm(activation(_linear(hidden_BLD, head["transform"])), head["norm"], epsilon)
    logits_BLV = product("BLD,VD->BLV", hidden_BLD.astype(dtype), table_VD.astype(dtype)) + head["bias"]
    next_BL = tokens_BL[:, 1:]
    chosen_BL = jnp.take_along_axis(logits_BLV, jnp.maximum(next_BL, 0)[..., None], axis=-1)[..., 0]
    surprise_BL = jax.nn.logsumexp(logits_BLV, axis=-1) - chosen_BL
    return jnp.sum(surprise_BL, where=next_BL >= 0) / jnp.maximum(jnp.sum(next_BL >= 0), 1)


def decode(encoder: Any, cross: Any, sentence_BD: jax.Array, tokens_BL: jax.Array) -> jax.Array:
    """hidden_BLD of the last layer: the encoder with a causal mask, whose blocks see the sentence embedding too."""
    for i, block in enumerate(encoder.blocks):
        encoder.blocks[i] = DecoderBlock(block, cross[i], sentence_BD)
    L = tokens_BL.shape[1]
    # Padding is at the end, where no real token attends.
    causal_BQK = jnp.broadcast_to(jnp.tril(jnp.ones((L, L), bool)), (len(tokens_BL), L, L))
    hidden_BLD: jax.Array = encoder(jnp.maximum(tokens_BL, 0), causal_BQK)[-1]
    return hidden_BLD


class DecoderBlock:
    """A post-norm block with cross-attention to one vector between its self-attention and its feed-forward net."""

    def __init__(self, block: Any, cross: Any, sentence_BD: jax.Array):
        self.block, self.cross = block, cross
        self.context_B1D = _linear(_linear(sentence_BD, cross["value"]), cross["output"])[:, None]

    def __call__(self, hidden_BLD: jax.Array, mask_BQK: jax.Array, *positions: Any, dropout_keys_BL: Any = None) -> Any:
        block = self.block
        hidden_BLD = block.attention_norm(hidden_BLD + block.attention(hidden_BLD, mask_BQK, *positions))
        hidden_BLD = _norm(hidden_BLD + self.context_B1D, self.cross["norm"], block.attention_norm.epsilon)
        return block.feed_forward_norm(hidden_BLD + block.feed_forward(hidden_BLD))


def _linear(x: jax.Array, params: Any) -> jax.Array:
    return x @ params["kernel"] + params["bias"]


def _norm(x_BLD: jax.Array, params: Any, epsilon: float) -> jax.Array:
    """Layer norm (Ba et al. 2016)."""
    centered_BLD = x_BLD - x_BLD.mean(axis=-1, keepdims=True)
    variance_BL1 = jnp.mean(centered_BLD**2, axis=-1, keepdims=True)
    return centered_BLD * jax.lax.rsqrt(variance_BL1 + epsilon) * params["scale"] + params["bias"]


def initial_decoder(
    key: jax.Array, dimension: int, classes: int, *, params: Any, tie: bool = True, deletion: float = 0.6
) -> Any:
    """What the decoder has besides the encoder's weights: cross-attention, and the head of the vocabulary.

    Args:
        dimension: of the sentence embeddings.
        params: of the model.

    Raises:
        InputError: a model without such blocks, or whose sentence embeddings are not as wide as its blocks.
    """
    encoder = params["encoder"]
    blocks, table = encoder.get("blocks", {}), encoder.get("token_embedding")
    if table is None:
        raise InputError(
            f"{NAME}: the model has no token_embedding. Expected one with BERT's names; choose another loss."
        )
    V, D = table["embedding"].shape
    if not blocks or "final_norm" in encoder or dimension != D:  # which pre-norm blocks need, and post-norm ones do not
        raise InputError(
            f"{NAME}: the model has {len(blocks)} blocks, token embeddings of width {D} and sentence embeddings of width "
            f"{dimension}. Expected equal widths and post-norm blocks (BERT, RoBERTa, DistilBERT, MPNet); choose another loss."
        )
    keys = iter(jax.random.split(key, 2 * len(blocks) + 1))

    def linear() -> Any:
        return {"kernel": 0.02 * jax.random.normal(next(keys), (D, D)), "bias": jnp.zeros(D)}

    def norm() -> Any:
        return {"scale": jnp.ones(D), "bias": jnp.zeros(D)}

    cross = {i: {"value": linear(), "output": linear(), "norm": norm()} for i in range(len(blocks))}
    head: Any = {"cross": cross, "transform": linear(), "norm": norm(), "bias": jnp.zeros(V)}
    return head if tie else head | {"encoder": jax.tree.map(jnp.copy, encoder)}


def damaged_batch(
    batch: "Batch",
    tokenizer: "Tokenizer",
    *,
    max_length: int,
    padding_id: int,
    multiple: int = 1,
    deletion: float = 0.6,
    **_: Any,  # no prompts, and what the decoder is
) -> tuple[TrainBatch, int]:
    """The arrays of one step: damaged texts to embed, and the tokens of the whole ones. Arguments as for `collate.train_batch`.

    Raises:
        InputError: a `deletion` that is not a share.
    """
    if not 0 <= deletion < 1:
        raise InputError(f"{NAME}: deletion is {deletion}. Expected a share from 0 to below 1.")
    *given, whole = [tokenizer.tokenize(column, max_length=max_length, exact=False) for column in batch.texts]
    if given:
        damaged = given[0].ids
    else:
        first, last = len(tokenizer.prefix), len(tokenizer.suffix)
        damaged = []
        for row, ids in zip(batch.rows_B.tolist(), whole.ids, strict=True):
            content = np.array(ids[first : len(ids) - last], np.int64)
            draws = np.random.default_rng((batch.dataset, batch.epoch, row)).random(len(content))
            # At least one token stays: the one with the largest draw.
            kept = content[(draws >= deletion) | (draws == draws.max(initial=0))]
            damaged.append([*ids[:first], *kept.tolist(), *ids[len(ids) - last :]])
    arrays = batch_arrays(batch, damaged, padding_id=padding_id, multiple=multiple)
    # As long as the packed rows, so that a step has one length.
    L = packed_shape(1, max(map(len, [*damaged, *whole.ids])))[1]
    arrays = arrays.pad_to(len(arrays.examples_PT), L, padding_id)
    tokens_BL = np.array([ids + [-1] * (L - len(ids)) for ids in whole.ids], np.int32)
    return arrays._replace(targets=arrays.targets._replace(tokens_BL=tokens_BL)), whole.truncated
