"""The order of training: complete, reproducible, free to enter anywhere, and in little memory."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisbert import DataError, InputError
from minisbert.data.examples import open_examples
from minisbert.data.sampler import Batch, Batches, GivenBatches, shuffled, without_duplicates
from minisbert.data.values import text_hashes

PAIRS = "anchor\tpositive\n"


def write_pairs(path: Path, count: int, prefix: str = "") -> str:
    path.write_text("anchor\tpositive\n" + "".join(f"{prefix}a{i}\t{prefix}p{i}\n" for i in range(count)))
    return str(path)


@pytest.fixture
def pairs(tmp_path):
    return open_examples(write_pairs(tmp_path / "pairs.tsv", 23))


# --- order ---------------------------------------------------------------------------------------------------------


def ids(batches: Batches, start: int, stop: int) -> list[tuple[int, int]]:
    steps = [batches.batch_at(step) for step in range(start, stop)]
    return [(batch.dataset, row) for batch in steps for row in batch.rows_B.tolist()]


def test_every_row_once_an_epoch(pairs):
    batches = Batches([pairs], 4, seed=5)
    assert batches.steps() == 5 and batches.steps(3) == 15
    seen = [ids(batches, 5 * epoch, 5 * epoch + 5) for epoch in range(8)]
    for rows in seen:
        assert len(set(rows)) == 20
    assert len({tuple(rows) for rows in seen}) == 8, "each epoch has an order of its own"
    assert len({row for rows in seen for row in rows}) == 23, "what one epoch leaves out, others have"
    assert ids(Batches([pairs], 23, seed=5), 0, 1) != sorted(ids(Batches([pairs], 23, seed=5), 0, 1))


def test_batches_contain_the_rows_they_name(pairs):
    batch = Batches([pairs], 4).batch_at(2)
    assert batch.texts == [[f"a{i}" for i in batch.rows_B], [f"p{i}" for i in batch.rows_B]]
    assert (batch.dataset, batch.epoch, batch.labels) == (0, 0, None)


@pytest.mark.parametrize("options", [{}, {"mixing": "round_robin"}, {"no_duplicates": True}])
def test_random_access_is_sequential_access(tmp_path, pairs, options):
    other = open_examples(write_pairs(tmp_path / "other.tsv", 9, "b"))
    steps = range(25)
    forward = Batches([pairs, other], 2, seed=3, **options)
    sequential = [str(forward.batch_at(step)) for step in steps]
    jumping = Batches([pairs, other], 2, seed=3, **options)
    jumped = {step: str(jumping.batch_at(step)) for step in np.random.default_rng(0).permutation(25).tolist()}
    assert [jumped[step] for step in steps] == sequential
    assert [str(Batches([pairs, other], 2, seed=3, **options).batch_at(step)) for step in steps] == sequential


def test_the_order_is_the_same_in_every_process(tmp_path):
    path = write_pairs(tmp_path / "pairs.tsv", 50)
    code = (
        "import sys; from minisbert.data.examples import *; from minisbert.data.sampler import *; "
        f"b = Batches([open_examples({path!r})], 8, seed=2, no_duplicates=True); "
        "print([b.batch_at(s).rows_B.tolist() for s in range(9)], text_hashes(['a', 'é']).tolist())"
    )
    prints = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
        for env in (
            {"PYTHONPATH": p, "PYTHONHASHSEED": h} for p, h in [(":".join(sys.path), "1"), (":".join(sys.path), "2")]
        )
    }
    assert len(prints) == 1
    # And in every version: an order that changes silently would break the resume of a run that is under way.
    assert shuffled(8, (1, 2, 3)).tolist() == [1, 2, 4, 6, 5, 0, 7, 3]
    assert text_hashes(["a", "é"]).tolist() == [1431053258, 3259254165]


def test_each_seed_and_data_set_has_its_own_order():
    seen = {
        tuple(shuffled(20, (seed, dataset, epoch))) for seed in range(4) for dataset in range(4) for epoch in range(4)
    }
    assert len(seen) == 64


@pytest.mark.parametrize("count", [65_537, 262_145])
def test_orders_are_permutations_unrelated_to_the_file(count):
    """At these sizes grain's index_shuffle gives a row twice, and rows 256 apart correlate."""
    order = shuffled(count, (0, 0, 0))
    assert (np.sort(order) == np.arange(count)).all()
    for lag in (1, 2, 256):
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < 5 / np.sqrt(count)


@pytest.mark.parametrize("options", [{}, {"mixing": "round_robin"}, {"no_duplicates": True}])
def test_hosts_read_disjoint_parts_of_one_batch(tmp_path, pairs, options):
    other = open_examples(write_pairs(tmp_path / "other.tsv", 9, "b"))
    whole = Batches([pairs, other], 6, seed=1, **options)
    hosts = [Batches([pairs, other], 6, seed=1, host=host, hosts=3, **options) for host in range(3)]
    for step in range(12):
        pieces = [host.batch_at(step) for host in hosts]
        assert np.concatenate([piece.rows_B for piece in pieces]).tolist() == whole.batch_at(step).rows_B.tolist()
        assert len({piece.dataset for piece in pieces}) == 1 and all(len(piece.rows_B) == 2 for piece in pieces)


def test_proportional_mixing(tmp_path, pairs):
    """In an epoch each data set gives all its batches, in turns that are mixed."""
    other = open_examples(write_pairs(tmp_path / "other.tsv", 9, "b"))
    batches = Batches([pairs, other], 2, seed=1)
    assert batches.steps() == 11 + 4
    orders = [[batches.batch_at(step).dataset for step in range(15 * e, 15 * e + 15)] for e in range(3)]
    for epoch, order in enumerate(orders):
        assert (order.count(0), order.count(1)) == (11, 4)
        assert len(set(ids(batches, 15 * epoch, 15 * epoch + 15))) == 30
    assert orders[0] != orders[1]


