"""Pooling: token embeddings -> one sentence embedding (Reimers & Gurevych 2019, section 3).

Six pure functions (hidden_BLD, mask_BL) -> sentence_BD, where the mask is True for real tokens. `POOLINGS` lists them under the
names that model folders use. Padding contributes exactly 0 to value and gradient; of a row in which no token counts, `cls` is
the first token, `max` the lowest number, and the others are 0. `weighted_layers` averages the layers of an encoder before
pooling. The functions take JAX arrays or, from the NumPy engine, NumPy arrays.
`reference/pooling.py` must agree.

`pool` also takes rows that hold T texts each (text/packing.py), as JAX arrays only. `mean`, `mean_sqrt_len` and `weighted_mean`
then take mask_BTL and sum the tokens of all texts by one matrix product.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np  # noqa: F401 (the examples)

Array = Any  # numpy.ndarray or jax.Array


def weighted_layers(hidden_IBLD: Sequence[Array], weight_I: Array) -> Array:
    """The weighted mean of I layers, hidden_BLD: lower layers retain what the last one drops (Peters et al. 2018, eq. 1).

    In the paper the weights are a softmax; here they are free and divided by their sum, as in model folders.

    Example:
        >>> layers_IBLD = np.array([[[[1.0]]], [[[4.0]]]])
        >>> weighted_layers(layers_IBLD, np.array([2.0, 1.0])).tolist()
        [[[2.0]]]
    """
    xp = weight_I.__array_namespace__()
    return (xp.stack(hidden_IBLD) * weight_I[:, None, None, None]).sum(axis=0) / weight_I.sum()


def cls(hidden_BLD: Array, mask_BL: Array) -> Array:
    """The first token that counts: BERT's [CLS] (Devlin et al. 2019, section 3).

    Example:
        >>> hidden_BLD = np.array([[[1.0], [2.0], [9.0]]])
        >>> cls(hidden_BLD, np.array([[True, True, False]])).tolist()
        [[1.0]]
    """
    xp = hidden_BLD.__array_namespace__()
    first_B = xp.argmax(mask_BL, axis=1)
    return xp.take_along_axis(hidden_BLD, first_B[:, None, None], axis=1)[:, 0]


def mean(hidden_BLD: Array, mask_BL: Array) -> Array:
    """The mean of the tokens: SBERT's default.

    Example:
        >>> hidden_BLD = np.array([[[1.0], [2.0], [9.0]]])
        >>> mean(hidden_BLD, np.array([[True, True, False]])).tolist()
        [[1.5]]
    """
    return _sum(hidden_BLD, mask_BL) / _count(hidden_BLD, mask_BL)


def max(hidden_BLD: Array, mask_BL: Array) -> Array:
    """The largest value over the tokens, in each dimension (SBERT's MAX strategy).

    Example:
        >>> hidden_BLD = np.array([[[1.0], [2.0], [9.0]]])
        >>> max(hidden_BLD, np.array([[True, True, False]])).tolist()
        [[2.0]]
    """
    xp = hidden_BLD.__array_namespace__()
    lowest = xp.finfo(hidden_BLD.dtype).min
    hidden_BLD = xp.where(mask_BL[:, :, None], hidden_BLD, lowest)
    # Not `xp.max`: its slope is that of the values equal to the result, and a compiler that computes a value twice may round
    # it in two ways. None is equal then, and the slope is 0 / 0.
    place_B1D = xp.argmax(hidden_BLD, axis=1, keepdims=True)
    return xp.take_along_axis(hidden_BLD, place_B1D, axis=1)[:, 0]


def mean_sqrt_len(hidden_BLD: Array, mask_BL: Array) -> Array:
    """The sum of the tokens divided by the square root of their number: long texts get longer vectors.

    Example:
        >>> mean_sqrt_len(np.ones((1, 4, 1)), np.ones((1, 4), bool)).tolist()
        [[2.0]]
    """
    sqrt = hidden_BLD.__array_namespace__().sqrt
    return _sum(hidden_BLD, mask_BL) / sqrt(_count(hidden_BLD, mask_BL))


def weighted_mean(hidden_BLD: Array, mask_BL: Array, positions_BL: Array | None = None) -> Array:
    """A mean in which token t weighs t = 1, 2, 3, ...: later tokens have seen more (Muennighoff 2022, SGPT, section 3).

    Args:
        positions_BL: each token's place in its text, where a row holds several; None means 0, 1, 2, ...

    Example:
        >>> weighted_mean(np.array([[[1.0], [4.0]]]), np.ones((1, 2), bool)).tolist()
        [[3.0]]
    """
    xp = hidden_BLD.__array_namespace__()
    positions_BL = xp.arange(mask_BL.shape[-1]) if positions_BL is None else positions_BL
    if mask_BL.ndim == 3 and positions_BL.ndim == 2:
        positions_BL = positions_BL[:, None]
    weight_BL = xp.where(mask_BL, positions_BL + 1, 0).astype(hidden_BLD.dtype)
    total_B1 = xp.maximum(weight_BL.sum(axis=-1, keepdims=True), 1)
    return _sum(hidden_BLD, mask_BL, weight_BL) / total_B1


def last_token(hidden_BLD: Array, mask_BL: Array) -> Array:
    """The last token that counts, which in a left-to-right model has seen all others.

    Example:
        >>> hidden_BLD = np.array([[[1.0], [2.0], [9.0]]])
        >>> last_token(hidden_BLD, np.array([[True, True, False]])).tolist()
        [[2.0]]
    """
    xp, length = hidden_BLD.__array_namespace__(), mask_BL.shape[1]
    last_B = length - 1 - xp.argmax(mask_BL[:, ::-1], axis=1)
    last_BD = xp.take_along_axis(hidden_BLD, last_B[:, None, None], axis=1)[:, 0]
    # Where no token counts, as in a text that is all prompt, the last one would be padding.
    return xp.where(mask_BL.any(axis=1)[:, None], last_BD, 0)


def _sum(hidden_BLD: Array, mask_BL: Array, weight_BL: Array | None = None) -> Array:
    xp = hidden_BLD.__array_namespace__()
    # `where`, not a product with the mask: NaN or infinity in the padding must not reach the sum.
    if mask_BL.ndim == 2:
        weighted_BLD = hidden_BLD if weight_BL is None else hidden_BLD * weight_BL[:, :, None]
        return xp.where(mask_BL[:, :, None], weighted_BLD, 0).sum(axis=1)
    weight_BTL = (mask_BL if weight_BL is None else weight_BL).astype(hidden_BLD.dtype)
    hidden_BLD = xp.where(mask_BL.any(axis=1)[:, :, None], hidden_BLD, 0)
    # "highest": a sum in float32, also on devices whose products round float32 to bfloat16.
    return xp.einsum("BTL,BLD->BTD", weight_BTL, hidden_BLD, precision="highest")


def _count(hidden_BLD: Array, mask_BL: Array) -> Array:
    # At least 1: a row of a batch that is all padding gives zeros, not NaN.
    at_least = hidden_BLD.__array_namespace__().maximum
    return at_least(mask_BL.sum(axis=-1, keepdims=True), 1).astype(hidden_BLD.dtype)


# The names that model folders use.
POOLINGS: dict[str, Callable[[Array, Array], Array]] = {
    "cls": cls,
    "max": max,
    "mean": mean,
    "mean_sqrt_len_tokens": mean_sqrt_len,
    "weightedmean": weighted_mean,
    "lasttoken": last_token,
}


def each_text(
    pooling: Callable[[Array, Array], Array], hidden_BLD: Array, mask_BTL: Array, positions_BL: Array | None
) -> Array:
    """sentence_BTD by a pooling of one text per row, for each of the T texts of a row.

    Args:
        positions_BL: each token's place in its text, for a pooling that counts places: each text is moved to the beginning of
            the row, as if it were alone. None moves nothing.
    """
    import jax
    import jax.numpy as jnp

    if positions_BL is None:
        return jax.vmap(pooling, in_axes=(None, 1), out_axes=1)(hidden_BLD, mask_BTL)
    first_BT = jnp.argmax(mask_BTL, axis=2)  # the first token that counts; those of a prompt may be before it
    start_BT = first_BT - jnp.take_along_axis(positions_BL, first_BT, axis=1)
    roll = jax.vmap(lambda row_L, start: jnp.roll(row_L, -start, axis=0))

    def one(mask_BL: Array, start_B: Array) -> Array:
        return pooling(roll(hidden_BLD, start_B), roll(mask_BL, start_B))

    return jax.vmap(one, in_axes=1, out_axes=1)(mask_BTL, start_BT)


# Poolings with weights, by name: flax modules, (width, rngs=) -> (hidden_BLD, mask_BL) -> sentence_BD (register.py).
TRAINED_POOLINGS: dict[str, Callable[..., Any]] = {}
# The registered poolings, with weights or without, for which it matters where in its row a text begins.
COUNT_PLACES: set[str] = set()


def pool(hidden_BLD: Array, mask_BL: Array, modes: Sequence[str], positions_BL: Array | None = None) -> Array:
    """The named poolings, concatenated in that order: `sentence_BD` with D times as many columns as there are modes.

    Args:
        mask_BL: True for the tokens that count. Or mask_BTL, one mask for each of the T texts of a row; the result is
            `sentence_BTD`.
        positions_BL: as for `weighted_mean`; needed by it and by those of `COUNT_PLACES`.

    Example:
        >>> pool(np.array([[[1.0], [2.0]]]), np.ones((1, 2), bool), ["cls", "max"]).tolist()
        [[1.0, 2.0]]
        >>> import jax.numpy as jnp
        >>> pool(jnp.array([[[1.0], [2.0], [4.0]]]), jnp.array([[[1, 1, 0], [0, 0, 1]]], bool), ["mean"]).tolist()
        [[[1.5], [4.0]]]
    """

    def one(mode: str) -> Array:
        function: Callable[..., Array] = POOLINGS[mode]
        if function is weighted_mean:
            function = partial(function, positions_BL=positions_BL)
        elif mask_BL.ndim == 3 and function not in (mean, mean_sqrt_len):
            return each_text(function, hidden_BLD, mask_BL, positions_BL if mode in COUNT_PLACES else None)
        return function(hidden_BLD, mask_BL)

    return hidden_BLD.__array_namespace__().concatenate([one(mode) for mode in modes], axis=-1)
