"""The losses with their options, texts and targets, as test_losses.py and test_loss_properties.py go through them."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minisbert.reference import batch_losses, losses, teacher_losses
from minisbert.training.losses import CONCATENATIONS, LOSSES, Targets

B, D, CLASSES = 6, 5, 3
RNG = np.random.default_rng(0)
TEXTS = RNG.normal(size=(4, B, D))  # S = 4 at most
CLASS_B = np.array([0, 2, 1, 1, 0, 2], np.int32)
SCORE_B = np.array([0.1, 0.9, 0.5, 0.5, -0.3, 0.7])  # two equal scores
ALIKE_B = np.array([1, 0, 1, 0, 0, 1], np.int32)
MARGIN_BN = RNG.normal(size=(B, 3))
TEACHER = RNG.normal(size=(2, B, D))
GUIDE = RNG.normal(size=(4, B, 3))  # of another width
WIDE_TEACHER = RNG.normal(size=(2, B, 4))
# Few different texts: anchors, positives and negatives repeat each other in all ways, within an example and across.
HASH_SB = np.random.default_rng(1).integers(0, 5, size=(4, B)).astype(np.uint32)
ALL_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
SYMMETRIC = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}


def head(concatenation="u,v,|u-v|"):
    rows = D * len(concatenation.split(","))
    rng = np.random.default_rng(2)
    return {"kernel": rng.normal(size=(rows, CLASSES)), "bias": rng.normal(size=CLASSES)}


def twin_of(name):
    """The loss of this name in reference/."""
    return next(getattr(part, name) for part in (losses, teacher_losses, batch_losses) if hasattr(part, name))


def case(name, S, targets=(), twin=(), loss_head=None, **options):
    """One loss with its options: (name, texts, targets, head, options, the twin as a function of the texts)."""
    twin = partial(twin_of(name), **{**dict(twin), **options})
    label = "-".join([name, str(S), *(f"{value}" for value in options.values()), *(f"{k}" for k, _ in targets)])
    return pytest.param(name, TEXTS[:S], Targets(**dict(targets)), loss_head, options, twin, id=label)


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


def class_case(name, class_B=CLASS_B, **options):
    return case(name, 1, [("labels_B", class_B)], [("class_B", class_B)], **options)


def gist_case(S, targets=(), twin=(), **options):
    targets, twin = [("guide_SBD", GUIDE[:S]), *targets], [("guide_SBE", GUIDE[:S]), *twin]
    return case("gist", S, targets, twin, temperature=0.1, **options)


def projection_case(**options):
    rng = np.random.default_rng(5)
    h = {"kernel": rng.normal(size=(D, 4)), "bias": rng.normal(size=4)}
    twin = [("teacher_SBD", WIDE_TEACHER), ("kernel_DE", h["kernel"]), ("bias_E", h["bias"])]
    return case("embed_distill", 2, [("teacher_SBD", WIDE_TEACHER)], twin, h, projection_dim=4, **options)


def hardness_case(S, mode, **options):
    options = {"hardness_mode": mode, "hardness_strength": 3.0, **options}
    return case("multiple_negatives_ranking", S, twin=[("frozen_SBD", TEXTS[:S])], **options)


TRIPLETS = "batch_all_triplet", "batch_hard_triplet", "batch_hard_soft_margin_triplet", "batch_semi_hard_triplet"
SCALE = np.array(1.5)  # log
CASES = [
    *(softmax_case(concatenation) for concatenation in CONCATENATIONS),
    scored_case("cosine_similarity", "score_B", SCORE_B),
    scored_case("cosent", "score_B", SCORE_B),
    scored_case("cosent", "score_B", SCORE_B, scale=3.0),
    *(scored_case("angle", "score_B", SCORE_B, **options) for options in ({}, {"scale": 3.0})),
    scored_case("contrastive", "alike_B", ALIKE_B),
    scored_case("contrastive", "alike_B", np.abs(SCORE_B), margin=1.3),
    scored_case("online_contrastive", "label_B", ALIKE_B),
    scored_case("online_contrastive", "label_B", ALIKE_B, margin=1.5),
    scored_case("online_contrastive", "label_B", np.zeros(B), margin=1.5),
    scored_case("online_contrastive", "label_B", np.ones(B)),
    scored_case("online_contrastive", "label_B", np.array([1, 0, 2, 0, 0.5, 1]), margin=1.5),
    scored_case("contrastive_tension", "same_B", ALIKE_B),
    *(case("multiple_negatives_ranking", S) for S in (2, 4)),
    case("multiple_negatives_ranking", 3, scale=1.0, similarity="dot"),
    *(case("multiple_negatives_ranking", S, **SYMMETRIC) for S in (2, 3)),
    *(case("multiple_negatives_ranking", S, directions=ALL_DIRECTIONS) for S in (2, 3)),
    case("multiple_negatives_ranking", 3, directions=("query_to_doc", "doc_to_doc")),
    case("multiple_negatives_ranking", 3, directions=("query_to_query", "query_to_doc"), scale=5.0),
    *(hardness_case(4, mode) for mode in ("in_batch_negatives", "hard_negatives", "all_negatives")),
    hardness_case(3, "all_negatives", **SYMMETRIC),
    *(hashed_case(S) for S in (2, 3)),
    hashed_case(3, **SYMMETRIC),
    *(hashed_case(S, directions=ALL_DIRECTIONS) for S in (2, 3)),
    case("contrastive_tension_in_batch", 2, twin=[("log_scale", SCALE)], loss_head={"log_scale": SCALE}),
    *(case("mega_batch_margin", 2, [("hashes_SB", h)], [("hash_SB", h)]) for h in (None, HASH_SB[:2])),
    case("mega_batch_margin", 2, positive_margin=0.4, negative_margin=-0.2),
    gist_case(2),
    gist_case(3, margin=0.4),
    gist_case(4, margin=0.5, margin_strategy="relative", contrast_anchors=False),
    gist_case(3, contrast_positives=False),
    gist_case(3, [("hashes_SB", HASH_SB[:3])], [("hash_SB", HASH_SB[:3])], margin=-0.2),
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
    *(
        case("embed_distill", 2, [("teacher_SBD", teacher)], [("teacher_SBD", teacher)], distance=distance)
        for teacher, distance in ((TEACHER, "cosine"), (TEACHER[:1], "l2"), (TEACHER[0], "mse"))
    ),
    *(projection_case(**options) for options in ({"distance": "l2"}, {})),
    *(
        case("distill_kl_div", S, [("labels_B", known)], [("score_BM", known)], **options)
        for S, known, options in (
            (3, MARGIN_BN[:, 0], {}),
            (4, MARGIN_BN[:, :2], {"student_temperature": 2.0, "teacher_temperature": 0.5}),
            (4, MARGIN_BN, {"similarity": "cosine", "temperature": 0.5}),
        )
    ),
    *(class_case(name) for name in TRIPLETS),
    *(
        class_case(name, class_B, distance=distance, **({} if "soft" in name else {"margin": 0.5}))
        for name in TRIPLETS
        for class_B, distance in (
            (np.array([0, 0, 0, 1, 2, 2], np.int32), "cosine"),  # one alone
            (np.zeros(B, np.int32), "euclidean"),  # no negatives
            (np.arange(B, dtype=np.int32), "euclidean"),  # no positives
            (CLASS_B, "manhattan"),
        )
    ),
    *(case("global_orthogonal_regularization", S) for S in (1, 3)),
    case("global_orthogonal_regularization", 2, mean_weight=0.3, second_moment_weight=2.0, aggregation="sum"),
]


# Compiling is nearly all that these tests do: without XLA's optimizations, and once per loss, options and shapes.


@cache
def compiled(name, options):
    loss = partial(LOSSES[name].function, **dict(options))
    return jax.jit(jax.value_and_grad(loss))


def to_jax(tree, dtype):
    """The tree's arrays for JAX, floating ones as `dtype`."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype if np.issubdtype(x.dtype, np.floating) else x.dtype), tree)


def compute(name, texts, targets, loss_head, options, dtype=np.float64):
    """Loss and gradient for the embeddings, jitted, in float64 unless said otherwise."""
    with jax.enable_x64(dtype == np.float64):
        arguments = to_jax((texts, targets, loss_head), dtype)
        value, gradient = compiled(name, tuple(options.items()))(*arguments)
    assert value.shape == () and value.dtype == dtype and gradient.dtype == dtype
    return float(value), np.asarray(gradient)


# The last case of every loss.
ONE_EACH = [*{one.values[0]: one for one in CASES}.values()]
