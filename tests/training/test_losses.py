"""training/losses.py and its two companions against the NumPy twin, finite differences, and what holds exactly."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minisbert.errors import InputError
from minisbert.reference import losses as reference
from minisbert.training.losses import (
    CONCATENATIONS,
    LOSSES,
    Targets,
    initial_softmax_head,
    matryoshka,
    multiple_negatives_ranking,
    softmax,
    softmax_logits,
)

# Rounding of some hundred float64 operations on numbers of size 1, scaled by 20; 1e-14 is measured.
FLOAT64 = 1e-10
# Central differences of step 1e-5: an error of step^2 times a third derivative (scale 20: up to 20^3) plus rounding
# 1e-16 / step; 1e-7 is measured.
DIFFERENCES = 2e-6
# Sums in another order, in float64.
REORDERED = 1e-12
# float32 rounding of 6e-8 times the scale of 20 times some additions; 1e-6 is measured.
FLOAT32 = 1e-5

B, D, CLASSES = 6, 5, 3
RNG = np.random.default_rng(0)
TEXTS = RNG.normal(size=(4, B, D))  # S = 4 at most
CLASS_B = np.array([0, 2, 1, 1, 0, 2], np.int32)
SCORE_B = np.array([0.1, 0.9, 0.5, 0.5, -0.3, 0.7])  # two equal scores
ALIKE_B = np.array([1, 0, 1, 0, 0, 1], np.int32)
MARGIN_BN = RNG.normal(size=(B, 3))
TEACHER = RNG.normal(size=(2, B, D))
# Few different texts: anchors, positives and negatives repeat each other in all ways, within an example and across.
HASH_SB = np.random.default_rng(1).integers(0, 5, size=(4, B)).astype(np.uint32)
ALL_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
SYMMETRIC = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}


def head(concatenation="u,v,|u-v|"):
    rows = D * len(concatenation.split(","))
    rng = np.random.default_rng(2)
    return {"kernel": rng.normal(size=(rows, CLASSES)), "bias": rng.normal(size=CLASSES)}


def case(name, S, targets=(), twin=(), softmax_head=None, **options):
    """One loss with its options: (name, texts, targets, head, options, the twin as a function of the texts)."""
    twin = partial(getattr(reference, name), **{**dict(twin), **options})
    label = "-".join([name, str(S), *(f"{value}" for value in options.values()), *(f"{k}" for k, _ in targets)])
    return pytest.param(name, TEXTS[:S], Targets(**dict(targets)), softmax_head, options, twin, id=label)


def softmax_case(concatenation):
    h = head(concatenation)
    twin = {"class_B": CLASS_B, "kernel_FC": h["kernel"], "bias_C": h["bias"]}
    return case("softmax", 2, [("labels_B", CLASS_B)], twin.items(), h, concatenation=concatenation)


def hashed_case(S, **options):
    return case("multiple_negatives_ranking", S, [("hashes_SB", HASH_SB[:S])], [("hash_SB", HASH_SB[:S])], **options)


def scored_case(name, parameter, label_B, **options):
    return case(name, 2, [("labels_B", label_B)], [(parameter, label_B)], **options)


def margin_case(S, margin_BN, **options):
    return case("margin_mse", S, [("labels_B", margin_BN)], [("margin_BN", margin_BN)], **options)


CASES = [
    *(softmax_case(concatenation) for concatenation in CONCATENATIONS),
    scored_case("cosine_similarity", "score_B", SCORE_B),
    scored_case("cosent", "score_B", SCORE_B),
    scored_case("cosent", "score_B", SCORE_B, scale=3.0),
    scored_case("contrastive", "alike_B", ALIKE_B),
    scored_case("contrastive", "alike_B", np.abs(SCORE_B), margin=1.3),
    scored_case("online_contrastive", "label_B", ALIKE_B),
    scored_case("online_contrastive", "label_B", ALIKE_B, margin=1.5),
    scored_case("online_contrastive", "label_B", np.zeros(B), margin=1.5),
    scored_case("online_contrastive", "label_B", np.ones(B)),
    scored_case("online_contrastive", "label_B", np.array([1, 0, 2, 0, 0.5, 1]), margin=1.5),
    *(case("multiple_negatives_ranking", S) for S in (2, 3, 4)),
    case("multiple_negatives_ranking", 3, scale=1.0, similarity="dot"),
    *(case("multiple_negatives_ranking", S, **SYMMETRIC) for S in (2, 3)),
    *(case("multiple_negatives_ranking", S, directions=ALL_DIRECTIONS) for S in (2, 3)),
    case("multiple_negatives_ranking", 3, directions=("query_to_doc", "doc_to_doc")),
    case("multiple_negatives_ranking", 3, directions=("query_to_query", "query_to_doc"), scale=5.0),
    *(hashed_case(S) for S in (2, 3)),
    hashed_case(3, **SYMMETRIC),
    *(hashed_case(S, directions=ALL_DIRECTIONS) for S in (2, 3)),
    case("triplet", 3),
    *(case("triplet", 3, distance=distance, margin=0.7) for distance in ("euclidean", "manhattan", "cosine")),
    margin_case(3, MARGIN_BN[:, 0]),
    margin_case(3, MARGIN_BN[:, :1], similarity="cosine"),
    margin_case(3, MARGIN_BN[:, :2]),
    margin_case(4, MARGIN_BN[:, :2]),
    margin_case(4, MARGIN_BN),
    *(
        case("mse", 2, [("teacher_SBD", teacher)], [("teacher_SBD", teacher)])
        for teacher in (TEACHER, TEACHER[:1], TEACHER[0])
    ),
]


# Compiling is nearly all that these tests do: without XLA's optimizations, and once per loss, options and shapes.
UNOPTIMIZED = {"xla_backend_optimization_level": 0}


@cache
def compiled(name, options):
    loss = partial(LOSSES[name].function, **dict(options))
    return jax.jit(jax.value_and_grad(loss), compiler_options=UNOPTIMIZED)


def to_jax(tree, dtype):
    """The tree's arrays for JAX, floating ones as `dtype`."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype if np.issubdtype(x.dtype, np.floating) else x.dtype), tree)


