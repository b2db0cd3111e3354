"""What tests of training runs share: weights, losses from a run's folder, and runs that something happens to."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from minisbert import SentenceEncoder
from minisbert.checkpoint.convert import flatten
from minisbert.training.new_modules import keep_layers
from minisbert.training.trainer import Trainer

TINY_BERT = Path(__file__).parents[1] / "weights" / "tiny-bert"
# Its first layer as a model: a training step compiles in little more than half the time.
_folder = TemporaryDirectory(prefix="minisbert-tests-")
ONE_LAYER = Path(_folder.name) / "tiny-bert"
keep_layers(SentenceEncoder(TINY_BERT), [0]).save(ONE_LAYER)


class Killed(BaseException):
    """As SIGKILL, nothing of the package catches it."""


def weights(model: Any) -> dict[str, np.ndarray]:
    """The parameters by name."""
    return {name: np.asarray(leaf) for name, leaf in flatten(model.pretrained.params).items()}


def changed(a: Any, b: Any) -> set[str]:
    """The names of the parameters that are not the same to the bit."""
    a, b = (model if isinstance(model, dict) else weights(model) for model in (a, b))
    assert a.keys() == b.keys()
    return {name for name in a if a[name].tobytes() != b[name].tobytes()}


def losses(folder: Path) -> list[float]:
    """The loss of each step."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@contextmanager
def before_step(step: int, act: Callable[[], Any]) -> Iterator[None]:
    """Inside, a run does this when it asks for the batch of a step (from 0)."""
    batch = Trainer.batch

    def acting(self, number, *asked, **options):
        if asked and number == step:
            act()
        return batch(self, number, *asked, **options)

    with patch.object(Trainer, "batch", acting):
        yield


def assert_resumes_to_the_same_bits(run: Callable[[Path], Any], folder: Path, killed_before: int) -> None:
    """A run that is killed before a step, and started again, ends as an undisturbed one."""

    def die():
        raise Killed

    undisturbed = run(folder / "undisturbed")
    with before_step(killed_before, die), pytest.raises(Killed):
        run(folder / "killed")
    assert not changed(undisturbed, run(folder / "killed"))
    metrics = [(folder / name / "metrics.jsonl").read_text() for name in ("undisturbed", "killed")]
    assert metrics[0] == metrics[1]
