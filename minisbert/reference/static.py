"""A static encoder in plain float64 NumPy: one table row per token. `encoders/static.py` is tested against this."""

from typing import Any

import numpy as np

from minisbert.reference.encoder import Params, float64


def static(
    params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray, segment_ids_BL: np.ndarray | None = None
) -> np.ndarray:
    """hidden_BLD, whose mean is the sentence embedding; arguments as for `reference.encoder.bert`, most ignored.

    Example:
        >>> table = {"token_embedding": {"embedding": np.array([[0.0, 1.0], [2.0, 3.0]])}}
        >>> static(table, None, np.array([[1, 1, 0]]), np.ones((1, 3), bool)).tolist()
        [[[2.0, 3.0], [2.0, 3.0], [0.0, 1.0]]]
    """
    return float64(params)["token_embedding"]["embedding"][token_ids_BL]
