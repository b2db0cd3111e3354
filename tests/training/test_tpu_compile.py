"""Programs that XLA's TPU compiler must accept, for TPUs that this machine does not have.

    pytest -m tpu_compile -n 0 tests/training                  all of them, half an hour of processor time or more
    pytest -m "tpu_compile and not slow" -n 0 tests/training   two small ones
    python tests/training/test_tpu_compile.py                  write tpu_costs.json again

It needs the extra tpu-plan and is skipped without. tpu_costs.json has the compiler's estimates as they were last written; a
program that needs 10 % more fails.
"""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest
from families import TWINS, tiny

from minisbert.checkpoint.folder import read_folder
from minisbert.checkpoint.modules import Normalize, Pooling
from minisbert.commands import main
from minisbert.cross_encoder.model import CrossEncoderConfig
from minisbert.cross_encoder.training import CROSS_ENCODER
from minisbert.encoders import bert, mpnet
from minisbert.errors import InputError
from minisbert.inference.tpu_compiler import CHIPS, GIB, chip_devices
from minisbert.pretrained import read_model_config
from minisbert.sentence_model import ModelConfig
from minisbert.training.chip_plan import ChipPlan, chip_plan
from minisbert.training.config import TrainConfig
from minisbert.training.losses import LOSSES
from minisbert.training.sharding import data_mesh
from minisbert.training.task import SIAMESE

COSTS = Path(__file__).with_name("tpu_costs.json")
# More cycles or bytes than this, relative to tpu_costs.json, are a regression.
TOLERANCE = 0.10
needs_libtpu = pytest.mark.skipif(find_spec("libtpu") is None, reason='needs pip install "minisbert[tpu-plan]"')

MINILM = bert.Config(30522, 384, 6, 12, 1536, 512)
MPNET = mpnet.Config(30527, 768, 12, 12, 3072, 514)


def minilm(layers: int = 6) -> ModelConfig:
    return ModelConfig("bert", replace(MINILM, num_hidden_layers=layers), (Pooling(), Normalize()))


def tiny_of(family: str) -> ModelConfig:
    """The family's tiny model, BERT's with one layer."""
    model_config = read_model_config(read_folder(tiny(family)))
    if family != "bert":
        return model_config
    return replace(model_config, encoder=replace(model_config.encoder, num_hidden_layers=1))


class Case(NamedTuple):
    """A program: its model, settings and TPU."""

    model_config: Any
    settings: dict[str, Any]
    options: dict[str, Any]

    def plan(self) -> ChipPlan:
        """Compile it."""
        task = CROSS_ENCODER if isinstance(self.model_config, CrossEncoderConfig) else SIAMESE
        config = TrainConfig(("x",), max_steps=100, **{"batch_size": 64, **self.settings})
        options = {"texts": 2, "max_length": 64, "chip": "v5e-8", **self.options}
        return chip_plan(self.model_config, config, task, **options)


def case(family: str = "bert", settings: dict[str, Any] | None = None, **options: Any) -> Case:
    return Case(tiny_of(family), settings or {}, options)


TENSOR = {"layout": "tensor", "model_devices": 2}
SMALL = {
    "fsdp": case(layout="fsdp"),
    "gradcache, bfloat16": case(settings={"chunk_size": 16, "compute_dtype": "bfloat16"}),
}
# What docs/guides/devices.md recommends.
BFLOAT16 = {"compute_dtype": "bfloat16", "batch_size": 1024}
RECOMMENDED = {
    "MiniLM": Case(minilm(), BFLOAT16, {"max_length": 128}),
    "MiniLM, fsdp": Case(minilm(), BFLOAT16, {"max_length": 128, "layout": "fsdp"}),
    "MPNet": Case(ModelConfig("mpnet", MPNET, (Pooling(), Normalize())), BFLOAT16, {"max_length": 128}),
    "MPNet, fsdp": Case(
        ModelConfig("mpnet", MPNET, (Pooling(), Normalize())), BFLOAT16, {"max_length": 128, "layout": "fsdp"}
    ),
}
CASES = {
    **{
        f"loss {name}": case(settings={"loss": name}, texts=max(loss.least_texts, min(2, loss.most_texts or 2)))
        for name, loss in LOSSES.items()
    },
    **{f"family {family}": case(family) for family in TWINS},
    "accumulated": case(settings={"accumulate": 2}),
    "remat": case(settings={"remat": True}),
    "lora": case(settings={"lora_rank": 4}),
    "lora, fsdp": case(settings={"lora_rank": 4}, layout="fsdp"),
    "matryoshka": case(settings={"matryoshka": (32, 16)}),
    "tensor": case(**TENSOR),
    "gradcache, tensor": case(settings={"chunk_size": 16}, **TENSOR),
    "gradcache, fsdp": case(settings={"chunk_size": 16}, layout="fsdp"),
    "cross-encoder": Case(CrossEncoderConfig("bert", tiny_of("bert").encoder, 1), {"loss": "binary_cross_entropy"}, {}),
    **{
        f"{chip} {options.get('layout', 'replicated')}": case(chip=chip, **options)
        for chip in ("v5p-8", "v6e-8")
        for options in ({}, {"layout": "fsdp"}, TENSOR)
    },
    "several hosts, fsdp": case(chip="v5e-64", layout="fsdp"),
    "several hosts, tensor": case(chip="v5e-64", **TENSOR),
}


