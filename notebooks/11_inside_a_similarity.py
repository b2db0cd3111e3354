# %% [markdown]
# # 11 Inside a similarity
#
# Two sentences are 0.42 alike. Which of their words make it so? With mean pooling the question has an exact answer: **the
# cosine is a sum, one number for each pair of tokens.** Then we open the layers below and look at what attention looked at.
# Both views have limits, and the notebook measures them.
#
# *Beyond the article. Papers:* Clark et al. 2019, "What Does BERT Look At?", sections 3 and 4; Jain & Wallace 2019,
# "Attention is not Explanation". *File to read with it:* `minisbert/explain/attribution.py`.

# %%
import numpy as np
from figures import ORANGE, SKY, annotate, show
from judge import judge
from matplotlib.figure import Figure

from minisbert import CrossEncoder, SentenceEncoder
from minisbert.commands.demo import SENTENCES
from minisbert.explain.attention import cross_encoder_attention, sentence_attention
from minisbert.explain.attribution import explain

encoder = SentenceEncoder.load("all-MiniLM-L6-v2")
A, B = SENTENCES[3], SENTENCES[4]
a_QD, b_KD = encoder.encode([A, B], output_value="token_embeddings")
cosine = float(encoder.similarity(*encoder.encode([A, B])[:, None]).item())
print(f"A: {A}\nB: {B}\ncosine {cosine:.6f}; {len(a_QD)} and {len(b_KD)} tokens")
assert abs(cosine - 0.423822) < 1e-5

# %% [markdown]
# ## 1. A cosine is a sum
#
# The sentence embeddings are means of token embeddings: u is the mean of the tokens tᵢ of A, v that of the tokens tⱼ of B,
# which have nᴬ and nᴮ tokens. A product of two sums is the sum of all products:
#
#     cos(u, v)  =  u · v / (|u| |v|)  =  sum over i and j of  tᵢ · tⱼ / (nᴬ nᴮ |u| |v|)
#
# Nothing is approximated. The last step of this model, scaling to length 1, is the division by |u| and |v|.

# %%
u_D, v_D = a_QD.mean(axis=0), b_KD.mean(axis=0)
lengths = np.linalg.norm(u_D) * np.linalg.norm(v_D)
by_hand_QK = a_QD @ b_KD.T / (len(a_QD) * len(b_KD) * lengths)
found = explain(encoder, A, B)
print(f"sum of {by_hand_QK.size} numbers: {by_hand_QK.sum():.6f}")
print(f"of minisbert/explain/attribution.py:  {found.contributions_QK.sum():.6f}")
assert abs(by_hand_QK.sum() - cosine) < 1e-6
assert np.abs(by_hand_QK - found.contributions_QK).max() < 1e-7

# %% [markdown]
# The same for the number that the article prints for this pair, 0.51847214, with all-mpnet-base-v2:

# %%
larger = explain(SentenceEncoder.load("all-mpnet-base-v2"), A, B)
print(f"{larger.contributions_QK.sum():.8f}, the sum of {larger.contributions_QK.size} numbers")
assert abs(larger.contributions_QK.sum() - 0.51847214) < 1e-6

# %%
figure = Figure(figsize=(8, 7), layout="constrained")
axes = figure.subplots()
limit = float(np.abs(by_hand_QK).max())
picture = axes.imshow(100 * by_hand_QK, cmap="PuOr", vmin=-100 * limit, vmax=100 * limit)
annotate(axes, (100 * by_hand_QK).round(1) + 0.0, form="{:.1f}", size=7)  # + 0.0: no "-0.0"
axes.set_xticks(range(len(found.tokens_b)), found.tokens_b, rotation=60, ha="right")
axes.set_yticks(range(len(found.tokens_a)), found.tokens_a)
axes.set_xlabel("token of B")
axes.set_ylabel("token of A")
figure.colorbar(picture, label="contribution to the cosine, in hundredths", shrink=0.8)
show(
    figure,
    "A map of 15 by 16 contributions in hundredths, all of them together 42.4. The darkest are dentist with dental (1.2), "
    "teeth with ##oss of flossing (1.1) and chewing with ##oss (1.0); bricks is dark at construction and materials. Very few "
    "are below 0, and those by at most 0.1.",
    dpi=80,
)

