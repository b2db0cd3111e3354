"""A loss for each data set: its own head, options, prompts and program, one model. tests/parity has the whole run."""

from functools import partial

import jax
import numpy as np
import pytest
from runs import ONE_LAYER, TINY_BERT, assert_resumes_to_the_same_bits, changed

from minisbert import CrossEncoder, SentenceEncoder, TrainConfig, train
from minisbert.data.examples import open_examples
from minisbert.errors import DataError, InputError
from minisbert.evaluation.softmax_classifier import SoftmaxClassifier
from minisbert.training.collate import check_column_prompts
from minisbert.training.config_checks import fitting_batches
from minisbert.training.losses import LOSSES, Loss
from minisbert.training.softmax_head import read_loss_head
from minisbert.training.targets import Targets
from minisbert.training.task import SIAMESE, by_dataset

# Rounding: two programs of one model in float32, whose losses are near 1; 6e-7 is the largest difference seen from parity.
RELATIVE = 1e-5
STATIC = TINY_BERT.with_name("tiny-static")  # what is tested does not depend on the encoder
CLASSES = ("entailment", "neutral", "contradiction")


def rows(columns, count=8, **labels):
    words = np.random.default_rng(len(columns)).permutation(
        "man woman child dog cat water red blue green walk run eat play sing music guitar".split()
    )
    texts = {name: [f"{words[i]} {words[i - s]}" for i in range(count)] for s, name in enumerate(columns)}
    return texts | {name: [value(i) for i in range(count)] for name, value in labels.items()}


DATA = {
    "nli": rows(["premise", "hypothesis"], label=lambda i: CLASSES[i % 3]),
    "qa": rows(["question", "answer"]),
    "sts": rows(["sentence1", "sentence2"], score=lambda i: i / 2),
}
LOSS = {"nli": "softmax", "qa": "multiple_negatives_ranking", "sts": "cosent"}


def config(**settings):
    given = {"data": DATA, "loss": LOSS, "score_range": {"sts": (0, 5)}, "mixing": "round_robin", "batch_size": 4}
    return TrainConfig(**given | {"learning_rate": 1e-3, "checkpoint_every": 2, "dropout": False} | settings)


def run(settings, folder=None):
    return train(SentenceEncoder(STATIC), settings, folder, show_progress=False)


def test_each_step_has_the_loss_of_its_data_set(tmp_path):
    """At rate 0 nothing moves: each loss is that of the embeddings that the model gives from outside."""
    options, prompts = {"qa": {"scale": 7.0}}, {"qa": {"question": "query: "}}
    still = config(loss_options=options, prompts=prompts, batch_size=8, learning_rate=1e-30, weight_decay=0.0)
    trained = run(still, tmp_path)
    encoder, targets = SentenceEncoder(STATIC), {"qa": Targets(), "sts": Targets(np.arange(8, dtype=np.float32) / 10)}
    expected = {}
    for name, columns in (("qa", ("question", "answer")), ("sts", ("sentence1", "sentence2"))):
        given = {"question": "query: "} if name == "qa" else {}
        embeddings_SBD = np.stack([encoder.encode(DATA[name][one], prompt=given.get(one)) for one in columns])
        expected[name] = LOSSES[LOSS[name]].function(embeddings_SBD, targets[name], **options.get(name, {}))
    found = SoftmaxClassifier.load(tmp_path / "final").predict(
        list(zip(DATA["nli"]["premise"], DATA["nli"]["hypothesis"], strict=True))
    )
    ids = [CLASSES.index(label) for label in DATA["nli"]["label"]]
    expected["nli"] = -np.mean(np.log(found.probabilities[np.arange(8), ids]))
    for line, name in zip(trained.run.metrics, DATA, strict=True):
        np.testing.assert_allclose(line[f"loss/{name}"], expected[name], rtol=RELATIVE)
        assert line["loss"] == line[f"loss/{name}"]
        assert len([key for key in line if key.startswith("loss/")]) == 1


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    assert_resumes_to_the_same_bits(partial(run, config()), tmp_path, 3)


def test_heads_are_saved_by_data_set(tmp_path):
    def scaled(embeddings_SBD, targets, head):
        return head["scale"] * ((embeddings_SBD[0] - embeddings_SBD[1]) ** 2).mean()

    own = Loss(scaled, head=lambda key, dimension, classes: {"scale": jax.numpy.ones(())})
    loss = {"nli": "softmax", "qa": own, "sts": "cosent"}
    trained = run(config(loss=loss), tmp_path)
    assert read_loss_head(tmp_path / "final").keys() == {"qa"}
    assert float(read_loss_head(tmp_path / "final")["qa"]["scale"]) < 1
    assert set(SoftmaxClassifier.load(tmp_path / "final").predict([("a man", "a dog")]).labels) <= set(CLASSES)
    card = (tmp_path / "final" / "README.md").read_text()
    assert "`softmax` for nli" in card and "`cosent` for sts" in card
    assert changed(trained, SentenceEncoder(STATIC))


