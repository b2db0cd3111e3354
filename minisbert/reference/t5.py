"""The encoder of T5 in plain float64 NumPy, one head and one sentence at a time, written from the papers.

    "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"     Raffel et al. 2020, section 2.1
    "GLU Variants Improve Transformer"                                                      Shazeer 2020, T5 1.1

The parts are in reference/encoder.py, modernbert.py and grouped.py. `encoders/t5.py` is tested against this.
"""

from typing import Any

import numpy as np

from minisbert.reference.encoder import Params, feed_forward, float64, linear, relative_position_bias, softmax
from minisbert.reference.grouped import rms_norm
from minisbert.reference.modernbert import gated_feed_forward


def biased_attention(hidden_LD: np.ndarray, mask_L: np.ndarray, params: Params, bias_NQK: np.ndarray) -> np.ndarray:
    """Attention of one sentence on query + key products that are not scaled, plus a bias per head and distance."""
    query_LD = linear(hidden_LD, params["query"])
    key_LD, value_LD = np.split(linear(hidden_LD, params["key_value"]), 2, axis=1)
    contexts = []
    parts = (np.split(x_LD, len(bias_NQK), axis=1) for x_LD in (query_LD, key_LD, value_LD))
    for bias_QK, query_LH, key_LH, value_LH in zip(bias_NQK, *parts, strict=True):
        scores_QK = np.where(mask_L, query_LH @ key_LH.T + bias_QK, np.finfo(np.float64).min)
        contexts.append(softmax(scores_QK) @ value_LH)
    return linear(np.concatenate(contexts, axis=-1), params["output"])


def t5(
    params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray, segment_ids_BL: np.ndarray | None = None
) -> np.ndarray:
    """T5's encoder: pre-norm blocks that share one relative-position bias, and a norm at the end.

    Arguments and result as for `reference.encoder.bert`; there are no segments, so `segment_ids_BL` is ignored.
    """
    params, epsilon = float64(params), config.rms_norm_eps
    hidden_BLD = params["token_embedding"]["embedding"][token_ids_BL]
    table_RN = params["relative_position_bias"]["table"]["embedding"]
    bias_NQK = relative_position_bias(token_ids_BL.shape[1], table_RN, config.relative_attention_max_distance)
    for b, mask_L in enumerate(mask_BL):
        for i in range(config.num_hidden_layers):
            block = params["blocks"][i]
            normed_LD = rms_norm(hidden_BLD[b], block["attention_norm"], epsilon)
            hidden_BLD[b] += biased_attention(normed_LD, mask_L, block["attention"], bias_NQK)
            normed_LD = rms_norm(hidden_BLD[b], block["feed_forward_norm"], epsilon)
            net = gated_feed_forward if config.gated else feed_forward
            hidden_BLD[b] += net(normed_LD, block["feed_forward"], config.hidden_act)
    return rms_norm(hidden_BLD, params["final_norm"], epsilon)
