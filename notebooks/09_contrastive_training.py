# %% [markdown]
# # 09 Contrastive training
#
# The models of today are not trained on labels but on **pairs that belong together**: a question and its answer, a title and
# its text, a sentence and what follows from it. What does *not* belong together comes for free: the other pairs of the
# batch. Each anchor must find its own positive among all positives. That is *multiple negatives ranking* (Henderson et al.
# 2017), also called InfoNCE (van den Oord et al. 2018).
#
# The one idea: **the loss is a classification over the batch**, so everything depends on what is in the batch: how
# sharply it is compared (the scale), how large it can be (GradCache), and how hard its negatives are.
#
# *Article:* how the newer models were trained. *Papers:* Henderson et al. 2017, section 4.4; Gao et al. 2021 (GradCache),
# section 3. *File to read with it:* `minisbert/training/ranking_losses.py`.

# %%
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from figures import BLUE, GREEN, ORANGE, RED, annotate, show
from judge import judge
from matplotlib.figure import Figure
from published import PUBLISHED

import minisbert
from minisbert import SentenceEncoder
from minisbert.data.sampler import Batch
from minisbert.download.locate import locate
from minisbert.mining.hard_negatives import hard_negatives
from minisbert.sentence_model import define
from minisbert.similarity import cosine, pairwise_cosine
from minisbert.training.collate import train_batch
from minisbert.training.losses import Targets, margin_mse, mse, multiple_negatives_ranking
from minisbert.training.optimizer import adamw, schedule
from minisbert.training.siamese import (
    gradcache,
    initial_state,
    make_update,
    packed_embed,
    siamese_loss,
    train_step,
)

# %% [markdown]
# ## A batch is a square of scores
#
# Twelve questions and their answers, embedded by a model that was trained in this way. Row i is a question, column j an
# answer; what belongs together is on the diagonal.

# %%
PAIRS = [
    ("Why is the sky blue?", "Air scatters short wavelengths of sunlight more than long ones."),
    ("How long do I boil an egg?", "Seven minutes give a yolk that is just set."),
    ("Who wrote Faust?", "The play is by Johann Wolfgang von Goethe."),
    ("How do I change a flat tyre?", "Jack up the car, take off the wheel nuts and put on the spare."),
    ("What is the capital of Kenya?", "Nairobi is the seat of the Kenyan government."),
    ("How can I fall asleep faster?", "Keep the bedroom dark and put your phone away an hour before bed."),
    ("Why do cats purr?", "They purr when content, but also to calm themselves."),
    ("What does a heart do?", "It pumps blood through the body."),
    ("How do I back up my laptop?", "Copy your files to an external drive every week."),
    ("When did the Berlin Wall fall?", "East Germany opened its border on 9 November 1989."),
    ("How do plants eat?", "They make sugar out of light, water and carbon dioxide."),
    ("Why does bread rise?", "Yeast turns sugar into gas, which the dough holds."),
]
questions, answers = (list(column) for column in zip(*PAIRS, strict=True))
minilm = SentenceEncoder.load("all-MiniLM-L6-v2")
pairs_SBD = jnp.stack([minilm.encode(questions), minilm.encode(answers)])  # S = 2 texts per example
cosine_BB = cosine(pairs_SBD[0], pairs_SBD[1])


def ranking(cosine_BB, scale):
    """The loss by hand: the cross-entropy of the diagonal, by rows."""
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(scale * cosine_BB, axis=1)))


ours = multiple_negatives_ranking(pairs_SBD, Targets(), scale=20.0)
print(f"multiple_negatives_ranking {float(ours):.6f}, by hand {float(ranking(cosine_BB, 20.0)):.6f}")
assert abs(ours - ranking(cosine_BB, 20.0)) < 1e-6

