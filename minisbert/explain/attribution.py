"""Inside a similarity: which pairs of tokens a cosine comes from, and what every head of every layer looks at.

    found = explain(encoder, "a man eats", "someone has a meal")
    found.contributions_QK.sum()              # the cosine, exactly: it is a sum over pairs of tokens
    sentence_attention(encoder, "a man eats").weights_YNQK[5, 3]       # layer 6, head 4: who looks at whom
    cross_encoder_attention(cross_encoder, "a man eats", "someone has a meal")  # the same of both texts read together

With mean pooling (SBERT section 3) u = sum_i t_i / n, so that

    cos(u, v) = u.v / (|u| |v|) = sum_ij  t_i.t_j / (n_a n_b |u| |v|)

and one term is what a token of a gives together with one of b. The same holds wherever the embedding is a weighted sum of
token embeddings: `SHARES` says for which poolings; Dense modules without an activation, Normalize and a cut of the
dimensions keep it. What is not such a sum (max pooling, a tanh) is refused: there is no one way to divide it.

A token embedding has seen its whole sentence, so a term is no statement about a word alone; and attention tells where a
layer looked, not why (Jain & Wallace 2019, "Attention is not Explanation"; Wiegreffe & Pinter 2019 answer it).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minisbert.arguments import check_text, embedding_rows, prompt_text
from minisbert.checkpoint.modules import Dense, LayerNorm, Normalize, Pooling
from minisbert.cross_encoder.encoder import CrossEncoder
from minisbert.cross_encoder.model import define_cross_encoder
from minisbert.errors import InputError, short_repr
from minisbert.inference.batching import rectangle
from minisbert.inference.compiled import COMPUTE_DTYPES
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.sentence_model import define
from minisbert.transformer.attention import scaled_dot_product_attention
from minisbert.transformer.positions import rotate
from minisbert.transformer.prenorm import RotarySelfAttention

# Poolings that are weighted sums -> the weights of n tokens at positions p = 1, 2, ... The others take single tokens or
# numbers of theirs, and leave nothing to divide.
SHARES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda p: np.full(len(p), 1 / max(len(p), 1)),
    "mean_sqrt_len_tokens": lambda p: np.full(len(p), max(len(p), 1) ** -0.5),
    "weightedmean": lambda p: p / max(p.sum(), 1),
}


class TokenPair(NamedTuple):
    """One term of the sum."""

    a: int  # which token of the first text
    b: int  # and of the second
    contribution: float


@dataclass(frozen=True)
class Explanation:
    """A cosine as a sum over pairs of tokens.

    Args:
        cosine: of the two embeddings as `encode` gives them; 0 with a zero vector.
        tokens_a, tokens_b: as the tokenizer writes them, the special ones included.
        contributions_QK: float64, a row for each token of a, a column for each of b; they sum to the cosine.
    """

    cosine: float
    tokens_a: tuple[str, ...]
    tokens_b: tuple[str, ...]
    contributions_QK: np.ndarray = field(repr=False)

    def largest(self, count: int = 5) -> list[TokenPair]:
        """The terms that raise or lower the cosine most, the largest first; of equal ones the earlier.

        Example:
            >>> Explanation(0.5, ("a",), ("b", "c"), np.array([[0.75, -0.25]])).largest(1)
            [TokenPair(a=0, b=0, contribution=0.75)]
        """
        flat = self.contributions_QK.ravel()
        best = np.argsort(-abs(flat), kind="stable")[:count]
        width = len(self.tokens_b)
        return [TokenPair(i // width, i % width, float(flat[i])) for i in best.tolist()]


class Attention(NamedTuple):
    """How much each token (query) takes from each other one (key), in every layer and head; the rows sum to 1."""

    tokens: tuple[str, ...]
    weights_YNQK: np.ndarray  # float32; Y layers, N heads


def explain(encoder: SentenceEncoder, a: str, b: str) -> Explanation:
    """The cosine of two texts, divided among the pairs of their tokens.

    Args:
        encoder: a model whose embedding is a weighted sum of token embeddings (see the file's head); its default prompt is
            put before the texts, as `encode` does.
        a, b: one text each; what is longer than `max_seq_length` is cut, with a warning.

    Raises:
        InputError: not a SentenceEncoder, not text, or a module that makes no such sum, named; an embedding is not finite.

    Example:
        >>> found = explain(SentenceEncoder.load("weights/tiny-bert"), "a cat", "a dog")
        >>> found.contributions_QK.shape, bool(abs(found.contributions_QK.sum() - found.cosine) < 1e-6)
        ((4, 4), True)
    """
    if not isinstance(encoder, SentenceEncoder):
        raise InputError(
            f"encoder is {short_repr(encoder)}. Expected a SentenceEncoder; a cross-encoder has no embeddings."
        )
    encoder = encoder.route()
    refuse_unsummed(encoder)
    check_text("a", a)
    check_text("b", b)
    outputs = encoder.encode([a, b], output_value=None)
    embeddings = embedding_rows("embeddings", [output["sentence_embedding"] for output in outputs])
    u_D, v_D = embeddings.astype(np.float64)
    tokens_a, tokens_b = (token_texts(encoder.tokenizer.backend, output["input_ids"]) for output in outputs)
    parts_QD, parts_KD = (_parts(encoder, output["token_embeddings"]) for output in outputs)
    return Explanation(
        _over(u_D @ v_D, np.linalg.norm(u_D) * np.linalg.norm(v_D)),
        tokens_a,
        tokens_b,
        _over(parts_QD @ parts_KD.T, np.linalg.norm(parts_QD.sum(axis=0)) * np.linalg.norm(parts_KD.sum(axis=0))),
    )


def refuse_unsummed(encoder: SentenceEncoder) -> None:
    """Raises InputError, naming the module, for a model whose embedding is no weighted sum of token embeddings."""
    for module in encoder.model_config.modules:
        if isinstance(module, Pooling):
            name = next((mode for mode in module.modes if mode not in SHARES), None)
            if name is not None:
                raise InputError(
                    f"the model's pooling is {name!r}, which is no weighted sum of all tokens. Expected "
                    f"{', '.join(map(repr, SHARES))}; its cosine cannot be divided among pairs of tokens."
                )
        elif isinstance(module, Dense) and module.activation != "identity":
            raise InputError(
                f"the model has a Dense module with the activation {module.activation!r}. Expected none ('identity'): a "
                "curve of a sum is no sum, and the cosine cannot be divided among pairs of tokens."
            )
        elif isinstance(module, LayerNorm):
            raise InputError(
                "the model has a LayerNorm module after its pooling. Expected none: what it divides by depends on all "
                "tokens at once, and the cosine cannot be divided among pairs of them."
            )


def _parts(encoder: SentenceEncoder, token_LD: np.ndarray) -> np.ndarray:
    """What each token gives to the sentence embedding: rows that sum to it, float64."""
    token_LD = token_LD.astype(np.float64)
    length = len(token_LD)
    prompt = prompt_text(None, None, encoder.prompts, encoder.default_prompt_name)
    skipped = encoder.tokenizer.prompt_length(prompt, max_length=encoder.max_seq_length) if prompt else 0
    parts_LD, counted_L = token_LD, np.ones(length, bool)
    heads = iter(encoder.forward.params.get("heads", {}).values())
    if encoder.model_config.pools_layers:
        next(heads)  # done before: these token embeddings are the mean of the layers
    for module in encoder.model_config.modules:
        if isinstance(module, Pooling):
            position_L = np.arange(1, length + 1)
            counted_L = (position_L > skipped) | module.include_prompt
            shares_ML = np.zeros((len(module.modes), length))
            for row, mode in enumerate(module.modes):
                shares_ML[row, counted_L] = SHARES[mode](position_L[counted_L])
            parts_LD = np.concatenate([share_L[:, None] * token_LD for share_L in shares_ML], axis=1)
        elif isinstance(module, Dense):
            linear = {name: np.asarray(value, np.float64) for name, value in next(heads)["linear"].items()}
            # The bias belongs to no token; every one that counts is given the same share of it.
            bias_LE = np.outer(counted_L / max(counted_L.sum(), 1), linear.get("bias", 0))
            parts_LD = parts_LD @ linear["kernel"] + bias_LE
        elif isinstance(module, Normalize):
            parts_LD = parts_LD / max(np.linalg.norm(parts_LD.sum(axis=0)), 1e-12)
    return parts_LD[:, : encoder.get_embedding_dimension()]


def _over(numbers: Any, length: Any) -> Any:
    """Divided by a length, and 0 where that is 0."""
    return numbers / length if length > 0 else numbers * 0.0


def token_texts(backend: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Tokens as the tokenizer writes them."""
    return tuple(backend.id_to_token(int(one)) or f"#{int(one)}" for one in ids)


# --- attention -----------------------------------------------------------------------------------------------------


def sentence_attention(encoder: SentenceEncoder, text: str) -> Attention:
    """Who looks at whom in one text, as the model reads it.

    Raises:
        InputError: not a SentenceEncoder, or not text.

    Example:
        >>> found = sentence_attention(SentenceEncoder.load("weights/tiny-bert"), "a cat")
        >>> found.tokens, found.weights_YNQK.shape
        (('[CLS]', 'a', 'cat', '[SEP]'), (2, 4, 4, 4))
    """
    if not isinstance(encoder, SentenceEncoder):
        raise InputError(
            f"encoder is {short_repr(encoder)}. Expected a SentenceEncoder; for pairs take cross_encoder_attention."
        )
    encoder = encoder.route()
    if encoder.model_config.model_type == "static":
        raise InputError("a static model has no attention: its embedding is the mean of its tokens' own.")
    check_text("text", text)
    prompt = prompt_text(None, None, encoder.prompts, encoder.default_prompt_name)
    (ids,) = encoder.tokenizer.tokenize([text], max_length=encoder.max_seq_length, prompt=prompt).ids
    definition, _ = define(encoder.model_config, COMPUTE_DTYPES[encoder.compute_dtype])
    return Attention(token_texts(encoder.tokenizer.backend, ids), _weights(encoder, definition, ids, len(ids)))


def cross_encoder_attention(model: CrossEncoder, a: str, b: str) -> Attention:
    """The same for two texts that a cross-encoder reads in one row: here tokens of a look at tokens of b.

    Raises:
        InputError: not a CrossEncoder, or not text.

    Example:
        >>> cross_encoder_attention(CrossEncoder.from_encoder("weights/tiny-bert"), "a cat", "a dog").tokens
        ('[CLS]', 'a', 'cat', '[SEP]', 'a', 'dog', '[SEP]')
    """
    if not isinstance(model, CrossEncoder):
        raise InputError(
            f"model is {short_repr(model)}. Expected a CrossEncoder; for one text take sentence_attention."
        )
    check_text("a", a)
    check_text("b", b)
    tokens = model.tokenize([(a, b)])
    (ids,), (first_length,) = tokens.ids, tokens.first_lengths
    definition, _ = define_cross_encoder(model.model_config, COMPUTE_DTYPES[model.compute_dtype])
    texts = token_texts(model.tokenizer.tokenizer.backend, ids)
    return Attention(texts, _weights(model, definition, ids, first_length))


def _weights(model: Any, definition: Any, ids: Sequence[int], first_length: int) -> np.ndarray:
    """weights_YNQK of one row of tokens, segment 0 up to `first_length`."""
    L = model.shapes.length(len(ids), model.pretrained.max_positions)
    batch = rectangle([(0, ids)], 1, L, model.padding_id)
    arguments = (model.forward.params, batch.token_ids_BL, batch.lengths_B, np.int32(first_length))
    weights_YNQK = _watch(definition, model.compute_dtype)(*arguments)
    return np.asarray(weights_YNQK)[:, :, : len(ids), : len(ids)]


@cache
def _watch(definition: Any, compute_dtype: str) -> Callable[..., jax.Array]:
    """The encoder of a model, of any family, run once for what its attention weighs."""

    @jax.jit
    def weights(params: Any, token_ids_BL: jax.Array, lengths_B: jax.Array, first_length: jax.Array) -> jax.Array:
        encoder = nnx.merge(definition, params).encoder
        seen: list[jax.Array] = []
        for block in encoder.blocks:  # ALBERT has one, which runs once a layer
            block.attention = _Watched(block.attention, seen.append)
        position_BL = jnp.arange(token_ids_BL.shape[1])[None]
        with jax.default_matmul_precision("highest" if compute_dtype == "float32" else "default"):
            encoder(token_ids_BL, position_BL < lengths_B[:, None], (position_BL >= first_length).astype(jnp.int32))
        return jnp.concatenate(seen)  # of one row each

    return weights


class _Watched:
    """An attention module that tells its weights on the way."""

    def __init__(self, attention: Any, tell: Callable[[jax.Array], None]):
        self.attention, self.tell = attention, tell

    def __call__(self, hidden_BLD: jax.Array, mask_BL: jax.Array, *parts: Any) -> jax.Array:
        attention, (B, L, D) = self.attention, hidden_BLD.shape
        qkv_BL3NH = attention.qkv(hidden_BLD).reshape(B, L, 3, attention.heads, D // attention.heads)
        query_BNLH, key_BNLH, _ = jnp.transpose(qkv_BL3NH, (2, 0, 3, 1, 4))
        rotary = isinstance(attention, RotarySelfAttention)
        if rotary:
            query_BNLH, key_BNLH = rotate(query_BNLH, *parts[0]), rotate(key_BNLH, *parts[0])
        bias_NQK = parts[1] if rotary else parts[0]
        # Attention is a weighted mean of the values. Where each token's value names the token (1 at its place, else 0),
        # that mean is the weights themselves.
        name_BNLL = jnp.broadcast_to(jnp.eye(L), (B, attention.heads, L, L))
        weights_BNQK = scaled_dot_product_attention(query_BNLH, key_BNLH, name_BNLL, mask_BL, bias_NQK)
        self.tell(weights_BNQK)
        return attention(hidden_BLD, mask_BL, *parts)
