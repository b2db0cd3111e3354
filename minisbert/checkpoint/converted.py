"""A checkpoint converted by `minisbert convert`: our names in one safetensors file, reversible to the bit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.checkpoint.convert import Converted, Put, Rule, convert
from minisbert.checkpoint.tensors import INDEX, WEIGHTS, SafetensorsFiles, write_tensors
from minisbert.errors import ModelFolderError

CONVERTED = "minisbert.safetensors"
DTYPES = {"float16", "bfloat16", "float32", "float64"}  # of the original tensors


def write_converted(path: Path, converted: Converted) -> None:
    """Our own names in one safetensors file, with all that is needed to write the original back to the bit."""
    tensors = {f"params/{name}": np.asarray(array) for name, array in converted.params.items()}
    tensors.update({f"carried/{name}": array for name, array in converted.passthrough.items()})
    record = {"renamed": converted.renamed, "dtypes": converted.dtypes}
    write_tensors(path / CONVERTED, tensors, {"minisbert": json.dumps(record)})


def read_converted(path: Path, shapes: Mapping[str, Any], put: Put | None = np.asarray) -> Converted:
    """Read what `write_converted` wrote, the only weights in its folder.

    Args:
        shapes: our path -> shape of every parameter.
        put: as for `convert`.
    """
    if others := [name for name in (WEIGHTS, INDEX) if (path / name).exists()]:
        raise ModelFolderError(
            f"{path}: holds {CONVERTED} and {others[0]}, which may differ. Expected one of them; move the other away."
        )
    files = SafetensorsFiles(path, CONVERTED)
    try:
        record = json.loads(files.metadata()["minisbert"])
        renamed, dtypes = dict(record["renamed"]), dict(record["dtypes"])
        if not all(isinstance(name, str) for name in renamed.values()) or not DTYPES.issuperset(dtypes.values()):
            raise ValueError
    except (KeyError, ValueError, TypeError, RecursionError):
        raise ModelFolderError(
            f"{path / CONVERTED}: the record of the conversion is missing or damaged. Run `minisbert convert` again."
        ) from None
    table = [Rule(f"params/{name}", name, shape) for name, shape in shapes.items()]
    found = convert(files, table, passthrough=["carried/*"], put=put)
    if found.dtypes:
        raise ModelFolderError(
            f"{path / CONVERTED}: {', '.join(sorted(found.dtypes))} not float32. Run `minisbert convert` again."
        )
    passthrough = {name.removeprefix("carried/"): array for name, array in found.passthrough.items()}
    return Converted(found.params, passthrough, renamed, dtypes)
