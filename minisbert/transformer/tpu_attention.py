"""Multi-head attention as one kernel for a TPU: scores and weights stay in the core's memory (Dao et al. 2022, FlashAttention).

It computes what `attention.scaled_dot_product_attention` computes, dropout included, in bfloat16 products with float32 sums. A
row is so short that its scores fit, so that no online softmax is needed: a step of the kernel takes a row, forward or backward,
and the backward pass computes the weights again from queries and keys. Two things follow from the shape of a TPU:

    tiles    heads stay side by side in [B, L, D]. A product takes the 128 lanes of 128 / H heads and zeros the keys (or values)
             of the others, instead of laying each head out by itself, where 64 of 128 lanes would be empty
    keys     come first: scores_KQ. Sums over keys then add registers, instead of the lanes of one

Left out: texts of more than `LONGEST` tokens, windows. Nothing here has run on a TPU: its compiler accepts it, and a test
computes it on a CPU.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec

from minisbert.transformer.target import mesh_of_program, takes_kernels
from minisbert.transformer.tpu import GOLDEN, LANES, random_bits

LONGEST = 256


def fits(B: int, L: int, D: int, heads: int) -> bool:
    """Whether rows of this shape can be computed here: whole tiles."""
    return takes_kernels(B) and L % LANES == 0 and L <= LONGEST and D % LANES == 0 and LANES % (D // heads) == 0


def attention(
    qkv_BLD: jax.Array,
    shift_D: jax.Array | None,
    mask_BK: jax.Array,
    bias_NQK: jax.Array | None = None,
    *,
    heads: int,
    dropout_rate: float = 0.0,
    dropout_keys_BL: jax.Array | None = None,
) -> jax.Array:
    """context_BLD, heads side by side, in bfloat16 as qkv_BLD is.

    Args:
        qkv_BLD: queries of all heads, then their keys, then their values.
        shift_D: the bias to add to them. The kernel sums its gradient on the way; XLA would read the one of qkv_BLD again.
        mask_BK, bias_NQK, dropout_rate, dropout_keys_BL: as for `attention.scaled_dot_product_attention`.
    """
    B, L, _ = qkv_BLD.shape
    mask_BKQ = mask_BK[:, :, None] if mask_BK.ndim == 2 else jnp.swapaxes(mask_BK, 1, 2)
    mask_BKQ = jnp.broadcast_to(mask_BKQ, (B, L, L)).astype(jnp.bfloat16)  # v4 cannot compare bytes
    words_BWL = None
    if dropout_rate and dropout_keys_BL is not None:
        words_BWL = jnp.swapaxes(jax.random.key_data(dropout_keys_BL), 1, 2)
    bias_NKQ = None if bias_NQK is None else jnp.swapaxes(bias_NQK, 1, 2)
    attend = partial(_attend, heads, dropout_rate)
    if (mesh := mesh_of_program()) is not None:
        rows, whole = PartitionSpec(mesh.axis_names[0]), PartitionSpec()
        specs = (rows, whole, rows, rows, whole)
        attend = jax.shard_map(attend, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)
    return attend(qkv_BLD, shift_D, mask_BKQ, words_BWL, bias_NKQ)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(heads: int, rate: float, *given: Any) -> jax.Array:
    return _forward(heads, rate, *given)[0]


def _forward(heads: int, rate: float, qkv_BLD: Any, shift_D: Any, *masks: Any) -> tuple[jax.Array, Any]:
    if shift_D is not None:
        qkv_BLD = (qkv_BLD + shift_D).astype(qkv_BLD.dtype)
    B, L, D = qkv_BLD.shape
    context = jax.ShapeDtypeStruct((B, L, D // 3), qkv_BLD.dtype)
    row = partial(_forward_row, D // 3 // heads, rate)
    return _call(row, "attention", (qkv_BLD, *masks), [context])[0], (qkv_BLD, shift_D, *masks)


def _backward(heads: int, rate: float, saved: Any, d_context_BLD: jax.Array) -> tuple[Any, ...]:
    qkv_BLD, shift_D, *masks = saved
    D, bias_NKQ = qkv_BLD.shape[-1], masks[-1]
    slopes = [jax.ShapeDtypeStruct(qkv_BLD.shape, qkv_BLD.dtype), jax.ShapeDtypeStruct((1, D), jnp.float32)]
    if bias_NKQ is not None:
        slopes.append(jax.ShapeDtypeStruct(bias_NKQ.shape, jnp.float32))
    row = partial(_backward_row, D // 3 // heads, rate)
    d_qkv_BLD, d_shift_1D, *d_bias_NKQ = _call(row, "attention_gradient", (d_context_BLD, qkv_BLD, *masks), slopes)
    d_shift_D = None if shift_D is None else d_shift_1D[0]
    return d_qkv_BLD, d_shift_D, None, None, d_bias_NKQ[0] if d_bias_NKQ else None


_attend.defvjp(_forward, _backward)


def _call(kernel: Any, name: str, given: Any, outputs: Any) -> Any:
    """The kernel for each row; arrays without rows (the bias of the scores, sums) are there for all of them."""
    B = given[0].shape[0]

    def of_row(array: Any) -> Any:
        return None if array is None else pl.BlockSpec((1, *array.shape[1:]), lambda b: (b, 0, 0))

    def of_all(array: Any) -> Any:
        zeros = (0,) * len(array.shape) if array is not None else ()
        return None if array is None else pl.BlockSpec(array.shape, lambda _: zeros, pipeline_mode=pl.Buffered(1))

    return pl.pallas_call(
        kernel,
        grid=(B,),
        in_specs=[*map(of_row, given[:-1]), of_all(given[-1])],
        out_specs=[of_row(outputs[0]), *map(of_all, outputs[1:])],
        out_shape=outputs,
        name=name,
        metadata={"steps": str(B)},  # program_costs.py
    )(*given)


def _forward_row(H: int, rate: float, qkv: Any, mask: Any, words: Any, bias: Any, context: Any) -> None:
    random = _random(words)
    for start in range(0, context.shape[-1], LANES):
        query_LC, key_LC, value_LC = _tile(qkv, start)
        value_CL, of_heads = value_LC.T, []
        for w in range(LANES // H):
            n = start // H + w
            weights_KQ, total_1Q = _weights(_only(key_LC, w, H), query_LC, mask, bias, n, H)
            weights_KQ = _kept(weights_KQ, random, n, rate)
            of_heads.append(dot(value_CL[w * H : w * H + H], weights_KQ.astype(value_CL.dtype), 1, 0) / total_1Q)
        context[0, :, start : start + LANES] = jnp.concatenate(of_heads).T.astype(context.dtype)


def _backward_row(
    H: int, rate: float, d_context: Any, qkv: Any, mask: Any, words: Any, bias: Any, d_qkv: Any, *sums: Any
) -> None:
    D, random, dtype = d_context.shape[-1], _random(words), qkv.dtype
    zeros_at_first(*sums)
    d_shift, *d_bias = sums

    for start in range(0, D, LANES):
        query_LC, key_LC, value_LC = _tile(qkv, start)
        d_context_LC = d_context[0, :, start : start + LANES]
        slopes = [jnp.zeros(query_LC.shape, jnp.float32)] * 3
        for w in range(LANES // H):
            n = start // H + w
            of_head_LC = _only(key_LC, w, H)
            weights_KQ, total_1Q = _weights(of_head_LC, query_LC, mask, bias, n, H)
            weights_KQ = weights_KQ / total_1Q
            d_weights_KQ = _kept(dot(_only(value_LC, w, H), d_context_LC, 1, 1), random, n, rate)
            d_scores_KQ = weights_KQ * (d_weights_KQ - (weights_KQ * d_weights_KQ).sum(axis=0, keepdims=True))
            if d_bias:
                d_bias[0][n] += d_scores_KQ
            d_scores_KQ = (d_scores_KQ * H**-0.5).astype(dtype)
            weights_KQ = _kept(weights_KQ, random, n, rate).astype(dtype)
            slopes[0] += dot(d_scores_KQ, of_head_LC, 0, 0)
            slopes[1] += dot(d_scores_KQ, _only(query_LC, w, H), 1, 0)
            slopes[2] += dot(weights_KQ, _only(d_context_LC, w, H), 1, 0)
        for c in range(3):
            tile = slice(c * D + start, c * D + start + LANES)
            d_qkv[0, :, tile] = slopes[c].astype(dtype)
            d_shift[:, tile] += slopes[c].sum(axis=0, keepdims=True)


def zeros_at_first(*sums: Any) -> None:
    """Arrays to which each step of a kernel adds start as zeros."""

    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        for total in sums:
            total[...] = jnp.zeros(total.shape, total.dtype)


def _tile(qkv: Any, start: int) -> list[jax.Array]:
    """Query, key and value of the heads of a tile, [L, LANES] each."""
    D = qkv.shape[-1] // 3
    return [qkv[0, :, c * D + start : c * D + start + LANES] for c in range(3)]


def _only(x_LC: jax.Array, w: int, H: int) -> jax.Array:
    """The lanes of head w of a tile; zeros in the others."""
    lane = jax.lax.broadcasted_iota(jnp.int32, x_LC.shape, 1)
    return jnp.where((lane >= w * H) & (lane < w * H + H), x_LC, jnp.zeros((), x_LC.dtype))


def _weights(
    key_LC: jax.Array, query_LC: jax.Array, mask: Any, bias: Any, n: int, H: int
) -> tuple[jax.Array, jax.Array]:
    """weights_KQ before the division by their sum, and the sum."""
    scores_KQ = dot(key_LC, query_LC, 1, 1) * H**-0.5
    if bias is not None:
        scores_KQ = scores_KQ + bias[n]
    scores_KQ = jnp.where(mask[0].astype(jnp.float32) > 0, scores_KQ, jnp.finfo(jnp.float32).min)
    weights_KQ = jnp.exp(scores_KQ - scores_KQ.max(axis=0, keepdims=True))
    return weights_KQ, weights_KQ.sum(axis=0, keepdims=True)


def _random(words: Any) -> tuple[jax.Array, jax.Array] | None:
    """The two words of each pair of a key and a query; a head adds its number (dropout.dropout_weights)."""
    if words is None:
        return None
    L = words.shape[-1]
    first_KQ, second_KQ = (jnp.broadcast_to(words[0, i : i + 1], (L, L)) for i in range(2))  # of the query
    return first_KQ + second_KQ.T, second_KQ + first_KQ.T


def _kept(x_KQ: jax.Array, random: tuple[jax.Array, jax.Array] | None, n: int, rate: float) -> jax.Array:
    if random is None:
        return x_KQ
    bits_KQ = random_bits(random[0] + jnp.uint32(n * GOLDEN % 2**32), random[1])
    return jnp.where(bits_KQ >= jnp.uint32(int(rate * 2**32)), x_KQ / (1.0 - rate), 0.0)


def dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """The sums over these two axes, in float32."""
    return jax.lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=jnp.float32)
