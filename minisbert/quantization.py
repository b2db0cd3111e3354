"""Quantized embeddings: int8 or uint8 by range, or one bit per dimension by sign. Plain NumPy.

The formats are those of sentence-transformers, so that indexes built with either agree.
"""

import numpy as np

from minisbert.arguments import PRECISIONS, check_choice
from minisbert.errors import InputError


def quantize_embeddings(
    embeddings: np.ndarray,
    precision: str,
    ranges: np.ndarray | None = None,
    calibration_embeddings: np.ndarray | None = None,
) -> np.ndarray:
    """Quantize embeddings to fewer bits.

    Args:
        embeddings: float embeddings `[B, D]`; or one, as an array, which gives one.
        precision: "float32", "int8", "uint8" (each dimension's range in 256 steps), or "binary", "ubinary" (its
            sign, eight dimensions packed into one int8 or uint8).
        ranges: lowest and highest value per dimension for int8 and uint8, `[2, D]`. By default those of the calibration
            embeddings, or without them of `embeddings` themselves, whose codes are then not comparable with other calls'.
        calibration_embeddings: a large sample of embeddings, for the ranges.

    Raises:
        InputError: unknown precision; not finite float embeddings; int8 or uint8 of a single embedding without ranges.

    Example:
        >>> quantize_embeddings(np.array([[0.0, -255.0], [255.0, 255.0]], np.float32), "uint8").tolist()
        [[0, 0], [255, 255]]
        >>> quantize_embeddings(np.array([[0.5, -0.5] * 4], np.float32), "ubinary").tolist()
        [[170]]
    """
    check_choice("precision", precision, PRECISIONS)
    if isinstance(embeddings, np.ndarray) and embeddings.ndim == 1 and embeddings.size:
        return quantize_embeddings(embeddings[None], precision, ranges, calibration_embeddings)[0]
    embeddings_BD = _float_rows("embeddings", embeddings)
    if precision == "float32":
        return embeddings_BD
    if precision in ("binary", "ubinary"):
        packed = np.packbits(embeddings_BD > 0, axis=-1)
        return packed if precision == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    if len(embeddings_BD) == 0:
        return embeddings_BD.astype(precision)
    if ranges is not None:
        ranges_2D = _float_rows("ranges", ranges)
    else:
        sample = "embeddings" if calibration_embeddings is None else "calibration_embeddings"
        sample_MD = embeddings_BD if calibration_embeddings is None else _float_rows(sample, calibration_embeddings)
        if len(sample_MD) < 2:
            raise InputError(
                f"{sample} has {len(sample_MD)} row(s), no range to divide for precision {precision!r}. Expected at least 2, "
                "or ranges or calibration_embeddings of a larger sample."
            )
        ranges_2D = np.stack([sample_MD.min(axis=0), sample_MD.max(axis=0)])
    if ranges_2D.shape != (2, embeddings_BD.shape[1]) or (ranges_2D[0] > ranges_2D[1]).any():
        raise InputError(
            f"ranges has shape {ranges_2D.shape}. Expected {(2, embeddings_BD.shape[1])}: the lowest value of each "
            "dimension, then the highest."
        )
    lowest_D, highest_D = ranges_2D
    step_D = (highest_D - lowest_D) / 255
    step_D = np.where(step_D == 0, 1, step_D)
    # Clipped before the cast: a value outside the ranges must not wrap around.
    steps_BD = np.clip(np.floor((embeddings_BD - lowest_D) / step_D), 0, 255)
    return steps_BD.astype(np.uint8) if precision == "uint8" else (steps_BD - 128).astype(np.int8)


def _float_rows(name: str, value: np.ndarray) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:  # ragged rows
        array = np.asarray(None)
    if array.dtype.kind != "f" or array.ndim != 2:
        raise InputError(
            f"{name} is {type(value).__name__}, {array.dtype} {list(array.shape)}. Expected rows of floating-point "
            "embeddings, not quantized before."
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise InputError(f"{name} contains NaN or infinity. Expected finite embeddings.")
    return array
