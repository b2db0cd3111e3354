"""Model folders of strangers: damaged, lying, from elsewhere, or with code in them. Loaded, then used for two texts."""

import base64
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from battery import WEIGHTS as MODELS
from battery import Case, Gives, refused
from changes import (
    DENSE,
    INDEX,
    NORMALIZE,
    OLD,
    POOLING,
    TOKENIZER,
    TRANSFORMER,
    WEIGHTS,
    Change,
    a_folder,
    all_of,
    chain,
    cut,
    drop,
    header,
    json_file,
    link,
    outside,
    pickled,
    planted,
    put,
    raw,
    remove,
    scale,
    shard_of,
    sharded,
    spoil,
    tensors,
    torch_pickle,
    with_dense,
    write,
)
from checks import close
from libraries import cross_folder

TEXTS = ["a man eats", "a red dog"]
NAN, INF, HUGE = float("nan"), float("inf"), 10**30
C, P, M = "config.json", "1_Pooling/config.json", "modules.json"
S, T, L = "config_sentence_transformers.json", "tokenizer_config.json", "sentence_bert_config.json"
NORM, TABLE = "embeddings.LayerNorm.weight", "embeddings.word_embeddings.weight"
Rows = list[tuple[str, Change, tuple[str, ...]]]


def as_before(lib: Any, result: Any) -> bool:
    """The embeddings of the model that was not changed: what was wrong with the folder did not matter."""
    return close(result, lib.encode(TEXTS))


SAME = Gives("the same embeddings", as_before)


def two_rows(lib: Any, result: Any) -> bool:
    """Finite embeddings of two texts, for changes that ask for another result."""
    array = np.asarray(result, np.float32)
    return array.shape[0] == 2 and bool(np.isfinite(array).all())


def loaded(change: Change, model: str = "tiny-bert", texts: list[str] = TEXTS) -> Callable[[Any, Any], Any]:
    """Change a copy of a tiny model, load it, embed two texts."""

    def act(lib: Any, work: Any) -> Any:
        folder = work.model(model)
        change(folder)
        return lib.load(folder).encode(list(texts))

    return act


def in_tokenizer(*path: Any, **values: Any) -> Change:
    """Set keys at a place in tokenizer.json."""

    def edit(content: Any) -> None:
        for step in path:
            content = content[step]
        content.update(values)

    return json_file(TOKENIZER, edit)


