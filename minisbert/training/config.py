"""What a training run is told, and what is refused before its first step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minisbert.errors import InputError
from minisbert.forward import COMPUTE_DTYPES
from minisbert.training.data import Examples
from minisbert.training.loggers import LOGGERS
from minisbert.training.lora import TARGETS
from minisbert.training.losses import LOSSES, Loss
from minisbert.training.optimizer import DECAYS
from minisbert.training.ordered import BLOCKS


@dataclass(frozen=True)
class TrainConfig:
    """What a run is told. Two runs with the same config, data and starting model end with the same weights."""

    data: tuple[str, ...]
    """Files (.tsv, .jsonl, also .gz, .parquet) or hub:org/name; columns by convention (training/data.py)."""
    loss: str = "multiple_negatives_ranking"
    """A row of training/losses.py's table; for a cross-encoder of joint_losses.py's."""
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
    """ordered: the same bits on any number of devices (training/ordered.py); plain: as the devices add up."""
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
    complaints = []
    for name, value, choices in (
        ("loss", config.loss, losses),
        ("decay", config.decay, DECAYS),
        ("compute_dtype", config.compute_dtype, COMPUTE_DTYPES),
        ("reduction", config.reduction, REDUCTIONS),
    ):
        if value not in choices:
            complaints.append(f"{name} is {value!r}, expected one of {', '.join(choices)}")
    whole = (
        *("epochs", "batch_size", "evaluate_every", "checkpoint_every", "max_steps", "chunk_size"),
        *("accumulate", "lora_rank"),
    )
    for name in whole:
        value = getattr(config, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            complaints.append(f"{name} is {value!r}, expected a whole number of at least 1")
    for name in ("learning_rate", "clip_norm"):
        if not 0 < getattr(config, name) < float("inf"):
            complaints.append(f"{name} is {getattr(config, name)!r}, expected a finite number above 0")
    if not 0 <= config.weight_decay < float("inf"):
        complaints.append(f"weight_decay is {config.weight_decay!r}, expected a finite number of at least 0")
    for name, value in (config.loss_options or {}).items():
        if isinstance(value, float) and not math.isfinite(value):
            complaints.append(f"loss_options[{name!r}] is {value!r}, expected a finite number")
    if any(not isinstance(dimension, int) or dimension < 1 for dimension in config.matryoshka):
        complaints.append(f"matryoshka is {config.matryoshka!r}, expected whole numbers of at least 1")
    if config.lora_alpha is not None and (config.lora_rank is None or not 0 < config.lora_alpha < float("inf")):
        complaints.append(f"lora_alpha is {config.lora_alpha!r}, expected a finite number above 0, with a lora_rank")
    targets = config.lora_targets
    if not targets or len(set(targets)) < len(targets) or set(targets) - set(TARGETS):
        complaints.append(f"lora_targets is {targets!r}, expected of {', '.join(TARGETS)}, each once")
    if set(config.report_to) - set(LOGGERS):
        complaints.append(f"report_to is {config.report_to!r}, expected of {', '.join(LOGGERS)}")
    if config.loss in losses and (losses[config.loss].needs == "teacher") != (config.teacher is not None):
        complaints.append(
            f"teacher is {config.teacher!r} with the loss {config.loss}, expected a model with mse, else None"
        )
    if not 0 <= config.warmup <= 1:
        complaints.append(f"warmup is {config.warmup!r}, expected a share of the steps from 0 to 1")
    if config.warmup_steps is not None and (not isinstance(config.warmup_steps, int) or config.warmup_steps < 0):
        complaints.append(f"warmup_steps is {config.warmup_steps!r}, expected a whole number of at least 0")
    if config.max_steps and isinstance(config.accumulate, int) and config.accumulate > config.max_steps:
        complaints.append(f"accumulate is {config.accumulate}, expected at most max_steps, {config.max_steps}")
    if config.loss in losses:
        unknown = set(config.loss_options or {}) - set(losses[config.loss].options)
        if unknown:
            complaints.append(f"loss_options has {sorted(unknown)}, expected {sorted(losses[config.loss].options)}")
        if config.batch_size == 1 and losses[config.loss].in_batch:
            complaints.append(
                f"batch_size is 1, but {config.loss} compares the examples of a batch; expected 2 or more"
            )
    if encoder_dtype != "float32":
        complaints.append(f"the encoder was loaded in {encoder_dtype}, expected float32 (set compute_dtype here)")
    if complaints:
        raise InputError("; ".join(complaints) + ". Nothing was started.")


def check_examples(examples: Sequence[Examples], config: TrainConfig, losses: Mapping[str, Loss] = LOSSES) -> None:
    """Data that the loss cannot use.

    Raises:
        InputError: naming the file and what the loss needs.
    """
    loss = losses[config.loss]
    for example in examples:
        data = example.dataset
        texts = len(data.texts)
        # A teacher is asked during the run: its rows are plain texts.
        needs = "none" if loss.needs == "teacher" else loss.needs
        if needs != data.label_kind or texts < loss.least_texts or texts > (loss.most_texts or texts):
            raise InputError(
                f"{data.source}: {texts} texts a row with {data.label_kind} labels; {config.loss} needs "
                f"{loss.least_texts}{'' if loss.least_texts == loss.most_texts else ' or more'} texts with {needs} "
                "labels. Choose another loss, or name the columns' kind."
            )
        if len(config.prompts) > texts:
            raise InputError(
                f"{data.source}: {texts} texts a row, but {len(config.prompts)} prompts. Expected at most one a text."
            )
        if loss.has_head and data.classes != examples[0].dataset.classes:
            raise InputError(
                f"{data.source}: classes {data.classes}, but {examples[0].dataset.source} has "
                f"{examples[0].dataset.classes}. Expected the same classes in all data sets."
            )
