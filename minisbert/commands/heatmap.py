"""A heat-map of similarities, as in the article, drawn straight into a PNG.

save_heatmap("similarities.png", scores, sentences, title="all-mpnet-base-v2")
"""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minisbert.commands.outputs import whole_file

if TYPE_CHECKING:
    import numpy as np


def save_heatmap(
    out: str, scores: "np.ndarray", sentences: Sequence[str], *, title: str, quantity: str = "similarity"
) -> None:
    """Draw all-pairs scores with their values in the cells.

    Args:
        out: the PNG file; appears whole or not at all.
        scores: `[sentences, sentences]`.
        sentences: the labels of the rows; the columns have their numbers only.
        title: above the picture.
        quantity: what the numbers are, at the colour bar.

    Raises:
        WriteError: the file cannot be written.
    """
    # The Agg canvas directly instead of pyplot: no window system is asked for, and no global state is left.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(sentences)
    lowest, highest = min(0.0, float(scores.min())), float(scores.max())
    side = max(3.6, 0.8 * count)
    figure = Figure(figsize=(side + 5.2, side + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # cividis looks the same with and without colour blindness, and its brightness alone tells the value.
    image = axes.imshow(scores, cmap="cividis", vmin=lowest, vmax=highest)
    bar = figure.colorbar(image, ax=axes, shrink=0.9)
    bar.set_label(quantity)
    for row in range(count):
        for column in range(count):
            bright = scores[row, column] > (lowest + highest) / 2
            value = f"{scores[row, column]:.2f}"
            axes.text(column, row, value, ha="center", va="center", color="black" if bright else "white")
    # parse_math=False: a sentence with two dollar signs is no formula.
    labels = [textwrap.fill(f"{i}: {text}", 36, max_lines=4, placeholder=" …") for i, text in enumerate(sentences)]
    axes.set_yticks(range(count), labels, parse_math=False)
    axes.set_xticks(range(count), [str(i) for i in range(count)])
    axes.set_xlabel("sentence")
    axes.set_ylabel("sentence")
    axes.set_title(textwrap.shorten(title, 70), parse_math=False)
    with whole_file(Path(out)) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box; the numbers are what counts
        figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight", pad_inches=0.15)
