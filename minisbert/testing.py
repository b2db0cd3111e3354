"""Conformance of an encoder family, for the tests of a family in this package or from outside it.

    check_encoder(family, config)

The encoder runs with random weights. What it must do is what the rest of the package relies on: padding never counts, texts
packed into one row do not see each other, gradients are finite and exactly 0 for padding, and its table of rules names every
parameter. An `AssertionError` says which of these fails.
"""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minisbert.checkpoint.convert import Converted, convert, export, flatten, table_for

LENGTHS_B = (16, 9, 1, 5)
# Two shapes of one program sum in other orders, in float32; relative to the largest entry.
ACROSS_SHAPES = 1e-5
# Rounding of float64.
TWIN = 1e-10


def check_encoder(
    family: ModuleType,
    config: Any,
    *,
    params: dict[Any, Any] | None = None,
    twin: Callable[..., np.ndarray] | None = None,
    padding_id: int = 0,
) -> None:
    """Check that a family is one like the others (encoders/bert.py), on a small Config of it.

    Args:
        family: what `register_encoder` takes.
        config: its Config, small enough to run here.
        params: its parameters, nested; by default random ones.
        twin: the same encoder in NumPy: (params, config, token_ids_BL, mask_BL) -> hidden_BLD, compared in float64.
        padding_id: the token that pads texts.

    Raises:
        AssertionError: naming the property that does not hold, and by how much.

    Example:
        >>> from minisbert.encoders import static
        >>> check_encoder(static, static.Config(vocab_size=30, hidden_size=8))
    """
    definition, abstract = nnx.split(nnx.eval_shape(lambda: family.Encoder(config, rngs=nnx.Rngs(0))))
    if params is None:
        params = nnx.to_pure_dict(nnx.state(family.Encoder(config, rngs=nnx.Rngs(0))))
    params = jax.tree.map(np.asarray, params)
    named = "embedding" in params.get("token_embedding", {})
    assert named, (
        "the encoder has no `token_embedding` with an `embedding`: the table of tokens has this name in all families"
    )
    _check_rules(family, config, params, nnx.to_pure_dict(abstract))

    def hidden(params: Any, ids_BL: Any, mask: Any, positions_BL: Any = None) -> jax.Array:
        layers: list[jax.Array] = nnx.merge(definition, params)(ids_BL, mask, positions_BL=positions_BL)
        return layers[-1]

    run = jax.jit(hidden)
    mask_BL = np.arange(max(LENGTHS_B)) < np.array(LENGTHS_B)[:, None]
    random = np.random.default_rng(0)
    others = np.delete(np.arange(config.vocab_size), padding_id)
    ids_BL = np.where(mask_BL, random.choice(others, mask_BL.shape), padding_id).astype(np.int32)
    expected = np.asarray(run(params, ids_BL, mask_BL))
    assert expected.shape == (*ids_BL.shape, config.hidden_size), f"the last layer has shape {expected.shape}"

    noisy = np.where(mask_BL, ids_BL, random.choice(others, mask_BL.shape)).astype(np.int32)
    found = np.asarray(run(params, noisy, mask_BL))
    assert np.array_equal(found[mask_BL], expected[mask_BL]), "other tokens in the padding change a text"
    wider = [(0, 0), (0, 8)]
    found = np.asarray(run(params, np.pad(ids_BL, wider, constant_values=padding_id), np.pad(mask_BL, wider)))
    _close(found[:, : ids_BL.shape[1]][mask_BL], expected[mask_BL], "more padding changes a text")

    for text, packed in _packed(run, params, ids_BL):
        _close(packed, expected[text, : LENGTHS_B[text]], f"text {text} sees other texts of its packed row")
    _check_gradient(hidden, params, ids_BL, mask_BL, padding_id)
    if twin is not None:
        with jax.enable_x64(True):
            encoder = nnx.eval_shape(lambda: family.Encoder(config, dtype=jnp.float64, rngs=nnx.Rngs(0)))
            wide = nnx.merge(nnx.split(encoder)[0], jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params))
            found = np.asarray(jax.jit(lambda ids, mask: wide(ids, mask)[-1])(ids_BL, mask_BL))
        off = float(np.abs(found - twin(params, config, ids_BL, mask_BL))[mask_BL].max())
        assert off <= TWIN, f"the twin differs by {off:.1e}, more than {TWIN}"


def _packed(run: Any, params: Any, ids_BL: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The token embeddings of each text in one row of all texts."""
    text_L = np.repeat(np.arange(len(LENGTHS_B)), LENGTHS_B)
    position_L = np.concatenate([np.arange(length) for length in LENGTHS_B])
    mask_QK = text_L[:, None] == text_L
    row = run(params, ids_BL[text_L, position_L][None], mask_QK[None], position_L[None].astype(np.int32))
    for text in range(len(LENGTHS_B)):
        yield text, np.asarray(row)[0, text_L == text]


def _check_gradient(hidden: Any, params: Any, ids_BL: np.ndarray, mask_BL: np.ndarray, padding_id: int) -> None:
    def score(params: Any, ids_BL: jax.Array, mask_BL: jax.Array, weight_BLD: jax.Array) -> jax.Array:
        return jnp.sum(weight_BLD * hidden(params, ids_BL, mask_BL))

    slopes, shape = jax.jit(jax.grad(score)), jax.eval_shape(hidden, params, ids_BL, mask_BL).shape
    weight_BLD = np.random.default_rng(1).normal(size=shape)
    weight_BLD = weight_BLD.astype(np.float32) * mask_BL[:, :, None]
    gradient = slopes(params, ids_BL, mask_BL, weight_BLD)
    tokens_VD = np.asarray(gradient["token_embedding"]["embedding"])
    assert not tokens_VD[padding_id].any(), "the padding token has a gradient"
    assert tokens_VD[np.unique(ids_BL[mask_BL])].any(axis=1).all(), "a token of a text has no gradient"
    empty_BL = mask_BL.copy()
    empty_BL[1] = False
    for part in (gradient, slopes(params, ids_BL, empty_BL, weight_BLD)):
        for path, slope in jax.tree.leaves_with_path(part):
            assert np.isfinite(slope).all(), f"the gradient of {jax.tree_util.keystr(path)} is not finite"


class _InMemory:
    """Tensors as `convert` reads them."""

    where = "the parameters"

    def __init__(self, tensors: dict[str, np.ndarray]):
        self.tensors = tensors

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.tensors.items()}

    def read(self, name: str) -> np.ndarray:
        return self.tensors[name]


def _check_rules(family: ModuleType, config: Any, params: Any, abstract: Any) -> None:
    table = table_for(family.RULES, config)
    shapes = {rule.path: rule.shape for rule in table}
    built = {name: leaf.shape for name, leaf in flatten(abstract).items()}
    assert shapes == built, f"the rules and the encoder differ in {sorted(dict(shapes.items() ^ built.items()))}"
    ours = flatten(params)
    again = convert(_InMemory(export(Converted(ours), table)), table).params
    changed = [name for name in ours if not np.array_equal(ours[name], again[name])]
    assert not changed, f"saved and loaded, these parameters differ: {changed}"


def _close(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    off = float(np.abs(found - expected).max() / np.abs(expected).max())
    assert off <= ACROSS_SHAPES, f"{what}: by {off:.1e} of the largest entry, more than {ACROSS_SHAPES}"
