"""Write minisbert/commands/goldens.json with sentence-transformers; minisbert computes none of the numbers.

python tests/goldens/article.py [NAME ...]
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import minisbert.commands
from minisbert.commands.demo import SENTENCES
from minisbert.commands.verify import GOLDENS
from minisbert.download.locate import locate

DIMENSIONS = 8
FILE = Path(minisbert.commands.__file__).parent / "goldens.json"


def reference_embeddings(name: str) -> np.ndarray:
    """The sentences' embeddings, one text per call: no padding, the plainest computation."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model: Any = SentenceTransformer(str(locate(name, offline=True)), device="cpu", local_files_only=True)
    return np.stack([model.encode(sentence) for sentence in SENTENCES])


def row(embeddings_SD: np.ndarray) -> str:
    """The numbers of a model as JSON, one embedding per line."""
    rows = [", ".join(f"{x:.8f}" for x in embedding_D) for embedding_D in embeddings_SD[:, :DIMENSIONS]]
    norms = ", ".join(f"{x:.7f}" for x in np.linalg.norm(embeddings_SD.astype(np.float64), axis=1))
    lines = ",\n".join(f"      [{row}]" for row in rows)
    return f'{{\n    "embeddings": [\n{lines}\n    ],\n    "norms": [{norms}]\n  }}'


def main(names: list[str]) -> None:
    """Compute the named models, or all again; the rows of other models stay as they are."""
    found = {name: row(reference_embeddings(name)) for name in names or GOLDENS}
    found = {name: json.dumps(numbers) for name, numbers in GOLDENS.items() if name not in found} | found
    body = ",\n".join(f'  "{name}": {found[name]}' for name in sorted(found))
    FILE.write_text(f"{{\n{body}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
