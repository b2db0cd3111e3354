"""One training run: what stays the same over its steps, and what is done with each.

`Run` is made from the settings, and refuses before the first step what cannot be trained; loop.py asks it for the first
state, for the arrays of a step, and to note, to score and to finish.
"""

import copy
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from minisbert.arguments import check_bool
from minisbert.atomic_write import not_written, whole_file
from minisbert.data.examples import open_examples
from minisbert.data.sampler import Batches
from minisbert.errors import TrainingError
from minisbert.inference.compiled import COMPUTE_DTYPES
from minisbert.training.checkpoints import Checkpoints
from minisbert.training.config import TrainConfig, check_settings, checked_score
from minisbert.training.deterministic import check_blocks
from minisbert.training.logging import Journal
from minisbert.training.lora import initial_adapters, merge_lora, weights_digest
from minisbert.training.losses import initial_softmax_head
from minisbert.training.multihost import is_main_process, sync_batch_shape
from minisbert.training.report import draw_curves, write_card
from minisbert.training.sharding import (
    AXIS,
    check_setup,
    on_one_device,
    place,
    place_batch,
    state_sharding,
)
from minisbert.training.siamese import StepMetrics, TrainBatch, TrainState, initial_state
from minisbert.training.softmax_head import write_head
from minisbert.training.step_cache import (
    StepCache,
    compiled_step,
    loss_for,
    optimizer_for,
    resolve_on_new_shape,
    sampled_steps,
)
from minisbert.training.task import task_for
from minisbert.training.teacher import load_teacher

logger = logging.getLogger("minisbert")


