"""The layers of the encoders in float32 NumPy, for speed: linear maps, norms, activations, attention, both kinds of block.

    Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V                   Vaswani et al. 2017, equation 1
    LayerNorm(x)       = (x - mean) / sqrt(variance + epsilon) a + b    Ba et al. 2016, section 3
    RMSNorm(x)         = x / sqrt(mean(x^2) + epsilon) a                Zhang & Sennrich 2019, equation 4
    GELU(x)            = x Phi(x)                                       Hendrycks & Gimpel 2016, section 2
    post-norm block    = Norm(a + FFN(a)), a = Norm(x + MultiHead(x))               Vaswani 3.1; BERT
    pre-norm block     = a + FFN(Norm(a)), a = x + MultiHead(Norm(x))               Xiong et al. 2020; ModernBERT, Qwen, Gemma

The same formulas as in transformer/, whose files explain them; both must agree to 1e-6. What differs serves speed: results
overwrite their inputs, elementwise steps go block by block through the cache, and there is no mask where no token is padding.
Letters as everywhere: B sentences, L tokens, T = B L tokens in one row, D width, N heads, G key heads, H head width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minisbert.checkpoint.tensors import Columns
from minisbert.transformer.positions import distance_row, distances, relative_position_bucket, relative_shift, rotate

Params = dict[Any, Any]
Norm = Callable[[np.ndarray, Params], np.ndarray]  # of the last axis, in place

# Numbers per step of an elementwise function: with its scratch arrays they stay in a core's cache.
BLOCK = 32_768
# Up to this many, W^T x^T is faster than x W: 0.75 of the time for 16 rows of MiniLM (OpenBLAS, AVX-512).
FEW_ROWS = 64
# Attention scores in memory together; a long text's queries go in several parts.
SCORES = 1 << 20
LOWEST = np.finfo(np.float32).min


def linear(x_TD: np.ndarray, params: Params) -> np.ndarray:
    """x W + b. W may be several matrices side by side, as a checkpoint stores query, key and value: nothing is copied."""
    kernel, bias = params["kernel"], params.get("bias")
    y_TF = np.empty((len(x_TD), kernel.shape[1]), np.float32)
    start = 0
    for part in kernel.parts if isinstance(kernel, Columns) else [kernel]:
        y_TE = y_TF[:, start : start + part.shape[1]]
        if len(x_TD) <= FEW_ROWS:
            y_TE[:] = (part.T @ x_TD.T).T
        else:
            np.matmul(x_TD, part, out=y_TE)
        start += part.shape[1]
    return y_TF if bias is None else np.add(y_TF, bias, out=y_TF)


def layer_norm(x_TD: np.ndarray, params: Params, epsilon: float) -> np.ndarray:
    """Layer norm of each row, in place; with a bias or without."""
    x_TD -= x_TD.mean(axis=-1, keepdims=True)
    rms_norm(x_TD, params, epsilon)
    if "bias" in params:
        x_TD += params["bias"]
    return x_TD


def rms_norm(x_TD: np.ndarray, params: Params, epsilon: float, offset: float = 0.0) -> np.ndarray:
    """RMS norm of each row, in place. The scale is the parameter plus `offset`."""
    square_T = np.einsum("...d,...d->...", x_TD, x_TD) / np.float32(x_TD.shape[-1])
    x_TD *= (1 / np.sqrt(square_T + np.float32(epsilon)))[..., None]
    x_TD *= params["scale"] + np.float32(offset) if offset else params["scale"]
    return x_TD


# --- activations, in place ------------------------------------------------------------------------------------------

# Phi(x) = 1 / (1 + exp(x q(x^2))), q of degree 6, highest power first: fitted by weighted least squares to
# -2 atanh(erf(x / sqrt 2)) / x up to x^2 = 35.28, where Phi is 0 or 1. x Phi is off by at most 7e-8. NumPy has no erf.
LARGEST_SQUARE = 35.28
PHI = (-3.6278509e-09, 2.6756624e-07, -7.9481389e-06, 1.1054675e-04, 6.6053465e-05, -0.072668298, -1.5957685)


def gelu(x: np.ndarray) -> None:
    """x Phi(x), the exact form: see PHI."""
    square = np.minimum(x * x, np.float32(LARGEST_SQUARE))
    power = square * np.float32(PHI[0])
    for coefficient in PHI[1:-1]:
        power += np.float32(coefficient)
        power *= square
    power += np.float32(PHI[-1])
    power *= x
    _divide_by_1_plus_exp(x, power)


def gelu_tanh(x: np.ndarray) -> None:
    """The approximation x (1 + tanh(z)) / 2 = x / (1 + exp(-2 z)), z = sqrt(2 / pi) (x + 0.044715 x^3)."""
    power = x * x
    power *= np.float32(0.044715)
    power += np.float32(1)
    power *= x
    power *= np.float32(-2 * (2 / np.pi) ** 0.5)
    _divide_by_1_plus_exp(x, power)


def _divide_by_1_plus_exp(x: np.ndarray, power: np.ndarray) -> None:
    np.exp(power, out=power)
    power += np.float32(1)
    x /= power


# The names of config.json (transformer/block.py) and of Dense modules (modules.py).
ACTIVATIONS: dict[str, Callable[[np.ndarray], Any]] = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": lambda x: np.maximum(x, np.float32(0), out=x),
    "silu": lambda x: _divide_by_1_plus_exp(x, -x),
    "identity": lambda x: x,
    "tanh": lambda x: np.tanh(x, out=x),
    "sigmoid": lambda x: np.divide(1, 1 + np.exp(-x), out=x),
}


def activate(x_TF: np.ndarray, name: str) -> np.ndarray:
    """The activation of this name, in place, block by block."""
    activation, rows = ACTIVATIONS[name], max(1, BLOCK // x_TF.shape[1])
    for start in range(0, len(x_TF), rows):
        activation(x_TF[start : start + rows])
    return x_TF


# --- attention --------------------------------------------------------------------------------------------------------


class Sight(NamedTuple):
    """Which tokens see each other, and from where."""

    shape: tuple[int, ...]  # B, L
    mask_BL: np.ndarray | None = None  # True = real token; None if all are
    bias_NQK: np.ndarray | None = None  # added to the scores; in DeBERTa another for each text
    angles: tuple[np.ndarray, np.ndarray] | None = None  # rotate queries and keys (`positions.rotary_angles`)
    back: int | None = None  # the farthest key before a query, None for all
    ahead: int | None = None  # and after it


def attention(hidden_TD: np.ndarray, params: Params, sight: Sight, heads: int) -> np.ndarray:
    """Multi-head self-attention: hidden_TD -> hidden_TD."""
    query_BNLH, key_BNLH, value_BNLH = _split(hidden_TD, params, sight, heads)
    scale = query_BNLH.shape[-1] ** -0.5
    return linear(_attend(query_BNLH, key_BNLH, value_BNLH, sight, scale), params["output"])


def grouped_attention(
    hidden_TD: np.ndarray, params: Params, sight: Sight, key_heads: int, head_width: int, scale: float, norm: Norm
) -> np.ndarray:
    """The same where several query heads share a key head (Ainslie et al. 2023); `norm` is that of queries and keys."""
    (B, L), G, H = sight.shape, key_heads, head_width
    query_BLGNH = linear(hidden_TD, params["query"]).reshape(B, L, G, -1, H)
    key_BLGH, value_BLGH = linear(hidden_TD, params["key_value"]).reshape(B, L, 2, G, H).transpose(2, 0, 1, 3, 4)
    if "query_norm" in params:
        norm(query_BLGNH, params["query_norm"])
        norm(key_BLGH, params["key_norm"])
    query_BGNLH = query_BLGNH.transpose(0, 2, 3, 1, 4)
    key_BG1LH, value_BG1LH = (x_BLGH.transpose(0, 2, 1, 3)[:, :, None] for x_BLGH in (key_BLGH, value_BLGH))
    return linear(_attend(query_BGNLH, key_BG1LH, value_BG1LH, sight, scale), params["output"])


def relative_position_bias(params: Params, L: int, buckets: int, max_distance: int = 128) -> np.ndarray:
    """bias_NQK of MPNet and T5: a learned score per head and bucket of distance."""
    bucket_R = relative_position_bucket(distances(L), buckets, max_distance)
    bias_NR = params["relative_position_bias"]["table"]["embedding"].T[:, bucket_R]
    # `relative_shift` as a view, which takes no memory for each pair: query q's keys are a window that begins at L - 1 - q.
    return np.lib.stride_tricks.sliding_window_view(bias_NR, L, axis=1)[:, L - 1 :: -1]


def disentangled(params: Params, config: Any, sight: Sight) -> "Attend":
    """DeBERTa's attention, whose scores also depend on an embedding of the distance (transformer/disentangled.py)."""
    L, heads, terms = sight.shape[1], config.num_attention_heads, config.pos_att_type
    rows_R = distance_row(np.arange(-L, L + 1), config.span, config.position_buckets, config.max_relative_positions)
    distances_RD = params["distance_embedding"]["embedding"][rows_R]
    if "distance_norm" in params:
        layer_norm(distances_RD, params["distance_norm"], config.layer_norm_eps)

    def attend(hidden_TD: np.ndarray, params: Params) -> np.ndarray:
        query_BNLH, key_BNLH, value_BNLH = qkv = _split(hidden_TD, params, sight, heads)
        H = query_BNLH.shape[-1]
        far_maps = np.split(linear(distances_RD, params["qkv"]), 3, axis=1)  # of queries, keys and values
        bias_BNQK = np.zeros((sight.shape[0], heads, L, L), np.float32)
        # From each query's row distances are k - q, from each key's q - k.
        for term, row, places in (("c2p", 0, slice(-2, None, -1)), ("p2c", 1, slice(1, None))):
            if term in terms:
                name = ("position_key", "position_query")[row]
                far_RD = linear(distances_RD, params[name]) if name in params else far_maps[1 - row]
                far_NHR = far_RD[places].reshape(-1, heads, H).transpose(1, 2, 0)
                found_BNLL = relative_shift(qkv[row] @ far_NHR)
                bias_BNQK += found_BNLL if term == "c2p" else found_BNLL.swapaxes(-1, -2)
        scale = (H * (1 + len(terms))) ** -0.5
        bias_BNQK *= np.float32(scale)
        context_TD = _attend(query_BNLH, key_BNLH, value_BNLH, sight._replace(bias_NQK=bias_BNQK), scale)
        return linear(context_TD, params["output"])

    return attend


