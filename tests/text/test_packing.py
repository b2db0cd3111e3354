"""text/packing.py: every text whole, once, in few rows; and a packed row computes what its texts give alone."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import ENCODERS, tiny
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minisbert.checkpoint.modules import Normalize, Pooling
from minisbert.inference.batching import rectangle
from minisbert.pretrained import load_pretrained
from minisbert.sentence_model import define
from minisbert.text.packing import PackedBatch, pack, packed_batches, stream_shape

WEIGHTS = Path(__file__).parents[2] / "weights"
# Two shapes of one model in float32, embeddings of length 1.
ACROSS_SHAPES = 1e-6
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@given(st.lists(st.integers(1, 130), min_size=1, max_size=60), st.integers(1, 8))
@settings(deadline=None)
def test_every_text_is_whole_and_in_one_place(lengths, multiple):
    texts = [list(np.arange(length) + 1000 * number + 5) for number, length in enumerate(lengths)]
    rows, where = pack(texts, padding_id=0, multiple=multiple)
    T = rows.lengths_PT.shape[1]
    assert len(rows.token_ids_PL) % multiple == 0 and len(set(where)) == len(texts)
    for text, place in zip(texts, where, strict=True):
        here = rows.segmentation_PL[place // T] == place % T
        np.testing.assert_array_equal(rows.token_ids_PL[place // T][here], text)
        np.testing.assert_array_equal(rows.position_PL[place // T][here], np.arange(len(text)))
        assert rows.lengths_PT.flat[place] == len(text)
    assert (rows.segmentation_PL >= 0).sum() == sum(lengths) == rows.lengths_PT.sum()
    assert np.all(rows.token_ids_PL[rows.segmentation_PL < 0] == 0)


def test_rows_are_full():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(2.5, 0.5, 256).astype(int), 4, 60)  # as SNLI's sentences
    rows, _ = pack([[1] * length for length in lengths], padding_id=0)
    assert rows.token_ids_PL.size < 1.1 * lengths.sum()


def texts_of(pretrained, number=12):
    rng = np.random.default_rng(1)
    longest = min(20, pretrained.max_positions)
    return [rng.integers(5, 60, rng.integers(2, longest + 1)).tolist() for _ in range(number)]


@pytest.mark.slow
@pytest.mark.parametrize("family", ENCODERS)
def test_packed_texts_are_as_they_are_alone(family):
    """With dropout; without, and in each pooling mode, for one family: `check_encoder` packs the token embeddings of all.

    Models of other parts are packed in tests/test_modules.py and tests/encoders/test_static.py.
    """
    pretrained = load_pretrained(tiny(family))
    params = {"encoder": pretrained.params["encoder"]}  # without a Dense
    texts = texts_of(pretrained)
    modes = MODES if family == "bert" else ("mean", "max")  # all of them see what these two see
    definition, _ = define(replace(pretrained.model_config, modules=(Pooling(modes), Normalize())))
    padding_id = pretrained.folder.config["pad_token_id"]
    rows, where = pack(texts, padding_id=padding_id)
    keys_R = jax.random.split(jax.random.key(3), len(texts))
    dropout_keys_PT = (
        jnp.take(keys_R, np.zeros(rows.lengths_PT.size, int)).at[where].set(keys_R).reshape(rows.lengths_PT.shape)
    )

    @jax.jit
    def packed(params, rows, dropout_keys_PT):
        return nnx.merge(definition, params).packed(rows, dropout_keys_PT)

    @jax.jit
    def alone(params, token_ids_BL, lengths_B, dropout_keys_B):
        return nnx.merge(definition, params)(token_ids_BL, lengths_B, 0, dropout_keys_B).sentence_BD

    batch = rectangle(list(enumerate(texts)), len(texts), 24, padding_id)
    expected = {}
    for dropout in (False, True) if family == "bert" else (True,):
        embeddings_PTD = np.asarray(packed(params, rows, dropout_keys_PT if dropout else None))
        expected[dropout] = alone(params, batch.token_ids_BL, batch.lengths_B, keys_R if dropout else None)
        found_RD = embeddings_PTD.reshape(-1, embeddings_PTD.shape[-1])[where]
        np.testing.assert_allclose(found_RD, expected[dropout], rtol=0, atol=ACROSS_SHAPES, err_msg=f"{dropout=}")
        assert np.isfinite(embeddings_PTD).all()  # empty slots too: their gradient must not be NaN
    if len(expected) == 2:
        assert np.abs(expected[True] - expected[False]).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("family", ENCODERS)
def test_a_text_is_independent_of_its_neighbours_and_gradients_are_finite(family):
    pretrained = load_pretrained(tiny(family))
    params = {"encoder": pretrained.params["encoder"]}  # without a Dense
    definition, _ = define(replace(pretrained.model_config, modules=(Pooling(("max", "mean")), Normalize())))
    rows, where = pack([[5, 6, 7, 8], [9, 10, 11]], padding_id=pretrained.folder.config["pad_token_id"])

    def first(params, token_ids_PL):
        embeddings = nnx.merge(definition, params).packed(rows._replace(token_ids_PL=token_ids_PL))
        first_D = embeddings.reshape(-1, embeddings.shape[-1])[where[0]]
        return first_D.sum(), first_D

    ids = rows.token_ids_PL.copy()
    ids[rows.segmentation_PL == 1] = 33
    program = jax.jit(jax.value_and_grad(first, has_aux=True))
    ((_, found), gradient), ((_, other), _) = program(params, rows.token_ids_PL), program(params, ids)
    np.testing.assert_array_equal(found, other)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_a_prompt_is_left_out_of_the_pooling_where_the_model_says_so():
    pretrained = load_pretrained(WEIGHTS / "tiny-bert")
    texts = [[5, 6, 7, 8, 9, 10], [5, 6, 11, 12]]
    definition, _ = define(replace(pretrained.model_config, modules=(Pooling(("mean",), include_prompt=False),)))
    rows, where = pack(texts, padding_id=0, prompt_lengths=[2, 2])
    model = nnx.merge(definition, pretrained.params)
    found = model.packed(rows).reshape(-1, pretrained.model_config.dimension)[where]
    batch = rectangle(list(enumerate(texts)), 2, 8, 0)
    expected = model(batch.token_ids_BL, batch.lengths_B, 2).sentence_BD
    np.testing.assert_allclose(found, expected, rtol=0, atol=ACROSS_SHAPES)


# --- a stream of texts, for encoding ---------------------------------------------------------------------------------


@given(st.lists(st.integers(2, 150), max_size=400), st.sampled_from([64, 256, 300]), st.integers(1, 3))
@example([25, 25, 25, 40, 40, 40], 256, 1)  # a full batch and one row more
@settings(deadline=None, max_examples=30)
def test_a_stream_is_packed_once_each_in_one_shape(lengths, tokens, devices):
    texts = [list(np.arange(length) + 1000 * number + 5) for number, length in enumerate(lengths)]
    seen, left = [], []
    for batch in packed_batches(texts, tokens=tokens, padding_id=0, prompt_length=2, devices=devices):
        if not isinstance(batch, PackedBatch):
            left.append(batch)
            continue
        assert batch.texts.token_ids_PL.shape == stream_shape(tokens, devices)
        T = batch.texts.lengths_PT.shape[1]
        for text, place in zip(batch.rows, batch.where, strict=True):
            here = batch.texts.segmentation_PL[place // T] == place % T
            np.testing.assert_array_equal(batch.texts.token_ids_PL[place // T][here], texts[text])
            assert batch.texts.prompts_PT.flat[place] == 2
        seen += batch.rows
    assert all(ids == texts[place] for place, ids in left)
    assert sorted(seen + [place for place, _ in left]) == list(range(len(texts)))
    P, L = stream_shape(tokens, devices)  # 3/8 of a batch would have gone as one, and after it all the others
    short = [ids for _, ids in left if len(ids) <= L]
    assert not short or (not seen and sum(map(len, short)) <= (P - P * 5 // 8) * L)


def test_the_rows_of_a_stream_are_full():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(2.5, 0.5, 2000).astype(int), 4, 60)
    real, computed = 0, 0
    for batch in packed_batches([[1] * length for length in lengths], tokens=1024, padding_id=0):
        if not isinstance(batch, PackedBatch):
            continue
        real += (batch.texts.segmentation_PL >= 0).sum()
        computed += batch.texts.segmentation_PL.size
    assert computed > 0.8 * lengths.sum()  # little is left over
    assert real > 0.97 * computed
