# %% [markdown]
# # 06 Cross-encoder or bi-encoder
#
# There are two ways to ask a BERT how similar two sentences are:
#
# - a **cross-encoder** reads both together, `[CLS] A [SEP] B [SEP]`, and a head on `[CLS]` gives the score;
# - a **bi-encoder** reads each alone and makes a vector of it, and two vectors are compared.
#
# The first is more accurate, the second one scales. This notebook looks at both halves of that sentence: what one vector per
# text cannot say, and what one forward pass per pair costs, up to the article's 65 hours.
#
# *Article:* the cross-encoder (figure), the 65 hours, the bi-encoder (figure). *Paper:* Reimers & Gurevych 2019, sections 1
# and 4, table 2. *File to read with it:* `minisbert/cross_encoder/model.py`.

# %%
import numpy as np
from figures import BLUE, ORANGE, show
from judge import judge
from matplotlib.figure import Figure
from published import PUBLISHED, SECONDS
from schematics import draw

from minisbert import CrossEncoder, SentenceEncoder
from minisbert.data.synthetic import make_sentences
from minisbert.mining.pairwise_cost import duration, measure, sampled_pairs
from minisbert.similarity import cosine, pairwise_cosine

bi_encoder = SentenceEncoder.load("all-MiniLM-L6-v2")
cross_encoder = CrossEncoder.from_encoder(bi_encoder)

# %% [markdown]
# **What is real here and what is not.** The bi-encoder is a trained model. The cross-encoder has the same trained encoder, but
# a *new head* of random numbers: the models that minisbert can fetch everywhere include no cross-encoder. Its cost and its
# structure are those of a trained one; its scores mean nothing, and are not used as if they did. What trained cross-encoders
# reach is quoted from the paper.
#
# ## What each of them reads

# %%
draw("cross-encoder")
draw("bi-encoder")

# %%
PAIR = ("a man is eating food", "someone has a meal")
vocabulary = bi_encoder.tokenizer.backend


def words(ids: list[int]) -> str:
    return " ".join(vocabulary.id_to_token(token) for token in ids)


both = cross_encoder.tokenize([PAIR])
print("cross-encoder, one row: ", words(both.ids[0]))
segments = [0] * both.first_lengths[0] + [1] * (len(both.ids[0]) - both.first_lengths[0])
print("which text it belongs to:", *segments)
for row in bi_encoder.tokenizer.tokenize(PAIR, max_length=64).ids:
    print("bi-encoder, one row each:", words(row))
assert words(both.ids[0]) == "[CLS] a man is eating food [SEP] someone has a meal [SEP]"
assert segments == [0] * 7 + [1] * 5

# %% [markdown]
# In the one row every token of A sees every token of B, in every layer. In the two rows nothing is known of B while A becomes
# a vector: that vector must serve for *every* B that may ever come. It is the bottleneck of notebook 02 again, this time on
# purpose.
#
# ## What a vector cannot say
#
# All scores of a bi-encoder, of n texts with n texts, are products of two matrices of width D. So their table has rank D at
# most, whatever the training. A cross-encoder's has no such bound. Exactly so, with the tiny random BERT (D = 32):

# %%
tiny = SentenceEncoder.load("../weights/tiny-bert")
tiny_cross = CrossEncoder.from_encoder(tiny)
who = "cat dog man bird child horse".split()
does = ["eats", "sleeps", "sees a dog", "is in town", "runs home", "has a book", "is red", "sings"]
texts = [f"a {one} {what}" for one in who for what in does]
embeddings_BD = tiny.encode(texts).astype(np.float64)
tables = {
    "bi-encoder": cosine(embeddings_BD, embeddings_BD),
    "cross-encoder": tiny_cross.predict([(a, b) for a in texts for b in texts], activation_fn="identity"),
}
values = {
    name: np.linalg.svd(np.asarray(table, np.float64).reshape(48, 48), compute_uv=False)
    for name, table in tables.items()
}
for name, value in values.items():
    print(f"{name:14} singular value 33, as a part of the first: {value[32] / value[0]:.0e}")
