"""Batches: few shapes whatever the lengths, every sentence once, its shape from its own length."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisbert import SentenceEncoder
from minisbert.text.batching import ACCELERATOR, ShapeTable, batches

TINY = Path(__file__).parents[2] / "weights" / "tiny-bert"
MOST_SHAPES = 16


@pytest.mark.parametrize("shapes", [ShapeTable(), ACCELERATOR])
def test_sixteen_shapes_up_to_512(shapes):
    assert len(shapes.all(512)) <= MOST_SHAPES


@given(st.lists(st.integers(1, 512), max_size=300), st.sampled_from([None, 1, 7]))
@settings(max_examples=60, deadline=None)
def test_every_sentence_once_in_a_shape_of_the_table(lengths, batch_size):
    shapes = ShapeTable()
    ids = [[row] * length for row, length in enumerate(lengths)]
    seen = []
    for batch in batches(ids, shapes, padding_id=-1, capacity=512, batch_size=batch_size):
        B, L = batch.token_ids_BL.shape
        if batch_size is None:
            assert (B, L) in shapes.all(512)
        for row, row_ids, length in zip(batch.rows, batch.token_ids_BL, batch.lengths_B, strict=False):
            assert length == lengths[row] <= L
            assert (row_ids[:length] == row).all() and (row_ids[length:] == -1).all()
            if B > 1:
                assert shapes.length(lengths[row], 512) == L
        assert (batch.lengths_B[len(batch.rows) :] == 0).all()
        seen += batch.rows
    assert sorted(seen) == list(range(len(lengths)))


def test_it_streams():
    # A full batch leaves before the next sentence is asked for.
    asked = []

    def sentences():
        for row in range(1000):
            asked.append(row)
            yield [0] * 10

    first = next(batches(sentences(), ShapeTable(token_budget=120), padding_id=0, capacity=512))
    assert len(first.rows) == len(asked) == 10


def test_capacity_is_the_longest_row():
    shapes = ShapeTable()
    assert all(length <= 40 for _, length in shapes.all(40))
    [batch] = batches([[0] * 40], shapes, padding_id=0, capacity=40)
    assert batch.token_ids_BL.shape == (1, 40)


def test_the_ledger_counts_what_was_compiled():
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


def test_warm_up_leaves_nothing_to_compile():
    encoder = SentenceEncoder.load(TINY)
    encoder.warm_up()
    compiled = len(encoder.compilations)
    assert compiled == len(encoder.shapes.all(encoder.pretrained.capacity)) <= MOST_SHAPES
    encoder.encode(["a man", "walk " * 50] + ["a dog " * n for n in range(1, 30)], on_truncate="ignore")
    assert len(encoder.compilations) == compiled
