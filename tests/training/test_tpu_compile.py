"""Programs that XLA's TPU compiler must accept, for TPUs that this machine does not have, and what they cost.

    pytest -m tpu_compile -n 0 tests/training                  all of them, each 10 s to 3 minutes of a core
    pytest -m "tpu_compile and not slow" -n 0 tests/training   two small ones
    python tests/training/test_tpu_compile.py [NAME ...]       write tpu_costs.json again, all of it or these rows

It needs the extra tpu-plan and is skipped without. tpu_costs.json has the compiler's estimates as they were last written; a
program that needs more than `CYCLES` and `BYTES` allow fails. One that is not in it must compile and fit.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest
from families import TWINS, tiny
from jax.sharding import Mesh, SingleDeviceSharding

from minisbert.checkpoint.folder import read_folder
from minisbert.checkpoint.modules import Normalize, Pooling
from minisbert.commands import main
from minisbert.cross_encoder.model import CrossEncoderConfig
from minisbert.cross_encoder.training import CROSS_ENCODER
from minisbert.encoders import bert, mpnet
from minisbert.errors import InputError
from minisbert.inference import encode_plan, tpu_compiler
from minisbert.inference.batching import TPU_BFLOAT16
from minisbert.inference.tpu_compiler import CHIPS, GIB, Estimate, chip_devices, compile_for_chip, find_chip
from minisbert.sentence_model import ModelConfig, define
from minisbert.training import plan as planning
from minisbert.training.collate import abstract_batch
from minisbert.training.config import TrainConfig
from minisbert.training.gradcache import pull_chunks
from minisbert.training.losses import LOSSES
from minisbert.training.plan import chip_plan
from minisbert.training.sharding import data_mesh
from minisbert.training.siamese import packed_embed
from minisbert.training.task import SIAMESE

COSTS = Path(__file__).with_name("tpu_costs.json")
# What a program may need relative to tpu_costs.json. Another compiler than the one recorded there may keep a few MiB in the
# chip's memory that were in the core's.
CYCLES, BYTES, FEW_BYTES = 1.10, 1.02, 16 * 2**20
needs_libtpu = pytest.mark.skipif(find_spec("libtpu") is None, reason='needs pip install "minisbert[tpu-plan]"')


def minilm(layers: int = 6) -> ModelConfig:
    return ModelConfig("bert", bert.Config(30522, 384, layers, 12, 1536, 512), (Pooling(), Normalize()))


def mpnet_base(layers: int = 12) -> ModelConfig:
    return ModelConfig("mpnet", mpnet.Config(30527, 768, layers, 12, 3072, 514), (Pooling(), Normalize()))


def tiny_of(family: str) -> ModelConfig:
    """The family's tiny model, BERT's with one layer."""
    model_config = ModelConfig.of(read_folder(tiny(family)))
    if family != "bert":
        return model_config
    return replace(model_config, encoder=replace(model_config.encoder, num_hidden_layers=1))


class Cost(NamedTuple):
    """What the compiler says of a program, and the FLOPs of its matrix products on one device."""

    estimate: Estimate
    flops: float


def training(model_config: Any, settings: dict[str, Any], **options: Any) -> Cost:
    """A training step."""
    task = CROSS_ENCODER if isinstance(model_config, CrossEncoderConfig) else SIAMESE
    config = TrainConfig(("x",), max_steps=100, **{"batch_size": 64, **settings})
    plan = chip_plan(model_config, config, task, **{"texts": 2, "max_length": 64, "chip": "v5e-8", **options})
    return Cost(plan.estimate, plan.step.flops / plan.step.devices)


def encoding(model_config: ModelConfig, dtype: str, rows: int, length: int, packing: bool = False) -> Cost:
    """A batch of `encode` on the 8 devices of a v5e-8."""
    output = encode_plan.PACKED if packing else encode_plan.SINGLE
    mesh = Mesh(chip_devices("v5e-8"), ("rows",))
    program, flops = encode_plan.lower_forward(model_config, dtype, output, rows, length, mesh)
    return Cost(compile_for_chip(program, find_chip("v5e-8")), flops / 8)


def one_block() -> Cost:
    """The program of a deterministic step that pulls the gradient through one block, on one device."""
    here = SingleDeviceSharding(chip_devices("v5e-8")[0])
    definition, params = define(tiny_of("bert"))
    batch = abstract_batch(8, 64, 2, 64, LOSSES["multiple_negatives_ranking"], 0, 0)
    keys_PT = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch.examples_PT.shape))
    d_PTD = jax.ShapeDtypeStruct((*keys_PT.shape, tiny_of("bert").dimension), "float32")
    given = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        (params, (batch.rows, keys_PT), d_PTD),
    )
    pull = jax.jit(partial(pull_chunks, packed_embed(definition)), static_argnums=3)
    return Cost(compile_for_chip(pull.lower(*given, 1), find_chip("v5e-8")), 0.0)


def case(family: str = "bert", settings: dict[str, Any] | None = None, **options: Any) -> Callable[[], Cost]:
    return lambda: training(tiny_of(family), settings or {}, **options)


TENSOR = {"layout": "tensor", "model_devices": 2}
LAYOUTS: dict[str, Any] = {"replicated": {}, "fsdp": {"layout": "fsdp"}, "tensor": TENSOR}
BFLOAT16 = {"compute_dtype": "bfloat16", "batch_size": 1024}
MODES = {
    "gradcache": {"chunk_size": 16},
    "accumulated": {"accumulate": 2},
    "remat": {"remat": True},
    "lora": {"lora_rank": 4},
    "matryoshka": {"matryoshka": (32, 16)},
    "ema": {"ema": 0.99},
}
SMALL = {
    "fsdp": case(layout="fsdp"),
    "gradcache, bfloat16": case(settings={"chunk_size": 16, "compute_dtype": "bfloat16"}),
}
# What the guide recommends, and the targets: a share of the bfloat16 peak each.
RECOMMENDED: dict[str, Callable[[], Cost]] = {
    f"{name}{f', {layout}' if layout != 'replicated' else ''}": partial(
        training, model(), BFLOAT16, max_length=128, **LAYOUTS[layout]
    )
    for name, model in (("MiniLM", minilm), ("MPNet", mpnet_base))
    for layout in ("replicated", "fsdp")
} | {
    "MPNet, remat": partial(training, mpnet_base(), {**BFLOAT16, "remat": True}, max_length=128),
    "MPNet, tensor": partial(training, mpnet_base(), BFLOAT16, max_length=128, **TENSOR),
    "MPNet, gradcache": partial(training, mpnet_base(), {**BFLOAT16, "chunk_size": 256}, max_length=128),
    "MiniLM, encode 16 tokens": lambda: encoding(minilm(), "bfloat16", 16_384, 16),
    "MiniLM, encode 256 tokens": lambda: encoding(minilm(), "bfloat16", 1024, 256),
    "MiniLM, encode packed": lambda: encoding(minilm(), "bfloat16", 4096, 64, packing=True),
    "MPNet, encode 256 tokens": lambda: encoding(mpnet_base(), "bfloat16", 1024, 256),
}
CASES = {
    **{
        f"loss {name}": case(settings={"loss": name}, texts=max(loss.least_texts, min(2, loss.most_texts or 2)))
        for name, loss in LOSSES.items()
    },
    **{f"family {family}": case(family, {"compute_dtype": "bfloat16"}) for family in TWINS},
    **{mode: case(settings=settings) for mode, settings in MODES.items()},
    **{
        f"{mode}, {layout}": case(settings=MODES[mode], **LAYOUTS[layout])
        for mode in ("gradcache", "lora", "remat")
        for layout in ("fsdp", "tensor")
        if (mode, layout) != ("lora", "tensor")
    },
    "tensor": case(**TENSOR),
    "deterministic": one_block,
    "cross-encoder": lambda: training(
        CrossEncoderConfig("bert", tiny_of("bert").encoder, 1), {"loss": "binary_cross_entropy"}
    ),
    **{
        f"{chip} {layout}": case(chip=chip, **options)
        for chip in ("v5p-8", "v6e-8")
        for layout, options in LAYOUTS.items()
    },
    **{f"two hosts, {layout}": case(chip="v5e-16", **options) for layout, options in LAYOUTS.items()},
    **{f"eight hosts, {layout}": case(chip="v5e-64", **options) for layout, options in LAYOUTS.items()},
    **{
        f"encode {rows} x {length}": partial(encoding, minilm(1), "bfloat16", rows, length)
        for rows, length in replace(TPU_BFLOAT16, devices=8).all(512)[::3]
    },
    "encode float32": lambda: encoding(minilm(1), "float32", 2048, 128),
}
PROGRAMS = {**SMALL, **CASES, **RECOMMENDED}


def check(name: str) -> None:
    """It compiles, fits, and needs no more than it did."""
    (estimate, flops), recorded = PROGRAMS[name](), json.loads(COSTS.read_text())
    known = recorded["programs"].get(name)
    assert 0 < estimate.bytes <= estimate.chip.gib * GIB and not estimate.costs.uncounted
    assert 0 <= estimate.share_of_peak(flops) < 1
    if known is not None:
        assert estimate.costs.cycles <= known["cycles"] * CYCLES
        more = 0 if tpu_compiler.libtpu_version() == recorded["libtpu"] else FEW_BYTES
        assert estimate.bytes <= known["bytes"] * BYTES + more


@needs_libtpu
@pytest.mark.tpu_compile
@pytest.mark.parametrize("name", SMALL)
def test_a_small_program_compiles_and_costs_what_it_did(name):
    check(name)


@needs_libtpu
@pytest.mark.tpu_compile
@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, *RECOMMENDED])
def test_every_program_compiles_and_fits(name):
    check(name)


def test_the_recorded_costs_are_those_of_programs():
    assert SMALL.keys() <= json.loads(COSTS.read_text())["programs"].keys() <= PROGRAMS.keys()


class Recorder:
    """A lowered program that keeps what it compiled."""

    def __init__(self, program: Any):
        self.program = program

    def compile(self) -> Any:
        self.executable = self.program.compile()
        return self.executable


@needs_libtpu
@pytest.mark.tpu_compile
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "encode"])
def test_the_plan_has_the_numbers_of_the_executable(kind, monkeypatch, tmp_path, capsys):
    recorded = []

    def recording(lowered, chip):
        recorded.append(Recorder(lowered))
        return compile_for_chip(recorded[-1], chip)

    for module in (planning, encode_plan):
        monkeypatch.setattr(module, "compile_for_chip", recording)
    (data := tmp_path / "pairs.tsv").write_text("anchor\tpositive\na\tb\n")
    (texts := tmp_path / "texts.txt").write_text("a man eats\na dog\n")
    words = {
        "train": ["train", tiny("bert"), tmp_path / "run", "--data", data, "--batch-size", 64],
        "encode": ["encode", texts, "--model", tiny("bert")],
    }[kind]
    assert main([*map(str, words), "--plan", "--chip", "v5e-8", "--dump-hlo", str(tmp_path / "program.txt")]) == 0
    printed, (only,) = capsys.readouterr().out, recorded
    memory, text = only.executable.memory_analysis(), only.executable.as_text()
    assert (tmp_path / "program.txt").read_text() == text
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    needed += memory.output_size_in_bytes - memory.alias_size_in_bytes
    assert f" = {tpu_compiler.size(needed)} of 16 GiB per device: fits" in printed
    # These programs have no loops, so that every operation runs once.
    cycles = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text)))
    assert f" {cycles / 1e6:,.1f} million cycles at 1.5 GHz" in printed and "not a measurement" in printed


@needs_libtpu
@pytest.mark.tpu_compile
@pytest.mark.slow
@pytest.mark.parametrize("chip, hosts", [("v5e-8", 1), ("v5e-16", 2), ("v5e-64", 8), ("v5p-16", 2), ("v6e-8", 1)])
def test_a_mesh_has_the_devices_of_a_host_together(chip, hosts):
    devices = chip_devices(chip)
    mesh = data_mesh(None, 2, devices)
    of_rows = [[device.process_index for device in row] for row in mesh.devices]
    assert mesh.shape == {"data": CHIPS[chip].devices // 2, "model": 2}
    assert of_rows == sorted(of_rows) and all(a == b for a, b in of_rows) and len({a for a, _ in of_rows}) == hosts


def test_what_cannot_be_planned_is_refused(tmp_path, capsys, monkeypatch):
    data = tmp_path / "pairs.tsv"
    data.write_text("anchor\tpositive\na\tb\n")
    command = ["train", str(tiny("bert")), str(tmp_path / "run"), "--data", str(data)]
    encode = ["encode", str(data), "--model", str(tiny("bert")), "--column", "anchor"]
    for words, message in (
        ([*command, "--chip", "v5e-8"], "chip is v5e-8, dump_hlo None. Expected --plan with --chip"),
        ([*command, "--plan", "--dump-hlo", "x"], "Expected --plan with --chip"),
        ([*command, "--plan", "--chip", "v9"], "chip is 'v9'. Expected one of v3-8, v4-8, v5e-4, v5e-8"),
        ([*command, "--plan", "--chip", "H100"], "chip is 'H100'. Expected one of v3-8"),
        ([*command, "--plan", "--chip", "v5e-8", "--devices", "2"], "with --devices or --memory"),
        ([*command, "--plan", "--chip", "v5e-8", "--deterministic"], "deterministic is True with chip"),
        ([*encode, "--chip", "v5e-8"], "chip is v5e-8, dump_hlo None without --plan"),
        ([*encode, "--plan"], "Expected --chip, and at least one sentence"),
        ([*encode, "--plan", "--chip", "v9"], "chip is 'v9'. Expected one of v3-8"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr("minisbert.inference.tpu_compiler.version", lambda _: no_package())
    for words in (command, encode):
        assert main([*words, "--plan", "--chip", "v5e-8"]) == 2
        assert 'pip install "minisbert[tpu-plan]"' in capsys.readouterr().err
    assert all(chip.gigahertz and chip.devices for chip in CHIPS.values() if chip.topology)


def no_package():
    raise PackageNotFoundError("libtpu")


def measure(names: list[str]) -> None:
    """Write tpu_costs.json, and print a line per program."""
    jax.config.update("jax_platforms", "cpu")
    known = json.loads(COSTS.read_text())["programs"] if names else {}
    for name in names or PROGRAMS:
        started = time.perf_counter()
        try:
            estimate, flops = PROGRAMS[name]()
        except InputError as error:
            print(f"{name}: {error}", flush=True)
            continue
        known[name] = {"cycles": estimate.costs.cycles, "bytes": estimate.bytes}
        share, seconds = estimate.share_of_peak(flops), time.perf_counter() - started
        print(f"{name}: {known[name]}, {share:.1%} of the peak; compiled in {seconds:.0f} s", flush=True)
        rows = {name: known[name] for name in PROGRAMS if name in known}
        COSTS.write_text(json.dumps({"libtpu": tpu_compiler.libtpu_version(), "programs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    measure(sys.argv[1:])
