"""What the trainer needs to know about a kind of model: its losses, its forward pass, its batches, its checks.

A SentenceEncoder is trained as `SIAMESE`, below; any other model as its own `training_task` (a cross-encoder's is in
cross_encoder/training.py). The step (siamese.py), the trainer, the checkpoints and the plan are the same for all tasks.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minisbert.data.conventions import TRANSLATIONS
from minisbert.data.examples import Examples, open_examples
from minisbert.data.rows import sources
from minisbert.data.sampler import Batch
from minisbert.data.values import listed
from minisbert.errors import DataError, InputError, short_repr
from minisbert.inference.engines import need_jax
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.sentence_model import define
from minisbert.training.collate import train_batch
from minisbert.training.config import TrainConfig
from minisbert.training.lora import initial_adapters
from minisbert.training.losses import LOSSES, Loss, adaptive_layer, matryoshka
from minisbert.training.record import name_of
from minisbert.training.siamese import GENERATOR, LossFunction, TrainBatch, TrainState, Tree, initial_state
from minisbert.training.targets import Teacher


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
        """The loss of the settings: a name in the table, a `Loss`, or a function, which takes any data."""
        if isinstance(config.loss, Mapping):
            raise InputError(f"loss is {short_repr(config.loss)}. Expected one loss: a plan is that of one data set.")
        if isinstance(config.loss, Loss):
            return config.loss
        return self.losses[config.loss] if isinstance(config.loss, str) else Loss(config.loss)

    def sequences(self, texts: int) -> int:
        """Sequences per example with this many texts: one per text, or the first text paired with each other one."""
        return texts if self.sequence == "text" else texts - 1

    def initial_state(
        self,
        config: TrainConfig,
        model_config: Any,
        optimizer: optax.GradientTransformation,
        parts: Sequence["Part"],
        params: Tree,
    ) -> TrainState:
        """The state before the first step: what is trained of the model, and the loss's own parameters.

        Args:
            parts: of the run; those with names have parameters of their own, by these names.
        """
        key, width = jax.random.key(config.seed, impl=GENERATOR), getattr(model_config, "dimension", 1)  # or logits

        heads: dict[str | None, Any] = {}
        for i, part in enumerate(parts):
            loss, own_key = part.loss, key if part.name is None else jax.random.fold_in(key, i)
            options = {**({"params": params} if loss.model else {}), **(part.config.loss_options or {})}
            made = None if loss.head is None else loss.head(own_key, width, part.classes, **options)
            heads[part.name] = {} if loss.head is None else checked_head(made, loss)
        trained = params
        if config.lora_rank is not None:
            trained = initial_adapters(params, config.lora_rank, config.lora_targets, key)
        return initial_state({"model": trained, "head": heads.get(None, heads)}, optimizer, config.seed)


# Settings that may be a dict by the name of a data set; then each data set has a loss of its own.
OF_COLUMNS = ("kind", "text_columns", "label_columns", "classes", "score_range")
BY_DATASET = ("loss", "loss_options", *OF_COLUMNS, "prompts", "teacher")


def by_dataset(config: TrainConfig) -> dict[str | None, TrainConfig]:
    """The settings of each data set by its name; if no setting is a dict by name, {None: config}.

    Raises:
        InputError: no TrainConfig, the name of no data set, or a data set without a loss.

    Example:
        >>> found = by_dataset(TrainConfig({"a": "a.tsv", "b": "b.tsv"}, loss={"a": "softmax", "b": "cosent"}))
        >>> found["b"].data, found["b"].loss
        ('b.tsv', 'cosent')
    """
    if not isinstance(config, TrainConfig):
        raise InputError(f"config is {short_repr(config)}. Expected a TrainConfig.")
    given, names = {}, sources(config.data)
    for field in BY_DATASET:
        value = getattr(config, field)
        if isinstance(value, Mapping) and (field == "loss" or not set(map(str, value)).isdisjoint(names)):
            given[field] = value = {str(name): one for name, one in value.items()}  # as `sources` names them
            if not value.keys() <= names.keys() or (field == "loss" and len(value) < len(names)):
                raise InputError(
                    f"{field} is {short_repr(value)}. Expected a value for "
                    f"{'each' if field == 'loss' else 'some'} of the data sets {listed(names)}."
                )
    if not given:
        return {None: config}
    if refused := [name for name in names if "." in name or name == "model"]:  # as paths of parameters have them
        raise InputError(f"data has the name {refused[0]!r}. Expected names without dots, other than 'model'.")
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    own = {name: {field: value.get(name, defaults[field]) for field, value in given.items()} for name in names}
    return {name: replace(config, data=source, **own[name]) for name, source in names.items()}


class Part(NamedTuple):
    """The data of a run that shares settings and loss: all of it, or one data set with a loss of its own."""

    name: str | None  # of the data set
    config: TrainConfig
    loss: Loss
    classes: int  # how many the labels have, 0 without
    examples: Sequence[Examples] = ()
    teacher: Teacher | None = None


def open_part(task: TrainingTask, name: str | None, config: TrainConfig) -> Part:
    """Open the data and the teacher of some settings (`by_dataset`). An error begins with the name of the data set."""
    loss = task.loss(config)
    columns: dict[str, Any] = {
        "kind": config.kind,
        "texts": config.text_columns,
        "labels": config.label_columns,
        "classes": config.classes,
        "score_range": config.score_range,
        "columns": config.columns,
        "label_kind": loss.needs,  # how a column of numbers is read
    }
    with naming(name):
        examples = list(map(partial(open_examples, **columns), sources(config.data).values()))
    teacher: Any = config.teacher
    if isinstance(teacher, str | Path):
        teacher = SentenceEncoder(teacher)
    return Part(name, config, loss, len(examples[0].dataset.classes), examples, teacher)


@contextmanager
def naming(name: str | None) -> Iterator[None]:
    """Errors about the data of one data set of several begin with its name."""
    try:
        yield
    except (InputError, DataError) as error:
        if name is None:
            raise
        raise type(error)(f"{name}: {error}") from None


SIAMESE = TrainingTask(
    losses=LOSSES,
    define=define,
    batch=train_batch,
    sequence="text",
    model_name="sentence embedding model",
    hub_tag="sentence-similarity",
)


def checked_head(given: Any, loss: Loss) -> dict[str, Any]:
    """The loss's own parameters as arrays, each with memory of its own: a step reuses that of its state.

    Raises:
        InputError: not a dict of floating-point arrays.
    """
    if isinstance(given, Mapping) and not any(isinstance(leaf, str | bytes) for leaf in jax.tree.leaves(given)):
        head = dict(jax.tree.map(jnp.array, given))
        if all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(head)):
            return head
    raise InputError(
        f"loss: head of {name_of(loss.function)} returned {short_repr(given)}. Expected a dict of floating-point arrays, the "
        'parameters that are trained, such as {"scale": jnp.array(20.0)}.'
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
    need_jax(model, "train it")
    task = SIAMESE if isinstance(model, SentenceEncoder) else getattr(model, "training_task", None)
    if not isinstance(task, TrainingTask):
        raise InputError(f"model is a {type(model).__name__}. Expected a SentenceEncoder or a CrossEncoder.")
    return task


def with_teacher(
    batch: TrainBatch, texts: Batch, kind: str, teacher: Teacher, loss: Loss, *, shape_only: bool
) -> TrainBatch:
    """The batch with the embeddings of its texts by the loss's teacher or guide; zeros if only the shape matters.

    Of the kind "translations" a loss that copies a teacher gets the original's embedding for all texts of an example (Reimers &
    Gurevych 2020, section 2: the student's embeddings of a sentence and of its translation are both compared with it).
    """
    shape_SBD = (*batch.index_SB.shape, teacher.get_embedding_dimension())
    if shape_only:
        given_SBD = np.zeros(shape_SBD, np.float32)
    else:
        columns = texts.texts[:1] if kind == TRANSLATIONS and not loss.guide else texts.texts
        embeddings = [teacher.encode(column, show_progress_bar=False) for column in columns]
        given_SBD = np.broadcast_to(embeddings, shape_SBD)
    targets = batch.targets
    if loss.guide:
        targets = targets._replace(guide_SBD=given_SBD)
    if loss.needs == "teacher":
        targets = targets._replace(teacher_SBD=given_SBD)
    return batch._replace(targets=targets)


def has_negatives(batch: TrainBatch, loss: Loss) -> bool:
    """Whether the batch has in-batch negatives: not if all texts after the anchors are equal. With many hosts always True."""
    hashes_SB, many_hosts = batch.targets.hashes_SB, jax.process_count() > 1
    if hashes_SB is None or many_hosts or not loss.in_batch or loss.needs != "none" or len(hashes_SB) < 2:
        return True
    return bool((hashes_SB[1:] != hashes_SB[1, 0]).any())


def loss_for(config: TrainConfig, loss: Loss, width: int) -> LossFunction:
    """The loss with its options, and over truncated embeddings and earlier layers too if the settings ask for them.

    The same settings give the same function, so that runs share the programs made of it.
    """
    if config.matryoshka and max(config.matryoshka) > width:
        raise InputError(
            f"matryoshka is {config.matryoshka}, but this model's embeddings have {width} dimensions. Expected at most that; "
            "a cross-encoder has none."
        )
    if config.adaptive_layers and not width:
        raise InputError("adaptive_layers is True, but a cross-encoder has no embeddings. Expected False.")
    options = config.loss_options or {}
    try:
        inspect.signature(loss.function).bind(None, None, None, **options)
    except (TypeError, ValueError) as error:  # ValueError: of a compiled module, without a signature
        raise InputError(
            f"loss: {name_of(loss.function)} cannot be called ({error}). Expected a function of (embeddings_SBD, "
            "targets, head), whose further arguments have defaults."
        ) from None
    items = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in options.items())
    given = loss.function, items, tuple(config.matryoshka), config.adaptive_layers
    try:
        return _loss_for(*given)
    except TypeError:  # an option that cannot be hashed: its programs are not shared
        return _loss_for.__wrapped__(*given)


@lru_cache
def _loss_for(
    loss: LossFunction, options: tuple[tuple[str, Any], ...], dimensions: tuple[int, ...], adaptive_layers: bool
) -> LossFunction:
    given = partial(loss, **dict(options))

    def function(*parts: Any) -> jax.Array:
        value, found = given(*parts), None
        shape = () if isinstance(value, int | float) else getattr(value, "shape", None)
        if shape != ():
            found = f"a {type(value).__name__}" if shape is None else f"an array {list(shape)}"
        elif not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            found = f"a number of type {jnp.result_type(value)}"
        if found is not None:
            name = getattr(loss, "__name__", "the loss")
            raise InputError(f"loss: {name} returned {found}. Expected one number in floating point, such as its mean.")
        return value

    if dimensions:
        function = matryoshka(function, dimensions)
    return adaptive_layer(function) if adaptive_layers else function
