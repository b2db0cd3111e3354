"""What every encoder must hold, on each family's tiny checkpoint: the NumPy twin, and padding that counts for nothing.

What only one family does has a file of its own. XLM-R is RoBERTa's code.
"""

import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_rotary_bert import config as rotary_config

from minisbert.encoders import FAMILIES, static
from minisbert.encoders.modernbert import FULL, LOCAL
from minisbert.errors import InputError
from minisbert.inference.compiled import cast_params
from minisbert.inference.program_costs import forward_flops
from minisbert.plain import RecordedAttention
from minisbert.pretrained import load_pretrained
from minisbert.reference import encoder as reference
from minisbert.testing import check_encoder
from minisbert.training.denoising import initial_decoder

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import SAME_CODE, TWINS, random_encoder, tiny

# Rounding of float64; 1e-14 is measured over the whole encoder.
FLOAT64 = 1e-10
# Token embeddings end in a layer norm and are up to 4 in size, where a float32 step is 2.4e-7; 1e-6 is measured.
FLOAT32 = 2e-6
# Of language models, whose sublayers add to a sum that only the end normalizes; up to 3.4e-6 is measured with AVX-512, 4.1e-6
# with AVX2 (Gemma, the worst of 12 draws of tokens).
FLOAT32_SUM = 5e-6

# The same for two shapes of one program, which sum in different orders; the mean of a sentence's tokens is tighter.
ACROSS_SHAPES = 5e-6
ACROSS_SHAPES_MEAN = 1e-6

# bfloat16 keeps 8 bits (see test_sentence_model.py); for the worst token 0.99994 is measured.
BFLOAT16_COSINE = 0.9998

LENGTHS_B = np.array([16, 9, 1, 5])
L = 16
MASK_BL = np.arange(L) < LENGTHS_B[:, None]


class Model:
    """One family's tiny checkpoint: its Config, parameters as NumPy, twin, padding token, and the compiled encoder.

    `hidden` and `score` are those of minisbert/testing.py, argument by argument: they are compiled once for both.
    """

    def __init__(self, family: str):
        pretrained = load_pretrained(tiny(family))
        self.family = family
        self.config = pretrained.model_config.encoder
        self.params = jax.tree.map(np.asarray, pretrained.params["encoder"])
        self.padding = pretrained.folder.config["pad_token_id"]
        definition, _ = nnx.split(self.encoder(np.float32))

        def hidden(params, ids_BL, mask_BL):
            return nnx.merge(definition, params)(ids_BL, mask_BL)[-1]

        def score(params, ids_BL, mask_BL, weight_BLD):
            return jnp.sum(weight_BLD * hidden(params, ids_BL, mask_BL))

        self._hidden, self._slopes = jax.jit(hidden), jax.jit(jax.grad(score))

    def run(self, token_ids_BL, mask_BL):
        return np.asarray(self._hidden(self.params, token_ids_BL.astype(np.int32), mask_BL))

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

    def slopes(self, weight_BLD, token_ids_BL, mask_BL):
        """The gradient of sum(weight_BLD * hidden_BLD) in every parameter."""
        return jax.tree.map(np.asarray, self._slopes(self.params, token_ids_BL, mask_BL, weight_BLD))


@cache
def load(family: str) -> Model:
    return Model(family)


@pytest.fixture(params=[family for family in TWINS if family not in SAME_CODE])
def model(request) -> Model:
    return load(request.param)


def rounding_of(model: Model) -> float:
    return FLOAT32_SUM if hasattr(model.config, "rms_norm_eps") else FLOAT32


def test_float32_is_the_twin_up_to_rounding(model):
    token_ids_BL = model.random_tokens()
    np.testing.assert_allclose(
        model.run(token_ids_BL, MASK_BL), model.twin(token_ids_BL, MASK_BL), rtol=0, atol=rounding_of(model)
    )


