"""TSDAE's loss and its gradient in every weight against the NumPy twin, its batches, and what it refuses."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minisbert import SentenceEncoder, TrainConfig, train
from minisbert.checkpoint.convert import flatten
from minisbert.data.sampler import Batch
from minisbert.errors import InputError
from minisbert.reference import denoising as reference
from minisbert.sentence_model import define
from minisbert.training.collate import batch_arrays
from minisbert.training.denoising import damaged_batch, denoising_auto_encoder, initial_decoder
from minisbert.training.losses import Targets
from minisbert.training.siamese import gradcache, gradient_with_model, loss_with_model, packed_embed, siamese_loss

WEIGHTS = Path(__file__).parents[2] / "weights"
# As in test_losses.py: rounding of float64; an error of step^2, and rounding divided by the step.
FLOAT64, DIFFERENCES, STEP = 1e-10, 1e-7, 1e-5
WHOLE = [[2, 20, 7, 31, 9, 3], [2, 11, 12, 3], [2, 44, 5, 45, 3]]
DAMAGED = [[2, 31, 3], [2, 11, 3], [2, 44, 45, 3]]
ENCODER = SentenceEncoder(WEIGHTS / "tiny-bert")
CONFIG = ENCODER.model_config.encoder


def random(tree, seed, size=0.3):
    """The same tree with other numbers, in float64: a new decoder's are nearly all 0."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) + size * rng.normal(size=leaf.shape), tree)


# Made once: with enable_x64 the same key gives other numbers.
HEADS = {tie: initial_decoder(jax.random.key(0), 32, 0, params=ENCODER.params, tie=tie) for tie in (True, False)}


def state(tie):
    return {"model": random(ENCODER.params, 0, 0.05), "head": random(HEADS[tie], 1)}


def batch_of():
    arrays = batch_arrays(Batch(0, 0, np.arange(3), [[""] * 3], None), DAMAGED, padding_id=0)
    tokens_BL = np.array([ids + [-1] * (9 - len(ids)) for ids in WHOLE], np.int32)
    return arrays._replace(targets=Targets(tokens_BL=tokens_BL))


def gradient_of(tie, chunk_size=None):
    with jax.enable_x64(True):
        definition, _ = define(ENCODER.model_config, jnp.float64)
        embed, loss = packed_embed(definition), loss_with_model(partial(denoising_auto_encoder, tie=tie), definition)
        plain = jax.value_and_grad(siamese_loss(embed, loss))
        gradient = gradient_with_model(plain if chunk_size is None else gradcache(embed, loss, chunk_size))
        given = jax.tree.map(jnp.asarray, state(tie))
        return jax.jit(gradient)(given, batch_of(), None)


def twin(params):
    """The loss of all parameters: the embeddings of the damaged texts by the twin of BERT, and mean pooling."""
    from minisbert.reference.encoder import bert

    encoder = params["model"]["encoder"]
    sentence_BD = np.stack(
        [bert(encoder, CONFIG, np.array([ids]), np.ones((1, len(ids)), bool))[0].mean(axis=0) for ids in DAMAGED]
    )
    decoder = params["head"].get("encoder", encoder)
    return reference.denoising_auto_encoder(sentence_BD, decoder, params["head"], CONFIG, WHOLE)


@pytest.mark.parametrize("tie", [True, False])
def test_value_and_gradient_are_the_twins(tie):
    """Finite differences of some entries of every parameter: of the encoder, the decoder and the head."""
    value, gradient = gradient_of(tie)
    params = state(tie)
    assert float(value) == pytest.approx(twin(params), rel=FLOAT64)
    leaves, slopes = flatten(params), flatten(gradient)
    assert leaves.keys() == slopes.keys()
    rng = np.random.default_rng(3)
    for name, leaf in leaves.items():
        largest = np.unravel_index(np.abs(slopes[name]).argmax(), leaf.shape)
        for place in (largest, tuple(rng.integers(leaf.shape))):
            before, ends = leaf[place], []
            for change in (STEP, -STEP):
                leaf[place] = before + change
                ends.append(twin(params))
            leaf[place] = before
            assert abs((ends[0] - ends[1]) / (2 * STEP) - slopes[name][place]) < DIFFERENCES, (name, place)


def test_gradcache_gives_the_same_gradient():
    (value, plain), (chunked_value, chunked) = gradient_of(True), gradient_of(True, 2)
    assert float(value) == pytest.approx(float(chunked_value), rel=FLOAT64)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=FLOAT64), plain, chunked)


