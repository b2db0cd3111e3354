"""Exact properties of the losses: finite gradients where formulas break, invariances, duplicates as if removed."""

import numpy as np
import pytest
from loss_cases import ALIKE_B, CASES, CLASS_B, HASH_SB, SCORE_B, SYMMETRIC, TEACHER, TEXTS, B, D, compute, head

from minisbert.training.losses import Targets

# Sums in another order, in float64.
REORDERED = 1e-12

# --- where slopes could be infinite ----------------------------------------------------------------------------------

DEGENERATE = {
    "all zero": np.zeros((4, B, D)),
    "all equal": np.ones((4, B, D)),
    "one zero": np.concatenate([np.zeros((1, B, D)), TEXTS[1:]]),
    "negated": np.stack([TEXTS[0], -TEXTS[0], TEXTS[0], 0 * TEXTS[0]]),
    "huge": 1e60 * TEXTS,  # its fourth power, of margin_mse, is still a number
    "tiny": 1e-170 * TEXTS,  # its square is not
}


@pytest.mark.parametrize("name, texts, targets, loss_head, options, twin", CASES)
def test_values_and_gradients_are_finite_where_a_formula_breaks(name, texts, targets, loss_head, options, twin):
    for kind, degenerate in DEGENERATE.items():
        value, gradient = compute(name, degenerate[: len(texts)], targets, loss_head, options)
        assert np.isfinite(value) and np.isfinite(gradient).all(), kind


def test_at_distance_zero_the_gradient_is_zero():
    same = np.stack([TEXTS[0], TEXTS[0], TEXTS[0]])
    for distance in ("euclidean", "manhattan"):
        value, gradient = compute("triplet", same, Targets(), None, {"distance": distance})
        assert value == 5.0 and not gradient.any()
    # |u - v| alone: all of the gradient would come through it.
    h = head("|u-v|")
    _, gradient = compute("softmax", same[:2], Targets(CLASS_B), h, {"concatenation": "|u-v|"})
    assert not gradient.any()


def test_a_triplet_just_satisfied_has_gradient_zero():
    texts = np.array([[[0.0, 0.0]], [[3.0, 4.0]], [[6.0, 8.0]]])  # 5 - 10 + 5 = 0
    value, gradient = compute("triplet", texts, Targets(), None, {})
    assert value == 0.0 and not gradient.any()


def test_online_contrastive_leaves_out_a_pair_just_as_far_as_the_limit():
    orthogonal = np.stack([np.tile([1.0, 0.0], (4, 1)), np.tile([0.0, 1.0], (4, 1))])
    targets = Targets(labels_B=np.array([1, 0, 1, 0], np.int32))
    value, gradient = compute("online_contrastive", orthogonal, targets, None, {"margin": 1.5})
    assert value == 0.0 and not gradient.any()


def test_a_large_scale_does_not_overflow():
    for name in ("multiple_negatives_ranking", "cosent"):
        value, gradient = compute(name, TEXTS[:2], Targets(labels_B=SCORE_B), None, {"scale": 1e4}, np.float32)
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_scores_all_equal_give_cosent_nothing_to_order():
    value, gradient = compute("cosent", TEXTS[:2], Targets(labels_B=np.full(B, 0.5)), None, {})
    assert value == 0.0 and not gradient.any()


# --- what does not change a loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, texts, targets, loss_head, options, twin", CASES)
def test_the_order_of_the_batch_does_not_matter(name, texts, targets, loss_head, options, twin):
    order = np.random.default_rng(3).permutation(B)
    axis_of_B = {"labels_B": 0, "hashes_SB": 1, "teacher_SBD": -2, "guide_SBD": 1, "tokens_BL": 0}
    given = {part: array for part, array in targets._asdict().items() if array is not None}
    permuted = Targets(**{part: np.take(array, order, axis_of_B[part]) for part, array in given.items()})
    value, gradient = compute(name, texts, targets, loss_head, options)
    permuted_value, permuted_gradient = compute(name, texts[:, order], permuted, loss_head, options)
    assert permuted_value == pytest.approx(value, rel=REORDERED)
    np.testing.assert_allclose(permuted_gradient, gradient[:, order], rtol=0, atol=REORDERED)


