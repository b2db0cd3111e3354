"""What the trainer needs to know about a kind of model: its losses, its forward pass, its batches, its checks.

    task = task_for(model)                                       a SentenceEncoder: SIAMESE, below
    definition, params = task.define(model.model_config, dtype)  any other model: its own `training_task`
    batch, cut = task.batch(texts, model.tokenizer, max_length=..., padding_id=...)

The step itself (siamese.py), the trainer, the checkpoints and the plan are the same for all tasks. A cross-encoder's task is
`cross_encoder/training.py: CROSS_ENCODER`; a model from outside the package can bring its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from minisbert.data.examples import Examples
from minisbert.data.sampler import Batch
from minisbert.errors import InputError
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.sentence_model import define
from minisbert.training.collate import train_batch
from minisbert.training.config import TrainConfig
from minisbert.training.lora import initial_adapters
from minisbert.training.losses import LOSSES, Loss, resolve_loss
from minisbert.training.siamese import TrainBatch, TrainState, Tree, initial_state


class TrainingTask(NamedTuple):
    """How one kind of model is trained."""

    losses: Mapping[str, Loss]
    """The losses by name."""
    define: Callable[..., Any]
    """(model_config, dtype) -> (graph definition, abstract parameters)."""
    batch: Callable[..., tuple[TrainBatch, int]]
    """Arguments and results as for `collate.train_batch`: the arrays of one step, and how many sequences were cut to fit."""
    sequence: str
    """What one sequence of tokens is: "text" or "pair"."""
    model_name: str
    """What the model card calls the model."""
    hub_tag: str
    """What the hub calls it."""
    check: Callable[[Sequence[Examples], TrainConfig, Any], None] | None = None
    """(data sets, config, model): raises InputError or DataError for data that the model cannot be trained on."""

    def loss(self, config: TrainConfig) -> Loss:
        """The loss that the settings name or give."""
        return resolve_loss(config.loss, self.losses)

    def sequences(self, texts: int) -> int:
        """Sequences per example with this many texts: one per text, or the first text paired with each other one."""
        return texts if self.sequence == "text" else texts - 1

    def initial_state(
        self,
        config: TrainConfig,
        model_config: Any,
        optimizer: optax.GradientTransformation,
        classes: int,
        params: Tree,
    ) -> TrainState:
        """The state before the first step: what is trained of the model, and the loss's own parameters.

        Args:
            classes: how many the data has, 0 without classes; for the loss's own parameters.
            params: the model's.
        """
        key, head, loss = jax.random.key(config.seed), {}, self.loss(config)
        if loss.head is not None:
            width = getattr(model_config, "dimension", 1)  # a cross-encoder has logits
            head = dict(loss.head(key, width, classes, **(config.loss_options or {})))
        if config.lora_rank is not None:
            params = initial_adapters(params, config.lora_rank, config.lora_targets, key)
        return initial_state({"model": params, "head": head}, optimizer, config.seed)


SIAMESE = TrainingTask(
    losses=LOSSES,
    define=define,
    batch=train_batch,
    sequence="text",
    model_name="sentence embedding model",
    hub_tag="sentence-similarity",
)


def task_for(model: Any) -> TrainingTask:
    """How this model is trained.

    Raises:
        InputError: the model cannot be trained, or has a Router.
    """
    if routes := getattr(model, "routes", None):
        raise InputError(
            f"model has a Router with the routes {', '.join(routes)}. Expected a single model, whose text columns share "
            "its weights: train one route by itself, put it back, and save the whole model."
        )
    task = SIAMESE if isinstance(model, SentenceEncoder) else getattr(model, "training_task", None)
    if not isinstance(task, TrainingTask):
        raise InputError(f"model is a {type(model).__name__}. Expected a SentenceEncoder or a CrossEncoder.")
    return task


def load_teacher(name: str, student: SentenceEncoder) -> SentenceEncoder:
    """The model that the `mse` loss copies: its embeddings are the targets (Reimers & Gurevych 2020).

    Raises:
        InputError: its embeddings and the student's differ in width.
    """
    teacher = SentenceEncoder(name)
    width, expected = teacher.get_embedding_dimension(), student.model_config.dimension
    if width != expected:
        raise InputError(
            f"teacher is {name}, with embeddings of width {width}. Expected {expected}, the width of the model's: add a Dense "
            "module to the model, or take another teacher."
        )
    return teacher


def with_teacher(batch: TrainBatch, texts: Batch, teacher: SentenceEncoder, *, shape_only: bool) -> TrainBatch:
    """The batch with the teacher's embeddings of its texts as targets; zeros if only the shape matters."""
    if shape_only:
        teacher_SBD = np.zeros((*batch.index_SB.shape, teacher.model_config.dimension), np.float32)
    else:
        teacher_SBD = np.stack([teacher.encode(column, show_progress_bar=False) for column in texts.texts])
    return batch._replace(targets=batch.targets._replace(teacher_SBD=teacher_SBD))
