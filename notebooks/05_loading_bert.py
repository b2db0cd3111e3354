# %% [markdown]
# # 05 Loading BERT
#
# BERT was trained once, for days, and has been used ever since by loading a file. The file has about two hundred named arrays;
# our modules have places for them, under other names, some joined, some transposed. Here a checkpoint is read **by a table of
# rules**; a small BERT is **pretrained** as the large one was, by masked words; and then come deliberate mistakes: those that
# are refused, and the one that no file reader can see.
#
# *Article:* BERT, pretrained and then used for everything. *Paper:* Devlin et al. 2019, section 3 and figure 2. *File to read
# with it:* `minisbert/checkpoint/families/bert.py`, the table at its bottom; `minisbert/checkpoint/convert.py` reads by it.

# %%
import textwrap
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from figures import BLUE, GREEN, ORANGE, PURPLE, show
from flax import nnx
from judge import judge
from matplotlib.figure import Figure

from minisbert import ModelFolderError, SentenceEncoder
from minisbert.checkpoint.convert import convert, export, flatten, nest, table_for
from minisbert.checkpoint.tensors import SafetensorsFiles
from minisbert.encoders import bert
from minisbert.reference import encoder as reference
from minisbert.similarity import pairwise_cosine

# %% [markdown]
# ## A checkpoint
#
# `weights/tiny-bert` is a BERT with random weights, small enough to be committed to this repository: 2 layers of width 32.

# %%
TINY = Path("../weights/tiny-bert")
tensors = SafetensorsFiles(TINY)
theirs = tensors.shapes()
print(len(theirs), "tensors, the first layer's among them:")
for name, shape in theirs.items():
    if name.startswith("encoder.layer.0.attention"):
        print(f"    {name:52} {list(shape)}")
assert len(theirs) == 37  # 5 for the embeddings, 16 for each layer

# %% [markdown]
# ## The places
#
# The encoder as a Flax module, without any arrays: `eval_shape` finds the shapes and allocates nothing.

# %%
CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "vocab_size": 187,
}


def structure(config: bert.Config) -> tuple[nnx.GraphDef, dict]:
    """The encoder's definition and its flat paths with their shapes."""
    definition, state = nnx.split(nnx.eval_shape(lambda: bert.Encoder(config, rngs=nnx.Rngs(0))))
    return definition, {path: tuple(leaf.shape) for path, leaf in flatten(nnx.to_pure_dict(state)).items()}


config = bert.Config.from_json(CONFIG)
definition, ours = structure(config)
print(len(ours), "places, the first layer's attention among them:")
for path, shape in sorted(ours.items()):
    if path.startswith("blocks.0.attention"):
        print(f"    {path:52} {list(shape)}")
assert len(ours) == 29

# %% [markdown]
# ## The table of rules
#
# `theirs -> ours`, `{i}` for the layer. PyTorch keeps the matrix of a linear map as [out, in] and Flax as [in, out], hence
# *transposed*. W_Q, W_K and W_V are concatenated into one matrix, hence three names on the left. That is all of BERT:

# %%
rules = [rule for rule in bert.RULES if not rule.when]  # the others are for ELECTRA and ERNIE
for rule in rules:
    part, *others = [name.removeprefix("encoder.layer.{i}.") for name in rule.parts]
    joined = "".join(f", {name.split('.')[2]}" for name in others)
    print(f"{part + joined:45} -> {rule.path}{', transposed' if rule.transpose else ''}")
print("kept, not computed:", ", ".join(bert.PASSTHROUGH))
assert len(rules) == 17

# %% [markdown]
# One rule done by hand:

# %%
first = "encoder.layer.0.attention.self."
three = [tensors.read(f"{first}{part}.weight") for part in ("query", "key", "value")]
by_hand_DE = np.concatenate([matrix.T for matrix in three], axis=1)
table = table_for(rules, config)  # {i} filled in for every layer, sizes for the letters
options = {"passthrough": bert.PASSTHROUGH, "prefix": bert.PREFIX}
converted = convert(tensors, table, **options)
print("three matrices", theirs[f"{first}query.weight"], "become one of", by_hand_DE.shape)
assert np.array_equal(by_hand_DE, converted.params["blocks.0.attention.qkv.kernel"])
assert set(converted.params) == set(ours)

# %% [markdown]
# ## What goes into BERT
#
# Figure 2 of the paper: a row is the sum of three embeddings, of the token, of its place, and of the segment (0 for the first
# text, 1 for the second). The encoder with its weights, compared with the float64 twin:

