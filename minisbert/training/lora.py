"""LoRA: train a low-rank change of chosen matrices instead of the matrices (Hu et al. 2021, section 4.1).

    x W'  =  x W + scale * (x A) B        W' = W + scale * A B,   scale = alpha / rank        equation 3
    A_IR normal, B_RO zero: the first step starts from the unchanged model.

Only A and B are trained: gradients, optimizer state and checkpoints are theirs, and W never changes. The encoder does not
know of LoRA: `merge_lora` gives ordinary parameters, in every step and when the model is saved, so the saved folder is an
ordinary one (the paper's "no additional inference latency"). It works on the parameter tree, by the paths in `TARGETS`; one
table serves all families. Left out: dropout on the adapters' input.

Letters: I input width, O output width, R rank.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from minisbert.checkpoint.convert import flatten, nest
from minisbert.errors import InputError

Tree = Any  # nested dicts of arrays


class Target(NamedTuple):
    """One kind of matrix: the path of its kernel, and which of the matrices concatenated there it is."""

    path: str
    part: int = 0
    parts: int = 1


# What can be adapted; a model has one of the matrices of a row. The paper's experiments adapt query and value (section 7.1).
TARGETS = {
    "query": (Target(r"attention\.qkv\.kernel$", part=0, parts=3), Target(r"attention\.query\.kernel$")),
    "key": (Target(r"attention\.qkv\.kernel$", part=1, parts=3), Target(r"attention\.key_value\.kernel$", 0, 2)),
    "value": (Target(r"attention\.qkv\.kernel$", part=2, parts=3), Target(r"attention\.key_value\.kernel$", 1, 2)),
    "output": (Target(r"attention\.output\.kernel$"),),
    "up": (Target(r"feed_forward\.up\.kernel$"),),
    "down": (Target(r"feed_forward\.down\.kernel$"),),
}
# A cross-encoder's new head is not pretrained: there is nothing to adapt, and all of it is trained.
FULLY_TRAINED = r"^head\."


def target_of(name: str, path: str) -> Target | None:
    """The matrix of this name in the kernel of this path, None if it is not there."""
    return next((row for row in TARGETS[name] if re.search(row.path, path)), None)


def initial_adapters(base_params: Tree, rank: int, targets: Sequence[str], key: jax.Array) -> Tree:
    """The trained parameters before training: {"adapters": A and B by path and target, "whole": copies of other parameters}.

    Args:
        base_params: the model's, nested.
        rank: R, at most the smaller side of each matrix.
        targets: rows of `TARGETS`.
        key: for A; B is zero.

    Raises:
        InputError: a rank that exceeds a side of a matrix, or a model without such matrices.

    Example:
        >>> params = {"attention": {"output": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}}}
        >>> adapters = initial_adapters(params, 2, ["output"], jax.random.key(0))["adapters"]
        >>> {path: leaf.shape for path, leaf in flatten(adapters).items()}
        {'attention.output.kernel.output.a': (4, 2), 'attention.output.kernel.output.b': (2, 4)}
    """
    flat = flatten(base_params)
    factors: dict[str, jax.Array] = {}
    for target in targets:
        rows = {path: row for path in sorted(flat) if (row := target_of(target, path)) is not None}
        if not rows:
            raise InputError(
                f"lora_targets has {target!r}, but the model has no such matrix. Leave it out, or name others."
            )
        for path, row in rows.items():
            key, own = jax.random.split(key)
            inputs, outputs = flat[path].shape[0], flat[path].shape[1] // row.parts
            if rank > min(inputs, outputs):
                raise InputError(
                    f"lora_rank is {rank}, but {target} in {path} is {inputs} x {outputs}. Expected at most "
                    f"{min(inputs, outputs)}, and far less to save memory."
                )
            dtype = flat[path].dtype
            factors[f"{path}.{target}.a"] = jax.random.normal(own, (inputs, rank), dtype) / inputs**0.5
            factors[f"{path}.{target}.b"] = jnp.zeros((rank, outputs), dtype)
    # A copy, because the training step reuses the memory of what it trains.
    whole = {path: jnp.copy(leaf) for path, leaf in flat.items() if re.search(FULLY_TRAINED, path)}
    return {"adapters": nest(factors), "whole": nest(whole)}


def merge_lora(base_params: Tree, trained: Tree, *, scale: float) -> Tree:
    """The adapted model's parameters, W + scale * A B. `base_params` does not change.

    Args:
        base_params: the model's, nested.
        trained: from `initial_adapters`, trained.
        scale: alpha / rank.

    Example:
        >>> params = {"feed_forward": {"up": {"kernel": jnp.zeros((2, 2))}}}
        >>> factors = {"a": jnp.array([[1.0], [2.0]]), "b": jnp.array([[3.0, 4.0]])}
        >>> trained = {"adapters": {"feed_forward": {"up": {"kernel": {"up": factors}}}}, "whole": {}}
        >>> merge_lora(params, trained, scale=0.5)["feed_forward"]["up"]["kernel"].tolist()
        [[1.5, 2.0], [3.0, 4.0]]
    """
    flat = {**flatten(base_params), **flatten(trained["whole"])}
    factors = flatten(trained["adapters"])
    for name, a_IR in factors.items():
        place, _, factor = name.rpartition(".")
        if factor != "a":
            continue
        path, _, target = place.rpartition(".")
        row, kernel_IO = target_of(target, path), jnp.asarray(flat[path])
        assert row is not None, place  # adapters are made for the matrices of the table
        # "highest": the change of the weights is computed in the precision in which they are stored.
        change_IO = scale * jnp.matmul(a_IR, factors[f"{place}.b"], precision="highest")
        width = kernel_IO.shape[1] // row.parts
        flat[path] = kernel_IO.at[:, row.part * width : (row.part + 1) * width].add(change_IO)
    return nest(flat)


def with_lora(embed: Callable[..., jax.Array], base_params: Tree, scale: float) -> Callable[..., jax.Array]:
    """`embed` as a function of the adapters: (trained, rows, dropout keys) -> embeddings of the adapted model."""
    return lambda trained, *inputs: embed(merge_lora(base_params, trained, scale=scale), *inputs)
