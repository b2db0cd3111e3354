"""The settings of a training run: `TrainConfig`, published recipes, and the spellings that older runs were saved with.

The command line has a flag for each field (`minisbert train --help` shows these docstrings), so this file imports no more
than that needs. config_checks.py refuses settings that cannot be trained with.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any

from tyro.conf import Suppress, arg


@dataclass(frozen=True)
class TrainConfig:
    """What a run computes: the same settings, data and starting model give the same weights."""

    data: Any
    """Data files: .csv, .tsv or .jsonl (also .gz), .parquet, or hub:org/name. Columns are found by name: anchor and positive,
    with negative for triplets; sentence1 and sentence2 with label or with score; english and non_english for translations;
    text; or the other names for these in data/conventions.py. In Python also rows in memory: a list of dicts, a dict of
    columns, a pandas or datasets table; of several sources a tuple, or a dict by name. Then any of loss, loss_options, kind,
    text_columns, label_columns, classes, score_range, prompts and teacher may be a dict by these names, too."""
    loss: Any = "multiple_negatives_ranking"
    """One of multiple_negatives_ranking, softmax, cosine_similarity, cosent, angle, contrastive, online_contrastive, triplet,
    margin_mse, distill_kl_div, with a teacher mse, embed_distill and gist, and the others in training/losses.py. For a
    cross-encoder: binary_cross_entropy, cross_entropy, mse, margin_mse, and the others in cross_encoder/losses.py. In Python
    also a function of the embeddings, or a Loss."""
    loss_options: dict[str, Any] | None = None
    """Options of the loss as JSON, such as '{"margin": 0.3, "distance": "cosine"}'."""
    matryoshka: tuple[int, ...] = ()
    """Dimensions whose shortened embeddings the loss sees too (Kusupati et al. 2022), such as 384 128 64. Include the full
    width."""
    adaptive_layers: bool = False
    """The loss sees the embeddings of the earlier layers too, and the last layer teaches them (Li et al. 2024); with matryoshka
    it is 2D Matryoshka."""
    kind: str | Mapping[str, str] | None = None
    """The kind of data, if its columns match several: nli or scored, for example."""
    text_columns: tuple[str, ...] | Mapping[str, Any] = ()
    """The columns with the texts, if they have other names: such as question1 question2."""
    label_columns: Annotated[tuple[str, ...] | Mapping[str, Any], arg(aliases=["--label-column"])] = ()
    """The column with the label or score (of a teacher: one per text), if it has another name."""
    columns: tuple[str, ...] = ()
    """The names of all columns of a .csv or .tsv without a header line."""
    classes: tuple[str, ...] | Mapping[str, Any] = ()
    """The names of the classes in the order of their ids, such as entailment neutral contradiction; a row with another label is
    refused. By default those of the data."""
    score_range: tuple[float, float] | Mapping[str, Any] | None = None
    """The lowest and highest score in the data, which become 0 and 1: 0 5 for STS."""
    epochs: int = 1
    """Passes over the data (SBERT section 3.1: 1)."""
    max_steps: int | None = None
    """Stop after this many steps."""
    batch_size: int = 16
    """Examples per step, over all devices (SBERT section 3.1: 16)."""
    chunk_size: int | None = None
    """Texts per chunk of GradCache, which bounds memory and changes nothing else. None computes the batch in one piece."""
    accumulate: int = 1
    """Average the gradients of this many batches before each update. Each batch has its own in-batch negatives; for those
    of a larger batch use batch_size with chunk_size."""
    deterministic: bool = False
    """The same weights to the bit on 1, 2, 4 or 8 devices, for about a third more time (training/deterministic.py)."""
    blocks: int = 8
    """With deterministic: how many blocks the batch is cut into, at least as many as devices."""
    learning_rate: float = 2e-5
    """The peak learning rate (SBERT section 3.1: 2e-5)."""
    warmup: float = 0.1
    """The share of the steps in which the learning rate rises (SBERT section 3.1: 10 %)."""
    warmup_steps: int | None = None
    """The same as a number of steps; overrides warmup."""
    decay: str = "linear"
    """How the learning rate falls after the warm-up: linear, cosine or constant."""
    schedule: Annotated[Callable[[Any], Any] | None, Suppress] = None
    """The learning rate as a function of the number of changes of the weights (an optax schedule); replaces the four above."""
    optimizer: Annotated[Any, Suppress] = None
    """Replaces AdamW: a function of the schedule such as optax.lion, or an optax transformation with a rate of its own."""
    trainable: Any = None
    """Train only the parameters whose path this pattern finds, such as 'blocks\\.(10|11)\\.'. In Python also a function
    of the path."""
    learning_rates: Annotated[Any, Suppress] = None
    """Factors of the learning rate: a dict of path pattern to factor, the first match counts, or a function of the path."""
    ema: float | None = None
    """Evaluate and save the exponential moving average of the parameters with this decay, such as 0.999."""
    weight_decay: float = 0.01
    """AdamW's weight decay, on matrices and embedding tables only."""
    clip_norm: float = 1.0
    """The largest global norm of the gradient."""
    remat: bool = False
    """Recompute activations in the backward pass (Chen et al. 2016): less memory, more time."""
    teacher: Any = None
    """The model whose embeddings mse and embed_distill copy, or that guides gist: a name, a folder, or in Python an object with
    encode and get_embedding_dimension, such as a SentenceEncoder. Only mse needs a teacher of the model's width."""
    lora_rank: int | None = None
    """Train low-rank changes A B of this rank and freeze the matrices (LoRA, Hu et al. 2021). The saved model is merged."""
    lora_alpha: float | None = None
    """LoRA scales the change by alpha / rank (section 4.1); by default by 1."""
    lora_targets: tuple[str, ...] = ("query", "value")
    """The matrices LoRA adapts, of query, key, value, output, up, down (section 7.1: query and value)."""
    report_to: tuple[str, ...] = ()
    """Where metrics go besides metrics.jsonl: tensorboard, wandb, trackio."""
    compute_dtype: str = "float32"
    """float32, or bfloat16 for the matrix products; parameters and optimizer stay float32."""
    dropout: bool = True
    """Apply dropout at the rates of the model's config."""
    batches: Annotated[Any, Suppress] = None
    """Which rows are in a step: a function of the step's number, or an object whose batch_at is one (data/sampler.py:
    GivenBatches). With max_steps."""
    mixing: str = "proportional"
    """How several data sets alternate: proportional or round_robin."""
    no_duplicates: bool = False
    """Never put the same text twice in a batch."""
    prompts: tuple[str, ...] | str | Mapping[str, Any] = ()
    """The prompt before each text column; of a cross-encoder one, before the first text of each pair. In Python also a text,
    for all columns, or a dict by column."""
    evaluate_every: int = 500
    """Steps between evaluations."""
    early_stopping_patience: int | None = None
    """End the run after this many evaluations in a row without a better score."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    seed: int = 0
    """Seeds the order of the data, dropout, and new parameters."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name not in ("data", "batches"):
                object.__setattr__(self, field.name, plain(getattr(self, field.name)))

    @property
    def lora_scale(self) -> float:
        """The factor of the low-rank change."""
        return 1.0 if self.lora_rank is None or self.lora_alpha is None else self.lora_alpha / self.lora_rank


