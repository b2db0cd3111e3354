"""Bad folders of every family: refused by the file and the key, before anything is computed.

What is the same for every family (JSON, modules, pooling, safetensors) is in test_folder.py on BERT and MPNet.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from test_folder import HUGE, MODEL, NO_COUNT, NO_NUMBER, J, T, drop, edit, refused, remove, tokenizer

from minisbert.encoders import FAMILIES
from minisbert.pretrained import load_pretrained

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import SAME_CODE, tiny

# What each family's config.json must say, and may.
NEEDED = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings"]
NUMBERS = ["layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range"]
EVERY_FAMILY: dict[str, list[Any]] = {
    "is_decoder": [True],
    "add_cross_attention": [True],
    "auto_map": [{"AutoModel": "modeling_evil.Evil"}],
    "quantization_config": [{"bits": 4}],
}
ACTIVATIONS = ["swiglu", "os.system", "quick_gelu", None, 3, ["gelu"], {"gelu": 1}, ""]
POSITION_TYPES = ["relative_key", "relative_key_query", "rotary", 3, ["absolute"]]


def roberta(**more: Any) -> dict[str, Any]:
    return {
        "counts": ["vocab_size", *NEEDED],
        "numbers": NUMBERS,
        "wrong": {
            "num_attention_heads": [5],
            "hidden_act": ACTIVATIONS,
            "position_embedding_type": POSITION_TYPES,
            "pad_token_id": [-1, None, "1", 0.5, True, HUGE],
            "type_vocab_size": [0, "1", None, HUGE],
            "max_position_embeddings": [2],
            "pruned_heads": [{"0": [1]}],
            **EVERY_FAMILY,
        },
        **more,
    }


def bert() -> dict[str, Any]:
    table = roberta()
    del table["wrong"]["max_position_embeddings"]  # 2 are few, but enough: nothing lies before the first
    return table | {
        "wrong": table["wrong"] | {"pad_token_id": [-1, 187, "1", 0.5, True, HUGE, []], "type_vocab_size": NO_COUNT}
    }


def mpnet() -> dict[str, Any]:
    table = roberta()
    del table["wrong"]["type_vocab_size"]  # there are no segments
    wrong = {"pad_token_id": [0, 2, None, "1", HUGE], "relative_attention_num_buckets": [16, *NO_COUNT]}
    return table | {"wrong": table["wrong"] | wrong}


def albert() -> dict[str, Any]:
    return {
        "counts": ["vocab_size", *NEEDED],
        "numbers": NUMBERS,
        "wrong": {
            "num_attention_heads": [7],
            "hidden_act": ACTIVATIONS,
            "position_embedding_type": POSITION_TYPES,
            "num_hidden_groups": [0, 2, "1", None],
            "inner_group_num": [0, 2, "1", None],
            "embedding_size": NO_COUNT,
            "type_vocab_size": [0, "1", None, HUGE],
            "pad_token_id": [-1, "0", HUGE],
            "pruned_heads": [{"0": [1]}],
            **EVERY_FAMILY,
        },
    }


def rope(**full: Any) -> dict[str, Any]:
    return {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}}


def modernbert() -> dict[str, Any]:
    return {
        "counts": ["vocab_size", *NEEDED],
        "numbers": ["norm_eps", "embedding_dropout", "attention_dropout", "mlp_dropout", "initializer_range"],
        "wrong": {
            "num_attention_heads": [5, 8],  # 24 / 8 = 3 is no number of pairs
            "hidden_activation": ACTIVATIONS,
            "position_embedding_type": POSITION_TYPES,
            "local_attention": [-1, None, "128", 12.5, True, HUGE, [64, 64]],
            "layer_types": [[], ["full_attention"], ["full_attention"] * 2 + ["linear_attention"], "full_attention", 3],
            "global_attn_every_n_layers": [0, -3, "3", None, HUGE],
            "global_rope_theta": [0, "10000", None, float("nan"), HUGE],
            "local_rope_theta": [0, "10000", None, float("inf")],
            "rope_parameters": [
                *(3, "default", [], rope(rope_theta="1"), rope(rope_theta=0), rope(rope_theta=True)),
                *(rope(rope_type="yarn", rope_theta=1e4), rope(rope_type="default", rope_theta=1e4, factor=2.0)),
                *(rope(rope_theta=float("nan")), {"full_attention": 3}, {"rope_type": "default", "rope_theta": 1e4}),
            ],
            "head_dim": [8],
            "rope_scaling": [{"rope_type": "linear", "factor": 2.0}],
            "attention_bias": [True, "no", None],
            "mlp_bias": [True],
            "norm_bias": [True],
            "pad_token_id": [-1, "0", HUGE],
            "pruned_heads": [{"0": [1]}],
            **EVERY_FAMILY,
        },
    }


def language_model(**more: list[Any]) -> dict[str, Any]:
    return {
        "counts": ["vocab_size", *NEEDED],
        "numbers": ["rms_norm_eps", "attention_dropout", "initializer_range"],
        "wrong": {
            "num_key_value_heads": [0, 4, "2", True, HUGE],
            "head_dim": [0, 5, "6", True, HUGE],
            "attention_bias": ["no", None],
            "position_embedding_type": POSITION_TYPES,
            "rope_scaling": [{"rope_type": "yarn", "factor": 4.0}],
            "pad_token_id": [-1, "0", HUGE],
            "pruned_heads": [{"0": [1]}],
            **EVERY_FAMILY,
            **more,
        },
    }


def qwen() -> dict[str, Any]:
    return language_model(
        hidden_act=ACTIVATIONS,
        is_causal=["no", None, 0],
        mlp_bias=[True],
        use_sliding_window=["yes", None],
        layer_types=[[], ["full_attention"], ["full_attention", "sliding_attention"], "full_attention"],
        max_window_layers=[-1, "28", None],
        rope_theta=[0, "10000", None, float("nan"), HUGE],
        rope_parameters=[
            *(3, [], {"rope_theta": 0}, {"rope_theta": "1"}, {"rope_type": "yarn", "rope_theta": 1e4}),
            {"rope_type": "default", "rope_theta": 1e4, "factor": 2.0},
        ],
    )


def gemma() -> dict[str, Any]:
    return language_model(
        hidden_activation=ACTIVATIONS,
        is_causal=[False, "no"],
        use_bidirectional_attention=["yes", 1],
        attn_logit_softcapping=[50.0],
        query_pre_attn_scalar=[0, "256", None],
        sliding_window=[0, -1, "512", None],
        sliding_window_pattern=[0, "6", None],
        layer_types=[[], ["full_attention"], ["full_attention"] * 2 + ["linear_attention"], 3],
        rope_theta=[0, "10000", None],
        rope_local_base_freq=[0, "10000", None],
        rope_parameters=[3, rope(rope_theta="1"), rope(rope_type="yarn", rope_theta=1e4), {"rope_theta": 1e4}],
    )


def rotary_bert(**more: list[Any]) -> dict[str, Any]:
    return {
        "counts": ["vocab_size", *NEEDED],
        "numbers": NUMBERS,
        "wrong": {
            "num_attention_heads": [5, 8],  # 24 / 8 = 3 is no number of pairs
            "hidden_act": ACTIVATIONS,
            "position_embedding_type": POSITION_TYPES,
            "type_vocab_size": [-1, "1", None, HUGE],
            "head_dim": [6, "8"],
            "rope_scaling": [{"rope_type": "linear", "factor": 2.0}],  # next to rope_parameters
            "rope_parameters": [
                *(3, [], {"rope_theta": 0}, {"rope_theta": "1"}, {"rope_type": "yarn", "rope_theta": 1e4}),
                *(
                    {"rope_type": "default", "factor": 2.0},
                    {"rope_type": "linear"},
                    {"rope_type": "dynamic", "factor": 2.0},
                ),
                *({"rope_type": "ntk", "factor": 0.5}, {"rope_type": "ntk", "factor": 2.0, "mixed_b": 0.6}),
            ],
            "pad_token_id": [-1, "0", HUGE],
            "pruned_heads": [{"0": [1]}],
            **EVERY_FAMILY,
            **more,
        },
    }


def nomic() -> dict[str, Any]:
    off = ("prenorm", "causal", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "use_rms_norm")
    return rotary_bert(
        activation_function=["gelu", "glu", None, 3],
        rotary_emb_base=[0, "1000", None],
        rotary_emb_fraction=[0.5, 0],
        rotary_emb_interleaved=[True],
        rotary_emb_scale_base=[512],
        scale_attn_weights=[False],
        num_experts=[8],
        n_positions=[0, "64"],
        **{key: [True] for key in off},
    )


def gte() -> dict[str, Any]:
    return rotary_bert(
        rope_theta=[0, "10000", None],
        layer_norm_type=["rms_norm"],
        pack_qkv=[False],
        logn_attention_scale=[True],
    )


def t5() -> dict[str, Any]:
    return {
        "counts": ["vocab_size", "d_model", "num_layers", "num_heads", "d_ff"],
        "numbers": ["layer_norm_epsilon", "dropout_rate", "initializer_range"],
        "wrong": {
            "d_kv": NO_COUNT,
            "hidden_size": [32],  # next to d_model
            "feed_forward_proj": ["gated-swiglu", "gated", "os.system", None, 3],
            "is_gated_act": [False, None],
            "dense_act_fn": ["relu", None],
            "relative_attention_num_buckets": [0, 2, 10, "32", None],
            "relative_attention_max_distance": [0, 3, "128", None],
            "position_embedding_type": POSITION_TYPES,
            "pad_token_id": [-1, "0", HUGE],
            "pruned_heads": [{"0": [1]}],
            **EVERY_FAMILY,
        },
    }


def deberta() -> dict[str, Any]:
    return {
        "counts": ["vocab_size", *NEEDED],
        "numbers": NUMBERS,
        "wrong": {
            "num_attention_heads": [5],
            "hidden_act": ACTIVATIONS,
            "position_embedding_type": POSITION_TYPES,
            "relative_attention": [False, None, "true"],
            "pos_att_type": ["p2p", "c2p|p2p", ["c2p", "p2p"], 3, [["c2p"]]],
            "position_buckets": [2, "256", 0.5, 126, HUGE],
            "max_relative_positions": ["512", None, -2, HUGE],
            "norm_rel_ebd": [3, ["layer_norm"]],
            "share_att_key": ["true", None],
            "position_biased_input": ["no", None],
            "conv_kernel_size": [3],
            "attention_head_size": [10],
            "embedding_size": NO_COUNT,
            "type_vocab_size": [-1, "1", None, HUGE],
            "pad_token_id": [-1, "0", HUGE],
            "pruned_heads": [{"0": [1]}],
            **EVERY_FAMILY,
        },
    }


TABLE: dict[str, dict[str, Any]] = {
    "deberta-v2": deberta(),
    "t5": t5(),
    "nomic_bert": nomic(),
    "gte": gte(),
    "qwen3": qwen(),
    "gemma3_text": gemma(),
    "bert": bert(),
    "mpnet": mpnet(),
    "roberta": roberta(),
    "xlm-roberta": roberta(),
    "albert": albert(),
    "modernbert": modernbert(),
    "distilbert": {
        "counts": ["vocab_size", "dim", "n_layers", "n_heads", "hidden_dim", "max_position_embeddings"],
        "numbers": ["dropout", "attention_dropout", "initializer_range"],
        "wrong": {
            "n_heads": [7],
            "activation": ACTIVATIONS,
            "sinusoidal_pos_embds": [True, "yes", None],
            "position_embedding_type": POSITION_TYPES,
            "hidden_size": [30],
            "num_attention_heads": [3],
            "pad_token_id": [-1, "0", 188, HUGE],
            "pruned_heads": [{"0": [1]}],
            **EVERY_FAMILY,
        },
    },
}
CASES = [
    pytest.param(family, key, values, id=f"{family}-{key}")
    for family, rows in TABLE.items()
    for key, values in [
        *((key, NO_COUNT) for key in rows["counts"]),
        *((key, NO_NUMBER) for key in rows["numbers"]),
        *rows["wrong"].items(),
    ]
]


def test_the_table_is_whole():
    """Every family with a config.json, and none that is another's code under its own name."""
    assert TABLE.keys() == FAMILIES.keys() - (SAME_CODE.keys() - {"xlm-roberta"}) - {"static"}


