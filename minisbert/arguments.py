"""Checks of what callers pass in, done once at the edge; inside, everything is what it seems."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minisbert.errors import InputError
from minisbert.text.tokenizer import check_sentences


def as_list(sentences: Any) -> tuple[list[str], bool]:
    """The sentences as a list of text, and whether there was just one string.

    Raises:
        InputError: not text, or an item that is not.
    """
    if isinstance(sentences, str):
        check_sentences([sentences])
        return [sentences], True
    one_dimensional = isinstance(sentences, np.ndarray) and sentences.ndim == 1
    if one_dimensional or type(sentences).__module__.startswith("pandas"):
        sentences = sentences.tolist()
    if not isinstance(sentences, list | tuple):
        raise InputError(
            f"sentences is {sentences!r:.100} ({type(sentences).__name__}). Expected a string or a list of strings."
        )
    check_sentences(sentences)
    return list(sentences), False


def positive(name: str, value: Any) -> int:
    """A whole number of at least 1.

    Raises:
        InputError: naming the argument and its value.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is {value!r}. Expected a whole number of at least 1.")
    return int(value)


def one_of(name: str, value: Any, choices: Sequence[Any]) -> None:
    """One of a table of values.

    Raises:
        InputError: naming the argument, its value and the choices.
    """
    if not isinstance(value, str | None) or value not in choices:
        raise InputError(f"{name} is {value!r:.100}. Expected one of {', '.join(map(repr, choices))}.")


def embedding_rows(name: str, value: Any) -> np.ndarray:
    """Embeddings as finite float32 rows; one vector becomes one row.

    Raises:
        InputError: naming the argument, and the row that holds NaN or infinity.
    """
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r:.100}. Expected embeddings, an array of numbers.") from None
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise InputError(f"{name} has shape {array.shape}. Expected one embedding or rows of embeddings.")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise InputError(f"{name}[{row}] holds NaN or infinity. Expected finite embeddings; encode the text again.")
    return array


def comparable(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of embeddings of one width.

    Raises:
        InputError: see `embedding_rows`; or different widths.
    """
    a_BD, b_MD = embedding_rows("a", a), embedding_rows("b", b)
    if a_BD.shape[1] != b_MD.shape[1]:
        raise InputError(
            f"a is {a_BD.shape[1]} wide, b {b_MD.shape[1]}. Expected embeddings of one model (and truncate_dim)."
        )
    return a_BD, b_MD