# Takes tokenizer.json as it is; transformers builds BERT's tokenizer anew.
FROM_FILE = put("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def nested(depth: int) -> str:
    """A tokenizer.json with a normalizer in a normalizer in a normalizer."""
    return '{"model": {}, "normalizer": ' + '{"type": "Sequence", "normalizers": [' * depth + "]}" * depth + "}"


# --- JSON ----------------------------------------------------------------------------------------------------------

BROKEN = {
    "empty": b"",
    "cut": b'{"a": [1, 2',
    "a web page": b"<!doctype html><title>404</title>",
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "zeros": b"\0" * 4096,
    "nested 200,000 deep": b"[" * 200_000,
    "nested and closed": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of 10,000 digits": b"9" * 10_000,
    "null": b"null",
    "text": b'"x"',
    "a list of numbers": b"[1, 2]",
}
JSON_FILES = [C, M, P, L, S, TOKENIZER]
JSON_CASES: Rows = [
    (f"{file} is {how}", write(file, content), (file,)) for file in JSON_FILES for how, content in BROKEN.items()
]
JSON_CASES += [(f"{file} is a folder", a_folder(file), (file,)) for file in (C, P, TOKENIZER, WEIGHTS)]
JSON_CASES += [(f"no {file}", remove(file), (file,)) for file in (C, P)]

# --- config.json ---------------------------------------------------------------------------------------------------

COUNTS = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"]
CONFIG: Rows = [
    *[(f"{key} is {value!r:.12}", put(C, **{key: value}), (C, key)) for key in COUNTS for value in ("32", -1, 0, HUGE)],
    *[(f"no {key}", drop(C, key), (C, key)) for key in COUNTS],
    ("intermediate_size is 1.5", put(C, intermediate_size=1.5), (C, "intermediate_size")),
    ("layer_norm_eps is NaN", put(C, layer_norm_eps=NAN), (C, "layer_norm_eps")),
    ("layer_norm_eps is negative", put(C, layer_norm_eps=-1), (C, "layer_norm_eps")),
    ("dropout of 1.5", put(C, hidden_dropout_prob=1.5), (C, "hidden_dropout_prob")),
    ("heads that do not divide", put(C, num_attention_heads=5), (C, "num_attention_heads")),
    ("vocab_size below the tokenizer's", put(C, vocab_size=100), (TOKENIZER, "100")),
    ("vocab_size above the weights'", put(C, vocab_size=200), (WEIGHTS, TABLE)),
    ("a layer more", put(C, num_hidden_layers=3), (WEIGHTS, "layer.2")),
    ("a layer less", put(C, num_hidden_layers=1), (WEIGHTS, "layer.1")),
    ("1,000 layers", put(C, num_hidden_layers=1000), (C, "num_hidden_layers", "1000")),
    ("1,001 layers", put(C, num_hidden_layers=1001), (C, "num_hidden_layers")),
    ("512 positions", put(C, max_position_embeddings=512), (WEIGHTS, "512")),
    ("relative positions", put(C, position_embedding_type="relative_key"), (C, "position_embedding_type")),
    ("a decoder", put(C, is_decoder=True), (C, "is_decoder")),
    ("quantized weights", put(C, quantization_config={"bits": 4}), (C, "quantization_config")),
    *[
        (f"hidden_act is {value!r}", put(C, hidden_act=value), (C, "hidden_act"))
        for value in ("os.system", "swiglu", None, 3)
    ],
    *[
        (f"model_type is {value!r}", put(C, model_type=value), (C, "model_type"))
        for value in ("gpt2", "evil", "../bert", "", None, 3)
    ],
    *[(f"pad_token_id is {value!r:.12}", put(C, pad_token_id=value), (C, "pad_token_id")) for value in (-1, HUGE, "0")],
]

# --- modules -------------------------------------------------------------------------------------------------------

NAMES = ["os.system", "builtins.eval", "evil.Evil", "subprocess.Popen", OLD + "LSTM", OLD + "Pooling;import os", ""]
LEAVES = ["..", "../other", "1_Pooling/../../other", "/etc", "C:\\Windows", "..\\other", "1_Pooling\0"]
MODULES: Rows = [
    *[(f"a module of type {t!r}", chain(TRANSFORMER, POOLING | {"type": t}), (M, repr(t))) for t in NAMES],
    *[(f"a transformer of type {t!r}", chain(TRANSFORMER | {"type": t}, POOLING), (M, repr(t))) for t in NAMES[:4]],
    *[(f"a module at {p!r}", chain(TRANSFORMER, POOLING | {"path": p}), (M, repr(p))) for p in LEAVES],
    *[(f"a transformer at {p!r}", chain(TRANSFORMER | {"path": p}, POOLING), (M, repr(p))) for p in LEAVES],
    ("a path that is a number", chain(TRANSFORMER, POOLING | {"path": 3}), (M, "path")),
    ("a type that is a list", chain(TRANSFORMER, POOLING | {"type": ["x"]}), (M, "type")),
    ("a module that is null", chain(TRANSFORMER, None), (M,)),
    ("no modules", chain(), (M,)),
    ("no pooling", chain(TRANSFORMER), (M, "pooling")),
    ("no transformer", chain(POOLING), (M, "transformer")),
    ("two transformers", chain(TRANSFORMER, TRANSFORMER, POOLING), (M, "transformer")),
    ("pooling first", chain(POOLING, TRANSFORMER), (M, "pooling")),
    ("10,000 modules", chain(TRANSFORMER, POOLING, *[NORMALIZE] * 9_998), (M, "10000")),
    ("a module in an empty place", chain(TRANSFORMER, POOLING | {"path": "7_Pooling"}), ("7_Pooling",)),
    ("a Dense without a folder", chain(TRANSFORMER, POOLING, DENSE), ("2_Dense",)),
    ("idx against the order", chain(TRANSFORMER | {"idx": 1}, POOLING | {"idx": 0}), (M, "idx")),
]
FLAGS = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
POOL: Rows = [
    ("no pooling mode", put(P, **{f"pooling_mode_{flag}": False for flag in FLAGS}), (P, "pooling_mode")),
    ("a pooling flag that is text", put(P, pooling_mode_cls_token="false"), (P, "pooling_mode_cls_token")),
    ("an unknown pooling flag", put(P, pooling_mode_attention=True), (P, "pooling_mode_attention")),
    *[
        (
            f"pooling_mode is {mode!r}",
            write(P, {"embedding_dimension": 32, "pooling_mode": mode}),
            (P, "pooling_mode"),
        )
        for mode in ("attention", "", [], ["mean", "x"], 3, None)
    ],
    *[
        (f"a pooling of width {value!r:.12}", put(P, word_embedding_dimension=value), (P, "word_embedding_dimension"))
        for value in (33, -32, 0, "32", HUGE, NAN)
    ],
]
ONES = {"linear.weight": np.ones((5, 32), np.float32), "linear.bias": np.ones(5, np.float32)}
DC, DW = "2_Dense/config.json", f"2_Dense/{WEIGHTS}"
DENSES: Rows = [
    *[
        (f"a Dense with {name!r}", with_dense(activation_function=name), (DC, "activation_function"))
        for name in (*NAMES, "torch.load", "torch.hub.load", "torch.nn.modules.activation.Tanh\n", None, 3)
    ],
    ("a Dense of no width", with_dense(out_features=0), (DC, "out_features")),
    ("a Dense that is too wide", with_dense(in_features=64), (DC, "in_features")),
    ("a Dense of a huge width", with_dense(out_features=10**12), (DC, "out_features")),
    ("a Dense on the tokens", with_dense(module_input_name="token_embeddings"), (DC, "module_input_name")),
    ("a Dense with an unknown key", with_dense(scale=2), (DC, "scale")),
    ("a Dense without weights", all_of(with_dense(), remove(DW)), ("2_Dense",)),
    ("a Dense without its bias", with_dense({"linear.weight": ONES["linear.weight"]}), (DW, "linear.bias")),
    ("a Dense of another shape", with_dense({**ONES, "linear.weight": np.ones((4, 32), np.float32)}), (DW, "weight")),
    ("a Dense with NaN", with_dense({**ONES, "linear.bias": np.full(5, NAN, np.float32)}), (DW, "linear.bias")),
]

# --- settings ------------------------------------------------------------------------------------------------------

SETTINGS: Rows = [
    *[
        (f"max_seq_length is {value!r:.12}", put(L, max_seq_length=value), ("max_seq_length",))
        for value in (0, -1, 2, "64", 64.5, HUGE, NAN)
    ],
    ("do_lower_case is text", put(L, do_lower_case="no"), (L, "do_lower_case")),
    ("an unknown length setting", put(L, query_length=32), (L, "query_length")),
    ("prompts that are a list", put(S, prompts=["x"]), (S, "prompts")),
    ("a prompt that is a number", put(S, prompts={"query": 3}), (S, "prompts")),
    ("a prompt with a lone surrogate", put(S, prompts={"query": "\ud800"}), (S, "prompts")),
    ("a default prompt that is not there", put(S, default_prompt_name="nope"), (S, "default_prompt_name")),
    ("a similarity of no name", put(S, similarity_fn_name="os.system"), (S, "similarity_fn_name")),
    *[
        (f"truncate_dim is {value!r:.12}", put(S, truncate_dim=value), (S, "truncate_dim"))
        for value in (0, -1, "8", 8.5, HUGE)
    ],
    ("a sparse encoder", put(S, model_type="SparseEncoder"), (S, "model_type")),
    ("an unknown setting", put(S, pooling="max"), (S, "pooling")),
]

# --- tokenizer -----------------------------------------------------------------------------------------------------

VOCABULARY = ("model", "vocab")
BOMB = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
CHARSMAP = base64.b64encode(struct.pack("<I", 4) + bytes(4) + b"x" * 100_000 + b"\0").decode()
REGEX = {"type": "Replace", "pattern": {"Regex": "(a+)+c"}, "content": ""}
TOKENIZERS: Rows = [
    ("no tokenizer file", remove(TOKENIZER, "vocab.txt"), (TOKENIZER,)),
    ("an empty tokenizer", write(TOKENIZER, "{}"), (TOKENIZER,)),
    ("no model in the tokenizer", drop(TOKENIZER, "model"), (TOKENIZER,)),
    ("a vocabulary of numbers", in_tokenizer("model", vocab=[1, 2]), (TOKENIZER,)),
    ("an empty vocabulary", in_tokenizer("model", vocab={}), (TOKENIZER,)),
    ("a negative id", in_tokenizer(*VOCABULARY, a=-1), (TOKENIZER,)),
    ("an id beyond the table", in_tokenizer(*VOCABULARY, zzz=5000), (TOKENIZER, "5000")),
    ("an id beyond 32 bits", in_tokenizer(*VOCABULARY, zzz=2**40), (TOKENIZER,)),
    (
        "[CLS] beyond the table",
        in_tokenizer("post_processor", "special_tokens", "[CLS]", ids=[9999]),
        (TOKENIZER, "9999"),
    ),
    (
        "[SEP] of another number",
        in_tokenizer("post_processor", "special_tokens", "[SEP]", ids=[7]),
        (TOKENIZER, "[SEP]"),
    ),
    ("an unknown model", in_tokenizer("model", type="Evil"), (TOKENIZER,)),
    ("a normalizer of no name", in_tokenizer(normalizer={"type": "os.system"}), (TOKENIZER,)),
    ("a pre-tokenizer of no name", in_tokenizer(pre_tokenizer={"type": "evil.Evil"}), (TOKENIZER,)),
    (
        "a normalizer that makes texts longer and longer",
        in_tokenizer(normalizer={"type": "Sequence", "normalizers": [BOMB] * 9}),
        (TOKENIZER, "normalizer"),
    ),
    (
        "a normalizer that puts 1 MB before a text",
        in_tokenizer(normalizer={"type": "Prepend", "prepend": "a" * 1_000_000}),
        (TOKENIZER, "normalizer"),
    ),
    ("normalizers nested 5,000 deep", write(TOKENIZER, nested(5000)), (TOKENIZER,)),
    ("tokens drawn by lot", in_tokenizer("model", dropout=0.5), (TOKENIZER, "dropout")),
    (
        "byte levels one after the other",
        in_tokenizer(pre_tokenizer={"type": "Sequence", "pretokenizers": [BYTES] * 20}),
        (TOKENIZER, "times as long"),
    ),
    (
        "a charsmap with an entry of 100 kB",
        in_tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": CHARSMAP}),
        (TOKENIZER, "times as long"),
    ),
    ("an invalid pattern", in_tokenizer(normalizer={**REGEX, "pattern": {"Regex": "("}}), (TOKENIZER,)),
    (
        "a precompiled normalizer of garbage",
        in_tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        (TOKENIZER,),
    ),
]

OLD_FILES = remove(TOKENIZER)  # vocab.txt is left
VOCABULARIES: Rows = [
    ("a vocabulary that is not UTF-8", all_of(OLD_FILES, write("vocab.txt", b"[PAD]\n\xff\n")), ("vocab.txt",)),
    ("a vocabulary without special tokens", all_of(OLD_FILES, write("vocab.txt", "a\nb\n")), ("vocab.txt", "[CLS]")),
    ("an empty vocab.txt", all_of(OLD_FILES, write("vocab.txt", "")), ("vocab.txt",)),
    (
        "a vocab.txt beyond the table",
        all_of(OLD_FILES, write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n" + "".join(f"w{i}\n" for i in range(400)))),
        ("vocab.txt", "403"),
    ),
    ("a vocab.txt of 60 MB", all_of(OLD_FILES, write("vocab.txt", b"[PAD]\n" * 10_000_000)), ("vocab.txt", "2000000")),
    ("a folder for vocab.txt", all_of(OLD_FILES, a_folder("vocab.txt")), ("vocab.txt",)),
    ("a cls_token that is not there", all_of(OLD_FILES, put(T, cls_token="<evil>")), ("vocab.txt", "<evil>")),
    ("a cls_token that is a number", all_of(OLD_FILES, put(T, cls_token=3)), (T, "cls_token")),
]

# --- weights -------------------------------------------------------------------------------------------------------


def at(**values: Any) -> Change:
    """Change what the header says of one tensor."""
    return header(lambda h: h[NORM].update(values))


def twice(folder: Path) -> None:
    """One tensor's name given twice in the header."""
    content = (folder / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    text = content[8:end].rstrip()
    (folder / WEIGHTS).write_bytes(raw(text[:-1] + b"," + text[1:], content[end:]))


TENSORS: Rows = [
    ("no weights", remove(WEIGHTS), (WEIGHTS,)),
    *[(f"weights cut to {n} bytes", cut(WEIGHTS, n), (WEIGHTS,)) for n in (0, 1, 7, 8, 9, 100, 5000, -1, -5000)],
    *[
        (f"a header of {n} bytes", header(lambda h: None, length=n), (WEIGHTS,))
        for n in (0, 1, 100, 100_000_001, 2**31, 2**32, 2**63, 2**64 - 1)
    ],
    ("a byte too many", lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes() + b"x"), (WEIGHTS,)),
    ("a header of garbage", write(WEIGHTS, raw(bytes(range(256)), bytes(100))), (WEIGHTS,)),
    ("a header that is a list", write(WEIGHTS, raw(b"[1, 2]")), (WEIGHTS,)),
    ("a header without tensors", write(WEIGHTS, raw({})), (WEIGHTS, TABLE)),
    ("a header nested deeply", write(WEIGHTS, raw(b'{"a":' * 50_000)), (WEIGHTS,)),
    ("a web page for weights", write(WEIGHTS, b"<!doctype html>" * 100), (WEIGHTS,)),
    ("a git-lfs pointer for weights", write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), (WEIGHTS,)),
    ("a tensor's name twice", twice, (WEIGHTS,)),
    ("a dtype of no name", at(dtype="F31"), (WEIGHTS,)),
    ("whole numbers for weights", at(dtype="I32"), (WEIGHTS, NORM)),
    ("offsets outside the file", at(data_offsets=[2**40, 2**40 + 128]), (WEIGHTS,)),
    ("offsets backwards", at(data_offsets=[128, 0]), (WEIGHTS,)),
    ("negative offsets", at(data_offsets=[-128, 0]), (WEIGHTS,)),
    (
        "offsets of the tensor before",
        header(lambda h: h[NORM].update(data_offsets=h[TABLE]["data_offsets"])),
        (WEIGHTS,),
    ),
    ("a shape that does not fit its bytes", at(shape=[33]), (WEIGHTS,)),
    ("a shape that overflows", at(shape=[2**32, 2**32, 2**32]), (WEIGHTS,)),
    ("a shape of 10 TB", at(shape=[10**7, 10**6]), (WEIGHTS,)),
    ("a negative shape", at(shape=[-32]), (WEIGHTS,)),
    ("another shape of the same size", at(shape=[4, 8]), (WEIGHTS, NORM)),
    (
        "100,001 tensors",
        write(WEIGHTS, raw({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_001)})),
        (WEIGHTS, "100001"),
    ),
    *[(f"{v} in {n[-20:]}", spoil(n, v), (WEIGHTS, n)) for v in (NAN, INF, -INF) for n in (NORM, TABLE)],
    ("NaN in float16", spoil(NORM, NAN, np.float16), (WEIGHTS, NORM)),
    ("a tensor less", tensors(lambda a: a.pop(NORM)), (WEIGHTS, NORM)),
    ("a tensor more", tensors(lambda a: a.update(evil_extra=a[NORM])), (WEIGHTS, "evil_extra")),
    ("a transposed table", tensors(lambda a: a.update({TABLE: np.ascontiguousarray(a[TABLE].T)})), (WEIGHTS, TABLE)),
    (
        "another family's weights",
        lambda f: write(WEIGHTS, (MODELS / "tiny-mpnet" / WEIGHTS).read_bytes())(f),
        (WEIGHTS,),
    ),
]
OUTSIDE = ["../shard-0.safetensors", "/etc/passwd", "x/../../shard-0.safetensors", "..\\x", "\0", "C:\\x.safetensors"]


