"""Fifty steps of training in bfloat16 and the same in float32: the loss of each step, and STS-B afterwards.

python tests/training/bfloat16_steps.py ../shared/data           a minute on two cores

all-MiniLM-L6-v2 on the NLI triplets, multiple negatives, batch 32, seed and batches the same. Exits with 1 where a loss differs
by more than 2e-2 of float32's, or the score leaves its interval.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from minisbert import SentenceEncoder, TrainConfig, evaluate_sts, train

STEPS, BOUND = 50, 2e-2


def run(data: Path, compute_dtype: str) -> tuple[np.ndarray, Any]:
    """The loss of each step, and the score on STS-B dev of the model that was trained."""
    config = TrainConfig(
        data=(str(data / "nli" / "triplets_train.tsv.gz"),),
        loss="multiple_negatives_ranking",
        batch_size=32,
        max_steps=STEPS,
        compute_dtype=compute_dtype,
    )
    with tempfile.TemporaryDirectory() as folder:
        trained = train(SentenceEncoder("all-MiniLM-L6-v2"), config, Path(folder) / "run")
    losses = [row["loss"] for row in trained.run.metrics if "loss" in row]
    return np.array(losses), evaluate_sts(trained, data / "sts" / "stsb_dev.tsv.gz").score().spearman


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    (exact, score), (rounded, other) = (run(data, dtype) for dtype in ("float32", "bfloat16"))
    worst = float(np.abs(rounded / exact - 1).max())
    print(
        f"{len(exact)} losses from {exact[0]:.4f} to {exact[-1]:.4f}; bfloat16's differ by at most {worst:.1e} of each"
    )
    print(f"STS-B dev: {score} after float32, {other} after bfloat16")
    good = len(exact) == len(rounded) == STEPS and worst <= BOUND and score.low <= other.value <= score.high
    raise SystemExit(0 if good else "not the same")
