"""What a run refuses before its first step: settings that cannot be trained with, and data that the loss cannot use."""

import logging
import math
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax

from minisbert.data.conventions import CONVENTIONS
from minisbert.data.examples import Examples
from minisbert.data.sampler import MIXINGS
from minisbert.errors import DataError, InputError, short_repr
from minisbert.training.collate import check_column_prompts
from minisbert.training.config import TrainConfig
from minisbert.training.logging import LOGGERS
from minisbert.training.lora import TARGETS
from minisbert.training.losses import Loss
from minisbert.training.optimizer import DECAYS
from minisbert.training.pair_losses import contrastive, contrastive_tension, online_contrastive
from minisbert.training.record import name_of
from minisbert.training.targets import Teacher
from minisbert.training.task import TrainingTask

logger = logging.getLogger("minisbert")


class Check(NamedTuple):
    """What a setting may be: its type, its bounds or its table of names, and the words for both in an error."""

    expected: str
    types: Any
    least: float = -sys.float_info.max  # a number's bounds, or the least length of a text or a tuple
    most: float = sys.float_info.max
    names: Collection[str] | None = None
    each: "Check | None" = None  # of a tuple: the check of each entry; of a dict: of its keys and values
    optional: bool = False  # None is allowed

    def holds(self, value: Any) -> bool:
        """Whether the value passes. True and False are not numbers; NaN and infinity are beyond every bound."""
        if value is None:
            return self.optional
        if not isinstance(value, self.types) or (isinstance(value, bool) and self.types is not bool):
            return False
        if isinstance(value, str) and value.encode(errors="ignore").decode() != value:  # half a surrogate pair
            return False
        entries = [*value, *value.values()] if isinstance(value, Mapping) else value
        if self.each is not None and not all(map(self.each.holds, entries)):
            return False
        if not isinstance(value, str | tuple | list | int | float):
            return True
        size = value if isinstance(value, int | float) else len(value)
        return self.least <= size <= self.most and (self.names is None or value in self.names)


def one_of(table: Collection[str]) -> Check:
    """A name in a table."""
    return Check(f"one of {', '.join(table)}", str, names=table)


def several_of(table: Collection[str], expected: str, least: int = 0) -> Check:
    """A tuple of names in a table."""
    return Check(expected, tuple | list, least=least, each=one_of(table))


def optional(check: Check) -> Check:
    """None, or what the check asks for."""
    return check._replace(expected=f"None or {check.expected}", optional=True)


COUNT = Check("a whole number of at least 1", int, least=1)
NUMBER = Check("a finite number", int | float)
POSITIVE = Check("a finite number above 0", int | float, least=math.ulp(0.0))  # the smallest float above 0
BOOL = Check("True or False", bool)
TEXT = Check("a name", str, least=1)
TEXTS = Check("a tuple of texts", tuple | list, each=Check("a text", str))

