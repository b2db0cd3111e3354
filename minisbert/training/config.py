"""What a training run is told, and what is refused before its first step."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.checkpoint.settings import encodable
from minisbert.data.examples import CONVENTIONS
from minisbert.data.sampler import MIXINGS
from minisbert.errors import InputError, short_repr
from minisbert.inference.compiled import COMPUTE_DTYPES
from minisbert.training.deterministic import BLOCKS
from minisbert.training.logging import LOGGERS
from minisbert.training.lora import TARGETS
from minisbert.training.losses import LOSSES, Loss
from minisbert.training.optimizer import DECAYS
from minisbert.training.sharding import LAYOUTS


@dataclass(frozen=True)
class TrainConfig:
    """What a run is told. Two runs with the same config, data and starting model end with the same weights."""

    data: tuple[str, ...]
    """Files (.tsv, .jsonl, also .gz, .parquet) or hub:org/name; columns by convention (data/examples.py)."""
    loss: str = "multiple_negatives_ranking"
    """A row of training/losses.py's table; for a cross-encoder of cross_encoder/losses.py's."""
    loss_options: dict[str, Any] | None = None
    """Options of the loss, such as scale (Radford et al. 2021 call its inverse temperature)."""
    matryoshka: tuple[int, ...] = ()
    """Dimensions whose shortened embeddings the loss sees too (Kusupati et al. 2022); name the full width as well."""
    kind: str | None = None
    """Kind of the data where its columns fit several, such as nli or scored."""
    score_range: tuple[float, float] | None = None
    """Lowest and highest score of the data, which become 0 and 1; (0, 5) for STS."""
    epochs: int = 1
    """Passes over the data (SBERT section 3.1: 1)."""
    max_steps: int | None = None
    """Stop after this many steps."""
    batch_size: int = 16
    """Examples a step (SBERT section 3.1: 16)."""
    chunk_size: int | None = None
    """Texts differentiated at once (GradCache); None: all. Bounds memory, changes nothing else."""
    accumulate: int = 1
    """Batches whose gradients are meaned before the weights change. Each batch's loss sees that batch alone; for in-batch
    negatives of a larger batch take batch_size with chunk_size."""
    reduction: str = "plain"
    """ordered: the same bits on any number of devices (training/deterministic.py); plain: as the devices add up."""
    blocks: int = BLOCKS
    """Of `ordered`, into how many blocks the batch is cut; more devices than 8 need more."""
    learning_rate: float = 2e-5
    """Highest rate (SBERT section 3.1: 2e-5)."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises (SBERT section 3.1: 10 %)."""
    warmup_steps: int | None = None
    """The same as a number of steps, instead of the share."""
    decay: str = "linear"
    """How the rate falls afterwards: linear, cosine or constant."""
    weight_decay: float = 0.01
    """AdamW's, on matrices and tables only."""
    clip_norm: float = 1.0
    """Longest gradient, in the global norm."""
    remat: bool = False
    """Keep matrix products only and compute the rest again on the way back (Chen et al. 2016): less memory, more time."""
    teacher: str | None = None
    """The model (name or folder) whose embeddings the `mse` loss copies; embeddings as wide as the trained model's."""
    lora_rank: int | None = None
    """Train low-rank changes A B of this rank beside frozen matrices (LoRA, Hu et al. 2021); None: all parameters."""
    lora_alpha: float | None = None
    """The change counts alpha / rank times (section 4.1); None: once."""
    lora_targets: tuple[str, ...] = ("query", "value")
    """Which matrices, rows of training/lora.py's table (section 7.1: query and value)."""
    report_to: tuple[str, ...] = ()
    """Besides metrics.jsonl: tensorboard, wandb or trackio (each a package of its own)."""
    compute_dtype: str = "float32"
    """float32, or bfloat16 for the matrix products; parameters and optimizer stay float32."""
    dropout: bool = True
    """Drop as the model's config says."""
    mixing: str = "proportional"
    """How several data sets take turns: proportional or round_robin."""
    no_duplicates: bool = False
    """No batch holds a text twice."""
    prompts: tuple[str, ...] = ()
    """A text to put before each column."""
    evaluate_every: int = 500
    """Steps between two evaluations."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""
    seed: int = 0
    """Of order, dropout, adapters and the loss's own parameters."""

    @property
    def lora_scale(self) -> float:
        """What the low-rank changes are multiplied with."""
        return 1.0 if self.lora_rank is None or self.lora_alpha is None else self.lora_alpha / self.lora_rank


