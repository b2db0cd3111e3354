# %% [markdown]
# # 04 Self-attention by hand
#
# The formula of Vaswani et al. (2017, equation 1), one step at a time, in NumPy, on a real sentence with the real weights of
# all-MiniLM-L6-v2. Then all heads together, then the same as the package's Flax module. All three give the same numbers.
#
# Attention(Q, K, V) = softmax(Q Kᵀ / √H) V
#
# *Article:* self-attention and multi-head attention, the second and the third of the transformer's ideas. *Paper:* Vaswani
# et al. 2017, section 3.2 and figure 2. *File to read with it:* `minisbert/transformer/attention.py`, and next to it
# `minisbert/reference/encoder.py`, the same in plain NumPy.

# %%
import math

import jax.numpy as jnp
import numpy as np
from figures import BLACK, BLUE, annotate, show
from flax import nnx
from judge import judge
from matplotlib.figure import Figure
from schematics import draw

from minisbert import SentenceEncoder
from minisbert.reference import encoder as reference
from minisbert.transformer.attention import MultiHeadSelfAttention

encoder = SentenceEncoder.load("all-MiniLM-L6-v2")
config = encoder.pretrained.model_config.encoder
params = reference.float64(encoder.pretrained.params["encoder"])
N, D = config.num_attention_heads, config.hidden_size
H = D // N
print(f"{config.num_hidden_layers} layers, width D = {D}, N = {N} heads of width H = {H}")
assert (config.num_hidden_layers, D, N, H) == (6, 384, 12, 32)

# %% [markdown]
# One layer, a *block*, from left to right. This notebook computes the heads first, then the rest, then all six blocks:

# %%
draw("block")

# %% [markdown]
# ## What goes in
#
# Before the first layer each token is the sum of three rows of tables, for its word, its place and its segment, and a layer
# norm (notebook 05). No token knows of another yet: both *she* differ by their place only.

# %%
SENTENCE = "she swore she just saw her sushi move"
ids_L = encoder.tokenizer.tokenize([SENTENCE], max_length=encoder.max_seq_length).ids[0]
tokens = [encoder.tokenizer.backend.id_to_token(token) for token in ids_L]
L = len(tokens)

embedding_LD = (
    params["token_embedding"]["embedding"][ids_L]
    + params["position_embedding"]["embedding"][:L]
    + params["segment_embedding"]["embedding"][0]
)
hidden_LD = reference.layer_norm(embedding_LD, params["embedding_norm"], config.layer_norm_eps)
print(L, "tokens:", " ".join(tokens))
assert hidden_LD.shape == (11, 384)

# %% [markdown]
# ## Step 1: a query, a key and a value for each token
#
# Three matrices, learned. The **query** says what a token looks for, the **key** what it can be found by, the **value** what
# it gives. A head works with its own 32 of the 384 columns; here is head 2 of the first layer. (Layers and heads count from 0
# here, as in the code; notebook 11 and `minisbert explain` count from 1.)

# %%
first = params["blocks"][0]["attention"]
query_LD, key_LD, value_LD = np.split(hidden_LD @ first["qkv"]["kernel"] + first["qkv"]["bias"], 3, axis=1)

n = 2
columns = slice(n * H, (n + 1) * H)
query_LH, key_LH, value_LH = query_LD[:, columns], key_LD[:, columns], value_LD[:, columns]
print("queries", query_LH.shape, "keys", key_LH.shape, "values", value_LH.shape)

# %% [markdown]
# ## Step 2: scores
#
# How well does each key answer each query? A product of two vectors, over √H: a sum of 32 products grows like √32, and a
# softmax of large numbers is all or nothing.

# %%
scores_QK = np.zeros((L, L))
for q in range(L):
    for k in range(L):
        scores_QK[q, k] = query_LH[q] @ key_LH[k] / np.sqrt(H)
print("scores of the second 'she':")
for token, score in zip(tokens, scores_QK[3], strict=True):
    print(f"    {token:6} {score:7.2f}")

# %% [markdown]
# ## Step 3: weights
#
# The softmax makes each row of scores a row of weights: none is negative, and they sum to 1.

# %%
weights_QK = np.exp(scores_QK) / np.exp(scores_QK).sum(axis=1, keepdims=True)
assert np.abs(weights_QK.sum(axis=1) - 1).max() < 1e-12

