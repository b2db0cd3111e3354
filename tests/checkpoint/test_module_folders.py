"""Bad folders of the modules other than the transformer, and folders of other kinds: refused by file and key.

WeightedLayerPooling and LayerNorm on weights/tiny-layers, static tables on tiny-static, Routers on tiny-router. What is
the same for every folder (JSON, paths, safetensors, Dense) is in test_folder.py, whose cases these are like.
"""

import json
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_folder import (
    BROKEN_JSON,
    EVIL_NAMES,
    HUGE,
    LEAVES,
    MODEL,
    C,
    Evil,
    J,
    both,
    case,
    check,
    damage_at_random,
    drop,
    edit,
    refused,
    remove,
    write,
    wrong,
)

from minisbert import CrossEncoder, SentenceEncoder
from minisbert.checkpoint.router import Router
from minisbert.errors import InputError
from minisbert.pretrained import join_routes, load_pretrained

WEIGHTS = Path(__file__).parents[2] / "weights"
BROKEN = ["empty", "not UTF-8", "deep lists", "null", "list of numbers"]  # one reader reads them all: test_folder.py
Change = Callable[[Path], Any]


layers, static, router = (partial(case, family=name) for name in ("layers", "static", "router"))


def tensors(relative: str, **values: np.ndarray | None) -> Change:
    """Set tensors of a file, None takes one away; `__` in a name stands for a dot."""

    def change(folder: Path) -> None:
        arrays = load_file(folder / relative)
        for name, array in values.items():
            name = name.replace("__", ".")
            arrays.pop(name, None)
            if array is not None:
                arrays[name] = array
        save_file(arrays, folder / relative)

    return change


def swap(*order: int) -> Change:
    """modules.json with its entries in another order, or some of them left out."""

    def change(folder: Path) -> None:
        file = folder / "modules.json"
        entries = json.loads(file.read_text())
        file.write_text(json.dumps([{k: v for k, v in entries[i].items() if k != "idx"} for i in order]))

    return change


def pickled(relative: str) -> Change:
    def change(folder: Path) -> None:
        (folder / relative).unlink()
        (folder / relative).with_name("pytorch_model.bin").write_bytes(pickle.dumps(Evil(folder.parent / "canary")))

    return change


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


# --- WeightedLayerPooling and LayerNorm ------------------------------------------------------------------------------

