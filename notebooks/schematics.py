"""The article's diagrams, drawn: boxes, arrows, and no numbers. Each notebook draws the one it is about.

    draw("encoder-decoder")          shows the picture, with its description below it

All pictures of this course that show numbers compute them; these show how the parts are joined.
"""

from collections.abc import Callable

from figures import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, show
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

PALE = {BLUE: "#D9EAF4", ORANGE: "#FBEBCB", GREEN: "#D5EEE5", RED: "#F8DFCF", PURPLE: "#F6E6EE", SKY: "#E4F2FA"}
ARROW = {"arrowstyle": "-|>", "color": BLACK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
ENGLISH, FRENCH = ("the", "red", "cat"), ("le", "chat", "rouge")


def draw(name: str) -> None:
    """Show one of `DIAGRAMS`."""
    size, paint, description = DIAGRAMS[name]
    figure = Figure(figsize=size)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100 * size[0] / size[1]), ylim=(0, 100))
    axes.axis("off")
    paint(axes)
    show(figure, description)


def _box(
    axes: Axes, x: float, y: float, text: str, colour: str = BLUE, *, width: float = 22, height: float = 14
) -> None:
    """A box around its centre (x, y)."""
    look = {"boxstyle": "round,pad=0,rounding_size=2", "facecolor": PALE[colour], "edgecolor": colour, "linewidth": 1.5}
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, **look))
    axes.text(x, y, text, ha="center", va="center", fontsize=10, linespacing=1.3)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], **look: object) -> None:
    axes.annotate("", end, start, arrowprops={**ARROW, **look})


def _word(axes: Axes, x: float, y: float, text: str) -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=10, family="monospace")


def _recurrent(axes: Axes, contexts: bool) -> None:
    """Three steps of reading, three of writing."""
    for i, word in enumerate(ENGLISH):
        x = 20 + 32 * i
        _word(axes, x, 8, word)
        _arrow(axes, (x, 13), (x, 26))
        _box(axes, x, 34, "reads")
        if i:
            _arrow(axes, (x - 21, 34), (x - 11, 34))
    for i, word in enumerate(FRENCH):
        x = 172 + 32 * i
        _box(axes, x, 34, "writes", GREEN)
        _arrow(axes, (x, 41), (x, 86 if not contexts else 88))
        _word(axes, x, 93, word)
        if i:
            _arrow(axes, (x - 21, 34), (x - 11, 34))


def _encoder_decoder(axes: Axes) -> None:
    _recurrent(axes, contexts=False)
    _arrow(axes, (95, 34), (111, 34))
    _box(axes, 124, 34, "one\nvector", RED, width=26, height=26)
    _arrow(axes, (137, 34), (161, 34))
    axes.text(124, 60, "all that passes:\nthe bottleneck", ha="center", fontsize=10, color=RED)


def _decoder_attention(axes: Axes) -> None:
    _recurrent(axes, contexts=True)
    _box(axes, 106, 66, "attention: a weighted mean\nof all states, new for every word", ORANGE, width=108, height=18)
    for i in range(3):
        _arrow(axes, (20 + 32 * i, 41), (62 + 14 * i, 57), color=BLUE)
        _arrow(axes, (134 + 10 * i, 57), (166 + 32 * i, 41), color=ORANGE)


def _positions(axes: Axes) -> None:
    for x, name in ((34, "token\nembeddings"), (98, "query, key"), (162, "score"), (226, "softmax")):
        _box(axes, x, 70, name, BLUE, width=42, height=22)
        if x > 34:
            _arrow(axes, (x - 43, 70), (x - 21, 70))
    for x, text in (
        (66, "added: sine waves (1)\nor a learned row (2)"),
        (130, "turned:\na rotation (4)"),
        (194, "added: a number\nper distance (3)"),
    ):
        _arrow(axes, (x, 34), (x, 67), color=RED)
        axes.text(x, 30, text, ha="center", va="top", fontsize=10, color=RED, linespacing=1.3)


def _block(axes: Axes) -> None:
    curve = {"connectionstyle": "arc3,rad=-0.3", "color": RED}
    for shift in (8, 4):  # the other heads, behind
        _box(axes, 84 + shift, 40 + shift, "", ORANGE, width=64, height=24)
    _box(axes, 20, 40, "tokens\nL × 384", SKY, width=34, height=24)
    _box(axes, 84, 40, "12 heads, each\nsoftmax(Q Kᵀ / √32) V", ORANGE, width=64, height=24)
    _box(axes, 144, 40, "add,\nnorm", GREEN, width=24, height=24)
    _box(axes, 192, 40, "feed-forward\n384 → 1,536 → 384", BLUE, width=56, height=24)
    _box(axes, 240, 40, "add,\nnorm", GREEN, width=24, height=24)
    for start, end in ((37, 52), (124, 132), (156, 164), (220, 228), (252, 262)):
        _arrow(axes, (start, 40), (end, 40))
    _arrow(axes, (20, 52), (142, 52), **curve)
    _arrow(axes, (147, 52), (238, 52), **curve)
    axes.text(140, 86, "the shortcuts: what was there is added", ha="center", va="center", fontsize=10, color=RED)
    axes.text(84, 18, "tokens mix; W_O joins the heads", ha="center", va="center", fontsize=10)
    axes.text(192, 18, "each token alone", ha="center", va="center", fontsize=10)


