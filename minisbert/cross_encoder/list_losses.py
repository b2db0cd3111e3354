"""Losses of a cross-encoder on lists: a query with S documents, whose order should be that of their relevance.

    rank_net       pairs of documents           Burges et al. 2005
    lambda_loss    pairs, weighted by nDCG      Wang et al. 2018 (The LambdaLoss Framework), section 4
    list_net       the distribution at the top  Cao et al. 2007, section 4
    list_mle       the whole order              Xia et al. 2008, section 4
    p_list_mle     the same, first ranks first  Lan et al. 2014
    adr_mse        the ranks themselves         Li et al. 2024 (ADR-MSE)

All take `logits_SBC` with C = 1 and `labels_B` `[B, S]`: the relevance of each document, from 0; NaN where a query has fewer
documents than others. Definitions, defaults and reductions are those of sentence-transformers 6, against which they are
tested; `reference/cross_encoder.py` is the same in NumPy and must agree.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from minisbert.arguments import check_choice
from minisbert.errors import InputError
from minisbert.training.targets import Head, Targets


def list_net(logits_SBC: jax.Array, targets: Targets, head: Head | None = None) -> jax.Array:
    """ListNet: the mean cross-entropy of softmax(logits) with softmax(relevance), over the documents of a query.

    Needs: S >= 2 documents, C = 1; `labels_B` `[B, S]`.
    Use when: documents have graded relevance.
    See also: `lambda_loss`, which optimizes nDCG.

    Shapes: logits `[S, B, 1]` -> scalar.

    Example:
        >>> targets = Targets(labels_B=jnp.array([[1.0, 1.0]]))
        >>> round(float(list_net(jnp.zeros((2, 1, 1)), targets)), 4)  # log 2
        0.6931
    """
    logit_BS, relevance_BS, _ = _lists("list_net", logits_SBC, targets)
    return -jnp.mean(jnp.sum(jax.nn.softmax(relevance_BS) * jax.nn.log_softmax(logit_BS), axis=1))


def list_mle(
    logits_SBC: jax.Array, targets: Targets, head: Head | None = None, *, respect_input_order: bool = True
) -> jax.Array:
    """ListMLE: minus the mean log-likelihood of the right order (Plackett-Luce): sum over ranks of log softmax of the rest.

    Needs: S >= 2 documents, C = 1; `labels_B` `[B, S]`. With `respect_input_order` the text columns are in the right order, as
        where the positive comes first; otherwise that of their relevance is taken.
    Use when: all ranks matter.
    See also: `p_list_mle`, to which the first ranks matter most.

    Shapes: logits `[S, B, 1]` -> scalar.

    Example:
        >>> targets = Targets(labels_B=jnp.array([[1.0, 0.0]]))
        >>> round(float(list_mle(jnp.zeros((2, 1, 1)), targets)), 4)  # log 2 + log 1
        0.6931
    """
    log_BS, _ = _log_choices("list_mle", logits_SBC, targets, respect_input_order)
    return -jnp.mean(jnp.sum(log_BS, axis=1))


def p_list_mle(
    logits_SBC: jax.Array, targets: Targets, head: Head | None = None, *, respect_input_order: bool = True
) -> jax.Array:
    """Position-aware ListMLE: `list_mle` with rank r of n weighted by 2^(n - r) - 1, the weights scaled to sum 1.

    Needs, Use when: as `list_mle`, where errors at the first ranks cost most.
    See also: `lambda_loss`.

    Shapes: logits `[S, B, 1]` -> scalar.

    Example:
        >>> targets = Targets(labels_B=jnp.array([[1.0, 0.0]]))
        >>> round(float(p_list_mle(jnp.zeros((2, 1, 1)), targets)), 4)  # 1 log 2 + 0
        0.6931
    """
    log_BS, n_B1 = _log_choices("p_list_mle", logits_SBC, targets, respect_input_order)
    rank_S = jnp.arange(1, log_BS.shape[1] + 1)
    weight_BS = jnp.where(rank_S < n_B1, 2.0**-rank_S - 2.0**-n_B1, 0)  # times 2^n, which would overflow
    weight_BS /= jnp.maximum(weight_BS.sum(axis=1, keepdims=True), 1e-30)  # a query's only document has weight 0
    return -jnp.mean(jnp.sum(log_BS * weight_BS.astype(log_BS.dtype), axis=1))


def _log_choices(
    loss: str, logits_SBC: jax.Array, targets: Targets, respect_input_order: bool
) -> tuple[jax.Array, jax.Array]:
    """log of the probability that, rank by rank, the right one of the remaining documents is chosen, `[B, S]`.

    It is 0 at ranks that a query lacks. The second result is how many documents each has, `[B, 1]`.
    """
    logit_BS, relevance_BS, exists_BS = _lists(loss, logits_SBC, targets)
    # Stable: documents that a query lacks go last, the others keep their order if that is to be respected.
    order_BS = jnp.argsort(~exists_BS if respect_input_order else -relevance_BS, axis=1, stable=True)
    logit_BS, exists_BS = (jnp.take_along_axis(x_BS, order_BS, axis=1) for x_BS in (logit_BS, exists_BS))
    log_BS = jnp.where(exists_BS, logit_BS - jax.lax.cumlogsumexp(logit_BS, axis=1, reverse=True), 0)
    return log_BS, exists_BS.sum(axis=1, keepdims=True)


def adr_mse(logits_SBC: jax.Array, targets: Targets, head: Head | None = None, *, alpha: float = 1.0) -> jax.Array:
    """ADR-MSE: the mean of (rank - smooth rank)^2 / log2(rank + 1), over documents and queries.

    The smooth rank of document i is 1 + sum over j of σ(alpha (x_j - x_i)), j != i; equal relevance shares a mean rank.

    Needs: S >= 2 documents, C = 1; `labels_B` `[B, S]`.
    Use when: a teacher's ranking of a list (such as a large language model's) is to be copied.
    See also: `list_mle`.

    Shapes: logits `[S, B, 1]` -> scalar.

    Example:
        >>> targets = Targets(labels_B=jnp.array([[1.0, 1.0]]))
        >>> float(adr_mse(jnp.zeros((2, 1, 1)), targets))  # both ranks are 1.5
        0.0
    """
    logit_BS, relevance_BS, exists_BS = _lists("adr_mse", logits_SBC, targets)
    above_BS = (relevance_BS[:, None, :] > relevance_BS[:, :, None]).sum(axis=2)
    equal_BS = (relevance_BS[:, None, :] == relevance_BS[:, :, None]).sum(axis=2)
    rank_BS = above_BS + (equal_BS + 1) / 2
    # 1 + the sum over the other documents: this sum has σ(0) = 0.5 of the document itself too.
    smooth_BS = 0.5 + jax.nn.sigmoid(alpha * (logit_BS[:, None, :] - logit_BS[:, :, None])).sum(axis=2)
    return jnp.mean((rank_BS - smooth_BS) ** 2 / jnp.log2(rank_BS + 1), where=exists_BS)


def rank_net(
    logits_SBC: jax.Array,
    targets: Targets,
    head: Head | None = None,
    *,
    k: int | None = None,
    sigma: float = 1.0,
    reduction_log: str = "binary",
) -> jax.Array:
    """RankNet: the mean of -log2 σ(sigma (x_i - x_j)) over the pairs of documents where i is more relevant than j.

    Needs: S >= 2 documents, C = 1; `labels_B` `[B, S]`. `k` takes pairs with a document among the k best logits only;
        `reduction_log` "natural" takes log in place of log2.
    Use when: only the order of relevance is known.
    See also: `lambda_loss`, which weights the pairs.

    Shapes: logits `[S, B, 1]` -> scalar; 0 if no document is more relevant than another.

    Example:
        >>> targets = Targets(labels_B=jnp.array([[1.0, 0.0]]))
        >>> float(rank_net(jnp.zeros((2, 1, 1)), targets))
        1.0
    """
    return _pairs("rank_net", logits_SBC, targets, "none", k, sigma, 0.0, reduction_log)


def lambda_loss(
    logits_SBC: jax.Array,
    targets: Targets,
    head: Head | None = None,
    *,
    weighting_scheme: str = "ndcg_loss2pp",
    k: int | None = None,
    sigma: float = 1.0,
    mu: float = 10.0,
    reduction_log: str = "binary",
) -> jax.Array:
    """LambdaLoss: `rank_net` with each pair weighted by what its order changes in nDCG.

    The documents are ranked by their logits; G = (2^relevance - 1) / maxDCG and D = log2(1 + rank). The weight of (i, j):

        ndcg_loss1      G_i / D_i, over all pairs
        ndcg_loss2      |1 / D(|i - j|) - 1 / D(|i - j| + 1)| |G_i - G_j|
        lambda_rank     |1 / D_i - 1 / D_j| |G_i - G_j|
        ndcg_loss2pp    mu ndcg_loss2 + lambda_rank
        none            1: RankNet

    Needs: S >= 2 documents, C = 1; `labels_B` `[B, S]`, from 0. `k` and `reduction_log` as for `rank_net`.
    Use when: the model will be judged by nDCG.
    See also: `rank_net`, `list_net`.

    Shapes: logits `[S, B, 1]` -> scalar. Ranks have no gradient.

    Example:
        >>> targets = Targets(labels_B=jnp.array([[1.0, 0.0]]))
        >>> round(float(lambda_loss(jnp.zeros((2, 1, 1)), targets, weighting_scheme="lambda_rank")), 4)  # 1 - 1 / log2(3)
        0.3691
    """
    check_choice("lambda_loss: weighting_scheme", weighting_scheme, list(WEIGHTING_SCHEMES))
    return _pairs("lambda_loss", logits_SBC, targets, weighting_scheme, k, sigma, mu, reduction_log)


def _pairs(
    loss: str,
    logits_SBC: jax.Array,
    targets: Targets,
    weighting_scheme: str,
    k: int | None,
    sigma: float,
    mu: float,
    reduction_log: str,
) -> jax.Array:
    logit_BS, relevance_BS, exists_BS = _lists(loss, logits_SBC, targets)
    check_choice(f"{loss}: reduction_log", reduction_log, ("binary", "natural"))
    order_BS = jnp.argsort(-jax.lax.stop_gradient(logit_BS), axis=1, stable=True)
    parts = (logit_BS, relevance_BS, exists_BS)
    logit_BS, relevance_BS, exists_BS = (jnp.take_along_axis(x_BS, order_BS, axis=1) for x_BS in parts)
    S = logit_BS.shape[1]
    first_S = jnp.arange(S) < (S if k is None else k)
    counts_BSS = (first_S[:, None] | first_S[None, :]) & exists_BS[:, :, None] & exists_BS[:, None, :]
    if weighting_scheme != "ndcg_loss1":
        counts_BSS &= relevance_BS[:, :, None] > relevance_BS[:, None, :]
    discount_S = jnp.log2(jnp.arange(2.0, S + 2)).astype(logit_BS.dtype)
    gain_BS = 2 ** jnp.maximum(relevance_BS, 0) - 1
    best_BS = -jnp.sort(-gain_BS, axis=1)
    gain_BS /= jnp.maximum(jnp.sum(best_BS / discount_S, axis=1, where=first_S, keepdims=True), 1e-10)
    weight_BSS = WEIGHTING_SCHEMES[weighting_scheme](gain_BS, discount_S, mu)
    loss_BSS = weight_BSS * jax.nn.softplus(-sigma * (logit_BS[:, :, None] - logit_BS[:, None, :]))
    total = jnp.sum(loss_BSS, where=counts_BSS) / jnp.maximum(counts_BSS.sum(), 1)
    return total / (math.log(2) if reduction_log == "binary" else 1)


def _ndcg_loss2(gain_BS: jax.Array, discount_S: jax.Array, mu: float = 0.0) -> jax.Array:
    rank_S, inverse_S = jnp.arange(len(discount_S)), 1 / discount_S
    apart_SS = jnp.abs(rank_S[:, None] - rank_S)
    change_SS = jnp.where(apart_SS > 0, jnp.abs(inverse_S[apart_SS - 1] - inverse_S[apart_SS]), 0)
    return change_SS * jnp.abs(gain_BS[:, :, None] - gain_BS[:, None, :])


def _lambda_rank(gain_BS: jax.Array, discount_S: jax.Array, mu: float = 0.0) -> jax.Array:
    change_SS = jnp.abs(1 / discount_S[:, None] - 1 / discount_S)
    return change_SS * jnp.abs(gain_BS[:, :, None] - gain_BS[:, None, :])


# (gains in the order of the logits, discounts of the ranks, mu) -> the weight of each pair, to broadcast to `[B, S, S]`.
WEIGHTING_SCHEMES: dict[str, Callable[[jax.Array, jax.Array, float], jax.Array]] = {
    "none": lambda gain_BS, discount_S, mu: jnp.ones((1, 1, 1), gain_BS.dtype),
    "ndcg_loss1": lambda gain_BS, discount_S, mu: (gain_BS / discount_S)[:, :, None],
    "ndcg_loss2": _ndcg_loss2,
    "lambda_rank": _lambda_rank,
    "ndcg_loss2pp": lambda *given: given[2] * _ndcg_loss2(*given) + _lambda_rank(*given),
}


def _lists(loss: str, logits_SBC: jax.Array, targets: Targets) -> tuple[jax.Array, jax.Array, jax.Array]:
    """logit_BS, relevance_BS and exists_BS, after a check that there is one logit and one relevance per document.

    A document that a query lacks comes after all others: its logit is -1e16, its relevance -inf.
    """
    relevance_BS, logit_SB = targets.labels_B, one_logit_each(loss, logits_SBC, 2)
    shape = logits_SBC.shape
    if relevance_BS is None or relevance_BS.shape != (shape[1], shape[0]):
        raise InputError(
            f"{loss}: targets.labels_B has shape {None if relevance_BS is None else relevance_BS.shape}. Expected "
            f"{(shape[1], shape[0])}, the relevance of each document: name one label column per document."
        )
    exists_BS = ~jnp.isnan(relevance_BS)
    relevance_BS = jnp.where(exists_BS, relevance_BS, -jnp.inf).astype(logit_SB.dtype)
    return jnp.where(exists_BS, logit_SB.T, -1e16), relevance_BS, exists_BS


def one_logit_each(loss: str, logits_SBC: jax.Array, least: int, most: int | None = None) -> jax.Array:
    """logit_SB, after a check that there is one logit per pair and a number of pairs that the loss can use."""
    shape = logits_SBC.shape
    if len(shape) != 3 or shape[2] != 1 or shape[0] < least or (most is not None and shape[0] > most):
        raise InputError(
            f"{loss}: the logits have shape {shape}. Expected [S, B, 1] with S {'=' if most else '>='} {least} pairs (a query "
            "with each of its documents) and one logit per pair; make the model with num_labels = 1."
        )
    return logits_SBC[:, :, 0]
