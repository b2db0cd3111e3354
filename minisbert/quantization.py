"""Smaller embeddings: int8 / uint8 by range, one bit per dimension by sign. Plain NumPy.

The formats are those of sentence-transformers, so that indexes built with either agree.
"""

import numpy as np

from minisbert.errors import InputError

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


def quantize_embeddings(embeddings_BD: np.ndarray, precision: str, ranges_2D: np.ndarray | None = None) -> np.ndarray:
    """Embeddings in fewer bits.

    Args:
        embeddings_BD: float embeddings.
        precision: "float32", "int8", "uint8" (each dimension's range in 256 steps), or "binary", "ubinary" (its
            sign, eight dimensions packed into one int8 or uint8).
        ranges_2D: lowest and highest value per dimension for int8 and uint8. By default those of `embeddings_BD`
            themselves, which makes embeddings of different calls incomparable: keep ranges from a large sample.

    Raises:
        InputError: unknown precision; int8 or uint8 of a single embedding without ranges.

    Example:
        >>> quantize_embeddings(np.array([[0.0, -255.0], [255.0, 255.0]], np.float32), "uint8").tolist()
        [[0, 0], [255, 255]]
        >>> quantize_embeddings(np.array([[0.5, -0.5] * 4], np.float32), "ubinary").tolist()
        [[170]]
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}. Expected one of {', '.join(PRECISIONS)}.")
    if precision == "float32":
        return embeddings_BD.astype(np.float32, copy=False)
    if precision in ("binary", "ubinary"):
        packed = np.packbits(embeddings_BD > 0, axis=-1)
        return packed if precision == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    if len(embeddings_BD) == 0:
        return embeddings_BD.astype(precision)
    if ranges_2D is None:
        if len(embeddings_BD) < 2:
            raise InputError(
                f"precision {precision!r} of {len(embeddings_BD)} embedding(s) has no range to divide. Expected at least "
                "2, or ranges_2D from a larger sample with quantize_embeddings(embeddings, precision, ranges)."
            )
        ranges_2D = np.stack([embeddings_BD.min(axis=0), embeddings_BD.max(axis=0)])
    lowest_D, highest_D = ranges_2D.astype(np.float32, copy=False)
    step_D = (highest_D - lowest_D) / 255
    step_D = np.where(step_D == 0, 1, step_D)
    # Clipped before the cast: a value outside the ranges must not wrap around.
    steps_BD = np.clip(np.floor((embeddings_BD - lowest_D) / step_D), 0, 255)
    return steps_BD.astype(np.uint8) if precision == "uint8" else (steps_BD - 128).astype(np.int8)
