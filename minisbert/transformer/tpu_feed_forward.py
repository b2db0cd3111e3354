"""BERT's feed-forward net as trained on a TPU: each pass over the inner values, which are the widest, is one kernel.

    inner = GELU(hidden W_1 + b_1),   slope = GELU'(hidden W_1 + b_1)         forward; both are saved
    fed = inner W_2 (+ b_2)
    d_x = (d_fed W_2^T) slope,   d_b_1 = sum of d_x over tokens               backward
    d_hidden = d_x W_1^T,   d_W_1 = hidden^T d_x,   d_W_2 = inner^T d_fed

The first and third line are kernels, whose steps take some tokens and all of a matrix; the others are XLA's. Left to itself XLA
saves the slope in float32, and by its own estimate takes twice the time that the product or the transfers need.

Left out: dropout inside the net, other activations. Nothing here has run on a TPU: its compiler accepts it, and a test
computes it on a CPU.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec

from minisbert.transformer.products import Linear
from minisbert.transformer.target import mesh_of_program, stored, takes_kernels
from minisbert.transformer.tpu import LANES, gelu, gelu_and_slope
from minisbert.transformer.tpu_attention import dot, zeros_at_first

# What a step keeps in the core's memory: of 16 MiB some are the compiler's.
CORE_BYTES = 13 * 2**20
COLUMNS = 512
BF16 = jnp.bfloat16


def fits(shape_BLD: tuple[int, ...], up: Linear) -> bool:
    """Whether a net can be trained here on inputs of this shape: whole tiles, and matrices that a core can keep."""
    B, L, D = shape_BLD
    F = up.kernel.shape[1]
    tiles = L % LANES == 0 and D % LANES == 0 and F % LANES == 0 and _step_bytes(LANES, D, F) <= CORE_BYTES
    return tiles and up.bias is not None and takes_kernels(B)


def _step_bytes(T: int, D: int, F: int) -> int:
    """Of bfloat16 numbers; what belongs to the tokens is there twice, because the next step's is loaded meanwhile."""
    return 2 * (F * D + 2 * T * (D + 2 * F))


def feed_forward(up: Linear, down: Linear, hidden_BLD: jax.Array) -> jax.Array:
    """`down(gelu(up(hidden_BLD)))`, in bfloat16."""
    assert up.bias is not None
    kernels = up.kernel[...].astype(BF16), up.bias[...], down.kernel[...].astype(BF16)
    fed_BLD = _feed_forward(hidden_BLD.astype(BF16), *kernels)
    return stored(fed_BLD if down.bias is None else fed_BLD + down.bias[...], down.dtype)


# The products keep [B, L]: with [B * L, D] XLA would compute the sums for the norms before and after in passes of their own.
_product = partial(jnp.einsum, preferred_element_type=BF16)


@jax.custom_vjp
def _feed_forward(hidden_BLD: jax.Array, up_DF: jax.Array, bias_F: jax.Array, down_FD: jax.Array) -> jax.Array:
    inner_BLF = gelu((_product("BLD,DF->BLF", hidden_BLD, up_DF) + bias_F).astype(BF16))
    return _product("BLF,FD->BLD", inner_BLF, down_FD)


