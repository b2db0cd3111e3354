"""What a training run will need before it starts: memory, work, time. `minisbert train ... --plan` prints it.

    plan(model_config, config, task, ...)         for this machine's kind of device
    chip_plan(model_config, config, task, ...)    for a TPU that this machine does not have: --chip v5e-8

No weights are loaded and nothing runs: XLA compiles the step for arrays that do not exist (`jax.ShapeDtypeStruct`) and
reports how much memory that program takes. The rest is arithmetic:

    parameters, optimizer    shapes times bytes, as the layout spreads them: exact
    activations              the compiler's own analysis, for this machine's kind of device; other kinds differ by several times
    FLOPs                    two per weight and token for the forward pass, and 4 L D per token and layer for attention's two
                             products; twice as much for the backward pass (Kaplan et al. 2020, table 1), and one forward
                             pass more for GradCache
    rate                     FLOPs over the chips' published bfloat16 peak, times `MFU`, an assumption; for a named chip memory
                             and time are those of its compiler (inference/tpu_compiler.py), without collectives

All texts are assumed to be as long as allowed; real ones are shorter and pack into fewer rows. Left out: reading the data.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from minisbert.errors import InputError
from minisbert.inference.compiled import COMPUTE_DTYPES
from minisbert.inference.program_costs import forward_flops
from minisbert.inference.tpu_compiler import (
    CHIPS,
    GIB,
    Chip,
    Estimate,
    chip_devices,
    compile_for_chip,
    find_chip,
    libtpu_version,
    size,
)
from minisbert.text.packing import packed_shape
from minisbert.training.collate import abstract_batch
from minisbert.training.config import TrainConfig
from minisbert.training.optimizer import optimizer_for
from minisbert.training.record import name_of
from minisbert.training.sharding import AXIS, batch_sharding, check_setup, data_mesh, row_multiple, state_sharding
from minisbert.training.step_cache import compiled_step, step_settings
from minisbert.training.task import Part, TrainingTask

# The share of a chip's peak that training reaches: an assumption, typical of well-tuned encoders.
MFU = 0.4
CLASSES = 3  # of the softmax loss's head


class PlannedStep(NamedTuple):
    """A run's step as a program that is not compiled yet, for arrays that do not exist; bytes are per device."""

    program: Any
    config: TrainConfig
    where: str  # devices and layout
    devices: int
    data_devices: int
    texts: int  # S, sequences per example
    rows: int
    length: int
    parameters: int
    parameter_bytes: int
    optimizer_bytes: int
    flops: int  # of all devices together

    def __str__(self) -> str:
        return (
            f"step        {self.config.batch_size} examples of {self.texts} texts, {name_of(self.config.loss)}: {self.rows} "
            f"rows of {self.length} tokens, {self.config.compute_dtype}, on {self.where}"
        )


def planned_step(
    model_config: Any,
    config: TrainConfig,
    task: TrainingTask,
    *,
    texts: int,
    max_length: int,
    mesh: Mesh,
    layout: str,
    kind: str,
) -> PlannedStep:
    """The program of one training step on devices of this kind; other arguments as for `plan`."""
    check_setup(mesh, layout, config.batch_size, model_config.encoder)
    _, params = task.define(model_config, COMPUTE_DTYPES[config.compute_dtype])
    _, recipe, numbers, _ = optimizer_for(config, config.max_steps or 1_000 * config.accumulate)

    def placed(tree: Any, sharding: Any) -> Any:
        return jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree, sharding
        )

    part = Part(None, config, task.loss(config), CLASSES)
    state = jax.eval_shape(partial(task.initial_state, config, model_config, recipe(numbers), [part]), params)
    sharding = state_sharding(state, mesh, layout)
    state, given = placed(state, sharding), [numbers]
    if config.lora_rank is not None:
        given.append(placed(params, state_sharding(params, mesh, layout)))
    sharding = sharding if mesh.size > 1 else None
    step: Any = compiled_step(step_settings(task, model_config, config, recipe, mesh, sharding))
    B, S, data_devices = config.batch_size, task.sequences(texts), mesh.shape[AXIS]
    P, L = packed_shape(S * B, max_length, data_devices * row_multiple(mesh.devices.flat[0]))
    batch = abstract_batch(P, L, S, B, task.loss(config), texts - 2, getattr(model_config, "dimension", 0))
    return PlannedStep(
        program=step.lower(state, placed(batch, batch_sharding(batch, mesh)), *given),
        config=config,
        where=f"{data_devices} x {mesh.size // data_devices} {kind}, {layout}",
        devices=mesh.size,
        data_devices=data_devices,
        texts=S,
        rows=P,
        length=L,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        parameter_bytes=_bytes_per_device(state.params),
        optimizer_bytes=_bytes_per_device(state.optimizer_state),
        flops=forward_flops(params, model_config.encoder, P, L) * (4 if config.chunk_size else 3),
    )


