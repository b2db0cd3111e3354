"""Tables and texts as lines for the terminal."""

from collections.abc import Iterable, Sequence
from typing import Any


def numbered(sentences: Iterable[str]) -> list[str]:
    """Sentences with their numbers.

    Example:
        >>> numbered(["a cat", "a dog"])
        ['  0  a cat', '  1  a dog']
    """
    return [f"{i:3}  {sentence}" for i, sentence in enumerate(sentences)]


def matrix_lines(matrix: Any, digits: int = 4) -> list[str]:
    """A matrix with numbered rows and columns, and this many decimals.

    Example:
        >>> print(*matrix_lines([[1, 0.5], [0.5, 1]], digits=2), sep="|")
                0     1|  0   1.00  0.50|  1   0.50  1.00
    """
    cells = [[f"{value:.{digits}f}" for value in row] for row in matrix]
    width = max(len(cell) for row in cells for cell in row) + 2
    header = "   " + "".join(f"{column:{width}}" for column in range(len(cells[0])))
    return [header] + [f"{i:3}" + "".join(f"{cell:>{width}}" for cell in row) for i, row in enumerate(cells)]


def columns(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Rows of cells, aligned in columns.

    Example:
        >>> columns([["layers", 12], ["heads", 3]])
        ['layers  12', 'heads   3']
    """
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in texts]


def printable(text: str) -> str:
    """A text for a terminal: control characters, which could steer it, become spaces.

    Example:
        >>> printable("red\\x1b[31m\\ttext")
        'red [31m text'
    """
    return "".join(c if c.isprintable() or c == "\u200d" else " " for c in text)
