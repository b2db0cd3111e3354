"""What can be searched: rows of vectors in memory, on the device, or in a .npy file that is larger than memory.

    Vectors.of(embeddings)                     # NumPy (np.memmap too) or JAX
    Vectors.of("embeddings.npy")               # read a part at a time, never whole
    Vectors(codes, "int8", ranges_2D)          # quantized, see quantization.py

Whether the numbers are finite is seen where they are used (search.py), so that a large file is read once, not twice.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from minisbert.errors import DataError, InputError, short_repr

# precision -> (kinds of dtype, how many dimensions one number holds)
STORED = {"float32": ("f", 1), "int8": ("i", 1), "binary": ("i", 8)}


class NpyFile:
    """The rows of a .npy file, mapped anew for every part, so that what was read does not stay in memory.

    The file is held open: one that takes its name meanwhile is not mixed in.

    Raises:
        DataError: no such file; not a whole .npy file of rows in C order.
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
        except Exception as error:  # of a damaged header NumPy says whatever Python's own parser and tokenizer do
            raise DataError(f"{path}: cannot be read ({error}). Expected a .npy file; make it again.") from None
        if len(self.shape) != 2 or min(self.shape) < 0 or fortran or self.dtype.hasobject:
            raise DataError(
                f"{path}: holds {self.dtype} {list(self.shape)}{', in Fortran order' if fortran else ''}. Expected rows of "
                "numbers in C order; write np.ascontiguousarray(embeddings)."
            )
        expected = self._offset + int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize
        if size < expected:
            raise DataError(f"{path}: {size} bytes, but its header tells of {expected}. It is cut; make it again.")

    def __getitem__(self, rows: Any) -> np.ndarray:
        if not self.shape[0] or not self.shape[1]:  # nothing to map
            return np.empty(self.shape, self.dtype)[rows]
        return np.array(np.memmap(self._file, self.dtype, "r", self._offset, self.shape)[rows])


@dataclass(frozen=True)
class Vectors:
    """Rows to search, `[M, D]`, as they are stored.

    Args:
        rows: an array or a NpyFile.
        precision: "float32" (any floating-point numbers), "int8", or "binary" (eight dimensions in one int8).
        ranges_2D: lowest and highest value of each dimension, for int8.

    Raises:
        InputError: no rows of that precision.
    """

    rows: Any
    precision: str = "float32"
    ranges_2D: np.ndarray | None = None

    def __post_init__(self) -> None:
        kinds, _ = STORED[self.precision]
        dtype = np.dtype(self.rows.dtype)
        if (
            len(self.rows.shape) != 2
            or self.rows.shape[1] == 0
            or (dtype.kind not in kinds and dtype.name != "bfloat16")
        ):
            raise InputError(
                f"corpus is {dtype} {list(self.rows.shape)}. Expected rows of floating-point embeddings, [rows, width]; "
                "quantized ones are searched in an Index."
            )

    @staticmethod
    def of(corpus: Any) -> "Vectors":
        """Embeddings as a caller has them: an array, or the name of a .npy file.

        Example:
            >>> Vectors.of(np.zeros((3, 2), np.float32)).shape
            (3, 2)
        """
        if isinstance(corpus, Vectors):
            return corpus
        if isinstance(corpus, str | Path):
            return Vectors(NpyFile(corpus))
        if not isinstance(corpus, np.ndarray | jax.Array | NpyFile):
            try:
                corpus = np.asarray(corpus)
            except ValueError:  # ragged
                raise InputError(
                    f"corpus is {short_repr(corpus)}. Expected rows of embeddings, all of one width."
                ) from None
        return Vectors(corpus)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions, unpacked."""
        return self.rows.shape[0], self.rows.shape[1] * STORED[self.precision][1]

    def part(self, first: int, size: int) -> tuple[Any, int]:
        """Rows `first` to `first + size`, filled up with zeros to that size, and how many are real."""
        part = self.rows[first : first + size]
        count = part.shape[0]
        if count < size:
            xp = part.__array_namespace__()
            part = xp.concatenate([part, xp.zeros((size - count, part.shape[1]), part.dtype)])
        return part, count
