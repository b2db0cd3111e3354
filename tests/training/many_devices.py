"""Run by test_sharding.py with eight virtual devices: each case on 1, 2 and 8, and how far loss and weights are apart."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax

from minisbert.pretrained import load_pretrained
from minisbert.sentence_model import define
from minisbert.text.packing import pack
from minisbert.training.losses import LOSSES, initial_softmax_head
from minisbert.training.sharding import data_mesh, place_batch, state_sharding
from minisbert.training.siamese import TrainBatch, initial_state, train_step
from minisbert.training.targets import Targets

B = 8
CASES = [
    # loss, texts, chunk size, layout
    ("multiple_negatives_ranking", 2, None, "replicated"),
    ("multiple_negatives_ranking", 4, None, "fsdp"),
    ("multiple_negatives_ranking", 4, 7, "replicated"),
    ("softmax", 2, None, "fsdp"),
    ("cosent", 2, 4, "replicated"),
]
UNOPTIMIZED = {"xla_backend_optimization_level": 0}


def batch_of(S: int) -> TrainBatch:
    rng = np.random.default_rng(0)
    texts = [rng.integers(5, 60, rng.integers(20, 33)).tolist() for _ in range(S * B)]
    rows, where = pack(texts, padding_id=0, multiple=8)
    examples, columns = np.zeros(rows.lengths_PT.shape, np.uint32), np.zeros(rows.lengths_PT.shape, np.int32)
    examples.flat[where], columns.flat[where] = np.tile(np.arange(B), S), np.repeat(np.arange(S), B)
    hashes_SB = rng.integers(0, 2**32, (S, B)).astype(np.uint32)
    hashes_SB[1, 1] = hashes_SB[1, 6]  # the same positive twice, on two devices
    labels = np.arange(B) % 3
    return TrainBatch(rows, examples, columns, where.reshape(S, B), Targets(labels.astype(np.int32), hashes_SB))


def distance(a: list, b: list) -> float:
    return float(np.sqrt(sum(np.sum((x - y) ** 2) for x, y in zip(a, b, strict=True))))


def main() -> None:
    model = load_pretrained(Path(sys.argv[1]))
    design = replace(model.design, config=replace(model.design.config, num_hidden_layers=1))
    params = jax.tree.map(np.asarray, model.params)
    del params["encoder"]["blocks"][1]
    found = []
    with jax.enable_x64(True):
        definition, _ = define(design, jax.numpy.float64)
        params = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
        for loss, S, chunk_size, layout in CASES:
            head = {}
            if loss == "softmax":
                head = jax.tree.map(
                    lambda x: x.astype("float64"), initial_softmax_head(jax.random.key(0), design.dimension, 3)
                )
            batch = batch_of(S)
            if loss == "cosent":
                batch = batch._replace(targets=batch.targets._replace(labels_B=np.arange(B) / B))
            results = {}
            for count in (1, 2, 8):
                mesh = data_mesh(count)
                optimizer = optax.sgd(1.0)  # the update is the gradient itself
                state = initial_state({"model": params, "head": head}, optimizer, 0)
                sharding = state_sharding(state, mesh, layout)
                step = partial(
                    train_step,
                    definition=definition,
                    loss=LOSSES[loss].function,
                    optimizer=optimizer,
                    chunk_size=chunk_size,
                )
                compiled = jax.jit(step, out_shardings=(sharding, None), compiler_options=UNOPTIMIZED)
                after, metrics = compiled(jax.device_put(state, sharding), place_batch(batch, mesh))
                spread = sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(after.params))
                results[count] = (float(metrics.loss), [np.asarray(x) for x in jax.tree.leaves(after.params)], spread)
            for count in (2, 8):
                before = jax.tree.leaves({"model": params, "head": head})
                norm, gradient = (distance(results[1][1], other) for other in (before, results[count][1]))
                found.append(
                    {
                        "case": [loss, S, chunk_size, layout, count],
                        "loss": abs(results[count][0] / results[1][0] - 1),
                        "gradient": gradient / norm,
                        "spread": results[count][2],
                    }
                )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