@pytest.fixture(params=TABLE)
def family(request) -> str:
    return request.param


@pytest.fixture
def folder(family, tmp_path) -> Path:
    return Path(shutil.copytree(tiny(family), tmp_path / "model"))


def settings(family: str) -> dict[str, Any]:
    return json.loads((tiny(family) / "config.json").read_text())


@pytest.mark.parametrize(("family", "key", "values"), CASES)
def test_values_of_config_json(family, key, values):
    """A count or number out of bounds, an unknown activation or position type, a decoder: each named with its value."""
    for value in values:
        wrong = settings(family) | {key: value}
        message = refused(lambda wrong=wrong: FAMILIES[family].Config.from_json(wrong, "config.json"), f"'{key}'")
        assert message.startswith("config.json: ") and f"{value!r:.20}" in message, value


def test_every_missing_count_is_named(family):
    values, counts = settings(family), TABLE[family]["counts"]
    for key in counts:
        less = {name: value for name, value in values.items() if name != key}
        refused(lambda less=less: FAMILIES[family].Config.from_json(less), f"'{key}' is missing")
    refused(lambda: FAMILIES[family].Config.from_json({}), *(f"'{key}' is missing" for key in counts))


def test_all_complaints_at_once(family):
    wrong = [*TABLE[family]["counts"], *TABLE[family]["numbers"]]
    refused(lambda: FAMILIES[family].Config.from_json(dict.fromkeys(wrong, "x")), *(f"'{key}'" for key in wrong))


