"""How many tokens to compute per batch: the default for this kind of device, or what `minisbert tune` measured here.

    token_budgets.json      {"cpu, cpu, 1 device, bert 6 x 384, float32": 512, ...}    in the user's cache folder

A budget affects only speed and the last bits of an embedding (1e-6). The command line uses the measured budget; in Python,
pass `token_budget="tuned"`.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minisbert.arguments import check_positive
from minisbert.atomic_write import not_written, whole_file
from minisbert.checkpoint.json_file import read_json
from minisbert.download.locate import cache_folder
from minisbert.errors import InputError, ModelFolderError, short_repr
from minisbert.inference.batching import ANY_SHAPE, ShapeTable, shapes_for

logger = logging.getLogger("minisbert")

# Budgets that `minisbert tune` tries by default.
ON_CPU = (256, 512, 1024, 2048, 4096)
ON_ACCELERATOR = (4096, 8192, 16_384, 32_768, 65_536, 131_072)
# A smaller budget needs less memory, so it wins if it reaches this share of the best rate.
AS_FAST = 0.98


def default_shapes(
    token_budget: int | str | None, model_config: Any, compute_dtype: str, engine: str = "jax"
) -> ShapeTable:
    """The batch shapes for this model, for NumPy or on the devices that JAX finds.

    Args:
        token_budget: tokens per batch and device; None is the default for the kind of device, "tuned" the value that
            `minisbert tune` measured for such a model, or the default if there is none.

    Raises:
        InputError: not a number of tokens.
    """
    if isinstance(token_budget, str) and token_budget != "tuned":
        raise InputError(
            f"token_budget is {short_repr(token_budget)}. Expected a whole number of at least 1, or 'tuned'."
        )
    shapes, tuned = ANY_SHAPE, isinstance(token_budget, str)
    token_budget = None if tuned else token_budget
    if engine == "jax":
        import jax

        shapes = replace(shapes_for(jax.default_backend(), compute_dtype), devices=len(jax.local_devices()))
        if tuned:
            token_budget = cached_token_budgets().get(machine_and_model(model_config, compute_dtype))
    if token_budget is not None:
        shapes = replace(shapes, token_budget=check_positive("token_budget", token_budget))
    return shapes


def budgets_file() -> Path:
    """The file with the measured budgets."""
    return cache_folder() / "token_budgets.json"


def machine_and_model(model_config: Any, compute_dtype: str) -> str:
    """What a budget was measured for: the devices, the size of the model, and the dtype it computes in."""
    import jax

    devices, config = jax.local_devices(), model_config.encoder
    here = f"{jax.default_backend()}, {devices[0].device_kind}, {len(devices)} device{'s' * (len(devices) > 1)}"
    size = f"{model_config.model_type} {getattr(config, 'num_hidden_layers', 0)} x {config.hidden_size}"
    return f"{here}, {size}, {compute_dtype}"


def cache_token_budget(measured_for: str, budget: int) -> None:
    """Save a budget in the file with those of other models.

    Raises:
        WriteError: the file cannot be written; it is left as it was.
    """
    file = budgets_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(file.parent, error) from None
    with whole_file(file) as temporary:
        temporary.write_text(
            json.dumps(cached_token_budgets() | {measured_for: budget}, indent=1) + "\n", encoding="utf-8"
        )


def cached_token_budgets() -> dict[str, int]:
    """The saved budgets by machine and model (see `machine_and_model`)."""
    file = budgets_file()
    if not os.path.exists(file):  # not Path.exists, which raises where a folder above may not be read
        return {}
    try:
        found = read_json(file)
        return {kind: budget for kind, budget in found.items() if type(budget) is int and budget > 0}
    except (ModelFolderError, AttributeError):
        # Only speed depends on this file: not a reason to fail.
        logger.warning(f"{file}: not a file that `minisbert tune` wrote, so the default is used. Remove the file.")
        return {}


def budgets_to_try() -> tuple[int, ...]:
    """The budgets worth measuring on this kind of device."""
    import jax

    return ON_CPU if jax.default_backend() == "cpu" else ON_ACCELERATOR


def token_rates(
    encoders: Mapping[int, Any],
    texts: Sequence[str],
    *,
    rounds: int = 3,
    log: Callable[[str], None] = lambda line: None,
) -> dict[int, list[float]]:
    """Tokens per second of each encoder and round; all shapes are compiled before timing starts.

    Args:
        encoders: token budget -> SentenceEncoder with that budget.
        texts: several thousand tokens of text, of the lengths that will be embedded.
        rounds: how often each encoder is timed.
        log: called with a line of progress.

    Raises:
        InputError: no texts, no encoders, or not a number of rounds.
    """
    check_positive("rounds", rounds)
    if not texts or not encoders:
        raise InputError(f"there are {len(texts)} texts and {len(encoders)} budgets. Expected at least one of each.")
    tokens = sum(count.kept for count in next(iter(encoders.values())).token_counts(texts))
    for budget, encoder in encoders.items():
        log(f"compiling for {budget} tokens per batch")
        encoder.encode(texts, on_truncate="ignore")
    rates: dict[int, list[float]] = {budget: [] for budget in encoders}
    for number in range(rounds):
        log(f"round {number + 1} of {rounds}")
        for budget, encoder in encoders.items():
            started = time.perf_counter()
            encoder.encode(texts, on_truncate="ignore")
            rates[budget].append(tokens / (time.perf_counter() - started))
    return rates


def best_budget(rates: Mapping[int, Sequence[float]]) -> int:
    """The smallest budget that is as fast as the fastest, up to noise.

    Example:
        >>> best_budget({512: [90, 91, 95], 1024: [99, 120, 101], 2048: [100, 102, 101]})
        1024
    """
    from statistics import median  # imports decimal and fractions, which no encoder needs

    medians = {budget: median(each) for budget, each in rates.items()}
    return min(budget for budget, rate in medians.items() if rate >= AS_FAST * max(medians.values()))