# %%
print("the largest, next to the mean of all:", f"{by_hand_QK.mean():.4f}")
for term in found.largest(6):
    print(f"{term.contribution:.4f}  {found.tokens_a[term.a]:8} {found.tokens_b[term.b]}")
top = [(found.tokens_a[term.a], found.tokens_b[term.b]) for term in found.largest(3)]
assert top == [("dentist", "dental"), ("teeth", "##oss"), ("chewing", "##oss")]
bricks, materials = found.tokens_a.index("bricks"), found.tokens_b.index("materials")
assert by_hand_QK[bricks].argsort()[::-1][:2].tolist() == [materials - 1, materials]

# %% [markdown]
# The two sentences share no word, and the sum finds its way all the same: *dentist* and *dental*, *teeth* and the middle of
# *flossing*, *bricks* and *construction materials*.
#
# ## 2. How far the sum carries
#
# It is exact, and says less than it seems to. **First: a token embedding is not a word.** It has seen its whole sentence. The
# special tokens `[CLS]` and `[SEP]` are not words at all, and yet contribute as much as any others:

# %%
special_QK = np.zeros(by_hand_QK.shape, bool)
special_QK[[0, -1], :] = special_QK[:, [0, -1]] = True
share = by_hand_QK[special_QK].sum() / by_hand_QK.sum()
print(f"pairs with [CLS] or [SEP]: {special_QK.mean():.1%} of all pairs, {share:.1%} of the cosine")
assert abs(share - 0.246) < 0.002

# %% [markdown]
# **Second: a part of the sum is not what would be missing without it.** Leave a word out, and every other token comes out of
# the layers differently. What a word's row sums to, and how far the cosine falls when the word goes, are two questions:

# %%
words = A.split()
assert list(found.tokens_a[1:-1]) == words  # here every word is one token
row_sums = by_hand_QK.sum(axis=1)[1:-1]
shorter = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
falls = cosine - encoder.similarity(encoder.encode(shorter), encoder.encode([B]))[:, 0]

figure = Figure(figsize=(9.5, 3.4), layout="constrained")
axes = figure.subplots()
places = np.arange(len(words))
axes.bar(places - 0.2, row_sums, 0.4, color=SKY, label="what its row sums to")
axes.bar(places + 0.2, falls, 0.4, color=ORANGE, hatch="//", label="how far the cosine falls without it")
axes.axhline(0, color="black", linewidth=0.8)
axes.set_xticks(places, words)
axes.set_xlabel("word of A")
axes.set_ylabel("cosine")
axes.set_ylim(-0.015, 0.07)
axes.legend(ncols=2)
show(
    figure,
    "Two bars for each word of A. Row sums are all above 0, from 0.005 (tells) to 0.051 (dentist). Without dentist "
    "or bricks the cosine falls by more than 0.04; without teeth, chewing or any other word by 0.011 at most, or it rises.",
)
by_name = dict(zip(words, zip(row_sums, falls, strict=True), strict=True))
print("teeth: row sum {:.3f}, fall {:.3f}".format(*by_name["teeth"]))
print("bricks: row sum {:.3f}, fall {:.3f}".format(*by_name["bricks"]))
assert by_name["bricks"][1] > 0.04 > by_name["bricks"][0]
assert by_name["teeth"][0] > 0.04 and by_name["teeth"][1] < 0.005

# %% [markdown]
# *teeth* has one of the largest rows, and the cosine does not need it: *dentist* and *chewing* say it too. The sum divides what
# there is; it does not say what would be without a word.
#
# ## 3. What attention looks at
#
# Every layer has 12 heads, each with its own table: how much each token (row) takes from each other one (column), and a row
# sums to 1. `sentence_attention` runs the encoder once and reads the tables off. Of 72 heads a few are easy to read:

