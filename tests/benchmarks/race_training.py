"""Training steps of all-MiniLM-L6-v2 against sentence-transformers, taking turns in one process: pairs per second.

    python tests/benchmarks/race_training.py [--rounds 10] [--loss multiple_negatives_ranking --batch-size 64]
    python tests/benchmarks/race_training.py --memory minisbert|peer        one side alone: the peak memory of its process

SNLI pairs, dropout on, float32, AdamW and clipping on both sides, tokenizing included; each side has seen each batch once
before it is timed. Prints the median of each side, the median of the ratios and their spread.
"""

import argparse
import resource
import time
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from bench_training import Step, minisbert_step, sentence_transformers_step

from minisbert.data.examples import open_examples
from minisbert.data.sampler import Batch, Batches
from minisbert.download.locate import locate

SNLI = Path(__file__).parents[3] / "shared" / "data" / "nli" / "snli_train_20k.tsv.gz"
SIDES = {"minisbert": minisbert_step, "peer": sentence_transformers_step}


def one_step(step: Step, loss: str, batches: list[Batch], i: int) -> None:
    texts = list(chain(*zip(*batches[i].texts, strict=True)))
    step(texts, batches[i].labels if loss == "softmax" else None)


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
        step = SIDES[options.memory](folder, dtype="float32", loss=options.loss)
        for i in range(options.rounds):
            one_step(step, options.loss, batches, i)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{options.memory}, {options.loss}, batch {options.batch_size}: peak {peak} MiB")
        return
    sides = {
        name: partial(one_step, make(folder, dtype="float32", loss=options.loss), options.loss, batches)
        for name, make in SIDES.items()
    }
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
