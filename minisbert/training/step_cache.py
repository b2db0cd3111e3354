"""The compiled training step: one program per shape of batch, compiled before the first step, and what the settings ask of it.

XLA compiles a program for each shape, which in the middle of a run stalls every device, on a pod for minutes. So the trainer
packs `SAMPLE` batches spread over the run and compiles their shapes, unless a run of this process has: rates and the number of
steps are arguments, so a sweep over them compiles once. A batch of slightly fewer rows is padded to the next such shape.
"""

import logging
import time
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from minisbert.errors import TrainingError
from minisbert.inference.compiled import COMPUTE_DTYPES
from minisbert.training import siamese
from minisbert.training.config import TrainConfig
from minisbert.training.deterministic import blockwise
from minisbert.training.lora import with_lora
from minisbert.training.optimizer import Numbers, OptimizerRecipe
from minisbert.training.record import as_now
from minisbert.training.sharding import MODEL, with_gather
from minisbert.training.siamese import Gradient, LossFunction, Params, StepMetrics, TrainBatch, TrainState, Tree
from minisbert.training.task import TrainingTask, loss_for
from minisbert.transformer.target import traced_for

logger = logging.getLogger("minisbert")

SAMPLE = 32
# A program takes some 10 s to compile; padding to the next shape costs about a tenth of a step.
SHORT_RUN = 500
ON_NEW_SHAPE = ("error", "compile")
# How many different steps of a process keep their programs.
MOST_STEPS = 32
Step = Callable[..., tuple[TrainState, StepMetrics]]


class StepSettings(NamedTuple):
    """All that the compiled step depends on, besides the shapes of its arguments; hashable."""

    definition: nnx.GraphDef[Any]
    loss: LossFunction  # from `task.loss_for`
    optimizer: OptimizerRecipe
    embeds: str  # of a Loss: what the loss sees
    model: bool  # of a Loss: whether it runs the model too
    dataset: str | None  # whose loss it is, of data sets with losses of their own
    chunk_size: int | None
    remat: bool
    dropout: bool
    lora_scale: float | None  # None: all of the model is trained
    blocks: int | None  # of a deterministic reduction
    mesh: Mesh | None  # None: the first device alone
    layout: tuple[Any, ...] | None  # leaves and structure of the state's sharding on several devices
    given: str  # the functions and objects of the settings, as they are now


def step_settings(
    task: TrainingTask,
    model_config: Any,
    config: TrainConfig,
    optimizer: OptimizerRecipe,
    mesh: Mesh | None = None,
    sharding: Any = None,
    dataset: str | None = None,
) -> StepSettings:
    """What a run's settings ask of its step.

    Args:
        sharding: the layout of the state; None on one device and by blocks.
        dataset: the name of the data set, if each has a loss of its own.
    """
    definition, _ = task.define(model_config, COMPUTE_DTYPES[config.compute_dtype])
    loss, width = task.loss(config), getattr(model_config, "dimension", 0)  # a cross-encoder has no embeddings
    leaves, structure = jax.tree.flatten(sharding)
    given = optimizer.schedule, optimizer.optimizer, optimizer.trainable, optimizer.learning_rates
    own = any(given) or not str(getattr(loss.function, "__module__", None)).startswith("minisbert.")
    return StepSettings(
        definition,
        loss_for(config, loss, width),
        optimizer,
        embeds="layers" if config.adaptive_layers else loss.embeds,
        model=loss.model,
        dataset=dataset,
        chunk_size=config.chunk_size,
        remat=config.remat,
        dropout=config.dropout,
        lora_scale=None if config.lora_rank is None else config.lora_scale,
        blocks=config.blocks if config.deterministic else None,
        mesh=mesh,
        layout=None if sharding is None else (tuple(leaves), structure),
        given=as_now((loss.function, config.loss_options, given)) if own else "",
    )


@lru_cache(maxsize=MOST_STEPS)
def compiled_step(settings: StepSettings) -> Step:
    """(state, batch, numbers, base_params) -> (state, metrics); XLA compiles it once its shapes are known.

    It reuses the old state's memory. `numbers` are the optimizer's; `base_params` with LoRA the model's parameters, which do
    not change, else None. The same settings give the same step, so that runs of one process share its programs.
    """
    loss, recipe, mesh, layout = settings.loss, settings.optimizer, settings.mesh, settings.layout
    embed = siamese.packed_embed(settings.definition, settings.embeds)
    if settings.model:
        loss = siamese.loss_with_model(loss, settings.definition)
    if settings.dataset is not None:
        loss = siamese.loss_of_dataset(loss, settings.dataset)
    if settings.remat:
        embed = siamese.remat(embed)
    if settings.blocks is not None:
        embed = recipe.frozen(embed)  # LoRA has no blocks
        devices = jax.devices()[:1] if mesh is None else list(mesh.devices.flat)
        gradient = blockwise(embed, loss, devices, chunk_size=settings.chunk_size, blocks=settings.blocks)
        if settings.model:
            gradient = siamese.gradient_with_model(gradient)

        @partial(jax.jit, donate_argnums=0)
        def update(state: TrainState, value: jax.Array, gradient: Params, numbers: Numbers) -> Any:
            return siamese.make_update(recipe(numbers))(state, value, gradient)

        def blockwise_step(state: TrainState, batch: TrainBatch, numbers: Numbers, base_params: Any = None) -> Any:
            changed = partial(update, numbers=numbers)
            return siamese.train_step(state, batch, gradient=gradient, update=changed, dropout=settings.dropout)

        return blockwise_step

    sharding = None if layout is None else jax.tree.unflatten(layout[1], layout[0])
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform

    # The base parameters are an argument: XLA would copy what the function closes over into the program.
    def step(state: TrainState, batch: TrainBatch, numbers: Numbers, base_params: Any = None) -> Any:
        if base_params is not None and sharding is not None and mesh is not None and mesh.shape[MODEL] == 1:
            base_params = jax.lax.with_sharding_constraint(base_params, NamedSharding(mesh, PartitionSpec()))
        adapted = embed if settings.lora_scale is None else with_lora(embed, base_params, settings.lora_scale)
        adapted = recipe.frozen(adapted)  # by the names of what is trained: with LoRA those of the adapters
        gradient: Gradient = jax.value_and_grad(siamese.siamese_loss(adapted, loss))
        if settings.chunk_size is not None:
            gradient = siamese.gradcache(adapted, loss, settings.chunk_size)
        if settings.model:
            gradient = siamese.gradient_with_model(gradient)
        if sharding is not None:
            gradient = with_gather(gradient, sharding.params)
        update = siamese.make_update(recipe(numbers))
        with traced_for(platform, mesh):
            return siamese.train_step(state, batch, gradient=gradient, update=update, dropout=settings.dropout)

    return jax.jit(step, donate_argnums=0, out_shardings=(sharding, None))


