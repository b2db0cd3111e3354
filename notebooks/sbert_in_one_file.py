"""Sentence-BERT in one file: from the words of a sentence to the cosine of two sentences, in NumPy alone.

    text -> WordPiece tokens -> BERT or MPNet -> token embeddings -> mean pooling -> sentence embedding -> cosine

    python notebooks/sbert_in_one_file.py FOLDER                 the table of the Pinecone article, for all-mpnet-base-v2
    python notebooks/sbert_in_one_file.py FOLDER "one sentence" "another one"

FOLDER holds a published model (`FILES` below lists its files). `minisbert download all-mpnet-base-v2` fetches one and prints
its path; after that, nothing but Python and NumPy is needed.

The papers, in the order in which the text meets them:

    BERT            Devlin et al. 2019      WordPiece, the three embeddings, the encoder
    Transformer     Vaswani et al. 2017     attention (3.2), feed-forward (3.3), shortcuts and norms (3.1)
    T5              Raffel et al. 2020      relative positions (2.1), which MPNet (Song et al. 2020) adds to the scores
    Sentence-BERT   Reimers & Gurevych 2019 mean pooling and cosine (section 3)

Sentences go through one at a time, so there is no padding and no mask. Left out: batches, training, and everything that
makes it fast; `minisbert/` has those. "[CLS]" in a text is read as text. It must agree with `minisbert.SentenceEncoder`
to 1e-6 (a test checks that).

Letters in names are axes: L tokens, Q/K query/key tokens, D width, N heads, H width of a head, S sentences.
"""

import json
import math
import os
import sys
import unicodedata
from pathlib import Path

# One thread: with so few tokens, several would wait for each other longer than they compute. NumPy reads this when imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np

# --- 1. weights: a safetensors file is a length, a JSON header, and the numbers ----------------------------------------


def read_safetensors(path):
    """name -> float32 array. Eight bytes say how long the header is; it says where each tensor's numbers begin and end."""
    file = np.memmap(path, np.uint8, "r")
    header_length = int.from_bytes(file[:8].tobytes(), "little")
    header = json.loads(bytes(file[8 : 8 + header_length]))
    numbers = file[8 + header_length :]
    dtypes = {"F32": np.float32, "F16": np.float16}  # position_ids are whole numbers: not weights
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in dtypes:
            start, end = entry["data_offsets"]
            tensor = numbers[start:end].view(dtypes[entry["dtype"]])
            tensors[name] = tensor.reshape(entry["shape"]).astype(np.float32)
    return tensors


# --- 2. tokens: WordPiece --------------------------------------------------------------------------------------------


def split_words(text):
    """Lower-case words without accents; each punctuation mark and each Chinese character is a word of its own."""
    spaced = ""
    for char in text:
        category = unicodedata.category(char)
        if char in "\t\n\r" or category[0] == "Z":
            spaced += " "
        elif category in ("Cc", "Cf", "Co") or char == "\ufffd":  # control, formatting, private use
            continue
        else:
            spaced += f" {char} " if is_chinese(char) else char
    without_accents = "".join(c for c in unicodedata.normalize("NFD", spaced) if unicodedata.category(c) != "Mn")
    words = []
    for word in "".join(char.lower() for char in without_accents).split():
        start = 0
        for i, char in enumerate(word):
            if is_punctuation(char):
                words += [word[start:i], char]
                start = i + 1
        words.append(word[start:])
    return [word for word in words if word]


def is_punctuation(char):
    """All ASCII signs other than letters and digits, $ and + too, and what Unicode calls punctuation."""
    ascii_sign = 33 <= ord(char) <= 126 and not char.isalnum()
    return ascii_sign or unicodedata.category(char)[0] == "P"