def shard_outside(folder: Path) -> None:
    """A complete shard next to the model's folder, named by the index: who follows the path finds all tensors."""

    def elsewhere(index: dict[str, Any]) -> None:
        for name, file in index["weight_map"].items():
            index["weight_map"][name] = f"../{file}" if file == "shard-0.safetensors" else file

    sharded(elsewhere)(folder)
    (folder / "shard-0.safetensors").rename(folder.parent / "shard-0.safetensors")


SHARDS: Rows = [
    *[(f"a shard at {name!r}", shard_of(NORM, name), (INDEX, repr(name))) for name in OUTSIDE],
    *[(f"a shard named {name!r}", shard_of(NORM, name), (INDEX,)) for name in (3, None, ["x"], "")],
    ("a shard next to the model's folder", shard_outside, (INDEX, "../shard-0.safetensors")),
    ("a shard that is not there", shard_of(NORM, "shard-9.safetensors"), ("shard-9.safetensors",)),
    ("a shard that is a settings file", shard_of(NORM, C), (C,)),
    ("a shard that is cut", all_of(sharded(), cut("shard-1.safetensors", 500)), ("shard-1.safetensors",)),
    ("an index without a map", sharded(lambda i: i.pop("weight_map")), (INDEX, "weight_map")),
    ("an index of nothing", sharded(lambda i: i.update(weight_map={})), (INDEX,)),
    ("an index that forgets a tensor", sharded(lambda i: i["weight_map"].pop(NORM)), (INDEX, NORM)),
    ("an index of the wrong shard", shard_of(NORM, "shard-0.safetensors"), (INDEX, NORM)),
    ("an index that is cut", all_of(sharded(), cut(INDEX, 50)), (INDEX,)),
]