assert values["bi-encoder"][32] / values["bi-encoder"][0] < 1e-12
assert values["cross-encoder"][32] / values["cross-encoder"][0] > 1e-5  # float32 rounds at 1e-7

figure = Figure(figsize=(7, 3), layout="constrained")
axes = figure.subplots()
for (name, value), colour, style in zip(values.items(), (BLUE, ORANGE), ("o-", "s--"), strict=True):
    axes.semilogy(range(1, 49), np.maximum(value / value[0], 1e-18), style, color=colour, label=name, markersize=4)
axes.axvline(32.5, color="grey", linewidth=1)
axes.text(33, 1e-9, "D = 32")
axes.set(xlabel="number of the singular value", ylabel="as a part of the first (log)")
axes.legend(loc="lower left")
show(
    figure,
    "Singular values of two 48 by 48 tables of scores. The bi-encoder's fall to zero, up to rounding, behind "
    "number 32, which is its width. The cross-encoder's continue to fall slowly through all 48.",
)

# %% [markdown]
# That is the bound; in practice the limit shows long before. Who did it to whom? Each line has a sentence, the same with the
# roles exchanged (another meaning), and a paraphrase (the same meaning).

# %%
TRIPLES = [
    ("the dog bites the man", "the man bites the dog", "the man is bitten by the dog"),
    ("the cat chased the dog", "the dog chased the cat", "the dog was chased by the cat"),
    ("Anna sold the car to Ben", "Ben sold the car to Anna", "Ben bought the car from Anna"),
    ("Paris is larger than Rome", "Rome is larger than Paris", "Rome is smaller than Paris"),
    ("the lawyer called the doctor", "the doctor called the lawyer", "the doctor was called by the lawyer"),
]
columns = zip(*TRIPLES, strict=True)
sentence_BD, exchanged_BD, paraphrase_BD = (bi_encoder.encode(list(column)) for column in columns)
exchanged_B = pairwise_cosine(sentence_BD, exchanged_BD)
paraphrase_B = pairwise_cosine(sentence_BD, paraphrase_BD)
print("roles exchanged   paraphrase")
for triple, wrong, right in zip(TRIPLES, exchanged_B, paraphrase_B, strict=True):
    print(f"{wrong:15.3f}{right:13.3f}   {triple[0]}")
assert (exchanged_B > paraphrase_B).all()

# %% [markdown]
# Each time the sentence with the **other** meaning is nearer, because its words are the same. The vector says what a sentence
# is about, and hardly who did it to whom.
#
# ## Accuracy, as published
#
# Spearman correlation with human judgement, test set of the STS benchmark, from SBERT's table 2 (Reimers & Gurevych 2019).
# Printed numbers, drawn; all that this course quotes is in `notebooks/published.py`:

# %%
printed = PUBLISHED["SBERT", "table 2"]
TABLE_2 = {  # trained on -> (cross-encoder BERT-base, bi-encoder SBERT-base), x 100
    trained: tuple(printed[f"{kind}-{name}-base"]["Spearman"] for kind in ("BERT", "SBERT"))
    for trained, name in (("STSb", "STSb"), ("NLI, then STSb", "NLI-STSb"))
}
figure = Figure(figsize=(7, 2.8), layout="constrained")
axes = figure.subplots()
kinds = (("cross-encoder, BERT-base", -0.2, ORANGE, "//"), ("bi-encoder, SBERT-base", 0.2, BLUE, ""))
for (label, shift, colour, hatch), scores in zip(kinds, zip(*TABLE_2.values(), strict=True), strict=True):
    places = np.arange(len(TABLE_2)) + shift
    bars = axes.barh(places, scores, 0.38, color=colour, hatch=hatch, edgecolor="white", label=label)
    axes.bar_label(bars, fmt="%.2f", padding=3)