# The condition on each setting alone; `loss` and `loss_options` depend on the kind of model.
CHECKS: dict[str, Check] = {
    "matryoshka": Check("whole numbers of at least 1", tuple | list, each=COUNT),
    "kind": optional(one_of(CONVENTIONS)),
    "score_range": optional(Check("the lowest and the highest score", tuple | list, least=2, most=2, each=NUMBER)),
    **dict.fromkeys(("epochs", "batch_size", "accumulate", "evaluate_every", "checkpoint_every"), COUNT),
    **dict.fromkeys(("max_steps", "chunk_size", "lora_rank", "early_stopping_patience"), optional(COUNT)),
    **dict.fromkeys(("deterministic", "remat", "dropout", "no_duplicates", "adaptive_layers"), BOOL),
    **dict.fromkeys(("learning_rate", "clip_norm"), POSITIVE),
    "lora_alpha": optional(POSITIVE),
    "schedule": Check("a function of the step, such as an optax schedule", Callable, optional=True),
    "optimizer": Check(
        "None, an optax transformation, or a function of the learning rate that makes one, such as optax.lion",
        (optax.GradientTransformation, Callable),
        optional=True,
    ),
    "trainable": Check("None, a pattern, or a function of a parameter's path", (str, Callable), optional=True),
    "learning_rates": Check(
        "None, a dict of path pattern to factor, or a function", (Mapping, Callable), optional=True
    ),
    "weight_decay": Check("a finite number of at least 0", int | float, least=0),
    "warmup": Check("a share of the steps, from 0 to 1", int | float, least=0, most=1),
    "warmup_steps": optional(Check("a whole number of at least 0", int, least=0)),
    "decay": one_of(DECAYS),
    "ema": optional(Check("a share from 0 to below 1", int | float, least=0, most=math.nextafter(1, 0))),
    "teacher": optional(Check("the name of a model, or a model with encode", (str, Path, Teacher), least=1)),
    "lora_targets": several_of(TARGETS, f"names of {', '.join(TARGETS)}, each once", least=1),
    "report_to": several_of(LOGGERS, f"names of {', '.join(LOGGERS)}"),
    "compute_dtype": one_of(("float32", "bfloat16")),
    "mixing": one_of(MIXINGS),
    **dict.fromkeys(("text_columns", "label_columns", "columns"), TEXTS),
    "prompts": TEXTS._replace(expected="texts, or a dict of them by column", types=str | tuple | list | Mapping),
    "seed": Check(f"a whole number from 0 to {2**32 - 1}", int, least=0, most=2**32 - 1),
}
# Of a loss's options: by name if the default passes (in a loss of your own it may not), else by the default's type.
NAMED_OPTIONS = {
    **dict.fromkeys(("scale", "temperature"), POSITIVE),
    **dict.fromkeys(("student_temperature", "teacher_temperature"), optional(POSITIVE)),
    **dict.fromkeys(("k", "num_negatives", "projection_dim"), optional(COUNT)),
    "hardness_strength": Check("a finite number of at least 0", int | float, least=0),
}
OPTION_TYPES = {float: NUMBER, bool: BOOL, str: TEXT, tuple: TEXTS}


def check_config(config: TrainConfig, task: TrainingTask, model_dtype: str = "float32") -> None:
    """Check the settings before anything is read, for a model loaded in this dtype.

    Raises:
        InputError: naming every setting that is wrong.
    """
    complaints = list(_wrong_values(config, task.losses))
    for name, check in CHECKS.items():
        if not check.holds(getattr(config, name)):
            complaints.append(f"{name} is {short_repr(getattr(config, name))}, expected {check.expected}")
    if not complaints and config.loss_options is not None:
        complaints += _wrong_options(config.loss_options, task.loss(config))
    if not complaints:
        complaints += _conflicts(config, task.loss(config))
    if model_dtype != "float32":
        complaints.append(
            f"the model was loaded in {model_dtype}, expected float32 (load it without compute_dtype; TrainConfig has its own)"
        )
    if complaints:
        raise InputError("; ".join(complaints) + ". Nothing was started.")


def _wrong_values(config: TrainConfig, losses: Mapping[str, Loss]) -> Iterator[str]:
    """What is wrong with settings that a `Check` cannot describe."""
    loss, factors = config.loss, config.learning_rates
    if isinstance(config.data, tuple) and not config.data:
        yield "data is (), expected one source or more, such as a data file"
    if not (isinstance(loss, Loss) or callable(loss) or (isinstance(loss, str) and loss in losses)):
        yield f"loss is {short_repr(loss)}, expected {one_of(losses).expected}, a function of the embeddings, or a Loss"
    patterns = [("trainable", config.trainable)] if isinstance(config.trainable, str) else []
    for pattern, factor in factors.items() if isinstance(factors, Mapping) else ():
        patterns.append(("learning_rates", pattern))
        if not NUMBER._replace(least=0).holds(factor):
            yield f"learning_rates[{pattern!r}] is {short_repr(factor)}, expected a finite number of at least 0"
    for name, pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            yield f"{name} has {short_repr(pattern)}, which is not a pattern ({error}); expected a regular expression"


