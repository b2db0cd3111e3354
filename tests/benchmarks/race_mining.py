"""The best pair of many embeddings, and communities, raced against NumPy and sentence-transformers: a table of medians.

    python tests/benchmarks/race_mining.py [--rounds 7] [--threshold 0.75]     # Banking77's 10,003 texts
    python tests/benchmarks/race_mining.py --made-up                           # 10,000 x 384 from a seed, without data

The contestants take turns; what they found is compared first.
"""

import argparse
import csv
import gzip
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.mining.clustering import community_detection
from minisbert.mining.paraphrases import best_pair

BANKING = Path(__file__).parents[3] / "shared" / "data" / "cluster" / "banking77_train.tsv.gz"


def embeddings(made_up: bool) -> np.ndarray:
    """Unit rows: of real texts, or in clumps like theirs."""
    if made_up:
        random = np.random.default_rng(0)
        centres = random.standard_normal((80, 384))
        rows = centres[random.integers(0, 80, 10_000)] + 0.5 * random.standard_normal((10_000, 384))
        rows = rows.astype(np.float32)
    else:
        from minisbert import SentenceEncoder

        with gzip.open(BANKING, "rt", encoding="utf-8") as file:
            texts = [row["text"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
        rows = SentenceEncoder.load("all-MiniLM-L6-v2").encode(texts)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def numpy_best_pair(rows_MD: np.ndarray) -> tuple[int, int]:
    """What anybody would write first."""
    scores_MM = rows_MD @ rows_MD.T
    np.fill_diagonal(scores_MM, -2)
    i, j = divmod(int(scores_MM.argmax()), len(rows_MD))
    return min(i, j), max(i, j)


def race(contestants: dict[str, Callable[[], Any]], rounds: int) -> None:
    """Medians, and each ratio to the first round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, act in contestants.items():
            started = time.perf_counter()
            act()
            seconds[name].append(time.perf_counter() - started)
    ours = np.array(next(iter(seconds.values())))
    for name, each in seconds.items():
        ratios = ours / np.array(each)
        print(
            f"  {name:44} {np.median(each):.3f} s; minisbert / it {np.median(ratios):.2f} "
            f"({ratios.min():.2f} to {ratios.max():.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threshold", type=float, default=0.75)
    parser.add_argument("--made-up", action="store_true")
    options = parser.parse_args()
    import torch
    from sentence_transformers import util

    rows_MD = embeddings(options.made_up)
    tensor = torch.from_numpy(rows_MD)

    found, expected = best_pair(rows_MD), numpy_best_pair(rows_MD)
    scores = [float(rows_MD[i] @ rows_MD[j]) for i, j in (found, expected)]
    print(
        f"best pair of {len(rows_MD)} x {rows_MD.shape[1]}: {found}, NumPy's {expected}, apart {scores[0] - scores[1]:.1e}"
    )
    race(
        {
            "minisbert best_pair": lambda: best_pair(rows_MD),
            "NumPy matmul + argmax": lambda: numpy_best_pair(rows_MD),
            "sentence-transformers paraphrase_mining_embeddings": lambda: util.paraphrase_mining_embeddings(
                tensor, top_k=1
            ),
        },
        options.rounds,
    )

    settings = {"threshold": options.threshold, "min_community_size": 10}
    ours, theirs = community_detection(rows_MD, **settings), util.community_detection(tensor, **settings)
    same = sorted(map(sorted, ours)) == sorted(map(sorted, theirs))
    verdict = "the same" if same else "OTHERS"
    print(f"communities above {options.threshold}: {len(ours)}, sentence-transformers {len(theirs)}, {verdict}")
    race(
        {
            "minisbert community_detection": lambda: community_detection(rows_MD, **settings),
            "sentence-transformers community_detection": lambda: util.community_detection(tensor, **settings),
        },
        options.rounds,
    )


if __name__ == "__main__":
    main()
