"""The compiled training step: one program per shape of batch, compiled before the first step, and what the settings ask of it.

XLA compiles a program for each shape. In the middle of a run that stalls every device, on a pod for minutes, and the number
of rows that a batch packs into (text/packing.py) differs a little from batch to batch. So before the first step

    look       pack `SAMPLE` batches spread over the run; all batches of a short run
    compile    a program for each of their shapes (XLA caches them on disk: inference/compiled.py)

and during the run a batch of slightly fewer rows is padded to the next such shape. A shape first seen mid-run is an error
where a stall is expensive, and compiled with a warning elsewhere (`ON_NEW_SHAPE`). A resumed run has the same shapes,
because the sample follows from the number of steps.
"""

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from minisbert.errors import InputError, TrainingError
from minisbert.training.config import TrainConfig
from minisbert.training.deterministic import blockwise
from minisbert.training.lora import with_lora
from minisbert.training.losses import Loss, matryoshka
from minisbert.training.optimizer import adamw, schedule
from minisbert.training.siamese import (
    Gradient,
    LossFunction,
    StepMetrics,
    TrainBatch,
    TrainState,
    gradcache,
    make_update,
    packed_embed,
    remat,
    siamese_loss,
    train_step,
)

logger = logging.getLogger("minisbert")

SAMPLE = 32
ON_NEW_SHAPE = ("error", "compile")
Step = Callable[[TrainState, TrainBatch], tuple[TrainState, StepMetrics]]


def compiled_step(
    config: TrainConfig,
    definition: nnx.GraphDef[Any],
    loss: LossFunction,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None,
    sharding: Any = None,
    base_params: Any = None,
) -> Step:
    """The step that a run's settings ask for; XLA compiles it once its shapes are known. It reuses the old state's memory.

    Args:
        mesh: of the devices; None is the first device alone.
        sharding: the layout of the state on several devices; None on one device and for a deterministic reduction.
        base_params: with LoRA the model's parameters, which do not change.
    """
    embed, update = packed_embed(definition), make_update(optimizer)
    if config.remat:
        embed = remat(embed)
    if config.deterministic:
        devices = jax.devices()[:1] if mesh is None else list(mesh.devices.flat)
        gradient = blockwise(embed, loss, devices, chunk_size=config.chunk_size, blocks=config.blocks)
        update = jax.jit(update, donate_argnums=0)
        return partial(train_step, gradient=gradient, update=update, dropout=config.dropout)

    # The base parameters are an argument: XLA would copy what the function closes over into the program.
    def step(state: TrainState, batch: TrainBatch, base_params: Any = None) -> tuple[TrainState, StepMetrics]:
        adapted = embed if base_params is None else with_lora(embed, base_params, config.lora_scale)
        gradient: Gradient = (
            jax.value_and_grad(siamese_loss(adapted, loss))
            if config.chunk_size is None
            else gradcache(adapted, loss, config.chunk_size)
        )
        return train_step(state, batch, gradient=gradient, update=update, dropout=config.dropout)

    jitted = jax.jit(step, donate_argnums=0, out_shardings=(sharding, None))
    return jitted if base_params is None else partial(jitted, base_params=base_params)