def _wrong_options(options: Any, loss: Loss) -> Iterator[str]:
    """Options that the loss does not have, whose type is not that of the default, or without effect."""
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        yield f"loss_options is {short_repr(options)}, expected a dict of option to value"
        return
    if unknown := sorted(options.keys() - loss.options.keys()):
        yield f"loss_options has {unknown}, expected {sorted(loss.options)}"
    for name, default in loss.options.items():
        named = NAMED_OPTIONS.get(name)
        check = named if named is not None and named.holds(default) else OPTION_TYPES.get(type(default))
        if check is not None and name in options and not check.holds(options[name]):
            such = "" if default is None else f", such as {default!r}"
            yield f"loss_options[{name!r}] is {short_repr(options[name])}, expected {check.expected}{such}"
    hardness = {"hardness_mode", "hardness_strength"}
    if hardness <= loss.options.keys() and len(hardness & {name for name in options if options[name]}) == 1:
        yield f"loss_options is {options!r}, expected hardness_mode with a hardness_strength above 0, or neither"


def _conflicts(config: TrainConfig, loss: Loss) -> Iterator[str]:
    """Settings, or entries of one, that are valid alone but not together."""
    interval: Any = config.score_range
    if interval is not None and interval[0] >= interval[1]:
        yield f"score_range is {config.score_range!r}, expected {CHECKS['score_range'].expected}"
    if len(set(config.lora_targets)) < len(config.lora_targets):
        yield f"lora_targets is {config.lora_targets!r}, expected {CHECKS['lora_targets'].expected}"
    if config.batches is not None:
        if not callable(getattr(config.batches, "batch_at", config.batches)):
            yield f"batches is {short_repr(config.batches)}, expected a function of the step, or an object with batch_at"
        if config.max_steps is None:
            yield "batches is given without max_steps, expected both: a sampler has no end"
        for name in ("mixing", "no_duplicates", "epochs"):
            if getattr(config, name) != TrainConfig.__dataclass_fields__[name].default:
                yield f"{name} is {getattr(config, name)!r}, but batches replaces it"
    replaced = {"weight_decay": config.optimizer is not None}
    whole = isinstance(config.optimizer, optax.GradientTransformation)
    for name in ("learning_rate", "warmup", "warmup_steps", "decay"):
        replaced[name] = config.schedule is not None or whole
    replaced["schedule"] = whole
    for name, unused in replaced.items():
        default = TrainConfig.__dataclass_fields__[name].default
        if unused and getattr(config, name) != default:
            by = "optimizer" if whole else "schedule or optimizer"
            yield f"{name} is {short_repr(getattr(config, name))}, but {by} replaces it; expected the default, {default!r}"
    asks_teacher = loss.guide or loss.needs == "teacher"
    if asks_teacher != (config.teacher is not None):
        asks = "a model, to copy or to guide it" if asks_teacher else "None"
        yield f"teacher is {short_repr(config.teacher)} with the loss {name_of(config.loss)}, expected {asks}"
    if loss.model and config.lora_rank is not None:
        yield f"lora_rank is {config.lora_rank}, but {name_of(config.loss)} trains the model's own weights; expected None"
    if loss.model and (config.matryoshka or config.adaptive_layers):
        yield f"{name_of(config.loss)} needs whole embeddings of the last layer, expected no matryoshka or adaptive_layers"
    if loss.collate is not None and config.prompts:
        yield f"prompts is {config.prompts!r}, but {name_of(config.loss)} makes its own batches; expected ()"
    if config.adaptive_layers and loss.embeds != "sentences":
        yield f"adaptive_layers is True, but {name_of(config.loss)} takes embeddings of {loss.embeds}; expected False"
    if loss.in_batch and config.batch_size == 1:
        yield f"batch_size is 1, but {name_of(config.loss)} compares the examples of a batch; expected 2 or more"
    if config.max_steps is not None and config.accumulate > config.max_steps:
        yield f"accumulate is {config.accumulate}, expected at most max_steps, {config.max_steps}"
    if config.lora_alpha is not None and config.lora_rank is None:
        yield f"lora_alpha is {config.lora_alpha!r} without lora_rank, expected both or neither"


