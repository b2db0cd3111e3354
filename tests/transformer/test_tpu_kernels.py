"""The kernels for TPUs (transformer/tpu_attention.py, tpu_feed_forward.py) compute what the plain forms compute; here by
Pallas's interpreter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import pallas as pl
from jax.sharding import AxisType, Mesh

from minisbert.transformer import tpu_attention, tpu_feed_forward
from minisbert.transformer.attention import MultiHeadSelfAttention
from minisbert.transformer.block import FeedForward
from minisbert.transformer.target import traced_for

# bfloat16 has 8 significant bits; a gradient passes through several roundings.
SEVERAL_ROUNDINGS = 0.03


def by_text(lengths: list[list[int]], L: int) -> jax.Array:
    """mask_BQK of packed rows: texts of these lengths, then padding."""
    ids = np.full((len(lengths), L), -1)
    for row, of_row in zip(ids, lengths, strict=True):
        row[: sum(of_row)] = np.repeat(np.arange(len(of_row)), of_row)
    return jnp.asarray(ids[:, :, None] == ids[:, None])


@pytest.mark.parametrize(
    "width, heads, L, masked, biased, rate",
    [
        (256, 4, 128, "texts", True, 0.1),  # MPNet's heads of 64
        (128, 4, 128, "texts", False, 0.1),  # MiniLM's of 32
        (128, 1, 256, "tokens", False, 0.0),
    ],
)
def test_the_kernel_computes_the_plain_form(width, heads, L, masked, biased, rate, monkeypatch):
    layer = MultiHeadSelfAttention(
        width, heads, dropout_rate=rate, dtype=jnp.bfloat16, kernel_init=nnx.initializers.normal(0.1), rngs=nnx.Rngs(0)
    )
    layer.qkv.bias[...] = jnp.linspace(-1, 1, 3 * width)
    definition, params = nnx.split(layer)
    generator = np.random.default_rng(0)
    hidden_BLD = jnp.asarray(generator.standard_normal((2, L, width)), jnp.bfloat16)
    d_BLD = jnp.asarray(generator.standard_normal((2, L, width)), jnp.float32)
    bias_NQK = jnp.asarray(generator.standard_normal((heads, L, L)), jnp.float32) if biased else None
    if masked == "texts":
        mask = by_text([[50, 70], [L]], L)
    else:
        mask = jnp.arange(L) < jnp.array([[L], [L // 3]])
    keys_BL = jax.random.split(jax.random.key(1), (2, L)) if rate else None
    assert tpu_attention.fits(2, L, width, heads)

    def forward(params, hidden_BLD, bias_NQK):
        attended_BLD = nnx.merge(definition, params)(hidden_BLD, mask, bias_NQK, keys_BL)
        return (attended_BLD.astype(jnp.float32) * d_BLD).sum(), attended_BLD

    gradient = jax.grad(forward, argnums=(0, 1, 2) if biased else (0, 1), has_aux=True)
    check_kernel(tpu_attention, gradient, (params, hidden_BLD, bias_NQK), monkeypatch)


@pytest.mark.parametrize("width, inner_width, rows, output_bias", [(128, 640, 2, True), (256, 512, 4, False)])
def test_the_gradient_of_the_feed_forward_net_is_the_plain_one(width, inner_width, rows, output_bias, monkeypatch):
    normal = nnx.initializers.normal(0.1)
    layer = FeedForward(width, inner_width, "gelu", dtype=jnp.bfloat16, kernel_init=normal, rngs=nnx.Rngs(0))
    layer.up.bias[...] = jnp.linspace(-1, 1, inner_width)
    if not output_bias:
        layer.down.bias = None
    definition, params = nnx.split(layer)
    generator = np.random.default_rng(0)
    hidden_BLD = jnp.asarray(generator.standard_normal((rows, 128, width)), jnp.bfloat16)
    d_BLD = jnp.asarray(generator.standard_normal((rows, 128, width)), jnp.float32)

    def forward(params, hidden_BLD):
        fed_BLD = nnx.merge(definition, params)(hidden_BLD)
        return (fed_BLD.astype(jnp.float32) * d_BLD).sum(), fed_BLD

    gradient = jax.grad(forward, argnums=(0, 1), has_aux=True)
    check_kernel(tpu_feed_forward, gradient, (params, hidden_BLD), monkeypatch)


def compiled(function):
    """The function as one program of its own, since what it computes depends on the device that it is traced for."""
    return jax.jit(lambda *arrays: function(*arrays))


def check_kernel(module, gradient, arrays, monkeypatch):
    """What is computed with the module's kernel is what is computed where nothing fits it."""
    # Where there are two devices, each has half of the rows, and the gradients of biases are summed over them.
    devices, ran = jax.devices()[:2], []
    mesh = Mesh(np.array(devices), ("rows",), axis_types=(AxisType.Auto,)) if len(devices) == 2 else None

    def interpreted(*args, call=pl.pallas_call, **options):
        ran.append(options["name"])
        return call(*args, interpret=True, **options)

    monkeypatch.setattr(pl, "pallas_call", interpreted)
    with traced_for("tpu", mesh):
        kernel = jax.tree.leaves(compiled(gradient)(*arrays))
    assert ran
    monkeypatch.setattr(module, "fits", lambda *_: False)
    with traced_for("tpu"):
        plain = jax.tree.leaves(compiled(gradient)(*arrays))
    assert all(jnp.isfinite(array).all() for array in kernel)
    for mine, other in zip(kernel, plain, strict=True):
        mine, other = (np.asarray(array, np.float32) for array in (mine, other))
        assert np.abs(mine - other).max() < SEVERAL_ROUNDINGS * np.abs(other).max()


@pytest.mark.parametrize(
    "B, L, D, heads, shape, expected",
    [
        (8, 128, 768, 12, None, True),
        (8, 128, 384, 12, (4, 1), True),
        (6, 128, 384, 12, (4, 1), False),
        (8, 128, 768, 12, (2, 2), False),
        (8, 64, 768, 12, None, False),
        (8, 512, 768, 12, None, False),
        (8, 128, 768, 8, None, False),  # heads of 96
        (8, 128, 64, 4, None, False),
    ],
)
def test_shapes_that_are_not_whole_tiles_take_the_plain_form(B, L, D, heads, shape, expected):
    mesh = None
    if shape is not None:
        devices = np.array([jax.devices()[0]] * (shape[0] * shape[1])).reshape(shape)
        mesh = Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with traced_for("tpu", mesh):
        assert tpu_attention.fits(B, L, D, heads) is expected
