"""Embeddings of a corpus larger than memory: a folder of shards, each whole or not there, so that any stop can go on.

    encode_shards(lines, encoder, Path("wiki"), rows_per_shard=65_536)      # the same call again does what is missing
    for shard_MD in read_shards(Path("wiki")): ...                          # mapped, not read

    shards.json      the model's fingerprint, the options, rows a shard
    00000.json       rows and sha256 of the texts of shard 0
    00000.npy        their embeddings, float32 [rows, dimension] (or the precision asked for); appears last
    rows.json        how many rows there are; appears when the end of the corpus was seen

Of several workers (hosts, processes, Ray's actors) each takes every n-th shard; they need the folder in common, and nothing
else. A shard that is there is not computed again, but its texts are compared with those it was made of.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
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
# What `encode` needs the whole corpus for.
_GLOBAL = ("int8", "uint8")


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
    """Embed a stream of texts into a folder of shards; what is there already is kept.

    Args:
        texts: the corpus, in the same order each time; one shard of it is in memory.
        encoder: a SentenceEncoder.
        folder: made if it is not there.
        worker, workers: which of how many does this call; worker w makes the shards w, w + workers, ...
        options: of `encode`.

    Returns:
        rows of the whole corpus.

    Raises:
        InputError: an option that needs the whole corpus at once (int8), or a worker's number out of range.
        DataError: the folder holds another model's embeddings, or another corpus'.
        WriteError: it cannot be written; the shards before stand.
    """
    check_positive("rows_per_shard", rows_per_shard)
    if not 0 <= worker < check_positive("workers", workers):
        raise InputError(f"worker is {worker} of {workers}. Expected which one this is, from 0.")
    if options.get("precision") in _GLOBAL:
        raise InputError(
            f"precision is {options['precision']!r}, whose ranges are those of the whole corpus. Expected 'float32', "
            "'binary' or 'ubinary' for shards; an Index quantizes them later."
        )
    _same_settings(folder, encoder, rows_per_shard, options)
    stream, rows, shard = iter(texts), 0, 0
    while part := list(islice(stream, rows_per_shard)):
        if shard % workers == worker:
            _make_shard(folder, shard, part, encoder, options)
        rows, shard = rows + len(part), shard + 1
    _write(folder / ROWS, lambda file: file.write(json.dumps({"rows": rows, "shards": shard}).encode()))
    return rows


def read_shards(folder: Path) -> Iterator[np.ndarray]:
    """The shards in order, each mapped from its file.

    Raises:
        DataError: the folder is not whole; names what is missing.
    """
    if not (folder / ROWS).exists():
        raise DataError(
            f"{folder}: no {ROWS}, so the end of the corpus was not reached. Run the same command to go on."
        )
    shards = check_positive(f"{folder / ROWS}: shards", _record(folder / ROWS).get("shards"))
    missing = [shard for shard in range(shards) if not _embeddings(folder, shard).exists()]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {shards} shards are missing ({str(missing[:8])[1:-1]}). Run the same command for "
            "every worker."
        )
    for shard in range(shards):
        yield np.load(_embeddings(folder, shard), mmap_mode="r", allow_pickle=False)


def _make_shard(folder: Path, shard: int, texts: list[str], encoder: Any, options: dict[str, Any]) -> None:
    digest = hashlib.sha256(
        "".join(f"{len(text)}:{text}" for text in texts).encode("utf-8", "surrogatepass")
    ).hexdigest()
    record = {"rows": len(texts), "sha256": digest}
    if _embeddings(folder, shard).exists():
        before = _record(folder / f"{shard:05d}.json")
        if before != record:
            raise DataError(
                f"{_embeddings(folder, shard)}: made of other texts ({before.get('rows')} rows, sha256 "
                f"{str(before.get('sha256'))[:8]}; now {len(texts)} rows, {digest[:8]}). Expected the corpus it was begun "
                "with; choose another folder for another corpus."
            )
        return
    for stale in folder.glob(f".{shard:05d}.*"):  # a killed worker's
        stale.unlink(missing_ok=True)
    embeddings = encoder.encode(texts, **options)
    _write(folder / f"{shard:05d}.json", lambda file: file.write(json.dumps(record).encode()))
    _write(_embeddings(folder, shard), lambda file: np.save(file, embeddings, allow_pickle=False))


def _embeddings(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.npy"


def _record(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except ModelFolderError as error:
        raise DataError(str(error)) from None
    if not isinstance(record, dict):
        raise DataError(f"{path}: holds {type(record).__name__}. Expected the object that `minisbert encode` writes.")
    return record


def _same_settings(folder: Path, encoder: Any, rows_per_shard: int, options: dict[str, Any]) -> None:
    shown = {name: value for name, value in options.items() if name != "show_progress_bar"}
    if getattr(encoder, "packing", False):  # other last bits than without
        shown["packing"] = True
    settings = {"fingerprint": fingerprint(encoder), "rows_per_shard": rows_per_shard, "options": shown}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(folder, error) from None
    if not (folder / SETTINGS).exists():
        others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        if others and not (folder / SETTINGS).exists():  # another worker may have come between
            raise DataError(
                f"{folder}: holds {', '.join(sorted(others)[:3])} and no {SETTINGS}. Expected an empty folder."
            )
        _write(folder / SETTINGS, lambda file: file.write(json.dumps(settings, indent=1).encode()))
    before = _record(folder / SETTINGS)
    if before != json.loads(json.dumps(settings)):
        differing = [name for name in settings if before.get(name) != settings[name]]
        raise DataError(
            f"{folder / SETTINGS}: begun with another {' and '.join(differing)}. Expected the model and options it was "
            "begun with; choose another folder for others."
        )


def _write(path: Path, write: Callable[[Any], Any]) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as file:
        write(file)