def test_the_longest_sentence_is_the_twins(model):
    mask_BL = np.ones((4, min(64, model.config.max_positions)), bool)  # T5 has no end
    token_ids_BL = model.random_tokens(mask_BL)
    np.testing.assert_allclose(
        model.run(token_ids_BL, mask_BL), model.twin(token_ids_BL, mask_BL), rtol=0, atol=rounding_of(model)
    )


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_each_block_is_the_twins(family):
    model = load(family)
    hidden_BLD = np.random.default_rng(1).normal(size=(len(LENGTHS_B), L, model.config.hidden_size))
    params64, bias = reference.float64(model.params), ()
    if family == "mpnet":
        bias = (reference.relative_position_bias(L, params64["relative_position_bias"]["table"]["embedding"]),)
    with jax.enable_x64(True):
        blocks = model.encoder(np.float64).blocks
        for i, block in enumerate(blocks):
            found = np.asarray(jax.jit(lambda *parts, block=block: block(*parts))(hidden_BLD, MASK_BL, *bias))
            hidden_BLD = reference.block(hidden_BLD, MASK_BL, params64["blocks"][i], model.config, *bias)
            np.testing.assert_allclose(found, hidden_BLD, rtol=0, atol=FLOAT64, err_msg=f"block {i}")
    assert len(blocks) == model.config.num_hidden_layers == len(model.params["blocks"])


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_padding_changes_nothing(family):
    """`check_encoder` asks it of every family; here up to the longest text, and within tighter bounds."""
    model = load(family)
    token_ids_BL = model.random_tokens()
    found, longer = model.run(token_ids_BL, MASK_BL), ((0, 0), (0, model.config.max_positions - L))
    padded = model.run(np.pad(token_ids_BL, longer, constant_values=model.padding), np.pad(MASK_BL, longer))[:, :L]
    np.testing.assert_allclose(padded[MASK_BL], found[MASK_BL], rtol=0, atol=ACROSS_SHAPES)
    means = [(x * MASK_BL[:, :, None]).sum(axis=1) / LENGTHS_B[:, None] for x in (padded, found)]
    np.testing.assert_allclose(*means, rtol=0, atol=ACROSS_SHAPES_MEAN)


def test_segments():
    """BERT's are the twin's; MPNet has none, whatever is given."""
    bert, mpnet = load("bert"), load("mpnet")
    token_ids_BL, segment_ids_BL = bert.random_tokens(), np.random.default_rng(0).integers(0, 2, MASK_BL.shape)
    with jax.enable_x64(True):
        encoder = bert.encoder(np.float64)
        found = np.asarray(jax.jit(lambda *parts: encoder(*parts)[-1])(token_ids_BL, MASK_BL, segment_ids_BL))
    expected = bert.twin(token_ids_BL, MASK_BL, segment_ids_BL)
    np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT64)
    assert np.abs(expected - bert.twin(token_ids_BL, MASK_BL)).max() > 0.1
    token_ids_BL, encoder = mpnet.random_tokens(), mpnet.encoder(np.float32)
    programs = [str(jax.make_jaxpr(encoder)(token_ids_BL, MASK_BL, x)) for x in (None, segment_ids_BL)]
    assert len(programs[0].splitlines()) == len(programs[1].splitlines())
    twins = [mpnet.twin(token_ids_BL, MASK_BL, x) for x in (None, segment_ids_BL)]
    np.testing.assert_array_equal(*twins)


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
    if model.family == "mpnet":  # a learned number per distance: all that occur, and no other, have a slope
        biases_R = np.abs(gradient["relative_position_bias"]["table"]["embedding"]).max(axis=1)
        assert set(np.flatnonzero(biases_R)) == set(np.unique(reference.relative_position_buckets(9)))
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


def config(family, **values):
    if family in ("nomic_bert", "new", "gte", "jina_embeddings_v3"):
        return rotary_config(family, **values)
    return FAMILIES[family].Config.from_json(json.loads((tiny(family) / "config.json").read_text()) | values)


NTK = {"rope_theta": 100, "rope_scaling": {"type": "ntk", "factor": 4.0}}
OTHERS = [
    ("albert", {"num_hidden_layers": 1}),
    ("roberta", {"type_vocab_size": 3, "num_hidden_layers": 1}),
    ("deberta-v2", {"share_att_key": False, "position_biased_input": True, "type_vocab_size": 2}),
    ("deberta-v2", {"pos_att_type": "c2p", "norm_rel_ebd": "none", "embedding_size": 10}),
    ("deberta-v2", {"pos_att_type": "p2c", "position_buckets": -1, "max_relative_positions": 5}),
    ("deberta-v2", {"pos_att_type": []}),
    ("modernbert", {"global_attn_every_n_layers": 1}),
    ("modernbert", {"global_attn_every_n_layers": 3, "local_attention": 5}),
    ("modernbert", {"layer_types": [LOCAL, FULL, LOCAL], "local_attention": 0}),
    ("modernbert", {"rope_parameters": {FULL: {"rope_theta": 10}, LOCAL: None}, "local_rope_theta": 500.0}),
    ("t5", {"feed_forward_proj": "relu"}),
    ("t5", {"relative_attention_num_buckets": 4, "relative_attention_max_distance": 3}),
    ("nomic_bert", {"activation_function": "geglu", "rotary_emb_base": 50}),
    ("new", NTK | {"type_vocab_size": 0}),
    ("gte", {"type_vocab_size": 2, "hidden_act": "gelu_new"}),
    ("jina_embeddings_v3", {"type_vocab_size": 2}),
]


