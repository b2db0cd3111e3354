"""Changes to a copy of a good tiny model: each takes the model's folder. `planted` puts code and pickles in it."""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Change = Callable[[Path], Any]

WEIGHTS, INDEX, TOKENIZER = "model.safetensors", "model.safetensors.index.json", "tokenizer.json"
OLD = "sentence_transformers.models."
TRANSFORMER, POOLING = {"path": "", "type": OLD + "Transformer"}, {"path": "1_Pooling", "type": OLD + "Pooling"}
DENSE, NORMALIZE = {"path": "2_Dense", "type": OLD + "Dense"}, {"path": "2_Normalize", "type": OLD + "Normalize"}


def all_of(*changes: Change) -> Change:
    """One after the other."""

    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


# --- files ---------------------------------------------------------------------------------------------------------


def json_file(name: str, edit: Callable[[Any], Any]) -> Change:
    """Edit what a JSON file holds, in place or by returning something else."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        other = edit(content)
        (folder / name).write_text(json.dumps(content if other is None else other))

    return change


def put(name: str, **values: Any) -> Change:
    """Set keys of a JSON file."""
    return json_file(name, lambda content: content.update(values))


def drop(name: str, *keys: str) -> Change:
    """Remove keys of a JSON file."""
    return json_file(name, lambda content: [content.pop(key) for key in keys] and None)


def write(name: str, content: Any) -> Change:
    """Replace a file: bytes and text as they are, anything else as JSON."""

    def change(folder: Path) -> None:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, str | bytes) else json.dumps(content)
        file.write_bytes(data if isinstance(data, bytes) else data.encode())

    return change


def remove(*names: str) -> Change:
    """Remove files or folders."""

    def change(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def cut(name: str, length: int) -> Change:
    """Keep the first bytes of a file; a negative length counts from the end."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def a_folder(name: str) -> Change:
    """A folder in the place of a file."""
    return lambda folder: ((folder / name).unlink(), (folder / name).mkdir())


def link(name: str, target: str | Path) -> Change:
    """A link in the place of a file or folder."""

    def change(folder: Path) -> None:
        if (folder / name).exists():
            remove(name)(folder)
        (folder / name).symlink_to(target)

    return change


def outside(name: str) -> Change:
    """Move a file out of the model's folder, and leave a link to it."""

    def change(folder: Path) -> None:
        there = folder.parent / f"outside-{Path(name).name}"
        (folder / name).rename(there)
        (folder / name).symlink_to(there)

    return change


def chain(*modules: Any) -> Change:
    """Another modules.json, with the numbers and names that some readers want."""
    named = [{"idx": i, "name": str(i), **m} if isinstance(m, dict) else m for i, m in enumerate(modules)]
    return write("modules.json", named)


# --- weights -------------------------------------------------------------------------------------------------------


def raw(header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a safetensors file, with any header and any length of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def header(edit: Callable[[dict[str, Any]], Any], length: int | None = None) -> Change:
    """Edit the header of the weights, the data left as it is."""

    def change(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        values = json.loads(content[8:end])
        edit(values)
        (folder / WEIGHTS).write_bytes(raw(values, content[end:], length))

    return change


def tensors(edit: Callable[[dict[str, np.ndarray]], Any]) -> Change:
    """Edit the arrays of the weights."""

    def change(folder: Path) -> None:
        arrays = load_file(folder / WEIGHTS)
        edit(arrays)
        save_file(arrays, folder / WEIGHTS)

    return change


def spoil(name: str, value: float, dtype: Any = np.float32) -> Change:
    """One number of one tensor."""

    def edit(arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = arrays[name].astype(dtype)
        arrays[name].reshape(-1)[3] = value

    return tensors(edit)


def scale(factor: float, pattern: str = "") -> Change:
    """All tensors whose name holds the pattern, times a factor."""

    def edit(arrays: dict[str, np.ndarray]) -> None:
        for name in arrays:
            if pattern in name:
                arrays[name] = arrays[name] * np.float32(factor)

    return tensors(edit)


def sharded(edit: Callable[[dict[str, Any]], Any] = lambda index: None) -> Change:
    """Two shards and an index, which `edit` may make lie."""

    def change(folder: Path) -> None:
        arrays = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        index: dict[str, Any] = {"metadata": {}, "weight_map": {}}
        for i, half in enumerate((sorted(arrays)[::2], sorted(arrays)[1::2])):
            save_file({name: arrays[name] for name in half}, folder / f"shard-{i}.safetensors")
            index["weight_map"].update(dict.fromkeys(half, f"shard-{i}.safetensors"))
        edit(index)
        (folder / INDEX).write_text(json.dumps(index))

    return change


def shard_of(name: str, file: Any) -> Change:
    """Shards whose index puts a tensor elsewhere."""
    return sharded(lambda index: index["weight_map"].update({name: file}))


def with_dense(arrays: dict[str, np.ndarray] | None = None, **values: Any) -> Change:
    """A Dense of 32 -> 5 after the pooling."""
    config = {"in_features": 32, "out_features": 5, "bias": True}
    config["activation_function"] = "torch.nn.modules.activation.Tanh"
    good = {"linear.weight": np.ones((5, 32), np.float32), "linear.bias": np.ones(5, np.float32)}

    def change(folder: Path) -> None:
        chain(TRANSFORMER, POOLING, DENSE)(folder)
        write("2_Dense/config.json", config | values)(folder)
        save_file(good if arrays is None else arrays, folder / "2_Dense" / WEIGHTS)

    return change


# --- planted code --------------------------------------------------------------------------------------------------


class Payload:
    """Unpickling it leaves a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.write_text, (self.canary, "ran")


def pickled(folder: Path) -> bytes:
    """A pickle that sings when it is read."""
    return pickle.dumps({"weight": Payload(canary(folder))})


def canary(folder: Path) -> Path:
    """Where planted code writes to: see battery.Work."""
    return folder.parents[1] / "canary"


def planted(folder: Path) -> None:
    """Code under every name that a folder could be made to import, pickles under every name that is unpickled."""
    code = f"open({str(canary(folder))!r}, 'w').write('ran')\nclass Evil:\n    def __init__(self, *a, **k): pass\n"
    for name in ("evil.py", "modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "__init__.py"):
        (folder / name).write_text(code)
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "model.pkl"):
        (folder / name).write_bytes(pickled(folder))


def torch_pickle(name: str) -> Change:
    """Weights as a pickle that sings, in the place of safetensors, in torch's own zip and plain."""

    def change(folder: Path) -> None:
        if (folder / Path(name).parent / WEIGHTS).exists():
            (folder / Path(name).parent / WEIGHTS).unlink()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(pickled(folder))

    return change


def unreadable(name: str) -> Change:
    """A file whose owner may not read it (root may)."""
    return lambda folder: os.chmod(folder / name, 0)
