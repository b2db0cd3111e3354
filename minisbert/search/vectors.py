"""The vectors of a corpus (arrays in memory or on devices, and .npy files), and which device searches which rows.

    Vectors.of(embeddings)                     # NumPy (np.memmap too) or JAX
    Vectors.of("embeddings.npy")               # a file larger than memory, read in parts
    Vectors(codes, "int8", ranges_2D)          # quantized, see quantization.py

A JAX array sharded by rows over a mesh is searched in place: each device compares the rows it holds. Chunks of any other
corpus go to all local devices in turn. exact.py checks that values are finite when it compares them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisbert.arguments import no_rows
from minisbert.errors import DataError, InputError, short_repr

Array = Any  # numpy.ndarray or jax.Array
# precision -> (kinds of dtype, dimensions per stored value)
STORED = {"float32": ("f", 1), "int8": ("i", 1), "binary": ("i", 8)}
SMALLEST = 256  # rows of a chunk that is not halved again


class NpyFile:
    """The rows of a .npy file, mapped again for each part, so that parts already read do not stay in memory.

    The file stays open, so replacing it on disk does not affect a search. Raises DataError: the file is missing, or not a
    complete .npy file of rows in C order.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self._file = self.path.open("rb")
            version = np.lib.format.read_magic(self._file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            self.shape, fortran, self.dtype = read(self._file)
            self._offset = self._file.tell()
            size = self.path.stat().st_size
        except FileNotFoundError:
            raise DataError(f"{path}: no such file. Expected a .npy file of embeddings; check the path.") from None
        except Exception as error:  # a damaged header can raise anything that Python's parser and tokenizer raise
            raise DataError(f"{path}: cannot be read ({error}). Expected a .npy file; write it again.") from None
        if len(self.shape) != 2 or min(self.shape) < 0 or fortran or self.dtype.hasobject:
            raise DataError(
                f"{path}: holds {self.dtype} {list(self.shape)}{', in Fortran order' if fortran else ''}. Expected rows of "
                "numbers in C order; write np.ascontiguousarray(embeddings)."
            )
        expected = self._offset + int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize
        if size < expected:
            raise DataError(f"{path}: has {size} bytes. Expected {expected}, as its header says; write it again.")

    def __getitem__(self, rows: Any) -> np.ndarray:
        mapped: np.ndarray
        if self.shape[0] and self.shape[1]:
            mapped = np.memmap(self._file, self.dtype, "r", self._offset, self.shape)
        else:  # an empty file cannot be mapped
            mapped = np.empty(self.shape, self.dtype)
        return np.array(mapped[rows])


@dataclass(frozen=True)
class Vectors:
    """Rows to search, `[M, D]`, as they are stored: an array or a NpyFile.

    Args:
        precision: "float32" (any floating-point dtype), "int8", or "binary" (eight dimensions per int8).
        ranges_2D: lowest and highest value of each dimension, for int8.

    Raises:
        InputError: the rows have another precision, or are not a matrix.
    """

    rows: Any
    precision: str = "float32"
    ranges_2D: np.ndarray | None = None

    def __post_init__(self) -> None:
        kinds, _ = STORED[self.precision]
        shape, dtype = self.rows.shape, np.dtype(self.rows.dtype)
        if len(shape) != 2 or shape[1] == 0 or (dtype.kind not in kinds and dtype.name != "bfloat16"):
            raise InputError(
                f"corpus is {dtype} {list(shape)}. Expected rows of floating-point embeddings, [rows, width]; search "
                "quantized ones with an Index."
            )

    @staticmethod
    def of(corpus: Any) -> "Vectors":
        """Embeddings as callers pass them: an array, or the name of a .npy file.

        Example:
            >>> Vectors.of(np.zeros((3, 2), np.float32)).shape
            (3, 2)
        """
        if isinstance(corpus, Vectors):
            return corpus
        if isinstance(corpus, str | Path):
            return Vectors(NpyFile(corpus))
        if no_rows(corpus):
            raise InputError("corpus is empty. Expected rows of embeddings, at least one.")
        is_jax = hasattr(corpus, "addressable_shards")
        if not is_jax and not isinstance(corpus, np.ndarray | NpyFile):
            try:
                corpus = np.asarray(corpus)
            except ValueError:  # rows of different widths
                raise InputError(
                    f"corpus is {short_repr(corpus)}. Expected rows of embeddings, all of one width."
                ) from None
        return Vectors(corpus)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions, unpacked."""
        return self.rows.shape[0], self.rows.shape[1] * STORED[self.precision][1]

    @property
    def on_host(self) -> bool:
        """Whether the rows are in memory or in a file, and not JAX's."""
        return isinstance(self.rows, np.ndarray | NpyFile)

    def part(self, first: int, size: int) -> tuple[Any, int]:
        """Rows `first` to `first + size`, padded with zeros to that size, and how many of them are real."""
        part = self.rows[first : first + size]
        count = part.shape[0]
        if count < size:
            xp = part.__array_namespace__()
            part = xp.concatenate([part, xp.zeros((size - count, part.shape[1]), part.dtype)])
        return part, count


class Share(NamedTuple):
    """The share of one device: all chunks of its vectors, or every `of`-th, starting with number `turn`."""

    device: Any  # None: where the rows are, or where JAX computes by default
    vectors: Vectors
    first: int = 0  # the row of the corpus at which its vectors begin
    turn: int = 0
    of: int = 1

    @property
    def most_rows(self) -> int:
        """The largest number of rows that the device compares."""
        return -(-self.vectors.shape[0] // self.of)


def device_shares(corpus: Vectors) -> list[Share]:
    """One share per device. Raises InputError: the rows are spread over several processes."""
    import jax

    rows = corpus.rows
    if isinstance(rows, jax.Array):
        if not rows.is_fully_addressable:
            raise InputError(
                "corpus is spread over several processes, and this process cannot read all of it. Expected rows of this "
                "process; search in each process and merge the results."
            )
        shards = [shard for shard in rows.addressable_shards if shard.replica_id == 0]
        if len(shards) == 1:
            return [Share(None, replace(corpus, rows=shards[0].data))]
        if all(shard.data.shape[1] == rows.shape[1] for shard in shards):
            return [Share(s.device, replace(corpus, rows=s.data), s.index[0].start or 0) for s in shards]
        corpus = replace(corpus, rows=np.asarray(rows))  # sharded by columns: gathered into one array
    devices = jax.local_devices()
    if len(devices) == 1 or jax.config.jax_default_device is not None:  # type: ignore[attr-defined]
        return [Share(None, corpus)]
    return [Share(device, corpus, turn=i, of=len(devices)) for i, device in enumerate(devices)]


def device_chunks(shares: list[Share], size: int) -> Iterator[tuple[Any, int, Any, int]]:
    """Yield chunks for the devices in turn: the device, the chunk's first row in the corpus, its rows, how many are real.

    A chunk has `size` rows, the last one a half, a quarter, ... of that: few shapes to compile, and little padding.

    Example:
        >>> shares = device_shares(Vectors.of(np.zeros((5, 2), np.float32)))
        >>> [(first, count) for _, first, _, count in device_chunks(shares, size=2)]
        [(0, 2), (2, 2), (4, 1)]
    """
    for start in range(0, max(share.most_rows for share in shares), size):
        for device, vectors, first, turn, of in shares:
            row = start * of + turn * size
            left = vectors.shape[0] - row
            if left > 0:
                fitting = size
                while fitting > SMALLEST and fitting // 2 >= left:
                    fitting //= 2
                part, count = vectors.part(row, fitting)
                yield device, first + row, part, count


# --- stored values as float32 rows ----------------------------------------------------------------------------------


def _from_int8(codes_MD: Array, ranges_2D: Any) -> Array:
    # The middle of the step that each code represents.
    lowest_D, highest_D = ranges_2D
    rows_MD: Array = lowest_D + (codes_MD.astype(np.float32) + 128.5) * ((highest_D - lowest_D) / 255)
    return rows_MD


def _from_binary(codes_MX: Array, ranges_2D: Any) -> Array:
    xp = codes_MX.__array_namespace__()
    # sentence-transformers' "binary" is the packed byte minus 128. A bit means +1 or -1.
    packed_MX = (codes_MX.astype(xp.int16) + 128).astype(xp.uint8)
    return xp.unpackbits(packed_MX, axis=1).astype(np.float32) * 2 - 1


DECODERS: dict[str, Callable[[Any, Any], Array]] = {
    "float32": lambda part, ranges_2D: part.astype(np.float32),
    "int8": _from_int8,
    "binary": _from_binary,
}
