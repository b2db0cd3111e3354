"""Show a figure in a notebook: a small PNG and its description, for those who see it and for those who do not.

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    ...
    show(figure, "A line that rises from 0 to 1 within ten steps.")

matplotlib's `Figure` is used without pyplot: nothing is shown twice, and no window system is needed.
"""

import io

import PIL.Image
from IPython.display import Image, display
from matplotlib.figure import Figure

# Okabe & Ito 2008: colours that people with any kind of colour blindness can distinguish. For maps of numbers: "cividis"
# (its brightness alone tells the value) and, where zero is in the middle, "PuOr".
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, BLACK = "#CC79A7", "#56B4E9", "#F0E442", "#000000"


def png(figure: Figure, *, dpi: int = 90) -> bytes:
    """A figure as a small PNG on white, so that it can be read on a dark page too."""
    pixels, picture = io.BytesIO(), io.BytesIO()
    figure.savefig(pixels, format="png", dpi=dpi)
    # 256 colours are enough for one map of colours and its labels, and a third of the size. Pillow comes with matplotlib.
    PIL.Image.open(pixels).convert("RGB").quantize(256).save(picture, format="png", optimize=True)
    return picture.getvalue()


def show(figure: Figure, description: str, *, dpi: int = 90) -> None:
    """Display a figure with its description below it, which is also the picture's alt text.

    Args:
        description: what there is to see, in a sentence or two, for a reader who cannot see it.
        dpi: dots per inch; 90 keeps a whole notebook below 300 kB.
    """
    display(Image(png(figure, dpi=dpi), format="png", alt=description))
    display({"text/markdown": f"*Figure: {description}*", "text/plain": f"Figure: {description}"}, raw=True)


def annotate(axes, values, *, form: str = "{:.2f}", size: float = 9) -> None:
    """Write each number of a matrix into its cell of an `imshow`, black on bright cells and white on dark ones."""
    image = axes.get_images()[-1]
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            red, green, blue, _ = image.cmap(image.norm(value))
            bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            axes.text(
                column,
                row,
                form.format(value),
                ha="center",
                va="center",
                color="black" if bright else "white",
                fontsize=size,
            )
