"""What a training run will need, before it is started: memory, work, time.

    plan(encoder design, config, ...) -> Plan        `minisbert train ... --plan` prints it

Nothing is loaded and nothing runs: XLA compiles the step for arrays that do not exist (`jax.ShapeDtypeStruct`) and says how
much memory that program takes. The rest is arithmetic:

    parameters, optimizer    shapes times bytes, as the layout spreads them: exact
    activations              the compiler's own analysis, on this machine's kind of device; other kinds differ
    FLOPs                    two a weight and token for the forward pass, and 4 L D a token and layer for attention's two
                             products; twice as much for the way back (Kaplan et al. 2020, table 1), and one forward pass
                             more for GradCache
    rate                     FLOPs over the chips' published bfloat16 peak, times `MFU`, an assumption

All texts are taken to be as long as they may be; real ones are shorter, and pack into fewer rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from minisbert.inference.compiled import COMPUTE_DTYPES
from minisbert.text.packing import TOKENS_A_SLOT, PackedTexts, packed_shape
from minisbert.training.config import TrainConfig
from minisbert.training.losses import initial_softmax_head
from minisbert.training.sharding import AXIS, batch_sharding, check_setup, state_sharding
from minisbert.training.siamese import TrainBatch, TrainState, initial_state
from minisbert.training.step_cache import compiled_step, loss_for, optimizer_for
from minisbert.training.targets import Targets
from minisbert.training.task import TrainingTask

Tree = Any
GIB = 2**30
# The share of a chip's peak that training reaches; an assumption, as good encoders' training on each of them does.
MFU = 0.4


class Chip(NamedTuple):
    """What the makers publish: devices as JAX counts them, bfloat16 peak and memory of one."""

    devices: int
    teraflops: float
    gib: float


CHIPS = {
    "v3-8": Chip(8, 61.5, 16),
    "v4-8": Chip(4, 275, 32),
    "v5e-8": Chip(8, 197, 16),
    "v5p-8": Chip(4, 459, 95),
    "v5p pod": Chip(8960, 459, 95),
    "H100": Chip(1, 989, 80),
    "H200": Chip(1, 989, 141),
}


@dataclass(frozen=True)
class Plan:
    """What was found; bytes are of one device."""

    config: TrainConfig
    where: str  # devices and layout
    devices: int
    texts: int  # S, of an example
    rows: int
    length: int
    parameters: int
    parameter_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    bytes_an_example: float
    flops: int  # of a step, all devices together
    negatives: int | None  # of an anchor, where the loss takes them from the batch
    data_devices: int

    @property
    def bytes(self) -> int:
        """Of one device, all together."""
        return self.parameter_bytes + self.optimizer_bytes + self.activation_bytes

    def largest_batch(self, memory_bytes: float) -> int:
        """The largest batch whose step fits, on a straight line through two compiled ones; 0 where none does."""
        more = (memory_bytes - self.bytes) / max(self.bytes_an_example, 1e-9)
        return max(0, int(self.config.batch_size + more) // self.data_devices * self.data_devices)

    def memory_on(self, chip: Chip) -> float:
        """About what a device of these chips would hold: activations are shared by as many as there are."""
        return self.parameter_bytes + self.optimizer_bytes + self.activation_bytes * self.data_devices / chip.devices

    def rate(self, chip: Chip, mfu: float = MFU) -> float:
        """Examples a second."""
        return self.config.batch_size * mfu * chip.teraflops * 1e12 * chip.devices / self.flops

    def lines(self, memory_gib: float | None = None) -> list[str]:
        """The plan as text."""
        config = self.config
        lines = [
            f"a step      {config.batch_size} examples of {self.texts} texts, {config.loss}: {self.rows} rows of {self.length} "
            f"tokens, {config.compute_dtype}, on {self.where}",
            f"parameters  {self.parameters:,}",
            f"a device    {_size(self.parameter_bytes)} parameters + {_size(self.optimizer_bytes)} optimizer + "
            f"{_size(self.activation_bytes)} activations and gradients = {_size(self.bytes)}",
            f"work        {self.flops / 1e12:,.3f} TFLOPs a step{' with GradCache' if config.chunk_size else ''}",
        ]
        if self.negatives is not None:
            lines.append(
                f"negatives   {self.negatives:,} for each anchor, from a global batch of {config.batch_size:,}"
            )
        if memory_gib is not None:
            largest = self.largest_batch(memory_gib * GIB)
            lines.append(f"largest     batch in {memory_gib:g} GiB a device: {f'{largest:,}' if largest else 'none'}")
        if not self.flops:
            return [*lines, "rate        not planned: a static model looks its vectors up and multiplies nothing"]
        lines.append(f"rate        at {MFU:.0%} of the bfloat16 peak (an assumption), input not counted:")
        for name, chip in CHIPS.items():
            what = f"  {name:8} {chip.devices:5} x {chip.teraflops:g} TFLOP/s, {chip.gib:g} GiB: "
            if config.batch_size < chip.devices:
                lines.append(f"{what}more devices than examples in a batch")
                continue
            rate, steps = self.rate(chip), config.max_steps
            hours = f", {steps:,} steps in {steps * config.batch_size / rate / 3600:,.1f} h" if steps else ""
            need = self.memory_on(chip)
            fits = "" if need <= chip.gib * GIB else f"; does not fit, about {_size(need)} a device: lower chunk_size"
            lines.append(f"{what}{rate:10,.0f} examples/s{hours}{fits}")
        return lines


def plan(
    model_config: Any,
    config: TrainConfig,
    task: TrainingTask,
    *,
    texts: int,
    max_length: int,
    mesh: Mesh,
    layout: str = "replicated",
    classes: int = 3,
) -> Plan:
    """Compile the step of a run without its data and weights, twice, and add up what it needs.

    Args:
        design: of the model (`pretrained.read_design`), or a CrossEncoderConfig.
        task: how it is trained.
        texts: of an example in the data; a cross-encoder makes a pair less of them.
        max_length: tokens of a text at most.
        mesh, layout: as in training.
        classes: of the softmax loss's head.

    Raises:
        InputError: a set-up that training refuses too.
    """
    check_setup(mesh, layout, config.batch_size, model_config.encoder)
    definition, params = task.define(model_config, COMPUTE_DTYPES[config.compute_dtype])
    loss, data_devices = task.losses[config.loss], mesh.shape[AXIS]
    _, optimizer, _ = optimizer_for(config, config.max_steps or 1_000 * config.accumulate)
    columns, texts = texts, task.sequences(texts)
    if config.reduction == "ordered":  # about the memory of GradCache with its blocks for chunks
        config = replace(config, chunk_size=config.chunk_size or max(1, texts * config.batch_size // config.blocks))

    def first_state(params: Tree) -> TrainState:
        head = {}
        if loss.has_head:
            head = dict(
                initial_softmax_head(jax.random.key(0), model_config.dimension, classes, **(config.loss_options or {}))
            )
        return initial_state({"model": params, "head": head}, optimizer, config.seed)

    state = jax.eval_shape(first_state, params)
    sharding = state_sharding(state, mesh, layout)
    state = jax.tree.map(_placed, state, sharding)
    step = compiled_step(
        replace(config, reduction="plain"),
        definition,
        loss_for(config, loss, getattr(model_config, "dimension", 0)),
        optimizer,
        mesh,
        sharding if mesh.size > 1 else None,
    )

    def activations(examples: int) -> tuple[int, tuple[int, int]]:
        P, L = packed_shape(texts * examples, max_length, data_devices)
        batch = abstract_batch(P, L, texts, examples, loss.needs, columns - 2, getattr(model_config, "dimension", 0))
        batch = jax.tree.map(_placed, batch, batch_sharding(batch, mesh))
        memory = step.lower(state, batch).compile().memory_analysis()  # type: ignore[attr-defined]
        return memory.temp_size_in_bytes, (P, L)

    needed, (P, L) = activations(config.batch_size)
    other = max(data_devices, config.batch_size // 2 // data_devices * data_devices)
    other = other if other < config.batch_size else 2 * config.batch_size
    slope = (needed - activations(other)[0]) / (config.batch_size - other)
    forward = forward_flops(params, model_config.encoder.num_hidden_layers, P, L)
    sees_batch = config.loss == "multiple_negatives_ranking"
    return Plan(
        config=config,
        where=f"{data_devices} x {mesh.size // data_devices} {mesh.devices.flat[0].platform} devices, {layout}",
        devices=mesh.size,
        texts=texts,
        rows=P,
        length=L,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        parameter_bytes=bytes_a_device(state.params),
        optimizer_bytes=bytes_a_device(state.optimizer_state),
        activation_bytes=needed,
        bytes_an_example=slope,
        flops=forward * (4 if config.chunk_size else 3),
        negatives=(texts - 1) * config.batch_size - 1 if sees_batch else None,
        data_devices=data_devices,
    )


def bytes_a_device(tree: Tree) -> int:
    """What one device holds of arrays with a sharding each.

    Example:
        >>> bytes_a_device({"kernel": jax.ShapeDtypeStruct((4, 8), jnp.float32)})
        128
    """

    def held(leaf: Any) -> int:
        shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        return int(np.prod(shape)) * leaf.dtype.itemsize

    return sum(map(held, jax.tree.leaves(tree)))


def forward_flops(params: Tree, layers: int, P: int, L: int) -> int:
    """FLOPs of the encoder's matrix products for P rows of L tokens: padding is computed like the rest.

    Args:
        params: the model's, shapes are enough; each kernel K of the encoder costs 2 |K| a token, each layer's attention
            4 L D more.
        layers: how often the blocks are gone through, together (ALBERT's one block serves all).
    """
    encoder = params["encoder"]
    if "blocks" not in encoder:
        return 0  # a static model looks its vectors up
    block = encoder["blocks"][0]
    kernels = sum(leaf.size for path, leaf in jax.tree.leaves_with_path(encoder) if path[-1].key == "kernel")
    own = sum(leaf.size for path, leaf in jax.tree.leaves_with_path(encoder["blocks"]) if path[-1].key == "kernel")
    a_layer = own // len(encoder["blocks"])
    D = block["attention"]["output"]["kernel"].shape[1]
    return P * L * (2 * (kernels - own + layers * a_layer) + layers * 4 * L * D)


def abstract_batch(P: int, L: int, S: int, B: int, needs: str, negatives: int, width: int) -> TrainBatch:
    """The shapes of a batch of B examples of S texts in P rows of L tokens, for a loss that `needs` such labels."""

    def of(*shape: int, dtype: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    T = L // TOKENS_A_SLOT
    labels: dict[str, Callable[[], Any]] = {
        "class": lambda: of(B),
        "score": lambda: of(B, dtype=jnp.float32),
        "margin": lambda: of(B, negatives, dtype=jnp.float32),
    }
    return TrainBatch(
        rows=PackedTexts(*(of(P, L) for _ in range(3)), *(of(P, T) for _ in range(3))),
        examples_PT=of(P, T, dtype=jnp.uint32),
        columns_PT=of(P, T),
        index_SB=of(S, B),
        targets=Targets(
            labels_B=labels[needs]() if needs in labels else None,
            hashes_SB=of(S, B, dtype=jnp.uint32),
            teacher_SBD=of(S, B, width, dtype=jnp.float32) if needs == "teacher" else None,
        ),
    )


def _placed(leaf: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _size(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"
