"""Embeddings of a corpus larger than memory: a resumable folder of shards, each of which is complete or absent.

    encode_shards(lines, encoder, Path("wiki"), rows_per_shard=65_536)      # rerun it: only missing shards are computed
    for shard_MD in read_shards(Path("wiki")): ...                          # memory-mapped

    shards.json, rows.json    the model's fingerprint, the options, rows per shard; the number of rows, written at the end
    00000.json                rows and sha256 of the texts of shard 0, and the sha256 of its file
    00000.npy                 their embeddings, float32 [rows, dimension] (or another precision); written last

With n workers (hosts, processes, Ray actors) each computes every n-th shard; they share nothing but the folder. Each JSON file
has its own checksum, and a shard's sha256 is compared when it is found and when it is read.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.arguments import check_path, check_positive, check_stream, check_text, count_from_zero
from minisbert.atomic_write import not_written, whole_file
from minisbert.checkpoint.json_file import read_json
from minisbert.checksums import CHECKSUM, digest, is_whole, sealed
from minisbert.errors import DataError, InputError, ModelFolderError, short_repr
from minisbert.search.fingerprint import fingerprint
from minisbert.search.vectors import NpyFile

logger = logging.getLogger("minisbert")
SETTINGS, ROWS = "shards.json", "rows.json"
ROWS_PER_SHARD = 65_536


def encode_shards(
    texts: Iterable[str],
    encoder: Any,
    folder: str | Path,
    *,
    rows_per_shard: int = ROWS_PER_SHARD,
    worker: int = 0,
    workers: int = 1,
    **options: Any,
) -> int:
    """Embed a stream of texts into a folder of shards; existing shards are not computed again, unless they are damaged.

    Args:
        texts: the corpus, in the same order each time; one shard of it is in memory.
        folder: created if it is missing.
        worker, workers: the number of this worker and how many there are; worker w makes the shards w, w + workers, ...
        options: for `encode`, without those that need the whole corpus (int8, uint8, `out`) or return something other than
            sentence embeddings.

    Returns:
        the number of rows of the whole corpus.

    Raises:
        DataError: the folder holds embeddings of another model or corpus.
        WriteError: a file cannot be written; complete shards stay.
    """
    rows_per_shard = check_positive("rows_per_shard", rows_per_shard)
    if not count_from_zero("worker", worker) < check_positive("workers", workers):
        raise InputError(f"worker is {worker} of {workers}. Expected the number of this worker, counted from 0.")
    stream, folder = check_stream("texts", texts), check_path(folder, "folder")
    if options.get("precision") in ("int8", "uint8"):
        raise InputError(
            f"precision is {options['precision']!r}, which needs the ranges of the whole corpus. Expected 'float32', "
            "'binary' or 'ubinary' for shards; an Index quantizes them later."
        )
    if options.get("out") is not None or options.get("output_value", "sentence_embedding") != "sentence_embedding":
        raise InputError("out, and output_value other than 'sentence_embedding', do not fit into shards. Use encode.")
    new = _same_settings(folder, encoder, rows_per_shard, options)
    rows, shard = 0, 0
    while part := list(islice(stream, rows_per_shard)):
        for row, text in enumerate(part, rows):
            check_text(f"texts[{row}]", text)
        if shard % workers == worker:
            try:
                _make_shard(_file(folder, shard), part, encoder, options)
            except InputError:
                if new and not any(folder.glob("*.npy")):  # invalid options do not claim the folder
                    (folder / SETTINGS).unlink()
                raise
        rows, shard = rows + len(part), shard + 1
    _write_json(folder / ROWS, {"rows": rows, "shards": shard})
    return rows


def read_shards(folder: str | Path) -> Iterator[np.ndarray]:
    """Yield the shards in order, each memory-mapped from its file; none for an empty corpus.

    Raises:
        DataError: the folder is incomplete, or a shard is damaged; the error names what is missing or damaged.
    """
    folder = check_path(folder, "folder", "the folder of the shards")
    if not (folder / ROWS).exists():
        raise DataError(
            f"{folder}: no {ROWS}, so the end of the corpus was not reached. Rerun the same command to resume."
        )
    shards = _read_json(folder / ROWS).get("shards")
    if type(shards) is not int or shards < 0:
        raise DataError(
            f"{folder / ROWS}: shards is {short_repr(shards)}. Expected their number; rerun the same command."
        )
    files = [_file(folder, shard) for shard in range(shards)]
    missing = [shard for shard, file in enumerate(files) if not file.exists()]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {shards} shards are missing ({str(missing[:8])[1:-1]}). Rerun the same command for "
            "every worker."
        )
    for file in files:
        if damage := _damage(file):
            raise DataError(f"{damage}. Rerun the same command, which computes this shard again.")
        yield np.load(file, mmap_mode="r", allow_pickle=False)


def _damage(file: Path) -> str | None:
    """What is wrong with a shard's two files, or None. One written by an earlier version has no sha256 to compare."""
    path = file.with_suffix(".json")
    try:
        record = _read_json(path)
        expected = record.get("embeddings_sha256")
        if expected is not None and digest(file) != expected:
            return f"{file}: damaged, its sha256 is not the one that was written"
        rows = NpyFile(file).shape[0]  # which checks the length of the file
    except (DataError, OSError) as error:
        return str(error)
    return None if rows == record.get("rows") else f"{file}: has {rows} rows, {path.name} says {record.get('rows')}"


