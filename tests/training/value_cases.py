"""Settings given as functions and objects, as a researcher writes them: for test_values.py, and run on two virtual devices.

python tests/training/value_cases.py [CASE ...]     each case on 1 and on 2 devices, and how far the weights are apart, as JSON
"""

import os

if __name__ == "__main__":  # before jax is imported, and not for the tests that import this file
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import json
import shutil
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import own_family
from flax import nnx

from minisbert import SentenceEncoder, TrainConfig, register_encoder, register_pooling, train
from minisbert.checkpoint.convert import flatten
from minisbert.similarity import cosine, normalize, pairwise_cosine
from minisbert.training.losses import Loss

WEIGHTS = Path(__file__).parents[2] / "weights"
TOPICS = ["cats and dogs", "rain and snow", "bread and wine"]
ROWS = [{"anchor": f"what about {TOPICS[i % 3]} {i}", "positive": f"{TOPICS[i % 3]} are number {i}"} for i in range(24)]
WEIGHTED = [
    {"sentence1": row["anchor"], "sentence2": row["positive"], "score": i % 5 / 4, "weight": 0.1 + i % 3}
    for i, row in enumerate(ROWS)
]
TEXTS = [{"text": row["positive"]} for row in ROWS]
GUIDE = str(WEIGHTS / "tiny-mpnet")  # of another width than the models here


def pull_together(embeddings_SBD, targets, head=None, *, margin=0.1):
    """The mean of max(0, 1 - margin - cosine) over the pairs."""
    return jnp.maximum(0.0, 1 - margin - pairwise_cosine(embeddings_SBD[0], embeddings_SBD[1])).mean()


def guided(embeddings_SBD, targets, head=None, *, limit=0.9):
    """In-batch negatives, without those that the guide finds nearly equal to the positive."""
    scores_BB = 20 * cosine(*embeddings_SBD)
    alike_BB = (cosine(targets.guide_SBD[1], targets.guide_SBD[1]) > limit) & ~jnp.eye(len(scores_BB), dtype=bool)
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(jnp.where(alike_BB, -jnp.inf, scores_BB))))


def late_interaction(embeddings_SBLD, targets, head=None):
    """ColBERT's score (Khattab & Zaharia 2020): the sum over the anchor's tokens of the best cosine; in-batch negatives."""
    anchor_BLD, positive_BLD = map(normalize, embeddings_SBLD)
    cosine_BBLL = jnp.einsum("bld,cmd->bclm", anchor_BLD, positive_BLD)
    real_BL = (positive_BLD != 0).any(axis=-1)
    scores_BB = jnp.max(jnp.where(real_BL[None, :, None], cosine_BBLL, -1), axis=3).sum(axis=2)
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(scores_BB)))


def weighted(embeddings_SBD, targets, head=None):
    """Cosine regression with a weight per example."""
    score_B, weight_B = targets.labels_B.T
    error_B = (pairwise_cosine(*embeddings_SBD) - score_B) ** 2
    return (weight_B * error_B).sum() / weight_B.sum()


class AttentionPooling(nnx.Module):
    """The mean of the tokens, weighted by softmax(hidden . query)."""

    def __init__(self, width, *, rngs):
        self.query = nnx.Param(jnp.zeros(width))

    def __call__(self, hidden_BLD, mask_BL):
        scores_BL = jnp.where(mask_BL, hidden_BLD @ self.query[...], -1e9)
        return jnp.einsum("bl,bld->bd", jax.nn.softmax(scores_BL), jnp.where(mask_BL[..., None], hidden_BLD, 0))


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


# AdamW makes whole steps of gradients that are only rounding, as those of the keys' biases are.
SGD = {"optimizer": optax.sgd(0.1), "learning_rate": 2e-5}
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
    "a guide": {"loss": Loss(guided, "none", 2, 2, in_batch=True, guide=True), "teacher": GUIDE, "chunk_size": 3},
    "earlier layers": {**SGD, "loss": "gist", "teacher": GUIDE, "adaptive_layers": True, "matryoshka": (32, 8)},
    "tokens": {**SGD, "loss": Loss(late_interaction, "none", 2, 2, in_batch=True, embeds="tokens"), "chunk_size": 3},
    "weights": {"data": WEIGHTED, "label_columns": ("score", "weight"), "loss": weighted},
    "layers of a family from outside": SGD,
    "two layers and an attention pooling": {**SGD, "trainable": r"^heads|blocks\.1\."},
    "a decoder tied to the layers": {**SGD, "data": TEXTS, "loss": "denoising_auto_encoder"},
    "a decoder with layers of its own": {  # the encoder has a small gradient: steps so large that rounding does not count
        **SGD,
        "optimizer": optax.sgd(3.0),
        "data": TEXTS,
        "loss": "denoising_auto_encoder",
        "loss_options": {"tie": False},
        "chunk_size": 2,
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
    if "family" in case:
        register_encoder("own_qwen", own_family)
        with tempfile.TemporaryDirectory() as folder:
            model = shutil.copytree(WEIGHTS / "tiny-qwen3", Path(folder) / "model")
            config = json.loads((model / "config.json").read_text())
            (model / "config.json").write_text(json.dumps(config | {"model_type": "own_qwen"}))
            return SentenceEncoder(model)
    encoder = SentenceEncoder(WEIGHTS / ("tiny-bert" if "layers" in case else "tiny-static"))
    if "pooling" in case:
        register_pooling("attention", AttentionPooling)
        return encoder.with_pooling("attention")
    return encoder


def weights(model):
    return {name: np.asarray(leaf) for name, leaf in flatten(model.pretrained.params).items()}


def main():
    found = {}
    for case in sys.argv[1:] or CASES:
        encoder = encoder_for(case)
        few = config(case, dropout=False)  # many_devices.py has dropout, too
        one, two = (weights(train(encoder, few, devices=n, show_progress=False)) for n in (1, 2))
        start = weights(encoder)
        apart, moved = (np.sqrt(sum(np.sum((one[k] - other[k]) ** 2) for k in start)) for other in (two, start))
        found[case] = float(apart / moved)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
