"""A map of clustered sentences: a picture, or one page of HTML whose points show their sentence.

save_map("map.png", points_M2, labels_M, texts, names)
save_map("map.html", points_M2, labels_M, texts, names)      # no network: drawing, script and text are in the page

Clusters differ by colour (Okabe & Ito's, which stay apart with every kind of colour blindness) and, after seven, by shape;
after 21 they are grey.
Sentences come from strangers: in the page they are escaped, and its policy forbids it to load anything.
"""

import html
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minisbert.commands.outputs import whole_file

if TYPE_CHECKING:
    import numpy as np

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"]
# matplotlib's marker, and the same as a path around 0, 0
SHAPES = [
    ("o", "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0"),
    ("s", "M-3.5,-3.5h7v7h-7z"),
    ("^", "M0,-4.5l4.5,8h-9z"),
]
SMALLER = ("#BBBBBB", "o", SHAPES[0][1])
NOISE = ("#777777", "x", "M-3,-3l6,6M-3,3l6,-6")
# The largest clusters have a look and a line of the legend of their own; more looks than this nobody tells apart.
IN_LEGEND = 21

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>
body {{ font: 15px sans-serif; margin: 1em; color: #111; background: #fff }}
main {{ display: flex; flex-wrap: wrap; gap: 1em }}
svg {{ border: 1px solid #ccc; width: min(100%, 900px); height: auto }}
path {{ stroke-width: 1.2; opacity: .75 }} path:hover {{ opacity: 1; stroke: #000 }}
#tip {{ position: fixed; max-width: 26em; padding: .4em .6em; background: #fff; border: 1px solid #111; display: none;
  pointer-events: none; overflow-wrap: anywhere }}
li {{ list-style: none; margin: .2em 0 }} li svg {{ border: 0; width: 1em; height: 1em }}
</style></head><body><h1>{title}</h1><main>
<svg id="map" viewBox="0 0 900 640" role="img" aria-label="{title}">
{points}
</svg><ul>{legend}</ul></main><div id="tip"></div>
<script>
const tip = document.getElementById("tip"), map = document.getElementById("map");
map.addEventListener("mousemove", event => {{
  const text = event.target.dataset.text;
  tip.style.display = text === undefined ? "none" : "block";
  tip.textContent = text || "";
  tip.style.left = Math.min(event.clientX + 12, innerWidth - 340) + "px";
  tip.style.top = event.clientY + 12 + "px";
}});
map.addEventListener("mouseleave", () => tip.style.display = "none");
</script></body></html>
"""


def save_map(
    out: str,
    points_M2: "np.ndarray",
    labels_M: "np.ndarray",
    texts: Sequence[str],
    names: Sequence[str],
    *,
    title: str = "sentences",
) -> None:
    """Draw points in the colours of their clusters.

    Args:
        out: a .png or .html file; appears whole or not at all.
        points_M2: places.
        labels_M: cluster numbers, -1 for none.
        texts: the sentences.
        names: what each cluster is called.
        title: above the map.

    Raises:
        WriteError: the file cannot be written.
    """
    if Path(out).suffix.lower() == ".html":
        page = _page(points_M2, labels_M, texts, names, title)
        with whole_file(Path(out)) as temporary:
            temporary.write_text(page, encoding="utf-8")
    else:
        _picture(out, points_M2, labels_M, names, title)


def look(cluster: int) -> tuple[str, str, str]:
    """Colour, marker and path of a cluster.

    Example:
        >>> look(0)[:2], look(8)[:2], look(-1)[:2]
        (('#0072B2', 'o'), ('#E69F00', 's'), ('#777777', 'x'))
    """
    if cluster < 0:
        return NOISE
    if cluster >= IN_LEGEND:
        return SMALLER
    marker, path = SHAPES[cluster // len(COLOURS)]
    return COLOURS[cluster % len(COLOURS)], marker, path


def _entries(labels_M: "np.ndarray", names: Sequence[str]) -> list[tuple[int, str]]:
    """The legend: the first clusters with their sizes, and in one line what it leaves out."""
    clusters = range(len(names))
    entries = [(c, f"{c}: {names[c]} ({int((labels_M == c).sum())})") for c in clusters[:IN_LEGEND]]
    rest = clusters[IN_LEGEND:]
    if rest:
        entries.append((IN_LEGEND, f"and {len(rest)} smaller clusters"))
    if (labels_M == -1).any():
        entries.append((-1, f"no cluster ({int((labels_M == -1).sum())})"))
    return entries


def _picture(out: str, points_M2: "np.ndarray", labels_M: "np.ndarray", names: Sequence[str], title: str) -> None:
    # The Agg canvas directly instead of pyplot: no window system is asked for, and no global state is left.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for cluster in sorted(set(labels_M.tolist()), reverse=True):  # the grey ones first, under the others
        colour, marker, _ = look(cluster)
        mine = points_M2[labels_M == cluster]
        axes.scatter(mine[:, 0], mine[:, 1], s=14, c=colour, marker=marker, alpha=0.7, linewidths=0.8)
    handles, labels = [], []
    for cluster, text in _entries(labels_M, names):
        colour, marker, _ = look(cluster)
        handles.append(Line2D([], [], linestyle="", color=colour, marker=marker))
        # A dollar sign would begin a formula.
        labels.append(textwrap.shorten(text, 48, placeholder=" …").replace("$", r"\$"))
    if handles:
        figure.legend(handles, labels, loc="outside right upper", fontsize="small", frameon=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second")
    axes.set_title(textwrap.shorten(title, 90), parse_math=False)
    with whole_file(Path(out)) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(temporary, format="png", dpi=150)


def _page(
    points_M2: "np.ndarray", labels_M: "np.ndarray", texts: Sequence[str], names: Sequence[str], title: str
) -> str:
    import numpy as np

    low = points_M2.min(axis=0, initial=0)
    wide = np.maximum(points_M2.max(axis=0, initial=0) - low, 1e-12)
    places = (points_M2 - low) / wide * (860, 600) + 20
    places[:, 1] = 640 - places[:, 1]  # SVG counts downwards
    points = []
    for (x, y), cluster, text in zip(places.tolist(), labels_M.tolist(), texts, strict=True):
        about = f"{cluster}: {text}" if cluster >= 0 else text
        points.append(f'<path transform="translate({x:.1f},{y:.1f})" {_drawn(cluster)} data-text="{_escaped(about)}"/>')
    legend = []
    for cluster, text in _entries(labels_M, names):
        legend.append(f'<li><svg viewBox="-6 -6 12 12"><path {_drawn(cluster)}/></svg> {_escaped(text)}</li>')
    return PAGE.format(title=_escaped(title), points="\n".join(points), legend="\n".join(legend))


def _drawn(cluster: int) -> str:
    colour, _, path = look(cluster)
    return f'd="{path}" fill="{colour if cluster >= 0 else "none"}" stroke="{colour}"'


def _escaped(text: str) -> str:
    # Control characters are not allowed in HTML, escaped or not.
    return html.escape("".join(c if c >= " " and c != "\x7f" else " " for c in text), quote=True)
