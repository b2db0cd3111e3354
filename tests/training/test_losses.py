"""Every loss of training/losses.py, its gradient and its refusals, against the NumPy twin and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import (
    ALL_DIRECTIONS,
    CASES,
    GUIDE,
    ONE_EACH,
    SCORE_B,
    B,
    D,
    compute,
    head,
    to_jax,
)

from minisbert.errors import InputError
from minisbert.reference import losses as reference_losses
from minisbert.reference import nested_losses as reference
from minisbert.training.losses import (
    LOSSES,
    Loss,
    Targets,
    adaptive_layer,
    cosine_similarity,
    distill_kl_div,
    gist,
    initial_softmax_head,
    matryoshka,
    multiple_negatives_ranking,
    softmax,
    softmax_logits,
)

# Rounding of some hundred float64 operations on numbers of size 1, scaled by 20; 5e-16 is measured.
FLOAT64 = 1e-10
# Central differences of step 1e-5: an error of step^2 times a third derivative (scale 20: up to 20^3) plus rounding
# 1e-16 / step; 4e-9 is measured.
DIFFERENCES = 1e-7
# float32 rounding of 6e-8 times the scale of 20 times some additions; 8e-7 is measured.
FLOAT32 = 1e-5


def finite_differences(f, x, step=1e-5):
    """The central difference of f for every number of x."""
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (f(up) - f(down)) / (2 * step)
    return gradient


@pytest.mark.parametrize("name, texts, targets, loss_head, options, twin", CASES)
def test_a_loss_and_its_gradient_are_the_twins(name, texts, targets, loss_head, options, twin):
    value, gradient = compute(name, texts, targets, loss_head, options)
    assert value == pytest.approx(twin(texts), rel=FLOAT64, abs=FLOAT64)
    assert np.abs(gradient - finite_differences(twin, texts)).max() < DIFFERENCES


@pytest.mark.parametrize("name, texts, targets, loss_head, options, twin", ONE_EACH)
def test_float32_goes_in_and_comes_out(name, texts, targets, loss_head, options, twin):
    value, gradient = compute(name, texts, targets, loss_head, options, np.float32)
    expected, expected_gradient = compute(name, texts, targets, loss_head, options)
    assert value == pytest.approx(expected, rel=FLOAT32, abs=FLOAT32)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=FLOAT32)


def test_every_loss_of_the_table_is_compared_with_a_twin():
    assert {c.values[0] for c in CASES} == set(LOSSES) - {"denoising_auto_encoder"}  # test_denoising.py
    assert all(row.function.__name__ == name for name, row in LOSSES.items())


HEADS = {
    "softmax": {"kernel": "kernel_FC", "bias": "bias_C"},
    "embed_distill": {"kernel": "kernel_DE", "bias": "bias_E"},
    "contrastive_tension_in_batch": {"log_scale": "log_scale"},
}


@pytest.mark.parametrize(
    "name, texts, targets, loss_head, options, twin", [one for one in CASES if one.values[3] is not None]
)
def test_the_heads_gradient_is_that_of_finite_differences(name, texts, targets, loss_head, options, twin):
    with jax.enable_x64(True):
        loss = partial(LOSSES[name].function, **options)
        gradient = jax.grad(loss, argnums=2)(*to_jax((texts, targets, loss_head), np.float64))
    for part, keyword in HEADS[name].items():
        differences = finite_differences(lambda x, keyword=keyword: twin(texts, **{keyword: x}), loss_head[part])
        assert np.abs(np.asarray(gradient[part]) - differences).max() < DIFFERENCES


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


# --- Matryoshka ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, texts, targets, loss_head, options, twin", ONE_EACH)
def test_matryoshka_is_the_weighted_sum_over_dimensions(name, texts, targets, loss_head, options, twin):
    dimensions, weights = [D, 1, 3], [1.0, 0.5, 4.0]

    def short(d):
        """The twin with the teacher and the head cut to d."""
        cut = dict(twin.keywords)
        for kernel in {"kernel_FC", "kernel_DE"} & cut.keys():
            rows = [part * D + row for part in range(len(cut[kernel]) // D) for row in range(d)]
            cut[kernel] = cut[kernel][rows]
        if "teacher_SBD" in cut and "kernel_DE" not in cut:
            cut["teacher_SBD"] = cut["teacher_SBD"][..., :d]
        return lambda texts_SBd: twin.func(texts_SBd, **cut)

    def computed(weights):
        loss = matryoshka(partial(LOSSES[name].function, **options), dimensions, weights)
        with jax.enable_x64(True):
            jitted = jax.jit(loss)
            return float(jitted(*to_jax((texts, targets, loss_head), np.float64)))

    parts = [reference.matryoshka(short(d), texts, [d], [1.0]) for d in dimensions]
    assert computed(weights) == pytest.approx(np.dot(weights, parts), rel=FLOAT64, abs=FLOAT64)
    if name == "cosent":
        assert computed(None) == pytest.approx(sum(parts), rel=FLOAT64)


# --- earlier layers ---------------------------------------------------------------------------------------------------

LAYERS = np.random.default_rng(6).normal(size=(2, B, 3, D))


@pytest.mark.parametrize(
    "options",
    [{}, {"layer_weighting": "log", "prior_layers_weight": 0.4}, {"layer_weighting": "linear", "kl_temperature": 2.0}],
    ids=lambda options: "-".join(map(str, options.values())) or "defaults",
)
def test_adaptive_layers_and_their_gradient_are_the_twins(options):
    def short(texts_SBd):
        return reference_losses.cosine_similarity(texts_SBd, SCORE_B)

    def two_dimensional(texts_SBD):
        return reference.matryoshka(short, texts_SBD, [D, 2], [1.0, 0.5])

    of_layers = partial(reference.adaptive_layer, frozen_SBD=LAYERS[:, :, -1], **options)
    for inner, inner_twin in (
        (cosine_similarity, short),
        (matryoshka(cosine_similarity, [D, 2], [1.0, 0.5]), two_dimensional),
    ):
        with jax.enable_x64(True):
            gradient_of = jax.jit(jax.value_and_grad(adaptive_layer(inner, **options)))
            value, gradient = gradient_of(*to_jax((LAYERS, Targets(labels_B=SCORE_B)), np.float64))
        twin = partial(of_layers, inner_twin)
        assert float(value) == pytest.approx(twin(LAYERS), rel=FLOAT64)
        assert np.abs(np.asarray(gradient) - finite_differences(twin, LAYERS)).max() < DIFFERENCES


# --- refusals --------------------------------------------------------------------------------------------------------

GOOD = Targets(labels_B=jnp.zeros(B), teacher_SBD=jnp.zeros((B, D)))


def first_head(row):
    """The head of a loss before training, with default options."""
    return row.head(jax.random.key(0), D, 3) if row.head else None


@pytest.mark.parametrize("name", [name for name, row in LOSSES.items() if not row.model])
def test_the_table_says_how_many_texts_a_loss_takes(name):
    row = LOSSES[name]
    for count in range(1, 5):
        targets = GOOD
        if row.needs == "class":
            targets = Targets(labels_B=jnp.zeros(B, jnp.int32))
        elif row.needs == "margin":
            targets = Targets(labels_B=jnp.zeros((B, max(count - 2, 1))))
        targets = targets._replace(guide_SBD=jnp.ones((count, B, 3))) if row.guide else targets
        call = partial(jax.eval_shape, row.function, jnp.ones((count, B, D)), targets, first_head(row))
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
            row.function(embeddings, Targets(labels_B=labels_B, teacher_SBD=teacher), first_head(row))


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
        ({"hardness_mode": "hard"}, "hardness_mode is 'hard'"),
        ({"directions": ALL_DIRECTIONS, "partition_mode": "per_direction"}, "never include the positive"),
    ],
)
def test_options_that_have_no_meaning_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        multiple_negatives_ranking(jnp.ones((2, B, D)), Targets(), **options)


@pytest.mark.parametrize(
    "given", [{"needs": "label"}, {"embeds": "token"}, {"least_texts": "2"}, {"least_texts": 0}, {"most_texts": 0}]
)
def test_a_loss_that_declares_what_there_is_not_is_refused(given):
    (name, value), *_ = given.items()
    with pytest.raises(InputError, match=f"{name} is {value!r}. Expected"):
        Loss(cosine_similarity, **given)


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
    with pytest.raises(InputError, match="labels_B is float32"):
        LOSSES["batch_hard_triplet"].function(jnp.ones((1, B, D)), Targets(labels_B=jnp.zeros(B)))
    with pytest.raises(InputError, match="head is missing"):
        LOSSES["contrastive_tension_in_batch"].function(jnp.ones((2, B, D)), Targets())
    with pytest.raises(InputError, match="guide_SBD has shape None"):
        gist(jnp.ones((2, B, D)), Targets())
    with pytest.raises(InputError, match="margin_strategy is 'both'"):
        gist(jnp.ones((2, B, D)), Targets(guide_SBD=jnp.asarray(GUIDE[:2])), margin_strategy="both")
    with pytest.raises(InputError, match=r"temperatures are 1\.0 and 0"):
        distill_kl_div(jnp.ones((3, B, D)), Targets(labels_B=jnp.zeros(B)), teacher_temperature=0)
    with pytest.raises(InputError, match="the teacher's width"):
        LOSSES["embed_distill"].function(jnp.ones((1, B, D)), Targets(teacher_SBD=jnp.ones((B, 9))))
    with pytest.raises(InputError, match="distance is 'dot'"):
        LOSSES["triplet"].function(jnp.ones((3, B, D)), Targets(), distance="dot")
    with pytest.raises(InputError, match=r"shape \(2, 6, 5\). Expected \[S, B, I, D\]"):
        adaptive_layer(cosine_similarity)(jnp.ones((2, B, D)), Targets(labels_B=jnp.zeros(B)))
    with pytest.raises(InputError, match="kl_temperature is 0"):
        adaptive_layer(cosine_similarity, kl_temperature=0)
    for dimensions, weights in (([], None), ([0], None), ([2, 1], [1.0])):
        with pytest.raises(InputError, match="at least one dimension"):
            matryoshka(softmax, dimensions, weights)
    with pytest.raises(InputError, match="dimension 6 is more than the embeddings' 5"):
        matryoshka(multiple_negatives_ranking, [6])(jnp.ones((2, B, D)), Targets())