W, N, D = "1_WeightedLayerPooling", "3_LayerNorm", "4_Dense"
WC, NC = f"{W}/config.json", f"{N}/config.json"
WM, NM = f"{W}/{MODEL}", f"{N}/{MODEL}"
CASES = [
    *wrong(WC, "layer_start", -1, 4, "1", None, True, 1.5, HUGE, float("nan"), [], family="layers"),
    *wrong(WC, "num_hidden_layers", 2, 4, 12, 0, -3, 3.0, "3", None, True, HUGE, [], also=("3",), family="layers"),
    *[layers(f"no {key}", drop(WC, key), WC, f"'{key}' is missing") for key in ("layer_start", "num_hidden_layers")],
    *wrong(WC, "word_embedding_dimension", 21, 0, 20.0, "20", None, True, also=("20",), family="layers"),
    *wrong(WC, "embedding_dimension", 24, also=("24",), family="layers"),
    *wrong(WC, "layer_weights", [1, 2], family="layers"),
    layers("a layer fewer in config.json", edit("config.json", num_hidden_layers=2), WC, "num_hidden_layers", "2"),
    *[
        layers(
            f"output_hidden_states is {value!r}", edit("config.json", output_hidden_states=value), WC, "output_hidden"
        )
        for value in (False, None, "yes", 1)
    ],
    layers("no output_hidden_states", drop("config.json", "output_hidden_states"), WC, "output_hidden_states"),
    layers("a weight too few", tensors(WM, layer_weights=ones(2)), WM, "layer_weights", "[2]", "[3]"),
    layers("a weight too many", tensors(WM, layer_weights=ones(4)), WM, "layer_weights", "[4]", "[3]"),
    layers("weights in two directions", tensors(WM, layer_weights=ones(3, 1)), WM, "layer_weights", "[3, 1]"),
    layers("no weights in the file", tensors(WM, layer_weights=None, x=ones(3)), WM, "missing: 'layer_weights'", "'x'"),
    layers("a tensor more", tensors(WM, x=ones(3)), WM, "unknown: 'x'"),
    layers("NaN", tensors(WM, layer_weights=ones(3) * np.nan), WM, "layer_weights", "not finite"),
    layers("whole numbers", tensors(WM, layer_weights=np.arange(3)), WM, "layer_weights", "int64"),
    layers("no file of weights", remove(WM), W, MODEL),
    layers("only a pickle of weights", pickled(WM), W, "pytorch_model.bin", "safetensors"),
    layers("no settings", remove(WC), WC),
    layers("after the pooling", swap(0, 2, 1, 3, 4, 5), "modules.json", "weighted_layer_pooling"),
    layers("twice", swap(0, 1, 1, 2, 3, 4, 5), "modules.json", "weighted_layer_pooling"),
    layers("without a pooling", swap(0, 1, 3, 4, 5), "modules.json", "pooling"),
    *wrong(
        *(NC, "dimension", 39, 41, 0, -40, 40.0, "40", None, True, 40.5, HUGE, float("nan"), []),
        also=("40",),
        family="layers",
    ),
    layers("no dimension", drop(NC, "dimension"), NC, "'dimension' is missing"),
    *wrong(NC, "eps", 1e-12, family="layers"),
    layers("a norm of another width", tensors(NM, norm__weight=ones(20)), NM, "norm.weight", "[20]", "[40]"),
    layers("no bias", tensors(NM, norm__bias=None), NM, "missing: 'norm.bias'"),
    layers("a norm too much", tensors(NM, other__weight=ones(40)), NM, "unknown: 'other.weight'"),
    layers("infinite", tensors(NM, norm__bias=ones(40) * np.inf), NM, "norm.bias", "not finite"),
    layers("no file of the norm", remove(NM), N, MODEL),
    layers("only a pickle of the norm", pickled(NM), N, "pytorch_model.bin"),
    layers("no settings of the norm", remove(NC), NC),
    layers("a norm before the pooling", swap(0, 1, 3, 2, 4, 5), "modules.json", "layer_norm"),
    layers("a norm where the width is another", swap(0, 1, 2, 4, 3, 5), NC, "dimension", "24"),
    *[layers(f"{file} is {how}", write(file, BROKEN_JSON[how]), file) for file in (WC, NC) for how in BROKEN],
]


# --- static tables ---------------------------------------------------------------------------------------------------

S = "0_StaticEmbedding"
SM, SJ = f"{S}/{MODEL}", f"{S}/{J}"
TABLE = load_file(WEIGHTS / "tiny-static" / SM)["embedding.weight"]
V = len(TABLE)


def shared_rows(**values: np.ndarray | None) -> Change:
    """The table as model2vec keeps one whose tokens share rows, then other tensors."""
    good = {"embeddings": TABLE[:9], "mapping": np.zeros(V, np.int64), "weights": ones(V)}
    return tensors(SM, embedding__weight=None, **(good | values))


def cut(**values: Any) -> Change:
    good = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    return edit(SJ, truncation=good | values)


def lost(folder: Path) -> None:
    """A tokenizer of more tokens than the table has rows."""
    save_file({"embedding.weight": TABLE[:-1]}, folder / SM)


