"""What is given to an index, checked before anything is kept of it."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from minisbert.arguments import check_text
from minisbert.errors import InputError, short_repr


def are_texts(items: Any) -> bool:
    """Whether they are to be embedded first; one text among numbers makes all of them texts, to be refused as such.

    Example:
        >>> are_texts(["a", "b"]), are_texts([[0.5, 1.0]])
        (True, False)
    """
    if isinstance(items, str):
        return True
    if isinstance(items, np.ndarray):
        return items.dtype.kind in "UO"
    return isinstance(items, list | tuple) and any(isinstance(item, str) for item in items)


def checked_ids(ids: Sequence[str | int], count: int, known: set[str | int]) -> list[str | int]:
    """`ids` as text and Python's whole numbers.

    Raises:
        InputError: not as many as rows, of another type, or known already.
    """
    if not isinstance(ids, Iterable):
        raise InputError(f"ids is {short_repr(ids)}. Expected a list of texts or whole numbers.")
    found = [int(one) if isinstance(one, np.integer) else one for one in ids]
    if len(found) != count:
        raise InputError(f"ids has {len(found)} items, there are {count} rows. Expected equally many.")
    seen: set[str | int] = set()
    for row, one in enumerate(found):
        if isinstance(one, bool) or not isinstance(one, str | int):
            raise InputError(
                f"ids[{row}] is {short_repr(one)} ({type(one).__name__}). Expected text or a whole number."
            )
        if isinstance(one, str):
            check_text(f"ids[{row}]", one)
        if one in known or one in seen:
            raise InputError(
                f"ids[{row}] is {short_repr(one)}, which is there already. Expected each id once in the index."
            )
        seen.add(one)
    return found