# %%
token_ids_BL = np.array([[2, 20, 30, 3, 40, 50, 3]])  # [CLS] a a [SEP] b b [SEP]
segment_ids_BL = np.array([[0, 0, 0, 0, 1, 1, 1]])
mask_BL = np.ones(token_ids_BL.shape, bool)
encoder = nnx.merge(definition, nest(converted.params))
hidden_BLD = encoder(jnp.asarray(token_ids_BL), jnp.asarray(mask_BL), jnp.asarray(segment_ids_BL))[-1]
twin_BLD = reference.bert(nest(converted.params), config, token_ids_BL, mask_BL, segment_ids_BL)
difference = np.abs(hidden_BLD - twin_BLD).max()
print(f"token embeddings {hidden_BLD.shape} differ from the twin by at most {difference:.0e}")
assert difference < 1e-5

# %% [markdown]
# And back: from our names to theirs, the same file bit for bit.

# %%
exported = export(converted, table)
assert set(exported) == set(theirs)
assert all(np.array_equal(exported[name], tensors.read(name)) for name in theirs)
print(f"all {len(exported)} tensors come back bit for bit")

# %% [markdown]
# ## How large is BERT?
#
# The shapes say it. BERT-base has 109,482,240 parameters (the paper rounds to 110 million); 590,592 of them are the pooler,
# which no sentence embedding uses.

# %%
SIZES = {
    "all-MiniLM-L6-v2": bert.Config(30_522, 384, 6, 12, 1_536, 512),
    "BERT-base": bert.Config(30_522, 768, 12, 12, 3_072, 512),
    "BERT-large": bert.Config(30_522, 1_024, 24, 16, 4_096, 512),
}
PARTS = {"words": "token_embedding", "attention": ".attention.", "feed-forward": ".feed_forward.", "the rest": ""}
counts = {}
for name, size in SIZES.items():
    left = {path: int(np.prod(shape)) for path, shape in structure(size)[1].items()}
    counts[name] = {}
    for part, pattern in PARTS.items():
        mine = [path for path in left if pattern in path]
        counts[name][part] = sum(left.pop(path) for path in mine)
    each = ", ".join(f"{part} {count / 1e6:.1f}" for part, count in counts[name].items())
    print(f"{name:17} {sum(counts[name].values()):11,}; in millions: {each}")
pooler = 768 * 768 + 768
assert sum(counts["BERT-base"].values()) + pooler == 109_482_240

figure = Figure(figsize=(8, 2.6), layout="constrained")
axes = figure.subplots()
start = np.zeros(len(SIZES))
for part, colour, hatch in zip(PARTS, (BLUE, ORANGE, GREEN, PURPLE), ("", "//", "..", "xx"), strict=True):
    millions = np.array([counts[name][part] / 1e6 for name in SIZES])
    axes.barh(list(SIZES), millions, left=start, color=colour, hatch=hatch, edgecolor="white", label=part)
    start += millions
axes.invert_yaxis()
axes.set_xlabel("parameters (million)")
axes.legend()
show(
    figure,
    "Stacked bars of parameters. all-MiniLM-L6-v2: 23 million, half of them words. BERT-base: 109 million, and "
    "BERT-large: 334 million; there the feed-forward nets are the largest part, attention has half as many.",
)

# %% [markdown]
# ## How it was trained: masked words
#
# Where do the numbers come from? BERT's first task (Devlin et al. 2019, section 3.1 and appendix A): 15 % of the tokens are
# chosen; of these 80 % become `[MASK]`, 10 % a random word, and 10 % stay. The encoder must say at each chosen place which word
# was there, from both sides. (The second task, whether one sentence follows another, was later found to be dispensable.)
#
# Here a small BERT learns it in seconds, on sentences in which the words depend on each other: who eats what.

# %%
FOOD = {
    **{"cat": "fish", "cow": "grass", "squirrel": "nuts", "panda": "bamboo", "bee": "nectar", "owl": "mice"},
    **{"horse": "oats", "monkey": "bananas", "rabbit": "carrots", "koala": "leaves", "spider": "flies", "dog": "bones"},
}
FRAMES = [
    "the {a} eats {f} every day",
    "a hungry {a} looks for {f}",
    "we give {f} to the {a} in the morning",
    "no {f} are left for the old {a}",
]
WORDS = ["[PAD]", "[MASK]", *sorted({word for frame in FRAMES for word in frame.split() if word[0] != "{"})]
WORDS += [*FOOD, *FOOD.values()]
ID = {word: number for number, word in enumerate(WORDS)}
MASK, LENGTH = ID["[MASK]"], 9


