"""An index on disk: a folder of JSON and .npy files, read strictly; nothing in it is ever run.

index.json         what it is: format, similarity, precision, width, rows, the model's fingerprint, sha256 of the rest
rows.jsonl         {"id": ..., "text": ...} a line
embeddings.npy     float32 [rows, width]; mapped, not read
codes.npy          int8, where the vectors are quantized; with ranges.npy for int8
graph              the library's own file; read only by those who trust it
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from minisbert import limits
from minisbert.atomic_write import staged_folder
from minisbert.checkpoint.settings import read_json
from minisbert.errors import DataError, InputError, ModelFolderError, SearchError, short_repr
from minisbert.search.exact import SIMILARITIES
from minisbert.search.hnsw import GRAPHS
from minisbert.search.index import BACKENDS, Index
from minisbert.search.vectors import STORED, NpyFile

logger = logging.getLogger("minisbert")

SETTINGS, ROWS, FLOATS, CODES, RANGES, GRAPH = (
    *("index.json", "rows.jsonl", "embeddings.npy", "codes.npy"),
    *("ranges.npy", "graph"),
)
FORMAT, VERSION = "minisbert index", 1


def write_index(index: Index, folder: Path) -> None:
    """See `Index.save`."""
    if index.width is None:
        raise InputError("the index is empty. Expected rows to save; add some.")
    with staged_folder(folder.absolute(), "minisbert index", _is_index) as staging:
        with (staging / ROWS).open("w", encoding="utf-8") as file:
            for one, text in zip(index.ids, index.texts, strict=True):
                file.write(json.dumps({"id": one, "text": text}, ensure_ascii=False) + "\n")
        if index.keeps_floats:
            with (staging / FLOATS).open("wb") as stream:
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(index), index.width)}
                np.lib.format.write_array_header_1_0(stream, header)
                for part_MD in index.float_parts():
                    stream.write(part_MD.astype("<f4").tobytes())
        if index.precision != "float32":
            np.save(staging / CODES, index.codes())
        if index.precision == "int8":
            np.save(staging / RANGES, np.asarray(index.ranges_2D, np.float32))
        if index.backend != "exact":
            index.whole_graph().save(staging / GRAPH)
        settings = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": index.fingerprint,
            "similarity": index.similarity,
            "precision": index.precision,
            "backend": index.backend,
            "keep_texts": index.keep_texts,
            "rescore": index.keeps_floats,
            "width": index.width,
            "rows": len(index),
            # The vectors may be many: they are checked by size here, and by value when they are searched.
            "sha256": {file.name: _sha256(file) for file in sorted(staging.iterdir()) if file.name != FLOATS},
        }
        (staging / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def read_index(folder: Path, encoder: Any, fingerprint: str | None, trust_graph: bool) -> Index:
    """See `Index.load`."""
    settings = _settings(folder)
    index = Index(
        encoder,
        similarity=settings["similarity"],
        precision=settings["precision"],
        backend=settings["backend"],
        keep_texts=settings["keep_texts"],
        rescore=settings["rescore"],
        fingerprint=fingerprint,
    )
    if index.fingerprint is not None and index.fingerprint != settings["fingerprint"]:
        made = settings["fingerprint"]
        raise InputError(
            f"{folder}: made by {f'the model {made:.16}' if made else 'a model that is not told'}, the encoder is "
            f"{index.fingerprint:.16}. Expected the same model, settings and number format; embed the texts anew."
        )
    index.fingerprint = settings["fingerprint"]
    rows, width = settings["rows"], settings["width"]
    files = [ROWS, *([CODES] if index.precision != "float32" else []), *([RANGES] if index.precision == "int8" else [])]
    if index.backend != "exact" and trust_graph:
        files.append(GRAPH)
    for name in files:
        if not (folder / name).is_file() or _sha256(folder / name) != settings["sha256"].get(name):
            raise SearchError(f"{folder / name}: missing, or not the file that was saved. Make the index again.")
    floats = _array(folder / FLOATS, (rows, width), "<f4") if index.keeps_floats else None
    codes = graph = None
    if index.precision != "float32":
        codes = _array(folder / CODES, (rows, width // STORED[index.precision][1]), "|i1")[:]
    if index.precision == "int8":
        index.ranges_2D = _array(folder / RANGES, (2, width), "<f4")[:]
    if index.backend != "exact" and trust_graph:
        graph = GRAPHS[index.backend](width=width)
        graph.read(folder / GRAPH)
        if len(graph) != rows:
            raise SearchError(f"{folder / GRAPH}: has {len(graph)} rows, the index {rows}. Load without it.")
    elif index.backend != "exact":
        logger.warning(f"{folder}: the graph is built again; trust_graph=True reads it, for a folder of your own.")
    index.restore(*_rows(folder / ROWS, rows), floats, codes, graph)
    return index


def _is_index(folder: Path) -> bool:
    try:
        return _settings(folder) is not None
    except DataError:
        return False


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    try:
        settings = read_json(path)
    except ModelFolderError as error:
        raise SearchError(f"{folder}: no index can be read here ({error}).") from None
    if not isinstance(settings, dict) or settings.get("format") != FORMAT or settings.get("version") != VERSION:
        raise SearchError(f"{path}: is not of a {FORMAT}, version {VERSION}. Expected a folder that Index.save wrote.")
    expected = {
        "fingerprint": lambda value: value is None or isinstance(value, str),
        "similarity": lambda value: value in SIMILARITIES,
        "precision": lambda value: value in tuple(STORED),
        "backend": lambda value: value in BACKENDS,
        "keep_texts": lambda value: isinstance(value, bool),
        "rescore": lambda value: isinstance(value, bool),
        "width": lambda value: type(value) is int and 0 < value <= limits.WIDTH,
        "rows": lambda value: type(value) is int and 0 < value < 2**31,
        "sha256": lambda value: isinstance(value, dict),
    }
    wrong = [
        f"{key!r} is {short_repr(settings.get(key))}" for key, holds in expected.items() if not holds(settings.get(key))
    ]
    if wrong:
        raise SearchError(f"{path}: {'; '.join(wrong)}. Expected what Index.save writes; make the index again.")
    return settings


def _array(path: Path, shape: tuple[int, int], dtype: str) -> NpyFile:
    try:
        file = NpyFile(path)
    except DataError as error:
        raise SearchError(str(error)) from None
    if file.shape != shape or file.dtype != np.dtype(dtype):
        raise SearchError(
            f"{path}: holds {file.dtype} {list(file.shape)}. Expected {np.dtype(dtype)} {list(shape)}, as {SETTINGS} "
            "tells; make the index again."
        )
    return file


def _rows(path: Path, count: int) -> tuple[list[str | int], list[str | None]]:
    ids: list[str | int] = []
    texts: list[str | None] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                one, text = row["id"], row["text"]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise SearchError(f"{path}, line {number}: no id and text. Make the index again.") from None
            if isinstance(one, bool) or not isinstance(one, str | int) or not isinstance(text, str | None):
                raise SearchError(
                    f"{path}, line {number}: {short_repr(row)}. Expected an id and a text; make the index again."
                )
            ids.append(one)
            texts.append(text)
    if len(ids) != count or len(set(ids)) != count:
        raise SearchError(f"{path}: {len(ids)} rows, {len(set(ids))} ids. Expected {count}; make the index again.")
    return ids, texts


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
