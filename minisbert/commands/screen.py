"""Prints untrusted text safely: control characters are escaped, so that a text cannot move the cursor or hide other text.

A sentence, a file name or a setting may hold a terminal's control sequences (ESC, C1) or marks that turn the reading order
around. They are shown as \\uXXXX, which JSON reads as the same character.
"""

import functools
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def escaped(text: str) -> str:
    """The text with its control characters as \\uXXXX; tabs and line ends stay.

    Example:
        >>> print(escaped("a\\x1b[2Jb"))
        a\\u001b[2Jb
    """
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class _Screen:
    """A text stream that escapes what is written to it."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(escaped(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def escaping(command: Callable[..., int]) -> Callable[..., int]:
    """The command with `escaped` output; its help, which tyro prints in colours, is not changed."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> int:
        with redirect_stdout(_Screen(sys.stdout)):
            return command(*args, **kwargs)

    return run