def _split(hidden_TD: np.ndarray, params: Params, sight: Sight, heads: int) -> Any:
    """Queries, keys and values, `[3, B, N, L, H]`."""
    return linear(hidden_TD, params["qkv"]).reshape(*sight.shape, 3, heads, -1).transpose(2, 0, 3, 1, 4)


def _attend(query: np.ndarray, key: np.ndarray, value: np.ndarray, sight: Sight, scale: float) -> np.ndarray:
    """softmax(query key^T scale + bias) value, `[B, ..., L, H]` each -> `[B L, ... H]`. The query is overwritten."""
    B, *heads, L, H = query.shape
    if sight.angles is not None:
        query, key = rotate(query, *sight.angles), rotate(key, *sight.angles)
    query *= np.float32(scale)
    context = np.empty((B, L, *heads, H), np.float32)
    by_head = np.moveaxis(context, 1, -2)
    padding = None if sight.mask_BL is None else ~sight.mask_BL.reshape(B, *(1 for _ in heads), 1, L)
    back, ahead = (L if reach is None else reach for reach in (sight.back, sight.ahead))
    rows = max(1, SCORES * H // query.size)
    for part in (slice(start, start + rows) for start in range(0, L, rows)):
        scores = query[..., part, :] @ key.swapaxes(-1, -2)
        if sight.bias_NQK is not None:
            scores += sight.bias_NQK[..., part, :]
        if min(back, ahead) < L - 1:
            offset_QK = np.arange(L) - np.arange(L)[part, None]
            np.copyto(scores, LOWEST, where=(offset_QK < -back) | (offset_QK > ahead))
        if padding is not None:
            np.copyto(scores, LOWEST, where=padding)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        np.matmul(scores, value, out=by_head[..., part, :])
        by_head[..., part, :] /= scores.sum(axis=-1, keepdims=True)
    return context.reshape(B * L, -1)


def feed_forward(hidden_TD: np.ndarray, params: Params, activation: str, *, swapped: bool = False) -> np.ndarray:
    """W_2 activation(W_1 x); gated (Shazeer 2020, equation 6) where `up` has both matrices, the gate first if `swapped`."""
    up_TF, width = linear(hidden_TD, params["up"]), params["down"]["kernel"].shape[0]
    inner_TF, gate_TF = up_TF[:, :width], up_TF[:, width:]
    if gate_TF.size and swapped:
        inner_TF, gate_TF = gate_TF, inner_TF
    activate(inner_TF, activation)
    if gate_TF.size:
        inner_TF *= gate_TF
    return linear(inner_TF, params["down"])


# --- blocks: hidden_TD -> hidden_TD; `attend` maps hidden_TD and the attention's parameters to hidden_TD ------------------

Attend = Callable[[np.ndarray, Params], np.ndarray]


def post_norm_block(hidden_TD: np.ndarray, params: Params, attend: Attend, norm: Norm, activation: str) -> np.ndarray:
    """Self-attention and feed-forward net, each added to its input and normalized."""
    attended_TD = attend(hidden_TD, params["attention"])
    attended_TD += hidden_TD
    hidden_TD = norm(attended_TD, params["attention_norm"])
    fed_TD = feed_forward(hidden_TD, params["feed_forward"], activation, swapped=True)
    fed_TD += hidden_TD
    return norm(fed_TD, params["feed_forward_norm"])


def pre_norm_block(hidden_TD: np.ndarray, params: Params, attend: Attend, norm: Norm, activation: str) -> np.ndarray:
    """Norms before the sublayers, in Gemma after them too."""

    def normed(x_TD: np.ndarray, name: str) -> np.ndarray:
        return norm(x_TD, params[name]) if name in params else x_TD

    attended_TD = normed(attend(normed(hidden_TD.copy(), "attention_norm"), params["attention"]), "after_attention")
    attended_TD += hidden_TD
    normed_TD = normed(attended_TD.copy(), "feed_forward_norm")
    fed_TD = normed(feed_forward(normed_TD, params["feed_forward"], activation), "after_feed_forward")
    fed_TD += attended_TD
    return fed_TD
