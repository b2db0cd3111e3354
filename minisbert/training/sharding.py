"""One training step over many devices: who holds what. The step itself does not know.

The contract: the loss and its gradient are those of the global batch, whatever the devices. JAX's own engine keeps it
(`jax.jit` over one mesh): the step is written for the whole batch, the tables below say how its arguments are spread, and
XLA puts in the collectives. So in-batch negatives are those of all devices, and nothing is averaged or summed by hand.

    rows of texts      spread over the devices: each embeds its own share
    embeddings, loss   gathered by XLA where the loss compares texts of several devices
    parameters         `LAYOUTS`: the same on each device, or spread too (FSDP; Rajbhandari et al. 2020, ZeRO, stage 3)

Several hosts: hosts.py. Left out: tensor parallelism.
"""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from minisbert.errors import InputError
from minisbert.training.hosts import whole
from minisbert.training.siamese import TrainBatch, TrainState
from minisbert.training.targets import Targets

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
    if not isinstance(count, int) or not 1 <= count <= len(there):
        raise InputError(
            f"devices is {devices!r}. Expected 1 to {len(there)}, the {there[0].platform} devices that JAX finds here."
        )
    if jax.process_count() > 1 and count < len(there):
        raise InputError(
            f"devices is {count} on {jax.process_count()} hosts. Expected all {len(there)} devices, or None."
        )
    # A host's devices side by side, so that its rows of a batch are one piece of the whole.
    ordered = sorted(there[:count], key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def state_sharding(state: TrainState | dict[Any, Any], mesh: Mesh, layout: str = "replicated") -> Any:
    """Where each array of the state (or of frozen parameters) lives, by the table of the layout."""
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


def place_state(state: TrainState, sharding: Any) -> TrainState:
    """The state on the devices; of several hosts each has the same and brings what its own devices hold."""

    def place(leaf: jax.Array, where: NamedSharding) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, where, lambda index: array[index])

    # A key's numbers, since NumPy has no keys.
    plain = state._replace(key=jax.random.key_data(state.key))
    placed = jax.tree.map(place, plain, sharding)
    return placed._replace(key=jax.random.wrap_key_data(placed.key))


def place_batch(batch: TrainBatch, mesh: Mesh) -> TrainBatch:
    """The batch on the devices: packed rows spread, the rest the same on each; of several hosts each brings its part.

    Raises:
        InputError: the number of rows is not a multiple of this host's devices (pack with `multiple`), or of several hosts
            the examples are not.
    """
    hosts, local = jax.process_count(), len(mesh.local_devices)
    P, T = batch.rows.lengths_PT.shape
    where_SB = np.asarray(batch.where_SB)
    if P % local:
        raise InputError(f"the batch has {P} packed rows for {local} devices. Expected a multiple: pack(multiple=...).")
    if hosts > 1 and where_SB.shape[1] % local:
        raise InputError(
            f"batch_size gives each of {hosts} hosts {where_SB.shape[1]} examples for its {local} devices. Expected a "
            f"multiple of {mesh.size} in all."
        )

    def place(array: Any, axis: int | None) -> jax.Array:
        array = np.asarray(array)
        spec = PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), array)

    # What belongs to an example, not to a row, is small: one host's devices each have all of it.
    by_example = (lambda array, axis: place(array, axis)) if hosts > 1 else (lambda array, axis: place(array, None))
    labels_B, hashes_SB, teacher_SBD = batch.targets
    return TrainBatch(
        rows=jax.tree.map(lambda array: place(array, 0), batch.rows),
        examples_PT=place(batch.examples_PT, 0),
        columns_PT=place(batch.columns_PT, 0),
        # A host counts its rows from 0; among all rows they start where the hosts before it end.
        where_SB=by_example((where_SB + jax.process_index() * P * T).astype(np.int32), 1),
        targets=Targets(
            None if labels_B is None else by_example(labels_B, 0),
            None if hashes_SB is None else by_example(hashes_SB, 1),
            None if teacher_SBD is None else by_example(teacher_SBD, 1),
        ),
    )


def on_one_device(params: Any) -> Any:
    """Parameters gathered from wherever they are, for encoding and saving; of several hosts each must call."""
    return jax.tree.map(lambda leaf: jax.numpy.asarray(whole(leaf)), params)
