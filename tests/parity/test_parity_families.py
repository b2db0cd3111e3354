"""Every encoder family after BERT and MPNet against transformers and sentence-transformers.

On the tiny checkpoints: token ids, embeddings, folders written by either and read by the other, length limits,
vocabulary files in place of tokenizer.json. On random configs (odd head counts, one layer, long texts, tied weights
under a prefix): token embeddings within 2e-6, relative to the largest value above 1 as in
test_parity_sentence_transformers.py, and gradients of a mean of random projections in every weight within 1e-5.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from minisbert import SentenceEncoder, limits
from minisbert.checkpoint.convert import Converted, convert, export, flatten, nest, table_for
from minisbert.checkpoint.tensors import SafetensorsFiles
from minisbert.encoders import FAMILIES
from minisbert.transformer.positions import rotary_angles

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import SAME_CODE, TWINS, tiny
from varied_sentences import SENTENCES, SOME

WHY = "the parity extra is not installed: pip install torch (a CPU build will do), then pip install -e .[parity]"
torch = pytest.importorskip("torch", reason=WHY)
transformers = pytest.importorskip("transformers", reason=WHY)
peers = pytest.importorskip("sentence_transformers", reason=WHY)

pytestmark = pytest.mark.parity

TOLERANCE = 2e-6
# Language models add their sublayers to a sum that only the end normalizes, so both libraries round more, and how much is up to
# the processor. Where they differ by more than TOLERANCE, each may be ROUNDING times that from the same model in float64, and
# ours ROUNDING times as far as sentence-transformers. Measured with AVX2: Gemma's tokens 5.8e-6 and 4.8e-6 of values up to 3.5;
# T5 with 1,002 equal tokens, whose errors do not cancel, 5.5e-6 and 2.0e-6.
ROUNDING = 3
GRADIENT_TOLERANCE = 1e-5
NEWER = [family for family in TWINS if family not in ("bert", "mpnet")]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def peer(folder: Path) -> Any:
    return peers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def their_ids(model: Any, texts: list[str]) -> list[list[int]]:
    """One text at a time, so that nothing is padded."""
    return [model.preprocess([text])["input_ids"][0].tolist() for text in texts]


def close(ours: Any, theirs: Any, what: str, tolerance: float = TOLERANCE, exact: Any = None) -> None:
    """`exact`, if given, returns the numbers in float64, for `ROUNDING`."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, what
    difference = float(np.abs(ours - theirs).max())
    scale = max(1.0, float(np.abs(theirs).max()))
    if os.environ.get("MINISBERT_SHOW_DIFFERENCES"):
        print(f"\n  {what}: {difference:.1e} (largest value {scale:.2g})", end="")
    if difference > tolerance * scale and exact is not None:
        numbers = exact()
        our_error, their_error = (float(np.abs(found - numbers).max()) for found in (ours, theirs))
        assert max(our_error, their_error) <= ROUNDING * tolerance * scale, (
            f"{what}: {our_error:.2e}, {their_error:.2e}"
        )
        assert our_error <= ROUNDING * their_error, f"{what}: {our_error:.2e} from float64, theirs {their_error:.2e}"
        return
    assert difference <= tolerance * scale, f"{what}: differs by {difference:.2e}, values up to {scale:.3g}"


def same(encoder: SentenceEncoder, other: Any, texts: list[str], what: str, batch_size: int = 32) -> None:
    """Token ids equal, sentence embeddings close; `batch_size` is theirs."""
    ids = encoder.tokenizer.tokenize(texts, max_length=encoder.max_seq_length).ids
    for text, ours, theirs in zip(texts, ids, their_ids(other, texts), strict=True):
        assert ours == theirs, repr(text)[:100]
    ours, theirs = encoder.encode(texts, on_truncate="ignore"), other.encode(texts, batch_size=batch_size)
    close(ours, theirs, what, exact=in_float64(encoder, texts))


def in_float64(encoder: SentenceEncoder, texts: list[str], **options: Any) -> Any:
    """A function that encodes the texts with the same model in float64."""
    return lambda: SentenceEncoder(encoder.pretrained, compute_dtype="float64").encode(
        texts, on_truncate="ignore", **options
    )