STATIC = {"path": S, "type": "sentence_transformers.models.StaticEmbedding"}
AFTER = {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
CASES += [
    static("no table", tensors(SM, embedding__weight=None, x=ones(2, 2)), SM, "embedding.weight", "'x' [2, 2]"),
    static("no tensors", tensors(SM, embedding__weight=None), SM, "no tensors"),
    *[
        static(f"a table of shape {shape}", tensors(SM, embedding__weight=ones(*shape)), SM, str(list(shape)))
        for shape in ((V,), (V, 24, 1), (0, 24), (V, 0), ())
    ],
    static("fewer rows than tokens", lost, SJ, str(V - 1), "vocab_size"),
    static("a tensor more", tensors(SM, x=ones(2)), SM, "unknown: 'x'"),
    static("NaN", tensors(SM, embedding__weight=TABLE * np.float32(np.nan)), SM, "embedding.weight", "not finite"),
    static("whole numbers", tensors(SM, embedding__weight=TABLE.astype(np.int8)), SM, "embedding.weight", "int8"),
    static("too wide", tensors(SM, embedding__weight=ones(V, 70_000)), MODEL, "hidden_size", "70000"),
    static("no weights", remove(SM), S, MODEL),
    static("only a pickle", pickled(SM), S, "pytorch_model.bin"),
    static("no tokenizer", remove(SJ), S, J),
    static("a row that is not there", shared_rows(mapping=np.full(V, 9)), SM, "mapping", "9"),
    static("a row below 0", shared_rows(mapping=np.full(V, -1)), SM, "mapping", "-1"),
    static("a mapping of numbers with a point", shared_rows(mapping=ones(V)), SM, "mapping", "float32"),
    static("a mapping in two directions", shared_rows(mapping=np.zeros((V, 1), np.int64)), SM, str([V, 1])),
    static("a mapping of fewer tokens", shared_rows(mapping=np.zeros(V - 1, np.int64), weights=None), SJ, str(V - 1)),
    static(
        "one row for all of 100,000 tokens",
        shared_rows(embeddings=ones(1, 20_000), mapping=np.zeros(100_000, np.int8), weights=None),
        *(SM, "[1, 20000]", "[100000, 20000]"),
    ),
    static("weights of fewer tokens", shared_rows(weights=ones(V - 1)), SM, "weights", str(V - 1)),
    static("weights of the rows", shared_rows(weights=ones(9)), SM, "weights", "[9]", str(V)),
    static("weights that are whole", shared_rows(weights=np.ones(V, np.int64)), SM, "weights", "int64"),
    static("weights that are infinite", shared_rows(weights=ones(V) * np.inf), SM, "not finite"),
    static("a mapping next to a whole table", tensors(SM, mapping=np.zeros(V, np.int64)), SM, "unknown: 'mapping'"),
    *wrong(SJ, "max_length", 0, -1, "9", None, True, HUGE, 9.5, [], change=cut, family="static"),
    *wrong(SJ, "direction", "Left", also=("Left",), change=cut, family="static"),
    *wrong(SJ, "strategy", "OnlySecond", change=cut, family="static"),
    static("a pooling after it", write("modules.json", [STATIC, AFTER]), "modules.json", "static_embedding -> pooling"),
    static("two tables", write("modules.json", [STATIC, STATIC]), "modules.json", "static_embedding"),
    static("a table after a transformer", write("modules.json", [AFTER, STATIC]), "modules.json", "static_embedding"),
    static(
        "layers of it",
        write("modules.json", [STATIC, {"path": "x", "type": "sentence_transformers.models.WeightedLayerPooling"}]),
        "modules.json",
        "weighted_layer_pooling",
    ),
    *[static(f"the tokenizer is {how}", write(SJ, BROKEN_JSON[how]), SJ) for how in BROKEN],
]


def test_a_folder_that_calls_itself_static(tmp_path):
    """The word is ours, for folders without config.json; in a config.json it does not name a family."""
    folder = Path(shutil.copytree(WEIGHTS / "tiny-bert", tmp_path / "model"))
    edit("config.json", model_type="static")(folder)
    refused(lambda: load_pretrained(folder), "config.json", "model_type")


@pytest.mark.parametrize("normalize", ["yes", 1, None])
def test_a_model2vec_folder_that_is_not_clear(normalize, tmp_path):
    folder = tmp_path / "m2v"
    shutil.copytree(WEIGHTS / "tiny-static" / S, folder)
    write("config.json", {"model_type": "model2vec", "normalize": normalize})(folder)
    refused(lambda: load_pretrained(folder), "config.json", "normalize")
    write("config.json", {"model_type": "model2vec"})(folder)
    assert load_pretrained(folder).model_config.dimension == 24


# --- Routers ---------------------------------------------------------------------------------------------------------

R = "router_config.json"
MODULES = json.loads((WEIGHTS / "tiny-router" / R).read_text())
ROUTER = {"path": "", "type": "sentence_transformers.models.Router"}
Q = "query_0_StaticEmbedding"


def route(name: str, value: Any) -> Change:
    return edit(R, "structure", **{name: value})


def parameters(**values: Any) -> Change:
    return edit(R, "parameters", **values)


def kind_of(module: str, name: Any) -> Change:
    return edit(R, "types", **{module: name})


def renamed(route: str) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / R).read_text())
        content["structure"][route] = content["structure"].pop("query")
        (folder / R).write_text(json.dumps(content))

    return change


