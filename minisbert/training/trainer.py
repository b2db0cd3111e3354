"""Training a model: build data, optimizer and step; loop; evaluate, checkpoint and log; write the trained model.

A step depends on its number alone: its batch (data/sampler.py), its dropout (siamese.dropout_keys), its learning rate
(optimizer.schedule). So a run that is killed and resumed ends with the same weights to the bit. Its folder:

    checkpoints/    the state, newest two            metrics.jsonl   loss, learning rate and scores by step
    best/           the model with the best score    curves.png      loss and score plotted
    final/          the model after the last step    (each model: an ordinary sentence-transformers folder)
"""

import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from functools import partial
from itertools import chain, starmap
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from tqdm import tqdm

from minisbert.arguments import check_bool, check_choice, check_path
from minisbert.data.rows import sources
from minisbert.data.sampler import Batches, GivenBatches
from minisbert.errors import InputError, TrainingStopped
from minisbert.inference.engines import warn_where_slow
from minisbert.training import sharding, step_cache
from minisbert.training.checkpoints import Checkpoints, only_run
from minisbert.training.collate import column_prompts
from minisbert.training.config import TrainConfig
from minisbert.training.config_checks import check_config, check_examples, fitting_batches
from minisbert.training.deterministic import check_blocks
from minisbert.training.logging import MetricsLog, on_sigterm
from minisbert.training.multihost import exit_on_peer_failure, sync_batch_shape
from minisbert.training.optimizer import optimizer_for
from minisbert.training.record import recorded, weights_digest
from minisbert.training.run import Outputs, methods, scorers
from minisbert.training.siamese import TrainBatch, TrainState
from minisbert.training.step_cache import StepCache, compiled_step, sampled_steps, shared_programs, step_settings
from minisbert.training.task import by_dataset, has_negatives, naming, open_part, task_for, with_teacher

logger = logging.getLogger("minisbert")
Model = TypeVar("Model")
# What a host can be asked to do before the next step: save and stop, to be resumed; or end the run, which counts more.
TERMINATE, END = 1, 2


def train(
    model: Model,
    config: TrainConfig,
    folder: str | Path | None = None,
    *,
    score: Callable[[Model], float] | Mapping[str, Callable[[Model], float]] | None = None,
    callbacks: Sequence[Any] = (),
    show_progress: bool = True,
    devices: int | None = None,
    layout: str = "replicated",
    model_devices: int = 1,
    on_new_shape: str | None = None,
    keep_encoder: bool = True,
) -> Model:
    """Train a model, or resume the run in `folder`.

    Args:
        model: a SentenceEncoder or a CrossEncoder in float32. It does not change.
        folder: for checkpoints, metrics and the trained model; None writes nothing.
        score: called every `config.evaluate_every` steps; the model with the highest score is saved in `folder / "best"`.
            `evaluation.sts.sts_score(files)` makes one; `cross_encoder.evaluation` has those for a cross-encoder. Several
            are a dict by name, of which the first decides.
        callbacks: objects with on_step, on_evaluate, on_checkpoint or on_end (training/run.py), which can end the run.
        devices: how many to train on, by default all that JAX finds. The loss is that of the global batch on any number. A
            run may resume on another number, then not to the bit.
        layout: of the parameters on the devices, a row of `sharding.LAYOUTS`.
        model_devices: with layout "tensor", how many devices share each layer.
        on_new_shape: what to do about a batch shape first seen mid-run: "error" or "compile" (step_cache.py); None is
            "error" on TPUs and on several hosts, else "compile".
        keep_encoder: False saves the memory of one copy of the parameters, and `model` cannot be used afterwards.

    Returns:
        the trained model, which is saved in `folder / "final"` too. Its attribute `run` has the metrics (`TrainingRun`).

    Raises:
        InputError, DataError: settings or data that cannot be trained on, before the first step.
        TrainingError: a step was not finite, a checkpoint could not be written, or the folder holds another run.
        WriteError: the model or the metrics could not be written.
        TrainingStopped: SIGTERM came; the state is saved.
    """
    run_folder = None if folder is None else check_path(folder, "folder", "None, or the run's folder")
    if re.match("[a-z][a-z0-9+.-]+:/", str(folder)):  # a Path has one slash; C:/ is a drive
        raise InputError(f"folder is {folder}. Expected a folder of the file system; mount a bucket first.")
    scores, called = scorers(score), methods(callbacks)
    check_bool("keep_encoder", keep_encoder)
    check_choice("on_new_shape", on_new_shape, (None, *step_cache.ON_NEW_SHAPE))
    on_peer_failure = exit_on_peer_failure(str(folder)) if jax.process_count() > 1 else nullcontext()
    with on_sigterm() as sigterm, on_peer_failure, ExitStack() as lock:
        mesh = None  # one device needs none
        if (devices, model_devices, layout) != (None, 1, "replicated") or jax.device_count() > 1:
            mesh = sharding.data_mesh(devices, model_devices)
        trainer = Trainer(model, config, run_folder, mesh, layout, on_new_shape, keep_encoder)
        if config.early_stopping_patience is not None and not scores:
            raise InputError(
                f"early_stopping_patience is {config.early_stopping_patience} without a score to watch. Expected both or "
                "neither: give `score` (--evaluate)."
            )
        lock.enter_context(only_run(run_folder) if trainer.writes and run_folder is not None else nullcontext())
        state, pending, started = trainer.start(), None, time.perf_counter()
        outputs = Outputs(trainer, scores, called)
        step, steps = int(state.step), trainer.steps
        hidden = None if show_progress and jax.process_index() == 0 else True  # None: shown on a terminal only
        with tqdm(desc=f"train ({steps} steps, {step} done)", unit=" examples", disable=hidden) as progress:
            while step < steps:
                number, batch, asked = trainer.batch(
                    step, lambda: END if outputs.ended else TERMINATE * sigterm.is_set()
                )
                if asked == END:
                    if pending is not None:  # another host's callback ended the run
                        outputs.log(*pending, progress)
                    break
                state, metrics = trainer.train_steps[number](state, batch)
                # The metrics of the previous step are read while the devices compute this one.
                if pending is not None:
                    outputs.log(*pending, progress)
                pending, step = (step, number, batch, metrics), step + 1
                saves = asked or step == steps or step % config.checkpoint_every == 0
                evaluates = scores and (step == steps or step % config.evaluate_every == 0)
                if saves or evaluates or called["on_step"]:
                    outputs.log(*pending, progress)
                    pending = None
                    outputs.call("on_step", state)
                if evaluates:
                    outputs.evaluate(state)
                    outputs.call("on_evaluate", state)
                if saves and trainer.checkpoints is not None:
                    trainer.checkpoints.save(state)
                    outputs.call("on_checkpoint", state)
                if asked and step < steps:
                    saved = "nothing was saved" if folder is None else "saved. Start the same command again to resume"
                    raise TrainingStopped(f"{trainer.where}: stopped after step {step} of {steps} and {saved}.")
        if step < steps:
            outputs.end(step)
            if trainer.checkpoints is not None and step % config.checkpoint_every:
                trainer.checkpoints.save(state)
        outputs.call("on_end", state)
        trained: Model = outputs.finish(state, time.perf_counter() - started)
        return trained


