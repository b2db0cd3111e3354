"""Models with several adapters, of which one is chosen: jina-embeddings-v3 as first published, and folders of peft adapters.

    config.json                                  model_type xlm-roberta, lora_adaptations: the tasks; lora_rank, lora_alpha
    NAME.parametrizations.weight.original        W, and for each task a low-rank change (Sturua et al. 2024, section 4.2):
    NAME.parametrizations.weight.0.lora_A, .lora_B                      A [tasks, rank, in], B [tasks, out, rank]

    W' = W + lora_alpha / lora_rank * B A        of a table of embeddings A B, with A [tasks, rows, rank]

In transformers' layout each task is a folder with an adapter_config.json, which adapter.py reads. Without a choice the model
has no adapter, as in both libraries.
"""

from collections.abc import Mapping
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minisbert.checkpoint.adapter import ADAPTER_FILE, Change, LowRankTensors, adapted, as_float32, base_of
from minisbert.checkpoint.json_file import is_text
from minisbert.checkpoint.settings import ModelFiles, Settings, is_known_code
from minisbert.checkpoint.tensors import inside
from minisbert.errors import ModelFolderError, short_repr

if TYPE_CHECKING:
    from minisbert.checkpoint.folder import ModelFolder

JINA_MODULE = "custom_st.Transformer"  # in modules.json; it does what Transformer does, with the adapter of a task
_CODE = ("configuration_xlm_roberta.XLMRobertaFlash", "modeling_lora.XLMRobertaLoRA", "modeling_xlm_roberta.XLMRoberta")
_ORIGINAL, _A, _B = (f".parametrizations.weight.{part}" for part in ("original", "0.lora_A", "0.lora_B"))
_OWN = ("lora_adaptations", "lora_rank", "lora_alpha", "rotary_emb_base", "position_embedding_type", "auto_map")


def has_tasks(config: Any) -> bool:
    """Whether a config.json is jina-embeddings-v3's as first published."""
    return isinstance(config, dict) and config.get("model_type") == "xlm-roberta" and "lora_adaptations" in config


def without_tasks(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """A config.json under the names of transformers, without its adapters' settings; as it is where it has no tasks."""
    if not has_tasks(config):
        return dict(config)
    settings = Settings(dict(config), file)
    settings.choice("position_embedding_type", ["rotary"], why="others are not computed")
    settings.choice("truncate_dim", [None], default=None, why="use truncate_dim of config_sentence_transformers.json")
    theta = settings.size("rotary_emb_base", 10_000.0, (1, 1e9))
    code = settings.values.get("auto_map") or {}
    if not isinstance(code, dict) or not all(is_known_code(name, _CODE) for name in code.values()):
        settings.complain("auto_map", "the classes of jina-embeddings-v3; nothing of them is run")
    settings.finish()
    kept = {key: value for key, value in config.items() if key not in _OWN}
    return kept | {"model_type": "jina_embeddings_v3", "rope_theta": theta}


def _of_task(settings: Settings, task: str | None, tensors: Any) -> LowRankTensors:
    """The tensors with the product of one task's A and B added, or of none."""
    tasks = settings.values["lora_adaptations"]
    rank = settings.size("lora_rank")
    scale = np.float32(settings.size("lora_alpha") / rank)
    settings.finish()
    found, shapes, changes, complaints = tensors.shapes(), {}, dict[str, Change](), []
    for name, shape in found.items():
        if name.endswith(_ORIGINAL):
            module = name.removesuffix(_ORIGINAL)
            if len(shape) != 2 or f"{module}.weight" in found:
                complaints.append(f"{name!r:.200} is {shape}, or {module + '.weight'!r:.200} is there too")
                continue
            n, (outer, inner) = len(tasks), shape
            linear, table = ((n, rank, inner), (n, outer, rank)), ((n, outer, rank), (n, rank, inner))
            parts = tuple(found.get(module + part, ()) for part in (_A, _B))
            if parts not in (linear, table):
                complaints.append(f"the A and B of {module!r:.200} are {list(parts)}")
            shapes[f"{module}.weight"] = shape
            product = partial(_product, tensors, module, tasks.index(task), scale, shape) if task is not None else None
            changes[f"{module}.weight"] = name, product
        elif not name.endswith((_A, _B)) or name[: -len(_A)] + _ORIGINAL not in found:
            shapes[name] = shape
    if complaints:
        raise ModelFolderError(
            f"{tensors.where}: {'; '.join(complaints[:5])}. Expected those of {len(tasks)} tasks and rank {rank}, as "
            f"{settings.where} has them; download the model again."
        )
    return LowRankTensors(tensors, shapes, changes, tensors.where)


def _product(tensors: Any, module: str, row: int, scale: np.float32, shape: tuple[int, ...]) -> np.ndarray:
    a, b = (as_float32(tensors, module + part)[row] for part in (_A, _B))
    return np.asarray(scale * (b @ a if (b.shape[0], a.shape[1]) == shape else a @ b))


def check_name(adapter: Any, known: list[str], where: Any) -> None:
    """Raises ModelFolderError for an adapter that the folder does not have."""
    if adapter is not None and not (isinstance(adapter, str) and adapter in known):
        expected = f"one of {_listed(known)}" if known else "None: this model has no adapters to choose from"
        raise ModelFolderError(f"{where}: adapter is {short_repr(adapter)}. Expected {expected}.")


def _listed(names: list[str]) -> str:
    return f"{', '.join(map(repr, names)):.1000}"  # strangers' names: without control characters, not for ever


def read_adapters(files: ModelFiles, folder: "ModelFolder") -> None:
    """The adapter that the encoder's folder is or that `files.adapter` chooses: how it changes the weights, and a note."""
    place, adapter = folder.transformer_path, files.adapter
    if files.has(place / ADAPTER_FILE):
        check_name(adapter, [], place)
        folder.weights_path = base_of(files, place)
        folder.adapt = partial(adapted, files, place)
        folder.sources["adapter"] = ADAPTER_FILE
        folder.notes.append(f"{place / ADAPTER_FILE}: merged into the weights of {folder.weights_path}.")
        return
    file = place / "config.json"
    if has_tasks(config := files.json(file)):
        settings, known = Settings(config, file), config["lora_adaptations"]
        known = [] if known is None else known
        names = isinstance(known, list) and all(is_text(one) and one for one in known)
        if not names or len(set(known)) < len(known):
            settings.complain("lora_adaptations", "a list of different names")
        settings.finish()
        check_name(adapter, known, file)
        folder.adapt = partial(_of_task, settings, adapter) if known else None
    else:
        known = sorted(map(attrgetter("parent.name"), place.glob(f"*/{ADAPTER_FILE}")))
        check_name(adapter, known, place)
        if adapter is not None:
            files.has(inside(place, adapter, place) / ADAPTER_FILE)  # not a link out of the folder
            folder.adapt = partial(adapted, files, place / adapter)
    if folder.adapt is not None:
        folder.sources["adapter"] = adapter or "none"
    if known:
        used = f"{adapter!r} is merged" if adapter else "none is used"
        folder.notes.append(f"{place}: of the adapters {_listed(known)} {used}; adapter=NAME chooses one.")
