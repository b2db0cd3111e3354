"""training/sharding.py: loss and gradient are those of the global batch on any devices; wrong setups are refused."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from families import TWINS, tiny
from jax.sharding import AbstractMesh, PartitionSpec
from runs import losses

from minisbert import SentenceEncoder
from minisbert.checkpoint.folder import read_folder
from minisbert.errors import InputError
from minisbert.model_config import ModelConfig
from minisbert.sentence_model import define
from minisbert.training.config import TrainConfig
from minisbert.training.sharding import check_setup, data_mesh, state_sharding
from minisbert.training.siamese import TrainState
from minisbert.training.trainer import train

TINY = Path(__file__).parents[2] / "weights" / "tiny-bert"
# In float64, where only another formula or another mask could show; sums in another order leave 1e-15.
FLOAT64 = 1e-12


def load_design(family):
    return ModelConfig.of(read_folder(tiny(family)))


def with_devices(count: int, *command: str) -> str:
    """The output of a process with this many virtual devices."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(count), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_loss_and_gradient_are_the_global_batchs_on_any_number_of_devices():
    command = Path(__file__).with_name("many_devices.py")
    found = json.loads(with_devices(8, str(command), "--quick").splitlines()[-1])
    assert {tuple(case["case"][1:]) for case in found["apart"]} == {
        ("replicated", 8, 1),
        ("fsdp", 2, 1),
        ("tensor", 4, 2),
    }
    for case in found["apart"]:
        assert case["loss"] <= FLOAT64 and case["gradient"] <= FLOAT64, case
        assert (case["spread"] > 0) == (case["case"][1] != "replicated"), case
    assert found["deterministic"], "one device and two give other bits"


# In one process, which imports JAX and compiles for one device once.
FOUR_THEN_ONE = """
import pathlib, sys
from minisbert.commands import main
folder, *words = sys.argv[1:]
for run, devices, layout in (("four", "4", "fsdp"), ("one", "1", "replicated"), ("four", "1", "replicated")):
    where = f"{folder}/{run}"
    assert main(["train", words[0], where, *words[1:], "--devices", devices, "--layout", layout]) == 0
    if devices == "4":  # as if it had stopped before the last checkpoint
        pathlib.Path(where, "checkpoints", "6").rename(f"{folder}/gone")
"""


@pytest.mark.slow
def test_the_command_trains_on_four_devices_and_resumes_on_one(tmp_path):
    data = tmp_path / "pairs.tsv"
    words = "cat dog house river tree stone book train".split()
    data.write_text("anchor\tpositive\n" + "".join(f"the {a} and {b}\ta {b} by a {a}\n" for a in words for b in words))
    command = [str(TINY), "--data", str(data), "--batch-size", "8", "--max-steps", "6"]
    command += ["--checkpoint-every", "3", "--learning-rate", "1e-3", "--no-dropout"]
    with_devices(4, "-c", FOUR_THEN_ONE, str(tmp_path), *command)
    assert losses(tmp_path / "four") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert len(losses(tmp_path / "four")) == 6 and (tmp_path / "gone").is_dir()


def mesh_of(data, model=1):
    """A mesh of devices that do not exist: enough to compute shardings."""
    return AbstractMesh((data, model), ("data", "model"))


@pytest.mark.parametrize(
    ("mesh", "layout", "batch_size", "message"),
    [
        (mesh_of(4), "star", 8, "layout is 'star'. Expected one of 'replicated', 'fsdp', 'tensor'"),
        (mesh_of(4), "tensor", 8, "layout is 'tensor' with model_devices 1. Expected model_devices of 2 or more"),
        (mesh_of(2, 2), "fsdp", 8, "layout is 'fsdp' with model_devices 2"),
        (mesh_of(4), "fsdp", 10, "batch_size is 10 on 4 data devices. Expected a multiple: take 8 or 12"),
        (mesh_of(16), "fsdp", 10, "batch_size is 10 on 16 data devices. Expected a multiple: take 16,"),
        (mesh_of(1, 3), "tensor", 8, "model_devices is 3, but the model's num_attention_heads is 4. .* 1, 2"),
        (mesh_of(1, 8), "tensor", 8, "model_devices is 8, but the model's num_attention_heads is 4. .* 1, 2, 4"),
    ],
)
def test_an_impossible_setup_is_refused_with_what_to_change(mesh, layout, batch_size, message):
    with pytest.raises(InputError, match=message):
        check_setup(mesh, layout, batch_size, load_design("bert").encoder)


