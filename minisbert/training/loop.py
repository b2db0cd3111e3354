"""The training loop: data, steps, evaluation, checkpoints, until the last step, whatever happens in between.

    train(encoder, TrainConfig(data=("nli.tsv.gz",), loss="softmax"), Path("runs/nli"))

Everything a step needs follows from its number: the batch (order.py), the dropout (siamese.dropout_keys), the learning
rate (optimizer.schedule). So a run that is killed and started again by the same command ends with the same weights to
the bit. What the run leaves in its folder:

    checkpoints/    the state, newest two            metrics.jsonl   loss, rate, scores by step
    best/           the model with the best score    curves.png      loss and score drawn
    final/          the model after the last step    (each model: an ordinary sentence-transformers folder)
"""

import copy
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from minisbert.checkpoint.whole_folder import whole_file
from minisbert.cross_encoder import CrossEncoder
from minisbert.errors import InputError, TrainingError, TrainingStopped
from minisbert.forward import COMPUTE_DTYPES
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.training.checkpoints import Checkpoints
from minisbert.training.config import TrainConfig, check_settings
from minisbert.training.data import open_examples
from minisbert.training.hosts import evened, leads, together
from minisbert.training.joint import way_of
from minisbert.training.loggers import Journal
from minisbert.training.lora import initial_adapters, merge, weights_digest
from minisbert.training.losses import initial_softmax_head, matryoshka
from minisbert.training.optimizer import adamw, schedule
from minisbert.training.order import Batches
from minisbert.training.preemption import on_sigterm
from minisbert.training.report import draw_curves, progress_bar, write_card
from minisbert.training.sharding import data_mesh, on_one_device, place_batch, place_state, state_sharding
from minisbert.training.siamese import StepMetrics, TrainBatch, TrainState, initial_state, make_train_step
from minisbert.training.softmax_head import write_head
from minisbert.training.teacher import load_teacher

logger = logging.getLogger("minisbert")

Model = TypeVar("Model", SentenceEncoder, CrossEncoder)


def train(
    encoder: Model,
    config: TrainConfig,
    folder: Path,
    *,
    score: Callable[[Model], float] | None = None,
    show_progress: bool = True,
    devices: int | None = None,
    layout: str = "replicated",
) -> Model:
    """Train a model, or go on where the run in `folder` stopped.

    Args:
        encoder: the model to start from: siamese training for a SentenceEncoder, joint.py's for a CrossEncoder.
        score: called every `config.evaluate_every` steps; the model with the highest is kept in `folder / "best"`.
            `tasks.sts.sts_score(files)` makes one, for a cross-encoder `tasks.pairs.pair_score(files)`.
        devices: how many to train on, None for all that JAX finds. The loss is the global batch's whatever they are; a run
            may go on with another number (then not to the bit).
        layout: of the parameters on them, a row of sharding.LAYOUTS.

    Returns:
        the trained encoder; it is in `folder / "final"` too.

    Raises:
        InputError, DataError: settings or data that cannot be trained on, before the first step.
        TrainingError: a step was not finite, a checkpoint could not be written, or the folder holds another run.
        WriteError: the model or the metrics could not be written.
        TrainingStopped: SIGTERM came; the state is saved.
    """
    run = _Run(encoder, config, Path(folder), score, data_mesh(devices), layout)
    with on_sigterm() as asked_to_stop, together(str(folder)):
        state, step = run.start()
        progress = progress_bar(run.steps, step, show_progress and leads())
        pending: tuple[int, StepMetrics] | None = None
        started = time.perf_counter()
        while step < run.steps:
            batch, stop = evened(run.batch(step), asked_to_stop.is_set())
            state, metrics = run.train_step(state, run.placed(step, batch))
            # The metrics of the step before are read while this one is computed.
            if pending is not None:
                run.note(*pending, progress)
            pending, step = (step, metrics), step + 1
            if stop or step == run.steps or step % config.checkpoint_every == 0 or run.evaluates_at(step):
                run.note(*pending, progress)
                pending = None
                if run.evaluates_at(step):
                    run.evaluate(state, step)
                if stop or step == run.steps or step % config.checkpoint_every == 0:
                    run.checkpoints.save(state)
            if stop and step < run.steps:
                raise TrainingStopped(
                    f"{run.folder}: stopped after step {step} of {run.steps} and saved. Start the same "
                    "command again to go on."
                )
        progress.close()
        return run.finish(state, time.perf_counter() - started)


