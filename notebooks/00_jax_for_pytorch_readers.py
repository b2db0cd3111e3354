# %% [markdown]
# # 00 JAX for PyTorch readers
#
# All you need of JAX and Flax to read this package and the notebooks, by way of PyTorch: **arrays and functions instead of
# objects that change**. Skip it if `jit`, `grad`, `vmap`, `scan`, pytrees and `nnx.split` say something to you.
#
# | PyTorch | JAX, Flax NNX, optax |
# | --- | --- |
# | `torch.tensor`, changed in place | `jnp.array`, never changed; an operation makes a new one |
# | runs line by line; `torch.compile` | runs line by line; `jax.jit` |
# | `loss.backward()`, then `p.grad` | `jax.grad(loss)(params)` returns the gradients |
# | a batch dimension written by hand | `jax.vmap` |
# | a Python loop over time steps | `jax.lax.scan` |
# | `state_dict()` | a pytree: nested dicts of arrays |
# | `nn.Module` | `nnx.Module`; `nnx.split` takes its arrays out, `nnx.merge` puts them back |
# | `optimizer.step()` | `updates, state = optimizer.update(gradient, state)` |
# | `torch.manual_seed`, hidden state | a key that is passed on |
# | `model.train()`, `model.eval()` | an argument: dropout keys, or None |
#
# *Article:* before it. *Documentation:* jax.dev, flax.readthedocs.io. *File to read with it:*
# `minisbert/transformer/products.py`.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from judge import judge

# %% [markdown]
# ## 1. Arrays, and names that tell their shape
#
# `jax.numpy` is NumPy on any device. Arrays are float32 unless asked otherwise, and cannot be changed: `.at[...].set(...)`
# returns a changed copy (inside compiled code no copy is made).
#
# This package writes an array's axes at the end of its name. `hidden_BLD` has B sentences of L tokens of D numbers;
# `mask_BL` says which tokens are real. So a line says what it does to the shape, and a mean over tokens reads
# `hidden_BLD.mean(axis=1)` → `sentence_BD`. The letters: B sentences, L tokens, Q and K query and key tokens, D width, N
# heads, H width of a head, V vocabulary, M candidates, S texts per example, C classes.

# %%
B, L, D = 2, 3, 4
hidden_BLD = jnp.arange(B * L * D, dtype=jnp.float32).reshape(B, L, D)
mask_BL = jnp.array([[True, True, True], [True, False, False]])

changed_BLD = hidden_BLD.at[0, 0].set(9)
assert hidden_BLD[0, 0, 0] == 0 and changed_BLD[0, 0, 0] == 9
try:
    hidden_BLD[0, 0] = 9
except TypeError as error:
    print(f"TypeError: {str(error).splitlines()[0][:66]} ...")

sum_BD = jnp.einsum("BLD,BL->BD", hidden_BLD, mask_BL)  # the letters of einsum are those of the names
sentence_BD = sum_BD / mask_BL.sum(axis=1)[:, None]
print("the mean of the real tokens:", *sentence_BD.tolist(), sep="\n  ")
assert jnp.array_equal(sentence_BD[1], hidden_BLD[1, 0])

# %% [markdown]
# ## 2. Functions, compiled
#
# `jax.jit` runs a function once with stand-ins for its arguments (it *traces* it), compiles what happened, and from then on
# runs that. Three things follow, and they are behind most surprises:
#
# - Python runs **once per shape**. A `print` inside is seen while tracing only; a new shape is a new compilation. (That is why
#   this package sorts sentences by length and pads them to few widths.)
# - A value is not known while tracing: `if x > 0` fails. Choose with `jnp.where`.
# - A function should be *pure*: everything goes in as an argument and comes out as a result.

# %%
traced = []


@jax.jit
def mean(hidden_BLD, mask_BL):
    traced.append(hidden_BLD.shape)  # a side effect: it happens while tracing
    return jnp.einsum("BLD,BL->BD", hidden_BLD, mask_BL) / mask_BL.sum(axis=1)[:, None]


for _ in range(3):
    mean(hidden_BLD, mask_BL)
mean(hidden_BLD[:1], mask_BL[:1])
print("four calls, traced for the shapes", *traced)
assert traced == [(2, 3, 4), (1, 3, 4)]


