"""Matrix products in bfloat16 with float32 results, forward and backward; in float32 and float64 ordinary products.

`jnp.einsum` and `nnx.Linear(dtype=bfloat16)` would ask for bfloat16 results. XLA:CPU computes those outside the processor's
matrix unit (Intel Xeon with AMX, 1,024 x 384 by 384 x 1,536: 272 GFLOP/s; with a float32 result 1,580), and their sums lose
digits. `preferred_element_type=float32` alone fixes only the forward product: its gradient multiplies float32 with bfloat16,
which runs in float32. So the gradient is defined here, with the incoming gradient rounded to bfloat16.

Left out: forward mode (`jax.jvp`) in bfloat16; it works in float32.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint

from minisbert.transformer.target import few_tokens, on_one_cpu, on_tpu, stored

# Of a product that is one loop in a program for few tokens.
MOST_MULTIPLICATIONS = 2**19


def product(subscripts: str, a: jax.Array, b: jax.Array, *, result: Any = jnp.float32) -> jax.Array:
    """`einsum` of two arrays of one dtype, with a float32 result or wider.

    Args:
        subscripts: as for `jnp.einsum`, with an output; each letter is in at least two of the three terms.
        result: of two bfloat16 arrays; another dtype than float32 is for TPUs, which sum in float32 whatever they return.

    Example:
        >>> one = jnp.ones((2, 3), jnp.bfloat16)
        >>> product("AD,BD->AB", one, one).dtype
        dtype('float32')
    """
    if a.dtype == b.dtype == jnp.bfloat16:
        return _bfloat16_product(subscripts, result, a, b)
    if few_tokens() and _is_small(subscripts, a, b):
        return _as_one_loop(subscripts, a, b)
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


def _is_small(subscripts: str, a: jax.Array, b: jax.Array) -> bool:
    """Whether it is one small product per head, or per head and text."""
    of_a, of_b, of_c = subscripts.replace("->", ",").split(",")
    sizes = dict(zip(of_a + of_b, a.shape + b.shape, strict=True))
    return math.prod(sizes.values()) <= MOST_MULTIPLICATIONS and bool(set(of_a) & set(of_b) & set(of_c))


def _as_one_loop(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """`einsum` as a multiplication and a sum, which XLA:CPU makes one loop instead of a product per head.

    One text of 16 tokens takes 0.91 of the time, one of 32 0.95 (MiniLM, two cores, AMD EPYC). Of heads twice as wide, 32
    tokens would take 1.06.
    """
    of_a, of_b, of_c = subscripts.replace("->", ",").split(",")
    letters = of_c + "".join(letter for letter in of_a if letter not in of_c)

    def spread(x: jax.Array, of_x: str) -> jax.Array:
        x = jnp.transpose(x, [of_x.index(letter) for letter in letters if letter in of_x])
        return jnp.expand_dims(x, [axis for axis, letter in enumerate(letters) if letter not in of_x])

    return (spread(a, of_a) * spread(b, of_b)).sum(tuple(range(len(of_c), len(letters))))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _bfloat16_product(subscripts: str, result: Any, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, a, b, preferred_element_type=result)


def _forward(subscripts: str, result: Any, a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Elsewhere than on a CPU the product stays inside this function's call, and so `siamese.remat` does not save it: on a TPU a
    # step of MPNet with remat then takes 317.3 million cycles instead of 369.8 million (the compiler's estimates).
    multiply = _einsum if on_one_cpu() else _bfloat16_product
    return multiply(subscripts, result, a, b), (a, b)


def _backward(
    subscripts: str, _: Any, operands: tuple[jax.Array, jax.Array], slope: jax.Array
) -> tuple[jax.Array, jax.Array]:
    (a, b), (inputs, of_c) = operands, subscripts.split("->")
    of_a, of_b = inputs.split(",")
    slope = slope.astype(jnp.bfloat16)
    result = jnp.bfloat16 if on_tpu() else jnp.float32
    to_a = _einsum(f"{of_c},{of_b}->{of_a}", result, slope, b)
    to_b = _einsum(f"{of_a},{of_c}->{of_b}", result, a, slope)
    return to_a.astype(jnp.bfloat16), to_b.astype(jnp.bfloat16)


def _einsum(subscripts: str, result: Any, a: jax.Array, b: jax.Array) -> jax.Array:
    """`einsum`. On a CPU it is put in the one form that always reaches the matrix unit.

    That form has operands that lie in memory row by row, and the contracted letters of the first one last. XLA:CPU may multiply
    any other in float32, after copies of both operands: X^T Y with 1,408 x 384 and 1,408 x 1,536 takes 6.2 ms, with the
    transposed copy that is made here 1.3 ms. Without the layouts XLA would undo the copy.
    """
    if not on_one_cpu():
        return jnp.einsum(subscripts, a, b, preferred_element_type=result)
    of_a, of_b, of_c = subscripts.replace("->", ",").split(",")
    if of_a[-1] in of_c and a.size > b.size:  # the smaller one is copied
        of_a, a, of_b, b = of_b, b, of_a, a
    kept = [letter for letter in of_a if letter in of_c]
    order = "".join(kept + [letter for letter in of_a if letter not in of_c])
    a, b = _row_major(jnp.transpose(a, [of_a.index(letter) for letter in order])), _row_major(b)
    made = "".join(kept + [letter for letter in of_b if letter in of_c and letter not in kept])
    c = _row_major(jnp.einsum(f"{order},{of_b}->{made}", a, b, preferred_element_type=result))
    return jnp.transpose(c, [made.index(letter) for letter in of_c])


def _row_major(x: jax.Array) -> jax.Array:
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


_bfloat16_product.defvjp(_forward, _backward)


class Linear(nnx.Linear):
    """x W + b. In bfloat16 it uses `product`, adds b in float32, and returns float32 (on a TPU bfloat16)."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        if self.dtype != jnp.bfloat16:
            return super().__call__(inputs, out_sharding)
        y_TF = self.without_bias(inputs)
        if self.bias is not None:
            y_TF = y_TF + self.bias[...]
        return stored(y_TF.reshape(*inputs.shape[:-1], -1), self.dtype)

    def without_bias(self, inputs: jax.Array) -> jax.Array:
        """x W of each token, y_TF, by bfloat16 products."""
        x_TD = inputs.reshape(-1, inputs.shape[-1]).astype(jnp.bfloat16)
        result = jnp.bfloat16 if on_tpu() else jnp.float32
        return product("TD,DF->TF", x_TD, self.kernel[...].astype(jnp.bfloat16), result=result)
