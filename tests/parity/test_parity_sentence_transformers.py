"""minisbert against sentence-transformers and transformers, on the same folders, texts and random configs.

Needs the `parity` extra; skipped with a message where it is not installed. What is compared: token ids (identical),
embeddings, folders written by either and read by the other, options of `encode`, positions, hidden states.
Tolerance: 2e-6, absolute for values up to 1 and relative to the largest value above that (the untrained tiny models
give sums of up to 64 tokens, where float32 itself is coarser). With MINISBERT_SHOW_DIFFERENCES=1 the largest
difference of every comparison is printed.
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

from minisbert import SentenceEncoder, quantize_embeddings
from minisbert.checkpoint.convert import convert, nest, table_for
from minisbert.checkpoint.modules import DENSE_ACTIVATIONS, POOLING_FLAGS
from minisbert.checkpoint.tensors import SafetensorsFiles, write_tensors
from minisbert.download.locate import locate
from minisbert.encoders import FAMILIES
from minisbert.errors import DownloadError
from minisbert.model_config import ModelConfig
from minisbert.sentence_model import define
from minisbert.transformer.positions import offset_position_ids, relative_position_bucket

sys.path.insert(0, str(Path(__file__).parents[1]))
from varied_sentences import SENTENCES, SOME

WHY = "the parity extra is not installed: pip install torch (a CPU build will do), then pip install -e .[parity]"
torch = pytest.importorskip("torch", reason=WHY)
transformers = pytest.importorskip("transformers", reason=WHY)
peers = pytest.importorskip("sentence_transformers", reason=WHY)

pytestmark = pytest.mark.parity

TOLERANCE = 2e-6
WEIGHTS = Path(__file__).parents[2] / "weights"
TINY = {"bert": WEIGHTS / "tiny-bert", "mpnet": WEIGHTS / "tiny-mpnet"}
WIDTHS = {"bert": 32, "mpnet": 36}
MODES = list(POOLING_FLAGS.values())
# Two padded lengths are enough to see padding, prompts and truncation, and few programs to compile.
FEW = [
    "a cat",
    "the man plays guitar on the street",
    "",
    "Eine Katze, 中, é and [SEP] <pad> in it",
    "women and children read books by the sea",
    "words " * 30,
    "the city at night " * 40,
]
OLD_TYPE = "sentence_transformers.models."
NEW_TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def real_folder(name: str) -> Path:
    try:
        return locate(name, offline=True)
    except DownloadError:
        pytest.skip(f"{name} is not in the cache: minisbert download {name}")


def peer(folder: Path, **options: Any) -> Any:
    return peers.SentenceTransformer(str(folder), device="cpu", local_files_only=True, **options)


def close(ours: Any, theirs: Any, what: str, tolerance: float = TOLERANCE) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, what
    assert ours.dtype == theirs.dtype, what
    if not ours.size:
        return
    difference = float(np.abs(ours - theirs).max())
    scale = max(1.0, float(np.abs(theirs).max()))
    if os.environ.get("MINISBERT_SHOW_DIFFERENCES"):
        print(f"\n  {what}: {difference:.1e} (largest value {scale:.2g})", end="")
    assert difference <= tolerance * scale, f"{what}: differs by {difference:.2e}, values up to {scale:.3g}"


def same_embeddings(encoder: SentenceEncoder, other: Any, what: str, texts: list[str] = FEW, **options: Any) -> None:
    ours = encoder.encode(texts, on_truncate="ignore", **options)
    close(ours, other.encode(texts, **options), what)


# --- text to embeddings --------------------------------------------------------------------------------------------


def their_ids(model: Any, texts: list[str]) -> list[list[int]]:
    """One text at a time, so that nothing is padded."""
    return [model.preprocess([text])["input_ids"][0].tolist() for text in texts]


@pytest.mark.parametrize("family", TINY)
def test_tiny_models_on_all_sentences(family):
    encoder, other = SentenceEncoder.load(TINY[family]), peer(TINY[family])
    assert encoder.max_seq_length == other.max_seq_length
    ids = encoder.tokenizer.tokenize(SENTENCES, max_length=encoder.max_seq_length).ids
    assert ids == their_ids(other, SENTENCES)
    same_embeddings(encoder, other, family, SENTENCES)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "every"),
    [
        *(("all-MiniLM-L6-v2", 2), ("all-mpnet-base-v2", 8)),
        *(pytest.param(name, 1, marks=pytest.mark.nightly) for name in ("all-MiniLM-L6-v2", "all-mpnet-base-v2")),
    ],
)
def test_real_models(name, every):
    """On a part of the sentences: MPNet takes 100 s of processor time for all."""
    folder, sentences = real_folder(name), SENTENCES[::every]
    encoder, other = SentenceEncoder.load(folder), peer(folder)
    assert encoder.max_seq_length == other.max_seq_length
    ids = encoder.tokenizer.tokenize(sentences, max_length=encoder.max_seq_length).ids
    for text, ours, theirs in zip(sentences, ids, their_ids(other, sentences), strict=True):
        assert ours == theirs, repr(text)[:100]
    assert encoder.get_sentence_embedding_dimension() == other.get_embedding_dimension()
    assert encoder.similarity_fn_name == other.similarity_fn_name
    # Their own batches: in batches of 8, half of the work, theirs is 2.1e-6 from the same model in float64 (AVX2), ours 3.8e-7.
    close(encoder.encode(sentences, on_truncate="ignore"), other.encode(sentences), name)


@pytest.mark.real
def test_real_model_written_by_minisbert(tmp_path):
    folder = real_folder("all-MiniLM-L6-v2")
    encoder = SentenceEncoder.load(folder)
    encoder.save(tmp_path / "written")
    written, other = peer(tmp_path / "written"), peer(folder)
    assert (written.encode(SOME, batch_size=8) == other.encode(SOME, batch_size=8)).all()
    assert their_ids(written, SOME) == their_ids(other, SOME)


# --- folders of both dialects --------------------------------------------------------------------------------------


class Recipe:
    """A model folder in the making: a tiny model with other modules and settings, written by hand."""

    def __init__(self, family: str, *modules: tuple[str, dict[str, Any]], **settings: Any):
        self.family, self.modules, self.settings = family, modules, settings

    def write(self, folder: Path, dialect: str) -> Path:
        shutil.copytree(TINY[self.family], folder)
        for old in folder.glob("[0-9]_*"):
            shutil.rmtree(old)
        chain = [("Transformer", "")]
        for i, (kind, config) in enumerate(self.modules, start=1):
            here = folder / f"{i}_{kind}"
            here.mkdir()
            chain.append((kind, here.name))
            if kind == "Pooling":
                config = self._pooling(config, dialect)
            elif kind == "Dense":
                self._weights(here, config)
            if kind != "Normalize" or dialect == "new":
                names = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
                config = {**config, **names} if dialect == "new" and kind != "Pooling" else config
                (here / "config.json").write_text(json.dumps(config))
        types = NEW_TYPES if dialect == "new" else {kind: OLD_TYPE + kind for kind in NEW_TYPES}
        entries = [
            {"idx": i, "name": str(i), "path": path, "type": types[kind]} for i, (kind, path) in enumerate(chain)
        ]
        (folder / "modules.json").write_text(json.dumps(entries))
        settings = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine", **self.settings}
        if dialect == "new":
            settings["model_type"] = "SentenceTransformer"
            settings["__version__"] = {"sentence_transformers": "6.2.0", "transformers": "5.23.0", "pytorch": "2.13.0"}
            new = {
                "transformer_task": "feature-extraction",
                "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
                "module_output_name": "token_embeddings",
            }
            (folder / "sentence_bert_config.json").write_text(json.dumps(new))
        (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
        return folder

    def _pooling(self, config: dict[str, Any], dialect: str) -> dict[str, Any]:
        modes, rest = config["modes"], {key: value for key, value in config.items() if key != "modes"}
        if dialect == "new":
            mode = modes[0] if len(modes) == 1 else modes
            return {"embedding_dimension": WIDTHS[self.family], "pooling_mode": mode, "include_prompt": True, **rest}
        flags = {flag: mode in modes for flag, mode in POOLING_FLAGS.items()}
        return {"word_embedding_dimension": WIDTHS[self.family], **flags, **rest}

    def _weights(self, here: Path, config: dict[str, Any]) -> None:
        random = np.random.default_rng(config["out_features"])
        shape = config["out_features"], config["in_features"]
        tensors = {"linear.weight": random.normal(size=shape).astype(np.float32) * np.float32(shape[1] ** -0.5)}
        if config.get("bias", True):
            tensors["linear.bias"] = random.normal(size=shape[0]).astype(np.float32)
        write_tensors(here / "model.safetensors", tensors)


def pooling(*modes: str, **settings: Any) -> tuple[str, dict[str, Any]]:
    return "Pooling", {"modes": list(modes), **settings}


def dense(width: int, out: int, activation: str, **settings: Any) -> tuple[str, dict[str, Any]]:
    return "Dense", {
        "in_features": width,
        "out_features": out,
        "bias": True,
        "activation_function": activation,
    } | settings


TANH = "torch.nn.modules.activation.Tanh"
GELU = "torch.nn.modules.activation.GELU"
RECIPES = {
    **{f"{family}-{mode}": Recipe(family, pooling(mode)) for family in TINY for mode in MODES},
    "bert-all-modes": Recipe("bert", pooling(*MODES)),
    "mpnet-all-modes": Recipe("mpnet", pooling(*MODES), ("Normalize", {})),
    "mpnet-cls-mean": Recipe("mpnet", pooling("cls", "mean"), ("Normalize", {})),
    **{
        f"{family}-{'-'.join(modes)}-without-prompt": Recipe(
            family, pooling(*modes, include_prompt=False), prompts={"query": "search for: "}
        )
        for family in TINY
        for modes in (["mean"], MODES)
    },
    **{
        f"bert-dense-{activation.rsplit('.', 1)[1].lower()}": Recipe("bert", pooling("mean"), dense(32, 20, activation))
        for activation in DENSE_ACTIVATIONS
    },
    "mpnet-dense-dense-normalize": Recipe(
        "mpnet", pooling("mean"), dense(36, 50, TANH), dense(50, 7, GELU, bias=False), ("Normalize", {})
    ),
    "bert-normalize-dense": Recipe("bert", pooling("max"), ("Normalize", {}), dense(32, 48, TANH)),
    "bert-two-modes-dense": Recipe("bert", pooling("cls", "max"), dense(64, 16, TANH), ("Normalize", {})),
    "bert-prompts": Recipe(
        "bert",
        pooling("mean"),
        prompts={"query": "find: ", "document": "the text: ", "sign": "¿"},
        default_prompt_name="document",
        similarity_fn_name="dot",
        truncate_dim=12,
    ),
    "mpnet-prompts": Recipe(
        "mpnet",
        pooling("mean"),
        ("Normalize", {}),
        prompts={"passage": "passage: ", "corpus": "corpus: ", "empty": ""},
        similarity_fn_name="euclidean",
    ),
    "bert-default-prompt-only": Recipe("bert", pooling("mean"), prompts={"all": "this: "}, default_prompt_name="all"),
}


def agree(encoder: SentenceEncoder, other: Any, what: str) -> None:
    """Everything two models from one folder must agree on."""
    assert encoder.max_seq_length == other.max_seq_length
    assert encoder.get_embedding_dimension() == (other.truncate_dim or other.get_embedding_dimension())
    assert encoder.similarity_fn_name == other.similarity_fn_name
    assert encoder.truncate_dim == other.truncate_dim
    assert encoder.default_prompt_name == other.default_prompt_name
    theirs = {name: text for name, text in other.prompts.items() if text}
    assert {name: text for name, text in encoder.prompts.items() if text} == theirs
    same_embeddings(encoder, other, what)
    for name in theirs:
        same_embeddings(encoder, other, f"{what}, prompt {name}", prompt_name=name)


@pytest.mark.parametrize("name", RECIPES)
def test_folders_by_hand_by_minisbert_and_by_the_peer(name, tmp_path):
    """By hand, old -> minisbert -> peer -> minisbert -> peer; every one of them gives the same embeddings."""
    other = peer(RECIPES[name].write(tmp_path / "by-hand", "old"))
    encoder = SentenceEncoder.load(tmp_path / "by-hand")
    agree(encoder, other, f"{name}, old dialect by hand")
    expected = other.encode(FEW)

    encoder.save(tmp_path / "by-minisbert")
    by_minisbert = peer(tmp_path / "by-minisbert")
    assert (by_minisbert.encode(FEW) == expected).all(), "minisbert wrote it, sentence-transformers reads it"

    by_minisbert.save(str(tmp_path / "by-peer"), create_model_card=False)
    again = SentenceEncoder.load(tmp_path / "by-peer")
    assert again.model_config.modules[0].modes == encoder.model_config.modules[0].modes
    agree(again, other, f"{name}, sentence-transformers' dialect")

    again.save(tmp_path / "back")
    assert (peer(tmp_path / "back").encode(FEW) == expected).all(), (
        "from sentence-transformers through minisbert to sentence-transformers"
    )


@pytest.mark.parametrize("name", ["bert-all-modes", "mpnet-dense-dense-normalize", "bert-prompts", "mpnet-prompts"])
def test_new_dialect_by_hand(name, tmp_path):
    folder = RECIPES[name].write(tmp_path / "new", "new")
    agree(SentenceEncoder.load(folder), peer(folder), f"{name}, new dialect by hand")


@pytest.mark.parametrize(
    "modes", [["mean", "cls"], ["lasttoken", "max", "cls"], ["max", "mean", "mean_sqrt_len_tokens"]]
)
def test_pooling_modes_in_any_order(modes, tmp_path):
    """Only the new dialect can say the order; what minisbert writes must keep it."""
    folder = Recipe("bert", pooling(*modes)).write(tmp_path / "new", "new")
    encoder, other = SentenceEncoder.load(folder), peer(folder)
    same_embeddings(encoder, other, f"{modes}")
    encoder.save(tmp_path / "written")
    assert (peer(tmp_path / "written").encode(FEW) == other.encode(FEW)).all()
    same_embeddings(SentenceEncoder.load(tmp_path / "written"), other, f"{modes}, written and read")


def test_old_dialect_without_flags_is_mean_pooling(tmp_path):
    folder = Recipe("bert", pooling("mean")).write(tmp_path / "old", "old")
    (folder / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 32}')
    same_embeddings(SentenceEncoder.load(folder), peer(folder), "no flags")


def test_a_plain_hugging_face_folder_is_mean_pooling(tmp_path):
    folder = tmp_path / "plain"
    shutil.copytree(TINY["bert"], folder)
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "1_Pooling")
    encoder, other = SentenceEncoder.load(folder), peer(folder)
    assert encoder.max_seq_length == other.max_seq_length
    same_embeddings(encoder, other, "plain folder")


@pytest.mark.parametrize("limit", [5, 17, 64, 65, 1000, None])
@pytest.mark.parametrize("family", TINY)
def test_length_limits_of_the_old_dialect(family, limit, tmp_path):
    """A limit of the tokens, one beyond the positions, and none at all."""
    folder = Recipe(family, pooling("mean")).write(tmp_path / "old", "old")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit, "do_lower_case": False}))
    other = peer(folder)
    if limit is not None and limit > 64:  # sentence-transformers would index beyond its position table
        other.max_seq_length = 64
    encoder = SentenceEncoder.load(folder)
    assert encoder.max_seq_length == other.max_seq_length
    same_embeddings(encoder, other, f"{family}, max_seq_length {limit}")


@pytest.mark.parametrize("limit", [9, 64, 512, 10**30, None])
@pytest.mark.parametrize("family", TINY)
def test_length_limits_of_the_new_dialect(family, limit, tmp_path):
    """There the limit is the tokenizer's."""
    folder = Recipe(family, pooling("mean")).write(tmp_path / "new", "new")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["model_max_length"]
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | ({} if limit is None else {"model_max_length": limit}))
    )
    encoder, other = SentenceEncoder.load(folder), peer(folder)
    assert encoder.max_seq_length == min(other.max_seq_length, 64)
    other.max_seq_length = encoder.max_seq_length
    same_embeddings(encoder, other, f"{family}, model_max_length {limit}")


