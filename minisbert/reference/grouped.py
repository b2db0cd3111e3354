"""Language models as encoders in plain float64 NumPy, one head and one sentence at a time, written from the papers.

    "Root Mean Square Layer Normalization"                          Zhang & Sennrich 2019   rms_norm
    "GQA: Training Generalized Multi-Query Transformer Models ..."  Ainslie et al. 2023     several query heads, one key head
    "Qwen3 Technical Report"; "Mistral 7B"; "EuroBERT"              2025; 2023; 2025        qwen
    "Gemma 3 Technical Report"; "EmbeddingGemma"                    2025                    gemma

The other parts are in reference/modernbert.py. `encoders/qwen.py`, `encoders/gemma.py` and `transformer/grouped.py` are tested
against this.
"""

import math
from typing import Any

import numpy as np

from minisbert.reference.encoder import Params, float64, linear, softmax
from minisbert.reference.modernbert import gated_feed_forward, rotated, sees


def rms_norm(x: np.ndarray, params: Params, epsilon: float, offset: float = 0.0) -> np.ndarray:
    """x / sqrt(mean of x^2 + epsilon), times the scale   (Zhang & Sennrich 2019, equation 4).

    Example:
        >>> rms_norm(np.array([3.0, 4.0]), {"scale": np.ones(2)}, epsilon=0.0).round(3).tolist()
        [0.849, 1.131]
    """
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon) * (params["scale"] + offset)


def grouped_attention(
    hidden_LD: np.ndarray, sees_QK: np.ndarray, params: Params, config: Any, theta: float, **kind: Any
) -> np.ndarray:
    """Attention of one sentence; query head n uses key head n // (heads / key heads).

    Args:
        sees_QK: which keys a query sees.
        kind: `scale` of the scores, and the `epsilon` and `offset` of the norms of queries and keys.
    """
    H, share = config.head_dim, config.num_attention_heads // config.num_key_value_heads

    def head(x_LE: np.ndarray, n: int, norm: str) -> np.ndarray:
        x_LH = x_LE[:, n * H : (n + 1) * H]
        return rms_norm(x_LH, params[norm], kind["epsilon"], kind["offset"]) if norm in params else x_LH

    query_LE = linear(hidden_LD, params["query"])
    key_LE, value_LE = np.split(linear(hidden_LD, params["key_value"]), 2, axis=-1)
    contexts = []
    for n in range(config.num_attention_heads):
        query_LH = rotated(head(query_LE, n, "query_norm")[None], theta)[0]
        key_LH = rotated(head(key_LE, n // share, "key_norm")[None], theta)[0]
        scores_QK = np.where(sees_QK, query_LH @ key_LH.T * kind["scale"], np.finfo(np.float64).min)
        contexts.append(softmax(scores_QK) @ head(value_LE, n // share, ""))
    return linear(np.concatenate(contexts, axis=-1), params["output"])


def qwen(
    params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray, segment_ids_BL: np.ndarray | None = None
) -> np.ndarray:
    """Qwen3, Qwen2, Mistral and EuroBERT: pre-norm blocks with grouped queries, and a norm at the end.

    Arguments and result as for `reference.encoder.bert`; there are no segments, so `segment_ids_BL` is ignored.
    """
    params, epsilon = float64(params), config.rms_norm_eps
    kind = {"scale": 1 / math.sqrt(config.head_dim), "epsilon": epsilon, "offset": 0.0}
    hidden_BLD = params["token_embedding"]["embedding"][token_ids_BL]
    for b, mask_L in enumerate(mask_BL):
        for i in range(config.num_hidden_layers):
            block, window = params["blocks"][i], config.windows[i]
            sees_QK = sees(len(mask_L), window, 0 if config.causal else window) & mask_L
            normed_LD = rms_norm(hidden_BLD[b], block["attention_norm"], epsilon)
            hidden_BLD[b] += grouped_attention(
                normed_LD, sees_QK, block["attention"], config, config.rope_theta, **kind
            )
            normed_LD = rms_norm(hidden_BLD[b], block["feed_forward_norm"], epsilon)
            hidden_BLD[b] += gated_feed_forward(normed_LD, block["feed_forward"], config.hidden_act)
    return rms_norm(hidden_BLD, params["final_norm"], epsilon)


def gemma(
    params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray, segment_ids_BL: np.ndarray | None = None
) -> np.ndarray:
    """Gemma 3: scaled token embeddings, windows and base angles by the kind of layer, norms before and after each sublayer.

    Arguments and result as for `reference.encoder.bert`; there are no segments, so `segment_ids_BL` is ignored.
    """
    params, norm = float64(params), (config.rms_norm_eps, 1.0)
    kind = {"scale": 1 / math.sqrt(config.query_pre_attn_scalar), "epsilon": config.rms_norm_eps, "offset": 1.0}
    hidden_BLD = params["token_embedding"]["embedding"][token_ids_BL] * math.sqrt(config.hidden_size)
    for b, mask_L in enumerate(mask_BL):
        for i in range(config.num_hidden_layers):
            block, everywhere = params["blocks"][i], config.layer_types[i] == "full_attention"
            theta = config.global_rope_theta if everywhere else config.local_rope_theta
            back = config.sliding_window - 1 if config.causal else config.sliding_window // 2
            back = None if everywhere else back
            sees_QK = sees(len(mask_L), back, 0 if config.causal else back) & mask_L
            normed_LD = rms_norm(hidden_BLD[b], block["attention_norm"], *norm)
            attended_LD = grouped_attention(normed_LD, sees_QK, block["attention"], config, theta, **kind)
            hidden_BLD[b] += rms_norm(attended_LD, block["after_attention"], *norm)
            normed_LD = rms_norm(hidden_BLD[b], block["feed_forward_norm"], *norm)
            fed_LD = gated_feed_forward(normed_LD, block["feed_forward"], config.hidden_activation)
            hidden_BLD[b] += rms_norm(fed_LD, block["after_feed_forward"], *norm)
    return rms_norm(hidden_BLD, params["final_norm"], *norm)
