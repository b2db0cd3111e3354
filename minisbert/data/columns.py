"""Read a whole row file into memory by column, each value checked: sentences to embed, pairs and scores to evaluate on."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from minisbert.data.rows import RowFile
from minisbert.data.values import as_number, matching, text, warn_of_splits
from minisbert.errors import DataError


class Sentences(NamedTuple):
    """Sentences and the file they come from, so that errors can name the line."""

    texts: list[str]
    file: RowFile

    def filled(self) -> list[int]:
        """The numbers of the texts that are not blank."""
        return [row for row, text in enumerate(self.texts) if text.strip()]


def read_sentences(source: str, column: str = "text") -> Sentences:
    """All sentences of a file, in order; an empty line is an empty sentence.

    Args:
        source: a file of rows, or "-" for text on stdin.
        column: the key or column with the sentence; plain text has none.

    Raises:
        InputError: a kind of file that is not read here.
        DataError: the file is missing, damaged, not UTF-8, lacks the column, or a value is not text.
    """
    file = RowFile(source)
    return Sentences(list(_sentences(file, column)), file)


def read_classes(source: str, column: str) -> list[str]:
    """The classes of a file's rows, in order; a whole number is the class of this name. Raises as `read_sentences`."""
    return list(_sentences(RowFile(source), column, whole_numbers=True))


def stream_sentences(source: str, column: str = "text") -> Iterator[str]:
    """The same as a stream, for files larger than memory; an error is raised when its line is reached."""
    return _sentences(RowFile(source), column)


def _sentences(file: RowFile, column: str, *, whole_numbers: bool = False) -> Iterator[str]:
    name = file.first_of(column) if matching(column, file.header) else column
    return (
        str(value) if whole_numbers and isinstance(value, int) else text(value, column, place, blank=True)
        for place, (value,) in file.rows((name,))
    )


def read_columns(
    source: Any,
    texts: Sequence[str | Sequence[str]],
    number: str | Sequence[str] = (),
    as_value: Callable[[Any, str, str], float] = as_number,
) -> tuple[tuple[Any, ...], ...]:
    """The text columns of a file, and then its column of numbers.

    Args:
        source: a file of rows, or rows in memory, such as a pandas table.
        texts: the text columns; for each one name, or several possible ones, of which the first one present is used.
        number: the column of numbers, or several possible names, of which the first one present is used.
        as_value: checks and converts a number, given the value, its column and its place.

    Raises:
        InputError: a kind of file that is not read here.
        DataError: missing, damaged or empty; a column is missing; a value is not text or not a finite number.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "sts.tsv")
        ...     _ = file.write_text("sentence1\\tsentence2\\tscore\\nA dog.\\tA cat.\\t2.5\\n")
        ...     read_columns(file, ("sentence1", "sentence2"), ("score", "label"))
        (('A dog.',), ('A cat.',), (2.5,))
    """
    file = RowFile(source)
    wanted = [number, *texts] if number else texts
    columns = tuple(file.first_of(*([names] if isinstance(names, str) else names)) for names in wanted)
    columns = (*columns[1:], columns[0]) if number else columns
    checks: list[Callable[[Any, str, str], Any]] = [*[text] * len(texts), as_value]
    rows = [
        [check(value, column, place) for check, value, column in zip(checks, values, columns, strict=False)]
        for place, values in file.rows(columns)
    ]
    if not rows:
        raise DataError(f"{file.source}: no rows. Expected at least one; check the file.")
    warn_of_splits(file)
    return tuple(zip(*rows, strict=True))
