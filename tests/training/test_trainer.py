"""Training a tiny model: a run that was killed resumes to the same bits, and a wrong setting is refused before it starts."""

import copy
import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from runs import ONE_LAYER as TINY
from runs import TINY_BERT, assert_resumes_to_the_same_bits, before_step, changed, losses, weights
from tqdm import tqdm

from minisbert import SentenceEncoder
from minisbert.commands import main
from minisbert.commands.train import with_random_weights
from minisbert.errors import InputError, TrainingError, TrainingStopped
from minisbert.evaluation.sts import sts_score
from minisbert.training import trainer
from minisbert.training.checkpoints import LOCK, only_run
from minisbert.training.config import TrainConfig
from minisbert.training.logging import LOGGERS
from minisbert.training.losses import LOSSES, Loss
from minisbert.training.trainer import train

# One table of vectors: for what does not depend on the encoder and needs a program of its own.
STATIC = TINY_BERT.with_name("tiny-static")
WORDS = "man woman child dog cat water red blue green walk run eat play sing music guitar".split()


def sentence(random: np.random.Generator) -> str:
    return " ".join(random.choice(WORDS, random.integers(2, 9)))


@pytest.fixture
def pairs(tmp_path):
    random = np.random.default_rng(0)
    rows = [f"{sentence(random)}\t{sentence(random)}" for _ in range(24)]
    file = tmp_path / "pairs.tsv"
    file.write_text("anchor\tpositive\n" + "".join(row + "\n" for row in rows))
    return str(file)


@pytest.fixture
def scored(tmp_path):
    random = np.random.default_rng(1)
    rows = [f"{i / 9}\t{sentence(random)}\t{sentence(random)}" for i in range(10)]
    file = tmp_path / "scored.tsv"
    file.write_text("score\tsentence1\tsentence2\n" + "".join(row + "\n" for row in rows))
    return str(file)


def config(*data, **settings):
    """Without dropout, whose masks are more than half of what there is to compile."""
    few = {"batch_size": 4, "learning_rate": 1e-3, "checkpoint_every": 2, "dropout": False}
    return TrainConfig(data=data, **few | settings)


def run(config, folder, score=None, model=TINY) -> SentenceEncoder:
    return train(SentenceEncoder(model), config, folder, score=score, show_progress=False)


def test_a_run_learns_and_writes_models_curves_and_card(pairs, scored, tmp_path):
    trained = run(config(pairs, epochs=4, evaluate_every=8), tmp_path / "run", score=sts_score([scored]))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    values = losses(tmp_path / "run")
    assert len(values) == 24  # 24 rows, 4 a step, 4 epochs
    assert np.mean(values[-6:]) < np.mean(values[:6])
    assert [line["step"] for line in lines if "score" in line] == [8, 16, 24]
    loaded = SentenceEncoder(tmp_path / "run" / "final")
    assert not changed(trained, loaded)
    np.testing.assert_array_equal(loaded.encode("a man eats"), trained.encode("a man eats"))
    assert (tmp_path / "run" / "curves.png").stat().st_size > 1000
    assert "sha256" in (tmp_path / "run" / "final" / "README.md").read_text()
    assert SentenceEncoder(tmp_path / "run" / "best").encode("a man").shape == (32,)


@pytest.mark.parametrize("killed_before", [1, 3, 4, 5])
def test_a_killed_run_resumes_to_the_same_bits(pairs, tmp_path, killed_before):
    assert_resumes_to_the_same_bits(partial(run, config(pairs, dropout=True)), tmp_path, killed_before)


@pytest.mark.slow
def test_sigkill(pairs, tmp_path):
    undisturbed = run(config(pairs, epochs=3), tmp_path / "undisturbed")
    command = [sys.executable, "-m", "minisbert", "train", str(TINY), str(tmp_path / "killed"), "--data", pairs]
    command += ["--batch-size=4", "--learning-rate=1e-3", "--checkpoint-every=2", "--epochs=3", "--no-dropout"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 5:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert not changed(undisturbed, SentenceEncoder(tmp_path / "killed" / "final"))


def test_sigterm_saves_and_stops(pairs, tmp_path):
    settings = config(pairs, checkpoint_every=100)
    with (
        before_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM)),
        pytest.raises(TrainingStopped, match="stopped after step 3 of 6"),
    ):
        run(settings, tmp_path / "run")
    assert not changed(run(settings, tmp_path / "run"), run(settings, tmp_path / "undisturbed"))