# --- the tiny checkpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", NEWER)
def test_tiny_models_on_all_sentences(family):
    encoder, other = SentenceEncoder.load(tiny(family)), peer(tiny(family))
    assert encoder.max_seq_length == other.max_seq_length
    same(encoder, other, SENTENCES, family)
    ours = encoder.encode(SOME, output_value="token_embeddings", on_truncate="ignore")
    theirs = other.encode(SOME, output_value="token_embeddings")
    for text, mine, others in zip(SOME, ours, theirs, strict=True):
        exact = in_float64(encoder, text, output_value="token_embeddings")
        close(mine, others, f"{family}, tokens of {text[:40]!r}", exact=exact)


@pytest.mark.parametrize("family", NEWER)
def test_folders_by_minisbert_and_by_the_peer(family, tmp_path):
    """minisbert -> peer -> minisbert -> peer; every one of them gives the same embeddings."""
    encoder, expected = SentenceEncoder.load(tiny(family)), peer(tiny(family)).encode(SOME)
    encoder.save(tmp_path / "by-minisbert")
    by_minisbert = peer(tmp_path / "by-minisbert")
    assert (by_minisbert.encode(SOME) == expected).all(), "minisbert wrote it, sentence-transformers reads it"
    by_minisbert.save(str(tmp_path / "by-peer"), create_model_card=False)
    again = SentenceEncoder.load(tmp_path / "by-peer")
    same(again, by_minisbert, SOME, f"{family}, sentence-transformers wrote it, minisbert reads it")
    again.save(tmp_path / "back")
    assert (peer(tmp_path / "back").encode(SOME) == expected).all(), (
        "from sentence-transformers through minisbert to sentence-transformers"
    )


def test_camembert_is_roberta_under_another_name(tmp_path):
    """It has no tiny checkpoint of its own: XLM-R's, called CamemBERT, which transformers then reads with that class."""
    folder = Path(shutil.copytree(tiny("xlm-roberta"), tmp_path / "model"))
    for file, values in {
        "config.json": {"model_type": "camembert", "architectures": ["CamembertModel"]},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
    }.items():
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))
    encoder, other = SentenceEncoder.load(folder), peer(folder)
    assert type(other[0].model).__name__ == "CamembertModel"
    same(encoder, other, SOME, "camembert")
    encoder.save(tmp_path / "by-minisbert")
    by_minisbert = peer(tmp_path / "by-minisbert")
    assert (by_minisbert.encode(SOME) == other.encode(SOME)).all()
    by_minisbert.save(str(tmp_path / "by-peer"), create_model_card=False)
    same(SentenceEncoder.load(tmp_path / "by-peer"), other, SOME, "camembert, sentence-transformers wrote it")


# Rotary positions and distances have no end.
ENDLESS = ("t5", "modernbert", "qwen3", "gemma3_text", "nomic_bert", "gte", "deberta-v2")


@pytest.mark.parametrize("family", ENDLESS)
def test_a_limit_beyond_the_positions_in_training(family, tmp_path):
    """A limit that the folder sets for this model counts, one of its tokenizer does not."""
    folder = Path(shutil.copytree(tiny(family), tmp_path / "model"))
    file = folder / "sentence_bert_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_seq_length": 150}))
    encoder, other = SentenceEncoder.load(folder), peer(folder)
    assert encoder.max_seq_length == other.max_seq_length == 150
    same(encoder, other, ["the dog runs to a house " * 40, "a cat"], family)


@pytest.mark.parametrize("limit", [9, 64, 512, None])
@pytest.mark.parametrize("family", NEWER)
def test_length_limits(family, limit, tmp_path):
    """A limit of the tokens, all positions, more than there are, and none at all; the tokenizer's, as from 5.4."""
    folder = Path(shutil.copytree(tiny(family), tmp_path / "model"))
    (folder / "sentence_bert_config.json").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["model_max_length"]
    content = json.dumps(config | ({} if limit is None else {"model_max_length": limit}))
    (folder / "tokenizer_config.json").write_text(content)
    encoder, other = SentenceEncoder.load(folder), peer(folder)
    assert encoder.max_seq_length == min(other.max_seq_length, encoder.max_positions)
    assert (encoder.max_positions == limits.TOKENS) == (family in ENDLESS)
    other.max_seq_length = encoder.max_seq_length
    # Few texts in a batch: with one of 3,000 tokens, each is padded to that.
    same(encoder, other, SOME, f"{family}, {limit}", batch_size=2)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("family", NEWER)