# %%
chance_BB = np.asarray(jax.nn.softmax(20.0 * cosine_BB, axis=1))
figure = Figure(figsize=(10.5, 4.6), layout="constrained")
left, right = figure.subplots(1, 2)
panels = {"cosine": (left, cosine_BB), "softmax of 20 x cosine, by rows": (right, chance_BB)}
for title, (axes, values) in panels.items():
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1)
    annotate(axes, np.round(values, 1) + 0.0, form="{:.1f}", size=7.5)
    axes.set(title=title, xlabel="answer", xticks=range(12), yticks=range(12))
left.set_ylabel("question")
figure.colorbar(image, ax=(left, right), label="cosine, or share of the row")
show(
    figure,
    "Two squares of 12 by 12. Left the cosines: the diagonal, 0.3 to 0.8, stands out from the rest, "
    "mostly below 0.2. Right the softmax of 20 times the cosine by rows: nearly all of a row is on its "
    "diagonal, 0.9 and more in most rows.",
)
assert (chance_BB.argmax(axis=1) == np.arange(12)).all()
assert np.median(np.diagonal(chance_BB)) > 0.9

# %% [markdown]
# ## The scale
#
# The cosine is between -1 and 1, so without a scale the softmax can never be sure: even if every pair were perfect and
# everything else as far away as can be, the loss would stay high. The scale (20 in sentence-transformers; its inverse is
# called temperature, 0.05) decides **who gets the gradient**. For the cosine of question i and answer j it is
#
#     dL / d cos_ij  =  scale / B * (p_ij - [i = j])
#
# with p the softmax on the right above. So each wrong answer is pushed away by its share p of its row.

# %%
slope_BB = jax.grad(ranking)(cosine_BB, 20.0)
assert np.abs(slope_BB - 20.0 / 12 * (chance_BB - np.eye(12))).max() < 1e-5

SCALES = {1.0: (RED, ":"), 5.0: (ORANGE, "-."), 20.0: (BLUE, "-"), 100.0: (GREEN, "--")}
figure = Figure(figsize=(8, 3.4), layout="constrained")
axes = figure.subplots()
felt = {}
for scale, (colour, style) in SCALES.items():
    share_BB = np.asarray(jax.nn.softmax(scale * cosine_BB, axis=1)) * (1 - np.eye(12))
    share_BB /= share_BB.sum(axis=1, keepdims=True)  # of what falls on the negatives of a question
    ranked_M = np.sort(share_BB, axis=1)[:, :0:-1].mean(axis=0)
    entropy_B = -(share_BB * np.log(np.maximum(share_BB, 1e-30))).sum(axis=1)
    felt[scale] = float(np.exp(entropy_B).mean())
    label = f"scale {scale:g}: as if {felt[scale]:.1f} of 11 counted"
    axes.plot(range(1, 12), ranked_M, style, color=colour, marker="o", markersize=4, label=label)
axes.set(xlabel="negative, the most similar first", ylabel="mean share of the push", ylim=(0, 1))
axes.set_xticks(range(1, 12))
axes.legend()
show(
    figure,
    "How the push is shared among the 11 negatives, the hardest first. With scale 1 it is nearly even, "
    "0.09 each. With 20 the hardest gets half of it, with 100 nearly all.",
)
assert felt[1.0] > 10.5 and 2 < felt[20.0] < 8 and felt[100.0] < 2.5
assert list(felt.values()) == sorted(felt.values(), reverse=True)

# %% [markdown]
# At scale 1 everything is pushed alike, at 100 only the hardest negative (and if that is a right answer nobody marked, the
# damage is greatest). "As if n counted" is e to the entropy of the shares.
#
# ## A world where order matters
#
# Now we train. The tiny BERT with random weights gets pairs of active and passive: *the old man sees the dog* and *the dog is
# seen by the old man*. They mean the same. *The dog sees the old man* has nearly the same words and means something else.

# %%
NOUNS = ("man", "woman", "child", "dog", "cat", "bird")
WHO = [f"the {size} {noun}" for size in ("old", "big", "good", "small", "new") for noun in NOUNS]
VERBS = [("sees", "is seen by"), ("meets", "is met by"), ("likes", "is liked by")]
BATCH, STEPS = 32, 200


