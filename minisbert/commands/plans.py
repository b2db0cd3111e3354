"""`minisbert train --plan`: what a run will need, from the model's config alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from minisbert.commands.train import Devices, Start
    from minisbert.training.config import TrainConfig


def print_plan(
    model: str,
    config: "TrainConfig",
    start: "Start",
    devices: "Devices",
    *,
    memory: float | None,
    chip: str | None,
    dump_hlo: str | None,
) -> None:
    """Print the plan of a run; see `training.plan`, and with a chip `training.chip_plan`."""
    import jax

    from minisbert.atomic_write import whole_file
    from minisbert.checkpoint.folder import read_folder
    from minisbert.cross_encoder.model import CrossEncoderConfig
    from minisbert.cross_encoder.training import CROSS_ENCODER
    from minisbert.data.examples import text_columns
    from minisbert.download.locate import locate
    from minisbert.errors import InputError
    from minisbert.pretrained import read_model_config
    from minisbert.training.chip_plan import chip_plan
    from minisbert.training.config_checks import check_config
    from minisbert.training.plan import plan
    from minisbert.training.task import SIAMESE

    if memory is not None and not memory > 0:
        raise InputError(f"memory is {memory}. Expected the GiB of one device, above 0.")
    task = CROSS_ENCODER if start.cross_encoder else SIAMESE
    check_config(config, task.losses)
    folder = read_folder(locate(model, offline=start.offline))
    model_config: Any = read_model_config(folder)
    max_positions = model_config.encoder.max_positions
    length = start.max_seq_length or min(folder.max_seq_length or max_positions, max_positions)
    if not 1 <= length <= max_positions:
        raise InputError(f"max_seq_length is {length}. Expected 1 to {max_positions}.")
    if start.cross_encoder:
        model_config = CrossEncoderConfig(model_config.model_type, model_config.encoder, start.num_labels or 1)
    options: dict[str, Any] = {
        "texts": len(text_columns(config.data[0], config.kind, config.text_columns or None, config.columns)),
        "max_length": length,
        "layout": devices.layout,
    }
    if chip is None:
        mesh = _mesh(devices.devices, devices.model_devices)
        print("\n".join(plan(model_config, config, task, mesh=mesh, **options).lines(memory)))
        return
    jax.config.update("jax_platforms", "cpu")  # only the compiler is asked, also on a machine with a TPU
    if devices.devices is not None or memory is not None:
        raise InputError("--chip is given with --devices or --memory. Expected --chip alone: it names both.")
    planned = chip_plan(model_config, config, task, chip=chip, model_devices=devices.model_devices, **options)
    if dump_hlo is not None:
        with whole_file(Path(dump_hlo)) as file:
            file.write_text(planned.estimate.text)
    print("\n".join(planned.lines()))


def _mesh(devices: int | None, model_devices: int) -> "Mesh":
    """The devices of the run. Where this machine has fewer, simulated ones that XLA can compile for."""
    import jax
    from jax.extend.backend import clear_backends

    from minisbert.training.sharding import data_mesh

    if devices is not None and devices > len(jax.devices()):
        clear_backends()
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
    return data_mesh(devices, model_devices)
