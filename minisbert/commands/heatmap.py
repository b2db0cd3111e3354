"""Draw a heat map of similarities, as in the article, to a PNG file.

save_heatmap("similarities.png", scores, sentences, title="all-mpnet-base-v2")
"""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minisbert.commands.outputs import save_figure

if TYPE_CHECKING:
    import numpy as np


def save_heatmap(
    out: str, scores: "np.ndarray", sentences: Sequence[str], *, title: str, quantity: str = "similarity"
) -> None:
    """Draw the scores of all pairs, with their values in the cells.

    Args:
        out: the PNG file, written atomically.
        scores: `[sentences, sentences]`.
        sentences: labels of the rows; the columns show numbers only.
        title: the title of the figure.
        quantity: the label of the colour bar.

    Raises:
        WriteError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    count = len(sentences)
    lowest, highest = min(0.0, float(scores.min())), float(scores.max())
    side = max(3.6, 0.8 * count)
    figure = Figure(figsize=(side + 5.2, side + 1.2), layout="constrained")
    axes = figure.add_subplot()
    # cividis looks the same with and without colour blindness, and its brightness alone shows the value.
    image = axes.imshow(scores, cmap="cividis", vmin=lowest, vmax=highest)
    figure.colorbar(image, ax=axes, shrink=0.9).set_label(quantity)
    for row in range(count):
        for column in range(count):
            bright = scores[row, column] > (lowest + highest) / 2
            value = f"{scores[row, column]:.2f}"
            axes.text(column, row, value, ha="center", va="center", color="black" if bright else "white")
    labels = [textwrap.fill(f"{i}: {text}", 36, max_lines=4, placeholder=" …") for i, text in enumerate(sentences)]
    axes.set_yticks(range(count), labels, parse_math=False)  # a sentence with two dollar signs is not a formula
    axes.set_xticks(range(count), [str(i) for i in range(count)])
    axes.set_xlabel("sentence")
    axes.set_ylabel("sentence")
    axes.set_title(textwrap.shorten(title, 70), parse_math=False)
    save_figure(figure, out, bbox_inches="tight", pad_inches=0.15)
