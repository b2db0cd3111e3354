"""What right results are known by: metamorphic, so that they hold for any library and any weights."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from battery import Gives

Check = Callable[[Any, Any], bool]


def close(a: Any, b: Any) -> bool:
    """Finite, of one shape, and equal to float32's rounding."""
    try:
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    except (TypeError, ValueError):
        return False
    return a.shape == b.shape and bool(np.isfinite(a).all()) and bool(np.allclose(a, b, rtol=1e-4, atol=2e-6))


def rows_of(texts: Sequence[str], **options: Any) -> Check:
    """Each row is the embedding of its text alone: the right one, in its place, not touched by its neighbours."""
    return lambda lib, result: close(result, np.stack([np.asarray(lib.encode(text, **options)) for text in texts]))


def like(text: str) -> Check:
    """One vector: the embedding of this text."""
    return lambda lib, result: close(result, lib.encode(text))


def embeds(*texts: str) -> Gives:
    """A list whose rows are these texts' embeddings."""
    return Gives(f"a row for each of {len(texts)} texts", rows_of(texts))


def embeds_as(text: str) -> Gives:
    """One text that is embedded as another is."""
    return Gives(f"the embedding of {text[:30]!r}", like(text))


def nothing(lib: Any, result: Any) -> bool:
    """No rows."""
    return len(result) == 0


def vector(lib: Any, result: Any) -> bool:
    """One finite embedding that is not zero."""
    array = np.asarray(result)
    return array.shape == (32,) and bool(np.isfinite(array).all()) and bool(np.abs(array).max() > 0)
