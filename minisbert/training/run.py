"""What a run shows while it trains (`RunView`, given to callbacks) and when it is done (`TrainingRun`, on the model), and what
it writes (`Outputs`): scores, the best and the final model with their cards.

A callback is an object with any of the methods `EVENTS`; each takes a `RunView`, which is valid during the call only. Callbacks
look at the model and do not change it, so they are not part of a checkpoint's record.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter, itemgetter, methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from minisbert.arguments import check_finite
from minisbert.errors import InputError, TrainingError, short_repr
from minisbert.inference.engines import replace_params
from minisbert.training import sharding
from minisbert.training.config import plain
from minisbert.training.logging import curve, write_report
from minisbert.training.lora import merge_lora
from minisbert.training.losses import initial_softmax_head
from minisbert.training.optimizer import moving_average
from minisbert.training.siamese import StepMetrics, TrainBatch, TrainState
from minisbert.training.softmax_head import write_head

if TYPE_CHECKING:
    from minisbert.training.trainer import Trainer

logger = logging.getLogger("minisbert")
# After every step (the device then waits for each step's metrics), an evaluation's scores, a checkpoint, the last step.
EVENTS = ("on_step", "on_evaluate", "on_checkpoint", "on_end")
OWN_METRICS = ("step", "loss", "gradient_norm", "learning_rate", "shape", "score", "ended")  # what a run itself writes


class RunView:
    """The run at one moment.

    `step` is how many steps are done. `metrics` are those of the last step (loss, gradient_norm, learning_rate, shape), and
    in `on_evaluate` the scores. `params` are the parameters that are trained.
    """

    def __init__(self, outputs: "Outputs", state: TrainState):
        self.step, self.metrics, self.params = int(state.step), dict(outputs.last), state.params["model"]
        self._outputs, self._state = outputs, state

    @cached_property
    def model(self) -> Any:
        """The model as an ordinary encoder, on the run's own parameters: nothing is copied or compiled again."""
        return self._outputs.model_of(self._state, lambda leaf: leaf)[0]

    def end(self) -> None:
        """End the run after this step, whose model becomes the final one. A run that is resumed has ended as well."""
        self._outputs.end(self.step)

    def log(self, **values: float) -> None:
        """Write values of this step to the run's metrics, under these names."""
        refuse_own_metrics("log", values)
        line = {name: check_finite(f"{name} after step {self.step}", plain(value)) for name, value in values.items()}
        self._outputs.metrics.write({"step": self.step, **line})


def methods(callbacks: Sequence[Any]) -> dict[str, list[Callable[[RunView], None]]]:
    """The callbacks' methods by event. Raises InputError for objects without any."""
    expected = f"objects with {' or '.join(EVENTS)}"
    if isinstance(callbacks, str) or not isinstance(callbacks, Sequence):
        raise InputError(f"callbacks is {short_repr(callbacks)}. Expected a list of {expected}.")
    found: dict[str, list[Callable[[RunView], None]]] = defaultdict(list)
    for callback in callbacks:
        events = [event for event in EVENTS if callable(getattr(callback, event, None))]
        if not events:
            raise InputError(f"callbacks has {short_repr(callback)}. Expected {expected}.")
        for event in events:
            found[event].append(getattr(callback, event))
    return found


