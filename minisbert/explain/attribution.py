"""Where a cosine similarity comes from: the exact share of each pair of tokens.

    found = explain(encoder, "a man eats", "someone has a meal")
    found.contributions_QK.sum()              # the cosine

With mean pooling (SBERT section 3) u = sum_i t_i / n, so that

    cos(u, v) = u.v / (|u| |v|) = sum_ij  t_i.t_j / (n_a n_b |u| |v|)

where each term belongs to one token of a and one of b. The same is true whenever the embedding is a weighted sum of
token embeddings: for the poolings in `POOLING_WEIGHTS`, Dense modules without an activation, Normalize, and truncated
dimensions. Anything else (max pooling, a tanh) is rejected, because a nonlinear activation breaks the decomposition.

A token embedding depends on its whole sentence, so a term says nothing about a word alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from minisbert.arguments import check_text, embedding_rows, prompt_text
from minisbert.checkpoint.modules import Dense, LayerNorm, Normalize, Pooling, WeightedLayerPooling
from minisbert.errors import InputError, short_repr
from minisbert.sentence_encoder import SentenceEncoder

# Poolings that are weighted sums -> the weights of n tokens at positions p = 1, 2, ... The other poolings select tokens.
POOLING_WEIGHTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda p: np.full(len(p), 1 / max(len(p), 1)),
    "mean_sqrt_len_tokens": lambda p: np.full(len(p), max(len(p), 1) ** -0.5),
    "weightedmean": lambda p: p / max(p.sum(), 1),
}
SUM = 1e-5  # the most that the contributions may differ from the cosine; float32 gives 1e-7


class TokenPair(NamedTuple):
    """One term of the sum."""

    a: int  # index of the token in the first text
    b: int  # and in the second
    contribution: float


@dataclass(frozen=True)
class Explanation:
    """A cosine as a sum over pairs of tokens.

    Args:
        cosine: of the two embeddings as `encode` returns them; 0 with a zero vector.
        tokens_a, tokens_b: as the tokenizer writes them, special tokens included.
        contributions_QK: float64, one row per token of a, one column per token of b; they sum to the cosine.
    """

    cosine: float
    tokens_a: tuple[str, ...]
    tokens_b: tuple[str, ...]
    contributions_QK: np.ndarray = field(repr=False)

    def largest(self, count: int = 5) -> list[TokenPair]:
        """The terms of largest absolute value, largest first; ties keep their order.

        Example:
            >>> Explanation(0.5, ("a",), ("b", "c"), np.array([[0.75, -0.25]])).largest(1)
            [TokenPair(a=0, b=0, contribution=0.75)]
        """
        flat, width = self.contributions_QK.ravel(), len(self.tokens_b)
        order = np.argsort(-abs(flat), kind="stable")[:count]
        return [TokenPair(i // width, i % width, float(flat[i])) for i in order.tolist()]


def explain(encoder: SentenceEncoder, a: str, b: str) -> Explanation:
    """Decompose the cosine of two texts into the contributions of their pairs of tokens.

    Args:
        encoder: a model whose embedding is a weighted sum of token embeddings (see the head of this file); its default
            prompt is put before the texts, as `encode` does.
        a, b: one text each; a text longer than `max_seq_length` is cut, with a warning.

    Raises:
        InputError: not a SentenceEncoder, not text, a module that breaks the sum, or an embedding that is not finite.

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
    _check_modules(encoder)
    check_text("a", a)
    check_text("b", b)
    outputs = encoder.encode([a, b], output_value=None)
    u_D, v_D = embedding_rows("embeddings", [output["sentence_embedding"] for output in outputs]).astype(np.float64)
    tokens_a, tokens_b = (token_texts(encoder.tokenizer.backend, output["input_ids"]) for output in outputs)
    parts_QD, parts_KD = (_parts(encoder, output["token_embeddings"].astype(np.float64)) for output in outputs)
    cosine, contributions_QK = float(_cosines(u_D[None], v_D[None])[0, 0]), _cosines(parts_QD, parts_KD)
    if abs(contributions_QK.sum() - cosine) > SUM:
        raise InputError(
            f"the contributions sum to {contributions_QK.sum():.6f}, but the cosine is {cosine:.6f}. Expected them equal to "
            f"{SUM}: the model computes its embedding in another way or in bfloat16. Use float32, or another model."
        )
    return Explanation(cosine, tokens_a, tokens_b, contributions_QK)