def check(name: str, program: Case) -> None:
    """It compiles, fits, and needs no more than it did."""
    plan = program.plan()
    estimate, lines = plan.estimate, "\n".join(plan.lines())
    assert 0 < estimate.bytes <= estimate.chip.gib * GIB
    assert 0 < estimate.share_of_peak(plan.step.flops / plan.devices) < 1
    assert f"{estimate.costs.cycles / 1e6:,.1f} million cycles" in lines and "not a measurement" in lines
    if known := json.loads(COSTS.read_text())["programs"].get(name):
        assert estimate.costs.cycles <= known["cycles"] * (1 + TOLERANCE)
        assert estimate.bytes <= known["bytes"] * (1 + TOLERANCE)


@needs_libtpu
@pytest.mark.tpu_compile
@pytest.mark.parametrize("name", SMALL)
def test_a_small_program_compiles_and_costs_what_it_did(name):
    check(name, SMALL[name])


@needs_libtpu
@pytest.mark.tpu_compile
@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, *RECOMMENDED])
def test_every_program_compiles_and_fits(name):
    check(name, {**CASES, **RECOMMENDED}[name])


@needs_libtpu
@pytest.mark.tpu_compile
@pytest.mark.slow
def test_a_mesh_has_the_devices_of_a_host_together():
    devices = chip_devices("v5e-64")
    mesh = data_mesh(None, 2, devices)
    hosts = [[device.process_index for device in row] for row in mesh.devices]
    assert len(devices) == 64 and mesh.shape == {"data": 32, "model": 2}
    assert hosts == sorted(hosts) and all(a == b for a, b in hosts) and len({a for a, _ in hosts}) == 8


def test_what_cannot_be_planned_is_refused(tmp_path, capsys, monkeypatch):
    data = tmp_path / "pairs.tsv"
    data.write_text("anchor\tpositive\na\tb\n")
    command = ["train", str(tiny("bert")), str(tmp_path / "run"), "--data", str(data)]
    for words, message in (
        (["--chip", "v5e-8"], "chip is v5e-8, dump_hlo None. Expected --plan with --chip"),
        (["--plan", "--dump-hlo", "x"], "Expected --plan with --chip"),
        (["--plan", "--chip", "v9"], "chip is 'v9'. Expected one of v3-8, v4-8, v5e-4, v5e-8"),
        (["--plan", "--chip", "H100"], "chip is 'H100'. Expected one of v3-8"),
        (["--plan", "--chip", "v5e-8", "--devices", "2"], "with --devices or --memory"),
        (["--plan", "--chip", "v5e-8", "--deterministic"], "deterministic is True with chip"),
    ):
        assert main([*command, *words]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr("minisbert.inference.tpu_compiler.version", lambda _: no_package())
    assert main([*command, "--plan", "--chip", "v5e-8"]) == 2
    assert 'pip install "minisbert[tpu-plan]"' in capsys.readouterr().err
    assert all(chip.gigahertz and chip.devices for chip in CHIPS.values() if chip.topology)


def no_package():
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError("libtpu")


def measure() -> None:
    """Write tpu_costs.json, and print a line per program."""
    from minisbert.inference.tpu_compiler import libtpu_version

    jax.config.update("jax_platforms", "cpu")
    programs = {}
    for name, program in {**SMALL, **RECOMMENDED, **CASES}.items():
        try:
            plan = program.plan()
        except InputError as error:
            print(f"{name}: {error}", flush=True)
            continue
        share = plan.estimate.share_of_peak(plan.step.flops / plan.devices)
        programs[name] = {"cycles": plan.estimate.costs.cycles, "bytes": plan.estimate.bytes}
        print(f"{name}: {programs[name]}, {share:.1%} of the peak, {plan.rate:,.0f} examples/s", flush=True)
        COSTS.write_text(json.dumps({"libtpu": libtpu_version(), "programs": programs}, indent=1) + "\n")


if __name__ == "__main__":
    measure()