def compute(name, texts, targets, softmax_head, options, dtype=np.float64):
    """Loss and gradient for the embeddings, jitted, in float64 unless said otherwise."""
    with jax.enable_x64(dtype == np.float64):
        arguments = to_jax((texts, targets, softmax_head), dtype)
        value, gradient = compiled(name, tuple(options.items()))(*arguments)
    assert value.shape == () and value.dtype == dtype and gradient.dtype == dtype
    return float(value), np.asarray(gradient)


def finite_differences(f, x, step=1e-5):
    """The central difference of f for every number of x."""
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (f(up) - f(down)) / (2 * step)
    return gradient


@pytest.mark.parametrize("name, texts, targets, softmax_head, options, twin", CASES)
def test_a_loss_and_its_gradient_are_the_twins(name, texts, targets, softmax_head, options, twin):
    value, gradient = compute(name, texts, targets, softmax_head, options)
    assert value == pytest.approx(twin(texts), rel=FLOAT64, abs=FLOAT64)
    assert np.abs(gradient - finite_differences(twin, texts)).max() < DIFFERENCES


# The last case of every loss, and all concatenations.
SOME_CASES = [*{c.values[0]: c for c in CASES}.values(), *CASES[: len(CONCATENATIONS) - 1]]


@pytest.mark.parametrize("name, texts, targets, softmax_head, options, twin", SOME_CASES)
def test_float32_goes_in_and_comes_out(name, texts, targets, softmax_head, options, twin):
    value, gradient = compute(name, texts, targets, softmax_head, options, np.float32)
    expected, expected_gradient = compute(name, texts, targets, softmax_head, options)
    assert value == pytest.approx(expected, rel=FLOAT32, abs=FLOAT32)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=FLOAT32)