class _Run:
    """What stays the same over a run: settings, data, compiled step, files."""

    def __init__(
        self,
        encoder: Any,
        config: TrainConfig,
        folder: Path,
        score: Callable[[Any], float] | None,
        mesh: Mesh,
        layout: str,
    ):
        self.way = way_of(encoder)
        check_settings(config, encoder.compute_dtype, self.way.losses)
        self.encoder, self.config, self.folder = encoder, config, folder
        examples = [open_examples(source, kind=config.kind, score_range=config.score_range) for source in config.data]
        self.way.check(examples, config, encoder)
        self.examples = examples
        self.batches = Batches(
            examples,
            config.batch_size,
            seed=config.seed,
            mixing=config.mixing,  # type: ignore[arg-type]
            no_duplicates=config.no_duplicates,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )
        self.steps = self.batches.steps(config.epochs)
        self.steps = min(self.steps, config.max_steps or self.steps)
        self.rates = schedule(config.decay, config.learning_rate, int(config.warmup * self.steps), self.steps)
        self.optimizer = adamw(self.rates, weight_decay=config.weight_decay, clip_norm=config.clip_norm)
        loss = self.way.losses[config.loss]
        self.loss_options = config.loss_options or {}
        self.mesh, self.layout = mesh, layout
        self.loss = self._loss(loss.function, encoder.design)
        self.score = score
        self.best: float | None = None
        self.cut = 0  # texts (or pairs) that were longer than max_seq_length
        self.shapes: dict[int, tuple[int, ...]] = {}  # of the steps of this process: rows and tokens, a program each
        self.teacher = None if config.teacher is None else load_teacher(config.teacher, encoder)
        # With LoRA the adapters are trained, and this gives the model's parameters from the frozen ones and them.
        self.adapt, params = None, encoder.pretrained.params
        if config.lora_rank is not None:
            key = jax.random.key(config.seed)
            self.adapt = partial(merge, scale=config.lora_scale)
            self.trainable = initial_adapters(params, config.lora_rank, config.lora_targets, key)
        else:  # a copy: the step gives the state's memory away, and the caller's encoder keeps its own
            self.trainable = jax.tree.map(jnp.copy, params)
        folder.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(folder, asdict(config), config.report_to, writes=leads())
        record = {
            "config": json.loads(json.dumps(asdict(config))),
            "data": json.loads(json.dumps([asdict(example.dataset) for example in examples])),
            "model": repr(encoder),
        }
        if self.adapt is not None:
            record["weights"] = weights_digest(params)
        self.checkpoints = Checkpoints(folder, record)

    def _compiled(self, sharding: Any) -> Callable[..., Any]:
        definition, _ = self.way.define(self.encoder.design, COMPUTE_DTYPES[self.config.compute_dtype])
        frozen = None if self.adapt is None else self.encoder.pretrained.params
        if frozen is not None and self.mesh.size > 1:
            frozen = jax.device_put(frozen, state_sharding(frozen, self.mesh, self.layout))
        return make_train_step(
            definition=definition,
            loss=self.loss,
            optimizer=self.optimizer,
            dropout=self.config.dropout,
            chunk_size=self.config.chunk_size,
            remat=self.config.remat,
            sharding=sharding,
            adapt=self.adapt,
            frozen=frozen,
        )

    def _loss(self, function: Callable[..., jax.Array], design: Any) -> Callable[..., jax.Array]:
        """The loss with its options, over shortened embeddings too where the config says so."""
        function = partial(function, **self.loss_options)
        dimensions = self.config.matryoshka
        if not dimensions:
            return function
        width = getattr(design, "dimension", 0)
        if max(dimensions) > width:
            raise InputError(
                f"matryoshka is {dimensions}, but this model's embeddings have {width} dimensions. Expected at most that; a "
                "cross-encoder has none."
            )
        return matryoshka(function, dimensions)

    def start(self) -> tuple[TrainState, int]:
        """The first state, or the newest saved one."""
        head: dict[str, Any] = {}
        if self.way.losses[self.config.loss].has_head:
            options = self.config.loss_options or {}
            classes = len(self.examples[0].dataset.classes)
            head = dict(
                initial_softmax_head(
                    jax.random.key(self.config.seed), self.encoder.design.dimension, classes, **options
                )
            )  # type: ignore[arg-type]
        state = initial_state({"model": self.trainable, "head": head}, self.optimizer, self.config.seed)
        del self.trainable  # the first step takes its memory
        self.parameter_names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.params)]
        sharding = None
        if self.mesh.size > 1:
            sharding = state_sharding(state, self.mesh, self.layout)
            state = place_state(state, sharding)
        self.train_step = self._compiled(sharding)
        step = 0
        if self.checkpoints.latest() is not None:
            state = self.checkpoints.restore(state)
            step = int(state.step)
            logger.info(f"{self.folder}: going on after step {step} of {self.steps}")
        scores = [line.get("score") for line in self.journal.forget_after(step)]
        self.best = max((score for score in scores if score is not None), default=None)
        return state, step

    def batch(self, step: int) -> TrainBatch:
        """The arrays of a step, this host's part."""
        batch, cut = self.way.batch(
            self.batches.batch_at(step), self.encoder, self.config, len(self.mesh.local_devices)
        )
        self.cut += cut
        if self.teacher is not None:
            texts = self.batches.batch_at(step).texts
            taught_SBD = np.stack([self.teacher.encode(column, show_progress_bar=False) for column in texts])
            batch = batch._replace(targets=batch.targets._replace(teacher_SBD=taught_SBD))  # type: ignore[arg-type]
        return batch

    def placed(self, step: int, batch: TrainBatch) -> TrainBatch:
        """The same on the devices."""
        self.shapes[step] = batch.rows.token_ids_PL.shape
        return batch if self.mesh.size == 1 else place_batch(batch, self.mesh)

    def note(self, step: int, metrics: StepMetrics, progress: Any) -> None:
        """Read a step's metrics, refuse what is not finite, write and show the rest."""
        loss, norm = float(metrics.loss), float(metrics.gradient_norm)
        if not bool(metrics.finite):
            rows = self.batches.batch_at(step)
            raise TrainingError(
                f"{self.folder}: step {step + 1} gave loss {loss} and gradient norm {norm}{self._first_bad(metrics)}, on "
                f"rows {rows.rows_B.tolist()[:16]} of {self.config.data[rows.dataset]}. Nothing was overwritten; the last "
                f"checkpoint is of step {self.checkpoints.latest()}. Lower the learning rate or look at these rows."
            )
        line = {"step": step + 1, "loss": loss, "gradient_norm": norm, "learning_rate": float(self.rates(step))}
        self.journal.write(line | {"shape": self.shapes[step]})
        progress.update(self.config.batch_size)
        progress.set_postfix(step=step + 1, loss=f"{loss:.4f}")

    def _first_bad(self, metrics: StepMetrics) -> str:
        norms = np.asarray(metrics.gradient_norms)
        if np.isfinite(norms).all():
            return ""
        return f", first in the gradient of {self.parameter_names[int(np.argmin(np.isfinite(norms)))]}"

    def evaluates_at(self, step: int) -> bool:
        """Whether the model is scored after this step."""
        return self.score is not None and (step == self.steps or step % self.config.evaluate_every == 0)

    def evaluate(self, state: TrainState, step: int) -> None:
        """Score the model; keep it if it is the best so far."""
        trained, head = self.trained(state), on_one_device(state.params["head"])
        if not leads():
            return
        assert self.score is not None
        score = self.score(trained)
        if self.best is None or score > self.best:
            self.best = score
            trained.save(self.folder / "best")
            self._save_head(head, "best")
        self.journal.write({"step": step, "score": score})

    def trained(self, state: TrainState) -> Any:
        """An encoder with the state's parameters. The caller's own is left as it is; only compiled programs are shared."""
        # A copy: the next step gives the state's memory away.
        params = jax.tree.map(jnp.copy, state.params["model"])
        if self.mesh.size > 1:
            params = on_one_device(params)
        if self.adapt is not None:
            params = self.adapt(self.encoder.pretrained.params, params)
        encoder = copy.copy(self.encoder)
        encoder.pretrained = replace(encoder.pretrained, params=params)
        encoder.forward = copy.copy(encoder.forward)
        encoder.forward.params = params
        return encoder

    def finish(self, state: TrainState, seconds: float) -> Any:
        """Write the final model, the curves and the card."""
        trained, head = self.trained(state), on_one_device(state.params["head"])
        self.checkpoints.close()
        if not leads():
            return trained
        trained.save(self.folder / "final")
        self._save_head(head, "final")
        lines = self.journal.lines()
        with whole_file(self.folder / "curves.png") as temporary:
            draw_curves(lines, temporary)
        for name in ("final", "best"):
            if (self.folder / name).is_dir():
                datasets = [example.dataset for example in self.examples]
                write_card(self.folder / name, self.config, datasets, lines, self.way.kind)
        if self.cut:
            logger.warning(
                f"{self.folder}: {self.cut} {self.way.rows} were longer than max_seq_length "
                f"{self.encoder.max_seq_length} and were cut; set it higher (--max-seq-length) to train on whole "
                f"{self.way.rows}."
            )
        shapes = sorted(set(self.shapes.values()))
        logger.info(
            f"{self.folder}: {self.steps} steps, {seconds:.0f} s in this process; a program each for {len(shapes)} shapes "
            f"of batches: {', '.join(f'{P} x {L}' for P, L in shapes)}"
        )
        return trained

    def _save_head(self, head: dict[str, Any], name: str) -> None:
        """The loss's own parameters beside the model, for `tasks.pair_classifier` to predict with."""
        if self.way.losses[self.config.loss].has_head:
            write_head(self.folder / name, head, self.examples[0].dataset.classes, self.loss_options)
