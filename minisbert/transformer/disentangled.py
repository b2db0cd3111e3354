"""Disentangled attention: content and position as two vectors (He et al. 2021, "DeBERTa: Decoding-enhanced BERT ...").

    score(q, k) = (Q_q . K_k  +  Q_q . KR_d  +  K_k . QR_d) / sqrt(H * terms)        section 3.1, equations 3 and 4

d is the distance q - k, within a span; KR and QR are keys and queries made of an embedding per distance, by the same maps as
those of the content (DeBERTa-v3) or by maps of their own. The three terms are content to content, content to position (c2p) and
position to content (p2c); a model may leave out either of the last two. Far distances share buckets, as in T5. (Equation 4
has the opposite distance in the third term; the published models have this one.)

`reference/deberta.py` is the same in NumPy and must agree.
"""

from typing import Any

import jax
import jax.numpy as jnp

from minisbert.transformer.attention import SelfAttention, split_heads
from minisbert.transformer.positions import relative_shift
from minisbert.transformer.products import Linear, product


class DisentangledSelfAttention(SelfAttention):
    """Self-attention whose scores also depend on an embedding of the distance."""

    scale: Any

    def __init__(
        self, width: int, heads: int, *, terms: tuple[str, ...], own_maps: bool, dropout_rate: float, **options: Any
    ):
        """`terms`: of "c2p" and "p2c"; `own_maps`: distances have maps of their own; `options` are those of `Linear`."""
        self.heads, self.terms, self.dropout_rate = heads, terms, dropout_rate
        self.scale = (width // heads * (1 + len(terms))) ** -0.5
        self.qkv = Linear(width, 3 * width, **options)
        self.position_key = Linear(width, width, **options) if own_maps and "c2p" in terms else None
        self.position_query = Linear(width, width, **options) if own_maps and "p2c" in terms else None
        self.output = Linear(width, width, **options)

    def project(self, hidden_BLD: jax.Array, distances_RD: jax.Array) -> Any:
        """`distances_RD` embeds the distances q - k from -L to L."""
        query_BNLH, key_BNLH, value_BNLH = split_heads(self.qkv(hidden_BLD), self.heads, self.qkv.dtype)
        return query_BNLH, key_BNLH, value_BNLH, self._bias(query_BNLH, key_BNLH, distances_RD)

    def _bias(self, query_BNLH: jax.Array, key_BNLH: jax.Array, distances_RD: jax.Array) -> jax.Array | None:
        """The second and third term of the scores; None where the model has neither."""
        terms_BNQK = []
        own_query_NRH, own_key_NRH, _ = (
            part_1NRH[0] for part_1NRH in split_heads(self.qkv(distances_RD[None]), self.heads, self.qkv.dtype)
        )
        # `relative_shift` counts from the token whose row it is: from queries k - q, which is -(q - k), and from keys q - k.
        if "c2p" in self.terms:
            key_NRH = own_key_NRH if self.position_key is None else self._heads(self.position_key, distances_RD)
            terms_BNQK.append(relative_shift(_with_distances(query_BNLH, key_NRH[:, -2::-1])))
        if "p2c" in self.terms:
            query_NRH = own_query_NRH if self.position_query is None else self._heads(self.position_query, distances_RD)
            found_BNKQ = relative_shift(_with_distances(key_BNLH, query_NRH[:, 1:]))
            terms_BNQK.append(jnp.swapaxes(found_BNKQ, -1, -2))
        return sum(terms_BNQK) * self.scale if terms_BNQK else None

    def _heads(self, linear: Linear, distances_RD: jax.Array) -> jax.Array:
        mapped_RNH = linear(distances_RD).astype(self.qkv.dtype).reshape(len(distances_RD), self.heads, -1)
        return jnp.transpose(mapped_RNH, (1, 0, 2))


def _with_distances(content_BNLH: jax.Array, distance_NRH: jax.Array) -> jax.Array:
    """Each token's products with each distance, `[B, N, L, R]`."""
    B, N, L, H = content_BNLH.shape
    # The tokens of all sentences in one axis: XLA:CPU has no bfloat16 product that sums over two, as the gradient's would.
    content_NTH = jnp.swapaxes(content_BNLH, 0, 1).reshape(N, B * L, H)
    found_NTR = product("NTH,NRH->NTR", content_NTH, distance_NRH)
    return jnp.swapaxes(found_NTR.reshape(N, B, L, -1), 0, 1)
