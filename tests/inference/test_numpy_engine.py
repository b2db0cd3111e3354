"""engine="numpy": the JAX engine's embeddings to 1e-6 for every family and module, no import of JAX, and what it refuses."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minisbert import CrossEncoder, Index, InputError, SentenceEncoder, TrainConfig, train
from minisbert.checkpoint.modules import Dense, LayerNorm, Normalize, Pooling, TrainedPooling
from minisbert.checkpoint.settings import ACTIVATIONS
from minisbert.checkpoint.tensors import Columns
from minisbert.download.locate import locate
from minisbert.encoders import FAMILIES
from minisbert.errors import DownloadError, ModelFolderError
from minisbert.explain.attention import sentence_attention
from minisbert.export.stablehlo import export_stablehlo
from minisbert.inference import numpy_engine, numpy_layers
from minisbert.modules import ACTIVATIONS as DENSE_ACTIVATIONS
from minisbert.modules import HEADS
from minisbert.pooling import POOLINGS
from minisbert.pretrained import load_pretrained
from minisbert.reference import encoder
from minisbert.sentence_model import initial_params
from minisbert.training.new_tokens import add_tokens
from minisbert.transformer import block

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import SAME_CODE, random_encoder, tiny

WEIGHTS = Path(__file__).parents[2] / "weights"
TINY = sorted(folder.name for folder in WEIGHTS.glob("tiny-*"))
# float32 in another order of summation; the largest embedding value is near 3.
TOLERANCE = 1e-6
# Of token embeddings, per largest value. With RMS norms each engine alone is up to 1e-6 away from the float64 twin.
TOKENS = {"gemma3_text": 2e-6, "qwen3": 2e-6, "qwen2": 2e-6, "mistral": 2e-6, "eurobert": 2e-6}
TEXTS = [
    *(
        "a woman sings",
        "",
        "the dogs that sleep in the garden wake up when the postman rings twice at the gate",
        "é 中 cats",
    ),
    *("a woman sings", "one two three four five six seven eight nine ten " * 9, "a", "who eats?"),
]


def both(model, **options):
    return (SentenceEncoder(model, engine=engine, **options) for engine in ("jax", "numpy"))


@pytest.mark.parametrize("name", [*TINY, "all-MiniLM-L6-v2", "all-mpnet-base-v2"])
def test_it_equals_the_jax_engine(name):
    try:
        folder = locate(WEIGHTS / name if name in TINY else name, offline=True)
    except DownloadError:
        pytest.skip(f"{name} is not on this machine")
    jax, numpy = both(folder)
    quiet = {"on_truncate": "ignore"}
    # What the options do does not depend on the encoder: one of each chain of modules is encoded with them.
    if name in ("tiny-bert", "tiny-layers", "tiny-mpnet", "tiny-router", "tiny-static"):
        for options in (
            {},
            {"normalize_embeddings": True},
            {"truncate_dim": 5, "prompt": "query: "},
            {"batch_size": 2},
        ):
            for side in ("encode_query", "encode_document"):
                one, other = (getattr(encoder, side)(TEXTS, **quiet, **options) for encoder in (jax, numpy))
                np.testing.assert_allclose(other, one, rtol=0, atol=TOLERANCE)
    if not numpy.routes:
        both_outputs = [encoder.encode(TEXTS, output_value=None, **quiet) for encoder in (jax, numpy)]
        for one, other in zip(*both_outputs, strict=True):
            np.testing.assert_array_equal(other["input_ids"], one["input_ids"])
            np.testing.assert_allclose(other["sentence_embedding"], one["sentence_embedding"], rtol=0, atol=TOLERANCE)
            np.testing.assert_allclose(
                other["token_embeddings"],
                one["token_embeddings"],
                rtol=0,
                atol=TOKENS.get(name.removeprefix("tiny-"), TOLERANCE) * np.abs(one["token_embeddings"]).max(initial=1),
            )
    assert numpy.warm_up() == numpy.compilations == []
    if not numpy.routes:
        with pytest.raises(InputError, match="Expected engine='jax' to return hidden states"):
            numpy.encode(TEXTS[:1], output_value="hidden_states")


# Forms of a family that no tiny checkpoint has: `model_type` -> changes to config.json of its code's checkpoint.
FORMS = [
    ("electra", {"embedding_size": 16}),
    ("ernie", {"use_task_id": True}),
    ("camembert", {}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0, "attention_bias": True}),
    ("qwen3", {"is_causal": False}),
    ("qwen2", {"num_key_value_heads": 1}),
    ("mistral", {"sliding_window": 4}),
    ("eurobert", {"num_key_value_heads": None}),
    ("gemma3_text", {"sliding_window": 4, "use_bidirectional_attention": None}),
    ("gemma3_text", {"sliding_window": 4, "use_bidirectional_attention": True}),
    ("modernbert", {"local_attention": 4}),
    ("jina_embeddings_v3", {}),
    ("new", {"type_vocab_size": 0}),
    ("t5", {"feed_forward_proj": "relu"}),
    ("mt5", {}),
    ("deberta-v2", {"share_att_key": False, "pos_att_type": ["p2c"], "embedding_size": 16}),
    (
        "deberta-v2",
        {"position_buckets": -1, "position_biased_input": True, "type_vocab_size": 2, "norm_rel_ebd": "none"},
    ),
    ("deberta-v2", {"pos_att_type": [], "max_relative_positions": 5, "position_buckets": 4}),
]


@pytest.mark.parametrize("family, changes", FORMS, ids=[f"{family}-{'-'.join(form)}" for family, form in FORMS])
def test_every_form_of_a_family_equals(family, changes):
    values = json.loads((tiny(SAME_CODE.get(family, family)) / "config.json").read_text())
    values = {key: value for key, value in (values | {"model_type": family} | changes).items() if value is not None}
    config = FAMILIES[family].Config.from_json(values)
    jax, params = random_encoder(FAMILIES[family], config)
    token_ids_BL = np.random.default_rng(1).integers(5, 60, (3, 11)).astype(np.int32)
    for lengths in ([11, 11, 11], [11, 7, 1]):
        mask_BL = np.arange(11) < np.array(lengths)[:, None]
        expected = jax(token_ids_BL, mask_BL)
        *_, found = numpy_engine.ENCODERS[family](params, config, token_ids_BL, None if mask_BL.all() else mask_BL)
        found = found.reshape(expected.shape)
        bound = TOKENS.get(family, TOLERANCE) * max(1, np.abs(expected).max())
        np.testing.assert_allclose(found[mask_BL], expected[mask_BL], rtol=0, atol=bound)


@pytest.mark.parametrize("activation", DENSE_ACTIVATIONS)
def test_every_pooling_and_module_equals(activation):
    name, even = ("tiny-bert", True) if len(activation) % 2 else ("tiny-modernbert", False)
    model = load_pretrained(WEIGHTS / name)
    width = model.model_config.encoder.hidden_size * len(POOLINGS)
    random = np.random.default_rng(0)
    dense = Dense(width, 24, bias=even, activation=activation)
    modules = (Pooling(tuple(POOLINGS), include_prompt=even), dense, LayerNorm(24), Normalize())
    config = replace(model.model_config, modules=modules)
    params = initial_params(config, seed=0)
    for head in params["heads"].values():
        for part in head.values():
            for leaf, value in part.items():
                part[leaf] = (random.normal(size=value.shape) / len(value) ** 0.5).astype(np.float32)
    params["encoder"] = model.params["encoder"]
    jax, numpy = both(replace(model, model_config=config, params=params))
    np.testing.assert_allclose(
        numpy.encode(TEXTS, prompt="a man ", on_truncate="ignore"),
        jax.encode(TEXTS, prompt="a man ", on_truncate="ignore"),
        rtol=0,
        atol=TOLERANCE,
    )


def test_its_tables_have_every_row():
    assert numpy_engine.ENCODERS.keys() == FAMILIES.keys()
    assert numpy_engine.HEADS.keys() == HEADS.keys() - {TrainedPooling}
    assert set(ACTIVATIONS) == set(block.ACTIVATIONS)
    assert set(numpy_layers.ACTIVATIONS) == {*ACTIVATIONS, *DENSE_ACTIVATIONS}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_exact_to_float32(name):
    x_TF = np.concatenate([np.linspace(-9, 9, 70_001), [-1e4, -1e30, 0.0, 1e-30, 1e30]]).astype(np.float32)
    with np.errstate(over="ignore"):
        found = numpy_layers.activate(x_TF.copy()[None], name)[0].astype(np.float64)
        expected = encoder.ACTIVATIONS[name](x_TF.astype(np.float64))
    # A few roundings of float32; GELU's fit is off by 7e-8.
    np.testing.assert_allclose(found, expected, rtol=5e-7, atol=1.5e-7)


def test_long_texts_are_attended_to_in_parts(monkeypatch):
    encoder = SentenceEncoder(WEIGHTS / "tiny-mpnet", engine="numpy")
    expected = encoder.encode(TEXTS, on_truncate="ignore")
    monkeypatch.setattr(numpy_layers, "SCORES", 100)
    np.testing.assert_allclose(encoder.encode(TEXTS, on_truncate="ignore"), expected, rtol=0, atol=TOLERANCE)


def test_weights_stay_in_their_file_and_can_be_saved(tmp_path):
    encoder = SentenceEncoder(WEIGHTS / "tiny-bert", engine="numpy")
    attention = encoder.params["encoder"]["blocks"][0]["attention"]
    for matrix in (*attention["qkv"]["kernel"].parts, attention["output"]["kernel"]):
        assert not matrix.flags.writeable and not matrix.flags.owndata
    assert isinstance(attention["qkv"]["kernel"], Columns) and attention["qkv"]["kernel"].shape == (32, 96)
    encoder.save(tmp_path / "saved")
    assert (tmp_path / "saved/model.safetensors").read_bytes() == (WEIGHTS / "tiny-bert/model.safetensors").read_bytes()
    # The same weights computed by JAX, and the same fingerprint: an index of one engine serves the other.
    jax = SentenceEncoder(encoder.pretrained)
    np.testing.assert_allclose(jax.encode("a woman sings"), encoder.encode("a woman sings"), rtol=0, atol=TOLERANCE)
    assert (
        Index(jax).fingerprint
        == Index(encoder).fingerprint
        == Index(SentenceEncoder(WEIGHTS / "tiny-bert")).fingerprint
    )


def test_a_file_cut_short_while_it_is_used(tmp_path):
    """Reading on would end the process with SIGBUS."""
    shutil.copytree(WEIGHTS / "tiny-bert", tmp_path / "model")
    encoder = SentenceEncoder(tmp_path / "model", engine="numpy")
    encoder.encode("a cat")
    os.truncate(tmp_path / "model" / "model.safetensors", 100)
    with pytest.raises(ModelFolderError, match=r"model\.safetensors: has become shorter"):
        encoder.encode("a cat")


REFUSED = [
    (
        lambda: SentenceEncoder(WEIGHTS / "tiny-bert", engine="torch"),
        "engine is 'torch'. Expected one of 'jax', 'numpy'",
    ),
    (lambda: SentenceEncoder(WEIGHTS / "tiny-bert", engine="numpy", compute_dtype="bfloat16"), "use engine='jax'"),
    (lambda: SentenceEncoder(WEIGHTS / "tiny-bert", engine="numpy", packing=True), "use engine='jax'"),
    (lambda: train(numpy_encoder(), TrainConfig(data=("pairs.tsv",)), "run"), "engine='jax' to train"),
    (lambda: sentence_attention(numpy_encoder(), "a"), "engine='jax' to show its attention"),
    (lambda: export_stablehlo(numpy_encoder(), Path("exported")), "engine='jax' to export"),
    (lambda: add_tokens(numpy_encoder(), ["guitarists"]), "engine='jax' to add tokens"),
    (lambda: CrossEncoder.from_encoder(numpy_encoder()), "engine='jax' to put a head on"),
    (lambda: numpy_encoder().module(), "engine='jax' to compute it"),
    (lambda: numpy_encoder().encode([1]), "sentences[0] is 1"),
    (lambda: numpy_encoder().encode("a", precision="int4"), "precision is 'int4'"),
    (lambda: SentenceEncoder(WEIGHTS / "tiny-bert", engine="numpy", token_budget=0), "token_budget is 0"),
]


def numpy_encoder():
    return SentenceEncoder(WEIGHTS / "tiny-bert", engine="numpy")


@pytest.mark.parametrize("call, message", REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_it_does_not_do_is_refused_by_name(call, message):
    with pytest.raises(InputError) as raised:
        call()
    assert message in str(raised.value)


@pytest.mark.parametrize("name", ["tiny-albert", "tiny-router"])
def test_a_family_that_only_jax_computes_is_named(name, monkeypatch):
    for family in ("albert", "static"):
        monkeypatch.delitem(numpy_engine.ENCODERS, family)
    with pytest.raises(InputError, match=r"does not compute (albert|static)\. Expected engine='jax'"):
        SentenceEncoder(WEIGHTS / name, engine="numpy")


# Run in a process of its own. `None` in sys.modules makes an import fail, as on a machine without the library.
WITHOUT = """
import sys
blocked = sys.argv[2].split(",")
for name in blocked if sys.argv[1] == "missing" else ():
    sys.modules[name] = None