def _cross_encoder(axes: Axes) -> None:
    _word(axes, 130, 10, "[CLS]  sentence A  [SEP]  sentence B  [SEP]")
    _arrow(axes, (130, 16), (130, 26))
    _box(axes, 130, 37, "BERT: every token of A sees every token of B", BLUE, width=190, height=20)
    _arrow(axes, (62, 47), (62, 60))
    axes.text(66, 53, "[CLS]", fontsize=10, va="center")
    _box(axes, 62, 68, "a linear head", PURPLE, width=48)
    _arrow(axes, (62, 75), (62, 88))
    _word(axes, 62, 93, "one score, for this pair only")


def _bi_encoder(axes: Axes) -> None:
    for x, sentence, vector in ((50, "sentence A", "u"), (200, "sentence B", "v")):
        _word(axes, x, 7, sentence)
        _arrow(axes, (x, 12), (x, 20))
        _box(axes, x, 28, "BERT", BLUE, width=70)
        _arrow(axes, (x, 35), (x, 42))
        _box(axes, x, 49, "a vector per token", SKY, width=70)
        _arrow(axes, (x, 56), (x, 62))
        _box(axes, x, 69, f"pooling → {vector}", GREEN, width=70)
    axes.text(125, 28, "the same\nweights", ha="center", va="center", fontsize=10, color=RED)
    for start, end in (((103, 28), (86, 28)), ((147, 28), (164, 28))):
        _arrow(axes, start, end, color=RED)
    _box(axes, 125, 90, "cos(u, v)", ORANGE, width=60)
    _arrow(axes, (50, 76), (94, 88))
    _arrow(axes, (200, 76), (156, 88))


def _softmax_head(axes: Axes) -> None:
    for x, name, colour in ((55, "u", BLUE), (125, "v", BLUE), (195, "|u - v|", RED)):
        _box(axes, x, 34, name, colour, width=62)
        _arrow(axes, (x, 41), (x, 53), color=colour)
    for x, sentence in ((55, "premise → BERT → pooling"), (125, "hypothesis → BERT → pooling")):
        axes.text(x, 10 if x == 55 else 4, sentence, ha="center", va="center", fontsize=10)
        _arrow(axes, (x, 14 if x == 55 else 9), (x, 26))
    axes.text(195, 14, "their difference,\nwithout signs", ha="center", va="center", fontsize=10, color=RED)
    _box(axes, 125, 61, "one matrix: 3 D numbers → 3 scores", PURPLE, width=206)
    _arrow(axes, (125, 68), (125, 78))
    _box(axes, 125, 86, "softmax: entailment, neutral, contradiction", ORANGE, width=206)


# name -> size in inches, how it is painted, its description
DIAGRAMS: dict[str, tuple[tuple[float, float], Callable[[Axes], None], str]] = {
    "encoder-decoder": (
        (7.5, 2.9),
        _encoder_decoder,
        "Diagram of a recurrent encoder-decoder. Three boxes read the, red, cat from left to right; the last one gives one "
        "vector, through which all must pass; three boxes write le, chat, rouge from it.",
    ),
    "decoder attention": (
        (7.5, 2.9),
        _decoder_attention,
        "The same diagram with attention: arrows lead from all three reading boxes into a weighted mean, and from there one "
        "into each of the three writing boxes. Nothing passes through a single vector.",
    ),
    "positions": (
        (6.3, 2.4),
        _positions,
        "Diagram of attention from left to right: token embeddings, query and key, score, softmax. Red arrows show where "
        "the four kinds of positions enter: sine waves or a learned row are added to the token embeddings, a rotation turns "
        "query and key, a number per distance is added to the score.",
    ),
    "block": (
        (7.9, 2.9),
        _block,
        "Diagram of a transformer block from left to right: tokens go through twelve heads of attention, in which they mix; "
        "the result is added to what was there and normed; each token goes alone through a feed-forward net; added and normed "
        "again.",
    ),
    "cross-encoder": (
        (7.5, 2.9),
        _cross_encoder,
        "Diagram of a cross-encoder: sentences A and B in one row, with [SEP] between them, through one BERT; the vector of "
        "[CLS] goes into a linear head, which gives one score for this pair.",
    ),
    "bi-encoder": (
        (7.5, 3.0),
        _bi_encoder,
        "Diagram of SBERT: sentence A and sentence B go separately through BERT with the same weights, each to a vector per "
        "token and by pooling to one vector, u and v; their cosine is the similarity.",
    ),
    "softmax head": (
        (7.5, 3.0),
        _softmax_head,
        "Diagram of SBERT's training: the pooled vectors u and v and their difference |u - v| side by side go into one matrix "
        "that gives three scores, and a softmax over entailment, neutral and contradiction.",
    ),
}