@pytest.mark.parametrize(("family", "values"), OTHERS, ids=str)
def test_other_settings_are_the_twins(family, values):
    """Those that the tiny checkpoint does not have, on random weights; with segments where the family knows them."""
    chosen, twin = config(family, **values), TWINS[SAME_CODE.get(family, family)]
    model, params = random_encoder(FAMILIES[family], chosen)
    random = np.random.default_rng(0)
    token_ids_BL, mask_BL = random.integers(5, chosen.vocab_size, (2, 20)), np.arange(20) < np.array([20, 13])[:, None]
    plain = twin(params, chosen, token_ids_BL, mask_BL)
    np.testing.assert_allclose(model(token_ids_BL, mask_BL)[mask_BL], plain[mask_BL], rtol=0, atol=FLOAT32)
    if family == "modernbert":  # which has no tensor more or less for them
        assert np.abs(plain - twin(params, config(family), token_ids_BL, mask_BL))[mask_BL].max() > 1e-3
    if (kinds := getattr(chosen, "type_vocab_size", None)) is not None:
        segment_ids_BL = random.integers(0, max(2, kinds), (2, 20))
        expected = twin(params, chosen, token_ids_BL, mask_BL, segment_ids_BL)
        found = model(token_ids_BL, mask_BL, segment_ids_BL)
        np.testing.assert_allclose(found[mask_BL], expected[mask_BL], rtol=0, atol=FLOAT32)
        assert (np.abs(expected - plain).max() > 1e-3) == (kinds > 0)


NEEDED = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
DEFAULTS = {
    "albert": {
        **{"hidden_act": "gelu_new", "embedding_size": 128, "type_vocab_size": 2, "layer_norm_eps": 1e-12},
        **{"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0},
    },
    "roberta": {"pad_token_id": 1, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "modernbert": {
        **{"layer_types": (FULL, LOCAL, LOCAL), "global_rope_theta": 160_000, "local_rope_theta": 10_000},
        **{"local_attention": 128, "hidden_activation": "gelu", "norm_eps": 1e-5},
    },
}


@pytest.mark.parametrize("family", DEFAULTS)
def test_the_defaults_are_those_of_transformers(family):
    """What a config.json does not say; ALBERT's activation is the tanh approximation, not BERT's exact GELU."""
    settings = json.loads((tiny(family) / "config.json").read_text())
    found = FAMILIES[family].Config.from_json({key: settings[key] for key in (*NEEDED, "max_position_embeddings")})
    assert {name: getattr(found, name) for name in DEFAULTS[family]} == DEFAULTS[family]


DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
DROPOUTS = {
    "modernbert": dict.fromkeys(("embedding_dropout", "attention_dropout", "mlp_dropout"), 0.2),
    "t5": {"dropout_rate": 0.2},
    **dict.fromkeys(("deberta-v2", "nomic_bert", "gte", "jina_embeddings_v3"), DROPOUT),
}


@pytest.mark.parametrize("family", DROPOUTS)
def test_dropout_follows_each_sentences_key_alone(family):
    """In training: another key, another result; the same key, the same, whatever other sentences are in the batch."""
    chosen = config(family, **DROPOUTS[family])
    model, _ = random_encoder(FAMILIES[family], chosen)
    token_ids_BL = np.random.default_rng(0).integers(5, chosen.vocab_size, (3, 4))
    mask_BL = np.arange(4) < np.array([4, 1, 3])[:, None]
    keys_BL, others_BL = (jax.random.split(jax.random.key(seed), token_ids_BL.shape) for seed in (0, 1))
    found = model(token_ids_BL, mask_BL, None, keys_BL)
    backwards = model(token_ids_BL[::-1], mask_BL[::-1], None, keys_BL[::-1])[::-1]
    np.testing.assert_allclose(backwards[mask_BL], found[mask_BL], rtol=0, atol=ACROSS_SHAPES)
    assert np.abs(found - model(token_ids_BL, mask_BL, None, others_BL))[mask_BL].max() > 0.1


@pytest.mark.parametrize("family", [family for family in TWINS if family not in SAME_CODE])
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

    class Renamed(nnx.Module):
        def __init__(self, config, *, rngs):
            self.tok = nnx.Embed(config.vocab_size, config.hidden_size, rngs=rngs)

    family.Encoder = Renamed
    with pytest.raises(AssertionError, match="no `token_embedding`"):
        check_encoder(family, config)
    family.Encoder, family.RULES = static.Encoder, []
    with pytest.raises(AssertionError, match="the rules and the encoder differ in"):
        check_encoder(family, config)


def test_what_needs_the_names_of_the_other_families_says_so():
    with pytest.raises(InputError, match="no `attention` with a method `weights`"):
        RecordedAttention(None, [])
    with pytest.raises(InputError, match="the model has no token_embedding"):
        initial_decoder(jax.random.key(0), 4, 0, params={"encoder": {"tok": {"embedding": np.ones((5, 4))}}})
    # A plan counts the kernels of any name: 2 tokens, 2 * 16 for the kernel and 4 L D for attention.
    blocks, config = {0: {"mix": {"kernel": np.ones((4, 4))}}}, SimpleNamespace(hidden_size=4, num_hidden_layers=1)
    assert forward_flops({"encoder": {"blocks": blocks}}, config, 1, 2) == 2 * (2 * 16 + 4 * 2 * 4)
