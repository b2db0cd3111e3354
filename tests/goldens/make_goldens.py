"""Make the frozen numbers of tests/test_goldens.py with sentence-transformers; minisbert computes none of them.

For cross-encoders (tests/cross_encoder_cases.py, three labels, written to a temporary folder): token ids of pairs after
truncation, how many are segment 0 (MPNet has no segments), logits.

    python tests/goldens/make_goldens.py [NAME ...]

Needs sentence-transformers and torch (the `parity` extra) and the two real models in minisbert's cache, whose files are
checked against the catalog's sha256 when they are fetched. For each model: token ids after truncation, embeddings
(of the real models the first 32 dimensions of 30 texts), the digest of the texts, and the versions used.
"""

import importlib.metadata
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from cross_encoder_cases import FAMILIES, PAIRS, tiny
from varied_sentences import SOME, digest

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
    "tiny-qwen3": (60, 24),
    "tiny-gemma3_text": (60, 24),
    "tiny-nomic_bert": (60, 24),
    "tiny-gte": (60, 24),
    "tiny-t5": (60, 20),
    "tiny-deberta-v2": (60, 24),
    "tiny-static": (60, 24),
    "tiny-layers": (60, 24),
    "tiny-router-query": (30, 24),
    "tiny-router-document": (30, 24),
    "all-MiniLM-L6-v2": (30, 32),
    "all-mpnet-base-v2": (30, 32),
}
# A Router's goldens are a route's: name -> folder, task
ROUTES = {f"tiny-router-{task}": ("tiny-router", task) for task in ("query", "document")}


def texts(count: int) -> list[str]:
    """`count` of the varied sentences, spread over all groups."""
    return [SOME[i] for i in sorted({round(i) for i in np.linspace(0, len(SOME) - 1, count)})]


def folder(name: str) -> Path:
    """Where a model stands."""
    if name.startswith("tiny"):
        return WEIGHTS / ROUTES.get(name, (name, None))[0]
    from minisbert.download.locate import locate

    return locate(name, offline=True)


def make(name: str) -> Path:
    """Compute and write one model's goldens."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    count, dimensions = MODELS[name]
    sentences = texts(count)
    model = SentenceTransformer(str(folder(name)), device="cpu", local_files_only=True)
    task = ROUTES.get(name, (name, None))[1]
    # One text at a time: no padding, the plainest computation.
    ids = [model.preprocess([text], task=task)["input_ids"].flatten().tolist() for text in sentences]
    embeddings = np.stack([model.encode(text, task=task) for text in sentences])[:, :dimensions]
    path = HERE / f"{name}.npz"
    np.savez_compressed(
        path,
        embeddings=embeddings.astype(np.float32),
        token_ids=np.concatenate([np.asarray(row, np.uint16) for row in ids]),
        lengths=np.array([len(row) for row in ids], np.int32),
        texts=digest(sentences),
        made_by=made_by(),
    )
    return path


def made_by() -> str:
    """The versions used."""
    packages = ("sentence-transformers", "transformers", "torch")
    return " ".join(f"{package}=={importlib.metadata.version(package)}" for package in packages)


def make_pairs(family: str) -> Path:
    """Compute and write one tiny cross-encoder's goldens."""
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tiny(family, 3).save(Path(folder, "model"))
        model = CrossEncoder(str(Path(folder, "model")), device="cpu", local_files_only=True)
        rows = [model.preprocess([pair]) for pair in PAIRS]
        logits = np.stack([model.predict(pair, activation_fn=torch.nn.Identity()) for pair in PAIRS])
    path = HERE / f"pairs-tiny-{family}.npz"
    np.savez_compressed(
        path,
        logits=logits.astype(np.float32),
        token_ids=np.concatenate([np.asarray(row["input_ids"][0], np.uint16) for row in rows]),
        lengths=np.array([row["input_ids"].shape[1] for row in rows], np.int32),
        first_lengths=np.array([int((row["token_type_ids"] == 0).sum()) for row in rows if "token_type_ids" in row]),
        texts=digest([text for pair in PAIRS for text in pair]),
        made_by=made_by(),
    )
    return path


if __name__ == "__main__":
    wanted = sys.argv[1:]  # names of files without .npz; all by default
    recipes = {name: (make, name) for name in MODELS}
    recipes |= {f"pairs-tiny-{family}": (make_pairs, family) for family in FAMILIES}
    for name in wanted or recipes:
        recipe, argument = recipes[name]
        path = recipe(argument)
        print(f"{path.name}: {path.stat().st_size / 1000:.1f} kB")
