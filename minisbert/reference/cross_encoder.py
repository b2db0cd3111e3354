"""A cross-encoder in plain float64 NumPy: segments, heads, and the losses on its logits, one pair at a time.

    BERT's head      tanh(W_p h_[CLS] + b_p), then W x + b      Devlin et al. 2019, section 4.1, with the authors' pooler
    RoBERTa's head   the same two maps on h_<s>; MPNet's too, DistilBERT's and ELECTRA's with other activations
    ModernBERT's     W Norm(activation(W_d h)) + b, h the first token or the mean of all
    losses           binary cross-entropy, cross-entropy, MSE; margin-MSE of Hofstätter et al. 2020

The encoders are those of reference/encoder.py. Left out: dropout (this is inference), gradients.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minisbert.reference.encoder import ACTIVATIONS, Params, float64, layer_norm, linear
from minisbert.reference.losses import log_sum_exp, mean
from minisbert.reference.pooling import POOLINGS

Encoder = Callable[..., np.ndarray]


def segment_ids(first_lengths_B: Sequence[int], length: int) -> np.ndarray:
    """0 for the tokens of the first text ([CLS] and its [SEP] among them), 1 after it.

    Example:
        >>> segment_ids([2, 3], 4).tolist()
        [[0, 0, 1, 1], [0, 0, 0, 1]]
    """
    return np.array([[0] * first + [1] * (length - first) for first in first_lengths_B])


def head(params: Params, pooled_D: np.ndarray, activation: str = "tanh", epsilon: float | None = None) -> np.ndarray:
    """logits_C of the pooled vector; `epsilon` is that of a norm before the last map, if there is one.

    Example:
        >>> one = {"kernel": np.array([[1.0]]), "bias": np.array([0.0])}
        >>> head({"dense": one, "output": one}, np.array([1.0])).round(4).tolist()
        [0.7616]
    """
    dense_D = linear(pooled_D, params["dense"])
    dense_D = np.tanh(dense_D) if activation == "tanh" else ACTIVATIONS[activation](dense_D)
    return linear(dense_D if epsilon is None else layer_norm(dense_D, params["norm"], epsilon), params["output"])


def logits(
    encoder: Encoder, params: Params, model: Any, rows: Sequence[Sequence[int]], first_lengths: Sequence[int]
) -> np.ndarray:
    """logits_BC of pairs, each computed alone, so without padding.

    Args:
        encoder: `encoder.bert` or another.
        params: {"encoder", "head"}, nested.
        model: has the settings of the model: `encoder`, `head`, and whether the second text is segment 1, `segments`.
        rows: the token ids of each pair.
        first_lengths: how many of them belong to the first text.
    """
    params = float64(params)
    logits_BC = []
    for ids, first in zip(rows, first_lengths, strict=True):
        token_ids_1L = np.array([ids])
        segment_ids_1L = segment_ids([first if model.segments else len(ids)], len(ids))
        mask_1L = np.ones_like(token_ids_1L, bool)
        hidden_1LD = encoder(params["encoder"], model.encoder, token_ids_1L, mask_1L, segment_ids_1L)
        pooled_1D = POOLINGS[model.head.pooling](hidden_1LD, mask_1L)
        logits_BC.append(head(params["head"], pooled_1D[0], model.head.activation, model.head.norm_epsilon))
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


def lists(logits_SBC: np.ndarray, relevance_BS: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The logits and the relevance of the documents that each query has: those whose relevance is not NaN."""
    for logit_S, relevance_S in zip(logits_SBC[:, :, 0].T, relevance_BS, strict=True):
        exists_S = ~np.isnan(relevance_S)
        yield logit_S[exists_S], relevance_S[exists_S]


