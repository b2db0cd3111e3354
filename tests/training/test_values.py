"""What has a name can be given as a value: it trains, resumes to the bit after a kill, and is refused if it is another one."""

import dataclasses
import json
import re
import subprocess
import sys
import types
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import value_cases
from runs import Killed, changed
from value_cases import CASES, ROWS, TOPICS, config, encoder_for, weights

from minisbert import SentenceEncoder, TrainConfig, train
from minisbert.data.sampler import Batch
from minisbert.errors import DataError, InputError, TrainingError
from minisbert.training import sharding
from minisbert.training.losses import Loss
from minisbert.training.optimizer import decays, optimizer_for, path_name
from minisbert.training.record import as_now, recorded
from minisbert.training.run import table
from minisbert.training.softmax_head import read_loss_head

pytestmark = pytest.mark.usefixtures("tables_as_before")


class KillAfter:
    def __init__(self, step):
        self.step = step

    def on_step(self, run):
        if run.step == self.step:
            raise Killed


def run(case, folder=None, callbacks=(), score=None, **more):
    return train(encoder_for(case), config(case, **more), folder, callbacks=callbacks, score=score, show_progress=False)


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_resumes_to_the_same_bits(case, tmp_path):
    start, undisturbed = weights(encoder_for(case)), run(case)
    with pytest.raises(Killed):
        run(case, tmp_path, [KillAfter(3)])
    resumed = run(case, tmp_path)
    assert not changed(undisturbed, resumed)
    moved = changed(resumed, start)
    assert moved
    if "trainable" in CASES[case]:
        rule = CASES[case]["trainable"]
        assert all(rule(name) if callable(rule) else re.search(rule, name) for name in moved)
    if "pooling" in case or "family" in case:
        assert "pooling" not in case or "heads.0.query" in moved
        assert not changed(resumed, SentenceEncoder(tmp_path / "final"))
    if case == "a loss with parameters":
        scale = read_loss_head(tmp_path / "final")["log_scale"]
        assert 0 < abs(scale - np.log(10)) < 0.1


def another(embeddings_SBD, targets, head=None, *, margin=0.1):
    return value_cases.pull_together(embeddings_SBD, targets, head, margin=margin)


def per_pair(embeddings_SBD, targets, head=None, *, margin=0.1):
    return margin - value_cases.pairwise_cosine(*embeddings_SBD)


def with_extras(embeddings_SBD, targets, head=None, *, margin=0.1):
    return per_pair(embeddings_SBD, targets, margin=margin).mean(), {"margin": margin}


another.__qualname__, another.__module__ = "pull_together", "value_cases"


