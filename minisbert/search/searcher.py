"""The interface that Index, BM25, Hybrid and Reranked share: `search(queries, k)`, hits, ids and texts."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from minisbert.arguments import check_text
from minisbert.errors import InputError, short_repr


class Hit(NamedTuple):
    """A row that was found."""

    id: str | int
    score: float
    text: str | None = None


class Searcher(Protocol):
    """Anything that finds texts."""

    def search(self, queries: Any, k: int = 10) -> Any:
        """A list of `Hit`, best first; for several queries a list of such lists."""


def are_texts(items: Any) -> bool:
    """Whether items are texts to embed; one string among numbers counts as texts, and the numbers are then rejected.

    Example:
        >>> are_texts(["a", "b"]), are_texts([[0.5, 1.0]])
        (True, False)
    """
    if isinstance(items, np.ndarray):
        return items.dtype.kind in "UOT"
    return isinstance(items, str) or (isinstance(items, list | tuple) and any(isinstance(x, str) for x in items))


def checked_ids(ids: Sequence[str | int] | None, count: int, known: set[str | int]) -> list[str | int]:
    """`ids` as str and int, each once; None numbers the rows, continuing after the known ones.

    Raises:
        InputError: the number of ids differs from that of the rows, or an id has another type or is already known.

    Example:
        >>> checked_ids(["a", np.int32(7)], 2, known=set()), checked_ids(None, 2, known={"a"})
        (['a', 7], [1, 2])
    """
    ids = range(len(known), len(known) + count) if ids is None else ids
    if not isinstance(ids, Iterable):
        raise InputError(f"ids is {short_repr(ids)}. Expected a list of strings or whole numbers.")
    found = [int(id_) if isinstance(id_, np.integer) else id_ for id_ in ids]
    if len(found) != count:
        raise InputError(f"ids has {len(found)} items, there are {count} rows. Expected the same number of each.")
    seen: set[str | int] = set()
    for row, id_ in enumerate(found):
        name = f"ids[{row}] is {short_repr(id_)}"
        if isinstance(id_, bool) or not isinstance(id_, str | int):
            raise InputError(f"{name} ({type(id_).__name__}). Expected a string or a whole number.")
        if isinstance(id_, str):
            check_text(f"ids[{row}]", id_)
        if id_ in known or id_ in seen:
            raise InputError(f"{name}, which is already in the index. Expected each id once.")
        seen.add(id_)
    return found