@pytest.mark.parametrize("family", TWINS)
def test_tensor_cuts_every_large_parameter_of_every_family(family):
    """Matrices that make heads and inner units are cut by output, those that join them by input, tables by width."""
    model_config = load_design(family)
    if family == "nomic_bert":  # the tiny one has 3 heads and 40 inner units, which no number of devices can share
        model_config = replace(model_config, encoder=replace(model_config.encoder, intermediate_size=42))
    model = next(n for n in (2, 3, 5) if model_config.encoder.num_attention_heads % n == 0)
    check_setup(mesh_of(2, model), "tensor", 8, model_config.encoder)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), define(model_config)[1])
    state = TrainState(jax.numpy.int32(0), {"model": params, "head": {}}, {"mu": params}, jax.random.key(0))
    sharding = state_sharding(state, mesh_of(2, model), "tensor")
    assert sharding.optimizer_state["mu"] == sharding.params["model"]
    cut = {
        jax.tree_util.keystr(path): leaf.spec
        for path, leaf in jax.tree.leaves_with_path(sharding.params["model"]["encoder"])
    }
    for name, spec in cut.items():
        if re.search(r"\['(qkv|query|up)'\]\['kernel'\]$", name):
            assert spec == PartitionSpec(None, "model"), name
        elif name.endswith("['key_value']['kernel']"):  # few heads, which the devices need not be able to share
            assert spec == PartitionSpec(), name
        elif "blocks" in name and "kernel" in name:
            assert spec == PartitionSpec("model", None), name
        elif "norm" in name or name.endswith("['output']['bias']") or name.endswith("['down']['bias']"):
            assert spec == PartitionSpec(), name
        elif "embedding']" in name and "projection" not in name:
            # Tiny ALBERT's tables are 16 wide, which its 5 heads' devices cannot share.
            assert spec == (PartitionSpec() if family == "albert" else PartitionSpec(None, "model")), name
    assert sum(spec != PartitionSpec() for spec in cut.values()) >= 6


def test_an_array_that_the_model_devices_cannot_share_is_named():
    leaf = jax.ShapeDtypeStruct((5, 7), jax.numpy.float32)
    state = TrainState(jax.numpy.int32(0), {"model": {"up": {"kernel": leaf}}}, {}, jax.random.key(0))
    with pytest.raises(InputError, match=r"up.*\(5, 7\), which 2 model devices"):
        state_sharding(state, mesh_of(1, 2), "tensor")


def test_wrong_devices_layouts_and_settings_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"devices is 9. Expected 1 to 1, the cpu devices"):
        data_mesh(9)
    with pytest.raises(InputError, match="model_devices is 2 of 1 devices"):
        data_mesh(1, 2)
    with pytest.raises(InputError, match="layout is 'tensor', but the model has no layers"):
        check_setup(mesh_of(1, 2), "tensor", 8, load_design("static").encoder)
    with pytest.raises(InputError, match="layout is 'star'"):
        state_sharding(TrainState(jax.numpy.int32(0), {}, {}, jax.random.key(0)), data_mesh(1), "star")
    data = tmp_path / "pairs.tsv"
    data.write_text("anchor\tpositive\na\tb\nc\td\n")
    for message, settings, where in (
        ("devices is 0", {}, {"devices": 0}),
        ("with layout 'fsdp'", {"deterministic": True}, {"layout": "fsdp"}),
        ("True with 6 blocks on 1 devices", {"deterministic": True, "blocks": 6}, {}),
        ("on_new_shape is 'ignore'", {}, {"on_new_shape": "ignore"}),
        ("accumulate is 2, but the run has 1 steps", {"batch_size": 2, "accumulate": 2}, {}),
    ):
        with pytest.raises(InputError, match=message):
            train(SentenceEncoder.load(TINY), TrainConfig((str(data),), **settings), tmp_path / "run", **where)
    assert not (tmp_path / "run").exists()
