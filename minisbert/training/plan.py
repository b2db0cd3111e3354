"""What a training run will need before it starts: memory, work, time.

    plan(model_config, config, task, ...) -> Plan        `minisbert train ... --plan` prints it

No weights are loaded and nothing runs: XLA compiles the step for arrays that do not exist (`jax.ShapeDtypeStruct`) and
reports how much memory that program takes. The rest is arithmetic:

    parameters, optimizer    shapes times bytes, as the layout spreads them: exact
    activations              the compiler's own analysis, for this machine's kind of device; other kinds differ by several times
    FLOPs                    two per weight and token for the forward pass, and 4 L D per token and layer for attention's two
                             products; twice as much for the backward pass (Kaplan et al. 2020, table 1), and one forward
                             pass more for GradCache
    rate                     FLOPs over the chips' published bfloat16 peak, times `MFU`, an assumption

All texts are assumed to be as long as allowed; real ones are shorter and pack into fewer rows.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from minisbert.inference.compiled import COMPUTE_DTYPES
from minisbert.inference.program_costs import forward_flops
from minisbert.inference.tpu_compiler import CHIPS, GIB, Chip, size
from minisbert.text.packing import TOKENS_PER_SLOT, PackedTexts, packed_shape
from minisbert.training.config import TrainConfig
from minisbert.training.losses import Loss
from minisbert.training.optimizer import optimizer_for
from minisbert.training.record import name_of
from minisbert.training.sharding import AXIS, batch_sharding, check_setup, state_sharding
from minisbert.training.siamese import TrainBatch, TrainState
from minisbert.training.step_cache import compiled_step, step_settings
from minisbert.training.targets import Targets
from minisbert.training.task import TrainingTask

Tree = Any
# The share of a chip's peak that training reaches: an assumption, typical of well-tuned encoders.
MFU = 0.4


@dataclass(frozen=True)
class Plan:
    """What a run needs; bytes are per device."""

    config: TrainConfig
    where: str  # devices and layout
    data_devices: int
    texts: int  # S, sequences per example
    rows: int
    length: int
    parameters: int
    parameter_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    bytes_per_example: float
    flops: int  # per step, all devices together

    @property
    def bytes(self) -> int:
        """All bytes of one device."""
        return self.parameter_bytes + self.optimizer_bytes + self.activation_bytes

    @property
    def negatives(self) -> int | None:
        """In-batch negatives of an anchor; None for a loss without."""
        if self.config.loss != "multiple_negatives_ranking":
            return None
        return (self.texts - 1) * self.config.batch_size - 1

    def largest_batch(self, memory_bytes: float) -> int:
        """The largest batch whose step fits, on a straight line through two compiled ones; 0 if none fits."""
        more = (memory_bytes - self.bytes) / max(self.bytes_per_example, 1e-9)
        return max(0, int(self.config.batch_size + more) // self.data_devices * self.data_devices)

    def rate(self, chip: Chip, mfu: float = MFU) -> float:
        """Examples per second."""
        return self.config.batch_size * mfu * chip.teraflops * 1e12 * chip.devices / self.flops

    def lines(self, memory_gib: float | None = None) -> list[str]:
        """The plan as text."""
        config, loss = self.config, name_of(self.config.loss)
        lines = [
            f"step        {config.batch_size} examples of {self.texts} texts, {loss}: {self.rows} rows of {self.length} "
            f"tokens, {config.compute_dtype}, on {self.where}",
            f"parameters  {self.parameters:,}",
            f"per device  {size(self.parameter_bytes)} parameters + {size(self.optimizer_bytes)} optimizer + "
            f"{size(self.activation_bytes)} activations and gradients = {size(self.bytes)}",
            f"work        {self.flops / 1e12:,.3f} TFLOPs per step{' with GradCache' if config.chunk_size else ''}",
        ]
        if self.negatives is not None:
            lines.append(
                f"negatives   {self.negatives:,} for each anchor, from a global batch of {config.batch_size:,}"
            )
        if memory_gib is not None:
            largest = self.largest_batch(memory_gib * GIB)
            lines.append(f"largest     batch in {memory_gib:g} GiB per device: {f'{largest:,}' if largest else 'none'}")
        if not self.flops:
            return [*lines, "rate        not planned: a static model looks up its vectors and multiplies nothing"]
        lines.append(
            f"rate        at {MFU:.0%} of the bfloat16 peak (an assumption; --chip asks a TPU's compiler), without reading the "
            "data:"
        )
        return lines + [self._line_for(name, chip) for name, chip in CHIPS.items()]

    def _line_for(self, name: str, chip: Chip) -> str:
        line = f"  {name:8} {chip.devices:5} x {chip.teraflops:g} TFLOP/s, {chip.gib:g} GiB: "
        if self.config.batch_size < chip.devices:
            return f"{line}more devices than examples in a batch"
        rate, steps = self.rate(chip), self.config.max_steps
        # Roughly, because these chips share the activations.
        need = self.parameter_bytes + self.optimizer_bytes + self.activation_bytes * self.data_devices / chip.devices
        line += f"{rate:10,.0f} examples/s"
        if steps:
            line += f", {steps:,} steps in {steps * self.config.batch_size / rate / 3600:,.1f} h"
        if need > chip.gib * GIB:
            line += f"; does not fit, about {size(need)} per device: lower chunk_size"
        return line


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
    """Compile the step of a run without its data and weights, for two batch sizes, and add up what it needs.

    Args:
        model_config: a ModelConfig (`pretrained.read_model_config`) or a CrossEncoderConfig.
        task: how this kind of model is trained.
        texts: texts per example of the data; a cross-encoder makes one pair fewer of them.
        max_length: the most tokens of a text.
        mesh, layout: as in training.
        classes: of the softmax loss's head.
    """
    S = task.sequences(texts)
    if config.deterministic:  # about the memory of GradCache with its blocks for chunks
        chunk_size = config.chunk_size or max(1, S * config.batch_size // config.blocks)
        config = replace(config, chunk_size=chunk_size, deterministic=False)
    config = replace(config, lora_rank=None)  # an upper bound
    lower = partial(
        lower_step,
        model_config,
        task=task,
        texts=texts,
        max_length=max_length,
        mesh=mesh,
        layout=layout,
        classes=classes,
    )

    def activation_bytes(step: LoweredStep) -> int:
        return int(step.program.compile().memory_analysis().temp_size_in_bytes)

    B, data_devices = config.batch_size, mesh.shape[AXIS]
    other = max(data_devices, B // 2 // data_devices * data_devices)
    other = other if other < B else 2 * B
    step = lower(config)
    needed = activation_bytes(step)
    return Plan(
        config=config,
        where=f"{data_devices} x {mesh.size // data_devices} {mesh.devices.flat[0].platform} devices, {layout}",
        data_devices=data_devices,
        texts=S,
        rows=step.rows,
        length=step.length,
        parameters=step.parameters,
        parameter_bytes=bytes_per_device(step.state.params),
        optimizer_bytes=bytes_per_device(step.state.optimizer_state),
        activation_bytes=needed,
        bytes_per_example=(needed - activation_bytes(lower(replace(config, batch_size=other)))) / (B - other),
        flops=step.flops,
    )


class LoweredStep(NamedTuple):
    """A run's step as a program that is not compiled yet, for arrays that do not exist."""

    program: Any
    state: TrainState
    """The shapes of the state's arrays and how they are spread."""
    rows: int
    length: int
    parameters: int
    flops: int
    """Of all devices together."""