def sentences(count, random):
    """token_ids_BL of made sentences, padded with 0."""
    rows_BL = np.zeros((count, LENGTH), np.int32)
    for row_L in rows_BL:
        animal = random.choice(list(FOOD))
        words = random.choice(FRAMES).format(a=animal, f=FOOD[animal]).split()
        row_L[: len(words)] = [ID[word] for word in words]
    return rows_BL


def mask_words(token_ids_BL, random):
    """The row that BERT sees, and True where it must say what was there."""
    chosen_BL = (token_ids_BL > 0) & (random.random(token_ids_BL.shape) < 0.15)
    dice_BL = random.random(token_ids_BL.shape)
    seen_BL = np.where(chosen_BL & (dice_BL < 0.8), MASK, token_ids_BL)
    strange_BL = random.integers(2, len(WORDS), token_ids_BL.shape)
    return np.where(chosen_BL & (dice_BL >= 0.9), strange_BL, seen_BL), chosen_BL


random = np.random.default_rng(0)
rows_BL = sentences(3, random)
for row_L, seen_L in zip(rows_BL, mask_words(rows_BL, np.random.default_rng(5))[0], strict=True):
    print(f"{' '.join(WORDS[i] for i in row_L if i):48} {' '.join(WORDS[i] for i in seen_L if i)}")

# %% [markdown]
# The output layer compares each vector with all rows of the table of token embeddings: the same table for input and output.
# `small` is this package's own BERT, with 2 layers of width 32.

# %%
small = bert.Config(len(WORDS), 32, 2, 4, 64, LENGTH)
small_definition, state = nnx.split(bert.Encoder(small, rngs=nnx.Rngs(0)))


def word_logits(params, token_ids_BL):
    """logits_BLV: for every place a score for every word."""
    hidden_BLD = nnx.merge(small_definition, params["encoder"])(token_ids_BL, token_ids_BL > 0)[-1]
    return hidden_BLD @ params["encoder"]["token_embedding"]["embedding"].T + params["bias_V"]


def masked_loss(params, token_ids_BL, seen_BL, chosen_BL):
    log_p_BLV = jax.nn.log_softmax(word_logits(params, seen_BL))
    each_BL = -jnp.take_along_axis(log_p_BLV, token_ids_BL[:, :, None], axis=2)[:, :, 0]
    return (each_BL * chosen_BL).sum() / jnp.maximum(chosen_BL.sum(), 1)


STEPS = 1200
rows_SBL = np.stack([sentences(48, random) for _ in range(STEPS)])
batches = (rows_SBL, *mask_words(rows_SBL, random))
optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, STEPS))


def step(carry, batch):
    params, moments = carry
    value, gradient = jax.value_and_grad(masked_loss)(params, *batch)
    updates, moments = optimizer.update(gradient, moments)
    return (optax.apply_updates(params, updates), moments), value


start = {"encoder": nnx.to_pure_dict(state), "bias_V": jnp.zeros(len(WORDS))}
run = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), batches))
(trained, _), losses_S = run(start)
print(f"loss {losses_S[0]:.2f} -> {losses_S[-50:].mean():.2f} nats per masked word; guessing: {np.log(len(WORDS)):.2f}")
assert losses_S[-50:].mean() < 0.6

# %%
for text in (
    "the [MASK] eats grass every day",
    "a hungry squirrel looks for [MASK]",
    "we give bones to the [MASK] in the morning",
):
    row_1L = np.zeros((1, LENGTH), np.int32)
    row_1L[0, : len(text.split())] = [ID[word] for word in text.split()]
    probability_V = np.asarray(jax.nn.softmax(word_logits(trained, row_1L)[0, text.split().index("[MASK]")]))
    best = probability_V.argsort()[::-1][:3]
    print(f"{text:45}", ", ".join(f"{WORDS[i]} {probability_V[i]:.2f}" for i in best))
    animal_or_food = {**FOOD, **{food: animal for animal, food in FOOD.items()}}
    assert animal_or_food.get(WORDS[best[0]]) in text.split()

