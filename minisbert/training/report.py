"""What a run says about itself: a bar while it runs; curves as a picture and a model card at the end."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from minisbert.atomic_write import whole_file


def progress_bar(steps: int, done: int, show: bool) -> Any:
    """A bar of the examples seen, on a terminal only."""
    from tqdm import tqdm

    return tqdm(total=None, desc=f"train ({steps} steps, {done} done)", unit=" pairs", disable=None if show else True)


def draw_curves(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss by step, and the STS score where it was measured, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    scores = [(line["step"], line["score"]) for line in lines if "score" in line]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    steps, values = zip(*losses, strict=True) if losses else ((), ())
    axes.plot(steps, values, color="#9ecae1", linewidth=0.8, label="loss of the batch")
    window = max(1, len(values) // 50)
    if window > 1:
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        axes.plot(steps[window - 1 :], smooth, color="#08519c", label=f"mean of {window} steps")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    handles, labels = axes.get_legend_handles_labels()
    if scores:
        right = axes.twinx()
        right.plot(*zip(*scores, strict=True), color="#d95f02", marker="o", label="score (right)")
        right.set_ylabel("score, such as Spearman of the cosine")
        more = right.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    axes.legend(handles, labels, frameon=False)
    figure.savefig(path, format="png", dpi=120)
    pyplot.close(figure)


def write_card(
    folder: Path,
    config: Any,
    datasets: Sequence[Any],
    lines: Sequence[dict[str, Any]],
    task: Any,
) -> None:
    """A README.md in a trained model's folder: data, settings, scores.

    Args:
        task: with `model_name` and `hub_tag`.
    """
    rows = [f"| {Path(d.source).name} | {d.kind} | {d.rows} | `{d.sha256}` |" for d in datasets]
    scores = [line for line in lines if "score" in line]
    losses = [line for line in lines if "loss" in line]
    settings = "\n".join(f"| {key} | {value} |" for key, value in asdict(config).items() if key != "data")
    text = [
        f"---\nlibrary_name: sentence-transformers\ntags: [{task.hub_tag}, minisbert]\n---",
        f"# A {task.model_name}\n\nTrained by minisbert with the loss `{config.loss}` in {len(losses)} steps.",
        "## Data\n\n| file | kind | rows | sha256 |\n| --- | --- | --- | --- |\n" + "\n".join(rows),
        "## Settings\n\n| setting | value |\n| --- | --- |\n" + settings,
    ]
    if datasets[0].classes:
        classes = ", ".join(f"{i} {name}" for i, name in enumerate(datasets[0].classes))
        text.append(f"## Classes\n\n{classes}")
    if scores:
        table = "\n".join(f"| {line['step']} | {100 * line['score']:.2f} |" for line in scores)
        text.append("## Score (x 100)\n\n| step | score |\n| --- | --- |\n" + table)
    with whole_file(folder / "README.md") as temporary:
        temporary.write_text("\n\n".join(text) + "\n", encoding="utf-8")
