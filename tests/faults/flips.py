"""Flip one random bit at a time in the files that minisbert wrote, and read them: each flip is noticed, or changes nothing.

    python tests/faults/flips.py [--count 1000]        a few minutes

The kinds of files take turns. A file of the kind is chosen, then a bit of it. A flip is noticed if an error of minisbert or a
warning names a file or folder of the copy; it is harmless if what is read equals, byte for byte, what the undamaged files give.
Anything else is silent damage, and the command fails. A damaged checkpoint or shard must also be made good: the older
checkpoint restored, the shard computed again.
"""

import argparse
import logging
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from minisbert import SentenceEncoder
from minisbert.checksums import digest
from minisbert.corpus.shards import encode_shards, read_shards
from minisbert.download import catalog, staging
from minisbert.download.catalog import FileRecord, Model
from minisbert.download.locate import locate
from minisbert.errors import MinisbertError
from minisbert.export.runtime import ExportedEncoder
from minisbert.export.stablehlo import export_stablehlo
from minisbert.search.index import Index
from minisbert.training.checkpoints import Checkpoints
from minisbert.training.siamese import TrainState, initial_state

TINY = Path(__file__).parents[2] / "weights" / "tiny-bert"
TEXTS = [f"sentence {i} of {'many ' * (i % 5)}" for i in range(25)]


@dataclass(frozen=True)
class Kind:
    """Files that minisbert writes.

    Args:
        make: writes them into a folder.
        read: what a user of the folder gets, as values that can be compared; called on undamaged files too.
        repaired: what `read` may return instead, after a warning.
        keep_time: flip as a failing disk does, without a new time of change.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    repaired: Any = None
    keep_time: bool = False


# --- checkpoints ---------------------------------------------------------------------------------------------------


def state(step: int) -> TrainState:
    """A small state with its step in its values."""
    rng = np.random.default_rng(step)
    params = {"model": {"kernel": rng.normal(size=(50, 40)).astype(np.float32), "bias": np.arange(7.0)}, "head": {}}
    return initial_state(params, optax.adam(1e-3), 0)._replace(step=np.int32(step))


def values_of(found: TrainState) -> list[bytes]:
    """Every array of a state as bytes."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found._replace(key=jax.random.key_data(found.key)))]


def make_checkpoints(folder: Path) -> None:
    """Those of steps 3 and 6."""
    for step in (3, 6):
        checkpoints = Checkpoints(folder, {"data": "none"})
        checkpoints.save(state(step))
        checkpoints.close()


def read_checkpoint(folder: Path) -> list[bytes]:
    """The state that a run resumes from."""
    checkpoints = Checkpoints(folder, {"data": "none"})
    try:
        return values_of(checkpoints.restore(state(0)))
    finally:
        checkpoints.close()


# --- shards and indexes --------------------------------------------------------------------------------------------


@cache
def encoder() -> SentenceEncoder:
    """The model of all that is embedded here."""
    return SentenceEncoder(TINY)


def make_shards(folder: Path) -> None:
    """Three of them; on damaged ones, the same command again."""
    encode_shards(TEXTS, encoder(), folder, rows_per_shard=10)


def read_all_shards(folder: Path) -> list[bytes]:
    """What `read_shards` gives."""
    return [np.array(shard).tobytes() for shard in read_shards(folder)]


def rerun_and_read_shards(folder: Path) -> list[bytes]:
    """The same after a rerun, which computes damaged shards again."""
    make_shards(folder)
    return read_all_shards(folder)


def make_index(precision: str) -> Callable[[Path], None]:
    """An index of texts."""

    def make(folder: Path) -> None:
        index = Index(encoder(), precision=precision)
        index.add(TEXTS, ids=[f"id {i}" for i in range(len(TEXTS))])
        index.save(folder)

    return make


def read_index(folder: Path) -> list[Any]:
    """Its settings and all that a search of every row finds."""
    index = Index.load(folder)
    rows = encoder().encode(TEXTS[:5])
    return [index.fingerprint, index.similarity, index.keep_texts, index.precision, index.search(rows, 25)]


# --- downloads -----------------------------------------------------------------------------------------------------


def make_cache(folder: Path) -> None:
    """The cache of downloaded models with one model of the catalog in it."""
    files = {path.relative_to(TINY).as_posix(): path for path in TINY.rglob("*") if path.is_file()}
    records = {name: FileRecord(path.stat().st_size, digest(path)) for name, path in files.items()}
    model = Model("tiny", "org/tiny", "a" * 40, "mit", records)
    catalog._BY_NAME["tiny"] = model
    home = folder / "models" / "org--tiny" / model.revision
    home.parent.mkdir(parents=True)
    shutil.copytree(TINY, home.with_name(".partial"))
    staging.finish(home.with_name(".partial"), home, model, staging.Delivery(records, "hub", "catalog", model.revision))


