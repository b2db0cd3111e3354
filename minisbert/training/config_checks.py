"""What a run refuses before its first step: settings that cannot be trained with, and data that the loss cannot use."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from minisbert.checkpoint.settings import is_text
from minisbert.data.examples import CONVENTIONS, Examples
from minisbert.data.sampler import MIXINGS
from minisbert.errors import InputError, short_repr
from minisbert.inference.compiled import COMPUTE_DTYPES
from minisbert.training.config import TrainConfig
from minisbert.training.logging import LOGGERS
from minisbert.training.lora import TARGETS
from minisbert.training.losses import Loss
from minisbert.training.optimizer import DECAYS


class Check(NamedTuple):
    """A condition on one value, and what an error says was expected."""

    holds: Callable[[Any], bool]
    expected: str


def is_whole(value: Any) -> bool:
    """Whether it is an int; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite int or float."""
    return (is_whole(value) or isinstance(value, float)) and math.isfinite(value)


def is_texts(value: Any) -> bool:
    """Whether it is a tuple or list of valid Unicode strings."""
    return isinstance(value, tuple | list) and all(isinstance(one, str) and is_text(one) for one in value)


def one_of(table: Collection[str]) -> Check:
    """A name in a table."""
    return Check(lambda value: isinstance(value, str) and value in table, f"one of {', '.join(table)}")


def optional(check: Check) -> Check:
    """None, or what the check asks for."""
    return Check(lambda value: value is None or check.holds(value), f"None or {check.expected}")


COUNT = Check(lambda value: is_whole(value) and value >= 1, "a whole number of at least 1")
NUMBER = Check(is_number, "a finite number")
POSITIVE = Check(lambda value: is_number(value) and value > 0, "a finite number above 0")
BOOL = Check(lambda value: isinstance(value, bool), "True or False")
TEXT = Check(lambda value: isinstance(value, str) and bool(value), "a name")
TEXTS = Check(is_texts, "a tuple of texts")

# The condition on each setting alone; `loss` and `loss_options` depend on the kind of model.
CHECKS: dict[str, Check] = {
    "data": Check(lambda value: is_texts(value) and len(value) > 0, "a tuple of files, at least one"),
    "matryoshka": Check(
        lambda value: isinstance(value, tuple | list) and all(map(COUNT.holds, value)), "whole numbers of at least 1"
    ),
    "kind": optional(one_of(CONVENTIONS)),
    "score_range": optional(
        Check(
            lambda value: (
                isinstance(value, tuple | list)
                and len(value) == 2
                and all(map(is_number, value))
                and value[0] < value[1]
            ),
            "the lowest and the highest score",
        )
    ),
    **dict.fromkeys(("epochs", "batch_size", "accumulate", "evaluate_every", "checkpoint_every"), COUNT),
    **dict.fromkeys(("max_steps", "chunk_size", "lora_rank"), optional(COUNT)),
    **dict.fromkeys(("deterministic", "remat", "dropout", "no_duplicates"), BOOL),
    **dict.fromkeys(("learning_rate", "clip_norm"), POSITIVE),
    "lora_alpha": optional(POSITIVE),
    "weight_decay": Check(lambda value: is_number(value) and value >= 0, "a finite number of at least 0"),
    "warmup": Check(lambda value: is_number(value) and 0 <= value <= 1, "a share of the steps, from 0 to 1"),
    "warmup_steps": optional(Check(lambda value: is_whole(value) and value >= 0, "a whole number of at least 0")),
    "decay": one_of(DECAYS),
    "teacher": optional(TEXT),
    "lora_targets": Check(
        lambda value: is_texts(value) and 0 < len(value) == len(set(value)) and set(value) <= set(TARGETS),
        f"names of {', '.join(TARGETS)}, each once",
    ),
    "report_to": Check(lambda value: is_texts(value) and set(value) <= set(LOGGERS), f"names of {', '.join(LOGGERS)}"),
    "compute_dtype": one_of(COMPUTE_DTYPES),
    "mixing": one_of(MIXINGS),
    "prompts": TEXTS,
    "seed": Check(lambda value: is_whole(value) and 0 <= value < 2**32, f"a whole number from 0 to {2**32 - 1}"),
}
OPTION_CHECKS = {float: NUMBER, str: TEXT, tuple: TEXTS}  # by the type of a loss option's default


def check_config(config: TrainConfig, losses: Mapping[str, Loss], model_dtype: str = "float32") -> None:
    """Check the settings before anything is read.

    Args:
        losses: the losses for this kind of model.
        model_dtype: the dtype the model was loaded in.

    Raises:
        InputError: naming every setting that is wrong.
    """
    if not isinstance(config, TrainConfig):
        raise InputError(f"config is {short_repr(config)}. Expected a TrainConfig.")
    complaints = [
        f"{name} is {short_repr(getattr(config, name))}, expected {check.expected}"
        for name, check in {"loss": one_of(losses), **CHECKS}.items()
        if not check.holds(getattr(config, name))
    ]
    if not complaints:
        complaints = [*_wrong_options(config.loss_options, losses[config.loss]), *_conflicts(config, losses)]
    if model_dtype != "float32":
        complaints.append(f"the model was loaded in {model_dtype}, expected float32 (set compute_dtype here instead)")
    if complaints:
        raise InputError("; ".join(complaints) + ". Nothing was started.")


def _wrong_options(options: Any, loss: Loss) -> Iterator[str]:
    """Options that the loss does not have, or whose type is not that of the default."""
    options = {} if options is None else options
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        yield f"loss_options is {short_repr(options)}, expected a dict of option to value"
        return
    if unknown := sorted(options.keys() - loss.options.keys()):
        yield f"loss_options has {unknown}, expected {sorted(loss.options)}"
    for name, default in loss.options.items():
        check = POSITIVE if name == "scale" else OPTION_CHECKS.get(type(default))
        if check is not None and name in options and not check.holds(options[name]):
            yield f"loss_options[{name!r}] is {short_repr(options[name])}, expected {check.expected}, such as {default!r}"


def _conflicts(config: TrainConfig, losses: Mapping[str, Loss]) -> Iterator[str]:
    """Settings that are valid alone but not together."""
    loss = losses[config.loss]
    if (loss.needs == "teacher") != (config.teacher is not None):
        yield f"teacher is {config.teacher!r} with the loss {config.loss}, expected a model with mse and None otherwise"
    if loss.in_batch and config.batch_size == 1:
        yield f"batch_size is 1, but {config.loss} compares the examples of a batch; expected 2 or more"
    if config.max_steps is not None and config.accumulate > config.max_steps:
        yield f"accumulate is {config.accumulate}, expected at most max_steps, {config.max_steps}"
    if config.lora_alpha is not None and config.lora_rank is None:
        yield f"lora_alpha is {config.lora_alpha!r} without lora_rank, expected both or neither"


def check_examples(examples: Sequence[Examples], config: TrainConfig, losses: Mapping[str, Loss]) -> None:
    """Check that the loss can use the data.

    Raises:
        InputError: naming the file and what the loss needs.
    """
    loss, first = losses[config.loss], examples[0].dataset
    # A teacher embeds the texts during the run, so its data has no labels.
    needs = "none" if loss.needs == "teacher" else loss.needs
    for data in (example.dataset for example in examples):
        texts = len(data.texts)
        if needs != data.label_kind or texts < loss.least_texts or texts > (loss.most_texts or texts):
            raise InputError(
                f"{data.source}: {texts} texts per row with {data.label_kind} labels. Expected {loss.least_texts}"
                f"{'' if loss.least_texts == loss.most_texts else ' or more'} texts with {needs} labels, which "
                f"{config.loss} needs. Choose another loss, or name the kind of the columns."
            )
        if len(config.prompts) > texts:
            raise InputError(
                f"{data.source}: {len(config.prompts)} prompts for {texts} texts per row. Expected at most one per text."
            )
        if needs == "class" and data.classes != first.classes:
            raise InputError(
                f"{data.source}: classes {data.classes}, but {first.source} has {first.classes}. Expected the same classes "
                "in all data sets."
            )
