"""One training step over many devices: who holds what. The step itself does not know.

The contract: the loss and its gradient are those of the global batch, whatever the devices. JAX's own engine keeps it
(`jax.jit` over one mesh): the step is written for the whole batch, the tables below say how its arguments are spread, and
XLA puts in the collectives. So in-batch negatives are those of all devices, and nothing is averaged or summed by hand.

    rows of texts      spread over the data devices: each embeds its own share
    embeddings, loss   gathered by XLA where the loss compares texts of several devices
    parameters         `LAYOUTS`: the same on each device; spread over the data devices (FSDP; Rajbhandari et al. 2020,
                       ZeRO, stage 3); or cut within each layer over model devices (Shoeybi et al. 2019, Megatron-LM,
                       section 3: heads and inner units side by side, one sum at the end of each half of a block)

With N devices of which M share a copy of the model, the mesh is N / M data devices by M model devices. Query, key and value
are one matrix, whose columns are cut without regard to the three: XLA exchanges [rows, L, 3 D] numbers a block and way, which
Megatron-LM's three matrices save. Several hosts: training/multihost.py. Left out: pipelines of layers.
"""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from minisbert.errors import InputError
from minisbert.training.multihost import gather
from minisbert.training.siamese import TrainBatch, TrainState
from minisbert.training.targets import Targets

AXIS, MODEL = "data", "model"
WHOLE = PartitionSpec()
# Cut over the data devices along the longest axis that they divide, or over the model devices along the last, if they do;
# what cannot be cut evenly stays whole.
LONGEST, WIDTH = "longest", "width"
# layout -> (path pattern, how the array is cut); the first that matches counts. The optimizer's state has the parameters'
# paths in its own, and so their layout. All families have these names.
LAYOUTS: dict[str, list[tuple[str, Any]]] = {
    "replicated": [(r".*", WHOLE)],
    "fsdp": [(r"kernel'\]$|embedding'\]$", LONGEST), (r".*", WHOLE)],
    "tensor": [
        (r"\['(qkv|up)'\]\['kernel'\]$", PartitionSpec(None, MODEL)),  # by heads, by inner units
        (r"\['(qkv|up)'\]\['bias'\]$", PartitionSpec(MODEL)),
        (r"\['blocks'\].*\['(output|down)'\]\['kernel'\]$", PartitionSpec(MODEL, None)),  # their products are summed
        (r"\['relative_position_bias'\].*\['embedding'\]$", PartitionSpec(None, MODEL)),  # by heads
        # Not by rows: the vocabulary's size is often odd, such as MPNet's 30,527.
        (r"_embedding'\]\['embedding'\]$", WIDTH),
        (r".*", WHOLE),  # norms, biases after a sum, what follows the transformer
    ],
}


def data_mesh(devices: int | None = None, model_devices: int = 1) -> Mesh:
    """A mesh over the first `devices` devices, None for all: data devices by `model_devices`.

    Raises:
        InputError: there are not so many, or `model_devices` does not divide them.
    """
    there = jax.devices()
    count = len(there) if devices is None else devices
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= len(there):
        raise InputError(
            f"devices is {devices!r}. Expected 1 to {len(there)}, the {there[0].platform} devices that JAX finds here."
        )
    if not isinstance(model_devices, int) or model_devices < 1 or count % model_devices:
        divisors = [n for n in range(1, count + 1) if count % n == 0]
        raise InputError(
            f"model_devices is {model_devices!r} of {count} devices. Expected one of {', '.join(map(str, divisors))}."
        )
    if jax.process_count() > 1 and (count < len(there) or jax.local_device_count() % model_devices):
        raise InputError(
            f"devices is {count}, model_devices {model_devices} on {jax.process_count()} hosts. Expected all {len(there)} "
            f"devices, and model_devices that divide the {jax.local_device_count()} of a host."
        )
    # A host's devices side by side, so that its rows of a batch are one piece of the whole.
    ordered = sorted(there[:count], key=lambda device: (device.process_index, device.id))
    shape = (count // model_devices, model_devices)
    return Mesh(np.array(ordered).reshape(shape), (AXIS, MODEL), axis_types=(AxisType.Auto,) * 2)


def check_setup(mesh: Mesh, layout: str, batch_size: int, config: Any = None) -> None:
    """A set-up that cannot be trained with, before anything is read or written.

    Args:
        config: of the encoder (its family's Config), for `tensor`.

    Raises:
        InputError: naming what to change.
    """
    data, model = mesh.shape[AXIS], mesh.shape[MODEL]
    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}. Expected one of {', '.join(LAYOUTS)}.")
    if (layout == "tensor") != (model > 1):
        raise InputError(
            f"layout is {layout!r} with model_devices {model}. Expected model_devices of 2 or more with 'tensor', and 1 "
            "with any other."
        )
    if batch_size % data:
        below = batch_size // data * data
        raise InputError(
            f"batch_size is {batch_size} on {data} data devices. Expected a multiple: take {below or data}"
            f"{f' or {below + data}' if below else ''}, or another number of devices."
        )
    if model == 1 or config is None:
        return
    for name in ("num_attention_heads", "hidden_size", "intermediate_size"):
        if (size := getattr(config, name)) % model:
            raise InputError(
                f"model_devices is {model}, but the model's {name} is {size}. Expected a number that divides it: "
                f"{', '.join(str(n) for n in range(1, model) if size % n == 0)}."
            )


