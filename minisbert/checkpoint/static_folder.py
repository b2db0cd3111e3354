"""The folder of a static model: a table with one vector per token, and the tokenizer whose ids are its rows.

    model.safetensors    `embedding.weight` [V, D], as sentence-transformers' StaticEmbedding stores it, or model2vec's
                         `embeddings` [R, D] with, where tokens share rows, `mapping` [V] and `weights` [V]
    tokenizer.json       its `truncation` is the length limit, if it has one

Token t's vector is `embedding.weight[t]`, or `weights[t] * embeddings[mapping[t]]`: folded into one table when read
(as sentence-transformers 6.2 does), written back as `embedding.weight`. There is no config.json.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minisbert import limits
from minisbert.checkpoint.settings import Settings
from minisbert.checkpoint.tensors import SafetensorsFiles
from minisbert.errors import ModelFolderError, folder_error

if TYPE_CHECKING:
    from minisbert.checkpoint.folder import ModelFolder

TABLE = "embedding.weight"
_SHARED, _MAPPING, _WEIGHTS = "embeddings", "mapping", "weights"


class StaticTensors:
    """The token table of a static model under one name, whichever of the two ways it is stored."""

    def __init__(self, folder: Path):
        self.files = SafetensorsFiles(folder)
        self.where = self.files.where
        self._found = dict(self.files.shapes())
        self.is_shared = _SHARED in self._found and TABLE not in self._found

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The table's shape once folded, and those of tensors that do not belong here."""
        if not self.is_shared:
            return self._found
        others = {name: shape for name, shape in self._found.items() if name not in (_SHARED, _MAPPING, _WEIGHTS)}
        rows, *width = self._found[_SHARED] or (0,)
        tokens = self._found.get(_MAPPING, (rows,))
        return {TABLE: (*tokens, *width), **others}

    def read(self, name: str) -> np.ndarray:
        """The table, folded, or a tensor that does not belong here."""
        if name != TABLE or not self.is_shared:
            return self.files.read(name)
        table_VD = self.files.read(_SHARED)
        if _MAPPING in self._found:
            mapping_V = self.files.read(_MAPPING)
            if mapping_V.ndim != 1 or mapping_V.dtype.kind not in "iu":
                raise self._wrong(_MAPPING, mapping_V, "whole numbers, one per token")
            if mapping_V.size and not 0 <= mapping_V.min() <= mapping_V.max() < len(table_VD):
                raise self._wrong(_MAPPING, mapping_V, f"rows of {_SHARED!r}, which are {len(table_VD)}")
            table_VD = table_VD[mapping_V]
        if _WEIGHTS in self._found:
            weights_V = self.files.read(_WEIGHTS)
            if weights_V.shape != table_VD.shape[:1] or weights_V.dtype.kind != "f":
                raise self._wrong(_WEIGHTS, weights_V, f"a number for each of {len(table_VD)} tokens")
            accum_dtype = np.promote_types(table_VD.dtype, np.float32)
            table_VD = (table_VD.astype(accum_dtype) * weights_V[:, None]).astype(accum_dtype)
        return table_VD

    def view(self, name: str) -> np.ndarray:
        """The same without copying, where the file has the table as it is."""
        return self.read(name) if self.is_shared else self.files.view(name)

    def _wrong(self, name: str, array: np.ndarray, expected: str) -> ModelFolderError:
        found = f"{array.dtype} {list(array.shape)}" + (f" from {array.min()} to {array.max()}" if array.size else "")
        return ModelFolderError(f"{self.where}: {name!r} is {found}; expected {expected}. Download the model again.")


def static_config(folder: Path) -> dict[str, Any]:
    """The sizes of the table, as a config.json would have them; raises ModelFolderError if the weights hold no table."""
    tensors = StaticTensors(folder)
    shape = tensors.shapes().get(TABLE, ())
    if tensors.is_shared and math.prod(shape) > limits.SPREAD:
        raise ModelFolderError(
            f"{tensors.where}: {_SHARED!r} {list(tensors.files.shapes()[_SHARED])} and {_MAPPING!r} make a table of "
            f"{list(shape)}. Expected at most {limits.SPREAD} numbers; use another model."
        )
    if len(shape) != 2 or not all(shape):
        found = ", ".join(f"{name!r} {list(size)}" for name, size in sorted(tensors.files.shapes().items())[:10])
        found = f"no table of token vectors; found {found or 'no tensors'}"
        raise folder_error(tensors.where, found, f"{TABLE!r}, or {_SHARED!r} of model2vec, with one row per token")
    return {"model_type": "static", "vocab_size": shape[0], "hidden_size": shape[1]}


def read_length_limit(folder: "ModelFolder") -> None:
    """The length limit in tokenizer.json, if it has one; raises ModelFolderError if it truncates in another way."""
    content = folder.tokenizer_settings("tokenizer.json")
    if content.values.get("truncation") is None:
        return
    settings = Settings(content.values["truncation"], f"{content.where}, 'truncation'")
    settings.choice("direction", ["Right"], default="Right", why="texts keep their beginning")
    settings.choice("strategy", ["LongestFirst", "OnlyFirst"], default="LongestFirst")
    folder.max_seq_length = settings.size("max_length", bounds=(1, limits.TOKENS))
    folder.sources["max_seq_length"] = "tokenizer.json"
    settings.finish()


def with_length_limit(tokenizer: bytes, limit: int | None) -> bytes:
    """tokenizer.json with this length limit; the same bytes where it has that limit already."""
    content = json.loads(tokenizer)
    if limit is not None and limit >= limits.TOKENS:
        limit = None
    if (content.get("truncation") or {}).get("max_length") == limit:
        return tokenizer
    cut = {"direction": "Right", "max_length": limit, "strategy": "LongestFirst", "stride": 0}
    content["truncation"] = None if limit is None else cut
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
