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
from minisbert.training.joint import way_of
from minisbert.training.loggers import open_loggers
from minisbert.training.losses import initial_softmax_head, matryoshka
from minisbert.training.optimizer import adamw, schedule
from minisbert.training.order import Batches
from minisbert.training.preemption import on_sigterm
from minisbert.training.report import append_line, draw_curves, write_card
from minisbert.training.sharding import data_mesh, on_one_device, place_batch, state_sharding
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
    with on_sigterm() as asked_to_stop:
        state, step = run.start()
        progress = _bar(run.steps, step, show_progress)
        pending: tuple[int, StepMetrics] | None = None
        started = time.perf_counter()
        while step < run.steps:
            state, metrics = run.train_step(state, run.batch(step))
            # The metrics of the step before are read while this one is computed.
            if pending is not None:
                run.note(*pending, progress)
            pending, step = (step, metrics), step + 1
            stop = asked_to_stop.is_set()
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
        folder.mkdir(parents=True, exist_ok=True)
        self.loggers = open_loggers(config.report_to, folder, asdict(config))
        self.metrics_file = folder / "metrics.jsonl"
        record = {
            "config": json.loads(json.dumps(asdict(config))),
            "data": json.loads(json.dumps([asdict(example.dataset) for example in examples])),
            "model": repr(encoder),
        }
        self.checkpoints = Checkpoints(folder, record)

    def _compiled(self, sharding: Any) -> Callable[..., Any]:
        definition, _ = self.way.define(self.encoder.design, COMPUTE_DTYPES[self.config.compute_dtype])
        return make_train_step(
            definition=definition,
            loss=self.loss,
            optimizer=self.optimizer,
            dropout=self.config.dropout,
            chunk_size=self.config.chunk_size,
            remat=self.config.remat,
            sharding=sharding,
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
        # A copy: the step gives the state's memory away, and the caller's encoder keeps its own.
        params = jax.tree.map(jnp.copy, self.encoder.pretrained.params)
        state = initial_state({"model": params, "head": head}, self.optimizer, self.config.seed)
        self.parameter_names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.params)]
        sharding = None
        if self.mesh.size > 1:
            sharding = state_sharding(state, self.mesh, self.layout)
            state = jax.device_put(state, sharding)
        self.train_step = self._compiled(sharding)
        step = 0
        if self.checkpoints.latest() is not None:
            state = self.checkpoints.restore(state)
            step = int(state.step)
            logger.info(f"{self.folder}: going on after step {step} of {self.steps}")
        self._forget_after(step)
        return state, step

    def _forget_after(self, step: int) -> None:
        """Drop metrics of steps that will be done again."""
        lines = self.metrics_file.read_text().splitlines() if self.metrics_file.exists() else []
        kept = [line for line in lines if _step_of(line) is not None and _step_of(line) <= step]  # type: ignore[operator]
        with whole_file(self.metrics_file) as temporary:  # a kill must not take the scores that were there
            temporary.write_text("".join(line + "\n" for line in kept))
        scores = [json.loads(line).get("score") for line in kept]
        self.best = max((score for score in scores if score is not None), default=None)

    def batch(self, step: int) -> TrainBatch:
        """The arrays of a step."""
        batch, cut = self.way.batch(self.batches.batch_at(step), self.encoder, self.config, self.mesh.size)
        self.cut += cut
        if self.teacher is not None:
            texts = self.batches.batch_at(step).texts
            taught_SBD = np.stack([self.teacher.encode(column, show_progress_bar=False) for column in texts])
            batch = batch._replace(targets=batch.targets._replace(teacher_SBD=taught_SBD))  # type: ignore[arg-type]
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
        self._write(line | {"shape": self.shapes[step]})
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
        trained = self.trained(state)
        assert self.score is not None
        score = self.score(trained)
        if self.best is None or score > self.best:
            self.best = score
            trained.save(self.folder / "best")
            self._save_head(state, "best")
        self._write({"step": step, "score": score})

    def trained(self, state: TrainState) -> Any:
        """An encoder with the state's parameters. The caller's own is left as it is; only compiled programs are shared."""
        # A copy: the next step gives the state's memory away.
        params = jax.tree.map(jnp.copy, state.params["model"])
        if self.mesh.size > 1:
            params = on_one_device(params)
        encoder = copy.copy(self.encoder)
        encoder.pretrained = replace(encoder.pretrained, params=params)
        encoder.forward = copy.copy(encoder.forward)
        encoder.forward.params = params
        return encoder

    def finish(self, state: TrainState, seconds: float) -> Any:
        """Write the final model, the curves and the card."""
        trained = self.trained(state)
        trained.save(self.folder / "final")
        self._save_head(state, "final")
        lines = [json.loads(line) for line in self.metrics_file.read_text().splitlines()]
        draw_curves(lines, self.folder / "curves.png")
        for name in ("final", "best"):
            if (self.folder / name).is_dir():
                datasets = [example.dataset for example in self.examples]
                write_card(self.folder / name, self.config, datasets, lines, self.way.kind)
        self.checkpoints.close()
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

    def _save_head(self, state: TrainState, name: str) -> None:
        """The loss's own parameters beside the model, for `tasks.pair_classifier` to predict with."""
        if self.way.losses[self.config.loss].has_head:
            write_head(self.folder / name, state.params["head"], self.examples[0].dataset.classes, self.loss_options)

    def _write(self, line: dict[str, Any]) -> None:
        append_line(self.metrics_file, line)
        for log in self.loggers:
            log(line["step"], {name: value for name, value in line.items() if isinstance(value, float)})


def _step_of(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None  # a line that a kill cut short


def _bar(steps: int, done: int, show: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=None, desc=f"train ({steps} steps, {done} done)", unit=" pairs", disable=None if show else True)
