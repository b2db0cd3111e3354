"""An index on disk: a folder of JSON and .npy files, or one parquet file for other vector stores.

index.json         format, similarity, precision, width, rows, the model's fingerprint, sha256 of the other files, and
                   its own checksum
rows.jsonl         one {"id": ..., "text": ...} per line
embeddings.npy     float32 [rows, width]; memory-mapped
codes.npy          int8, for quantized vectors; with ranges.npy for int8
graph              the library's own file; read only with trust_graph
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisbert import limits
from minisbert.atomic_write import staged_folder, whole_file
from minisbert.checkpoint.json_file import read_json
from minisbert.checksums import digest, is_whole, sealed
from minisbert.data.columnar import parquet_library
from minisbert.errors import DataError, InputError, ModelFolderError, SearchError, short_repr
from minisbert.search.exact import SIMILARITIES
from minisbert.search.hnsw import BACKENDS, GRAPHS, Graph
from minisbert.search.vectors import STORED, NpyFile

logger = logging.getLogger("minisbert")

SETTINGS, ROWS, FLOATS = "index.json", "rows.jsonl", "embeddings.npy"
CODES, RANGES, GRAPH = "codes.npy", "ranges.npy", "graph"
FORMAT, VERSION = "minisbert index", 1
PART = 65_536  # rows written at a time

# key of index.json -> whether a value is valid
VALID: dict[str, Callable[[Any], bool]] = {
    "fingerprint": lambda value: isinstance(value, str | None),
    "similarity": lambda value: value in SIMILARITIES,
    "precision": lambda value: value in tuple(STORED),
    "backend": lambda value: value in BACKENDS,
    "keep_texts": lambda value: isinstance(value, bool),
    "rescore": lambda value: isinstance(value, bool),
    "width": lambda value: type(value) is int and 0 < value <= limits.WIDTH,
    "rows": lambda value: type(value) is int and 0 < value < 2**31,
    "sha256": lambda value: isinstance(value, dict),
}


class Contents(NamedTuple):
    """The contents of an index; None for parts that its settings leave out."""

    ids: list[str | int]
    texts: list[str | None]
    floats: Any  # float32 [rows, width], an array or a NpyFile
    codes: np.ndarray | None
    ranges_2D: np.ndarray | None
    graph: Graph | None


def write_index(folder: Path, settings: dict[str, Any], contents: Contents) -> None:
    """Write an index folder, atomically.

    Raises:
        InputError: the path holds something other than an index.
        WriteError: it cannot be written.
    """
    with staged_folder(folder.absolute(), "minisbert index", _is_index) as staging:
        with (staging / ROWS).open("w", encoding="utf-8") as file:
            for id_, text in zip(contents.ids, contents.texts, strict=True):
                file.write(json.dumps({"id": id_, "text": text}, ensure_ascii=False) + "\n")
        if contents.floats is not None:
            shape = (settings["rows"], settings["width"])
            with (staging / FLOATS).open("wb") as stream:
                np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
                for start in range(0, shape[0], PART):
                    stream.write(contents.floats[start : start + PART].astype("<f4").tobytes())
        if contents.codes is not None:
            np.save(staging / CODES, contents.codes)
        if contents.ranges_2D is not None:
            np.save(staging / RANGES, np.asarray(contents.ranges_2D, np.float32))
        if contents.graph is not None:
            contents.graph.save(staging / GRAPH)
        digests = {file.name: digest(file) for file in sorted(staging.iterdir())}
        record = sealed({"format": FORMAT, "version": VERSION, **settings, "sha256": digests})
        (staging / SETTINGS).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_settings(folder: Path) -> dict[str, Any]:
    """The checked values of index.json. Raises SearchError: the folder does not hold an index, or a value is out of range."""
    path = folder / SETTINGS
    try:
        settings = read_json(path)
    except ModelFolderError as error:
        raise SearchError(f"{folder}: cannot be read as an index ({error}).") from None
    if not isinstance(settings, dict) or settings.get("format") != FORMAT or settings.get("version") != VERSION:
        raise SearchError(f"{path}: not a {FORMAT}, version {VERSION}. Expected a folder that Index.save wrote.")
    wrong = [
        f"{key!r} is {short_repr(settings.get(key))}" for key, valid in VALID.items() if not valid(settings.get(key))
    ]
    if not is_whole(settings):
        wrong.append("its values are not those that were written")
    if wrong:
        raise SearchError(f"{path}: {'; '.join(wrong)}. Expected what Index.save writes; make the index again.")
    return settings


def check_fingerprint(folder: Path, settings: dict[str, Any], fingerprint: str | None) -> None:
    """Raises InputError if the vectors are from another model; None is not compared."""
    if fingerprint not in (None, settings["fingerprint"]):
        maker = f"the model {settings['fingerprint']:.16}" if settings["fingerprint"] else "an unnamed model"
        raise InputError(
            f"{folder}: made by {maker}, the encoder is {fingerprint:.16}. Expected the same model, settings and number "
            "format; embed the texts again."
        )


def read_contents(folder: Path, settings: dict[str, Any], trust_graph: bool, verify: bool) -> Contents:
    """The other files, each compared with its digest; without `verify` all but the float32 vectors, whose file may be large.

    Raises SearchError: a file is missing or not the one that was saved.
    """
    rows, width, precision = settings["rows"], settings["width"], settings["precision"]
    graph = GRAPHS[settings["backend"]](width) if trust_graph and settings["backend"] != "exact" else None
    needed = {ROWS: True, CODES: precision != "float32", RANGES: precision == "int8", GRAPH: graph is not None}
    floats = codes = ranges_2D = None
    if settings["rescore"]:
        floats = _array(folder / FLOATS, (rows, width), "<f4")
        needed[FLOATS] = verify and FLOATS in settings["sha256"]  # earlier versions wrote no digest of them
    for name, need in needed.items():
        if need and not ((folder / name).is_file() and digest(folder / name) == settings["sha256"].get(name)):
            raise SearchError(f"{folder / name}: missing, or not the file that was saved. Make the index again.")
    if needed[CODES]:
        codes = _array(folder / CODES, (rows, width // STORED[precision][1]), "|i1")[:]
    if needed[RANGES]:
        ranges_2D = _array(folder / RANGES, (2, width), "<f4")[:]
    if graph is not None:
        graph.read(folder / GRAPH)
        if len(graph) != rows:
            raise SearchError(f"{folder / GRAPH}: has {len(graph)} rows, the index {rows}. Load without trust_graph.")
    elif settings["backend"] != "exact":
        logger.warning(
            f"{folder}: the graph will be rebuilt. If you made this folder yourself, trust_graph=True reads it instead."
        )
    return Contents(*_rows(folder / ROWS, rows), floats, codes, ranges_2D, graph)


def write_parquet(file: Path, contents: Contents, width: int) -> None:
    """One parquet file with the columns id, text and embedding (fixed-size lists of float32); see `Index.export_parquet`.

    Raises:
        InputError: pyarrow is not installed; two ids are the same text.
        WriteError: the file cannot be written.
    """
    parquet = parquet_library()
    import pyarrow

    numbers = all(isinstance(id_, int) and -(2**63) <= id_ < 2**63 for id_ in contents.ids)
    if not numbers and len(set(map(str, contents.ids))) < len(contents.ids):
        texts = {id_ for id_ in contents.ids if isinstance(id_, str)}
        twice = next(id_ for id_ in contents.ids if isinstance(id_, int) and str(id_) in texts)
        raise InputError(
            f"ids has {twice} and {str(twice)!r}, which are the same text. Expected different ones, because a column has one "
            "type; give all ids as str or all as int."
        )
    id_type = pyarrow.int64() if numbers else pyarrow.string()
    vector = pyarrow.list_(pyarrow.float32(), width)
    schema = pyarrow.schema([("id", id_type), ("text", pyarrow.string()), ("embedding", vector)])
    with whole_file(file) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for start in range(0, len(contents.ids), PART):
            part = slice(start, start + PART)
            columns = [
                pyarrow.array(contents.ids[part] if numbers else map(str, contents.ids[part]), id_type),
                pyarrow.array(contents.texts[part], pyarrow.string()),
                pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(contents.floats[part].ravel()), width),
            ]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


def _is_index(folder: Path) -> bool:
    try:
        return bool(read_settings(folder))
    except DataError:
        return False


def _array(path: Path, shape: tuple[int, int], dtype: str) -> NpyFile:
    try:
        file = NpyFile(path)
    except DataError as error:
        raise SearchError(str(error)) from None
    if file.shape != shape or file.dtype != np.dtype(dtype):
        raise SearchError(
            f"{path}: holds {file.dtype} {list(file.shape)}. Expected {np.dtype(dtype)} {list(shape)}, as {SETTINGS} "
            "says; make the index again."
        )
    return file


def _rows(path: Path, count: int) -> tuple[list[str | int], list[str | None]]:
    ids: list[str | int] = []
    texts: list[str | None] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                id_, text = row["id"], row["text"]
            except (ValueError, KeyError, TypeError, RecursionError):
                id_ = text = row = line
            if isinstance(id_, bool) or not isinstance(id_, str | int) or not isinstance(text, str | None):
                raise SearchError(
                    f"{path}, line {number}: {short_repr(row)}. Expected an id and a text; make the index again."
                )
            ids.append(id_)
            texts.append(text)
    if len(ids) != count or len(set(ids)) != count:
        raise SearchError(f"{path}: {len(ids)} rows, {len(set(ids))} ids. Expected {count}; make the index again.")
    return ids, texts