@pytest.mark.parametrize("family", TINY)
def test_lower_casing_that_the_folder_asks_for(family, tmp_path):
    """A cased tokenizer under `do_lower_case`, on capitals with special rules (İ, ẞ, Σ) too."""
    folder = Recipe(family, pooling("mean")).write(tmp_path / "old", "old")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"do_lower_case": False}))
    ids = {}
    for lower in (True, False):
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, "do_lower_case": lower}))
        encoder, other = SentenceEncoder.load(folder), peer(folder)
        ids[lower] = encoder.tokenizer.tokenize(SENTENCES, max_length=64).ids
        assert ids[lower] == their_ids(other, SENTENCES)
        same_embeddings(encoder, other, f"{family}, do_lower_case {lower}")
    assert ids[True] != ids[False]
    encoder.save(tmp_path / "written")
    assert their_ids(peer(tmp_path / "written"), SENTENCES) == ids[False]


# --- options of encode ---------------------------------------------------------------------------------------------

OPTIONS = [
    {"normalize_embeddings": True},
    {"truncate_dim": 5},
    {"truncate_dim": 1000},
    {"truncate_dim": 6, "normalize_embeddings": True},
    {"prompt": "the prompt: "},
    {"prompt": ""},
    {"prompt": "[CLS] é [SEP]"},
    {"prompt": "a prompt that fills all there is " * 20},
    {"batch_size": 1},
    {"batch_size": 3},
]