# --- planted code: what must not run is in the folder each time ------------------------------------------------------

EVIL = {"AutoModel": "modeling_evil.Evil", "AutoConfig": "configuration_evil.Evil", "AutoTokenizer": "evil.Evil"}
PLANTED: Rows = [
    ("auto_map", put(C, auto_map=EVIL), (C, "auto_map")),
    ("auto_map and a type of no name", put(C, auto_map=EVIL, model_type="evil"), (C, "evil")),
    ("trust_remote_code in config.json", put(C, auto_map=EVIL, trust_remote_code=True), (C, "auto_map")),
    ("an unknown argument in model_args", put(L, model_args={"adapter_kwargs": {"x": 1}}), (L, "model_args")),
    ("a module of the folder", chain(TRANSFORMER, POOLING, {"path": "2_Dense", "type": "evil.Evil"}), (M, "evil.Evil")),
    ("a transformer of the folder", chain({"path": "", "type": "modeling_evil.Evil"}, POOLING), (M, "modeling_evil")),
    ("a Dense with a class of the folder", with_dense(activation_function="evil.Evil"), (DC, "evil.Evil")),
    ("a Dense with os.system", with_dense(activation_function="os.system"), (DC, "os.system")),
    (
        "a Dense with weights pickled",
        all_of(with_dense(), torch_pickle("2_Dense/pytorch_model.bin")),
        ("2_Dense", "pytorch_model.bin"),
    ),
    ("weights pickled", torch_pickle("pytorch_model.bin"), ("pytorch_model.bin", "weights_only")),
    (
        "weights pickled in shards",
        torch_pickle("pytorch_model-00001-of-00002.bin"),
        ("pytorch_model-00001-of-00002.bin",),
    ),
    ("a pickle under the safe name", lambda f: (f / WEIGHTS).write_bytes(pickled(f)), (WEIGHTS,)),
    ("a pickle for a tokenizer", lambda f: (f / TOKENIZER).write_bytes(pickled(f)), (TOKENIZER,)),
    ("a pickle for config.json", lambda f: (f / C).write_bytes(pickled(f)), (C,)),
    (
        "a shard that is a pickle",
        all_of(sharded(), lambda f: (f / "shard-0.safetensors").write_bytes(pickled(f))),
        ("shard-0",),
    ),
    ("requirements to be installed", put(S, requirements=["evil"]), (S, "requirements")),
    ("a backend of no name", put(L, modality_config={"text": {"method": "evil.Evil"}}), (L, "modality_config")),
]

