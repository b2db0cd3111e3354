"""Through SentenceEncoder: a sentence's embedding does not depend on what is encoded with it, or in which order."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minisbert import CrossEncoder, SentenceEncoder

pytestmark = pytest.mark.usefixtures("optimized")

WEIGHTS = Path(__file__).parents[2] / "weights"

# Another padded shape is another program, which sums in another order: float32 rounding on embeddings whose
# elements are below 3 (below 1 for mpnet, which normalizes); 7e-7 is measured.
ACROSS_SHAPES = 1e-6
# 10 rows of 12 tokens, 4 of 32: small, so that a handful of sentences fills several batches.
TOKEN_BUDGET = 128

WORDS = "the a cat dog sits eats on under red small mat house and when it rains we go home now".split()


def sentences_of(lengths, seed):
    """Random sentences of so many words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=length)) for length in lengths]


@pytest.fixture(scope="module", params=["tiny-bert", "tiny-mpnet"])
def encoder(request):
    return SentenceEncoder.load(WEIGHTS / request.param, token_budget=TOKEN_BUDGET)


def padded_lengths(encoder, sentences):
    """The padded length of each sentence."""
    return [
        encoder.shapes.length(count.kept, encoder.pretrained.max_positions) for count in encoder.token_counts(sentences)
    ]


def test_neighbours_and_order_do_not_matter_to_the_bit(encoder):
    # 26 sentences in batches of 10: the last holds 6 sentences and 4 rows of padding, in the same shape.
    sentences = sentences_of([1, 2] * 13, seed=0)
    assert set(padded_lengths(encoder, sentences)) == {12}
    expected = encoder.encode(sentences)
    rng = np.random.default_rng(1)
    for _ in range(40):
        # Any number of them but those that leave one to four over, which are computed in a shape of their own.
        count = rng.choice([2, 7, 8, 10, 12, 17, 18, 21, 22, 25])
        chosen = rng.permutation(26)[:count]
        strangers = sentences_of(rng.integers(1, 3, size=8), seed=int(rng.integers(1000)))
        found = encoder.encode([sentences[i] for i in chosen] + strangers)
        assert np.array_equal(found[:count], expected[chosen])


def test_the_place_in_the_batch_does_not_matter_to_the_bit(encoder):
    sentence, *strangers = sentences_of([2] * 8, seed=2)
    found = [encoder.encode([*strangers[:i], sentence, *strangers[i:]])[i] for i in range(8)]
    assert all(np.array_equal(embedding, found[0]) for embedding in found)


def test_a_sentence_given_twice_has_one_embedding(encoder):
    found = encoder.encode(sentences_of([2], seed=3) * 16)
    assert all(np.array_equal(embedding, found[0]) for embedding in found)


def test_the_order_of_a_call_that_fills_no_batch_does_not_matter_to_the_bit():
    """Sentences of several lengths share rectangles then; those of one length all go to the same."""
    encoder = SentenceEncoder.load(WEIGHTS / "tiny-bert")
    rng = np.random.default_rng(0)
    for count in (20, 40, 60):
        sentences = sentences_of(rng.integers(1, 9, count), seed=count)
        expected = encoder.encode(sentences)
        for _ in range(5):
            order = rng.permutation(count)
            assert np.array_equal(encoder.encode([sentences[i] for i in order]), expected[order])


def test_batch_size_and_mixed_lengths_matter_only_by_rounding(encoder):
    sentences = ["", *sentences_of([1, 12, 3, 11, 2, 1, 9, 2, 10], seed=4)]
    assert len(set(padded_lengths(encoder, sentences))) > 2
    expected = encoder.encode(sentences)
    assert np.abs(expected).max() > 0.1
    alone = np.stack([encoder.encode(sentence) for sentence in sentences])
    np.testing.assert_allclose(alone, expected, rtol=0, atol=ACROSS_SHAPES)
    order = np.random.default_rng(5).permutation(len(sentences))
    found = encoder.encode([sentences[i] for i in order], batch_size=3)
    np.testing.assert_allclose(found, expected[order], rtol=0, atol=ACROSS_SHAPES)


def test_token_embeddings_are_those_of_the_sentence_alone(encoder):
    sentences = sentences_of([1, 2, 2], seed=6)
    for sentence, whole in zip(sentences, encoder.encode(sentences, output_value=None), strict=True):
        alone = encoder.encode(sentence, output_value=None)
        assert np.array_equal(alone["input_ids"], whole["input_ids"])
        np.testing.assert_allclose(alone["token_embeddings"], whole["token_embeddings"], rtol=0, atol=5 * ACROSS_SHAPES)
        np.testing.assert_allclose(encoder.encode(sentence), whole["sentence_embedding"], rtol=0, atol=ACROSS_SHAPES)


def test_eight_devices_give_what_one_gives():
    texts = sentences_of([1, 3, 9, 2, 30, 4, 5, 2, 60, 7, 1, 12, 8], seed=4)
    command = [sys.executable, str(Path(__file__).with_name("encode_devices.py")), str(WEIGHTS), json.dumps(texts)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    encoder = SentenceEncoder.load(WEIGHTS / "tiny-bert")
    scores = CrossEncoder.from_encoder(encoder, 1, seed=0).predict([(text, texts[0]) for text in texts])
    assert found["devices"] == 8 and all(rows % 8 == 0 for rows in found["rows"])
    np.testing.assert_allclose(found["embeddings"], encoder.encode(texts), atol=ACROSS_SHAPES)
    np.testing.assert_allclose(found["batches of three"], encoder.encode(texts), atol=ACROSS_SHAPES)
    np.testing.assert_allclose(found["scores"], scores, atol=ACROSS_SHAPES)
