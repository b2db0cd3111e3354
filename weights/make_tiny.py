"""Make the tiny checkpoints that the tests run on: random weights in the hub's layout, the same bytes each time.

    python weights/make_tiny.py

The vocabularies are letters, signs and a few dozen English words, so that every way of a tokenizer is used: whole
words, words in pieces, unknown signs.
"""

import json
import string
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minisbert.checkpoint.convert import nest
from minisbert.checkpoint.families import FAMILIES
from minisbert.checkpoint.folder import ModelFolder
from minisbert.checkpoint.modules import Dense, LayerNorm, Normalize, Pooling, WeightedLayerPooling
from minisbert.model_config import ModelConfig
from minisbert.pretrained import Pretrained, join_routes, load_pretrained, save_pretrained
from minisbert.sentence_model import define
from minisbert.text.tokenizer import Tokenizer

HERE = Path(__file__).parent

WORDS = (
    "the an of to and in is was he she it they his her on for with as at by from that this not are be one two man "
    "woman child dog cat water red blue green walk run eat play sing music guitar piano food street house car train "
    "small big old new good bad day night city sea tree bird book read write word sentence vector meaning same other"
).split()
ENDINGS = ["##ed", "##ing", "##er", "##ly", "##est"]


class Made(NamedTuple):
    """A tokenizer: the backend, how many ids it has, and the files next to tokenizer.json."""

    backend: Any
    size: int
    files: dict[str, bytes]


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


