"""Losses of labelled pairs: two sentences and a class, a score, or whether they are similar.

Reimers & Gurevych 2019 (SBERT), section 3, defines the first two: the classification objective and the regression
objective. Definitions, defaults and reductions are those of sentence-transformers 6, against which they are tested;
`reference/losses.py` has them in NumPy and must agree. Left out: example weights, label smoothing.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from minisbert.arguments import check_choice
from minisbert.errors import InputError
from minisbert.similarity import normalize, pairwise_cosine, pairwise_dot
from minisbert.training.targets import Head, Targets, absolute, labels, texts

# SBERT table 6: trained on NLI with this concatenation, Spearman x 100 of the cosines on STS-B's development set.
CONCATENATIONS = (
    "u,v",  # 66.04
    "|u-v|",  # 69.78
    "u*v",  # 70.54
    "|u-v|,u*v",  # 78.37
    "u,v,u*v",  # 77.44
    "u,v,|u-v|",  # 80.78
    "u,v,|u-v|,u*v",  # 80.44
)


def softmax(
    embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None, *, concatenation: str = "u,v,|u-v|"
) -> jax.Array:
    """Softmax classification: the mean of -log softmax(W (u, v, |u - v|) + b)[class] (SBERT section 3, figure 1).

    Needs: S = 2; `labels_B` int32 class ids from 0; `head` from `initial_softmax_head`.
    Use when: pairs have classes, as in NLI (entailment, neutral, contradiction).
    See also: `softmax_logits` for prediction; `multiple_negatives_ranking`, which is stronger on the same data.

    Shapes: embeddings `[2, B, D]`, kernel `[parts * D, C]`, bias `[C]` -> scalar. |u - v| has gradient 0 at u = v.

    Example:
        >>> head = {"kernel": jnp.zeros((6, 3)), "bias": jnp.zeros(3)}
        >>> round(float(softmax(jnp.ones((2, 4, 2)), Targets(labels_B=jnp.array([0, 1, 2, 0])), head)), 4)  # log 3
        1.0986
    """
    u_BD, v_BD = texts("softmax", embeddings_SBD, 2, 2)
    class_B = labels("softmax", targets, embeddings_SBD)
    if head is None or not jnp.issubdtype(class_B.dtype, jnp.integer):
        raise InputError(
            f"softmax: head is {'missing' if head is None else 'given'}, labels_B are {class_B.dtype}. Expected a head "
            "from initial_softmax_head and whole numbers as labels; for scores choose cosine_similarity or cosent."
        )
    log_p_BC = jax.nn.log_softmax(softmax_logits(head, u_BD, v_BD, concatenation))
    return -jnp.mean(jnp.take_along_axis(log_p_BC, class_B[:, None], axis=1))


def softmax_logits(head: Head, u_BD: jax.Array, v_BD: jax.Array, concatenation: str = "u,v,|u-v|") -> jax.Array:
    """`logits_BC` of the classification head; the largest is the predicted class.

    Example:
        >>> head = {"kernel": jnp.array([[1.0, 0.0], [0.0, 1.0]]), "bias": jnp.zeros(2)}
        >>> softmax_logits(head, jnp.array([[3.0]]), jnp.array([[2.0]]), "u,v").tolist()
        [[3.0, 2.0]]
    """
    check_choice("softmax: concatenation", concatenation, CONCATENATIONS)
    parts = {"u": u_BD, "v": v_BD, "|u-v|": absolute(u_BD - v_BD), "u*v": u_BD * v_BD}
    features_BE = jnp.concatenate([parts[name] for name in concatenation.split(",")], axis=1)
    if head["kernel"].shape[0] != features_BE.shape[1]:
        raise InputError(
            f"softmax: the head's kernel has {head['kernel'].shape[0]} rows, {concatenation!r} of embeddings of width "
            f"{u_BD.shape[1]} has {features_BE.shape[1]}. Use the concatenation and model of the head."
        )
    return jnp.matmul(features_BE, head["kernel"], precision=jax.lax.Precision.HIGHEST) + head["bias"]


def initial_softmax_head(key: jax.Array, dimension: int, classes: int, concatenation: str = "u,v,|u-v|") -> Head:
    """A head before training: kernel and bias uniform in ±1 / sqrt(rows), as in torch's nn.Linear.

    Example:
        >>> {name: array.shape for name, array in initial_softmax_head(jax.random.key(0), 8, 3).items()}
        {'bias': (3,), 'kernel': (24, 3)}
    """
    check_choice("softmax: concatenation", concatenation, CONCATENATIONS)
    if dimension < 1 or classes < 2:
        raise InputError(f"softmax: dimension is {dimension}, classes {classes}. Expected at least 1 and at least 2.")
    return initial_linear(key, dimension * len(concatenation.split(",")), classes)


def initial_linear(key: jax.Array, rows: int, columns: int) -> Head:
    """Kernel and bias uniform in ±1 / sqrt(rows), as in torch's nn.Linear."""
    limit = 1 / math.sqrt(rows)
    kernel_key, bias_key = jax.random.split(key)
    return {
        "bias": jax.random.uniform(bias_key, (columns,), jnp.float32, -limit, limit),
        "kernel": jax.random.uniform(kernel_key, (rows, columns), jnp.float32, -limit, limit),
    }


