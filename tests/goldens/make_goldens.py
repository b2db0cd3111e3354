"""Make the frozen numbers of tests/test_goldens.py with the peer library; minisbert computes none of them.

    python tests/goldens/make_goldens.py [NAME ...]

Needs sentence-transformers and torch (the `parity` extra) and the two real models in minisbert's cache, whose files are
checked against the catalog's sha256 when they are fetched. For each model: token ids after truncation, embeddings
(of the real models the first 32 dimensions of 30 texts), the digest of the texts, and the versions used.
"""

import hashlib
import importlib.metadata
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from varied_sentences import SOME

HERE = Path(__file__).parent
WEIGHTS = HERE.parents[1] / "weights"

# name -> (texts, dimensions) that are frozen
MODELS = {
    "tiny-bert": (len(SOME), 32),
    "tiny-mpnet": (len(SOME), 36),
    "tiny-roberta": (len(SOME), 36),
    "tiny-xlm-roberta": (len(SOME), 24),
    "tiny-distilbert": (len(SOME), 30),
    "tiny-albert": (len(SOME), 40),
    "tiny-modernbert": (len(SOME), 24),
    "all-MiniLM-L6-v2": (30, 32),
    "all-mpnet-base-v2": (30, 32),
}


def texts(count: int) -> list[str]:
    """`count` of the varied sentences, spread over all groups."""
    return [SOME[i] for i in sorted({round(i) for i in np.linspace(0, len(SOME) - 1, count)})]


def digest(sentences: list[str]) -> str:
    """Tells whether the texts are still those of the frozen numbers."""
    return hashlib.sha256("\0\0".join(sentences).encode()).hexdigest()


def folder(name: str) -> Path:
    """Where a model stands."""
    if name.startswith("tiny"):
        return WEIGHTS / name
    from minisbert.checkpoint.download import locate

    return locate(name, offline=True)


def make(name: str) -> Path:
    """Compute and write one model's goldens."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    count, dimensions = MODELS[name]
    sentences = texts(count)
    model = SentenceTransformer(str(folder(name)), device="cpu", local_files_only=True)
    ids = [model.preprocess([text])["input_ids"][0].tolist() for text in sentences]
    # One text at a time: no padding, the plainest computation.
    embeddings = np.stack([model.encode(text) for text in sentences])[:, :dimensions]
    packages = ("sentence-transformers", "transformers", "torch")
    path = HERE / f"{name}.npz"
    np.savez_compressed(
        path,
        embeddings=embeddings.astype(np.float32),
        token_ids=np.concatenate([np.asarray(row, np.uint16) for row in ids]),
        lengths=np.array([len(row) for row in ids], np.int32),
        texts=digest(sentences),
        made_by=" ".join(f"{package}=={importlib.metadata.version(package)}" for package in packages),
    )
    return path


if __name__ == "__main__":
    # All, or those named on the command line.
    for name in sys.argv[1:] or MODELS:
        path = make(name)
        print(f"{path.name}: {path.stat().st_size / 1000:.1f} kB")