def is_chinese(char):
    """The blocks of CJK ideographs, as BERT's own tokenizer has them."""
    blocks = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)]
    blocks += [(0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]
    return any(low <= ord(char) <= high for low, high in blocks)


def word_pieces(word, vocabulary):
    """The longest piece in the vocabulary that the word begins with, then the longest of the rest, and so on.

    Pieces after the first are written "##piece". A word that cannot be taken apart is [UNK], as a whole.
    """
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                break
        else:
            return ["[UNK]"]
        pieces.append(piece)
        start = end
    return pieces if len(word) <= 100 else ["[UNK]"]


def tokenize(text, model):
    """Token ids with the two special tokens around them, cut to the model's maximum length."""
    vocabulary, (first, last) = model["vocabulary"], model["special_tokens"]
    pieces = [piece for word in split_words(text) for piece in word_pieces(word, vocabulary)]
    pieces = [first, *pieces[: model["max_length"] - 2], last]
    return np.array([vocabulary[piece] for piece in pieces])


# --- 3. the transformer ----------------------------------------------------------------------------------------------


def linear(x, weights, name):
    """x W^T + b. PyTorch keeps matrices as [out, in]."""
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(hidden_LD, weights, name, epsilon):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, for each token   (Ba et al. 2016, equation 4)."""
    mean_L1 = hidden_LD.mean(axis=-1, keepdims=True)
    variance_L1 = hidden_LD.var(axis=-1, keepdims=True)
    normalized_LD = (hidden_LD - mean_L1) / np.sqrt(variance_L1 + epsilon)
    return normalized_LD * weights[f"{name}.weight"] + weights[f"{name}.bias"]


erf = np.vectorize(math.erf, otypes=[np.float32])


def gelu(x):
    """x Phi(x), where Phi is the distribution function of the normal distribution   (Hendrycks & Gimpel 2016)."""
    return x * (1 + erf(x / np.float32(math.sqrt(2)))) / 2


def softmax(scores):
    """exp(s) / sum of exp(s), over the last axis; the maximum is taken off first so that nothing overflows."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def attention(query_NLH, key_NLH, value_NLH, bias_NQK):
    """softmax(Q K^T / sqrt(H)) V   (Vaswani et al. 2017, equation 1), all heads together."""
    H = query_NLH.shape[-1]
    scores_NQK = query_NLH @ key_NLH.transpose(0, 2, 1) / np.float32(math.sqrt(H)) + bias_NQK
    return softmax(scores_NQK) @ value_NLH


def layer(hidden_LD, weights, names, heads, bias_NQK, epsilon):
    """Self-attention, then the feed-forward net; around each a shortcut, and a layer norm after it."""
    L, D = hidden_LD.shape

    def split_heads(x_LD):
        return x_LD.reshape(L, heads, D // heads).transpose(1, 0, 2)

    query, key, value = (split_heads(linear(hidden_LD, weights, names[part])) for part in ("query", "key", "value"))
    mixed_LD = attention(query, key, value, bias_NQK).transpose(1, 0, 2).reshape(L, D)
    attended_LD = linear(mixed_LD, weights, names["output"])
    hidden_LD = layer_norm(hidden_LD + attended_LD, weights, names["norm"], epsilon)

    wide_LF = gelu(linear(hidden_LD, weights, names["up"]))
    return layer_norm(hidden_LD + linear(wide_LF, weights, names["down"]), weights, names["last_norm"], epsilon)


def layer_names(family, i):
    """Where the published file keeps the parts of layer i. The two families differ in nothing else within a layer."""
    at = f"encoder.layer.{i}."
    names = {"up": "intermediate.dense", "down": "output.dense", "last_norm": "output.LayerNorm"}
    if family == "bert":
        names |= {part: f"attention.self.{part}" for part in ("query", "key", "value")}
        names |= {"output": "attention.output.dense", "norm": "attention.output.LayerNorm"}
    else:
        names |= {"query": "attention.attn.q", "key": "attention.attn.k", "value": "attention.attn.v"}
        names |= {"output": "attention.attn.o", "norm": "attention.LayerNorm"}
    return {part: at + name for part, name in names.items()}


def embed_tokens(ids_L, weights, family):
    """The sum of a vector for the word, one for its place and, in BERT, one for the segment (Devlin et al., figure 2)."""
    first_place = 0 if family == "bert" else 2  # MPNet counts from the row after its padding token's
    embedded_LD = weights["embeddings.word_embeddings.weight"][ids_L]
    embedded_LD = embedded_LD + weights["embeddings.position_embeddings.weight"][first_place:][: len(ids_L)]
    if family == "bert":
        embedded_LD = embedded_LD + weights["embeddings.token_type_embeddings.weight"][0]
    return embedded_LD


def relative_position_bias(length, table_RN):
    """MPNet: a learned number for each head and each distance of key and query, added to all scores   (T5, 2.1).

    32 buckets, half of them for keys that follow the query. Of each half the first 8 hold the distances 0 to 7, the
    others grow by the factor sqrt(2), and the last one has no end.
    """
    distance_QK = np.arange(length)[None, :] - np.arange(length)[:, None]
    size_QK = np.abs(distance_QK)
    far_QK = 8 + np.floor(2 * np.log2(np.maximum(size_QK, 8) / 8)).astype(int)
    bucket_QK = np.where(size_QK < 8, size_QK, np.minimum(far_QK, 15)) + 16 * (distance_QK > 0)
    return table_RN[bucket_QK].transpose(2, 0, 1)


def encode_tokens(ids_L, model):
    """Token ids -> token embeddings, hidden_LD."""
    weights, config, family = model["weights"], model["config"], model["config"]["model_type"]
    epsilon = config["layer_norm_eps"]
    bias_NQK = 0
    if family == "mpnet":
        bias_NQK = relative_position_bias(len(ids_L), weights["encoder.relative_attention_bias.weight"])
    hidden_LD = layer_norm(embed_tokens(ids_L, weights, family), weights, "embeddings.LayerNorm", epsilon)
    for i in range(config["num_hidden_layers"]):
        heads = config["num_attention_heads"]
        hidden_LD = layer(hidden_LD, weights, layer_names(family, i), heads, bias_NQK, epsilon)
    return hidden_LD


# --- 4. sentences ----------------------------------------------------------------------------------------------------


FILES = ("config.json", "sentence_bert_config.json", "1_Pooling/config.json", "vocab.txt", "model.safetensors")


def load(folder):
    """A published folder -> {"config", "weights", "vocabulary", ...}."""
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise SystemExit(f"{folder}: no {', '.join(missing)}. Expected a folder that `minisbert download` printed.")
    config = json.loads((folder / "config.json").read_text())
    family = config["model_type"]
    if family not in ("bert", "mpnet") or config["hidden_act"] != "gelu":
        raise SystemExit(
            f"{folder}: {family} with {config['hidden_act']}. This file computes BERT and MPNet with gelu."
        )
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    if not pooling.get("pooling_mode_mean_tokens", pooling.get("pooling_mode") == "mean"):
        raise SystemExit(f"{folder}: the pooling is {pooling}. This file computes the mean.")
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return {
        "config": config,
        "weights": read_safetensors(folder / "model.safetensors"),
        "vocabulary": {token: number for number, token in enumerate(lines) if token},
        "special_tokens": ("[CLS]", "[SEP]") if family == "bert" else ("<s>", "</s>"),
        "max_length": json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"],
    }


def encode(sentences, model):
    """Sentence embeddings of length 1, sentence_SD: the mean of each sentence's token embeddings   (SBERT, section 3)."""
    mean_SD = np.stack([encode_tokens(tokenize(text, model), model).mean(axis=0) for text in sentences])
    return mean_SD / np.linalg.norm(mean_SD, axis=1, keepdims=True)


def cosines(a_SD, b_SD):
    """Of vectors of length 1, the cosine is the product."""
    return a_SD @ b_SD.T


# --- 5. the article --------------------------------------------------------------------------------------------------

ARTICLE = [
    "the fifty mannequin heads floating in the pool kind of freaked them out",
    "she swore she just saw her sushi move",
    "he embraced his new life as an eggplant",
    "my dentist tells me that chewing bricks is very bad for your teeth",
    "the dental specialist recommended an immediate stop to flossing with construction materials",
]
# Published for all-mpnet-base-v2, the lower triangle row by row.
PUBLISHED = [0.26406282, 0.16503485, 0.16126671, 0.04334451, 0.04615867, 0.0567013, 0.05398509, 0.06101188]
PUBLISHED += [-0.01122264, 0.51847214]


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return
    sentences = sys.argv[2:] or ARTICLE
    model = load(sys.argv[1])
    embeddings_SD = encode(sentences, model)
    cosine_SS = cosines(embeddings_SD, embeddings_SD)
    for number, (sentence, row) in enumerate(zip(sentences, cosine_SS, strict=True)):
        print(number, " ".join(f"{x:10.6f}" for x in row), f"  {sentence}")
    if sentences is ARTICLE and embeddings_SD.shape[1] == 768:
        difference = np.abs(cosine_SS[np.tril_indices(5, -1)] - PUBLISHED).max()
        print(f"\nlargest difference from the published table of all-mpnet-base-v2: {difference:.1e}")


if __name__ == "__main__":
    main()