class Trainer:
    """What stays the same during a run: model, data, optimizer, compiled step, files."""

    def __init__(
        self,
        model: Any,
        config: TrainConfig,
        folder: Path | None,
        mesh: Mesh | None,
        layout: str,
        on_new_shape: str | None,
        keep_encoder: bool,
    ):
        self.model, self.config, self.folder, self.mesh = model, config, folder, mesh
        # The first host writes and reports.
        self.task, self.writes = task_for(model), jax.process_index() == 0 and folder is not None
        self.where = "this run" if folder is None else str(folder)
        settings = by_dataset(config)
        for name, one in settings.items():
            with naming(name):
                check_config(one, self.task, model.compute_dtype)
        device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
        warn_where_slow(config.compute_dtype, device.platform)
        self.keep_encoder, self.lora, devices = keep_encoder, config.lora_rank is not None, 1
        self.multiple = 1  # the number of packed rows is a multiple of this
        if mesh is not None:
            sharding.check_setup(mesh, layout, config.batch_size, model.model_config.encoder)
            devices, self.multiple = mesh.size, mesh.shape[sharding.AXIS] // jax.process_count()
        if config.deterministic:
            check_blocks(config.blocks, devices, layout, lora=self.lora)
            self.multiple = config.blocks
        self.multiple *= sharding.row_multiple(device)

        self.parts = list(starmap(partial(open_part, self.task), settings.items()))
        examples = list(chain.from_iterable(map(attrgetter("examples"), self.parts)))
        self.datasets = list(map(attrgetter("dataset"), examples))
        if config.batches is None:
            named_examples = dict(zip(sources(config.data), examples, strict=True))
            config = self.config = fitting_batches(config, named_examples, devices)
        for part in self.parts:
            with naming(part.name):
                check_examples(part.examples, part.config, part.loss)
                if self.task.check is not None:
                    self.task.check(part.examples, part.config, model)
        hosts = {"host": jax.process_index(), "hosts": jax.process_count()}
        self.batches: Batches | GivenBatches
        if config.batches is None:
            order: Any = {"seed": config.seed, "mixing": config.mixing, "no_duplicates": config.no_duplicates}
            self.batches = Batches(examples, config.batch_size, **order, **hosts)
            steps = self.batches.steps(config.epochs)
        else:
            self.batches = GivenBatches(examples, config.batches, config.batch_size, **hosts)
            steps = config.max_steps or 0
        self.warned = False  # of a batch without negatives
        self.cut = 0  # texts (or pairs) longer than max_seq_length

        self.learning_rate, recipe, numbers, self.steps = optimizer_for(config, steps)
        params = model.pretrained.params
        self.initial_state = partial(self.task.initial_state, config, model.model_config, recipe(numbers), self.parts)
        self.shapes = jax.eval_shape(self.initial_state, params)  # of the state
        recipe.check(numbers, self.shapes.params, self.shapes.optimizer_state)
        self.sharding = place = None
        base_params = params if self.lora else None
        if mesh is not None and mesh.size > 1 and not config.deterministic:
            self.sharding = sharding.state_sharding(self.shapes, mesh, layout)
            place = partial(sharding.place_batch, mesh=mesh)
            if self.lora:
                base_params = sharding.place(params, sharding.state_sharding(params, mesh, layout))
        options: Any = {"padding_id": model.padding_id, "place": place, "on_new_shape": on_new_shape}
        self.train_steps = []  # of each part
        for part in self.parts:
            step = step_settings(self.task, model.model_config, part.config, recipe, mesh, self.sharding, part.name)
            named: Any = {"programs": shared_programs(step), "dataset": part.name}
            self.train_steps.append(StepCache(compiled_step(step), (numbers, base_params), **named, **options))

    def start(self) -> TrainState:
        """The newest saved state, or the first one; compiles the step for the shapes of the run."""
        params, folder = self.model.pretrained.params, self.folder
        self.settings = recorded(vars(self.config)) | {"data": list(map(attrgetter("source"), self.datasets))}
        self.metrics = MetricsLog(folder, self.settings, self.config.report_to, writes=self.writes)
        record = {"config": self.settings, "data": list(map(asdict, self.datasets)), "model": repr(self.model)}
        self.checkpoints = None
        if folder is not None:
            # Of the starting model, or a finished run would return its own for any model of this architecture.
            # A new head of a cross-encoder may differ in the last bits on another kind of device, where the run may resume.
            start = dict(params)
            if not self.lora:
                start.pop("head", None)
            record["weights"] = weights_digest(start)
            self.checkpoints = Checkpoints(folder, json.loads(json.dumps(record)))
        if not self.lora:
            params = jax.tree.map(jnp.copy, params)  # the first step reuses the memory of its state
            if not self.keep_encoder:
                self.model.pretrained.params = {}
        state = self.initial_state(params)
        if self.sharding is not None:
            state = sharding.place(state, self.sharding)
        if self.checkpoints is not None and self.checkpoints.latest() is not None:
            state = self.checkpoints.restore(state)
            logger.info(f"{self.where}: resuming after step {int(state.step)} of {self.steps}")
        self.metrics.drop_after(int(state.step))
        if any("ended" in line for line in self.metrics.lines() if line["step"] <= int(state.step)):
            self.steps = int(state.step)
        if int(state.step) < self.steps:  # a finished run compiles nothing
            steps = sampled_steps(self.steps, step_cache.SAMPLE * len(self.parts))
            for i, train_step in enumerate(self.train_steps):
                if len(self.parts) > 1:
                    own = [step for step in steps if self.batches.batch_at(step).dataset == i]
                else:
                    own = steps
                samples = (self.batch(step, sample=True)[1] for step in own)
                train_step.warm_up(state, samples, few=self.steps <= step_cache.SHORT_RUN)
        return state

    def batch(
        self, step: int, requested: Callable[[], int] = int, *, sample: bool = False
    ) -> tuple[int, TrainBatch, int]:
        """The part of a step, this host's arrays (of a sample only their shape matters), and what any host is asked to do
        before it."""
        texts, model = self.batches.batch_at(step), self.model
        number = 0 if len(self.parts) == 1 else texts.dataset
        part, dataset = self.parts[number], self.datasets[texts.dataset]
        given = part.config.loss_options or {}
        if part.loss.more_texts is not None:
            texts = part.loss.more_texts(texts, **given)
        make = self.task.batch if part.loss.collate is None else partial(part.loss.collate, **given)
        prompts = column_prompts(part.config.prompts, dataset.texts)
        options = {"padding_id": model.padding_id, "prompts": prompts, "multiple": self.multiple}
        batch, cut = make(texts, model.tokenizer, max_length=model.max_seq_length, **options)
        if part.teacher is not None:
            batch = with_teacher(batch, texts, dataset.kind, part.teacher, part.loss, shape_only=sample)
        asked = requested()
        if jax.process_count() > 1:
            batch, asked = sync_batch_shape(batch, asked, model.padding_id)
        if sample or asked == END:
            return number, batch, asked
        self.cut += cut
        if not (self.warned or has_negatives(batch, part.loss)):
            self.warned = True
            logger.warning(f"{self.where}: step {step + 1} has no negatives: its positives are all the same text.")
        return number, self.train_steps[number].pad_to_known_shape(batch), asked
