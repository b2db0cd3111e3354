"""What a run was given, as JSON for its checkpoint: a setting by its value, a function or object by its name and a digest.

The digest covers a function's source, defaults and what it closes over, and an object's class and attributes. So a run does
not resume with another function of the same name. What a function finds in its module's globals is not covered.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

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
    digest = hashlib.sha256()
    for part in _parts(value, set()):
        digest.update(part + b"\0")
    return {"name": name_of(value), "sha256": digest.hexdigest()}


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


def _parts(value: Any, seen: set[int]) -> Iterator[bytes]:
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
        array = np.asarray(value)
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
