"""Each open, write, flush and rename of every saver fails once: the last good state stands, and the error says where.

A saver is called on a folder that holds its former state while the n-th call to the disk fails (disk.py), for n = 1, 2, ...
until one save gets through. After each failure the previous files are intact, nothing is next to them, and the error is
one of minisbert's, with the path and the bytes.
"""

import errno
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disk import Disk, largest_file, leave, small_disk, snapshot

from minisbert import CrossEncoder, SentenceEncoder, atomic_write
from minisbert.commands.convert import convert
from minisbert.commands.outputs import write_embeddings
from minisbert.errors import WriteError
from minisbert.pretrained import load_pretrained, save_pretrained
from minisbert.search.index import Index

WEIGHTS = Path(__file__).parents[2] / "weights"
BYTES = re.compile(r"\d+ bytes were written, \d+ are free")
# A save has a few dozen calls; a longer loop has lost count.
MOST_CALLS = 200


@cache
def model(name: str) -> Any:
    return load_pretrained(WEIGHTS / name)


def save_model(place: Path, state: int) -> None:
    pretrained = model("tiny-bert")
    folder = replace(pretrained.folder, prompts={"query": f"state {state}: "})
    save_pretrained(replace(pretrained, folder=folder), place)


def load_model(place: Path) -> Any:
    return load_pretrained(place).folder.prompts["query"][6:7]


@cache
def pair_model() -> CrossEncoder:
    return CrossEncoder.from_encoder(SentenceEncoder.load(WEIGHTS / "tiny-mpnet"), 1, seed=0)


def save_pair_model(place: Path, state: int) -> None:
    pairs = pair_model()
    pairs.max_seq_length = 10 + state
    pairs.save(place)


def load_pair_model(place: Path) -> Any:
    return str(CrossEncoder(place).max_seq_length - 10)


@cache
def index(state: int, precision: str, backend: str) -> Index:
    made = Index(precision=precision, backend=backend)
    rows_MD = np.random.default_rng(state).normal(size=(40, 16)).astype(np.float32)
    made.add(rows_MD, ids=[f"{state} {i}" for i in range(40)])
    return made


def save_index(place: Path, state: int) -> None:
    index(state, "int8", "exact").save(place)


def load_index(place: Path) -> Any:
    return Index.load(place).ids[0][0]


def save_faiss(place: Path, state: int) -> None:
    index(state, "float32", "faiss").save(place)


def save_usearch(place: Path, state: int) -> None:
    index(state, "float32", "usearch").save(place)


def load_graph(place: Path) -> Any:
    return Index.load(place, trust_graph=True).ids[0][0]


def embeddings(state: int) -> list[tuple[list[str], np.ndarray]]:
    return [([f"{state} text {i}"] * 50, np.full((50, 4), state, np.float32)) for i in range(2)]


def save_npy(place: Path, state: int) -> None:
    write_embeddings(str(place), embeddings(state), 100)


def load_npy(place: Path) -> Any:
    return str(int(np.load(place)[99, 3]))


def load_jsonl(place: Path) -> Any:
    lines = place.read_text().splitlines()
    assert len(lines) == 100
    return lines[0].split('"')[3][0]


def load_parquet(place: Path) -> Any:
    from pyarrow import parquet

    table = parquet.read_table(place)
    return str(int(table["embedding"][-1].as_py()[3]))


def save_export(place: Path, state: int) -> None:
    index(state, "float32", "exact").export_parquet(place)