def fitting_batches(config: TrainConfig, examples: Mapping[str, Examples], devices: int) -> TrainConfig:
    """The config, with a smaller batch that `devices` divides if a data set does not fill one; logs what epochs leave out."""
    rows, name = min((len(one), name) for name, one in examples.items())
    size = rows // devices * devices
    if 0 < size < config.batch_size:
        logger.warning(
            f"batch_size is {config.batch_size}, but data set {name} has {rows} rows: all batches have {size}, and "
            f"{rows - size or 'none'} of these rows are left out of an epoch."
        )
        config = replace(config, batch_size=size)
    for one in examples.values():
        if left := len(one) % config.batch_size:
            logger.info(
                f"{one.dataset.source}: {left} of {len(one)} rows are left out of each epoch, other ones each time, because "
                f"they do not fill a batch of {config.batch_size}."
            )
    return config


def check_examples(examples: Sequence[Examples], config: TrainConfig, loss: Loss) -> None:
    """Check that the loss can use the data.

    Raises:
        InputError: naming the file and what the loss needs.
        DataError: naming the row whose score is out of the loss's range.
    """
    first = examples[0].dataset
    check_column_prompts(config.prompts, [one.dataset for one in examples])
    # A teacher embeds the texts during the run, so its data has no labels.
    needs = {"teacher": "none", "relevance": "margin"}.get(loss.needs, loss.needs)
    for one in examples:
        data, texts = one.dataset, len(one.dataset.texts)
        if needs not in ("any", data.label_kind) or texts < loss.least_texts or texts > (loss.most_texts or texts):
            kinds = data.label_kind, loss.needs if loss.needs == "relevance" else needs
            found, needed = ("no labels" if kind == "none" else f"{kind} labels" for kind in kinds)
            other = "name the kind of the columns"
            if (texts, loss.least_texts, needs) == (1, 2, "none"):  # SimCSE, contrastive tension
                other = f"name two columns, or one twice to pair each text with itself: text_columns={data.texts * 2}"
            raise InputError(
                f"{data.source}: {texts} text{'s' * (texts != 1)} per row with {found}. Expected {loss.least_texts}"
                f"{'' if loss.least_texts == loss.most_texts else ' or more'} texts with {needed}, which "
                f"{name_of(config.loss)} needs. Choose another loss, or {other}."
            )
        if data.label_kind == "class" and (data.classes != first.classes or len(data.classes) < 2):
            raise InputError(
                f"{data.source}: classes {data.classes}, {first.source}: {first.classes}. Expected two or more, the same "
                "in all data sets."
            )
        if data.label_kind == "score" and loss.function in (contrastive, online_contrastive, contrastive_tension):
            check_scores(one, name_of(config.loss), "cosent", binary=loss.function is online_contrastive)


def check_scores(examples: Examples, loss: str, other: str, *, binary: bool = False) -> None:
    """Raises DataError for a score that is not in 0 ... 1; warns of those that a binary loss leaves out."""
    others = 0
    for numbers, _, labels_B in examples.parts():
        assert labels_B is not None  # of the kind "score"
        outside = np.argwhere((labels_B < 0) | (labels_B > 1)).tolist()
        if outside:
            raise DataError(
                f"{examples.rows.place(numbers[outside[0][0]])}: the score is {labels_B[tuple(outside[0])]:g}. Expected 0 to 1 "
                f"for {loss}: set score_range, for example (0, 5) for STS, or use {other}."
            )
        others += int(np.sum((labels_B > 0) & (labels_B < 1)))
    if binary and others:
        logger.warning(f"{examples.dataset.source}: {loss} leaves out {others} pairs whose label is neither 0 nor 1.")
