"""Contributions that sum to the cosine, and attention weights, against the NumPy twin and, for real models, the cosine."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from minisbert import CrossEncoder, DownloadError, InputError, SentenceEncoder
from minisbert.checkpoint import modules as parts
from minisbert.checkpoint.modules import POOLING_MODES
from minisbert.explain.attention import cross_encoder_attention, sentence_attention
from minisbert.explain.attribution import POOLING_WEIGHTS, explain
from minisbert.explain.follow import follow
from minisbert.reference import deberta, grouped, t5
from minisbert.reference import encoder as twin

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import TWINS, tiny

# The sum is made in float64 of the float32 token embeddings that the model pools in float32; 7e-8 is measured.
TOLERANCE = 1e-6
# Weights up to 1 from float32 scores against the twin's in float64; 1e-6 is measured.
FLOAT32 = 5e-6
TEXTS = [
    ("a man plays the guitar", "the woman sings at night"),
    ("a cat", "a cat"),
    ("", "é 中 [SEP] cats"),
    ("word " * 70, "a dog"),
]


def test_contributions_are_the_definition():
    """By hand: t_i.t_j / (n_a n_b |u| |v|), from what `encode` returns."""
    encoder = SentenceEncoder.load(tiny("bert"))
    a, b = (
        np.asarray(rows, np.float64) for rows in encoder.encode(["a cat", "the dog"], output_value="token_embeddings")
    )
    found = explain(encoder, "a cat", "the dog")
    assert found.tokens_a == ("[CLS]", "a", "cat", "[SEP]") and found.tokens_b == ("[CLS]", "the", "dog", "[SEP]")
    for i in range(4):
        for j in range(4):
            lengths = np.linalg.norm(a.mean(axis=0)) * np.linalg.norm(b.mean(axis=0))
            assert found.contributions_QK[i, j] == pytest.approx(a[i] @ b[j] / (4 * 4 * lengths), abs=1e-15)


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_contributions_sum_to_the_cosine(family):
    encoder = SentenceEncoder.load(tiny(family))
    for a, b in TEXTS:
        found = explain(encoder, a, b)
        cosine = float(encoder.similarity(*encoder.encode([a, b])[:, None]).item())
        assert abs(found.contributions_QK.sum() - cosine) < TOLERANCE
        assert found.cosine == pytest.approx(cosine, abs=TOLERANCE)
        assert found.contributions_QK.shape == (len(found.tokens_a), len(found.tokens_b))


def with_modules(*modules, prompts=None, truncate_dim=None) -> SentenceEncoder:
    """tiny-bert with other modules after the transformer; Dense ones with random weights and biases."""
    encoder = SentenceEncoder.load(tiny("bert"))
    rng = np.random.default_rng(0)
    dense = {
        i: {
            "linear": {
                "kernel": rng.normal(size=(m.in_features, m.out_features)).astype(np.float32),
                **({"bias": rng.normal(size=m.out_features).astype(np.float32)} if m.bias else {}),
            }
        }
        for i, m in enumerate(m for m in modules if isinstance(m, parts.Dense))
    }
    model_config = replace(encoder.model_config, modules=modules)
    settings = replace(
        encoder.pretrained.folder,
        modules=modules,
        prompts=prompts or {},
        default_prompt_name=next(iter(prompts)) if prompts else None,
        truncate_dim=truncate_dim,
    )
    params = {"encoder": encoder.pretrained.params["encoder"], **({"heads": dense} if dense else {})}
    params = jax.tree.map(jax.numpy.asarray, params)
    return SentenceEncoder(replace(encoder.pretrained, model_config=model_config, folder=settings, params=params))


DENSE = parts.Dense(32, 16, activation="identity")
CHAINS = {
    "sqrt": (parts.Pooling(("mean_sqrt_len_tokens",)),),
    "weighted": (parts.Pooling(("weightedmean",)),),
    "two poolings": (parts.Pooling(("mean", "weightedmean")),),
    "dense": (parts.Pooling(), DENSE),
    "dense without bias": (parts.Pooling(), replace(DENSE, bias=False), parts.Normalize()),
    "normalize first": (parts.Pooling(), parts.Normalize(), DENSE, replace(DENSE, in_features=16, out_features=8)),
    "without prompt": (parts.Pooling(include_prompt=False), DENSE),
}


@pytest.mark.parametrize("name", CHAINS)
def test_every_chain_that_is_a_weighted_sum(name):
    """`cosine` comes from the embeddings that the compiled model returns, with `truncate_dim` applied last."""
    prompts = {"any": "the man "} if "prompt" in name else None
    encoder = with_modules(*CHAINS[name], prompts=prompts, truncate_dim=5 if "bias" in name else None)
    found = explain(encoder, "a cat", "the dog by the sea")
    assert abs(found.contributions_QK.sum() - found.cosine) < TOLERANCE
    if prompts:
        assert found.tokens_a[:4] == ("[CLS]", "the", "man", "a")
        assert (found.contributions_QK[:3] == 0).all() and (found.contributions_QK[:, :3] == 0).all()
        assert (found.contributions_QK[3:, 3:] != 0).all()


@pytest.mark.parametrize("include_prompt", [True, False])
def test_a_trace_pools_what_encode_pools(include_prompt):
    encoder = with_modules(parts.Pooling(("mean", "max"), include_prompt), prompts={"any": "the man "})
    np.testing.assert_allclose(follow(encoder, "a cat").pooled_D, encoder.encode("a cat"), atol=2e-6)


@pytest.mark.parametrize(
    ("modules", "word"),
    [
        ((parts.Pooling(("max",)),), "pooling is 'max'"),
        ((parts.Pooling(("cls",)),), "pooling is 'cls'"),
        ((parts.Pooling(("mean", "lasttoken")),), "pooling is 'lasttoken'"),
        ((parts.Pooling(), replace(DENSE, activation="tanh")), "activation 'tanh'"),
        ((parts.Pooling(), parts.LayerNorm(32)), "followed by a LayerNorm module"),
    ],
)
def test_a_module_that_breaks_the_sum_is_named(modules, word):
    with pytest.raises(InputError, match=word):
        explain(with_modules(*modules), "a", "b")


def test_every_pooling_is_summed_or_refused():
    assert set(POOLING_WEIGHTS) | {"cls", "max", "lasttoken"} == set(POOLING_MODES)


def test_mistakes():
    encoder = SentenceEncoder.load(tiny("bert"))
    cross = CrossEncoder.from_encoder(tiny("bert"))
    for call, word in [
        (lambda: explain(cross, "a", "b"), "Expected a SentenceEncoder"),
        (lambda: explain(encoder, "a", 3), "b is 3"),
        (lambda: explain(encoder, ["a"], "b"), r"a is \['a'\]"),
        (lambda: sentence_attention(cross, "a"), "use cross_encoder_attention"),
        (lambda: sentence_attention(encoder, "\ud800"), "lone surrogate"),
        (lambda: cross_encoder_attention(encoder, "a", "b"), "use sentence_attention"),
    ]:
        with pytest.raises(InputError, match=word):
            call()


def test_the_largest_terms():
    found = explain(SentenceEncoder.load(tiny("bert")), "a cat", "the dog sings")
    sizes = [abs(term.contribution) for term in found.largest(99)]
    assert len(sizes) == found.contributions_QK.size and sizes == sorted(sizes, reverse=True)
    term = found.largest(1)[0]
    assert found.contributions_QK[term.a, term.b] == term.contribution


def test_a_sum_that_is_not_the_cosine_is_refused(monkeypatch):
    encoder = SentenceEncoder.load(tiny("bert"))
    monkeypatch.setitem(POOLING_WEIGHTS, "mean", lambda p: p / p.sum())
    with pytest.raises(InputError, match="the contributions sum to"):
        explain(encoder, "a man plays guitar", "a woman")
    modules = (*encoder.model_config.modules, SimpleNamespace())
    encoder.model_config = replace(encoder.model_config, modules=modules)
    with pytest.raises(InputError, match="SimpleNamespace is not decomposed"):
        explain(encoder, "a", "b")


# --- attention -----------------------------------------------------------------------------------------------------


def twin_weights(monkeypatch, family, params, config, *arguments):
    """weights_YNQK of the NumPy twin: every softmax that it takes, layer by layer, head by head."""
    taken, softmax = [], twin.softmax
    monkeypatch.setattr(twin, "softmax", lambda scores: taken.append(softmax(scores)[0]) or softmax(scores))
    for module in (grouped, t5, deberta):
        monkeypatch.setattr(module, "softmax", lambda scores_QK: taken.append(softmax(scores_QK)) or softmax(scores_QK))
    TWINS[family](jax.tree.map(np.asarray, params), config, *arguments)
    return np.stack(taken).reshape(config.num_hidden_layers, -1, *taken[0].shape)


@pytest.mark.parametrize("family", TWINS)
def test_attention_of_one_text_is_the_twins(family, monkeypatch):
    encoder = SentenceEncoder.load(tiny(family))
    text = "the man plays guitar by the sea"
    found = sentence_attention(encoder, text)
    (ids,) = encoder.tokenizer.tokenize([text], max_length=encoder.max_seq_length).ids
    expected = twin_weights(
        monkeypatch,
        family,
        encoder.pretrained.params["encoder"],
        encoder.model_config.encoder,
        np.array([ids]),
        np.ones((1, len(ids)), bool),
    )
    assert len(found.tokens) == len(ids)
    np.testing.assert_allclose(found.weights_YNQK, expected, rtol=0, atol=FLOAT32)
    np.testing.assert_allclose(found.weights_YNQK.sum(axis=-1), 1, atol=FLOAT32)


def test_attention_of_a_pair_is_the_twins(monkeypatch):
    model = CrossEncoder.from_encoder(tiny("bert"))
    found = cross_encoder_attention(model, "a man plays", "the woman sings")
    tokens = model.tokenize([("a man plays", "the woman sings")])
    ids = np.array(tokens.ids)
    expected = twin_weights(
        monkeypatch,
        "bert",
        model.pretrained.params["encoder"],
        model.model_config.encoder,
        ids,
        np.ones(ids.shape, bool),
        (np.arange(ids.shape[1]) >= tokens.first_lengths[0]).astype(int)[None],
    )
    np.testing.assert_allclose(found.weights_YNQK, expected, rtol=0, atol=FLOAT32)


def test_recording_attention_does_not_change_the_model():
    encoder = SentenceEncoder.load(tiny("modernbert"))
    before = encoder.encode(["a cat sits"])
    sentence_attention(encoder, "a cat sits")
    assert (encoder.encode(["a cat sits"]) == before).all()


def test_attention_in_bfloat16():
    encoder = SentenceEncoder.load(tiny("bert"), compute_dtype="bfloat16")
    exact = sentence_attention(SentenceEncoder.load(tiny("bert")), "a cat sits").weights_YNQK
    found = sentence_attention(encoder, "a cat sits").weights_YNQK
    assert 0 < abs(found - exact).max() < 0.02  # 8 bits


@pytest.mark.real
def test_a_real_model():
    try:
        encoder = SentenceEncoder.load("all-mpnet-base-v2", offline=True)
    except DownloadError as error:
        pytest.skip(f"all-mpnet-base-v2 is not on this machine: {error}")
    pairs = [
        ("my dentist tells me that chewing bricks is very bad for your teeth",
         "the dental specialist recommended an immediate stop to flossing with construction materials"),
        ("she swore she just saw her sushi move", "he embraced his new life as an eggplant"),
        ("", "many words " * 40),
    ]  # fmt: skip
    for a, b in pairs:
        found = explain(encoder, a, b)
        cosine = encoder.similarity(*encoder.encode([a, b], on_truncate="ignore")[:, None]).item()
        assert abs(found.contributions_QK.sum() - cosine) < TOLERANCE
    # As published, see `minisbert demo`.
    assert explain(encoder, *pairs[0]).contributions_QK.sum() == pytest.approx(0.51847214, abs=TOLERANCE)