def _forward(
    hidden_BLD: jax.Array, up_DF: jax.Array, bias_F: jax.Array, down_FD: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    inner_BLF, slope_BLF = _on_each_device(_inner, 2, (hidden_BLD,), (up_DF, bias_F))
    return _product("BLF,FD->BLD", inner_BLF, down_FD), (hidden_BLD, inner_BLF, slope_BLF, up_DF, down_FD)


def _backward(saved: tuple[jax.Array, ...], d_BLD: jax.Array) -> tuple[jax.Array, ...]:
    hidden_BLD, inner_BLF, slope_BLF, up_DF, down_FD = saved
    d_x_BLF, d_bias_F = _on_each_device(_d_inner, 1, (d_BLD, slope_BLF), (down_FD,))
    d_hidden_BLD = _product("BLF,DF->BLD", d_x_BLF, up_DF)
    d_up_DF, d_down_FD = _product("BLD,BLF->DF", hidden_BLD, d_x_BLF), _product("BLF,BLD->FD", inner_BLF, d_BLD)
    return d_hidden_BLD, d_up_DF, d_bias_F, d_down_FD


_feed_forward.defvjp(_forward, _backward)


def _on_each_device(compute: Any, outputs: int, of_rows: tuple[Any, ...], of_all: tuple[Any, ...]) -> Any:
    """`compute` on each device's rows. The first `outputs` of two outputs have rows; others are summed over the devices."""
    if (mesh := mesh_of_program()) is None:
        return compute(None, *of_rows, *of_all)
    axis, whole = mesh.axis_names[0], PartitionSpec()
    rows = PartitionSpec(axis)
    specs = (*[rows] * len(of_rows), *[whole] * len(of_all)), (*[rows] * outputs, *[whole] * (2 - outputs))
    mapped = jax.shard_map(partial(compute, axis), mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False)
    return mapped(*of_rows, *of_all)


def _inner(_: str | None, hidden_BLD: jax.Array, up_DF: jax.Array, bias_F: jax.Array) -> tuple[jax.Array, jax.Array]:
    """inner_BLF, slope_BLF."""
    B, L, D = hidden_BLD.shape
    F = len(bias_F)
    inner_TF = slope_TF = jax.ShapeDtypeStruct((B * L, F), BF16)
    given = (hidden_BLD.reshape(-1, D), up_DF, bias_F[None])
    inner_TF, slope_TF = _call(_inner_step, "feed_forward", given, 1, (inner_TF, slope_TF), (D, F))
    return inner_TF.reshape(B, L, F), slope_TF.reshape(B, L, F)


def _inner_step(hidden_TD: Any, up_DF: Any, bias_1F: Any, inner_TF: Any, slope_TF: Any) -> None:
    for some in _columns(inner_TF):
        x = dot(hidden_TD[...], up_DF[:, some], 1, 0) + bias_1F[:, some]
        inner, slope = gelu_and_slope(x)
        inner_TF[:, some], slope_TF[:, some] = inner.astype(BF16), slope.astype(BF16)


def _d_inner(
    axis: str | None, d_BLD: jax.Array, slope_BLF: jax.Array, down_FD: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """d_x_BLF, and d_bias_F summed over the devices of an axis."""
    F, D = down_FD.shape
    given = (d_BLD.reshape(-1, D), slope_BLF.reshape(-1, F), down_FD)
    slopes = jax.ShapeDtypeStruct(given[1].shape, BF16), jax.ShapeDtypeStruct((1, F), jnp.float32)
    d_x_TF, d_bias_1F = _call(_d_inner_step, "feed_forward_gradient", given, 2, slopes, (D, F))
    d_bias_F = d_bias_1F[0] if axis is None else jax.lax.psum(d_bias_1F[0], axis)
    return d_x_TF.reshape(slope_BLF.shape), d_bias_F


def _d_inner_step(d_TD: Any, slope_TF: Any, down_FD: Any, d_x_TF: Any, d_bias_1F: Any) -> None:
    zeros_at_first(d_bias_1F)
    for some in _columns(slope_TF):
        d_x = dot(d_TD[...], down_FD[some], 1, 1) * slope_TF[:, some].astype(jnp.float32)
        d_x_TF[:, some] = d_x.astype(BF16)
        d_bias_1F[:, some] += d_x.sum(axis=0, keepdims=True)


def _call(step: Any, name: str, given: Any, of_tokens: int, outputs: Any, widths: tuple[int, int]) -> Any:
    """The kernel for some tokens at a time; the first `of_tokens` of what is given have a row per token."""
    (D, F), tokens = widths, len(given[0])
    T = next(T for T in (256, 128) if tokens % T == 0 and _step_bytes(T, D, F) <= CORE_BYTES)

    def some(array: Any) -> pl.BlockSpec:
        return pl.BlockSpec((T, array.shape[1]), lambda t: (t, 0))

    def whole(array: Any) -> pl.BlockSpec:
        return pl.BlockSpec(array.shape, lambda _: (0, 0), pipeline_mode=pl.Buffered(1))

    return pl.pallas_call(
        step,
        grid=(tokens // T,),
        in_specs=[*map(some, given[:of_tokens]), *map(whole, given[of_tokens:])],
        out_specs=[some(output) if output.shape[0] == tokens else whole(output) for output in outputs],
        out_shape=outputs,
        name=name,
        metadata={"steps": str(tokens // T), "flops": str(2 * tokens * F * D)},  # program_costs.py
    )(*given)


def _columns(array_TF: Any) -> list[slice]:
    F = array_TF.shape[1]
    return [slice(start, min(start + COLUMNS, F)) for start in range(0, F, COLUMNS)]
