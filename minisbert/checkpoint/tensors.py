"""Reads the tensors of a model folder, one at a time: one safetensors file, or several with an index.

The safetensors library checks that the header fits the file, and reads; `view` maps the file instead, so that only pages that
are used come into memory. Pickled weights (`pytorch_model.bin`) are refused: unpickling runs code.
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minisbert import limits
from minisbert.checkpoint.json_file import is_text, loads, read_json, refuse_pointer
from minisbert.errors import ModelFolderError, folder_error

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_OTHER_FORMATS = ("*.onnx", "onnx/*.onnx", "*.h5", "*.msgpack", "*.gguf", "*.ot")
# Bytes to read before a file is mapped anew, so that the model is in memory once, not twice.
RELEASE_AFTER = 32_000_000


def inside(folder: Path, relative: str, named_by: Path | str) -> Path:
    """A path that a file of the folder names, after checking that it stays inside the folder.

    The check is on the name: download caches keep a model as links into a common store, so links are followed.
    """
    if Path(relative).is_absolute() or ".." in Path(relative).parts or "\\" in relative:
        found = f"names the path {relative!r:.200}, which leaves the model folder"
        raise folder_error(named_by, found, "a path inside it", "do not use this model")
    if "\0" in relative or not is_text(relative) or len(relative.encode()) > limits.NAME_BYTES:
        raise folder_error(named_by, f"names the path {relative!r:.200}", "the name of a file")
    return folder / relative


def unpickle_recipe(pickled: str = "pytorch_model.bin", name: str = WEIGHTS) -> str:
    """The command that writes a pickle's tensors to the file `name`, on a machine where the pickle is trusted."""
    return (
        f"python -c \"import torch, safetensors.torch as s; w = torch.load('{pickled}', weights_only=True); s.save_file("
        f"{{k: v.clone().contiguous() for k, v in w.items()}}, '{name}', metadata={{'format': 'pt'}})\""
    )


def read_index(file: Path, ending: str) -> tuple[dict[str, str], list[Path]]:
    """Which shard has each tensor, and the paths of all shards, which are in the folder of the index."""
    content = read_json(file)
    index = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(index, dict) or not all(isinstance(name, str) and name for name in index.values()):
        raise folder_error(file, f"'weight_map' is {type(index).__name__}", "an object of tensor to file")
    shards = sorted(set(index.values()))
    if len(index) > limits.TENSORS or len(shards) > limits.SHARDS:
        raise folder_error(
            file, f"{len(index)} tensors in {len(shards)} files", f"at most {limits.TENSORS} in {limits.SHARDS}"
        )
    # In a folder below a file could be a link, which nothing has checked.
    odd = [name for name in shards if not name.endswith(ending) or Path(name).name != name]
    if odd:
        found = f"names the file {odd[0]!r:.200} among the weights"
        raise folder_error(file, found, f"names in this folder that end in {ending}", "do not use this model")
    return index, [inside(file.parent, name, file) for name in shards]


def _found_instead(folder: Path, name: str) -> str:
    """What a folder without weights has in their place, and the remedy."""
    if pickled := sorted(path.name for path in folder.glob("*.bin")):
        here = "allow_pickle_weights=True reads the tensors of this folder and nothing else, or on"
        return (
            f"Found {', '.join(pickled)}. Pickled weights can run code when read, so they are not read by default. "
            f"{here if name == WEIGHTS else 'On'} a machine where you trust the file: {unpickle_recipe(pickled[0], name)}"
        )
    if others := sorted(path.name for pattern in _OTHER_FORMATS for path in folder.glob(pattern)):
        return f"Found {', '.join(others):.200}, in a format that is not read. Expected {name}; use another model."
    return "Download the model again."


def open_tensors(folder: Path, allow_pickle_weights: bool = False) -> Any:
    """The tensors of a folder, which may be those of a pickle (pickled.py) where it has no others and that is allowed."""
    if not allow_pickle_weights or any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        return SafetensorsFiles(folder)
    from minisbert.checkpoint.pickled import PickledTensors

    return PickledTensors(folder)


