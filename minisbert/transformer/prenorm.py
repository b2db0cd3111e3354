"""One layer of the newer encoders: norms before the sublayers, rotary positions, a gated feed-forward net.

    a      = x + Dropout(MultiHead(LayerNorm(x)))           queries and keys rotated by their positions
    output = a + FFN(LayerNorm(a)),                         FFN(a) = W_2 (GELU(W_1 a) * V a)

This is the pre-norm form (Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", figure 1b) with
rotary positions (Su et al. 2021) and GEGLU (Shazeer 2020, "GLU Variants Improve Transformer", equation 6), without
biases, as in ModernBERT. `transformer/block.py` is the older layer, `transformer/grouped.py` that of language models.
`reference/modernbert.py` is the same in NumPy and must agree.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from minisbert.transformer.attention import SelfAttention, split_heads
from minisbert.transformer.block import ACTIVATIONS, layer_norm
from minisbert.transformer.dropout import dropout, fold
from minisbert.transformer.positions import rotate
from minisbert.transformer.products import Linear
from minisbert.transformer.target import widened


def window_bias(
    length: int, reach: int, dtype: DTypeLike = jnp.float32, *, ahead: int | None = None
) -> jax.Array | None:
    """The bias that lets a query attend only to keys at most `reach` tokens away; None if all keys are that close.

    Args:
        ahead: how far ahead, if not as far as back; 0 is a causal mask (Vaswani et al. 2017, section 3.2.3).

    Returns:
        `[1, Q, K]`: 0 within the window, the lowest finite number beyond, which gives a weight of exactly 0.

    Source: sliding window attention, Beltagy et al. 2020 (Longformer), section 3.1. It is computed densely here.

    Example:
        >>> (window_bias(4, reach=1)[0] == 0).astype(int).tolist()
        [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
        >>> window_bias(4, reach=3) is None
        True
        >>> (window_bias(3, reach=3, ahead=0)[0] == 0).astype(int).tolist()
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    ahead = reach if ahead is None else ahead
    if length <= min(reach, ahead) + 1:
        return None
    offset_QK = jnp.arange(length)[None, :] - jnp.arange(length)[:, None]
    return jnp.where((-reach <= offset_QK) & (offset_QK <= ahead), 0, jnp.finfo(dtype).min).astype(dtype)[None]


class RotarySelfAttention(SelfAttention):
    """`attention.MultiHeadSelfAttention`, queries and keys rotated by their positions."""

    def __init__(self, width: int, heads: int, *, dropout_rate: float, use_bias: bool = False, **options: Any):
        """`options` are those of `Linear`: dtype, kernel_init, rngs."""
        self.heads, self.dropout_rate = heads, dropout_rate
        self.qkv = Linear(width, 3 * width, use_bias=use_bias, **options)
        self.output = Linear(width, width, use_bias=use_bias, **options)

    def project(
        self, hidden_BLD: jax.Array, angles: tuple[np.ndarray, np.ndarray], bias_1QK: jax.Array | None = None
    ) -> Any:
        """`angles` are those of `positions.rotary_angles`."""
        query_BNLH, key_BNLH, value_BNLH = split_heads(self.qkv(hidden_BLD), self.heads, self.qkv.dtype)
        return rotate(query_BNLH, *angles), rotate(key_BNLH, *angles), value_BNLH, bias_1QK


class GatedFeedForward(nnx.Module):
    """W_2 (activation(W_1 x) * V x) on each token by itself (Shazeer 2020, equation 6); W_1 and V are one matrix `up`."""

    def __init__(
        self,
        width: int,
        inner_width: int,
        activation: str,
        *,
        dropout_rate: float,
        down_bias: bool = False,
        swapped: bool = False,
        **options: Any,
    ):
        """`swapped`: V comes before W_1 in `up`; `options` are those of `Linear`."""
        self.activation = ACTIVATIONS[activation]
        self.dropout_rate, self.swapped = dropout_rate, swapped
        self.up = Linear(width, 2 * inner_width, use_bias=False, **options)
        self.down = Linear(inner_width, width, use_bias=down_bias, **options)

    def __call__(self, hidden_BLD: jax.Array, dropout_keys_BL: jax.Array | None = None) -> jax.Array:
        inner_BLF, gate_BLF = jnp.split(self.up(hidden_BLD), 2, axis=-1)
        if self.swapped:
            inner_BLF, gate_BLF = gate_BLF, inner_BLF
        return self.down(dropout(self.activation(widened(inner_BLF)) * gate_BLF, self.dropout_rate, dropout_keys_BL))


class PreNormBlock(nnx.Module):
    """Pre-norm transformer layer, hidden_BLD -> hidden_BLD (Xiong et al. 2020, figure 1b)."""

    after_attention: Any = None  # norms of what a sublayer adds (transformer/grouped.py)
    after_feed_forward: Any = None
    fed_dropout = 0.0

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        inner_width: int,
        activation: str,
        epsilon: float,
        attention_dropout: float,
        inner_dropout: float,
        norm_first: bool,
        **options: Any,
    ):
        """`norm_first=False` leaves out the norm before the attention, for a layer whose input is already normalized."""
        norm: Any = partial(layer_norm, width, epsilon, options["dtype"], options["rngs"], use_bias=False)
        self.attended_dropout = attention_dropout
        self.attention_norm = norm() if norm_first else None
        self.attention: Any = RotarySelfAttention(width, heads, dropout_rate=attention_dropout, **options)
        self.feed_forward_norm = norm()
        self.feed_forward: Any = GatedFeedForward(width, inner_width, activation, dropout_rate=inner_dropout, **options)

    def __call__(
        self, hidden_BLD: jax.Array, mask_BL: jax.Array, *positions: Any, dropout_keys_BL: jax.Array | None = None
    ) -> jax.Array:
        """`positions`: the angles, then the bias."""
        normed_BLD = hidden_BLD if self.attention_norm is None else self.attention_norm(hidden_BLD)
        attended_BLD = self.attention(normed_BLD, mask_BL, *positions, dropout_keys_BL=fold(dropout_keys_BL, 0))
        if self.after_attention is not None:
            attended_BLD = self.after_attention(attended_BLD)
        hidden_BLD = hidden_BLD + dropout(attended_BLD, self.attended_dropout, fold(dropout_keys_BL, 1))
        fed_BLD = self.feed_forward(self.feed_forward_norm(hidden_BLD), fold(dropout_keys_BL, 2))
        if self.after_feed_forward is not None:
            fed_BLD = self.after_feed_forward(fed_BLD)
        return hidden_BLD + dropout(fed_BLD, self.fed_dropout, fold(dropout_keys_BL, 3))
