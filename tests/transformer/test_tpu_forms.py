"""transformer/tpu.py computes what the other devices' forms compute, here on a CPU; float32 does not change at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import SAME_CODE, TWINS, tiny
from flax import nnx

from minisbert.cross_encoder.model import CrossEncoderConfig, define_cross_encoder
from minisbert.pretrained import load_pretrained
from minisbert.sentence_model import define
from minisbert.text.packing import pack
from minisbert.transformer import attention, tpu
from minisbert.transformer.dropout import dropout, dropout_weights
from minisbert.transformer.products import Linear
from minisbert.transformer.target import traced_for

BF16 = jnp.bfloat16
# Families whose blocks are another's: BERT's, or GTE's.
SAME_BLOCKS = {*SAME_CODE, "albert", "distilbert", "roberta", "nomic_bert"}
# bfloat16 has 8 significant bits: a rounding is at most 2^-9 of the number.
ROUNDING = 2.0**-9
# Of a whole tiny model, forward and backward, relative to the largest number of an array.
SEVERAL_ROUNDINGS = 0.05


def normal(*shape: int, seed: int = 0, dtype=BF16) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


@pytest.fixture
def linear():
    layer = Linear(24, 72, dtype=BF16, rngs=nnx.Rngs(0))
    layer.bias[...] = normal(72, dtype=jnp.float32)
    return layer


def test_heads_are_split_and_joined_as_elsewhere(linear):
    hidden_BLD = normal(2, 5, 24)
    expected = attention.split_heads(linear(hidden_BLD), 3, BF16)
    for mine, theirs in zip(tpu.split_heads(linear, hidden_BLD, 3), expected, strict=True):
        np.testing.assert_allclose(mine.astype("float32"), theirs.astype("float32"), rtol=4 * ROUNDING, atol=0.02)
    context_BNLH = normal(2, 3, 5, 8)
    expected = linear(jnp.swapaxes(context_BNLH, 1, 2).reshape(2, 5, 24))
    np.testing.assert_allclose(tpu.join_heads(linear, context_BNLH), expected, rtol=4 * ROUNDING, atol=0.02)


def test_gelu_and_its_slope_are_exact_up_to_rounding():
    x = jnp.linspace(-6, 6, 2001).astype(BF16)
    wide, exact = x.astype("float32"), lambda x: jax.nn.gelu(x, approximate=False)
    np.testing.assert_allclose(tpu.gelu(x).astype("float32"), exact(wide), rtol=2 * ROUNDING, atol=1e-8)
    slope = jax.grad(lambda x: tpu.gelu(x).astype("float32").sum())(x).astype("float32")
    np.testing.assert_allclose(slope, jax.vmap(jax.grad(exact))(wide), rtol=4 * ROUNDING, atol=1e-6)


@pytest.mark.parametrize(
    "family, dtype",
    [
        *((family, "bfloat16") for family in TWINS if family not in SAME_BLOCKS),
        ("bert", "float32"),
        ("qwen3", "float32"),
    ],
)
def test_a_model_computes_the_same_for_a_tpu(family, dtype):
    model = load_pretrained(tiny(family))
    # Two rows of 64 tokens, which a TPU computes as one of 128.
    texts = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15], [*range(5, 65)]]
    rows, where = pack(texts, padding_id=model.folder.padding_id)
    assert rows.token_ids_PL.shape == (2, 64)
    definition, _ = define(model.model_config, jnp.dtype(dtype))

    def loss(params):
        embeddings_PTD = nnx.merge(definition, params).packed(rows)
        embeddings_BD = embeddings_PTD.reshape(-1, embeddings_PTD.shape[-1])[where]
        return (embeddings_BD * normal(*embeddings_BD.shape, dtype=jnp.float32)).sum(), embeddings_BD

    def computed(platform):
        with traced_for(platform):
            program = jax.jit(lambda params: jax.value_and_grad(loss, has_aux=True)(params))
            return program(model.params)

    here, there = computed("cpu"), computed("tpu")
    assert there[0][1].dtype == jnp.float32
    for mine, other in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        if dtype == "float32":
            np.testing.assert_array_equal(mine, other)
        else:
            scale = max(float(jnp.abs(mine).max()), 1e-3)
            assert float(jnp.abs(mine - other).max()) < SEVERAL_ROUNDINGS * scale


@pytest.mark.parametrize(
    "define, B, L, joined",
    [
        (define_cross_encoder, 8, 16, (1, 128)),
        *((define, *case) for case in ((8, 16, (1, 128)), (8, 32, (2, 128)), (3, 64, (3, 64)), (8, 8, (8, 8)))),
    ],
)
def test_short_rows_are_computed_side_by_side(define, B, L, joined, monkeypatch):
    model_config, seen, random = load_pretrained(tiny("bert")).model_config, [], np.random.default_rng(0)
    token_ids_BL, lengths_B = jnp.asarray(random.integers(5, 60, (B, L))), jnp.arange(B) % L + 1
    given = token_ids_BL, lengths_B
    if define is define_cross_encoder:
        model_config, given = CrossEncoderConfig("bert", model_config.encoder, 2), (*given, lengths_B // 2)
    definition, shapes = define(model_config, BF16)
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.2, leaf.shape), leaf.dtype), shapes)
    call = type(model := nnx.merge(definition, params).encoder).__call__
    monkeypatch.setattr(
        type(model), "__call__", lambda *args, **more: seen.append(args[1].shape) or call(*args, **more)
    )

    def computed(platform):
        with traced_for(platform):
            found = jax.jit(lambda params: nnx.merge(definition, params)(*given))(params)
        return found if define is define_cross_encoder else found.sentence_BD

    here, there = computed("cpu"), computed("tpu")
    assert seen == [(B, L), joined]
    assert float(jnp.abs(here - there).max()) < SEVERAL_ROUNDINGS * float(jnp.abs(here).max())


def test_dropout_on_a_tpu_drops_the_share_and_follows_the_token():
    keys_BL = jax.random.split(jax.random.key(0), (4, 64))
    one_BLD, one_BNQK = jnp.ones((4, 64, 384)), jnp.ones((4, 12, 64, 64))
    with traced_for("tpu"):
        kept, weights = dropout(one_BLD, 0.1, keys_BL) > 0, dropout_weights(one_BNQK, 0.1, keys_BL) > 0
        turned = dropout(one_BLD, 0.1, keys_BL[::-1, ::-1]) > 0
        turned_weights = dropout_weights(one_BNQK, 0.1, keys_BL[::-1, ::-1]) > 0
    np.testing.assert_array_equal(turned, kept[::-1, ::-1])  # whatever the row and the place in it
    np.testing.assert_array_equal(turned_weights, weights[::-1, :, ::-1, ::-1])
    for mask in (kept, weights):
        bits = np.asarray(mask, np.float64) - 0.9
        deviation = (0.09 / bits.size) ** 0.5
        assert abs(bits.mean()) < 4 * deviation
        # Neighbours along each axis, and (query, key) with (key, query), are independent.
        pairs = [(bits, np.roll(bits, 1, axis)) for axis in range(bits.ndim)]
        pairs += [(bits, bits.swapaxes(2, 3))] if bits.ndim == 4 else []
        for a, b in pairs:
            off = ~np.broadcast_to(np.eye(64, dtype=bool), a.shape) if bits.ndim == 4 else np.ones(a.shape, bool)
            assert abs((a * b)[off].mean()) < 5 * 0.09 / off.sum() ** 0.5