figure = Figure(figsize=(7, 2.6), layout="constrained")
axes = figure.subplots()
axes.plot(np.arange(20, STEPS + 1), np.convolve(losses_S, np.ones(20) / 20, "valid"), color=BLUE)
axes.axhline(np.log(len(WORDS)), color="grey", linestyle=":")
axes.set(xlabel="training step", ylabel="loss (nats per masked word)", ylim=(0, None))
show(
    figure,
    "The loss of masked words over 1,200 steps falls from that of guessing, the dotted line at 3.8, to about 0.1. It cannot "
    "reach 0: where animal and food are both masked, nothing tells which they were.",
)

# %% [markdown]
# Nobody told it what an animal is: a word is known by its company. The same task on three billion words made BERT. What such
# vectors are worth for whole sentences, before any training on pairs, is SBERT's table 1 (notebook 07).
#
# ## MPNet: one masked word after the other
#
# BERT predicts all masked words together, each as if the others were unknown. Where animal and food are both masked, it
# spreads its guesses over all twelve of each, and they need not fit together. MPNet (Song et al. 2020), the model behind
# all-mpnet-base-v2, predicts the words **one after the other**, in a random order, each with those already predicted in sight;
# and it sees the *positions* of those still to come, so that it knows how long the sentence is.
#
# | predicted word | BERT reads | MPNet reads |
# | --- | --- | --- |
# | first | a hungry [MASK] looks for [MASK] | a hungry [MASK] looks for [MASK] |
# | second | a hungry [MASK] looks for [MASK] | a hungry **cat** looks for [MASK] |
#
# Our small BERT can show the difference. How likely is it that the two words fit together?

# %%
row_L = np.zeros(LENGTH, np.int32)
row_L[:6] = [ID[word] for word in "a hungry [MASK] looks for [MASK]".split()]
animal_A, food_A = (np.array([ID[word] for word in words]) for words in (FOOD, FOOD.values()))
first_LV = np.asarray(jax.nn.softmax(word_logits(trained, row_L[None])[0]))
together = float((first_LV[2, animal_A] * first_LV[5, food_A]).sum())

filled_AL = np.tile(row_L, (len(FOOD), 1))
filled_AL[:, 2] = animal_A  # the animal predicted and put in, then the food
second_AV = np.asarray(jax.nn.softmax(word_logits(trained, filled_AL)[:, 5]))
in_turn = float((first_LV[2, animal_A] * second_AV[np.arange(len(FOOD)), food_A]).sum())
print(f"animal and food fit together: predicted at the same time {together:.2f}, one after the other {in_turn:.2f}")
assert together < 0.25 and in_turn > 0.75

# %% [markdown]
# ## Mistakes that are refused
#
# Back to the file. A misspelt name in the table: the tensor is missing under one name and unknown under the other, and one
# error reports both. A transpose forgotten, where the matrix is not square:


# %%
def refusal(call: Callable) -> str:
    """The message with which the call is refused; a call that is not refused fails."""
    try:
        call()
    except ModelFolderError as error:
        return str(error)
    raise AssertionError("nothing was refused")


misspelt = [rule._replace(hf_name=rule.hf_name.replace("word_emb", "words_emb")) for rule in rules[:1]]
message = refusal(lambda: convert(tensors, table_for(misspelt + rules[1:], config), **options))
print(textwrap.fill(message, 110))
assert "missing: 'embeddings.words_embeddings.weight' [187, 32]" in message
assert "unknown: 'embeddings.word_embeddings.weight' [187, 32]" in message

forgetful = [rule._replace(transpose=False) if "up.kernel" in rule.path else rule for rule in rules]
message = refusal(lambda: convert(tensors, table_for(forgetful, config), **options))
print()
print(textwrap.fill(message, 110))
assert message.count("wrong shape") == 2  # one in each layer

# %% [markdown]
# ## The mistake that no reader can see
#
# Forget the transpose of a **square** matrix: the shapes fit, nothing is refused, and the model runs. Here it is done to a
# real model, in the matrix W_O of each layer.

# %%
minilm = SentenceEncoder.load("all-MiniLM-L6-v2")
model_config = minilm.pretrained.model_config
right = minilm.pretrained.params["encoder"]
wrong = flatten(right)
for layer in range(model_config.encoder.num_hidden_layers):
    wrong[f"blocks.{layer}.attention.output.kernel"] = wrong[f"blocks.{layer}.attention.output.kernel"].T