class StepCache:
    """A training step as programs of fixed shapes.

    Args:
        step: from `compiled_step`.
        padding_id: the token that pads rows.
        place: puts a batch on the devices; None on one device.
        on_new_shape: what to do about a batch shape first seen mid-run: "error" or "compile". None means "error" on several
            hosts and on TPUs, else "compile".
    """

    def __init__(
        self,
        step: Step,
        *,
        padding_id: int,
        place: Callable[[TrainBatch], TrainBatch] | None = None,
        on_new_shape: str | None = None,
    ):
        self.step, self.padding_id, self.place = step, padding_id, place
        if on_new_shape is None:
            on_new_shape = "error" if jax.process_count() > 1 or jax.default_backend() == "tpu" else "compile"
        self.on_new_shape = on_new_shape
        self.compiled: list[str] = []  # a line per program
        self.seconds = 0.0
        self._programs: dict[tuple[int, Any], Step] = {}  # rows, everything else that a program depends on
        self._sampled: set[tuple[int, Any]] = set()  # the shapes that batches are padded to

    def warm_up(self, state: TrainState, batches: Iterable[TrainBatch]) -> None:
        """Compile what these batches need, without a step."""
        for batch in batches:
            shape = _shape(batch)
            self._sampled.add(shape)
            if shape not in self._programs:
                self._compile(state, batch, ahead=True)

    def pad_to_known_shape(self, batch: TrainBatch) -> TrainBatch:
        """The batch with as many rows as the next sampled shape has, if those are at most a quarter more."""
        rows, others = shape = _shape(batch)
        if shape in self._sampled:
            return batch
        enough = [known for known, same in self._sampled if same == others and rows <= known <= rows * 5 / 4]
        return batch.pad_to(min(enough), batch.rows.token_ids_PL.shape[1], self.padding_id) if enough else batch

    def __call__(self, state: TrainState, batch: TrainBatch) -> tuple[TrainState, StepMetrics]:
        """One step; a new shape is compiled or a TrainingError, by `on_new_shape`."""
        program = self._programs.get(_shape(batch))
        if program is None:
            rows, length = batch.rows.token_ids_PL.shape
            known = ", ".join(self.compiled)
            new = f"step {int(state.step) + 1}: its batch packs into {rows} rows of {length} tokens, a new shape"
            if self.on_new_shape == "error":
                raise TrainingError(
                    f"{new}; there are programs for {known}. Compiling would stall all devices. Nothing is lost: start the "
                    "same command again with --on-new-shape compile to allow it and resume from the last checkpoint."
                )
            program = self._compile(state, batch, ahead=False)
            logger.info(f"{new}; compiled {self.compiled[-1]}. Nothing needs to be done.")
        return program(state, batch if self.place is None else self.place(batch))

    def _compile(self, state: TrainState, batch: TrainBatch, *, ahead: bool) -> Step:
        started = time.perf_counter()
        program, placed = self.step, batch if self.place is None else self.place(batch)
        if hasattr(program, "lower"):
            program = program.lower(state, placed).compile()
        else:  # not one jitted function: a step on a copy compiles its parts
            jax.block_until_ready(program(jax.tree.map(jnp.copy, state), placed))
        (rows, length), seconds = batch.rows.token_ids_PL.shape, time.perf_counter() - started
        self.compiled.append(f"{rows} x {length} ({seconds:.1f} s{'' if ahead else ', during the run'})")
        self.seconds += seconds
        self._programs[_shape(batch)] = program
        return program

    def log(self) -> str:
        """How many programs were compiled, how long that took, and for which shapes."""
        count = len(self.compiled)
        if count == 0:
            return "nothing to compile"
        return f"{count} program{'s' * (count != 1)} compiled in {self.seconds:.1f} s: {', '.join(self.compiled)}"


def _shape(batch: TrainBatch) -> tuple[int, Any]:
    """All that a program depends on: the number of rows, and the rest."""
    others, structure = jax.tree.flatten((batch.index_SB, batch.targets))
    rows, length = batch.rows.token_ids_PL.shape
    return rows, (length, structure, tuple(map(jax.typeof, others)))


def sampled_steps(steps: int, most: int = SAMPLE) -> list[int]:
    """The steps whose batches are packed ahead: all of a short run, else `most` spread over it.

    Example:
        >>> sampled_steps(3), sampled_steps(100, 3)
        ([0, 1, 2], [0, 50, 99])
    """
    return sorted({round(i * (steps - 1) / max(1, most - 1)) for i in range(most)}) if steps > most else [*range(steps)]


def loss_for(config: TrainConfig, loss: Loss, width: int) -> LossFunction:
    """The loss with its options, and over truncated embeddings too if the settings ask for them."""
    function = partial(loss.function, **(config.loss_options or {}))
    if not config.matryoshka:
        return function
    if max(config.matryoshka) > width:
        raise InputError(
            f"matryoshka is {config.matryoshka}, but this model's embeddings have {width} dimensions. Expected at most that; "
            "a cross-encoder has none."
        )
    return matryoshka(function, config.matryoshka)


def optimizer_for(config: TrainConfig, steps: int) -> tuple[Callable[[int], float], optax.GradientTransformation, int]:
    """The learning rate by step, the optimizer, and how many steps are taken: those of the epochs, at most `max_steps`.

    With `accumulate` k the weights change at each k-th step by the mean of k gradients. Steps that do not fill a last k are
    left out, and the schedule counts changes.
    """
    k = config.accumulate
    if config.max_steps is not None and config.max_steps > steps:
        logger.info(
            f"max_steps is {config.max_steps}, but the data ends after {steps} steps: {config.epochs} epoch(s) in batches of "
            f"{config.batch_size}. For more steps raise --epochs or lower --batch-size."
        )
    changes = min(steps, config.max_steps or steps) // k
    if changes == 0:
        raise InputError(f"accumulate is {k}, but the run has {steps} steps. Expected at most as many.")
    warmup = int(config.warmup * changes) if config.warmup_steps is None else min(config.warmup_steps, changes)
    rates = schedule(config.decay, config.learning_rate, warmup, changes)
    optimizer = adamw(rates, weight_decay=config.weight_decay, clip_norm=config.clip_norm)
    if k > 1:
        optimizer = optax.MultiSteps(optimizer, k).gradient_transformation()
    return lambda step: float(rates(step // k)), optimizer, changes * k