@jax.jit
def relu(x):
    return jnp.where(x > 0, x, 0.0)  # `if x > 0` would raise TracerBoolConversionError


assert relu(-1.0) == 0 and relu(2.0) == 2

# %% [markdown]
# ## 3. Gradients
#
# `jax.grad(f)` is another function, the derivative of `f` with respect to its **first** argument; `jax.value_and_grad` gives
# the value too. Nothing is stored in the arrays: no `zero_grad`, no `detach` (`jax.lax.stop_gradient` where one needs it).
#
# A property that this package tests: the gradient of a sentence embedding with respect to padding is exactly 0.


# %%
def length(hidden_BLD):
    return jnp.linalg.norm(mean(hidden_BLD, mask_BL))


value, gradient_BLD = jax.value_and_grad(length)(hidden_BLD)
print(f"value {value:.3f}; gradient of the second sentence, whose last two tokens are padding:")
print(gradient_BLD[1].round(3))
assert (gradient_BLD[1, 1:] == 0).all() and (gradient_BLD[1, 0] != 0).all()

# %% [markdown]
# ## 4. vmap: write it for one, run it for a batch
#
# `jax.vmap(f, in_axes=...)` adds an axis. Here: the cosine of two vectors, then of each row with each row.


# %%
def cosine_of_two(u_D, v_D):
    return u_D @ v_D / (jnp.linalg.norm(u_D) * jnp.linalg.norm(v_D))


against_all = jax.vmap(cosine_of_two, in_axes=(None, 0))  # one u, all rows of v
all_pairs = jax.vmap(against_all, in_axes=(0, None))  # all rows of u, the same v
a_BD, b_MD = jax.random.normal(jax.random.key(0), (2, 4)), jax.random.normal(jax.random.key(1), (3, 4))
print("2 rows with 3 rows:", all_pairs(a_BD, b_MD).shape)
by_hand = [[float(cosine_of_two(u_D, v_D)) for v_D in b_MD] for u_D in a_BD]
assert np.allclose(all_pairs(a_BD, b_MD), by_hand, atol=1e-6)

# %% [markdown]
# ## 5. scan: a loop that is compiled once
#
# A Python loop inside `jit` is unrolled: fifty steps are fifty copies of the code. `jax.lax.scan(step, carry, xs)` compiles one
# step. `step` takes the carry and one slice of `xs`, and returns the new carry and what to collect. A recurrent net is just
# that, and so is a training loop (notebook 02 has both).

# %%
weight_DD = jax.random.normal(jax.random.key(2), (4, 4)) / 2


def step(state_D, word_D):
    state_D = jnp.tanh(weight_DD @ state_D + word_D)
    return state_D, state_D


words_LD = hidden_BLD[0] / 10
last_D, states_LD = jax.lax.scan(step, jnp.zeros(4), words_LD)
state_D = jnp.zeros(4)
for word_D in words_LD:  # the same, unrolled
    state_D, _ = step(state_D, word_D)
print("states of a recurrent net:", states_LD.shape)
assert np.allclose(last_D, state_D, atol=1e-6) and jnp.array_equal(states_LD[-1], last_D)

# %% [markdown]
# ## 6. Pytrees: parameters are nested dicts
#
# Any nesting of dicts, lists and tuples with arrays as leaves is a *pytree*. `jax.tree.map` applies a function to each leaf,
# `jax.grad` with respect to a tree gives a tree of the same form. So one step of gradient descent is one line for a model of
# any size.

# %%
params = {"layer": {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)}, "scale": jnp.array(2.0)}


def loss(params, x_BD):
    y_BC = params["scale"] * (x_BD @ params["layer"]["kernel"] + params["layer"]["bias"])
    return (y_BC**2).mean()


gradient = jax.grad(loss)(params, sentence_BD)
smaller = jax.tree.map(lambda p, g: p - 1e-4 * g, params, gradient)
print("shapes of the gradient:", jax.tree.map(jnp.shape, gradient))
print(f"loss {loss(params, sentence_BD):.1f} -> {loss(smaller, sentence_BD):.1f}")
assert loss(smaller, sentence_BD) < loss(params, sentence_BD)

