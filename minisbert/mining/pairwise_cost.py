"""The cost of finding the most similar pair among n sentences, by a cross-encoder and by embeddings: SBERT's motivation.

    times = measure(encoder, sentences, predict=cross_encoder.predict)
    times.cross_seconds, times.embed_seconds, times.compare_seconds

Reimers & Gurevych 2019, section 1: for 10,000 sentences, n (n - 1) / 2 = 49,995,000 inferences with BERT take about 65 hours on
a V100; SBERT takes about 5 seconds for the embeddings and about 0.01 seconds for the cosines. The cross-encoder's time is
extrapolated from a sample of pairs, because each pair costs the same.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from minisbert.arguments import check_list, check_positive
from minisbert.errors import InputError
from minisbert.evaluation.embedding import Encoder
from minisbert.mining.paraphrases import best_pair

# The paper's seconds for 10,000 sentences.
PUBLISHED = {"cross-encoder": 65 * 3600.0, "embedding": 5.0, "comparing": 0.01}
WARM_UP = 256  # sentences embedded untimed first, which compiles most shapes
COMPARISONS = 3


@dataclass(frozen=True)
class PairwiseCost:
    """The measured seconds, and the pair found."""

    sentences: int
    sampled_pairs: int  # 0 without a cross-encoder
    pairs_per_second: float
    embed_seconds: float
    compare_seconds: float
    best: tuple[int, int]

    @property
    def pairs(self) -> int:
        """The number of pairs."""
        return self.sentences * (self.sentences - 1) // 2

    @property
    def cross_seconds(self) -> float | None:
        """Seconds of a cross-encoder for all pairs, extrapolated; None without one.

        Example:
            >>> PairwiseCost(10_000, 100, 1000.0, 5.0, 0.01, (0, 1)).cross_seconds
            49995.0
        """
        return self.pairs / self.pairs_per_second if self.sampled_pairs else None


def measure(
    encoder: Encoder,
    sentences: Sequence[str],
    *,
    predict: Callable[[list[tuple[str, str]]], Any] | None = None,
    sample: int = 256,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    **options: Any,
) -> PairwiseCost:
    """Find the most similar pair of at least two sentences by embeddings, and time this and the cross-encoder.

    Args:
        predict: scores pairs, such as `CrossEncoder.predict`; None skips the cross-encoder.
        sample: pairs that it scores twice; the second time is measured.
        options: for `encoder.encode`.

    Raises:
        InputError: fewer than two sentences, or an argument out of range.
    """
    texts = check_list("sentences", sentences)
    if len(texts) < 2:
        raise InputError(f"{len(texts)} sentences. Expected at least 2, to make a pair.")
    check_positive("sample", sample)
    encoder.encode(texts[:WARM_UP], **options)
    started = clock()
    embeddings = np.asarray(encoder.encode(texts, **options))
    embed_seconds = clock() - started
    compare = []
    for _ in range(COMPARISONS):
        started = clock()
        best = best_pair(embeddings)
        compare.append(clock() - started)
    rate = 0.0
    if predict is not None:
        pairs = [(texts[i], texts[j]) for i, j in sampled_pairs(len(texts), sample, seed)]
        predict(pairs)
        started = clock()
        predict(pairs)
        rate = len(pairs) / max(clock() - started, 1e-9)
    return PairwiseCost(len(texts), sample if predict else 0, rate, embed_seconds, median(compare), best)


def sampled_pairs(sentences: int, count: int, seed: int = 0) -> list[tuple[int, int]]:
    """Pairs of different numbers below `sentences`, drawn with replacement.

    Example:
        >>> all(i != j for i, j in sampled_pairs(3, 100))
        True
    """
    rng = np.random.default_rng(seed)
    first = rng.integers(0, sentences, count)
    second = (first + rng.integers(1, sentences, count)) % sentences
    return list(zip(first.tolist(), second.tolist(), strict=True))


def duration(seconds: float) -> str:
    """Seconds in a readable unit.

    Example:
        >>> [duration(s) for s in (0.0123, 5, 90, 65 * 3600, 1e7)]
        ['0.012 s', '5 s', '1.5 minutes', '65 hours', '116 days']
    """
    for unit, size, most in (("s", 1, 60), ("minutes", 60, 3600), ("hours", 3600, 72 * 3600)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}" if seconds >= 0.1 else f"{seconds / size:.2g} {unit}"
    return f"{seconds / 86400:.3g} days"