figure = Figure(figsize=(9.5, 4.3), layout="constrained")
left, right = figure.subplots(1, 2)
maps = [(left, scores_QK, "scores", "score (no unit)", "{:.0f}"), (right, weights_QK, "weights", "weight", "{:.1f}")]
for axes, matrix_QK, title, label, form in maps:
    picture = axes.imshow(matrix_QK, cmap="cividis")
    annotate(axes, matrix_QK, form=form, size=7)
    axes.set_xticks(range(L), tokens, rotation=90)
    axes.set_yticks(range(L), tokens)
    axes.set(title=title, xlabel="key: the token looked at", ylabel="query: the token that looks")
    figure.colorbar(picture, ax=axes, label=label, shrink=0.8)
show(
    figure,
    "Scores and weights of head 2, layer 0, as 11 by 11 maps. The scores are highest just below the diagonal; "
    "after the softmax the weights there are 1.0 and all others 0: every token looks at the one before it, "
    "and [CLS], which has none before it, at itself.",
)

# %% [markdown]
# This head has one clear task: **look at the previous token**. It learned that by itself.

# %%
before = np.diagonal(weights_QK, -1)
print("weight on the token before:", " ".join(f"{weight:.3f}" for weight in before))
assert before.min() > 0.95

# %% [markdown]
# ## Step 4: the mixture
#
# Each token takes the mean of the values, by its weights. So here each token receives the value of the previous one.

# %%
context_LH = weights_QK @ value_LH
difference = np.abs(context_LH[1:] - value_LH[:-1]).max()
print(f"largest difference from the value of the token before: {difference:.0e}")
assert difference < 0.1

# %% [markdown]
# ## All heads, and the last matrix
#
# Twelve heads do this in parallel, each with its own columns. Their contexts, concatenated, have the width of the model again,
# and one more matrix mixes them: Concat(head₁ … head₁₂) W_O.


# %%
def heads(matrix_LD: np.ndarray) -> np.ndarray:
    """matrix_NLH: the columns of each head."""
    return matrix_LD.reshape(L, N, H).transpose(1, 0, 2)


def weights_of(attention: dict, hidden_LD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """weights_NQK of all heads, and output_LD, what the layer's attention gives."""
    qkv_LD = hidden_LD @ attention["qkv"]["kernel"] + attention["qkv"]["bias"]
    query_NLH, key_NLH, value_NLH = map(heads, np.split(qkv_LD, 3, axis=1))
    weights_NQK = reference.softmax(query_NLH @ key_NLH.transpose(0, 2, 1) / np.sqrt(H))
    context_LD = (weights_NQK @ value_NLH).transpose(1, 0, 2).reshape(L, D)
    return weights_NQK, context_LD @ attention["output"]["kernel"] + attention["output"]["bias"]


weights_NQK, attended_LD = weights_of(first, hidden_LD)
assert np.abs(weights_NQK[n] - weights_QK).max() < 1e-12

figure = Figure(figsize=(9.5, 4.4), layout="constrained")
for head, axes in enumerate(figure.subplots(2, 6, sharex=True, sharey=True).flat):
    picture = axes.imshow(weights_NQK[head], cmap="cividis", vmin=0, vmax=1)
    axes.set_title(f"head {head}", fontsize=9)
    axes.set_xticks(range(L), tokens, rotation=90, fontsize=7)
    axes.set_yticks(range(L), tokens, fontsize=7)
figure.supxlabel("key: the token looked at", fontsize=10)
figure.supylabel("query: the token that looks", fontsize=10)
figure.colorbar(picture, ax=figure.axes, label="weight", shrink=0.7)
show(
    figure,
    "The weights of the 12 heads of the first layer as small maps. Head 2 has its bright line below the "
    "diagonal. In head 4 'su' looks at '##shi', in head 5 '##shi' at 'su'. Most others spread their weight, "
    "often over the first column, which is [CLS].",
    dpi=100,
)

# %% [markdown]
# Heads 4 and 5 put a word together again: the two pieces of *sushi* find each other.

# %%
su, shi = tokens.index("su"), tokens.index("##shi")
print(f"head 4, su to ##shi: {weights_NQK[4, su, shi]:.2f}   head 5, ##shi to su: {weights_NQK[5, shi, su]:.2f}")
assert weights_NQK[4, su].argmax() == shi
assert weights_NQK[5, shi].argmax() == su

# %% [markdown]
# ## The same as a module
#
# `reference/encoder.py` is the plain NumPy twin of the package. `MultiHeadSelfAttention` is the Flax module that models are
# made of; it takes whole batches, with a mask of the real tokens. A module's structure and its numbers are kept apart, and
# `nnx.merge` joins them.

# %%
real_1L = np.ones((1, L), bool)
twin_LD = reference.multi_head_self_attention(hidden_LD[None], real_1L, first, N)[0]
module = MultiHeadSelfAttention(
    D, N, dropout_rate=0.0, dtype=jnp.float32, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0)
)
definition, _ = nnx.split(module)
loaded = nnx.merge(definition, encoder.pretrained.params["encoder"]["blocks"][0]["attention"])
flax_LD = np.asarray(loaded(jnp.asarray(hidden_LD[None], jnp.float32), jnp.asarray(real_1L)))[0]