@pytest.fixture(scope="module", params=list(TINY))
def pair(request, tmp_path_factory):
    """One folder, read by both; prompts are left out of the pooling."""
    recipe = Recipe(
        request.param, pooling("mean", "max", include_prompt=False), prompts={"query": "find: ", "passage": "read: "}
    )
    folder = recipe.write(tmp_path_factory.mktemp("options") / request.param, "old")
    return SentenceEncoder.load(folder), peer(folder)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: f"{options}"[:40])
def test_encode_options(pair, options):
    same_embeddings(*pair, str(options), **options)


def test_one_string_and_no_string(pair):
    encoder, other = pair
    close(encoder.encode(FEW[1]), other.encode(FEW[1]), "one string")
    assert encoder.encode([]).shape == (0, encoder.get_embedding_dimension())
    assert len(other.encode([])) == 0


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_kinds_of_sequences(pair, kind):
    encoder, other = pair
    close(encoder.encode(kind(FEW), on_truncate="ignore"), other.encode(kind(FEW)), kind.__name__)


@pytest.mark.parametrize("prompt", [None, "find: "])
def test_token_embeddings(pair, prompt):
    encoder, other = pair
    ours = encoder.encode(FEW, prompt=prompt, output_value="token_embeddings", on_truncate="ignore")
    theirs = other.encode(FEW, prompt=prompt, output_value="token_embeddings")
    assert len(ours) == len(theirs) == len(FEW)
    for row, (mine, other_one) in enumerate(zip(ours, theirs, strict=True)):
        close(mine, other_one, f"tokens of {row}")


