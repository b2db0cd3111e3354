"""One training step over many devices: which device holds which array. The step itself is device-agnostic.

The contract: the loss and its gradient are those of the global batch, whatever the devices. `jax.jit` over one mesh fulfils
it: the step is written for the whole batch, the tables below say how its arguments are spread, and XLA inserts the
collectives. So in-batch negatives come from all devices, and nothing is averaged or summed by hand.

    rows of texts      spread over the data devices: each embeds its own share
    embeddings, loss   gathered by XLA where the loss compares texts of several devices
    parameters         `LAYOUTS`: the same on each device; spread over the data devices (FSDP; Rajbhandari et al. 2020,
                       ZeRO, stage 3); or cut within each layer over model devices (Shoeybi et al. 2019, Megatron-LM,
                       section 3: heads and inner units in parallel, one sum at the end of each half of a block)

With N devices of which M share a copy of the model, the mesh is N / M data devices by M model devices. Query, key and value
are one matrix, whose columns are cut without regard to the three: XLA exchanges [rows, L, 3 D] numbers per block and
direction, which Megatron-LM's three matrices save. Several hosts: training/multihost.py. Left out: pipelines of layers.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from minisbert.arguments import check_choice
from minisbert.errors import InputError
from minisbert.training.siamese import Gradient, Params, TrainBatch, TrainState
from minisbert.training.targets import Targets
from minisbert.transformer.target import on_tpu

AXIS, MODEL = "data", "model"
REPLICATED = PartitionSpec()
# Cut over the data devices along the longest axis that they divide, or over the model devices along the last axis. An array
# that cannot be cut evenly is replicated.
LONGEST, WIDTH = "longest", "width"
# layout -> (path pattern, how the array is cut); the first match counts. The optimizer's state has the parameters' paths in
# its own, and so their layout. All families use these names.
LAYOUTS: dict[str, list[tuple[str, Any]]] = {
    "replicated": [(r".*", REPLICATED)],
    "fsdp": [(r"kernel'\]$|embedding'\]$", LONGEST), (r".*", REPLICATED)],
    "tensor": [
        (r"\['(qkv|query|up)'\]\['kernel'\]$", PartitionSpec(None, MODEL)),  # by heads, by inner units
        (r"\['(qkv|query|up)'\]\['bias'\]$", PartitionSpec(MODEL)),
        (r"\['blocks'\].*\['(output|down)'\]\['kernel'\]$", PartitionSpec(MODEL, None)),  # their products are summed
        (r"\['relative_position_bias'\].*\['embedding'\]$", PartitionSpec(None, MODEL)),  # by heads
        # Not by rows: the vocabulary's size is often odd, such as MPNet's 30,527.
        (r"_embedding'\]\['embedding'\]$", WIDTH),
        (r".*", REPLICATED),  # norms, biases after a sum, what follows the transformer
    ],
}


def data_mesh(
    devices: int | None = None, model_devices: int = 1, available: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over the first `devices` devices, None for all: data devices by `model_devices`.

    Args:
        available: the devices to choose from; None for those that JAX finds.

    Raises:
        InputError: there are fewer devices, or `model_devices` does not divide them.
    """
    available = jax.devices() if available is None else available
    count = len(available) if devices is None else devices
    if not isinstance(count, int | np.integer) or isinstance(count, bool) or not 1 <= count <= len(available):
        raise InputError(
            f"devices is {devices!r}. Expected 1 to {len(available)}, the {available[0].platform} devices that JAX finds here."
        )
    if not isinstance(model_devices, int | np.integer) or model_devices < 1 or count % model_devices:
        divisors = [n for n in range(1, count + 1) if count % n == 0]
        raise InputError(
            f"model_devices is {model_devices!r} of {count} devices. Expected one of {', '.join(map(str, divisors))}."
        )
    hosts = len({device.process_index for device in available})
    if hosts > 1 and (count < len(available) or len(available) // hosts % model_devices):
        raise InputError(
            f"devices is {count}, model_devices {model_devices} on {hosts} hosts. Expected all "
            f"{len(available)} devices, and model_devices that divide the {len(available) // hosts} of a host."
        )
    # A host's devices are neighbours, so that its rows of a batch are one piece of the whole.
    ordered = sorted(available[:count], key=lambda device: (device.process_index, device.id))
    shape = (count // model_devices, model_devices)
    return Mesh(np.array(ordered).reshape(shape), (AXIS, MODEL), axis_types=(AxisType.Auto,) * 2)


def check_setup(mesh: Mesh, layout: str, batch_size: int, config: Any = None) -> None:
    """Refuse a setup that cannot be trained with, before anything is read or written.

    Args:
        config: of the encoder (its family's Config), for `tensor`.
    """
    data, model = mesh.shape[AXIS], mesh.shape[MODEL]
    check_choice("layout", layout, list(LAYOUTS))
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
    if not hasattr(config, "num_attention_heads"):  # a static model
        raise InputError(
            "layout is 'tensor', but the model has no layers that devices could share. Expected another layout."
        )
    for name in ("num_attention_heads", "hidden_size", "intermediate_size"):
        if (size := getattr(config, name)) % model:
            raise InputError(
                f"model_devices is {model}, but the model's {name} is {size}. Expected a number that divides it: "
                f"{', '.join(str(n) for n in range(1, model) if size % n == 0)}."
            )


def state_sharding(state: TrainState | dict[Any, Any], mesh: Mesh, layout: str = "replicated") -> Any:
    """The sharding of each array of the state (or of LoRA's base parameters), by the table of the layout.

    Raises:
        InputError: an unknown layout, or an array that the model devices cannot share evenly.
    """
    check_choice("layout", layout, list(LAYOUTS))

    def sharding_of(path: Any, leaf: jax.Array) -> NamedSharding:
        name = jax.tree_util.keystr(path)
        spec = next(spec for pattern, spec in LAYOUTS[layout] if re.search(pattern, name))
        if spec == LONGEST:
            axes = [axis for axis, size in enumerate(leaf.shape) if size % mesh.shape[AXIS] == 0]
            longest = max(axes, key=lambda axis: leaf.shape[axis], default=None)
            spec = REPLICATED if longest is None else PartitionSpec(*[None] * longest, AXIS)
        elif spec == WIDTH:
            spec = REPLICATED if leaf.shape[-1] % mesh.shape[MODEL] else PartitionSpec(None, MODEL)
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise InputError(
                    f"{name} has the shape {leaf.shape}, which {mesh.shape[axis]} {axis} devices cannot share by {spec}. "
                    "Expected a multiple; take another number of model_devices."
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding_of, state)


def with_gather(gradient: Gradient, sharding: Any) -> Gradient:
    """FSDP: the same gradient, from parameters gathered before their first use, and spread as they are.

    XLA would otherwise be free to spread the activations like the parameters, at several times the memory and the time. A TPU's
    compiler would also split each product that gives a gradient into one per device in a loop, at twice its time: there the
    gradient is summed whole first.
    """

    def whole(leaf: jax.Array, where: NamedSharding) -> jax.Array:
        spec = PartitionSpec(*(None if axis == AXIS else axis for axis in where.spec))
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(where.mesh, spec))

    def spread(params: Params, batch: TrainBatch, dropout_keys_PT: jax.Array | None) -> tuple[jax.Array, Params]:
        value, slopes = gradient(jax.tree.map(whole, params, sharding), batch, dropout_keys_PT)
        slopes = jax.tree.map(whole, slopes, sharding) if on_tpu() else slopes
        return value, jax.lax.with_sharding_constraint(slopes, sharding)

    return spread


def place(tree: Any, sharding: Any) -> Any:
    """Put a state or parameters on the devices. All hosts have the same tree; each fills its own devices."""

    def place_leaf(leaf: Any, where: NamedSharding) -> Any:
        if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = place_leaf(jax.random.key_data(leaf), where)  # NumPy has no keys
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, where, lambda index: array[index])

    return jax.tree.map(place_leaf, tree, sharding)


