"""Embeddings of a corpus larger than memory: a resumable folder of shards, each of which is complete or absent.

    encode_shards(lines, encoder, Path("wiki"), rows_per_shard=65_536)      # rerun it: only missing shards are computed
    for shard_MD in read_shards(Path("wiki")): ...                          # memory-mapped

    shards.json      the model's fingerprint, the options, rows per shard
    00000.json       rows and sha256 of the texts of shard 0
    00000.npy        their embeddings, float32 [rows, dimension] (or another precision); written last
    rows.json        the number of rows; written when the end of the corpus was reached

With n workers (hosts, processes, Ray actors) each computes every n-th shard; they share nothing but the folder. An existing
shard is not computed again, but its texts are checked against the corpus.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.arguments import check_positive
from minisbert.atomic_write import not_written, whole_file
from minisbert.checkpoint.settings import read_json
from minisbert.errors import DataError, InputError, ModelFolderError
from minisbert.search.fingerprint import fingerprint

SETTINGS, ROWS = "shards.json", "rows.json"
ROWS_PER_SHARD = 65_536


def encode_shards(
    texts: Iterable[str],
    encoder: Any,
    folder: Path,
    *,
    rows_per_shard: int = ROWS_PER_SHARD,
    worker: int = 0,
    workers: int = 1,
    **options: Any,
) -> int:
    """Embed a stream of texts into a folder of shards; existing shards are not computed again.

    Args:
        texts: the corpus, in the same order each time; one shard of it is in memory.
        encoder: a SentenceEncoder.
        folder: created if it is missing.
        worker, workers: the number of this worker and how many there are; worker w makes the shards w, w + workers, ...
        options: for `encode`.

    Returns:
        the number of rows of the whole corpus.

    Raises:
        InputError: an option that needs the whole corpus (int8), or a worker number out of range.
        DataError: the folder holds embeddings of another model or corpus.
        WriteError: a file cannot be written; complete shards stay.
    """
    check_positive("rows_per_shard", rows_per_shard)
    if not 0 <= worker < check_positive("workers", workers):
        raise InputError(f"worker is {worker} of {workers}. Expected the number of this worker, counted from 0.")
    if options.get("precision") in ("int8", "uint8"):
        raise InputError(
            f"precision is {options['precision']!r}, which needs the ranges of the whole corpus. Expected 'float32', "
            "'binary' or 'ubinary' for shards; an Index quantizes them later."
        )
    _same_settings(folder, encoder, rows_per_shard, options)
    stream, rows, shard = iter(texts), 0, 0
    while part := list(islice(stream, rows_per_shard)):
        if shard % workers == worker:
            _make_shard(folder, shard, part, encoder, options)
        rows, shard = rows + len(part), shard + 1
    _write_json(folder / ROWS, {"rows": rows, "shards": shard})
    return rows


def read_shards(folder: Path) -> Iterator[np.ndarray]:
    """Yield the shards in order, each memory-mapped from its file.

    Raises:
        DataError: the folder is incomplete; the error names what is missing.
    """
    if not (folder / ROWS).exists():
        raise DataError(
            f"{folder}: no {ROWS}, so the end of the corpus was not reached. Rerun the same command to resume."
        )
    shards = check_positive(f"{folder / ROWS}: shards", _read_json(folder / ROWS).get("shards"))
    missing = [shard for shard in range(shards) if not _embeddings(folder, shard).exists()]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {shards} shards are missing ({str(missing[:8])[1:-1]}). Rerun the same command for "
            "every worker."
        )
    for shard in range(shards):
        yield np.load(_embeddings(folder, shard), mmap_mode="r", allow_pickle=False)


def _make_shard(folder: Path, shard: int, texts: list[str], encoder: Any, options: dict[str, Any]) -> None:
    everything = "".join(f"{len(text)}:{text}" for text in texts)
    digest = hashlib.sha256(everything.encode("utf-8", "surrogatepass")).hexdigest()
    record = {"rows": len(texts), "sha256": digest}
    if _embeddings(folder, shard).exists():
        before = _read_json(folder / f"{shard:05d}.json")
        if before != record:
            raise DataError(
                f"{_embeddings(folder, shard)}: has other texts ({before.get('rows')} rows, sha256 "
                f"{str(before.get('sha256'))[:8]}; now {len(texts)} rows, {digest[:8]}). Expected the same corpus as before; "
                "choose another folder for another corpus."
            )
        return
    for stale in folder.glob(f".{shard:05d}.*"):  # left by a killed worker
        stale.unlink(missing_ok=True)
    embeddings = encoder.encode(texts, **options)
    _write_json(folder / f"{shard:05d}.json", record)
    with whole_file(_embeddings(folder, shard)) as temporary, temporary.open("wb") as file:
        np.save(file, embeddings, allow_pickle=False)


def _same_settings(folder: Path, encoder: Any, rows_per_shard: int, options: dict[str, Any]) -> None:
    options = {name: value for name, value in options.items() if name != "show_progress_bar"}
    if getattr(encoder, "packing", False):  # changes the last bits
        options["packing"] = True
    settings = {"fingerprint": fingerprint(encoder), "rows_per_shard": rows_per_shard, "options": options}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(folder, error) from None
    if not (folder / SETTINGS).exists():
        others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        if others and not (folder / SETTINGS).exists():  # another worker may have written it meanwhile
            raise DataError(
                f"{folder}: holds {', '.join(sorted(others)[:3])} and no {SETTINGS}. Expected an empty folder."
            )
        _write_json(folder / SETTINGS, settings, indent=1)
    before = _read_json(folder / SETTINGS)
    if before != json.loads(json.dumps(settings)):
        differing = [name for name in settings if before.get(name) != settings[name]]
        raise DataError(
            f"{folder / SETTINGS}: started with another {' and '.join(differing)}. Expected the same model and options "
            "as before; choose another folder for others."
        )


def _embeddings(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.npy"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except ModelFolderError as error:
        raise DataError(str(error)) from None
    if not isinstance(record, dict):
        raise DataError(f"{path}: holds {type(record).__name__}. Expected the object that `minisbert encode` writes.")
    return record


def _write_json(path: Path, record: dict[str, Any], indent: int | None = None) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(record, indent=indent), encoding="utf-8")
