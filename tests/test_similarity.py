"""similarity.py against the NumPy twin: four functions, all pairs and row by row, on NumPy and on JAX arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minisbert.checkpoint.folder import SIMILARITY_NAMES
from minisbert.reference import similarity as reference
from minisbert.similarity import PAIRWISE_SIMILARITIES, SIMILARITIES, normalize

# Sums of 32 products of size 1 in float64; 4e-16 is measured, relative to the largest.
FLOAT64 = 1e-10
# In float32, relative to the largest similarity: 4e-7 is measured.
FLOAT32 = 2e-6

RNG = np.random.default_rng(0)
A_BD, B_MD = RNG.normal(size=(5, 32)), RNG.normal(size=(7, 32))
B_MD[3] = A_BD[2]  # two equal vectors


@pytest.mark.parametrize("name", SIMILARITY_NAMES)
def test_one_vector_instead_of_rows(name):
    compare = SIMILARITIES[name]
    expected = compare(A_BD, B_MD)
    np.testing.assert_allclose(compare(A_BD[0], B_MD), expected[0], rtol=FLOAT64)
    np.testing.assert_allclose(compare(A_BD[0], B_MD[1]), expected[0, 1], rtol=FLOAT64)
    np.testing.assert_allclose(compare(A_BD, B_MD[1]), expected[:, 1], rtol=FLOAT64)


def test_the_tables_have_the_names_of_model_folders():
    for table in (SIMILARITIES, PAIRWISE_SIMILARITIES, reference.SIMILARITIES, reference.PAIRWISE_SIMILARITIES):
        assert set(table) == set(SIMILARITY_NAMES)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, FLOAT64), (np.float32, FLOAT32)])
@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("name", SIMILARITY_NAMES)
def test_similarities_are_the_twins(name, asarray, dtype, tolerance):
    a_BD, b_MD = A_BD.astype(dtype), B_MD.astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        all_pairs = SIMILARITIES[name](asarray(a_BD), asarray(b_MD))
        row_by_row = PAIRWISE_SIMILARITIES[name](asarray(a_BD), asarray(b_MD[:5]))
        # An array of NumPy stays with NumPy, one of JAX with JAX.
        assert type(all_pairs) is type(row_by_row) is type(asarray(a_BD))
        all_pairs, row_by_row = np.asarray(all_pairs), np.asarray(row_by_row)
    assert all_pairs.dtype == row_by_row.dtype == dtype
    expected = reference.SIMILARITIES[name](a_BD.astype(np.float64), b_MD.astype(np.float64))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(all_pairs / scale, expected / scale, rtol=0, atol=tolerance)
    np.testing.assert_allclose(row_by_row / scale, np.diag(expected) / scale, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(
        reference.PAIRWISE_SIMILARITIES[name](a_BD, b_MD[:5]), np.diag(reference.SIMILARITIES[name](a_BD, b_MD[:5]))
    )


@pytest.mark.parametrize("name", ["euclidean", "manhattan"])
def test_the_distance_of_equal_vectors_is_exactly_zero(name):
    # Also where |u|^2 - 2 u.v + |v|^2 would cancel.
    rows_BD = jnp.asarray(A_BD * 1e3, jnp.float32)
    assert np.all(np.diag(np.asarray(SIMILARITIES[name](rows_BD, rows_BD))) == 0)
    assert np.all(np.asarray(PAIRWISE_SIMILARITIES[name](rows_BD, rows_BD)) == 0)


def test_larger_means_more_alike():
    for name in ("cosine", "euclidean", "manhattan"):
        assert np.asarray(SIMILARITIES[name](jnp.asarray(A_BD), jnp.asarray(B_MD)))[2].argmax() == 3, name


def test_cosine_does_not_see_length_and_stays_within_one():
    a_BD = jnp.asarray(A_BD, jnp.float32)
    found = np.asarray(SIMILARITIES["cosine"](a_BD * 1e-6, a_BD * 1e6))
    np.testing.assert_allclose(found, SIMILARITIES["cosine"](a_BD, a_BD), rtol=0, atol=FLOAT32)
    np.testing.assert_allclose(np.diag(found), 1, rtol=0, atol=FLOAT32)


def test_a_zero_vector_gives_no_nan():
    a_BD = jnp.zeros((2, 4)).at[1].set(1.0)
    np.testing.assert_array_equal(normalize(a_BD), [[0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(reference.normalize(np.asarray(a_BD)), normalize(a_BD))
    np.testing.assert_allclose(SIMILARITIES["cosine"](a_BD, a_BD), [[0, 0], [0, 1]], rtol=0, atol=FLOAT32)
    gradient_BD = jax.grad(lambda x: jnp.sum(SIMILARITIES["cosine"](x, a_BD) ** 2))(a_BD)
    assert np.isfinite(gradient_BD).all()


@pytest.mark.parametrize("name", SIMILARITY_NAMES)
def test_similarities_compile_and_have_the_slope_of_the_formula(name):
    a_BD, b_MD = jnp.asarray(A_BD[:2], jnp.float32), jnp.asarray(B_MD[:3], jnp.float32)
    weight_BM = np.array([[1.0, -2.0, 0.5], [0.3, 1.0, -1.0]])

    def score(a_BD):
        return jnp.sum(weight_BM.astype(np.float32) * SIMILARITIES[name](a_BD, b_MD))

    slope_BD = jax.jit(jax.grad(score))(a_BD)
    # The slope along one direction, by a small step of the float64 twin: the error is the step squared, 1e-8.
    direction_BD, step = np.random.default_rng(1).normal(size=(2, 32)), 1e-4
    there, back = (
        np.sum(weight_BM * reference.SIMILARITIES[name](A_BD[:2] + sign * step * direction_BD, B_MD[:3]))
        for sign in (1, -1)
    )
    expected = (there - back) / (2 * step)
    assert abs(float(np.sum(slope_BD * direction_BD)) - expected) < 1e-4 * max(1, abs(expected))
