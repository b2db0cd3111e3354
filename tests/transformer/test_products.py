"""transformer/products.py: a bfloat16 model multiplies bfloat16 with bfloat16 into float32, forward and backward."""

import platform
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minisbert import CrossEncoder, SentenceEncoder, train
from minisbert.cross_encoder.model import define_cross_encoder
from minisbert.inference import engines
from minisbert.inference.compiled import FEW_TOKENS, few_token_options
from minisbert.sentence_model import define
from minisbert.training.config import TrainConfig
from minisbert.transformer import products
from minisbert.transformer.products import Linear, product
from minisbert.transformer.target import on_one_cpu, traced_for

WEIGHTS = Path(__file__).parents[2] / "weights"
FAMILIES = ["albert", "bert", "distilbert", "modernbert", "mpnet", "roberta", "xlm-roberta"]
IDS_BL, LENGTHS_B = np.ones((4, 16), np.int32), np.array([16, 9, 3, 1], np.int32)


def programs(definition, params, output):
    """The forward and the backward pass, lowered but not compiled."""

    def loss(params):
        return (output(nnx.merge(definition, params)) ** 2).sum()

    return [jax.jit(function).lower(params) for function in (loss, jax.grad(loss))]


def assert_products_have_float32_results(lowered):
    """A product with a bfloat16 result, or of float32 with bfloat16, runs outside AMX: several times as slow."""
    dots = [line for line in lowered.as_text().splitlines() if "stablehlo.dot_general" in line]
    types = [re.findall(r"x(b?f\d+)>", line.rsplit(" : ", 1)[1]) for line in dots]
    assert ["bf16", "bf16", "f32"] in types
    assert all(found in (["bf16", "bf16", "f32"], ["f32", "f32", "f32"]) for found in types), types


@pytest.mark.parametrize("family", FAMILIES)
def test_every_product_of_a_bfloat16_encoder_has_a_float32_result(family):
    model = SentenceEncoder(WEIGHTS / f"tiny-{family}").pretrained
    definition, _ = define(model.model_config, jnp.bfloat16)
    for lowered in programs(definition, model.params, lambda model: model(IDS_BL, LENGTHS_B).sentence_BD):
        assert_products_have_float32_results(lowered)


def test_every_product_of_a_bfloat16_cross_encoder_has_a_float32_result():
    model = CrossEncoder.from_encoder(WEIGHTS / "tiny-bert").pretrained
    definition, _ = define_cross_encoder(model.model_config, jnp.bfloat16)
    for lowered in programs(definition, model.params, lambda model: model(IDS_BL, LENGTHS_B, LENGTHS_B)):
        assert_products_have_float32_results(lowered)


def test_xla_does_not_narrow_the_results():
    """XLA may move a cast into the product before it; the compiled program counts."""
    model = SentenceEncoder(WEIGHTS / "tiny-bert").pretrained
    definition, _ = define(model.model_config, jnp.bfloat16)
    for lowered in programs(definition, model.params, lambda model: model(IDS_BL, LENGTHS_B).sentence_BD):
        results = re.findall(r"= (\w+)\[[^=]*? dot\(", lowered.compile().as_text())
        assert results and set(results) == {"f32"}


def test_a_float32_model_has_the_products_of_flax():
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    ours, flax = (kind(4, 5, dtype=jnp.float32, rngs=nnx.Rngs(0)) for kind in (Linear, nnx.Linear))
    assert str(jax.make_jaxpr(ours)(x)) == str(jax.make_jaxpr(flax)(x))


def test_a_mesh_of_one_cpu_is_one_cpu():
    with traced_for("cpu", jax.make_mesh((1,), ("data",))):
        assert on_one_cpu()
    with traced_for("tpu"):
        assert not on_one_cpu()