minilm_definition, _ = structure(model_config.encoder)

PAIRS = [
    ("a man is eating food", "someone has a meal"),
    ("my dentist says bricks are bad for teeth", "the dental specialist advised against chewing stones"),
    ("a man is eating food", "the girl plays the violin"),
    ("the train leaves at noon", "she swore she saw her sushi move"),
]


def sentence_embeddings(params: dict, texts: list[str]) -> np.ndarray:
    """Mean over the tokens, one text at a time."""
    model = nnx.merge(minilm_definition, params)
    rows = minilm.tokenizer.tokenize(texts, max_length=64).ids
    tokens = [model(jnp.array([row]), jnp.ones((1, len(row)), bool))[-1][0] for row in rows]
    return np.stack([np.asarray(token_LD).mean(axis=0) for token_LD in tokens])


scores = {}
firsts, seconds = map(list, zip(*PAIRS, strict=True))
for name, params in (("right", right), ("one transpose forgotten", nest(wrong))):
    scores[name] = pairwise_cosine(sentence_embeddings(params, firsts), sentence_embeddings(params, seconds))
    print(f"{name:24}", " ".join(f"{score:6.3f}" for score in scores[name]))

agreed = pairwise_cosine(minilm.encode(firsts), minilm.encode(seconds))
assert np.abs(scores["right"] - agreed).max() < 1e-5
# The first two pairs mean the same, the others do not, and both models say so.
for score in scores.values():
    assert score[:2].min() > score[2:].max() + 0.2
assert np.abs(scores["one transpose forgotten"] - scores["right"]).max() > 0.1

# %% [markdown]
# No error, numbers between -1 and 1 as they should be, and even the pairs that mean the same still come first: a glance at
# the results would not notice. Only an independent truth shows that they are wrong: the printed table of the article (notebook
# 01), the float64 twin, another library. This is why every family of this package is compared with the last two.
#
# ## Write it yourself
#
# The loss of masked words, in NumPy: cross-entropy at the masked places, and only there.


# %%
def masked_word_loss(logits_BLV, token_BL, masked_BL):
    """The mean over masked places of -log softmax(logits)[token]."""
    # yours


right = judge(masked_word_loss)

# %% [markdown]
# ## Exercises
#
# 1. `hidden_act` "gelu" is the exact x Φ(x), "gelu_new" an approximation. How far apart are they?
# 2. all-MiniLM-L6-v2 has a pooler. Which rules name it, and where did it go when the model was loaded?
# 3. Count BERT-large, with its pooler.
#
# <details><summary>Solution: masked_word_loss</summary>
#
# ```python
# def masked_word_loss(logits_BLV, token_BL, masked_BL):
#     log_sum_BL = np.log(np.exp(logits_BLV).sum(axis=-1))
#     right_BL = np.take_along_axis(logits_BLV, token_BL[:, :, None], axis=2)[:, :, 0]
#     return (log_sum_BL - right_BL)[masked_BL].mean()
#
#
# assert judge(masked_word_loss)
# ```
# </details>
#
# <details><summary>Solution 1</summary>
#
# ```python
# x = np.linspace(-6, 6, 10_001)
# apart = np.abs(reference.gelu(x) - reference.gelu_tanh(x)).max()
# print(f"{apart:.1e}")
# assert 1e-4 < apart < 1e-3
# ```
#
# Small, but a thousand times the rounding of float32. A tolerance of 1e-3 in a test would not see the wrong one.
# </details>
#
# <details><summary>Solution 2</summary>
#
# ```python
# from minisbert.cross_encoder.heads import HEADS, HeadConfig
#
# print(HEADS["bert"].rules(HeadConfig())[:2])
# assert minilm.pretrained.original.passthrough["pooler.dense.weight"].shape == (384, 384)
# ```
#
# The first two of `HEADS["bert"].rules()`. A sentence embedding pools the tokens itself; there the pooler is carried
# along, so that saving the model loses nothing. A cross-encoder uses it (notebook 06).
# </details>
#
# <details><summary>Solution 3</summary>
#
# ```python
# assert sum(counts["BERT-large"].values()) + 1024 * 1024 + 1024 == 335_141_888
# ```
# </details>
#
# **The file just read:** `minisbert/checkpoint/families/bert.py`: Config and rules. `encoders/bert.py` has the Encoder. Next:
# [06 Cross-encoder or bi-encoder](06_cross_or_bi_encoder.ipynb).