def test_a_config_is_refused_when_the_folder_is_loaded(family, folder):
    key = TABLE[family]["counts"][1]
    edit("config.json", **{key: "x"})(folder)
    refused(lambda: load_pretrained(folder), str(folder), "config.json", key)


def test_a_wrong_vocabulary_size(family, folder):
    size = settings(family)["vocab_size"]
    edit("config.json", vocab_size=size - 1)(folder)
    refused(lambda: load_pretrained(folder), J, str(size - 1))
    edit("config.json", vocab_size=size + 1)(folder)
    refused(
        lambda: load_pretrained(folder),
        MODEL,
        "shared" if family == "t5" else "embed",
        ".weight",
        str(size + 1),
        str(size),
    )


# A masked language model's decoder is its token table; where a file keeps it.
DECODERS = {
    "bert": "cls.predictions.decoder.weight",
    "mpnet": "lm_head.decoder.weight",
    "roberta": "lm_head.decoder.weight",
    "xlm-roberta": "lm_head.decoder.weight",
    "distilbert": "vocab_projector.weight",
    "albert": "predictions.decoder.weight",
    "modernbert": "decoder.weight",
    "qwen3": "lm_head.weight",
    "gemma3_text": "lm_head.weight",
    "nomic_bert": "cls.predictions.decoder.weight",
    "gte": "lm_head.decoder.weight",
    "t5": "lm_head.weight",
    "deberta-v2": "cls.predictions.decoder.weight",
}


