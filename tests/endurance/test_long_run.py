"""A short form of long_run.py: many threads give the bits of one, memory and compiled programs are bounded."""

import random

import pytest
from long_run import TINY, growth, memory, programs, some_calls, threads_agree

from minisbert import SentenceEncoder

pytestmark = pytest.mark.usefixtures("all_shapes")


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder.load(TINY / "tiny-bert")


def test_threads_give_the_bits_of_one(encoder):
    # A fresh encoder: the threads meet while everything is still to be compiled.
    assert threads_agree(encoder, threads=8, calls=20) == 0


def test_each_shape_is_compiled_once(encoder):
    for texts in some_calls(random.Random(3), 30):
        encoder.encode(texts, on_truncate="ignore")
    compiled, allowed = programs(encoder)
    assert 3 < compiled <= allowed


@pytest.mark.skipif(not memory(), reason="the system does not tell a process's memory")
def test_memory_is_flat(encoder):
    growth(encoder, 100)
    assert growth(encoder, 200) < 16_000_000
