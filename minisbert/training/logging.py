"""What a run reports: metrics.jsonl and other loggers, the progress bar, the loss curve, the model card. And SIGTERM.

Each line of metrics.jsonl is a JSON object with its step: {"step", "loss", "gradient_norm", "learning_rate", "shape"}, or
{"step", "score"}. A resumed run drops the lines of the steps that it repeats.
"""

import hashlib
import json
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minisbert.atomic_write import not_written, whole_file
from minisbert.errors import InputError

if TYPE_CHECKING:
    from minisbert.data.examples import Dataset

Logger = Callable[[int, dict[str, float]], None]  # (step, values by name)


def _tensorboard(folder: Path, config: dict[str, Any]) -> Logger:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def log(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log


def _wandb(folder: Path, config: dict[str, Any]) -> Logger:
    import wandb

    run = wandb.init(dir=str(folder), id=_run_id(folder), name=folder.resolve().name, resume="allow", config=config)
    return lambda step, values: run.log(values, step=step)


def _trackio(folder: Path, config: dict[str, Any]) -> Logger:
    import trackio

    trackio.init(project="minisbert", name=_run_id(folder), resume="allow", config=config)
    return lambda step, values: trackio.log(values, step=step)


def _run_id(folder: Path) -> str:
    """One run per folder, also when it is resumed; folders of one name, such as a/run and b/run, are different runs."""
    path = folder.resolve()
    return f"{re.sub(r'[^0-9A-Za-z_.-]', '-', path.name)}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


LOGGERS: dict[str, Callable[[Path, dict[str, Any]], Logger]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
_PACKAGES = {"tensorboard": "tensorboardX"}  # where the name differs


class MetricsLog:
    """The metrics of a run, in metrics.jsonl and in other loggers.

    Args:
        folder: of the run; it is made. None keeps the lines in memory.
        config: the settings, for loggers that show them.
        report_to: names in LOGGERS.
        writes: False on every host but the first, which only read.

    Raises:
        InputError: a logger is not installed.
        WriteError: the folder cannot be made.
    """

    def __init__(
        self, folder: Path | None, config: dict[str, Any], report_to: Sequence[str] = (), *, writes: bool = True
    ):
        self.loggers: list[Logger] = []
        self._memory: list[dict[str, Any]] = []
        self.file: Path | None = None
        self.writes = writes
        if folder is None:
            if report_to:
                raise InputError(f"report_to is {tuple(report_to)!r} without a folder. Expected both or neither.")
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(folder, error) from None
        self.file = folder / "metrics.jsonl"
        for name in report_to if writes else ():
            try:
                self.loggers.append(LOGGERS[name](folder, config))
            except ImportError as error:
                raise InputError(
                    f"report_to is {name!r}, whose package is not installed ({error}). Expected an installed one: "
                    f"pip install {_PACKAGES.get(name, name)}."
                ) from None

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; its floats go to the loggers too."""
        if self.file is None:
            self._memory.append(line)
            return
        if not self.writes:
            return
        try:
            with self.file.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise not_written(self.file, error) from None
        for log in self.loggers:
            log(line["step"], {name: value for name, value in line.items() if isinstance(value, float)})

    def lines(self) -> list[dict[str, Any]]:
        """All complete lines. A line that a kill cut short, or that is not a metric, is skipped."""
        if self.file is None:
            return list(self._memory)
        found = []
        for text in self.file.read_text(encoding="utf-8", errors="replace").splitlines() if self.file.exists() else []:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if not isinstance(line, dict) or type(line.get("step")) is not int:
                continue
            if isinstance(line.get("loss", 0.0), int | float) and isinstance(line.get("score", 0.0), int | float):
                found.append(line)
        return found

    def drop_after(self, step: int) -> None:
        """Remove the lines of later steps, which will be repeated."""
        if self.file is not None and self.writes and self.file.exists():
            lines = [json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step]
            with whole_file(self.file) as temporary:  # a kill must not lose earlier scores
                temporary.write_text("".join(lines))


def plot_curves(lines: Sequence[dict[str, Any]], path: Path, names: Sequence[str] = ("loss",)) -> None:
    """Plot the loss by step (or the losses of these names), and the score where it was measured, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scores = curve(lines, "score")
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for i, name in enumerate(names):  # the loss, or that of each data set
        steps, values = curve(lines, name)
        title, color = (f"{name} of the batch", "#08519c") if name == "loss" else (name, f"C{i}")
        axes.plot(steps, values, color=color, alpha=0.4, linewidth=0.8, label=title)
        window = max(1, len(values) // 50)
        if window > 1:
            smooth = np.convolve(values, np.ones(window) / window, mode="valid")
            axes.plot(steps[window - 1 :], smooth, color=color, label=f"{name}, mean of {window} steps")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    handles, labels = axes.get_legend_handles_labels()
    if len(scores[0]):
        right = axes.twinx()
        right.plot(*scores, color="#d95f02", marker="o", label="score (right)")
        right.set_ylabel("score, such as Spearman of the cosine")
        more = right.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    axes.legend(handles, labels, frameon=False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)


def curve(lines: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps that have a metric of this name, and its values."""
    found = [line for line in lines if name in line]
    return np.array([line["step"] for line in found], int), np.array([line[name] for line in found], float)


def _plain(value: Any) -> str:
    """A value as text of a Markdown table: no markup, link, script or line break of its own."""
    return "".join(f"&#{ord(c)};" if c in r"\`*_[]<>|#&!~:" else c if c.isprintable() else " " for c in str(value))


def write_report(
    folder: Path,
    settings: dict[str, Any],
    datasets: Sequence["Dataset"],
    lines: Sequence[dict[str, Any]],
    model_name: str,
    hub_tag: str,
) -> None:
    """Write the run's curves.png, and a model card (README.md) with data, settings and scores into each of its models."""
    by_dataset = sorted(filter(re.compile("loss/").match, set().union(*lines)))
    plot_curves(lines, folder / "curves.png", by_dataset or ["loss"])
    data = "## Data\n\n| file | kind | rows | sha256 |\n| --- | --- | --- | --- |"
    for one in datasets:
        data += f"\n| {_plain(Path(one.source).name)} | {one.kind} | {one.rows} | `{one.sha256}` |"
    recorded, losses = {"name", "sha256"}, []  # a function or object as record.py has it
    given = settings["loss"]
    for name, one in (given if isinstance(given, dict) and given.keys() != recorded else {"": given}).items():
        losses.append(f"`{one['name'] if isinstance(one, dict) else one}`" + f" for {_plain(name)}" * bool(name))
    loss, table = ", ".join(losses), "## Settings\n\n| setting | value |\n| --- | --- |"
    for name, value in settings.items():
        shown = value["name"] if isinstance(value, dict) and value.keys() == recorded else value
        table += f"\n| {name} | {loss if name == 'loss' else _plain(shown)} |" * (name != "data")
    text = [
        f"---\nlibrary_name: sentence-transformers\ntags: [{hub_tag}, minisbert]\n---",
        f"# A {model_name}\n\nTrained by minisbert with the loss {loss} in {len(curve(lines, 'loss')[0])} steps.",
        data,
        table,
    ]
    if datasets[0].classes:
        classes = ", ".join(f"{i} {_plain(name)}" for i, name in enumerate(datasets[0].classes))
        text.append(f"## Classes\n\n{classes}")
    if scores := list(zip(*curve(lines, "score"), strict=True)):
        table = "\n".join(f"| {step} | {100 * score:.2f} |" for step, score in scores)
        text.append(f"## Score (x 100)\n\n| step | score |\n| --- | --- |\n{table}")
    for model in (folder / "final", folder / "best"):
        if model.is_dir():
            with whole_file(model / "README.md") as temporary:
                temporary.write_text("\n\n".join(text) + "\n", encoding="utf-8")


@contextmanager
def on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, by which a machine announces that it will be taken away; only in the main thread."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    former = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, former)
