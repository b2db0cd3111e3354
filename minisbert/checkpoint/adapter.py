"""LoRA adapters (Hu et al. 2021) as the peft library stores them, merged into the weights when a model is read.

    adapter_config.json            rank r, lora_alpha, and the model that was adapted, base_model_name_or_path
    adapter_model.safetensors      A [r, in] and B [out, r] of each adapted matrix

    W' = W + scale * B A           scale = lora_alpha / r (equation 3), or lora_alpha / sqrt(r) with use_rslora

As in sentence-transformers the weights are those of the base model, which the adapter names; tokenizer, modules and prompts are
those of the adapter's folder. What changes more than these products is refused.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.checkpoint.keys import ADAPTER
from minisbert.checkpoint.patterns import Slow, check_pattern
from minisbert.checkpoint.settings import ModelFiles, Settings
from minisbert.checkpoint.tensors import SafetensorsFiles
from minisbert.errors import ModelFolderError, folder_error

ADAPTER_FILE, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Of a matrix, and of a table of embeddings, whose A and B are stored the other way round.
_NAME = re.compile(r"(?:base_model\.model\.)?(?P<matrix>.+)\.lora_(?P<table>embedding_)?(?P<part>[AB])(?:\.weight)?")
_PATTERNS = 1_000  # names of modules with a rank or an alpha of their own
_PREFIX = 4  # parts of a name that the base's file may have in front, or leave out
_DRAWN = (True, False, None, "gaussian", "orthogonal", "eva")  # other first values change the base's weights too

Change = tuple[str, Callable[[], np.ndarray] | None]
_MERGE = (
    "Merge other adapters into their model with peft, "
    "`PeftModel.from_pretrained(model, ADAPTER).merge_and_unload().save_pretrained(FOLDER)`, and load that."
)


def base_of(files: ModelFiles, place: Path) -> Path:
    """The folder of the model that the adapter in `place` changes: the one it names, or that next to it."""
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


class LowRankTensors:
    """The tensors of a model, with products of two small matrices added to some in float32.

    Args:
        tensors: those of the file.
        shapes: tensor name -> shape, as in a model without adapters.
        changes: tensor name -> its name in the file, and the product to add to it, if any.
        source: the file of the products.
    """

    def __init__(
        self, tensors: Any, shapes: Mapping[str, tuple[int, ...]], changes: Mapping[str, Change], source: Path
    ):
        self.where, self._tensors, self._shapes, self._changes = tensors.where, tensors, shapes, changes
        self._source = source

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tensor name -> shape, as in a model without adapters."""
        return self._shapes

    def read(self, name: str) -> np.ndarray:
        """One tensor, the product added."""
        stored, product = self._changes.get(name, (name, None))
        if product is None:
            return np.asarray(self._tensors.read(stored))
        tensor = as_float32(self._tensors, stored)
        with np.errstate(over="ignore", invalid="ignore"):
            added = product()
            if not np.isfinite(added).all():
                raise ModelFolderError(
                    f"{self._source}: the product for {name!r:.200} has NaN or infinity. Download the adapter again."
                )
            return np.asarray(tensor + added)


def as_float32(tensors: Any, name: str) -> np.ndarray:
    """A tensor to add to, or a factor of what is added; raises ModelFolderError for numbers that were rounded."""
    stored = np.asarray(tensors.read(name))
    if not np.issubdtype(stored.dtype, np.floating) and stored.dtype.name != "bfloat16":
        raise folder_error(tensors.where, f"{name!r:.200} is {stored.dtype.name}", "floating-point numbers")
    return stored.astype(np.float32)


