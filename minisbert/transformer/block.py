"""One layer of the encoder: self-attention, then a feed-forward net, each with a residual connection and a layer norm.

    a      = LayerNorm(x + Dropout(MultiHead(x)))
    output = LayerNorm(a + Dropout(FFN(a))),      FFN(a) = W_2 GELU(W_1 a + b_1) + b_2

This is the post-norm form of Vaswani et al. 2017 (sections 3.1, 3.3, 5.4) with BERT's GELU in place of ReLU. The
residual, the layer norms and the softmax stay in float32 when the matrix products are done in bfloat16.
Left out: pre-norm and gated feed-forward nets, which newer encoders use (transformer/prenorm.py).
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from minisbert.transformer import tpu
from minisbert.transformer.attention import MultiHeadSelfAttention
from minisbert.transformer.dropout import dropout, fold
from minisbert.transformer.products import Linear
from minisbert.transformer.target import on_tpu, stored, widened


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """x * Phi(x), exactly (Hendrycks & Gimpel 2016). Where no gradient is taken Phi is (1 + erf(x / sqrt 2)) / 2.

    For gradients it is erfc(-x / sqrt 2) / 2, which keeps the digits of its small values, but takes longer.
    """
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    # The backward pass recomputes the slope from x. If its parts were saved, XLA:CPU would make three passes over memory.
    return x * _Phi(x), jax.checkpoint(_gelu_slope)(x, dx)


def _Phi(x: jax.Array) -> jax.Array:
    return 0.5 * jax.lax.erfc(-x * 0.5**0.5)


def _gelu_slope(x: jax.Array, dx: jax.Array) -> jax.Array:
    """d (x Phi(x)) = (Phi(x) + x phi(x)) dx."""
    return dx * (_Phi(x) + x * jnp.exp(-0.5 * x * x) * (2 * jnp.pi) ** -0.5)


# The names that config.json uses. "gelu" is the exact x * Phi(x) (Hendrycks & Gimpel 2016), not the tanh approximation.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def embedding_table(rows: int, width: int, dtype: DTypeLike, initializer: nnx.Initializer, rngs: nnx.Rngs) -> nnx.Embed:
    """A table with one learned vector per row, looked up in float32 or wider."""
    dtype = jnp.promote_types(dtype, jnp.float32)
    return nnx.Embed(rows, width, dtype=dtype, embedding_init=initializer, rngs=rngs)


def layer_norm(width: int, epsilon: float, dtype: DTypeLike, rngs: nnx.Rngs, use_bias: bool = True) -> nnx.LayerNorm:
    """Layer norm (Ba et al. 2016) in float32 or wider; the variance is mean((x - mean)^2), which does not cancel."""
    dtype = jnp.promote_types(dtype, jnp.float32)
    return nnx.LayerNorm(width, epsilon=epsilon, dtype=dtype, use_bias=use_bias, use_fast_variance=False, rngs=rngs)


class FeedForward(nnx.Module):
    """Two linear maps with a nonlinearity between, applied to each token by itself (Vaswani 3.3)."""

    def __init__(self, width: int, inner_width: int, activation: str, *, dropout_rate: float = 0.0, **options: Any):
        """`dropout_rate` is of the inner values (T5; BERT has none there); `options` are those of `Linear`."""
        self.activation = ACTIVATIONS[activation]
        self.dropout_rate = dropout_rate
        self.up = Linear(width, inner_width, **options)
        self.down = Linear(inner_width, width, **options)

    def __call__(self, hidden_BLD: jax.Array, dropout_keys_BL: jax.Array | None = None) -> jax.Array:
        if on_tpu(self.up.dtype):
            from minisbert.transformer import tpu_feed_forward

            whole = not self.dropout_rate or dropout_keys_BL is None
            if self.activation is gelu and whole and tpu_feed_forward.fits(hidden_BLD.shape, self.up):
                return tpu_feed_forward.feed_forward(self.up, self.down, hidden_BLD)
            inner_BLF = self.up(hidden_BLD)
            inner_BLF = tpu.gelu(inner_BLF) if self.activation is gelu else self.activation(widened(inner_BLF))
            return self.down(dropout(inner_BLF, self.dropout_rate, dropout_keys_BL))
        return self.down(dropout(self.activation(self.up(hidden_BLD)), self.dropout_rate, dropout_keys_BL))


class PostNormBlock(nnx.Module):
    """A post-norm layer around any attention and feed-forward net, hidden_BLD -> hidden_BLD (Vaswani 3.1)."""

    def __init__(
        self,
        attention: Any,
        feed_forward: Any,
        *,
        width: int,
        epsilon: float,
        hidden_dropout: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.hidden_dropout, self.dtype = hidden_dropout, dtype
        self.attention = attention
        self.attention_norm = layer_norm(width, epsilon, dtype, rngs)
        self.feed_forward = feed_forward
        self.feed_forward_norm = layer_norm(width, epsilon, dtype, rngs)

    def __call__(
        self, hidden_BLD: jax.Array, mask_BL: jax.Array, *positions: Any, dropout_keys_BL: jax.Array | None = None
    ) -> jax.Array:
        """`positions` are what the attention takes besides: a bias, the angles of rotary positions, ..."""
        hidden_BLD = stored(hidden_BLD, self.dtype)
        attended_BLD = self.attention(hidden_BLD, mask_BL, *positions, dropout_keys_BL=fold(dropout_keys_BL, 0))
        attended_BLD = hidden_BLD + dropout(attended_BLD, self.hidden_dropout, fold(dropout_keys_BL, 1))
        hidden_BLD = stored(self.attention_norm(attended_BLD), self.dtype)
        fed_BLD = self.feed_forward(hidden_BLD, fold(dropout_keys_BL, 3))
        fed_BLD = hidden_BLD + dropout(fed_BLD, self.hidden_dropout, fold(dropout_keys_BL, 2))
        return stored(self.feed_forward_norm(fed_BLD), self.dtype)


class Block(PostNormBlock):
    """BERT's layer: attention of all heads on one projection, and two maps with a GELU between."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        inner_width: int,
        activation: str,
        epsilon: float,
        hidden_dropout: float,
        attention_dropout: float,
        **options: Any,
    ):
        """`options` are those of `Linear`: dtype, kernel_init, rngs."""
        super().__init__(
            MultiHeadSelfAttention(width, heads, dropout_rate=attention_dropout, **options),
            FeedForward(width, inner_width, activation, **options),
            width=width,
            epsilon=epsilon,
            hidden_dropout=hidden_dropout,
            dtype=options["dtype"],
            rngs=options["rngs"],
        )

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> "Block":
        """A block with the settings of a config.json that names them as BERT's does."""
        return cls(
            width=config.hidden_size,
            heads=config.num_attention_heads,
            inner_width=config.intermediate_size,
            activation=config.hidden_act,
            epsilon=config.layer_norm_eps,
            hidden_dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
            **options,
        )


def stack(
    blocks: Iterable[Any],
    hidden_BLD: jax.Array,
    mask_BL: jax.Array,
    dropout_keys_BL: jax.Array | None,
    positions: Iterable[tuple[Any, ...]] | None = None,
) -> list[jax.Array]:
    """Block_layers(... Block_1(x)): hidden_IBLD, the input first, then the output of each block.

    Args:
        positions: what each block takes besides (a bias, angles, ...).
    """
    hidden_IBLD, positions = [hidden_BLD], repeat(()) if positions is None else positions
    for layer, (block, given) in enumerate(zip(blocks, positions, strict=False), start=1):
        hidden_IBLD.append(block(hidden_IBLD[-1], mask_BL, *given, dropout_keys_BL=fold(dropout_keys_BL, layer)))
    return hidden_IBLD
