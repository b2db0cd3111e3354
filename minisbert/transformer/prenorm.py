"""One layer of the newer encoders: norms before the sublayers, rotary positions, a gated feed-forward net.

    a      = x + Dropout(MultiHead(LayerNorm(x)))           queries and keys rotated by their positions
    output = a + FFN(LayerNorm(a)),                         FFN(a) = W_2 (GELU(W_1 a) * V a)

This is the pre-norm form (Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", figure 1b) with
rotary positions (Su et al. 2021) and GEGLU (Shazeer 2020, "GLU Variants Improve Transformer", equation 6), without
biases, as in ModernBERT. `transformer/block.py` is the older layer, `transformer/grouped.py` that of language models.
`reference/modernbert.py` is the same in NumPy and must agree.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from minisbert.transformer.attention import attention_weights, scaled_dot_product_attention, split_heads
from minisbert.transformer.block import ACTIVATIONS
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


def layer_norm_without_bias(width: int, epsilon: float, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer norm with a scale and no bias, in float32 at least; see `block.layer_norm`."""
    dtype = jnp.promote_types(dtype, jnp.float32)
    return nnx.LayerNorm(width, epsilon=epsilon, dtype=dtype, use_bias=False, use_fast_variance=False, rngs=rngs)


class RotarySelfAttention(nnx.Module):
    """`attention.MultiHeadSelfAttention`, queries and keys rotated by their positions."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        dropout_rate: float,
        use_bias: bool = False,
        dtype: DTypeLike,
        kernel_init: nnx.Initializer,
        rngs: nnx.Rngs,
    ):
        self.heads = heads
        self.dropout_rate = dropout_rate
        options: Any = {"use_bias": use_bias, "dtype": dtype, "kernel_init": kernel_init, "rngs": rngs}
        self.qkv = Linear(width, 3 * width, **options)
        self.output = Linear(width, width, **options)

    def __call__(
        self,
        hidden_BLD: jax.Array,
        mask_BL: jax.Array,
        angles: tuple[np.ndarray, np.ndarray],
        bias_1QK: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
    ) -> jax.Array:
        """hidden_BLD -> hidden_BLD; `angles` are those of `positions.rotary_angles`."""
        B, L, D = hidden_BLD.shape
        query_BNLH, key_BNLH, value_BNLH = split_heads(self.qkv(hidden_BLD), self.heads, self.qkv.dtype)
        context_BNLH = scaled_dot_product_attention(
            rotate(query_BNLH, *angles),
            rotate(key_BNLH, *angles),
            value_BNLH,
            mask_BL,
            bias_1QK,
            dropout_rate=self.dropout_rate,
            dropout_keys_BL=fold(dropout_keys_BL, 0),
        )
        return self.output(jnp.transpose(context_BNLH, (0, 2, 1, 3)).reshape(B, L, D))

    def weights(
        self,
        hidden_BLD: jax.Array,
        mask_BL: jax.Array,
        angles: tuple[np.ndarray, np.ndarray],
        bias_1QK: jax.Array | None = None,
    ) -> jax.Array:
        """The attention weights, weights_BNQK."""
        query_BNLH, key_BNLH, _ = split_heads(self.qkv(hidden_BLD), self.heads, self.qkv.dtype)
        return attention_weights(rotate(query_BNLH, *angles), rotate(key_BNLH, *angles), mask_BL, bias_1QK)


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
        dtype: DTypeLike,
        kernel_init: nnx.Initializer,
        rngs: nnx.Rngs,
    ):
        """`swapped`: V comes before W_1 in `up`."""
        self.activation = ACTIVATIONS[activation]
        self.dropout_rate, self.swapped = dropout_rate, swapped
        options: Any = {"dtype": dtype, "kernel_init": kernel_init, "rngs": rngs}
        self.up = Linear(width, 2 * inner_width, use_bias=False, **options)
        self.down = Linear(inner_width, width, use_bias=down_bias, **options)

    def __call__(self, hidden_BLD: jax.Array, dropout_keys_BL: jax.Array | None = None) -> jax.Array:
        inner_BLF, gate_BLF = jnp.split(self.up(hidden_BLD), 2, axis=-1)
        if self.swapped:
            inner_BLF, gate_BLF = gate_BLF, inner_BLF
        return self.down(dropout(self.activation(widened(inner_BLF)) * gate_BLF, self.dropout_rate, dropout_keys_BL))


class PreNormBlock(nnx.Module):
    """Pre-norm transformer layer, hidden_BLD -> hidden_BLD (Xiong et al. 2020, figure 1b)."""

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
        dtype: DTypeLike,
        kernel_init: nnx.Initializer,
        rngs: nnx.Rngs,
    ):
        """`norm_first=False` leaves out the norm before the attention, for a layer whose input is already normalized."""
        self.attention_dropout = attention_dropout
        self.attention_norm = layer_norm_without_bias(width, epsilon, dtype, rngs) if norm_first else None
        self.attention = RotarySelfAttention(
            width, heads, dropout_rate=attention_dropout, dtype=dtype, kernel_init=kernel_init, rngs=rngs
        )
        self.feed_forward_norm = layer_norm_without_bias(width, epsilon, dtype, rngs)
        self.feed_forward = GatedFeedForward(
            *(width, inner_width, activation),
            dropout_rate=inner_dropout,
            dtype=dtype,
            kernel_init=kernel_init,
            rngs=rngs,
        )

    def __call__(
        self,
        hidden_BLD: jax.Array,
        mask_BL: jax.Array,
        angles: tuple[np.ndarray, np.ndarray],
        bias_1QK: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
    ) -> jax.Array:
        normed_BLD = hidden_BLD if self.attention_norm is None else self.attention_norm(hidden_BLD)
        keys_BL = fold(dropout_keys_BL, 0)
        attended_BLD = self.attention(normed_BLD, mask_BL, angles, bias_1QK, dropout_keys_BL=keys_BL)
        hidden_BLD = hidden_BLD + dropout(attended_BLD, self.attention_dropout, fold(dropout_keys_BL, 1))
        return hidden_BLD + self.feed_forward(self.feed_forward_norm(hidden_BLD), fold(dropout_keys_BL, 2))
