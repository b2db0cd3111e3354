"""What a run shows while it trains (`RunView`, given to callbacks) and when it is done (`TrainingRun`, on the model), and what
it writes (`Outputs`): scores, the best and the final model with their cards.

A callback is an object with any of the methods below; each takes a `RunView`, which is valid during the call only.

    on_step          after every step; the device then waits for each step's metrics
    on_evaluate      after the scores of an evaluation
    on_checkpoint    after a checkpoint was written
    on_end           after the last step

Callbacks look at the model and do not change it, so they are not part of a checkpoint's record.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from minisbert.data.examples import Dataset
from minisbert.errors import InputError, short_repr
from minisbert.inference.engines import replace_params
from minisbert.training import sharding
from minisbert.training.config import TrainConfig, recorded_settings
from minisbert.training.logging import MetricsLog, write_report
from minisbert.training.lora import merge_lora
from minisbert.training.losses import initial_softmax_head
from minisbert.training.siamese import TrainState
from minisbert.training.softmax_head import write_head
from minisbert.training.task import TrainingTask

logger = logging.getLogger("minisbert")
EVENTS = ("on_step", "on_evaluate", "on_checkpoint", "on_end")


class RunView:
    """The run at one moment.

    Args:
        step: how many steps are done.
        metrics: of the last step (loss, gradient_norm, learning_rate, shape), and in `on_evaluate` the scores.
        model_of: makes the model from the state.
        write: appends a line to the metrics.
    """

    def __init__(
        self,
        step: int,
        metrics: Mapping[str, Any],
        params: Any,
        model_of: Callable[[], Any],
        write: Callable[[dict[str, Any]], None],
    ):
        self.step, self.metrics, self.params = step, dict(metrics), params
        self._model_of, self._write = model_of, write

    @cached_property
    def model(self) -> Any:
        """The model as an ordinary encoder, on the run's own parameters: nothing is copied or compiled again."""
        return self._model_of()

    def log(self, **values: float) -> None:
        """Write values of this step to the run's metrics, under these names."""
        self._write({"step": self.step, **{name: finite(name, value, self.step) for name, value in values.items()}})


class Callbacks:
    """The callbacks of a run, by event."""

    def __init__(self, callbacks: Sequence[Any]):
        if isinstance(callbacks, str) or not isinstance(callbacks, Sequence):
            raise InputError(
                f"callbacks is {short_repr(callbacks)}. Expected a list of objects with {' or '.join(EVENTS)}."
            )
        for callback in callbacks:
            if not any(callable(getattr(callback, event, None)) for event in EVENTS):
                raise InputError(f"callbacks has {short_repr(callback)}. Expected objects with {' or '.join(EVENTS)}.")
        self._of = {event: [getattr(one, event) for one in callbacks if hasattr(one, event)] for event in EVENTS}

    def wants(self, event: str) -> bool:
        """Whether a callback has this method."""
        return bool(self._of[event])

    def call(self, event: str, view: Callable[[], RunView]) -> None:
        """Call each callback's method."""
        if self._of[event]:
            shown = view()
            for call in self._of[event]:
                call(shown)


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
        lines = [line for line in self.metrics if name in line]
        return np.array([line["step"] for line in lines], int), np.array([line[name] for line in lines], float)

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
    cells = [names] + [[_cell(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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
    return given


def finite(name: str, value: Any, step: int) -> float:
    """The value as a float. Raises InputError if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        value = value.item() if getattr(value, "shape", None) == () else value  # one number of JAX's
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{name} gave {short_repr(value)} after step {step}. Expected a finite number.")
    return float(value)


class Outputs:
    """The models and metrics of one run.

    Args:
        model: before training.
        folder: of the run; None writes nothing.
        mesh: of the devices, None for one.
        datasets: descriptions for the model card.
    """

    def __init__(
        self,
        model: Any,
        task: TrainingTask,
        config: TrainConfig,
        folder: Path | None,
        mesh: Mesh | None,
        datasets: Sequence[Dataset],
        metrics: MetricsLog,
    ):
        self.model, self.task, self.config, self.folder = model, task, config, folder
        self.mesh, self.datasets, self.metrics = mesh, datasets, metrics
        self.last: dict[str, Any] = {}  # the metrics of the last step

    def evaluate(self, state: TrainState, step: int, scores: Mapping[str, Callable[[Any], float]]) -> None:
        """Score the model, and save it if its first score is the best so far."""
        model, head = self.trained(state)
        if jax.process_index() > 0:
            return
        values: dict[str, float] = {}
        for name, score in scores.items():
            value = score(model)
            if isinstance(value, float | np.floating) and math.isnan(value):  # a correlation with equal similarities
                logger.warning(f"the {name} after step {step} is undefined (NaN) and left out.")
            else:
                values[name] = finite(name, value, step)
        first = values.get(next(iter(scores)))
        if first is not None:
            if self.folder is not None and all(first > line.get("score", -math.inf) for line in self.metrics.lines()):
                self._save(model, head, self.folder / "best")
            values = {"score": first, **values}
        self.last |= values
        if values:
            self.metrics.write({"step": step, **values})

    def view(self, state: TrainState) -> RunView:
        """The run as callbacks see it."""
        model_of = partial(self._model_of, state)
        return RunView(int(state.step), self.last, state.params["model"], lambda: model_of()[0], self.metrics.write)

    def trained(self, state: TrainState) -> tuple[Any, dict[str, Any]]:
        """A model with the state's parameters or their moving average, and the loss's own parameters."""
        # A copy, because the next step reuses the state's memory.
        return self._model_of(state, jnp.copy)

    def _model_of(self, state: TrainState, copied: Callable[[Any], Any] = lambda leaf: leaf) -> tuple[Any, Any]:
        found = state.params if self.config.ema is None else optax.tree.get(state.optimizer_state, "ema")
        params, head = jax.tree.map(copied, (found["model"], found["head"]))
        if self.mesh is not None and self.mesh.size > 1:
            params, head = sharding.on_one_device((params, head))
        if self.config.lora_rank is not None:
            params = merge_lora(self.model.pretrained.params, params, scale=self.config.lora_scale)
        return replace_params(self.model, params), head

    def _save(self, model: Any, head: dict[str, Any], target: Path) -> None:
        model.save(target)
        if head:
            softmax = self.task.loss(self.config).head is initial_softmax_head
            write_head(target, head, self.datasets[0].classes, self.config.loss_options or {}, softmax=softmax)

    def finish(self, state: TrainState, seconds: float, compile_seconds: float) -> Any:
        """Write the final model, the curves and the model cards; returns the model."""
        model, head = self.trained(state)
        lines = tuple(self.metrics.lines())
        model.run = TrainingRun(self.folder, int(state.step), lines, seconds, compile_seconds)
        if self.folder is not None and jax.process_index() == 0:
            self._save(model, head, self.folder / "final")
            settings, task = recorded_settings(self.config), self.task
            write_report(self.folder, settings, self.datasets, lines, task.model_name, task.hub_tag)
        return model