# %% [markdown]
# ## 7. Random numbers have a key
#
# The same key always gives the same numbers. For new numbers, split the key. Nothing random happens without one, so
# "no key" can mean inference: this package's dropout takes keys in training and None otherwise; there is no mode to forget.

# %%
key = jax.random.key(0)
for_dropout, for_the_rest = jax.random.split(key)
assert jnp.array_equal(jax.random.normal(key, 3), jax.random.normal(key, 3))
assert not jnp.array_equal(jax.random.normal(for_dropout, 3), jax.random.normal(for_the_rest, 3))


def dropout(x_BD, rate, key=None):
    if key is None:  # not a value of the traced program, so `if` is fine
        return x_BD
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x_BD.shape), x_BD / (1 - rate), 0)


print("with a key:   ", dropout(jnp.ones(6), 0.5, for_dropout))
print("without a key:", dropout(jnp.ones(6), 0.5))

# %% [markdown]
# ## 8. Modules
#
# `nnx.Module` reads like `nn.Module`, without `forward`, and each layer that starts at random takes `rngs`. Here is a small
# sentence encoder with a classifier: token embeddings, their mean, one linear layer.


# %%
class Classifier(nnx.Module):
    def __init__(self, vocabulary, width, classes, rngs):
        self.token_embedding = nnx.Embed(vocabulary, width, rngs=rngs)
        self.output = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, token_ids_BL, mask_BL):
        hidden_BLD = self.token_embedding(token_ids_BL)
        return self.output(mean(hidden_BLD, mask_BL))  # logits_BC


model = Classifier(vocabulary=20, width=8, classes=2, rngs=nnx.Rngs(0))
print("logits:", model(jnp.array([[3, 7, 1]]), jnp.ones((1, 3), bool)).shape)

# %% [markdown]
# A module carries its arrays with it, and `jit` and `grad` want arrays as arguments. So this package takes them out **once**:
# `nnx.split` gives a *definition* (the structure, without a number) and the state; `to_pure_dict` makes the state nested
# dicts. Inside a compiled function `nnx.merge(definition, params)` gives the module back. You will meet these two lines again
# and again: `minisbert/sentence_model.py: define` is the first of them, `minisbert/training/siamese.py: packed_embed` the
# second.

# %%
definition, state = nnx.split(model)
params = nnx.to_pure_dict(state)
print(jax.tree.map(jnp.shape, params))
again = nnx.merge(definition, params)
assert jnp.array_equal(again.output.kernel[...], params["output"]["kernel"])

# %% [markdown]
# ## 9. A training loop, whole
#
# Does a sentence contain token 7? Sentences of up to six tokens, padded with 0. In PyTorch:
#
# ```python
# for token_ids_BL, label_B in batches:
#     optimizer.zero_grad()
#     loss = cross_entropy(model(token_ids_BL), label_B)
#     loss.backward()
#     optimizer.step()
# ```
#
# In JAX the step is a function from parameters to parameters, and `scan` runs it over all batches in one compiled call:

# %%
rng = np.random.default_rng(0)
token_ids_SBL = rng.integers(1, 20, (200, 32, 6))  # 200 batches (S steps)
token_ids_SBL *= np.arange(6) < rng.integers(2, 7, (200, 32, 1))
label_SB = (token_ids_SBL == 7).any(axis=2).astype(int)


def loss(params, token_ids_BL, label_B):
    logits_BC = nnx.merge(definition, params)(token_ids_BL, token_ids_BL > 0)
    return optax.softmax_cross_entropy_with_integer_labels(logits_BC, label_B).mean()


optimizer = optax.adam(0.03)


def step(carry, batch):
    params, moments = carry
    value, gradient = jax.value_and_grad(loss)(params, *batch)
    updates, moments = optimizer.update(gradient, moments)
    return (optax.apply_updates(params, updates), moments), value


@jax.jit
def train(params):
    carry = params, optimizer.init(params)
    return jax.lax.scan(step, carry, (token_ids_SBL, label_SB))