# --- links out of the folder ---------------------------------------------------------------------------------------

LINKS: Rows = [
    *[
        (f"{name} is a link out of the folder", outside(name), (name, "link"))
        for name in (C, WEIGHTS, TOKENIZER, "vocab.txt")
    ],
    ("1_Pooling is a link out of the folder", outside("1_Pooling"), ("1_Pooling", "link")),
    (
        "special_tokens_map.json is a link to /etc/passwd",
        link("special_tokens_map.json", "/etc/passwd"),
        ("special_tokens_map.json", "link"),
    ),
    ("vocab.txt is a link to nothing", link("vocab.txt", "nowhere"), ("vocab.txt", "link")),
    ("config.json is a link to itself", link(C, C), (C,)),
    ("a shard is a link out of the folder", all_of(sharded(), outside("shard-0.safetensors")), ("shard-0", "link")),
]


def snapshot(folder: Path) -> None:
    """The layout of the Hugging Face cache: a snapshot of links into blobs next to it."""
    home = folder.parent / "models--org--tiny"
    (home / "blobs").mkdir(parents=True)
    for i, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        file.rename(home / "blobs" / str(i))
        file.symlink_to(home / "blobs" / str(i))
    (home / "snapshots").mkdir()
    folder.rename(home / "snapshots" / "main")
    folder.symlink_to(home / "snapshots" / "main")