REDUCTIONS = ("plain", "ordered")

# Recipes by name: settings that others have published. `TrainConfig(data=..., **RECIPES["all"])`.
RECIPES: dict[str, dict[str, Any]] = {
    # The all-* models of sentence-transformers (2021, TPU v3-8; their model cards and training script): in-batch
    # negatives both ways, AdamW without weight decay. Texts are cut at 128 tokens (RECIPE_LENGTHS).
    "all": {
        "loss": "multiple_negatives_ranking",
        "loss_options": {
            "scale": 20.0,
            "directions": ("query_to_doc", "doc_to_query"),
            "partition_mode": "per_direction",
        },
        "batch_size": 1024,
        "max_steps": 100_000,
        "learning_rate": 2e-5,
        "warmup_steps": 500,
        "decay": "linear",
        "weight_decay": 0.0,
        "clip_norm": 1.0,
    },
}
RECIPE_LENGTHS = {"all": 128}


def check_settings(config: TrainConfig, encoder_dtype: str, losses: Mapping[str, Loss] = LOSSES) -> None:
    """Settings that cannot be trained with, before anything is read.

    Args:
        losses: those that train this kind of model.

    Raises:
        InputError: naming each.
    """
    if not isinstance(config, TrainConfig):
        raise InputError(f"config is {short_repr(config)}. Expected a TrainConfig.")
    complaints = [*_wrong_types(config, losses), *_wrong_options(config, losses)]
    loss = losses.get(config.loss) if isinstance(config.loss, str) else None
    if loss and (loss.needs == "teacher") != (config.teacher is not None):
        complaints.append(
            f"teacher is {config.teacher!r} with the loss {config.loss}, expected a model with mse, else None"
        )
    if loss and loss.in_batch and config.batch_size == 1:
        complaints.append(f"batch_size is 1, but {config.loss} compares the examples of a batch; expected 2 or more")
    if (
        isinstance(config.max_steps, int)
        and isinstance(config.accumulate, int)
        and config.accumulate > config.max_steps
    ):
        complaints.append(f"accumulate is {config.accumulate}, expected at most max_steps, {config.max_steps}")
    if config.lora_alpha is not None and config.lora_rank is None:
        complaints.append(f"lora_alpha is {config.lora_alpha!r} without a lora_rank, expected both, or none")
    if encoder_dtype != "float32":
        complaints.append(f"the encoder was loaded in {encoder_dtype}, expected float32 (set compute_dtype here)")
    if complaints:
        raise InputError("; ".join(complaints) + ". Nothing was started.")


def check_call(folder: Any, score: Any, layout: Any) -> None:
    """The arguments of `train` beside its config.

    Raises:
        InputError: naming the argument and its value.
    """
    if not isinstance(folder, str | Path) or not str(folder).strip() or "\0" in str(folder):
        raise InputError(f"folder is {short_repr(folder)}. Expected the folder of the run, as str or Path.")
    if score is not None and not callable(score):
        raise InputError(f"score is {short_repr(score)}. Expected None, or a function of the model.")
    if not _among(layout, LAYOUTS):
        raise InputError(f"layout is {short_repr(layout)}. Expected one of {', '.join(LAYOUTS)}.")


