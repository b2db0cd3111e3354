"""Runs the pickle program of a dict of tensors, and nothing else: what it names is noted, never looked up or called.

Any other instruction or name raises ValueError, and so does whatever could cost more than the program has bytes: a million
instructions, a number of many bytes, a key that is not a name (hashing tuples of tuples takes for ever).
"""

import math
import pickletools
from typing import Any, NamedTuple

from minisbert.checkpoint.json_file import is_text

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


_MARK = object()  # the bottom of a group of values
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
# Instructions that bring a value with them.
_VALUES = {"BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def run(program: bytes) -> dict[str, Any]:
    """The dict that the program describes. Raises ValueError, or another error where it is damaged."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}  # by number
    # genops splits the program into instructions with their values, and runs nothing.
    for count, (code, value, _) in enumerate(pickletools.genops(program)):
        if count == _MOST:
            raise ValueError(f"more than {_MOST} instructions")
        match code.name:
            case "STOP":
                break
            case "PROTO":
                if value not in (2, 3, 4):
                    raise ValueError("a protocol of pickle other than 2 to 4")
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _VALUES:
                if type(value) is int and not -(2**63) <= value < 2**63:
                    raise ValueError("a number of more than 8 bytes")
                stack.append(value)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case name if name in _TUPLES:
                stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
            case "TUPLE":
                stack.append(tuple(_group(stack)))
            case "SETITEM" | "SETITEMS" as name:
                _add(stack, _group(stack) if name == "SETITEMS" else [stack.pop() for _ in range(2)][::-1])
            case "APPEND" | "APPENDS" as name:
                values = _group(stack) if name == "APPENDS" else [stack.pop()]
                if not isinstance(stack[-1], list):
                    raise ValueError("an item outside of a list")
                stack[-1].extend(values)
            case name:
                _call(name, value, stack)
    result = stack.pop()
    if not isinstance(result, dict):
        raise ValueError("it is not a dict")
    return result


def _group(stack: list[Any]) -> list[Any]:
    """The values above the last mark."""
    place = len(stack) - 1
    while stack[place] is not _MARK:
        place -= 1
        if place < 0:
            raise ValueError("a group without a beginning")
    values = stack[place + 1 :]
    del stack[place:]
    return values


def _add(stack: list[Any], values: list[Any]) -> None:
    """Entries by names alone: hashing a tuple of tuples can take for ever, or overflow the stack."""
    entries = stack[-1]
    if not isinstance(entries, dict):
        raise ValueError("an entry outside of a dict")
    for name, value in zip(values[::2], values[1::2], strict=True):
        if not is_text(name) or name in entries:
            raise ValueError("an entry whose key is not a name" if not is_text(name) else f"{name!r:.200} twice")
        entries[name] = value


def _call(code: str, name: Any, stack: list[Any]) -> None:
    """The instructions by which a pickle names and calls: noted where they mean a tensor, else refused."""
    if code == "GLOBAL":
        if name not in _REBUILD and name not in STORAGES:
            raise ValueError(f"it names {name!r:.200}, which is not part of a tensor")
        stack.append(Name(name))
    elif code == "BINPERSID":
        kind, storage, key, _, count = stack.pop()
        if kind != "storage" or not isinstance(storage, Name) or not isinstance(key, str) or type(count) is not int:
            raise ValueError("a storage of an unknown form")
        stack.append(Storage(STORAGES[storage.name], key, count))
    elif code == "REDUCE":
        arguments, function = stack.pop(), stack.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is not a name")
        stack.append(_made(function.name, arguments))
    elif code == "BUILD":
        state = stack.pop()  # the versions of the modules, which torch keeps with the dict
        if not isinstance(stack[-1], dict) or not isinstance(state, dict) or set(state) - {"_metadata"}:
            raise ValueError("a state of something that is not a dict of tensors")
    else:
        raise ValueError(f"the instruction {code!r} is not one of a dict of tensors")


def _made(name: str, arguments: tuple[Any, ...]) -> Any:
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
