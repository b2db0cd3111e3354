"""Properties that hold for every input, tried on inputs that hypothesis makes: tokenizer, pooling, similarity, search, convert.

Numbers are small and whole, so that sums and products are exact in float32 whatever their order, and equal means equal.
The same inputs on every run. (Batches and packed rows have theirs in tests/text, the order of training data in
tests/training.)
"""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minisbert.checkpoint.convert import Rule, convert, export, table_for
from minisbert.checkpoint.modules import POOLING_MODES
from minisbert.checkpoint.tensors import SafetensorsFiles, write_tensors
from minisbert.cross_encoder.tokens import CrossEncoderTokenizer
from minisbert.pooling import pool
from minisbert.pretrained import load_pretrained
from minisbert.quantization import quantize_embeddings
from minisbert.search.exact import nearest
from minisbert.similarity import PAIRWISE_SIMILARITIES, SIMILARITIES
from minisbert.text.tokenizer import Tokenizer

WEIGHTS = Path(__file__).parents[2] / "weights"
# Nothing that depends on the time a busy machine takes.
quick = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


@cache
def tokenizer(name: str) -> Tokenizer:
    return load_pretrained(WEIGHTS / name, put=lambda array: array).tokenizer


# --- tokenizer -----------------------------------------------------------------------------------------------------

names = st.sampled_from(["tiny-bert", "tiny-roberta", "tiny-xlm-roberta", "tiny-modernbert"])
# Words that the tiny vocabularies know, and any Unicode that can be encoded.
some_text = st.one_of(
    st.lists(st.sampled_from("a man walk dog the [SEP] </s> ##a 12,5 é 中".split()), max_size=30).map(" ".join),
    st.text(st.characters(codec="utf-8"), max_size=60),
)


@given(names, st.lists(some_text, max_size=8), st.integers(3, 40), st.sampled_from(["", "query: "]))
@quick
def test_a_sentence_is_tokenized_alone_whole_then_cut(name, sentences, max_length, prompt):
    tokens = tokenizer(name).tokenize(sentences, max_length=max_length, prompt=prompt)
    before, after = tokenizer(name).prefix, tokenizer(name).suffix
    for sentence, ids, (all_tokens, kept, dropped) in zip(sentences, tokens.ids, tokens.counts.tolist(), strict=True):
        [whole] = tokenizer(name).tokenize([prompt + sentence], max_length=10_000).ids
        content = whole[len(before) : len(whole) - len(after)]
        assert ids == before + content[: max_length - len(before) - len(after)] + after
        assert (all_tokens, kept, dropped) == (len(whole), len(ids), len(whole) - len(ids))
        assert len(ids) <= max_length and min(ids) >= 0 and max(ids) <= tokenizer(name).largest_id
    assert tokens.truncated == sum(dropped > 0 for dropped in tokens.counts[:, 2])


@given(names, st.lists(st.tuples(some_text, some_text), max_size=5), st.integers(8, 40))
@quick
def test_of_a_pair_that_is_too_long_the_longer_text_gives_way(name, pairs, max_length):
    rows = CrossEncoderTokenizer(tokenizer(name))
    tokens, between = rows.tokenize(pairs, max_length=max_length), rows.between
    before, after = tokenizer(name).prefix, tokenizer(name).suffix
    for (a, b), ids, first, count in zip(pairs, tokens.ids, tokens.first_lengths, tokens.counts.tolist(), strict=True):
        (a_ids, _), (b_ids, _) = tokenizer(name).contents([a, b])
        keep_a = first - len(before) - len(after)
        keep_b = len(ids) - first - len(between)
        assert between and not set(between) - set(after), "separators"
        assert ids == before + a_ids[:keep_a] + between + b_ids[:keep_b] + after
        assert count == [len(a_ids) + len(b_ids) + len(ids) - keep_a - keep_b, len(ids), count[0] - len(ids)]
        if count[2]:
            assert len(ids) == max_length
            # What was cut is at least as long as the other, but for the odd token: it goes to the longer, else to the second.
            odd_to_a = len(a_ids) > len(b_ids)
            assert keep_a == len(a_ids) or keep_a >= keep_b - (not odd_to_a)
            assert keep_b == len(b_ids) or keep_b >= keep_a - odd_to_a


# --- pooling -------------------------------------------------------------------------------------------------------

B, L, D = 2, 6, 3
whole_numbers = st.integers(-8, 8).map(float)
hidden = arrays(np.float32, (B, L, D), elements=whole_numbers)
lengths = st.lists(st.integers(1, L), min_size=B, max_size=B)


def mask_of(lengths_B):
    return np.arange(L) < np.array(lengths_B)[:, None]


