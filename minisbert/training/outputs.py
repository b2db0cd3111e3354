"""What comes out of a run: the model of a state, its scores, the best and the final model with their cards."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from minisbert.data.examples import Dataset
from minisbert.inference.parameters import replace_params
from minisbert.training import sharding
from minisbert.training.config import TrainConfig
from minisbert.training.given import recorded_settings
from minisbert.training.logging import MetricsLog, write_report
from minisbert.training.lora import merge_lora
from minisbert.training.losses import initial_softmax_head
from minisbert.training.run import RunView, TrainingRun, finite
from minisbert.training.siamese import TrainState
from minisbert.training.softmax_head import write_head
from minisbert.training.task import TrainingTask

logger = logging.getLogger("minisbert")


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
