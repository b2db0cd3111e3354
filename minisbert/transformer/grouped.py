"""The layer of today's language models: RMS norm, grouped queries, rotary positions, a gated feed-forward net.

    a      = x + MultiHead(Norm(x))                      queries and keys rotated; several query heads share a key head
    output = a + FFN(Norm(a)),                           FFN(a) = W_2 (activation(W_1 a) * V a)
    Norm(x) = x / sqrt(mean(x^2) + epsilon) * scale      Zhang & Sennrich 2019, "Root Mean Square Layer Normalization"

Grouped queries: Ainslie et al. 2023, "GQA". Queries and keys may have norms of their own (Henry et al. 2020, "Query-Key
Normalization for Transformers"; Qwen3, Gemma 3), and each sublayer one after it (Gemma 2). T5 has the same layer with a
learned bias in place of rotary positions, and in some versions a plain feed-forward net. `transformer/prenorm.py` has the
gated one and the windows. `reference/grouped.py` is the same in NumPy and must agree.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minisbert.transformer.attention import SelfAttention
from minisbert.transformer.block import FeedForward
from minisbert.transformer.positions import rotate
from minisbert.transformer.prenorm import GatedFeedForward, PreNormBlock
from minisbert.transformer.products import Linear
from minisbert.transformer.target import widened


def rms_norm(x_BLD: jax.Array, scale_D: jax.Array, epsilon: float) -> jax.Array:
    """x / sqrt(mean(x^2) + epsilon) * scale over the last axis (Zhang & Sennrich 2019, equation 4).

    Example:
        >>> np.asarray(rms_norm(jnp.array([3.0, 4.0]), jnp.array([1.0, 2.0]), epsilon=0.0)).round(3)
        array([0.849, 2.263], dtype=float32)
    """
    return x_BLD * jax.lax.rsqrt(jnp.mean(x_BLD * x_BLD, axis=-1, keepdims=True) + epsilon) * scale_D


class RMSNorm(nnx.Module):
    """`rms_norm` in float32 at least. The scale is `offset` plus the parameter, which starts where the scale is 1."""

    def __init__(self, width: int, epsilon: float, *, offset: float = 0.0):
        self.epsilon, self.offset = epsilon, offset
        self.scale = nnx.Param(jnp.full(width, 1.0 - offset))

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        scale_D = self.scale[...]
        return rms_norm(widened(x_BLD), scale_D if self.offset == 0.0 else scale_D + self.offset, self.epsilon)


@dataclass(frozen=True)
class Shape:
    """The sizes and kinds of a layer."""

    width: int
    heads: int  # of queries
    key_heads: int  # of keys and values; each serves heads / key_heads query heads
    head_width: int
    inner_width: int
    activation: str
    epsilon: float
    attention_dropout: float = 0.0
    qkv_bias: bool = False
    output_bias: bool = False
    query_key_norm: bool = False
    scale: float | None = None  # of the scores; None: 1 / sqrt(head_width)
    norm_offset: float = 0.0
    norms_after: bool = False  # another norm after each sublayer
    gated: bool = True  # the feed-forward net
    hidden_dropout: float = 0.0  # of what each sublayer adds, and of the inner values of the feed-forward net


class GroupedAttention(SelfAttention):
    """Self-attention with rotary positions and fewer key heads than query heads."""

    def __init__(self, shape: Shape, **options: Any):
        """`options` are those of `Linear`: dtype, kernel_init, rngs."""
        self.shape, self.scale, self.dropout_rate = shape, shape.scale, shape.attention_dropout
        queries, keys = shape.heads * shape.head_width, shape.key_heads * shape.head_width
        self.query = Linear(shape.width, queries, use_bias=shape.qkv_bias, **options)
        self.key_value = Linear(shape.width, 2 * keys, use_bias=shape.qkv_bias, **options)
        self.output = Linear(queries, shape.width, use_bias=shape.output_bias, **options)
        norm = partial(RMSNorm, shape.head_width, shape.epsilon, offset=shape.norm_offset)
        self.query_norm = norm() if shape.query_key_norm else None
        self.key_norm = norm() if shape.query_key_norm else None

    def project(
        self, hidden_BLD: jax.Array, angles: tuple[np.ndarray, np.ndarray] | None, bias_NQK: jax.Array | None = None
    ) -> Any:
        """Arguments as for `prenorm.RotarySelfAttention`; no `angles` for T5. Each key head is there once per query head."""
        shape, (B, L, _) = self.shape, hidden_BLD.shape
        query_BLNH = self.query(hidden_BLD).reshape(B, L, shape.heads, shape.head_width)
        pair_BLGH = self.key_value(hidden_BLD).reshape(B, L, 2, shape.key_heads, shape.head_width)
        key_BLGH, value_BLGH = pair_BLGH[:, :, 0], pair_BLGH[:, :, 1]
        if self.query_norm is not None and self.key_norm is not None:
            query_BLNH, key_BLGH = self.query_norm(query_BLNH), self.key_norm(key_BLGH)
        query_BNLH, key_BGLH, value_BGLH = (jnp.transpose(x, (0, 2, 1, 3)) for x in (query_BLNH, key_BLGH, value_BLGH))
        if angles is not None:
            query_BNLH, key_BGLH = rotate(query_BNLH, *angles), rotate(key_BGLH, *angles)
        dtype, each = self.query.dtype, shape.heads // shape.key_heads
        # N = heads in the order of the key heads: those that share a key head are neighbours.
        key_BNLH, value_BNLH = (jnp.repeat(x.astype(dtype), each, axis=1) for x in (key_BGLH, value_BGLH))
        return query_BNLH.astype(dtype), key_BNLH, value_BNLH, bias_NQK


class GroupedBlock(PreNormBlock):
    """A layer of a language model: the pre-norm layer with RMS norms and grouped queries."""

    def __init__(self, shape: Shape, **options: Any):
        norm = partial(RMSNorm, shape.width, shape.epsilon, offset=shape.norm_offset)
        self.attended_dropout = self.fed_dropout = shape.hidden_dropout
        self.attention_norm = norm()
        self.attention = GroupedAttention(shape, **options)
        self.after_attention = norm() if shape.norms_after else None
        self.feed_forward_norm = norm()
        net: Any = GatedFeedForward if shape.gated else partial(FeedForward, use_bias=False)
        sizes = (shape.width, shape.inner_width, shape.activation)
        self.feed_forward = net(*sizes, dropout_rate=shape.hidden_dropout, **options)
        self.after_feed_forward = norm() if shape.norms_after else None