def word_piece(special: list[str], names: dict[str, str]) -> Made:
    """BERT's tokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces = vocabulary(special)
    ids = {piece: row for row, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(ids, unk_token=names["unk"], max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(special)
    cls, sep = names["cls"], names["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=[(cls, ids[cls]), (sep, ids[sep])]
    )
    return Made(backend, len(ids), {"vocab.txt": ("\n".join(pieces) + "\n").encode()})


def byte_level_bpe(special: list[str], names: dict[str, str]) -> Made:
    """RoBERTa's tokenizer: the 256 bytes, and each word put together sign by sign from the left."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    *first, mask = special
    ids = {piece: row for row, piece in enumerate([*first, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    merges = []
    for word in [*(f"Ġ{word}" for word in WORDS), *(ending.removeprefix("##") for ending in ENDINGS)]:
        for end in range(1, len(word)):
            if word[: end + 1] not in ids:
                ids[word[: end + 1]] = len(ids)
                merges.append((word[:end], word[end]))
    ids[mask] = len(ids)
    backend = Tokenizer(models.BPE(ids, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    cls, sep = names["cls"], names["sep"]
    backend.post_processor = processors.RobertaProcessing((sep, ids[sep]), (cls, ids[cls]), True, False)
    files = {
        "vocab.json": json.dumps(ids, ensure_ascii=False).encode(),
        "merges.txt": "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""]).encode(),
    }
    return Made(backend, len(ids), files)


def modernbert_bpe(special: list[str], names: dict[str, str]) -> Made:
    """ModernBERT's tokenizer: the same, of composed characters (NFC), between BERT's special tokens."""
    from tokenizers import normalizers, processors

    made = byte_level_bpe(special, names)
    made.backend.normalizer = normalizers.NFC()
    numbers = [(token, made.backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=numbers
    )
    return Made(made.backend, made.size, {})


def unigram(special: list[str], names: dict[str, str]) -> Made:
    """XLM-R's tokenizer (Kudo 2018): a score a piece, the best way to cut a text is the one of the highest sum."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = list(string.ascii_letters + string.digits + string.punctuation)
    words = [*(f"▁{word}" for word in WORDS), *(ending.removeprefix("##") for ending in ENDINGS), "é", "中"]
    *first, mask = special
    pieces = [(token, 0.0) for token in first]
    pieces += [(piece, -2.0 - row / 100) for row, piece in enumerate([*words, "▁"])]
    pieces += [(letter, -6.0 - row / 100) for row, letter in enumerate(letters)]
    pieces += [(mask, 0.0)]
    ids = {piece: row for row, (piece, _) in enumerate(pieces)}
    backend = Tokenizer(models.Unigram(pieces, unk_id=ids[names["unk"]], byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    backend.add_special_tokens(special)
    cls, sep = names["cls"], names["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} {sep} $B {sep}",
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )
    return Made(backend, len(ids), {})


def albert_unigram(special: list[str], names: dict[str, str]) -> Made:
    """ALBERT's tokenizer: the same, of lower-cased text without accents, and segments for pairs."""
    from tokenizers import normalizers, processors

    made = unigram(special, names)
    quotes = [normalizers.Replace(pair, '"') for pair in ("``", "''")]
    steps = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    made.backend.normalizer = normalizers.Sequence([*quotes, *steps])
    numbers = [(token, made.backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=numbers
    )
    return made


def qwen_bpe(special: list[str], names: dict[str, str]) -> Made:
    """Qwen's tokenizer: byte-level BPE of composed characters, one digit at a time, and an end token after a text."""
    from tokenizers import Regex, normalizers, pre_tokenizers, processors

    from minisbert.text.tokenizer_classes import QWEN_SPLIT

    made = byte_level_bpe(special, {**names, "cls": names["eos"], "sep": names["eos"]})
    made.backend.normalizer = normalizers.NFC()
    steps = [pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    made.backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    end = names["eos"]
    made.backend.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, made.backend.token_to_id(end))]
    )
    return Made(made.backend, made.size, {})


def gemma_unigram(special: list[str], names: dict[str, str]) -> Made:
    """A Unigram tokenizer with Gemma's special tokens around each text. (Gemma's own is byte-pair encoding.)"""
    from tokenizers import processors

    made = unigram(special, {**names, "cls": names["bos"], "sep": names["eos"]})
    ends = [(names[role], made.backend.token_to_id(names[role])) for role in ("bos", "eos")]
    made.backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> <bos> $B <eos>", special_tokens=ends
    )
    return made


def t5_unigram(special: list[str], names: dict[str, str]) -> Made:
    """T5's tokenizer: an end token after a text, and a last piece that only pre-training uses."""
    from tokenizers import processors

    end = names["eos"]
    made = unigram(special, {**names, "cls": end, "sep": end})
    made.backend.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, made.backend.token_to_id(end))]
    )
    return made


def deberta_unigram(special: list[str], names: dict[str, str]) -> Made:
    """DeBERTa's tokenizer: spaces of any kind become one, characters are composed, and segments for pairs."""
    from tokenizers import Regex, normalizers, pre_tokenizers, processors

    made = unigram(special, names)
    spaces = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
    strip = normalizers.Strip(left=False, right=True)
    made.backend.normalizer = normalizers.Sequence([spaces, normalizers.NFC(), strip])
    made.backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="always")])
    numbers = [(token, made.backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=numbers
    )
    return made


MODELS = {
    "tiny-bert": {
        "special": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        "tokenizer": word_piece,
        "tokenizer_config": {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
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
        "tokenizer": word_piece,
        "tokenizer_config": {"tokenizer_class": "MPNetTokenizer", "do_lower_case": True},
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
    "tiny-roberta": {
        "special": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        "tokenizer": byte_level_bpe,
        "tokenizer_config": {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": False},
        "names": {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"},
        "modules": (Pooling(("mean",)), Normalize()),
        "max_seq_length": 64,
        "config": {
            "architectures": ["RobertaModel"],
            "model_type": "roberta",
            "hidden_size": 36,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 72,
            "max_position_embeddings": 66,
            "type_vocab_size": 1,
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
    "tiny-xlm-roberta": {
        "special": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        "tokenizer": unigram,
        "tokenizer_config": {"tokenizer_class": "XLMRobertaTokenizer"},
        "names": {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"},
        "modules": (Pooling(("mean",)), Normalize()),
        "max_seq_length": 64,
        "config": {
            "architectures": ["XLMRobertaModel"],
            "model_type": "xlm-roberta",
            "hidden_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 66,
            "type_vocab_size": 1,
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
    "tiny-distilbert": {
        "special": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        "tokenizer": word_piece,
        "tokenizer_config": {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": True},
        "names": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        "modules": (Pooling(("mean",)),),
        "max_seq_length": 64,
        "config": {
            "architectures": ["DistilBertModel"],
            "model_type": "distilbert",
            "dim": 30,
            "n_layers": 2,
            "n_heads": 5,
            "hidden_dim": 60,
            "max_position_embeddings": 64,
            "sinusoidal_pos_embds": False,
            "activation": "gelu",
            "dropout": 0.1,
            "attention_dropout": 0.1,
            "initializer_range": 0.02,
            "pad_token_id": 0,
        },
    },
    "tiny-albert": {
        "special": ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
        "tokenizer": albert_unigram,
        "tokenizer_config": {"tokenizer_class": "AlbertTokenizer", "do_lower_case": True},
        "names": {"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        "modules": (Pooling(("mean",)), Normalize()),
        "max_seq_length": 64,
        "config": {
            "architectures": ["AlbertModel"],
            "model_type": "albert",
            "embedding_size": 16,
            "hidden_size": 40,
            "num_hidden_layers": 3,
            "num_hidden_groups": 1,
            "num_attention_heads": 5,
            "intermediate_size": 60,
            "inner_group_num": 1,
            "max_position_embeddings": 64,
            "type_vocab_size": 2,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-12,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "initializer_range": 0.02,
            "bos_token_id": 2,
            "pad_token_id": 0,
            "eos_token_id": 3,
        },
    },
    "tiny-modernbert": {
        "special": ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"],
        "tokenizer": modernbert_bpe,
        "tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast"},
        "names": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        "modules": (Pooling(("cls",)), Normalize()),
        "max_seq_length": 64,
        "config": {
            "architectures": ["ModernBertModel"],
            "model_type": "modernbert",
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "intermediate_size": 36,
            "max_position_embeddings": 64,
            "hidden_activation": "gelu",
            "global_attn_every_n_layers": 2,
            "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0,
            "local_attention": 12,
            "norm_eps": 1e-5,
            "norm_bias": False,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.1,
            "embedding_dropout": 0.1,
            "mlp_dropout": 0.1,
            "initializer_range": 0.02,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "pad_token_id": 3,
        },
    },
    "tiny-static": {
        "special": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        "tokenizer": word_piece,
        "names": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        "modules": (Pooling(), Normalize()),
        "max_seq_length": None,
        "config": {"model_type": "static", "hidden_size": 24},
    },
    "tiny-layers": {
        "special": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        "tokenizer": word_piece,
        "tokenizer_config": {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
        "names": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        "modules": (
            WeightedLayerPooling(layer_start=1, num_hidden_layers=3),
            Pooling(("cls", "mean")),
            LayerNorm(40),
            Dense(40, 24),
            Normalize(),
        ),
        "max_seq_length": 64,
        "config": {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_size": 20,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 40,
            "max_position_embeddings": 64,
            "type_vocab_size": 2,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "initializer_range": 0.02,
            "output_hidden_states": True,
            "pad_token_id": 0,
        },
    },
    "tiny-qwen3": {
        "special": ["<|endoftext|>", "<|im_start|>"],
        "tokenizer": qwen_bpe,
        "tokenizer_config": {"tokenizer_class": "Qwen2Tokenizer"},
        "names": {"pad": "<|endoftext|>", "eos": "<|endoftext|>"},
        "modules": (Pooling(("lasttoken",)), Normalize()),
        "max_seq_length": 64,
        "config": {
            "architectures": ["Qwen3Model"],
            "model_type": "qwen3",
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "intermediate_size": 40,
            "max_position_embeddings": 64,
            "hidden_act": "silu",
            "rope_theta": 1000000,
            "rms_norm_eps": 1e-6,
            "attention_bias": False,
            "attention_dropout": 0.1,
            "use_sliding_window": False,
            "initializer_range": 0.02,
            "pad_token_id": 0,
            "eos_token_id": 0,
        },
    },
    "tiny-gemma3_text": {
        "special": ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"],
        "tokenizer": gemma_unigram,
        "tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast"},
        "names": {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>", "mask": "<mask>"},
        "modules": (Pooling(("mean",)), Normalize()),
        "max_seq_length": 64,
        "config": {
            "architectures": ["Gemma3TextModel"],
            "model_type": "gemma3_text",
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 10,
            "intermediate_size": 36,
            "max_position_embeddings": 64,
            "hidden_activation": "gelu_pytorch_tanh",
            "use_bidirectional_attention": True,
            "sliding_window": 12,
            "sliding_window_pattern": 2,
            "query_pre_attn_scalar": 8,
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
            "rms_norm_eps": 1e-6,
            "attention_bias": False,
            "attention_dropout": 0.1,
            "initializer_range": 0.02,
            "bos_token_id": 2,
            "pad_token_id": 0,
            "eos_token_id": 1,
        },
    },
    "tiny-nomic_bert": {
        "special": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        "tokenizer": word_piece,
        "tokenizer_config": {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
        "names": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        "modules": (Pooling(("mean",)),),
        "max_seq_length": 64,
        "config": {
            "architectures": ["NomicBertModel"],
            "model_type": "nomic_bert",
            "activation_function": "swiglu",
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 40,
            "max_position_embeddings": 64,
            "hidden_act": "silu",
            "prenorm": False,
            "qkv_proj_bias": False,
            "rotary_emb_fraction": 1.0,
            "rotary_scaling_factor": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
            "layer_norm_eps": 1e-12,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "initializer_range": 0.02,
            "type_vocab_size": 2,
            "pad_token_id": 0,
        },
    },
    "tiny-gte": {
        "special": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        "tokenizer": unigram,
        "tokenizer_config": {"tokenizer_class": "XLMRobertaTokenizer"},
        "names": {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"},
        "modules": (Pooling(("cls",)), Normalize()),
        "max_seq_length": 64,
        "config": {
            "architectures": ["GteModel"],
            "model_type": "gte",
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 36,
            "max_position_embeddings": 64,
            "type_vocab_size": 1,
            "hidden_act": "gelu",
            "rope_parameters": {"rope_type": "linear", "rope_theta": 160000.0, "factor": 1.0671404},
            "layer_norm_eps": 1e-12,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "initializer_range": 0.02,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
        },
    },
    "tiny-t5": {
        "special": ["<pad>", "</s>", "<unk>", "<extra_id_0>"],
        "tokenizer": t5_unigram,
        "tokenizer_config": {"tokenizer_class": "T5Tokenizer", "extra_ids": 1},
        "names": {"pad": "<pad>", "unk": "<unk>", "eos": "</s>"},
        "modules": (Pooling(("mean",)), Dense(24, 20, False, "identity"), Normalize()),
        "max_seq_length": 64,
        "config": {
            "architectures": ["T5EncoderModel"],
            "model_type": "t5",
            "d_model": 24,
            "num_layers": 2,
            "num_heads": 3,
            "d_kv": 10,
            "d_ff": 36,
            "feed_forward_proj": "gated-gelu",
            "relative_attention_num_buckets": 12,
            "relative_attention_max_distance": 20,
            "layer_norm_epsilon": 1e-6,
            "dropout_rate": 0.1,
            "is_encoder_decoder": True,
            "pad_token_id": 0,
            "eos_token_id": 1,
        },
    },
    "tiny-deberta-v2": {
        "special": ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"],
        "tokenizer": deberta_unigram,
        "tokenizer_config": {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": False},
        "names": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        "modules": (Pooling(("mean",)),),
        "max_seq_length": 64,
        "config": {
            "architectures": ["DebertaV2Model"],
            "model_type": "deberta-v2",
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 36,
            "max_position_embeddings": 64,
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_buckets": 12,
            "max_relative_positions": -1,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": "p2c|c2p",
            "position_biased_input": False,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-7,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "initializer_range": 0.02,
            "pad_token_id": 0,
        },
    },
}
# Routers: their routes, each a model from above. The last is the default.
ROUTERS = {"tiny-router": {"query": "tiny-static", "document": "tiny-layers"}}


def weights(model_config: ModelConfig, seed: int) -> dict:
    """Random parameters, spread wide enough that different sentences get clearly different embeddings."""
    from minisbert.checkpoint.convert import flatten

    random = np.random.default_rng(seed)
    params = {}
    for name, leaf in sorted(flatten(define(model_config)[1]).items()):
        noise = random.normal(size=leaf.shape).astype(np.float32)
        spread = leaf.shape[0] ** -0.5 if name.endswith("kernel") else 0.1
        if model_config.model_type == "t5" and "query" in name:  # whose scores are not divided by the root of its width
            spread *= model_config.encoder.head_dim**-0.5
        start = 0.0 if model_config.model_type == "gemma3_text" else 1.0  # there a scale is 1 plus the parameter
        params[name] = noise * np.float32(spread) + np.float32(start * name.endswith(("scale", "weights")))
    return nest(params)


def make(name: str, seed: int) -> None:
    """Write one tiny checkpoint."""
    recipe = MODELS[name]
    made = recipe["tokenizer"](recipe["special"], recipe["names"])
    config = {**recipe["config"], "vocab_size": made.size}
    files = {"tokenizer.json": made.backend.to_str(pretty=True).encode()}
    if "tokenizer_config" in recipe:  # a static model has none
        tokenizer_config = {
            **recipe["tokenizer_config"],
            "model_max_length": recipe["max_seq_length"],
            **{f"{role}_token": token for role, token in recipe["names"].items()},
        }
        if recipe["names"].get("cls") == "<s>":
            tokenizer_config.update(bos_token="<s>", eos_token="</s>")
        files["tokenizer_config.json"] = (json.dumps(tokenizer_config, indent=2) + "\n").encode()
        files |= made.files
    folder = ModelFolder(
        path=HERE / name,
        transformer_path=HERE / name,
        model_type=config["model_type"],
        config=config,
        encoder=FAMILIES[config["model_type"]].Config.from_json(config),
        modules=recipe["modules"],
        tokenizer_files=files,
        max_seq_length=recipe["max_seq_length"],
    )
    model_config = ModelConfig.of(folder)
    model = Pretrained(folder, model_config, weights(model_config, seed), Tokenizer(made.backend, name))
    save_pretrained(model, HERE / name)


def make_router(name: str) -> None:
    """Write one tiny Router, of models made before."""
    routes = {route: load_pretrained(HERE / model) for route, model in ROUTERS[name].items()}
    save_pretrained(join_routes(routes, default=list(routes)[-1]), HERE / name)


if __name__ == "__main__":
    for seed, name in enumerate([*MODELS, *ROUTERS]):
        if name in MODELS:
            make(name, seed)
        else:
            make_router(name)
        size = sum(file.stat().st_size for file in (HERE / name).rglob("*") if file.is_file())
        print(f"weights/{name}: {size / 1000:.0f} kB")
