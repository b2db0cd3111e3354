"""Chains of modules against sentence-transformers: Router, StaticEmbedding, WeightedLayerPooling, LayerNorm, Dense.

Each is built of sentence-transformers' own classes on tiny models and written by sentence-transformers; both read it,
minisbert writes it, both read that. Token ids are identical, embeddings within 2e-6, relative to the largest value
above 1 as in test_parity_sentence_transformers.py. Folders as 5.0 to 5.3 wrote them have the same files under other
names of classes. Gradients of a mean of random projections, by the packed forward pass that training takes, within
1e-5.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minisbert import SentenceEncoder
from minisbert.checkpoint.convert import Converted, export, flatten
from minisbert.checkpoint.folder_writer import chain_of
from minisbert.checkpoint.modules import WithWeights
from minisbert.checkpoint.router import Router
from minisbert.errors import InputError
from minisbert.pretrained import encoder_tensors, join_routes, load_pretrained
from minisbert.sentence_model import define
from minisbert.text.packing import pack
from minisbert.training.siamese import packed_embed

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import TWINS, tiny

WHY = "the parity extra is not installed: pip install torch (a CPU build will do), then pip install -e .[parity]"
torch = pytest.importorskip("torch", reason=WHY)
peers = pytest.importorskip("sentence_transformers", reason=WHY)
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules", reason=WHY)

pytestmark = pytest.mark.parity

TOLERANCE = 2e-6
GRADIENT_TOLERANCE = 1e-5
FEW = [
    "a cat",
    "",
    "the man plays guitar on the street",
    "Eine Katze, 中, é and [SEP] <pad> in it",
    "the city at night " * 20,
]
TASKS = (None, "query", "document")
FAMILIES = [family for family in TWINS if family not in ("static", "xlm-roberta")]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def peer(folder: Path) -> Any:
    return peers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def close(ours: Any, theirs: Any, what: str, tolerance: float = TOLERANCE) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, what
    difference = float(np.abs(ours - theirs).max())
    scale = max(1.0, float(np.abs(theirs).max()))
    if os.environ.get("MINISBERT_SHOW_DIFFERENCES"):
        print(f"\n  {what}: {difference:.1e} (largest value {scale:.2g})", end="")
    assert difference <= tolerance * scale, f"{what}: differs by {difference:.2e}, values up to {scale:.3g}"


# --- sentence-transformers' modules on tiny models, every weight random ----------------------------------------------


def transformer(family: str, **settings: Any) -> Any:
    return modules.Transformer(str(tiny(family)), config_kwargs=settings)


def static(width: int) -> Any:
    from tokenizers import Tokenizer

    return modules.StaticEmbedding(
        Tokenizer.from_file(str(tiny("static") / "0_StaticEmbedding" / "tokenizer.json")), embedding_dim=width
    )


def layers(family: str, start: int) -> list[Any]:
    """Transformer, WeightedLayerPooling, Pooling."""
    encoder = transformer(family, output_hidden_states=True)
    width, count = encoder.get_embedding_dimension(), encoder.model.config.num_hidden_layers
    mixed = modules.WeightedLayerPooling(width, num_hidden_layers=count, layer_start=start)
    return [encoder, mixed, modules.Pooling(width, "mean")]


def mean_of(family: str) -> list[Any]:
    encoder = transformer(family)
    return [encoder, modules.Pooling(encoder.get_embedding_dimension(), "mean")]


def shared() -> list[Any]:
    """One transformer, and a Dense for each route; no default."""
    encoder, pooling = mean_of("bert")
    routes = {name: [encoder, pooling, modules.Dense(32, 16)] for name in ("q", "d")}
    return [
        modules.Router(routes, allow_empty_key=False, route_mappings={("query", "text"): "q", ("document", None): "d"})
    ]


CHAINS: dict[str, Callable[[], list[Any]]] = {
    **{f"layers-{family}": lambda family=family: layers(family, 0) for family in FAMILIES},
    "the-last-layer": lambda: layers("bert", 2),
    "layer-norm": lambda: [*mean_of("mpnet"), modules.LayerNorm(36)],
    "all-heads": lambda: [
        *layers("bert", 1),
        modules.Dense(32, 20),
        modules.LayerNorm(20),
        modules.Normalize(),
        modules.LayerNorm(20),
        modules.Dense(20, 9, bias=False, activation_function=torch.nn.GELU()),
    ],
    "static": lambda: [static(20)],
    "static-heads": lambda: [static(20), modules.LayerNorm(20), modules.Dense(20, 12), modules.Normalize()],
    "router": lambda: [modules.Router.for_query_document([static(32)], mean_of("bert")), modules.Normalize()],
    "router-of-heads": lambda: [
        *mean_of("bert"),
        modules.Router(
            {"query": [modules.Dense(32, 16)], "document": [modules.Dense(32, 16), modules.LayerNorm(16)]},
            default_route="query",
            route_mappings={("search", "text"): "query", ("document", "text"): "document"},
        ),
    ],
    "router-in-the-middle": lambda: [
        transformer("bert"),
        modules.Router({"document": [modules.Pooling(32, "cls")], "query": [modules.Pooling(32, "max")]}),
        modules.Dense(32, 8),
    ],
    "router-of-two-families": lambda: [
        modules.Router(
            {
                "query": [*layers("distilbert", 1), modules.Dense(30, 24)],
                "document": [*mean_of("xlm-roberta"), modules.Normalize()],
            },
            default_route="document",
        )
    ],
    "router-shared": shared,
}


def build(name: str, **settings: Any) -> Any:
    torch.manual_seed(len(name))
    chain = CHAINS[name]()
    model = peers.SentenceTransformer(modules=chain, device="cpu", **settings).eval()
    encoders = {
        parameter
        for module in model.modules()
        if isinstance(module, modules.Transformer)
        for parameter in module.parameters()
    }
    with torch.no_grad():  # norms and layer weights are made 1 and 0; give each of them a number of its own
        for path, tensor in model.named_parameters():
            if tensor not in encoders and "embedding" not in path:
                tensor.copy_(torch.randn_like(tensor) / 4 + float(path.endswith(("layer_weights", "norm.weight"))))
    return model


def their_ids(model: Any, text: str, task: str | None) -> list[int]:
    return model.preprocess([text], task=task)["input_ids"].flatten().tolist()


def agree(encoder: SentenceEncoder, other: Any, what: str) -> None:
    """Token ids and embeddings of both, for every task; the same tasks refused."""
    assert encoder.get_embedding_dimension() == len(encoder.encode("a", task="query"))
    for task in TASKS:
        try:
            theirs = other.encode(FEW, task=task)
        except ValueError:
            with pytest.raises(InputError, match="route"):
                encoder.encode(FEW, task=task)
            continue
        route = encoder.route(task)
        ids = route.tokenizer.tokenize(FEW, max_length=route.max_seq_length).ids
        assert ids == [their_ids(other, text, task) for text in FEW], f"{what}, {task}"
        close(encoder.encode(FEW, task=task, on_truncate="ignore"), theirs, f"{what}, {task}")
    for method in ("encode_query", "encode_document"):
        ours = getattr(encoder, method)(FEW, on_truncate="ignore")
        close(ours, getattr(other, method)(FEW), f"{what}, {method}")


def of_5_3(folder: Path) -> None:
    """The names of classes as sentence-transformers 5.0 to 5.3 wrote them, and of settings."""

    def old(name: str, whole: bool) -> str:
        kind = name.rsplit(".", 1)[1]
        return f"sentence_transformers.models.{kind}" + (f".{kind}" if whole else "")

    file = folder / "modules.json"
    file.write_text(json.dumps([e | {"type": old(e["type"], whole=False)} for e in json.loads(file.read_text())]))
    for file in folder.rglob("router_config.json"):
        content = json.loads(file.read_text())
        content["types"] = {module: old(name, whole=True) for module, name in content["types"].items()}
        if not content["parameters"]["route_mappings"]:
            del content["parameters"]["route_mappings"]
        file.write_text(json.dumps(content))
    for file in folder.rglob("*_WeightedLayerPooling/config.json"):
        file.write_text(file.read_text().replace("embedding_dimension", "word_embedding_dimension"))


@pytest.mark.parametrize("name", CHAINS)
def test_folders_by_the_peer_and_by_minisbert(name, tmp_path):
    """peer -> minisbert -> peer -> minisbert; and the first one as 5.x would have written it."""
    settings = {"prompts": {"query": "find: ", "document": "read: "}, "similarity_fn_name": "dot"}
    build(name, **settings).save(str(tmp_path / "by-peer"), create_model_card=False)
    other = peer(tmp_path / "by-peer")
    encoder = SentenceEncoder.load(tmp_path / "by-peer")
    agree(encoder, other, name)

    encoder.save(tmp_path / "by-minisbert")
    by_minisbert = peer(tmp_path / "by-minisbert")
    for method in ("encode_query", "encode_document"):
        assert (getattr(by_minisbert, method)(FEW) == getattr(other, method)(FEW)).all(), "written by minisbert"
    by_minisbert.save(str(tmp_path / "by-peer-again"), create_model_card=False)
    for folder in ("by-minisbert", "by-peer-again"):
        again = SentenceEncoder.load(tmp_path / folder)
        assert again.similarity_fn_name == "dot"
        agree(again, other, f"{name}, {folder}")

    of_5_3(tmp_path / "by-peer")
    old = SentenceEncoder.load(tmp_path / "by-peer")
    assert repr(old) == repr(encoder)
    agree(old, peer(tmp_path / "by-peer"), f"{name}, 5.3")


def test_what_routes_share_is_one_in_memory_and_on_disk(tmp_path):
    build("router-shared").save(str(tmp_path / "by-peer"), create_model_card=False)
    encoder = SentenceEncoder.load(tmp_path / "by-peer")
    q, d = (encoder.routes[name].pretrained.params for name in ("q", "d"))
    leaves = [flatten(params["encoder"]) for params in (q, d)]
    assert all(leaves[0][name] is leaves[1][name] for name in leaves[0])
    assert q["heads"][0]["linear"]["kernel"] is not d["heads"][0]["linear"]["kernel"]
    encoder.save(tmp_path / "written")
    assert len(list((tmp_path / "written").rglob("*Transformer"))) == 1
    router = peer(tmp_path / "written")[0]
    assert router.sub_modules["q"][0] is router.sub_modules["d"][0]


def test_an_asym_folder_of_before_5(tmp_path):
    """Its settings are in config.json, its modules have numbers for names; sentence-transformers reads it as a Router."""
    build("router-of-heads").save(str(tmp_path / "asym"), create_model_card=False)
    where = tmp_path / "asym" / "2_Router"
    content = json.loads((where / "router_config.json").read_text())
    (where / "router_config.json").unlink()
    new = {module: f"1402{i}_{module.rpartition('_')[2]}" for i, module in enumerate(content["types"])}
    for module, name in new.items():
        (where / module).rename(where / name)
    types = {new[module]: f"sentence_transformers.models.{module.rpartition('_')[2]}" for module in new}
    structure = {route: [new[module] for module in chain] for route, chain in content["structure"].items()}
    asym = {"types": types, "structure": structure, "parameters": {"allow_empty_key": True}}
    (where / "config.json").write_text(json.dumps(asym))
    agree(SentenceEncoder.load(tmp_path / "asym"), peer(tmp_path / "asym"), "Asym")


@pytest.mark.parametrize("name", ["tiny-static", "tiny-layers", "tiny-router"])
def test_tiny_models(name):
    agree(SentenceEncoder.load(tiny(name.removeprefix("tiny-"))), peer(tiny(name.removeprefix("tiny-"))), name)


def test_two_models_joined_as_routes(tmp_path):
    """A query's route from one model, a document's from another: each embeds as it did alone, in sentence-transformers too."""
    query, document = (tiny(name) for name in ("static", "layers"))
    routes = {"query": load_pretrained(query), "document": load_pretrained(document)}
    SentenceEncoder(join_routes(routes)).save(tmp_path / "joined")
    joined = peer(tmp_path / "joined")
    assert (joined.encode_query(FEW) == peer(query).encode(FEW)).all()
    assert (joined.encode_document(FEW) == peer(document).encode(FEW)).all()
    agree(SentenceEncoder.load(tmp_path / "joined"), joined, "joined, no default")


# --- which route -----------------------------------------------------------------------------------------------------

MAPPINGS: list[dict[tuple[str | None, str | None], str]] = [
    {},
    {("query", "text"): "b"},
    {("query", None): "b", (None, "text"): "a"},
    {(None, None): "b"},
    {(None, None): "a", ("query", None): "text", ("query", "text"): "b"},
    {("a", "text"): "b", ("b", "text"): "a"},
]


@pytest.mark.parametrize("names", [("a", "b", "text"), ("a", "b", "query")], ids=str)
@pytest.mark.parametrize("mapping", MAPPINGS, ids=str)
@pytest.mark.parametrize("default", [None, "b"])
def test_the_route_of_a_task_is_the_peers(names, mapping, default):
    mapping = {key: route if route in names else "a" for key, route in mapping.items()}
    router = modules.Router(
        {name: [modules.Normalize()] for name in names}, default, allow_empty_key=False, route_mappings=mapping
    ).eval()
    ours = Router(names, default, tuple((task, modality, route) for (task, modality), route in mapping.items()))
    for task in (None, "query", "document", "a", "b", "text", ""):
        try:
            theirs = router._resolve_route(task=task, modality="text")
        except ValueError:
            with pytest.raises(InputError):
                ours.of(task)
        else:
            assert ours.of(task) == theirs, task


# --- static folders of model2vec and others --------------------------------------------------------------------------

MODEL2VEC = {"model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": 8, "normalize": True}


def model2vec(folder: Path, tensors: dict[str, np.ndarray], *, truncation: int | None = None) -> Path:
    """A folder as model2vec 0.10 writes it."""
    from tokenizers import Tokenizer

    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    backend = Tokenizer.from_file(str(tiny("static") / "0_StaticEmbedding" / "tokenizer.json"))
    if truncation:
        backend.enable_truncation(truncation)
    backend.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "config.json").write_text(json.dumps(MODEL2VEC))
    chain = [("StaticEmbedding", "."), ("Normalize", "1_Normalize")]
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(chain)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    return folder


def tensors_of(kind: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    table = load_file(tiny("static") / "0_StaticEmbedding" / "model.safetensors")["embedding.weight"]
    V = len(table)
    mapping, few = random.integers(0, 30, size=V), random.normal(size=(30, 8)).astype(np.float32)
    weights = random.uniform(0.1, 2, size=V)
    return {
        "embeddings": {"embeddings": table},
        "embedding.weight": {"embedding.weight": table},
        "weights": {"embeddings": table, "weights": weights.astype(np.float32)},
        "weights64": {"embeddings": table, "weights": weights},
        "mapping": {"embeddings": few, "mapping": mapping},
        "mapping32": {"embeddings": few, "mapping": mapping.astype(np.int32)},
        "both": {"embeddings": few, "mapping": mapping, "weights": weights.astype(np.float32)},
        "half": {"embeddings": few.astype(np.float16), "mapping": mapping, "weights": weights.astype(np.float16)},
        "rows to spare": {"embedding.weight": np.concatenate([table, table])},
    }[kind]


@pytest.mark.parametrize("truncation", [None, 6])
@pytest.mark.parametrize(
    "kind",
    ["embeddings", "embedding.weight", "weights", "weights64", "mapping", "mapping32", "both", "half", "rows to spare"],
)
def test_model2vec_folders(kind, truncation, tmp_path):
    folder = model2vec(tmp_path / "m2v", tensors_of(kind), truncation=truncation)
    encoder, other = SentenceEncoder.load(folder), peer(folder)
    agree(encoder, other, kind)
    encoder.save(tmp_path / "written")
    written = peer(tmp_path / "written")
    assert [their_ids(written, text, None) for text in FEW] == [their_ids(other, text, None) for text in FEW]
    close(written.encode(FEW), other.encode(FEW), f"{kind}, written by minisbert")
    agree(SentenceEncoder.load(tmp_path / "written"), written, f"{kind}, written and read")


@pytest.mark.parametrize(("before", "limit"), [(None, 5), (6, 5), (6, 1000), (6, 10_000_000)])
def test_a_static_models_limit_is_the_tokenizers(before, limit, tmp_path):
    encoder = SentenceEncoder.load(model2vec(tmp_path / "m2v", tensors_of("embeddings"), truncation=before))
    assert encoder.max_seq_length == (before or 10_000_000)
    encoder.max_seq_length = limit
    encoder.save(tmp_path / "written")
    written = peer(tmp_path / "written")
    assert max(len(their_ids(written, text, None)) for text in FEW) == min(limit, 80)
    agree(encoder, written, f"{before} -> {limit}")
    assert SentenceEncoder.load(tmp_path / "written").max_seq_length == limit


def test_a_model2vec_folder_without_modules(tmp_path, caplog):
    """As the first versions wrote it: config.json says whether it is normalized, and minisbert says what it assumes."""
    folder = model2vec(tmp_path / "m2v", tensors_of("embeddings"))
    theirs = peer(folder).encode(FEW)
    (folder / "modules.json").unlink()
    close(SentenceEncoder.load(folder).encode(FEW), theirs, "normalized")
    assert "a model2vec folder" in caplog.text
    (folder / "config.json").write_text(json.dumps(MODEL2VEC | {"normalize": False}))
    ours = SentenceEncoder.load(folder).encode(FEW, normalize_embeddings=True)
    close(ours, theirs, "not normalized")


# --- gradients -------------------------------------------------------------------------------------------------------


def slopes_under_their_names(pretrained: Any, gradient: dict[Any, Any]) -> dict[tuple[int, str], np.ndarray]:
    """Our gradient as (the module's number in the chain, the tensor's name in its file) -> slope."""
    named = {(0, name): slope for name, slope in encoder_tensors(with_params(pretrained, gradient)).items()}
    for i, (_, module, slopes_of) in enumerate(chain_of(pretrained.folder, gradient)):
        if isinstance(module, WithWeights):
            slopes = export(Converted(flatten(slopes_of)), module.rules())
            named |= {(i, name): slope for name, slope in slopes.items()}
    return named


def with_params(pretrained: Any, params: dict[Any, Any]) -> Any:
    return replace(pretrained, params=jax.tree.map(np.asarray, params), original=Converted({}))


@pytest.mark.parametrize("name", ["all-heads", "layers-modernbert", "layer-norm", "static", "static-heads"])
def test_gradients_in_every_weight(name, tmp_path):
    build(name).save(str(tmp_path / "model"), create_model_card=False)
    pretrained, other = load_pretrained(tmp_path / "model"), peer(tmp_path / "model").eval()
    model_config = pretrained.model_config
    texts = [text.replace("<pad>", "") for text in FEW]  # which MPNet's table never learns in sentence-transformers
    weight = np.random.default_rng(2).normal(size=(len(texts), model_config.dimension)).astype(np.float32) / len(texts)
    ids = pretrained.tokenizer.tokenize(texts, max_length=pretrained.folder.max_seq_length or 1000).ids
    rows, where = pack(ids, padding_id=pretrained.folder.config.get("pad_token_id") or 0)
    definition, _ = define(model_config)

    def score(params):
        embeddings = packed_embed(definition)(params, rows)
        return (embeddings.reshape(-1, model_config.dimension)[where] * weight).sum()

    slopes = slopes_under_their_names(pretrained, jax.jit(jax.grad(score))(pretrained.params))
    for b, text in enumerate(texts):  # one at a time: no padding
        features = other(other.preprocess([text]))
        (features["sentence_embedding"][0] * torch.tensor(weight[b])).sum().backward()
    theirs = {}
    for i, module in enumerate(other):
        inner = module.model if isinstance(module, modules.Transformer) else module
        for path, tensor in inner.named_parameters():
            if tensor.grad is not None:
                theirs[i, path] = tensor.grad.numpy()
    assert slopes.keys() == theirs.keys()
    for key, slope in slopes.items():
        close(slope, theirs[key], f"{name}, gradient of {key}", GRADIENT_TOLERANCE)


def test_tiny_models_are_what_the_peer_would_write(tmp_path):
    """Nothing is lost on the way: sentence-transformers reads and writes a tiny Router with the same tensors and names."""
    shutil.copytree(tiny("router"), tmp_path / "ours")
    peer(tmp_path / "ours").save(str(tmp_path / "theirs"), create_model_card=False)
    ours, theirs = (
        {
            file.relative_to(tmp_path / who).as_posix(): load_file(file)
            for file in (tmp_path / who).rglob("*.safetensors")
        }
        for who in ("ours", "theirs")
    )
    assert ours.keys() == theirs.keys()
    for file, tensors in ours.items():
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, theirs[file][name])
