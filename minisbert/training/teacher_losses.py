"""Losses with another model: distillation of its embeddings or scores, and a guide that removes false negatives.

    mse                 its embeddings                      Reimers & Gurevych 2020, section 2
    embed_distill       its embeddings, of any width        Kim et al. 2023 (EmbedDistill), section 4
    margin_mse          its margins                         Hofstätter et al. 2020
    distill_kl_div      its distribution over candidates    Lin, Yang & Lin 2020 (TCT), section 3; Hinton et al. 2015
    gist                its similarities, as a guide        Solatorio 2024 (GISTEmbed)

`Targets` holds the other model's outputs: `teacher_SBD` and `guide_SBD` (the trainer computes them), or scores in `labels_B`.
Definitions, defaults and reductions are those of sentence-transformers 6, against which they are tested;
`reference/teacher_losses.py` has them in NumPy and must agree.
"""

import jax
import jax.numpy as jnp

from minisbert.arguments import check_choice
from minisbert.errors import InputError
from minisbert.similarity import cosine, pairwise_cosine, pairwise_dot
from minisbert.training.pair_losses import initial_linear
from minisbert.training.ranking_losses import DISTANCES, candidate_similarities
from minisbert.training.targets import Head, Targets, margins, texts


def mse(embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None) -> jax.Array:
    """Distillation: the mean of (student - teacher)^2 (Reimers & Gurevych 2020, section 2).

    Needs: S >= 1; `teacher_SBD` embeddings of the student's width, one per text or one per example for all its texts.
    Use when: a model should copy a larger one, or a translation should get the embedding of its original (in data of the kind
        "translations").
    See also: `embed_distill` for a teacher of another width; `margin_mse`, which copies a teacher's scores.

    Shapes: embeddings `[S, B, D]`, teacher `[S, B, D]`, `[1, B, D]` or `[B, D]` -> scalar.

    Example:
        >>> float(mse(jnp.ones((2, 4, 8)), Targets(teacher_SBD=jnp.zeros((4, 8)))))
        1.0
    """
    return jnp.mean((embeddings_SBD - _teacher("mse", embeddings_SBD, targets)) ** 2)


def embed_distill(
    embeddings_SBD: jax.Array,
    targets: Targets,
    head: Head | None = None,
    *,
    distance: str = "cosine",
    projection_dim: int | None = None,
) -> jax.Array:
    """Embedding distillation: the mean distance of student and teacher; a trained projection W e + b bridges two widths.

    `distance`: "cosine" (1 - cos), "l2" (euclidean) or "mse".

    Needs: S >= 1; `teacher_SBD`, one per text or one per example for all its texts; with `projection_dim`, the teacher's
        width, `head` from `initial_projection`. The projection is saved with the run and not part of the model.
    Use when: a smaller model should copy the directions of a larger one.
    See also: `mse`.

    Shapes: embeddings `[S, B, D]`, teacher `[S, B, E]`, `[1, B, E]` or `[B, E]` -> scalar.

    Example:
        >>> float(embed_distill(jnp.ones((2, 4, 8)), Targets(teacher_SBD=-jnp.ones((4, 8)))))
        2.0
    """
    check_choice("embed_distill: distance", distance, ("cosine", "l2", "mse"))
    if head:
        product = jnp.matmul(embeddings_SBD, head["kernel"], precision=jax.lax.Precision.HIGHEST)
        embeddings_SBD = product + head["bias"]
    teacher = jnp.broadcast_to(_teacher("embed_distill", embeddings_SBD, targets), embeddings_SBD.shape)
    if distance == "mse":
        return jnp.mean((embeddings_SBD - teacher) ** 2)
    return jnp.mean(DISTANCES["euclidean" if distance == "l2" else "cosine"](embeddings_SBD, teacher))


def initial_projection(
    key: jax.Array, dimension: int, classes: int, distance: str = "cosine", projection_dim: int | None = None
) -> Head:
    """The projection of `embed_distill` before training; without `projection_dim` none.

    Example:
        >>> initial_projection(jax.random.key(0), 8, 0, projection_dim=16)["kernel"].shape
        (8, 16)
    """
    return {} if projection_dim is None else initial_linear(key, dimension, projection_dim)


