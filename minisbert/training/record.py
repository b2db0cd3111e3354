"""The record of what a run was given, for its checkpoint: a value as it is, a function or object by its name and a digest.

The digest covers a function's source, defaults and what it closes over, and an object's class and attributes. So a run does
not resume with another function of the same name. What a function finds in its module's globals is not covered there; it is
in `as_now`, by which the runs of one process tell whether they may share a compiled step.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import jax
import numpy as np


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

    Numbers, texts and arrays there count, and functions and objects of the same module. The same function may compute something
    else in the next run of a process, whose compiled step must then be another one.

    Example:
        >>> box = {"margin": 1}
        >>> before = as_now(lambda x: x + box["margin"])
        >>> box["margin"] = 2
        >>> as_now(lambda x: x + box["margin"]) == before
        False
    """
    return _digest(value, with_globals=True)


def _digest(value: Any, *, with_globals: bool = False) -> str:
    digest = hashlib.sha256()
    for part in _parts(value, set(), with_globals):
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
    return f"{named.__module__}.{named.__qualname__}"


def _parts(value: Any, seen: set[int], with_globals: bool = False) -> Iterator[bytes]:
    """The bytes that tell a value from another one, the same in every process."""
    if value is None or isinstance(value, bool | int | float | str | bytes | np.generic):
        yield repr(value).encode()
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    yield name_of(value).encode()
    inside: list[Any] = []
    if hasattr(value, "__array__") and hasattr(value, "dtype"):
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
        inside = [one for one in vars(value).values() if inspect.isfunction(one)] if with_globals else []
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
        if with_globals:
            inside += [vars(value), *_globals(value)]
    elif is_dataclass(value):
        inside = [getattr(value, field.name) for field in fields(value)]
    elif hasattr(value, "__dict__") and not inspect.ismodule(value):
        inside = [type(value), vars(value)]
    for one in inside:
        yield from _parts(one, seen, with_globals)


def _globals(function: Any) -> Iterator[Any]:
    """What a function finds in its module's globals and may change between two runs."""
    codes = [function.__code__]
    for code in codes:
        codes += [one for one in code.co_consts if inspect.iscode(one)]
    for name in sorted({name for code in codes for name in code.co_names} & function.__globals__.keys()):
        value = function.__globals__[name]
        home = value if inspect.isfunction(value) or inspect.isclass(value) else type(value)
        data = isinstance(value, bool | int | float | str | bytes | tuple | list | dict) or hasattr(value, "__array__")
        if data or home.__module__ == function.__module__:
            yield value


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