@lru_cache(maxsize=MOST_STEPS)
def shared_programs(settings: StepSettings) -> dict[Any, Step]:
    """The programs of a step that this process has compiled, by the shapes of their arguments."""
    return {}


class StepCache:
    """A training step as programs of fixed shapes.

    Args:
        step: from `compiled_step`.
        arguments: of the step after state and batch.
        programs: where compiled programs are kept: `shared_programs`.
        place: puts a batch on the devices; None on one device.
        on_new_shape: what to do about a batch shape first seen mid-run: "error" or "compile". None means "error" on several
            hosts and on TPUs, else "compile".
        dataset: whose step it is, for the log, if data sets have losses of their own.
    """

    def __init__(
        self,
        step: Step,
        arguments: tuple[Any, ...] = (),
        *,
        padding_id: int,
        programs: dict[Any, Step] | None = None,
        place: Callable[[TrainBatch], TrainBatch] | None = None,
        on_new_shape: str | None = None,
        dataset: str | None = None,
    ):
        self.step, self.arguments, self.padding_id, self.place = step, arguments, padding_id, place
        self.of = "" if dataset is None else f"{dataset}: "
        if on_new_shape is None:
            on_new_shape = "error" if jax.process_count() > 1 or jax.default_backend() == "tpu" else "compile"
        self.on_new_shape = on_new_shape
        self.compiled: list[str] = []  # a line per program
        self.seconds = 0.0
        self._shared = {} if programs is None else programs  # (of the state and the arguments, of a batch) -> program
        self._programs: dict[tuple[int, Any], Step] = {}  # this run's: of a batch -> program
        self._sampled: set[tuple[int, Any]] = set()  # the shapes that batches are padded to

    def warm_up(self, state: TrainState, batches: Iterable[TrainBatch], *, few: bool = False) -> None:
        """Compile what these batches need, without a step; with `few` as few shapes as padding allows."""
        by_shape = {}
        for batch in batches:
            by_shape[_shape(batch)] = batch
        # With `few` the most rows first: others may be padded to them.
        for shape in sorted(by_shape, key=itemgetter(0), reverse=True) if few else by_shape:
            batch = by_shape[shape]
            if few and len(self.pad_to_known_shape(batch).examples_PT) > shape[0]:
                continue
            self._sampled.add(shape)
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
        return program(state, batch if self.place is None else self.place(batch), *self.arguments)

    def _compile(self, state: TrainState, batch: TrainBatch, *, ahead: bool) -> Step:
        started, shape = time.perf_counter(), _shape(batch)
        # Base parameters of LoRA may lie on the devices in another way in another run.
        placements = tuple(getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(self.arguments))
        key = shape, placements, *_avals((state, self.arguments))
        program = self._shared.get(key)
        when = "" if ahead else ", during the run"
        if program is None:
            program, placed = self.step, batch if self.place is None else self.place(batch)
            if hasattr(program, "lower"):
                program = program.lower(state, placed, *self.arguments).compile()
            else:  # not one jitted function: a step on a copy compiles its parts
                jax.block_until_ready(program(jax.tree.map(jnp.copy, state), placed, *self.arguments))
        else:
            when += ", by an earlier run"
        (rows, length), seconds = batch.rows.token_ids_PL.shape, time.perf_counter() - started
        self.compiled.append(f"{rows} x {length} ({seconds:.1f} s{when})")
        self.seconds += seconds
        self._programs[shape] = self._shared[key] = program
        return program

    def log(self) -> str:
        """How many programs were compiled, how long that took, and for which shapes."""
        count = len(self.compiled)
        if count == 0:
            return f"{self.of}nothing to compile"
        return (
            f"{self.of}{count} program{'s' * (count != 1)} compiled in {self.seconds:.1f} s: {', '.join(self.compiled)}"
        )


def _shape(batch: TrainBatch) -> tuple[int, Any]:
    """All that a program depends on in a batch: the number of rows, and the rest."""
    rows, length = batch.rows.token_ids_PL.shape
    return rows, (length, *_avals((batch.index_SB, batch.targets)))


def _avals(tree: Tree) -> tuple[Any, ...]:
    """The structure of a tree and the shapes and dtypes of its arrays; hashable."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(map(jax.typeof, leaves))


def sampled_steps(steps: int, most: int = SAMPLE) -> list[int]:
    """The steps whose batches are packed ahead: all of a short run, else `most` of it. A resumed run has the same."""
    if steps <= most:
        return [*range(steps)]
    return sorted({round(i * (steps - 1) / (most - 1)) for i in range(most)})
