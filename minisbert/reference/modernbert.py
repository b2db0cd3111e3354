"""ModernBERT in plain float64 NumPy, written from the papers.

    "RoFormer: Enhanced Transformer with Rotary Position Embedding"     Su et al. 2021      rotary positions
    "GLU Variants Improve Transformer"                                  Shazeer 2020        gated feed-forward
    "Smarter, Better, Faster, Longer" (ModernBERT)                      Warner et al. 2024  modernbert

The other parts are in reference/encoder.py. `encoders/modernbert.py` and `transformer/prenorm.py` are tested against this.
"""

from functools import partial
from typing import Any

import numpy as np

from minisbert.reference.encoder import ACTIVATIONS, Params, float64, layer_norm, linear, multi_head_self_attention


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


def sees(length: int, back: int | None, ahead: int | None) -> np.ndarray:
    """Which key each query sees: at most so many tokens back and ahead, None for all.

    Example:
        >>> sees(3, back=None, ahead=0).astype(int).tolist()
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    seen_QK = np.zeros((length, length), bool)
    for q in range(length):
        for k in range(length):
            seen_QK[q, k] = (back is None or q - k <= back) and (ahead is None or k - q <= ahead)
    return seen_QK


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
    L = hidden_BLD.shape[1]
    bias_QK = np.where(sees(L, reach, reach), 0.0, np.finfo(np.float64).min)
    bias_NQK = np.broadcast_to(bias_QK, (heads, L, L))
    turn = partial(rotated, theta=theta, factor=factor)
    return multi_head_self_attention(hidden_BLD, mask_BL, params, heads, bias_NQK, turn)


def gated_feed_forward(hidden_BLD: np.ndarray, params: Params, activation: str, swapped: bool = False) -> np.ndarray:
    """W_2 (activation(W_1 x) * V x)   (Shazeer 2020, equation 6); `up` is W_1 and V side by side, or V and W_1."""
    W_1, V = np.split(params["up"]["kernel"], 2, axis=1)[:: -1 if swapped else 1]
    return linear(ACTIVATIONS[activation](hidden_BLD @ W_1) * (hidden_BLD @ V), params["down"])


def modernbert(
    params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray, segment_ids_BL: np.ndarray | None = None
) -> np.ndarray:
    """ModernBERT: token embeddings, then pre-norm blocks that attend to the whole text or to a window, then a norm.

    Arguments and result as for `reference.encoder.bert`; there are no segments, so `segment_ids_BL` is ignored.
    """
    params, epsilon = float64(params), config.norm_eps
    hidden_BLD = layer_norm(params["token_embedding"]["embedding"][token_ids_BL], params["embedding_norm"], epsilon)
    for i in range(config.num_hidden_layers):
        block = params["blocks"][i]
        everywhere = config.layer_types[i] == "full_attention"
        theta = config.global_rope_theta if everywhere else config.local_rope_theta
        reach = None if everywhere else config.local_attention // 2
        normed_BLD = hidden_BLD if i == 0 else layer_norm(hidden_BLD, block["attention_norm"], epsilon)
        hidden_BLD = hidden_BLD + rotary_attention(
            normed_BLD, mask_BL, block["attention"], config.num_attention_heads, theta, reach
        )
        normed_BLD = layer_norm(hidden_BLD, block["feed_forward_norm"], epsilon)
        hidden_BLD = hidden_BLD + gated_feed_forward(normed_BLD, block["feed_forward"], config.hidden_activation)
    return layer_norm(hidden_BLD, params["final_norm"], epsilon)
