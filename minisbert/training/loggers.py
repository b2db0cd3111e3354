"""Metrics for those who watch runs elsewhere: TensorBoard, Weights & Biases, Trackio. metrics.jsonl is written always."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
