"""Exact search raced against faiss-cpu's IndexFlatIP: not a test, a table of medians.

    python tests/benchmarks/race_faiss.py                                # 1,000 queries in 100,000 x 384, top 10
    python tests/benchmarks/race_faiss.py --memory 1000000               # peak memory of searching such a file

The contestants take turns; their hits are compared first: equal rows, or, where two scores are closer than 1e-6, either.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from minisbert.search.exact import nearest


def unit_rows(rows: int, width: int, seed: int) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((rows, width), np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def race(rows: int, width: int, queries: int, k: int, rounds: int) -> None:
    import faiss

    corpus, asked = unit_rows(rows, width, 0), unit_rows(queries, width, 1)
    index = faiss.IndexFlatIP(width)
    index.add(corpus)
    contestants = {
        "faiss IndexFlatIP": lambda: index.search(asked, k),
        "minisbert, dot": lambda: nearest(asked, corpus, k, similarity="dot"),
        "minisbert, cosine": lambda: nearest(asked, corpus, k),
    }
    hits = {name: search() for name, search in contestants.items()}  # warm-up too
    scores, found = hits["faiss IndexFlatIP"]
    for name, (other_scores, other) in hits.items():
        differ = (other != found) & (abs(other_scores - scores) > 1e-6)
        print(f"{name:18} {(other == found).mean():.4%} equal rows, {differ.sum()} that no tie explains")
    wall, processor = ({name: [] for name in contestants} for _ in range(2))
    for _ in range(rounds):
        for name, search in contestants.items():
            before = time.perf_counter(), time.process_time()
            search()
            wall[name].append(time.perf_counter() - before[0])
            processor[name].append(time.process_time() - before[1])
    print(
        f"top {k} of {queries} queries in {rows} x {width}, {rounds} rounds, faiss threads {faiss.omp_get_max_threads()}"
    )
    for name in contestants:
        print(
            f"{name:18} seconds {np.median(wall[name]):.3f} (best {min(wall[name]):.3f}), of processors "
            f"{np.median(processor[name]):.3f} (best {min(processor[name]):.3f})"
        )
    rival = np.array(wall["faiss IndexFlatIP"])
    for name in list(contestants)[1:]:
        ratios = np.array(wall[name]) / rival
        print(
            f"{name:18} medians {np.median(wall[name]) / np.median(rival):.2f} of faiss; rounds "
            f"{np.quantile(ratios, 0.25):.2f} to {np.quantile(ratios, 0.75):.2f} (quartiles)"
        )


def memory(rows: int, width: int, queries: int, k: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.npy"
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, width)})
            for start in range(0, rows, 50_000):
                file.write(unit_rows(min(50_000, rows - start), width, start).tobytes())
        asked = unit_rows(queries, width, 1)
        before = peak()
        started = time.perf_counter()
        nearest(asked, path, k, similarity="dot")
        seconds = time.perf_counter() - started
    print(
        f"{queries} queries in a file of {rows} x {width} ({rows * width * 4 / 2**20:.0f} MiB): {seconds:.1f} s, peak memory "
        f"{peak():.0f} MiB, {before:.0f} before the search"
    )


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", type=int, metavar="ROWS")
    args = parser.parse_args()
    if args.memory:
        memory(args.memory, args.width, args.queries, args.k)
    else:
        race(args.rows, args.width, args.queries, args.k, args.rounds)
