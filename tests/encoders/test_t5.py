"""encoders/t5.py: the forms of config.json, the second name of the token table, texts of any length. See test_families.py."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minisbert import SentenceEncoder
from minisbert.encoders import FAMILIES
from minisbert.errors import ModelFolderError
from minisbert.pretrained import load_pretrained, save_pretrained

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import tiny

SETTINGS = json.loads((tiny("t5") / "config.json").read_text())
WEIGHTS, SHARED, COPY = "model.safetensors", "shared.weight", "encoder.embed_tokens.weight"


def config(**values):
    return FAMILIES["t5"].Config.from_json({**SETTINGS, **values})


def test_the_names_of_feed_forward_nets():
    """ "gated-gelu" is T5 1.1's, which has the tanh approximation; every other name means what it says."""
    for name, expected in {"relu": (False, "relu"), "gated-gelu": (True, "gelu_new"), "gelu": (False, "gelu")}.items():
        found = config(feed_forward_proj=name)
        assert (found.gated, found.hidden_act) == expected
    unnamed = {key: value for key, value in SETTINGS.items() if key != "feed_forward_proj"}
    for model_type, gated in (("t5", False), ("mt5", True)):
        assert FAMILIES[model_type].Config.from_json(unnamed | {"model_type": model_type}).gated is gated
    newer = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    assert config(**newer) == config()
    with pytest.raises(ModelFolderError, match="'num_layers' is 2; expected 5"):
        config(num_hidden_layers=5)


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(tiny("t5"), tmp_path / "model"))


@pytest.mark.parametrize("both", [True, False])
def test_the_token_table_under_its_second_name(both, folder, tmp_path):
    """Older files have it under one of two names, or twice; both come back, and trained weights go into both."""
    arrays = load_file(folder / WEIGHTS)
    table = arrays[SHARED] if both else arrays.pop(SHARED)
    save_file(arrays | {COPY: table}, folder / WEIGHTS)
    model = load_pretrained(folder)
    embedding = model.params["encoder"]["token_embedding"]
    np.testing.assert_array_equal(embedding["embedding"], table)
    embedding["embedding"] = embedding["embedding"] + 1
    save_pretrained(model, tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / WEIGHTS)
    assert saved.keys() == arrays.keys() | {COPY}
    for name in {SHARED, COPY} & saved.keys():
        np.testing.assert_array_equal(saved[name], table + 1)


def test_two_tables_that_differ(folder):
    arrays = load_file(folder / WEIGHTS)
    save_file(arrays | {COPY: arrays[SHARED] + 1}, folder / WEIGHTS)
    with pytest.raises(ModelFolderError, match=f"'{COPY}' differs from '{SHARED}'"):
        load_pretrained(folder)


def test_texts_longer_than_in_training(folder):
    """A folder may ask for any length; each text ends in </s>, a cut one too."""
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 300}')
    encoder = SentenceEncoder.load(folder)
    ids = encoder.tokenizer.tokenize(["a cat", "cat " * 400], max_length=encoder.max_seq_length).ids
    assert [len(ids[1]), ids[0][-1], ids[1][-1]] == [300, 1, 1]
    assert np.isfinite(encoder.encode(["cat " * 250])).all()