def narrower(folder: Path) -> None:
    """A query's route of another width than the documents'."""
    save_file({"embedding.weight": np.ascontiguousarray(TABLE[:, :20])}, folder / Q / MODEL)


CASES += [
    *[router(f"no {key}", drop(R, key), R, f"'{key}' is missing") for key in ("types", "structure", "parameters")],
    *[
        one
        for key in ("types", "structure", "parameters")
        for one in wrong(R, key, 3, None, [], "x", True, family="router")
    ],
    *wrong(R, "more", 1, family="router"),
    *wrong(R, "temperature", 1, change=parameters, family="router"),
    router("no routes", edit(R, structure={}), R, "structure"),
    router("1,000 routes", edit(R, structure={f"r{i}": [Q] for i in range(1000)}), R, "100"),
    *[
        router(f"a route is {v!r:.30}", route("query", v), R, "'query'")
        for v in ([], None, 3, "x", {}, [[]], [3], [None])
    ],
    router("a route to nothing", route("query", [Q, "query_1_Dense"]), R, "query_1_Dense", "'types'"),
    router("a module of no route", edit(R, "types", x=MODULES["types"][Q]), R, "no route has the module(s) x"),
    *[
        router(f"the route is named {n!r}", renamed(n), R, "structure")
        for n in ("", "a.b", "../x", "a/b", "x" * 101, "a b")
    ],
    *[router(f"type is {t!r}", kind_of(Q, t), R, Q) for t in (*EVIL_NAMES, None, 3, ["x"], {"x": 1})],
    router("a Router in a Router", kind_of(Q, ROUTER["type"]), R, Q, "Router"),
    router("a sparse route", kind_of(Q, "sentence_transformers.sparse_encoder.modules.SpladePooling"), R, "Splade"),
    *[
        router(f"a module's folder is {path!r}", both(kind_of(path, "x"), route("query", [path])), R)
        for path in (*LEAVES, "", ".", "a/b")
    ],
    *wrong(
        *(R, "default_route", "passage", "", 3, True, ["query"], {}),
        **{"also": ("'document', 'query'",), "change": parameters, "family": "router"},
    ),
    *wrong(R, "allow_empty_key", "no", 1, None, [], change=parameters, family="router"),
    *wrong(
        *(
            R,
            "route_mappings",
            [],
            "x",
            3,
            {"query": "query"},
            {"('query', 'text')": "passage"},
            {"('query', 'text')": 3},
        ),
        *({"('query', 'image')": "query"}, {"(None, ('text', 'image'))": "query"}, {"": "query"}),
        *({"__import__('os').system('x')": "query"}, {"('query', 'text'); x": "query"}, {"(" * 10_000: "query"}),
        **{"change": parameters, "family": "router"},
    ),
    router("two Routers", write("modules.json", [ROUTER, ROUTER]), "modules.json", "2 Routers"),
    router("routes without an encoder", route("query", ["query_1_Normalize"]), R),
    router("a pooling in front", write("modules.json", [AFTER, ROUTER]), "modules.json", "pooling -> static_embedding"),
    router("routes of different widths", narrower, "modules.json", "'query': 20", "'document': 24"),
    router("no router_config.json", remove(R), R),
    router("no folder of a module", remove(Q), Q),
    router("a route without weights", remove(f"document_0_Transformer/{MODEL}"), "document_0_Transformer", MODEL),
    router(
        "a route's activation", edit("document_0_Transformer/config.json", hidden_act="x"), "document_0", "hidden_act"
    ),
    router(
        "a route's width", edit("document_3_LayerNorm/config.json", dimension=3), "document_3_LayerNorm", "dimension"
    ),
    *[router(f"it is {how}", write(R, BROKEN_JSON[how]), R) for how in BROKEN],
]


def test_a_router_damaged_at_random(tmp_path):
    damage_at_random(Path(shutil.copytree(WEIGHTS / "tiny-router", tmp_path / "model")), [R], 150)


