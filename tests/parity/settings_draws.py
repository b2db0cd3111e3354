"""Draws of settings, flipped and added in every file of the tiny models: the embeddings of sentence-transformers, or a refusal.

    python tests/parity/settings_draws.py --draws 2000 --seed 0

Each draw copies a tiny model, changes one or two keys, and loads it. Some folders lose their modules.json first, or have the
vocabulary in files of its own instead of tokenizer.json. Models are of every family (those without a checkpoint in
weights/ are made by transformers), and a LoRA adapter where peft is installed. Keys are those of checkpoint/keys.py, of
text/tokenizer_config.py and of the file, and keys that nobody knows. A refusal has to name the file and a changed key. What is
not refused has to give the embeddings of sentence-transformers within 2e-6, relative to the largest value above 1; anything
else is "silent", and the command fails. The dtype of config.json is left out: minisbert computes in float32 whatever it says.
"""

import argparse
import json
import logging
import os
import random
import re
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from minisbert import SentenceEncoder
from minisbert.checkpoint.keys import ADAPTER, ARGUMENTS, CONFIG, LENGTH_FILE, MODEL_FILE, MODULE
from minisbert.errors import MinisbertError
from minisbert.pretrained import load_pretrained
from minisbert.text.tokenizer_classes import ALIASES, BUILT, IN_PYTHON, KEYS, READ_FROM_FILE, SPECIAL_TOKENS

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import SAME_CODE, TWINS, tiny

