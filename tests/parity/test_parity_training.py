"""Fifty training steps of a real model against sentence-transformers: each loss, and the weights at the end. And a run of both
trainers with a loss and prompts for each data set."""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from minisbert import SentenceEncoder, TrainConfig, train
from minisbert.download.locate import locate
from minisbert.errors import DownloadError
from minisbert.pretrained import load_pretrained

pytest.importorskip("sentence_transformers")
sys.path.insert(0, str(Path(__file__).parents[1] / "goldens"))
from trajectory import PROSE, RUNS, ours, theirs

pytestmark = pytest.mark.parity

RELATIVE_LOSS, WEIGHTS = 1e-4, 1e-4
# Of twelve steps of tiny-bert by both trainers: 5.8e-7 and 3.0e-6 are measured.
TRAINERS_LOSS, TRAINERS_EMBEDDINGS = 1e-5, 2e-5


@pytest.mark.parametrize("name", RUNS)
def test_fifty_steps_from_a_real_model(name, tmp_path, record_property):
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


def test_both_trainers_with_a_loss_for_each_data_set(tmp_path):
    """`train` and SentenceTransformerTrainer, each with its own batches, schedule, clipping and optimizer."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("accelerate")
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses

    folder = shutil.copytree(Path(__file__).parents[2] / "weights" / "tiny-bert", tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text())  # their trainer has no switch for dropout
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(settings))
    texts = [PROSE[i] for i in np.random.default_rng(0).permutation(len(PROSE))]
    scores = np.random.default_rng(1).uniform(size=8).tolist()
    data = {
        "qa": {"question": texts[:8], "answer": texts[8:16]},
        "sts": {"sentence1": texts[16:24], "sentence2": texts[24:32], "score": scores},
    }
    prompts = {"qa": {"question": "query: "}}

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / "theirs"),
            num_train_epochs=6,
            per_device_train_batch_size=8,  # all rows, so that their order does not matter
            learning_rate=1e-3,
            warmup_steps=2,
            weight_decay=0.01,
            multi_dataset_batch_sampler="round_robin",
            prompts=prompts,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset={name: datasets.Dataset.from_dict(table) for name, table in data.items()},
        loss={"qa": losses.MultipleNegativesRankingLoss(model), "sts": losses.CoSENTLoss(model)},
    )
    trainer.train()
    expected = [line["loss"] for line in trainer.state.log_history if "loss" in line]

    trained = train(
        SentenceEncoder(folder),
        TrainConfig(
            data=data,
            loss={"qa": "multiple_negatives_ranking", "sts": "cosent"},
            prompts=prompts,
            epochs=6,
            batch_size=8,
            learning_rate=1e-3,
            warmup_steps=2,
            mixing="round_robin",
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