class Run:
    """What stays the same over a run: settings, data, compiled step, files."""

    def __init__(
        self,
        encoder: Any,
        config: TrainConfig,
        folder: Path,
        score: Callable[[Any], float] | None,
        mesh: Mesh,
        layout: str,
        on_new_shape: str | None,
        keep_encoder: bool,
    ):
        check_bool("keep_encoder", keep_encoder)
        self.task = task_for(encoder)
        check_settings(config, encoder.compute_dtype, self.task.losses)
        check_setup(mesh, layout, config.batch_size, encoder.model_config.encoder)
        self.ordered = config.reduction == "ordered"
        if self.ordered:
            check_blocks(config.blocks, mesh.size, layout, lora=config.lora_rank is not None)
        self.on_new_shape = resolve_on_new_shape(on_new_shape)
        self.encoder, self.config, self.folder = encoder, config, folder
        examples = [open_examples(source, kind=config.kind, score_range=config.score_range) for source in config.data]
        self.task.check(examples, config, encoder)
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
        self.rates, self.optimizer, self.steps = optimizer_for(config, self.steps)
        self.loss_options = config.loss_options or {}
        self.mesh, self.layout = mesh, layout
        self.loss = loss_for(config, self.task.losses[config.loss], getattr(encoder.model_config, "dimension", 0))
        self.score = score
        self.best: float | None = None
        self.cut = 0  # texts (or pairs) that were longer than max_seq_length
        self.shapes: dict[int, tuple[int, ...]] = {}  # of the steps of this process: rows and tokens
        self.teacher = None if config.teacher is None else load_teacher(config.teacher, encoder)
        # With LoRA the adapters are trained, and this gives the model's parameters from the frozen ones and them.
        self.merge_fn, params = None, encoder.pretrained.params
        if config.lora_rank is not None:
            key = jax.random.key(config.seed)
            self.merge_fn = partial(merge_lora, scale=config.lora_scale)
            self.trainable = initial_adapters(params, config.lora_rank, config.lora_targets, key)
        else:  # a copy: the step gives the state's memory away, and the caller's encoder keeps its own
            self.trainable = jax.tree.map(jnp.copy, params)
            if not keep_encoder:
                encoder.pretrained = replace(encoder.pretrained, params={})
                encoder.forward.params = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(folder, error) from None
        self.journal = Journal(folder, asdict(config), config.report_to, writes=is_main_process())
        record = {
            "config": json.loads(json.dumps(asdict(config))),
            "data": json.loads(json.dumps([asdict(example.dataset) for example in examples])),
            "model": repr(encoder),
        }
        if self.merge_fn is not None:
            record["weights"] = weights_digest(params)
        self.checkpoints = Checkpoints(folder, record)

    def start(self) -> tuple[TrainState, int]:
        """The first state, or the newest saved one."""
        head: dict[str, Any] = {}
        if self.task.losses[self.config.loss].has_head:
            options = self.config.loss_options or {}
            classes = len(self.examples[0].dataset.classes)
            head = dict(
                initial_softmax_head(
                    jax.random.key(self.config.seed), self.encoder.model_config.dimension, classes, **options
                )
            )  # type: ignore[arg-type]
        state = initial_state({"model": self.trainable, "head": head}, self.optimizer, self.config.seed)
        del self.trainable  # the first step takes its memory
        self.parameter_names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.params)]
        sharding, place_with, base_params = None, {}, None
        if self.merge_fn is not None:
            base_params = self.encoder.pretrained.params
        if self.mesh.size > 1 and not self.ordered:
            sharding = state_sharding(state, self.mesh, self.layout)
            place_with = {"place": partial(place_batch, mesh=self.mesh)}
            state = place(state, sharding)
            if base_params is not None:
                base_params = place(base_params, state_sharding(base_params, self.mesh, self.layout))
        definition, _ = self.task.define(self.encoder.model_config, COMPUTE_DTYPES[self.config.compute_dtype])
        parts = (self.config, definition, self.loss, self.optimizer, self.mesh, sharding, base_params)
        train_step = compiled_step(*parts)
        self.programs = StepCache(
            train_step, padding_id=self.encoder.padding_id, on_new_shape=self.on_new_shape, **place_with
        )
        step = 0
        if self.checkpoints.latest() is not None:
            state = self.checkpoints.restore(state)
            step = int(state.step)
            logger.info(f"{self.folder}: going on after step {step} of {self.steps}")
        scores = [line.get("score") for line in self.journal.forget_after(step)]
        self.best = max((score for score in scores if score is not None), default=None)
        self.programs.warm_up(state, (self._arrays(step, look=True)[0] for step in sampled_steps(self.steps)))
        return state, step

    def batch(self, step: int, asked: Callable[[], bool] = bool) -> tuple[TrainBatch, bool]:
        """The arrays of a step, this host's part; and whether any host was asked to stop."""
        batch, stop = self._arrays(step, asked)
        batch = self.programs.pad_to_known_shape(batch)
        self.shapes[step] = batch.rows.token_ids_PL.shape
        return batch, stop

    def _arrays(self, step: int, asked: Callable[[], bool] = bool, *, look: bool = False) -> tuple[TrainBatch, bool]:
        """The same as the texts pack, on all hosts alike; `look` is for the shapes alone."""
        multiple = self.config.blocks if self.ordered else self.mesh.shape[AXIS] // jax.process_count()
        texts = self.batches.batch_at(step)
        batch, cut = self.task.batch(texts, self.encoder, self.config, multiple)
        self.cut += 0 if look else cut
        if self.teacher is not None:
            if look:
                taught_SBD = np.zeros((*batch.index_SB.shape, self.teacher.model_config.dimension), np.float32)
            else:
                taught_SBD = np.stack([self.teacher.encode(column, show_progress_bar=False) for column in texts.texts])
            batch = batch._replace(targets=batch.targets._replace(teacher_SBD=taught_SBD))  # type: ignore[arg-type]
        return sync_batch_shape(batch, asked, self.encoder.padding_id)

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
        line = {"step": step + 1, "loss": loss, "gradient_norm": norm, "learning_rate": self.rates(step)}
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
        if not is_main_process():
            return
        assert self.score is not None
        score = checked_score(self.score(trained), step)
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
        if self.merge_fn is not None:
            params = self.merge_fn(self.encoder.pretrained.params, params)
        encoder = copy.copy(self.encoder)
        encoder.pretrained = replace(encoder.pretrained, params=params)
        encoder.forward = copy.copy(encoder.forward)
        encoder.forward.params = params
        return encoder

    def finish(self, state: TrainState, seconds: float) -> Any:
        """Write the final model, the curves and the card."""
        trained, head = self.trained(state), on_one_device(state.params["head"])
        self.checkpoints.close()
        if not is_main_process():
            return trained
        trained.save(self.folder / "final")
        self._save_head(head, "final")
        lines = self.journal.lines()
        with whole_file(self.folder / "curves.png") as temporary:
            draw_curves(lines, temporary)
        for name in ("final", "best"):
            if (self.folder / name).is_dir():
                datasets = [example.dataset for example in self.examples]
                write_card(self.folder / name, self.config, datasets, lines, self.task)
        if self.cut:
            logger.warning(
                f"{self.folder}: {self.cut} {self.task.sequence}s were longer than max_seq_length "
                f"{self.encoder.max_seq_length} and were cut; set it higher (--max-seq-length) to train on whole "
                f"{self.task.sequence}s."
            )
        logger.info(f"{self.folder}: {self.steps} steps, {seconds:.0f} s in this process; {self.programs.log()}")
        return trained

    def _save_head(self, head: dict[str, Any], name: str) -> None:
        """The loss's own parameters beside the model, for `evaluation.softmax_classifier` to predict with."""
        if self.task.losses[self.config.loss].has_head:
            write_head(self.folder / name, head, self.examples[0].dataset.classes, self.loss_options)
