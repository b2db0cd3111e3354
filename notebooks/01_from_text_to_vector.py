# %% [markdown]
# # 01 From text to vector
#
# The article's five sentences go the whole way: **text → tokens → token embeddings → pooling → sentence embedding →
# cosine similarity**. The last section draws both of its heat-maps. The table of all-mpnet-base-v2 is computed here and
# agrees with the printed one to 1e-6.
#
# *Article:* the last section, on the sentence-transformers library, with its two heat-maps. *Paper:* Reimers & Gurevych
# 2019 (SBERT), section 3. *File to read with it:* `minisbert/sentence_model.py`.

# %%
import numpy as np
from figures import annotate, show
from judge import judge
from matplotlib.figure import Figure

from minisbert import SentenceEncoder
from minisbert.commands.demo import PUBLISHED, SENTENCES
from minisbert.pooling import mean
from minisbert.similarity import cosine, normalize

encoder = SentenceEncoder.load("all-mpnet-base-v2")
for number, sentence in enumerate(SENTENCES):
    print(number, sentence)
assert not set(SENTENCES[3].split()) & set(SENTENCES[4].split())

# %% [markdown]
# Sentences 3 and 4 say nearly the same and do not share a word: a search for words would not find one from the other.
#
# ## 1. Text → tokens
#
# The tokenizer knows 30,527 pieces. A word that is not among them is split into several; `##` marks a piece that continues
# a word. `<s>` and `</s>` mark the start and the end of every text.

# %%
vocabulary = encoder.tokenizer.backend
ids = encoder.tokenizer.tokenize(SENTENCES, max_length=encoder.max_seq_length).ids
for row in ids[:3]:
    print(len(row), "tokens:", " ".join(vocabulary.id_to_token(token) for token in row))
print("the first three as the model sees them:", ids[0][:3])

tokens = [vocabulary.id_to_token(token) for token in ids[1]]
assert tokens == ["<s>", "she", "swore", "she", "just", "saw", "her", "su", "##shi", "move", "</s>"]
assert vocabulary.get_vocab_size() == 30_527

# %% [markdown]
# How is *sushi* split? **WordPiece by hand**: from the left, always the longest piece that the vocabulary has. (The words come
# first: lower case, without accents, punctuation apart; `notebooks/sbert_in_one_file.py` has that too.)


# %%
def pieces_of(word, known):
    """The pieces of one word; [UNK] if some part of it is in no piece."""
    pieces, start = [], 0
    while start < len(word):
        ends = range(len(word), start, -1)  # the longest first
        fits = [end for end in ends if ("##" if start else "") + word[start:end] in known]
        if not fits:
            return ["[UNK]"]
        pieces.append(("##" if start else "") + word[start : fits[0]])
        start = fits[0]
    return pieces


known = vocabulary.get_vocab()
for word in ("sushi", "mannequin", "flossing", "transformers"):
    print(f"{word:13}", *pieces_of(word, known))
for sentence, row in zip(SENTENCES, ids, strict=True):
    by_hand = [piece for word in sentence.split() for piece in pieces_of(word, known)]
    assert ["<s>", *by_hand, "</s>"] == [vocabulary.id_to_token(token) for token in row]

# %% [markdown]
# ## 2. Tokens → token embeddings
#
# Each token becomes a vector of 768 numbers. Twelve layers of attention let it see the whole sentence: the two *she* of
# sentence 1 are the same row of the embedding table, and come out as different vectors, since their positions and neighbours
# differ.

# %%
tokens_LD = encoder.encode(SENTENCES[1], output_value="token_embeddings")
print("one row per token, one column per dimension:", tokens_LD.shape)
assert tokens_LD.shape == (11, 768)

first_she, second_she = (place for place, token in enumerate(tokens) if token == "she")
same_word = cosine(tokens_LD[[first_she]], tokens_LD[[second_she]]).item()
print(f"cosine of the two she: {same_word:.4f}")
assert 0.5 < same_word < 0.999

