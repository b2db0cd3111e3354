"""One training step over many devices: who holds what. The step itself does not know.

The contract: the loss and its gradient are those of the global batch, whatever the devices. JAX's own engine keeps it
(`jax.jit` over one mesh): the step is written for the whole batch, the tables below say how its arguments are spread, and
XLA puts in the collectives. So in-batch negatives are those of all devices, and nothing is averaged or summed by hand.

    rows of texts      spread over the devices: each embeds its own share
    embeddings, loss   gathered by XLA where the loss compares texts of several devices
    parameters         `LAYOUTS`: the same on each device, or spread too (FSDP; Rajbhandari et al. 2020, ZeRO, stage 3)

Left out: tensor parallelism, several hosts.
"""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from minisbert.errors import InputError
from minisbert.training.siamese import TrainBatch, TrainState

AXIS = "data"
# layout -> (path pattern, whether the array is spread); the first that matches counts. The optimizer's state has the
# parameters' paths in its own, and so their layout.
LAYOUTS: dict[str, list[tuple[str, bool]]] = {
    "replicated": [(r".*", False)],
    "fsdp": [(r"kernel'\]$|embedding'\]$", True), (r".*", False)],
}


def data_mesh(devices: int | None = None) -> Mesh:
    """A mesh with one axis over the first `devices` devices, None for all.

    Raises:
        InputError: there are not so many.
    """
    there = jax.devices()
    count = len(there) if devices is None else devices
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= len(there):
        raise InputError(
            f"devices is {devices!r}. Expected 1 to {len(there)}, the {there[0].platform} devices that JAX finds here."
        )
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=there[:count])


def state_sharding(state: TrainState, mesh: Mesh, layout: str = "replicated") -> Any:
    """Where each array of the state lives, by the table of the layout."""
    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}. Expected one of {', '.join(LAYOUTS)}.")

    def place(path: Any, leaf: jax.Array) -> NamedSharding:
        name = jax.tree_util.keystr(path)
        spread = next(spread for pattern, spread in LAYOUTS[layout] if re.search(pattern, name))
        axes = [axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0] if spread else []
        if not axes:  # what cannot be cut evenly stays whole
            return NamedSharding(mesh, PartitionSpec())
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, AXIS))

    return jax.tree_util.tree_map_with_path(place, state)


def place_batch(batch: TrainBatch, mesh: Mesh) -> TrainBatch:
    """The batch on the devices: packed rows spread, the rest the same on each.

    Raises:
        InputError: the number of rows is not a multiple of the devices (pack with `multiple`).
    """
    rows = len(batch.rows.token_ids_PL)
    if rows % mesh.size:
        raise InputError(
            f"the batch has {rows} packed rows for {mesh.size} devices. Expected a multiple: pack(multiple=...)."
        )
    whole = NamedSharding(mesh, PartitionSpec())
    by_rows = NamedSharding(mesh, PartitionSpec(AXIS))
    spread = TrainBatch(
        rows=jax.tree.map(lambda _: by_rows, batch.rows),
        examples_PT=by_rows,  # type: ignore[arg-type]
        columns_PT=by_rows,  # type: ignore[arg-type]
        where_SB=whole,  # type: ignore[arg-type]
        targets=jax.tree.map(lambda _: whole, batch.targets),
    )
    return jax.device_put(batch, spread)


def on_one_device(params: Any) -> Any:
    """Parameters gathered from wherever they are, for encoding and saving."""
    return jax.tree.map(lambda leaf: jax.numpy.asarray(np.asarray(leaf)), params)
