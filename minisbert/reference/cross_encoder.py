"""A cross-encoder in plain float64 NumPy: segments, heads, and the losses on its logits, one pair at a time.

    BERT's head      tanh(W_p h_[CLS] + b_p), then W x + b      Devlin et al. 2019, section 4.1, with the authors' pooler
    MPNet's head     the same two maps on h_<s>                 (RoBERTa's classification head)
    losses           binary cross-entropy, cross-entropy, MSE; margin-MSE of Hofstätter et al. 2020

The encoders are those of reference/encoder.py. Left out: dropout (this is inference), gradients.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minisbert.reference.encoder import Params, float64, linear
from minisbert.reference.losses import log_sum_exp, mean

Encoder = Callable[..., np.ndarray]


def segment_ids(first_lengths_B: Sequence[int], length: int) -> np.ndarray:
    """0 for the tokens of the first text ([CLS] and its [SEP] among them), 1 after it.

    Example:
        >>> segment_ids([2, 3], 4).tolist()
        [[0, 0, 1, 1], [0, 0, 0, 1]]
    """
    return np.array([[0] * first + [1] * (length - first) for first in first_lengths_B])


def head(params: Params, first_D: np.ndarray) -> np.ndarray:
    """logits_C of the first token's hidden vector; BERT's and MPNet's heads differ in their dropout only.

    Example:
        >>> one = {"kernel": np.array([[1.0]]), "bias": np.array([0.0])}
        >>> head({"dense": one, "output": one}, np.array([1.0])).round(4).tolist()
        [0.7616]
    """
    return linear(np.tanh(linear(first_D, params["dense"])), params["output"])


def logits(
    encoder: Encoder, params: Params, config: Any, rows: Sequence[Sequence[int]], first_lengths: Sequence[int]
) -> np.ndarray:
    """logits_BC of pairs, each computed alone, so without padding.

    Args:
        encoder: `encoder.bert` or `encoder.mpnet`.
        params: {"encoder", "head"}, nested.
        rows: the token ids of each pair.
        first_lengths: how many of them belong to the first text.
    """
    params = float64(params)
    logits_BC = []
    for ids, first in zip(rows, first_lengths, strict=True):
        token_ids_1L = np.array([ids])
        segment_ids_1L = segment_ids([first], len(ids))
        hidden_1LD = encoder(params["encoder"], config, token_ids_1L, np.ones_like(token_ids_1L, bool), segment_ids_1L)
        logits_BC.append(head(params["head"], hidden_1LD[0, 0]))
    return np.stack(logits_BC)


# --- losses ----------------------------------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x))

    Example:
        >>> sigmoid(0.0)
        0.5
    """
    return 1 / (1 + math.exp(-x))


def binary_cross_entropy(logits_SBC: np.ndarray, label_B: Sequence[float], pos_weight: float = 1.0) -> float:
    """-(w y log p + (1 - y) log(1 - p)) with p = sigmoid(logit), averaged."""
    terms = []
    for logit, y in zip(logits_SBC[0, :, 0], label_B, strict=True):
        p = sigmoid(logit)
        terms.append(-(pos_weight * y * math.log(p) + (1 - y) * math.log(1 - p)))
    return mean(terms)


def cross_entropy(logits_SBC: np.ndarray, class_B: Sequence[int]) -> float:
    """-log softmax(logits)[class], averaged."""
    return mean(
        [log_sum_exp(list(row_C)) - row_C[wanted] for row_C, wanted in zip(logits_SBC[0], class_B, strict=True)]
    )


def mse(logits_SBC: np.ndarray, score_B: Sequence[float]) -> float:
    """(logit - score)^2, averaged."""
    return mean([(logit - score) ** 2 for logit, score in zip(logits_SBC[0, :, 0], score_B, strict=True)])


def margin_mse(logits_SBC: np.ndarray, margin_BN: np.ndarray) -> float:
    """((logit of the positive - logit of negative n) - margin n)^2, averaged over examples and negatives."""
    positive_B, *negatives = logits_SBC[:, :, 0]
    terms = []
    for b, positive in enumerate(positive_B):
        for n, negative_B in enumerate(negatives):
            terms.append(((positive - negative_B[b]) - margin_BN[b][n]) ** 2)
    return mean(terms)
