"""Print the rows of minisbert/commands/goldens.py with sentence-transformers; minisbert computes none of the numbers.

python tests/goldens/article.py [NAME ...]
"""

import sys
from typing import Any

import numpy as np

from minisbert.commands.demo import SENTENCES
from minisbert.commands.goldens import GOLDENS
from minisbert.download.locate import locate

DIMENSIONS = 8


def peer_embeddings(name: str) -> np.ndarray:
    """The sentences' embeddings, one text at a time: no padding, the plainest computation."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model: Any = SentenceTransformer(str(locate(name, offline=True)), device="cpu", local_files_only=True)
    return np.stack([model.encode(sentence) for sentence in SENTENCES])


def row(name: str) -> str:
    """The model's row, to be pasted."""
    embeddings_SD = peer_embeddings(name)
    lines = [f'    "{name}": Golden(', "        embeddings=("]
    for embedding_D in embeddings_SD[:, :DIMENSIONS]:
        lines.append("            (" + ", ".join(f"{x:.8f}" for x in embedding_D) + "),")
    norms = np.linalg.norm(embeddings_SD.astype(np.float64), axis=1)
    lines += ["        ),", "        norms=(" + ", ".join(f"{x:.7f}" for x in norms) + "),", "    ),"]
    return "\n".join(lines)


if __name__ == "__main__":
    for name in sys.argv[1:] or GOLDENS:
        print(row(name))
