"""Clustering of sentence embeddings: communities around a centre, k-means, agglomerative clustering and HDBSCAN.

    communities = community_detection(embeddings, threshold=0.75, min_community_size=10)    # [[centre, member, ...], ...]
    labels = kmeans(embeddings, 20)                             # one cluster number per row; needs scikit-learn
    medoid_rows(embeddings, labels), word_labels(texts, labels) # a typical row and typical words

All use rows of length 1, so near means a high cosine. A row outside all clusters has label -1.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from minisbert.arguments import check_finite, check_list, check_positive, seed_number
from minisbert.errors import InputError, needs
from minisbert.mining.all_pairs import checked_rows, upper_blocks
from minisbert.mining.function_words import FUNCTION_WORDS

CENTRES = 256  # compared together
# Agglomerative clustering stores all distances, 8 bytes per pair: 3.6 GB.
MOST_AGGLOMERATED = 30_000


def community_detection(
    embeddings: Any,
    threshold: float = 0.75,
    min_community_size: int = 10,
    *,
    show_progress_bar: bool | None = None,
    batch_size: int = 1024,
) -> list[list[int]]:
    """Disjoint communities: a centre, and the rows whose cosine with it is at least the threshold.

    Rows with the most neighbours become centres first, and a row belongs to the first community that takes it. The result
    is that of sentence-transformers' `util.community_detection`, but memory does not grow with the number of neighbours:
    neighbours are counted first, then found again only for centres still free, among rows still free.

    Args:
        threshold: the lowest cosine with the centre.
        min_community_size: the fewest rows of a community, the centre included.
        show_progress_bar: None shows one on a terminal when it takes longer than two seconds.
        batch_size: changes nothing; sentence-transformers has it.

    Returns:
        row numbers, the largest community first; in each the centre, then the others, nearest first.

    Raises:
        InputError: NaN or infinity in a row, a row too long for float32, or an argument out of range.

    Example:
        >>> community_detection([[1.0, 0.1], [0.0, 1.0], [1.0, 0.0], [1.0, 0.2]], 0.9, 2)
        [[0, 3, 2]]
    """
    check_positive("batch_size", batch_size)
    floor = np.float32(check_finite("threshold", threshold))
    least = check_positive("min_community_size", min_community_size)
    rows_MD = checked_rows("embeddings", embeddings)
    M = len(rows_MD)
    # A zero vector has cosine 0 with itself.
    count_M = (np.einsum("md,md->m", rows_MD, rows_MD) > 0.5).astype(np.int64) if floor > 0 else np.ones(M, np.int64)
    for first, column, scores_BC in upper_blocks(rows_MD, show_progress_bar):
        b, c = np.divmod(np.flatnonzero(scores_BC >= floor), scores_BC.shape[1])
        count_M += np.bincount(b + first, minlength=M) + np.bincount(c + column, minlength=M)
    order = np.argsort(-count_M, kind="stable")
    order = order[count_M[order] >= least]
    free_M = np.ones(M, bool)
    columns, others_CD = np.arange(M), rows_MD
    found = []
    for start in range(0, len(order), CENTRES):
        centres = order[start : start + CENTRES]
        centres = centres[free_M[centres]]
        if free_M.sum() < 0.8 * len(columns):  # copying the free rows costs as much as a few extra products
            columns = np.flatnonzero(free_M)
            others_CD = rows_MD[columns]
        scores_BC = rows_MD[centres] @ others_CD.T
        for centre, scores_C in zip(centres.tolist(), scores_BC, strict=True):
            if not free_M[centre]:
                continue
            near = np.flatnonzero(scores_C >= floor)
            near = near[free_M[columns[near]] & (columns[near] != centre)]
            if len(near) + 1 >= least:
                members = columns[near[np.argsort(-scores_C[near], kind="stable")]]
                found.append([centre, *members.tolist()])
                free_M[found[-1]] = False
    return sorted(found, key=len, reverse=True)


def community_labels(communities: Sequence[Sequence[int]], rows: int) -> np.ndarray:
    """The community of each row, -1 for none.

    Example:
        >>> community_labels([[0, 2]], 3).tolist()
        [0, -1, 0]
    """
    labels_M = np.full(rows, -1, np.int64)
    for number, members in enumerate(communities):
        labels_M[list(members)] = number
    return labels_M


# --- scikit-learn --------------------------------------------------------------------------------------------------


def kmeans(embeddings_MD: Any, clusters: int = 8, *, seed: int = 0) -> np.ndarray:
    """k-means with k-means++ starts (Arthur & Vassilvitskii 2007): labels `[M]`, numbered by size, the largest 0.

    Raises:
        InputError: scikit-learn is not installed; fewer rows than clusters; see `community_detection`.
    """
    seed_number("seed", seed)
    clusters = check_positive("clusters", clusters)
    rows_MD = _enough(embeddings_MD, clusters)
    return _fit("KMeans", rows_MD, n_clusters=clusters, n_init=4, random_state=seed)


def agglomerative(
    embeddings_MD: Any, clusters: int | None = None, *, distance_threshold: float | None = None
) -> np.ndarray:
    """Agglomerative clustering by Ward's criterion: labels `[M]`, numbered by size.

    Args:
        embeddings_MD: rows, at most 30,000, because all distances are stored.
        clusters: the number of clusters; or
        distance_threshold: merge clusters that are nearer than this.

    Raises:
        InputError: see `kmeans`; neither or both of `clusters` and `distance_threshold`; too many rows.
    """
    if (clusters is None) == (distance_threshold is None):
        raise InputError(
            "expected either clusters or distance_threshold. Pass the number of clusters, or their distance."
        )
    if distance_threshold is not None and check_finite("distance_threshold", distance_threshold) < 0:
        raise InputError(f"distance_threshold is {distance_threshold}. Expected at least 0.")
    rows_MD = _enough(embeddings_MD, 2 if clusters is None else max(2, check_positive("clusters", clusters)))
    if len(rows_MD) > MOST_AGGLOMERATED:
        raise InputError(
            f"embeddings has {len(rows_MD)} rows. Expected at most {MOST_AGGLOMERATED}, because agglomerative clustering "
            "stores all distances; use k-means or communities."
        )
    return _fit("AgglomerativeClustering", rows_MD, n_clusters=clusters, distance_threshold=distance_threshold)


def hdbscan(embeddings_MD: Any, min_cluster_size: int = 10) -> np.ndarray:
    """HDBSCAN (Campello et al. 2013): labels `[M]`, numbered by size, -1 for noise.

    Raises:
        InputError: see `kmeans`; `min_cluster_size` below 2, or fewer rows.
    """
    if check_positive("min_cluster_size", min_cluster_size) < 2:
        raise InputError("min_cluster_size is 1. Expected at least 2.")
    rows_MD = _enough(embeddings_MD, min_cluster_size)
    return _fit("HDBSCAN", rows_MD, min_cluster_size=min_cluster_size, copy=True)


def sklearn_cluster() -> Any:
    """The module `sklearn.cluster`. Raises InputError if scikit-learn is not installed."""
    with needs("this method needs scikit-learn", "cluster", "use communities"):
        import sklearn.cluster
    return sklearn.cluster


def _fit(name: str, rows_MD: np.ndarray, **options: Any) -> np.ndarray:
    """Labels of a class of sklearn.cluster, renumbered by size, the largest cluster 0."""
    labels_M = getattr(sklearn_cluster(), name)(**options).fit_predict(rows_MD)
    names, counts = np.unique(labels_M[labels_M >= 0], return_counts=True)
    number = dict(zip(names[np.argsort(-counts, kind="stable")].tolist(), range(len(names)), strict=True))
    return np.array([number.get(label, -1) for label in labels_M.tolist()], np.int64)


def _enough(embeddings_MD: Any, least: int) -> np.ndarray:
    rows_MD = checked_rows("embeddings", embeddings_MD)
    if len(rows_MD) < least:
        raise InputError(f"embeddings has {len(rows_MD)} rows. Expected at least {least}, one per cluster.")
    return rows_MD


# --- descriptions and quality of clusters --------------------------------------------------------------------------


def medoid_rows(embeddings_MD: Any, labels_M: Any) -> list[int]:
    """The most typical row of each cluster 0, 1, ...: the one with the highest mean cosine to the others.

    Example:
        >>> medoid_rows([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]], [0, 0, 0, -1])
        [1]
    """
    rows_MD, labels = checked_rows("embeddings", embeddings_MD), _labels(labels_M, len(embeddings_MD))
    found = []
    for cluster in range(labels.max(initial=-1) + 1):
        members = np.flatnonzero(labels == cluster)
        # The sum of the cosines with all members is the product with the members' sum.
        found.append(int(members[np.argmax(rows_MD[members] @ rows_MD[members].sum(axis=0))]))
    return found


def word_labels(texts: Sequence[str], labels_M: Any, words: int = 4) -> list[list[str]]:
    """The most distinctive words of each cluster, by class-based tf-idf (Grootendorst 2022, equation 2).

    A word's weight in a cluster is its share of the cluster's words times log(1 + A / f): A is the average number of words
    per cluster, f the frequency of the word in all clusters. Left out: rows with label -1, and English function words.

    Example:
        >>> word_labels(["the cat eats", "the cat", "the car stops"], [0, 0, 1], words=1)
        [['cat'], ['car']]
    """
    check_positive("words", words)
    texts = check_list("texts", texts)
    labels = _labels(labels_M, len(texts))
    counts: list[Counter[str]] = [Counter() for _ in range(labels.max(initial=-1) + 1)]
    for text, cluster in zip(texts, labels.tolist(), strict=True):
        if cluster >= 0:
            found_words = re.findall(r"[^\W\d_]{2,}", text.lower())
            counts[cluster].update(word for word in found_words if word not in FUNCTION_WORDS)
    total = sum(counts, Counter())
    average = total.total() / max(1, len(counts))
    found = []
    for inside in counts:
        weight = {word: n / inside.total() * np.log(1 + average / total[word]) for word, n in inside.items()}
        found.append(sorted(weight, key=lambda word: (-weight[word], word))[:words])
    return found


class VMeasure(NamedTuple):
    """The agreement of clusters with classes, each value from 0 to 1."""

    homogeneity: float  # a cluster holds one class
    completeness: float  # a class is in one cluster
    v_measure: float  # their harmonic mean


def v_measure(labels_M: Any, clusters_M: Any) -> VMeasure:
    """Agreement of clusters with known classes (Rosenberg & Hirschberg 2007, section 2); noise counts as one cluster.

    Raises:
        InputError: no rows, or different numbers of them.

    Example:
        >>> v_measure(["a", "a", "b", "b"], [0, 0, 1, 2]).homogeneity
        1.0
    """
    labels, clusters = np.asarray(labels_M), np.asarray(clusters_M)
    if labels.shape != clusters.shape or labels.ndim != 1 or not len(labels):
        raise InputError(f"labels {labels.shape} and clusters {clusters.shape}. Expected equal numbers, at least one.")
    joint_CK = stats.contingency.crosstab(labels, clusters).count
    H_c, H_k, H_ck = map(stats.entropy, (joint_CK.sum(axis=1), joint_CK.sum(axis=0), joint_CK.ravel()))
    # H(C | K) = H(C, K) - H(K), and the other way round; clipped against rounding.
    homogeneity = min(1.0, max(0.0, 1 - (H_ck - H_k) / H_c)) if H_c > 0 else 1.0
    completeness = min(1.0, max(0.0, 1 - (H_ck - H_c) / H_k)) if H_k > 0 else 1.0
    both = homogeneity + completeness
    v = 2 * homogeneity * completeness / both if both > 0 else 0.0
    return VMeasure(float(homogeneity), float(completeness), float(v))


def pca_2d(embeddings_MD: Any) -> np.ndarray:
    """The rows in two dimensions, `[M, 2]`: their first two principal components (PCA; Pearson 1901).

    Signs are chosen so that the largest value of each direction is positive, which makes the map reproducible.

    Example:
        >>> pca_2d([[2.0, 0.0], [0.0, 1.0]]).shape
        (2, 2)
    """
    rows_MD = checked_rows("embeddings", embeddings_MD)
    if not len(rows_MD):
        return np.empty((0, 2))
    centred_MD = rows_MD - rows_MD.mean(axis=0)
    # The right singular vectors come from a D x D matrix, whatever the number of rows.
    directions_2D = np.linalg.svd((centred_MD.T @ centred_MD).astype(np.float64))[2][:2]
    signs = np.sign(np.take_along_axis(directions_2D, abs(directions_2D).argmax(axis=1)[:, None], axis=1))
    flat_M2 = centred_MD @ (directions_2D * signs).T
    return np.pad(flat_M2, ((0, 0), (0, 2 - flat_M2.shape[1])))


def _labels(labels_M: Any, rows: int) -> np.ndarray:
    labels = np.asarray(labels_M)
    if labels.shape != (rows,) or (labels.dtype.kind not in "iu" and rows):
        raise InputError(f"labels have shape {labels.shape}. Expected one whole number for each of {rows} rows.")
    numbers = np.unique(labels[labels >= 0]) if rows else np.empty(0, np.int64)
    if not np.array_equal(numbers, np.arange(len(numbers))):
        raise InputError(
            f"labels go up to {numbers[-1]}, with {len(numbers)} different ones. Expected clusters numbered 0, 1, ... without "
            "gaps, and -1 for none."
        )
    return labels.astype(np.int64)