def test_the_given_encoder_does_not_change_unless_it_is_given_up(pairs, tmp_path):
    kept, given_up = SentenceEncoder(TINY), SentenceEncoder(TINY)
    before = weights(kept)
    trained = train(kept, config(pairs), tmp_path / "kept", show_progress=False)
    assert not changed(kept, before) and changed(trained, before)
    again = train(given_up, config(pairs), tmp_path / "given up", show_progress=False, keep_encoder=False)
    assert not changed(again, trained) and given_up.params == {}


def test_one_warning_about_all_truncated_texts(tmp_path, caplog):
    file = tmp_path / "pairs.tsv"
    file.write_text("anchor\tpositive\n" + "".join(f"{'man walk ' * 60}{i}\ta dog {i}\n" for i in range(4)))
    run(config(str(file)), tmp_path / "run")
    [warning] = [record.getMessage() for record in caplog.records if "were cut" in record.getMessage()]
    assert "4 texts were longer than max_seq_length 64" in warning


# The settings of a checkpoint's record as minisbert wrote them before `reduction` became `deterministic`.
OLD_SETTINGS = """{"loss": "multiple_negatives_ranking", "loss_options": null, "matryoshka": [], "kind": null,
"score_range": null, "epochs": 1, "max_steps": null, "batch_size": 4, "chunk_size": null, "accumulate": 1,
"reduction": "%s", "blocks": 8, "learning_rate": 0.001, "warmup": 0.1, "warmup_steps": null, "decay": "linear",
"weight_decay": 0.01, "clip_norm": 1.0, "remat": false, "teacher": null, "lora_rank": null, "lora_alpha": null,
"lora_targets": ["query", "value"], "report_to": [], "compute_dtype": "float32", "dropout": false,
"mixing": "proportional", "no_duplicates": false, "prompts": [], "evaluate_every": 500, "checkpoint_every": 2, "seed": 0}"""