@dataclass(frozen=True)
class TrainingRun:
    """What a finished run did: the attribute `run` of the model that `train` returns."""

    folder: Path | None
    """The run's folder; None if nothing was written."""
    steps: int
    metrics: tuple[dict[str, Any], ...] = field(repr=False)
    """The lines of metrics.jsonl."""
    seconds: float
    """Of training, in this process."""
    compile_seconds: float
    """Of compiling the step, before and during the run."""

    @property
    def final(self) -> Path | None:
        """The folder of the model after the last step."""
        return None if self.folder is None else self.folder / "final"

    @property
    def best(self) -> Path | None:
        """The folder of the model with the best score, if there were evaluations."""
        return self.folder / "best" if self.folder is not None and (self.folder / "best").is_dir() else None

    def curve(self, name: str = "loss") -> tuple[np.ndarray, np.ndarray]:
        """The steps that have a metric of this name, and its values."""
        return curve(self.metrics, name)

    def last(self) -> dict[str, Any]:
        """The last value of each metric: a row of a table of runs."""
        found: dict[str, Any] = {}
        for line in self.metrics:
            found |= line
        return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of values as aligned text, such as the settings and the last metrics of the runs of a sweep.

    Example:
        >>> print(table([{"rate": 0.001, "sts": 0.5}, {"rate": 0.01, "sts": 0.25}]))
        rate   sts
        0.001  0.5
        0.01   0.25
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names]
    for row in rows:
        values = [row.get(name, "") for name in names]
        cells.append([f"{value:.4g}" if isinstance(value, float) else str(value) for value in values])
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def scorers(score: Any) -> dict[str, Callable[[Any], float]]:
    """The evaluations by name; the first decides which model is best.

    Raises:
        InputError: neither None, a function, nor a dict of functions by name.
    """
    if score is None:
        return {}
    given = dict(score) if isinstance(score, Mapping) else {"score": score}
    if not given or not all(isinstance(name, str) and callable(one) for name, one in given.items()):
        raise InputError(
            f"score is {short_repr(score)}. Expected a function of the model, a dict of such functions by name, or None."
        )
    refuse_own_metrics("score", list(given)[1:] if "score" in list(given)[:1] else given)
    return given


def refuse_own_metrics(place: str, names: Iterable[str]) -> None:
    """Raises InputError for a name under which the run writes values of its own: a second loss, or another best score."""
    if taken := sorted(set(names) & set(OWN_METRICS)):
        raise InputError(
            f"{place}: {taken[0]!r} is a metric that the run itself writes. Expected another name; taken are "
            f"{', '.join(OWN_METRICS)}."
        )