def read_cache(folder: Path, verify: bool = False) -> dict[str, bytes]:
    """All files of the model that `locate` finds."""
    home = locate("tiny", cache=folder, offline=True, verify=verify)
    return {name: (home / name).read_bytes() for name in catalog._BY_NAME["tiny"].files}


# --- exported models -----------------------------------------------------------------------------------------------


def make_exported(folder: Path) -> None:
    """A model for the CPU."""
    export_stablehlo(encoder(), folder, platforms=["cpu"])


def read_exported(folder: Path) -> list[Any]:
    """Its embeddings and settings."""
    exported = ExportedEncoder.load(folder)
    return [exported.encode(TEXTS[:4]).tobytes(), exported.settings["similarity_fn_name"], exported.prompts]


KINDS: dict[str, Kind] = {
    "checkpoint": Kind(make_checkpoints, read_checkpoint, values_of(state(3))),
    "shards": Kind(make_shards, read_all_shards),
    "shards, rerun": Kind(make_shards, rerun_and_read_shards),
    "index": Kind(make_index("float32"), read_index),
    "int8 index": Kind(make_index("int8"), read_index),
    "cached weights": Kind(make_cache, read_cache),
    "cached weights, verify": Kind(make_cache, partial(read_cache, verify=True), keep_time=True),
    "exported folder": Kind(make_exported, read_exported),
}


# --- flips ---------------------------------------------------------------------------------------------------------


def flip(file: Path, bit: int, keep_time: bool) -> None:
    """Change one bit of a file in place."""
    status, content = file.stat(), bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    if keep_time:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def outcome(kind: Kind, folder: Path, expected: Any) -> tuple[str, str]:
    """'noticed', 'repaired', 'harmless', or 'silent' with what happened instead."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("minisbert")
    logger.addHandler(handler)
    try:
        found = kind.read(folder)
    except MinisbertError as error:
        return ("noticed", "") if str(folder) in str(error) else ("silent", f"an error that names no file: {error}")
    except Exception as error:
        return "silent", f"{type(error).__name__}: {error!s:.500}"
    finally:
        logger.removeHandler(handler)
    warned = any(str(folder) in message for message in said)
    if found == expected:
        return ("repaired" if warned else "harmless"), ""
    if warned and kind.repaired is not None and found == kind.repaired:
        return "repaired", ""
    return "silent", f"other values; said: {said}"


def run(count: int, seed: int = 0, kinds: dict[str, Kind] = KINDS) -> tuple[Counter[tuple[str, str]], list[str]]:
    """So many flips, the kinds in turn; returns (kind, outcome) -> count, and a line for each silent one."""
    rng, counts, silent = random.Random(seed), Counter[tuple[str, str]](), []
    with tempfile.TemporaryDirectory() as scratch:
        expected = {}
        for name, kind in kinds.items():
            kind.make(Path(scratch, name))
            copy = shutil.copytree(Path(scratch, name), Path(scratch, "copy"))
            expected[name] = kind.read(copy)
            shutil.rmtree(copy)
        for i in range(count):
            name = list(kinds)[i % len(kinds)]
            copy = shutil.copytree(Path(scratch, name), Path(scratch, "copy"))
            files = sorted(path for path in copy.rglob("*") if path.is_file() and path.stat().st_size)
            file = rng.choice(files)
            bit = rng.randrange(8 * file.stat().st_size)
            flip(file, bit, kinds[name].keep_time)
            found, why = outcome(kinds[name], copy, expected[name])
            counts[name, found] += 1
            if found == "silent":
                silent.append(f"{name}: bit {bit} of {file.relative_to(copy)}: {why}")
            shutil.rmtree(copy)
    return counts, silent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=sorted(KINDS), help="only this one")
    options = parser.parse_args()
    kinds = KINDS if options.kind is None else {options.kind: KINDS[options.kind]}
    counts, silent = run(options.count, options.seed, kinds)
    for name in kinds:
        print(f"{name}: " + ", ".join(f"{n} {found}" for (kind, found), n in sorted(counts.items()) if kind == name))
    print("\n".join([*silent, f"{options.count} flips, {len(silent)} silent"]))
    return bool(silent)


if __name__ == "__main__":
    sys.exit(main())