def snapshot_of_a_link(folder: Path) -> None:
    """That layout, with a store that is itself a link to where the files really are."""
    snapshot(folder)
    home = folder.parent / "models--org--tiny"
    (home / "blobs").rename(folder.parent / "elsewhere")
    (home / "blobs").symlink_to(folder.parent / "elsewhere")


LINKS.append(("the Hugging Face cache's store is a link", snapshot_of_a_link, ("link",)))

# --- folders that are odd, and fine --------------------------------------------------------------------------------

FINE: list[tuple[str, Change, Gives]] = [
    ("nothing changed", lambda f: None, SAME),
    ("the Hugging Face cache's links", snapshot, SAME),
    (
        "links inside the folder",
        all_of(lambda f: (f / C).rename(f / "real.json"), link(C, "real.json")),
        SAME,
    ),
    ("honest shards", sharded(), SAME),
    ("without tokenizer.json", remove(TOKENIZER), SAME),
    ("code and pickles next to good weights", planted, SAME),
    (
        "a pickle next to good weights",
        lambda f: (f / "pytorch_model.bin").write_bytes(pickled(f)),
        SAME,
    ),
    ("an unknown architecture's name", put(C, architectures=["EvilModel"]), SAME),
    ("a byte order mark in no file", put(C, _name_or_path="../../etc"), SAME),
    (
        "float16 weights",
        tensors(lambda a: a.update({k: v.astype(np.float16) for k, v in a.items()})),
        Gives("two finite rows", two_rows),
    ),
    ("weights of zero", scale(0.0, "dense"), Gives("two finite rows", two_rows)),
]