def state_sharding(state: TrainState | dict[Any, Any], mesh: Mesh, layout: str = "replicated") -> Any:
    """Where each array of the state (or of frozen parameters) lives, by the table of the layout.

    Raises:
        InputError: no such layout, or an array that the model devices cannot share evenly.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}. Expected one of {', '.join(LAYOUTS)}.")

    def place(path: Any, leaf: jax.Array) -> NamedSharding:
        name = jax.tree_util.keystr(path)
        spec = next(spec for pattern, spec in LAYOUTS[layout] if re.search(pattern, name))
        if spec == LONGEST:
            axes = [axis for axis, size in enumerate(leaf.shape) if size % mesh.shape[AXIS] == 0]
            longest = max(axes, key=lambda axis: leaf.shape[axis], default=None)
            spec = WHOLE if longest is None else PartitionSpec(*[None] * longest, AXIS)
        elif spec == WIDTH:
            spec = WHOLE if leaf.shape[-1] % mesh.shape[MODEL] else PartitionSpec(None, MODEL)
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise InputError(
                    f"{name} has the shape {leaf.shape}, which {mesh.shape[axis]} {axis} devices cannot share by {spec}. "
                    "Expected a multiple; take another number of model_devices."
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, state)


def place_state(state: TrainState, sharding: Any) -> TrainState:
    """The state on the devices; of several hosts each has the same and brings what its own devices hold."""
    # A key's numbers, since NumPy has no keys.
    plain = state._replace(key=jax.random.key_data(state.key))
    placed = place_params(plain, sharding)
    return placed._replace(key=jax.random.wrap_key_data(placed.key))


def place_params(params: Any, sharding: Any) -> Any:
    """The same of a tree of parameters."""

    def place(leaf: jax.Array, where: NamedSharding) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, where, lambda index: array[index])

    return jax.tree.map(place, params, sharding)


def place_batch(batch: TrainBatch, mesh: Mesh) -> TrainBatch:
    """The batch on the devices; of several hosts each brings its own part.

    Raises:
        InputError: the number of packed rows is not a multiple of this host's data devices (pack with `multiple`).
    """
    data = mesh.shape[AXIS] // jax.process_count()
    P, T = batch.rows.lengths_PT.shape
    if P % data:
        raise InputError(
            f"the batch has {P} packed rows for {data} data devices. Expected a multiple: pack(multiple=...)."
        )
    # A host counts its rows from 0; among all rows they start where the hosts before it end.
    index_SB = (np.asarray(batch.index_SB) + jax.process_index() * P * T).astype(np.int32)
    batch = batch._replace(index_SB=index_SB)  # type: ignore[arg-type]
    placed: TrainBatch = jax.tree.map(
        lambda array, where: jax.make_array_from_process_local_data(where, np.asarray(array)),
        batch,
        batch_sharding(batch, mesh),
    )
    return placed


def batch_sharding(batch: TrainBatch, mesh: Mesh) -> TrainBatch:
    """Where each array of a batch lives: packed rows are spread; the rest, which is small, is the same on each device.

    Of several hosts none has the rest of all examples, so it is spread by example.
    """
    whole, by_rows = NamedSharding(mesh, WHOLE), NamedSharding(mesh, PartitionSpec(AXIS))
    first, second = whole, whole
    if jax.process_count() > 1:
        first, second = by_rows, NamedSharding(mesh, PartitionSpec(None, AXIS))
    labels_B, hashes_SB, teacher_SBD = batch.targets
    return TrainBatch(
        rows=jax.tree.map(lambda _: by_rows, batch.rows),
        examples_PT=by_rows,  # type: ignore[arg-type]
        columns_PT=by_rows,  # type: ignore[arg-type]
        index_SB=second,  # type: ignore[arg-type]
        targets=Targets(
            None if labels_B is None else first,  # type: ignore[arg-type]
            None if hashes_SB is None else second,  # type: ignore[arg-type]
            None if teacher_SBD is None else second,  # type: ignore[arg-type]
        ),
    )


def on_one_device(params: Any) -> Any:
    """Parameters gathered from wherever they are, for encoding and saving; of several hosts each must call."""
    return jax.tree.map(lambda leaf: jax.numpy.asarray(gather(leaf)), params)
