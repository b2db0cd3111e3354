"""BERT's variants in plain float64 NumPy, each tested against its file in encoders/; the parts are in reference/encoder.py.

ALBERT                      Lan et al. 2020, section 3.1
DistilBERT                  Sanh et al. 2019, section 2
RoBERTa, XLM-R, CamemBERT   Liu et al. 2019; Conneau et al. 2020; Martin et al. 2020: other positions
static                      one table row per token
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

from minisbert.reference.encoder import Params, block, float64, layer_norm, linear, offset_position_ids


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
