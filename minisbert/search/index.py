"""An index: texts (or embeddings) with their ids, searched by meaning, kept in a folder.

    index = Index(encoder)
    index.add(["a cat sits", "stocks fell"], ids=["c1", "s9"])
    index.search("where is the cat?", k=1)            # [Hit(id="c1", score=0.66, text="a cat sits")]
    index.save("pets.index");  Index.load("pets.index", encoder)

Vectors are kept as they are or quantized (int8, or a bit a dimension). Quantized vectors or a graph (search/hnsw.py) give more
candidates than are asked for, and the float32 vectors put them in order (search/rescore.py). After loading, those stay on disk.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisbert.arguments import (
    as_list,
    check_bool,
    check_choice,
    check_list,
    check_positive,
    embedding_rows,
    refuse_too_long,
)
from minisbert.errors import InputError, short_repr
from minisbert.quantization import quantize_embeddings
from minisbert.search.exact import SIMILARITIES, Hits, nearest
from minisbert.search.fingerprint import fingerprint as fingerprint_of
from minisbert.search.hnsw import GRAPHS, Graph
from minisbert.search.index_rows import are_texts, checked_ids
from minisbert.search.rescore import rescored, scaled
from minisbert.search.vectors import STORED, Vectors

logger = logging.getLogger("minisbert")

BACKENDS = ("exact", *GRAPHS)
PART = 65_536  # rows handed on at a time


class Hit(NamedTuple):
    """One row that was found."""

    id: str | int
    score: float
    text: str | None = None


class Index:
    """Vectors with ids, to be searched.

    Args:
        encoder: embeds texts (`encode_document`) and queries (`encode_query`); without one, give embeddings.
        similarity: "cosine" or "dot"; by default the encoder's, or cosine.
        precision: "float32"; "int8", a quarter of the memory; "binary", a thirty-second.
        backend: "exact", or a graph by "faiss" or "usearch" (extras).
        keep_texts: whether texts are kept beside their ids.
        rescore: whether the float32 vectors are kept too when `precision` is another.
        ranges_2D: lowest and highest value of each dimension for int8; by default those of the first rows added.
        fingerprint: the model's name, for an encoder that is no SentenceEncoder or for embeddings from elsewhere.

    Raises:
        InputError: an option is none, options do not go together, or a library is missing.

    Example:
        >>> index = Index(precision="binary")
        >>> index.add(np.eye(8, dtype=np.float32), ids="abcdefgh")
        >>> [hit.id for hit in index.search(np.eye(8)[2], k=1)]
        ['c']
    """

    def __init__(
        self,
        encoder: Any = None,
        *,
        similarity: str | None = None,
        precision: str = "float32",
        backend: str = "exact",
        keep_texts: bool = True,
        rescore: bool = True,
        ranges_2D: np.ndarray | None = None,
        fingerprint: str | None = None,
    ):
        if similarity is None:
            similarity = getattr(encoder, "similarity_fn_name", None) or "cosine"
        check_choice("similarity", similarity, SIMILARITIES)
        check_choice("precision", precision, tuple(STORED))
        check_choice("backend", backend, BACKENDS)
        check_bool("keep_texts", keep_texts)
        check_bool("rescore", rescore)
        if backend != "exact" and precision != "float32":
            raise InputError(
                f"precision is {precision!r} with backend {backend!r}. Expected 'float32'; graphs hold these."
            )
        self.encoder = encoder
        self.fingerprint = fingerprint or (fingerprint_of(encoder) if encoder is not None else None)
        self.similarity, self.precision, self.backend = similarity, precision, backend
        self.keep_texts, self.keeps_floats = keep_texts, rescore or precision == "float32"
        self.ranges_2D = None if ranges_2D is None else np.asarray(ranges_2D)
        self.ids: list[str | int] = []
        self.texts: list[str | None] = []
        self.width: int | None = None
        self._known: set[str | int] = set()
        self._floats: list[Any] = []  # arrays, or the NpyFile of a loaded index: rows in this order
        self._codes: list[np.ndarray] = []
        self._graph: Graph | None = None

    def __len__(self) -> int:
        return len(self.ids)

    # --- adding ----------------------------------------------------------------------------------------------------

    def add(
        self,
        items: Any,
        ids: Sequence[str | int] | None = None,
        *,
        texts: Sequence[str] | None = None,
        show_progress_bar: bool | None = None,
    ) -> None:
        """Append texts or embeddings; all of them or, when something is wrong, none.

        Args:
            items: texts, which the encoder embeds, or rows of embeddings of the same model.
            ids: text or whole numbers, each once in the index; by default the rows' numbers.
            texts: of embeddings, to be kept beside the ids.

        Raises:
            InputError: see above, and `SentenceEncoder.encode`; another width than the rows before.
        """
        if are_texts(items):
            if texts is not None:
                raise InputError("texts are given twice. Expected them as items, or beside embeddings.")
            items, _ = as_list(items, "items")
            texts = items
            count = len(items)
        else:
            items = embedding_rows("items", items).copy()  # the caller's array may change, the index not
            count = len(items)
        new_ids = checked_ids(range(len(self), len(self) + count) if ids is None else ids, count, self._known)
        if texts is not None:
            texts = check_list("texts", texts)
            if len(texts) != count:
                raise InputError(f"texts has {len(texts)} items, there are {count} embeddings. Expected equally many.")
        if not isinstance(items, np.ndarray):
            items = embedding_rows("embeddings", self._encode("encode_document", items, show_progress_bar))
        if not count:
            return
        self._check_width(items.shape[1])
        refuse_too_long("embeddings", items)
        if self.precision != "float32":
            codes = self._quantized(items)
            self._codes.append(codes)
        if self.keeps_floats:
            self._floats.append(items)
        self.width = items.shape[1]
        self.ids += new_ids
        self._known.update(new_ids)
        self.texts += list(texts) if texts is not None and self.keep_texts else [None] * count

    def _check_width(self, width: int) -> None:
        if self.width not in (None, width):
            raise InputError(f"embeddings are {width} wide, the index {self.width}. Expected those of one model.")
        if self.precision == "binary" and width % 8:
            raise InputError(f"embeddings are {width} wide. Expected a multiple of 8 for precision 'binary'.")

    def _quantized(self, rows_MD: np.ndarray) -> np.ndarray:
        if self.precision == "int8" and self.ranges_2D is None:
            if len(rows_MD) < 2:
                raise InputError(
                    "precision 'int8' needs the range of each dimension, and there is one row. Expected more rows in the "
                    "first call, or Index(ranges_2D=...) from a sample."
                )
            self.ranges_2D = np.stack([rows_MD.min(axis=0), rows_MD.max(axis=0)])
        elif self.precision == "int8":
            codes = quantize_embeddings(rows_MD, "int8", self.ranges_2D)  # which checks the ranges
            outside = float(((rows_MD < self.ranges_2D[0]) | (rows_MD > self.ranges_2D[1])).mean())  # type: ignore[index]
            if outside > 0.01:
                logger.warning(
                    f"{outside:.1%} of the numbers added lie outside the ranges of the first rows and are clipped. Give "
                    "Index(ranges_2D=...) from a larger sample."
                )
            return codes
        return quantize_embeddings(rows_MD, self.precision, self.ranges_2D)

    # --- searching -------------------------------------------------------------------------------------------------

    def search(self, queries: Any, k: int = 10, *, oversample: int = 4, show_progress_bar: bool | None = None) -> Any:
        """The k rows most like each query.

        Args:
            queries: text or texts for the encoder, one embedding or rows of them.
            k: rows wanted.
            oversample: candidates for each of them, where candidates are scored anew.

        Returns:
            a list of `Hit`, best first; for several queries a list of such lists.

        Raises:
            InputError: see `nearest`, and `SentenceEncoder.encode`.
        """
        if isinstance(queries, list | tuple) and not queries:
            return []
        if are_texts(queries):
            queries, single = as_list(queries, "queries")
            queries = self._encode("encode_query", queries, show_progress_bar)
        else:
            rows_BD = embedding_rows("queries", queries)
            queries, single = rows_BD, np.ndim(queries) == 1
        found = self.nearest(queries, k, oversample=oversample, show_progress_bar=show_progress_bar)
        hits = [
            [
                Hit(self.ids[row], float(score), self.texts[row])
                for score, row in zip(scores, rows, strict=True)
                if row >= 0
            ]
            for scores, rows in zip(found.scores_BK, found.rows_BK, strict=True)
        ]
        return hits[0] if single else hits

    def nearest(
        self, queries_BD: Any, k: int = 10, *, oversample: int = 4, show_progress_bar: bool | None = None
    ) -> Hits:
        """`search` for embeddings, in arrays: scores and rows, row -1 where a graph found fewer."""
        check_positive("k", k)
        check_positive("oversample", oversample)
        queries_BD = embedding_rows("queries", queries_BD)
        if self.width is None:
            return Hits(np.empty((len(queries_BD), 0), np.float32), np.empty((len(queries_BD), 0), np.int64))
        if queries_BD.shape[1] != self.width:
            raise InputError(f"queries are {queries_BD.shape[1]} wide, the index {self.width}. Expected one model's.")
        refuse_too_long("queries", queries_BD)
        options: dict[str, Any] = {"similarity": self.similarity, "show_progress_bar": show_progress_bar}
        if self.precision == "float32" and self.backend == "exact":
            return nearest(queries_BD, Vectors(self._joined(self._floats)), k, **options)
        candidates = min(len(self), k * oversample)
        if self.backend == "exact":
            vectors = Vectors(self.codes(), self.precision, self.ranges_2D)
            hits = nearest(queries_BD, vectors, candidates if self.keeps_floats else min(len(self), k), **options)
        else:
            hits = self.whole_graph().search(scaled(queries_BD, self.similarity), candidates)
            if (hits.rows_BK >= len(self)).any():
                raise InputError("the graph names rows that the index does not have. Load the index without its graph.")
        if not self.keeps_floats:
            return hits
        return rescored(queries_BD, hits, self._joined(self._floats), min(len(self), k), self.similarity)

    def whole_graph(self) -> Graph:
        """The graph, after the rows that it does not have yet were added to it."""
        if self._graph is None:
            self._graph = GRAPHS[self.backend](width=self.width or 1)
        if len(self._graph) < len(self):
            from tqdm import tqdm

            missing = len(self) - len(self._graph)
            with tqdm(total=missing, unit=" rows", desc=f"{self.backend} graph", disable=None, delay=2) as bar:
                for part_MD in self.float_parts(len(self._graph), 4096):
                    self._graph.add(scaled(part_MD, self.similarity))
                    bar.update(len(part_MD))
        return self._graph

    def float_parts(self, first: int = 0, size: int = PART) -> Iterator[np.ndarray]:
        """The float32 vectors from a row on, a part at a time."""
        floats = self._joined(self._floats)
        for start in range(first, len(self), size):
            yield floats[start : start + size]

    def codes(self) -> np.ndarray:
        """The quantized vectors."""
        return self._joined(self._codes)

    def _encode(self, method: str, texts: list[str], show_progress_bar: bool | None) -> np.ndarray:
        if self.encoder is None:
            raise InputError("the index has no encoder, and texts were given. Expected embeddings, or Index(encoder).")
        return getattr(self.encoder, method)(texts, show_progress_bar=show_progress_bar)

    @staticmethod
    def _joined(parts: list[Any]) -> Any:
        if len(parts) > 1:
            parts[:] = [np.concatenate([part[:] for part in parts])]
        return parts[0]

    # --- files -----------------------------------------------------------------------------------------------------

    def restore(self, ids: list[Any], texts: list[Any], floats: Any, codes: Any, graph: Graph | None) -> None:
        """Fill an empty index with what a folder held (index_folder.py, which has checked it)."""
        self.ids, self.texts, self._known, self._graph = ids, texts, set(ids), graph
        self._floats = [] if floats is None else [floats]
        self._codes = [] if codes is None else [codes]
        self.width = floats.shape[1] if codes is None else codes.shape[1] * STORED[self.precision][1]

    def save(self, folder: str | Path) -> None:
        """Write a folder, whole or not at all; an index that stood there is replaced.

        Raises:
            InputError: the path is taken by something else than an index; or nothing was added yet.
            OSError: the disk is full or not writable.
        """
        from minisbert.search.index_folder import write_index

        write_index(self, _folder(folder))

    @staticmethod
    def load(
        folder: str | Path, encoder: Any = None, *, fingerprint: str | None = None, trust_graph: bool = False
    ) -> "Index":
        """Read a folder; float32 vectors stay on disk.

        Args:
            encoder: the model that made it; without one, search by embeddings.
            fingerprint: see the class.
            trust_graph: read the graph too, by its library's own reader, which is not made for files of strangers.
                Otherwise it is built again when it is first needed.

        Raises:
            SearchError: not a whole index.
            InputError: another model made it.
        """
        from minisbert.search.index_folder import read_index

        return read_index(_folder(folder), encoder, fingerprint, trust_graph)


def _folder(folder: Any) -> Path:
    if not isinstance(folder, str | Path) or not str(folder).strip() or "\0" in str(folder):
        raise InputError(f"folder is {short_repr(folder)}. Expected the folder of an index, as str or Path.")
    return Path(folder)
