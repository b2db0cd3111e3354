"""Draws of settings, flipped and added in every file of the tiny models: the embeddings of sentence-transformers, or a refusal.

    python tests/parity/settings_draws.py --draws 2000 --seed 0

Each draw copies a tiny model, changes one or two keys (those of the tables in checkpoint/keys.py and of the file, and keys that
nobody knows), and loads it. A refusal has to name the file and a changed key. What is not refused has to give the embeddings of
sentence-transformers within 2e-6, relative to the largest value above 1; anything else is "silent", and the command fails. The
dtype of config.json is left out: minisbert computes in float32 whatever it says.
"""

import argparse
import json
import logging
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from minisbert import SentenceEncoder
from minisbert.checkpoint.keys import ARGUMENTS, CONFIG, LENGTH_FILE, MODEL_FILE, MODULE
from minisbert.errors import MinisbertError
from minisbert.pretrained import load_pretrained

WEIGHTS = Path(__file__).parents[2] / "weights"
MODELS = [f"tiny-{name}" for name in ("bert", "roberta", "mpnet", "distilbert", "albert", "modernbert", "xlm-roberta")]
MODELS += [f"tiny-{name}" for name in ("nomic_bert", "gte", "t5", "deberta-v2")]
TEXTS = ["A man is eating food.", "two Cats play music in the city at night, and it is good.", "x"]
VALUES: list[Any] = [True, False, None, 0, 1, 2, 64, 0.5, -1, "x", "", "float32", [], ["x"], {}, {"x": 1}]
OF_KEY: dict[str, list[Any]] = {
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
}


def change(folder: Path, rng: random.Random) -> tuple[str, str, Any]:
    """Changes one key of one file; returns the file, the key and its value."""
    name = rng.choice([*TABLES, "config.json"])
    file = folder / name
    content = json.loads(file.read_text()) if file.is_file() else {}
    target = rng.choice(content) if isinstance(content, list) else content
    keys = sorted(({*TABLES[name], *target} | {"unheard_of"}) - LEFT_OUT)
    key = rng.choice(keys)
    value = rng.choice([*VALUES, *(OF_KEY.get(key, []) * 4)])
    if key in target and rng.random() < 0.2:
        del target[key]
        value = "removed"
    else:
        target[key] = value
    file.write_text(json.dumps(content))
    return name, key, value


_FORWARDS: dict[str, Any] = {}


def ours(folder: Path) -> np.ndarray:
    """minisbert's embeddings; models of the same configuration share their compiled programs."""
    encoder = SentenceEncoder(load_pretrained(folder))
    encoder.__dict__["forward"] = _FORWARDS.setdefault(repr(encoder.model_config), encoder.forward)
    return encoder.encode(TEXTS, on_truncate="ignore")


def theirs(folder: Path) -> np.ndarray:
    """Those of sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    return np.asarray(SentenceTransformer(str(folder), device="cpu").encode(TEXTS))


def draw(seed: int) -> tuple[str, str]:
    """The outcome of one draw, and what was changed."""
    rng = random.Random(seed)
    model = rng.choice(MODELS)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, model)
        shutil.copytree(WEIGHTS / model, folder)
        changes = [change(folder, rng) for _ in range(rng.choice((1, 1, 2)))]
        what = f"draw {seed}, {model}: {changes}"
        try:
            found = ours(folder)
        except MinisbertError as error:
            # Another path makes another file the module's, which the error then names.
            named = any(name in str(error) or key in str(error) or key == "path" for name, key, _ in changes)
            return ("refused" if named else "unclear"), f"{what}: {error}"
        except Exception as error:
            return "unclear", f"{what}: {type(error).__name__}: {error}"
        try:
            expected = theirs(folder)
        except Exception as error:
            return "refused by sentence-transformers only", f"{what}: {type(error).__name__}: {error!s:.200}"
    if found.shape != expected.shape or not np.abs(found - expected).max() <= 2e-6 * max(1.0, np.abs(expected).max()):
        return "silent", f"{what}: {found.shape} {expected.shape}"
    return "equal", what


def draws(count: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Outcome -> how often, and the draws that are silent or unclear."""
    for library in ("sentence_transformers", "transformers", "minisbert"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    outcomes: Counter[str] = Counter()
    bad = []
    for number in range(seed, seed + count):
        outcome, what = draw(number)
        outcomes[outcome] += 1
        if outcome in ("silent", "unclear"):
            bad.append(f"{outcome}: {what}")
            print(bad[-1], flush=True)
    return outcomes, bad


if __name__ == "__main__":
    flags = argparse.ArgumentParser()
    flags.add_argument("--draws", type=int, default=2000)
    flags.add_argument("--seed", type=int, default=0)
    given = flags.parse_args()
    counts, wrong = draws(given.draws, given.seed)
    print(dict(counts))
    sys.exit(bool(wrong))