def lower_step(
    model_config: Any,
    config: TrainConfig,
    task: TrainingTask,
    *,
    texts: int,
    max_length: int,
    mesh: Mesh,
    layout: str = "replicated",
    classes: int = 3,
) -> LoweredStep:
    """The program of one training step; arguments as for `plan`."""
    check_setup(mesh, layout, config.batch_size, model_config.encoder)
    definition, params = task.define(model_config, COMPUTE_DTYPES[config.compute_dtype])
    loss, width = task.loss(config), getattr(model_config, "dimension", 0)
    _, recipe, numbers, _ = optimizer_for(config, config.max_steps or 1_000 * config.accumulate)
    state = jax.eval_shape(partial(task.initial_state, config, model_config, recipe(numbers), classes), params)

    def spread(tree: Tree) -> Tree:
        return jax.tree.map(_placed, tree, state_sharding(tree, mesh, layout))

    state, base_params = spread(state), spread(params) if config.lora_rank is not None else None
    sharding = jax.tree.map(lambda leaf: leaf.sharding, state) if mesh.size > 1 else None
    step: Any = compiled_step(step_settings(config, definition, loss, width, recipe, mesh, sharding))
    B, S = config.batch_size, task.sequences(texts)
    P, L = packed_shape(S * B, max_length, mesh.shape[AXIS])
    batch = abstract_batch(P, L, S, B, loss, texts - 2, width)
    batch = jax.tree.map(_placed, batch, batch_sharding(batch, mesh))
    given = (state, batch, numbers) if base_params is None else (state, batch, numbers, base_params)
    program = step.lower(*given)
    passes = 4 if config.chunk_size else 3
    return LoweredStep(
        program=program,
        state=state,
        rows=P,
        length=L,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        flops=forward_flops(params, model_config.encoder, P, L) * passes,
    )


def bytes_per_device(tree: Tree) -> int:
    """The bytes that one device holds of arrays with a sharding each.

    Example:
        >>> bytes_per_device({"kernel": jax.ShapeDtypeStruct((4, 8), jnp.float32)})
        128
    """

    def bytes_of(leaf: Any) -> int:
        shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        return int(np.prod(shape)) * int(leaf.dtype.itemsize)

    return sum(map(bytes_of, jax.tree.leaves(tree)))


def abstract_batch(P: int, L: int, S: int, B: int, loss: Loss, negatives: int, width: int) -> TrainBatch:
    """The shapes of a batch of B examples of S texts in P rows of L tokens, with what the loss needs."""
    integers, floats = partial(jax.ShapeDtypeStruct, dtype=jnp.int32), partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    unsigned: Any = partial(jax.ShapeDtypeStruct, dtype=jnp.uint32)
    labels: Any = {"class": integers((B,)), "score": floats((B,)), "margin": floats((B, negatives))}
    per_text: Any = integers((P, L // TOKENS_PER_SLOT))
    return TrainBatch(
        rows=PackedTexts(*[integers((P, L))] * 3, *[per_text] * 3),
        examples_PT=unsigned(per_text.shape),
        columns_PT=per_text,
        index_SB=integers((S, B)),
        targets=Targets(
            labels.get(loss.needs),
            unsigned((S, B)),
            floats((S, B, width)) if loss.needs == "teacher" else None,
            floats((S, B, width)) if loss.guide else None,
            integers((B, L)) if loss.model else None,
        ),
    )


def _placed(leaf: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
