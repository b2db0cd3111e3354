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


Pooling = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (hidden_BLD, mask_BL) -> sentence_BD


def _each(formula: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Pooling:
    """The pooling that is `formula(token_TD, t_T)` of the T real tokens of each sentence; positions t count from 1."""

    def pooling(hidden_BLD: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
        sentence_BD = np.zeros((hidden_BLD.shape[0], hidden_BLD.shape[2]))
        for b, mask_L in enumerate(mask_BL):
            place_T = np.flatnonzero(mask_L)
            if len(place_T):
                sentence_BD[b] = formula(hidden_BLD[b, place_T], place_T + 1)
        return sentence_BD

    return pooling


cls = _each(lambda token_TD, t_T: token_TD[0])  # [CLS] in BERT
mean = _each(lambda token_TD, t_T: token_TD.mean(axis=0))
max = _each(lambda token_TD, t_T: token_TD.max(axis=0))
mean_sqrt_len = _each(lambda token_TD, t_T: token_TD.sum(axis=0) / math.sqrt(len(token_TD)))
weighted_mean = _each(lambda token_TD, t_T: t_T / t_T.sum() @ token_TD)
last_token = _each(lambda token_TD, t_T: token_TD[-1])

# The names that model folders use.
POOLINGS: dict[str, Pooling] = {
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