def checked_score(value: Any, step: int) -> float:
    """What a caller's function gave for a model.

    Raises:
        InputError: it is no finite number; nothing could be called the best then.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise InputError(f"score gave {short_repr(value)} after step {step}. Expected a finite number.")
    return float(value)


def _wrong_types(config: TrainConfig, losses: Mapping[str, Loss]) -> Iterator[str]:
    """Settings that are not what they should be, each by itself."""
    whole = "a whole number of at least 1"
    rules: list[tuple[str, Callable[[Any], bool], str]] = [
        ("data", lambda value: _texts(value) and len(value) > 0, "a tuple of files, at least one"),
        ("loss", lambda value: _among(value, losses), f"one of {', '.join(losses)}"),
        ("matryoshka", lambda value: _row(value) and all(map(_count, value)), "whole numbers of at least 1"),
        ("kind", lambda value: value is None or _among(value, CONVENTIONS), f"None or one of {', '.join(CONVENTIONS)}"),
        ("score_range", lambda value: value is None or _range(value), "None, or a lowest and a highest number"),
        *((name, _count, whole) for name in ("epochs", "batch_size", "evaluate_every", "checkpoint_every")),
        ("accumulate", _count, whole),
        *(
            (name, lambda value: value is None or _count(value), whole)
            for name in ("max_steps", "chunk_size", "lora_rank")
        ),
        *(
            (name, lambda value: _number(value) and value > 0, "a finite number above 0")
            for name in ("learning_rate", "clip_norm")
        ),
        ("weight_decay", lambda value: _number(value) and value >= 0, "a finite number of at least 0"),
        ("warmup", lambda value: _number(value) and 0 <= value <= 1, "a share of the steps from 0 to 1"),
        (
            "warmup_steps",
            lambda value: value is None or (_whole(value) and value >= 0),
            "None, or a whole number of at least 0",
        ),
        ("reduction", lambda value: _among(value, REDUCTIONS), f"one of {', '.join(REDUCTIONS)}"),
        ("lora_alpha", lambda value: value is None or (_number(value) and value > 0), "a finite number above 0"),
        (
            "lora_targets",
            lambda value: _texts(value) and 0 < len(value) == len(set(value)) and set(value) <= set(TARGETS),
            f"of {', '.join(TARGETS)}, each once",
        ),
        ("decay", lambda value: _among(value, DECAYS), f"one of {', '.join(DECAYS)}"),
        ("teacher", lambda value: value is None or (isinstance(value, str) and bool(value)), "None, or a model's name"),
        ("report_to", lambda value: _texts(value) and set(value) <= set(LOGGERS), f"names of {', '.join(LOGGERS)}"),
        ("compute_dtype", lambda value: _among(value, COMPUTE_DTYPES), f"one of {', '.join(COMPUTE_DTYPES)}"),
        ("mixing", lambda value: _among(value, MIXINGS), f"one of {', '.join(MIXINGS)}"),
        ("prompts", _texts, "a tuple of texts"),
        ("seed", lambda value: _whole(value) and 0 <= value < 2**32, f"a whole number from 0 to {2**32 - 1}"),
        *(
            (name, lambda value: isinstance(value, bool), "True or False")
            for name in ("remat", "dropout", "no_duplicates")
        ),
    ]
    for name, holds, expected in rules:
        if not holds(getattr(config, name)):
            yield f"{name} is {short_repr(getattr(config, name))}, expected {expected}"


def _wrong_options(config: TrainConfig, losses: Mapping[str, Loss]) -> Iterator[str]:
    """Options that the loss does not have, or of another kind than its own default."""
    given = {} if config.loss_options is None else config.loss_options
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        yield f"loss_options is {short_repr(given)}, expected a dict of option to value"
        return
    if not _among(config.loss, losses):
        return
    options = losses[config.loss].options
    if unknown := sorted(set(given) - set(options)):
        yield f"loss_options has {unknown}, expected {sorted(options)}"
    for name in given.keys() & options.keys():
        value, default = given[name], options[name]
        if isinstance(default, float) and not (_number(value) and (value > 0 or name != "scale")):
            yield f"loss_options[{name!r}] is {short_repr(value)}, expected a finite number{' above 0' if name == 'scale' else ''}"
        elif isinstance(default, str) and not isinstance(value, str):
            yield f"loss_options[{name!r}] is {short_repr(value)}, expected a name, such as {default!r}"
        elif isinstance(default, tuple) and not _texts(value):
            yield f"loss_options[{name!r}] is {short_repr(value)}, expected names, such as {default!r}"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return _whole(value) and value >= 1


def _number(value: Any) -> bool:
    return (_whole(value) or isinstance(value, float)) and math.isfinite(value)


def _among(value: Any, table: Collection[str]) -> bool:
    return isinstance(value, str) and value in table


def _row(value: Any) -> bool:
    return isinstance(value, tuple | list)


def _texts(value: Any) -> bool:
    return _row(value) and all(isinstance(one, str) and encodable(one) for one in value)


def _range(value: Any) -> bool:
    return _row(value) and len(value) == 2 and all(map(_number, value)) and value[0] < value[1]