def pooled(hidden_BLD, mask_BL, mode):
    return np.asarray(pool(jnp.asarray(hidden_BLD), jnp.asarray(mask_BL), [mode]))


@given(hidden, hidden, lengths, st.sampled_from(POOLING_MODES))
@quick
def test_pooling_sees_each_text_alone_and_no_padding(hidden_BLD, other_BLD, lengths_B, mode):
    mask_BL = mask_of(lengths_B)
    found_BD = pooled(hidden_BLD, mask_BL, mode)
    mixed_BLD = np.where(mask_BL[:, :, None], hidden_BLD, other_BLD)
    assert (pooled(mixed_BLD, mask_BL, mode) == found_BD).all()
    assert (pooled(hidden_BLD[::-1], mask_BL[::-1], mode) == found_BD[::-1]).all()
    one_length_B = [lengths_B[0]] * B
    assert (pooled(np.stack([hidden_BLD[0]] * B), mask_of(one_length_B), mode) == found_BD[0]).all()


@given(hidden, lengths)
@quick
def test_poolings_among_each_other(hidden_BLD, lengths_B):
    mask_BL, count_B1 = mask_of(lengths_B), np.array(lengths_B, np.float32)[:, None]
    found = {mode: pooled(hidden_BLD, mask_BL, mode) for mode in POOLING_MODES}
    real = [hidden_BLD[b, :n] for b, n in enumerate(lengths_B)]
    lowest, highest = (np.stack([function(rows, axis=0) for rows in real]) for function in (np.min, np.max))
    assert (found["max"] == highest).all()
    for mode in ("mean", "weightedmean"):
        assert ((lowest - 1e-6 <= found[mode]) & (found[mode] <= highest + 1e-6)).all()
    np.testing.assert_allclose(found["mean_sqrt_len_tokens"], found["mean"] * np.sqrt(count_B1), rtol=0, atol=1e-5)
    assert (found["cls"] == [rows[0] for rows in real]).all()
    assert (found["lasttoken"] == [rows[-1] for rows in real]).all()
    together = np.asarray(pool(jnp.asarray(hidden_BLD), jnp.asarray(mask_BL), POOLING_MODES))
    assert (together == np.concatenate([found[mode] for mode in POOLING_MODES], axis=1)).all()


# --- similarity ----------------------------------------------------------------------------------------------------

rows = arrays(np.float32, (4, 5), elements=whole_numbers)
TOLERANCE = 2e-6  # of float32 cosines