def _bytes_per_device(tree: Any) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * int(leaf.dtype.itemsize) for leaf in leaves)


class Plan(NamedTuple):
    """What a run needs; bytes are per device."""

    step: PlannedStep
    activation_bytes: int
    bytes_per_example: float

    @property
    def bytes(self) -> int:
        """All bytes of one device."""
        return self.step.parameter_bytes + self.step.optimizer_bytes + self.activation_bytes

    @property
    def negatives(self) -> int | None:
        """In-batch negatives of an anchor; None for a loss without."""
        config = self.step.config
        return (self.step.texts - 1) * config.batch_size - 1 if config.loss == "multiple_negatives_ranking" else None

    def largest_batch(self, memory_bytes: float) -> int:
        """The largest batch whose step fits, on a straight line through two compiled ones; 0 if none fits."""
        more, devices = (memory_bytes - self.bytes) / max(self.bytes_per_example, 1e-9), self.step.data_devices
        return max(0, int(self.step.config.batch_size + more) // devices * devices)

    def rate(self, chip: Chip, mfu: float = MFU) -> float:
        """Examples per second."""
        return self.step.config.batch_size * mfu * chip.teraflops * 1e12 * chip.devices / self.step.flops

    def lines(self, memory_gib: float | None = None) -> list[str]:
        """The plan as text."""
        step, config = self.step, self.step.config
        lines = [
            str(step),
            f"parameters  {step.parameters:,}",
            f"per device  {size(step.parameter_bytes)} parameters + {size(step.optimizer_bytes)} optimizer + "
            f"{size(self.activation_bytes)} activations and gradients = {size(self.bytes)}",
            f"work        {step.flops / 1e12:,.3f} TFLOPs per step{' with GradCache' if config.chunk_size else ''}",
        ]
        if self.negatives is not None:
            lines.append(
                f"negatives   {self.negatives:,} for each anchor, from a global batch of {config.batch_size:,}"
            )
        if memory_gib is not None:
            largest = self.largest_batch(memory_gib * GIB)
            lines.append(f"largest     batch in {memory_gib:g} GiB per device: {f'{largest:,}' if largest else 'none'}")
        if not step.flops:
            return [*lines, "rate        not planned: a static model looks up its vectors and multiplies nothing"]
        lines.append(
            f"rate        at {MFU:.0%} of the bfloat16 peak (an assumption; --chip asks a TPU's compiler), without reading the "
            "data:"
        )
        return lines + [self._line_for(name, chip) for name, chip in CHIPS.items()]

    def _line_for(self, name: str, chip: Chip) -> str:
        step, config = self.step, self.step.config
        line = f"  {name:8} {chip.devices:5} x {chip.teraflops:g} TFLOP/s, {chip.gib:g} GiB: "
        if config.batch_size < chip.devices:
            return f"{line}more devices than examples in a batch"
        rate = self.rate(chip)
        # Roughly, because these chips share the activations.
        need = step.parameter_bytes + step.optimizer_bytes + self.activation_bytes * step.data_devices / chip.devices
        line += f"{rate:10,.0f} examples/s"
        if config.max_steps:
            line += f", {config.max_steps:,} steps in {config.max_steps * config.batch_size / rate / 3600:,.1f} h"
        if need > chip.gib * GIB:
            line += f"; does not fit, about {size(need)} per device: lower chunk_size"
        return line


def plan(
    model_config: Any, config: TrainConfig, task: TrainingTask, *, mesh: Mesh, layout: str = "replicated", **data: int
) -> Plan:
    """Compile the step of a run without its data and weights, for two batch sizes, and add up what it needs.

    Args:
        model_config: a ModelConfig (`ModelConfig.of`) or a CrossEncoderConfig.
        task: how this kind of model is trained.
        mesh, layout: as in training.
        data: `texts`, per example of the data (a cross-encoder makes one pair fewer of them), and `max_length`, the most
            tokens of a text.
    """
    if config.deterministic:  # about the memory of GradCache with its blocks for chunks
        chunk_size = config.chunk_size or max(1, task.sequences(data["texts"]) * config.batch_size // config.blocks)
        config = replace(config, chunk_size=chunk_size, deterministic=False)
    config = replace(config, lora_rank=None)  # an upper bound

    def compiled(batch_size: int) -> tuple[PlannedStep, int]:
        sized, kind = replace(config, batch_size=batch_size), f"{mesh.devices.flat[0].platform} devices"
        step = planned_step(model_config, sized, task, mesh=mesh, layout=layout, kind=kind, **data)
        return step, int(step.program.compile().memory_analysis().temp_size_in_bytes)

    B, data_devices = config.batch_size, mesh.shape[AXIS]
    other = max(data_devices, B // 2 // data_devices * data_devices)
    other = other if other < B else 2 * B
    (step, needed), (_, needed_by_other) = compiled(B), compiled(other)
    return Plan(step, needed, (needed - needed_by_other) / (B - other))


class ChipPlan(NamedTuple):
    """What one step needs on a TPU, by its compiler's estimate."""

    step: PlannedStep
    estimate: Estimate

    @property
    def rate(self) -> float:
        """Examples per second, without reading the data."""
        return self.step.config.batch_size / self.estimate.seconds

    def cells(self) -> list[str]:
        """The plan as a row of a table: devices, memory, time, share of the peak, examples per second, hours of the run."""
        estimate, hours = self.estimate, (self.step.config.max_steps or 0) * self.estimate.seconds / 3600
        return [
            str(self.step.devices),
            f"{size(estimate.bytes)} of {estimate.chip.gib:g}",
            f"{estimate.seconds * 1e3:,.0f} ms",
            f"{estimate.share_of_peak(self.step.flops / self.step.devices):.0%}",
            f"{self.rate:,.0f}",
            f"{hours:,.1f}" if hours else "",
        ]

    def lines(self) -> list[str]:
        """The plan as text."""
        step, estimate = self.step, self.estimate
        return [
            str(step),
            f"estimate    by the compiler of libtpu {libtpu_version()}, for {estimate.chip.topology}: not a measurement",
            f"state       {step.parameters:,} parameters: {size(step.parameter_bytes)} parameters + "
            f"{size(step.optimizer_bytes)} optimizer per device",
            *estimate.lines(step.flops / step.devices),
            f"rate        {self.rate:,.0f} examples/s, {3600 * 24 * self.rate / 1e6:,.0f} million a day; reading the data "
            "and waiting for collectives come on top",
        ]


def chip_plan(
    model_config: Any,
    config: TrainConfig,
    task: TrainingTask,
    *,
    chip: str,
    layout: str = "replicated",
    model_devices: int = 1,
    **data: int,
) -> ChipPlan:
    """Compile the step of a run for a TPU, a name in `tpu_compiler.CHIPS` that has a topology; otherwise as `plan`.

    Raises:
        InputError: a setup that cannot be trained with, or that does not fit; no compiler.
    """
    if config.deterministic:
        raise InputError(
            "deterministic is True with chip. Expected one of them: a deterministic step is many programs, of one device each."
        )
    mesh = data_mesh(None, model_devices, chip_devices(chip))
    step = planned_step(model_config, config, task, mesh=mesh, layout=layout, kind=f"devices of {chip}", **data)
    return ChipPlan(step, compile_for_chip(step.program, find_chip(chip)))
