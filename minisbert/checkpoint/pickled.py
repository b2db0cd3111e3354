"""Reads the tensors of a PyTorch archive (pytorch_model.bin), and nothing else: no object is ever built from it.

    archive/data.pkl      a pickle program: a dict of tensor name -> (storage, offset, shape, strides)
    archive/data/0, ...   the bytes of each storage

pickle_program.py reads the first, and refuses all else before a byte of a tensor is read. Left out: the format before
PyTorch 1.6, which is not a zip archive.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minisbert import limits
from minisbert.checkpoint.archive import stored_archive
from minisbert.checkpoint.json_file import refuse_pointer
from minisbert.checkpoint.pickle_program import Tensor, run
from minisbert.checkpoint.tensors import read_index
from minisbert.errors import ModelFolderError, folder_error

PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_READ_AGAIN = 8  # how many times the file's size the tensors' storages may have, where tensors share one


class PickledTensors:
    """The tensors of one archive or of several shards, as `SafetensorsFiles` gives those of safetensors."""

    def __init__(self, folder: Path):
        self.where = folder / (PICKLE if (folder / PICKLE).is_file() else PICKLE_INDEX)
        files = read_index(self.where, ".bin")[1] if self.where.name == PICKLE_INDEX else [self.where]
        self._tensors: dict[str, tuple[Path, Tensor]] = {}
        for file in files:
            tensors = _program(file)
            stored = sum(one.storage.values * _dtype(one.storage.dtype).itemsize for one in tensors.values())
            if stored > _READ_AGAIN * file.stat().st_size:
                found = f"tensors that share storages, of {stored} bytes together"
                raise folder_error(file, found, f"at most {_READ_AGAIN} times the file", "save each by itself")
            for name, tensor in tensors.items():
                if name in self._tensors:
                    raise ModelFolderError(f"{file}: {name!r:.200} is in two shards. Download the model again.")
                self._tensors[name] = file, tensor

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tensor name -> shape."""
        return {name: tensor.shape for name, (_, tensor) in self._tensors.items()}

    def read(self, name: str) -> np.ndarray:
        """One tensor."""
        file, (storage, offset, shape, strides) = self._tensors[name]
        dtype = _dtype(storage.dtype)
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        with _plain_errors(file), stored_archive(file) as archive:
            entry = next(one for one in archive.namelist() if one.endswith(f"/data/{storage.key}"))
            size = archive.getinfo(entry).file_size
            if size != storage.values * dtype.itemsize or (0 not in shape and not 0 <= last < storage.values):
                found = f"the storage of {name!r:.200} has {size} bytes"
                raise folder_error(file, found, f"{storage.values} values of {storage.dtype}")
            values = np.frombuffer(archive.read(entry), dtype)[offset:]
        steps = [stride * dtype.itemsize for stride in strides]
        return (
            np.array(np.lib.stride_tricks.as_strided(values, shape, steps))
            if math.prod(shape)
            else np.zeros(shape, dtype)
        )


def _dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


@contextmanager
def _plain_errors(file: Path) -> Iterator[None]:
    """Turn any error about a damaged archive into one that names the file."""
    try:
        yield
    except ModelFolderError:
        raise
    except Exception as error:  # zipfile, zlib and struct have no class in common
        raise ModelFolderError(
            f"{file}: not an archive of tensors that is read here ({error!s:.300}). Expected a dict of tensors as torch.save "
            "writes it, and nothing else; convert it on a machine you trust, or use another model."
        ) from None


def _program(file: Path) -> dict[str, Tensor]:
    """The dict of tensors that an archive's program describes."""
    with _plain_errors(file), file.open("rb") as stream:
        refuse_pointer(file, stream.read(100))
    with _plain_errors(file), stored_archive(file) as archive:
        entries = archive.infolist()
        programs = [one for one in entries if one.filename.count("/") == 1 and one.filename.endswith("/data.pkl")]
        if len(programs) != 1 or programs[0].file_size > limits.HEADER_BYTES:
            raise ValueError("it has no data.pkl of ordinary size")
        orders = [archive.read(one) for one in entries if one.filename.endswith("/byteorder")]
        if orders and orders[0].strip() != b"little":
            raise ValueError("its numbers are not little-endian")
        keys = dict(one.filename.rpartition("/data/")[::-2] for one in entries if "/data/" in one.filename)
        if set(keys.values()) - {programs[0].filename.removesuffix("/data.pkl")}:
            raise ValueError("its storages are in more than one folder")
        result = run(archive.read(programs[0]))
    for name, tensor in result.items():
        if not isinstance(tensor, Tensor) or tensor.storage.key not in keys:
            raise folder_error(
                file, f"{name!r:.200} is not a tensor", "a dict of tensors and nothing else", "use another model"
            )
    return result
