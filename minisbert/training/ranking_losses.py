"""Ranking losses: an anchor, its positive, and what should be farther away (hard negatives, the rest of the batch).

All are functions of `embeddings_SBD` in float32 with anchor, positive, then hard negatives on axis 0, and of `Targets`;
none trains a head. The batch is the *global* one: under `jax.jit` with sharded rows XLA gathers what is compared, and this
code is device-agnostic. Definitions, defaults and reductions are those of sentence-transformers 6, against which they are
tested; `reference/losses.py` has them in NumPy and must agree.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from minisbert.arguments import check_choice
from minisbert.errors import InputError
from minisbert.similarity import cosine, dot, pairwise_cosine, pairwise_dot
from minisbert.training.targets import Head, Targets, absolute, margins, texts

DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


def multiple_negatives_ranking(
    embeddings_SBD: jax.Array,
    targets: Targets,
    head: Head | None = None,
    *,
    scale: float = 20.0,
    similarity: str = "cosine",
    directions: Sequence[str] = ("query_to_doc",),
    partition_mode: str = "joint",
) -> jax.Array:
    """Multiple negatives ranking (InfoNCE): all other documents of the batch are negatives.

        mean over i of -log( exp(s(a_i, p_i)) / sum over candidates c of exp(s(a_i, c)) ), with s = scale * similarity

    Henderson et al. 2017, section 4.4; van den Oord et al. 2018, equation 4. The candidates of example i, by direction:
    `query_to_doc` a_i -> all positives and hard negatives; `doc_to_query` p_i -> all anchors; `query_to_query` a_i ->
    the other anchors; `doc_to_doc` p_i -> the documents of other examples. With `partition_mode="joint"` all are in one
    sum; with "per_direction" each has its own and the cross-entropies are averaged. Well-known choices:

        one-way      ("query_to_doc",)                                     the default
        symmetric    ("query_to_doc", "doc_to_query"), "per_direction"     the all-* models of 2021
        wide         all four, "joint"                                     GTE's improved loss (Li et al. 2023)

    A candidate with the same text as a_i or p_i (`hashes_SB`) is not a negative of i and is left out of i's sums.
    Left out: hardness weighting.

    Needs: S >= 2 (anchor, positive, hard negatives); no labels; `hashes_SB` improve it. Larger batches are harder.
    Use when: you have only pairs that belong together: questions and answers, titles and texts, NLI entailments.
    See also: `triplet`, without in-batch negatives; `gradcache`, for batches that do not fit in memory.

    Shapes: embeddings `[S, B, D]` -> scalar; scores `[B, M]` with M = (S - 1) B.

    Example:
        >>> embeddings_SBD = jnp.stack([jnp.eye(2), jnp.eye(2)])  # equal in a pair, orthogonal across
        >>> loss = multiple_negatives_ranking(embeddings_SBD, Targets(), scale=1.0)
        >>> round(float(loss), 4)  # log(e + 1) - 1
        0.3133
    """
    _check_directions(directions, partition_mode)
    check_choice("multiple_negatives_ranking: similarity", similarity, ("cosine", "dot"))
    compare = {"cosine": cosine, "dot": dot}[similarity]
    anchor_BD, positive_BD, *_ = texts("multiple_negatives_ranking", embeddings_SBD, 2)
    hashes_SB = _hashes(targets, embeddings_SBD)
    queries = anchor_BD, hashes_SB[0]
    # Candidate m belongs to example m mod B: first the B positives, then each column of hard negatives.
    documents = jnp.concatenate(list(embeddings_SBD[1:])), hashes_SB[1:].reshape(-1)
    sides = {  # queries, candidates, whether both are of one kind
        "query_to_doc": (anchor_BD, documents, False),
        "query_to_query": (anchor_BD, queries, True),
        "doc_to_query": (positive_BD, queries, False),
        "doc_to_doc": (positive_BD, documents, True),
    }
    scores = {}
    for direction in directions:
        query_BD, (candidate_MD, hash_M), one_kind = sides[direction]
        row_B1, column_M = jnp.arange(len(query_BD))[:, None], jnp.arange(len(candidate_MD))
        same_text_BM = (hash_M == hashes_SB[0][:, None]) | (hash_M == hashes_SB[1][:, None])
        # Column b of row b is the other half of the pair, or, if both are of one kind, the query itself: then no text of
        # example b is a candidate.
        excluded_BM = same_text_BM & (column_M != row_B1)
        if one_kind:
            excluded_BM |= column_M % len(query_BD) == row_B1
        scores[direction] = jnp.where(excluded_BM, -jnp.inf, scale * compare(query_BD, candidate_MD))
    positive_B = jnp.diagonal(scores["query_to_doc"])
    sums = [list(scores.values())] if partition_mode == "joint" else [[score_BM] for score_BM in scores.values()]
    log_sums_B = [jax.nn.logsumexp(jnp.concatenate(parts, axis=1), axis=1) for parts in sums]
    return jnp.mean(sum(log_sums_B) / len(log_sums_B) - positive_B)


def _hashes(targets: Targets, embeddings_SBD: jax.Array) -> jax.Array:
    """The text hashes; without them all texts count as different."""
    hashes_SB: jax.Array | None = targets.hashes_SB
    S, B, _ = embeddings_SBD.shape
    if hashes_SB is None:
        return jnp.arange(S * B).reshape(S, B)
    if hashes_SB.shape != (S, B):
        raise InputError(
            f"multiple_negatives_ranking: targets.hashes_SB has shape {hashes_SB.shape}. Expected {(S, B)}, one hash per "
            "text, or None."
        )
    return hashes_SB


def _check_directions(directions: Sequence[str], partition_mode: str) -> None:
    name = "multiple_negatives_ranking"
    check_choice(f"{name}: partition_mode", partition_mode, ("joint", "per_direction"))
    for direction in (directions,) if isinstance(directions, str) else directions:
        check_choice(f"{name}: directions", direction, DIRECTIONS)
    same_kind = set(directions) & {"query_to_query", "doc_to_doc"}
    if isinstance(directions, str) or "query_to_doc" not in directions or len(set(directions)) < len(directions):
        raise InputError(
            f"{name}: directions is {directions!r}. Expected a tuple of names, each once, with 'query_to_doc'."
        )
    if partition_mode == "per_direction" and same_kind:
        raise InputError(
            f"{name}: partition_mode is 'per_direction' with {sorted(same_kind)}, whose candidates never include the positive, "
            "so that their own cross-entropy is meaningless. Use 'joint', or leave these directions out."
        )


def margin_mse(
    embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None, *, similarity: str = "dot"
) -> jax.Array:
    """Margin-MSE: ((s(a, p) - s(a, n)) - teacher's margin)^2, averaged over examples and negatives.

    Hofstätter et al. 2020, "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation".

    Needs: S >= 3; `labels_B` the margins `[B]` (one negative) or `[B, S - 2]`, or the teacher's scores of the positive
        and the negatives `[B, S - 1]`, from which the margins follow.
    Use when: a cross-encoder has scored (query, positive) and (query, negative).
    See also: `mse`, which copies a teacher's embeddings.

    Shapes: embeddings `[S, B, D]` -> scalar.

    Example:
        >>> embeddings_SBD = jnp.array([[[1.0, 2.0]], [[1.0, 1.0]], [[0.0, 1.0]]])  # scores 3 and 2
        >>> float(margin_mse(embeddings_SBD, Targets(labels_B=jnp.array([3.0]))))
        4.0
    """
    check_choice("margin_mse: similarity", similarity, ("dot", "cosine"))
    compare = {"dot": pairwise_dot, "cosine": pairwise_cosine}[similarity]
    anchor_BD, positive_BD, *negatives = texts("margin_mse", embeddings_SBD, 3)
    negative_NB = jnp.stack([compare(anchor_BD, negative_BD) for negative_BD in negatives])
    margin_BN = (compare(anchor_BD, positive_BD) - negative_NB).T
    batch, count = margin_BN.shape
    return jnp.mean((margin_BN - margins("margin_mse", targets, batch, count)) ** 2)


def triplet(
    embeddings_SBD: jax.Array,
    targets: Targets,
    head: Head | None = None,
    *,
    distance: str = "euclidean",
    margin: float = 5.0,
) -> jax.Array:
    """Triplet: the mean of max(0, d(a, p) - d(a, n) + margin) (SBERT section 3, "Triplet Objective Function", margin 1).

    Needs: S = 3 (anchor, positive, negative); no labels.
    Use when: each anchor has a negative that matters, and the other texts of the batch do not.
    See also: `multiple_negatives_ranking`, which uses both and usually learns more.

    Shapes: embeddings `[3, B, D]` -> scalar. `distance`: euclidean, manhattan or cosine (1 - cos; then choose a margin
    below 1). At distance 0 and where the triplet is just satisfied the gradient is 0.

    Example:
        >>> embeddings_SBD = jnp.array([[[0.0, 0.0]], [[3.0, 4.0]], [[0.0, 7.0]]])
        >>> float(triplet(embeddings_SBD, Targets()))  # 5 - 7 + 5
        3.0
    """
    check_choice("triplet: distance", distance, list(DISTANCES))
    apart = DISTANCES[distance]
    anchor_BD, positive_BD, negative_BD = texts("triplet", embeddings_SBD, 3, 3)
    return jnp.mean(jax.nn.relu(apart(anchor_BD, positive_BD) - apart(anchor_BD, negative_BD) + margin))


def _euclidean_distance(a_BD: jax.Array, b_BD: jax.Array) -> jax.Array:
    square_B = jnp.sum((a_BD - b_BD) ** 2, axis=-1)
    # The root's gradient at 0 is infinite; here a distance of 0 has value 0 and gradient 0.
    return jnp.where(square_B > 0, jnp.sqrt(jnp.where(square_B > 0, square_B, 1)), 0)


DISTANCES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "euclidean": _euclidean_distance,
    "manhattan": lambda a_BD, b_BD: jnp.sum(absolute(a_BD - b_BD), axis=-1),
    "cosine": lambda a_BD, b_BD: 1 - pairwise_cosine(a_BD, b_BD),
}