@given(rows, rows, st.sampled_from(sorted(SIMILARITIES)))
@quick
def test_similarity_is_symmetric_and_its_diagonal_is_pairwise(a_BD, b_BD, name):
    found_BM = np.asarray(SIMILARITIES[name](a_BD, b_BD))
    np.testing.assert_allclose(SIMILARITIES[name](b_BD, a_BD), found_BM.T, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(PAIRWISE_SIMILARITIES[name](a_BD, b_BD), found_BM.diagonal(), rtol=1e-6, atol=TOLERANCE)
    for i, a in enumerate(a_BD):
        np.testing.assert_allclose(SIMILARITIES[name](a[None], b_BD)[0], found_BM[i], rtol=1e-6, atol=TOLERANCE)


@given(rows, rows, st.sampled_from([0.25, 2.0, 1024.0]))
@quick
def test_cosine_sees_directions_and_distances_are_distances(a_BD, b_BD, scale):
    cosine_BM = np.asarray(SIMILARITIES["cosine"](a_BD, b_BD))
    assert (np.abs(cosine_BM) <= 1 + TOLERANCE).all()
    np.testing.assert_allclose(SIMILARITIES["cosine"](a_BD * scale, b_BD), cosine_BM, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(SIMILARITIES["cosine"](-a_BD, b_BD), -cosine_BM, rtol=0, atol=TOLERANCE)
    for name in ("euclidean", "manhattan"):
        ab, aa = (-np.asarray(SIMILARITIES[name](a_BD, other)) for other in (b_BD, a_BD))
        assert (ab >= 0).all() and (aa.diagonal() == 0).all()
        assert (ab[0] <= aa[0][:, None] + ab + 1e-4).all()  # the way by another point is not shorter


# --- search --------------------------------------------------------------------------------------------------------

corpora = st.sampled_from([9, 70]).flatmap(lambda size: arrays(np.float32, (size, 5), elements=whole_numbers))
queries = arrays(np.float32, (3, 5), elements=whole_numbers)


@given(queries, corpora, st.sampled_from([3, 100]), st.sampled_from([None, 16]))
@quick
def test_search_is_a_stable_sort(queries_BD, corpus_MD, k, chunk_rows):
    hits = nearest(queries_BD, corpus_MD, k, similarity="dot", chunk_rows=chunk_rows)
    scores_BM = queries_BD @ corpus_MD.T
    order = np.argsort(-scores_BM, axis=1, kind="stable")[:, :k]
    assert (hits.rows_BK == order).all()
    assert (hits.scores_BK == np.take_along_axis(scores_BM, order, axis=1)).all()


@given(queries, corpora, st.sampled_from([3]))
@quick
def test_search_of_two_halves_is_search_of_the_whole(queries_BD, corpus_MD, k):
    whole = nearest(queries_BD, corpus_MD, k, similarity="dot")
    half = len(corpus_MD) // 2
    parts = [(nearest(queries_BD, part, k, similarity="dot"), start) for part, start in
             ((corpus_MD[:half], 0), (corpus_MD[half:], half)) if len(part)]  # fmt: skip
    scores_BK = np.concatenate([hits.scores_BK for hits, _ in parts], axis=1)
    rows_BK = np.concatenate([hits.rows_BK + start for hits, start in parts], axis=1)
    best = np.lexsort((rows_BK, -scores_BK), axis=1)[:, :k]
    assert (np.take_along_axis(rows_BK, best, axis=1) == whole.rows_BK).all()


@given(arrays(np.float32, (6, 16), elements=st.floats(-1, 1, width=32)))
@quick
def test_quantized_embeddings_keep_signs_and_order(embeddings_BD):
    bits = np.unpackbits(quantize_embeddings(embeddings_BD, "ubinary"), axis=1)
    assert (bits == (embeddings_BD > 0)).all()
    ranges_2D = np.array([[-1] * 16, [1] * 16], np.float32)
    codes = quantize_embeddings(embeddings_BD, "int8", ranges_2D).astype(int)
    a, b = embeddings_BD[:-1], embeddings_BD[1:]
    assert ((a <= b) <= (codes[:-1] <= codes[1:])).all()
    assert (np.abs((codes + 128.5) / 127.5 - 1 - embeddings_BD) <= 1 / 127).all()


# --- convert -------------------------------------------------------------------------------------------------------

RULES = [
    Rule("embeddings.weight", "table.embedding", "V,D"),
    Rule(("layer.{i}.q.weight", "layer.{i}.k.weight"), "blocks.{i}.qk.kernel", "D,2E", transpose=True),
    Rule(("layer.{i}.q.bias", "layer.{i}.k.bias"), "blocks.{i}.qk.bias", "2E"),
    Rule("layer.{i}.LayerNorm.weight", "blocks.{i}.norm.scale", "D", first=1),
]
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


@st.composite
def checkpoints(draw):
    """A checkpoint of that table of rules, each tensor of a dtype of its own, with a prefix, carried tensors, old names."""
    layers, width, out = (draw(st.integers(1, 3)) for _ in range(3))
    shapes = {"table.embedding": (5, width)}
    theirs = {"embeddings.weight": (5, width)}
    for i in range(layers):
        shapes |= {f"blocks.{i}.qk.kernel": (width, 2 * out), f"blocks.{i}.qk.bias": (2 * out,)}
        theirs |= {f"layer.{i}.{part}.weight": (out, width) for part in "qk"}
        theirs |= {f"layer.{i}.{part}.bias": (out,) for part in "qk"}
        if i >= 1:
            shapes[f"blocks.{i}.norm.scale"] = (width,)
            theirs[f"layer.{i}.LayerNorm.{draw(st.sampled_from(['weight', 'gamma']))}"] = (width,)
    prefix = draw(st.sampled_from(["", "model."]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tensors = {
        prefix + name: rng.normal(size=shape).astype(draw(st.sampled_from(DTYPES))) for name, shape in theirs.items()
    }
    if draw(st.booleans()):
        tensors["pooler.bias"] = rng.integers(0, 9, 4)
    table = table_for(RULES, SimpleNamespace(num_hidden_layers=layers), V=5, D=width, E=out)
    return table, shapes, tensors


@given(checkpoints())
@quick
def test_export_of_convert_is_the_file(tmp_path_factory, checkpoint):
    table, shapes, tensors = checkpoint
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tensors(folder / "model.safetensors", tensors)
    converted = convert(SafetensorsFiles(folder), table, passthrough=["pooler.*"], prefix="model.")
    assert {name: array.shape for name, array in converted.params.items()} == shapes
    assert all(array.dtype == np.float32 for array in converted.params.values())
    given_back = export(converted, table)
    assert given_back.keys() == tensors.keys()
    for name, array in tensors.items():
        assert given_back[name].dtype == array.dtype and given_back[name].shape == array.shape
        assert given_back[name].tobytes() == array.tobytes(), name
