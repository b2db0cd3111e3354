"""Flipped and added settings: a few of the draws of settings_draws.py, none silent; what the tables of keys.py cover."""

import sys
from pathlib import Path

import pytest

from minisbert.checkpoint.keys import ADAPTER, APPLIED, ARGUMENTS, HARMLESS, REFUSED

sys.path.insert(0, str(Path(__file__).parent))
from settings_draws import TABLES, draws

pytest.importorskip("sentence_transformers", reason="the parity extra is not installed")
pytestmark = pytest.mark.parity


def test_no_draw_is_silent():
    outcomes, bad = draws(24, seed=100_000)
    assert not bad, bad
    assert outcomes["equal"] and outcomes["refused"]


def test_the_tables_name_an_effect_for_what_sentence_transformers_reads():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    with_effects = ("config.json", "sentence_bert_config.json", "config_sentence_transformers.json", "modules.json")
    for table in (*(TABLES[file] for file in with_effects), *ARGUMENTS.values(), ADAPTER):
        assert all(effect in (APPLIED, HARMLESS, REFUSED) or isinstance(effect, tuple) for effect in table.values())
    assert set(Transformer.config_keys) <= TABLES["sentence_bert_config.json"].keys()
    model = SentenceTransformer("weights/tiny-bert", device="cpu")
    assert model[0].model.config.to_dict().keys() - TABLES["config.json"].keys() <= {
        *("attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "initializer_range"),
        *("intermediate_size", "layer_norm_eps", "max_position_embeddings", "num_attention_heads", "num_hidden_layers"),
        *("type_vocab_size",),
    }


def test_the_adapter_table_names_every_key_of_peft():
    peft = pytest.importorskip("peft")
    assert set(peft.LoraConfig().to_dict()) <= ADAPTER.keys()
