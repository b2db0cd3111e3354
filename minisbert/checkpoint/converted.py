"""A converted checkpoint on disk: our own names in one safetensors file, reversible to the bit."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.checkpoint.convert import Converted
from minisbert.checkpoint.tensors import SafetensorsFiles, write_tensors
from minisbert.errors import ModelFolderError

CONVERTED = "minisbert.safetensors"


def write_converted(path: Path, converted: Converted) -> None:
    """Our own names in one safetensors file, with all that is needed to write the original back to the bit."""
    tensors = {f"params/{name}": np.asarray(array) for name, array in converted.params.items()}
    tensors.update({f"carried/{name}": array for name, array in converted.passthrough.items()})
    record = {"renamed": converted.renamed, "dtypes": converted.dtypes}
    write_tensors(path / CONVERTED, tensors, {"minisbert": json.dumps(record)})


def read_converted(
    path: Path, shapes: Mapping[str, Any], put: Callable[[str, np.ndarray], Any] = lambda path, array: array
) -> Converted:
    """Read what `write_converted` wrote.

    Raises:
        ModelFolderError: tensors missing, unknown or mis-shaped, all named; a record that is not ours.
    """
    files = SafetensorsFiles(path, CONVERTED)
    try:
        record = json.loads(files.metadata()["minisbert"])
        renamed, dtypes = dict(record["renamed"]), dict(record["dtypes"])
    except (KeyError, ValueError, TypeError):
        raise ModelFolderError(
            f"{path / CONVERTED}: the record of the conversion is missing or damaged. Run `minisbert convert` again."
        ) from None
    found = {
        name.removeprefix("params/"): shape for name, shape in files.shapes().items() if name.startswith("params/")
    }
    complaints = [f"missing: {name!r}" for name in shapes.keys() - found.keys()]
    complaints += [f"unknown: {name!r}" for name in found.keys() - shapes.keys()]
    complaints += [
        f"wrong shape: {name!r} is {list(found[name])}, expected {list(shapes[name])}"
        for name in shapes.keys() & found.keys()
        if tuple(found[name]) != tuple(shapes[name])
    ]
    if complaints:
        raise ModelFolderError(f"{path / CONVERTED}: {'; '.join(sorted(complaints))}. Run `minisbert convert` again.")
    converted = Converted({}, renamed=renamed, dtypes=dtypes)
    for name in shapes:
        array = files.read(f"params/{name}")
        if not np.isfinite(array).all():
            raise ModelFolderError(
                f"{path / CONVERTED}: {name!r} holds NaN or infinity. Run `minisbert convert` again."
            )
        converted.params[name] = put(name, array)
    for name in files.shapes():
        if name.startswith("carried/"):
            converted.passthrough[name.removeprefix("carried/")] = files.read(name)
    return converted