def plain(value: Any) -> Any:
    """Numbers of NumPy or JAX as Python's, in tuples, lists and dicts too, so that a record of the settings is JSON."""
    if getattr(value, "shape", None) == () and getattr(getattr(value, "dtype", None), "kind", "") in tuple("biuf"):
        return value.item()
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    return {name: plain(one) for name, one in value.items()} if type(value) is dict else value


# Settings that others have published: `TrainConfig(data=..., **RECIPES["all"])`.
RECIPES: dict[str, dict[str, Any]] = {
    # The all-* models of sentence-transformers (2021, TPU v3-8; their model cards and training script): symmetric in-batch
    # negatives, AdamW without weight decay.
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
# Tokens per text in each recipe; a property of the model, not of its config.
RECIPE_LENGTHS = {"all": 128}


def current_settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a saved run under today's field names.

    Example:
        >>> current_settings({"reduction": "ordered", "seed": 1})["deterministic"]
        True
    """
    # Settings that came later had their default.
    settings = {}
    for field in fields(TrainConfig):
        if field.default is not MISSING:
            settings[field.name] = list(field.default) if isinstance(field.default, tuple) else field.default
    settings |= saved
    if "reduction" in settings:  # until 0.1.0: "plain" or "ordered"
        settings["deterministic"] = settings.pop("reduction") == "ordered"
    return settings