def test_an_unknown_route_is_refused_when_it_is_asked_for(tmp_path):
    folder = Path(shutil.copytree(WEIGHTS / "tiny-router", tmp_path / "model"))
    encoder = SentenceEncoder.load(folder)
    for task in ("passage", "", "Query"):
        for call in (encoder.encode, encoder.token_counts):
            refused(
                lambda call=call, task=task: call("a", task=task), repr(task), "'query', 'document'", kind=InputError
            )
    refused(lambda: encoder.encode("a", task=3), "task is 3", kind=InputError)
    parameters(default_route=None, allow_empty_key=False)(folder)
    encoder = SentenceEncoder.load(folder)
    refused(lambda: encoder.encode("a"), "task is None", "'query', 'document'", kind=InputError)
    assert encoder.encode_query("a").shape == (24,)
    with pytest.raises(InputError, match="for task 'find' -> 'query'"):
        Router(("query",), mappings=(("find", "text", "query"),)).of("x")


def test_routes_that_cannot_be_joined():
    static, layers, bert = (load_pretrained(WEIGHTS / f"tiny-{name}") for name in ("static", "layers", "bert"))
    refused(lambda: join_routes({"query": static, "document": bert}), "'query': 24", "'document': 32")
    refused(lambda: join_routes({}), "join_routes")
    refused(lambda: join_routes({"../query": static}), "'../query'")
    refused(lambda: join_routes({"query": static}, default="document"), "'document'", "query")
    router = join_routes({"query": static, "document": layers})
    refused(lambda: join_routes({"query": router}), "Router")


def test_a_router_where_one_encoder_is_wanted():
    refused(lambda: CrossEncoder.from_encoder(WEIGHTS / "tiny-router"), "Router", "query, document")
    refused(lambda: CrossEncoder.from_encoder(WEIGHTS / "tiny-static"), "'static'", "bert")


# --- folders of other kinds ------------------------------------------------------------------------------------------

ST = "sentence_transformers."
# What a folder's modules or settings say -> the words of the refusal.
OTHER_MODULES = {
    ST + "sparse_encoder.modules.splade_pooling.SpladePooling": "sparse",
    ST + "sparse_encoder.models.SpladePooling.SpladePooling": "sparse",
    ST + "sparse_encoder.models.MLMTransformer.MLMTransformer": "sparse",
    ST + "sparse_encoder.modules.sparse_auto_encoder.SparseAutoEncoder": "sparse",
    ST + "sparse_encoder.models.CSRSparsity.CSRSparsity": "sparse",
    ST + "sparse_encoder.modules.sparse_static_embedding.SparseStaticEmbedding": "sparse",
    ST + "sparse_encoder.models.IDF.IDF": "sparse",
    ST + "multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask": "multi-vector",
    ST + "multi_vector_encoder.modules.token_pooling.HierarchicalTokenPooling": "multi-vector",
    "pylate.models.ColBERT.ColBERT": "multi-vector",
    ST + "models.CLIPModel": "images",
    ST + "sentence_transformer.modules.clip_model.CLIPModel": "images",
    ST + "models.LSTM": "older network",
    ST + "models.WordEmbeddings": "older network",
}
MODALITY = [{"image": {}, "text": {}}, {"audio": {}}]
CASES += [
    *wrong(C, "model_type", "SparseEncoder", also=("sparse",)),
    *wrong(C, "model_type", "MultiVectorEncoder", also=("multi-vector",)),
    *wrong(C, "model_type", "CrossEncoder", also=("CrossEncoder(...)",)),
    *wrong("config.json", "model_type", "clip", also=("images",)),
    *wrong("config.json", "model_type", "whisper", "wav2vec2", also=("audio",)),
    *wrong("config.json", "architectures", ["HF_ColBERT"], also=("multi-vector",)),
    *wrong("sentence_bert_config.json", "modality_config", *MODALITY),
]


@pytest.mark.parametrize("case", CASES)
def test_a_module_that_lies(case, tmp_path):
    check(case, tmp_path / "model")


@pytest.mark.parametrize("name", OTHER_MODULES)
def test_modules_of_another_kind_of_model(name, tmp_path):
    folder = Path(shutil.copytree(WEIGHTS / "tiny-bert", tmp_path / "model"))
    entries = json.loads((folder / "modules.json").read_text())
    for at in (0, 1):  # in the transformer's place, and in the pooling's
        changed = [entry | ({"type": name} if i == at else {}) for i, entry in enumerate(entries)]
        write("modules.json", changed)(folder)
        refused(lambda: load_pretrained(folder), "modules.json", repr(name), OTHER_MODULES[name])
