"""What every encoder must hold, on each family's tiny checkpoint: the NumPy twin, and padding that counts for nothing.

BERT and MPNet, the first two, have files of their own; so has what only one family does. XLM-R is RoBERTa's code.
"""

import sys
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minisbert.encoders import FAMILIES, static
from minisbert.inference.compiled import cast_params
from minisbert.pretrained import load_pretrained
from minisbert.testing import check_encoder

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import TWINS, tiny

NEWER = [family for family in TWINS if family not in ("bert", "mpnet", "xlm-roberta")]

# Rounding of float64; 1e-14 is measured over the whole encoder.
FLOAT64 = 1e-10
# Token embeddings end in a layer norm and are up to 4 in size, where a float32 step is 2.4e-7; 1e-6 is measured.
FLOAT32 = 2e-6
# Of the longest sentence in language models, whose sublayers add to a sum that only the end normalizes; 3.4e-6 is measured.
FLOAT32_SUM = 5e-6

# bfloat16 keeps 8 bits (see test_sentence_model.py); for the worst token 0.99994 is measured.
BFLOAT16_COSINE = 0.9998

LENGTHS_B = np.array([16, 9, 1, 5])
L = 16
MASK_BL = np.arange(L) < LENGTHS_B[:, None]


class Model:
    """One family's tiny checkpoint: its Config, parameters as NumPy, twin, padding token, and the compiled encoder."""

    def __init__(self, family: str):
        pretrained = load_pretrained(tiny(family))
        self.family = family
        self.config = pretrained.model_config.encoder
        self.params = jax.tree.map(np.asarray, pretrained.params["encoder"])
        self.padding = pretrained.folder.config["pad_token_id"]
        model = self.encoder(np.float32)
        compiled = jax.jit(lambda *parts: model(*parts)[-1])
        self.run = lambda ids_BL, mask_BL: np.asarray(compiled(ids_BL.astype(np.int32), mask_BL))

    def encoder(self, dtype, params=None):
        """The JAX encoder computing in `dtype`, with the checkpoint's parameters in it or with those given."""
        code = FAMILIES[self.family]
        definition, _ = nnx.split(nnx.eval_shape(lambda: code.Encoder(self.config, dtype=dtype, rngs=nnx.Rngs(0))))
        return nnx.merge(definition, params or jax.tree.map(lambda x: jnp.asarray(x, dtype), self.params))

    def twin(self, token_ids_BL, mask_BL, *more):
        return TWINS[self.family](self.params, self.config, token_ids_BL, mask_BL, *more)

    def random_tokens(self, mask_BL=MASK_BL):
        """token_ids_BL; the padding token is in the padding and nowhere else."""
        token_ids_BL = np.random.default_rng(0).integers(5, self.config.vocab_size, mask_BL.shape)
        token_ids_BL = np.where(token_ids_BL == self.padding, 5 if self.padding != 5 else 6, token_ids_BL)
        return np.where(mask_BL, token_ids_BL, self.padding).astype(np.int32)

    @cached_property
    def slopes(self):
        """weight_BLD, token_ids_BL, mask_BL -> the gradient of sum(weight_BLD * hidden_BLD) in every parameter."""
        definition, state = nnx.split(self.encoder(np.float32))

        def score(params, weight_BLD, token_ids_BL, mask_BL):
            return jnp.sum(weight_BLD * nnx.merge(definition, params)(token_ids_BL, mask_BL)[-1])

        compiled = jax.jit(jax.grad(score))
        return lambda *parts: jax.tree.map(np.asarray, compiled(nnx.to_pure_dict(state), *parts))


@cache
def load(family: str) -> Model:
    return Model(family)


@pytest.fixture(params=NEWER)
def model(request) -> Model:
    return load(request.param)


def test_the_whole_encoder_is_the_twins(model):
    token_ids_BL = model.random_tokens()
    with jax.enable_x64(True):
        encoder = model.encoder(np.float64)
        found = np.asarray(jax.jit(lambda *parts: encoder(*parts)[-1])(token_ids_BL, MASK_BL))
    assert found.dtype == np.float64
    # Padding too: its numbers mean nothing, but the two programs compute the same.
    np.testing.assert_allclose(found, model.twin(token_ids_BL, MASK_BL), rtol=0, atol=FLOAT64)


def test_float32_is_the_twin_up_to_rounding(model):
    token_ids_BL = model.random_tokens()
    np.testing.assert_allclose(
        model.run(token_ids_BL, MASK_BL), model.twin(token_ids_BL, MASK_BL), rtol=0, atol=FLOAT32
    )


