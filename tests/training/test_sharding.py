"""training/sharding.py: the loss and its gradient are those of the global batch, whatever the devices; and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from minisbert import SentenceEncoder
from minisbert.errors import InputError
from minisbert.training.config import TrainConfig
from minisbert.training.loop import train
from minisbert.training.sharding import data_mesh, state_sharding
from minisbert.training.siamese import TrainState

TINY = Path(__file__).parents[2] / "weights" / "tiny-bert"
# In float64, where only another formula or another mask could show; sums in another order leave 1e-15.
FLOAT64 = 1e-12


def with_devices(count: int, *command: str) -> str:
    """What a process with so many virtual devices prints."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(count), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_loss_and_gradient_are_the_global_batchs_on_any_number_of_devices():
    found = json.loads(with_devices(8, str(Path(__file__).with_name("many_devices.py")), str(TINY)).splitlines()[-1])
    assert len(found) == 10 and {case["case"][-1] for case in found} == {2, 8}
    for case in found:
        assert case["loss"] <= FLOAT64 and case["gradient"] <= FLOAT64, case
        assert (case["spread"] > 0) == (case["case"][3] == "fsdp"), case


def test_the_command_trains_on_four_devices_and_goes_on_with_one(tmp_path):
    data = tmp_path / "pairs.tsv"
    words = "cat dog house river tree stone book train".split()
    data.write_text("anchor\tpositive\n" + "".join(f"the {a} and {b}\ta {b} by a {a}\n" for a in words for b in words))
    command = ["-m", "minisbert", "train", str(TINY), "--data", str(data), "--batch-size", "8", "--max-steps", "6"]
    command += ["--checkpoint-every", "3", "--learning-rate", "1e-3"]
    with_devices(4, *command, str(tmp_path / "four"), "--layout", "fsdp")
    with_devices(1, *command, str(tmp_path / "one"))
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("four", "one")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for step in (tmp_path / "four" / "checkpoints").glob("6"):
        step.rename(tmp_path / "gone")
    with_devices(1, *command, str(tmp_path / "four"))
    assert len((tmp_path / "four" / "metrics.jsonl").read_text().splitlines()) == 6


def test_what_cannot_be_spread_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"devices is 9. Expected 1 to 1, the cpu devices"):
        data_mesh(9)
    with pytest.raises(InputError, match="layout is 'star'"):
        state_sharding(TrainState(jax.numpy.int32(0), {}, {}, jax.random.key(0)), data_mesh(1), "star")
    data = tmp_path / "pairs.tsv"
    data.write_text("anchor\tpositive\na\tb\nc\td\n")
    with pytest.raises(InputError, match="devices is 0"):
        train(SentenceEncoder.load(TINY), TrainConfig((str(data),)), tmp_path / "run", devices=0)
    assert not (tmp_path / "run").exists()