@pytest.mark.parametrize("platform", ["", "cpu"])
@pytest.mark.parametrize("subscripts", ["TD,DF->TF", "AD,BD->AB", "BNQH,BNKH->BNQK", "BNQK,BNKH->BNQH"])
def test_the_gradient_is_that_of_the_rounded_operands(subscripts, platform):
    rng, sizes = np.random.default_rng(0), dict(zip("BNQKHTDFA", (3, 2, 5, 6, 4, 5, 6, 4, 7), strict=True))
    of_a, of_b, of_c = subscripts.replace("->", ",").split(",")
    shapes = [[sizes[letter] for letter in letters] for letters in (of_a, of_b, of_c)]
    a, b, weight = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes)

    def loss(multiply, a, b):
        return (multiply(subscripts, a, b) * weight.astype(jnp.float32)).sum()

    with traced_for(platform):
        lowered = jax.jit(jax.grad(partial(loss, product), argnums=(0, 1))).lower(a, b)
    expected = jax.grad(loss, argnums=(1, 2))(jnp.einsum, a.astype(jnp.float32), b.astype(jnp.float32))
    for ours, exact in zip(lowered.compile()(a, b), expected, strict=True):
        assert ours.dtype == jnp.bfloat16
        # Half a unit in the last of bfloat16's 8 digits, of numbers up to 8.
        np.testing.assert_allclose(ours.astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)
    if platform == "cpu":
        # Each product contracts the last axis of its first operand, the form that reaches the matrix unit.
        found = re.findall(r"contracting_dims = \[(\d+)\] x .*: \(tensor<([\dx]+)xbf16>", lowered.as_text())
        assert len(found) >= 2 and all(int(axis) == shape.count("x") for axis, shape in found), found


@pytest.mark.parametrize("flags, slow", [("flags : avx2 fma", True), ("flags : amx_bf16 avx2", False), (None, False)])
def test_bfloat16_on_a_processor_that_emulates_it_is_named_once(flags, slow, monkeypatch, tmp_path, caplog):
    (listing := tmp_path / "cpuinfo").write_text(flags or "")
    monkeypatch.setattr(engines, "Path", lambda _: listing if flags else tmp_path / "nowhere")
    engines._warn_of_emulation.cache_clear()
    encoder = SentenceEncoder(WEIGHTS / "tiny-bert", compute_dtype="bfloat16")
    for _ in range(2):
        encoder.encode(["a man"])
        SentenceEncoder(WEIGHTS / "tiny-bert").encode(["a man"])
    assert [record.message.split(",")[0] for record in caplog.records] == ["compute_dtype is bfloat16"] * slow
    engines._warn_of_emulation.cache_clear()
    caplog.clear()
    (data := tmp_path / "pairs.tsv").write_text("anchor\tpositive\na\tb\nc\td\n")
    config = TrainConfig(str(data), batch_size=2, max_steps=1, compute_dtype="bfloat16", dropout=False)
    train(SentenceEncoder(WEIGHTS / "tiny-bert"), config)
    assert sum("compute_dtype is bfloat16" in record.message for record in caplog.records) == slow


@pytest.mark.usefixtures("all_shapes")
@pytest.mark.parametrize(("length", "few"), [(FEW_TOKENS, True), (2 * FEW_TOKENS, False)])
def test_a_sentence_alone_is_multiplied_without_packing_each_matrix(length, few, monkeypatch):
    encoder = SentenceEncoder(WEIGHTS / "tiny-bert")
    chosen, make = [], encoder.forward._make["sentence embeddings"]
    made = {"sentence embeddings": lambda few: chosen.append(few) or make(few=few)}
    monkeypatch.setattr(encoder.forward, "_make", made)
    encoder.encode(" ".join(["a"] * (length - 2)))
    assert chosen == [few and platform.machine() in ("x86_64", "AMD64")]
    arrays = np.ones((1, length), np.int32), np.array([length], np.int32), np.int32(0)
    compiled = make(few=few).lower(encoder.params, *arrays).compile().as_text()
    if few_token_options():
        assert ("ynn_fusion" in compiled) == (not few)
        assert not (few and "lhs_batch_dims" in compiled)  # a head's products are loops


@pytest.mark.parametrize("subscripts", ["BNQH,BNKH->BNQK", "BNQK,BNKH->BNQH", "NTH,NRH->NTR"])
def test_the_products_of_few_tokens_are_einsums(subscripts, monkeypatch):
    random, sizes = np.random.default_rng(0), dict(zip("BNQKHTR", (2, 3, 4, 5, 6, 7, 8), strict=True))
    a, b = (
        random.normal(size=[sizes[x] for x in term]).astype(np.float32) for term in subscripts.split("->")[0].split(",")
    )
    with traced_for("cpu", few=True):
        traced = jax.make_jaxpr(partial(product, subscripts))(a, b)
        np.testing.assert_allclose(product(subscripts, a, b), np.einsum(subscripts, a, b), rtol=1e-5, atol=1e-5)
        monkeypatch.setattr(products, "MOST_MULTIPLICATIONS", 10)
        large = jax.make_jaxpr(partial(product, subscripts))(a, b)
    assert "dot_general" not in str(traced) and "dot_general" in str(large)


def test_an_xla_without_the_option_takes_none(monkeypatch):
    def unknown(function, compiler_options):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")

    monkeypatch.setattr(jax, "jit", unknown)
    assert few_token_options.__wrapped__() == {}
