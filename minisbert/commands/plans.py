"""`minisbert train --plan` and `minisbert encode --plan`: what a run will need, without the model's weights."""

from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.extend.backend import clear_backends
from jax.sharding import Mesh

from minisbert.arguments import prompt_text
from minisbert.atomic_write import whole_file
from minisbert.checkpoint.folder import read_folder
from minisbert.commands.tables import columns
from minisbert.cross_encoder.model import CrossEncoderConfig
from minisbert.cross_encoder.training import CROSS_ENCODER
from minisbert.data.examples import text_columns
from minisbert.download.locate import locate
from minisbert.errors import InputError
from minisbert.inference.encode_plan import encode_plan
from minisbert.inference.tpu_compiler import chip_devices, find_chip
from minisbert.model_config import ModelConfig
from minisbert.text.tokenizer import Tokenizer
from minisbert.training.config import TrainConfig
from minisbert.training.config_checks import check_config
from minisbert.training.plan import chip_plan, plan
from minisbert.training.sharding import data_mesh
from minisbert.training.task import SIAMESE

if TYPE_CHECKING:
    from minisbert.commands.train import Devices, Start

# Sentences of a file that decide about the shapes of its batches.
PLANNED = 10_000


def print_train_plan(
    model: str,
    config: TrainConfig,
    start: "Start",
    devices: "Devices",
    *,
    memory: float | None,
    chips: tuple[str, ...],
    dump_hlo: str | None,
) -> None:
    """Print the plan of a run (training/plan.py), of several chips as a table."""
    if memory is not None and not memory > 0:
        raise InputError(f"memory is {memory}. Expected the GiB of one device, above 0.")
    task = CROSS_ENCODER if start.cross_encoder else SIAMESE
    check_config(config, task)
    folder = read_folder(locate(model, offline=start.offline))
    model_config: Any = ModelConfig.of(folder)
    max_positions = model_config.encoder.max_positions
    length = start.max_seq_length or folder.longest
    if not 1 <= length <= max_positions:
        raise InputError(f"max_seq_length is {length}. Expected 1 to {max_positions}.")
    if start.cross_encoder:
        model_config = CrossEncoderConfig(model_config.model_type, model_config.encoder, start.num_labels or 1)
    found: Any = config.kind, config.text_columns or None, config.columns, config.label_columns
    options: dict[str, Any] = {
        "texts": len(text_columns(config.data[0], *found)),
        "max_length": length,
        "layout": devices.layout,
    }
    if not chips:
        mesh = _mesh(devices.devices, devices.model_devices)
        print("\n".join(plan(model_config, config, task, mesh=mesh, **options).lines(memory)))
        return
    if devices.devices is not None or memory is not None:
        raise InputError("--chip is given with --devices or --memory. Expected --chip alone: it names both.")
    _without_devices()
    plan_for = partial(chip_plan, model_config, config, task, model_devices=devices.model_devices, **options)
    if len(chips) == 1:
        planned = plan_for(chip=chips[0])
        _print_estimate(planned.lines(), planned.estimate.text, dump_hlo)
        return
    for chip in chips:
        chip_devices(chip)  # an unknown chip or a missing compiler is an error, a program that does not fit a row
    rows = [["chip", "devices", "memory per device", "step", "of the peak", "examples/s", "hours"]]
    for chip in chips:
        try:
            rows.append([chip, *plan_for(chip=chip).cells()])
        except InputError as error:
            rows.append([chip, str(find_chip(chip).devices), str(error).partition(":")[0], "", "", "", ""])
    print("\n".join(columns(rows)))


def _mesh(devices: int | None, model_devices: int) -> Mesh:
    """The devices of the run. Where this machine has fewer, simulated ones that XLA can compile for."""
    if devices is not None and devices > len(jax.devices()):
        clear_backends()
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
    return data_mesh(devices, model_devices)


def print_encode_plan(
    model: str,
    sentences: Iterable[str],
    *,
    chip: str | None,
    dump_hlo: str | None,
    prompt: tuple[str | None, str | None],
    offline: bool,
    **options: Any,
) -> None:
    """Print what embedding these sentences needs on a TPU; see `inference.encode_plan`.

    Args:
        sentences: the first `PLANNED` decide about the shapes of the batches.
        prompt: `prompt` and `prompt_name` of `encode`.
        options: as for `encode_plan`.
    """
    texts = list(islice(sentences, PLANNED))
    if chip is None or not texts:
        raise InputError(
            f"--plan of {len(texts)} sentences for chip {chip}. Expected --chip, and at least one sentence."
        )
    folder = read_folder(locate(model, offline=offline))
    model_config, tokenizer = ModelConfig.of(folder), Tokenizer.from_folder(folder)
    before = prompt_text(*prompt, folder.prompts, folder.default_prompt_name)
    counts = tokenizer.tokenize(texts, max_length=folder.longest, prompt=before, exact=False).counts[:, 1].tolist()
    _without_devices()
    planned = encode_plan(model_config, counts, chip=chip, **options)
    print(f"texts       {len(texts):,}, mean {sum(counts) / len(counts):.1f} tokens")
    _print_estimate(planned.lines(), planned.shapes[0].estimate.text, dump_hlo)


def _without_devices() -> None:
    """Only the compiler is asked, also on a machine with a TPU."""
    jax.config.update("jax_platforms", "cpu")


def _print_estimate(lines: list[str], program: str, dump_hlo: str | None) -> None:
    if dump_hlo is not None:
        with whole_file(Path(dump_hlo)) as file:
            file.write_text(program)
    print("\n".join(lines))
