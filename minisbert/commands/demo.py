"""`minisbert demo`: the five sentences of the Pinecone article on sentence transformers, next to reference similarities.

The article is "Sentence Transformers: Meanings in Disguise" (James Briggs).
"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from minisbert.commands.flags import Offline
from minisbert.commands.outputs import check_output, save_heatmap
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


def _pairs(*rows: tuple[float, ...]) -> dict[tuple[int, int], float]:
    """Rows 1, 2, ... of a table of cosines below its diagonal -> (sentence, sentence) -> cosine."""
    return {(i, j): cosine for i, row in enumerate(rows, start=1) for j, cosine in enumerate(row)}


# model -> its cosines as the article prints them
PUBLISHED = {
    "all-mpnet-base-v2": _pairs(
        (0.26406282,),
        (0.16503485, 0.16126671),
        (0.04334451, 0.04615867, 0.0567013),
        (0.05398509, 0.06101188, -0.01122264, 0.51847214),
    ),
    "bert-base-nli-mean-tokens": _pairs(
        (0.40914285,),
        (0.10909, 0.4454796),
        (0.50074852, 0.30693918, 0.20791623),
        (0.29936209, 0.38607228, 0.28499269, 0.63849503),
    ),
}
# model -> its cosines by sentence-transformers 6.2.0, computed in float64
COMPUTED = {
    "all-MiniLM-L6-v2": _pairs(
        (0.21621101,),
        (0.03266477, 0.18411848),
        (-0.05884860, 0.07821242, 0.14794000),
        (0.08289943, 0.02913054, 0.08819287, 0.42382172),
    ),
}
# float32 rounds at 6e-8, and two implementations round in different orders.
TOLERANCE = 1e-6


def demo(
    model: Annotated[Positional[str], arg(metavar="[MODEL]")] = "all-MiniLM-L6-v2",
    *,
    out: Annotated[str, arg(metavar="PNG")] = "minisbert-demo.png",
    offline: Offline = False,
) -> int:
    """Compare five sentences, and check the similarities against reference values.

    Example: minisbert demo all-mpnet-base-v2 --out similarities.png

    The exit code is 1 if the model has reference similarities and any differs by more than 1e-6: the article's for
    all-mpnet-base-v2 and bert-base-nli-mean-tokens, those of sentence-transformers for all-MiniLM-L6-v2.

    Args:
        model: a folder, a known name, or a name on the hub.
        out: where to draw the heat-map.
    """
    check_output(out, (".png",))

    from minisbert.download.locate import locate

    folder = locate(model, offline=offline)
    print("\n".join([f"model     {model}", f"folder    {folder}", *_origin(folder)]))

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

    scores = np.asarray(cosine(embeddings, embeddings))
    print("\ncosine similarity\n" + "\n".join(matrix_lines(scores)))
    name = Path(model).name
    reference = PUBLISHED.get(name) or COMPUTED.get(name)
    if reference:
        print("\n" + "\n".join(_comparison(scores, reference)))
    save_heatmap(out, scores, SENTENCES, title=model, quantity="cosine similarity")
    print(f"\nheat-map  written to {Path(out).resolve()}")
    if not reference:
        print(f"{name} has no published table to compare with.")
        return 0
    source = "the published table" if name in PUBLISHED else "sentence-transformers"
    difference = largest_difference(scores, reference)
    print(f"largest absolute difference from {source}: {difference:.1e} (at most {TOLERANCE:.0e} expected)")
    return 0 if difference <= TOLERANCE else 1


def largest_difference(scores: "np.ndarray", reference: dict[tuple[int, int], float]) -> float:
    """How far the cosines of all pairs of sentences are from their reference."""
    return max(abs(float(scores[pair]) - expected) for pair, expected in reference.items())


def _origin(folder: Path) -> list[str]:
    """The source of a downloaded model and the digests of its weights; empty for a local folder."""
    from minisbert.download.staging import MANIFEST

    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        digests = [
            f"weights   {name}, sha256 {entry['sha256']}"
            for name, entry in manifest["files"].items()
            if name.endswith(".safetensors") and (folder / name).exists()
        ]
        return [f"source    {manifest['source']}, {manifest['repository']} at {manifest['commit']}", *digests]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _comparison(scores: "np.ndarray", reference: dict[tuple[int, int], float]) -> list[str]:
    """One line per pair: computed, reference, difference."""
    rows = [["pair", "   computed", "  reference", "difference"]]
    for (i, j), expected in reference.items():
        score = float(scores[i, j])
        rows.append([f"{i}, {j}", f"{score:11.8f}", f"{expected:11.8f}", f"{score - expected:+10.1e}"])
    return columns(rows)
