# %% [markdown]
# # 03 Positional encodings
#
# Attention sees a sentence as a **set** of tokens. The article's first idea of the transformer is to put the order back in,
# and there are four ways to do it: fixed **sine waves**, a **learned** vector for each place, a learned number for each
# **distance**, and a **rotation** that grows with the place. All four are drawn here, the learned ones as real models have
# them.
#
# *Article:* positional encoding, the first of the transformer's three ideas. *Papers:* Vaswani et al. 2017, section 3.5;
# Devlin et al. 2019, figure 2; Raffel et al. 2020 (T5), section 2.1; Su et al. 2021 (RoFormer), section 3.2. *File to read
# with it:* `minisbert/transformer/positions.py`.

# %%
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from figures import BLUE, GREEN, ORANGE, RED, show
from flax import nnx
from judge import judge
from matplotlib.figure import Figure
from schematics import draw

from minisbert import SentenceEncoder
from minisbert.similarity import cosine
from minisbert.transformer.attention import MultiHeadSelfAttention
from minisbert.transformer.positions import (
    relative_position_bucket,
    rotary_angles,
    rotate,
    sinusoidal_positions,
)

minilm = SentenceEncoder.load("all-MiniLM-L6-v2")
mpnet = SentenceEncoder.load("all-mpnet-base-v2")

# %% [markdown]
# ## Why: attention is blind to order
#
# Put the tokens of a sentence into another order, and attention gives the same vectors in that order. Nothing in its formula
# knows the position of a token. So the mean over the tokens, a sentence embedding, is the same too.

# %%
attention = MultiHeadSelfAttention(
    64, 4, dropout_rate=0.0, dtype=jnp.float32, kernel_init=nnx.initializers.normal(0.2), rngs=nnx.Rngs(0)
)
tokens_1LD = np.random.default_rng(0).normal(size=(1, 6, 64)).astype(np.float32)
everything_1L = np.ones((1, 6), bool)
order = [5, 2, 0, 4, 1, 3]
straight_1LD = np.asarray(attention(tokens_1LD, everything_1L))
shuffled_1LD = np.asarray(attention(tokens_1LD[:, order], everything_1L))
print("largest value:", np.abs(straight_1LD).max().round(1))
print("largest difference:", np.abs(straight_1LD[:, order] - shuffled_1LD).max())
assert np.abs(straight_1LD[:, order] - shuffled_1LD).max() < 1e-4

# %% [markdown]
# The same with a real model. As it is, all-MiniLM-L6-v2 tells the two apart, though not by much; with zeros in its position
# table it cannot.

# %%
BITES = ["the dog bites the man", "the man bites the dog"]


def with_params(encoder: SentenceEncoder, change) -> SentenceEncoder:
    """The same model with `change` done to its encoder's parameters; the model itself stays as it is."""
    params = {**encoder.pretrained.params, "encoder": change(encoder.pretrained.params["encoder"])}
    return SentenceEncoder(replace(encoder.pretrained, params=params))


def forget_places(params):
    return {**params, "position_embedding": {"embedding": 0 * params["position_embedding"]["embedding"]}}


def similarity_of(encoder: SentenceEncoder, texts: list[str]) -> float:
    embeddings_BD = encoder.encode(texts)
    return float(cosine(embeddings_BD, embeddings_BD)[0, 1])


with_order = similarity_of(minilm, BITES)
without_order = similarity_of(with_params(minilm, forget_places), BITES)
print(f"cosine with positions {with_order:.4f}, without {without_order:.4f}")
assert abs(without_order - 1) < 1e-5
assert with_order < 0.99

# %% [markdown]
# The four kinds differ in where the position enters:

# %%
draw("positions")

# %% [markdown]
# ## 1. Sine waves
#
# Vaswani et al. add to each token a vector of waves of its place p. The wavelengths grow from 2π in the first two dimensions
# towards 10,000 · 2π (with D = 64 the last two have 7,499 · 2π):
#
# PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos(p / 10000^(2i/D))
#
# Nothing is learned, and there is a vector for any place. The product of two such vectors depends on their distance only,
# since sin a sin b + cos a cos b = cos(a - b).