def say(meaning, passive):
    """A meaning (who, verb, whom) in words."""
    who, verb, whom = meaning
    if passive:
        return f"{WHO[whom]} {VERBS[verb][1]} {WHO[who]}"
    return f"{WHO[who]} {VERBS[verb][0]} {WHO[whom]}"


def swapped(meaning):
    """The same words the other way round."""
    return meaning[::-1]


def meanings(count, random, held_out):
    """Some of the 2,610 meanings; a fifth of them is held out."""
    drawn = []
    while len(drawn) < count:
        who, verb, whom = random.integers((len(WHO), len(VERBS), len(WHO))).tolist()
        if who != whom and ((who + verb + whom) % 5 == 0) == held_out:
            drawn.append((who, verb, whom))
    return drawn


tiny = SentenceEncoder.load(Path(minisbert.__file__).parents[1] / "weights" / "tiny-bert")


def batch_of(columns):
    """The arrays of one step."""
    batch = Batch(0, 0, np.arange(len(columns[0])), columns, None)
    limits = {"max_length": tiny.max_seq_length, "padding_id": tiny.padding_id}
    return train_batch(batch, tiny.tokenizer, **limits, multiple=16)[0]


def texts(drawn, random, hard):
    """Columns anchor, positive and, if asked for, the anchor with the roles swapped."""
    passive = random.integers(0, 2, len(drawn)).tolist()
    columns = [[say(m, p) for m, p in zip(drawn, passive, strict=True)]]
    columns += [[say(m, 1 - p) for m, p in zip(drawn, passive, strict=True)]]
    return columns + [[say(swapped(m), p) for m, p in zip(drawn, passive, strict=True)]] * hard


for column in texts([(0, 0, 9)], np.random.default_rng(0), hard=True):
    print(*column)

# %% [markdown]
# ## GradCache: the whole batch in the memory of a part
#
# More examples in a batch are more negatives. What fills the memory is not the scores but the activations of the
# encoder, stored for the backward pass. GradCache embeds part after part, stores only the embeddings, computes the loss
# of the **whole** batch and its gradient for each embedding, and then runs the backward pass part after part. Three
# gradients of one batch of 32 examples with 3 texts each:
#
# - *plain*: the whole batch in one pass;
# - *GradCache*: a quarter of the packed rows at a time;
# - *parts*: the mistake. The batch cut into four, the four losses averaged, as gradient accumulation does.

# %%
embed = packed_embed(define(tiny.pretrained.model_config)[0])
params = {"model": tiny.pretrained.params, "head": {}}
random = np.random.default_rng(3)
batch = batch_of(texts(meanings(BATCH, random, held_out=False), random, hard=True))


def loss_of_parts(embeddings_SBD, targets, head):
    """The mistake: the mean of the losses of four parts, blind to each other."""
    parts = jnp.split(embeddings_SBD, 4, axis=1)
    return jnp.mean(jnp.stack([multiple_negatives_ranking(part, Targets()) for part in parts]))


P = len(batch.rows.token_ids_PL)
programs = {
    "plain": jax.value_and_grad(siamese_loss(embed, multiple_negatives_ranking)),
    "GradCache": gradcache(embed, multiple_negatives_ranking, 3 * BATCH // 4),
    "parts": jax.value_and_grad(siamese_loss(embed, loss_of_parts)),
}
compiled, values, gradients = {}, {}, {}
for name, program in programs.items():
    compiled[name] = jax.jit(program).lower(params, batch, None).compile()
    value, gradient = compiled[name](params, batch, None)
    values[name] = float(value)
    gradients[name] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])

print(f"{3 * BATCH} texts in {P} rows of 64 tokens")
away = {}
for name, gradient in gradients.items():
    distance = np.linalg.norm(gradient - gradients["plain"]) / np.linalg.norm(gradients["plain"])
    away[name] = float(distance)
    print(f"{name:10} loss {values[name]:.4f}, gradient off by {away[name]:.3f} of its length")