# %%
figure = Figure(figsize=(8, 3.2), layout="constrained")
axes = figure.subplots()
limit = float(np.abs(tokens_LD).max())
picture = axes.imshow(tokens_LD[:, :64], cmap="PuOr", vmin=-limit / 3, vmax=limit / 3, aspect="auto")
axes.set_yticks(range(len(tokens)), tokens)
axes.set_xlabel("dimension (the first 64 of 768)")
axes.set_ylabel("token")
figure.colorbar(picture, label="value (no unit)", extend="both")
show(
    figure,
    "Token embeddings of 'she swore she just saw her sushi move' as a map, one row for each of the "
    "11 tokens. Some columns have the same colour in all rows: what the tokens of a sentence share.",
)

# %% [markdown]
# ## 3. Token embeddings → sentence embedding
#
# SBERT's default: the mean of the tokens. This model then scales the mean to length 1. By hand it is one line, in the
# package it is `minisbert/pooling.py`, and `encode` does it for whole batches; all three agree.

# %%
by_hand_D = tokens_LD.mean(axis=0) / np.linalg.norm(tokens_LD.mean(axis=0))
mask_BL = np.ones((1, len(tokens)), bool)  # all eleven tokens are real: nothing is padding
by_module_BD = normalize(np.asarray(mean(tokens_LD[None], mask_BL)))
embeddings_BD = encoder.encode(SENTENCES)
print("five sentences, five vectors:", embeddings_BD.shape)
print("length of each:", np.linalg.norm(embeddings_BD, axis=1).round(6))

assert np.abs(by_hand_D - embeddings_BD[1]).max() < 1e-6
assert np.abs(by_module_BD[0] - embeddings_BD[1]).max() < 1e-6
assert np.abs(np.linalg.norm(embeddings_BD, axis=1) - 1).max() < 1e-6

# %% [markdown]
# ## 4. Two vectors → one number
#
# The cosine of the angle between two vectors. Since these have length 1 it is their dot product.

# %%
similarity_BB = cosine(embeddings_BD, embeddings_BD)
one_pair = float(embeddings_BD[4] @ embeddings_BD[3])
print(f"sentences 4 and 3: {one_pair:.8f}, printed in the article: {PUBLISHED['all-mpnet-base-v2'][4, 3]}")

print("\npair  computed     printed      difference")
for (i, j), printed in PUBLISHED["all-mpnet-base-v2"].items():
    print(f"{i}, {j}  {similarity_BB[i, j]:11.8f}  {printed:11.8f}  {similarity_BB[i, j] - printed:+.0e}")
largest = max(abs(similarity_BB[pair] - printed) for pair, printed in PUBLISHED["all-mpnet-base-v2"].items())
assert largest < 1e-6

# %% [markdown]
# ## 5. The article's heat-maps
#
# On the right all-mpnet-base-v2 (2021), as computed above. On the left bert-base-nli-mean-tokens, one of the first
# SBERT models (2019); Skip-Thought, InferSent and the Universal Sentence Encoder came before. Its weights are not among
# those this notebook can fetch: **the left map is drawn from the article's printed numbers, not computed.**

# %%
older_BB = np.eye(5)
for (i, j), printed in PUBLISHED["bert-base-nli-mean-tokens"].items():
    older_BB[i, j] = older_BB[j, i] = printed
maps = {"bert-base-nli-mean-tokens (as printed)": older_BB, "all-mpnet-base-v2 (computed)": similarity_BB}

figure = Figure(figsize=(9, 4.2), layout="constrained")
for axes, (title, matrix_BB) in zip(figure.subplots(1, 2), maps.items(), strict=True):
    picture = axes.imshow(matrix_BB, cmap="cividis", vmin=-0.05, vmax=1)
    annotate(axes, matrix_BB)
    axes.set(title=title, xlabel="sentence", ylabel="sentence", xticks=range(5), yticks=range(5))
figure.colorbar(picture, ax=figure.axes, label="cosine similarity", shrink=0.8)
show(
    figure,
    "Two 5 by 5 heat-maps of cosine similarity. Left, the older model: sentences 4 and 3 are highest "
    "with 0.64, but 3 and 0 follow with 0.50, and most pairs lie between 0.2 and 0.5. Right, "
    "all-mpnet-base-v2: 4 and 3 have 0.52, all others at most 0.26.",
)

# %% [markdown]
# Both find the pair. They differ in the rest: how far is the right pair above the best wrong one?

