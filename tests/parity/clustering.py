"""Clusters of our embeddings and of sentence-transformers': the same k-means, V-measure side by side. Not a test, a table.

    OMP_NUM_THREADS=1 python tests/parity/clustering.py                        # Banking77 and CLINC150, ../shared/data/cluster
    OMP_NUM_THREADS=1 python tests/parity/clustering.py --seeds 5 --model all-mpnet-base-v2

Each file is tab-separated with the columns label and text. As many clusters as there are labels, `clustering.kmeans` on both
embeddings with the same seeds; V-measure (Rosenberg & Hirschberg 2007) times 100. Needs the extras parity and cluster.
"""

import argparse
import csv
import gzip
from pathlib import Path

import numpy as np

from minisbert import SentenceEncoder
from minisbert.download.locate import locate
from minisbert.mining.clustering import kmeans, v_measure

FOLDER = Path(__file__).parents[2].parent / "shared" / "data" / "cluster"
FILES = ["banking77_train.tsv.gz", "clinc150_train.tsv.gz"]


def read(file: Path) -> tuple[list[str], list[str]]:
    """Texts and their labels."""
    with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def compare(file: Path, ours: SentenceEncoder, peer: object, seeds: int) -> None:
    """Print one file's line a seed, and the means."""
    texts, labels = read(file)
    clusters = len(set(labels))
    both = {"minisbert": ours.encode(texts), "sentence-transformers": peer.encode(texts, show_progress_bar=False)}
    difference = abs(both["minisbert"] - both["sentence-transformers"]).max()
    print(f"{file.name}: {len(texts)} texts, {clusters} labels; embeddings differ by {difference:.1e} at most")
    found: dict[str, list[float]] = {name: [] for name in both}
    for seed in range(seeds):
        for name, embeddings in both.items():
            found[name].append(100 * v_measure(labels, kmeans(embeddings, clusters, seed=seed)).v_measure)
        print(f"  seed {seed}  " + "  ".join(f"{name} {values[-1]:.3f}" for name, values in found.items()), flush=True)
    print("  mean    " + "  ".join(f"{name} {np.mean(values):.3f}" for name, values in found.items()))


def main() -> None:
    """Read the flags, load both models, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()

    from sentence_transformers import SentenceTransformer

    path = locate(args.model)
    ours, peer = SentenceEncoder.load(path), SentenceTransformer(str(path), device="cpu")
    print(f"k-means (4 starts), V-measure x 100, {args.model}")
    for name in FILES:
        compare(args.folder / name, ours, peer, args.seeds)


if __name__ == "__main__":
    main()