def test_a_token_does_not_see_itself_or_later_ones():
    """What is said of the first tokens is the same with other tokens after them, or padding."""
    definition, _ = define(ENCODER.model_config)
    loss = jax.jit(loss_with_model(denoising_auto_encoder, definition))

    def surprise(*ids):
        """The sum of -log p over the tokens after the first."""
        targets = Targets(tokens_BL=jnp.array([[*ids, *[-1] * (5 - len(ids))]]))
        mean = loss(jnp.ones((1, 1, 32)), targets, {**HEADS[True], "model": ENCODER.params})
        return float(mean) * (len(ids) - 1)

    def said(*ids):
        """-log p of the last token."""
        return surprise(*ids) - surprise(*ids[:-1])

    logits = [said(2, 20, token) for token in range(187)]
    assert np.sum(np.exp(-np.array(logits))) == pytest.approx(1, abs=1e-4)  # a distribution: the token is not seen
    whole = sum(said(2, *(20, 7, 31, 9)[:n]) for n in range(1, 5))
    assert surprise(2, 20, 7, 31, 9) == pytest.approx(whole, rel=1e-5)


def test_tokens_are_deleted_and_some_always_stay():
    texts = ["a cat sees the dog and the dog sees a cat in the house", "a", ""] * 20
    batch = Batch(0, 1, np.arange(60), [texts], None)
    options = {"max_length": 32, "padding_id": 0}
    arrays, cut = damaged_batch(batch, ENCODER.tokenizer, **options)
    whole = ENCODER.tokenizer.tokenize(texts, max_length=32).ids
    kept, all_tokens = 0, 0
    for b, ids in enumerate(whole):
        row, slot = divmod(int(arrays.index_SB[0, b]), arrays.rows.lengths_PT.shape[1])
        damaged = arrays.rows.token_ids_PL[row][arrays.rows.segmentation_PL[row] == slot].tolist()
        assert damaged[0] == ids[0] and damaged[-1] == ids[-1]
        rest = iter(ids)
        assert all(token in rest for token in damaged)  # a part of it, in its order
        assert len(damaged) > 2 or len(ids) == 2
        tokens_L = arrays.targets.tokens_BL[b]
        assert tokens_L[tokens_L >= 0].tolist() == ids
        if b % 3 == 0:
            kept, all_tokens = kept + len(damaged) - 2, all_tokens + len(ids) - 2
    assert cut == 0 and abs(kept / all_tokens - 0.4) < 0.1
    again, _ = damaged_batch(batch, ENCODER.tokenizer, **options)
    jax.tree.map(np.testing.assert_array_equal, arrays, again)
    other, _ = damaged_batch(batch._replace(epoch=2), ENCODER.tokenizer, **options)
    assert other.rows.token_ids_PL.shape != arrays.rows.token_ids_PL.shape or (
        (other.rows.token_ids_PL != arrays.rows.token_ids_PL).any()
    )
    # Damaged texts of one's own.
    given, _ = damaged_batch(batch._replace(texts=[["cat"] * 60, texts]), ENCODER.tokenizer, **options)
    assert set(given.rows.lengths_PT.ravel()) == {0, len(ENCODER.tokenizer.tokenize(["cat"], max_length=32).ids[0])}
    np.testing.assert_array_equal(given.targets.tokens_BL, arrays.targets.tokens_BL)


def test_wider_rows_hold_the_same_tokens():
    arrays, _ = damaged_batch(
        Batch(0, 0, np.arange(2), [["a cat", "a dog"]], None), ENCODER.tokenizer, max_length=32, padding_id=0
    )
    wider = arrays.pad_to(4, 128, 0)
    assert wider.targets.tokens_BL.shape == (2, 128) and (wider.targets.tokens_BL[:, 64:] == -1).all()
    np.testing.assert_array_equal(wider.targets.tokens_BL[:, :64], arrays.targets.tokens_BL)


ROWS = [{"text": f"the {a} and {b}"} for a in ("cat", "dog") for b in ("house", "river")]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("tiny-static", {}, r"0 blocks.*Expected equal widths and post-norm blocks"),
        *((f"tiny-{name}", {}, "post-norm blocks") for name in ("modernbert", "gemma3_text", "qwen3")),
        ("tiny-albert", {}, "sentence embeddings of width"),
        ("tiny-bert", {"lora_rank": 2}, "lora_rank is 2, but denoising_auto_encoder"),
        ("tiny-bert", {"prompts": ("query: ",)}, "makes its own batches"),
        ("tiny-bert", {"loss_options": {"deletion": 1.0}}, r"deletion is 1\.0"),
    ],
)
def test_what_cannot_be_decoded_is_refused(name, settings, message):
    config = TrainConfig(ROWS, loss="denoising_auto_encoder", batch_size=4, max_steps=1, **settings)
    with pytest.raises(InputError, match=message):
        train(SentenceEncoder(WEIGHTS / name), config, show_progress=False)
    with pytest.raises(InputError, match="Expected a run of the trainer"):
        denoising_auto_encoder(jnp.ones((1, 2, 32)), Targets())
