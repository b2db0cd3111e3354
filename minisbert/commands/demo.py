"""`minisbert demo`: the five sentences of the Pinecone article on sentence transformers, beside the published numbers.

    minisbert demo
    minisbert demo all-MiniLM-L6-v2 --out minilm.png

The article, "Sentence Transformers: Meanings in Disguise" (James Briggs), prints the cosines of these sentences for
bert-base-nli-mean-tokens and all-mpnet-base-v2. A model that is computed right gives them to about 1e-7.
"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from minisbert.commands.outputs import check_output
from minisbert.commands.tables import columns, matrix_lines, numbered

if TYPE_CHECKING:
    import numpy as np

SENTENCES = [
    "the fifty mannequin heads floating in the pool kind of freaked them out",
    "she swore she just saw her sushi move",
    "he embraced his new life as an eggplant",
    "my dentist tells me that chewing bricks is very bad for your teeth",
    "the dental specialist recommended an immediate stop to flossing with construction materials",
]

# model -> (sentence, sentence) -> cosine, as the article prints it
PUBLISHED = {
    "all-mpnet-base-v2": {
        (1, 0): 0.26406282,
        (2, 0): 0.16503485,
        (2, 1): 0.16126671,
        (3, 0): 0.04334451,
        (3, 1): 0.04615867,
        (3, 2): 0.0567013,
        (4, 0): 0.05398509,
        (4, 1): 0.06101188,
        (4, 2): -0.01122264,
        (4, 3): 0.51847214,
    },
    "bert-base-nli-mean-tokens": {
        (1, 0): 0.40914285,
        (2, 0): 0.10909,
        (2, 1): 0.4454796,
        (3, 0): 0.50074852,
        (3, 1): 0.30693918,
        (3, 2): 0.20791623,
        (4, 0): 0.29936209,
        (4, 1): 0.38607228,
        (4, 2): 0.28499269,
        (4, 3): 0.63849503,
    },
}
# float32 rounds at 6e-8, and the two libraries round in another order.
TOLERANCE = 1e-6


def demo(
    model: Annotated[Positional[str], arg(metavar="[MODEL]")] = "all-mpnet-base-v2",
    *,
    out: Annotated[str, arg(metavar="PNG")] = "minisbert-demo.png",
    offline: bool = False,
) -> int:
    """Compare five sentences, beside the published similarities of the model.

    Example: minisbert demo --out similarities.png

    The exit code is 1 if the model has published similarities and any differs by more than 1e-6.

    Args:
        model: a folder, a known name, or a name on the hub.
        out: where to draw the heat-map.
        offline: never open a socket.
    """
    check_output(out, (".png",))

    from minisbert.download.locate import locate

    folder = locate(model, offline=offline)
    print(f"model     {model}")
    print("\n".join(_origin(folder)))

    started = time.perf_counter()
    from minisbert import SentenceEncoder
    from minisbert.similarity import cosine

    encoder = SentenceEncoder.load(folder)
    loaded = time.perf_counter()
    embeddings = encoder.encode(SENTENCES)
    encoded = time.perf_counter()
    print(f"time      {loaded - started:.1f} s to import and load, {encoded - loaded:.1f} s to compile and encode")
    print("\n" + "\n".join(numbered(SENTENCES)))

    import numpy as np

    from minisbert.commands.heatmap import save_heatmap

    scores = np.asarray(cosine(embeddings, embeddings))
    print("\ncosine similarity\n" + "\n".join(matrix_lines(scores)))
    published = PUBLISHED.get(Path(model).name)
    difference = _compare(scores, published) if published else None
    save_heatmap(out, scores, SENTENCES, title=model, quantity="cosine similarity")
    print(f"\nheat-map  {out}")
    if difference is None:
        print(f"{Path(model).name} has no published table to compare with.")
        return 0
    print(f"largest absolute difference from the published table: {difference:.1e} (at most {TOLERANCE:.0e} expected)")
    return 0 if difference <= TOLERANCE else 1


def _origin(folder: Path) -> list[str]:
    """Which files the numbers come from: the folder, and who vouched for the weights in it."""
    from minisbert.download.staging import MANIFEST

    lines = [f"folder    {folder}"]
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        lines.append(f"source    {manifest['source']}, {manifest['repository']} at {manifest['commit']}")
        lines += [
            f"weights   {name}, sha256 {entry['sha256']}"
            for name, entry in manifest["files"].items()
            if name.endswith(".safetensors") and (folder / name).exists()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # a folder of the user's own says nothing of where it is from
    return lines


def _compare(scores: "np.ndarray", published: dict[tuple[int, int], float]) -> float:
    """Print the pairs beside the published numbers; returns the largest absolute difference."""
    differences = {pair: float(scores[pair]) - cosine for pair, cosine in published.items()}
    rows = [["pair", "   computed", "  published", "difference"]]
    for (i, j), cosine in published.items():
        rows.append([f"{i}, {j}", f"{scores[i, j]:11.8f}", f"{cosine:11.8f}", f"{differences[i, j]:+10.1e}"])
    print("\n" + "\n".join(columns(rows)))
    return max(map(abs, differences.values()))