MODELS = [*TWINS, *(name for name in SAME_CODE if name not in TWINS and name != "new")]  # transformers has no "new"
MODELS += ["adapter"] if find_spec("peft") else []
TEXTS = ["A man is eating food.", "two Cats play music in the city at night, and it is good.", "x"]
TEXTS += ["caf\u00e9 na\u00efve \u732b\u72ac dog", "the [NEW] dog <mask> [CLS] runs </s> ", "(the) dog's  12 cats"]
TOKEN = {
    "content": "[NEW]",
    "lstrip": False,
    "normalized": False,
    "rstrip": False,
    "single_word": False,
    "special": True,
}
TOKENS: list[Any] = ["[NEW]", "the", "<mask>", "[MASK]", "[SEP]", "</s>", "<pad>", TOKEN, TOKEN | {"lstrip": True}]
CLASSES = [*BUILT, *(f"{name}Tokenizer" for table in (ALIASES, IN_PYTHON, READ_FROM_FILE) for name in sorted(table))]
VALUES: list[Any] = [True, False, None, 0, 1, 2, 64, 0.5, -1, "x", "", "float32", [], ["x"], {}, {"x": 1}]
OF_KEY: dict[str, list[Any]] = {
    "architectures": [["BertForCausalLM"], ["Qwen3ForCausalLM"], ["BertModel"], ["BertForMaskedLM"]],
    "is_causal": [True, False],
    "position_embedding_type": ["absolute", "relative_key", "relative_key_query", "sans_pos", "rope"],
    "hidden_act": ["gelu", "gelu_new", "relu", "silu", "swish", "gelu_pytorch_tanh", "tanh", "x"],
    "layer_norm_eps": [1e-12, 1e-5, 1e-3],
    "norm_eps": [1e-5, 1e-3],
    "pad_token_id": [0, 1, 2, None],
    "rope_parameters": [
        None,
        {"rope_type": "default", "rope_theta": 50.0},
        {"rope_type": "linear", "rope_theta": 50.0, "factor": 2.0},
        {"rope_type": "dynamic", "rope_theta": 50.0, "factor": 2.0},
        {"rope_theta": 50.0},
    ],
    "rope_theta": [1000, 10.0],
    "rope_scaling": [None, {"type": "linear", "factor": 2.0}],
    "rotary_emb_base": [1000, 10.0],
    "activation_function": ["swiglu", "geglu", "gelu"],
    "feed_forward_proj": ["relu", "gated-gelu", "gated-silu", "gelu_new"],
    "relative_attention_num_buckets": [8, 12, 32],
    "relative_attention_max_distance": [16, 20, 128],
    "hidden_size": [24, 32],
    "pos_att_type": ["c2p", "p2c", ["p2c", "c2p"], None, []],
    "position_buckets": [-1, 8, 12],
    "max_relative_positions": [-1, 8, 64],
    "norm_rel_ebd": ["none", "layer_norm"],
    "max_seq_length": [8, 16, None, 64],
    "do_lower_case": [True, False],
    "similarity_fn_name": ["cosine", "dot", None, "x"],
    "prompts": [{}, {"query": "q: "}, None],
    "truncate_dim": [8, None],
    "attn_implementation": ["eager", "sdpa", "flash_attention_2"],
    "model_max_length": [8, 64, 32],
    "kwargs": [["task"], []],
    **{key: [*TOKENS, {**TOKEN, "__type": "AddedToken"}] for key in (*SPECIAL_TOKENS, "image_token")},
    "added_tokens_decoder": [{}, {"3": TOKEN}, {"187": TOKEN}, {"999": TOKEN}, {"3": "[NEW]"}],
    "additional_special_tokens": [["[NEW]"], [TOKEN]],
    "extra_special_tokens": [["[NEW]"], {"image_token": "[NEW]"}, [TOKEN]],
    "tokenizer_class": ["PreTrainedTokenizerFast", "TokenizersBackend", *CLASSES],
    **{key: ["left", "right"] for key in ("truncation_side", "padding_side")},
    "model_input_names": [["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]],
    **{key: [3, 5, 187, 999] for key in ("[NEW]", "the")},
    **{key: [1, 2, 4, 8] for key in ("r", "lora_alpha")},
    "peft_type": ["LORA", "IA3", "LOHA"],
    "bias": ["none", "all", "lora_only"],
    "init_lora_weights": [True, False, "pissa", "olora", "gaussian"],
    "alpha_pattern": [{"query": 32}, {"encoder.layer.0.attention.self.query": 32}, {"encoder": 32}],
    "rank_pattern": [{"query": 4}, {"nothing": 4}],
    **{
        part: [{key: value} for key in table for value in (True, False, None, "right", 16, "eager")]
        for part, table in ARGUMENTS.items()
    },
}
LEFT_OUT = {"torch_dtype", "dtype"}
TABLES = {
    "config.json": CONFIG,
    "sentence_bert_config.json": LENGTH_FILE,
    "config_sentence_transformers.json": MODEL_FILE,
    "modules.json": MODULE,
    "tokenizer_config.json": KEYS,
    "special_tokens_map.json": dict.fromkeys((*SPECIAL_TOKENS, "additional_special_tokens", "extra_special_tokens")),
    "added_tokens.json": dict.fromkeys(("[NEW]", "the")),
    "adapter_config.json": ADAPTER,
}
_MADE: dict[str, Path] = {}


def original(model: str, place: Path) -> Path:
    """The folder that draws of a family change."""
    if model in TWINS:
        return tiny(model)
    if model not in _MADE:
        import torch
        import transformers

        torch.manual_seed(0)
        base = tiny(SAME_CODE.get(model, "bert"))
        folder = _MADE[model] = Path(shutil.copytree(base, place / model))
        if model == "adapter":
            import peft

            settings = peft.LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False)
            peft.get_peft_model(transformers.AutoModel.from_pretrained(base), settings).save_pretrained(folder)
            (folder / "model.safetensors").unlink()
            (folder / "config.json").unlink()
        else:
            values = json.loads((base / "config.json").read_text()) | {"model_type": model}
            name = values.pop("model_type")
            config = transformers.AutoConfig.for_model(name, **values)
            kind = transformers.MT5EncoderModel if model == "mt5" else transformers.AutoModel.from_config
            kind(config).save_pretrained(folder)
    return _MADE[model]


def lay_out(folder: Path, rng: random.Random) -> str:
    """Another layout of some folders: a plain transformer's, or vocabulary files."""
    layout = rng.choice(("whole", "whole", "whole", "plain", "vocabulary"))
    tokenizer = folder / "tokenizer.json"
    parts = json.loads(tokenizer.read_text())["model"] if tokenizer.is_file() else {"type": ""}
    if layout == "plain":
        (folder / "modules.json").unlink()
    elif layout == "vocabulary" and parts["type"] == "WordPiece":
        (folder / "vocab.txt").write_text("\n".join(sorted(parts["vocab"], key=parts["vocab"].get)))
        tokenizer.unlink()
    elif layout == "vocabulary" and parts["type"] == "BPE":
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in parts["merges"]]
        (folder / "vocab.json").write_text(json.dumps(parts["vocab"]))
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
        tokenizer.unlink()
    else:
        return "whole"
    return layout