print(f"by hand and twin (float64): {np.abs(attended_LD - twin_LD).max():.0e}")
print(
    f"by hand and Flax (float32): {np.abs(attended_LD - flax_LD).max():.0e}, of values up to {np.abs(twin_LD).max():.1f}"
)
assert np.abs(attended_LD - twin_LD).max() < 1e-12
assert np.abs(attended_LD - flax_LD).max() < 1e-5

# %% [markdown]
# ## The rest of the block
#
# Attention is half of a layer. What it gives is **added** to what was there (a shortcut: a layer only has to find the change),
# and a **layer norm** (Ba et al. 2016) gives each token mean 0 and variance 1 over its 384 numbers, times a learned scale, plus
# a learned bias. Then each token goes alone through a **feed-forward net**: 384 → 1,536 → 384, with a **GELU** between
# (Hendrycks & Gimpel 2016), x Φ(x): a ReLU with a soft bend. Added and normed again, that is the block (Vaswani et al. 2017,
# sections 3.1 and 3.3).


# %%
def layer_norm(x_LD, norm):
    """Each token by itself: mean 0, variance 1, then the learned scale and bias."""
    mean_L1, variance_L1 = x_LD.mean(axis=1, keepdims=True), x_LD.var(axis=1, keepdims=True)
    return (x_LD - mean_L1) / np.sqrt(variance_L1 + config.layer_norm_eps) * norm["scale"] + norm["bias"]


def gelu(x):
    """x Φ(x), where Φ is the distribution function of the normal distribution."""
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def linear(x_LD, part):
    return x_LD @ part["kernel"] + part["bias"]


block = params["blocks"][0]
after_LD = layer_norm(hidden_LD + attended_LD, block["attention_norm"])
inner_LF = linear(after_LD, block["feed_forward"]["up"])
fed_LD = linear(gelu(inner_LF), block["feed_forward"]["down"])
output_LD = layer_norm(after_LD + fed_LD, block["feed_forward_norm"])

print("between the two matrices:", inner_LF.shape, f"{(inner_LF > 0).mean():.0%} of it above 0")
whole_LD = reference.block(hidden_LD[None], real_1L, block, config)[0]
print(f"by hand and the twin's block: {np.abs(output_LD - whole_LD).max():.0e}")
assert inner_LF.shape == (11, 1536) and np.abs(output_LD - whole_LD).max() < 1e-12

figure = Figure(figsize=(8, 2.8), layout="constrained")
left, right = figure.subplots(1, 2)
x = np.linspace(-4, 4, 401)
left.plot(x, np.maximum(x, 0), ":", color=BLACK, label="ReLU")
left.plot(x, gelu(x), color=BLUE, label="GELU")
left.set(xlabel="x", ylabel="activation", title="the bend")
left.legend()
right.hist(inner_LF.ravel(), bins=80, color=BLUE)
right.axvline(0, color=BLACK, linestyle=":")
right.set(xlabel="x, before the GELU", ylabel="of 11 × 1,536 numbers", title="where the first layer works")
show(
    figure,
    "Left: GELU follows ReLU, 0 on the left and x on the right, with a soft bend and a shallow dip just below 0. "
    "Right: a histogram of the numbers before it; three quarters are below 0, and those units stay nearly silent.",
)

# %% [markdown]
# ## Up through the layers
#
# Six such blocks, and the token embeddings are those that `encode` returns. On the way, what does each head look at?

# %%
looks = {"the token before": [], "the token after": [], "[CLS]": []}
for layer in range(config.num_hidden_layers):
    weights_NQK, _ = weights_of(params["blocks"][layer]["attention"], hidden_LD)
    looks["the token before"].append(np.diagonal(weights_NQK, -1, 1, 2).mean(axis=1))
    looks["the token after"].append(np.diagonal(weights_NQK, 1, 1, 2).mean(axis=1))
    looks["[CLS]"].append(weights_NQK[:, :, 0].mean(axis=1))
    hidden_LD = reference.block(hidden_LD[None], real_1L, params["blocks"][layer], config)[0]

encoded_LD = encoder.encode(SENTENCE, output_value="token_embeddings")
print(f"token embeddings, by hand and encode: {np.abs(hidden_LD - encoded_LD).max():.0e}")
assert np.abs(hidden_LD - encoded_LD).max() < 1e-5