axes.set_yticks(range(len(TABLE_2)), TABLE_2)
axes.invert_yaxis()
figure.legend(loc="outside lower center", ncols=2, frameon=False)
axes.set(xlim=(80, 90), xlabel="Spearman correlation x 100 (the axis begins at 80)", ylabel="trained on")
show(
    figure,
    "Bars of Spearman correlations from SBERT's table 2. Trained on STSb alone: cross-encoder 84.30, bi-encoder 84.67. With "
    "NLI before: cross-encoder 88.33, bi-encoder 85.35.",
)

# %% [markdown]
# They are three points apart with enough training, and level with little. Is it worth its price?
#
# ## Cost, counted
#
# The most similar pair of n sentences is one of n (n - 1) / 2 pairs. The bi-encoder reads n rows.

# %%
n = 10_000
pairs = n * (n - 1) // 2
print(f"{n:,} sentences make {pairs:,} pairs")
assert pairs == PUBLISHED["SBERT", "section 1"]["pairs of 10,000 sentences"]["inferences"]

texts = list(dict.fromkeys(make_sentences(n + 3_000, seed=0)))[:n]  # made from word lists, none twice
assert len(texts) == n
alone = bi_encoder.token_counts(texts)
sample = [(texts[i], texts[j]) for i, j in sampled_pairs(n, 1_000, seed=0)]
together = cross_encoder.token_counts(sample)
bi_tokens = sum(count.tokens for count in alone)
cross_tokens = pairs * np.mean([count.tokens for count in together])
print(f"tokens to compute: bi-encoder {bi_tokens:,}, cross-encoder about {cross_tokens / 1e6:,.0f} million")
print(f"that is {cross_tokens / bi_tokens:,.0f} times as many")
# A pair has twice the tokens of a sentence, and there are (n - 1) / 2 pairs for each sentence.
assert abs(cross_tokens / bi_tokens / (n - 1) - 1) < 0.1

# %% [markdown]
# ## Cost, measured
#
# On this machine, now: 400 sentences embedded, and the cross-encoder's rate on 64 pairs. Its time for all pairs is
# extrapolated, since each pair takes equally long. The article's 65 hours and 5 seconds are from the paper, which measured on
# a V100 GPU; the committed figures are from two busy CPU cores. (`minisbert pairwise-cost` does the same with more patience.)

# %%
few = measure(bi_encoder, texts[:400], predict=cross_encoder.predict, sample=64, show_progress_bar=False)
embed_each = few.embed_seconds / few.sentences
here = {
    "cross-encoder": pairs / few.pairs_per_second,
    "embedding": embed_each * n,
    "comparing": few.compare_seconds / few.pairs * pairs,
}
print("most similar of 10,000     paper (V100, BERT-base)   here, extrapolated (MiniLM)")
for what, seconds in SECONDS.items():
    print(f"    {what:20} {duration(seconds):>25}   {duration(here[what]):>27}")
ratio = here["cross-encoder"] / (here["embedding"] + here["comparing"])
print(f"the cross-encoder takes {ratio:,.0f} times as long here; in the paper {65 * 3600 / 5.01:,.0f} times")
assert ratio > 500  # several thousand; machines and their load differ

# %%
sizes = np.logspace(1, 6, 50)
figure = Figure(figsize=(7.5, 4), layout="constrained")
axes = figure.subplots()
many = sizes * (sizes - 1) / 2
by_pairs = many / few.pairs_per_second
by_vectors = sizes * embed_each + many * few.compare_seconds / few.pairs
axes.loglog(sizes, by_pairs, "--", color=ORANGE, label="cross-encoder, here")
axes.loglog(sizes, by_vectors, "-", color=BLUE, label="bi-encoder, here: embed and compare")
axes.loglog(n, SECONDS["cross-encoder"], "s", color=ORANGE, markeredgecolor="black", label="article: 65 hours")
axes.loglog(n, SECONDS["embedding"], "o", color=BLUE, markeredgecolor="black", label="article: 5 seconds")
for seconds, name in ((1, "a second"), (3600, "an hour"), (86400, "a day"), (86400 * 365, "a year")):
    axes.axhline(seconds, color="grey", linewidth=0.5)
    axes.text(1.4e6, seconds, name, color="dimgrey", fontsize=9, va="center", backgroundcolor="white")
