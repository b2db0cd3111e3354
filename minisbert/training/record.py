"""The record of what a run was given, for its checkpoint: a value as it is, a function or object by its name and a digest.

The digest covers a function's source, defaults and what it closes over, and an object's class and attributes. So a run does
not resume with another function of the same name. What a function finds in its module's globals is not covered there; it is
in `as_now`, by which the runs of one process tell whether they may share a compiled step.
"""

import dis
import hashlib
import inspect
import itertools
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

_UNREADABLE = itertools.count()
# Packages whose compiled types are read as a pickle has them; a table of pyarrow may have gigabytes.
_SMALL = {*sys.stdlib_module_names, "numpy", "jax", "jaxlib"}


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
    if type(value) in (tuple, list):
        return [recorded(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): recorded(one) for key, one in value.items()}
    return {"name": name_of(value), "sha256": _digest(value)}


def as_now(value: Any) -> str:
    """A digest of functions and objects as they are at this moment, with what functions find in their module's globals.

    Numbers, texts, arrays and objects there count, and functions and classes of the same module. The same function may compute
    something else in the next run of a process, whose compiled step must then be another one. What cannot be read, such as a
    deleted array, counts as changed.

    Example:
        >>> box = {"margin": 1}
        >>> before = as_now(lambda x: x + box["margin"])
        >>> box["margin"] = 2
        >>> as_now(lambda x: x + box["margin"]) == before
        False
    """
    digest = hashlib.sha256()
    try:
        for part in _live_parts(value):
            digest.update(part)
            digest.update(b"\0")
    except Exception:
        return f"unreadable {next(_UNREADABLE)}"
    return digest.hexdigest()


def _digest(value: Any) -> str:
    digest = hashlib.sha256()
    for part in _parts(value, set()):
        digest.update(part + b"\0")
    return digest.hexdigest()


def recorded_settings(config: Any) -> dict[str, Any]:
    """The fields of a dataclass, each `recorded`."""
    return {field.name: recorded(getattr(config, field.name)) for field in fields(config)}


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


def _parts(value: Any, seen: set[int]) -> Iterator[bytes]:
    """The bytes that tell a value from another one, the same in every process and version: a checkpoint has their digest."""
    if value is None or isinstance(value, bool | int | float | str | bytes | np.generic):
        yield repr(value).encode()
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    yield name_of(value).encode()
    inside: list[Any] = []
    if hasattr(value, "__array__") and hasattr(value, "dtype") and not inspect.isclass(value):
        key = isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(value) if key else value)
        yield f"{array.dtype} {array.shape}".encode() + array.tobytes()
    elif isinstance(value, Mapping):
        inside = [*value.keys(), *value.values()]
    elif isinstance(value, tuple | list):
        inside = list(value)
    elif isinstance(value, partial):
        inside = [value.func, value.args, value.keywords]
    elif inspect.isclass(value):
        yield _source(value)
    elif inspect.ismethod(value):
        inside = [value.__func__, value.__self__]
    elif hasattr(value, "__wrapped__"):  # of jax.jit, functools.wraps, lru_cache
        inside = [value.__wrapped__]
    elif inspect.isfunction(value):
        yield _source(value)
        inside = [value.__defaults__, value.__kwdefaults__]
        for cell in value.__closure__ or ():
            try:
                inside.append(cell.cell_contents)
            except ValueError:  # not assigned yet
                continue
    elif is_dataclass(value):
        inside = [getattr(value, field.name) for field in fields(value)]
    elif hasattr(value, "__dict__") and not inspect.ismodule(value):
        inside = [type(value), vars(value)]
    for one in inside:
        yield from _parts(one, seen)


def _live_parts(value: Any) -> Iterator[bytes]:
    """The bytes that tell a value from what it was before in this process."""
    # id -> its place, and the value, which stays alive so that no other has its id.
    seen: dict[int, tuple[int, Any]] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if one is None or isinstance(one, bool | int | float | complex | str | bytes | np.generic):
            yield repr(one).encode()
            continue
        if id(one) in seen:
            yield f"again {seen[id(one)][0]}".encode()
            continue
        seen[id(one)] = len(seen), one
        inside = _inside(one)
        yield f"{name_of(one)} {len(inside)}".encode()
        waiting += reversed(inside)


def _inside(value: Any) -> list[Any]:
    """What a value consists of, as it is now."""
    if hasattr(value, "__array__") and hasattr(value, "dtype") and not inspect.isclass(value):
        key = isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(value) if key else value)
        if array.dtype.hasobject:
            return [array.shape, array.tolist()]
        content: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return [str(array.dtype), array.shape, hashlib.sha256(content).digest()]
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, tuple | list | deque):
        return list(value)
    if isinstance(value, set | frozenset):
        return sorted(map(as_now, value))
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords, vars(value)]
    if inspect.ismodule(value) or isinstance(value, logging.Logger):
        return []
    if inspect.isclass(value):
        own = [pair for pair in vars(value).items() if pair[0][:2] != "__" or hasattr(pair[1], "__get__")]
        return [*own, *(base for base in value.__bases__ if base.__module__ == value.__module__)]
    if inspect.ismethod(value):
        return [value.__func__, value.__self__]
    if inspect.isfunction(value):
        return _inside_function(value)
    if isinstance(value, property):
        return [value.fget]
    if hasattr(value, "__wrapped__"):  # of jax.jit, functools.lru_cache, a static method
        return [value.__wrapped__]
    if inspect.isroutine(value):  # of a compiled module
        return [getattr(value, "__self__", None)]
    members = [vars(kind).items() for kind in type(value).__mro__]
    slots = [name for name, one in itertools.chain(*members) if inspect.ismemberdescriptor(one)]
    if hasattr(value, "__dict__") or slots:
        return [type(value), getattr(value, "__dict__", {}), *(getattr(value, name, None) for name in slots)]
    if type(value).__module__.partition(".")[0] not in _SMALL:
        return []
    try:
        return list(value.__reduce_ex__(4))  # as for a pickle: re.compile, range
    except TypeError:  # such as a lock
        return []


def _inside_function(function: Any) -> list[Any]:
    """Its code, defaults, what it closes over, its attributes, and what it finds in its module's globals."""
    codes, names = [function.__code__], set()
    inside: list[Any] = [function.__defaults__, function.__kwdefaults__, vars(function)]
    for code in codes:
        codes += filter(inspect.iscode, code.co_consts)
        inside += [code.co_code, code.co_names, repr([one for one in code.co_consts if not inspect.iscode(one)])]
        names |= {line.argval for line in dis.get_instructions(code) if line.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for cell in function.__closure__ or ():
        try:
            inside.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            inside.append("not assigned")
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        # Functions of other modules are as they were imported, unless they close over something.
        fixed = inspect.isclass(value) or (callable(value) and hasattr(value, "__qualname__"))
        if not fixed or value.__module__ == function.__module__ or getattr(value, "__closure__", None):
            inside += [name, value]
    return inside


def _source(value: Callable[..., Any] | type) -> bytes:
    try:
        return inspect.getsource(value).encode()
    except (OSError, TypeError):  # typed into an interpreter, or compiled
        code = getattr(value, "__code__", None)
        return (
            b""
            if code is None
            else code.co_code + repr([c for c in code.co_consts if not hasattr(c, "co_code")]).encode()
        )
