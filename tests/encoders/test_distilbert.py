"""encoders/distilbert.py: what DistilBERT does otherwise than BERT. The rest is in test_families.py."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from minisbert import SentenceEncoder
from minisbert.encoders import bert, distilbert

sys.path.insert(0, str(Path(__file__).parents[1]))
from families import compiled, random_encoder, tiny

SETTINGS = json.loads((tiny("distilbert") / "config.json").read_text())


def test_it_is_bert_without_segments():
    """The same weights in BERT with a segment row of zeros: the same, whatever segments are given."""
    config = distilbert.Config.from_json({**SETTINGS, "n_layers": 1})
    model, params = random_encoder(distilbert, config)
    names = {"hidden_size": 30, "num_hidden_layers": 1, "num_attention_heads": 5, "intermediate_size": 60}
    values = names | {"vocab_size": config.vocab_size, "max_position_embeddings": 64, "type_vocab_size": 1}
    segments = {"segment_embedding": {"embedding": np.zeros((1, 30), np.float32)}}
    theirs = compiled(bert, bert.Config.from_json(values), params | segments)
    token_ids_BL = np.random.default_rng(0).integers(0, config.vocab_size, (2, 9))
    mask_BL = np.ones_like(token_ids_BL, bool)
    expected = theirs(token_ids_BL, mask_BL)
    np.testing.assert_allclose(model(token_ids_BL, mask_BL), expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(model(token_ids_BL, mask_BL, mask_BL.astype(np.int32)), expected, rtol=0, atol=2e-6)


def test_a_dense_after_it_finds_the_width_under_its_own_name(tmp_path):
    """config.json says `dim`; the chain of modules must know that width, when reading and when writing."""
    folder = Path(shutil.copytree(tiny("distilbert"), tmp_path / "model"))
    here = folder / "2_Dense"
    here.mkdir()
    (here / "config.json").write_text(json.dumps({"in_features": 30, "out_features": 7}))
    kernel, bias = np.random.default_rng(0).normal(size=(7, 30)), np.arange(7) / 10
    save_file(
        {"linear.weight": kernel.astype(np.float32), "linear.bias": bias.astype(np.float32)}, here / "model.safetensors"
    )
    chain = json.loads((folder / "modules.json").read_text())
    chain.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(chain))
    encoder = SentenceEncoder.load(folder)
    found = encoder.encode("a cat")
    mean_D = SentenceEncoder.load(tiny("distilbert")).encode("a cat")
    np.testing.assert_allclose(found, np.tanh(kernel @ mean_D + bias), rtol=0, atol=1e-6)
    encoder.save(tmp_path / "written")
    assert (
        json.loads((tmp_path / "written" / "1_Pooling" / "config.json").read_text())["word_embedding_dimension"] == 30
    )
    np.testing.assert_array_equal(SentenceEncoder.load(tmp_path / "written").encode("a cat"), found)
