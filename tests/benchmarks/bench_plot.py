"""The plot of bench.py: one panel of bars per measure.

save_bench_plot("bench.png", record)
"""

from typing import Any

from minisbert.commands.outputs import save_figure

# Okabe and Ito's colours, distinguishable with every kind of colour blindness; hatching shows the dtype.
COLOURS = {"ours": "#0072B2", "peer": "#E69F00"}
HATCHES = {"float32": "", "bfloat16": "///"}


def save_bench_plot(out: str, record: dict[str, Any]) -> None:
    """Draw medians as bars, with whiskers from the minimum to the maximum of the rounds.

    Args:
        out: the PNG file; appears whole or not at all.
        record: see `bench --out`.
    """
    from matplotlib.figure import Figure

    panels = list(record["measures"].values())
    heights = [1.3 + 0.36 * len(panel["contestants"]) for panel in panels]
    figure = Figure(figsize=(9, sum(heights) + 0.6), layout="constrained")
    all_axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw(axes, panel)
    machine = record["machine"]
    title = f"{record['model']} on {machine['cpu']}, {machine['cores']} cores, {record['date'][:10]}"
    figure.suptitle(title, fontsize="medium", parse_math=False)
    save_figure(figure, out)


def _draw(axes: Any, panel: dict[str, Any]) -> None:
    rows = panel["contestants"]
    for place, (key, row) in enumerate(rows.items()):
        own, ratio = row["spread"], row["ratios"]
        colour = COLOURS["peer" if ratio or not key.startswith("minisbert ") else "ours"]
        whisker = [[own["median"] - own["low"]], [own["high"] - own["median"]]]
        axes.barh(
            place,
            own["median"],
            xerr=whisker,
            color=colour,
            hatch=HATCHES[row["dtype"]],
            edgecolor="white",
            error_kw={"ecolor": "black", "capsize": 3},
        )
        label = f"{own['median']:.3g}" if own["median"] < 100 else f"{own['median']:.0f}"
        if ratio:
            label += f"   (minisbert {ratio['median']:.2f}x)"
        axes.annotate(label, (own["high"], place), (6, 0), textcoords="offset points", va="center", fontsize="small")
    axes.set_yticks(range(len(rows)), list(rows), fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{panel['unit']} ({panel['better']} is better)", fontsize="small")
    axes.set_title(panel["title"], fontsize="medium", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
