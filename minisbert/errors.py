"""The errors minisbert raises for bad input: one small tree.

Every message names the place (file, key, argument, row), the value found, what was expected, and what to do.
Each class also derives from the builtin that callers would reach for, so `except ValueError` keeps working.
"""

from typing import Any


class MinisbertError(Exception):
    """Base of every error that minisbert raises on purpose."""


class InputError(MinisbertError, ValueError):
    """An argument of a call is not what the call takes (a sentence that is not text, an unknown option)."""


class ModelFolderError(MinisbertError, ValueError):
    """A model folder (config, weights, tokenizer, modules) is missing something, lies, or asks for what we do not compute."""


class DownloadError(MinisbertError, OSError):
    """A model could not be fetched, or what was fetched is not what the catalog says it is."""


class WriteError(MinisbertError, OSError):
    """A model, an index or another file could not be written (a full disk, say); what stood there before still does."""


class DataError(MinisbertError, ValueError):
    """A data file (sentences, pairs, scores) is missing, malformed, or has a value out of range."""


class SearchError(DataError):
    """An index's folder is missing something, lies, or holds what is not searched here."""


class TrainingError(MinisbertError, RuntimeError):
    """A training run cannot go on, or cannot be resumed, without losing or spoiling something."""


class TrainingStopped(MinisbertError):
    """A training run was asked to stop (SIGTERM), saved its state and left; the same command goes on."""


def short_repr(value: Any) -> str:
    """The beginning of a value's repr, for messages; whatever the value is, this does not fail."""
    try:
        return f"{value!r:.100}"
    except Exception:
        return f"<{type(value).__name__}>"
