"""training/new_tokens.py: a new token has an id and a row of its own; what holds none is as it was, to the bit."""

from functools import cache

import numpy as np
import pytest
from families import TWINS, tiny
from runs import changed
from varied_sentences import SOME

from minisbert import CrossEncoder, SentenceEncoder
from minisbert.checkpoint.convert import flatten
from minisbert.errors import InputError
from minisbert.training.new_tokens import add_tokens

NEW = ["guitarists", "covid-19", "new york"]
TABLE = "encoder.token_embedding.embedding"


@cache
def encoder(family: str) -> SentenceEncoder:
    return SentenceEncoder(tiny(family))


def ids(model: SentenceEncoder, *texts: str) -> list[list[int]]:
    return model.tokenizer.tokenize(list(texts), max_length=model.max_seq_length).ids


def table(model: SentenceEncoder) -> np.ndarray:
    return np.asarray(flatten(model.pretrained.params)[TABLE])


@pytest.mark.parametrize("family", TWINS)
def test_a_new_token_is_one_id_and_starts_as_the_mean_of_its_pieces(family):
    before, grown = encoder(family), add_tokens(encoder(family), NEW)
    rows = len(table(before))
    assert table(grown).shape == (rows + 3, table(before).shape[1])
    assert grown.model_config.encoder.vocab_size == grown.pretrained.folder.config["vocab_size"] == rows + 3
    for number, token in enumerate(NEW, start=rows):
        # In a sentence: its neighbours are split as before, and the space before it belongs to it.
        [cut], [whole] = ids(before, f"the {token} play"), ids(grown, f"the {token} play")
        place = whole.index(number)
        pieces = cut[place : len(cut) - (len(whole) - place - 1)]
        assert whole[:place] + pieces + whole[place + 1 :] == cut
        assert len(pieces) > 1
        np.testing.assert_allclose(table(grown)[number], table(before)[pieces].mean(axis=0), rtol=0, atol=1e-7)
    np.testing.assert_array_equal(table(grown)[:rows], table(before))


@pytest.mark.parametrize("family", TWINS)
def test_texts_without_new_tokens_have_the_same_ids_and_to_the_bit_the_same_embeddings(family):
    before, grown = encoder(family), add_tokens(encoder(family), NEW)
    texts = [*SOME, "guitarist", "xguitarists guitaristsx", "covid-1 9", "newyork"]
    assert ids(grown, *texts) == ids(before, *texts)
    short = sorted((text for text in texts[::5] if text.strip()), key=len)[:8]  # one program
    ours, theirs = (model.encode([*short, "the guitarists"], on_truncate="ignore") for model in (grown, before))
    np.testing.assert_array_equal(ours[:-1], theirs[:-1])
    assert np.abs(ours[-1] - theirs[-1]).max() > 1e-4


def test_the_given_model_does_not_change():
    before = SentenceEncoder(tiny("bert"))
    bits, cut = table(before).tobytes(), ids(before, "the guitarists")
    add_tokens(before, NEW)
    assert table(before).tobytes() == bits
    assert ids(before, "the guitarists") == cut
    assert before.model_config.encoder.vocab_size == len(table(before))


@pytest.mark.parametrize("family", TWINS)
def test_a_grown_model_is_the_same_after_saving_and_loading(family, tmp_path):
    before = SentenceEncoder(tiny(family))
    before.prompts["query"] = "find: "
    before.max_seq_length = 40
    grown = add_tokens(before, NEW)
    assert (grown.prompts["query"], grown.max_seq_length) == ("find: ", 40)
    grown.save(tmp_path / "model")
    assert not {"vocab.txt", "vocab.json", "merges.txt"} & {file.name for file in (tmp_path / "model").iterdir()}
    loaded = SentenceEncoder(tmp_path / "model")
    texts = ["The GUITARISTS of New York", "covid-19, covid-19", *SOME[:20]]
    assert ids(loaded, *texts) == ids(grown, *texts)
    assert not changed(loaded, grown)
    if family == "bert":
        np.testing.assert_array_equal(loaded.encode(texts[:2]), grown.encode(texts[:2]))
    again = add_tokens(loaded, ["covid-19 vaccine"])  # a longer one that holds an earlier one
    [row] = ids(again, "the covid-19 vaccine")
    assert row.count(len(table(again)) - 1) == 1


