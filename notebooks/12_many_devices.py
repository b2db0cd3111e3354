# %% [markdown]
# # 12 Many devices
#
# A batch of a thousand pairs takes long on one device, even where GradCache makes it fit, so it is spread over many.
# For most losses that is easy: each device takes its part, and the gradients are averaged. **Not for contrastive
# losses.** There every pair is a negative of every other, those on other devices too, and the average of per-device
# losses is the loss of a smaller, easier problem.
#
# The one idea: **write the step for the whole batch, and say only where the arrays are.** JAX's compiler inserts the
# communication, and the result is that of one device. Here it is shown on eight *virtual* devices: the CPU pretends to be
# eight, so nothing gets faster, but everything that is sent between devices is really sent.
#
# *Article:* beyond it. *Paper:* Rajbhandari et al. 2020 (ZeRO, the source of FSDP). *File to read with it:*
# `minisbert/training/sharding.py`.

# %%
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from figures import BLUE, GREEN, ORANGE, RED, show
from judge import judge
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import minisbert
from minisbert import SentenceEncoder
from minisbert.data.sampler import Batch
from minisbert.sentence_model import define
from minisbert.training.collate import train_batch
from minisbert.training.losses import Targets, multiple_negatives_ranking
from minisbert.training.sharding import data_mesh, place_batch, state_sharding
from minisbert.training.siamese import (
    initial_state,
    make_update,
    packed_embed,
    siamese_loss,
    train_step,
)

# Before JAX is first used. In float64 another formula would show, and rounding hardly.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
print(len(jax.devices()), "devices:", *(device.id for device in jax.devices()))
assert len(jax.devices()) == 8

# %% [markdown]
# ## A batch, cut into eight
#
# 32 pairs, 64 texts, are packed into rows of 64 tokens; `multiple=8` asks for a number of rows that eight devices can share
# evenly. `place_batch` gives each device its rows.

# %%
B, DEVICES = 32, 8
model = SentenceEncoder.load(Path(minisbert.__file__).parents[1] / "weights" / "tiny-bert").pretrained
words = "man woman child dog cat tree bird book city sea house river".split()
anchors = [f"the {a} is in the old {b}" for a in words[:8] for b in words[8:]]
positives = [f"the old {b} is the {a}'s place" for a in words[:8] for b in words[8:]]
texts = Batch(0, 0, np.arange(B), [anchors, positives], None)
batch, _ = train_batch(texts, model.tokenizer, max_length=64, padding_id=0, multiple=DEVICES)
P = len(batch.rows.token_ids_PL)
filled = int((batch.rows.lengths_PT.sum(axis=1) > 0).sum())
print(f"{2 * B} texts fill {filled} rows; with padding {P} rows, {P // DEVICES} per device")
assert P % DEVICES == 0

mesh = data_mesh(DEVICES)
placed = place_batch(batch, mesh)
shards = placed.rows.token_ids_PL.addressable_shards
for shard in shards[:2]:
    print("device", shard.device.id, "has of the token ids", shard.data.shape, shard.index[0])
assert sorted(shard.device.id for shard in shards) == list(range(DEVICES))