import numpy as np
from minisbert import Index, InputError, SentenceEncoder, quantize_embeddings, semantic_search

for name in sys.argv[3:]:
    encoder = SentenceEncoder(name, engine="numpy")
    vectors = encoder.encode_document(["a woman sings", "the dog sleeps", "cats"])
    codes = quantize_embeddings(vectors, "int8")
    assert encoder.similarity(vectors, vectors).shape == (3, 3) and codes.shape == vectors.shape
    (hits,) = semantic_search(vectors[1], vectors, top_k=1)
    assert hits[0]["corpus_id"] == 1
    index = Index(encoder)
    index.add(["a woman sings", "the dog sleeps"])
    assert index.search("the dog sleeps", k=1)[0].text is not None
assert [name for name in blocked if sys.modules.get(name) is not None] == []
if sys.argv[1] == "missing":
    try:
        SentenceEncoder(sys.argv[3])
    except InputError as error:
        print(error)
"""


@pytest.mark.parametrize("how", ["installed", "missing"])
def test_it_imports_no_jax_and_needs_none(how):
    folders = [str(WEIGHTS / name) for name in TINY]
    # All that the project depends on but what the guide says to install without JAX.
    root = WEIGHTS.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.match(r"[\w-]+", one)[0].replace("-", "_") for one in project["dependencies"]}
    guide = (root / "docs/guides/encode.md").read_text(encoding="utf-8")
    light = set(re.search(r"pip install (numpy [\w ]+)", guide)[1].split())
    assert light < needed
    blocked = ",".join({*needed - light, "jaxlib", "orbax"} - {"orbax_checkpoint"})
    done = subprocess.run([sys.executable, "-c", WITHOUT, how, blocked, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("engine='numpy'" in done.stdout) == (how == "missing")
