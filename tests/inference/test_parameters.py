"""The parameters have one home: `encode`, `train`, `save`, `explain` and indexes all read `pretrained.params`."""

from pathlib import Path

import jax
import numpy as np
import pytest

from minisbert import CrossEncoder, SentenceEncoder, TrainConfig, train
from minisbert.checkpoint.convert import flatten, nest
from minisbert.errors import InputError
from minisbert.search.fingerprint import fingerprint

TEXTS = ["a man plays", "a woman sings", "the dog"]


def doubled(model):
    return jax.tree.map(lambda leaf: 2 * np.asarray(leaf), model.params)  # NumPy's arrays are taken too


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_new_parameters_are_used_and_the_old_model_keeps_its_own(tiny_bert, compute_dtype, tmp_path):
    encoder = SentenceEncoder(tiny_bert, compute_dtype=compute_dtype)
    before, mark = encoder.encode(TEXTS), fingerprint(encoder)
    compiled = len(encoder.compilations)
    other = encoder.with_params(doubled(encoder))
    found = other.encode(TEXTS)
    assert np.abs(found - before).max() > 1e-2
    assert len(other.compilations) == compiled
    assert fingerprint(other) != mark == fingerprint(encoder)
    np.testing.assert_array_equal(encoder.encode(TEXTS), before)
    other.save(tmp_path / "model")
    np.testing.assert_array_equal(SentenceEncoder(tmp_path / "model", compute_dtype=compute_dtype).encode(TEXTS), found)
    encoder.pretrained.params = other.params
    np.testing.assert_array_equal(encoder.encode(TEXTS), found)


def test_training_starts_from_them(tiny_bert, tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text("anchor\tpositive\n" + "".join(f"{text}\t{text} now\n" for text in TEXTS))
    encoder = SentenceEncoder(tiny_bert)
    other = encoder.with_params(doubled(encoder))
    config = TrainConfig(data=(str(file),), batch_size=2, max_steps=1, learning_rate=1e-12, dropout=False)
    trained = train(other, config, tmp_path / "run", show_progress=False)
    for name, leaf in flatten(other.params).items():
        np.testing.assert_allclose(flatten(trained.params)[name], leaf, rtol=0, atol=1e-6, err_msg=name)


def test_a_cross_encoder_has_the_same_home(tiny_bert):
    model = CrossEncoder.from_encoder(tiny_bert)
    other = model.with_params(doubled(model))
    assert other.predict((TEXTS[0], TEXTS[1])) != model.predict((TEXTS[0], TEXTS[1]))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda flat, name: flat.pop(name), "missing"),
        (lambda flat, name: flat.update(more=flat[name]), "unknown"),
        (lambda flat, name: flat.update({name: flat[name][:1]}), "expected float32"),
        (lambda flat, name: flat.update({name: np.zeros(flat[name].shape, np.int32)}), "int32"),
        (lambda flat, name: flat.update({name: 3}), "is None"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(tiny_bert, change, told):
    encoder = SentenceEncoder(tiny_bert)
    flat = flatten(encoder.params)
    change(flat, min(flat))
    with pytest.raises(InputError, match=f"params do not fit the model: .*{told}"):
        encoder.with_params(nest(flat))


def test_a_router_has_none_of_its_own(tiny_bert):
    encoder = SentenceEncoder(Path(tiny_bert).with_name("tiny-router"))
    with pytest.raises(InputError, match="Router"):
        encoder.with_params(encoder.params)