def load_export(place: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(place)["id"][0].as_py()[0]


def save_converted(place: Path, state: int) -> None:
    source = WEIGHTS / ("tiny-albert" if state == 1 else "tiny-distilbert")
    convert(str(source), out=str(place))


def load_converted(place: Path) -> Any:
    return "1" if load_pretrained(place).model_config.model_type == "albert" else "2"


@dataclass(frozen=True)
class Saver:
    """A way to save: state 1 or 2 at a place, and what the place holds."""

    save: Callable[[Path, int], None]
    load: Callable[[Path], Any]
    place: str = "place"
    needs: str = ""


SAVERS = {
    "model": Saver(save_model, load_model),
    "cross-encoder": Saver(save_pair_model, load_pair_model),
    "index": Saver(save_index, load_index),
    "faiss index": Saver(save_faiss, load_graph, needs="faiss"),
    "usearch index": Saver(save_usearch, load_graph, needs="usearch"),
    "encoded .npy": Saver(save_npy, load_npy, "e.npy"),
    "encoded .jsonl": Saver(save_npy, load_jsonl, "e.jsonl"),
    "encoded .parquet": Saver(save_npy, load_parquet, "e.parquet", needs="pyarrow"),
    "exported index": Saver(save_export, load_export, "i.parquet", needs="pyarrow"),
    "convert": Saver(save_converted, load_converted),
}


@pytest.fixture(params=SAVERS)
def saver(request):
    found = SAVERS[request.param]
    if found.needs:
        pytest.importorskip(found.needs, reason=f"pip install -e '.[{found.needs}]'")
    return found


def stands(saver: Saver, home: Path, before: dict[str, bytes], error: WriteError) -> None:
    """What must hold after a failure."""
    assert snapshot(home) == before, "the former state, and nothing else"
    assert str(home / saver.place) in str(error)
    assert BYTES.search(str(error)), error


def home_with(saver: Saver, folder: Path, former: bool) -> tuple[Path, dict[str, bytes]]:
    """A folder, perhaps with state 1 in it, and all that is in it."""
    folder.mkdir()
    if former:
        saver.save(folder / saver.place, 1)
        assert saver.load(folder / saver.place) == "1"
    return folder, snapshot(folder)


@pytest.mark.parametrize("former", [True, False], ids=["replacing", "new"])
def test_every_call_fails_once(saver, former, tmp_path):
    home, before = home_with(saver, tmp_path / "home", former)
    for n in range(1, MOST_CALLS):
        with Disk(home, n) as disk:
            try:
                saver.save(home / saver.place, 2)
            except WriteError as error:
                assert error.errno == errno.ENOSPC or disk.failed.startswith("save")
                stands(saver, home, before, error)
                continue
        assert saver.load(home / saver.place) == "2"
        assert [path.name for path in home.iterdir()] == [saver.place]
        if disk.failed is None:
            break
        # What may fail without harm: the last flush, after the rename, and the swap, which two renames replace.
        assert disk.failed in ("fsync home", f"exchange {saver.place}")
        restore(home, before)
    else:
        pytest.fail("no save got through")
    assert n > 2, disk.calls


def test_every_call_fails_once_where_names_cannot_be_swapped(tmp_path, monkeypatch):
    """Two renames then take the place of one swap, and the second may fail too."""
    monkeypatch.setattr(atomic_write, "_exchanged", lambda a, b: False)
    test_every_call_fails_once(SAVERS["index"], True, tmp_path)


def restore(home: Path, before: dict[str, bytes]) -> None:
    """The folder as it was."""
    shutil.rmtree(home)
    home.mkdir()
    for name, content in before.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(content)


def test_no_file_may_grow(saver, tmp_path):
    """The kernel's own bound on the size of a file, rising until a save gets through: Rust and C++ meet it too."""
    home, before = home_with(saver, tmp_path / "home", former=True)
    size, failures = 0, 0
    while size < 1_000_000:
        with largest_file(size):
            try:
                saver.save(home / saver.place, 2)
                break
            except WriteError as error:
                failure = error
        stands(saver, home, before, failure)
        size, failures = size * 3 + 50, failures + 1
    assert failures > 2
    assert saver.load(home / saver.place) == "2"


def test_a_full_disk(saver, tmp_path):
    """A real file system with too little room, then a little more, until a save gets through."""
    with small_disk(tmp_path / "disk") as disk:
        home, before = home_with(saver, disk / "home", former=True)
        room, failures = 0, 0
        while room < 600_000:
            leave(disk, room)
            try:
                saver.save(home / saver.place, 2)
                break
            except WriteError as error:
                stands(saver, home, before, error)
            room, failures = room * 2 + 4096, failures + 1
        assert failures > 0
        assert saver.load(home / saver.place) == "2"