# %%
figure = Figure(figsize=(10, 3.8), layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
segmentation_PL = np.where(batch.rows.segmentation_PL < 0, np.nan, batch.rows.segmentation_PL % 2)
left.imshow(segmentation_PL, cmap="cividis", vmin=-0.5, vmax=1.5, aspect="auto", interpolation="nearest")
for device in range(DEVICES):
    left.axhline((device + 1) * P / DEVICES - 0.5, color="black", linewidth=2)
middles = (np.arange(DEVICES) + 0.5) * P / DEVICES - 0.5
left.set_yticks(middles, [f"device {device}" for device in range(DEVICES)])
left.set(xlabel="token of the row", title="packed rows: texts side by side")
right.imshow(np.full((B, B), 0.8), cmap="Greys", vmin=0, vmax=2)
for device in range(DEVICES):
    corner = device * B / DEVICES - 0.5
    right.add_patch(Rectangle((corner, corner), B / DEVICES, B / DEVICES, color=ORANGE))
right.set(xlabel="positive", ylabel="anchor", title="the square of scores")
show(
    figure,
    "Left the packed rows as stripes, texts in turn dark and bright, white the padding; black lines cut "
    "them into eight devices, of which the last has only padding. Right the square of 32 by 32 scores: "
    "what eight devices alone would compare are eight small orange blocks on the diagonal, an eighth of "
    "the square.",
)
alone, whole = DEVICES * (B // DEVICES) ** 2, B**2
print(f"scores of the whole batch: {whole}; of eight devices, each for itself: {alone}")
assert alone * DEVICES == whole

# %% [markdown]
# ## The same step, on one device and on eight
#
# `train_step` is the step of notebook 08; nothing in it knows of devices. Plain gradient descent with rate 1 makes the
# change of the parameters the gradient itself. The only differences are where the batch lies (`place_batch`) and where the
# state lies (`state_sharding`), by a table of layouts. Two of them:
#
# - *replicated*: the parameters are the same on each device;
# - *fsdp*: the matrices are cut up too, and gathered when they are needed.

# %%
embed = packed_embed(define(model.model_config, jnp.float64)[0])
params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.params)
optimizer = optax.sgd(1.0)


def by_parts(embeddings_SBD, targets, head):
    """The mistake: each device ranks its own pairs, and the losses are averaged."""
    parts = jnp.split(embeddings_SBD, DEVICES, axis=1)
    return jnp.mean(jnp.stack([multiple_negatives_ranking(part, Targets()) for part in parts]))


def gradient_on(devices, layout="replicated", loss=multiple_negatives_ranking):
    """One step: its loss, its gradient as one vector, the compiled program and the state."""
    mesh = data_mesh(devices)
    state = initial_state({"model": params, "head": {}}, optimizer, seed=0)
    sharding = state_sharding(state, mesh, layout)
    gradient = jax.value_and_grad(siamese_loss(embed, loss))
    step = partial(train_step, gradient=gradient, update=make_update(optimizer))
    step = jax.jit(step, out_shardings=(sharding, None))
    arguments = (jax.device_put(state, sharding), place_batch(batch, mesh))
    program = step.lower(*arguments).compile()
    after, metrics = program(*arguments)
    old, new = (jax.tree.leaves(tree) for tree in (params, after.params["model"]))
    gradient = np.concatenate([np.ravel(a - np.asarray(b)) for a, b in zip(old, new, strict=True)])
    return float(metrics.loss), gradient, program, after


runs = {
    "one device": gradient_on(1),
    "eight, replicated": gradient_on(8),
    "eight, fsdp": gradient_on(8, "fsdp"),
    "eight, each its own loss": gradient_on(1, loss=by_parts),
}
truth_loss, truth, _, _ = runs["one device"]
away = {}
for name, (loss, gradient, _, _) in runs.items():
    away[name] = float(np.linalg.norm(gradient - truth) / np.linalg.norm(truth))
    print(f"{name:25} loss {loss:.12f}, gradient the same to 1e-12: {away[name] < 1e-12}")
for name in ("eight, replicated", "eight, fsdp"):
    assert abs(runs[name][0] / truth_loss - 1) < 1e-12 and away[name] < 1e-12
assert runs["eight, each its own loss"][0] < truth_loss - 1 and 0.2 < away["eight, each its own loss"] < 1

# %% [markdown]
# Dropout was on: its keys follow from the example and the column, not from the place in the batch or the device, so eight
# devices drop what one would drop.
#
# Another mistake is to *sum* what should be averaged. The direction is right, but eight times too long: a distance of 7 in the
# same measure. The figure has a logarithmic axis:

# %%
bars = {
    "eight devices, replicated": (away["eight, replicated"], BLUE),
    "eight devices, fsdp": (away["eight, fsdp"], GREEN),
    "mistake: each its own loss": (away["eight, each its own loss"], ORANGE),
    "mistake: summed, not averaged": (np.linalg.norm(8 * truth - truth) / np.linalg.norm(truth), RED),
}
figure = Figure(figsize=(8.5, 2.6), layout="constrained")
axes = figure.subplots()
distances, colours = zip(*bars.values(), strict=True)
axes.barh(list(bars), np.maximum(distances, 1e-17), left=0, color=colours)
axes.axvline(1e-12, color="black", linestyle=":", label="1e-12, what is asserted")
axes.set(xscale="log", xlim=(1e-17, 100), xlabel="distance from one device's gradient, over its length")
axes.invert_yaxis()
axes.legend(loc="upper right")
show(
    figure,
    "Bars on a logarithmic axis: the gradients of eight devices differ from one device's by about 1e-15, "
    "the two mistakes by about half of the gradient's length, and by 7 times that length.",
)

# %% [markdown]
# ## Which device sends what
#
# Our code has no line of communication. The compiler saw that a square of scores needs the embeddings of all devices, and that
# a gradient of shared parameters is a sum over them:

# %%
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
talk = {}
for name in ("one device", "eight, replicated", "eight, fsdp"):
    text = runs[name][2].as_text()
    talk[name] = {kind: text.count(f" {kind}(") + text.count(f" {kind}-start(") for kind in COLLECTIVES}
    print(f"{name:18}", {kind: count for kind, count in talk[name].items() if count} or "nothing")
assert not any(talk["one device"].values())
assert talk["eight, replicated"]["all-reduce"] > 0
assert talk["eight, fsdp"]["all-gather"] > talk["eight, replicated"]["all-gather"]

# %% [markdown]
# ## What fsdp saves
#
# Parameters and the optimizer's two moments are three times the model, on every device. Cut up, each device has about an
# eighth of it. (The tiny model has many small vectors, which are not cut.)

# %%
held = {}
for name in ("eight, replicated", "eight, fsdp"):
    leaves = jax.tree.leaves(runs[name][3].params)
    held[name] = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    print(f"{name:18} device 0 holds {held[name] / 1e3:.0f} kB of parameters")
share = held["eight, fsdp"] / held["eight, replicated"]
print(f"share {share:.2f}; of matrices and tables alone it would be {1 / DEVICES}")
assert 1 / DEVICES < share < 0.25

# %% [markdown]
# With real devices the same is `minisbert train ... --devices 8 --layout fsdp`.
#
# ## What to read and do next
#
# **Read the code.** [The reading path](../docs/reading.md) has the files in the order of this course, each next to its paper;
# `notebooks/sbert_in_one_file.py` has the whole model on one page.
#
# **Read the papers**, by question:
#
# | question | paper |
# | --- | --- |
# | Can one train without labels? | Gao, Yao & Chen 2021 (SimCSE): a sentence and itself, with another dropout |
# | Shorter vectors from one model? | Kusupati et al. 2022 (Matryoshka); `minisbert train --matryoshka` |
# | Pairs from the web instead of NLI? | Wang et al. 2022 (E5) |
# | One vector per token, compared late? | Khattab & Zaharia 2020 (ColBERT); not in this package |
# | How is all this measured? | Muennighoff et al. 2023 (MTEB); `minisbert/evaluation/mteb.py` |
# | Many languages? | Reimers & Gurevych 2020, distillation from an English teacher; `--teacher` with `--loss mse` |
# | A newer BERT? | Warner et al. 2024 (ModernBERT); `minisbert/encoders/modernbert.py` |
#
# **Do.** Train on your own pairs: a tsv file with `anchor` and `positive` and one command, `minisbert train all-MiniLM-L6-v2
# runs/mine --data pairs.tsv`. Write a loss of your own and train with it:
# [the guide to research](../docs/guides/research.md). Follow a sentence of yours through a model:
# `minisbert explain "..." "..." --model all-MiniLM-L6-v2 --follow follow.html`.
#
# ## Write it yourself
#
# Parts of a batch on P devices, not all of one size: the gradient of the mean over all examples, from the gradient of each
# part's mean.


# %%
def mean_gradient(gradient_PD, examples_P):
    """gradient_D of the whole batch's mean loss."""
    # yours


right = judge(mean_gradient)

# %% [markdown]
# ## Exercises
#
# 1. The table `LOSSES` in `minisbert/training/losses.py` says of each loss whether the examples of a batch see each other
#    (`in_batch`). Show for one where they do not that the mean over parts is the loss of the whole.
# 2. What happens with a number of rows that eight devices cannot share?
# 3. A gradient eight times too long is a learning rate eight times too high, for gradient descent. And for Adam?
#
# <details><summary>Solution: mean_gradient</summary>
#
# ```python
# def mean_gradient(gradient_PD, examples_P):
#     return (gradient_PD * examples_P[:, None]).sum(axis=0) / examples_P.sum()
#
#
# assert judge(mean_gradient)
# ```
# </details>
#
# <details><summary>Solution 1</summary>
#
# ```python
# from minisbert.training.losses import LOSSES
#
# print("in-batch:", *(name for name, loss in LOSSES.items() if loss.in_batch))
# random = np.random.default_rng(0)
# pairs_SBD, scores_B = jnp.asarray(random.normal(size=(2, B, 16))), jnp.asarray(random.uniform(size=B))
# cut = [jnp.split(pairs_SBD, DEVICES, axis=1), jnp.split(scores_B, DEVICES)]
# for name in ("cosine_similarity", "cosent"):
#     loss = LOSSES[name].function
#     whole = loss(pairs_SBD, Targets(labels_B=scores_B))
#     parts = np.mean([loss(pairs, Targets(labels_B=labels)) for pairs, labels in zip(*cut, strict=True)])
#     print(name, float(whole), float(parts))
#     assert (abs(whole - parts) < 1e-12) != LOSSES[name].in_batch
# ```
# </details>
#
# <details><summary>Solution 2</summary>
#
# ```python
# from minisbert import InputError
#
# uneven, _ = train_batch(texts, model.tokenizer, max_length=64, padding_id=0, multiple=P + 1)
# try:
#     place_batch(uneven, mesh)
# except InputError as error:
#     print(error)
# else:
#     raise AssertionError("not refused")
# ```
#
# It is refused before anything is computed, and the message says what to do.
# </details>
#
# <details><summary>Solution 3</summary>
#
# ```python
# adam = optax.adam(1e-3)
# weight, slope = jnp.ones(3), jnp.array([0.1, -2.0, 3.0])
# moved = [adam.update(factor * slope, adam.init(weight), weight)[0] for factor in (1, 8)]
# print(*moved)
# assert np.abs(moved[0] - moved[1]).max() < 1e-9
# ```
#
# Hardly anything: Adam divides by the gradient's own size. So this mistake can stay hidden; it shows in the clipping,
# whose threshold is then an eighth, and in the logged norms.
# </details>
#
# **The file just read:** `minisbert/training/sharding.py`, tables and no communication. This was the last notebook; what to
# read and do next is above the exercises.