def cosine_similarity(embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None) -> jax.Array:
    """Cosine regression: the mean of (cos(u, v) - score)^2 (SBERT section 3, "Regression Objective Function").

    Needs: S = 2; `labels_B` scores in the range of the cosine, such as STS scores divided by 5.
    Use when: pairs have graded similarities whose values matter.
    See also: `cosent`, which learns only the order of the scores and often ranks better.

    Shapes: embeddings `[2, B, D]` -> scalar. A zero vector has cosine 0, and the gradient of a vector of length 1.

    Example:
        >>> embeddings_SBD = jnp.array([[[1.0, 0.0]], [[0.0, 2.0]]])
        >>> float(cosine_similarity(embeddings_SBD, Targets(labels_B=jnp.array([0.5]))))
        0.25
    """
    u_BD, v_BD = texts("cosine_similarity", embeddings_SBD, 2, 2)
    score_B = labels("cosine_similarity", targets, embeddings_SBD)
    return jnp.mean((pairwise_cosine(u_BD, v_BD) - score_B) ** 2)


def cosent(embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None, *, scale: float = 20.0) -> jax.Array:
    """CoSENT: log(1 + sum over i, j with score_i > score_j of exp(scale (cos_j - cos_i))).

    A smooth count of the pairs of pairs in the wrong order (Huang et al. 2024, "CoSENT: Consistent Sentence Embedding via
    Similarity Ranking"). Equal scores are not compared. One value for the whole batch, not a mean.

    Needs: S = 2; `labels_B` scores on any scale; only their order counts.
    Use when: the model will be judged by a rank correlation (Spearman), as on STS.
    See also: `cosine_similarity`, which fits the scores themselves.

    Shapes: embeddings `[2, B, D]` -> scalar; memory B^2, no D.

    Example:
        >>> embeddings_SBD = jnp.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])  # cosines 1 and 0
        >>> round(float(cosent(embeddings_SBD, Targets(labels_B=jnp.array([0.1, 0.9])), scale=1.0)), 4)  # log(1 + e)
        1.3133
    """
    return _log_misordered("cosent", pairwise_cosine, embeddings_SBD, targets, scale)


def angle(embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None, *, scale: float = 20.0) -> jax.Array:
    """AnglE: `cosent` on |Re(z w*) + Im(z w*)|, with u and v of length 1 read as complex vectors z and w.

    Li & Li 2024, "AoE: Angle-optimized Embeddings for Semantic Textual Similarity", section 3.3: where a cosine saturates,
    the angle between complex numbers does not. The first half of a vector is the real part, the second the imaginary one;
    an odd width is padded with a zero. Left out: the paper's sum with other losses.

    Needs: S = 2; `labels_B` scores on any scale; only their order counts.
    Use when: as `cosent`, where most cosines are near 1.
    See also: `cosent`.

    Shapes: embeddings `[2, B, D]` -> scalar; memory B^2, no D.

    Example:
        >>> embeddings_SBD = jnp.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])  # |1 + 0| and |0 - 1|
        >>> round(float(angle(embeddings_SBD, Targets(labels_B=jnp.array([0.1, 0.9])))), 4)  # log(1 + exp(0))
        0.6931
    """
    return _log_misordered("angle", _pairwise_angle, embeddings_SBD, targets, scale)


def _pairwise_angle(u_BD: jax.Array, v_BD: jax.Array) -> jax.Array:
    u_BD, v_BD = normalize(u_BD), normalize(v_BD)
    odd = u_BD.shape[1] % 2
    (u_re_BD, u_im_BD), (v_re_BD, v_im_BD) = (
        jnp.split(jnp.pad(x_BD, ((0, 0), (0, odd))), 2, axis=1) for x_BD in (u_BD, v_BD)
    )
    return absolute(pairwise_dot(u_BD, v_BD) + pairwise_dot(u_im_BD, v_re_BD) - pairwise_dot(u_re_BD, v_im_BD))


def _log_misordered(
    loss: str,
    compare: Callable[[jax.Array, jax.Array], jax.Array],
    embeddings_SBD: jax.Array,
    targets: Targets,
    scale: float,
) -> jax.Array:
    """log(1 + sum over i, j with score_i > score_j of exp(scale (s_j - s_i)))."""
    u_BD, v_BD = texts(loss, embeddings_SBD, 2, 2)
    score_B = labels(loss, targets, embeddings_SBD)
    scaled_B = scale * compare(u_BD, v_BD)
    wrong_BB = jnp.where(score_B[:, None] > score_B[None, :], scaled_B[None, :] - scaled_B[:, None], -jnp.inf)
    # exp(0) is the 1 of the formula; it also makes the sum positive where all scores are equal.
    return jax.nn.logsumexp(jnp.append(wrong_BB, 0))