# %%
gaps = {}
for title, matrix_BB in maps.items():
    others = sorted(matrix_BB[i, j] for i in range(5) for j in range(i) if (i, j) != (4, 3))
    gaps[title] = float(matrix_BB[4, 3] - others[-1])
    print(f"{title:40} pair {matrix_BB[4, 3]:.2f}, best other {others[-1]:.2f}, gap {gaps[title]:.2f}")
older_gap, newer_gap = gaps.values()
assert abs(older_gap - 0.13774651) < 1e-8  # of the printed numbers
assert abs(newer_gap - 0.25440932) < 2e-6  # 0.51847214 - 0.26406282

# %% [markdown]
# ## Write it yourself
#
# The cosine of every row of one matrix with every row of another, as section 4 needs it, without a loop. The judge compares
# it with `minisbert/reference/similarity.py`.


# %%
def cosine_table(a_BD, b_MD):
    """similarity_BM: the cosine of each row of `a` with each row of `b`."""
    # yours


right = judge(cosine_table)

# %% [markdown]
# ## Exercises
#
# 1. A batch is padded to its longest sentence. Show that the neighbours of a sentence do not change its embedding.
# 2. Pool with `max` in place of `mean`. Does the pair still stand out?
# 3. Is it *dentist* that connects sentence 3 with sentence 4? Leave out each word in turn and look at their similarity.
# 4. `sentence_bert_config.json` of both models says `do_lower_case: false`. Does the case of the letters count?
#
# <details><summary>Solution: cosine_table</summary>
#
# ```python
# def cosine_table(a_BD, b_MD):
#     a_BD = a_BD / np.linalg.norm(a_BD, axis=1, keepdims=True)
#     b_MD = b_MD / np.linalg.norm(b_MD, axis=1, keepdims=True)
#     return a_BD @ b_MD.T
#
#
# assert judge(cosine_table)
# ```
# </details>
#
# <details><summary>Solution 1</summary>
#
# ```python
# alone_D = encoder.encode(SENTENCES[1])
# print(np.abs(alone_D - embeddings_BD[1]).max())  # about 1e-7: float32 rounds differently in another shape
# assert np.abs(alone_D - embeddings_BD[1]).max() < 1e-6
# ```
#
# Padding is masked out of attention and of the mean. `tests/inference/test_invariance.py` checks this for every shape.
# </details>
#
# <details><summary>Solution 2</summary>
#
# ```python
# from minisbert.pooling import max as max_pool
#
# rows = encoder.encode(SENTENCES, output_value="token_embeddings")
# pooled_BD = np.concatenate([max_pool(row_LD[None], np.ones((1, len(row_LD)), bool)) for row_LD in rows])
# max_BB = cosine(pooled_BD, pooled_BD)
# print(max_BB.round(2))
# assert max_BB[4, 3] == max(max_BB[i, j] for i in range(5) for j in range(i))
# ```
#
# It does, though the model never trained with `max`. Notebook 07 measures poolings on more than five sentences.
# </details>
#
# <details><summary>Solution 3</summary>
#
# ```python
# words = SENTENCES[3].split()
# shorter = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
# with_four = cosine(encoder.encode(shorter), embeddings_BD[[4]])[:, 0]
# change = {word: float(score - similarity_BB[4, 3]) for word, score in zip(words, with_four, strict=True)}
# for word in sorted(change, key=change.get):
#     print(f"{word:8} {change[word]:+.3f}")
# assert min(change.values()) > -0.05
# ```
#
# *bad* and *dentist* count most, yet no single word moves the cosine by 0.05: the sentence says it more than once (*dentist*,
# *chewing*, *teeth*). Notebook 11 asks which pairs of tokens a similarity is made of.
# </details>
#
# <details><summary>Solution 4</summary>
#
# ```python
# loud_BD = encoder.encode([sentence.upper() for sentence in SENTENCES])
# assert np.array_equal(loud_BD, embeddings_BD)
# ```
#
# No. That setting belongs to sentence-transformers, which would lowercase before the tokenizer; the tokenizer of an uncased
# model does it anyway (`do_lower_case: true` in `tokenizer_config.json`).
# </details>
#
# **The file just read:** `minisbert/sentence_model.py`: tokens → transformer → pooling → sentence embedding, as one module
# that can be read in one sitting. `minisbert/sentence_encoder.py` wraps it and takes text. Next:
# [02 Why attention](02_why_attention.ipynb).