def _teacher(loss: str, embeddings_SBD: jax.Array, targets: Targets) -> jax.Array:
    teacher: jax.Array | None = targets.teacher_SBD
    shape = embeddings_SBD.shape
    if teacher is None or teacher.shape not in (shape, (1, *shape[1:]), shape[1:]):
        raise InputError(
            f"{loss}: targets.teacher_SBD has shape {None if teacher is None else teacher.shape}, the embeddings {shape}. "
            "Expected the teacher's embeddings in the same shape, or without S. If the widths differ, take a teacher of "
            "this width, reduce its embeddings (PCA), or choose embed_distill with projection_dim, the teacher's width."
        )
    return teacher


def margin_mse(
    embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None, *, similarity: str = "dot"
) -> jax.Array:
    """Margin-MSE: ((s(a, p) - s(a, n)) - teacher's margin)^2, averaged over examples and negatives.

    Hofstätter et al. 2020, "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation".

    Needs: S >= 3; `labels_B` the margins `[B]` (one negative) or `[B, S - 2]`, or the teacher's scores of the positive
        and the negatives `[B, S - 1]`, from which the margins follow.
    Use when: a cross-encoder has scored (query, positive) and (query, negative).
    See also: `distill_kl_div`; `mse`, which copies a teacher's embeddings.

    Shapes: embeddings `[S, B, D]` -> scalar.

    Example:
        >>> embeddings_SBD = jnp.array([[[1.0, 2.0]], [[1.0, 1.0]], [[0.0, 1.0]]])  # scores 3 and 2
        >>> float(margin_mse(embeddings_SBD, Targets(labels_B=jnp.array([3.0]))))
        4.0
    """
    margin_BN = _margins("margin_mse", embeddings_SBD, similarity)
    return jnp.mean((margin_BN - margins("margin_mse", targets, *margin_BN.shape)) ** 2)


def distill_kl_div(
    embeddings_SBD: jax.Array,
    targets: Targets,
    head: Head | None = None,
    *,
    similarity: str = "dot",
    temperature: float = 1.0,
    student_temperature: float | None = None,
    teacher_temperature: float | None = None,
) -> jax.Array:
    """KL distillation: T^2 KL(softmax(teacher / T') || softmax(student / T)) over an anchor's candidates, averaged.

    T and T' are `student_temperature` and `teacher_temperature`, by default both `temperature`.

    Needs: S >= 3; `labels_B` as for `margin_mse`: softmax sees only differences of scores.
    Use when: a cross-encoder has scored a query with several candidates, and their order matters more than their scores.
    See also: `margin_mse`, which fits the differences themselves.

    Shapes: embeddings `[S, B, D]` -> scalar.

    Example:
        >>> embeddings_SBD = jnp.array([[[1.0, 2.0]], [[1.0, 1.0]], [[0.0, 1.0]]])  # scores 3 and 2
        >>> abs(float(distill_kl_div(embeddings_SBD, Targets(labels_B=jnp.array([1.0]))))) < 1e-6  # the same margin
        True
    """
    student = temperature if student_temperature is None else student_temperature
    teacher = temperature if teacher_temperature is None else teacher_temperature
    if not (student > 0 and teacher > 0):
        raise InputError(f"distill_kl_div: temperatures are {student} and {teacher}. Expected numbers above 0.")
    margin_BN = _margins("distill_kl_div", embeddings_SBD, similarity)
    teacher_BN = margins("distill_kl_div", targets, *margin_BN.shape)

    def log_softmax(margin_BN: jax.Array, temperature: float) -> jax.Array:
        # The positive's score is 0 and a negative's minus its margin.
        return jax.nn.log_softmax(jnp.pad(-margin_BN, ((0, 0), (1, 0))) / temperature, axis=1)

    log_p_BM, log_q_BM = log_softmax(teacher_BN, teacher), log_softmax(margin_BN, student)
    return student**2 * jnp.mean(jnp.sum(jnp.exp(log_p_BM) * (log_p_BM - log_q_BM), axis=1))


