"""Short rows side by side, and parts of a block as a TPU likes them in bfloat16 (target.py): the same maths, which is tested.

Memory holds arrays in tiles of 8 x 128 numbers. Heads are narrower than 128, so that a product which writes the tokens of
a head next to each other saves several copies of queries, keys and values per layer and direction.
"""

from typing import Any

import jax
import jax.numpy as jnp

from minisbert.transformer.products import Linear, product
from minisbert.transformer.target import on_tpu, stored, takes_kernels, widened

# The kernels take rows of whole tiles: multiples of so many tokens.
LANES = 128

# The golden ratio times 2^32, an odd number: consecutive counts get distant words (Steele et al. 2014, SplitMix).
GOLDEN = 0x9E3779B9
# Of erfc(y) exp(y^2), as a polynomial of t, the highest power first.
HASTINGS = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def encode(
    encoder: Any, dtype: Any, token_ids_BL: jax.Array, mask_BL: jax.Array, **per_token: jax.Array | None
) -> list[jax.Array]:
    """`encoder(token_ids_BL, mask_BL, ...)`, hidden_IBLD. On a TPU, rows of 16, 32 or 64 tokens are computed as rows of 128.

    A short row attends to itself alone: mask_BQK of a long row is block-diagonal. Not for DeBERTa: its scores of distances
    for all pairs of 128 tokens cost more than this saves (a tiny model's training, by the compiler's estimate).

    Args:
        dtype: of the products.
        per_token: the encoder's other arrays, all [B, L].
    """
    distances = getattr(getattr(encoder, "config", None), "pos_att_type", ())
    short = _rows_in_one(*token_ids_BL.shape) if on_tpu(dtype) and not distances else 1
    if short == 1:
        return list(encoder(token_ids_BL, mask_BL, **per_token))
    B, L = token_ids_BL.shape
    P = B // short
    mask_PSQSK = mask_BL.reshape(P, short, -1, 1, L) & jnp.eye(short, dtype=bool)[:, None, :, None]
    mask_PQK = jnp.broadcast_to(mask_PSQSK, (P, short, L, short, L)).reshape(P, LANES, LANES)
    per_token.setdefault("positions_BL", jnp.broadcast_to(jnp.arange(L), (B, L)))
    joined = {name: None if array is None else array.reshape(P, LANES) for name, array in per_token.items()}
    hidden_IPLD = encoder(token_ids_BL.reshape(P, LANES), mask_PQK, **joined)
    return [hidden_PLD.reshape(B, L, -1) for hidden_PLD in hidden_IPLD]


def _rows_in_one(B: int, L: int) -> int:
    """How many rows of L tokens make one of 128; 1 where they are left as they are."""
    short = LANES // L
    whole = 1 < short <= 8 and short * L == LANES and B % short == 0
    return short if whole and takes_kernels(B // short) else 1


def split_heads(qkv: Linear, hidden_BLD: jax.Array, heads: int) -> list[jax.Array]:
    """query_BNLH, key_BNLH, value_BNLH by a product each: `attention.split_heads(qkv(hidden_BLD), heads, bfloat16)`."""
    kernel_DCNH = qkv.kernel[...].astype(jnp.bfloat16).reshape(hidden_BLD.shape[-1], 3, heads, -1)
    parts = []
    for c in range(3):
        part_BNHL = product("BLD,DNH->BNHL", hidden_BLD.astype(jnp.bfloat16), kernel_DCNH[:, c], result=jnp.bfloat16)
        if qkv.bias is not None:
            part_BNHL = part_BNHL + qkv.bias[...].reshape(3, heads, -1, 1)[c]
        parts.append(jnp.swapaxes(part_BNHL.astype(jnp.bfloat16), 2, 3))
    return parts


def join_heads(output: Linear, context_BNLH: jax.Array) -> jax.Array:
    """hidden_BLD: `output` of all heads side by side."""
    N, H = context_BNLH.shape[1], context_BNLH.shape[3]
    kernel_NHD = output.kernel[...].astype(jnp.bfloat16).reshape(N, H, -1)
    hidden_BLD = product("BNLH,NHD->BLD", context_BNLH.astype(jnp.bfloat16), kernel_NHD, result=jnp.bfloat16)
    return stored(hidden_BLD if output.bias is None else hidden_BLD + output.bias[...], output.dtype)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x), computed in float32. The backward pass reads the slope, which the forward pass has computed on the way."""
    return gelu_and_slope(x)[0]


def gelu_and_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """GELU and its derivative, computed in float32, in the dtype of x.

    Phi(-|x|) is exp(-x^2 / 2) / 2 times a polynomial of t = 1 / (1 + p |x| / sqrt 2), with an error below 1e-7 (Hastings 1955;
    Abramowitz and Stegun 1964, 7.1.26); (1 + erf) / 2 loses more digits below -4. The slope needs the exponential anyway.
    """
    wide = widened(x)
    bell = jnp.exp(-0.5 * wide * wide)
    t = 1 / (1 + 0.3275911 * 0.5**0.5 * jnp.abs(wide))
    erfc = t * HASTINGS[0]  # times exp(x^2 / 2)
    for coefficient in HASTINGS[1:]:
        erfc = t * (coefficient + erfc)
    tail = 0.5 * bell * erfc
    below = jnp.where(wide < 0, tail, 1 - tail)  # Phi(x)
    slope = below + wide * bell * (2 * jnp.pi) ** -0.5
    return (wide * below).astype(x.dtype), slope.astype(x.dtype)


def _gelu_backward(slope: jax.Array, d: jax.Array) -> tuple[jax.Array]:
    return ((widened(d) * slope).astype(slope.dtype),)


gelu.defvjp(gelu_and_slope, _gelu_backward)


@jax.custom_vjp
def own_gradient(x: jax.Array) -> jax.Array:
    """x, with a gradient computed once: XLA would compute dropout's mask again for each tile of the products that read it."""
    return x


own_gradient.defvjp(lambda x: (x, None), lambda _, d: (jax.lax.optimization_barrier(d),))


def random_bits(x: jax.Array, y: jax.Array) -> jax.Array:
    """32 random bits per element from two words: two rounds of multiply and shift (MurmurHash3's finalizer), where threefry
    takes twenty of add, rotate and xor. Good enough for dropout, whose words are threefry's.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13) ^ y) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
