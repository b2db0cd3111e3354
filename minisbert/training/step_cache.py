"""The compiled programs of a run: one for each shape of batch, ready before the first step and listed at the end.

XLA compiles a program for each shape, and in the middle of a run a new one stalls every device, on a pod for minutes. How
many rows a batch packs into (text/packing.py) differs a little from batch to batch. So, before the first step

    look       `SAMPLE` batches spread over the run are packed; a short run is seen whole
    compile    a program for each shape that they have (XLA keeps them on disk: forward.enable_compilation_cache)

and in the run a batch of a little fewer rows is filled up to the next such shape. What is still new is an error where
stalls are dear, and compiled with a warning where they are not (`ON_NEW_SHAPE`). A run that goes on takes the same shapes,
because the sample follows from the run's number of steps.
"""

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from minisbert.errors import InputError, TrainingError
from minisbert.training.collate import widened
from minisbert.training.config import TrainConfig
from minisbert.training.deterministic import make_ordered_step
from minisbert.training.losses import Loss, matryoshka
from minisbert.training.optimizer import adamw, schedule
from minisbert.training.siamese import StepMetrics, TrainBatch, TrainState, make_train_step

logger = logging.getLogger("minisbert")

SAMPLE = 32
ON_NEW_SHAPE = ("error", "compile")
Step = Callable[[TrainState, TrainBatch], tuple[TrainState, StepMetrics]]


class Compilation(NamedTuple):
    """One line of the ledger: a program for P rows of L tokens."""

    rows: int
    length: int
    seconds: float
    ahead: bool  # before the first step


class Programs:
    """A training step as programs of fixed shapes.

    Args:
        step: compiled by `siamese.make_train_step` or `ordered.make_ordered_step`.
        padding_id: what fills up rows.
        place: puts a batch on the devices.
        on_new_shape: what a new shape in the run is, a row of ON_NEW_SHAPE; None means "error" on several hosts and on TPUs,
            else "compile".
    """

    def __init__(
        self,
        step: Step,
        *,
        padding_id: int,
        place: Callable[[TrainBatch], TrainBatch] = lambda batch: batch,
        on_new_shape: str | None = None,
    ):
        self.step, self.padding_id, self.place = step, padding_id, place
        self.on_new_shape = resolve_on_new_shape(on_new_shape)
        self.compilations: list[Compilation] = []
        self._ready: dict[Any, dict[int, Step]] = {}  # kind of batch -> rows -> program
        self._sampled: dict[Any, set[int]] = {}  # to which batches are filled up

    def warm_up(self, state: TrainState, batches: Iterable[TrainBatch]) -> None:
        """Compile what these batches need, without a step."""
        for batch in batches:
            self._sampled.setdefault(_kind(batch), set()).add(_rows(batch))
            if _rows(batch) not in self._ready.get(_kind(batch), {}):
                self._compile(state, batch, ahead=True)

    def fit(self, batch: TrainBatch) -> TrainBatch:
        """The batch with as many rows as the next sampled shape has, where that is at most a quarter more."""
        rows = _rows(batch)
        enough = [sampled for sampled in self._sampled.get(_kind(batch), ()) if rows <= sampled <= rows * 5 / 4]
        return widened(batch, min(enough), batch.rows.token_ids_PL.shape[1], self.padding_id) if enough else batch

    def __call__(self, state: TrainState, batch: TrainBatch) -> tuple[TrainState, StepMetrics]:
        """One step.

        Raises:
            TrainingError: the shape is new, and new shapes are an error.
        """
        program = self._ready.get(_kind(batch), {}).get(_rows(batch))
        if program is None:
            rows, length = batch.rows.token_ids_PL.shape
            known = ", ".join(f"{one.rows} x {one.length}" for one in self.compilations)
            new = f"step {int(state.step) + 1}: its batch packs into {rows} rows of {length} tokens, a new shape"
            if self.on_new_shape == "error":
                raise TrainingError(
                    f"{new}; there are programs for {known}. Compiling would stall all devices. Nothing is lost: start the "
                    "same command again with --new-shapes compile to go on from the last checkpoint and allow it."
                )
            program = self._compile(state, batch, ahead=False)
            logger.warning(
                f"{new}; compiled in {self.compilations[-1].seconds:.1f} s (there were programs for {known})"
            )
        return program(state, self.place(batch))

    def _compile(self, state: TrainState, batch: TrainBatch, *, ahead: bool) -> Step:
        started = time.perf_counter()
        program = self.step
        if hasattr(program, "lower"):
            program = program.lower(state, self.place(batch)).compile()
        else:  # several programs, which the host starts one by one: a step on a copy, for nothing
            jax.block_until_ready(program(jax.tree.map(jnp.copy, state), self.place(batch)))
        rows, length = batch.rows.token_ids_PL.shape
        self.compilations.append(Compilation(rows, length, time.perf_counter() - started, ahead))
        self._ready.setdefault(_kind(batch), {})[rows] = program
        return program

    def ledger(self) -> str:
        """How many programs, how long they took, for which shapes.

        Example:
            >>> programs = Programs(print, padding_id=0)
            >>> programs.compilations += [Compilation(96, 128, 20.5, True), Compilation(48, 256, 18.0, False)]
            >>> programs.ledger()
            '2 programs compiled in 38.5 s: 96 x 128 (20.5 s), 48 x 256 (18.0 s, during the run)'
        """
        each = (
            f"{one.rows} x {one.length} ({one.seconds:.1f} s{'' if one.ahead else ', during the run'})"
            for one in self.compilations
        )
        seconds = sum(one.seconds for one in self.compilations)
        count = len(self.compilations)
        programs = f"{count} program{'s' * (count != 1)}"
        return f"{programs} compiled in {seconds:.1f} s: {', '.join(each)}"