figure = Figure(figsize=(9, 3.2), layout="constrained")
for axes, (what, share_TN) in zip(figure.subplots(1, 3, sharey=True), looks.items(), strict=True):
    picture = axes.imshow(share_TN, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.set(title=what, xlabel="head", xticks=range(0, N, 2))
figure.axes[0].set(ylabel="layer", yticks=range(config.num_hidden_layers))
figure.colorbar(picture, ax=figure.axes, label="mean weight")
show(
    figure,
    "Three maps, layers by heads, of the mean weight on the token before, on the token after, and on [CLS]. One head "
    "stands out for the token before (layer 0, head 2) and one for the token after (layer 1, head 8). On [CLS] "
    "most heads from layer 1 on put more than half of their weight.",
)

# %%
before_TN, after_TN, cls_TN = (np.array(share) for share in looks.values())
strongest = tuple(int(i) for i in np.unravel_index(before_TN.argmax(), before_TN.shape))
print(f"the token before: layer and head {strongest}, {before_TN.max():.2f}")
print("weight on [CLS], mean of each layer:", " ".join(f"{share:.2f}" for share in cls_TN.mean(axis=1)))
assert strongest == (0, 2)
assert tuple(int(i) for i in np.unravel_index(after_TN.argmax(), after_TN.shape)) == (1, 8)
assert cls_TN.mean(axis=1)[1:5].min() > 0.5 > cls_TN.mean(axis=1)[0]

# %% [markdown]
# The weights of a head sum to 1 even where it finds nothing to look at. It seems to put them on [CLS] then (Clark et al.
# 2019, section 3.2, find the same for BERT and [SEP]). So a bright cell is not yet a reason; notebook 11 asks what really
# changes a similarity.
#
# ## Write it yourself
#
# Attention of one head with a mask, which the sentence above did not need: `mask_K` is False where a key is padding.


# %%
def masked_attention(query_QH, key_KH, value_KH, mask_K):
    """context_QH: the mean of the values of the real keys, by their weights."""
    # yours


right = judge(masked_attention)

# %% [markdown]
# ## Exercises
#
# 1. Leave out √H, in a head of width 384 with random queries and keys. What becomes of the largest weight of a query?
# 2. Mask `[CLS]` out of the first layer, as padding is masked. Show that nothing from there can reach another token.
# 3. One head of width 384 has as many parameters as twelve of width 32. What can it not do?
#
# <details><summary>Solution: masked_attention</summary>
#
# ```python
# def masked_attention(query_QH, key_KH, value_KH, mask_K):
#     scores_QK = np.where(mask_K, query_QH @ key_KH.T / np.sqrt(query_QH.shape[1]), -np.inf)
#     weights_QK = np.exp(scores_QK - scores_QK.max(axis=1, keepdims=True))
#     return weights_QK / weights_QK.sum(axis=1, keepdims=True) @ value_KH
#
#
# assert judge(masked_attention)
# ```
# </details>
#
# <details><summary>Solution 1</summary>
#
# ```python
# rng = np.random.default_rng(0)
# queries, keys = rng.normal(size=(2, 1000, 384))
# for scale, name in ((1, "without"), (np.sqrt(384), "with")):
#     largest = reference.softmax(queries @ keys[:50].T / scale).max(axis=1).mean()
#     print(f"{name:8} the root: {largest:.2f}")
#     assert (largest > 0.9) == (scale == 1)
# ```
#
# Without it nearly all weight falls on one key by chance, and where a weight is 0 or 1 the softmax has no gradient to learn
# from.
# </details>
#
# <details><summary>Solution 2</summary>
#
# ```python
# masked_1L = real_1L.copy()
# masked_1L[0, 0] = False
# start_1LD = jnp.asarray(encoder.encode([SENTENCE], output_value="token_embeddings")[0][None])
# changed_1LD = start_1LD.at[0, 0].add(100.0)
# one, other = loaded(start_1LD, jnp.asarray(masked_1L)), loaded(changed_1LD, jnp.asarray(masked_1L))
# assert np.array_equal(one[0, 1:], other[0, 1:])
# ```
#
# Whatever is at a masked place, no bit of another token's vector changes.
# </details>
#
# <details><summary>Solution 3</summary>
#
# Attend to two places for two reasons. A head gives one mean, and a mean of the token before and of [CLS] is neither.
# (Vaswani et al., 3.2.2: "averaging inhibits this".)
# </details>
#
# **The file just read:** `minisbert/transformer/attention.py`. Next: [05 Loading BERT](05_loading_bert.ipynb), which shows
# where these weights come from.
