"""A map of clustered sentences: a picture, or an HTML page (cluster_map.html, needs no network) that shows each on hover.

Clusters differ by colour (Okabe and Ito's palette, distinguishable with every kind of colour blindness) and, after seven, by
shape; after 21 they are grey. Sentences are untrusted: they are escaped, and the page's policy runs no script but its own and
loads nothing.
"""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from minisbert.commands.outputs import new_figure, save_figure, write_lines
from minisbert.explain.page import escaped, policy

if TYPE_CHECKING:
    import numpy as np

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"]
# matplotlib's marker, and the same as an SVG path around 0, 0
SHAPES = [
    ("o", "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0"),
    ("s", "M-3.5,-3.5h7v7h-7z"),
    ("^", "M0,-4.5l4.5,8h-9z"),
]
SMALLER = ("#BBBBBB", *SHAPES[0])
NOISE = ("#777777", "x", "M-3,-3l6,6M-3,3l6,-6")
# Only the largest clusters get a colour and a line in the legend; more could not be distinguished.
IN_LEGEND = len(COLOURS) * len(SHAPES)


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
        out: a .png or .html file, written atomically.
        points_M2: coordinates.
        labels_M: cluster numbers, -1 for none.
        texts: the sentences.
        names: the names of the clusters.
    """
    if Path(out).suffix.lower() == ".html":
        write_lines(out, [_page(points_M2, labels_M, texts, names, title)])
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
    """The legend: the largest clusters with their sizes, and one line for all others."""
    clusters = range(len(names))
    entries = [(c, f"{c}: {names[c]} ({int((labels_M == c).sum())})") for c in clusters[:IN_LEGEND]]
    rest = clusters[IN_LEGEND:]
    if rest:
        entries.append((IN_LEGEND, f"and {len(rest)} smaller clusters"))
    if (labels_M == -1).any():
        entries.append((-1, f"no cluster ({int((labels_M == -1).sum())})"))
    return entries


def _picture(out: str, points_M2: "np.ndarray", labels_M: "np.ndarray", names: Sequence[str], title: str) -> None:
    figure, axes = new_figure(12, 7)
    for cluster, text in reversed(_entries(labels_M, names)):  # the grey ones first, under the others
        colour, marker, _ = look(cluster)
        own = points_M2[labels_M >= IN_LEGEND if cluster == IN_LEGEND else labels_M == cluster]
        label = textwrap.shorten(text, 48, placeholder=" …").replace("$", r"\$")  # a dollar sign would start a formula
        axes.scatter(own[:, 0], own[:, 1], s=14, c=colour, marker=marker, alpha=0.7, linewidths=0.8, label=label)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles[::-1], labels[::-1], loc="outside right upper", fontsize="small", frameon=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second")
    axes.set_title(textwrap.shorten(title, 90), parse_math=False)
    save_figure(figure, out)


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
        points.append(f'<path transform="translate({x:.1f},{y:.1f})" {_drawn(cluster)} data-text="{escaped(about)}"/>')
    legend = []
    for cluster, text in _entries(labels_M, names):
        legend.append(f'<li><svg viewBox="-6 -6 12 12"><path {_drawn(cluster)}/></svg> {escaped(text)}</li>')
    template = Path(__file__).with_name("cluster_map.html").read_text(encoding="utf-8")
    style, script = (re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)[0] for tag in ("style", "script"))
    return Template(template).substitute(
        policy=policy(style, script), title=escaped(title), points="\n".join(points), legend="\n".join(legend)
    )


def _drawn(cluster: int) -> str:
    colour, _, path = look(cluster)
    return f'd="{path}" fill="{colour if cluster >= 0 else "none"}" stroke="{colour}"'
