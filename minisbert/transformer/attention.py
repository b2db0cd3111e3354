"""Attention, written from "Attention Is All You Need" (Vaswani et al. 2017), section 3.2.

    Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V                                  equation 1
    MultiHead(X)       = Concat(head_1, ..., head_N) W_O,
                         head_n = Attention(X W_Q^n, X W_K^n, X W_V^n)                 section 3.2.2

Left out: cross-attention, key/value caches. Causal masks are a bias (prenorm.py: `window_bias`) or a mask_BQK
(training/denoising.py).
`reference/encoder.py` is the same in NumPy and must agree.

Letters: B sentences, Q query tokens, K key tokens, L tokens, N heads, H head width, D = N * H width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from minisbert.transformer import tpu
from minisbert.transformer.dropout import dropout_weights, fold
from minisbert.transformer.positions import distances, relative_position_bucket, relative_shift
from minisbert.transformer.products import Linear, product
from minisbert.transformer.target import on_tpu, stored, widened


def scaled_dot_product_attention(
    query_BNQH: jax.Array,
    key_BNKH: jax.Array,
    value_BNKH: jax.Array,
    mask_BK: jax.Array,
    bias_NQK: jax.Array | None = None,
    *,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_keys_BL: jax.Array | None = None,
) -> jax.Array:
    """Mean of the values, weighted by how well each key matches the query (Vaswani 3.2.1, equation 1).

    Args:
        mask_BK: True where the key is a real token; padding gets weight exactly 0, and so gradient exactly 0. Or
            mask_BQK, True where the query may attend to the key: for rows that hold several texts, and for causal masks.
        bias_NQK: added to the scores before the softmax (relative positions), or None.
        scale: of the scores, None for 1 / sqrt(H).
        dropout_rate, dropout_keys_BL: dropout of the attention weights, as BERT does in training; one key per token.

    Returns:
        context_BNQH in float32 at least, as the softmax is.

    Example:
        >>> one = jnp.ones((1, 1, 2, 4))
        >>> values = jnp.stack([jnp.zeros((1, 1, 4)), jnp.ones((1, 1, 4))], axis=2)
        >>> scaled_dot_product_attention(one, one, values, jnp.array([[True, True]]))[0, 0, 0].tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    scores_BNQK = attention_scores(query_BNQH, key_BNKH, mask_BK, bias_NQK, scale)
    # softmax(scores) V = (exp(scores - max) V) / sum(exp(scores - max)): dividing the H values of a query instead of
    # its K weights saves a pass over [Q, K] (1.25 times as fast at 4 x 256). The maximum only shifts; it has no gradient.
    highest_BNQ1 = jax.lax.stop_gradient(scores_BNQK.max(axis=-1, keepdims=True))
    weights_BNQK = stored(jnp.exp(scores_BNQK - highest_BNQ1), value_BNKH.dtype)
    total_BNQ1 = widened(weights_BNQK).sum(axis=-1, keepdims=True)
    weights_BNQK = dropout_weights(weights_BNQK, dropout_rate, dropout_keys_BL).astype(value_BNKH.dtype)
    context_BNQH = product("BNQK,BNKH->BNQH", weights_BNQK, value_BNKH)
    return context_BNQH / total_BNQ1


