"""Reading a JSON file of settings without trusting it: typed, bounded, every complaint collected before any is raised.

A `Settings` is read key by key; each key that is missing or wrong is noted, and `finish()` raises one
`ModelFolderError` that names them all. Nothing in a file is ever imported or called: a name is looked up in a table.
"""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from minisbert import limits
from minisbert.errors import ModelFolderError

_MISSING = object()


def read_bytes(path: Path) -> bytes:
    """The content of a settings or vocabulary file.

    Raises:
        ModelFolderError: the file is missing, no file, not readable, or larger than `limits.JSON_BYTES`.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelFolderError(f"{path}: expected a file, found something else. Check the model folder.")
        if size > limits.JSON_BYTES:
            raise ModelFolderError(
                f"{path}: {size} bytes, more than the {limits.JSON_BYTES} that a settings file may have. "
                "The file is damaged or not a model's; fetch the model again."
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelFolderError(
            f"{path}: no such file. Expected a sentence-transformers or Hugging Face model folder; check the path or "
            "fetch the model again."
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, ModelFolderError):
            raise
        raise ModelFolderError(f"{path}: not readable ({error}). Check the model folder.") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ModelFolderError: see `read_bytes`; not UTF-8, or not JSON.
    """
    content = read_bytes(path)
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(
            f"{path}: not readable as JSON ({error}). Expected UTF-8 JSON; fetch the model again."
        ) from None


def encodable(text: str) -> bool:
    """Whether it is valid Unicode; JSON can spell lone surrogates, which nothing can write or tokenize."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Settings:
    """One JSON object, read key by key; complaints are collected and raised together by `finish()`."""

    def __init__(self, values: Any, where: Path | str):
        if not isinstance(values, dict):
            raise ModelFolderError(
                f"{where}: the file holds a {type(values).__name__}, expected a JSON object {{...}}. "
                "Fetch the model again."
            )
        self.values: dict[str, Any] = values
        self.where = where
        self.complaints: list[str] = []

    def complain(self, key: str, expected: str) -> None:
        """Note that `key` is not as expected; raised by `finish()`."""
        found = f"is {self.values[key]!r:.200}" if key in self.values else "is missing"
        self.complaints.append(f"{key!r} {found}; expected {expected}")

    def _value(self, key: str, default: Any, expected: str) -> Any:
        value = self.values.get(key, default)
        if value is _MISSING:
            self.complain(key, expected)
        return value

    def integer(self, key: str, *, at_least: int, at_most: int, default: Any = _MISSING) -> int:
        """A whole number within bounds."""
        expected = f"a whole number from {at_least} to {at_most}"
        value = self._value(key, default, expected)
        if value is _MISSING:
            return at_least
        if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= at_most:
            self.complain(key, expected)
            return at_least
        return value

    def number(self, key: str, *, at_least: float, below: float, default: Any = _MISSING) -> float:
        """A finite number within bounds."""
        expected = f"a number from {at_least} up to {below}"
        value = self._value(key, default, expected)
        if value is _MISSING:
            return at_least
        if not isinstance(value, int | float) or isinstance(value, bool):
            self.complain(key, expected)
            return at_least
        if not at_least <= value < below:  # false for NaN; comparing takes whole numbers of any size
            self.complain(key, expected)
            return at_least
        return float(value)

    def flag(self, key: str, *, default: Any = _MISSING) -> bool:
        """true or false."""
        value = self._value(key, default, "true or false")
        if value is not _MISSING and not isinstance(value, bool):
            self.complain(key, "true or false")
            return False
        return value is True

    def choice(self, key: str, choices: Collection[Any], *, default: Any = _MISSING, why: str = "") -> Any:
        """One of a table of known values; anything else would be computed wrongly, so it is refused."""
        expected = "one of " + ", ".join(sorted(repr(choice) for choice in choices)) + (f" ({why})" if why else "")
        value = self._value(key, default, expected)
        if value is _MISSING or (isinstance(value, list | dict)) or value not in choices:
            if value is not _MISSING:
                self.complain(key, expected)
            return next(iter(choices))
        return value

    def text(self, key: str, *, default: Any = _MISSING) -> str:
        """A string (or None, where that is the default)."""
        value = self._value(key, default, "a string")
        if value is _MISSING or (value is None and default is None):
            return None if value is None else ""  # type: ignore[return-value]
        if not isinstance(value, str) or not encodable(value):
            self.complain(key, "a string")
            return ""
        return value

    def absent(self, keys: Iterable[str], why: str) -> None:
        """Keys that must not be set: what they ask for is not computed here."""
        for key in keys:
            if self.values.get(key) not in (None, False, [], {}):
                self.complain(key, f"no such setting, because {why}")

    def known(self, keys: Collection[str]) -> None:
        """No key but these: an unknown key might change what the model computes."""
        for key in self.values:
            if key not in keys:
                self.complain(
                    key, "no such setting: it is not known to minisbert, and guessing could change the result"
                )

    def finish(self) -> None:
        """Raise one error that names every complaint, if there is any."""
        if self.complaints:
            raise ModelFolderError(
                f"{self.where}: "
                + "; ".join(self.complaints)
                + ". Use a model that minisbert computes, or correct the file."
            )