def test_a_run_with_an_older_record_is_resumed(pairs, tmp_path):
    run(config(pairs), tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").glob("*/record/metadata"):
        record = json.loads(file.read_text())
        del record["checksum"], record["checksums"], record["weights"]
        record["config"] = {"data": [pairs], **json.loads(OLD_SETTINGS % "plain")}
        file.write_text(json.dumps(record))
    assert not changed(run(config(pairs), tmp_path / "run"), SentenceEncoder(tmp_path / "run" / "final"))
    with pytest.raises(TrainingError, match=r"config was {'deterministic': False}, is {'deterministic': True}\."):
        run(config(pairs, deterministic=True), tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run_and_overwrites_nothing(pairs, tmp_path):
    encoder = SentenceEncoder(TINY)
    encoder.pretrained.params["encoder"]["embedding_norm"]["scale"] *= np.nan
    with pytest.raises(TrainingError, match=r"step 1 gave loss nan.*rows \[.*pairs\.tsv"):
        train(encoder, config(pairs), tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run" / "final").exists()


def test_one_class_is_refused_with_the_name_of_the_data():
    config = TrainConfig(
        data=[{"sentence1": "a", "sentence2": text, "label": "same"} for text in "bcd"], loss="softmax"
    )
    with pytest.raises(InputError, match=r"rows in memory: classes \('same',\), .* Expected two or more"):
        train(SentenceEncoder("weights/tiny-bert"), config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "triplet"}, "2 texts per row with no labels. Expected 3 texts with no labels"),
        ({"loss": "softmax"}, "with class labels"),
        (
            {"kind": "texts", "text_columns": ("anchor",)},
            r"one twice to pair each text with itself: text_columns=\('anchor', 'anchor'\)",
        ),
        ({"lora_rank": 33}, "lora_rank is 33, but query in .* is 32 x 32. Expected at most 32"),
        ({"lora_targets": ("query", "query")}, "expected names of query, key, value, output, up, down, each once"),
    ],
)
def test_settings_that_do_not_fit_the_data_or_the_model_are_refused(pairs, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        run(config(pairs, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_gradcache_takes_the_same_steps(pairs, tmp_path):
    for name, chunk_size in (("plain", None), ("cached", 3)):
        run(config(pairs, chunk_size=chunk_size), tmp_path / name)
    # The gradients agree to 1e-6 (test_gradcache.py); Adam divides small ones by themselves and so magnifies rounding.
    np.testing.assert_allclose(losses(tmp_path / "plain"), losses(tmp_path / "cached"), rtol=1e-4)


def test_a_deterministic_run_takes_the_same_steps_and_accumulates(pairs, tmp_path):
    """24 rows are 6 steps, so 3 changes of the weights."""
    folders = [tmp_path / name for name in ("plain", "deterministic")]
    for folder in folders:
        run(
            config(pairs, accumulate=2, deterministic=folder.name == "deterministic", warmup=0.0, checkpoint_every=3),
            folder,
            model=STATIC,
        )
    lines = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in folders]
    # As in the test before; there and here batches are packed into other shapes.
    np.testing.assert_allclose(*map(losses, folders), rtol=1e-4)
    rates = [line["learning_rate"] for line in lines[0]]
    assert rates[0] == rates[1] > rates[2] == rates[3] > rates[4] == rates[5]
    assert {tuple(line["shape"]) for line in lines[1]} == {(8, 64)}


def test_the_softmax_head_is_trained_and_saved(tmp_path):
    random = np.random.default_rng(2)
    names = ["entailment", "neutral", "contradiction"]
    rows = [f"{names[i % 3]}\t{sentence(random)}\t{sentence(random)}" for i in range(12)]
    file = tmp_path / "nli.tsv"
    file.write_text("label\tsentence1\tsentence2\n" + "".join(row + "\n" for row in rows))
    run(config(str(file), loss="softmax"), tmp_path / "run", model=STATIC)
    from safetensors import safe_open

    with safe_open(tmp_path / "run" / "final" / "softmax_head.safetensors", "np") as head:
        assert head.get_tensor("kernel").shape == (72, 3)
        assert json.loads(head.metadata()["classes"]) == names


class EndAfter:
    def __init__(self, step):
        self.step = step

    def on_step(self, run):
        if run.step == self.step:
            run.end()


def test_a_run_ends_when_the_score_no_longer_improves(pairs, tmp_path, caplog):
    caplog.set_level("INFO")
    settings = config(pairs, epochs=4, evaluate_every=2, checkpoint_every=100, early_stopping_patience=2)
    scores = iter([0.1, 0.3, math.nan, 0.3, 0.4])  # an undefined or equal one is no better one
    folder = tmp_path / "run"
    ended = run(settings, folder, score=lambda model: next(scores))
    assert (ended.run.steps, "8 of 24 steps" in caplog.text) == (8, True)
    assert ended.run.curve("score")[0].tolist() == [2, 4, 8]
    assert changed(SentenceEncoder(folder / "best"), SentenceEncoder(folder / "final"))
    # Started again, it has ended: nothing is scored or compiled.
    again = run(settings, folder, score=lambda model: 1 / 0)
    assert again.run.steps == 8 and not changed(ended, again) and "nothing to compile" in caplog.text
    with pytest.raises(InputError, match="early_stopping_patience is 2 without a score"):
        run(settings, tmp_path / "other")


def test_a_callback_can_end_the_run(pairs, tmp_path):
    settings, folder = config(pairs, epochs=4), tmp_path / "run"
    ended = train(SentenceEncoder(TINY), settings, folder, callbacks=[EndAfter(5)], show_progress=False)
    assert ended.run.steps == 5 and ended.run.last()["ended"] is True
    again = run(settings, folder)  # without the callback
    assert again.run.steps == 5 and not changed(ended, again)
    # A kill before the checkpoint of that step: the step is done again, and nothing remembers its end.
    shutil.rmtree(folder / "checkpoints" / "5")
    assert run(settings, folder).run.steps == 24


def test_one_compilation_per_shape(pairs, tmp_path, caplog):
    caplog.set_level("INFO")
    run(config(pairs, epochs=3), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shapes = {tuple(line["shape"]) for line in lines if "shape" in line}
    [log] = [record.getMessage() for record in caplog.records if "programs compiled" in record.getMessage()]
    assert len(shapes) == 2 and "2 programs compiled in" in log and "during the run" not in log
    assert all(f"{rows} x {length} (" in log for rows, length in shapes)
    # Started again, a finished run compiles nothing.
    caplog.clear()
    run(config(pairs, epochs=3), tmp_path / "run")
    assert "nothing to compile" in caplog.text and " 0 s in this process" in caplog.text


def test_matryoshka_trains_short_embeddings_too(pairs, tmp_path):
    plain = run(config(pairs, max_steps=2), tmp_path / "plain", model=STATIC)
    short = run(config(pairs, max_steps=2, matryoshka=(24, 8)), tmp_path / "short", model=STATIC)
    assert losses(tmp_path / "short")[0] > 1.5 * losses(tmp_path / "plain")[0]  # a second loss was added
    assert np.abs(plain.encode("a cat") - short.encode("a cat")).max() > 1e-4


def test_the_command_logs_everything_once(pairs, tmp_path, capfd):
    """Also if the root logger has a handler, which importing the checkpoint library may add."""
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        words = ["train", str(STATIC), str(tmp_path / "run"), "--data", pairs, "--batch-size", "8", "--max-steps", "2"]
        assert main(words) == 0
    finally:
        logging.getLogger().removeHandler(handler)
    assert capfd.readouterr().err.count("2 steps, ") == 1
    assert logging.getLogger("minisbert").propagate


def test_loss_options_from_the_command_line(pairs, tmp_path, capsys):
    command = ["train", str(STATIC), str(tmp_path / "run"), "--data", pairs, "--max-steps", "1", "--batch-size", "4"]
    assert main([*command, "--loss-options", '{"scale": 5.0, "directions": ["query_to_doc", "doc_to_query"]}']) == 0
    assert "directions" in (tmp_path / "run" / "final" / "README.md").read_text()
    capsys.readouterr()
    assert main([*command, "--loss-options", "[1]"]) != 0
    assert "Expected a JSON object" in capsys.readouterr().err
    assert main([*command, "--loss-options", '{"scale": 5.0, "scale": 6.0}']) != 0
    assert "'scale' is there twice" in capsys.readouterr().err


def test_old_flags_still_work(pairs, tmp_path, capsys):
    command = ["train", str(STATIC), str(tmp_path / "run"), "--data", pairs, "--max-steps", "1", "--batch-size", "4"]
    assert main([*command, "--reduction", "ordered", "--new-shapes", "compile"]) == 0
    card = (tmp_path / "run" / "final" / "README.md").read_text()
    assert "| deterministic | True |" in card
    capsys.readouterr()
    assert main(["train", "--help"]) == 0
    assert "reduction" not in (help := capsys.readouterr().out) and "new-shapes" not in help


def test_explicit_flags_override_a_recipe():
    from minisbert.commands.train import Settings, _loss_options, prepare

    words = ["model", "run", "--data", "x.tsv", "--recipe=all", "--warmup", "0.2"]
    defaults = prepare(words)[0].keywords
    assert defaults["training"].batch_size == 1024 and defaults["training"].warmup_steps is None
    assert defaults["start"].max_seq_length == 128
    published = defaults["training"].loss_options
    assert _loss_options(Settings(("x.tsv",), loss_options=published), "all", 30.0) == {**published, "scale": 30.0}
    assert _loss_options(Settings(("x.tsv",), loss="triplet", loss_options=published), "all", None) is None
    given = Settings(("x.tsv",), loss_options={"scale": 5.0})
    assert _loss_options(given, "all", None) == {**published, "scale": 5.0}


@pytest.mark.parametrize("shown", [True, False])
def test_progress_is_shown_without_a_folder(pairs, monkeypatch, shown):
    hidden = []
    monkeypatch.setattr(trainer, "tqdm", lambda **options: hidden.append(options["disable"]) or tqdm(disable=True))
    train(SentenceEncoder(TINY), config(pairs, max_steps=1), show_progress=shown)
    assert hidden == [None if shown else True]  # None: on a terminal


def test_a_run_does_not_depend_on_jaxs_default_generator(pairs, tmp_path):
    settings = config(pairs, max_steps=2, lora_rank=2, dropout=True)
    trained = run(settings, tmp_path / "one")
    with jax.default_prng_impl("rbg"):
        assert not changed(run(settings, tmp_path / "two"), weights(trained))
        assert not changed(run(settings, tmp_path / "one"), weights(trained))  # its checkpoint is restored


def test_remat_changes_only_memory(pairs, tmp_path):
    plain, again = (
        run(config(pairs, max_steps=3, remat=remat, chunk_size=5), tmp_path / str(remat)) for remat in (False, True)
    )
    np.testing.assert_allclose(plain.encode("a cat"), again.encode("a cat"), rtol=0, atol=1e-5)


def test_the_student_approaches_its_teacher(tmp_path, pairs):
    """The student starts from random weights."""
    teacher = SentenceEncoder(TINY)
    student = with_random_weights(teacher, seed=3)
    texts = ["a cat and a dog", "the river", "stones"]
    settings = {"loss": "mse", "teacher": str(TINY), "epochs": 6, "learning_rate": 3e-3}
    trained = train(student, config(pairs, **settings), tmp_path / "run", show_progress=False)
    before, after = (np.mean((model.encode(texts) - teacher.encode(texts)) ** 2) for model in (student, trained))
    assert after < 0.7 * before


def test_a_translation_copies_the_teachers_embedding_of_its_original():
    """Reimers & Gurevych 2020, section 2; of pairs each text has its own."""
    # A program with a callback is not saved: each run of the tests compiles it.
    rows = [{"english": "a cat", "non_english": "eine Katze"}, {"english": "the river", "non_english": "der Fluss"}]
    teacher = SentenceEncoder(STATIC)
    english, german = (teacher.encode([row[column] for row in rows]) for column in ("english", "non_english"))
    seen = []

    def copies(embeddings_SBD, targets, head):
        jax.debug.callback(seen.append, targets.teacher_SBD)
        return LOSSES["mse"].function(embeddings_SBD, targets)

    given = {"loss": Loss(copies, "teacher"), "teacher": str(STATIC), "max_steps": 1, "batch_size": 2}
    for options, others in (({}, english), ({"kind": "pairs", "text_columns": ("english", "non_english")}, german)):
        train(SentenceEncoder(STATIC), config(rows, **given, **options), show_progress=False)
        originals, translations = (sorted(map(tuple, one)) for one in np.asarray(seen.pop()))
        assert originals == sorted(map(tuple, english)) and translations == sorted(map(tuple, others))


def test_a_teacher_whose_embeddings_are_truncated(tmp_path, pairs):
    teacher = SentenceEncoder(STATIC)
    teacher.truncate_dim = 16
    teacher.save(tmp_path / "teacher")
    settings = {"loss": "embed_distill", "loss_options": {"projection_dim": 16}, "max_steps": 1}
    run(config(pairs, **settings, teacher=str(tmp_path / "teacher")), None, model=STATIC)
    # The object itself, or the folder as a path; a run does not resume with another teacher.
    trained = run(config(pairs, **settings, teacher=teacher), tmp_path / "run", model=STATIC)
    again = run(config(pairs, **settings, teacher=copy.copy(teacher)), tmp_path / "run", model=STATIC)
    of_path = run(config(pairs, **settings, teacher=tmp_path / "teacher"), None, model=STATIC)
    for other in (again, of_path):
        assert np.array_equal(trained.encode("a cat"), other.encode("a cat"))
    teacher.prompts = {"query": "who: "}
    with pytest.raises(TrainingError, match=r"of another run: config was .*teacher"):
        run(config(pairs, **settings, teacher=teacher), tmp_path / "run", model=STATIC)
    with pytest.raises(InputError, match="teacher is 3, expected None or the name of a model"):
        run(config(pairs, **settings, teacher=3), None, model=STATIC)


def test_metrics_go_to_other_loggers(pairs, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setitem(LOGGERS, "wandb", lambda folder, config: lambda step, numbers: seen.append((step, numbers)))
    run(config(pairs, max_steps=2, report_to=("wandb",)), tmp_path / "run")
    assert [step for step, _ in seen] == [1, 2] and seen[0][1].keys() == {"loss", "gradient_norm", "learning_rate"}
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match="pip install tensorboardX"):
        run(config(pairs, max_steps=2, report_to=("tensorboard",)), tmp_path / "other")


def test_folders_of_one_name_are_different_runs_of_wandb(tmp_path, monkeypatch):
    ids = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **given: ids.append(given["id"])))
    for folder in ("a/run: 1", "b/run: 1", "b/run: 1"):
        LOGGERS["wandb"](tmp_path / folder, {})
    assert ids[0] != ids[1] == ids[2] and all(re.fullmatch(r"run--1-[0-9a-f]{8}", one) for one in ids)


def test_two_runs_in_one_folder(pairs, tmp_path):
    with only_run(tmp_path / "run"):
        with pytest.raises(TrainingError, match=rf"process {os.getpid()} on .* is training in this folder"):
            run(config(pairs), tmp_path / "run")
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    run(config(pairs), tmp_path / "run")


def test_a_damaged_checkpoint_is_named_and_the_older_one_ends_with_the_same_bits(pairs, tmp_path, caplog):
    undisturbed = run(config(pairs), tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "6"
    data = max((newest / "state").rglob("d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    resumed = run(config(pairs), tmp_path / "run")
    assert (
        f"{newest}: the checkpoint is damaged" in caplog.text and "resumes from the checkpoint of step 4" in caplog.text
    )
    assert not changed(resumed, undisturbed)
    for file in (tmp_path / "run" / "checkpoints").glob("*/record/metadata"):
        file.write_bytes(file.read_bytes().replace(b"seed", b"sead"))
    with pytest.raises(TrainingError, match=r"every checkpoint is damaged \(.*/6: .*/4: "):
        run(config(pairs), tmp_path / "run")