def resolve_on_new_shape(on_new_shape: str | None) -> str:
    """A row of ON_NEW_SHAPE: the given one, or what suits this place."""
    if on_new_shape is None:
        dear = jax.process_count() > 1 or jax.default_backend() == "tpu"
        return "error" if dear else "compile"
    if on_new_shape not in ON_NEW_SHAPE:
        raise InputError(f"on_new_shape is {on_new_shape!r}. Expected one of {', '.join(ON_NEW_SHAPE)}.")
    return on_new_shape


def loss_for(config: TrainConfig, loss: Loss, width: int) -> Callable[..., jax.Array]:
    """The loss with its options, over shortened embeddings too where the settings say so.

    Raises:
        InputError: a shortened embedding would be wider than the model's.
    """
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
    """What a run's settings say: the learning rate of each step, the optimizer, and how many steps are taken.

    With `accumulate` k, the weights change at each k-th step by the mean of k gradients; steps that do not fill a last k are
    left out, and the schedule counts changes.

    Raises:
        InputError: not one k is full.
    """
    k = config.accumulate
    changes = steps // k
    if changes == 0:
        raise InputError(f"accumulate is {k}, but the run has {steps} steps. Expected at most as many.")
    warmup = int(config.warmup * changes) if config.warmup_steps is None else min(config.warmup_steps, changes)
    rates = schedule(config.decay, config.learning_rate, warmup, changes)
    optimizer = adamw(rates, weight_decay=config.weight_decay, clip_norm=config.clip_norm)
    if k > 1:
        optimizer = optax.MultiSteps(optimizer, k).gradient_transformation()
    return lambda step: float(rates(step // k)), optimizer, changes * k


def compiled_step(
    config: TrainConfig,
    definition: nnx.GraphDef,
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    sharding: Any = None,
    **adapters: Any,
) -> Step:
    """The step that a run's settings ask for; XLA compiles it when its shapes are known.

    Args:
        sharding: where the state lives on several devices, None for one and for `ordered`.
        adapters: `adapt` and `frozen` of `make_train_step`, with LoRA.

    Raises:
        InputError: `ordered` with LoRA.
    """
    parts: dict[str, Any] = {
        "definition": definition,
        "loss": loss,
        "optimizer": optimizer,
        "dropout": config.dropout,
        "chunk_size": config.chunk_size,
        "remat": config.remat,
    }
    if config.reduction == "ordered":
        if adapters or jax.process_count() > 1:
            raise InputError(
                "reduction is 'ordered' with LoRA or on several hosts. Expected one host and all parameters."
            )
        return make_ordered_step(**parts, devices=list(mesh.devices.flat), blocks=config.blocks)
    return make_train_step(**parts, sharding=sharding, **adapters)


def sampled_steps(steps: int, most: int = SAMPLE) -> list[int]:
    """Which steps' batches are looked at ahead: all of a short run, else `most` spread over it.

    Example:
        >>> sampled_steps(3), sampled_steps(100, 3)
        ([0, 1, 2], [0, 50, 99])
    """
    return sorted({round(i * (steps - 1) / max(1, most - 1)) for i in range(most)}) if steps > most else [*range(steps)]


def _rows(batch: TrainBatch) -> int:
    return batch.rows.token_ids_PL.shape[0]


def _kind(batch: TrainBatch) -> Any:
    """All that a program depends on, but for the number of rows."""
    others, structure = jax.tree.flatten((batch.index_SB, batch.targets))
    return batch.rows.token_ids_PL.shape[1], structure, tuple((x.shape, np.dtype(x.dtype).str) for x in others)
