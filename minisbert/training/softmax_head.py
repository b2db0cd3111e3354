"""A loss's own parameters on disk, next to the model that was trained with it.

Those of the softmax loss (W, b, with classes and concatenation) are in softmax_head.safetensors, which predicts classes; those
of any other loss, such as a trained temperature, in loss_head.safetensors.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisbert.atomic_write import whole_file
from minisbert.checkpoint.convert import flatten, nest
from minisbert.checkpoint.tensors import SafetensorsFiles, write_tensors
from minisbert.errors import ModelFolderError
from minisbert.training.pair_losses import CONCATENATIONS

HEAD_FILE = "softmax_head.safetensors"
LOSS_FILE = "loss_head.safetensors"


class SoftmaxHead(NamedTuple):
    """A trained head (SBERT section 3, figure 1)."""

    kernel: np.ndarray  # [parts * D, C]
    bias: np.ndarray  # [C]
    classes: tuple[str, ...]
    concatenation: str


def write_head(
    folder: Path, head: Mapping[str, Any], classes: Sequence[str] | None = None, concatenation: str | None = None
) -> None:
    """Write the trained parameters of a loss into the model's folder; of the softmax loss with its classes."""
    arrays = {name: np.asarray(array) for name, array in flatten(head).items()}
    metadata = {}
    if classes is not None:
        metadata = {"classes": json.dumps(list(classes)), "concatenation": concatenation or "u,v,|u-v|"}
    with whole_file(folder / (LOSS_FILE if classes is None else HEAD_FILE)) as temporary:
        write_tensors(temporary, arrays, metadata)


def read_loss_head(folder: str | Path) -> dict[str, Any]:
    """The trained parameters of a loss in a model's folder, as the loss's `head`.

    Raises:
        ModelFolderError: there are none.
    """
    files = SafetensorsFiles(Path(folder), LOSS_FILE)
    return nest({name: files.read(name) for name in dict(files.shapes())})


def read_head(folder: Path, dimension: int) -> SoftmaxHead:
    """Read the head in a model's folder.

    Args:
        dimension: the width of the model's embeddings.

    Raises:
        ModelFolderError: there is no head, or it does not fit the model.
    """
    file = folder / HEAD_FILE
    if not file.is_file():
        raise ModelFolderError(
            f"{file} is missing. Expected a model trained with the softmax loss: minisbert train ... --loss softmax."
        )
    files = SafetensorsFiles(folder, HEAD_FILE)
    metadata = files.metadata()
    concatenation = metadata.get("concatenation", "u,v,|u-v|")
    try:
        classes = tuple(map(str, json.loads(metadata.get("classes", "[]"))))
    except (ValueError, TypeError, RecursionError):
        classes = ()
    if concatenation not in CONCATENATIONS:
        raise ModelFolderError(
            f"{file}: concatenation is {concatenation!r}. Expected one of {', '.join(CONCATENATIONS)}."
        )
    rows = dimension * len(concatenation.split(","))
    expected = {"kernel": (rows, len(classes)), "bias": (len(classes),)}
    found = dict(files.shapes())
    tensors = {name: files.read(name) for name in found} if found == expected else {}
    if not tensors or len(classes) < 2 or not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise ModelFolderError(
            f"{file}: tensors {found}, classes {classes}. Expected finite {expected} for embeddings of width {dimension} and "
            "at least two classes: the head of this model."
        )
    return SoftmaxHead(tensors["kernel"], tensors["bias"], classes, concatenation)
