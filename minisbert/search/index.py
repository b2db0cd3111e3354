"""A vector index: add, search, save and load texts (or embeddings) with ids.

    index = Index(encoder)
    index.add(["a cat sits", "stocks fell"], ids=["c1", "s9"])
    index.search("where is the cat?", k=1)            # [Hit(id="c1", score=0.66, text="a cat sits")]
    index.save("pets.index");  Index.load("pets.index", encoder)

Quantized vectors or a graph (hnsw.py) propose more candidates than requested, and the float32 vectors rank them
(`exact.rescore`). A loaded index leaves those on disk.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minisbert import arguments as checks
from minisbert.errors import InputError
from minisbert.quantization import quantize_embeddings
from minisbert.search import index_folder
from minisbert.search.exact import SIMILARITIES, Hits, check_queries, nearest, rescore, scaled
from minisbert.search.fingerprint import fingerprint as fingerprint_of
from minisbert.search.hnsw import BACKENDS, GRAPHS, Graph, add_missing
from minisbert.search.searcher import Hit, are_texts, checked_ids
from minisbert.search.vectors import STORED, Vectors

logger = logging.getLogger("minisbert")


class Index:
    """Vectors with ids.

    Args:
        encoder: embeds texts (`encode_document`) and queries (`encode_query`); without one, pass embeddings.
        similarity: "cosine" or "dot"; by default the encoder's, or cosine.
        precision: "float32"; "int8" needs a quarter of the memory, "binary" a thirty-second.
        backend: "exact", or a graph of "faiss" or "usearch" (extras).
        keep_texts: store the texts with their ids.
        rescore: with quantized vectors, store the float32 vectors too.
        ranges_2D: lowest and highest value of each dimension for int8; by default those of the first rows added.
        fingerprint: a name for the model, if the encoder is not a SentenceEncoder or there is no encoder.

    Raises:
        InputError: an option is out of range, options conflict, or a library is missing.

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
            similarity = getattr(encoder, "similarity_fn_name", "cosine")
        checks.check_choice("similarity", similarity, SIMILARITIES)
        checks.check_choice("precision", precision, tuple(STORED))
        checks.check_choice("backend", backend, BACKENDS)
        checks.check_bool("keep_texts", keep_texts)
        checks.check_bool("rescore", rescore)
        if backend != "exact" and precision != "float32":
            raise InputError(f"precision is {precision!r} with backend {backend!r}. Expected 'float32' for a graph.")
        self.encoder = encoder
        self.fingerprint = fingerprint or (fingerprint_of(encoder) if encoder is not None else None)
        self.similarity, self.precision, self.backend = similarity, precision, backend
        self.keep_texts, self.rescore = keep_texts, rescore or precision == "float32"
        self.ranges_2D = None if ranges_2D is None else np.asarray(ranges_2D)
        self.ids: list[str | int] = []
        self.texts: list[str | None] = []
        self.width: int | None = None
        self._known: set[str | int] = set()
        self._floats: list[Any] = []  # arrays, or the NpyFile of a loaded index; joined when they are read
        self._codes: list[np.ndarray] = []
        self._graph: Graph | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def add(
        self,
        items: Any,
        ids: Sequence[str | int] | None = None,
        *,
        texts: Sequence[str] | None = None,
        show_progress_bar: bool | None = None,
    ) -> None:
        """Append texts or embeddings: all of them, or none if there is an error.

        Args:
            items: texts (any iterable of them), which the encoder embeds, or rows of embeddings of the same model.
            ids: strings or whole numbers, each once in the index; by default the row numbers.
            texts: the texts of the embeddings, to store with the ids.

        Raises:
            InputError: an invalid item, id or text (see `SentenceEncoder.encode`); a width other than that of earlier rows.
        """
        if as_texts := are_texts(items := checks.to_list(items)):
            if texts is not None:
                raise InputError("texts are given twice. Expected them as items, or together with embeddings.")
            rows: Any = checks.as_list(items, "items")[0]
        else:
            # A copy, because the caller's array may change.
            rows = [] if checks.no_rows(items) else checks.embedding_rows("items", items).copy()
        count = len(rows)
        new_ids = checked_ids(ids, count, self._known)
        if as_texts:
            texts = rows
            rows = checks.embedding_rows("embeddings", self._encode("encode_document", rows, show_progress_bar))
        elif texts is not None and len(texts := checks.check_list("texts", texts)) != count:
            raise InputError(
                f"texts has {len(texts)} items, there are {count} embeddings. Expected the same number of each."
            )
        if not count:
            return
        width = rows.shape[1]
        if self.width not in (None, width):
            raise InputError(
                f"embeddings have width {width}, the index {self.width}. Expected embeddings of one model."
            )
        if self.precision == "binary" and width % 8:
            raise InputError(f"embeddings have width {width}. Expected a multiple of 8 for precision 'binary'.")
        checks.refuse_too_long("embeddings", rows)
        if self.precision != "float32":
            self._codes.append(self._quantized(rows))
        if self.rescore:
            self._floats.append(rows)
        self.width = width
        self.ids += new_ids
        self._known.update(new_ids)
        self.texts += list(texts) if texts is not None and self.keep_texts else [None] * count

    def _quantized(self, rows_MD: np.ndarray) -> np.ndarray:
        if self.precision == "int8" and self.ranges_2D is None:
            if len(rows_MD) < 2:
                raise InputError(
                    "precision 'int8' needs the range of each dimension, and there is one row. Expected more rows in the "
                    "first call, or Index(ranges_2D=...) from a sample."
                )
            self.ranges_2D = np.stack([rows_MD.min(axis=0), rows_MD.max(axis=0)])
        codes = quantize_embeddings(rows_MD, self.precision, self.ranges_2D)  # checks the ranges
        if self.precision == "int8":
            outside = float(((rows_MD < self.ranges_2D[0]) | (rows_MD > self.ranges_2D[1])).mean())  # type: ignore[index]
            if outside > 0.01:
                logger.warning(
                    f"{outside:.1%} of the values added are outside the ranges of the first rows and are clipped. Pass "
                    "Index(ranges_2D=...) from a larger sample."
                )
        return codes

    def search(self, queries: Any, k: int = 10, *, oversample: int = 4, show_progress_bar: bool | None = None) -> Any:
        """The k rows most similar to each query.

        Args:
            queries: one text or several for the encoder, or one embedding or rows of them.
            oversample: candidates per requested row, if candidates are rescored.

        Returns:
            a list of `Hit`, best first; for several queries a list of such lists.

        Raises:
            InputError: see `nearest`, and `SentenceEncoder.encode`.
        """
        if checks.no_rows(queries := checks.to_list(queries)):
            return []
        if are_texts(queries):
            queries, single = checks.as_list(queries, "queries")
            queries = self._encode("encode_query", queries, show_progress_bar)
        else:
            queries, single = checks.embedding_rows("queries", queries), np.ndim(queries) == 1
        found = self.nearest(queries, k, oversample=oversample, show_progress_bar=show_progress_bar)
        hits = [
            [Hit(self.ids[row], float(score), self.texts[row]) for score, row in zip(*one, strict=True) if row >= 0]
            for one in zip(found.scores_BK, found.rows_BK, strict=True)
        ]
        return hits[0] if single else hits

    def nearest(
        self, queries_BD: Any, k: int = 10, *, oversample: int = 4, show_progress_bar: bool | None = None
    ) -> Hits:
        """`search` for embeddings that returns arrays of scores and rows; row -1 where a graph found fewer."""
        k, oversample = checks.check_positive("k", k), checks.check_positive("oversample", oversample)
        queries_BD = checks.embedding_rows("queries", queries_BD)
        if self.width is None:
            return Hits(np.empty((len(queries_BD), 0), np.float32), np.empty((len(queries_BD), 0), np.int64))
        wanted, candidates = min(len(self), k), min(len(self), k * oversample)
        options: dict[str, Any] = {"similarity": self.similarity, "show_progress_bar": show_progress_bar}
        if self.backend != "exact":
            check_queries(queries_BD)
            hits = self._current_graph().search(scaled(queries_BD, self.similarity), candidates)
            if (hits.rows_BK >= len(self)).any():
                raise InputError("the graph has rows that the index does not have. Load the index without trust_graph.")
        elif self.precision == "float32":
            return nearest(queries_BD, Vectors(_joined(self._floats)), wanted, **options)
        else:
            vectors = Vectors(_joined(self._codes), self.precision, self.ranges_2D)
            hits = nearest(queries_BD, vectors, candidates if self.rescore else wanted, **options)
        return rescore(queries_BD, hits, _joined(self._floats), wanted, self.similarity) if self.rescore else hits

    def _current_graph(self) -> Graph:
        """The graph, with the rows added that it does not have yet."""
        self._graph = self._graph or GRAPHS[self.backend](self.width or 1)
        add_missing(self._graph, _joined(self._floats), self.similarity)
        return self._graph

    def _encode(self, method: str, texts: list[str], show_progress_bar: bool | None) -> np.ndarray:
        if self.encoder is None:
            raise InputError("the index has no encoder to embed texts. Expected embeddings, or Index(encoder).")
        embeddings: np.ndarray = getattr(self.encoder, method)(texts, show_progress_bar=show_progress_bar)
        return embeddings

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder, atomically; an index already there is replaced.

        Raises:
            InputError: the path holds something other than an index, or the index is empty.
            WriteError: the disk is full or not writable.
        """
        path = checks.check_path(folder, "folder", "the folder of an index")
        if self.width is None:
            raise InputError("the index is empty. Expected rows to save; add some.")
        settings = {name: getattr(self, name) for name in index_folder.VALID if name not in ("rows", "sha256")}
        graph = None if self.backend == "exact" else self._current_graph()
        index_folder.write_index(path, settings | {"rows": len(self)}, self._contents(graph))

    def export_parquet(self, file: str | Path) -> None:
        """Write a parquet table of ids, texts and float32 vectors, which LanceDB and other vector stores read.

        Ids are whole numbers if all of them are (of 64 bits), else text.

        Raises:
            InputError: pyarrow is not installed; the index is empty or has no float32 vectors; ids that are the same text.
            WriteError: the file cannot be written.
        """
        if self.width is None or not self.rescore:
            raise InputError("the index has no float32 vectors. Expected rows, and rescore=True for quantized ones.")
        index_folder.write_parquet(Path(file), self._contents(None), self.width)

    def _contents(self, graph: Graph | None) -> index_folder.Contents:
        floats, codes = (_joined(parts) if parts else None for parts in (self._floats, self._codes))
        ranges_2D = self.ranges_2D if self.precision == "int8" else None
        return index_folder.Contents(self.ids, self.texts, floats, codes, ranges_2D, graph)

    @staticmethod
    def load(
        folder: str | Path,
        encoder: Any = None,
        *,
        fingerprint: str | None = None,
        trust_graph: bool = False,
        verify: bool = True,
    ) -> "Index":
        """Load an index from its folder; float32 vectors stay on disk.

        Args:
            encoder: the model that made it; without one, search by embeddings.
            fingerprint: see the class.
            trust_graph: also read the graph, with its library's own reader, which is not safe for untrusted files.
                Otherwise the graph is rebuilt when first needed.
            verify: False skips the sha256 of the float32 vectors, for which their file is read once.

        Raises:
            SearchError: the folder does not hold a complete index.
            InputError: another model made it.
        """
        path = checks.check_path(folder, "folder", "the folder of an index")
        settings = index_folder.read_settings(path)
        options = {name: settings[name] for name in ("similarity", "precision", "backend", "keep_texts", "rescore")}
        index = Index(encoder, fingerprint=fingerprint, **options)
        index_folder.check_fingerprint(path, settings, index.fingerprint)
        contents = index_folder.read_contents(path, settings, trust_graph, verify)
        index.fingerprint, index.width = settings["fingerprint"], settings["width"]
        index.ids, index.texts, floats, codes, index.ranges_2D, index._graph = contents
        index._known = set(index.ids)
        index._floats, index._codes = ([] if rows is None else [rows] for rows in (floats, codes))
        return index


def _joined(parts: list[Any]) -> Any:
    if len(parts) > 1:
        parts[:] = [np.concatenate([part[:] for part in parts])]
    return parts[0]
