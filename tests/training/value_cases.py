"""Settings given as functions and objects, as a researcher writes them: for test_values.py, and run on two virtual devices.

python tests/training/value_cases.py        each case on 1 and on 2 devices, and how far the weights are apart, as JSON
"""

import os

if __name__ == "__main__":  # before jax is imported, and not for the tests that import this file
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minisbert import SentenceEncoder, TrainConfig, train
from minisbert.checkpoint.convert import flatten
from minisbert.similarity import normalize, pairwise_cosine
from minisbert.training.losses import Loss

WEIGHTS = Path(__file__).parents[2] / "weights"
TOPICS = ["cats and dogs", "rain and snow", "bread and wine"]
ROWS = [{"anchor": f"what about {TOPICS[i % 3]} {i}", "positive": f"{TOPICS[i % 3]} are number {i}"} for i in range(24)]


def pull_together(embeddings_SBD, targets, head=None, *, margin=0.1):
    """The mean of max(0, 1 - margin - cosine) over the pairs."""
    return jnp.maximum(0.0, 1 - margin - pairwise_cosine(embeddings_SBD[0], embeddings_SBD[1])).mean()


def trained_scale(embeddings_SBD, targets, head=None):
    """In-batch negatives with a temperature that is trained."""
    anchor_BD, positive_BD = map(normalize, embeddings_SBD)
    scores_BB = jnp.exp(head["log_scale"]) * anchor_BD @ positive_BD.T
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(scores_BB)))


def first_scale(key, dimension, classes):
    return {"log_scale": jnp.log(jnp.float32(10))}


class SameTopic:
    """Each batch has one topic: harder negatives."""

    def batch_at(self, step):
        topic, turn = step % 3, step // 3
        members = np.arange(topic, len(ROWS), 3)
        return np.random.default_rng((7, turn, topic)).permutation(members)[:4]


def halved(step):
    return 1e-3 * 0.5 ** (step / 4)


CASES = {
    "a loss": {"loss": pull_together, "loss_options": {"margin": 0.2}},
    "a loss with GradCache": {"loss": pull_together, "chunk_size": 3},
    "a loss with parameters": {"loss": Loss(trained_scale, "none", 2, 2, in_batch=True, head=first_scale)},
    "lion, layers, ema": {
        "optimizer": optax.lion,
        "trainable": r"blocks\.1\.|loss_head",
        "learning_rates": {r"attention": 0.5, r"\.bias$": 2.0},
        "ema": 0.5,
    },
    "a schedule": {"schedule": halved, "learning_rate": 2e-5},
    "an optimizer": {
        "optimizer": optax.sgd(0.1),
        "learning_rate": 2e-5,
        "trainable": lambda path: "embedding" in path,
    },
    "same-topic batches": {"batches": SameTopic(), "accumulate": 2},
}


def config(case, **more):
    settings = {
        "data": ROWS,
        "batch_size": 4,
        "max_steps": 4,
        "checkpoint_every": 2,
        "learning_rate": 1e-3,
        "dropout": True,
    }
    return TrainConfig(**{**settings, **CASES[case], **more})


def encoder_for(case):
    """A static model, which compiles fast, unless the case has layers."""
    return SentenceEncoder(WEIGHTS / ("tiny-bert" if "layers" in case else "tiny-static"))


def weights(model):
    return {name: np.asarray(leaf) for name, leaf in flatten(model.pretrained.params).items()}


def main():
    found = {}
    for case in CASES:
        encoder = encoder_for(case)
        one, two = (weights(train(encoder, config(case), devices=n, show_progress=False)) for n in (1, 2))
        start = weights(encoder)
        apart, moved = (np.sqrt(sum(np.sum((one[k] - other[k]) ** 2) for k in start)) for other in (two, start))
        found[case] = float(apart / moved)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
