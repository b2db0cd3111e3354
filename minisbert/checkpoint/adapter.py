"""LoRA adapters (Hu et al. 2021) as the peft library stores them, merged into the weights when a model is read.

    adapter_config.json            rank r, lora_alpha, and the model that was adapted, base_model_name_or_path
    adapter_model.safetensors      A [r, in] and B [out, r] of each adapted matrix

    W' = W + scale * B A           scale = lora_alpha / r (equation 3), or lora_alpha / sqrt(r) with use_rslora

As in sentence-transformers the weights are those of the base model, which the adapter names; tokenizer, modules and prompts are
those of the adapter's folder. Other kinds of adapters, and settings of LoRA that change more than these products, are refused.
"""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.checkpoint.keys import ADAPTER
from minisbert.checkpoint.patterns import Slow, check_pattern
from minisbert.checkpoint.settings import ModelFiles, Settings
from minisbert.checkpoint.tensors import SafetensorsFiles
from minisbert.errors import ModelFolderError

ADAPTER_FILE, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Of a matrix, and of a table of embeddings, whose A and B are stored the other way round.
_NAME = re.compile(r"(?:base_model\.model\.)?(?P<matrix>.+)\.lora_(?P<table>embedding_)?(?P<part>[AB])(?:\.weight)?")
_PATTERNS = 1_000  # names of modules with a rank or an alpha of their own
_PREFIX = 4  # parts of a name that the base's file may have in front, or leave out
_DRAWN = (True, False, None, "gaussian", "orthogonal", "eva")  # other first values change the base's weights too

_MERGE = (
    "Merge other adapters into their model with peft, "
    "`PeftModel.from_pretrained(model, ADAPTER).merge_and_unload().save_pretrained(FOLDER)`, and load that."
)


def base_of(files: ModelFiles, place: Path) -> Path:
    """The folder of the model that the adapter in `place` changes.

    Raises:
        ModelFolderError: the base model is neither named nor next to the adapter.
    """
    file = place / ADAPTER_FILE
    settings = Settings(files.json(file), file)
    kind = settings.values.get("peft_type")
    if kind not in ("LORA", None):
        raise ModelFolderError(f"{file}: 'peft_type' is {kind!r:.100}. Expected 'LORA'. {_MERGE}")
    files.ignored[ADAPTER_FILE] = settings.by_table(ADAPTER)
    name = settings.text("base_model_name_or_path", default=None)
    settings.finish(_MERGE)
    with_base = files.has(place / "config.json")
    if name and (os.path.isdir(name) or not with_base):
        base = files.find(name)
        if (base / "config.json").is_file():
            return base
    elif with_base:
        return place
    raise ModelFolderError(
        f"{file}: 'base_model_name_or_path' is {name!r}, in which there is no model. Expected the folder or the name of the "
        "model that was adapted; correct it, or put that model's config.json and weights next to this file."
    )


