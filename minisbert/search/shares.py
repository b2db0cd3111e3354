"""Several devices, one search: which of them compares which rows of a corpus.

rows = jax.device_put(embeddings, NamedSharding(mesh, PartitionSpec("data")))    # a mesh: each searches what it holds
rows = embeddings, or the name of a .npy file                                    # chunks are dealt out to all devices
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from minisbert.errors import InputError
from minisbert.search.vectors import Vectors

SMALLEST = 256  # rows of a chunk that is not halved again


class Share(NamedTuple):
    """What one device has to do with a corpus."""

    device: Any  # None: wherever JAX computes by default, or where the rows are
    first: int  # where in the corpus its vectors begin
    vectors: Vectors


@dataclass(frozen=True)
class Shares:
    """The shares of all devices.

    Args:
        all: one a device.
        dealt: whether they have the same vectors and take chunks in turn, or each has its own.

    Example:
        >>> shares = Shares.of(Vectors.of(np.zeros((5, 2), np.float32)))
        >>> [(first, count) for _, first, _, count in shares.chunks(size=2)]
        [(0, 2), (2, 2), (4, 1)]
    """

    all: tuple[Share, ...]
    dealt: bool

    @staticmethod
    def of(corpus: Vectors) -> "Shares":
        """By where the rows are now.

        Raises:
            InputError: in the memories of several processes.
        """
        rows = corpus.rows
        if isinstance(rows, jax.Array):
            if not rows.is_fully_addressable:
                raise InputError(
                    "corpus is spread over several processes, and not all of it can be reached. Expected rows of this "
                    "process; search them in each and put the best together."
                )
            whole = [part for part in rows.addressable_shards if part.replica_id == 0]
            if len(whole) == 1:
                return Shares((Share(None, 0, replace(corpus, rows=whole[0].data)),), dealt=False)
            if all(part.data.shape[1] == rows.shape[1] for part in whole):
                own = [Share(p.device, p.index[0].start or 0, replace(corpus, rows=p.data)) for p in whole]
                return Shares(tuple(own), dealt=False)
            corpus = replace(corpus, rows=np.asarray(rows))  # the rows themselves are cut: from here on one array
        devices = jax.local_devices()
        if len(devices) == 1 or jax.config.jax_default_device is not None:  # type: ignore[attr-defined]
            return Shares((Share(None, 0, corpus),), dealt=False)
        return Shares(tuple(Share(device, 0, corpus) for device in devices), dealt=True)

    @property
    def most_rows(self) -> int:
        """Rows that one device compares, at the most."""
        most = max(share.vectors.shape[0] for share in self.all)
        return -(-most // len(self.all)) if self.dealt else most

    def chunks(self, size: int) -> Iterator[tuple[Any, int, Any, int]]:
        """The devices in turn: device, the chunk's first row in the corpus, its rows, how many of them are real.

        All have `size` rows, or at the end a half, a quarter, ... of them: few shapes to compile, and little filling.
        """
        apart = size if self.dealt else 0
        step = size * len(self.all) if self.dealt else size
        for turn in range(0, max(share.vectors.shape[0] for share in self.all), step):
            for place, share in enumerate(self.all):
                start = turn + place * apart
                if start < share.vectors.shape[0]:
                    fitting = size
                    while fitting > SMALLEST and fitting // 2 >= share.vectors.shape[0] - start:
                        fitting //= 2
                    part, count = share.vectors.part(start, fitting)
                    yield share.device, share.first + start, part, count
