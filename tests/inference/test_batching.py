"""Batches: few shapes for any lengths, every sentence once; the shape of a full batch follows from its sentences alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from minisbert import SentenceEncoder
from minisbert.inference.batching import ACCELERATOR, TPU_BFLOAT16, ShapeTable, batches
from minisbert.inference.compiled import Forward

TINY = Path(__file__).parents[2] / "weights" / "tiny-bert"
MOST_SHAPES = 16


@pytest.mark.parametrize("shapes", [ShapeTable(), ACCELERATOR, TPU_BFLOAT16])
def test_sixteen_shapes_up_to_512(shapes):
    every = shapes.all(512)
    assert len(every) <= MOST_SHAPES
    for tokens in range(1, 513):
        [alone] = batches([(0, [0] * tokens)], shapes, padding_id=0, max_positions=512)
        assert alone.token_ids_BL.shape in every  # what `warm_up` compiles


@given(st.lists(st.integers(1, 512), max_size=300), st.sampled_from([None, 1, 7]))
@settings(max_examples=60, deadline=None)
def test_every_sentence_once_in_a_shape_of_the_table(lengths, batch_size):
    shapes = ShapeTable()
    ids = [[row] * length for row, length in enumerate(lengths)]
    seen, asked = [], []
    stream = (asked.append(row) or row_ids for row, row_ids in enumerate(ids))
    for batch in batches(enumerate(stream), shapes, padding_id=-1, max_positions=512, batch_size=batch_size):
        B, L = batch.token_ids_BL.shape
        if batch_size is None:
            assert (B, L) in shapes.all(512)
        for row, row_ids, length in zip(batch.rows, batch.token_ids_BL, batch.lengths_B, strict=False):
            assert length == lengths[row] <= L
            assert (row_ids[:length] == row).all() and (row_ids[length:] == -1).all()
            own = shapes.length(lengths[row], 512)
            assert own == L or B == 1 or (own < L and len(asked) == len(ids)), "only the last ones in longer rows"
        assert (batch.lengths_B[len(batch.rows) :] == 0).all()
        seen += batch.rows
    assert sorted(seen) == list(range(len(lengths)))


def test_a_batch_size_of_a_small_numpy_type():
    rows = [[0] * (5 + row % 40) for row in range(500)]
    options = {"shapes": ShapeTable(), "padding_id": 0, "max_positions": 512}
    small, usual = (list(batches(enumerate(rows), batch_size=size, **options)) for size in (np.uint8(200), 200))
    assert [batch.rows for batch in small] == [batch.rows for batch in usual]


def test_it_streams():
    # A full batch leaves before the next sentence is asked for.
    asked = []

    def sentences():
        for row in range(1000):
            asked.append(row)
            yield [0] * 10

    first = next(batches(enumerate(sentences()), ShapeTable(token_budget=120), padding_id=0, max_positions=512))
    assert len(first.rows) == len(asked) == 10


@pytest.mark.parametrize(
    "lengths, expected",
    [
        ([10] * 3, [(1, 16)] * 3),
        ([10] * 40, [(42, 12)]),
        ([10] * 40 + [60], [(1, 64), (42, 12)]),
        ([10] * 12, [(1, 16)] * 12),
        ([9, 14, 18, 23, 30] * 6, [*[(1, 32)] * 6, (21, 24), *[(1, 16)] * 6]),
        ([9, 14, 18, 23] * 20, [(21, 24), (25, 20), (32, 16), (42, 12)]),
        ([500, 200, 100, 10], [(1, 512), (1, 256), (1, 128), (1, 16)]),
    ],
)
def test_the_remainder_goes_the_cheapest_way(lengths, expected):
    ids = [[1] * length for length in lengths]
    found = [
        batch.token_ids_BL.shape for batch in batches(enumerate(ids), ShapeTable(), padding_id=0, max_positions=512)
    ]
    assert found == expected


def test_capacity_is_the_longest_row():
    shapes = ShapeTable()
    assert all(length <= 40 for _, length in shapes.all(40))
    [batch] = batches([(0, [0] * 40)], shapes, padding_id=0, max_positions=40)
    assert batch.token_ids_BL.shape == (1, 40)


def test_the_log_lists_every_compiled_shape_once():
    encoder = SentenceEncoder.load(TINY)
    assert encoder.compilations == []
    words = "a man walk " * 30
    random = np.random.default_rng(0)
    texts = [" ".join(words.split()[: random.integers(1, 70)]) for _ in range(400)]
    encoder.encode(texts, on_truncate="ignore")
    first = list(encoder.compilations)
    assert 0 < len(first) <= MOST_SHAPES
    assert len({(line.rows, line.length, line.output) for line in first}) == len(first)
    assert all(line.seconds > 0 for line in first)
    encoder.encode(texts, on_truncate="ignore")
    assert encoder.compilations == first


def test_threads_that_need_a_new_shape_compile_it_once():
    traced, threads = [], 4
    start = Barrier(threads)

    def total(model, x_BD):
        traced.append(x_BD.shape)
        return model(x_BD).sum(axis=1)

    definition, params = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    forward = Forward(definition, "float32", {"total": total})

    def call(_):
        start.wait()
        return forward(params, "total", np.ones((4, 3), np.float32)).shape

    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(call, range(threads))) == [(4,)] * threads
    assert traced == [(4, 3)] and len(forward.compilations) == 1


def test_warm_up_leaves_nothing_to_compile():
    encoder = SentenceEncoder.load(TINY)
    encoder.warm_up()
    compiled = len(encoder.compilations)
    assert (
        compiled - 1 == len(encoder.shapes.all(encoder.pretrained.max_positions)) <= MOST_SHAPES
    )  # and that of packed rows
    encoder.encode(["a man", "walk " * 50] + ["a dog " * n for n in range(1, 30)], on_truncate="ignore")
    encoder.encode(["a dog"] * encoder.shapes.pack_from)
    assert len(encoder.compilations) == compiled