def _check_modules(encoder: SentenceEncoder) -> None:
    """Raises InputError, naming the module, unless the embedding is a weighted sum of token embeddings."""
    for module in encoder.model_config.modules:
        found = None
        if isinstance(module, Pooling):
            mode = next((mode for mode in module.modes if mode not in POOLING_WEIGHTS), None)
            if mode is not None:
                found, expected = f"pooling is {mode!r}", f"one of {', '.join(map(repr, POOLING_WEIGHTS))}"
        elif isinstance(module, Dense) and module.activation != "identity":
            found, expected = f"Dense module has the activation {module.activation!r}", "'identity'"
        elif isinstance(module, LayerNorm):
            found, expected = "pooling is followed by a LayerNorm module", "none"
        elif not isinstance(module, Dense | Normalize | WeightedLayerPooling):
            found, expected = f"module {type(module).__name__} is not decomposed", "Dense or Normalize"
        if found:
            raise InputError(
                f"the model's {found}. Expected {expected}: otherwise the cosine is not a sum over pairs of tokens. Use "
                "another model."
            )


def _parts(encoder: SentenceEncoder, token_LD: np.ndarray) -> np.ndarray:
    """One row per token; the rows sum to the sentence embedding."""
    position_L = np.arange(1, len(token_LD) + 1)
    parts_LD, pooled_L = token_LD, np.ones(len(token_LD), bool)
    heads = iter(encoder.params.get("heads", {}).values())
    if encoder.model_config.pools_layers:
        next(heads)  # these token embeddings are already the mean of the layers
    for module in encoder.model_config.modules:
        if isinstance(module, Pooling):
            pooled_L = pooled_tokens(encoder, module, len(token_LD))
            weights_ML = np.zeros((len(module.modes), len(token_LD)))
            for row, mode in enumerate(module.modes):
                weights_ML[row, pooled_L] = POOLING_WEIGHTS[mode](position_L[pooled_L])
            parts_LD = np.concatenate([weight_L[:, None] * token_LD for weight_L in weights_ML], axis=1)
        elif isinstance(module, Dense):
            linear = {name: np.asarray(value, np.float64) for name, value in next(heads)["linear"].items()}
            # The bias belongs to no token: every pooled token gets the same share of it.
            bias_LE = np.outer(pooled_L / max(pooled_L.sum(), 1), linear.get("bias", 0))
            parts_LD = parts_LD @ linear["kernel"] + bias_LE
        elif isinstance(module, Normalize):
            parts_LD = parts_LD / max(np.linalg.norm(parts_LD.sum(axis=0)), 1e-12)
    return parts_LD[:, : encoder.get_embedding_dimension()]


def pooled_tokens(encoder: SentenceEncoder, pooling: Pooling, tokens: int) -> np.ndarray:
    """mask_L of the tokens that are pooled: all, or those after the default prompt."""
    prompt = prompt_text(None, None, encoder.prompts, encoder.default_prompt_name)
    length = encoder.tokenizer.prompt_length(prompt, max_length=encoder.max_seq_length) if prompt else 0
    return (np.arange(tokens) >= length) | pooling.include_prompt


def _cosines(parts_QD: np.ndarray, parts_KD: np.ndarray) -> np.ndarray:
    """Products of rows over the norms of the two sums; 0 with a zero vector."""
    norm = np.linalg.norm(parts_QD.sum(axis=0)) * np.linalg.norm(parts_KD.sum(axis=0))
    return np.asarray(parts_QD @ parts_KD.T / (norm if norm > 0 else 1))


def token_texts(backend: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Tokens as the tokenizer writes them."""
    return tuple(backend.id_to_token(int(id)) or f"#{int(id)}" for id in ids)