# --- a cross-encoder's folder --------------------------------------------------------------------------------------


def cross(change: Change) -> Callable[[Any, Any], Any]:
    """Change a copy of a tiny cross-encoder, load it, score a pair."""

    def act(lib: Any, work: Any) -> Any:
        import shutil

        folder = Path(shutil.copytree(cross_folder(), work.folder / "model"))
        change(folder)
        return lib.load_cross(folder).predict([("a man", "a dog")])

    return act


def score_as_before(lib: Any, result: Any) -> bool:
    """The score of the model that was not changed."""
    return close(result, lib.cross.predict([("a man", "a dog")]))


HEAD = "classifier.weight"
CROSS: Rows = [
    *[
        (f"{C} is {how}", write(C, BROKEN[how]), (C,))
        for how in ("empty", "cut", "not UTF-8", "null", "nested 200,000 deep")
    ],
    *[(f"weights cut to {n} bytes", cut(WEIGHTS, n), (WEIGHTS,)) for n in (0, 8, 1000, -1)],
    ("no weights", remove(WEIGHTS), (WEIGHTS,)),
    ("no tokenizer", lambda f: [p.unlink() for p in f.glob("*") if p.name in (TOKENIZER, "vocab.txt")], (TOKENIZER,)),
    ("no head", tensors(lambda a: a.pop(HEAD)), (WEIGHTS, HEAD)),
    ("a head of another width", tensors(lambda a: a.update({HEAD: np.ones((1, 31), np.float32)})), (WEIGHTS, HEAD)),
    ("NaN in the head", spoil(HEAD, NAN), (WEIGHTS, HEAD)),
    (
        "a head of two labels, one named",
        tensors(lambda a: a.update({HEAD: np.ones((2, 32), np.float32), "classifier.bias": np.ones(2, np.float32)})),
        (WEIGHTS, HEAD),
    ),
    ("labels with gaps", put(C, id2label={"0": "a", "7": "b"}), (C, "id2label")),
    ("no labels", put(C, id2label={}), (C, "id2label")),
    ("labels that are a list", put(C, id2label=["a"]), (C, "id2label")),
    *[
        (f"an activation {name!r}", put(C, sentence_transformers={"activation_fn": name}), (C, "activation_fn"))
        for name in ("os.system", "evil.Evil", "torch.load", "torch.nn.modules.activation.Evil", 3)
    ],
    (
        "the older activation's key with os.system",
        put(C, sentence_transformers=None, sbert_ce_default_activation_function="os.system"),
        (C, "sbert_ce_default_activation_function"),
    ),
    ("auto_map", put(C, auto_map={"AutoModelForSequenceClassification": "modeling_evil.Evil"}), (C, "auto_map")),
    ("weights pickled", torch_pickle("pytorch_model.bin"), ("pytorch_model.bin",)),
    ("a tokenizer's limit of 0", put(T, model_max_length=0), (T, "model_max_length")),
    ("a tokenizer's limit of 3", put(T, model_max_length=3), ("max", "3")),
    ("a tokenizer's limit that is text", put(T, model_max_length="64"), (T, "model_max_length")),
    ("model_type is 'gpt2'", put(C, model_type="gpt2"), (C, "model_type")),
]


# What a peer computes as the folder asks, and minisbert does not.
NOT_PEER = ("a decoder",)
# Paths out of the folder: following them is harmful, whatever the result.
LEAVING = ("a shard at", "a shard next to", "a module at", "a transformer at")


