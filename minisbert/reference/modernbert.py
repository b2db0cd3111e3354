"""ModernBERT in plain float64 NumPy, written from the papers.

    "RoFormer: Enhanced Transformer with Rotary Position Embedding"     Su et al. 2021      rotary positions
    "GLU Variants Improve Transformer"                                  Shazeer 2020        gated feed-forward
    "Smarter, Better, Faster, Longer" (ModernBERT)                      Warner et al. 2024  modernbert

The other parts are in reference/encoder.py. `encoders/modernbert.py` and `transformer/prenorm.py` are tested against this.
"""

from typing import Any

import numpy as np

from minisbert.reference.encoder import ACTIVATIONS, Params, float64, scaled_dot_product_attention


def rotated(x_BLH: np.ndarray, theta: float, factor: float = 1.0) -> np.ndarray:
    """The i-th pair of numbers of a token at position p, read as one complex number, times e^(j p theta^(-2i/H) / factor).

    Of a vector of H numbers, the i-th and the (i + H/2)-th are a pair   (RoFormer, section 3.2.1 and equation 15).

    Example:
        >>> rotated(np.array([[[1.0, 0.0], [1.0, 0.0]]]), theta=10_000.0).round(4).tolist()
        [[[1.0, 0.0], [0.5403, 0.8415]]]
    """
    H = x_BLH.shape[-1]
    pair_BLH = x_BLH[..., : H // 2] + 1j * x_BLH[..., H // 2 :]
    for p in range(x_BLH.shape[1]):
        for i in range(H // 2):
            pair_BLH[:, p, i] *= np.exp(1j * p * theta ** (-2 * i / H) / factor)
    return np.concatenate([pair_BLH.real, pair_BLH.imag], axis=-1)


def scale_norm(hidden_BLD: np.ndarray, params: Params, epsilon: float) -> np.ndarray:
    """Layer norm without a bias   (Ba et al., equation 4)."""
    mean = hidden_BLD.mean(axis=-1, keepdims=True)
    variance = ((hidden_BLD - mean) ** 2).mean(axis=-1, keepdims=True)
    return (hidden_BLD - mean) / np.sqrt(variance + epsilon) * params["scale"]


def rotary_attention(
    hidden_BLD: np.ndarray,
    mask_BL: np.ndarray,
    params: Params,
    heads: int,
    theta: float,
    reach: int | None = None,
    factor: float = 1.0,
) -> np.ndarray:
    """Multi-head self-attention, queries and keys rotated; each query sees keys at most `reach` tokens away."""
    W_Q, W_K, W_V = np.split(params["qkv"]["kernel"], 3, axis=1)
    b_Q, b_K, b_V = np.split(params["qkv"].get("bias", np.zeros(3 * hidden_BLD.shape[-1])), 3)
    L, H = hidden_BLD.shape[1], hidden_BLD.shape[-1] // heads
    bias_QK = np.zeros((L, L))
    for q in range(L):
        for k in range(L):
            if reach is not None and abs(q - k) > reach:
                bias_QK[q, k] = np.finfo(np.float64).min
    head_BLHs = []
    for n in range(heads):
        columns = slice(n * H, (n + 1) * H)
        query_BLH = rotated(hidden_BLD @ W_Q[:, columns] + b_Q[columns], theta, factor)
        key_BLH = rotated(hidden_BLD @ W_K[:, columns] + b_K[columns], theta, factor)
        value_BLH = hidden_BLD @ W_V[:, columns] + b_V[columns]
        head_BLHs.append(scaled_dot_product_attention(query_BLH, key_BLH, value_BLH, mask_BL, bias_QK))
    return np.concatenate(head_BLHs, axis=-1) @ params["output"]["kernel"] + params["output"].get("bias", 0.0)


def gated_feed_forward(hidden_BLD: np.ndarray, params: Params, activation: str, swapped: bool = False) -> np.ndarray:
    """W_2 (activation(W_1 x) * V x)   (Shazeer 2020, equation 6); `up` is W_1 and V side by side, or V and W_1."""
    W_1, V = np.split(params["up"]["kernel"], 2, axis=1)[:: -1 if swapped else 1]
    inner_BLF = ACTIVATIONS[activation](hidden_BLD @ W_1) * (hidden_BLD @ V)
    return inner_BLF @ params["down"]["kernel"] + params["down"].get("bias", 0.0)


def modernbert(
    params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray, segment_ids_BL: np.ndarray | None = None
) -> np.ndarray:
    """ModernBERT: token embeddings, then pre-norm blocks that attend to the whole text or to a window, then a norm.

    Arguments and result as for `reference.encoder.bert`; there are no segments, so `segment_ids_BL` is ignored.
    """
    params, epsilon = float64(params), config.norm_eps
    hidden_BLD = scale_norm(params["token_embedding"]["embedding"][token_ids_BL], params["embedding_norm"], epsilon)
    for i in range(config.num_hidden_layers):
        block = params["blocks"][i]
        everywhere = config.layer_types[i] == "full_attention"
        theta = config.global_rope_theta if everywhere else config.local_rope_theta
        reach = None if everywhere else config.local_attention // 2
        normed_BLD = hidden_BLD if i == 0 else scale_norm(hidden_BLD, block["attention_norm"], epsilon)
        hidden_BLD = hidden_BLD + rotary_attention(
            normed_BLD, mask_BL, block["attention"], config.num_attention_heads, theta, reach
        )
        normed_BLD = scale_norm(hidden_BLD, block["feed_forward_norm"], epsilon)
        hidden_BLD = hidden_BLD + gated_feed_forward(normed_BLD, block["feed_forward"], config.hidden_activation)
    return scale_norm(hidden_BLD, params["final_norm"], epsilon)
