"""RoBERTa, XLM-R and CamemBERT in plain float64 NumPy   (Liu et al. 2019; Conneau et al. 2020; Martin et al. 2020).

The parts are BERT's, in reference/encoder.py; what differs is where the positions begin. `encoders/roberta.py` is
tested against this.
"""

from typing import Any

import numpy as np

from minisbert.reference.encoder import Params, block, float64, layer_norm, offset_position_ids


def roberta(
    params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray, segment_ids_BL: np.ndarray | None = None
) -> np.ndarray:
    """RoBERTa: BERT with positions numbered from the padding token's id + 1.

    Arguments and result as for `reference.encoder.bert`.
    """
    params = float64(params)
    segment_ids_BL = np.zeros_like(token_ids_BL) if segment_ids_BL is None else segment_ids_BL
    position_ids_BL = offset_position_ids(token_ids_BL, config.pad_token_id)
    token_BLD = params["token_embedding"]["embedding"][token_ids_BL]
    segment_BLD = params["segment_embedding"]["embedding"][segment_ids_BL]
    position_BLD = params["position_embedding"]["embedding"][position_ids_BL]
    hidden_BLD = layer_norm(token_BLD + segment_BLD + position_BLD, params["embedding_norm"], config.layer_norm_eps)
    for i in range(config.num_hidden_layers):
        hidden_BLD = block(hidden_BLD, mask_BL, params["blocks"][i], config)
    return hidden_BLD
