"""Ranking losses: an anchor, its positive, and what should be farther away (hard negatives, the rest of the batch).

The batch is the *global* one: under `jax.jit` with sharded rows XLA gathers what is compared, and this code is device-agnostic.
Definitions, defaults and reductions are those of sentence-transformers 6, against which they are tested;
`reference/losses.py` has them in NumPy and must agree.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from minisbert.arguments import check_choice
from minisbert.errors import InputError
from minisbert.similarity import cosine, dot, pairwise_cosine
from minisbert.training.targets import Head, Targets, absolute, texts

DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
HARDNESS_MODES = (None, "in_batch_negatives", "hard_negatives", "all_negatives")


def multiple_negatives_ranking(
    embeddings_SBD: jax.Array,
    targets: Targets,
    head: Head | None = None,
    *,
    scale: float | jax.Array = 20.0,
    similarity: str = "cosine",
    directions: Sequence[str] = ("query_to_doc",),
    partition_mode: str = "joint",
    hardness_mode: str | None = None,
    hardness_strength: float = 0.0,
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

    Hardness weighting (Lan et al. 2025, LLaVE, equation 5) adds `hardness_strength` * similarity, without a gradient, to the
    query_to_doc scores of negatives: `hardness_mode` "in_batch_negatives", "hard_negatives" (the example's own) or
    "all_negatives". A candidate with the same text as a_i or p_i (`hashes_SB`) is not a negative of i and is left out of
    i's sums.

    Needs: S >= 2 (anchor, positive, hard negatives); no labels; `hashes_SB` improve it. Larger batches are harder.
    Use when: you have only pairs that belong together: questions and answers, titles and texts, NLI entailments. With each
        text paired with itself it is unsupervised SimCSE (Gao et al. 2021): the two copies have their own dropout.
    See also: `triplet`, without in-batch negatives; `gist`, with a guide; `gradcache`, for batches that do not fit in memory.

    Shapes: embeddings `[S, B, D]` -> scalar; scores `[B, M]` with M = (S - 1) B.

    Example:
        >>> embeddings_SBD = jnp.stack([jnp.eye(2), jnp.eye(2)])  # equal in a pair, orthogonal across
        >>> loss = multiple_negatives_ranking(embeddings_SBD, Targets(), scale=1.0)
        >>> round(float(loss), 4)  # log(e + 1) - 1
        0.3133
    """
    name = "multiple_negatives_ranking"
    _check_directions(directions, partition_mode)
    check_choice(f"{name}: similarity", similarity, ("cosine", "dot"))
    check_choice(f"{name}: hardness_mode", hardness_mode, HARDNESS_MODES)
    compare = {"cosine": cosine, "dot": dot}[similarity]
    scores = {}
    for direction, (similarity_BM, excluded_BM) in candidate_similarities(
        name, embeddings_SBD, targets, directions, compare
    ).items():
        score_BM = scale * similarity_BM
        if direction == "query_to_doc" and hardness_mode is not None:
            harder_BM = jnp.where(_weighted(hardness_mode, *score_BM.shape), similarity_BM, 0)
            score_BM += hardness_strength * jax.lax.stop_gradient(harder_BM)
        scores[direction] = jnp.where(excluded_BM, -jnp.inf, score_BM)
    positive_B = jnp.diagonal(scores["query_to_doc"])
    sums = [list(scores.values())] if partition_mode == "joint" else [[score_BM] for score_BM in scores.values()]
    log_sums_B = [jax.nn.logsumexp(jnp.concatenate(parts, axis=1), axis=1) for parts in sums]
    return jnp.mean(sum(log_sums_B) / len(log_sums_B) - positive_B)


