"""Reads the tensors of a PyTorch archive (pytorch_model.bin), and nothing else: no object is ever built from it.

    archive/data.pkl      a pickle program: a dict of tensor name -> (storage, offset, shape, strides)
    archive/data/0, ...   the bytes of each storage

Unpickling runs whatever functions the file names. Here a small interpreter knows the few instructions of a dict of tensors, and
four names, for which it notes what is meant instead of calling anything. Every other instruction or name is refused before a
byte of a tensor is read. Left out: the format before PyTorch 1.6, which is not a zip archive.
"""

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisbert import limits
from minisbert.checkpoint.archive import stored_archive
from minisbert.checkpoint.json_file import read_json
from minisbert.checkpoint.tensors import INDEX, WEIGHTS, inside
from minisbert.errors import ModelFolderError

PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_DTYPES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1"}
_DTYPES |= {"Byte": "u1", "Bool": "?", "BFloat16": "bfloat16"}
_STORAGES = {f"torch {name}Storage": dtype for name, dtype in _DTYPES.items()}
_REBUILD = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "collections OrderedDict"}
_MOST = 500_000  # instructions of one program; 35 per tensor
_DIMENSIONS = 8
_READ_AGAIN = 8  # how many times the file's size the tensors' storages may have, where tensors share one


class _Name(NamedTuple):
    """A name that the program may use, not what it stands for."""

    name: str


class _Storage(NamedTuple):
    dtype: str
    key: str
    values: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """The bottom of a group of values."""


_MARK = _Mark()


class PickledTensors:
    """The tensors of one archive or of several shards, as `SafetensorsFiles` gives those of safetensors.

    Raises:
        ModelFolderError: no such file, not an archive, an instruction or a name that is not allowed, or damaged storages.
    """

    def __init__(self, folder: Path):
        self.where = folder / (PICKLE if (folder / PICKLE).is_file() else PICKLE_INDEX)
        files = [self.where]
        if self.where.name == PICKLE_INDEX:
            content = read_json(self.where)
            shards = content.get("weight_map") if isinstance(content, dict) else None
            if not isinstance(shards, dict) or not all(
                isinstance(one, str) and one.endswith(".bin") for one in shards.values()
            ):
                raise ModelFolderError(f"{self.where}: expected 'weight_map', an object of tensor name to .bin file.")
            files = [inside(folder, one, self.where) for one in sorted(set(shards.values()))]
        self._tensors: dict[str, tuple[Path, _Tensor]] = {}
        for file in files:
            tensors = _program(file)
            stored = sum(one.storage.values * _dtype(one.storage.dtype).itemsize for one in tensors.values())
            if stored > _READ_AGAIN * file.stat().st_size:
                raise ModelFolderError(
                    f"{file}: tensors that share their storages, which would be read to {stored} bytes. Expected at most "
                    f"{_READ_AGAIN} times the file; save each tensor by itself."
                )
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
                raise ModelFolderError(
                    f"{file}: {name!r:.200} needs {storage.values} values of {storage.dtype}, its storage has {size} bytes. "
                    "Download the model again."
                )
            values = np.frombuffer(archive.read(entry), dtype)[offset:]
        steps = [stride * dtype.itemsize for stride in strides]
        return (
            np.array(np.lib.stride_tricks.as_strided(values, shape, steps))
            if math.prod(shape)
            else np.zeros(shape, dtype)
        )


def tensors_of(place: Path, opened: Callable[[Path], Any]) -> Any:
    """The tensors of a folder; those of a pickle if it has no others."""
    if any((place / name).is_file() for name in (WEIGHTS, INDEX)):
        return opened(place)
    return PickledTensors(place)


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


def _program(file: Path) -> dict[str, _Tensor]:
    """The dict of tensors that an archive's program describes."""
    with _plain_errors(file), stored_archive(file) as archive:
        entries = archive.infolist()
        programs = [one for one in entries if one.filename.count("/") == 1 and one.filename.endswith("/data.pkl")]
        if len(programs) != 1 or programs[0].file_size > limits.HEADER_BYTES:
            raise ValueError("it has no data.pkl of ordinary size")
        orders = [archive.read(one) for one in entries if one.filename.endswith("/byteorder")]
        if orders and orders[0].strip() != b"little":
            raise ValueError("its numbers are not little-endian")
        keys = {one.filename.rpartition("/data/")[2] for one in entries if "/data/" in one.filename}
        result = _Interpreter(archive.read(programs[0])).run()
    for name, tensor in result.items():
        if not isinstance(tensor, _Tensor) or tensor.storage.key not in keys:
            raise ModelFolderError(
                f"{file}: {name!r:.200} is not a tensor. Expected a dict of tensors, and nothing else."
            )
    return result