def test_round_robin_mixing(tmp_path, pairs):
    """Turns alternate; each data set goes through epochs of its own."""
    other = open_examples(write_pairs(tmp_path / "other.tsv", 9, "b"))
    batches = Batches([pairs, other], 2, seed=1, mixing="round_robin")
    assert batches.steps() == 2 * 4 and batches.steps(2) == 2 * 8
    taken = [batches.batch_at(step) for step in range(22)]
    assert [batch.dataset for batch in taken] == [0, 1] * 11
    assert len({row for batch in taken[::2] for row in batch.rows_B.tolist()}) == 22
    assert [batch.epoch for batch in taken[1::2]] == [0] * 4 + [1] * 4 + [2] * 3
    assert len({row for batch in taken[1:8:2] for row in batch.rows_B.tolist()}) == 8


def assert_no_text_in_two_rows(columns: list) -> None:
    rows = [set(row) for row in zip(*columns, strict=True)]
    assert sum(map(len, rows)) == len(set().union(*rows))


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 40)), min_size=1, max_size=80),
    batch_size=st.integers(1, 6),
    seed=st.integers(0, 5),
)
def test_no_text_is_in_two_rows_of_a_batch(texts, batch_size, seed):
    texts_NS = np.array(texts)
    batches = without_duplicates(shuffled(len(texts), (seed,)), texts_NS, batch_size)
    rows = batches.ravel().tolist()
    assert len(set(rows)) == len(rows)
    for batch in batches:
        assert_no_text_in_two_rows(list(zip(*(texts[row] for row in batch), strict=True)))


def test_without_duplicates_drops_nothing_if_there_are_none():
    order = shuffled(1000, (1,))
    batches = without_duplicates(order, np.arange(3000).reshape(1000, 3), 32)
    assert batches.ravel().tolist() == order[: 31 * 32].tolist()


def test_no_duplicates_on_a_file(tmp_path):
    path = tmp_path / "nli.tsv"
    rows = [f"premise {i // 3}\thypothesis {i}" for i in range(300)]
    path.write_text(PAIRS + "\n".join(rows) + "\n")
    batches = Batches([open_examples(str(path))], 20, seed=1, no_duplicates=True)
    total = batches.steps(4)
    assert 4 * 14 <= total <= 4 * 15
    for step in range(total):
        assert_no_text_in_two_rows(batches.batch_at(step).texts)
    path.write_text(PAIRS + "same\tb\n" * 50)
    with pytest.raises(DataError, match="do not fill a batch of 20 without duplicate texts"):
        Batches([open_examples(str(path))], 20, no_duplicates=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 24}, "23 rows do not fill a batch of 24"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 6, "hosts": 4}, "divisible by the number of hosts"),
        ({"batch_size": 6, "hosts": 2, "host": 2}, "host 2 of 2"),
        ({"batch_size": 2, "seed": -1}, "seed is -1"),
        ({"batch_size": 2, "mixing": "random"}, "mixing is 'random'"),
    ],
)
def test_bad_options_are_refused(pairs, options, words):
    with pytest.raises((DataError, InputError), match=words):
        Batches([pairs], **options)
    with pytest.raises(InputError, match="datasets is empty"):
        Batches([], 2)
    with pytest.raises(InputError, match="step is -1"):
        Batches([pairs], 2).batch_at(-1)


# --- size ----------------------------------------------------------------------------------------------------------

MEASURE = """
import sys
from minisbert.data.examples import open_examples
from minisbert.data.sampler import Batches
if sys.argv[1].endswith("parquet"):
    import pyarrow.parquet
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
before = peak()
batches = Batches([open_examples(sys.argv[1])], 64, seed=1)
for step in range(300):
    batches.batch_at(step * 7)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("kind", ["tsv", "jsonl.gz", "parquet"])
def test_memory_is_bounded(tmp_path, kind):
    """A file of 30 MB (75,000 rows) is opened, checked and read in shuffled order in a few MB.

    Measured peaks above what the imports take: 7 MB (tsv), 8 (jsonl.gz), 42 (parquet). A tsv of 200 MB (500,000 rows)
    takes 22 MB: one MB at a time, and 16 bytes per row for its place and the order, twice while that is sorted.
    """
    path = tmp_path / f"pairs.{kind}"
    rows = ((f"anchor {i} " + "word " * 38, f"positive {i} " + "other " * 32) for i in range(75_000))
    if kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        a, b = zip(*rows, strict=True)
        parquet.write_table(pyarrow.table({"anchor": a, "positive": b}), path, row_group_size=10_000)
    elif kind == "tsv":
        path.write_text(PAIRS + "".join(f"{a}\t{b}\n" for a, b in rows))
        assert path.stat().st_size > 29e6
    else:
        lines = (json.dumps({"anchor": a, "positive": b}) + "\n" for a, b in rows)
        path.write_bytes(gzip.compress("".join(lines).encode(), 1))
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(kind, done.stdout)
    assert float(done.stdout) < (60 if kind == "parquet" else 15)


def test_a_given_batch_may_have_labels_in_a_list(pairs):
    texts, rows = [["a", "b"], ["c", "d"]], np.arange(2)
    batch = GivenBatches([pairs], lambda step: Batch(0, 0, rows, texts, [0.5, 1.0]), 2).batch_at(0)
    assert batch.labels.tolist() == [0.5, 1.0]
    with pytest.raises(InputError, match="2 rows with texts and labels of"):
        GivenBatches([pairs], lambda step: Batch(0, 0, rows, texts, [0.5]), 2).batch_at(0)
