"""Training steps of all-MiniLM-L6-v2 against sentence-transformers, taking turns in one process: pairs a second.

    python tests/parity/race_training.py [--rounds 10] [--loss multiple_negatives_ranking --batch-size 64]
    python tests/parity/race_training.py --memory minisbert|peer        one side alone: the peak memory of its process

SNLI pairs, dropout on, float32, AdamW and clipping on both sides, tokenizing included; each side has seen each batch once
before it is timed. Prints the median of each side, the median of the ratios and their spread.
"""

import argparse
import resource
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

from minisbert.checkpoint.download import locate
from minisbert.pretrained import load_pretrained
from minisbert.sentence_model import define
from minisbert.training.data import open_examples
from minisbert.training.feed import train_batch
from minisbert.training.losses import LOSSES, initial_softmax_head
from minisbert.training.optimizer import adamw, schedule
from minisbert.training.order import Batches
from minisbert.training.siamese import initial_state, make_train_step

SNLI = Path(__file__).parents[3] / "shared" / "data" / "nli" / "snli_train_20k.tsv.gz"


def ours(folder, loss: str, batches: list):
    """A function that does the i-th step."""
    model = load_pretrained(folder)
    optimizer = adamw(schedule("linear", 2e-5, 10, 1000), weight_decay=0.01, clip_norm=1.0)
    params = {"model": jax.tree.map(jax.numpy.array, model.params), "head": {}}
    model.params.clear()  # as `minisbert train` lets them go
    if loss == "softmax":
        params["head"] = initial_softmax_head(jax.random.key(0), model.design.dimension, 3)
    state = initial_state(params, optimizer, seed=0)
    definition, _ = define(model.design)
    step = make_train_step(definition=definition, loss=LOSSES[loss].function, optimizer=optimizer)

    def one(i: int) -> None:
        nonlocal state
        state, _ = step(state, train_batch(batches[i], model.tokenizer, max_length=128, padding_id=0)[0])
        jax.block_until_ready(state.params)

    return one


def theirs(folder, loss: str, batches: list):
    """The same by the peer."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    model.max_seq_length = 128
    model.train()
    make = {
        "softmax": partial(losses.SoftmaxLoss, model, model.get_embedding_dimension(), 3),
        "multiple_negatives_ranking": partial(losses.MultipleNegativesRankingLoss, model),
    }
    value = make[loss]()
    optimizer = torch.optim.AdamW(value.parameters(), lr=2e-5)

    def one(i: int) -> None:
        features = [model.preprocess(list(column)) for column in batches[i].texts]
        optimizer.zero_grad()
        value(features, torch.tensor(batches[i].labels, dtype=torch.long)).backward()
        torch.nn.utils.clip_grad_norm_(value.parameters(), 1.0)
        optimizer.step()

    return one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--loss", choices=("softmax", "multiple_negatives_ranking"), default="multiple_negatives_ranking"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--memory", choices=("minisbert", "peer"), help="measure this side's memory instead")
    options = parser.parse_args()
    order = Batches([open_examples(str(SNLI))], options.batch_size, seed=0)
    batches = [order.batch_at(i) for i in range(options.rounds)]
    folder = locate("all-MiniLM-L6-v2", offline=True)
    if options.memory:
        one = (ours if options.memory == "minisbert" else theirs)(folder, options.loss, batches)
        for i in range(options.rounds):
            one(i)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{options.memory}, {options.loss}, batch {options.batch_size}: peak {peak} MiB")
        return
    sides = {"minisbert": ours(folder, options.loss, batches), "peer": theirs(folder, options.loss, batches)}
    for one in sides.values():
        for i in range(options.rounds):
            one(i)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(options.rounds):
        for name, one in sides.items():
            started = time.perf_counter()
            one(i)
            seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        print(f"{name:10} {options.batch_size / np.median(times):6.1f} pairs/s")
    ratios = np.array(seconds["peer"]) / np.array(seconds["minisbert"])
    print(
        f"{options.loss}, batch {options.batch_size}: {np.median(ratios):.2f}x ({ratios.min():.2f} to {ratios.max():.2f})"
    )


if __name__ == "__main__":
    main()