class _Interpreter:
    """Runs the instructions of a dict of tensors; any other raises ValueError."""

    def __init__(self, program: bytes):
        self.program, self.place = program, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        piece = self.program[self.place : self.place + count]
        if len(piece) != count:
            raise ValueError("the program ends early")
        self.place += count
        return piece

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.program.index(b"\n", self.place)
        piece = self.program[self.place : end].decode("ascii")
        self.place = end + 1
        return piece

    def group(self) -> list[Any]:
        """The values above the last mark."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("a group without a beginning")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def run(self) -> dict[str, Any]:
        for _ in range(_MOST):
            code = self.take(1)
            if code == b".":
                result = self.stack.pop()
                if not isinstance(result, dict):
                    raise ValueError("it is not a dict")
                return result
            self.step(code)
        raise ValueError(f"more than {_MOST} instructions")

    def step(self, code: bytes) -> None:
        stack, constants = self.stack, {b"N": None, b"\x88": True, b"\x89": False, b")": (), b"(": _MARK}
        numbers = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
        if code in constants:
            stack.append(constants[code])
        elif code in (b"}", b"]"):
            stack.append({} if code == b"}" else [])
        elif code in numbers:
            stack.append(self.number(numbers[code]))
        elif code == b"\x8a":
            if (size := self.number("<B")) > 8:
                raise ValueError(f"a number of {size} bytes")
            stack.append(int.from_bytes(self.take(size), "little", signed=True))
        elif code in (b"X", b"\x8c"):
            stack.append(self.take(self.number("<I" if code == b"X" else "<B")).decode())
        elif code == b"\x80":
            if self.number("<B") not in (2, 3, 4):
                raise ValueError("a protocol of pickle other than 2 to 4")
        elif code in (b"q", b"r"):
            self.memo[self.number("<B" if code == b"q" else "<I")] = stack[-1]
        elif code in (b"h", b"j"):
            stack.append(self.memo[self.number("<B" if code == b"h" else "<I")])
        elif code in (b"\x85", b"\x86", b"\x87"):
            count = code[0] - 0x84
            stack[-count:] = [tuple(stack[-count:])]
        elif code == b"t":
            stack.append(tuple(self.group()))
        elif code in (b"s", b"u"):
            values = self.group() if code == b"u" else [stack.pop() for _ in range(2)][::-1]
            if not isinstance(stack[-1], dict):
                raise ValueError("an entry outside of a dict")
            self.add(stack[-1], values)
        elif code in (b"a", b"e"):
            values = self.group() if code == b"e" else [stack.pop()]
            if not isinstance(stack[-1], list):
                raise ValueError("an item outside of a list")
            stack[-1].extend(values)
        else:
            self.call(code)

    @staticmethod
    def add(entries: dict[str, Any], values: list[Any]) -> None:
        """Entries by names alone: hashing a tuple of tuples can take for ever, or overflow the stack."""
        for name, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(name, str) or name in entries:
                raise ValueError(
                    "an entry whose key is not a name" if type(name) is not str else f"{name!r:.200} twice"
                )
            entries[name] = value

    def call(self, code: bytes) -> None:
        """The instructions by which a pickle names and calls: noted where they mean a tensor, else refused."""
        stack = self.stack
        if code == b"c":
            name = f"{self.line()} {self.line()}"
            if name not in _REBUILD and name not in _STORAGES:
                raise ValueError(f"it names {name!r:.200}, which is not part of a tensor")
            stack.append(_Name(name))
        elif code == b"Q":
            kind, storage, key, _, count = stack.pop()
            if (
                kind != "storage"
                or not isinstance(storage, _Name)
                or not isinstance(key, str)
                or type(count) is not int
            ):
                raise ValueError("a storage of an unknown form")
            stack.append(_Storage(_STORAGES[storage.name], key, count))
        elif code == b"R":
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, _Name) or not isinstance(arguments, tuple):
                raise ValueError("a call of something that is not a name")
            stack.append(self.made(function.name, arguments))
        elif code == b"b":
            state = stack.pop()  # the versions of the modules, which torch keeps with the dict
            if not isinstance(stack[-1], dict) or not isinstance(state, dict) or set(state) - {"_metadata"}:
                raise ValueError("a state of something that is not a dict of tensors")
        else:
            raise ValueError(f"the instruction {code!r} is not one of a dict of tensors")

    @staticmethod
    def made(name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "collections OrderedDict" and arguments == ():
            return {}
        if name == "torch._utils _rebuild_parameter" and isinstance(arguments[0], _Tensor):
            return arguments[0]
        if name == "torch._utils _rebuild_tensor_v2":
            storage, offset, shape, strides, *_ = arguments
            if (
                not isinstance(storage, _Storage)
                or not isinstance(shape, tuple)
                or not isinstance(strides, tuple)
                or not len(shape) == len(strides) <= _DIMENSIONS
                or not all(type(n) is int and n >= 0 for n in [offset, *shape, *strides])
            ):
                raise ValueError("a tensor of an unknown form")
            if math.prod(shape) > storage.values:
                raise ValueError(f"a tensor of the shape {shape} in a storage of {storage.values} values")
            return _Tensor(storage, offset, tuple(shape), tuple(strides))
        raise ValueError(f"a call of {name!r}")
