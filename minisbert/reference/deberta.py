"""DeBERTa-v2 and v3 in plain float64 NumPy, written from the papers; scores are made pair by pair of tokens.

    "DeBERTa: Decoding-enhanced BERT with Disentangled Attention"                       He et al. 2021, section 3.1
    "DeBERTaV3: Improving DeBERTa using ELECTRA-Style Pre-Training ..."                 He et al. 2023

The other parts are in reference/encoder.py. `encoders/deberta.py` and `transformer/disentangled.py` are tested against this.
"""

import math
from typing import Any

import numpy as np

from minisbert.reference.encoder import Params, feed_forward, float64, layer_norm, linear, softmax


def distance_row(distance: int, span: int, buckets: int, max_distance: int) -> int:
    """The row of a distance (query position minus key position) in the table, whose middle row is `span`.

    With buckets, distances up to m = buckets / 2 have a row each; the j-th row beyond ends at the distance
    m ((max_distance - 1) / m)^(j / (m - 1)). Raising both sides to the power m - 1 makes this a comparison of whole numbers.

    Example:
        >>> [distance_row(d, 8, 8, 64) - 8 for d in (0, 1, -4, 5, 20, -21, 63, 1000)]
        [0, 1, -4, 5, 6, -6, 7, 7]
    """
    size, middle = abs(distance), buckets // 2
    if buckets and size > middle:
        j = 1
        while size ** (middle - 1) * middle**j > middle ** (middle - 1) * (max_distance - 1) ** j:
            j += 1
        distance = (middle + j) * (1 if distance > 0 else -1)
    return min(max(distance + span, 0), 2 * span - 1)


def disentangled_attention(
    hidden_LD: np.ndarray, mask_L: np.ndarray, params: Params, config: Any, distances_RD: np.ndarray
) -> np.ndarray:
    """Attention of one sentence: content to content, content to position, position to content   (equations 3 and 4)."""
    kernels, biases = np.split(params["qkv"]["kernel"], 3, axis=1), np.split(params["qkv"]["bias"], 3)
    maps = [{"kernel": kernel, "bias": bias} for kernel, bias in zip(kernels, biases, strict=True)]
    query_LD, key_LD, value_LD = (linear(hidden_LD, one) for one in maps)
    far_query_RD = linear(distances_RD, params.get("position_query", maps[0]))
    far_key_RD = linear(distances_RD, params.get("position_key", maps[1]))
    L, H = len(hidden_LD), hidden_LD.shape[1] // config.num_attention_heads
    settings = (config.span, config.position_buckets, config.max_relative_positions)
    row_of = {distance: distance_row(distance, *settings) for distance in range(-L, L)}
    contexts = []
    for n in range(config.num_attention_heads):
        head = slice(n * H, (n + 1) * H)
        scores_QK = np.full((L, L), np.finfo(np.float64).min)
        for q in range(L):
            for k in np.flatnonzero(mask_L):
                row = row_of[q - int(k)]
                score = query_LD[q, head] @ key_LD[k, head]
                if "c2p" in config.pos_att_type:
                    score += query_LD[q, head] @ far_key_RD[row, head]
                if "p2c" in config.pos_att_type:
                    score += key_LD[k, head] @ far_query_RD[row, head]
                scores_QK[q, k] = score / math.sqrt(H * (1 + len(config.pos_att_type)))
        contexts.append(softmax(scores_QK) @ value_LD[:, head])
    return linear(np.concatenate(contexts, axis=-1), params["output"])


def deberta(
    params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray, segment_ids_BL: np.ndarray | None = None
) -> np.ndarray:
    """DeBERTa: embeddings, then BERT's blocks, which share one table of distances.

    Arguments and result as for `reference.encoder.bert`.
    """
    params, epsilon = float64(params), config.layer_norm_eps
    hidden_BLD = params["token_embedding"]["embedding"][token_ids_BL]
    if "position_embedding" in params:
        hidden_BLD = hidden_BLD + params["position_embedding"]["embedding"][: token_ids_BL.shape[1]]
    if "segment_embedding" in params:
        segment_ids_BL = np.zeros_like(token_ids_BL) if segment_ids_BL is None else segment_ids_BL
        hidden_BLD = hidden_BLD + params["segment_embedding"]["embedding"][segment_ids_BL]
    if "embedding_projection" in params:
        hidden_BLD = linear(hidden_BLD, params["embedding_projection"])
    hidden_BLD = layer_norm(hidden_BLD, params["embedding_norm"], epsilon)
    distances_RD = params["distance_embedding"]["embedding"]
    if "distance_norm" in params:
        distances_RD = layer_norm(distances_RD, params["distance_norm"], epsilon)
    for b, mask_L in enumerate(mask_BL):
        for i in range(config.num_hidden_layers):
            block, hidden_LD = params["blocks"][i], hidden_BLD[b]
            attended_LD = disentangled_attention(hidden_LD, mask_L, block["attention"], config, distances_RD)
            hidden_LD = layer_norm(hidden_LD + attended_LD, block["attention_norm"], epsilon)
            fed_LD = feed_forward(hidden_LD, block["feed_forward"], config.hidden_act)
            hidden_BLD[b] = layer_norm(hidden_LD + fed_LD, block["feed_forward_norm"], epsilon)
    return hidden_BLD