def test_everything_at_once(pair):
    encoder, other = pair
    ours = encoder.encode(FEW, output_value=None, on_truncate="ignore", truncate_dim=7)
    for row, (mine, item) in enumerate(zip(ours, other.encode(FEW, output_value=None, truncate_dim=7), strict=True)):
        real = int(item["attention_mask"].sum())
        assert np.asarray(mine["input_ids"]).tolist() == item["input_ids"][:real].tolist()
        close(mine["token_embeddings"], item["token_embeddings"][:real], f"tokens of {row}")
        close(mine["sentence_embedding"], item["sentence_embedding"], f"sentence of {row}")


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_precisions(pair, precision):
    """The quantizer on the very same floats: equal. On our own floats: a value may fall on the other side of a step."""
    encoder, other = pair
    floats = other.encode(FEW)
    theirs = peers.util.quantize_embeddings(floats, precision)
    ours = quantize_embeddings(floats, precision)
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert (ours == theirs).all()
    whole = encoder.encode(FEW, precision=precision, on_truncate="ignore")
    of_peer = other.encode(FEW, precision=precision)
    assert whole.dtype == of_peer.dtype
    assert whole.shape == of_peer.shape
    if precision in ("int8", "uint8"):
        steps = np.abs(whole.astype(int) - of_peer.astype(int))
        assert steps.max() <= 1
        # The lowest and highest value of each dimension lie exactly on a step; rounding may move those, little else.
        assert (steps > 0).mean() < 0.3
    elif precision == "float32":
        close(whole, of_peer, precision)
    else:
        assert (whole == of_peer).all()


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_precision_with_given_ranges(precision):
    random = np.random.default_rng(0)
    sample, floats = (random.normal(size=(n, 24)).astype(np.float32) for n in (500, 40))
    ranges = np.stack([sample.min(axis=0), sample.max(axis=0)])
    inside = np.clip(floats, *ranges)
    for given in ({"ranges": ranges}, {"calibration_embeddings": sample}):
        ours = quantize_embeddings(inside, precision, **given)
        assert (ours == peers.util.quantize_embeddings(inside, precision, **given)).all()


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({}, None),
        ({"query": "find: ", "document": "read: "}, None),
        ({"query": "find: ", "passage": "read: ", "corpus": "look: "}, "corpus"),
        ({"corpus": "look: "}, None),
        ({"all": "this: "}, "all"),
        ({"query": "", "document": "", "all": "this: "}, "all"),
    ],
    ids=str,
)
def test_queries_and_documents(tmp_path, method, prompts, default):
    recipe = Recipe("bert", pooling("mean"), prompts=prompts, default_prompt_name=default)
    folder = recipe.write(tmp_path / "model", "old")
    encoder, other = SentenceEncoder.load(folder), peer(folder)
    texts = FEW[:2]
    close(getattr(encoder, method)(texts), getattr(other, method)(texts), method)
    close(getattr(encoder, method)(texts, prompt="x "), getattr(other, method)(texts, prompt="x "), f"{method}, prompt")
    for name in prompts:
        ours, theirs = (getattr(model, method)(texts, prompt_name=name) for model in (encoder, other))
        close(ours, theirs, f"{method}, {name}")