@pytest.mark.parametrize(
    ("case", "other"),
    [
        ("a loss", {"loss": another}),
        ("a loss with parameters", {"loss": Loss(value_cases.trained_scale, "none", 2, 2, True, lambda *_: {})}),
        ("an optimizer", {"optimizer": optax.sgd(0.2)}),
        ("an optimizer", {"trainable": None}),
        ("an optimizer", {"ema": 0.9}),
        ("a loss", {"learning_rates": {"embedding": 0.25}}),
        ("a schedule", {"schedule": lambda step: 1e-3}),
        ("same-topic batches", {"batches": lambda step: [0, 1, 2, 3]}),
        ("a loss", {"data": ROWS[1:] + ROWS[:1]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_run_does_not_resume_with_another_value(case, other, tmp_path):
    with pytest.raises(Killed):
        run(case, tmp_path, [KillAfter(3)])
    with pytest.raises(TrainingError, match="of another run"):
        run(case, tmp_path, **other)


# Chunks of a batch, parameters of the loss, weights of the examples, layers with a pooling of their own.
FEW = ("a loss with GradCache", "a loss with parameters", "weights", "two layers and an attention pooling")


@pytest.mark.slow
@pytest.mark.parametrize("cases", [FEW, pytest.param((), marks=pytest.mark.nightly)], ids=["few", "all"])
def test_two_devices_train_as_one(cases):
    """The distance of the weights as a share of the way: rounding, 2e-6 is measured.

    Lion moves by the sign of a gradient, so where that is near 0 rounding turns a whole step around; 0.043 is measured.
    """
    done = subprocess.run([sys.executable, value_cases.__file__, *cases], capture_output=True, text=True, check=True)
    apart = json.loads(done.stdout.splitlines()[-1])
    assert apart.keys() == set(cases or CASES) and apart.pop("lion, layers, ema", 0) < 0.1
    assert max(apart.values()) < 1e-5, apart


def test_callbacks_see_the_model_and_several_scores_are_logged(tmp_path):
    class Watch:
        def __init__(self):
            self.seen = []

        def on_step(self, run):
            self.seen.append(("step", run.step, run.metrics["loss"]))

        def on_evaluate(self, run):
            before = len(run.model.compilations)
            first, second = run.model.encode([ROWS[0]["anchor"], ROWS[0]["positive"]])
            run.log(alignment=float(np.sum((first - second) ** 2)))
            self.seen.append(("evaluate", run.metrics["sts"], len(run.model.compilations) - before))

        def on_checkpoint(self, run):
            self.seen.append(("checkpoint", run.step))

        def on_end(self, run):
            self.seen.append(("end", run.step, run.model.encode("a cat")))

    watch = Watch()
    scores = {"sts": lambda model: float(model.encode("a cat")[0]), "second": lambda model: 2.0}
    trained = run("a loss", tmp_path, [watch], scores, evaluate_every=2)
    kinds = [kind for kind, *_ in watch.seen]
    assert kinds == ["step", "step", "evaluate", "checkpoint"] * 2 + ["end"]
    compiled = [compiled for kind, *_, compiled in watch.seen if kind == "evaluate"]
    assert compiled[1] == 0  # the first made the program for two texts
    np.testing.assert_array_equal(watch.seen[-1][2], trained.encode("a cat"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [json.loads(json.dumps(line)) for line in trained.run.metrics]
    scored = [line for line in lines if "sts" in line]
    assert [line["step"] for line in scored] == [2, 4]
    assert all(line["score"] == line["sts"] and line["second"] == 2.0 for line in scored)
    assert [line["step"] for line in lines if "alignment" in line] == [2, 4]
    assert trained.run.best == tmp_path / "best" and trained.run.final == tmp_path / "final"
    assert trained.run.curve()[0].tolist() == [1, 2, 3, 4]
    assert "alignment" in table([trained.run.last()])
    in_memory = run("a loss", None, (), scores, evaluate_every=2).run
    assert [line["step"] for line in in_memory.metrics if "score" in line] == [2, 4]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = run("a loss")
    assert not list(tmp_path.iterdir()) and trained.run.folder is None and trained.run.final is None
    assert len(trained.run.metrics) == 4


def test_a_sweep_over_rates_compiles_once(caplog):
    caplog.set_level("INFO")
    runs = [run("a loss", learning_rate=rate, warmup=0.25, max_steps=2).run for rate in (1e-3, 3e-4, 2e-4)]
    assert "by an earlier run" in caplog.records[-1].getMessage()
    assert all(one.compile_seconds < 0.1 for one in runs[1:])
    assert [one.curve("learning_rate")[1][0] for one in runs] == pytest.approx([1e-3, 3e-4, 2e-4])


HALF = 0.5


def constant(embeddings_SBD, targets, head=None):
    return HALF + 0 * embeddings_SBD.sum()


def test_a_function_that_computes_something_else_is_compiled_again(monkeypatch):
    """A sweep over what a function finds outside: the program of the run before gave the loss of the run before."""
    outside = {"loss": 0.25}
    own = [constant, lambda embeddings_SBD, targets, head: outside["loss"] + 0 * embeddings_SBD.sum()]
    settings = {"loss_options": None, "max_steps": 1}
    before = [run("a loss", loss=loss, **settings).run.last()["loss"] for loss in own]
    monkeypatch.setitem(globals(), "HALF", 0.75)
    outside["loss"] = 1.0
    after = [run("a loss", loss=loss, **settings).run.last()["loss"] for loss in own]
    assert (before, after) == ([0.5, 0.25], [0.75, 1.0])


RATES, TABLE, FIXED = {"head": 1.0}, np.ones(2), partial(max, 1)
helper, rates, adam = jax.jit(lambda x: x * 2), optax.constant_schedule(1.0), optax.adam(1e-3)


class Factors:
    factor = 1

    @staticmethod
    def half():
        return HALF


class More(Factors):
    pass


USES = {
    "HALF": ([0.75], lambda x: x * HALF + Factors.half()),
    "RATES": ([{"head": 2.0}, {"body": 1.0}], lambda x: [RATES[name] for name in "ab"]),
    "TABLE": ([np.zeros(2), np.ones(3)], lambda x: x @ jnp.asarray(TABLE)),
    "FIXED": ([partial(max, 2), partial(min, 1), max], lambda x: FIXED(x)),
    "helper": ([jax.jit(lambda x: x * 3), jnp.exp, jnp.tanh], lambda x: optax.sgd(helper(x))),
    "rates": ([optax.constant_schedule(2.0), optax.linear_schedule(1, 0, 9)], lambda x: rates(x)),
    "adam": ([optax.adam(1e-2), optax.adamw(1e-3)], lambda x: adam.update(x)),
    "Factors.factor": ([2], lambda x: More.factor),
}


@pytest.mark.parametrize("name", USES)
def test_what_a_function_finds_in_its_module_counts(name, monkeypatch):
    """Or the step of the run before would be used. Nothing else counts: a sweep over rates compiles once."""
    new, function = USES[name]
    found = {as_now(function)}
    assert found == {as_now(function)}
    for value in new:
        monkeypatch.setattr(f"{__name__}.{name}", value)
        found |= {as_now(function)}
    assert len(found) == 1 + len(new)


def test_what_a_function_closes_over_counts():
    """Also in another place of the same list."""
    one, two = np.zeros(2), np.ones(2)
    inside = {"list": [one, one, two], "dict": {1: [[1], 2]}, "function": [lambda x: x]}

    def closing_over(value):
        return lambda: value

    def digests():
        return {name: as_now(closing_over(value)) for name, value in inside.items()}

    before = digests()
    assert before == digests()
    inside["list"][1], inside["dict"][1], inside["function"][0] = two, [[1, 2]], lambda x: x + 1
    assert not before.items() & digests().items()


@pytest.mark.parametrize("value", [{1}, types.SimpleNamespace(margin=1), Factors(), KillAfter(1).on_step, jnp.ones(2)])
def test_what_is_not_read_counts_as_changed(value):
    """Sets, objects and what holds them; a deleted array."""
    if isinstance(value, jax.Array):
        value = jnp.copy(value)
        value.delete()
    assert as_now(lambda: value) != as_now(lambda: value)


def test_the_record_of_a_type_of_numpy_is_the_same_in_every_process():
    """It had the address of the type, so that a run with a function of it did not resume."""
    code = "import numpy, minisbert.training.record as r; print(r.recorded(numpy.float32)['sha256'])"
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert found == {recorded(np.float32)["sha256"] + "\n"}


COLUMNS = {name: [row[name] for row in ROWS] for name in ("anchor", "positive")}


class FewRows:
    def __len__(self):
        return len(ROWS)

    def __getitem__(self, row):
        if row >= len(ROWS):
            raise IndexError(row)
        return ROWS[row]

    def __iter__(self):
        return iter(ROWS)


def frame():
    return pytest.importorskip("pandas").DataFrame(ROWS)


def dataset():
    return pytest.importorskip("datasets").Dataset.from_list(ROWS)


def file(tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def test_the_same_rows_from_anywhere_are_the_same_run(tmp_path):
    sources = [file(tmp_path), COLUMNS, [tuple(row.values()) for row in ROWS], FewRows(), frame(), dataset(), (ROWS,)]
    first = run("a loss", max_steps=2)
    for source in sources:
        assert not changed(first, run("a loss", max_steps=2, data=source))


SHRINKING = optax.GradientTransformation(
    lambda params: jnp.zeros(2), lambda updates, state, params: (updates, state[1:])
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": per_pair}, "per_pair returned an array [4]. Expected one number"),
        ({"loss": with_extras}, "with_extras returned a tuple. Expected one number"),
        ({"loss": lambda embeddings_SBD, targets, head: 1, "loss_options": None}, "returned a number of type int32"),
        ({"loss": lambda embeddings_SBD, targets: 1.0, "loss_options": None}, "<lambda> cannot be called (too many"),
        (
            {"loss": Loss(constant, head=lambda *_: None), "loss_options": None},
            "head of test_values.constant returned None",
        ),
        ({"loss": max, "loss_options": None}, "builtins.max cannot be called (no signature"),
        ({"loss": Loss(constant, head=lambda *_: {"a": "x"}), "loss_options": None}, "returned {'a': 'x'}"),
        (
            {"loss": Loss(constant, head=lambda *_: {"a": 1}), "loss_options": None},
            "returned {'a': 1}. Expected a dict",
        ),
        (
            {"batches": lambda step: Batch(0, 0, range(4), [["a"] * 4] * 2, [*"abcd"])},
            "labels ['a', 'b', 'c', 'd'] instead of numbers",
        ),
        ({"loss": per_pair, "chunk_size": 2, "matryoshka": (8, 4)}, "per_pair returned an array [4]"),
        ({"optimizer": "lion"}, "optimizer is 'lion', expected None, an optax transformation"),
        ({"optimizer": optax.sgd(1.0)}, "learning_rate is 0.001, but optimizer replaces it"),
        ({"optimizer": optax.lion, "weight_decay": 0.1}, "weight_decay is 0.1, but schedule or optimizer replaces it"),
        ({"schedule": 0.1}, "schedule is 0.1"),
        ({"schedule": lambda step: None, "learning_rate": 2e-5}, "gave no number (it returned None)"),
        ({"schedule": lambda step: jnp.ones(3), "learning_rate": 2e-5}, "gave no number (it returned Array([1., 1."),
        ({"schedule": lambda step: 1 if step < 2 else 2, "learning_rate": 2e-5}, "gave no number (Attempted boolean"),
        ({"schedule": lambda step: float("nan"), "learning_rate": 2e-5}, "gave nan for the first change"),
        ({"optimizer": optax.lbfgs}, "optimizer: optax._src.alias.lbfgs failed (TypeError"),
        (
            {"optimizer": lambda rate: None},
            "<lambda> failed (AttributeError: 'NoneType' object has no attribute 'init'",
        ),
        ({"optimizer": SHRINKING, "learning_rate": 2e-5}, "returns a state of other shapes or types"),
        ({"learning_rates": lambda path: None}, "learning_rates('encoder.token_embedding.embedding') is None"),
        ({"trainable": "("}, "trainable has '('"),
        ({"trainable": 1}, "trainable is 1"),
        ({"trainable": "no such part"}, "no parameter is trained"),
        ({"learning_rates": {"bias": -1}}, "learning_rates['bias'] is -1"),
        ({"learning_rates": {"bais": 1}}, "'bais' matches no parameter"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"batches": 3}, "batches is 3"),
        ({"batches": SystemError, "max_steps": None}, "batches is given without max_steps"),
        ({"batches": lambda step: [0, 1]}, "batches gave data set 0, rows [0, 1] for step 0"),
        ({"batches": lambda step: [0, 1, 2, 99]}, "rows from 0 to 99"),
        (
            {"data": [{"text": "a"}, {"other": "b"}]},
            "row 1: the columns are 'other'. Expected exactly one named 'text'",
        ),
        ({"data": [(1, 2)]}, "name the columns with dicts"),
        ({"data": []}, "no rows"),
        ({"data": {"anchor": ["a"], "positive": []}}, "different lengths"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_wrong_values_are_refused(settings, message):
    with pytest.raises((InputError, TrainingError, Exception)) as refused:
        run("a loss", **settings)
    assert type(refused.value).__module__ == "minisbert.errors" and message in str(refused.value)


RANKING = {"loss": "multiple_negatives_ranking"}
SCORED = [{"sentence1": row["anchor"], "sentence2": row["positive"], "label": i % 3 - 1} for i, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "denoising_auto_encoder", "loss_options": {"tie": "no"}}, "['tie'] is 'no', expected True or False"),
        (
            {"loss": "gist", "loss_options": {"temperature": -0.01}},
            "['temperature'] is -0.01, expected a finite number above 0",
        ),
        ({"loss": "embed_distill", "loss_options": {"projection_dim": 8.0}}, "is 8.0, expected None or a whole number"),
        (
            {"loss": "distill_kl_div", "loss_options": {"student_temperature": "1"}},
            "is '1', expected None or a finite number",
        ),
        (
            RANKING | {"loss_options": {"hardness_strength": 5.0}},
            "hardness_mode with a hardness_strength above 0, or neither",
        ),
        (RANKING | {"loss_options": {"hardness_mode": "all_negatives"}}, "or neither"),
        ({"loss": "denoising_auto_encoder", "loss_options": None, "matryoshka": (8,)}, "expected no matryoshka or"),
        (
            {"loss": "denoising_auto_encoder", "loss_options": None, "adaptive_layers": True},
            "expected no matryoshka or",
        ),
        (
            {"loss": "contrastive", "data": SCORED},
            "row 0: the score is -1. Expected 0 to 1 for contrastive: set score_range",
        ),
    ],
)
def test_options_and_labels_that_would_train_something_else_are_refused(settings, message):
    with pytest.raises((InputError, DataError)) as refused:
        run("a loss", **settings)
    assert message in str(refused.value)


def test_pairs_that_a_loss_leaves_out_are_counted(caplog):
    rows = [row | {"label": 0.5 if i < 3 else i % 2} for i, row in enumerate(SCORED)]
    run("a loss", data=rows, loss="online_contrastive", loss_options=None, max_steps=1)
    assert "online_contrastive leaves out 3 pairs whose label is neither 0 nor 1" in caplog.text


def test_a_warm_up_longer_than_the_run_is_not_shortened():
    rates, *_ = optimizer_for(TrainConfig(("x",), warmup_steps=10, learning_rate=1.0), 4)
    np.testing.assert_allclose([rates(step) for step in range(4)], [0, 0.1, 0.2, 0.3], rtol=1e-6)  # as in transformers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": {"sts": abs, "loss": abs}}, "score: 'loss' is a metric that the run itself writes"),
        ({"score": {"sts": abs, "score": abs}}, "score: 'score' is a metric"),
        ({"callbacks": [3]}, "callbacks has 3"),
        ({"callbacks": "on_step"}, "callbacks is 'on_step'"),
        ({"score": {}}, "score is {}"),
        ({"score": {"sts": lambda model: float("inf")}}, "sts after step 4 is inf"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(InputError) as refused:
        run("a loss", **arguments)
    assert message in str(refused.value)


TREE = {
    "encoder": {"blocks": {0: {"bias": jnp.ones(2)}, 1: {"kernel": jnp.ones((2, 2))}}},
    "head": {"scale": jnp.ones(1)},
}
PARAMS = {"model": TREE, "head": {"scale": jnp.ones(1)}}


def change(settings, gradient=1.0):
    """How far one step with these settings moves each parameter of PARAMS, and the optimizer's state."""
    config = TrainConfig(
        "x", optimizer=optax.sgd, learning_rate=1.0, warmup=0.0, decay="constant", clip_norm=1e9, **settings
    )
    _, recipe, numbers, _ = optimizer_for(config, 4)
    optimizer = recipe(numbers)
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), PARAMS)
    updates, state = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    moved = {path_name(path): float(jnp.ravel(leaf)[0]) for path, leaf in jax.tree.leaves_with_path(updates)}
    return moved, state


def test_rates_and_training_by_path():
    names = "encoder.blocks.0.bias", "encoder.blocks.1.kernel", "head.scale", "loss_head.scale"
    cases = [
        ({}, (-1, -1, -1, -1)),
        ({"learning_rates": {r"blocks\.0\.": 0.25, "blocks": 0.5}}, (-0.25, -0.5, -1, -1)),
        ({"learning_rates": lambda path: "head" in path}, (0, 0, -1, -1)),
        ({"trainable": r"blocks\.1|^loss_head"}, (0, -1, 0, -1)),
        ({"trainable": lambda path: path.startswith("head")}, (0, 0, -1, 0)),
        ({"trainable": "blocks", "learning_rates": {"kernel": 2.0}, "ema": 0.5}, (-1, -2, 0, 0)),
    ]
    for settings, expected in cases:
        assert change(settings)[0] == pytest.approx(dict(zip(names, expected, strict=True))), settings


def test_no_bias_decays():
    """As in transformers, whose names of biases include MPNet's and T5's relative_attention_bias.weight."""
    encoder = {"relative_position_bias": {"table": {"embedding": 1}}, "blocks": {0: {"up": {"kernel": 1, "bias": 1}}}}
    decaying = decays({"model": {"encoder": encoder | {"norm": {"scale": 1}, "token_embedding": {"embedding": 1}}}})
    names = {path_name(path) for path, one in jax.tree.leaves_with_path(decaying) if one}
    assert names == {"encoder.blocks.0.up.kernel", "encoder.token_embedding.embedding"}
    own = {"head": {"temperature": jnp.ones(()), "factors": jnp.ones(3), "map": jnp.ones((3, 3))}}
    assert decays(own) == {"head": {"temperature": False, "factors": False, "map": True}}


@pytest.mark.usefixtures("optimized")  # as the test of an optimizer with an average
def test_the_moving_average_is_of_the_changed_weights():
    average = optax.tree.get(change({"ema": 0.75}, gradient=2.0)[1], "ema")  # from 1 to -1
    assert all(float(jnp.ravel(leaf)[0]) == 0.5 for leaf in jax.tree.leaves(average))
    assert not changed(run("a loss"), run("a loss", ema=0.0))  # the average of the last weights alone


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.contrib.dog,
        optax.contrib.prodigy,
        lambda rate: optax.lbfgs(rate, linesearch=None),
        lambda rate: optax.MultiSteps(optax.contrib.dog(rate), 2),  # has `init` and `update`, but is not a tuple
    ],
)
def test_an_optimizer_that_begins_with_the_parameters(optimizer):
    """Or with one array twice. A step reuses the memory of its state, and can do so once."""
    assert changed(run("a loss", optimizer=optimizer), weights(encoder_for("a loss")))


def test_functions_may_give_numbers_of_jax():
    settings = {"schedule": lambda step: jnp.bfloat16(0.5), "learning_rate": 2e-5, "max_steps": 1}
    halved = run("a loss", learning_rates=lambda path: jnp.float32(0.5), **settings)
    assert not changed(halved, run("a loss", **settings | {"schedule": lambda step: 0.25}))


def averaged(rate):
    return optax.chain(optax.ema(0.5), optax.add_noise(0.1, 0.5, key=jax.random.key(1)), optax.sgd(rate))


@pytest.mark.usefixtures("optimized")  # two programs: unoptimized, the last bits of a sum differ
def test_an_optimizer_with_an_average_and_a_key_of_its_own(tmp_path):
    settings = {"optimizer": averaged, "ema": 0.0}  # the run's own average is of the last weights alone
    undisturbed = run("a loss", optimizer=averaged)
    with pytest.raises(Killed):
        run("a loss", tmp_path, [KillAfter(3)], **settings)
    assert not changed(undisturbed, run("a loss", tmp_path, **settings))


def test_a_losss_own_parameters_may_be_one_array_twice_and_options_positional():
    def scaled(embeddings_SBD, targets, head, power=1.0):
        return (head["a"] * head["b"]) ** power + 0 * embeddings_SBD.sum()

    def both(*_, power):
        return dict.fromkeys("ab", jnp.array(2.0))

    trained = run("a loss", loss=Loss(scaled, head=both), loss_options={"power": 3.0}, max_steps=1)
    assert trained.run.last()["loss"] == 64


def test_a_score_of_jax_that_is_undefined_is_left_out():
    assert "score" not in run("a loss", max_steps=1, score=lambda model: jnp.float32(np.nan)).run.last()


def test_numbers_of_numpy_are_stored_as_pythons():
    given = config(
        "a loss", batch_size=np.int64(4), learning_rate=np.float32(0.5), matryoshka=[np.int32(8)], dropout=np.True_
    )
    plain = config("a loss", batch_size=4, learning_rate=0.5, matryoshka=[8], dropout=True)
    assert given == plain and all(type(getattr(given, name)) is type(value) for name, value in vars(plain).items())
    assert json.dumps(config("a loss", loss_options={"margin": jnp.float32(0.5)}).loss_options) == '{"margin": 0.5}'


def test_a_config_is_still_plain_data():
    assert dataclasses.asdict(config("a loss"))["loss"] is value_cases.pull_together


def test_a_batch_of_equal_positives_is_warned_about_once(caplog):
    rows = [{"anchor": f"number {i}", "positive": "the same answer"} for i in range(8)]
    run("a loss", data=rows, loss="multiple_negatives_ranking", loss_options=None)
    warnings = [record.getMessage() for record in caplog.records if "has no negatives" in record.getMessage()]
    assert warnings == ["this run: step 1 has no negatives: its positives are all the same text."]


def test_simcse_is_a_column_named_twice():
    trained = run(
        "two layers and an attention pooling",
        loss="multiple_negatives_ranking",
        text_columns=("anchor", "anchor"),
        max_steps=1,
    )
    (loss,) = trained.run.curve()[1]
    assert 0 < loss < np.log(4)  # of 4 texts, each closest to its own copy; dropout tells the copies apart


def test_classes_of_single_texts():
    rows = [{"text": row["anchor"], "label": TOPICS[i % 3]} for i, row in enumerate(ROWS)]
    settings = {"loss": "batch_semi_hard_triplet", "loss_options": {"margin": 0.5}, "batch_size": 12, "data": rows}
    first, *_, last = run("a loss", max_steps=12, learning_rate=0.05, **settings).run.curve()[1]
    assert last < 0.8 * first


def test_a_tpus_rows_come_in_pairs(monkeypatch):
    assert (
        sharding.row_multiple(types.SimpleNamespace(platform="tpu")) == 2
        and sharding.row_multiple(jax.devices()[0]) == 1
    )
    monkeypatch.setattr(sharding, "row_multiple", lambda device: 2)
    assert run("a loss", max_steps=1).run.metrics[0]["shape"] == (4, 64)  # 3 rows elsewhere