class AdaptedTensors:
    """The tensors of a base model with an adapter's products added.

    Args:
        files: those of the model, which read the adapter's settings.
        base: the tensors of the base model.

    Raises:
        ModelFolderError: another kind of adapter; a setting or a tensor that is not computed, or fits no tensor of the base.
    """

    def __init__(self, files: ModelFiles, place: Path, base: Any):
        self._base, self._adapter = base, SafetensorsFiles(place, ADAPTER_WEIGHTS)
        self.where = self._base.where
        self._settings = Settings(files.json(place / ADAPTER_FILE), place / ADAPTER_FILE)
        self._read_settings()
        self._parts: dict[str, dict[str, str]] = {}  # the base's tensor -> A and B -> the adapter's
        self._read_names()

    def _read_settings(self) -> None:
        settings = self._settings
        settings.choice("peft_type", ["LORA"], why="other adapters are not computed")
        settings.by_table(ADAPTER)
        settings.choice("fan_in_fan_out", [False, None], default=False, why="encoders store matrices as [out, in]")
        settings.choice("init_lora_weights", _DRAWN, default=True, why="others change the base's weights too")
        settings.size("r", 8)
        settings.size("lora_alpha", 8)
        settings.flag("use_rslora", default=False)
        self._patterns = {key: _patterns(settings, key) for key in ("rank_pattern", "alpha_pattern")}
        settings.finish(_MERGE)

    def _read_names(self) -> None:
        where, complaints = self._adapter.where, []
        ends: dict[str, set[str]] = {}  # a tensor's name, and without its first parts -> the tensors that end so
        for one in self._base.shapes():
            for end in _ends(one):
                ends.setdefault(end, set()).add(one)
        for name in self._adapter.shapes():
            found = _NAME.fullmatch(name)
            wanted = f"{found['matrix']}.weight" if found else ""
            names = sorted(ends.get(wanted, set()).union(_ends(wanted) & self._base.shapes().keys()))
            if found and not names and "pooler" in found["matrix"].split("."):
                continue  # a layer on top that sentence embeddings do not use, and that the base's file leaves out
            if found is None or len(names) != 1:
                complaints.append(f"{name!r:.200} is the A or B of {len(names)} tensors")
                continue
            part = found["part"] + (found["table"] or "")
            other = self._parts.setdefault(names[0], {}).setdefault(part, name)
            if other != name:
                complaints.append(f"{other!r:.200} and {name!r:.200} are both the {part} of {names[0]!r:.200}")
        for name, parts in self._parts.items():
            if set(parts) not in ({"A", "B"}, {"Aembedding_", "Bembedding_"}):
                complaints.append(f"{name!r:.200} has {sorted(parts)}")
            elif self._product_shape(parts) != self._base.shapes()[name]:
                complaints.append(
                    f"{name!r:.200} is {self._base.shapes()[name]}, the product {self._product_shape(parts)}"
                )
        if complaints or not self._parts:
            raise ModelFolderError(
                f"{where}: {'; '.join(complaints[:10]) or 'no tensors'}. Expected A and B of matrices of the base model in "
                f"{self.where}; use the model that was adapted."
            )

    def _product_shape(self, parts: Mapping[str, str]) -> tuple[int, ...] | None:
        (rank, inner), (outer, other) = (self._shape(parts, part) for part in ("A", "B"))
        shape = (inner, outer) if "Aembedding_" in parts else (outer, inner)
        return shape if rank == other else None

    def _shape(self, parts: Mapping[str, str], part: str) -> tuple[int, ...]:
        shape = self._adapter.shapes()[parts.get(part) or parts[f"{part}embedding_"]]
        return shape if len(shape) == 2 else (0, -len(shape))

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tensor name -> shape, as in the base."""
        return self._base.shapes()

    def read(self, name: str) -> np.ndarray:
        """One tensor, the adapter's product added in float32."""
        if name not in self._parts:
            return np.asarray(self._base.read(name))
        tensor = as_float32(self._base, name)
        parts = {part[0]: as_float32(self._adapter, own) for part, own in self._parts[name].items()}
        with np.errstate(over="ignore", invalid="ignore"):
            product = np.float32(self._scale(name, len(parts["A"]))) * (parts["B"] @ parts["A"])
        if not np.isfinite(product).all():
            raise ModelFolderError(
                f"{self._adapter.where}: the product for {name!r:.200} has NaN or infinity. Download the adapter again."
            )
        return np.asarray(tensor + (product.T if "Aembedding_" in self._parts[name] else product))

    def _scale(self, name: str, rank: int) -> float:
        values = self._settings.values
        module = name.removesuffix(".weight")
        expected = self._of_module("rank_pattern", module, values.get("r", 8))
        if rank != expected:
            raise ModelFolderError(
                f"{self._settings.where}: the rank of {module!r} is {expected}, that of its tensors {rank}. Expected the same; "
                "the files are of two adapters."
            )
        alpha = self._of_module("alpha_pattern", module, values.get("lora_alpha", 8))
        return float(alpha / math.sqrt(rank) if values.get("use_rslora") else alpha / rank)

    def _of_module(self, key: str, module: str, default: Any) -> Any:
        return next((value for pattern, value in self._patterns[key] if pattern.match(module)), default)


def as_float32(tensors: Any, name: str) -> np.ndarray:
    """A tensor to add to, or a factor of what is added; raises ModelFolderError for numbers that were rounded."""
    stored = np.asarray(tensors.read(name))
    if not np.issubdtype(stored.dtype, np.floating) and stored.dtype.name != "bfloat16":
        raise ModelFolderError(
            f"{tensors.where}: {name!r:.200} is {stored.dtype.name}. Expected floating-point numbers; download the model again."
        )
    return stored.astype(np.float32)


def _ends(name: str) -> set[str]:
    """A tensor's name, and what is left of it without its first parts."""
    parts = name.split(".", _PREFIX)
    return {".".join(parts[first:]) for first in range(len(parts))}


def _patterns(settings: Settings, key: str) -> list[tuple[re.Pattern[str], float]]:
    """Which modules have a rank or an alpha of their own: names, or expressions whose search time cannot explode."""
    values = settings.values.get(key) or {}
    if not isinstance(values, dict) or len(values) > _PATTERNS or not all(map(_is_size, values.values())):
        settings.complain(key, f"an object of at most {_PATTERNS} names of modules, each with a number")
        return []
    found = []
    for pattern, value in values.items():
        try:
            check_pattern(pattern)
            found.append((re.compile(rf"(.*\.)?({pattern})$"), value))
        except (Slow, re.error) as error:
            settings.complain(key, f"names of modules, and not {pattern!r:.100}, which {error!s:.100}")
    return found


def _is_size(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9