def place_batch(batch: TrainBatch, mesh: Mesh) -> TrainBatch:
    """Put a batch on the devices; each of several hosts brings its own part.

    Raises:
        InputError: the number of packed rows is not a multiple of this host's data devices (pack with `multiple`).
    """
    data = mesh.shape[AXIS] // jax.process_count()
    P, T = batch.rows.lengths_PT.shape
    if P % data:
        raise InputError(
            f"the batch has {P} packed rows for {data} data devices. Expected a multiple: pack(multiple=...)."
        )
    # A host counts its rows from 0; in the global batch they follow those of the hosts before it.
    index_SB: Any = (np.asarray(batch.index_SB) + jax.process_index() * P * T).astype(np.int32)
    placed: TrainBatch = jax.tree.map(
        lambda array, where: jax.make_array_from_process_local_data(where, np.asarray(array)),
        batch._replace(index_SB=index_SB),
        batch_sharding(batch, mesh),
    )
    return placed


def row_multiple(device: jax.Device) -> int:
    """A device's packed rows are a multiple of this: a TPU computes two of 64 tokens as one of 128 (tpu.encode)."""
    return 2 if device.platform == "tpu" else 1


def batch_sharding(batch: TrainBatch, mesh: Mesh) -> TrainBatch:
    """The sharding of each array of a batch: packed rows are spread; the rest is small and replicated.

    On several hosts no host has the rest of all examples, so it is spread by example.
    """
    examples = AXIS if len({device.process_index for device in mesh.devices.flat}) > 1 else None
    rows: Any = NamedSharding(mesh, PartitionSpec(AXIS))
    per_example_B: Any = NamedSharding(mesh, PartitionSpec(examples))
    per_text_SB: Any = NamedSharding(mesh, PartitionSpec(None, examples))
    targets = Targets(per_example_B, per_text_SB, per_text_SB, per_text_SB, per_example_B)
    # What the batch has none of stays None.
    found: TrainBatch = jax.tree.broadcast(TrainBatch(rows, rows, rows, per_text_SB, targets), batch)
    return found


def on_one_device(params: Any) -> Any:
    """Parameters gathered from all devices, for encoding and saving; every host must call it."""

    def gather(leaf: jax.Array) -> jax.Array:
        if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
            from jax.experimental.multihost_utils import process_allgather

            leaf = process_allgather(leaf, tiled=True)
        return jax.numpy.asarray(np.asarray(leaf))

    return jax.tree.map(gather, params)
