"""Make the tiny checkpoints that the tests run on: random weights in the hub's layout, the same bytes each time.

    python weights/make_tiny.py

The vocabulary is letters, signs and a few dozen English words, so that every piece of WordPiece is used: whole words,
words in pieces, unknown signs.
"""

import json
import string
from pathlib import Path

import numpy as np

from minisbert.checkpoint.convert import nest
from minisbert.checkpoint.folder import ModelFolder, Normalize, Pooling
from minisbert.pretrained import Pretrained, save_pretrained
from minisbert.sentence_model import Design, define
from minisbert.text.tokenizer import Tokenizer

HERE = Path(__file__).parent

WORDS = (
    "the an of to and in is was he she it they his her on for with as at by from that this not are be one two man "
    "woman child dog cat water red blue green walk run eat play sing music guitar piano food street house car train "
    "small big old new good bad day night city sea tree bird book read write word sentence vector meaning same other"
).split()
ENDINGS = ["##ed", "##ing", "##er", "##ly", "##est"]

MODELS = {
    "tiny-bert": {
        "special": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        "names": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        "modules": (Pooling(("mean",)),),
        "max_seq_length": 64,
        "config": {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "type_vocab_size": 2,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "initializer_range": 0.02,
            "pad_token_id": 0,
        },
    },
    "tiny-mpnet": {
        "special": ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"],
        "names": {"pad": "<pad>", "unk": "[UNK]", "cls": "<s>", "sep": "</s>", "mask": "<mask>"},
        "modules": (Pooling(("mean",)), Normalize()),
        "max_seq_length": 64,
        "config": {
            "architectures": ["MPNetModel"],
            "model_type": "mpnet",
            "hidden_size": 36,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "intermediate_size": 72,
            "max_position_embeddings": 66,
            "relative_attention_num_buckets": 32,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "initializer_range": 0.02,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
        },
    },
}


def vocabulary(special: list[str]) -> list[str]:
    """Special tokens, signs, letters and their continuations, words."""
    letters = list(string.ascii_lowercase + string.digits)
    return [
        *special,
        *string.punctuation,
        *letters,
        *(f"##{letter}" for letter in letters),
        *ENDINGS,
        *WORDS,
        "é",
        "中",
    ]


def tokenizer(pieces: list[str], names: dict[str, str], special: list[str]):
    """BERT's tokenizer over `pieces`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {piece: row for row, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(ids, unk_token=names["unk"], max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(special)
    cls, sep = names["cls"], names["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=[(cls, ids[cls]), (sep, ids[sep])]
    )
    return backend


def weights(design: Design, seed: int) -> dict:
    """Random parameters, spread wide enough that different sentences get clearly different embeddings."""
    from minisbert.checkpoint.convert import flatten

    random = np.random.default_rng(seed)
    params = {}
    for name, leaf in sorted(flatten(define(design)[1]).items()):
        noise = random.normal(size=leaf.shape).astype(np.float32)
        spread = leaf.shape[0] ** -0.5 if name.endswith("kernel") else 0.1
        params[name] = noise * np.float32(spread) + np.float32(name.endswith("scale"))
    return nest(params)


def make(name: str, seed: int) -> None:
    """Write one tiny checkpoint."""
    from minisbert.encoders import FAMILIES

    recipe = MODELS[name]
    pieces = vocabulary(recipe["special"])
    config = {**recipe["config"], "vocab_size": len(pieces)}
    family = FAMILIES[config["model_type"]]
    design = Design(config["model_type"], family.Config.from_json(config), recipe["modules"])
    backend = tokenizer(pieces, recipe["names"], recipe["special"])
    tokenizer_config = {
        "tokenizer_class": "BertTokenizer" if config["model_type"] == "bert" else "MPNetTokenizer",
        "do_lower_case": True,
        "model_max_length": recipe["max_seq_length"],
        **{f"{role}_token": token for role, token in recipe["names"].items()},
    }
    if config["model_type"] == "mpnet":
        tokenizer_config.update(bos_token="<s>", eos_token="</s>")
    folder = ModelFolder(
        path=HERE / name,
        transformer_path=HERE / name,
        model_type=config["model_type"],
        config=config,
        modules=recipe["modules"],
        max_seq_length=recipe["max_seq_length"],
    )
    files = {
        "tokenizer.json": backend.to_str(pretty=True).encode(),
        "tokenizer_config.json": (json.dumps(tokenizer_config, indent=2) + "\n").encode(),
        "vocab.txt": ("\n".join(pieces) + "\n").encode(),
    }
    model = Pretrained(folder, design, weights(design, seed), Tokenizer(backend, name), files)
    save_pretrained(model, HERE / name)


if __name__ == "__main__":
    for seed, name in enumerate(MODELS):
        make(name, seed)
        size = sum(file.stat().st_size for file in (HERE / name).rglob("*") if file.is_file())
        print(f"weights/{name}: {size / 1000:.0f} kB")
