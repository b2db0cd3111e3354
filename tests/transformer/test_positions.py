"""transformer/positions.py against the papers' formulas, a table written out by hand, and the NumPy twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minisbert.reference import encoder as reference
from minisbert.transformer.attention import RelativePositionBias
from minisbert.transformer.positions import (
    distances,
    offset_position_ids,
    relative_position_bucket,
    relative_shift,
    sinusoidal_positions,
)

# Half a float32 step at 1: the waves are computed in float64 and rounded once.
ROUNDED_ONCE = 2.0**-24

# 32 buckets up to distance 128 (T5, MPNet). Back: 0 .. 7 have a bucket each, then bucket 8 + j begins at 8 * 2^(j/2),
# that is at 8, 11.3, 16, 22.6, 32, 45.3, 64, 90.5. Forward: 16 more.
BUCKET_OF_DISTANCE_BACK = {
    **{0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7},
    **{8: 8, 11: 8, 12: 9, 15: 9, 16: 10, 22: 10, 23: 11, 31: 11},
    **{32: 12, 45: 12, 46: 13, 63: 13, 64: 14, 90: 14, 91: 15},
    **{127: 15, 128: 15, 129: 15, 255: 15, 256: 15, 511: 15, 599: 15},
}


@pytest.mark.parametrize("length, width", [(1, 2), (5, 6), (130, 32)])
def test_sinusoids_are_the_formula(length, width):
    found = sinusoidal_positions(length, width)
    assert found.dtype == np.float32 and found.shape == (length, width)
    np.testing.assert_allclose(found, reference.sinusoidal_positions(length, width), rtol=0, atol=ROUNDED_ONCE)


def test_sinusoids_turn_by_the_same_angle_per_step():
    # Vaswani 3.5: PE(p + k) is a linear function of PE(p), namely a rotation of each sine-cosine pair.
    wave = sinusoidal_positions(40, 8).reshape(40, 4, 2).astype(np.float64)
    pair = wave[..., 1] + 1j * wave[..., 0]
    np.testing.assert_allclose(pair[3:], pair[:-3] * pair[3], rtol=0, atol=4 * ROUNDED_ONCE)


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="width is 5"):
        sinusoidal_positions(3, 5)


def test_offset_position_ids():
    token_ids_BL = np.array([[0, 9, 8, 7, 2], [0, 9, 2, 1, 1], [1, 1, 1, 1, 1], [5, 5, 5, 5, 5]], np.int32)
    found = offset_position_ids(jnp.asarray(token_ids_BL), padding_id=1)
    assert found.tolist() == [[2, 3, 4, 5, 6], [2, 3, 4, 1, 1], [1, 1, 1, 1, 1], [2, 3, 4, 5, 6]]
    np.testing.assert_array_equal(found, reference.offset_position_ids(token_ids_BL, padding_id=1))


def test_buckets_at_their_edges_by_hand():
    for distance, bucket in BUCKET_OF_DISTANCE_BACK.items():
        assert relative_position_bucket(np.array(-distance)) == bucket, f"{distance} back"
        if distance:
            assert relative_position_bucket(np.array(distance)) == bucket + 16, f"{distance} forward"


@pytest.mark.parametrize("buckets, max_distance", [(32, 128), (64, 128), (32, 256), (16, 128), (6, 40), (4, 8)])
def test_buckets_are_the_twins_whole_numbers(buckets, max_distance):
    # float32 logarithms here, exact whole numbers there: no edge falls the other way.
    found = relative_position_bucket(distances(600), buckets, max_distance)
    assert found.dtype == np.int32
    expected = [reference.relative_position_bucket(distance, buckets, max_distance) for distance in range(-599, 601)]
    np.testing.assert_array_equal(found, expected)


def test_buckets_mirror():
    distance = np.arange(1, 200)
    forward, back = relative_position_bucket(distance), relative_position_bucket(-distance)
    np.testing.assert_array_equal(forward, back + 16)
    assert np.all(np.diff(back) >= 0)
    # Bucket 16 would be "0 forward": it stays empty, as in the models.
    assert {0, *forward, *back} == {*range(16), *range(17, 32)}


@pytest.mark.parametrize("length", [1, 2, 3, 64])
def test_the_shift_gives_each_query_and_key_its_distance(length):
    """The number for distance k - q, of the query's own row, in NumPy and JAX."""
    values_XQR = np.random.default_rng(length).normal(size=(3, length, 2 * length)).astype(np.float32)
    expected_XQK = np.empty((3, length, length), np.float32)
    for q in range(length):
        for k in range(length):
            expected_XQK[:, q, k] = values_XQR[:, q, list(distances(length)).index(k - q)]
    np.testing.assert_array_equal(relative_shift(values_XQR), expected_XQK)
    np.testing.assert_array_equal(relative_shift(jnp.asarray(values_XQR)), expected_XQK)


@pytest.mark.parametrize("length", [1, 2, 150])
def test_the_bias_is_the_twins(length):
    module = RelativePositionBias(32, 4, embedding_init=nnx.initializers.normal(1.0), rngs=nnx.Rngs(0))
    table_RN = np.asarray(module.table.embedding[...])
    bias_NQK = jax.jit(lambda: module(length))()
    # Looked up, not computed: equal to the bit.
    np.testing.assert_array_equal(bias_NQK, reference.relative_position_bias(length, table_RN))


def test_a_program_holds_no_number_per_query_and_key():
    """Such constants made T5's program for 4,096 tokens 17 MB large, and XLA folded them for seconds."""
    module = RelativePositionBias(32, 4, embedding_init=nnx.initializers.normal(1.0), rngs=nnx.Rngs(0))
    definition, params = nnx.split(module)
    program = jax.jit(lambda params: nnx.merge(definition, params)(512)).lower(params).as_text()
    assert len(program) < 8 * 2 * 512 + 10_000  # eight letters for each of the distances
