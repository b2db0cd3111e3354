"""BERT, its relatives and MPNet from token ids to token embeddings, in plain float64 NumPy, written from the papers.

    "Attention Is All You Need"                             Vaswani et al. 2017    attention, feed-forward, sinusoids
    "Layer Normalization"                                   Ba et al. 2016         layer_norm
    "Gaussian Error Linear Units (GELUs)"                   Hendrycks & Gimpel 2016
    "Exploring the Limits of Transfer Learning ..." (T5)    Raffel et al. 2020     relative positions
    "BERT: Pre-training of Deep Bidirectional Transformers" Devlin et al. 2019     bert
    "MPNet: Masked and Permuted Pre-training ..."           Song et al. 2020       mpnet

This code is not fast. It is the plainest form of each equation, written independently, and transformer/ and encoders/ are
tested against it. The functions have the same names as there and take the same nested parameters, as arrays.
Left out: dropout (this is inference), batching tricks, every dtype but float64.

Letters: B sentences, L tokens, Q/K query/key tokens, D width, N heads, H head width, F feed-forward width.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Params = dict[Any, Any]

# MPNet counts positions from the row after the padding token's.
PADDING_ID = 1


# --- positions -------------------------------------------------------------------------------------------------------


def sinusoidal_positions(length: int, width: int) -> np.ndarray:
    """PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos(p / 10000^(2i/D))      (Vaswani 3.5).

    Example:
        >>> sinusoidal_positions(2, 4).round(3).tolist()
        [[0.0, 1.0, 0.0, 1.0], [0.841, 0.54, 0.01, 1.0]]
    """
    position_LD = np.zeros((length, width))
    for p in range(length):
        for i in range(width // 2):
            angle = p / 10_000 ** (2 * i / width)
            position_LD[p, 2 * i] = math.sin(angle)
            position_LD[p, 2 * i + 1] = math.cos(angle)
    return position_LD


def offset_position_ids(token_ids_BL: np.ndarray, padding_id: int) -> np.ndarray:
    """Real tokens are numbered padding_id + 1, padding_id + 2, ...; padding tokens all have number padding_id.

    Example:
        >>> offset_position_ids(np.array([[0, 50, 2, 1, 1]]), padding_id=1).tolist()
        [[2, 3, 4, 1, 1]]
    """
    position_BL = np.full(token_ids_BL.shape, padding_id)
    for b, token_ids_L in enumerate(token_ids_BL):
        number = padding_id
        for t, token_id in enumerate(token_ids_L):
            if token_id != padding_id:
                number += 1
                position_BL[b, t] = number
    return position_BL


def relative_position_bucket(distance: int, buckets: int, max_distance: int) -> int:
    """The bucket of one distance, key position minus query position (T5, section 2.1).

    Half of the buckets are for keys after the query, half for the others. Of each half, the first half holds
    one distance each: 0, 1, 2, ... The j-th of the rest begins at the distance exact * (max_distance / exact)^(j/rest),
    and the last has no end. Raising both sides to the power `rest` makes this a comparison of whole numbers.

    Example:
        >>> [relative_position_bucket(distance, 32, 128) for distance in (0, -1, 1, -8, 8, -128, 10_000)]
        [0, 1, 17, 8, 24, 15, 31]
    """
    half = buckets // 2
    exact = half // 2
    rest = half - exact
    size = abs(distance)
    if size < exact:
        bucket = size
    else:
        begun = [j for j in range(rest) if size**rest * exact**j >= exact**rest * max_distance**j]
        bucket = exact + begun[-1]
    return bucket + half if distance > 0 else bucket


def relative_position_buckets(length: int, buckets: int = 32, max_distance: int = 128) -> np.ndarray:
    """bucket_QK of every query and key position.

    Example:
        >>> relative_position_buckets(4)[0].tolist()
        [0, 17, 18, 19]
    """
    bucket_of = {d: relative_position_bucket(d, buckets, max_distance) for d in range(-length, length)}
    return np.array([[bucket_of[key - query] for key in range(length)] for query in range(length)])


def relative_position_bias(length: int, table_RN: np.ndarray, max_distance: int = 128) -> np.ndarray:
    """bias_NQK: a learned number per head and bucket, added to the scores of every layer (T5, section 2.1)."""
    bucket_QK = relative_position_buckets(length, len(table_RN), max_distance)
    return np.stack([table_N[bucket_QK] for table_N in table_RN.T])


# --- the parts of a layer --------------------------------------------------------------------------------------------


def linear(x: np.ndarray, params: Params) -> np.ndarray:
    """x W + b, on the last axis; some maps have no b."""
    return x @ params["kernel"] + params.get("bias", 0.0)


def layer_norm(hidden_BLD: np.ndarray, params: Params, epsilon: float) -> np.ndarray:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, over the width of each token   (Ba et al., equation 4).

    ModernBERT's have no bias.

    Example:
        >>> layer_norm(np.array([1.0, 3.0]), {"scale": np.ones(2), "bias": np.zeros(2)}, epsilon=0.0).tolist()
        [-1.0, 1.0]
    """
    mean = hidden_BLD.mean(axis=-1, keepdims=True)
    variance = ((hidden_BLD - mean) ** 2).mean(axis=-1, keepdims=True)
    return (hidden_BLD - mean) / np.sqrt(variance + epsilon) * params["scale"] + params.get("bias", 0.0)


erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x: np.ndarray) -> np.ndarray:
    """x Phi(x), Phi the distribution function of the normal distribution   (Hendrycks & Gimpel, section 2).

    Example:
        >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4).tolist()
        [-0.1587, 0.0, 0.8413]
    """
    return x * (1 + erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """The approximation 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))   (Hendrycks & Gimpel, section 2)."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


# The names that config.json uses.
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def softmax(scores: np.ndarray) -> np.ndarray:
    """exp(x) / sum of exp(x) over the last axis; the largest is subtracted first, so that nothing overflows.

    Example:
        >>> softmax(np.array([1000.0, 1000.0])).tolist()
        [0.5, 0.5]
    """
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def scaled_dot_product_attention(
    query_BQH: np.ndarray,
    key_BKH: np.ndarray,
    value_BKH: np.ndarray,
    mask_BK: np.ndarray,
    bias_QK: np.ndarray | float = 0.0,
) -> np.ndarray:
    """softmax(Q K^T / sqrt(d_k) + bias) V for one head   (Vaswani, equation 1).

    Keys outside the mask get the lowest score there is, and so weight 0. If no key is real, all have the same weight.
    """
    scores_BQK = query_BQH @ key_BKH.swapaxes(1, 2) / math.sqrt(query_BQH.shape[-1]) + bias_QK
    scores_BQK = np.where(mask_BK[:, None, :], scores_BQK, np.finfo(np.float64).min)
    return softmax(scores_BQK) @ value_BKH


def multi_head_self_attention(
    hidden_BLD: np.ndarray,
    mask_BL: np.ndarray,
    params: Params,
    heads: int,
    bias_NQK: np.ndarray | None = None,
    turn: Callable[[np.ndarray], np.ndarray] = lambda x_BLH: x_BLH,
) -> np.ndarray:
    """Concat(head_1, ..., head_N) W_O, head_n = Attention(X W_Q^n, X W_K^n, X W_V^n)   (Vaswani 3.2.2).

    `qkv` is W_Q, W_K and W_V side by side; head n has the n-th H columns of each. `turn` rotates queries and keys, where
    positions are rotary (reference/modernbert.py).
    """
    W_Q, W_K, W_V = np.split(params["qkv"]["kernel"], 3, axis=1)
    b_Q, b_K, b_V = np.split(params["qkv"].get("bias", np.zeros(3 * hidden_BLD.shape[-1])), 3)
    H = hidden_BLD.shape[-1] // heads
    head_BLHs = []
    for n in range(heads):
        columns = slice(n * H, (n + 1) * H)
        query_BLH = turn(hidden_BLD @ W_Q[:, columns] + b_Q[columns])
        key_BLH = turn(hidden_BLD @ W_K[:, columns] + b_K[columns])
        value_BLH = hidden_BLD @ W_V[:, columns] + b_V[columns]
        bias_QK = 0.0 if bias_NQK is None else bias_NQK[n]
        head_BLHs.append(scaled_dot_product_attention(query_BLH, key_BLH, value_BLH, mask_BL, bias_QK))
    return linear(np.concatenate(head_BLHs, axis=-1), params["output"])


def feed_forward(hidden_BLD: np.ndarray, params: Params, activation: str) -> np.ndarray:
    """W_2 activation(W_1 x + b_1) + b_2, on each token by itself   (Vaswani 3.3, with GELU for ReLU)."""
    inner_BLF = ACTIVATIONS[activation](linear(hidden_BLD, params["up"]))
    return linear(inner_BLF, params["down"])


def block(
    hidden_BLD: np.ndarray, mask_BL: np.ndarray, params: Params, config: Any, bias_NQK: np.ndarray | None = None
) -> np.ndarray:
    """Twice LayerNorm(x + Sublayer(x)): self-attention, then feed-forward   (Vaswani 3.1, "post-norm")."""
    attended_BLD = multi_head_self_attention(
        hidden_BLD, mask_BL, params["attention"], config.num_attention_heads, bias_NQK
    )
    hidden_BLD = layer_norm(hidden_BLD + attended_BLD, params["attention_norm"], config.layer_norm_eps)
    fed_BLD = feed_forward(hidden_BLD, params["feed_forward"], config.hidden_act)
    return layer_norm(hidden_BLD + fed_BLD, params["feed_forward_norm"], config.layer_norm_eps)


# --- the encoders ----------------------------------------------------------------------------------------------------


def bert(
    params: Params,
    config: Any,
    token_ids_BL: np.ndarray,
    mask_BL: np.ndarray,
    segment_ids_BL: np.ndarray | None = None,
    position_ids_BL: np.ndarray | None = None,
) -> np.ndarray:
    """BERT: the sum of token, segment and position embeddings, then the blocks   (Devlin et al., section 3, figure 2).

    DistilBERT is the same without segments (Sanh et al. 2019, section 2).

    Args:
        params: the nested parameters of the encoder; numbers of any float type.
        config: has the settings of config.json under their names there.
        mask_BL: True = real token.
        segment_ids_BL, position_ids_BL: by default 0 everywhere, and 0, 1, 2, ...

    Returns:
        hidden_BLD, the token embeddings of the last layer, float64.
    """
    params = float64(params)
    position_ids_BL = np.arange(token_ids_BL.shape[1]) if position_ids_BL is None else position_ids_BL
    hidden_BLD = params["token_embedding"]["embedding"][token_ids_BL]
    hidden_BLD = hidden_BLD + params["position_embedding"]["embedding"][position_ids_BL]
    if "segment_embedding" in params:
        segment_ids_BL = np.zeros_like(token_ids_BL) if segment_ids_BL is None else segment_ids_BL
        hidden_BLD = hidden_BLD + params["segment_embedding"]["embedding"][segment_ids_BL]
    if "task_embedding" in params:  # ERNIE's
        hidden_BLD = hidden_BLD + params["task_embedding"]["embedding"][0]
    hidden_BLD = layer_norm(hidden_BLD, params["embedding_norm"], config.layer_norm_eps)
    if "embedding_projection" in params:  # ELECTRA's and ALBERT's narrow embeddings (Lan et al. 2020, section 3.1)
        hidden_BLD = linear(hidden_BLD, params["embedding_projection"])
    for i in range(config.num_hidden_layers):
        # ALBERT has one block for all layers.
        hidden_BLD = block(hidden_BLD, mask_BL, params["blocks"][i % len(params["blocks"])], config)
    return hidden_BLD


def roberta(
    params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray, segment_ids_BL: np.ndarray | None = None
) -> np.ndarray:
    """RoBERTa, XLM-R and CamemBERT: BERT with positions numbered from the padding token's id + 1   (Liu et al. 2019)."""
    position_ids_BL = offset_position_ids(token_ids_BL, config.pad_token_id)
    return bert(params, config, token_ids_BL, mask_BL, segment_ids_BL, position_ids_BL)


def mpnet(
    params: Params, config: Any, token_ids_BL: np.ndarray, mask_BL: np.ndarray, segment_ids_BL: np.ndarray | None = None
) -> np.ndarray:
    """MPNet: token and offset position embeddings, then blocks that share one relative-position bias   (Song et al.).

    Arguments and result as for `bert`; there are no segments, so `segment_ids_BL` is ignored.
    """
    params = float64(params)
    token_BLD = params["token_embedding"]["embedding"][token_ids_BL]
    position_BLD = params["position_embedding"]["embedding"][offset_position_ids(token_ids_BL, PADDING_ID)]
    hidden_BLD = layer_norm(token_BLD + position_BLD, params["embedding_norm"], config.layer_norm_eps)
    bias_NQK = relative_position_bias(token_ids_BL.shape[1], params["relative_position_bias"]["table"]["embedding"])
    for i in range(config.num_hidden_layers):
        hidden_BLD = block(hidden_BLD, mask_BL, params["blocks"][i], config, bias_NQK)
    return hidden_BLD


def float64(params: Any) -> Any:
    """The same nested parameters in float64."""
    if isinstance(params, dict):
        return {name: float64(value) for name, value in params.items()}
    return np.asarray(params, np.float64)
