"""The errors that minisbert raises for bad input, and how they show a value.

Every message names the place (file, key, argument, row), the value found, what was expected, and what to do.
Each class also derives from the builtin that callers would expect, so `except ValueError` keeps working.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class MinisbertError(Exception):
    """Base class of every error that minisbert raises on purpose."""


class InputError(MinisbertError, ValueError):
    """An argument has a wrong type or value (a sentence that is not text, an unknown option)."""


class ModelFolderError(MinisbertError, ValueError):
    """A model folder (config, weights, tokenizer, modules) is incomplete, inconsistent, or needs something unsupported."""


class DownloadError(MinisbertError, OSError):
    """A model could not be downloaded, or a downloaded file does not match its digest."""


class WriteError(MinisbertError, OSError):
    """A file could not be written (a full disk, for example); the previous version is intact."""


class DataError(MinisbertError, ValueError):
    """A data file (sentences, pairs, scores) is missing, malformed, or has a value out of range."""


class SearchError(DataError):
    """The folder of an index is incomplete, inconsistent, or of an unsupported kind."""


class TrainingError(MinisbertError, RuntimeError):
    """A training run cannot continue or resume without losing or corrupting something."""


class TrainingStopped(MinisbertError):
    """A training run was asked to stop (SIGTERM) and has saved its state; the same command resumes it."""


def short_repr(value: Any) -> str:
    """The beginning of a value's repr, for messages; whatever the value is, this does not fail."""
    try:
        return f"{value!r:.100}"
    except Exception:
        return f"<{type(value).__name__}>"


def folder_error(where: Any, found: str, expected: str, remedy: str = "download the model again") -> ModelFolderError:
    """The error for a model folder: `where: found. Expected ...; remedy.`"""
    return ModelFolderError(f"{where}: {found}. Expected {expected}; {remedy}.")


@contextmanager
def needs(what: str, extra: str, instead: str = "") -> Iterator[None]:
    """Turn a failed import of an optional library into an InputError: what needs it, the extra that has it, what else helps."""
    try:
        yield
    except ImportError:
        instead = f", or {instead}" if instead else ""
        raise InputError(f"{what}, which is not installed. Run `pip install 'minisbert[{extra}]'`{instead}.") from None