def test_the_longest_sentence_is_the_twins(model):
    mask_BL = np.ones((4, min(64, model.config.max_positions)), bool)  # T5 has no end
    token_ids_BL = model.random_tokens(mask_BL)
    atol = FLOAT32_SUM if hasattr(model.config, "rms_norm_eps") else FLOAT32
    np.testing.assert_allclose(model.run(token_ids_BL, mask_BL), model.twin(token_ids_BL, mask_BL), rtol=0, atol=atol)


def test_the_gradient_with_respect_to_padding_is_exactly_zero(model):
    mask_BL = MASK_BL.copy()
    mask_BL[0, 9:] = False  # at most 9 tokens
    token_ids_BL = model.random_tokens(mask_BL)
    weight_BLD = np.random.default_rng(2).normal(size=(*mask_BL.shape, model.config.hidden_size)) * mask_BL[:, :, None]
    gradient = model.slopes(weight_BLD.astype(np.float32), token_ids_BL, mask_BL)
    tokens_VD = gradient["token_embedding"]["embedding"]
    assert np.abs(tokens_VD[model.padding]).max() == 0
    assert np.abs(tokens_VD[np.unique(token_ids_BL[mask_BL])]).max(axis=1).min() > 0
    if "position_embedding" in gradient:
        positions_LD = gradient["position_embedding"]["embedding"]
        first = model.config.max_position_embeddings - model.config.max_positions  # rows before it have no positions
        assert np.abs(positions_LD[first : first + 9]).max(axis=1).min() > 0
        assert np.abs(np.delete(positions_LD, slice(first, first + 9), axis=0)).max() == 0
    # Every other parameter takes part: nothing was read and then left out of the computation. (The bias of the keys
    # adds the same to all scores of a query, which softmax does not see; it is added to two others.)
    for path, slope in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.abs(slope).max() > 0, path
    # A row of nothing but padding gives no NaN, neither itself nor in any slope.
    mask_BL[1] = False
    assert np.isfinite(model.run(token_ids_BL, mask_BL)).all()
    weight_BLD = np.random.default_rng(2).normal(size=weight_BLD.shape).astype(np.float32)
    for slope in jax.tree.leaves(model.slopes(weight_BLD, token_ids_BL, mask_BL)):
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("family", ["albert", "modernbert"])  # the others are BERT's blocks and nothing more
def test_bfloat16_products_are_near(family):
    """As `compute_dtype="bfloat16"` computes: matrices of the blocks cast, everything around them float32."""
    model = load(family)
    token_ids_BL = model.random_tokens()
    params = cast_params({"encoder": model.params}, jnp.bfloat16)["encoder"]
    encoder = model.encoder(jnp.bfloat16, params)
    found = jax.jit(lambda *parts: encoder(*parts)[-1])(token_ids_BL, MASK_BL)
    assert found.dtype == jnp.float32
    expected = model.run(token_ids_BL, MASK_BL)
    norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    cosines = ((np.asarray(found) * expected).sum(axis=-1) / norms)[MASK_BL]
    assert BFLOAT16_COSINE < cosines.min() < 1 - 1e-8


def test_word_order_matters(model):
    token_ids_BL = model.random_tokens()
    there, back = model.run(token_ids_BL, MASK_BL)[0], model.run(token_ids_BL[:, ::-1], MASK_BL)[0, ::-1]
    assert np.abs(there - back).max() > 0.1


@pytest.mark.parametrize("family", TWINS)
def test_conformance(family):
    """Padding, packing, gradients, checkpoints and the twin."""
    model = load(family)
    code = FAMILIES[load_pretrained(tiny(family)).model_config.model_type]
    check_encoder(code, model.config, params=model.params, twin=TWINS[family], padding_id=model.padding)


BROKEN = {
    "other tokens in the padding change a text": lambda hidden, ids, mask: hidden + (ids * 1e-3).sum(1)[:, None, None],
    "more padding changes a text": lambda hidden, ids, mask: hidden * ids.shape[1],
    "sees other texts": lambda hidden, ids, mask: hidden + (mask.ndim == 3),
}


def test_what_breaks_a_family_is_named():
    config = static.Config(vocab_size=30, hidden_size=8)
    for message, change in BROKEN.items():

        class Broken(static.Encoder):
            def __call__(self, ids, mask, *args, change=change, **options):
                return [change(super().__call__(ids, mask, *args, **options)[-1], ids, mask)]

        family = ModuleType("broken")
        vars(family).update(vars(static), Encoder=Broken)
        with pytest.raises(AssertionError, match=message):
            check_encoder(family, config)
    family.Encoder, family.RULES = static.Encoder, []
    with pytest.raises(AssertionError, match="the rules and the encoder differ in"):
        check_encoder(family, config)
