"""ALBERT in plain float64 NumPy   (Lan et al. 2020, section 3.1).

The parts are BERT's, in reference/encoder.py. `encoders/albert.py` is tested against this.
"""

from typing import Any

import numpy as np

from minisbert.reference.encoder import Params, block, float64, layer_norm, linear


def albert(
    params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray, segment_ids_BL: np.ndarray | None = None
) -> np.ndarray:
    """ALBERT: narrow embeddings of width E, mapped to the width D of the blocks, then one block applied repeatedly.

    Arguments and result as for `reference.encoder.bert`.
    """
    params = float64(params)
    segment_ids_BL = np.zeros_like(token_ids_BL) if segment_ids_BL is None else segment_ids_BL
    token_BLE = params["token_embedding"]["embedding"][token_ids_BL]
    segment_BLE = params["segment_embedding"]["embedding"][segment_ids_BL]
    position_LE = params["position_embedding"]["embedding"][np.arange(token_ids_BL.shape[1])]
    narrow_BLE = layer_norm(token_BLE + segment_BLE + position_LE, params["embedding_norm"], config.layer_norm_eps)
    hidden_BLD = linear(narrow_BLE, params["embedding_projection"])
    for _ in range(config.num_hidden_layers):
        hidden_BLD = block(hidden_BLD, mask_BL, params["blocks"][0], config)
    return hidden_BLD