@pytest.mark.parametrize(
    "name", ["multiple_negatives_ranking", "mega_batch_margin", "cosine_similarity", "cosent", "angle", "contrastive"]
)
def test_a_cosine_does_not_see_lengths(name):
    stretch = np.random.default_rng(4).uniform(0.5, 2, size=(2, B, 1))
    targets = Targets(labels_B=np.abs(SCORE_B))
    value, gradient = compute(name, TEXTS[:2], targets, None, {})
    assert compute(name, stretch * TEXTS[:2], targets, None, {})[0] == pytest.approx(value, rel=REORDERED)
    np.testing.assert_allclose((gradient * TEXTS[:2]).sum(axis=-1), 0, atol=REORDERED)  # no slope along the vector


@pytest.mark.parametrize(
    "name, options",
    [
        ("multiple_negatives_ranking", SYMMETRIC),
        ("cosine_similarity", {}),
        ("cosent", {}),
        ("contrastive", {}),
        ("online_contrastive", {}),
        ("contrastive_tension", {}),
        ("mse", {}),
    ],
)
def test_a_symmetric_loss_does_not_see_which_side_is_which(name, options):
    targets = Targets(labels_B=ALIKE_B, hashes_SB=HASH_SB[:2], teacher_SBD=TEACHER)
    swapped = targets._replace(hashes_SB=HASH_SB[1::-1], teacher_SBD=TEACHER[::-1])
    value, gradient = compute(name, TEXTS[:2], targets, None, options)
    swapped_value, swapped_gradient = compute(name, TEXTS[1::-1], swapped, None, options)
    assert swapped_value == pytest.approx(value, rel=REORDERED)
    np.testing.assert_allclose(swapped_gradient, gradient[::-1], rtol=0, atol=REORDERED)


def test_one_way_is_not_symmetric():
    one_way = compute("multiple_negatives_ranking", TEXTS[:2], Targets(), None, {})[0]
    backwards = compute("multiple_negatives_ranking", TEXTS[1::-1], Targets(), None, {})[0]
    symmetric = compute("multiple_negatives_ranking", TEXTS[:2], Targets(), None, SYMMETRIC)[0]
    assert abs(one_way - backwards) > 0.01
    assert symmetric == pytest.approx((one_way + backwards) / 2, rel=REORDERED)


# --- duplicates ------------------------------------------------------------------------------------------------------


def test_masking_duplicates_is_the_loss_with_them_removed():
    """Each example alone, the candidates that remain given as its hard negatives, by the same loss without hashes."""
    S, alone, removed = 3, [], 0
    for i in range(B):
        others = [(s, b) for s in range(1, S) for b in range(B) if (s, b) != (1, i)]
        kept = [place for place in others if HASH_SB[place] not in (HASH_SB[0, i], HASH_SB[1, i])]
        removed += len(others) - len(kept)
        texts = np.stack([TEXTS[0, i], TEXTS[1, i], *(TEXTS[place] for place in kept)])[:, None]
        alone.append(compute("multiple_negatives_ranking", texts, Targets(), None, {})[0])
    assert removed > B
    value, _ = compute("multiple_negatives_ranking", TEXTS[:S], Targets(hashes_SB=HASH_SB[:S]), None, {})
    assert value == pytest.approx(np.mean(alone), rel=REORDERED)


def test_a_duplicate_has_no_gradient_and_different_texts_change_nothing():
    different = np.arange(3 * B, dtype=np.uint32).reshape(3, B)
    plain, gradient = compute("multiple_negatives_ranking", TEXTS[:3], Targets(), None, {})
    value, same = compute("multiple_negatives_ranking", TEXTS[:3], Targets(hashes_SB=different), None, {})
    assert value == plain and (same == gradient).all()
    alike = different.copy()
    alike[1] = 99  # one positive for all: in no row is another's positive a negative
    alike[2, 4] = 99  # nor is this hard negative
    _, gradient = compute("multiple_negatives_ranking", TEXTS[:3], Targets(hashes_SB=alike), None, {})
    assert not gradient[2, 4].any() and gradient[2, 3].any() and gradient[1].any()


def test_a_text_paired_with_itself_keeps_its_positive():
    """SimCSE (Gao et al. 2021): anchor and positive are one text under two dropout masks."""
    hashes = np.tile(np.arange(B, dtype=np.uint32), (2, 1))
    value, _ = compute("multiple_negatives_ranking", TEXTS[:2], Targets(hashes_SB=hashes), None, SYMMETRIC)
    assert value == compute("multiple_negatives_ranking", TEXTS[:2], Targets(), None, SYMMETRIC)[0]
