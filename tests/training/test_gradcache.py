"""training/gradcache.py gives the loss and gradients of the whole batch for any chunk size, with dropout."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minisbert.errors import InputError
from minisbert.pretrained import load_pretrained
from minisbert.sentence_model import define
from minisbert.training.gradcache import gradcache_value_and_grad
from minisbert.training.losses import LOSSES, Targets, initial_softmax_head

# Norm of the gradients' difference over their norm. float32 rounds at 6e-8, and some sums over tokens cancel; 6e-7 is
# measured.
FLOAT32 = 1e-6
# The same in float64, where 1e-15 is measured.
FLOAT64 = 1e-10

TINY_BERT = Path(__file__).parents[2] / "weights" / "tiny-bert"
ROWS, L, CLASSES = 24, 9, 3

# Every loss sees the same 24 texts, as examples of S texts each.
CASES = [
    ("softmax", 2),
    *(("multiple_negatives_ranking", S) for S in (3, 2, 4)),
    ("cosine_similarity", 2),
    ("cosent", 2),
    ("margin_mse", 4),
    ("gist", 3),
    ("mega_batch_margin", 2),
    ("batch_semi_hard_triplet", 1),
]


@cache
def tiny_bert():
    """The model without its second layer, which would double the time to compile."""
    model = load_pretrained(TINY_BERT)
    params = jax.tree.map(np.asarray, model.params)
    del params["encoder"]["blocks"][1]
    return replace(model.model_config, encoder=replace(model.model_config.encoder, num_hidden_layers=1)), params


def embed_as(dtype):
    definition, _ = define(tiny_bert()[0], dtype)

    def embed(params, inputs, keys):
        model = nnx.merge(definition, params)
        return model(inputs["token_ids"], inputs["lengths"], dropout_keys_B=keys).sentence_BD

    return embed


def loss_of(cases):
    """The loss of `cases[which]`; chosen while running, so that all of them are compiled once."""

    def any_loss(embeddings_RD, head, targets, which):
        def one(name, S):
            row, batch = LOSSES[name], ROWS // S
            labels_B = targets["class"] if row.needs == "class" else targets["score"]
            labels_B = targets["margin"][:batch, : S - 2] if row.needs == "margin" else labels_B[:batch]
            given = Targets(labels_B=labels_B, guide_SBD=targets["guide"].reshape(S, batch, -1))
            options = {"temperature": 0.1} if name == "gist" else {}  # its 0.01 turns float32 rounding into 1.03e-6
            embeddings_SBD = embeddings_RD.reshape(S, batch, -1)
            return lambda: row.function(embeddings_SBD, given, head if row.head else None, **options)

        return jax.lax.switch(which, [one(name, S) for name, S in cases])

    return any_loss


def arguments(dtype):
    """params, head, (texts, dropout keys), targets."""
    model_config, params = tiny_bert()
    rng = np.random.default_rng(0)
    inputs = {
        "token_ids": jnp.asarray(rng.integers(5, 180, (ROWS, L)), jnp.int32),
        "lengths": jnp.asarray(rng.integers(2, L + 1, ROWS), jnp.int32),
    }
    # Margins of size 10, as cross-encoders give: against smaller ones the loss would be the difference of two scores of
    # size 30, hardly more than their rounding.
    targets = {
        "score": rng.uniform(size=ROWS),
        "margin": 10 * rng.normal(size=(ROWS, 2)),
        "guide": rng.normal(size=(ROWS, 3)),
    }
    head = initial_softmax_head(jax.random.key(1), model_config.dimension, CLASSES)
    params, head, targets = jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, head, targets))
    targets["class"] = jnp.arange(ROWS, dtype=jnp.int32) % CLASSES
    return params, head, (inputs, jax.random.split(jax.random.key(2), ROWS)), targets


@cache
def plain(dtype, count):
    """Loss and gradients for the first cases by `jax.value_and_grad` over all rows together."""
    embed = embed_as(dtype)

    def whole(params, head, inputs, targets, which):
        return loss_of(CASES[:count])(embed(params, *inputs), head, targets, which)

    jitted = jax.jit(jax.value_and_grad(whole, argnums=(0, 1)))
    return [jitted(*arguments(dtype), which) for which in range(count)]


def norm(tree):
    return np.sqrt(sum(float((np.asarray(x, np.float64) ** 2).sum()) for x in jax.tree.leaves(tree)))


# 24 rows are divisible by 1 and 3; 5 leaves a remainder; 1000 is all rows in one chunk. A loss sees all embeddings, however
# they were chunked: all losses run with size 5, in float64; softmax, which has a head, and a ranking loss with each size.
@pytest.mark.parametrize(
    "dtype, tolerance, chunk_size, cases",
    [
        (jnp.float32, FLOAT32, 1, CASES[:2]),
        (jnp.float32, FLOAT32, 3, CASES[:2]),
        (jnp.float32, FLOAT32, 1000, CASES[:2]),
        (jnp.float64, FLOAT64, 5, CASES),
    ],
)
def test_gradcache_is_the_plain_gradient(dtype, tolerance, chunk_size, cases):
    with jax.enable_x64(dtype == jnp.float64):
        cached = gradcache_value_and_grad(embed_as(dtype), loss_of(cases), chunk_size)
        jitted = jax.jit(cached)
        for which, case in enumerate(cases):
            expected_value, expected = plain(dtype, len(cases))[which]
            value, gradients = jitted(*arguments(dtype), which)
            assert value.dtype == dtype
            assert float(value) == pytest.approx(float(expected_value), rel=tolerance), case
            # Parameters and head apart: the head's gradient comes from step 2 alone.
            for found, wanted in zip(gradients, expected, strict=True):
                difference = jax.tree.map(lambda a, b: a - b, found, wanted)
                assert norm(difference) <= tolerance * norm(wanted), case
        assert min(norm(expected[0]) for _, expected in plain(dtype, len(cases))) > 1e-3, (
            "there is no gradient to compare"
        )
        assert norm(plain(dtype, len(cases))[0][1][1]) > 1e-3, "softmax trains no head"


def test_dropout_is_on_in_these_tests():
    embed = jax.jit(embed_as(jnp.float32))
    params, _, (inputs, keys), _ = arguments(jnp.float32)
    assert np.abs(embed(params, inputs, keys) - embed(params, inputs, None)).max() > 0.1


def test_a_chunk_bounds_the_memory():
    """32 rows together save their activations for the backward pass; chunks of 2 need at most a quarter of that."""
    embed = embed_as(jnp.float32)
    rows, length = 32, 48
    inputs = {"token_ids": jnp.ones((rows, length), jnp.int32), "lengths": jnp.full(rows, length)}
    call = (tiny_bert()[1], None, (inputs, None))

    def scratch_bytes(chunk_size):
        cached = gradcache_value_and_grad(embed, lambda embeddings_RD, head: jnp.sum(embeddings_RD**2), chunk_size)
        return jax.jit(cached).lower(*call).compile().memory_analysis().temp_size_in_bytes

    assert scratch_bytes(2) < scratch_bytes(rows) / 4


def test_rows_keep_their_order_and_padding_has_no_effect():
    """7 rows in 3 chunks; an encoder that divides by its input would turn a padding of zeros into NaN."""
    x_R1 = jnp.arange(1.0, 8.0)[:, None]
    weight_R = jnp.array([1.0, 10.0, 100.0, 1000.0, 0.0, 0.0, 5.0])

    def embed(w, x):
        assert x.shape == (3, 1)
        return w / x

    cached = gradcache_value_and_grad(embed, lambda e_R1, head, weight_R: weight_R @ e_R1[:, 0], 3)
    value, (d_w, d_head) = cached(jnp.float32(2.0), None, (x_R1,), weight_R)
    slope = sum(weight / x for weight, x in zip(weight_R.tolist(), range(1, 8), strict=True))
    assert d_head is None
    np.testing.assert_allclose([float(value), float(d_w)], [2 * slope, slope], rtol=FLOAT32)


def test_a_chunk_without_rows_is_refused():
    with pytest.raises(InputError, match="chunk_size is 0"):
        gradcache_value_and_grad(lambda *_: None, lambda *_: None, 0)