def test_every_loss_of_the_table_is_compared_with_a_twin():
    assert {c.values[0] for c in CASES} == set(LOSSES)
    assert all(row.function.__name__ == name for name, row in LOSSES.items())


@pytest.mark.parametrize("concatenation", CONCATENATIONS)
def test_the_heads_gradient_is_that_of_finite_differences(concatenation):
    h = head(concatenation)
    with jax.enable_x64(True):
        loss = partial(softmax, concatenation=concatenation)
        texts, targets, jax_head = to_jax((TEXTS[:2], Targets(CLASS_B), h), np.float64)
        gradient = jax.grad(loss, argnums=2)(texts, targets, jax_head)
    for part, twin in (
        ("kernel", lambda x: reference.softmax(TEXTS[:2], CLASS_B, x, h["bias"], concatenation)),
        ("bias", lambda x: reference.softmax(TEXTS[:2], CLASS_B, h["kernel"], x, concatenation)),
    ):
        assert np.abs(gradient[part] - finite_differences(twin, h[part])).max() < DIFFERENCES


def test_a_new_head_is_uniform_within_the_limit_of_torchs_linear():
    new = initial_softmax_head(jax.random.key(0), 100, 50)
    limit = 1 / np.sqrt(300)
    kernel = np.asarray(new["kernel"])
    assert kernel.shape == (300, 50) and new["bias"].shape == (50,)
    assert np.abs(kernel).max() <= limit and np.abs(new["bias"]).max() <= limit
    # 15,000 draws: their extremes, mean and deviation lie this close but in one of millions of seeds.
    assert kernel.max() > 0.99 * limit and kernel.min() < -0.99 * limit
    assert abs(kernel.mean()) < 0.03 * limit and abs(kernel.std() * np.sqrt(3) / limit - 1) < 0.03
    logits_BC = softmax_logits(new, jnp.ones((4, 100)), jnp.zeros((4, 100)))
    assert logits_BC.shape == (4, 50)


# --- where slopes could be infinite ----------------------------------------------------------------------------------

DEGENERATE = {
    "all zero": np.zeros((4, B, D)),
    "all equal": np.ones((4, B, D)),
    "one zero": np.concatenate([np.zeros((1, B, D)), TEXTS[1:]]),
    "negated": np.stack([TEXTS[0], -TEXTS[0], TEXTS[0], 0 * TEXTS[0]]),
    "huge": 1e60 * TEXTS,  # its fourth power, of margin_mse, is still a number
    "tiny": 1e-170 * TEXTS,  # its square is not
}


@pytest.mark.parametrize("name, texts, targets, softmax_head, options, twin", CASES)
def test_values_and_gradients_are_finite_where_a_formula_breaks(name, texts, targets, softmax_head, options, twin):
    for kind, degenerate in DEGENERATE.items():
        value, gradient = compute(name, degenerate[: len(texts)], targets, softmax_head, options)
        assert np.isfinite(value) and np.isfinite(gradient).all(), kind


def test_at_distance_zero_the_slope_is_zero():
    same = np.stack([TEXTS[0], TEXTS[0], TEXTS[0]])
    for distance in ("euclidean", "manhattan"):
        value, gradient = compute("triplet", same, Targets(), None, {"distance": distance})
        assert value == 5.0 and not gradient.any()
    # |u - v| alone: all of the gradient would come through it.
    h = head("|u-v|")
    _, gradient = compute("softmax", same[:2], Targets(CLASS_B), h, {"concatenation": "|u-v|"})
    assert not gradient.any()


