"""What the cases are run against: minisbert, or sentence-transformers through the same few verbs.

Models that a case does not spoil are loaded once. Imports are inside the functions, so that a process needs one library only.
"""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from battery import WEIGHTS, Gives, Outcome, Refused, judge_own, judge_peer


@functools.cache
def cross_folder(labels: int = 1) -> Path:
    """A tiny cross-encoder's folder, which both libraries read."""
    from minisbert import CrossEncoder

    folder = Path(tempfile.mkdtemp(prefix="bad-input-model-")) / "cross"
    CrossEncoder.from_encoder(WEIGHTS / "tiny-bert", labels, seed=0).save(folder)
    return folder


class Minisbert:
    """The library under test."""

    name = "minisbert"

    def __init__(self) -> None:
        from minisbert.inference.compiled import enable_compilation_cache

        enable_compilation_cache()  # where the user's cache is, before a case says otherwise

    def judge(self, error: BaseException, expect: Refused | Gives) -> Outcome:
        """See `judge_own`."""
        return judge_own(error, expect)

    @functools.cached_property
    def encoder(self) -> Any:
        """tiny-bert."""
        return self.load(WEIGHTS / "tiny-bert")

    @functools.cached_property
    def cross(self) -> Any:
        """A tiny cross-encoder with one label."""
        return self.load_cross(cross_folder())

    def load(self, folder: Any, **options: Any) -> Any:
        """A sentence encoder of a folder."""
        from minisbert import SentenceEncoder

        return SentenceEncoder.load(folder, **options)

    def load_cross(self, folder: Any, **options: Any) -> Any:
        """A cross-encoder of a folder."""
        from minisbert import CrossEncoder

        return CrossEncoder(folder, **options)

    def encode(self, sentences: Any, **options: Any) -> Any:
        """Embeddings by tiny-bert."""
        return self.encoder.encode(sentences, **options)

    def warm_up(self) -> None:
        """Load what most cases use, before their time counts."""
        self.encode(["a man"])
        self.cross.predict([("a", "b")])

    def similarity(self, a: Any, b: Any) -> Any:
        """All similarities."""
        return self.encoder.similarity(a, b)

    def quantize(self, embeddings: Any, precision: Any, ranges: Any = None) -> Any:
        """Embeddings in fewer bits."""
        from minisbert import quantize_embeddings

        return quantize_embeddings(embeddings, precision, ranges)

    def search(self, queries: Any, corpus: Any, k: Any) -> Any:
        """(scores, rows) of the k nearest."""
        from minisbert.search.exact import nearest

        return tuple(nearest(queries, corpus, k))

    def communities(self, embeddings: Any, threshold: Any = 0.75, size: Any = 2) -> Any:
        """Groups of rows."""
        from minisbert.mining.clustering import community_detection

        return community_detection(embeddings, threshold, size)


class Peer:
    """sentence-transformers, by its own names for the same."""

    name = "sentence-transformers"

    def judge(self, error: BaseException, expect: Refused | Gives) -> Outcome:
        """See `judge_peer`."""
        return judge_peer(error, expect)

    @functools.cached_property
    def encoder(self) -> Any:
        """tiny-bert."""
        return self.load(WEIGHTS / "tiny-bert")

    @functools.cached_property
    def cross(self) -> Any:
        """A tiny cross-encoder with one label."""
        return self.load_cross(cross_folder())

    def load(self, folder: Any, **options: Any) -> Any:
        """A sentence encoder of a folder."""
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folder) if isinstance(folder, Path) else folder, device="cpu", **options)

    def load_cross(self, folder: Any, **options: Any) -> Any:
        """A cross-encoder of a folder."""
        from sentence_transformers import CrossEncoder

        return CrossEncoder(str(folder) if isinstance(folder, Path) else folder, device="cpu", **options)

    def encode(self, sentences: Any, **options: Any) -> Any:
        """Embeddings by tiny-bert."""
        return self.encoder.encode(sentences, **options)

    warm_up = Minisbert.warm_up

    def similarity(self, a: Any, b: Any) -> Any:
        """All similarities."""
        return np.asarray(self.encoder.similarity(a, b))

    def quantize(self, embeddings: Any, precision: Any, ranges: Any = None) -> Any:
        """Embeddings in fewer bits."""
        from sentence_transformers.util import quantize_embeddings

        return quantize_embeddings(embeddings, precision, ranges=ranges)

    def search(self, queries: Any, corpus: Any, k: Any) -> Any:
        """(scores, rows) of the k nearest."""
        from sentence_transformers.util import semantic_search

        hits = semantic_search(queries, corpus, top_k=k)
        scores = np.array([[hit["score"] for hit in row] for row in hits], np.float32)
        return scores, np.array([[hit["corpus_id"] for hit in row] for row in hits], np.int64)

    def communities(self, embeddings: Any, threshold: Any = 0.75, size: Any = 2) -> Any:
        """Groups of rows."""
        from sentence_transformers.util import community_detection

        return community_detection(embeddings, threshold, size)


LIBRARIES = {"minisbert": Minisbert, "peer": Peer}