def adapted(files: ModelFiles, place: Path, base: Any) -> LowRankTensors:
    """The tensors of a base model with the products of the adapter in `place` added."""
    file, adapter = place / ADAPTER_FILE, SafetensorsFiles(place, ADAPTER_WEIGHTS)
    settings = Settings(files.json(file), file)
    settings.choice("peft_type", ["LORA"], why="other adapters are not computed")
    settings.by_table(ADAPTER)
    settings.choice("fan_in_fan_out", [False, None], default=False, why="encoders store matrices as [out, in]")
    settings.choice("init_lora_weights", _DRAWN, default=True, why="others change the base's weights too")
    ranks = _patterns(settings, "rank_pattern", settings.size("r", 8))
    alphas = _patterns(settings, "alpha_pattern", settings.size("lora_alpha", 8))
    root = settings.flag("use_rslora", default=False)
    settings.finish(_MERGE)
    changes: dict[str, Change] = {}
    for name, parts in _parts_by_tensor(base, adapter).items():
        module, (a, b) = name.removesuffix(".weight"), (parts[part] for part in sorted(parts))
        rank, expected = adapter.shapes()[a][0], next(value for one, value in ranks if one.match(module))
        if rank != expected:
            found = f"the rank of {module!r} is {expected}, that of its tensors {rank}"
            raise folder_error(file, found, "the same", "use files of one adapter")
        alpha = next(value for one, value in alphas if one.match(module))
        scale = np.float32(alpha / math.sqrt(rank) if root else alpha / rank)
        changes[name] = name, partial(_product, adapter, a, b, scale)
    return LowRankTensors(base, base.shapes(), changes, adapter.where)


def _product(adapter: Any, a: str, b: str, scale: np.float32) -> np.ndarray:
    product = scale * (as_float32(adapter, b) @ as_float32(adapter, a))
    return np.asarray(product.T if ".lora_embedding_" in a else product)


def _parts_by_tensor(base: Any, adapter: Any) -> dict[str, dict[str, str]]:
    """Tensor of the base -> its A and B -> their names in the adapter."""
    shapes, found = base.shapes(), adapter.shapes()
    parts: dict[str, dict[str, str]] = {}
    complaints = []
    ends: dict[str, set[str]] = {}  # a tensor's name, and without its first parts -> the tensors that end so
    for one in shapes:
        for end in _ends(one):
            ends.setdefault(end, set()).add(one)
    for name in found:
        match = _NAME.fullmatch(name)
        wanted = f"{match['matrix']}.weight" if match else ""
        names = sorted(ends.get(wanted, set()).union(_ends(wanted) & shapes.keys()))
        if match and not names and "pooler" in match["matrix"].split("."):
            continue  # a layer on top that sentence embeddings do not use, and that the base's file leaves out
        if match is None or len(names) != 1:
            complaints.append(f"{name!r:.200} is the A or B of {len(names)} tensors")
            continue
        part = match["part"] + (match["table"] or "")
        other = parts.setdefault(names[0], {}).setdefault(part, name)
        if other != name:
            complaints.append(f"{other!r:.200} and {name!r:.200} are both the {part} of {names[0]!r:.200}")
    for name, own in parts.items():
        if set(own) not in ({"A", "B"}, {"Aembedding_", "Bembedding_"}):
            complaints.append(f"{name!r:.200} has {sorted(own)}")
            continue
        a, b = (found[own[part]] for part in sorted(own))
        product = (b[0], a[1]) if len(a) == len(b) == 2 and 0 < a[0] == b[1] else None
        if product is None or (product[::-1] if "Aembedding_" in own else product) != shapes[name]:
            complaints.append(f"{name!r:.200} is {shapes[name]}, the product of B {b} and A {a}")
    if complaints or not parts:
        raise ModelFolderError(
            f"{adapter.where}: {'; '.join(complaints[:10]) or 'no tensors'}. Expected A and B of matrices of the base model in "
            f"{base.where}; use the model that was adapted."
        )
    return parts


def _ends(name: str) -> set[str]:
    """A tensor's name, and what is left of it without its first parts."""
    parts = name.split(".", _PREFIX)
    return {".".join(parts[first:]) for first in range(len(parts))}


def _patterns(settings: Settings, key: str, default: float) -> list[tuple[re.Pattern[str], float]]:
    """Which modules have a rank or an alpha of their own: names, or expressions whose search time cannot explode."""
    values = settings.values.get(key) or {}
    if not isinstance(values, dict) or len(values) > _PATTERNS or not all(map(_is_size, values.values())):
        settings.complain(key, f"an object of at most {_PATTERNS} names of modules, each with a number")
        values = {}
    found = []
    for pattern, value in values.items():
        try:
            check_pattern(pattern)
            found.append((re.compile(rf"(.*\.)?({pattern})$"), value))
        except (Slow, re.error) as error:
            settings.complain(key, f"names of modules, and not {pattern!r:.100}, which {error!s:.100}")
    return [*found, (re.compile(""), default)]


def _is_size(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9