def test_a_triplet_just_satisfied_has_slope_zero():
    texts = np.array([[[0.0, 0.0]], [[3.0, 4.0]], [[6.0, 8.0]]])  # 5 - 10 + 5 = 0
    value, gradient = compute("triplet", texts, Targets(), None, {})
    assert value == 0.0 and not gradient.any()


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_large_scale_does_not_overflow(scale):
    for name in ("multiple_negatives_ranking", "cosent"):
        value, gradient = compute(name, TEXTS[:2], Targets(labels_B=SCORE_B), None, {"scale": scale}, np.float32)
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_scores_all_equal_give_cosent_nothing_to_order():
    value, gradient = compute("cosent", TEXTS[:2], Targets(labels_B=np.full(B, 0.5)), None, {})
    assert value == 0.0 and not gradient.any()


# --- what does not change a loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, texts, targets, softmax_head, options, twin", CASES)
def test_the_order_of_the_batch_does_not_matter(name, texts, targets, softmax_head, options, twin):
    order = np.random.default_rng(3).permutation(B)
    labels_B, hashes_SB, teacher = targets
    permuted = Targets(
        labels_B=None if labels_B is None else labels_B[order],
        hashes_SB=None if hashes_SB is None else hashes_SB[:, order],
        teacher_SBD=None if teacher is None else np.take(teacher, order, axis=-2),
    )
    value, gradient = compute(name, texts, targets, softmax_head, options)
    permuted_value, permuted_gradient = compute(name, texts[:, order], permuted, softmax_head, options)
    assert permuted_value == pytest.approx(value, rel=REORDERED)
    np.testing.assert_allclose(permuted_gradient, gradient[:, order], rtol=0, atol=REORDERED)


@pytest.mark.parametrize("name", ["multiple_negatives_ranking", "cosine_similarity", "cosent", "contrastive"])
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


@pytest.mark.parametrize("S", [2, 3])
def test_masking_duplicates_is_the_loss_with_them_removed(S):
    """Each example alone, the candidates that remain given as its hard negatives, by the same loss without hashes."""
    alone, removed = [], 0
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


