"""Training steps of a real model against sentence-transformers: each loss, and the weights at the end. And runs of both
trainers: with a loss and prompts for each data set, and of a cross-encoder on lists of different lengths."""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from minisbert import CrossEncoder, SentenceEncoder, TrainConfig, train
from minisbert.download.locate import locate
from minisbert.errors import DownloadError
from minisbert.pretrained import load_pretrained

pytest.importorskip("sentence_transformers")
sys.path.insert(0, str(Path(__file__).parents[1] / "goldens"))
import trajectory
from trajectory import PROSE, RUNS, STEPS, ours, theirs

pytestmark = pytest.mark.parity

RELATIVE_LOSS, WEIGHTS = 1e-4, 1e-4
# Of twelve steps of tiny-bert by both trainers: 5.8e-7 and 3.0e-6 are measured. Of six of a cross-encoder:
# 9.9e-7 and 9.5e-7.
TRAINERS_LOSS, TRAINERS_EMBEDDINGS, TRAINERS_LOGITS = 1e-5, 2e-5, 1e-5
# What both trainers are given. A batch has all rows of a data set, so their order does not matter.
SETTINGS = {"learning_rate": 1e-3, "warmup_steps": 2, "weight_decay": 0.01}


# Fifty steps take 100 s of processor time. tests/training/test_trajectory.py has those of every loss, from a tiny model.
EACH = [("multiple negatives", 20), *(pytest.param(name, STEPS, marks=pytest.mark.nightly) for name in RUNS)]


@pytest.mark.real
@pytest.mark.parametrize(("name", "steps"), EACH)
def test_steps_from_a_real_model(name, steps, tmp_path, monkeypatch):
    monkeypatch.setattr(trajectory, "STEPS", steps)
    try:
        folder = locate("all-MiniLM-L6-v2", offline=True)
    except DownloadError:
        pytest.skip("all-MiniLM-L6-v2 is not in the cache: minisbert download all-MiniLM-L6-v2")
    expected = theirs(folder, RUNS[name], 2e-5, save=tmp_path / "theirs")
    losses, params = ours(folder, RUNS[name], 2e-5)
    worst = np.max(np.abs(np.divide(losses, expected) - 1))
    their_params = load_pretrained(tmp_path / "theirs").params
    moved = load_pretrained(folder).params
    difference = max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, their_params)))
    movement = max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, moved)))
    print(f"{name}: losses differ by {worst:.1e} relative, weights by {difference:.1e} (they moved by {movement:.1e})")
    assert worst <= RELATIVE_LOSS
    assert difference <= WEIGHTS
    assert movement > 1e-4


def without_dropout(folder):
    """Their trainers have no switch for it."""
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(settings))


def trained_there(trainer, arguments, folder, data, *, epochs, batch_size, prompts=None, **given):
    """Trains a model of theirs with their trainer, and returns the loss of each step."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("accelerate")
    run = trainer(
        args=arguments(
            output_dir=str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            multi_dataset_batch_sampler="round_robin",
            prompts=prompts,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **SETTINGS,
        ),
        train_dataset={name: datasets.Dataset.from_dict(table) for name, table in data.items()},
        **given,
    )
    run.train()
    return [line["loss"] for line in run.state.log_history if "loss" in line]


def test_both_trainers_with_a_loss_for_each_data_set(tmp_path):
    """`train` and SentenceTransformerTrainer, each with its own batches, schedule, clipping and optimizer."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses

    folder = shutil.copytree(Path(__file__).parents[2] / "weights" / "tiny-bert", tmp_path / "model")
    without_dropout(folder)
    texts = [PROSE[i] for i in np.random.default_rng(0).permutation(len(PROSE))]
    scores = np.random.default_rng(1).uniform(size=8).tolist()
    data = {
        "qa": {"question": texts[:8], "answer": texts[8:16]},
        "sts": {"sentence1": texts[16:24], "sentence2": texts[24:32], "score": scores},
    }
    prompts = {"qa": {"question": "query: "}}

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    expected = trained_there(
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        tmp_path / "theirs",
        data,
        epochs=6,
        batch_size=8,
        prompts=prompts,
        model=model,
        loss={"qa": losses.MultipleNegativesRankingLoss(model), "sts": losses.CoSENTLoss(model)},
    )
    trained = train(
        SentenceEncoder(folder),
        TrainConfig(
            data=data,
            loss={"qa": "multiple_negatives_ranking", "sts": "cosent"},
            prompts=prompts,
            epochs=6,
            batch_size=8,
            mixing="round_robin",
            **SETTINGS,
        ),
        show_progress=False,
    )
    found = [line["loss"] for line in trained.run.metrics]
    difference = np.abs(trained.encode(texts) - model.encode(texts)).max()
    print(
        f"losses differ by {np.max(np.abs(np.divide(found, expected) - 1)):.1e} relative, embeddings by {difference:.1e}"
    )
    np.testing.assert_allclose(found, expected, rtol=TRAINERS_LOSS)
    assert len(found) == 12 and difference <= TRAINERS_EMBEDDINGS
    assert np.abs(trained.encode(texts) - SentenceEncoder(folder).encode(texts)).max() > 0.1


def test_both_trainers_with_lists_of_different_lengths(tmp_path):
    """`train` and CrossEncoderTrainer on queries with 1 to 4 documents, those of one data set after a prompt."""
    from cross_encoder_cases import shallow, tiny
    from sentence_transformers.cross_encoder import CrossEncoder as Theirs
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments, losses
    from torch.nn import Identity

    folder = tmp_path / "model"
    shallow(tiny("bert")).save(folder)
    without_dropout(folder)
    texts, data = iter(PROSE), {}
    for name, sizes in (("long", (3, 1, 4, 2)), ("short", (1, 2, 1, 2))):
        docs = [[next(texts) for _ in range(size)] for size in sizes]
        labels = [[(7 * i + d) % 3 for d in range(size)] for i, size in enumerate(sizes)]
        data[name] = {"query": [next(texts) for _ in sizes], "docs": docs, "labels": labels}

    model = Theirs(str(folder), device="cpu", local_files_only=True)
    size = {"epochs": 3, "batch_size": 4, "prompts": {"long": "find: "}}
    given = {"model": model, "loss": losses.LambdaLoss(model, losses.NDCGLoss2PPScheme()), **size}
    expected = trained_there(CrossEncoderTrainer, CrossEncoderTrainingArguments, tmp_path / "theirs", data, **given)
    config = TrainConfig(data=data, loss="lambda_loss", mixing="round_robin", **size, **SETTINGS)
    trained = train(CrossEncoder(folder), config, show_progress=False)
    found = [line["loss"] for line in trained.run.metrics]

    def logits(one, activation="identity"):
        found = one.predict([(query, text) for query in PROSE[:5] for text in PROSE[-5:]], activation_fn=activation)
        # The loss depends on differences only: Adam makes steps of the rounding errors in the gradient of the last bias.
        return found - found.mean()

    difference = np.abs(logits(trained) - logits(model, Identity())).max()
    print(f"losses differ by {np.max(np.abs(np.divide(found, expected) - 1)):.1e} relative, logits by {difference:.1e}")
    np.testing.assert_allclose(found, expected, rtol=TRAINERS_LOSS)
    assert len(found) == 6 and difference <= TRAINERS_LOGITS
    assert np.abs(logits(trained) - logits(CrossEncoder(folder))).max() > 0.1
