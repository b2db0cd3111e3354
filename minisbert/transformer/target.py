"""Which kind of device a program is traced for. The fastest form differs: of dropout in any dtype, of the rest in bfloat16.

A TPU sums products in float32 whatever they return, and its memory is slow next to its matrix unit. So there (tpu.py)

    products, norms    return bfloat16, and so do the residual and the gradients between them; as in MaxText and big_vision.
                       Statistics of norms, the sum of the softmax, GELU, pooling, loss and optimizer stay float32
    short rows         are computed side by side, as rows of 128 tokens (`tpu.encode`)
    dropout            takes its bits from a cheaper generator; float32 too
    attention          is one kernel where rows are whole tiles (tpu_attention.py), as is a part of the gradient of the
                       feed-forward net (tpu_feed_forward.py)

On one CPU, training multiplies bfloat16 in another form, forward and backward (products.py). Other devices take plain forms.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

# False, set before a program is traced, computes everything without kernels.
KERNELS = True
# Kernels cannot multiply bfloat16 there.
TOO_OLD = ("TPU v2", "TPU v3")

_PLATFORM = ContextVar("platform", default="")
_MESH: ContextVar[Mesh | None] = ContextVar("mesh", default=None)
_FEW = ContextVar("few tokens", default=False)


@contextmanager
def traced_for(platform: str, mesh: Mesh | None = None, *, few: bool = False) -> Iterator[None]:
    """What is traced inside will run on this platform ("cpu", "gpu", "tpu"), its rows spread over the mesh's first axis.

    Args:
        few: it is a program for a sentence or two on a CPU (inference/compiled.py).
    """
    platform_before, mesh_before, few_before = _PLATFORM.set(platform), _MESH.set(mesh), _FEW.set(few)
    try:
        yield
    finally:
        _PLATFORM.reset(platform_before)
        _MESH.reset(mesh_before)
        _FEW.reset(few_before)


def mesh_of_program() -> Mesh | None:
    """The devices that the program will run on; None for one device."""
    return _MESH.get()


def takes_kernels(B: int) -> bool:
    """Whether the program's devices take kernels, and share B rows and nothing else."""
    mesh = mesh_of_program()
    data, *model = (1,) if mesh is None else mesh.shape.values()
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    return KERNELS and B % data == 0 and model in ([], [1]) and device.device_kind not in TOO_OLD


def on_tpu(compute_dtype: Any = jnp.bfloat16) -> bool:
    """Whether the program will run on a TPU and, if a dtype is given, multiply bfloat16 numbers there."""
    return _PLATFORM.get() == "tpu" and compute_dtype == jnp.bfloat16


def on_one_cpu() -> bool:
    """Whether the program will run on one CPU device."""
    mesh = mesh_of_program()
    return _PLATFORM.get() == "cpu" and (mesh is None or mesh.size == 1)


def few_tokens() -> bool:
    """Whether the program computes a sentence or two on a CPU."""
    return _FEW.get()


def stored(x: jax.Array, compute_dtype: Any) -> jax.Array:
    """What one operation hands on to the next: rounded to bfloat16 where `on_tpu`, else as it is."""
    return x.astype(jnp.bfloat16) if on_tpu(compute_dtype) else x


def widened(x: jax.Array) -> jax.Array:
    """`x` in float32 at least, for what must not be computed in bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