assert abs(values["GradCache"] - values["plain"]) < 1e-5 and away["GradCache"] < 1e-5
assert values["parts"] < values["plain"] - 0.5 and away["parts"] > 0.1

# %%
figure = Figure(figsize=(7, 2.4), layout="constrained")
axes = figure.subplots()
names = ["plain", "GradCache"]
memory = {name: compiled[name].memory_analysis().temp_size_in_bytes for name in names}
bars = axes.barh(names, [memory[name] / 1e6 for name in names], color=[ORANGE, BLUE])
axes.bar_label(bars, fmt="%.1f MB", padding=3)
axes.set(xlabel="working memory of the compiled step (MB)", xlim=(0, 1.2 * memory["plain"] / 1e6))
axes.invert_yaxis()
show(
    figure,
    f"Two bars: for the same gradient GradCache needs {memory['GradCache'] / memory['plain']:.0%} of the "
    "working memory of the plain one.",
)
assert memory["GradCache"] < 0.5 * memory["plain"]

# %% [markdown]
# GradCache is exact, whatever the size of the parts. Accumulating the losses of parts is not: its task is easier (a part
# has a quarter of the negatives), so its loss is lower, and its gradient points elsewhere.
#
# ## Hard negatives
#
# In a random batch nearly all negatives are about somebody else. The model can win by the words alone, whatever their order.
# Only the swapped sentence asks for more, and among 2,610 meanings it is hardly ever in the batch. So we add it as a third
# text: the same training twice, without and with.

# %%
test = meanings(200, np.random.default_rng(5), held_out=True)
active, passive = ([say(m, side) for m in test] for side in (0, 1))
other = [say(swapped(m), 0) for m in test]


def not_fooled(encoder):
    """The share of held-out sentences nearer to their passive than to the same words swapped."""
    anchor_BD, positive_BD, negative_BD = (encoder.encode(side) for side in (active, passive, other))
    to_positive_B = pairwise_cosine(anchor_BD, positive_BD)
    return float((to_positive_B > pairwise_cosine(anchor_BD, negative_BD)).mean())