def test_the_same_settings_by_name_and_for_all_train_the_same_model():
    data = {"a": rows(["anchor", "positive"]), "b": rows(["anchor", "positive", "negative"])}
    alike = {"data": data, "batch_size": 4, "learning_rate": 1e-3, "dropout": False}
    by_name = run(
        TrainConfig(**alike, loss=dict.fromkeys(data, "multiple_negatives_ranking"), prompts={"a": ("query: ",)})
    )
    assert changed(by_name, run(TrainConfig(**alike)))  # the prompt
    by_name = run(
        TrainConfig(**alike, loss=dict.fromkeys(data, "multiple_negatives_ranking"), prompts={"anchor": "query: "})
    )
    assert not changed(by_name, run(TrainConfig(**alike, prompts=("query: ",))))


def test_a_teacher_for_one_of_them():
    data = {"texts": {"text": DATA["qa"]["answer"]}, "qa": DATA["qa"]}
    settings = {"loss": {"texts": "mse", "qa": "multiple_negatives_ranking"}, "teacher": {"texts": str(STATIC)}}
    first, *_ = run(TrainConfig(data=data, batch_size=8, dropout=False, mixing="round_robin", **settings)).run.metrics
    assert first["loss/texts"] < 1e-12  # the model itself is the teacher


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": {"nli": "softmax"}}, r"loss is .*Expected a value for each of the data sets 'nli', 'qa', 'sts'"),
        (
            {"loss": LOSS | {"stsb": "cosent"}},
            r"loss is .*Expected a value for each of the data sets 'nli', 'qa', 'sts'",
        ),
        (
            {"score_range": {"sts": (0, 5), "qa2": (0, 1)}},
            r"score_range is .*for some of the data sets 'nli', 'qa', 'sts'",
        ),
        ({"loss": LOSS | {"qa": "ranking"}}, r"^qa: loss is 'ranking', expected one of"),
        ({"loss_options": {"sts": {"margin": 1}}}, r"^sts: loss_options has \['margin'\]"),
        ({"score_range": None}, r"^sts: the rows in memory, 0-based row 3: 'score' is 1\.5\. Expected a score from"),
        ({"loss": LOSS | {"qa": "triplet"}}, r"^qa: the rows in memory: 2 texts per row with no labels\. Expected 3"),
        (
            {"prompts": {"qa": {"query": "query: "}}},
            r"^qa: prompts has \['query'\]\. Expected text columns: answer, question",
        ),
        ({"prompts": {"question": 3}}, r"prompts is \{'question': 3\}, expected texts, or a dict of them by column"),
        ({"data": DATA["qa"]}, r"loss is .*Expected a value for each of the data sets '0'"),
        (
            {"data": {"a.b": DATA["qa"]}, "loss": {"a.b": "cosent"}},
            r"data has the name 'a\.b'\. Expected .* without dots",
        ),
    ],
)
def test_what_is_wrong_names_the_data_set(settings, message):
    with pytest.raises((InputError, DataError), match=message):
        run(config(**settings))


def test_columns_without_a_prompt_next_to_two_with_one_are_named(caplog):
    data = [open_examples(rows(["anchor", "positive", "negative"])).dataset]
    for prompts in (("query: ",), "query: ", {"anchor": "query: "}, ("query: ", "", "")):
        check_column_prompts(prompts, data)
    assert not caplog.text
    check_column_prompts(("query: ", "passage: "), data)
    assert "2 prompts, and none for 'negative'" in caplog.text


def test_the_data_set_that_makes_all_batches_smaller_is_named(caplog):
    examples = {name: open_examples(rows(["anchor", "positive"], count)) for name, count in (("qa", 8), ("few", 3))}
    assert fitting_batches(config(batch_size=8), examples, 1).batch_size == 3
    assert "batch_size is 8, but data set few has 3 rows: all batches have 3, and none of these rows" in caplog.text


def test_data_sets_of_a_tuple_are_named_by_their_numbers():
    found = by_dataset(TrainConfig(("nli.tsv", "sts.tsv"), loss={0: "softmax", 1: "cosent"}, score_range={1: (0, 5)}))
    assert [(one.data, one.loss, one.score_range) for one in found.values()] == [
        ("nli.tsv", "softmax", None),
        ("sts.tsv", "cosent", (0, 5)),
    ]


def test_a_plan_is_that_of_one_data_set():
    with pytest.raises(InputError, match="Expected one loss: a plan is that of one data set"):
        SIAMESE.loss(config())


def test_a_cross_encoder_has_losses_by_data_set_too():
    model = CrossEncoder.from_encoder(SentenceEncoder(ONE_LAYER), 1)
    data = {"qa": DATA["qa"], "sts": DATA["sts"]}
    loss = {"qa": "multiple_negatives_ranking", "sts": "binary_cross_entropy"}
    trained = train(model, config(data=data, loss=loss), show_progress=False)
    assert {"loss/qa", "loss/sts"} <= {name for line in trained.run.metrics for name in line}