def lambda_loss(
    logits_SBC: np.ndarray,
    relevance_BS: np.ndarray,
    weighting_scheme: str = "ndcg_loss2pp",
    k: int | None = None,
    sigma: float = 1.0,
    mu: float = 10.0,
    reduction_log: str = "binary",
) -> float:
    """weight * -log2 sigmoid(sigma (x_i - x_j)), averaged over the pairs where i is more relevant than j."""
    terms = []
    for logit_S, relevance_S in lists(logits_SBC, relevance_BS):
        count = len(logit_S)
        order = np.argsort(-logit_S, kind="stable").tolist()
        discount = [math.log2(1 + rank) for rank in range(1, count + 1)]
        gains = [2**relevance - 1 for relevance in relevance_S]
        ideal = sum(g / d for g, d in list(zip(sorted(gains, reverse=True), discount, strict=True))[:k])
        gain = [gains[i] / max(ideal, 1e-10) for i in order]
        for i in range(count):
            for j in range(count):
                if (k is not None and min(i, j) >= k) or (
                    weighting_scheme != "ndcg_loss1" and relevance_S[order[i]] <= relevance_S[order[j]]
                ):
                    continue
                apart, change = abs(i - j), abs(gain[i] - gain[j])
                loss2 = abs(1 / discount[apart - 1] - 1 / discount[apart]) * change if apart else 0.0
                lambda_rank = abs(1 / discount[i] - 1 / discount[j]) * change
                weight = {
                    "none": 1.0,
                    "ndcg_loss1": gain[i] / discount[i],
                    "ndcg_loss2": loss2,
                    "lambda_rank": lambda_rank,
                    "ndcg_loss2pp": mu * loss2 + lambda_rank,
                }[weighting_scheme]
                terms.append(weight * log_sum_exp([0.0, -sigma * (logit_S[order[i]] - logit_S[order[j]])]))
    return (mean(terms) if terms else 0.0) / (math.log(2) if reduction_log == "binary" else 1)


def rank_net(logits_SBC: np.ndarray, relevance_BS: np.ndarray, **options: Any) -> float:
    """`lambda_loss` without weights."""
    return lambda_loss(logits_SBC, relevance_BS, "none", **options)


def list_net(logits_SBC: np.ndarray, relevance_BS: np.ndarray) -> float:
    """-sum over documents of softmax(relevance) log softmax(logit), averaged."""
    losses = []
    for logit_S, relevance_S in lists(logits_SBC, relevance_BS):
        log_p, log_q = (x_S - log_sum_exp(list(x_S)) for x_S in (relevance_S, logit_S))
        losses.append(-float((np.exp(log_p) * log_q).sum()))
    return mean(losses)


def list_mle(
    logits_SBC: np.ndarray, relevance_BS: np.ndarray, respect_input_order: bool = True, by_position: bool = False
) -> float:
    """-sum over ranks of log(exp(x of that rank) / sum of exp(x) from it on), weighted by 2^(n - rank) - 1 if asked."""
    losses = []
    for logit_S, relevance_S in lists(logits_SBC, relevance_BS):
        count = len(logit_S)
        order = list(range(count)) if respect_input_order else np.argsort(-relevance_S, kind="stable").tolist()
        weights = [2.0 ** (count - rank) - 1 for rank in range(1, count + 1)]
        weights = [weight / (sum(weights) or 1) for weight in weights] if by_position else [1.0] * count
        ranked = [logit_S[i] for i in order]
        losses.append(-sum(weights[r] * (ranked[r] - log_sum_exp(ranked[r:])) for r in range(count)))
    return mean(losses)


def p_list_mle(logits_SBC: np.ndarray, relevance_BS: np.ndarray, respect_input_order: bool = True) -> float:
    """`list_mle` weighted by position."""
    return list_mle(logits_SBC, relevance_BS, respect_input_order, by_position=True)


def adr_mse(logits_SBC: np.ndarray, relevance_BS: np.ndarray, alpha: float = 1.0) -> float:
    """(rank - smooth rank)^2 / log2(rank + 1), averaged; equal relevance shares a mean rank."""
    terms = []
    for logit_S, relevance_S in lists(logits_SBC, relevance_BS):
        for i, x in enumerate(logit_S):
            rank = (
                sum(r > relevance_S[i] for r in relevance_S) + (1 + sum(r == relevance_S[i] for r in relevance_S)) / 2
            )
            smooth = 1 + sum(sigmoid(alpha * (y - x)) for j, y in enumerate(logit_S) if j != i)
            terms.append((rank - smooth) ** 2 / math.log2(rank + 1))
    return mean(terms)


def multiple_negatives_ranking(
    logits_SBC: np.ndarray, scale: float = 10.0, num_negatives: int | None = 4, activation: str = "sigmoid"
) -> float:
    """-log softmax(scale * sigmoid(x)) of the first document, averaged."""
    losses = []
    for logit_S in logits_SBC[:, :, 0].T:
        scores = [scale * (sigmoid(x) if activation == "sigmoid" else x) for x in logit_S]
        losses.append(log_sum_exp(scores) - scores[0])
    return mean(losses)
