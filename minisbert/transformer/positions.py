"""How a transformer knows word order: the positional encodings of the papers.

Attention treats a sentence as a set, so the model needs another source of order. Five ways, in the order of publication:

- `sinusoidal_positions`     fixed waves added to the embeddings          Vaswani et al. 2017, section 3.5
- learned positions          a trained row per position, added            Devlin et al. 2019 (BERT): a plain table
- `offset_position_ids`      the same, rows start after the padding row   RoBERTa, MPNet (inherited from fairseq)
- `relative_position_bucket`  a learned number per head and distance, added to the scores
                                                                          Raffel et al. 2020 (T5), section 2.1; MPNet
- `rotary_angles`, `rotate`  queries and keys turned by an angle that grows with the position
                                                                          Su et al. 2021 (RoFormer), 3.2; ModernBERT

The functions take JAX or NumPy arrays. `reference/encoder.py` and `reference/modernbert.py` compute the same and must agree.
"""

from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or jax.Array


def sinusoidal_positions(length: int, width: int) -> np.ndarray:
    """Fixed waves, float32 `[L, D]`: PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos(p / 10000^(2i/D)); D is even.

    Source: Vaswani et al. 2017, section 3.5.

    Example:
        >>> sinusoidal_positions(2, 4).round(3).tolist()
        [[0.0, 1.0, 0.0, 1.0], [0.8410000205039978, 0.5400000214576721, 0.009999999776482582, 1.0]]
    """
    if width % 2:
        raise ValueError(f"sinusoidal_positions: width is {width}; sine and cosine come in pairs, so it must be even")
    position_L1 = np.arange(length)[:, None]
    wavelength_D2 = 10_000.0 ** (np.arange(0, width, 2) / width)
    angle_LD2 = position_L1 / wavelength_D2
    return np.stack([np.sin(angle_LD2), np.cos(angle_LD2)], axis=-1).reshape(length, width).astype(np.float32)


def offset_position_ids(token_ids_BL: Array, padding_id: int, positions_BL: Array | None = None) -> Array:
    """Rows of the position table for RoBERTa and MPNet: padding has row `padding_id`, real tokens count up from there.

    With `positions_BL` (each token's place in its text) a row may hold several texts, and each counts from its own start.

    Example:
        >>> offset_position_ids(np.array([[0, 50, 2, 1, 1]]), padding_id=1).tolist()
        [[2, 3, 4, 1, 1]]
    """
    xp = token_ids_BL.__array_namespace__()
    real_BL = (token_ids_BL != padding_id).astype(xp.int32)
    count_BL = xp.cumsum(real_BL, axis=1)
    if positions_BL is not None:
        first_BL = xp.arange(token_ids_BL.shape[1]) - positions_BL  # where in the row the token's text begins
        count_BL -= xp.take_along_axis(count_BL - real_BL, first_BL, axis=1)
    return count_BL * real_BL + padding_id


def distances(length: int) -> np.ndarray:
    """The R = 2 L distances, key minus query, that `relative_shift` takes: 1 - L to L, of which L never occurs.

    Example:
        >>> distances(3).tolist()
        [-2, -1, 0, 1, 2, 3]
    """
    return np.arange(1 - length, length + 1)


def relative_shift(values_XQR: Array) -> Array:
    """Turn values per query and distance, `[..., Q, R]` (R of `distances`), into values per query and key, `[..., Q, K]`.

    Key k is at distance k - q from query q, so each row begins one place earlier than the row before. With rows of 2 L
    numbers, cutting the whole into rows of 2 L - 1 shifts them so, without a look-up for each query and key.

    Source: Dai et al. 2019 (Transformer-XL), appendix B.

    Example:
        >>> relative_shift(np.broadcast_to(distances(3), (3, 6))).tolist()
        [[0, 1, 2], [-1, 0, 1], [-2, -1, 0]]
    """
    *others, L, R = values_XQR.shape
    shifted = values_XQR.reshape(*others, L * R)[..., L - 1 : L - 1 + L * (R - 1)]
    return shifted.reshape(*others, L, R - 1)[..., :L]


def relative_position_bucket(distance: np.ndarray, buckets: int = 32, max_distance: int = 128) -> np.ndarray:
    """The bucket of each distance, key minus query: near ones have a bucket each, far ones share, logarithmically.

    Half of the buckets look back, half forward; of each half, the first half are exact distances and the others
    spread over log(distance) up to `max_distance`, beyond which all share the last. int32, from 0 to buckets - 1.

    Source: Raffel et al. 2020 (T5), section 2.1; used by MPNet (Song et al. 2020).

    Example:
        >>> relative_position_bucket(np.array([-200, -8, -1, 0, 1, 2, 8])).tolist()
        [15, 8, 1, 0, 17, 18, 24]
    """
    half = buckets // 2
    exact = half // 2
    forward = np.where(distance > 0, half, 0)
    magnitude = np.abs(distance)
    # float32 throughout, as the models were trained: in float64 a distance on an edge could fall into another bucket.
    ratio = np.maximum(magnitude, 1).astype(np.float32) / np.float32(exact)
    logarithm = np.log(ratio) / np.float32(np.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + logarithm.astype(np.int32), half - 1)
    return (forward + np.where(magnitude < exact, magnitude, far)).astype(np.int32)


