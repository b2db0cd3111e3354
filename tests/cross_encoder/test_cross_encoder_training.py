"""Training a cross-encoder: losses against the NumPy reference, GradCache, resuming to the bit, learning, wrong settings."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cross_encoder_cases import shallow, tiny
from flax import nnx
from runs import ONE_LAYER, assert_resumes_to_the_same_bits, changed, losses, weights

from minisbert import CrossEncoder
from minisbert.commands import main
from minisbert.cross_encoder.evaluation import accuracy_score, spearman_score
from minisbert.cross_encoder.list_losses import WEIGHTING_SCHEMES
from minisbert.cross_encoder.losses import CROSS_ENCODER_LOSSES
from minisbert.cross_encoder.model import define_cross_encoder
from minisbert.cross_encoder.training import cross_encoder_batch
from minisbert.data.examples import open_examples
from minisbert.data.sampler import Batch, Batches
from minisbert.errors import DataError, InputError
from minisbert.reference import cross_encoder as twin
from minisbert.text.packing import pack
from minisbert.training.collate import abstract_batch
from minisbert.training.config import TrainConfig
from minisbert.training.siamese import gradcache, initial_state, make_update, packed_embed, siamese_loss, train_step
from minisbert.training.targets import Targets
from minisbert.training.task import task_for
from minisbert.training.trainer import train

WORDS = "man woman child dog cat water red blue green walk run eat play sing music guitar".split()
CLASSES = ["entailment", "neutral", "contradiction"]
B = 5
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, B, 3)) * 3
LABELS = {
    "binary_cross_entropy": np.array([0.0, 1.0, 0.3, 1.0, 0.0]),
    "cross_entropy": np.array([0, 2, 1, 1, 0], np.int32),
    "mse": RNG.normal(size=B) * 9,
    "margin_mse": RNG.normal(size=(B, 3)),
    "lists": np.array([[3.0, 0, 1, 1], [0, 0, 0, 0], [0, 2, 1, 0], [1, 1, 1, 2], [0, 1, 2, 3]]),
    # The second query has a single document. The last lacks a document in the middle, which only a sampler of batches can do.
    "uneven": np.array(
        [[3.0, 0, 1, np.nan], [0, *[np.nan] * 3], [0, 2, *[np.nan] * 2], [1, 1, 1, 2], [0, np.nan, 2, 3]]
    ),
}
LISTS = ("rank_net", "lambda_loss", "list_net", "list_mle", "p_list_mle", "adr_mse")
# Rounding of some hundred float64 operations; 1e-15 is measured. Central differences: see test_losses.py.
FLOAT64, DIFFERENCES = 1e-10, 1e-7
# The loss of a step in float32, relative; 1.1e-7 is measured.
FLOAT32_LOSS = 1e-5


def sentence(random: np.random.Generator) -> str:
    return " ".join(random.choice(WORDS, random.integers(2, 6)))


def write(file: Path, header: str, rows) -> str:
    file.write_text(header + "\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    return str(file)


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """Data for each loss; in "scored" the score is 1 if both texts have the same first word."""
    random = np.random.default_rng(0)
    scored = []
    for i in range(32):
        a, b = sentence(random), sentence(random)
        scored.append((1.0, a, f"{a.split()[0]} {b}") if i % 2 else (0.0, f"red {a}", f"blue {b}"))
    texts = [[sentence(random) for _ in range(4)] for _ in range(16)]
    return {
        "binary_cross_entropy": write(tmp_path / "scored.tsv", "score\tsentence1\tsentence2", scored),
        "cross_entropy": write(
            tmp_path / "nli.tsv",
            "label\tsentence1\tsentence2",
            [(CLASSES[i % 3], *text[:2]) for i, text in enumerate(texts)],
        ),
        "mse": write(
            tmp_path / "distilled.tsv",
            "query\tdocument\tteacher_score",
            [(*text[:2], f"{8 * random.normal():.3f}") for text in texts],
        ),
        "margin_mse": write(
            tmp_path / "margins.tsv",
            "query\tdocument\tnegative\tnegative_2\tmargin\tmargin_2",
            [(*text, *np.round(random.normal(size=2), 3)) for text in texts],
        ),
        "list_net": write(
            tmp_path / "lists.tsv",
            "query\tpositive\tnegative\tpositive_score\tnegative_score",
            [(*text[:3], 2, i % 2) for i, text in enumerate(texts)],
        ),
        "multiple_negatives_ranking": write(tmp_path / "pairs.tsv", "query\tdocument", [text[:2] for text in texts]),
    }


def config(*data, **settings) -> TrainConfig:
    few = {"batch_size": 4, "learning_rate": 1e-3, "checkpoint_every": 2, "dropout": False}
    return TrainConfig(data=data, **few | settings)


def run(config, folder, *, num_labels=1, score=None) -> CrossEncoder:
    return train(shallow(tiny("bert", num_labels)), config, folder, score=score, show_progress=False)


# --- losses --------------------------------------------------------------------------------------------------------

CASES = [
    ("binary_cross_entropy", 1, 1, slice(None), {}),
    ("binary_cross_entropy", 1, 1, slice(None), {"pos_weight": 2.5}),
    ("cross_entropy", 1, 3, slice(None), {}),
    ("mse", 1, 1, slice(None), {}),
    ("margin_mse", 2, 1, (slice(None), 0), {}),
    ("margin_mse", 4, 1, slice(None), {}),
    *((name, 4, 1, slice(None), {}) for name in LISTS),
    *((name, 4, 1, "uneven", {}) for name in LISTS),
    ("lambda_loss", 4, 1, "uneven", {"weighting_scheme": "ndcg_loss1", "k": 1}),
    *((name, 4, 1, "uneven", {"respect_input_order": False}) for name in ("list_mle", "p_list_mle")),
    ("rank_net", 4, 1, slice(None), {"k": 1, "sigma": 0.5, "reduction_log": "natural"}),
    *(("lambda_loss", 4, 1, slice(None), {"weighting_scheme": scheme}) for scheme in WEIGHTING_SCHEMES),
    ("lambda_loss", 4, 1, slice(None), {"k": 2, "mu": 3.0}),
    *((name, 4, 1, slice(None), {"respect_input_order": False}) for name in ("list_mle", "p_list_mle")),
    ("adr_mse", 4, 1, slice(None), {"alpha": 2.5}),
    ("multiple_negatives_ranking", 4, 1, None, {}),
    ("multiple_negatives_ranking", 2, 1, None, {"scale": 3.0, "activation": "identity"}),
]


@pytest.mark.parametrize("name, S, C, labels, options", CASES)
def test_a_loss_and_its_gradient_match_the_reference(name, S, C, labels, options):
    logits, plain = LOGITS[:S, :, :C], partial(getattr(twin, name), **options)
    known: Any = None
    if labels is not None:
        known = LABELS[labels] if isinstance(labels, str) else LABELS["lists" if name in LISTS else name][labels]

    def reference(x):
        if known is None:
            return plain(x)
        return plain(x, known[:, None] if name == "margin_mse" and known.ndim == 1 else known)

    with jax.enable_x64(True):
        targets = Targets(labels_B=None if known is None else jnp.asarray(known))
        loss = partial(CROSS_ENCODER_LOSSES[name].function, targets=targets, **options)
        value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(logits))
        gradient = np.asarray(gradient)
    assert float(value) == pytest.approx(reference(logits), rel=FLOAT64)
    for place in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[place] = 1e-5
        assert abs((reference(logits + step) - reference(logits - step)) / 2e-5 - gradient[place]) < DIFFERENCES


def test_a_teachers_scores_give_its_margins():
    scores_BS = np.concatenate([np.zeros((B, 1)), -LABELS["margin_mse"]], axis=1) + 4
    by_scores, by_margins = (
        float(
            CROSS_ENCODER_LOSSES["margin_mse"].function(
                jnp.asarray(LOGITS[:, :, :1]), Targets(labels_B=jnp.asarray(known))
            )
        )
        for known in (scores_BS, LABELS["margin_mse"])
    )
    assert by_scores == pytest.approx(by_margins, rel=1e-5)


@pytest.mark.parametrize("name", CROSS_ENCODER_LOSSES)
def test_a_plan_has_the_labels_of_a_loss(name):
    loss = CROSS_ENCODER_LOSSES[name]
    texts, C = loss.most_texts or 4, 3 if loss.needs == "class" else 1
    targets = abstract_batch(1, 64, texts - 1, B, loss, texts - 2, 1).targets
    logits = jax.ShapeDtypeStruct((texts - 1, B, C), "float32")
    assert jax.eval_shape(loss.function, logits, targets).shape == ()


def test_extreme_logits_stay_finite():
    logits = jnp.array([[[1e4], [-1e4], [1e4], [-1e4]]])
    targets = Targets(labels_B=jnp.array([0.0, 0.0, 1.0, 1.0]))
    value, gradient = jax.value_and_grad(CROSS_ENCODER_LOSSES["binary_cross_entropy"].function)(logits, targets)
    assert float(value) == pytest.approx(5e3)
    np.testing.assert_allclose(gradient[0, :, 0], [0.25, 0, 0, -0.25])


@pytest.mark.parametrize(
    ("name", "shape", "labels", "message"),
    [
        ("binary_cross_entropy", (1, B, 2), np.zeros(B), "one logit per pair"),
        ("binary_cross_entropy", (2, B, 1), np.zeros(B), "S = 1"),
        ("binary_cross_entropy", (1, B, 1), np.zeros((B, 1)), "labels_B has shape (5, 1)"),
        ("binary_cross_entropy", (1, B, 1), None, "labels_B has shape None"),
        ("cross_entropy", (1, B, 1), np.zeros(B, np.int32), "C >= 2"),
        ("cross_entropy", (1, B, 3), np.zeros(B), "whole numbers"),
        ("mse", (1, B), np.zeros(B), "the logits have shape (1, 5)"),
        ("margin_mse", (1, B, 1), np.zeros(B), "S >= 2"),
        ("margin_mse", (4, B, 1), np.zeros((B, 2)), "labels_B has shape (5, 2)"),
        *((name, (1, B, 1), np.zeros((B, 1)), "S >= 2") for name in (*LISTS, "multiple_negatives_ranking")),
        *((name, (4, B, 1), np.zeros((B, 3)), "Expected (5, 4), the relevance") for name in LISTS),
    ],
)
def test_a_loss_refuses_wrong_shapes(name, shape, labels, message):
    targets = Targets(labels_B=None if labels is None else jnp.asarray(labels))
    with pytest.raises(InputError) as caught:
        CROSS_ENCODER_LOSSES[name].function(jnp.zeros(shape), targets)
    assert message in str(caught.value) and name in str(caught.value) and "Expected" in str(caught.value)


# --- the step ------------------------------------------------------------------------------------------------------


def batches_of(source, model, batch_size=4):
    examples = open_examples(source)
    batch, cut = cross_encoder_batch(
        Batches([examples], batch_size, seed=0).batch_at(0),
        model.tokenizer,
        max_length=model.max_seq_length,
        padding_id=model.padding_id,
    )
    return batch, cut


def test_a_step_pairs_the_query_with_each_document(files):
    model = tiny("bert")
    batch, cut = batches_of(files["margin_mse"], model)
    examples_SB = batch.examples_PT.reshape(-1)[batch.index_SB]
    texts, margins = open_examples(files["margin_mse"]).take(examples_SB[0].tolist())
    rows, T = batch.rows, batch.rows.lengths_PT.shape[1]
    assert batch.index_SB.shape == (3, 4) and cut == 0
    for s in range(3):
        for b in range(4):
            tokens = model.tokenize([(texts[0][b], texts[s + 1][b])])
            p, t = divmod(int(batch.index_SB[s, b]), T)
            assert rows.token_ids_PL[p][rows.segmentation_PL[p] == t].tolist() == tokens.ids[0]
            assert rows.first_lengths_PT[p, t] == tokens.first_lengths[0]
            assert batch.columns_PT[p, t] == s and batch.examples_PT[p, t] == examples_SB[0, b]
    np.testing.assert_array_equal(batch.targets.labels_B, margins)


@pytest.mark.parametrize("prompts", ["find: ", ("find: ",), {"query": "find: "}])
def test_a_prompt_is_put_before_the_first_text_of_each_pair(prompts):
    rows = {
        "query": ["a man", "the dog", "red", "blue cat"],
        "positive": ["a", "b", "c", "d"],
        "negative": ["e", "f", "g", "h"],
    }
    asked = rows | {"query": ["find: " + text for text in rows["query"]]}
    few = {"loss": "multiple_negatives_ranking", "max_steps": 1}
    trained, same, other = (
        train(shallow(tiny("bert")), config(data, **few, **more), show_progress=False)
        for data, more in ((rows, {"prompts": prompts}), (asked, {}), (rows, {}))
    )
    assert not changed(trained, same) and changed(trained, other)


def test_documents_that_queries_lack_are_not_computed():
    rows = [
        {"query": f"a {i}", "docs": ["the dog"] * size, "labels": [1] * size} for i, size in enumerate((1, 40, 2, 1))
    ]
    model = tiny("bert")
    texts, labels = open_examples(rows, label_kind="relevance").take(range(4))
    given = Batch(0, 0, np.arange(4), texts, labels)
    batch, _ = cross_encoder_batch(given, model.tokenizer, max_length=64, padding_id=model.padding_id)
    exists_SB = ~np.isnan(labels).T
    assert batch.index_SB.shape == (40, 4) and (batch.rows.lengths_PT > 0).sum() == exists_SB.sum() == 44
    at = batch.index_SB[exists_SB]
    assert len(set(at.tolist())) == 44 and (batch.rows.lengths_PT.flat[at] > 0).all()
    np.testing.assert_array_equal([batch.columns_PT.flat[at], batch.examples_PT.flat[at]], np.nonzero(exists_SB))
    assert batch.rows.lengths_PT.flat[0] > 0  # the place of all others has a logit


def test_gradcache_gives_the_gradient_of_the_whole_batch(files):
    """In float64, so that a difference means another mask or formula; with dropout."""
    model = shallow(tiny("bert"))
    batch, _ = batches_of(files["margin_mse"], model)
    with jax.enable_x64(True):
        definition, _ = define_cross_encoder(model.model_config, jnp.float64)
        # The steps' update is the gradient itself.
        embed, loss = packed_embed(definition), CROSS_ENCODER_LOSSES["margin_mse"].function
        update = make_update(optax.sgd(1.0))
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), model.pretrained.params)
        state = initial_state({"model": params, "head": {}}, optax.sgd(1.0), 0)
        results = []
        for gradient in (jax.value_and_grad(siamese_loss(embed, loss)), gradcache(embed, loss, 5)):
            step = jax.jit(partial(train_step, gradient=gradient, update=update))
            after, metrics = step(state, batch)
            results.append((float(metrics.loss), float(metrics.gradient_norm), jax.tree.leaves(after.params)))
    (loss_a, norm, a), (loss_b, _, b) = results
    assert loss_a == pytest.approx(loss_b, rel=1e-12)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-12 * norm)  # 1e-15 is measured


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_packing_pairs_does_not_change_their_logits(family):
    model = tiny(family)
    pairs = [("a man walks", "the dog"), ("a dog", "a man walks a dog"), ("the man", "the man"), ("dog", "a")]
    tokens = model.tokenize(pairs)
    rows, where = pack(tokens.ids, padding_id=model.padding_id, first_lengths=tokens.first_lengths)
    definition, _ = define_cross_encoder(model.model_config)
    packed = jax.jit(lambda params: nnx.merge(definition, params).packed(rows))(model.pretrained.params)
    found = np.asarray(packed).reshape(-1, packed.shape[-1])[where]
    expected = model.predict(pairs, activation_fn="identity").reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)  # two shapes of one model in float32
    assert np.isfinite(packed).all()


def test_truncated_pairs_are_counted(tmp_path):
    rows = [(f"{'man walk ' * 60}{i}", f"a dog {i}", i) for i in range(2)] + [("a man", "a dog", i) for i in range(2)]
    file = write(tmp_path / "long.tsv", "query\tdocument\tteacher_score", rows)
    batch, cut = batches_of(file, tiny("bert"))
    assert cut == 2 and sorted(batch.rows.lengths_PT.reshape(-1)[batch.index_SB[0]])[2:] == [64, 64]


# --- runs ----------------------------------------------------------------------------------------------------------


def test_a_run_learns_and_writes_model_and_card(files, tmp_path):
    data = files["binary_cross_entropy"]
    settings = {"epochs": 5, "evaluate_every": 20, "checkpoint_every": 100, "learning_rate": 3e-3}
    given = shallow(tiny("bert"))
    before = weights(given)
    trained = train(
        given,
        config(data, loss="binary_cross_entropy", **settings),
        tmp_path / "run",
        score=spearman_score([data]),
        show_progress=False,
    )
    assert not changed(given, before)  # left as it was
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    values = losses(tmp_path / "run")
    assert len(values) == 40 and np.mean(values[-8:]) < 0.2 * np.mean(values[:8])
    assert [line["step"] for line in lines if "score" in line] == [20, 40]
    assert lines[-1]["score"] > 0.8
    loaded = CrossEncoder(tmp_path / "run" / "final")
    assert not changed(trained, loaded)
    assert loaded.predict(("red cat", "blue dog")) < 0.5 < loaded.predict(("cat eat", "cat run"))
    assert CrossEncoder(tmp_path / "run" / "best").num_labels == 1
    card = (tmp_path / "run" / "final" / "README.md").read_text()
    assert "# A cross-encoder" in card and "sha256" in card


@pytest.mark.parametrize(
    "name, num_labels",
    [("cross_entropy", 3), ("mse", 1), ("margin_mse", 1), ("list_net", 1), ("multiple_negatives_ranking", 1)],
)
def test_every_loss_trains(files, tmp_path, name, num_labels):
    before = shallow(tiny("bert", num_labels))
    after = run(config(files[name], loss=name), tmp_path / "run", num_labels=num_labels)
    assert len(losses(tmp_path / "run")) == 4 and np.isfinite(losses(tmp_path / "run")).all()
    moved = changed(after, before)
    assert {"head.dense.kernel", "head.output.bias", "encoder.segment_embedding.embedding"} <= moved
    if name == "cross_entropy":
        assert "0 entailment, 1 neutral, 2 contradiction" in (tmp_path / "run" / "final" / "README.md").read_text()
        assert 0 <= accuracy_score([files[name]])(after) <= 1


@pytest.mark.parametrize("loss", ["lambda_loss", "p_list_mle"])
def test_documents_that_a_query_lacks_change_nothing(tmp_path, loss):
    sizes = (2, 4, 1, 3)
    rows = [
        {"query": f"query {i}", "docs": [f"text {i} {d}" for d in range(size)], "labels": [2, 0, 1, 0][:size]}
        for i, size in enumerate(sizes)
    ]
    run(config(rows, loss=loss, max_steps=1, no_duplicates=True), tmp_path / "run")
    model = shallow(tiny("bert"))
    logits_SBC, relevance_BS = np.zeros((4, 4, 1)), np.full((4, 4), np.nan)
    for i, row in enumerate(rows):
        pairs = [(row["query"], document) for document in row["docs"]]
        logits_SBC[: sizes[i], i, 0] = model.predict(pairs, activation_fn="identity")
        relevance_BS[i, : sizes[i]] = row["labels"]
    (found,) = losses(tmp_path / "run")
    assert found == pytest.approx(getattr(twin, loss)(logits_SBC, relevance_BS), rel=FLOAT32_LOSS)


def test_scores_take_a_prompt():
    rows = {"sentence1": ["a man", "dog", "red"], "sentence2": ["blue", "cat", "a man"], "score": [0.1, 0.5, 0.9]}
    asked = rows | {"sentence1": ["find: " + text for text in rows["sentence1"]]}
    seen = []
    model = SimpleNamespace(
        num_labels=1, predict=lambda pairs, **options: seen.append(options) or np.array([1.0, 2, 3])
    )
    assert spearman_score(rows, prompt="find: ")(model) == 1 and seen[0]["prompt"] == "find: "
    model = tiny("bert")
    assert spearman_score(rows, prompt="find: ")(model) == spearman_score(asked)(model)
    classes = rows | {"label": [0, 2, 1]}
    del classes["score"]
    model = SimpleNamespace(num_labels=3, predict=lambda pairs, **options: seen.append(options) or np.eye(3)[[0, 2, 1]])
    assert accuracy_score(classes, prompt="find: ")(model) == 1 and seen[1]["prompt"] == "find: "


def test_scores_take_rows_in_memory(files):
    pairs = {"sentence1": ["red cat", "blue dog", "a man"], "sentence2": ["blue dog", "a cat", "a dog"]}
    scores = {**pairs, "score": [0.1, 0.5, 0.9]}
    documents = {"query": scores["sentence1"], "passage": scores["sentence2"], "label": scores["score"]}
    found = {spearman_score(given)(tiny("bert")) for given in (scores, (scores,), documents)}
    assert len(found) == 1 and abs(found.pop()) <= 1
    classes = {**pairs, "label": [0, 2, 1]}
    assert accuracy_score(classes)(tiny("bert", 3)) in (0, 1 / 3, 2 / 3, 1)
    assert accuracy_score(files["cross_entropy"])(tiny("bert", 3)) <= 1


def test_a_killed_run_resumes_to_the_same_bits(files, tmp_path):
    few = {"checkpoint_every": 3, "max_steps": 6, "dropout": True}
    settings = config(files["binary_cross_entropy"], loss="binary_cross_entropy", **few)
    assert_resumes_to_the_same_bits(partial(run, settings), tmp_path, 4)


def test_from_the_command_line(files, tmp_path, capsys):
    data = files["cross_entropy"]
    words = ["train", str(ONE_LAYER), str(tmp_path / "run"), "--data", data, "--cross-encoder", "--loss=cross_entropy"]
    words += ["--num-labels=3", "--batch-size=4", "--max-steps=2", "--max-seq-length=32", "--evaluate", data]
    words += ["--no-dropout"]
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "final")
    trained = CrossEncoder(tmp_path / "run" / "final", num_labels=3)
    assert trained.max_seq_length == 32
    # A cross-encoder is trained further as it is.
    words[1:3] = [str(tmp_path / "run" / "final"), str(tmp_path / "more")]
    assert main(words) == 0
    assert main([*words, "--random-weights"]) == 2
    assert "--random-weights needs an encoder" in capsys.readouterr().err
    assert main(["train", str(ONE_LAYER), str(tmp_path / "x"), "--data", data, "--num-labels", "3"]) == 2
    assert "--cross-encoder" in capsys.readouterr().err


# --- refused before the first step ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "settings", "num_labels", "error", "message"),
    [
        (
            "cross_entropy",
            {"loss": "softmax"},
            3,
            InputError,
            "loss is 'softmax', expected one of binary_cross_entropy",
        ),
        ("cross_entropy", {}, 3, InputError, "texts with no labels, which multiple_negatives_ranking needs"),
        ("cross_entropy", {"loss": "cross_entropy"}, 1, InputError, "num_labels 1. Expected 3 for cross_entropy"),
        ("cross_entropy", {"loss": "cross_entropy"}, 2, InputError, "num_labels 2. Expected 3 for cross_entropy"),
        ("cross_entropy", {"loss": "mse"}, 1, InputError, "Expected 2 texts with score labels, which mse needs"),
        ("mse", {"loss": "mse"}, 3, InputError, "num_labels 3. Expected 1 for mse"),
        ("mse", {"loss": "binary_cross_entropy"}, 1, DataError, "Expected 0 to 1 for binary_cross_entropy"),
        ("mse", {"loss": "margin_mse"}, 1, InputError, "Expected 3 or more texts with margin labels"),
        ("mse", {"loss": "lambda_loss"}, 1, InputError, "Expected 3 or more texts with relevance labels"),
        ("mse", {"loss": "mse", "prompts": ("", "find: ")}, 1, InputError, "prompts is ('', 'find: ')"),
        ("mse", {"loss": "mse", "loss_options": {"scale": 2.0}}, 1, InputError, "loss_options has ['scale']"),
        ("mse", {"loss": "mse", "score_range": (0, 5)}, 1, DataError, "Expected a score from 0 to 5"),
    ],
)
def test_wrong_settings_and_data_are_refused(files, tmp_path, data, settings, num_labels, error, message):
    with pytest.raises(error) as caught:
        run(config(files[data], **settings), tmp_path / "run", num_labels=num_labels)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("label", ["3", "-1", "maybe", "1.5"])
def test_class_labels_out_of_range(tmp_path, label):
    rows = [(i, "a dog", "a cat") for i in (0, 1, 2)] + [(label, "a dog", "a cat")]
    file = write(tmp_path / "nli.tsv", "label\tsentence1\tsentence2", rows)
    with pytest.raises((InputError, DataError)) as caught:
        run(config(file, loss="cross_entropy"), tmp_path / "run", num_labels=3)
    assert file in str(caught.value)


def test_a_one_sided_row_is_named(tmp_path):
    file = write(tmp_path / "s.tsv", "score\tsentence1\tsentence2", [(1, "a dog", "a cat"), (0, "a dog", " ")])
    with pytest.raises(DataError, match="line 3"):
        run(config(file, loss="mse"), tmp_path / "run")


def test_an_evaluation_for_another_number_of_labels_is_refused(files):
    with pytest.raises(InputError, match="has 3 labels"):
        spearman_score([files["binary_cross_entropy"]])(tiny("bert", 3))
    with pytest.raises(InputError, match="the model has 1 labels, the data 3 classes"):
        accuracy_score([files["cross_entropy"]])(tiny("bert"))
    with pytest.raises(InputError, match="Expected a SentenceEncoder or a CrossEncoder"):
        task_for("a model")
