"""RoBERTa, XLM-R and CamemBERT in plain float64 NumPy   (Liu et al. 2019; Conneau et al. 2020; Martin et al. 2020).

`encoders/roberta.py` is tested against this.
"""

from typing import Any

import numpy as np

from minisbert.reference.encoder import Params, bert, offset_position_ids


def roberta(
    params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray, segment_ids_BL: np.ndarray | None = None
) -> np.ndarray:
    """RoBERTa: BERT with positions numbered from the padding token's id + 1.

    Arguments and result as for `reference.encoder.bert`.
    """
    position_ids_BL = offset_position_ids(token_ids_BL, config.pad_token_id)
    return bert(params, config, token_ids_BL, mask_BL, segment_ids_BL, position_ids_BL)
