"""The record of what a run was given, for its checkpoint: a value as it is, a function or object by its name and a digest.

The digest covers a function's source, defaults and what it closes over, and an object's class and attributes. So a run does
not resume with another function of the same name. What a function finds in its module's globals is not covered there; it is
in `as_now`, by which the runs of one process tell whether they may share a compiled step.
"""

import dis
import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

import jax
import numpy as np

from minisbert.checkpoint.convert import flatten
from minisbert.inference.callers import SETTINGS

_UNREADABLE = itertools.count()


def recorded(value: Any) -> Any:
    """A value as JSON: numbers and texts as they are, anything else as its name and digest.

    Example:
        >>> recorded((1, "a", {"b": None}))
        [1, 'a', {'b': None}]
        >>> recorded(sorted)["name"]
        'builtins.sorted'
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if type(value) in (tuple, list):
        return list(map(recorded, value))
    if isinstance(value, Mapping):
        return {str(key): recorded(one) for key, one in value.items()}
    return {"name": name_of(value), "sha256": _digest(value)}


def as_now(value: Any) -> str:
    """A digest of functions as they are at this moment, with what they find in their module's globals.

    The same function may compute something else in the next run of a process, whose compiled step must then be another one.
    Numbers, texts, arrays, functions, and tuples, lists and dicts of these are read; functions and classes of other modules
    count as they were imported, and anything else, such as an object, as changed each time.

    Example:
        >>> box = {"margin": 1}
        >>> before = as_now(lambda x: x + box["margin"])
        >>> box["margin"] = 2
        >>> as_now(lambda x: x + box["margin"]) == before
        False
    """
    try:
        return _digest(value, live=True)
    except Exception:  # also a deleted array
        return f"unreadable {next(_UNREADABLE)}"


def _digest(value: Any, *, live: bool = False) -> str:
    digest = hashlib.sha256()
    for part in _parts(value, {}, live):
        digest.update(part + b"\0")
    return digest.hexdigest()


def weights_digest(params: Mapping[Any, Any]) -> str:
    """sha256 of all parameters: which model a run starts from. With LoRA its checkpoints hold the adapters alone."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten(params).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def name_of(value: Any) -> str:
    """The full name of a function or class, or of an object's class.

    Example:
        >>> name_of(hashlib.sha256), name_of(partial(sorted))
        ('_hashlib.openssl_sha256', 'builtins.sorted')
    """
    if isinstance(value, str):
        return value
    while isinstance(value, partial):
        value = value.func
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', 'builtins')}.{named.__qualname__}"  # str.upper has no module


def _parts(value: Any, seen: dict[int, int], live: bool) -> Iterator[bytes]:
    """The bytes that tell a value from another one. Unless `live`, they never change: checkpoints have their digest."""
    if value is None or isinstance(value, bool | int | float | str | bytes | np.generic):
        yield repr(value).encode()
        return
    if id(value) in seen:
        if live:
            yield f"again {seen[id(value)]}".encode()
        return
    seen[id(value)] = len(seen)
    yield name_of(value).encode()
    inside: list[Any] = []
    if hasattr(value, "__array__") and hasattr(value, "dtype") and not inspect.isclass(value):
        if hasattr(value, "detach"):  # a tensor of torch
            value = value.detach().float().cpu()
        key = isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(value) if key else value)
        yield f"{array.dtype} {array.shape}".encode() + array.tobytes()
    elif isinstance(value, Mapping):
        inside = [*value.keys(), *value.values()]
    elif hasattr(value, "pretrained"):  # a model
        settings = [getattr(value, name, None) for name in SETTINGS]
        inside = [repr(value), *settings, weights_digest(value.pretrained.params)]
    elif isinstance(value, tuple | list):
        inside = list(value)
    elif hasattr(value, "state_dict") and not inspect.isclass(value):  # of torch
        inside = [repr(value), value.state_dict()]
    elif isinstance(value, partial):
        inside = [value.func, value.args, value.keywords]
    elif inspect.isclass(value):
        if live:  # only of the module of a function
            kinds = [kind for kind in value.__mro__ if kind.__module__ == value.__module__]
            attributes = [one for kind in kinds for name, one in vars(kind).items() if name[:2] != "__"]
            inside = [one for one in attributes if not inspect.isdatadescriptor(one)]  # which are for objects
        else:
            yield _source(value)
    elif inspect.ismethod(value):
        inside = [value.__func__, value.__self__]
    elif live and inspect.isbuiltin(value):
        inside = [value.__self__]
    elif hasattr(value, "__wrapped__"):  # of jax.jit, functools.wraps, lru_cache
        inside = [value.__wrapped__]
    elif inspect.isfunction(value):
        # Code objects compare by their content, that of inner functions too.
        yield str(hash(value.__code__)).encode() if live else _source(value)
        inside = [value.__defaults__, value.__kwdefaults__]
        for cell in value.__closure__ or ():
            try:
                inside.append(cell.cell_contents)
            except ValueError:  # not assigned yet
                continue
        if live:
            inside = [vars(value), *(_named(one, value.__module__) for one in [*inside, *_globals(value)])]
    elif live and not (inspect.ismodule(value) or isinstance(value, np.dtype)):
        raise TypeError(f"{name_of(value)} is not read")
    elif is_dataclass(value):
        inside = [getattr(value, field.name) for field in fields(value)]
    elif hasattr(value, "__dict__") and not inspect.ismodule(value):
        inside = [type(value), vars(value)]
    if live:
        yield str(len(inside)).encode()
    for one in inside:
        yield from _parts(one, seen, live)


def _globals(function: Any) -> list[Any]:
    """What a function and those inside it find in its module's globals."""
    codes, names = [function.__code__], set()
    for code in codes:
        codes += filter(inspect.iscode, code.co_consts)
        names |= {line.argval for line in dis.get_instructions(code) if line.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return [function.__globals__[name] for name in sorted(names & function.__globals__.keys())]


def _named(value: Any, module: str) -> Any:
    """The name of a function or class of another module that closes over nothing; any other value unchanged."""
    here = getattr(value, "__module__", None) == module or getattr(value, "__closure__", None)
    return value if here or not (callable(value) and hasattr(value, "__qualname__")) else name_of(value)


def _source(value: Callable[..., Any] | type) -> bytes:
    try:
        return inspect.getsource(value).encode()
    except (OSError, TypeError):  # typed into an interpreter, or compiled
        code = getattr(value, "__code__", None)
        if code is None:
            return b""
        return bytes(code.co_code) + repr([c for c in code.co_consts if not hasattr(c, "co_code")]).encode()