def attention_scores(
    query_BNQH: jax.Array,
    key_BNKH: jax.Array,
    mask_BK: jax.Array,
    bias_NQK: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
    """scores_BNQK = Q K^T / sqrt(d_k) + bias, the lowest finite number where the mask is False; in float32 at least."""
    scale = query_BNQH.shape[-1] ** -0.5 if scale is None else scale
    accum_dtype = jnp.promote_types(query_BNQH.dtype, jnp.float32)
    # Heads come before tokens, so that each head's product is one matrix product; with heads last XLA:CPU takes 2.1 times as
    # long at 4 x 256 tokens. The scale goes into the query: Q*H multiplications instead of Q*K. In bfloat16 this would round
    # the query a second time, so there the scores are scaled; on a TPU, whose gradients lose by that, the query is.
    scale_scores = query_BNQH.dtype == jnp.bfloat16 and not on_tpu()
    query_BNQH = query_BNQH if scale_scores else (query_BNQH.astype(accum_dtype) * scale).astype(query_BNQH.dtype)
    scores_BNQK = product("BNQH,BNKH->BNQK", query_BNQH, key_BNKH)
    scores_BNQK = scores_BNQK * scale if scale_scores else scores_BNQK
    if bias_NQK is not None:
        scores_BNQK = scores_BNQK + bias_NQK
    # The lowest finite number, not -inf: a row that is all padding gives no NaN.
    mask_B1QK = mask_BK[:, None, None, :] if mask_BK.ndim == 2 else mask_BK[:, None]
    return jnp.where(mask_B1QK, scores_BNQK, jnp.finfo(accum_dtype).min)


def attention_weights(
    query_BNQH: jax.Array,
    key_BNKH: jax.Array,
    mask_BK: jax.Array,
    bias_NQK: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
    """weights_BNQK = softmax(Q K^T / sqrt(d_k)): the share that each query token takes from each key token.

    Arguments as for `scaled_dot_product_attention`, which does not form this matrix.

    Example:
        >>> one = jnp.ones((1, 1, 2, 4))
        >>> attention_weights(one, one, jnp.array([[True, False]]))[0, 0].tolist()
        [[1.0, 0.0], [1.0, 0.0]]
    """
    return jax.nn.softmax(attention_scores(query_BNQH, key_BNKH, mask_BK, bias_NQK, scale), axis=-1)


class SelfAttention(nnx.Module):
    """What every kind of self-attention does with its heads: equation 1 on each, then W_O on all of them side by side.

    A kind implements `project(hidden_BLD, *positions)`, which returns query_BNLH, key_BNLH, value_BNLH and the bias of the
    scores. `positions` is what it takes besides the tokens.
    """

    project: Callable[..., tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]]
    output: Linear
    dropout_rate: float
    scale: float | None = None  # of the scores; None for 1 / sqrt(H)

    def __call__(
        self, hidden_BLD: jax.Array, mask_BL: jax.Array, *positions: Any, dropout_keys_BL: jax.Array | None = None
    ) -> jax.Array:
        """hidden_BLD -> hidden_BLD; each token becomes a mixture of all real tokens of its sentence."""
        query_BNLH, key_BNLH, value_BNLH, bias_NQK = self.project(hidden_BLD, *positions)
        dropout: Any = {"dropout_rate": self.dropout_rate, "dropout_keys_BL": fold(dropout_keys_BL, 0)}
        context_BNLH = scaled_dot_product_attention(
            query_BNLH, key_BNLH, value_BNLH, mask_BL, bias_NQK, scale=self.scale, **dropout
        )
        return self.output(jnp.transpose(context_BNLH, (0, 2, 1, 3)).reshape(*hidden_BLD.shape[:2], -1))

    def weights(self, hidden_BLD: jax.Array, mask_BL: jax.Array, *positions: Any) -> jax.Array:
        """The attention weights, weights_BNQK."""
        query_BNLH, key_BNLH, _, bias_NQK = self.project(hidden_BLD, *positions)
        return attention_weights(query_BNLH, key_BNLH, mask_BL, bias_NQK, self.scale)


class MultiHeadSelfAttention(SelfAttention):
    """N attention heads in parallel, each on its own projection of the same tokens (Vaswani 3.2.2).

    W_Q, W_K and W_V are stored as one matrix `qkv`, so that the three projections are one matrix product.
    """

    def __init__(self, width: int, heads: int, *, dropout_rate: float, **options: Any):
        """`options` are those of `Linear`: dtype, kernel_init, rngs."""
        self.heads, self.dropout_rate = heads, dropout_rate
        self.qkv = Linear(width, 3 * width, **options)
        self.output = Linear(width, width, **options)

    def project(self, hidden_BLD: jax.Array, bias_NQK: jax.Array | None = None) -> Any:
        query_BNLH, key_BNLH, value_BNLH = split_heads(self.qkv(hidden_BLD), self.heads, self.qkv.dtype)
        return query_BNLH, key_BNLH, value_BNLH, bias_NQK

    def __call__(  # type: ignore[override]
        self,
        hidden_BLD: jax.Array,
        mask_BL: jax.Array,
        bias_NQK: jax.Array | None = None,
        dropout_keys_BL: jax.Array | None = None,
    ) -> jax.Array:
        if not on_tpu(self.qkv.dtype):
            return super().__call__(hidden_BLD, mask_BL, bias_NQK, dropout_keys_BL=dropout_keys_BL)
        from minisbert.transformer import tpu_attention

        B, L, D = hidden_BLD.shape
        dropout: Any = {"dropout_rate": self.dropout_rate, "dropout_keys_BL": fold(dropout_keys_BL, 0)}
        if tpu_attention.fits(B, L, D, self.heads):
            qkv_BLD = self.qkv.without_bias(hidden_BLD).reshape(B, L, -1)
            shift_D = None if self.qkv.bias is None else self.qkv.bias[...]
            return self.output(
                tpu_attention.attention(qkv_BLD, shift_D, mask_BL, bias_NQK, heads=self.heads, **dropout)
            )
        query_BNLH, key_BNLH, value_BNLH = tpu.split_heads(self.qkv, hidden_BLD, self.heads)
        context_BNLH = scaled_dot_product_attention(query_BNLH, key_BNLH, value_BNLH, mask_BL, bias_NQK, **dropout)
        return tpu.join_heads(self.output, context_BNLH)


def split_heads(qkv_BLD: jax.Array, heads: int, dtype: DTypeLike | None) -> list[jax.Array]:
    """One projection of width 3 D -> query_BNLH, key_BNLH, value_BNLH, in the dtype of the products."""
    B, L, _ = qkv_BLD.shape
    # The gradient of a split is one concatenation; that of indexing is a sum of three padded arrays.
    parts = jnp.split(qkv_BLD.astype(dtype), 3, axis=-1)
    return [jnp.transpose(part_BLD.reshape(B, L, heads, -1), (0, 2, 1, 3)) for part_BLD in parts]


class RelativePositionBias(nnx.Module):
    """A learned score per head and bucket of distance (Raffel et al. 2020, section 2.1); one table serves all layers."""

    def __init__(
        self,
        buckets: int,
        heads: int,
        *,
        max_distance: int = 128,
        dtype: DTypeLike = jnp.float32,
        embedding_init: nnx.Initializer,
        rngs: nnx.Rngs,
    ):
        self.buckets, self.max_distance = buckets, max_distance
        dtype = jnp.promote_types(dtype, jnp.float32)
        self.table = nnx.Embed(buckets, heads, dtype=dtype, embedding_init=embedding_init, rngs=rngs)

    def __call__(self, length: int) -> jax.Array:
        """bias_NQK for sentences of `length` tokens."""
        bucket_R = relative_position_bucket(distances(length), self.buckets, self.max_distance)
        bias_NR = self.table(jnp.asarray(bucket_R)).T
        return relative_shift(jnp.broadcast_to(bias_NR[:, None], (len(bias_NR), length, 2 * length)))