# %%
attention = sentence_attention(encoder, A)
weights_YNQK = attention.weights_YNQK
L = len(attention.tokens)
print("layers, heads, tokens that look, tokens looked at:", weights_YNQK.shape)
assert weights_YNQK.shape == (6, 12, 15, 15)
assert np.abs(weights_YNQK.sum(axis=-1) - 1).max() < 1e-5

previous_YN = np.mean([weights_YNQK[:, :, i, i - 1] for i in range(2, L - 1)], axis=0)
first_YN = weights_YNQK[:, :, :, 0].mean(axis=-1)
layer, head = np.unravel_index(previous_YN.argmax(), previous_YN.shape)
print(f"layer {layer + 1}, head {head + 1} looks at the token before, with weight {previous_YN.max():.4f}")
assert (layer, head) == (0, 2) and previous_YN.max() > 0.999

# %%
figure = Figure(figsize=(9.5, 4), layout="constrained")
left, right = figure.subplots(1, 2)
picture = left.imshow(weights_YNQK[layer, head], cmap="cividis", vmin=0, vmax=1)
left.set_xticks(range(L), attention.tokens, rotation=90)
left.set_yticks(range(L), attention.tokens)
left.set(title=f"layer {layer + 1}, head {head + 1}", xlabel="token looked at", ylabel="token that looks")
right.imshow(first_YN, cmap="cividis", vmin=0, vmax=1)
annotate(right, first_YN, form="{:.1f}", size=7)
right.set_xticks(range(12), range(1, 13))
right.set_yticks(range(6), range(1, 7))
right.set(title="share that goes to [CLS]", xlabel="head", ylabel="layer")
figure.colorbar(picture, ax=[left, right], label="attention weight", shrink=0.8)
show(
    figure,
    "Left, one head: a bright line just below the diagonal, every token looks at the one before it. Right, for each of 6 "
    "layers and 12 heads the share of attention that goes to [CLS]: dark in layer 1, more than half on the mean of "
    "layers 2 to 5, up to 0.8 in single heads, a third in layer 6.",
    dpi=80,
)
by_layer = first_YN.mean(axis=1)
print("share that goes to [CLS], by layer:", *(f"{share:.2f}" for share in by_layer))
assert by_layer[1:5].min() > 0.5 and by_layer[0] < 0.3

# %% [markdown]
# Clark et al. found the same two in BERT: heads that look one token back or ahead, and layers in which most of the attention
# goes to a special token. They explain the latter as a place to look at when a head has nothing to do. A large weight there
# does not mean importance: **attention shows where a layer looked, not why.**
#
# ## 4. The same pair, read together
#
# In the bi-encoder no token of A ever attends to one of B; only the final cosine compares them. A cross-encoder reads both in
# one row ([notebook 06](06_cross_or_bi_encoder.ipynb)). Here MiniLM gets a new head: its *score* means nothing yet, so none is
# shown, but the attention is what its layers do with both texts in one row.

# %%
together = cross_encoder_attention(CrossEncoder.from_encoder("all-MiniLM-L6-v2"), A, B)
print(" ".join(together.tokens))
texts = np.arange(len(together.tokens)) >= len(found.tokens_a)  # False: [CLS] A [SEP]; True: B [SEP]
across_Y = together.weights_YNQK[:, :, texts][:, :, :, ~texts].sum(axis=-1).mean(axis=(1, 2))
print("share of B's attention that goes to A, by layer:", *(f"{share:.2f}" for share in across_Y))
assert across_Y.min() > 0.35

dentist, dental = together.tokens.index("dentist"), together.tokens.index("dental")
one_way_YN = together.weights_YNQK[:, :, dental, dentist]
layer, head = np.unravel_index(one_way_YN.argmax(), one_way_YN.shape)
print(f"dental looks at dentist with weight {one_way_YN.max():.2f} in layer {layer + 1}, head {head + 1}")
assert (layer, head) == (2, 9) and one_way_YN.max() > 0.7

