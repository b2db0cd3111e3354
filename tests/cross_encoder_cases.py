"""Tiny cross-encoders and pairs of texts, for test_cross_encoder.py, the goldens and the parity tests."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from minisbert import CrossEncoder
from minisbert.checkpoint.convert import flatten, nest

WEIGHTS = Path(__file__).parents[1] / "weights"
FAMILIES = ["bert", "mpnet"]
# Those that differ from them in their heads alone; no segments, other activations, a norm.
NEWER = ["roberta", "distilbert", "albert", "modernbert", "gte", "deberta-v2"]

# Pairs of all lengths: both fit, one or both are too long for 64 tokens, empty texts, other scripts, special tokens.
PAIRS = [
    ("a cat", "a dog"),
    ("a dog", "a cat"),
    ("the man plays guitar on the street", "a woman sings and plays piano in the city"),
    ("the same sentence", "the same sentence"),
    ("", "a dog"),
    ("a dog", ""),
    ("", ""),
    ("Eine Katze, 中, é", "[SEP] <pad> </s> and [CLS] in it"),
    ("one", "word " * 70),
    ("word " * 70, "one"),
    ("the city at night " * 20, "the sea by day " * 20),
    ("the sea by day " * 20, "the city at night " * 20),
    ("word " * 30, "word " * 31),
    ("word " * 31, "word " * 30),
    ("word " * 40, "other " * 40),
    ("books " * 29, "birds " * 32),
]


def tiny(family: str, num_labels: int = 1, seed: int = 0) -> CrossEncoder:
    """A tiny encoder with a head of wide random numbers, so that different pairs get clearly different logits.

    The numbers are NumPy's: the same on every machine and with every version of JAX.
    """
    model = CrossEncoder.from_encoder(WEIGHTS / f"tiny-{family}", num_labels)
    random = np.random.default_rng(seed)
    head = {
        name: jnp.asarray(random.normal(size=leaf.shape) * leaf.shape[0] ** -0.5, jnp.float32)
        for name, leaf in sorted(flatten(model.pretrained.params["head"]).items())
    }
    return with_params(model, {**model.pretrained.params, "head": nest(head)})


def with_params(model: CrossEncoder, params: dict) -> CrossEncoder:
    """The same model with other parameters."""
    return CrossEncoder(replace(model.pretrained, params=jax.tree.map(jnp.asarray, params)))


def shallow(model: CrossEncoder) -> CrossEncoder:
    """The same with its first layer only, which compiles in half the time."""
    model_config = replace(model.model_config, encoder=replace(model.model_config.encoder, num_hidden_layers=1))
    folder = model.pretrained.folder
    folder = replace(folder, config={**folder.config, "num_hidden_layers": 1})
    encoder = {**model.pretrained.params["encoder"], "blocks": {0: model.pretrained.params["encoder"]["blocks"][0]}}
    params = {**model.pretrained.params, "encoder": encoder}
    return CrossEncoder(replace(model.pretrained, folder=folder, model_config=model_config, params=params))
