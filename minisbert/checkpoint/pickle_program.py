"""Runs the pickle program of a dict of tensors, and nothing else: what it names is noted, never looked up or called.

    interpreter = Interpreter(program)
    interpreter.run()                       # {"embeddings.weight": Tensor(storage, offset, shape, strides), ...}

Any other instruction or name raises ValueError, and so does whatever could cost more than the program has bytes: a million
instructions, a number of many bytes, a key that is not a name (hashing tuples of tuples takes for ever).
"""

import math
import struct
from typing import Any, NamedTuple

_DTYPES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1"}
_DTYPES |= {"Byte": "u1", "Bool": "?", "BFloat16": "bfloat16"}
STORAGES = {f"torch {name}Storage": dtype for name, dtype in _DTYPES.items()}
_REBUILD = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "collections OrderedDict"}
_MOST = 500_000  # instructions of one program; 35 per tensor
_DIMENSIONS = 8


class Name(NamedTuple):
    """A name that the program may use, not what it stands for."""

    name: str


class Storage(NamedTuple):
    """The numbers of one or more tensors: their type, the entry of the archive, how many."""

    dtype: str
    key: str
    values: int


class Tensor(NamedTuple):
    """Which numbers of a storage a tensor has, and in which order."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Mark:
    """The bottom of a group of values."""


_MARK = Mark()


class Interpreter:
    """Runs the instructions of a dict of tensors; any other raises ValueError."""

    def __init__(self, program: bytes):
        self.program, self.place = program, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        """The next bytes of the program."""
        piece = self.program[self.place : self.place + count]
        if len(piece) != count:
            raise ValueError("the program ends early")
        self.place += count
        return piece

    def number(self, form: str) -> Any:
        """The next number, by its form in `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        """The next line, without its end."""
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
        """The dict that the program describes. Raises ValueError, or another error where it is damaged."""
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
        """One instruction."""
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
            if name not in _REBUILD and name not in STORAGES:
                raise ValueError(f"it names {name!r:.200}, which is not part of a tensor")
            stack.append(Name(name))
        elif code == b"Q":
            kind, storage, key, _, count = stack.pop()
            if kind != "storage" or not isinstance(storage, Name) or not isinstance(key, str) or type(count) is not int:
                raise ValueError("a storage of an unknown form")
            stack.append(Storage(STORAGES[storage.name], key, count))
        elif code == b"R":
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, Name) or not isinstance(arguments, tuple):
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
        """What a call of one of the names stands for."""
        if name == "collections OrderedDict" and arguments == ():
            return {}
        if name == "torch._utils _rebuild_parameter" and isinstance(arguments[0], Tensor):
            return arguments[0]
        if name == "torch._utils _rebuild_tensor_v2":
            storage, offset, shape, strides, *_ = arguments
            if (
                not isinstance(storage, Storage)
                or not isinstance(shape, tuple)
                or not isinstance(strides, tuple)
                or not len(shape) == len(strides) <= _DIMENSIONS
                or not all(type(n) is int and n >= 0 for n in [offset, *shape, *strides])
            ):
                raise ValueError("a tensor of an unknown form")
            if math.prod(shape) > storage.values:
                raise ValueError(f"a tensor of the shape {shape} in a storage of {storage.values} values")
            return Tensor(storage, offset, tuple(shape), tuple(strides))
        raise ValueError(f"a call of {name!r}")