def change(folder: Path, rng: random.Random) -> tuple[str, str, Any]:
    """Changes one key of one file; returns the file, the key and its value."""
    names = [*TABLES, "config.json", "tokenizer_config.json"]
    adapted, plain = (folder / "adapter_config.json").is_file(), not (folder / "modules.json").is_file()
    name = rng.choice([one for one in names if one != ("config.json" if adapted else "adapter_config.json")])
    file = folder / name
    content = json.loads(file.read_text()) if file.is_file() else {}
    target = rng.choice(content) if isinstance(content, list) else content
    keys = sorted(({*TABLES[name], *target} | {"unheard_of"}) - LEFT_OUT)
    key = rng.choice([*keys, *(["architectures"] * 8 if name == "config.json" and plain else [])])
    value = rng.choice([*VALUES, *(OF_KEY.get(key, []) * 4)])
    if key in target and rng.random() < 0.2:
        del target[key]
        value = "removed"
    else:
        target[key] = value
    file.write_text(json.dumps(content))
    return name, key, value


_FORWARDS: dict[str, Any] = {}


def ours(folder: Path) -> tuple[np.ndarray, int | None]:
    """minisbert's embeddings; models of the same configuration share their compiled programs.

    And the length limit, where it is that of the positions and a file asks for more: minisbert warns about texts beyond it,
    where sentence-transformers rotates them by angles that no training has seen.
    """
    encoder = SentenceEncoder(load_pretrained(folder))
    encoder.__dict__["forward"] = _FORWARDS.setdefault(repr(encoder.model_config), encoder.forward)
    capped = encoder.max_seq_length < (encoder.pretrained.folder.max_seq_length or 0)
    return encoder.encode(TEXTS, on_truncate="ignore"), encoder.max_seq_length if capped else None


def theirs(folder: Path, limit: int | None = None) -> np.ndarray:
    """Those of sentence-transformers, which may be given another length limit."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    if limit is not None:
        model.max_seq_length = limit
    return np.asarray(model.encode(TEXTS))


def draw(seed: int, made: Path) -> tuple[str, str]:
    """The outcome of one draw, and what was changed. Families without a tiny checkpoint are made in a folder, once."""
    rng = random.Random(seed)
    model = rng.choice(MODELS)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(original(model, made), Path(place, model)))
        layout = lay_out(folder, rng)
        changes = [change(folder, rng) for _ in range(rng.choice((1, 1, 2)))]
        what = f"draw {seed}, {model}, {layout}: {changes}"
        try:
            found, limit = ours(folder)
        except MinisbertError as error:
            # Another path makes another file the module's, which the error then names.
            # A token without a row in the table is named where a text has it.
            named = any(name in str(error) or key in str(error) or key == "path" for name, key, _ in changes)
            named |= any(word in str(changes).lower() for word in re.findall(r"token '(.+?)'", str(error).lower()))
            named |= layout == "vocabulary" and "no tokenizer.json" in str(error)  # of a class that needs it
            if not named:
                return "unclear", f"{what}: {error}"
            try:
                theirs(folder)
            except Exception:
                return "refused by both", f"{what}: {error}"
            return "refused", f"{what}: {error}"
        except Exception as error:
            return "unclear", f"{what}: {type(error).__name__}: {error}"
        try:
            expected = theirs(folder, limit)
        except Exception as error:
            return "refused by sentence-transformers only", f"{what}: {type(error).__name__}: {error!s:.200}"
    if found.shape != expected.shape or not np.abs(found - expected).max() <= 2e-6 * max(1.0, np.abs(expected).max()):
        return "silent", f"{what}: {found.shape} {expected.shape}"
    return "equal", what


def draws(count: int, seed: int = 0, show_all: bool = False) -> tuple[Counter[str], list[str]]:
    """Outcome -> how often, and the draws that are silent or unclear."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    outcomes: Counter[str] = Counter()
    bad = []
    with tempfile.TemporaryDirectory() as made:
        _MADE.clear()
        for number in range(seed, seed + count):
            outcome, what = draw(number, Path(made))
            outcomes[outcome] += 1
            if show_all:
                print(f"{outcome}: {what}", flush=True)
            if outcome in ("silent", "unclear"):
                bad.append(f"{outcome}: {what}")
                print(bad[-1], flush=True)
    return outcomes, bad


if __name__ == "__main__":
    flags = argparse.ArgumentParser()
    flags.add_argument("--draws", type=int, default=2000)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--all", action="store_true", help="print every draw")
    given = flags.parse_args()
    for library in ("sentence_transformers", "transformers", "minisbert"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    counts, wrong = draws(given.draws, given.seed, given.all)
    print(dict(counts))
    sys.exit(bool(wrong))
