"""A training run's own step, compiled for a TPU that this machine does not have: `minisbert train ... --plan --chip v5e-8`.

`plan.py` compiles for this machine and assumes a rate. Here the TPU's compiler gives the memory and an estimate of the time
(inference/tpu_compiler.py). Left out: reading the data, and the time of collectives.
"""

from typing import Any, NamedTuple

from minisbert.errors import InputError
from minisbert.inference.tpu_compiler import Estimate, chip_devices, compile_for_chip, find_chip, libtpu_version, size
from minisbert.training.config import TrainConfig
from minisbert.training.plan import LoweredStep, bytes_per_device, lower_step
from minisbert.training.record import name_of
from minisbert.training.sharding import data_mesh
from minisbert.training.task import TrainingTask


class ChipPlan(NamedTuple):
    """What one step needs on a TPU, by its compiler's estimate."""

    config: TrainConfig
    step: LoweredStep
    estimate: Estimate
    where: str
    devices: int

    @property
    def rate(self) -> float:
        """Examples per second, without reading the data."""
        return self.config.batch_size / self.estimate.seconds

    def cells(self) -> list[str]:
        """The plan as a row of a table: devices, memory, time, share of the peak, examples per second, hours of the run."""
        estimate, config = self.estimate, self.config
        hours = (config.max_steps or 0) * estimate.seconds / 3600
        return [
            str(self.devices),
            f"{size(estimate.bytes)} of {estimate.chip.gib:g}",
            f"{estimate.seconds * 1e3:,.0f} ms",
            f"{estimate.share_of_peak(self.step.flops / self.devices):.0%}",
            f"{self.rate:,.0f}",
            f"{hours:,.1f}" if hours else "",
        ]

    def lines(self) -> list[str]:
        """The plan as text."""
        config, step, estimate = self.config, self.step, self.estimate
        state = f"{size(bytes_per_device(step.state.params))} parameters + "
        state += f"{size(bytes_per_device(step.state.optimizer_state))} optimizer per device"
        return [
            f"step        {config.batch_size} examples, {name_of(config.loss)}: {step.rows} rows of {step.length} tokens, "
            f"{config.compute_dtype}, on {self.where}",
            f"estimate    by the compiler of libtpu {libtpu_version()}, for {estimate.chip.topology}: not a measurement",
            f"state       {step.parameters:,} parameters: {state}",
            *estimate.lines(step.flops / self.devices),
            f"rate        {self.rate:,.0f} examples/s, {3600 * 24 * self.rate / 1e6:,.0f} million a day; reading the data "
            "and waiting for collectives come on top",
        ]


def chip_plan(
    model_config: Any,
    config: TrainConfig,
    task: TrainingTask,
    *,
    texts: int,
    max_length: int,
    chip: str,
    layout: str = "replicated",
    model_devices: int = 1,
    classes: int = 3,
) -> ChipPlan:
    """Compile the step of a run for a TPU; other arguments as for `plan.plan`.

    Args:
        chip: a name in `tpu_compiler.CHIPS` that has a topology.

    Raises:
        InputError: a setup that cannot be trained with, or that does not fit; no compiler.
    """
    if config.deterministic:
        raise InputError(
            "deterministic is True with chip. Expected one of them: a deterministic step is many programs, of one device each."
        )
    mesh = data_mesh(None, model_devices, chip_devices(chip))
    lowered = lower_step(
        model_config, config, task, texts=texts, max_length=max_length, mesh=mesh, layout=layout, classes=classes
    )
    estimate = compile_for_chip(lowered.program, find_chip(chip))
    where = f"{mesh.size // model_devices} x {model_devices} devices of {chip}, {layout}"
    return ChipPlan(config, lowered, estimate, where, mesh.size)