# %% [markdown]
# What the sum of part 1 found at the very end, *dentist* with *dental*, a head finds in layer 3 when it may attend across: a
# cross-encoder can build on that, and this is why it must read every pair again.
#
# All this is also one page that needs no network, with every number within reach of the arrow keys:
#
# ```bash
# minisbert explain "a man eats" "someone has a meal" --model all-MiniLM-L6-v2 --html out.html
# ```
#
# ## Write it yourself
#
# The share of every pair of tokens in the cosine of two mean-pooled texts: a matrix whose sum is that cosine.


# %%
def shares(token_a_LD, token_b_MD):
    """shares_LM: what each pair of tokens adds to the cosine of the two means."""
    # yours


right = judge(shares)

# %% [markdown]
# ## Exercises
#
# 1. Leave `[CLS]` and `[SEP]` out of the mean. How far does the cosine move?
# 2. Max pooling takes in every dimension the largest value of any token. Why does `explain` refuse it? Write the cosine of two
#    max-pooled texts as a sum over *dimensions* instead, and say which token each dimension comes from.
# 3. Put the words of A in alphabetical order. How much of the cosine stays, and what does that say about part 2?
#
# <details><summary>Solution: shares</summary>
#
# ```python
# def shares(token_a_LD, token_b_MD):
#     u_D, v_D = token_a_LD.mean(axis=0), token_b_MD.mean(axis=0)
#     scale = len(token_a_LD) * len(token_b_MD) * np.linalg.norm(u_D) * np.linalg.norm(v_D)
#     return token_a_LD @ token_b_MD.T / scale
#
#
# assert judge(shares)
# ```
# </details>
#
# <details><summary>Solution 1</summary>
#
# ```python
# inner_a_D, inner_b_D = a_QD[1:-1].mean(axis=0), b_KD[1:-1].mean(axis=0)
# inner = inner_a_D @ inner_b_D / (np.linalg.norm(inner_a_D) * np.linalg.norm(inner_b_D))
# print(f"{inner:.4f} instead of {cosine:.4f}")
# assert abs(inner - cosine) < 0.03
# ```
#
# Only a little: the two represent the sentence like the others. The cosine changes all the same, since the model was trained
# with them in the mean.
# </details>
#
# <details><summary>Solution 2</summary>
#
# ```python
# u_D, v_D = a_QD.max(axis=0), b_KD.max(axis=0)
# terms_D = u_D * v_D / (np.linalg.norm(u_D) * np.linalg.norm(v_D))
# from_a_D, from_b_D = a_QD.argmax(axis=0), b_KD.argmax(axis=0)
# print(f"cosine {terms_D.sum():.4f}, of {len(terms_D)} terms")
# for d in terms_D.argsort()[::-1][:5]:
#     print(f"{terms_D[d]:.4f}  dimension {d}: {found.tokens_a[from_a_D[d]]}, {found.tokens_b[from_b_D[d]]}")
# assert abs(terms_D.sum() - u_D @ v_D / np.linalg.norm(u_D) / np.linalg.norm(v_D)) < 1e-5
# ```
#
# The embedding is not a sum of the tokens: in each dimension one of them counts and the others do not. The terms here are
# exact too, but a token's share depends on all the others: it has to be larger than they are.
# </details>
#
# <details><summary>Solution 3</summary>
#
# ```python
# shuffled = " ".join(sorted(words))
# print(shuffled)
# disordered = float(encoder.similarity(*encoder.encode([shuffled, B])[:, None]).item())
# print(f"{disordered:.4f} instead of {cosine:.4f}")
# assert disordered > 0.6 * cosine
# ```
#
# Most of it remains: for this pair the model uses which words there are more than their order. The tokens' vectors do
# change with it, and so does every term of the sum.
# </details>
#
# **The files just read:** `minisbert/explain/attribution.py`, the sum for every pooling that has one, and
# `minisbert/explain/attention.py`, which calls `attention_weights` of `minisbert/transformer/attention.py` in every layer.
# Next: [12 Many devices](12_many_devices.ipynb), and what to read and do after this course.