def test_lower_casing_that_the_folder_asks_for(family, lower, tmp_path):
    folder = Path(shutil.copytree(tiny(family), tmp_path / "model"))
    settings = {"max_seq_length": 64, "do_lower_case": lower}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    same(SentenceEncoder.load(folder), peer(folder), SENTENCES, f"{family}, do_lower_case {lower}")


def without_tokenizer_json(family: str, place: Path) -> Path:
    """The family's tiny checkpoint, its byte-level BPE in vocab.json and merges.txt."""
    folder = Path(shutil.copytree(tiny(family), place / "model"))
    parts = json.loads((folder / "tokenizer.json").read_text())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in parts["merges"]]
    (folder / "vocab.json").write_text(json.dumps(parts["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (folder / "tokenizer.json").unlink()
    return folder


OPTIONS = [
    ("roberta", {}),
    ("roberta", {"mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "normalized": True}}),
    ("roberta", {"add_prefix_space": True}),
    ("roberta", {"unk_token": "<pad>", "model_max_length": 20}),
    ("roberta", {"add_eos_token": True, "add_bos_token": "x"}),
    ("qwen3", {"add_eos_token": True}),
    ("qwen3", {"add_eos_token": True, "add_bos_token": True, "bos_token": "<|endoftext|>"}),
    ("qwen3", {"add_eos_token": "x", "add_bos_token": False, "cls_token": "a"}),
]


@pytest.mark.parametrize(("family", "options"), OPTIONS, ids=str)
def test_byte_level_bpe_from_its_vocabulary_files(family, options, tmp_path):
    folder = without_tokenizer_json(family, tmp_path)
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    texts = [text for text in SENTENCES if text.strip()]  # without special tokens, nothing is left of the others
    same(SentenceEncoder.load(folder), peer(folder), texts, str(options))


PLAIN = [
    ("bert", {"architectures": ["BertForMaskedLM"]}, "mean"),
    ("roberta", {"architectures": ["RobertaForCausalLM"]}, "lasttoken"),
    ("qwen3", {"architectures": ["Qwen3ForCausalLM"]}, "lasttoken"),
    ("qwen3", {"architectures": ["Qwen3ForCausalLM"], "is_causal": False}, "mean"),
    ("qwen3", {"architectures": ["Qwen3Model"]}, "mean"),
]


@pytest.mark.parametrize(("family", "settings", "mode"), PLAIN, ids=str)
def test_plain_folders(family, settings, mode, tmp_path):
    """No modules.json: the last token of a language model, else the mean; files of sentence-transformers are not read."""
    folder = Path(shutil.copytree(tiny(family), tmp_path / "model"))
    (folder / "modules.json").unlink()
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | settings))
    more = {"truncate_dim": 8, "prompts": {"query": "q: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(more))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 8, "do_lower_case": True}))
    encoder = SentenceEncoder.load(folder)
    assert encoder.pretrained.folder.modules[0].modes == (mode,)
    same(encoder, peer(folder), SENTENCES, f"{family}, {settings}")


@pytest.mark.parametrize("width", [2, 8, 64])
def test_rotary_angles_far_out(width):
    """At position 8,191 too, where rounding an angle otherwise would show."""
    from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding

    config = transformers.ModernBertConfig(hidden_size=2 * width, num_attention_heads=2)
    theirs = ModernBertRotaryEmbedding(config)
    for kind, theta in (("full_attention", 160_000.0), ("sliding_attention", 10_000.0)):
        waves = theirs(torch.zeros(1), torch.arange(8192)[None], kind)
        for ours, wave in zip(rotary_angles(8192, width, theta), waves, strict=True):
            close(ours, wave[0, :, : width // 2].numpy(), f"{kind}, width {width}", 1e-7)


# --- random configs ------------------------------------------------------------------------------------------------

# (width, heads, layers, inner width, activation)
SHAPES = [(32, 4, 2, 64, "gelu"), (21, 3, 1, 40, "gelu_new"), (35, 5, 3, 36, "relu"), (56, 7, 2, 28, "silu")]
POSITIONS = 50


def bert_like(shape: tuple[Any, ...]) -> dict[str, Any]:
    """config.json's names in BERT and those that kept them."""
    names = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "hidden_act")
    return dict(zip(names, shape, strict=True))


def roberta_settings(shape: tuple[Any, ...]) -> dict[str, Any]:
    return bert_like(shape) | {"type_vocab_size": 1, "max_position_embeddings": POSITIONS + 2, "layer_norm_eps": 1e-5}


def distilbert_settings(shape: tuple[Any, ...]) -> dict[str, Any]:
    names = ("dim", "n_heads", "n_layers", "hidden_dim", "activation")
    return dict(zip(names, shape, strict=True)) | {"max_position_embeddings": POSITIONS}


def albert_settings(shape: tuple[Any, ...]) -> dict[str, Any]:
    return bert_like(shape) | {"embedding_size": 10 + shape[1], "max_position_embeddings": POSITIONS}


def modernbert_settings(shape: tuple[Any, ...]) -> dict[str, Any]:
    width, heads, layers, inner, activation = shape
    # Twice as wide, since heads hold pairs of numbers; a window smaller than the texts, and a second global layer.
    settings = bert_like((2 * width, heads, layers + 3, inner, activation))
    settings["hidden_activation"] = settings.pop("hidden_act")
    return settings | {"max_position_embeddings": POSITIONS, "local_attention": 10 + layers, "pad_token_id": 0}


def language_model_settings(shape: tuple[Any, ...]) -> dict[str, Any]:
    width, heads, layers, inner, activation = shape
    settings = bert_like((2 * width, 2 * heads, layers, inner, activation)) | {"num_key_value_heads": heads}
    return settings | {"max_position_embeddings": POSITIONS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def qwen3_settings(shape: tuple[Any, ...]) -> dict[str, Any]:
    return language_model_settings(shape) | {"head_dim": 6 + 2 * shape[2]}


def qwen2_settings(shape: tuple[Any, ...]) -> dict[str, Any]:
    return language_model_settings(shape) | {"num_attention_heads": shape[1], "hidden_size": 2 * shape[0]}


def gemma_settings(shape: tuple[Any, ...]) -> dict[str, Any]:
    settings = language_model_settings((*shape[:2], shape[2] + 1, *shape[3:])) | {"head_dim": 8, "sliding_window": 9}
    settings["hidden_activation"] = settings.pop("hidden_act")
    # The validation wants a width that the heads divide, which nothing needs.
    return settings | {"query_pre_attn_scalar": 11, "sliding_window_pattern": 2, "use_bidirectional_attention": True}


def rotary_bert_settings(shape: tuple[Any, ...]) -> dict[str, Any]:
    settings = bert_like((2 * shape[0], *shape[1:])) | {"type_vocab_size": 2, "pad_token_id": 0}
    return settings | {"max_position_embeddings": POSITIONS}


def t5_settings(shape: tuple[Any, ...]) -> dict[str, Any]:
    width, heads, layers, inner, activation = shape
    settings = dict(zip(("d_model", "num_heads", "num_layers", "d_ff"), (width, heads, layers, inner), strict=True))
    return settings | {"d_kv": 6, "feed_forward_proj": activation, "relative_attention_max_distance": 20 + width}


def deberta_settings(shape: tuple[Any, ...]) -> dict[str, Any]:
    settings = bert_like(shape) | {"max_position_embeddings": POSITIONS, "relative_attention": True}
    terms = {"pos_att_type": ["p2c", "c2p"], "share_att_key": True, "position_biased_input": False}
    return settings | terms | {"position_buckets": 6 + 2 * shape[2], "norm_rel_ebd": "layer_norm"}


# model_type -> sentence-transformers' class names before "Config", "Model" and "ForMaskedLM", and the settings of a shape
KINDS: dict[str, tuple[str, Any]] = {
    "roberta": ("Roberta", roberta_settings),
    "xlm-roberta": ("XLMRoberta", roberta_settings),
    "camembert": ("Camembert", roberta_settings),
    "distilbert": ("DistilBert", distilbert_settings),
    "albert": ("Albert", albert_settings),
    "modernbert": ("ModernBert", modernbert_settings),
    "qwen3": ("Qwen3", qwen3_settings),
    "qwen2": ("Qwen2", qwen2_settings),
    "mistral": ("Mistral", qwen2_settings),
    "eurobert": ("EuroBert", qwen2_settings),
    "gemma3_text": ("Gemma3", gemma_settings),
    "nomic_bert": ("NomicBert", rotary_bert_settings),
    "gte": ("Gte", rotary_bert_settings),
    "t5": ("T5", t5_settings),
    "mt5": ("MT5", t5_settings),
    "deberta-v2": ("DebertaV2", deberta_settings),
    "jina_embeddings_v3": ("JinaEmbeddingsV3", rotary_bert_settings),
    "electra": (
        "Electra",
        lambda shape: bert_like(shape) | {"embedding_size": 10, "max_position_embeddings": POSITIONS},
    ),
    "ernie": ("Ernie", lambda shape: bert_like(shape) | {"use_task_id": True, "max_position_embeddings": POSITIONS}),
}
# Settings that one shape more is tried with.
WINDOW = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("qwen3", {"is_causal": False, "attention_bias": True}),
    ("qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, **WINDOW}),
    ("qwen2", WINDOW),
    ("qwen2", {"is_causal": False, **WINDOW}),
    ("mistral", {"sliding_window": 7}),
    ("mistral", {"is_causal": False, "sliding_window": None}),
    ("gemma3_text", {"use_bidirectional_attention": False, "attention_bias": True}),
    ("gemma3_text", {"sliding_window": 12}),
    ("nomic_bert", {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
    ("gte", {"rope_parameters": {"rope_type": "linear", "factor": 1.5, "rope_theta": 900.0}, "type_vocab_size": 0}),
    ("t5", {"feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 12}),
    ("t5", {"feed_forward_proj": "gated-silu"}),
    ("deberta-v2", {"share_att_key": False, "type_vocab_size": 2, "position_biased_input": True}),
    ("deberta-v2", {"pos_att_type": "c2p", "share_att_key": False, "position_buckets": -1, "norm_rel_ebd": "none"}),
    (
        "deberta-v2",
        {"pos_att_type": ["p2c"], "position_buckets": -1, "max_relative_positions": 20, "embedding_size": 10},
    ),
    ("electra", {"embedding_size": SHAPES[2][0]}),
    ("ernie", {"use_task_id": False}),
]


def random_model(family: str, kind: str, settings: dict[str, Any], folder: Path) -> Any:
    """A model of sentence-transformers with a random number in every weight, written to a folder."""
    name = KINDS[family][0]
    if family == "gemma3_text":  # its classes for text alone
        name, kind = ("Gemma3Text", "Model") if kind == "Model" else ("Gemma3", "ForCausalLM")
    elif family in ("qwen3", "qwen2", "mistral") and kind == "ForMaskedLM":
        kind = "ForCausalLM"
    elif family in ("t5", "mt5"):
        kind = "EncoderModel" if kind == "Model" else "ForConditionalGeneration"
    kind_config = "Gemma3TextConfig" if family == "gemma3_text" else f"{name}Config"
    config = getattr(transformers, kind_config)(vocab_size=60, **settings)
    torch.manual_seed(len(family) + config.hidden_size)
    model = getattr(transformers, name + kind)(config).eval()
    with torch.no_grad():  # biases and norms are made 0 and 1; give each of them a number of its own
        for path, tensor in model.named_parameters():
            spread = tensor.shape[-1] ** -0.5 if tensor.ndim == 2 and "embedding" not in path else 0.2
            if path.endswith("SelfAttention.q.weight"):  # T5's: its scores are not divided by the root of d_kv
                spread *= config.d_kv**-0.5
            start = family != "gemma3_text"  # there a norm's scale is 1 plus the parameter
            start = start and "norm" in path.lower() and path.endswith("weight")
            tensor.copy_(torch.randn_like(tensor) * spread + float(start))
    model.save_pretrained(str(folder))
    return model


def read(family: str, folder: Path) -> tuple[Any, Converted]:
    """Our config of a folder, and its tensors under our names."""
    code = FAMILIES[family]
    config = code.Config.from_json(json.loads((folder / "config.json").read_text()))
    names = {"passthrough": code.PASSTHROUGH, "prefix": code.PREFIX}
    return config, convert(SafetensorsFiles(folder), table_for(code.RULES, config), **names)


def batch(padding: int) -> tuple[np.ndarray, np.ndarray]:
    """token ids and mask, up to 48 tokens."""
    lengths = np.array([48, 1, 2, 31, 17])
    mask = np.arange(48) < lengths[:, None]
    ids = np.random.default_rng(1).integers(3, 60, size=mask.shape)
    return np.where(mask, ids, padding).astype(np.int32), mask


# XLM-R, CamemBERT and others are another's code: one shape tells whether their names and defaults are too.
CONFIGS: list[Any] = [
    *((family, SHAPES[1], {}) for family in KINDS),
    *((family, SHAPES[2], values) for family, values in VARIANTS),
    *(
        pytest.param(family, shape, {}, marks=pytest.mark.nightly)
        for family in KINDS
        if family not in SAME_CODE
        for shape in (SHAPES[0], *SHAPES[2:])
    ),
]


@pytest.mark.parametrize(("family", "shape", "more"), CONFIGS, ids=str)
def test_token_embeddings_and_gradients_of_random_configs(family, shape, more, tmp_path):
    settings = KINDS[family][1](shape) | more
    model = random_model(family, "Model", settings, tmp_path)
    config, converted = read(family, tmp_path)
    ids, mask = batch(model.config.pad_token_id)
    weight = (
        np.random.default_rng(2).normal(size=(*mask.shape, config.hidden_size)).astype(np.float32) * mask[:, :, None]
    )
    weight /= mask.sum()
    code = FAMILIES[family]
    definition, _ = nnx.split(nnx.eval_shape(lambda: code.Encoder(config, rngs=nnx.Rngs(0))))

    def score(params):
        hidden = nnx.merge(definition, params)(ids, mask)[-1]
        return (hidden * weight).sum(), hidden

    gradient, hidden = jax.jit(jax.grad(score, has_aux=True))(nest(converted.params))
    theirs = model(input_ids=torch.tensor(ids.astype(int)), attention_mask=torch.tensor(mask.astype(int)))
    theirs = theirs.last_hidden_state
    (theirs * torch.tensor(weight)).sum().backward()
    close(np.asarray(hidden)[mask], theirs.detach().numpy()[mask], f"{family} {shape}")

    # The gradient in the names of the files, which some of their classes change; what is carried along has none.
    slopes = export(Converted(flatten(gradient)), table_for(code.RULES, config))
    others = {name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None}
    others = {
        name: tensor.numpy()
        for name, tensor in transformers.core_model_loading.revert_weight_conversion(model, others).items()
    }
    assert slopes.keys() == others.keys()
    for name, slope in slopes.items():
        close(slope, others[name], f"{family} {shape}, gradient of {name}", GRADIENT_TOLERANCE)


@pytest.mark.parametrize("family", KINDS)
def test_a_checkpoint_with_a_head_and_tied_weights(family, tmp_path):
    """ForMaskedLM puts the encoder under a prefix, and its tied decoder is not in the file."""
    settings = KINDS[family][1](SHAPES[1])
    model = random_model(family, "ForMaskedLM", settings, tmp_path)
    config, converted = read(family, tmp_path)
    assert (converted.renamed or family in ("t5", "mt5")) and (
        converted.passthrough or model.config.tie_word_embeddings
    )
    ids, mask = batch(model.config.pad_token_id)
    with torch.no_grad():
        inner = model.get_encoder() if family in ("t5", "mt5") else getattr(model, model.base_model_prefix)
        theirs = inner(input_ids=torch.tensor(ids.astype(int)), attention_mask=torch.tensor(mask.astype(int)))
    definition, _ = nnx.split(nnx.eval_shape(lambda: FAMILIES[family].Encoder(config, rngs=nnx.Rngs(0))))
    ours = jax.jit(lambda params: nnx.merge(definition, params)(ids, mask)[-1])(nest(converted.params))
    close(np.asarray(ours)[mask], theirs.last_hidden_state.numpy()[mask], f"{family}, masked language model")
