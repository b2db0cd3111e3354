"""The README's picture: text -> tokens -> one encoder, twice -> pooling -> u and v -> cosine. Every number is computed.

    pip install -e ".[notebooks]"
    python notebooks/one_story.py            writes notebooks/pictures/one_story.png

Two of the article's five sentences go through all-mpnet-base-v2; the heat-map shows all five, and frames the cell of these
two. Reimers & Gurevych 2019, figure 2. Notebook 01 does the same step by step.
"""

from pathlib import Path

import numpy as np
from figures import BLACK, RED, annotate, png
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minisbert import SentenceEncoder
from minisbert.commands.demo import PUBLISHED, SENTENCES
from minisbert.similarity import cosine

MODEL = "all-mpnet-base-v2"
PICTURE = Path(__file__).parent / "pictures" / "one_story.png"
PAIR = (3, 4)
SHOWN = 24  # of 768 dimensions
LABELS = ["0  heads in the pool", "1  sushi", "2  eggplant", "3  dentist, bricks", "4  flossing"]


def draw(encoder: SentenceEncoder) -> Figure:
    """The picture, with this model's numbers."""
    similarity_BB = np.asarray(cosine(*[encoder.encode(SENTENCES)] * 2))
    figure = Figure(figsize=(11.4, 5.6))
    canvas = figure.add_axes((0, 0, 1, 1))
    canvas.set(xlim=(0, 1), ylim=(0, 1))
    canvas.axis("off")
    for number, name, top, to in zip(PAIR, "uv", (0.90, 0.43), (0.235, 0.165), strict=True):
        _lane(figure, canvas, encoder, number, name, top)
        canvas.annotate("", (0.605, to), (0.545, top - 0.375), arrowprops=ARROW)
    canvas.add_patch(Rectangle((0.19, 0.11), 0.11, 0.79, facecolor="#E8EEF4", edgecolor=BLACK))
    canvas.text(0.245, 0.505, ENCODER, ha="center", va="center", fontsize=12, linespacing=1.4)
    for x, title in ((0.10, "tokens"), (0.245, "transformer"), (0.43, "token embeddings"), (0.86, "cosine similarity")):
        canvas.text(x, 0.955, title, ha="center", va="center", fontsize=12, weight="bold")

    axes = figure.add_axes((0.735, 0.36, 0.25, 0.25 * 11.4 / 5.6))
    axes.imshow(similarity_BB, cmap="cividis", vmin=-0.05, vmax=1)
    annotate(axes, similarity_BB, size=10)
    axes.set_xticks(range(5))
    axes.set_yticks(range(5), LABELS)
    axes.xaxis.tick_top()
    for column, row in (PAIR, PAIR[::-1]):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=RED, linewidth=3))
    canvas.text(
        0.615, 0.2, f"cos(u, v) = {similarity_BB[PAIR]:.4f}", va="center", fontsize=16, color=RED, weight="bold"
    )
    canvas.text(0.615, 0.135, f"computed with {MODEL};", va="center", fontsize=10)
    canvas.text(0.615, 0.095, f"the article prints {PUBLISHED[MODEL][PAIR[::-1]]:.4f}", va="center", fontsize=10)
    canvas.annotate("", (0.91, 0.352), (0.86, 0.235), arrowprops=ARROW)
    return figure


ARROW = {"arrowstyle": "-|>", "color": BLACK, "linewidth": 1.4}
ENCODER = "one BERT\n(here MPNet)\n\nthe same\nweights\nfor both\n\n12 layers of\nattention"


def _lane(figure: Figure, canvas: Axes, encoder: SentenceEncoder, number: int, name: str, top: float) -> None:
    """A sentence: its tokens, the model's rows for them, and their mean."""
    whole = encoder.encode(SENTENCES[number], output_value=None)
    tokens = [encoder.tokenizer.backend.id_to_token(token) for token in whole["input_ids"]]
    rows_LD, sentence_D = whole["token_embeddings"], whole["sentence_embedding"]
    height, limit = 0.32, 0.2
    look = {"cmap": "PuOr", "aspect": "auto"}
    canvas.text(0.02, top - height / 2, f"sentence {number}", rotation=90, ha="center", va="center", fontsize=11)
    for place, token in enumerate(tokens):
        y = top - (place + 0.5) * height / len(tokens)
        canvas.text(0.10, y, token, ha="center", va="center", fontsize=8, family="monospace")
    canvas.annotate("", (0.187, top - height / 2), (0.155, top - height / 2), arrowprops=ARROW)
    canvas.annotate("", (0.338, top - height / 2), (0.305, top - height / 2), arrowprops=ARROW)
    for array, bottom, tall, most in (
        (rows_LD[:, :SHOWN], top - height, height, limit),
        (sentence_D[None, :SHOWN], top - height - 0.07, 0.03, 0.06),
    ):
        axes = figure.add_axes((0.345, bottom, 0.17, tall))
        axes.imshow(array, vmin=-most, vmax=most, **look)
        axes.set(xticks=[], yticks=[])
    canvas.annotate("", (0.43, top - height - 0.038), (0.43, top - height - 0.002), arrowprops=ARROW)
    canvas.text(0.42, top - height - 0.02, "pooling:", ha="right", va="center", fontsize=9)
    canvas.text(0.44, top - height - 0.02, "mean of rows", va="center", fontsize=9)
    canvas.text(0.525, top - height - 0.055, name, va="center", fontsize=15, weight="bold", style="italic", color=RED)


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_bytes(png(draw(SentenceEncoder.load(MODEL)), dpi=100))
    print(f"{PICTURE.stat().st_size:,} bytes in {PICTURE}")