def _make_shard(file: Path, texts: list[str], encoder: Any, options: dict[str, Any]) -> None:
    everything = "".join(f"{len(text)}:{text}" for text in texts)
    texts_sha256 = hashlib.sha256(everything.encode("utf-8", "surrogatepass")).hexdigest()
    path = file.with_suffix(".json")
    if file.exists():
        if (damage := _damage(file)) is None:
            before = _read_json(path)
            if (before.get("rows"), before.get("sha256")) == (len(texts), texts_sha256):
                return
            raise DataError(
                f"{file}: has other texts ({before.get('rows')} rows, sha256 {str(before.get('sha256'))[:8]}; now "
                f"{len(texts)} rows, {texts_sha256[:8]}). Expected the same corpus as before; choose another folder for "
                "another corpus."
            )
        logger.warning(f"{damage}. The shard is computed again.")
    embeddings = encoder.encode(texts, **options)
    with whole_file(file) as temporary:
        with temporary.open("wb") as stream:
            np.save(stream, embeddings, allow_pickle=False)
        record = {"rows": len(texts), "sha256": texts_sha256, "embeddings_sha256": digest(temporary)}
        _write_json(path, record)


def _same_settings(folder: Path, encoder: Any, rows_per_shard: int, options: dict[str, Any]) -> bool:
    """Write the settings, or compare them with those of the folder; whether they are new."""
    options = {name: value for name, value in options.items() if name != "show_progress_bar"}
    if getattr(encoder, "packing", False):  # changes the last bits
        options["packing"] = True
    options = {name: _json_value(name, value) for name, value in options.items()}
    settings = {"fingerprint": fingerprint(encoder), "rows_per_shard": rows_per_shard, "options": options}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(folder, error) from None
    new = not (folder / SETTINGS).exists()
    if new:
        others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        if others and not (folder / SETTINGS).exists():  # another worker may have written it meanwhile
            raise DataError(
                f"{folder}: holds {', '.join(sorted(others)[:3])} and no {SETTINGS}. Expected an empty folder."
            )
        _write_json(folder / SETTINGS, settings, indent=1)
    before = _read_json(folder / SETTINGS)
    before.pop(CHECKSUM, None)
    if before != settings:
        differing = [name for name in settings if before.get(name) != settings[name]]
        raise DataError(
            f"{folder / SETTINGS}: started with another {' and '.join(differing)}. Expected the same model and options "
            "as before; choose another folder for others."
        )
    return new


def _json_value(name: str, value: Any) -> Any:
    """The value of an option as JSON gives it back."""
    try:
        return json.loads(json.dumps(value.item() if isinstance(value, np.generic) else value))
    except (TypeError, ValueError):
        raise InputError(f"{name} is {short_repr(value)}. Expected a text, a number, True, False or None.") from None


def _file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.npy"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except ModelFolderError as error:
        raise DataError(str(error)) from None
    if not isinstance(record, dict):
        raise DataError(f"{path}: holds {type(record).__name__}. Expected the object that `minisbert encode` writes.")
    if not is_whole(record):
        raise DataError(
            f"{path}: damaged, its values are not those that were written. Delete it and rerun the command."
        )
    return record


def _write_json(path: Path, record: dict[str, Any], indent: int | None = None) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(sealed(record), indent=indent), encoding="utf-8")