axes.set(xlim=(10, 1e7), xlabel="sentences", ylabel="time for the most similar pair (s)")
axes.legend(loc="upper left")
show(
    figure,
    "Time against the number of sentences, both axes logarithmic. The cross-encoder's line rises twice as "
    "steeply as the bi-encoder's does at first: with the square of the number. The article's two points, 65 "
    "hours and 5 seconds at 10,000 sentences, are marked.",
)

# %% [markdown]
# ## Both
#
# Search needs no choice: the bi-encoder's vectors find the hundred nearest of any number of documents, and a cross-encoder
# orders those hundred (Nogueira & Cho 2019). `minisbert/search/rerank.py` does that. For one query and 10,000 documents with
# precomputed vectors:

# %%
ways = {
    "cross-encoder on all": n / few.pairs_per_second,
    "bi-encoder": embed_each,
    "bi-encoder, then cross-encoder on 100": embed_each + 100 / few.pairs_per_second,
}
for what, seconds in ways.items():
    print(f"{what:38} {duration(seconds):>12}")
assert ways["bi-encoder, then cross-encoder on 100"] < ways["cross-encoder on all"] / 20

# %% [markdown]
# ## Write it yourself
#
# The row that a cross-encoder reads, from the token ids of two texts: the ids, and the segment of each token.


# %%
def cross_encoder_row(first, second, cls, sep):
    """ids_L and segments_L of [CLS] first [SEP] second [SEP]."""
    # yours


right = judge(cross_encoder_row)

# %% [markdown]
# ## Exercises
#
# 1. How long would the article's cross-encoder take for 100,000 sentences, and how long its bi-encoder?
# 2. cos(a, b) = cos(b, a). Is a cross-encoder symmetric too?
# 3. A training set has 10,000 scored pairs and a cross-encoder that learned them well. How does one get a better bi-encoder?
#
# <details><summary>Solution: cross_encoder_row</summary>
#
# ```python
# def cross_encoder_row(first, second, cls, sep):
#     ids_L = np.array([cls, *first, sep, *second, sep])
#     return ids_L, (np.arange(len(ids_L)) >= len(first) + 2).astype(int)
#
#
# assert judge(cross_encoder_row)
# ```
# </details>
#
# <details><summary>Solution 1</summary>
#
# ```python
# assert 100_000 * 99_999 // 2 == 4_999_950_000  # not "just under 500M", as the article has it
# rate = 49_995_000 / (65 * 3600)
# print(f"{rate:.0f} pairs per second; {duration(100_000 * 99_999 / 2 / rate)}, and {duration(5.0 * 10)} to embed")
# assert abs(rate - 213.7) < 0.1
# ```
#
# Ten times the sentences: a hundred times the pairs, nearly five billion. 271 days, against 50 seconds.
# </details>
#
# <details><summary>Solution 2</summary>
#
# ```python
# ahead, back = cross_encoder.predict([PAIR, PAIR[::-1]], activation_fn="identity")
# print(ahead, back)
# assert ahead != back
# ```
#
# No: positions and segments differ. For a symmetric question one can take the mean of both orders, at twice the price.
# </details>
#
# <details><summary>Solution 3</summary>
#
# Let the cross-encoder score many more pairs, and train the bi-encoder on those: Augmented SBERT (Thakur et al. 2021). The
# margin-MSE loss (Hofstätter et al. 2020) does the same for search, and `minisbert train --loss margin_mse` has it.
# </details>
#
# **The file just read:** `minisbert/cross_encoder/model.py`, the cross-encoder as one module;
# `minisbert/sentence_model.py` is its counterpart. Next: [07 Pooling matters](07_pooling_matters.ipynb).