@pytest.mark.parametrize("function", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities(function):
    encoder, other = SentenceEncoder.load(TINY["bert"]), peer(TINY["bert"])
    encoder.similarity_fn_name = other.similarity_fn_name = function
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 9, 64)).astype(np.float32)
    b[0], b[1] = a[0], 0  # an equal row and a zero row
    for scale in (1, 1e-3, 30):
        left, right = a * np.float32(scale), b * np.float32(scale)
        what = f"{function}, scale {scale}"
        # sentence-transformers' euclidean of equal rows cancels (it expands the square); ours is exactly 0.
        tolerance = 1e-3 if function == "euclidean" else TOLERANCE
        theirs = other.similarity(left, right).numpy()
        close(encoder.similarity(left, right), theirs, what, tolerance)
        exact = _similarity_in_float64(function, left, right)
        close(encoder.similarity(left, right), exact.astype(np.float32), f"{what}, against float64")
        theirs = other.similarity_pairwise(left, right).numpy()
        # torch adds 1e-6 to every difference of a pairwise distance.
        tolerance = 1e-5 if function in ("euclidean", "manhattan") else TOLERANCE
        close(encoder.similarity_pairwise(left, right), theirs, f"{what}, pairwise", tolerance)
    one = encoder.similarity(a[0], b[:3])
    close(one, other.similarity(a[0], b[:3]).numpy(), f"{function}, one vector", 1e-3)