def candidate_similarities(
    loss: str,
    embeddings_SBD: jax.Array,
    targets: Targets,
    directions: Sequence[str],
    compare: Callable[[jax.Array, jax.Array], jax.Array],
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """By direction: similarity_BM of the queries and their candidates, and excluded_BM: which are not candidates of a row.

    Column m belongs to example m mod B: first the B positives (or anchors), then each column of hard negatives.
    """
    anchor_BD, positive_BD, *_ = texts(loss, embeddings_SBD, 2)
    hashes_SB = _hashes(loss, targets, embeddings_SBD)
    queries = anchor_BD, hashes_SB[0]
    documents = jnp.concatenate(list(embeddings_SBD[1:])), hashes_SB[1:].reshape(-1)
    sides = {  # queries, candidates, whether both are of one kind
        "query_to_doc": (anchor_BD, documents, False),
        "query_to_query": (anchor_BD, queries, True),
        "doc_to_query": (positive_BD, queries, False),
        "doc_to_doc": (positive_BD, documents, True),
    }
    found = {}
    for direction in directions:
        query_BD, (candidate_MD, hash_M), one_kind = sides[direction]
        row_B1, column_M = jnp.arange(len(query_BD))[:, None], jnp.arange(len(candidate_MD))
        same_text_BM = (hash_M == hashes_SB[0][:, None]) | (hash_M == hashes_SB[1][:, None])
        # Column b of row b is the other half of the pair, or, if both are of one kind, the query itself: then no text of
        # example b is a candidate.
        excluded_BM = same_text_BM & (column_M != row_B1)
        if one_kind:
            excluded_BM |= column_M % len(query_BD) == row_B1
        found[direction] = compare(query_BD, candidate_MD), excluded_BM
    return found


def _weighted(hardness_mode: str, B: int, M: int) -> jax.Array:
    """Which of the candidates of `query_to_doc` have a hardness weight, `[B, M]`."""
    row_B1, column_M = jnp.arange(B)[:, None], jnp.arange(M)
    own_BM, positive_BM = column_M % B == row_B1, column_M == row_B1
    of_mode = {"in_batch_negatives": ~own_BM, "hard_negatives": own_BM & ~positive_BM, "all_negatives": ~positive_BM}
    return of_mode[hardness_mode]


def _hashes(loss: str, targets: Targets, embeddings_SBD: jax.Array) -> jax.Array:
    """The text hashes; without them all texts count as different."""
    hashes_SB: jax.Array | None = targets.hashes_SB
    S, B, _ = embeddings_SBD.shape
    if hashes_SB is None:
        return jnp.arange(S * B).reshape(S, B)
    if hashes_SB.shape != (S, B):
        raise InputError(
            f"{loss}: targets.hashes_SB has shape {hashes_SB.shape}. Expected {(S, B)}, one hash per text, or None."
        )
    return hashes_SB


def _check_directions(directions: Sequence[str], partition_mode: str) -> None:
    name = "multiple_negatives_ranking"
    check_choice(f"{name}: partition_mode", partition_mode, ("joint", "per_direction"))
    names = () if isinstance(directions, str) else directions
    for direction in names:
        check_choice(f"{name}: directions", direction, DIRECTIONS)
    same_kind = set(names) & {"query_to_query", "doc_to_doc"}
    if "query_to_doc" not in names or len(set(names)) < len(names):
        raise InputError(
            f"{name}: directions is {directions!r}. Expected a tuple of names, each once, with 'query_to_doc'."
        )
    if partition_mode == "per_direction" and same_kind:
        raise InputError(
            f"{name}: partition_mode is 'per_direction' with {sorted(same_kind)}, whose candidates never include the positive, "
            "so that their own cross-entropy is meaningless. Use 'joint', or leave these directions out."
        )


def contrastive_tension_in_batch(
    embeddings_SBD: jax.Array, targets: Targets, head: Head | None = None, *, scale: float = 20.0
) -> jax.Array:
    """Contrastive tension with in-batch negatives: symmetric `multiple_negatives_ranking` of each text with itself.

    Carlsson et al. 2021; this form is sentence-transformers'. `scale` is that before training: it is trained as
    exp(`log_scale`) and saved with the run. Left out: the paper's second, independent copy of the weights. Both copies of a
    text pass through the same ones here, each with its own dropout.

    Needs: S = 2, each text twice; `head` from `initial_scale`; no labels.
    Use when: there are texts and neither pairs nor labels.
    See also: `multiple_negatives_ranking`, the same with a fixed scale (then it is SimCSE).

    Shapes: embeddings `[2, B, D]` -> scalar.

    Example:
        >>> embeddings_SBD = jnp.stack([jnp.eye(2), jnp.eye(2)])
        >>> round(float(contrastive_tension_in_batch(embeddings_SBD, Targets(), {"log_scale": jnp.zeros(())})), 4)
        0.3133
    """
    texts("contrastive_tension_in_batch", embeddings_SBD, 2, 2)
    if not head:
        raise InputError("contrastive_tension_in_batch: head is missing. Expected a head from initial_scale.")
    return multiple_negatives_ranking(
        embeddings_SBD,
        targets,
        scale=jnp.exp(head["log_scale"]),
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )


def initial_scale(key: jax.Array, dimension: int, classes: int, scale: float = 20.0) -> Head:
    """The trained scale of `contrastive_tension_in_batch` before training.

    Example:
        >>> round(float(initial_scale(jax.random.key(0), 8, 0)["log_scale"]), 4)
        2.9957
    """
    return {"log_scale": jnp.float32(math.log(scale))}


def mega_batch_margin(
    embeddings_SBD: jax.Array,
    targets: Targets,
    head: Head | None = None,
    *,
    positive_margin: float = 0.8,
    negative_margin: float = 0.3,
) -> jax.Array:
    """Mega-batch margin: the mean of max(0, m+ - cos(a_i, p_i)) + max(0, max over j of cos(a_i, p_j) - m-), j != i.

    Wieting & Gimpel 2018, section 3: the hardest negative of a very large batch. A positive with the same text as a_i or
    p_i (`hashes_SB`) is not a negative.

    Needs: S = 2 (anchor, positive); no labels; batches of hundreds, with GradCache (`chunk_size`).
    Use when: pairs are paraphrases, and a batch holds at least one hard negative per anchor.
    See also: `multiple_negatives_ranking`, which uses all negatives.

    Shapes: embeddings `[2, B, D]` -> scalar.

    Example:
        >>> embeddings_SBD = jnp.stack([jnp.eye(2), jnp.eye(2)[::-1]])  # orthogonal in a pair, equal across
        >>> round(float(mega_batch_margin(embeddings_SBD, Targets())), 4)  # 0.8 - 0 + 1 - 0.3
        1.5
    """
    texts("mega_batch_margin", embeddings_SBD, 2, 2)
    found = candidate_similarities("mega_batch_margin", embeddings_SBD, targets, ("query_to_doc",), cosine)
    cosine_BB, excluded_BB = found["query_to_doc"]
    negative_BB = ~excluded_BB & ~jnp.eye(len(cosine_BB), dtype=bool)
    # The slope goes to the largest by its place, as in PyTorch; that of jnp.max is shared by equal ones.
    hardest_B1 = jnp.where(negative_BB, cosine_BB, -jnp.inf).argmax(axis=1, keepdims=True)
    hardest_B = jnp.take_along_axis(cosine_BB, hardest_B1, axis=1)[:, 0]
    # An anchor without a negative has no second term.
    pull_B = jax.nn.relu(positive_margin - jnp.diagonal(cosine_BB))
    return jnp.mean(pull_B + jnp.where(negative_BB.any(axis=1), jax.nn.relu(hardest_B - negative_margin), 0))


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
