"""Pooling in plain NumPy: one sentence at a time, on its real tokens only, one formula each.

Source: Reimers & Gurevych 2019 (Sentence-BERT), section 3; weighted_mean: Muennighoff 2022 (SGPT), section 3. The names
are those of minisbert/pooling.py. A sentence of nothing but padding has no embedding: here it gives zeros, there
something finite, and both are meaningless.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np


def weighted_layers(hidden_IBLD: Sequence[np.ndarray], weight_I: np.ndarray) -> np.ndarray:
    """sum_i w_i h_i / sum_i w_i over layers i, hidden_BLD (after Peters et al. 2018, equation 1, without the softmax).

    Example:
        >>> weighted_layers([np.full((1, 1, 1), 1.0), np.full((1, 1, 1), 4.0)], np.array([2.0, 1.0])).tolist()
        [[[2.0]]]
    """
    total_BLD = np.zeros_like(hidden_IBLD[0], np.float64)
    for weight, hidden_BLD in zip(weight_I, hidden_IBLD, strict=True):
        total_BLD += float(weight) * hidden_BLD
    return total_BLD / math.fsum(weight_I)


def _each(
    hidden_BLD: np.ndarray, mask_BL: np.ndarray, formula: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """`formula(token_TD, position_T)` of the T real tokens of each sentence; positions count from 1."""
    sentence_BD = np.zeros((hidden_BLD.shape[0], hidden_BLD.shape[2]))
    for b, mask_L in enumerate(mask_BL):
        place_T = np.flatnonzero(mask_L)
        if len(place_T):
            sentence_BD[b] = formula(hidden_BLD[b, place_T], place_T + 1)
    return sentence_BD


def cls(hidden_BLD: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
    """The first real token, [CLS] in BERT.

    Example:
        >>> cls(np.array([[[1.0], [2.0], [9.0]]]), np.array([[True, True, False]])).tolist()
        [[1.0]]
    """
    return _each(hidden_BLD, mask_BL, lambda token_TD, position_T: token_TD[0])


def mean(hidden_BLD: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
    """The mean of the real tokens.

    Example:
        >>> mean(np.array([[[1.0], [2.0], [9.0]]]), np.array([[True, True, False]])).tolist()
        [[1.5]]
    """
    return _each(hidden_BLD, mask_BL, lambda token_TD, position_T: token_TD.mean(axis=0))


def max(hidden_BLD: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
    """The largest value over the real tokens, in each dimension.

    Example:
        >>> max(np.array([[[1.0], [2.0], [9.0]]]), np.array([[True, True, False]])).tolist()
        [[2.0]]
    """
    return _each(hidden_BLD, mask_BL, lambda token_TD, position_T: token_TD.max(axis=0))


def mean_sqrt_len(hidden_BLD: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
    """The sum of the real tokens divided by the square root of their number.

    Example:
        >>> mean_sqrt_len(np.ones((1, 4, 1)), np.ones((1, 4), bool)).tolist()
        [[2.0]]
    """
    return _each(hidden_BLD, mask_BL, lambda token_TD, position_T: token_TD.sum(axis=0) / math.sqrt(len(token_TD)))


def weighted_mean(hidden_BLD: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
    """sum_t w_t h_t with w_t = t / sum of t, t the position from 1.

    Example:
        >>> weighted_mean(np.array([[[1.0], [4.0]]]), np.ones((1, 2), bool)).tolist()
        [[3.0]]
    """
    return _each(hidden_BLD, mask_BL, lambda token_TD, position_T: position_T / position_T.sum() @ token_TD)


def last_token(hidden_BLD: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
    """The last real token.

    Example:
        >>> last_token(np.array([[[1.0], [2.0], [9.0]]]), np.array([[True, True, False]])).tolist()
        [[2.0]]
    """
    return _each(hidden_BLD, mask_BL, lambda token_TD, position_T: token_TD[-1])


# The names that model folders use.
POOLINGS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cls": cls,
    "max": max,
    "mean": mean,
    "mean_sqrt_len_tokens": mean_sqrt_len,
    "weightedmean": weighted_mean,
    "lasttoken": last_token,
}


def pool(hidden_BLD: np.ndarray, mask_BL: np.ndarray, modes: Sequence[str]) -> np.ndarray:
    """The named poolings, concatenated in that order.

    Example:
        >>> pool(np.array([[[1.0], [2.0]]]), np.ones((1, 2), bool), ["cls", "max"]).tolist()
        [[1.0, 2.0]]
    """
    return np.concatenate([POOLINGS[mode](hidden_BLD, mask_BL) for mode in modes], axis=-1)