class SafetensorsFiles:
    """The tensors of one model folder, by name: in one file, or in shards with an index.

    Raises:
        ModelFolderError: no weights, only a pickle, a false header, a tensor in no shard or in two.
    """

    def __init__(self, folder: Path, name: str = WEIGHTS):
        self.where = folder / name
        files, index = [self.where], None
        if not self.where.is_file():
            if not (folder / INDEX).is_file():
                raise ModelFolderError(f"{folder}: no {name} and no {INDEX}. {_found_instead(folder, name)}")
            self.where = folder / INDEX
            index, files = read_index(self.where, ".safetensors")
        self._open: dict[Path, Any] = {}  # file -> the library's mapping
        self._bytes: dict[Path, np.ndarray] = {}  # file -> our mapping
        self._starts: dict[str, int] = {}  # float32 tensor -> where it starts in its file
        self._unread = RELEASE_AFTER
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        for file in files:
            self._read_header(file)
        if index is not None and index != (found := {name: file.name for name, file in self._files.items()}):
            names = sorted(name for name in index.keys() | found.keys() if index.get(name) != found.get(name))
            wrong = [f"{name!r} is in {found.get(name)!r}, the index says {index.get(name)!r}" for name in names]
            raise ModelFolderError(
                f"{self.where}: index and files do not agree. {'; '.join(wrong)}. Download the model again."
            )

    def _read_header(self, file: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            size = file.stat().st_size
            with file.open("rb") as stream:
                header = int.from_bytes(start := stream.read(8), "little")
                text = stream.read(header) if header <= min(limits.HEADER_BYTES, size) else b""
        except OSError as error:
            raise ModelFolderError(f"{file}: cannot be read ({error}). Download the model again.") from None
        refuse_pointer(file, start)
        if header > limits.HEADER_BYTES or header + 8 > size:
            raise ModelFolderError(
                f"{file}: the header claims {header} bytes in a file of {size} (at most {limits.HEADER_BYTES} are allowed). "
                "The file is truncated or not safetensors; download the model again."
            )
        try:
            entries = loads(text)  # the safetensors library would take the last of two tensors with one name
            if isinstance(entries, dict) and len(entries) > limits.TENSORS + 1:  # and __metadata__
                raise ValueError(f"{len(entries)} tensors, more than the {limits.TENSORS} any model has")
            opened: Any = safe_open(str(file), framework="np")
            names: list[str] = list(opened.keys())
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            raise ModelFolderError(
                f"{file}: not a complete safetensors file ({error}). Download the model again."
            ) from None
        self._open[file] = opened
        for name in names:
            if name in self._files:
                raise ModelFolderError(f"{file}: tensor {name!r} is in another shard too. Download the model again.")
            self._files[name] = file
            self._shapes[name] = tuple(opened.get_slice(name).get_shape())
            start = 8 + header + entries[name]["data_offsets"][0]
            if entries[name]["dtype"] == "F32" and start % 4 == 0:
                self._starts[name] = start

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's shape, without reading any."""
        return self._shapes

    def read(self, name: str) -> np.ndarray:
        """One tensor, in the dtype of the file."""
        from safetensors import SafetensorError, safe_open

        file = self._files[name]
        try:
            if self._open[file].get_slice(name).get_dtype() == "BF16":
                import ml_dtypes  # noqa: F401 (names bfloat16 to NumPy)
            array: np.ndarray = self._open[file].get_tensor(name)
            self._unread -= array.nbytes
            if self._unread < 0:
                # Pages of a mapping that were read count as this process's memory until the mapping goes.
                self._unread = RELEASE_AFTER
                self._open[file] = safe_open(str(file), framework="np")
            return array
        except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
            dtype = self._open[file].get_slice(name).get_dtype()
            raise folder_error(
                self.where, f"tensor {name!r} of dtype {dtype} cannot be read ({error})", "float32, float16 or bfloat16"
            ) from None

    def view(self, name: str) -> np.ndarray:
        """`read` without copying, where the file has float32: read-only, of the pages that are used."""
        if name not in self._starts:
            return self.read(name)
        file, shape = self._files[name], self._shapes[name]
        if file not in self._bytes:
            self._bytes[file] = np.memmap(file, np.uint8, "r").view(np.ndarray)
        start = self._starts[name]
        return self._bytes[file][start : start + 4 * math.prod(shape)].view(np.float32).reshape(shape)

    def metadata(self) -> dict[str, str]:
        """The free-form strings of the first file's header."""
        for opened in self._open.values():
            return opened.metadata() or {}
        return {}


@dataclass(frozen=True)
class Columns:
    """Matrices side by side that are one parameter, each still where its file has it; `np.asarray` joins them."""

    parts: tuple[np.ndarray, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the joined matrix."""
        return (*self.parts[0].shape[:-1], sum(part.shape[-1] for part in self.parts))

    size = property(lambda columns: math.prod(columns.shape), doc="Of the joined matrix.")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self.parts, axis=-1, dtype=dtype)


def as_stored(array: np.ndarray, dtype: str) -> np.ndarray:
    """A parameter in the dtype of its file; in float32 where that would round it, as after training."""
    single = array.astype(np.float32, copy=False)
    with np.errstate(over="ignore"):
        stored = single.astype(dtype, copy=False)
    return stored if np.array_equal(stored.astype(np.float32), single) else single


def mapped_files(leaves: Iterable[Any]) -> list[Any]:
    """The mapped files (`np.memmap`) of which these arrays are parts."""
    found: dict[int, Any] = {}
    for leaf in leaves:
        for part in leaf.parts if isinstance(leaf, Columns) else (leaf,):
            while part is not None and not isinstance(part, np.memmap):
                part = getattr(part, "base", None)
            if part is not None:
                found[id(part)] = part
    return list(found.values())


def check_lengths(files: Iterable[Any]) -> None:
    """Raises ModelFolderError if a mapped file became shorter: the system ends a process that reads beyond its end."""
    for file in files:
        if file._mmap.size() < file.size:
            raise ModelFolderError(
                f"{file.filename}: has become shorter since the model was loaded. Expected files that stay as they are while "
                "engine='numpy' reads from them; load the model again."
            )


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file as the field's readers expect it (contiguous, `format` = pt); raises OSError if it cannot."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}  # a scalar stays one
    try:
        save_file(arrays, str(path), metadata={"format": "pt", **(metadata or {})})
    except SafetensorError as error:  # what the library makes of a full disk
        raise OSError(f"{path.name}: {error}") from None
    # The library writes through a private temporary file; a model folder is as readable as its other files.
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
