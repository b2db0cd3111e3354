"""Data: sentence-transformers' embeddings of the demo's five sentences, which `minisbert verify` compares with.

The first 8 numbers of each embedding, and its length. Made by tests/goldens/article.py with sentence-transformers 6.2.0,
transformers 5.23.0 and torch 2.13.0, from folders whose every file had the catalog's sha256. To add a model: add its
files' digests to the catalog, run that file, and paste what it prints.
"""

from typing import NamedTuple


class Golden(NamedTuple):
    """The embeddings of the five sentences."""

    embeddings: tuple[tuple[float, ...], ...]
    norms: tuple[float, ...] = (1.0,) * 5


# catalogued name -> its numbers
GOLDENS: dict[str, Golden] = {
    "all-MiniLM-L6-v2": Golden(
        embeddings=(
            (0.04386913, 0.11470899, 0.08923729, 0.00744803, 0.06255792, -0.01906110, 0.06614807, -0.03912497),
            (-0.02760376, -0.01118963, 0.05558641, 0.09998927, 0.04368021, 0.01214280, 0.03055240, -0.02877321),
            (0.06280140, 0.07941638, 0.05600210, -0.00188894, 0.01751204, 0.03632278, 0.07489499, 0.01174782),
            (0.00655263, 0.03033014, 0.02485729, 0.02901072, -0.12118284, -0.05400193, -0.04328331, 0.06783820),
            (-0.03414036, 0.00096138, 0.02102009, -0.00433987, -0.04392990, -0.08020588, -0.04919624, -0.00281491),
        ),
    ),
    "all-mpnet-base-v2": Golden(
        embeddings=(
            (0.01203453, -0.05299613, -0.02585822, -0.02474020, 0.01256680, 0.02901585, 0.01195475, 0.02064561),
            (0.01353773, 0.02624184, -0.03310315, -0.02686247, 0.05874708, -0.00766932, -0.06242977, 0.07695334),
            (0.02502475, 0.01824062, -0.00911171, -0.03129974, 0.04179773, -0.02870990, -0.03685811, -0.00789106),
            (-0.02322412, 0.03210402, -0.01342267, 0.01253404, 0.01198925, 0.03570808, 0.05659219, 0.00305887),
            (-0.04454850, -0.00373828, -0.00546582, -0.00960634, 0.02429481, -0.02394907, -0.01741187, -0.01091465),
        ),
    ),
}