def _margins(loss: str, embeddings_SBD: jax.Array, similarity: str) -> jax.Array:
    """s(a, p) - s(a, n) of each negative, `[B, N]`."""
    check_choice(f"{loss}: similarity", similarity, ("dot", "cosine"))
    compare = {"dot": pairwise_dot, "cosine": pairwise_cosine}[similarity]
    anchor_BD, positive_BD, *negatives = texts(loss, embeddings_SBD, 3)
    negative_NB = jnp.stack([compare(anchor_BD, negative_BD) for negative_BD in negatives])
    margin_NB: jax.Array = compare(anchor_BD, positive_BD) - negative_NB
    return margin_NB.T


def gist(
    embeddings_SBD: jax.Array,
    targets: Targets,
    head: Head | None = None,
    *,
    temperature: float = 0.01,
    margin_strategy: str = "absolute",
    margin: float = 0.0,
    contrast_anchors: bool = True,
    contrast_positives: bool = True,
) -> jax.Array:
    """GISTEmbed: in-batch negatives without those that a guide model finds closer than the positive.

        mean over i of -log( exp(cos(a_i, p_i) / T) / sum over the remaining candidates c of exp(cos(i, c) / T) )

    Solatorio 2024, section 3. Candidates of i: all positives and hard negatives, with `contrast_anchors` the other anchors,
    with `contrast_positives` p_i against the other positives. A candidate is left out if the guide's cosine is above
    limit_i = cos_guide(a_i, p_i) - margin ("absolute"), or cos_guide(a_i, p_i) - |cos_guide(a_i, p_i)| margin ("relative").
    One with the same text as a_i or p_i (`hashes_SB`) is left out too, as in `multiple_negatives_ranking`.

    Needs: S >= 2 (anchor, positive, hard negatives); `guide_SBD`, embeddings of any width by a guide (`teacher`); no labels.
    Use when: batches or mined negatives contain unlabelled positives.
    See also: `multiple_negatives_ranking`, without a guide. GradCache (`chunk_size`) gives its cached form.

    Shapes: embeddings `[S, B, D]`, guide `[S, B, E]` -> scalar. Nothing is differentiated through the guide.

    Example:
        >>> embeddings_SBD = jnp.stack([jnp.eye(2), jnp.eye(2)])
        >>> round(float(gist(embeddings_SBD, Targets(guide_SBD=embeddings_SBD), temperature=1.0)), 4)  # log(1 + 3 / e)
        0.7437
    """
    check_choice("gist: margin_strategy", margin_strategy, ("absolute", "relative"))
    guide_SBD: jax.Array | None = targets.guide_SBD
    if guide_SBD is None or guide_SBD.shape[:-1] != texts("gist", embeddings_SBD, 2).shape[:-1]:
        raise InputError(
            f"gist: targets.guide_SBD has shape {None if guide_SBD is None else guide_SBD.shape}, the embeddings "
            f"{embeddings_SBD.shape}. Expected the guide's embedding of each text, of any width: name a guide (teacher)."
        )
    directions = ["query_to_doc"] + ["query_to_query"] * contrast_anchors + ["doc_to_doc"] * contrast_positives
    student = candidate_similarities("gist", embeddings_SBD, targets, directions, cosine)
    guide = candidate_similarities("gist", jax.lax.stop_gradient(guide_SBD), targets, directions, cosine)
    limit_B = jnp.diagonal(guide["query_to_doc"][0])
    limit_B = limit_B - margin * (1 if margin_strategy == "absolute" else jnp.abs(limit_B))
    batch, scores = len(limit_B), []
    for direction, (cosine_BM, excluded_BM) in student.items():
        too_close_BM = guide[direction][0] > limit_B[:, None]
        if direction == "query_to_doc":  # column b of row b is the positive
            too_close_BM &= ~jnp.eye(batch, too_close_BM.shape[1], dtype=bool)
        score_BM = jnp.where(excluded_BM | too_close_BM, -jnp.inf, cosine_BM / temperature)
        scores.append(score_BM[:, :batch] if direction == "doc_to_doc" else score_BM)  # positives only
    log_sum_B = jax.nn.logsumexp(jnp.concatenate(scores, axis=1), axis=1)
    return jnp.mean(log_sum_B - jnp.diagonal(scores[0]))
