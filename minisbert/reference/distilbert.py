"""DistilBERT in plain float64 NumPy   (Sanh et al. 2019, section 2).

The parts are BERT's, in reference/encoder.py. `encoders/distilbert.py` is tested against this.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

from minisbert.reference.encoder import Params, block, float64, layer_norm


def distilbert(
    params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray, segment_ids_BL: np.ndarray | None = None
) -> np.ndarray:
    """DistilBERT: token and position embeddings, then BERT's blocks.

    Arguments and result as for `reference.encoder.bert`; there are no segments, so `segment_ids_BL` is ignored.
    """
    params = float64(params)
    in_berts_names = SimpleNamespace(
        num_attention_heads=config.n_heads, hidden_act=config.activation, layer_norm_eps=1e-12
    )
    token_BLD = params["token_embedding"]["embedding"][token_ids_BL]
    position_LD = params["position_embedding"]["embedding"][np.arange(token_ids_BL.shape[1])]
    hidden_BLD = layer_norm(token_BLD + position_LD, params["embedding_norm"], 1e-12)
    for i in range(config.n_layers):
        hidden_BLD = block(hidden_BLD, mask_BL, params["blocks"][i], in_berts_names)
    return hidden_BLD