# Compiled once for both trainings.
optimizer = adamw(schedule("constant", 3e-3, STEPS // 10, STEPS), weight_decay=0.01, clip_norm=1.0)
gradient, update = jax.jit(programs["plain"]), jax.jit(make_update(optimizer))


def trained(hard):
    """Train from the random weights: the share not fooled, every 50 steps."""
    state = initial_state(params, optimizer, seed=0)
    random, shares = np.random.default_rng(0), [not_fooled(tiny)]
    for done in range(1, STEPS + 1):
        batch = batch_of(texts(meanings(BATCH, random, held_out=False), random, hard))
        state, _ = train_step(state, batch, gradient=gradient, update=update, dropout=False)
        if done % 50 == 0:
            shares.append(not_fooled(SentenceEncoder(replace(tiny.pretrained, params=state.params["model"]))))
    return shares


shares = {"in-batch negatives only": trained(hard=False), "and a hard one each": trained(hard=True)}

# %%
figure = Figure(figsize=(8, 3.2), layout="constrained")
axes = figure.subplots()
for (name, curve), look in zip(shares.items(), ((ORANGE, "--o"), (BLUE, "-s")), strict=True):
    axes.plot(np.arange(0, STEPS + 1, 50), curve, look[1], color=look[0], label=name)
axes.set(xlabel="training step", ylabel="share not fooled by swapped roles", ylim=(-0.03, 1.03))
axes.legend()
show(
    figure,
    "The share of held-out sentences that are nearer to their passive than to the swapped sentence, "
    "over 200 steps. With hard negatives it rises to nearly 1, without them far more slowly.",
)
for name, curve in shares.items():
    print(f"{name:24} not fooled after {STEPS} steps: {curve[-1]:.0%}")
assert shares["and a hard one each"][-1] > 0.93
assert shares["in-batch negatives only"][-1] < shares["and a hard one each"][-1] - 0.15

# %% [markdown]
# ## Where hard negatives come from
#
# Here we made them. In practice a model finds them: texts that are near to the anchor, and that are not the positive.
# The danger is the *false* negative, a right answer that nobody marked. So to the pool of candidates we add an unmarked
# paraphrase of each anchor, *the old man can see the dog*, and look at what MiniLM brings up, without and with a margin
# to the positive's score, which keeps the likeliest right answers out (Moreira et al. 2024).

# %%
seen = [m for m in test if VERBS[m[1]][0] == "sees"]
anchors, positives = [say(m, 0) for m in seen], [say(m, 1) for m in seen]
paraphrase = {say(m, 0): f"{WHO[m[0]]} can see {WHO[m[2]]}" for m in seen}
hard = {say(m, 0): say(swapped(m), 0) for m in seen}
pool = [*paraphrase.values(), *hard.values()]
mined = {}
for margin in (None, 0.02):
    options = {"range_max": 20, "relative_margin": margin}
    rows, _ = hard_negatives(minilm, anchors, positives, pool, **options)
    kinds = {"the swapped": hard, "a paraphrase": paraphrase}
    for kind, texts_of in kinds.items():
        mined[margin, kind] = sum(texts_of[row[0]] == row[2] for row in rows) / len(rows)
    print(f"margin {margin}:", ", ".join(f"{kind} {mined[margin, kind]:.0%}" for kind in kinds))
of_minilm = not_fooled(minilm)
print(f"MiniLM itself is not fooled by {of_minilm:.0%} of the swapped sentences")
assert mined[None, "a paraphrase"] > 0.1 and mined[None, "the swapped"] > 0.4
assert mined[0.02, "a paraphrase"] < 0.05 and mined[0.02, "the swapped"] < 0.05
assert of_minilm < 0.2

# %% [markdown]
# Without a margin a fifth of what is mined is right answers, which training would push away. The margin takes them out, and the
# swapped sentences with them: for MiniLM both are nearer than the positive, so no threshold on *its* scores can tell
# them apart. A judge that reads both sentences together can; that is what `hard_negatives(..., rescore=cross_encoder.predict)`
# is for.
#
# ## A teacher: margins and vectors
#
# That judge can also teach. **Margin-MSE** (Hofstätter et al. 2020) does not ask the student for the teacher's scores, which
# have another scale, but for their *difference*: how much better the positive is than the negative. A false negative, which
# the teacher scores as high as the positive, then has margin 0 and does no harm.
#
# ((s(a, p) - s(a, n)) - (teacher(a, p) - teacher(a, n)))²
#
# Here the teacher knows the truth. Two negatives for one anchor: the same words swapped, and an unmarked paraphrase.

# %%
anchor, positive = "the old man sees the dog", "the dog is seen by the old man"
negatives = {"swapped": ("the dog sees the old man", 1.0), "a false negative": ("the old man can see the dog", 0.0)}
u_D, v_D = minilm.encode([anchor, positive])
pulls = {}
for name, (negative, margin) in negatives.items():
    embeddings_SBD = jnp.asarray(np.stack([u_D, v_D, minilm.encode(negative)])[:, None])
    targets = Targets(labels_B=jnp.array([margin]))
    value, gradient_SBD = jax.value_and_grad(margin_mse)(embeddings_SBD, targets)
    student = float(u_D @ v_D - u_D @ np.asarray(embeddings_SBD[2, 0]))
    pulls[name] = float(jnp.linalg.norm(gradient_SBD[2]))
    print(
        f"{name:17} margin of the student {student:+.3f}, of the teacher {margin:.0f}; loss {value:.3f}, pull {pulls[name]:.2f}"
    )
    assert abs(value - (student - margin) ** 2) < 1e-5
assert pulls["swapped"] > 5 * pulls["a false negative"]

# %% [markdown]
# **Distillation** copies a teacher's vectors: the loss `mse` is the mean of (student - teacher)², which needs no pairs and no
# labels, only texts (Reimers & Gurevych 2020 teach other languages that way). Here the smallest student there is learns from
# MiniLM: a table with one vector per token, averaged, without any layer.

# %%
taught = [say(m, voice) for m in meanings(200, np.random.default_rng(8), held_out=False) for voice in (0, 1)]
unseen = active[:100]
rows = minilm.tokenizer.tokenize([*taught, *unseen], max_length=64).ids
tokens = sorted(set().union(*rows))
bag_BV = np.array([[ids.count(token) / len(ids) for token in tokens] for ids in map(list, rows)])
teacher_BD = minilm.encode([*taught, *unseen])
upper = np.triu_indices(len(unseen), 1)


def agreement(table_VD):
    """The correlation of the student's cosines with the teacher's, on sentences that it has not seen."""
    student_BD, copied_BD = bag_BV[len(taught) :] @ table_VD, teacher_BD[len(taught) :]
    return float(np.corrcoef(cosine(student_BD, student_BD)[upper], cosine(copied_BD, copied_BD)[upper])[0, 1])


def copy_loss(table_VD):
    return mse((bag_BV[: len(taught)] @ table_VD)[None], Targets(teacher_SBD=teacher_BD[: len(taught)]))


def copy_step(carry, _):
    table_VD, moments = carry
    value, gradient_VD = jax.value_and_grad(copy_loss)(table_VD)
    updates, moments = copier.update(gradient_VD, moments)
    return (optax.apply_updates(table_VD, updates), moments), value


copier = optax.adam(0.01)
table_VD = jax.random.normal(jax.random.key(0), (len(tokens), teacher_BD.shape[1])) / 20
(copied_VD, _), losses = jax.jit(lambda carry: jax.lax.scan(copy_step, carry, length=300))(
    (table_VD, copier.init(table_VD))
)
before, after = agreement(table_VD), agreement(np.asarray(copied_VD))
print(f"{len(tokens)} vectors; loss {losses[0]:.5f} -> {losses[-1]:.5f}")
print(f"correlation of its cosines with MiniLM's on unseen sentences: {before:.2f} -> {after:.2f}")
assert after > 0.8 and after > before + 0.1

# %% [markdown]
# A table cannot know the order of the words; what it can copy, it copies. For any model, these two are
# `minisbert train ... --loss margin_mse` on a file with margins, and `--teacher NAME --loss mse`.
#
# ## The article's table of models
#
# The article's table of models gives all-mpnet-base-v2 an average performance of 63.30 over many tasks, a speed of
# 2,800 sentences per second on a V100 GPU, and 418 MB. It is the table of sentence-transformers, which has a row for its small
# sibling all-MiniLM-L6-v2 too. The size can be looked up and the rate measured, here and now; the performance needs data sets
# that are not part of this repository (`minisbert.evaluation.mteb` runs them), so it is quoted.

# %%
article = PUBLISHED["article", "table of models"]["all-mpnet-base-v2"]
theirs = PUBLISHED["sentence-transformers", "table of models"]
SHORT = [say(m, passive) for m in meanings(32, np.random.default_rng(7), held_out=True) for passive in (0, 1)]
print("                   published:                               here:")
print("                   performance   per second, V100     MB    parameters      MB   per second, this CPU")
megabytes = {}
for name in ("all-MiniLM-L6-v2", "all-mpnet-base-v2"):
    model = SentenceEncoder(name)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    megabytes[name] = (locate(name) / "model.safetensors").stat().st_size / 2**20
    model.encode(SHORT)  # compiles
    started = time.perf_counter()
    model.encode(SHORT)
    rate = len(SHORT) / (time.perf_counter() - started)
    row = theirs[name]
    quoted = f"{row['performance']:11.2f}   {row['speed']:16,.0f}   {row['MB']:4.0f}"
    print(f"{name:18} {quoted}   {numbers / 1e6:9.1f} M  {megabytes[name]:6.1f}   {rate:20,.0f}")
assert abs(megabytes["all-mpnet-base-v2"] - article["MB"]) < 1
assert article["performance"] == theirs["all-mpnet-base-v2"]["performance"]

# %% [markdown]
# ## Write it yourself
#
# The loss of this notebook in NumPy: each anchor must find its own positive among all positives of the batch.


# %%
def ranking_loss(anchor_BD, positive_BD, scale):
    """The mean over rows of -log softmax(scale * cosines)[own column]."""
    # yours


right = judge(ranking_loss)

# %% [markdown]
# ## Exercises
#
# 1. The all-* models of 2021 were trained with the *symmetric* loss: questions also have to be found by their answers. Show
#    that it is the mean of `ranking` of the square and of its transpose.
# 2. A pair occurs twice in a batch. What does the loss ask for, and what does `Targets(hashes_SB=...)` do about it?
# 3. "At scale 1 the loss would stay high even if all were perfect." How high? The farthest that B vectors can be from each
#    other are the corners of a simplex, with cosine -1 / (B - 1).
#
# <details><summary>Solution: ranking_loss</summary>
#
# ```python
# def ranking_loss(anchor_BD, positive_BD, scale):
#     scores_BB = scale * np.asarray(cosine(anchor_BD, positive_BD))
#     return (np.log(np.exp(scores_BB).sum(axis=1)) - np.diagonal(scores_BB)).mean()
#
#
# assert judge(ranking_loss)
# ```
# </details>
#
# <details><summary>Solution 1</summary>
#
# ```python
# options = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
# symmetric = multiple_negatives_ranking(pairs_SBD, Targets(), scale=20.0, **options)
# by_hand = (ranking(cosine_BB, 20.0) + ranking(cosine_BB.T, 20.0)) / 2
# print(float(symmetric), float(by_hand))
# assert abs(symmetric - by_hand) < 1e-6
# ```
# </details>
#
# <details><summary>Solution 2</summary>
#
# ```python
# from minisbert.data.values import text_hashes
#
# twice_SBD = jnp.concatenate([pairs_SBD, pairs_SBD[:, :1]], axis=1)
# hashes_SB = np.stack([text_hashes([*questions, questions[0]]), text_hashes([*answers, answers[0]])])
# blind = multiple_negatives_ranking(twice_SBD, Targets())
# knowing = multiple_negatives_ranking(twice_SBD, Targets(hashes_SB=hashes_SB))
# print(float(blind), float(knowing))
# assert blind > knowing + 2 * np.log(2) / 13 - 1e-3
# ```
#
# Both copies have the right answer as positive *and* as negative: the best they can get is log 2 each, and training would
# push the question from its own answer. By the hashes equal texts are known and left out of the sum.
# </details>
#
# <details><summary>Solution 3</summary>
#
# ```python
# B = 32
# simplex_BD = jnp.eye(B) - 1 / B
# lowest = multiple_negatives_ranking(jnp.stack([simplex_BD, simplex_BD]), Targets(), scale=1.0)
# print(float(lowest), np.log(1 + (B - 1) * np.exp(-B / (B - 1))))
# assert abs(lowest - np.log(1 + (B - 1) * np.exp(-B / (B - 1)))) < 1e-5 and lowest > 2.4
# ```
#
# 2.49, where guessing has log 32 = 3.47. At scale 20 the same vectors have a loss of 3e-8.
# </details>
#
# **The file just read:** `minisbert/training/ranking_losses.py`; `minisbert/training/gradcache.py` is the second, and
# `minisbert/mining/hard_negatives.py` finds negatives. Next:
# [10 Search, duplicates, clusters](10_search_duplicates_clusters.ipynb).
