"""A judge for the cells that say "write this": your function against minisbert/reference, on inputs drawn at random.

    judge(max_pool)      prints "right", or what differs and a hint; returns whether it is right

The function's name says which exercise it is. The truth is the NumPy twin of the package. Some mistakes are known by what
they compute, and named. A cell that nobody has filled in yet is not an error.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from sbert_in_one_file import word_pieces
from scipy.stats import pearsonr, rankdata, spearmanr

from minisbert.reference import encoder, losses, pooling, similarity
from minisbert.reference.cross_encoder import segment_ids

Draw = Callable[[np.random.Generator], tuple[Any, ...]]


class Exercise(NamedTuple):
    """What a function should compute, and what it computes when one thing is wrong."""

    truth: Callable[..., Any]
    draw: Draw
    """Random arguments."""
    hint: str
    mistakes: Mapping[str, Callable[..., Any]] = {}


def judge(function: Callable[..., Any], draws: int = 5) -> bool:
    """Compare a function with the truth of the same name; say what differs."""
    name = function.__name__
    if name not in EXERCISES:
        raise ValueError(f"judge: no exercise is called {name!r}. Expected one of {', '.join(EXERCISES)}.")
    exercise = EXERCISES[name]
    for seed in range(draws):
        arguments = exercise.draw(np.random.default_rng(seed))
        try:
            with np.errstate(all="ignore"):
                found = function(*arguments)
        except NotImplementedError:
            found = None
        except Exception as error:  # whatever a first attempt raises is shown, and the notebook continues
            return _tell(f"{name}: {type(error).__name__}: {error}", exercise)
        if found is None or found is ...:
            return _tell(f"{name}: not written yet.", exercise)
        wanted = exercise.truth(*arguments)
        if _shapes(found) != _shapes(wanted):
            return _tell(f"{name}: the result has shape {_shapes(found)}; expected {_shapes(wanted)}.", exercise)
        if not _same(found, wanted):
            for what, mistake in exercise.mistakes.items():
                if _same(found, mistake(*arguments)):
                    return _tell(f"{name}: not yet. {what}", None)
            return _tell(f"{name}: not yet. {_difference(found, wanted)}", exercise)
    print(f"{name}: right, on {draws} random inputs.")
    return True


def _tell(what: str, exercise: Exercise | None) -> bool:
    print(what if exercise is None else f"{what} Hint: {exercise.hint}")
    return False


def _shapes(value: Any) -> Any:
    """The shape of an array, or of each part of a tuple; the length of a list of words."""
    if isinstance(value, tuple):
        return tuple(_shapes(part) for part in value)
    return np.shape(value)


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, tuple):
        return len(found) == len(wanted) and all(map(_same, found, wanted))
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.shape != wanted.shape:
        return False
    if wanted.dtype.kind in "OU":
        return bool((found == wanted).all())
    return bool(np.allclose(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=True))  # an attempt may be in float32


def _difference(found: Any, wanted: Any) -> str:
    """The first place where two results differ."""
    if isinstance(wanted, tuple):
        part = next(i for i in range(len(wanted)) if not _same(found[i], wanted[i]))
        return f"Part {part}: {_difference(found[part], wanted[part])}"
    found, wanted = np.asarray(found), np.asarray(wanted)
    if wanted.dtype.kind in "OU":
        return f"It gives {found.tolist()}; expected {wanted.tolist()}."
    if found.ndim == 0:
        return f"It gives {float(found):.6g}; expected {float(wanted):.6g}."
    place = tuple(int(i) for i in np.argwhere(~np.isclose(found, wanted, rtol=1e-4, atol=1e-5))[0])
    return f"At {list(place)} it gives {float(found[place]):.6g}; expected {float(wanted[place]):.6g}."


# --- the truths that are not one function of reference/ -----------------------------------------------------------------


def _masked_weights(query_D: np.ndarray, states_KD: np.ndarray, real_K: np.ndarray) -> np.ndarray:
    scores_K = states_KD @ query_D / np.sqrt(len(query_D))
    return encoder.softmax(np.where(real_K, scores_K, -np.inf))


def _masked_word_loss(logits_BLV: np.ndarray, token_BL: np.ndarray, masked_BL: np.ndarray) -> float:
    places = np.argwhere(masked_BL)
    return losses.mean([losses.log_sum_exp(logits_BLV[b, t]) - logits_BLV[b, t, token_BL[b, t]] for b, t in places])


def _all_word_loss(logits_BLV: np.ndarray, token_BL: np.ndarray, masked_BL: np.ndarray) -> float:
    return _masked_word_loss(logits_BLV, token_BL, np.ones_like(masked_BL))


def _cross_encoder_row(first: list[int], second: list[int], cls: int, sep: int) -> tuple[np.ndarray, np.ndarray]:
    ids = [cls, *first, sep, *second, sep]
    return np.array(ids), segment_ids([len(first) + 2], len(ids))[0]


def _ranking(anchor_BD: np.ndarray, positive_BD: np.ndarray, scale: float) -> float:
    return losses.multiple_negatives_ranking(np.stack([anchor_BD, positive_BD]), scale=scale)


def _dot_ranking(anchor_BD: np.ndarray, positive_BD: np.ndarray, scale: float) -> float:
    scores_BB = scale * anchor_BD @ positive_BD.T
    return losses.mean([losses.log_sum_exp(row) - row[i] for i, row in enumerate(scores_BB)])


def _softmax_loss(u_BD: np.ndarray, v_BD: np.ndarray, class_B: np.ndarray, kernel_FC: np.ndarray) -> float:
    return losses.softmax(np.stack([u_BD, v_BD]), class_B, kernel_FC, np.zeros(kernel_FC.shape[1]))


def _signed_softmax_loss(u_BD: np.ndarray, v_BD: np.ndarray, class_B: np.ndarray, kernel_FC: np.ndarray) -> float:
    logits_BC = np.concatenate([u_BD, v_BD, u_BD - v_BD], axis=1) @ kernel_FC
    return losses.mean([losses.log_sum_exp(row) - row[c] for row, c in zip(logits_BC, class_B, strict=True)])


def _top_k(query_D: np.ndarray, corpus_MD: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-similarity.cosine(query_D[None], corpus_MD)[0], kind="stable")[:k]


def _shares(token_a_LD: np.ndarray, token_b_MD: np.ndarray) -> np.ndarray:
    u_D, v_D = token_a_LD.mean(axis=0), token_b_MD.mean(axis=0)
    lengths = np.linalg.norm(u_D) * np.linalg.norm(v_D)
    return token_a_LD @ token_b_MD.T / (len(token_a_LD) * len(token_b_MD) * lengths)


def _mean_gradient(gradient_PD: np.ndarray, examples_P: np.ndarray) -> np.ndarray:
    return (gradient_PD * examples_P[:, None]).sum(axis=0) / examples_P.sum()


# --- random arguments ---------------------------------------------------------------------------------------------------


def _tokens(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """hidden_BLD and mask_BL of sentences of different lengths."""
    return rng.normal(size=(3, 5, 4)) - 1, np.arange(5) < rng.integers(1, 6, 3)[:, None]


def _two(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(3, 4)), rng.normal(size=(5, 4))


def _graded(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, and cosines."""
    score_P = rng.integers(0, 6, 12).astype(float)
    return score_P, np.tanh(score_P / 4 + rng.normal(size=12))