# --- Matryoshka ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, texts, targets, softmax_head, options, twin", SOME_CASES)
def test_matryoshka_is_the_weighted_sum_over_dimensions(name, texts, targets, softmax_head, options, twin):
    dimensions, weights = [D, 1, 3], [1.0, 0.5, 4.0]

    def short(d):
        """The twin with the teacher and the head cut to d."""
        cut = dict(twin.keywords)
        if "teacher_SBD" in cut:
            cut["teacher_SBD"] = cut["teacher_SBD"][..., :d]
        if "kernel_FC" in cut:
            rows = [part * D + row for part in range(len(cut["kernel_FC"]) // D) for row in range(d)]
            cut["kernel_FC"] = cut["kernel_FC"][rows]
        return lambda texts_SBd: twin.func(texts_SBd, **cut)

    def computed(weights):
        loss = matryoshka(partial(LOSSES[name].function, **options), dimensions, weights)
        with jax.enable_x64(True):
            jitted = jax.jit(loss, compiler_options=UNOPTIMIZED)
            return float(jitted(*to_jax((texts, targets, softmax_head), np.float64)))

    parts = [reference.matryoshka(short(d), texts, [d], [1.0]) for d in dimensions]
    assert computed(weights) == pytest.approx(np.dot(weights, parts), rel=FLOAT64, abs=FLOAT64)
    if name == "cosent":
        assert computed(None) == pytest.approx(sum(parts), rel=FLOAT64)


# --- refusals --------------------------------------------------------------------------------------------------------

GOOD = Targets(labels_B=jnp.zeros(B), teacher_SBD=jnp.zeros((B, D)))


@pytest.mark.parametrize("name", LOSSES)
def test_the_table_says_how_many_texts_a_loss_takes(name):
    row = LOSSES[name]
    for count in range(1, 5):
        targets = GOOD
        if row.needs == "class":
            targets = Targets(labels_B=jnp.zeros(B, jnp.int32))
        elif row.needs == "margin":
            targets = Targets(labels_B=jnp.zeros((B, max(count - 2, 1))))
        call = partial(jax.eval_shape, row.function, jnp.ones((count, B, D)), targets, head() if row.has_head else None)
        if row.least_texts <= count <= (row.most_texts or count):
            assert call().shape == ()
        else:
            with pytest.raises(InputError, match=rf"{name}: the embeddings have shape \({count}, 6, 5\)"):
                call()


@pytest.mark.parametrize("name", [name for name, row in LOSSES.items() if row.needs != "none"])
def test_missing_and_misshapen_labels_are_refused(name):
    row = LOSSES[name]
    embeddings = jnp.ones((row.least_texts, B, D))
    for labels_B in (None, jnp.zeros((B, 4)), jnp.zeros(B - 1), jnp.zeros((1, B))):
        teacher = None if labels_B is None else jnp.zeros((B, D - 1))
        with pytest.raises(InputError, match="Expected"):
            row.function(embeddings, Targets(labels_B=labels_B, teacher_SBD=teacher), head() if row.has_head else None)


@pytest.mark.parametrize("row", [row for row in LOSSES.values() if row.needs == "score"], ids=lambda row: row.function)
def test_a_column_of_labels_is_not_spread_over_all_pairs(row):
    with pytest.raises(InputError, match=r"labels_B has shape \(6, 1\)"):
        row.function(jnp.ones((2, B, D)), Targets(labels_B=jnp.zeros((B, 1))))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"similarity": "euclidean"}, "similarity is 'euclidean'"),
        ({"directions": "query_to_doc"}, "Expected a tuple"),
        ({"directions": ("doc_to_query",)}, "with 'query_to_doc'"),
        ({"directions": ("query_to_doc", "query_to_doc")}, "each once"),
        ({"directions": ("query_to_doc", "back")}, "directions is 'back'"),
        ({"directions": ()}, "with 'query_to_doc'"),
        ({"partition_mode": "own"}, "partition_mode is 'own'"),
        ({"directions": ALL_DIRECTIONS, "partition_mode": "per_direction"}, "never hold the positive"),
    ],
)
def test_options_that_have_no_meaning_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        multiple_negatives_ranking(jnp.ones((2, B, D)), Targets(), **options)


def test_more_refusals():
    class_B = jnp.zeros(B, jnp.int32)
    with pytest.raises(InputError, match="one hash per text"):
        multiple_negatives_ranking(jnp.ones((3, B, D)), Targets(hashes_SB=jnp.zeros((2, B), jnp.uint32)))
    with pytest.raises(InputError, match="head is missing"):
        softmax(jnp.ones((2, B, D)), Targets(labels_B=class_B))
    with pytest.raises(InputError, match="whole numbers"):
        softmax(jnp.ones((2, B, D)), Targets(labels_B=jnp.zeros(B)), head())
    with pytest.raises(InputError, match="kernel has 15 rows, 'u,v' of embeddings of width 5 has 10"):
        softmax(jnp.ones((2, B, D)), Targets(labels_B=class_B), head(), concatenation="u,v")
    with pytest.raises(InputError, match="concatenation is 'v,u'"):
        initial_softmax_head(jax.random.key(0), D, 3, "v,u")
    with pytest.raises(InputError, match="classes 1"):
        initial_softmax_head(jax.random.key(0), D, 1)
    with pytest.raises(InputError, match="distance is 'dot'"):
        LOSSES["triplet"].function(jnp.ones((3, B, D)), Targets(), distance="dot")
    for dimensions, weights in (([], None), ([0], None), ([2, 1], [1.0])):
        with pytest.raises(InputError, match="at least one dimension"):
            matryoshka(softmax, dimensions, weights)
    with pytest.raises(InputError, match="dimension 6 is more than the embeddings' 5"):
        matryoshka(multiple_negatives_ranking, [6])(jnp.ones((2, B, D)), Targets())