# %%
waves_LD = sinusoidal_positions(128, 64)
products_LL = waves_LD @ waves_LD.T
for distance in (1, 10, 50):
    along = np.diagonal(products_LL, distance)
    print(f"distance {distance:2}: product {along.mean():.4f}, the same at all places to {np.ptp(along):.0e}")
    assert np.ptp(along) < 1e-3
assert abs(waves_LD[3, 0] - np.sin(3)) < 1e-6

figure = Figure(figsize=(9, 3.4), layout="constrained")
left, right = figure.subplots(1, 2)
picture = left.imshow(waves_LD.T, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
left.set(xlabel="position (tokens)", ylabel="dimension", title="the waves")
figure.colorbar(picture, ax=left, label="value (no unit)")
right.plot(np.arange(-64, 64), products_LL[64] / 32, color=BLUE)
right.set(xlabel="distance (tokens)", ylabel="cosine of the two vectors", title="position 64 with the others")
show(
    figure,
    "Left: a map of 128 positions by 64 dimensions; the waves are fast in the first dimensions and ever slower "
    "below, the last ones nearly constant. Right: the cosine of position 64 with the others has its peak of 1 "
    "at distance 0 and falls to both sides alike, with ripples.",
)

# %% [markdown]
# ## 2. Learned positions
#
# BERT has a table: a row for each place, trained like the rows of words, and added to them. It can hold anything, and it ends
# at 512. What did training put there?

# %%
minilm_LD = np.asarray(minilm.pretrained.params["encoder"]["position_embedding"]["embedding"])
mpnet_LD = np.asarray(mpnet.pretrained.params["encoder"]["position_embedding"]["embedding"])
print("all-MiniLM-L6-v2", minilm_LD.shape, " all-mpnet-base-v2", mpnet_LD.shape)
assert minilm_LD.shape == (512, 384)
assert mpnet_LD.shape == (514, 768)  # two more: rows 0 and 1 are not places, see offset_position_ids

# All rows share a part, which says nothing of the place (in MPNet a large one): it is taken away first.
tables = {"all-MiniLM-L6-v2": minilm_LD, "all-mpnet-base-v2": mpnet_LD[2:]}
near = {}
figure = Figure(figsize=(9, 3.8), layout="constrained")
for axes, (name, table_LD) in zip(figure.subplots(1, 2), tables.items(), strict=True):
    place_LD = table_LD - table_LD.mean(axis=0)
    near[name] = cosine(place_LD, place_LD)
    picture = axes.imshow(near[name][:80, :80], cmap="PuOr", vmin=-1, vmax=1)
    axes.set(title=name, xlabel="position (tokens)", ylabel="position (tokens)")
figure.colorbar(picture, ax=figure.axes, label="cosine of the two rows", shrink=0.8)
show(
    figure,
    "Two maps of the cosines of position vectors, 80 by 80, of two trained models. Both are dark purple, "
    "near 1, along the diagonal: neighbours are alike. In all-MiniLM-L6-v2 narrow stripes run next to it, as "
    "waves make them; in all-mpnet-base-v2 the band is broad and fades.",
)

# %%
for name, near_LL in near.items():
    means = {distance: np.diagonal(near_LL, distance).mean() for distance in (1, 60)}
    print(f"{name:20} mean cosine at distance 1: {means[1]:.2f}, at distance 60: {means[60]:.2f}")
    assert means[1] > 0.8
    assert means[60] < 0.2

# %% [markdown]
# That place 7 is next to place 8 is learned, not given. MiniLM's table even found waves.
#
# ## 3. Relative positions
#
# T5 adds nothing to the tokens. Each head has a learned number for each *distance* between query and key, and adds it to
# their score. Near distances have a number each; far ones share one, in buckets that grow logarithmically. MPNet has this
# **and** a table.

# %%
distance_K = np.arange(257) - 128  # of the keys from the query in the middle
bucket_K = relative_position_bucket(distance_K)
table_RN = np.asarray(mpnet.pretrained.params["encoder"]["relative_position_bias"]["table"]["embedding"])
bias_NK = table_RN[bucket_K].T
print("the query itself:", bucket_K[128], " the next token:", bucket_K[129], " the one before:", bucket_K[127])
print("buckets of the keys 8 to 20 ahead:", bucket_K[136:149].tolist())
assert (bucket_K[128], bucket_K[129], bucket_K[127]) == (0, 17, 1)
assert table_RN.shape == (32, 12)

figure = Figure(figsize=(9, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
left.step(distance_K, bucket_K, where="mid", color=BLUE)
left.set(xlabel="distance, key minus query (tokens)", ylabel="bucket (number)", title="which number is added")
limit = np.abs(bias_NK).max()
near_NK, ends = bias_NK[:, 128 - 40 : 128 + 41], (-40.5, 40.5, 11.5, -0.5)
picture = right.imshow(near_NK, cmap="PuOr", vmin=-4, vmax=4, aspect="auto", extent=ends, interpolation="none")
right.set(
    xlabel="distance, key minus query (tokens)", ylabel="head", yticks=range(12), title="the numbers, all-mpnet-base-v2"
)
figure.colorbar(picture, ax=right, label="added to the score (no unit)", extend="both")
show(
    figure,
    "Left: the bucket number against the distance from -128 to 128: single steps near 0, ever longer steps away "
    "from it, buckets 0 to 15 backwards and 17 to 31 forwards. Right: a map of the learned numbers of the 12 heads "
    "by distance: all are strongly negative at distance 0; some prefer one side, some the near tokens.",
)

# %% [markdown]
# A number of -4 divides a weight by e⁴ = 55. **No head attends to the token itself**: its content takes the shortcut around
# attention anyway. And some heads have a direction of their own, before any word is read:

# %%
prefers_N = distance_K[bias_NK.argmax(axis=1)]
print("at distance 0, head by head: ", " ".join(f"{value:.1f}" for value in bias_NK[:, 128]))
print("distance with the largest number:", prefers_N.tolist())
assert bias_NK[:, 128].max() < -4
assert prefers_N[0] == 1  # head 0 looks at the next token,
assert prefers_N[6] == -1  # head 6 at the one before

# %% [markdown]
# ## 4. Rotary positions
#
# RoFormer, and ModernBERT after it, turn the queries and keys: each pair of numbers by an angle that grows with the place,
# the first pair fast, the last slowly. Turning both by the same angle changes no product, so the score depends on the
# distance only; nothing is added, and nothing is learned.

# %%
H, L = 64, 128
cosine_LH, sine_LH = rotary_angles(L, H, theta=10_000.0)
rng = np.random.default_rng(0)
query_H, key_H = rng.normal(size=(2, H)).astype(np.float32)
turned_q = np.asarray(rotate(jnp.broadcast_to(query_H, (1, 1, L, H)), cosine_LH, sine_LH))[0, 0]
turned_k = np.asarray(rotate(jnp.broadcast_to(key_H, (1, 1, L, H)), cosine_LH, sine_LH))[0, 0]
scores_QK = turned_q @ turned_k.T
for distance in (0, 5, 40):
    along = np.diagonal(scores_QK, distance)
    print(f"key {distance:2} after the query: score {along.mean():8.4f}, the same at all places to {np.ptp(along):.0e}")
    assert np.ptp(along) < 1e-3
assert abs(scores_QK[0, 0] - query_H @ key_H) < 1e-4

same = np.asarray(rotate(jnp.ones((1, 1, L, H)), cosine_LH, sine_LH))[0, 0]
figure = Figure(figsize=(9, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
for pair, colour, style in ((0, BLUE, "-"), (8, ORANGE, "--"), (16, GREEN, ":"), (24, RED, "-.")):
    angle_L = np.unwrap(np.arctan2(sine_LH[:, pair], cosine_LH[:, pair]))
    left.loglog(range(1, L), np.degrees(angle_L[1:]), style, color=colour)
    left.annotate(f" pair {pair}", (L - 1, np.degrees(angle_L[-1])), va="center")
left.set(xlabel="position (tokens)", ylabel="angle (degrees)", xlim=(1, 400), title="how far a pair is turned")
right.plot(np.arange(L), same[0] @ same.T / H, color=BLUE)
right.set(xlabel="distance (tokens)", ylabel="score, as a part of that at 0", title="query and key alike")
show(
    figure,
    "Left: the angle against the position for four pairs, straight lines on logarithmic axes; pair 0 turns "
    "by 57 degrees per token, pair 24 by less than a tenth of a degree. Right: the score of a query with an "
    "equal key falls from 1 with ripples to about 0.3 at a distance of 127.",
)

# %% [markdown]
# ## Side by side
#
# | | where it enters | learned | longest text | knows |
# | --- | --- | --- | --- | --- |
# | sine waves (Transformer) | added to the token | no | any, but new lengths fail (02, exercise 2) | place |
# | table (BERT, RoBERTa, MPNet) | added to the token | yes | its rows: 512 | place |
# | buckets (T5, MPNet) | added to the score | yes | any, far ones alike | distance, with its sign |
# | rotation (RoFormer, ModernBERT) | turns query and key | no | any, far ones untrained | distance, with its sign |
#
# ## Write it yourself
#
# The sine waves of section 1, for any length and an even width. In NumPy, without a loop if you like.


# %%
def sine_waves(length, width):
    """position_LD: the waves of positions 0 to length - 1."""
    # yours


right = judge(sine_waves)

# %% [markdown]
# ## Exercises
#
# 1. PE(p + k) is PE(p) turned, by angles that depend on k only: sine waves and rotary positions are relatives. Turn the
#    waves of place 3 into those of place 10 with `rotary_angles`.
# 2. How much does order matter to a whole sentence? Shuffle the words of one and look at the cosine with the original.
# 3. From which distance on can T5's buckets not tell two distances apart at all?
#
# <details><summary>Solution: sine_waves</summary>
#
# ```python
# def sine_waves(length, width):
#     angle = np.arange(length)[:, None] / 10_000 ** (np.arange(0, width, 2) / width)
#     position_LD = np.zeros((length, width))
#     position_LD[:, 0::2], position_LD[:, 1::2] = np.sin(angle), np.cos(angle)
#     return position_LD
#
#
# assert judge(sine_waves)
# ```
# </details>
#
# <details><summary>Solution 1</summary>
#
# ```python
# cosine_LH, sine_LH = rotary_angles(8, 64, theta=10_000.0)
# sines, cosines = waves_LD[3, 0::2], waves_LD[3, 1::2]
# turned = sines * cosine_LH[7] + cosines * sine_LH[7]  # sin(a + b) = sin a cos b + cos a sin b
# assert np.abs(turned - waves_LD[10, 0::2]).max() < 1e-6
# ```
# </details>
#
# <details><summary>Solution 2</summary>
#
# ```python
# words = "my dentist tells me that chewing bricks is very bad for your teeth".split()
# shuffled = [" ".join(rng.permutation(words)) for _ in range(20)]
# embeddings_BD = minilm.encode([" ".join(words), *shuffled])
# scores = cosine(embeddings_BD, embeddings_BD)[0, 1:]
# print(f"cosine with a shuffle: {scores.min():.2f} to {scores.max():.2f}")
# assert 0.5 < scores.min() and scores.max() < 1
# ```
#
# Little: the words say most of it. That is why averaged word vectors are a hard baseline (notebook 07).
# </details>
#
# <details><summary>Solution 3</summary>
#
# ```python
# ahead_K = relative_position_bucket(np.arange(400))
# print("the last bucket begins at distance", int(np.argmax(ahead_K == ahead_K.max())))
# assert int(np.argmax(ahead_K == ahead_K.max())) < 128
# ```
#
# Earlier than `max_distance` = 128 says: the last of the logarithmic buckets already holds distances below it.
# </details>
#
# **The file just read:** `minisbert/transformer/positions.py`. Next:
# [04 Self-attention by hand](04_self_attention_by_hand.ipynb), where these positions meet the words.