def contrastive(
    embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None, *, margin: float = 0.5
) -> jax.Array:
    """Contrastive loss: the mean of (y d^2 + (1 - y) max(0, margin - d)^2) / 2, with d = 1 - cos(u, v).

    Hadsell, Chopra & LeCun 2006, section 2.1, equations 1 and 4; there Y = 1 marks the *dissimilar* pairs.

    Needs: S = 2; `labels_B` 1 for similar and 0 for dissimilar; a label in between weights both terms.
    Use when: pairs are labelled similar or dissimilar (duplicate questions).
    See also: `online_contrastive`, which skips the easy pairs; `multiple_negatives_ranking`, for similar pairs alone.

    Shapes: embeddings `[2, B, D]` -> scalar. At d = margin the gradient is 0.

    Example:
        >>> embeddings_SBD = jnp.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])  # distances 1 and 0
        >>> float(contrastive(embeddings_SBD, Targets(labels_B=jnp.array([1, 0]))))  # (1 + 0.25) / 2 / 2
        0.3125
    """
    u_BD, v_BD = texts("contrastive", embeddings_SBD, 2, 2)
    similar_B = labels("contrastive", targets, embeddings_SBD)
    distance_B = 1 - pairwise_cosine(u_BD, v_BD)
    # jax.nn.relu, not maximum: its gradient at 0 is 0, as in torch; that of maximum is 1/2.
    return jnp.mean(similar_B * distance_B**2 + (1 - similar_B) * jax.nn.relu(margin - distance_B) ** 2) / 2


def online_contrastive(
    embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None, *, margin: float = 0.5
) -> jax.Array:
    """`contrastive` on the hard pairs of the batch only, summed (neither averaged nor halved).

    Hard pairs are similar ones farther apart than the closest dissimilar pair, and dissimilar ones closer than the farthest
    similar pair. If the batch has no pair of one kind, the mean distance of the other kind is the limit. No paper: this is
    sentence-transformers' definition. Because it is a sum, the loss grows with the batch.

    Needs: S = 2; `labels_B` 1 for similar and 0 for dissimilar; pairs with any other label are left out.
    Use when: `contrastive` stalls because most pairs of a batch are already far enough apart or close enough.
    See also: `contrastive`.

    Shapes: embeddings `[2, B, D]` -> scalar. The choice of the hard pairs has no gradient.

    Example:
        >>> embeddings_SBD = jnp.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])  # distances 1 and 0
        >>> float(online_contrastive(embeddings_SBD, Targets(labels_B=jnp.array([1, 0]))))  # 1 + 0.25
        1.25
    """
    u_BD, v_BD = texts("online_contrastive", embeddings_SBD, 2, 2)
    label_B = labels("online_contrastive", targets, embeddings_SBD)
    similar_B, dissimilar_B = label_B == 1, label_B == 0
    distance_B = 1 - pairwise_cosine(u_BD, v_BD)
    # Without any pair of a kind its mean is 0 / 0 = NaN; comparisons with NaN are False, so nothing of that kind is chosen.
    farthest = jnp.where(
        similar_B.any(),
        jnp.max(distance_B, initial=-jnp.inf, where=similar_B),
        jnp.mean(distance_B, where=dissimilar_B),
    )
    closest = jnp.where(
        dissimilar_B.any(),
        jnp.min(distance_B, initial=jnp.inf, where=dissimilar_B),
        jnp.mean(distance_B, where=similar_B),
    )
    pull_B = jnp.where(similar_B & (distance_B > closest), distance_B, 0) ** 2
    push_B = jnp.where(dissimilar_B & (distance_B < farthest), jax.nn.relu(margin - distance_B), 0) ** 2
    return jnp.sum(pull_B + push_B)


def contrastive_tension(embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None) -> jax.Array:
    """Contrastive tension: the *sum* of -(y log σ(u . v) + (1 - y) log(1 - σ(u . v))) (Carlsson et al. 2021, section 3).

    A sentence is paired with itself (y = 1) and with other ones (y = 0; in the paper seven for each). Left out: the paper's
    second, independent copy of the weights. Both texts pass through the same ones here, each with its own dropout.

    Needs: S = 2; `labels_B` 1 for two copies of a text and 0 for two texts.
    Use when: there are texts and neither pairs nor labels.
    See also: `contrastive_tension_in_batch`, which needs no labels and usually learns more.

    Shapes: embeddings `[2, B, D]` -> scalar. Because it is a sum, the loss grows with the batch.

    Example:
        >>> round(float(contrastive_tension(jnp.zeros((2, 3, 4)), Targets(labels_B=jnp.array([1, 0, 0])))), 4)  # 3 log 2
        2.0794
    """
    u_BD, v_BD = texts("contrastive_tension", embeddings_SBD, 2, 2)
    same_B = labels("contrastive_tension", targets, embeddings_SBD)
    logit_B = pairwise_dot(u_BD, v_BD)
    # softplus(x) - y x is the cross-entropy without the overflow of exp.
    return jnp.sum(jax.nn.softplus(logit_B) - same_B * logit_B)