def _similarity_in_float64(function: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    if function == "cosine":
        a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    if function in ("dot", "cosine"):
        return a @ b.T
    order = 2 if function == "euclidean" else 1
    return -np.linalg.norm(a[:, None] - b[None], ord=order, axis=-1)


# --- the transformer's parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("buckets", [32, 8, 16, 64, 48, 320])
@pytest.mark.parametrize("max_distance", [128, 256])
def test_relative_position_bucket(buckets, max_distance):
    """Every distance from -600 to 600."""
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    distance = torch.arange(-600, 601)
    theirs = MPNetEncoder.relative_position_bucket(distance, num_buckets=buckets, max_distance=max_distance).numpy()
    assert (relative_position_bucket(distance.numpy(), buckets, max_distance) == theirs).all()


@pytest.mark.parametrize("padding_id", [0, 1, 7])
def test_offset_position_ids(padding_id):
    from transformers.models.mpnet.modeling_mpnet import create_position_ids_from_input_ids

    token_ids = np.random.default_rng(padding_id).integers(0, 12, size=(16, 600))
    token_ids[:, 500:] = padding_id
    theirs = create_position_ids_from_input_ids(torch.tensor(token_ids), padding_id).numpy()
    assert (np.asarray(offset_position_ids(jax.numpy.asarray(token_ids), padding_id)) == theirs).all()


# (hidden_size, heads, layers, intermediate_size, hidden_act)
SHAPES = [
    (32, 4, 2, 64, "gelu"),
    (21, 3, 1, 40, "gelu"),
    (35, 5, 3, 36, "gelu_new"),
    (16, 1, 2, 300, "relu"),
    (12, 12, 2, 7, "silu"),
    (28, 7, 4, 28, "gelu"),
    (64, 2, 1, 1, "gelu_pytorch_tanh"),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_hidden_states_of_random_configs(family, shape, tmp_path):
    width, heads, layers, inner, activation = shape
    settings = {
        "vocab_size": 60,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "hidden_act": activation,
        "max_position_embeddings": 50,
        "layer_norm_eps": 1e-12 if family == "bert" else 1e-5,
    }
    kinds = {
        "bert": (transformers.BertConfig, transformers.BertModel),
        "mpnet": (transformers.MPNetConfig, transformers.MPNetModel),
    }
    config, model = kinds[family]
    torch.manual_seed(width)
    model = model(config(**settings)).eval()
    with torch.no_grad():  # biases and norms are made 0 and 1; give each of them a number of its own
        for name, tensor in model.named_parameters():
            spread = tensor.shape[-1] ** -0.5 if tensor.ndim == 2 and "embeddings" not in name else 0.2
            tensor.copy_(torch.randn_like(tensor) * spread + float("LayerNorm.weight" in name))
    model.save_pretrained(str(tmp_path))

    model_config = ModelConfig(
        family, FAMILIES[family].Config.from_json(json.loads((tmp_path / "config.json").read_text()))
    )
    definition, _ = define(model_config)
    code = FAMILIES[family]
    table, options = (
        table_for(code.RULES, model_config.encoder),
        {"passthrough": code.PASSTHROUGH, "prefix": code.PREFIX},
    )
    read = convert(SafetensorsFiles(tmp_path), table, **options)
    params = nest({f"encoder.{name}": array for name, array in read.params.items()})

    random = np.random.default_rng(width)
    lengths = np.array([48, 1, 2, 31, 17])
    mask = np.arange(48) < lengths[:, None]
    ids = np.where(mask, random.integers(3, 60, size=mask.shape), 1 if family == "mpnet" else 0)
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask, dtype=torch.long))
    ours = jax.jit(lambda params: nnx.merge(definition, params)(ids, lengths).token_BLD)(params)
    close(np.asarray(ours)[mask], theirs.last_hidden_state.numpy()[mask], f"{family} {shape}")
