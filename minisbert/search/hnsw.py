"""Approximate nearest neighbours with HNSW graphs: faiss and usearch behind one interface of five methods.

    graph = GRAPHS["faiss"](width=384)
    graph.add(embeddings_MD)
    graph.search(queries_BD, k=10)            # Hits, as `search.exact.nearest` returns them; row -1 where none was found

Both build a hierarchical navigable small-world graph (Malkov & Yashunin 2018) over dot products; for cosine, pass rows of
length 1. A graph finds most of the nearest rows, not always all.
"""

from pathlib import Path
from typing import Any

import numpy as np

from minisbert.arguments import check_positive, embedding_rows, refuse_too_long
from minisbert.errors import InputError, SearchError, needs
from minisbert.inference.stream import ProgressBar
from minisbert.search.exact import Hits, scaled

# Links per node, and candidates followed while building and while searching: the usual range of the paper and the libraries.
LINKS, BUILDING, SEARCHING = 32, 128, 128
ROWS = 4096  # added at a time


class FaissGraph:
    """`faiss.IndexHNSWFlat` (pip install 'minisbert[faiss]').

    Raises:
        InputError: faiss is not installed.
    """

    def __init__(self, width: int):
        with needs("this graph needs faiss", "faiss", "use backend='exact'"):
            import faiss
        self._faiss, self.width = faiss, width
        self._index: Any = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = BUILDING

    def __len__(self) -> int:
        return self._index.ntotal

    def add(self, rows_MD: np.ndarray) -> None:
        """Append float32 rows."""
        self._index.add(_checked("rows", rows_MD, self.width))

    def search(self, queries_BD: np.ndarray, k: int) -> Hits:
        """Dot products and rows, best first; row -1 where the graph led to fewer than k."""
        queries_BD = _checked("queries", queries_BD, self.width)
        self._index.hnsw.efSearch = max(SEARCHING, check_positive("k", k))
        return Hits(*self._index.search(queries_BD, k))

    def save(self, path: Path) -> None:
        """Write the library's own file. Raises OSError: it cannot be written."""
        try:
            self._faiss.write_index(self._index, str(path))
        except RuntimeError as error:
            raise OSError(f"{path.name}: {error}") from None

    def read(self, path: Path) -> None:
        """Read it back. Raises SearchError: it is not such a file, or has another width."""
        try:
            self._index = self._faiss.read_index(str(path))
            fits = self._index.d == self.width and hasattr(self._index, "hnsw")
        except RuntimeError as error:
            raise _unreadable(path, error) from None
        if not fits:
            raise _unreadable(path, f"it is not an HNSW graph of width {self.width}")


class UsearchGraph:
    """`usearch.index.Index` (pip install 'minisbert[usearch]'); the methods are those of FaissGraph.

    Raises:
        InputError: usearch is not installed.
    """

    def __init__(self, width: int):
        with needs("this graph needs usearch", "usearch", "use backend='exact'"):
            from usearch.index import Index
        self.width = width
        options: dict[str, Any] = {"connectivity": LINKS, "expansion_add": BUILDING, "expansion_search": SEARCHING}
        self._index: Any = Index(ndim=width, metric="ip", dtype="f32", **options)

    def __len__(self) -> int:
        return len(self._index)

    def add(self, rows_MD: np.ndarray) -> None:
        # In one thread: several lose rows, which are stored and never found (unum-cloud/USearch issue 735).
        rows_MD = _checked("rows", rows_MD, self.width)
        self._index.add(np.arange(len(self), len(self) + len(rows_MD), dtype=np.uint64), rows_MD, threads=1)

    def search(self, queries_BD: np.ndarray, k: int) -> Hits:
        queries_BD = _checked("queries", queries_BD, self.width)
        self._index.expansion_search = max(SEARCHING, check_positive("k", k))
        scores_BK = np.full((len(queries_BD), k), -np.inf, np.float32)
        rows_BK = np.full((len(queries_BD), k), -1, np.int64)
        for b, query_D in enumerate(queries_BD):
            found = self._index.search(query_D, k)
            rows_BK[b, : len(found)] = found.keys.astype(np.int64)
            scores_BK[b, : len(found)] = 1 - found.distances
        return Hits(scores_BK, rows_BK)

    def save(self, path: Path) -> None:
        try:
            self._index.save(str(path))
        except RuntimeError as error:
            raise OSError(f"{path.name}: {error}") from None

    def read(self, path: Path) -> None:
        try:
            self._index.load(str(path))
        except (RuntimeError, ValueError) as error:
            raise _unreadable(path, error) from None
        if self._index.ndim != self.width:
            raise _unreadable(path, f"it is {self._index.ndim} wide, not {self.width}")


Graph = FaissGraph | UsearchGraph
GRAPHS: dict[str, type[FaissGraph] | type[UsearchGraph]] = {"faiss": FaissGraph, "usearch": UsearchGraph}
BACKENDS = ("exact", *GRAPHS)


def add_missing(graph: Graph, rows_MD: Any, similarity: str) -> None:
    """Add the rows that a graph does not have yet, from an array or a NpyFile."""
    M = rows_MD.shape[0]
    with ProgressBar(M - len(graph), None, "rows", "HNSW graph") as bar:
        for start in range(len(graph), M, ROWS):
            part_MD = rows_MD[start : start + ROWS]
            graph.add(scaled(part_MD, similarity))
            bar.update(len(part_MD))


def _checked(name: str, value: Any, width: int) -> np.ndarray:
    """Finite float32 rows of that width: neither library rejects NaN, which would corrupt the graph permanently."""
    rows_MD = np.ascontiguousarray(embedding_rows(name, value))
    if rows_MD.shape[1] != width:
        raise InputError(f"{name} have width {rows_MD.shape[1]}, the graph {width}. Expected embeddings of one model.")
    refuse_too_long(name, rows_MD)
    return rows_MD


def _unreadable(path: Path, why: Any) -> SearchError:
    return SearchError(f"{path}: the graph cannot be read ({why}). Load without trust_graph to build it again.")