(trained, _), losses_S = train(params)
print(f"loss {losses_S[0]:.2f} -> {losses_S[-20:].mean():.3f}")
token_ids_BL = rng.integers(1, 20, (500, 6))
predicted_B = nnx.merge(definition, trained)(token_ids_BL, token_ids_BL > 0).argmax(axis=1)
right = (predicted_B == (token_ids_BL == 7).any(axis=1)).mean()
print(f"right on new sentences: {right:.1%}")
assert right > 0.95

# %% [markdown]
# The mean of token vectors is a sentence embedding, the first of this course. With `params` the same line runs everything
# larger: BERT has 197 arrays instead of 3.
#
# ## Write it yourself
#
# `normalize` scales each row to length 1; a row of zeros stays zeros. Write it with `jnp`, without a loop. The judge compares
# it with `minisbert/reference/similarity.py` on random rows.


# %%
def normalize(x_BD):
    """Each row divided by its length; a row of zeros stays as it is."""
    # yours


right = judge(normalize)

# %% [markdown]
# ## Exercises
#
# 1. What does `jax.grad(normalize)` of a row of zeros give, if the zeros are handled with one `jnp.where` at the end? Why?
# 2. How often is a compiled function traced for 20 sentences of 1 to 20 tokens, one per call? And if each is padded to the
#    next power of two?
# 3. Write dropout's keys for a batch so that a sentence gets the same mask whatever its neighbours are.
#
# <details><summary>Solution: normalize</summary>
#
# ```python
# def normalize(x_BD):
#     length_B1 = jnp.sqrt((x_BD**2).sum(axis=-1, keepdims=True))
#     return x_BD / jnp.where(length_B1 > 0, length_B1, 1)
#
#
# assert judge(normalize)
# ```
# </details>
#
# <details><summary>Solution 1</summary>
#
# ```python
# def of_zeros(x_D):
#     length = jnp.sqrt((x_D**2).sum())
#     return jnp.where(length > 0, x_D / length, x_D)[0]
#
#
# def safe(x_D):
#     square = (x_D**2).sum()
#     length = jnp.sqrt(jnp.where(square > 0, square, 1.0))
#     return (x_D / length)[0]
#
#
# assert jnp.isnan(jax.grad(of_zeros)(jnp.zeros(2))).all()
# assert jnp.array_equal(jax.grad(safe)(jnp.zeros(2)), jnp.array([1.0, 0.0]))
# ```
#
# NaN. Both branches of `where` are computed, and so are both gradients; that of the branch not taken is multiplied by 0, and
# 0 times infinity (the slope of the root at 0) is NaN. Make the *argument* harmless instead of the result.
# </details>
#
# <details><summary>Solution 2</summary>
#
# ```python
# def times_traced(widths):
#     traces = []
#
#     @jax.jit
#     def first(hidden_BLD):
#         traces.append(hidden_BLD.shape)
#         return hidden_BLD[:, 0]
#
#     for width in widths:
#         first(np.zeros((1, width, 4), np.float32))
#     return len(traces)
#
#
# one_by_one = times_traced(range(1, 21))
# padded = times_traced(2 ** int(np.ceil(np.log2(tokens))) for tokens in range(1, 21))
# print(one_by_one, "and", padded)
# assert one_by_one == 20 and padded == 6
# ```
#
# 20, one per length; and 6, for 1, 2, 4, 8, 16 and 32. `minisbert/inference/batching.py` chooses the widths of this package.
# </details>
#
# <details><summary>Solution 3</summary>
#
# ```python
# keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(0), jnp.array([41, 17]))
# mask_BD = jax.vmap(lambda key: jax.random.bernoulli(key, 0.9, (8,)))(keys_B)
# alone_D = jax.random.bernoulli(jax.random.fold_in(jax.random.key(0), 17), 0.9, (8,))
# assert jnp.array_equal(mask_BD[1], alone_D)
# ```
#
# One key per example, folded from the example's number, not from its place in the batch. `minisbert/transformer/dropout.py`
# does so down to the token, and that is why gradients here do not depend on how a batch is cut into pieces.
# </details>
#
# **The file just read:** `minisbert/transformer/products.py`, the first module of the package: one matrix product, with its
# gradient by hand. Next: [01 From text to vector](01_from_text_to_vector.ipynb).