class Outputs:
    """The metrics and models of one run: `scores` from `scorers`, `called` from `methods`."""

    def __init__(
        self,
        trainer: "Trainer",
        scores: Mapping[str, Callable[[Any], float]],
        called: Mapping[str, Sequence[Callable[[RunView], None]]],
    ):
        self.trainer, self.metrics, self.scores, self.called = trainer, trainer.metrics, scores, called
        self.last: dict[str, Any] = {}  # the metrics of the last step
        self.ended = False  # by a callback, or since the score no longer improves

    def log(self, step: int, part: int, batch: TrainBatch, metrics: StepMetrics, progress: Any) -> None:
        """Write a step's metrics.

        Raises:
            TrainingError: loss or gradient are not finite.
        """
        trainer, loss, norm = self.trainer, float(metrics.loss), float(metrics.gradient_norm)
        if not bool(metrics.finite):
            whole = np.isfinite(np.asarray(metrics.gradient_norms))
            first = ""
            if not whole.all():
                path, _ = jax.tree.leaves_with_path(trainer.shapes.params)[int(np.argmin(whole))]
                first = f", first in the gradient of {jax.tree_util.keystr(path)}"
            rows = trainer.batches.batch_at(step)
            saved = None if trainer.checkpoints is None else trainer.checkpoints.latest()
            raise TrainingError(
                f"{trainer.where}: step {step + 1} gave loss {loss} and gradient norm {norm}{first}, on rows "
                f"{rows.rows_B.tolist()[:16]} of {trainer.datasets[rows.dataset].source}. Expected finite numbers; the last "
                f"checkpoint is that of step {saved}. Lower the learning rate or look at these rows."
            )
        line = {"step": step + 1, "loss": loss, "gradient_norm": norm, "learning_rate": trainer.learning_rate(step)}
        if (name := trainer.parts[part].name) is not None:
            line[f"loss/{name}"] = loss
        self.last = line | {"shape": batch.rows.token_ids_PL.shape}
        self.metrics.write(self.last)
        progress.update(trainer.config.batch_size)
        progress.set_postfix(step=step + 1, loss=f"{loss:.4f}")

    def call(self, event: str, state: TrainState) -> None:
        """Call each callback's method."""
        if self.called[event]:
            view = RunView(self, state)
            for method in self.called[event]:
                method(view)

    def end(self, step: int) -> None:
        """End the run after this step. Its metrics say so, for a run that is resumed."""
        if not self.ended:
            self.ended = True
            self.metrics.write({"step": step, "ended": True})

    def evaluate(self, state: TrainState) -> None:
        """Score the model, and save it if its first score is the best so far."""
        model, head = self.model_of(state)
        if jax.process_index() > 0:
            return
        step, folder, config = int(state.step), self.trainer.folder, self.trainer.config
        values: dict[str, float] = {}
        for name, score in self.scores.items():
            value = score(model)
            if getattr(value, "shape", ()) == () and value != value:  # NaN: a correlation with equal similarities
                logger.warning(f"the {name} after step {step} is undefined (NaN) and left out.")
            else:
                values[name] = check_finite(f"{name} after step {step}", plain(value))
        first = values.get(next(iter(self.scores)))
        scored = [line for line in self.metrics.lines() if "score" in line]
        best_step = max(scored, key=lambda line: line["score"])["step"] if scored else 0
        if first is not None:
            if all(first > line["score"] for line in scored):
                best_step = step
                if folder is not None:
                    self._save(model, head, folder / "best")
            values = {"score": first, **values}
        patience = config.early_stopping_patience
        if patience is not None and step - best_step >= patience * config.evaluate_every:  # an undefined score counts
            values["ended"] = self.ended = True
        self.last = self.last | values  # a new dict: the metrics hold the old one
        if values:
            self.metrics.write({"step": step, **values})

    def model_of(self, state: TrainState, copied: Callable[[Any], Any] = jnp.copy) -> tuple[Any, dict[str, Any]]:
        """A model with the state's parameters or their moving average, and the loss's own parameters.

        They are copies by default, because the next step reuses the state's memory.
        """
        trainer, config = self.trainer, self.trainer.config
        found = state.params if config.ema is None else moving_average(state.optimizer_state)
        params, head = jax.tree.map(copied, (found["model"], found["head"]))
        if trainer.mesh is not None and trainer.mesh.size > 1:
            params, head = sharding.on_one_device((params, head))
        if config.lora_rank is not None:
            params = merge_lora(trainer.model.pretrained.params, params, scale=config.lora_scale)
        return replace_params(trainer.model, params), head

    def _save(self, model: Any, head: dict[str, Any], target: Path) -> None:
        model.save(target)
        named = self.trainer.parts[0].name is not None
        heads: Any = dict(filter(itemgetter(1), (head if named else {None: head}).items()))  # those with parameters
        for part in self.trainer.parts:
            if part.loss.head is initial_softmax_head:  # of several the first one predicts
                options = part.config.loss_options or {}
                write_head(target, heads.pop(part.name), part.examples[0].dataset.classes, options.get("concatenation"))
                break
        if heads:
            write_head(target, heads if named else heads[None])

    def finish(self, state: TrainState, seconds: float) -> Any:
        """Write the final model, the curves and the model cards; returns the model."""
        trainer, task, first_host = self.trainer, self.trainer.task, jax.process_index() == 0
        model, head = self.model_of(state)
        lines = tuple(self.metrics.lines())
        compile_seconds = sum(map(attrgetter("seconds"), trainer.train_steps))
        model.run = TrainingRun(trainer.folder, int(state.step), lines, seconds, compile_seconds)
        if trainer.folder is not None and first_host:
            self._save(model, head, trainer.folder / "final")
            write_report(trainer.folder, trainer.settings, trainer.datasets, lines, task.model_name, task.hub_tag)
        if trainer.checkpoints is not None:
            trainer.checkpoints.close()
        if trainer.cut and first_host:
            logger.warning(
                f"{trainer.where}: {trainer.cut} {task.sequence}s were longer than max_seq_length "
                f"{trainer.model.max_seq_length} and were cut; raise it (--max-seq-length) to train on whole {task.sequence}s."
            )
        logger.info(
            f"{trainer.where}: {int(state.step)} of {trainer.steps} steps, {seconds:.0f} s in this process; "
            f"{'; '.join(map(methodcaller('log'), trainer.train_steps))}"
        )
        return model