def distance_row(distance: np.ndarray, span: int, buckets: int = 0, max_distance: int = 0) -> np.ndarray:
    """DeBERTa's row (int32) for each distance, here *query minus key*: `span` for 0, more where the key comes first.

    Args:
        span: half of the table's rows; distances beyond have the first and the last.
        buckets: 0, or twice the largest distance with a row of its own; farther ones share, spread over their logarithms.
        max_distance: the distance minus one of that bucket which is the last.

    Source: DeBERTa, equation 2; the buckets are those of the authors' second version.

    Example:
        >>> distance_row(np.arange(-3, 4), span=2).tolist()
        [0, 0, 1, 2, 3, 3, 3]
    """
    if buckets > 0:
        middle = buckets // 2
        # float32 as the models were trained: in float64 a distance on an edge could fall into another bucket.
        ratio = np.maximum(np.abs(distance), middle).astype(np.float32) / np.float32(middle)
        logarithm = np.log(ratio) / np.log(np.float32((max_distance - 1) / middle)) * np.float32(middle - 1)
        far = (np.ceil(logarithm).astype(np.int32) + middle) * np.sign(distance)
        distance = np.where(np.abs(distance) <= middle, distance, far)
    return np.clip(distance + span, 0, 2 * span - 1).astype(np.int32)


def rotary_angles(
    length: int, width: int, theta: float, dtype: Any = np.float32, factor: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin, `[L, H/2]` each, of the angles p theta^(-2i/H) by which position p rotates the i-th pair of a head.

    Args:
        width: head width H, even.
        theta: the base; the larger, the slower the last pairs turn, and the farther positions stay apart.
        dtype: float32 rounds each step as the models were trained (at position 8,000 another rounding would change
            an angle by 1e-4); float64 is exact.
        factor: divides every angle, so that positions are stretched over a longer text.

    Source: Su et al. 2021 (RoFormer), section 3.2.2, equation 15; the factor: Chen et al. 2023, "Extending Context Window of
    Large Language Models via Positional Interpolation", equation 4.

    Example:
        >>> cosine, sine = rotary_angles(3, 4, theta=10_000.0)
        >>> cosine.round(4).tolist()[2], sine.round(4).tolist()[2]
        ([-0.41609999537467957, 0.9998000264167786], [0.9093000292778015, 0.019999999552965164])
    """
    if width % 2:
        raise ValueError(f"rotary_angles: width is {width}; dimensions are rotated in pairs, so it must be even")
    exponent_H = np.arange(0, width, 2, dtype=dtype) / np.asarray(width, dtype)
    period_H = np.power(float(theta), exponent_H.astype(np.float64)).astype(dtype)
    frequency_H = np.asarray(1, dtype) / period_H / np.asarray(factor, dtype)
    angle_LH = (np.arange(length, dtype=dtype)[:, None] * frequency_H).astype(np.float64)
    return np.cos(angle_LH).astype(dtype), np.sin(angle_LH).astype(dtype)


def rotate(x_BNLH: Array, cosine_LH: np.ndarray, sine_LH: np.ndarray) -> Array:
    """Turn each pair of numbers (i, i + H/2) of every token by its position's angles; the product of a turned query and
    a turned key then depends on their distance alone.

    The paper pairs neighbours (2i, 2i + 1); the models pair the halves, which only permutes the dimensions.

    Args:
        x_BNLH: queries or keys; the result has their dtype, computed in float32 at least.
        cosine_LH, sine_LH: from `rotary_angles`.

    Source: Su et al. 2021 (RoFormer), section 3.4.2, equation 34.

    Example:
        >>> x = np.array([1.0, 0.0])[None, None, None]
        >>> rotate(x, np.array([[0.0]]), np.array([[1.0]]))[0, 0, 0].tolist()  # by a right angle
        [0.0, 1.0]
    """
    xp = x_BNLH.__array_namespace__()
    first, second = xp.split(x_BNLH.astype(xp.promote_types(x_BNLH.dtype, xp.float32)), 2, axis=-1)
    turned = [first * cosine_LH - second * sine_LH, second * cosine_LH + first * sine_LH]
    return xp.concatenate(turned, axis=-1).astype(x_BNLH.dtype)