@pytest.mark.parametrize("prefixed", [True, False])
def test_tied_weights_of_which_only_the_other_is_there(family, folder, prefixed):
    """The token table is in the file as the decoder alone; it is missed, not guessed."""
    arrays = load_file(folder / MODEL)
    table = next(
        name
        for name in arrays
        if name.endswith(("word_embeddings.weight", "tok_embeddings.weight", "embed_tokens.weight", "shared.weight"))
    )
    arrays[DECODERS[family]] = arrays[table]
    save_file(arrays, folder / MODEL)
    load_pretrained(folder)  # the decoder itself may be there
    tied = arrays.pop(table)
    prefix = FAMILIES[family].PREFIX if prefixed else ""
    save_file({(name if name == DECODERS[family] else prefix + name): a for name, a in arrays.items()}, folder / MODEL)
    refused(lambda: load_pretrained(folder), MODEL, f"missing: {table!r} {list(tied.shape)}")


def test_another_familys_weights(family, folder):
    other = "mpnet" if family != "mpnet" else "bert"
    shutil.copy(tiny(other) / MODEL, folder / MODEL)
    refused(lambda: load_pretrained(folder), MODEL, "relative_attention")


def test_a_layer_too_many_in_config_json(family, folder):
    """Its tensors are named; a family that shares one layer is the same with more of them."""
    key = next(key for key in ("num_hidden_layers", "n_layers", "num_layers") if key in settings(family))
    edit("config.json", **{key: 7})(folder)
    if family == "albert":
        assert load_pretrained(folder).model_config.encoder.num_hidden_layers == 7
    else:
        refused(lambda: load_pretrained(folder), MODEL, "layer", ".6.")


def test_a_pooling_of_another_width(family, folder):
    edit("1_Pooling/config.json", word_embedding_dimension=99)(folder)
    refused(lambda: load_pretrained(folder), "1_Pooling/config.json", "word_embedding_dimension", "99")


def test_no_tokenizer(family, folder):
    for name in (J, "vocab.txt", "vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    refused(lambda: load_pretrained(folder), "tokenizer.json", "vocab.txt", "vocab.json")


def test_a_special_token_that_the_vocabulary_has_not(family, folder):
    """The tokenizer's template or processor puts a token around each text that is nowhere else."""

    def gone(content: dict[str, Any]) -> None:
        text = json.dumps(content["post_processor"])
        start = next(name for name in ("[CLS]", "<s>", "<bos>", "<|endoftext|>", "</s>") if name in text)
        content["post_processor"] = json.loads(text.replace(json.dumps(start), json.dumps("<gone>")))

    tokenizer(gone)(folder)
    refused(lambda: load_pretrained(folder), J, "<gone>")


def test_special_tokens_of_another_model(family, folder):
    """The processor's id of a special token is not the vocabulary's."""

    def other(content: dict[str, Any]) -> None:
        processor = content["post_processor"]
        if "cls" in processor:
            processor["cls"][1] += 5
        else:
            next(iter(processor["special_tokens"].values()))["ids"][0] += 5

    tokenizer(other)(folder)
    refused(lambda: load_pretrained(folder), J, "special token")


def test_the_length_limit_leaves_room(family, folder):
    (folder / "sentence_bert_config.json").unlink()
    edit(T, model_max_length=0)(folder)
    refused(lambda: load_pretrained(folder), T, "model_max_length")


def test_a_folder_without_config_or_weights(family, folder):
    remove(MODEL)(folder)
    refused(lambda: load_pretrained(folder), MODEL)
    drop("config.json", "model_type")(folder)
    refused(lambda: load_pretrained(folder), "config.json", "model_type")
    remove("config.json")(folder)
    refused(lambda: load_pretrained(folder), "config.json")