VOCABULARY = frozenset("un able ##able a ##ff ##affable s ##u ##sh ##i su ##shi play ##ing ##s cat".split())


# --- the exercises, in the order of the notebooks -----------------------------------------------------------------------

EXERCISES: dict[str, Exercise] = {
    "normalize": Exercise(
        similarity.normalize,
        lambda rng: (rng.normal(size=(4, 3)) * np.array([[1], [0], [2], [3]]),),
        "divide each row by the root of its sum of squares; keep the axis, and mind a row of zeros.",
        {
            "A row of zeros gives 0 / 0; divide where the length is above 0.": lambda x_BD: (
                x_BD / np.where((n := np.linalg.norm(x_BD, axis=1, keepdims=True)) > 0, n, np.nan)
            ),
            "You divided by the length of the whole matrix: sum over the last axis only.": lambda x_BD: (
                x_BD / np.linalg.norm(x_BD)
            ),
        },
    ),
    "word_pieces": Exercise(
        word_pieces,
        lambda rng: (str(rng.choice(["unaffable", "sushi", "playing", "cats", "unplayx"])), VOCABULARY),
        "from the left, take the longest piece that is in the vocabulary; pieces after the first are written ##piece.",
    ),
    "cosine_table": Exercise(
        similarity.cosine,
        _two,
        "each row of the first with each row of the second: the product of two matrices, divided by both lengths.",
        {
            "These are dot products: divide by both lengths.": lambda a_BD, b_MD: a_BD @ b_MD.T,
            "You divided by one of the two lengths only.": lambda a_BD, b_MD: similarity.normalize(a_BD) @ b_MD.T,
        },
    ),
    "attention_weights": Exercise(
        _masked_weights,
        lambda rng: (rng.normal(size=4), rng.normal(size=(6, 4)), np.arange(6) < rng.integers(2, 6)),
        "scores = states_KD @ query_D / sqrt(D); padding gets -inf; then softmax.",
        {
            "The scores are not divided by the root of the width.": lambda q, s, real: encoder.softmax(
                np.where(real, s @ q, -np.inf)
            ),
            "Padding has a weight: give it the score -inf before the softmax.": lambda q, s, real: encoder.softmax(
                s @ q / np.sqrt(len(q))
            ),
        },
    ),
    "sine_waves": Exercise(
        encoder.sinusoidal_positions,
        lambda rng: (int(rng.integers(3, 9)), 2 * int(rng.integers(2, 6))),
        "columns 2i and 2i + 1 are the sine and the cosine of p / 10000^(2i / D).",
        {
            "Sines and cosines alternate; you put all sines first.": lambda length, width: np.concatenate(
                [encoder.sinusoidal_positions(length, width)[:, 0::2]]
                + [encoder.sinusoidal_positions(length, width)[:, 1::2]],
                axis=1,
            ),
            "The first position is 0, not 1.": lambda length, width: encoder.sinusoidal_positions(length + 1, width)[
                1:
            ],
        },
    ),
    "masked_attention": Exercise(
        lambda query_QH, key_KH, value_KH, mask_K: encoder.scaled_dot_product_attention(
            query_QH[None], key_KH[None], value_KH[None], mask_K[None]
        )[0],
        lambda rng: (*(rng.normal(size=(n, 4)) for n in (3, 5, 5)), np.arange(5) < rng.integers(1, 5)),
        "softmax(Q Kᵀ / √H) V, where a key that the mask leaves out has the score -inf.",
        {
            "The scores are not divided by √H.": lambda q, k, v, mask: (
                encoder.softmax(np.where(mask, q @ k.T, -np.inf)) @ v
            ),
            "Padding has a weight: give it the score -inf before the softmax.": lambda q, k, v, mask: (
                encoder.softmax(q @ k.T / 2) @ v
            ),
            "A score of 0 still has a weight, since exp(0) = 1; use -inf.": lambda q, k, v, mask: (
                encoder.softmax(np.where(mask, q @ k.T / 2, 0)) @ v
            ),
        },
    ),
    "masked_word_loss": Exercise(
        _masked_word_loss,
        lambda rng: (rng.normal(size=(2, 5, 7)), rng.integers(0, 7, (2, 5)), np.eye(5, dtype=bool)[[1, 3]]),
        "-log softmax(logits)[token], averaged over the masked places only.",
        {"You averaged over all places; only masked ones count.": _all_word_loss},
    ),
    "cross_encoder_row": Exercise(
        _cross_encoder_row,
        lambda rng: (rng.integers(5, 99, 3).tolist(), rng.integers(5, 99, int(rng.integers(2, 6))).tolist(), 1, 2),
        "[CLS] A [SEP] B [SEP]; segment 0 up to the first [SEP], and 1 after it.",
        {
            "The first [SEP] belongs to the first text: segment 0.": lambda first, second, cls, sep: (
                _cross_encoder_row(first, second, cls, sep)[0],
                np.array([0] * (len(first) + 1) + [1] * (len(second) + 2)),
            )
        },
    ),
    "max_pool": Exercise(
        pooling.max,
        _tokens,
        "put -inf where the mask is False, then take the largest over the tokens' axis.",
        {
            "Padding takes part: mask it first.": lambda hidden_BLD, mask_BL: hidden_BLD.max(axis=1),
            "Padding became 0, which is larger than a negative number; use -inf.": lambda hidden_BLD, mask_BL: (
                hidden_BLD * mask_BL[:, :, None]
            ).max(axis=1),
        },
    ),
    "softmax_loss": Exercise(
        _softmax_loss,
        lambda rng: (
            rng.normal(size=(4, 3)),
            rng.normal(size=(4, 3)),
            rng.integers(0, 3, 4),
            rng.normal(size=(9, 3)),
        ),
        "logits = [u, v, |u - v|] @ kernel; the loss is the mean of -log softmax(logits)[class].",
        {"The third part is |u - v|, without signs.": _signed_softmax_loss},
    ),
    "ranking_loss": Exercise(
        _ranking,
        lambda rng: (rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), 20.0),
        "scores = scale * cosine of every anchor with every positive; the right class of row i is i.",
        {
            "These are dot products; the loss uses cosines.": _dot_ranking,
            "The scale is missing.": lambda a, p, scale: _ranking(a, p, 1.0),
            "Rows are anchors: you compared each positive with all anchors.": lambda a, p, scale: _ranking(p, a, scale),
        },
    ),
    "spearman": Exercise(
        lambda x_P, y_P: float(spearmanr(x_P, y_P).statistic),
        _graded,
        "rank both (equal values share the mean of their ranks: scipy.stats.rankdata), then Pearson's correlation.",
        {
            "That is Pearson's correlation of the values; rank them first.": lambda x, y: pearsonr(x, y).statistic,
            "Equal values must share one rank, the mean of theirs.": lambda x, y: (
                pearsonr(rankdata(x, "ordinal"), rankdata(y, "ordinal")).statistic
            ),
        },
    ),
    "top_k": Exercise(
        _top_k,
        lambda rng: (rng.normal(size=4), rng.normal(size=(9, 4)) * rng.uniform(0.2, 5, (9, 1)), 3),
        "the cosines of the query with all rows; np.argsort sorts upwards.",
        {
            "These are the least similar: argsort sorts upwards.": lambda q, c, k: np.argsort(
                similarity.cosine(q[None], c)[0]
            )[:k],
            "You sorted by dot product; long vectors win there.": lambda q, c, k: np.argsort(-(c @ q))[:k],
        },
    ),
    "shares": Exercise(
        _shares,
        lambda rng: (rng.normal(size=(3, 4)), rng.normal(size=(5, 4))),
        "the dot product of every token of A with every token of B, divided by what makes their sum the cosine of the means.",
        {
            "Their sum is not the cosine of the means: these are cosines of tokens.": similarity.cosine,
        },
    ),
    "mean_gradient": Exercise(
        _mean_gradient,
        lambda rng: (rng.normal(size=(3, 4)), rng.integers(1, 9, 3)),
        "a part with twice the examples counts twice.",
        {
            "A part with more examples must count more.": lambda g, n: g.mean(axis=0),
            "That is the sum, not the mean.": lambda g, n: g.sum(axis=0),
        },
    ),
}