def test_a_cross_encoder_of_a_grown_model_is_the_same_after_loading(tmp_path):
    """It marks the second text as segment 1."""
    model = CrossEncoder.from_encoder(add_tokens(SentenceEncoder("weights/tiny-bert"), ["zork"]), 1)
    assert model.pretrained.tokenizer.token_types
    model.save(tmp_path / "saved")
    pairs = [("a cat", "a zork"), ("the man", "sings")]
    assert np.array_equal(CrossEncoder(tmp_path / "saved").predict(pairs), model.predict(pairs))


def test_tokens_are_lower_cased_if_the_model_does_that(tmp_path):
    """Where the settings ask for lower case and tokenizer.json does not do it (old folders), tokens are lower-cased too."""
    model = SentenceEncoder(tiny("roberta"))
    model.pretrained.folder.do_lower_case = True
    model.save(tmp_path / "lower")
    grown = add_tokens(SentenceEncoder(tmp_path / "lower"), ["Guitarists"])
    number = len(table(grown)) - 1
    assert all(number in row for row in ids(grown, "the guitarists", "the GUITARISTS"))
    grown.save(tmp_path / "grown")
    assert ids(SentenceEncoder(tmp_path / "grown"), "the GUITARISTS") == ids(grown, "the GUITARISTS")


def test_unused_rows_of_the_table_are_used_first(tmp_path):
    model = SentenceEncoder(tiny("bert"))
    spare = add_tokens(model, ["guitarists"])  # a table with one row more ...
    spare.pretrained.tokenizer = model.tokenizer
    spare.pretrained.folder.tokenizer_files = model.pretrained.folder.tokenizer_files
    spare.tokenizer = model.tokenizer  # ... than the tokenizer has tokens
    rows = len(table(spare))
    assert len(table(add_tokens(spare, ["covid-19"]))) == rows
    assert len(table(add_tokens(spare, ["covid-19", "guitarists"]))) == rows + 1


def test_markers_and_signs():
    grown = add_tokens(encoder("bert"), ["[E1]", "♥"], whole_words=False)
    rows = len(table(grown))
    [row] = ids(grown, "[E1]cat ♥")
    assert row.count(rows - 2) == row.count(rows - 1) == 1
    unknown = encoder("bert").tokenizer.backend.token_to_id("[UNK]")
    np.testing.assert_allclose(table(grown)[-1], table(grown)[unknown], rtol=0, atol=1e-7)


def test_a_head_for_the_old_vocabulary_is_dropped_with_a_warning(caplog, tmp_path):
    model = SentenceEncoder(tiny("bert"))
    passthrough = model.pretrained.original.passthrough
    passthrough["cls.predictions.bias"] = np.zeros(len(table(model)), np.float32)
    passthrough["pooler.dense.bias"] = np.zeros(32, np.float32)
    grown = add_tokens(model, ["guitarists"])
    assert "cls.predictions.bias" in caplog.text
    assert set(grown.pretrained.original.passthrough) == set(passthrough) - {"cls.predictions.bias"}


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("guitarists", "tokens is 'guitarists'. Expected a list"),
        ([], "Expected a list with at least one"),
        ([3], r"tokens\[0\] is 3 \(int\)"),
        (["guitarists", ""], r"tokens\[1\] is ''"),
        ([" guitarists"], "without spaces around"),
        (["guitarists", "guitarists"], r"tokens\[1\] is 'guitarists', which this model reads as 'guitarists'"),
        (["Guitarists", "guitarists"], "which this model reads as 'Guitarists'"),
        (["the"], r"tokens\[0\] is 'the', which is already in the vocabulary as id 114"),
        (["THE"], "already in the vocabulary as id 114"),
        (["[CLS]"], "already in the vocabulary as id 2"),
        (["x[SEP]y"], r"contains the special token '\[SEP\]'"),
        (["\u200b\u0301"], "leaves nothing"),
        (["\ud800"], "lone surrogate"),
    ],
)
def test_wrong_tokens_are_refused(tokens, message):
    with pytest.raises(InputError, match=message):
        add_tokens(encoder("bert"), tokens)


def test_other_models_are_refused():
    with pytest.raises(InputError, match="Expected a SentenceEncoder loaded in float32"):
        add_tokens(SentenceEncoder(tiny("bert"), compute_dtype="bfloat16"), NEW)
    with pytest.raises(InputError, match="Expected a SentenceEncoder"):
        add_tokens("tiny-bert", NEW)