def _harmless(name: str) -> Callable[[Any, Any], bool] | None:
    # sentence-transformers warns about an activation that it does not know, and takes Tanh.
    return None if name.startswith(LEAVING) else two_rows if name.startswith("a Dense with") else as_before


def _plain(lib: Any, work: Any) -> Any:
    return lib.load_cross(MODELS / "tiny-bert").predict([("a man", "a dog")])


def _names(lib: Any, name: Any) -> Any:
    return lib.load(name).encode(list(TEXTS))


def _rows(rows: Rows, *, plant: bool = False) -> list[Case]:
    return [
        Case(
            "folders",
            name,
            loaded(all_of(planted, change) if plant else change),
            refused("ModelFolderError", *words),
            peer=name not in NOT_PEER,
            harmless=_harmless(name),
        )
        for name, change, words in rows
    ]


LONG_A = ["a" * 40, "a dog"]
CASES = [
    *_rows([*JSON_CASES, *CONFIG, *MODULES, *POOL, *DENSES, *SETTINGS, *TOKENIZERS, *VOCABULARIES, *TENSORS]),
    *_rows(SHARDS),
    *_rows(PLANTED, plant=True),
    *_rows(LINKS),
    Case(
        "folders",
        "a pattern that takes for ever",
        loaded(all_of(FROM_FILE, in_tokenizer(normalizer=REGEX)), texts=LONG_A),
        refused("MinisbertError", TOKENIZER),
        peer=True,
        harmless=lambda lib, result: close(result, lib.encode(LONG_A)),
    ),
    Case(
        "folders",
        "a prompt that the pattern takes for ever on",
        loaded(
            all_of(FROM_FILE, in_tokenizer(normalizer=REGEX), put(S, prompts={"q": "a" * 40}, default_prompt_name="q"))
        ),
        refused("MinisbertError", TOKENIZER),
        peer=True,
        harmless=two_rows,
    ),
    Case(
        "folders",
        "no unknown token",
        loaded(in_tokenizer("model", unk_token="<gone>"), texts=["☃", "a dog"]),
        refused("MinisbertError", TOKENIZER),
        peer=True,
        harmless=lambda lib, result: close(result, lib.encode(["☃", "a dog"])),
    ),
    Case(
        "folders",
        "two pieces of one id",
        loaded(in_tokenizer("model", "vocab", cat=7, dog=7)),
        refused("MinisbertError", TOKENIZER),
        peer=True,
    ),
    *[
        Case(
            "folders",
            f"weights times {factor:g}",
            loaded(scale(factor)),
            refused("MinisbertError", "finite"),
            peer=True,
        )
        for factor in (1e20, 1e30)
    ],
    *[Case("folders", f"fine: {name}", loaded(change), expect, peer=True) for name, change, expect in FINE],
    Case(
        "folders",
        "a cross-encoder: a bi-encoder's folder",
        _plain,
        refused("ModelFolderError", "SentenceEncoder"),
        peer=True,
    ),
    *[
        Case(
            "folders",
            f"a cross-encoder: {name}",
            cross(all_of(planted, change)),
            refused("MinisbertError", *words),
            peer=True,
            harmless=score_as_before,
        )
        for name, change, words in CROSS
    ],
    *[
        Case(
            "folders",
            f"to load: {name!r:.30}",
            lambda lib, work, n=name: _names(lib, n),
            refused(error, *words),
            peer=name is not None,
        )
        for name, error, words in [
            (None, "InputError", ("name",)),
            (3, "InputError", ("3",)),
            (b"tiny", "InputError", ("name",)),
            ("", "InputError", ("name",)),
            ("   ", "InputError", ("name",)),
            (["x"], "InputError", ("name",)),
            (NAN, "InputError", ("nan",)),
            ("no-such-model", "MinisbertError", ("no-such-model",)),
            ("a\0b", "InputError", ("a",)),
            ("../nowhere", "ModelFolderError", ("nowhere",)),
            ("/nowhere/at/all", "ModelFolderError", ("nowhere",)),
            ("a/b/c", "ModelFolderError", ("a/b/c",)),
            ("org/../x", "MinisbertError", ("org",)),
            ("x" * 5000, "InputError", ("xxx",)),
            ("~nobody-here/model", "MinisbertError", ("nobody",)),
            ("\ud800", "MinisbertError", ()),
            ("http://example.invalid/model", "MinisbertError", ("example.invalid",)),
        ]
    ],
]
