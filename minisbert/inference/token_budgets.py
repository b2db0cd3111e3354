"""How many tokens are best computed at once on this machine: what `minisbert tune` measured, kept in the user's cache folder.

    token_budgets.json      {"cpu, cpu, 1 device, bert 6 x 384, float32": 1024, ...}

A budget decides the speed and the last bits of an embedding (1e-6), nothing else.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

import jax

from minisbert.atomic_write import not_written, whole_file
from minisbert.checkpoint.settings import read_json
from minisbert.download.locate import cache_folder
from minisbert.errors import ModelFolderError

logger = logging.getLogger("minisbert")


def budgets_file() -> Path:
    """Where they are kept."""
    return cache_folder() / "token_budgets.json"


def machine_and_model(model_config: Any, compute_dtype: str) -> str:
    """What a budget was measured for: the devices here, the size of the model, the numbers it computes with."""
    devices, config = jax.local_devices(), model_config.encoder
    here = f"{jax.default_backend()}, {devices[0].device_kind}, {len(devices)} device{'s' * (len(devices) > 1)}"
    size = f"{model_config.model_type} {getattr(config, 'num_hidden_layers', 0)} x {config.hidden_size}"
    return f"{here}, {size}, {compute_dtype}"


def cached_token_budget(measured_for: str) -> int | None:
    """The budget that was kept for this (see `machine_and_model`), or None."""
    return _kept().get(measured_for)


def cache_token_budget(measured_for: str, budget: int) -> None:
    """Keep it, beside those of other models.

    Raises:
        WriteError: it cannot be written; what was kept before stands.
    """
    file = budgets_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(file.parent, error) from None
    with whole_file(file) as temporary:
        temporary.write_text(json.dumps(_kept() | {measured_for: budget}, indent=1) + "\n", encoding="utf-8")


def _kept() -> dict[str, int]:
    file = budgets_file()
    if not os.path.exists(file):  # not Path.exists, which raises where a folder above may not be read
        return {}
    try:
        found = read_json(file)
        budgets = {kind: budget for kind, budget in found.items() if type(budget) is int and budget > 0}
    except (ModelFolderError, AttributeError):
        # A file of ours that only speed hangs on: no reason not to embed.
        logger.warning(f"{file}: not what `minisbert tune` writes, so the usual budgets are taken. Remove it.")
        return {}
    return budgets
