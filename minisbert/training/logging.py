"""The metrics of a run: always metrics.jsonl, and for those who watch runs elsewhere TensorBoard, Weights & Biases, Trackio."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minisbert.atomic_write import not_written, whole_file
from minisbert.errors import InputError

# (step, numbers by name)
Log = Callable[[int, dict[str, float]], None]


def _tensorboard(folder: Path, config: dict[str, Any]) -> Log:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def log(step: int, numbers: dict[str, float]) -> None:
        for name, number in numbers.items():
            writer.add_scalar(name, number, step)
        writer.flush()

    return log


def _wandb(folder: Path, config: dict[str, Any]) -> Log:
    import wandb

    # One run a folder, also when it was killed and goes on.
    run = wandb.init(dir=str(folder), id=folder.resolve().name, resume="allow", config=config)
    return lambda step, numbers: run.log(numbers, step=step)


def _trackio(folder: Path, config: dict[str, Any]) -> Log:
    import trackio

    trackio.init(project="minisbert", name=folder.resolve().name, resume="allow", config=config)
    return lambda step, numbers: trackio.log(numbers, step=step)


LOGGERS: dict[str, Callable[[Path, dict[str, Any]], Log]] = {
    "tensorboard": _tensorboard,  # pip install tensorboardX
    "wandb": _wandb,
    "trackio": _trackio,
}


def open_loggers(names: Sequence[str], folder: Path, config: dict[str, Any]) -> list[Log]:
    """The loggers of these names.

    Raises:
        InputError: one is not installed.
    """
    opened = []
    for name in names:
        try:
            opened.append(LOGGERS[name](folder, config))
        except ImportError as error:
            package = "tensorboardX" if name == "tensorboard" else name
            raise InputError(
                f"report_to names {name}, which is not installed ({error}): pip install {package}."
            ) from None
    return opened


class Journal:
    """The lines of a run, one JSON object each with the step it speaks of.

    Args:
        folder: of the run.
        config: its settings, for loggers that show them.
        report_to: names of LOGGERS.
        writes: False for a host that only reads (of several hosts one writes).
    """

    def __init__(self, folder: Path, config: dict[str, Any], report_to: Sequence[str] = (), *, writes: bool = True):
        self.file, self.writes = folder / "metrics.jsonl", writes
        self.loggers = open_loggers(report_to, folder, config) if writes else []

    def write(self, line: dict[str, Any]) -> None:
        """Add a line; its numbers go to the loggers too."""
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
        """All whole lines; what a kill cut short, or what is none of ours, is left out."""
        found = []
        for text in self.file.read_text(encoding="utf-8", errors="replace").splitlines() if self.file.exists() else []:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            whole = isinstance(line, dict) and type(line.get("step")) is int
            if whole and all(isinstance(line.get(name, 0.0), int | float) for name in ("loss", "score")):
                found.append(line)
        return found

    def forget_after(self, step: int) -> list[dict[str, Any]]:
        """Drop the lines of steps that will be done again; those that are left."""
        kept = [line for line in self.lines() if line["step"] <= step]
        if self.writes:
            with whole_file(self.file) as temporary:  # a kill must not take the scores that were there
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        return kept
