"""`SentenceEncoder(packing=True)`, `encode(out=...)` and corpus/stream.py: other ways to the same embeddings."""

from pathlib import Path

import numpy as np
import pytest
from varied_sentences import SENTENCES

from minisbert import InputError, SentenceEncoder
from minisbert.corpus.stream import encode_stream

WEIGHTS = Path(__file__).parents[2] / "weights"
# Two shapes of one model in float32, embeddings of length 1.
ACROSS_SHAPES = 1e-6
TEXTS = [f"{text} {number}" for number in range(4) for text in SENTENCES]


def pair(name: str, **options) -> tuple[SentenceEncoder, SentenceEncoder]:
    folder, options = WEIGHTS / name, {"token_budget": 256, **options}
    return SentenceEncoder.load(folder, **options), SentenceEncoder.load(folder, packing=True, **options)


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-mpnet", "tiny-modernbert", "tiny-static", "tiny-layers"])
@pytest.mark.parametrize("prompt", [None, "so: "])
def test_packed_or_not_the_embeddings_are_the_same(name, prompt):
    plain, packed = pair(name)
    options = {"prompt": prompt, "normalize_embeddings": True, "on_truncate": "ignore"}
    found = packed.encode(TEXTS, **options)
    np.testing.assert_allclose(found, plain.encode(TEXTS, **options), rtol=0, atol=ACROSS_SHAPES)
    assert any(line.output == "packed sentence embeddings" for line in packed.compilations)


def test_a_router_packs_in_every_route():
    plain, packed = pair("tiny-router")
    for encode in ("encode_query", "encode_document"):
        found, expected = (getattr(model, encode)(TEXTS, on_truncate="ignore") for model in (packed, plain))
        np.testing.assert_allclose(found, expected, rtol=0, atol=4 * ACROSS_SHAPES)
    assert any(line.output.startswith("packed") for line in packed.compilations)


def test_token_embeddings_and_a_batch_size_are_not_packed():
    plain, packed = pair("tiny-bert")
    options = {"on_truncate": "ignore"}
    for found, expected in zip(
        packed.encode(TEXTS, output_value="token_embeddings", **options),
        plain.encode(TEXTS, output_value="token_embeddings", **options),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    found, expected = (model.encode(TEXTS, batch_size=7, **options) for model in (packed, plain))
    np.testing.assert_array_equal(found, expected)
    assert not any(line.output.startswith("packed") for line in packed.compilations)


def test_nothing_is_compiled_after_warming_up():
    _, packed = pair("tiny-bert")
    known = len(packed.warm_up())
    packed.encode(TEXTS, on_truncate="ignore")
    assert len(packed.compilations) == known


def test_shapes_stay_few():
    """At most 16 shapes up to 512 tokens, and four of packed rows."""
    rng = np.random.default_rng(0)
    packed = SentenceEncoder.load(WEIGHTS / "tiny-bert", packing=True)
    packed.encode(["word " * int(length) for length in rng.integers(1, 80, 800)], on_truncate="ignore")
    assert len(packed.compilations) <= 20


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-mpnet"])
def test_large_calls_pack_by_themselves_and_neighbours_matter_only_by_rounding(name):
    encoder, rng = SentenceEncoder.load(WEIGHTS / name), np.random.default_rng(0)
    texts = [" ".join(rng.choice(["rain", "red", "cat", "sits"], size)) for size in rng.integers(1, 15, 700)]
    found = encoder.encode(texts)
    assert {line.output for line in encoder.compilations} == {"packed sentence embeddings"}
    expected = SentenceEncoder.load(WEIGHTS / name, packing=False).encode(texts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ACROSS_SHAPES)
    for _ in range(3):
        order = rng.permutation(700)[: rng.integers(128, 700)]
        np.testing.assert_allclose(encoder.encode([texts[i] for i in order]), found[order], rtol=0, atol=ACROSS_SHAPES)


def test_small_calls_and_bfloat16_do_not_pack_by_themselves():
    texts = [f"text {i}" for i in range(128)]
    small, half = (SentenceEncoder.load(WEIGHTS / "tiny-bert", compute_dtype=d) for d in ("float32", "bfloat16"))
    small.encode(texts[:127])
    half.encode(texts)
    assert not any(line.output.startswith("packed") for line in small.compilations + half.compilations)


def test_packing_is_yes_or_no():
    with pytest.raises(InputError, match=r"packing is 'yes'"):
        SentenceEncoder.load(WEIGHTS / "tiny-bert", packing="yes")


# --- where the embeddings go -----------------------------------------------------------------------------------------


def test_embeddings_are_written_into_out(tmp_path):
    encoder, _ = pair("tiny-bert")
    expected = encoder.encode(TEXTS, on_truncate="ignore")
    out = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, expected.shape)
    assert encoder.encode(TEXTS, on_truncate="ignore", out=out) is out
    out.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)


@pytest.mark.parametrize(
    "out, options, message",
    [
        (np.zeros((1, 32), np.float32), {}, r"out is float32 \[1, 32\]\. Expected .* float32 \[2, 32\]"),
        (np.zeros((2, 32)), {}, "out is float64"),
        ([], {}, "out is a list"),
        (np.broadcast_to(np.float32(0), (2, 32)), {}, "cannot be written"),
        (np.zeros((2, 32), np.float32), {"precision": "int8"}, "Leave one of them out"),
        (np.zeros((2, 8), np.float32), {"truncate_dim": 8, "output_value": None}, "Leave one of them out"),
    ],
)
def test_a_wrong_out_is_refused_and_not_touched(out, options, message):
    encoder, _ = pair("tiny-bert")
    with pytest.raises(InputError, match=message):
        encoder.encode(["a", "b"], out=out, **options)
    assert not np.any(out)


def test_a_stream_gives_what_the_whole_gives_and_reads_no_further_than_it_must():
    encoder, _ = pair("tiny-bert")
    read = []
    texts = (read.append(text) or text for text in TEXTS)
    parts = encode_stream(encoder, texts, part=100, on_truncate="ignore", normalize_embeddings=True)
    assert read == []
    first = next(parts)
    assert len(first) == len(read) == 100
    expected = encoder.encode(TEXTS, on_truncate="ignore", normalize_embeddings=True)
    np.testing.assert_allclose(np.concatenate([first, *parts]), expected, rtol=0, atol=ACROSS_SHAPES)


@pytest.mark.parametrize(
    "texts, options",
    [("one", {}), (5, {}), (["a"], {"precision": "int8"}), (["a"], {"part": 0}), (["a"], {"out": np.zeros(1)})],
)
def test_what_cannot_be_a_stream_is_refused_at_once(texts, options):
    with pytest.raises(InputError):
        encode_stream(pair("tiny-bert")[0], texts, **options)


def test_a_truncate_dim_that_cuts_nothing_is_said(caplog):
    encoder, _ = pair("tiny-bert")
    np.testing.assert_array_equal(encoder.encode("a", truncate_dim=1000), encoder.encode("a"))
    assert "truncate_dim is 1000, and the embeddings have 32 dimensions: nothing is cut off." in caplog.text
