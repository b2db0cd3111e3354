"""Compiles programs for TPUs that this machine does not have, and says what they will need there: `--plan --chip`.

    devices  = chip_devices("v5e-8")                    devices to build a mesh of; nothing can run on them
    estimate = compile_for_chip(lowered, CHIPS["v5e-8"])    of jax.jit(...).lower(...) with arrays on that mesh

The compiler is in the package `libtpu` (the extra `tpu-plan`; Linux on x86-64). Memory is what the program will allocate.
Cycles are the compiler's own estimates (program_costs.py), with the clock at which they give the published peak; collectives
come on top unless they overlap. Nothing here is a measurement.
"""

import atexit
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
from filelock import FileLock
from jax.experimental import topologies

from minisbert.download.locate import cache_folder
from minisbert.errors import InputError
from minisbert.inference.program_costs import ProgramCosts, Rates, read_costs

GIB = 2**30


class Chip(NamedTuple):
    """What the makers publish of the devices as JAX counts them, and how the compiler names them."""

    devices: int
    teraflops: float  # the bfloat16 peak of one device
    gib: float  # the memory of one device
    topology: str = ""  # the compiler's name for these devices together; empty for what it does not know
    gigahertz: float = 0.0
    gigabytes: float = 0.0  # the bandwidth of one device's memory, per second
    host: tuple[int, int, int] = (2, 2, 1)
    """The chips of one host along the axes of the topology. The compiler's default depends on the machine it runs on."""


# Hosts of the v5e and v6e slices that have 8 chips or more.
OF_EIGHT = (2, 4, 1)
CHIPS = {
    "v3-8": Chip(8, 61.5, 16, "v3:2x2", 0.94, 450),
    "v4-8": Chip(4, 275, 32, "v4:2x2x1", 1.05, 1200),
    "v5e-4": Chip(4, 197, 16, "v5e:2x2", 1.5, 819),
    "v5e-8": Chip(8, 197, 16, "v5e:2x4", 1.5, 819, OF_EIGHT),
    "v5e-16": Chip(16, 197, 16, "v5e:4x4", 1.5, 819, OF_EIGHT),
    "v5e-64": Chip(64, 197, 16, "v5e:8x8", 1.5, 819, OF_EIGHT),
    "v5p-8": Chip(4, 459, 95, "v5p:2x2x1", 1.75, 2765),
    "v5p-16": Chip(8, 459, 95, "v5p:2x2x2", 1.75, 2765),
    "v5p-128": Chip(64, 459, 95, "v5p:4x4x4", 1.75, 2765),
    "v6e-8": Chip(8, 918, 32, "v6e:2x4", 1.75, 1638, OF_EIGHT),
    "v5p pod": Chip(8960, 459, 95),
    "H100": Chip(1, 989, 80),
    "H200": Chip(1, 989, 141),
}


class Estimate(NamedTuple):
    """What the compiler says of one program, per device."""

    chip: Chip
    text: str  # the optimized program (HLO)
    costs: ProgramCosts
    argument_bytes: int
    output_bytes: int  # of outputs that do not reuse the memory of an argument
    temporary_bytes: int

    @property
    def bytes(self) -> int:
        """All memory of the program while it runs."""
        return self.argument_bytes + self.output_bytes + self.temporary_bytes

    @property
    def seconds(self) -> float:
        """The estimated time of one run."""
        return self.costs.cycles / (self.chip.gigahertz * 1e9)

    def share_of_peak(self, flops: float) -> float:
        """The share of the chip's peak, if a device computes so many FLOPs per run."""
        return flops / self.seconds / (self.chip.teraflops * 1e12)

    def lines(self, flops: float, top: int = 8) -> list[str]:
        """Memory, time, collectives and the costliest lines of code, as text."""
        milliseconds, cycles = self.seconds * 1e3, self.costs.cycles
        lines = [
            f"memory      {size(self.argument_bytes)} arguments + {size(self.output_bytes)} outputs + "
            f"{size(self.temporary_bytes)} temporaries = {size(self.bytes)} of {self.chip.gib:g} GiB per device: fits",
            f"time        {cycles / 1e6:,.1f} million cycles at {self.chip.gigahertz:g} GHz = {milliseconds:,.2f} ms, "
            f"{self.share_of_peak(flops):.1%} of the bfloat16 peak",
        ]
        if self.costs.uncounted:
            lines.append(f"            too low: {self.costs.uncounted} kernels or loops have unknown cycles or rounds")
        for kind, dtype, count, moved, overlapped in self.costs.collectives:
            when = "while other work runs" if overlapped else "while other work waits (not in the time)"
            lines.append(f"collectives {count} {kind} in {dtype}: {size(moved)}, {when}")
        for place, spent in self.costs.by_line()[:top]:
            lines.append(f"costliest   {spent / cycles:6.1%}  {place}")
        return lines


def libtpu_version() -> str:
    """The version of the TPU compiler.

    Raises:
        InputError: it is not installed.
    """
    try:
        return version("libtpu")
    except PackageNotFoundError:
        raise InputError(
            "--chip compiles with the TPU compiler, which is not installed. Expected the extra tpu-plan: "
            'pip install "minisbert[tpu-plan]" (Linux on x86-64; a download of 140 MB, 700 MB on disk).'
        ) from None


def find_chip(name: str) -> Chip:
    """A row of `CHIPS` that the compiler knows.

    Raises:
        InputError: there is none of that name.
    """
    known = {chip: row for chip, row in CHIPS.items() if row.topology}
    if name not in known:
        raise InputError(f"chip is {name!r}. Expected one of {', '.join(known)}.")
    return known[name]


def chip_devices(name: str) -> list[jax.Device]:
    """The devices of a chip's topology: to compile for, not to run on.

    Raises:
        InputError: an unknown chip, or the compiler is not installed.
    """
    chip = find_chip(name)
    libtpu_version()
    with _quiet_compiler():
        options = {"chips_per_host_bounds": chip.host}
        return list(topologies.get_topology_desc(platform="tpu", topology_name=chip.topology, **options).devices)


def compile_for_chip(lowered: Any, chip: Chip) -> Estimate:
    """Compile a lowered program, which takes 20 s to several minutes and is said on stderr.

    Raises:
        InputError: it needs more memory than a device has.
    """
    print(f"compiling for {chip.topology}: 20 s to several minutes", file=sys.stderr)
    try:
        with _quiet_compiler():
            for file in _schedules().iterdir():
                file.unlink()  # of programs before
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needs = re.search(r"Used ([\d.]+[KMG]) of ([\d.]+[KMG])", str(error))
        if not needs:
            raise
        raise InputError(
            f"the program needs {needs.group(1)}iB of the {needs.group(2)}iB per device: it does not fit. Expected a smaller "
            "batch_size, chunk_size (GradCache), remat, layout fsdp, or more devices."
        ) from None
    memory, text = compiled.memory_analysis(), compiled.as_text()
    rates = Rates(chip.teraflops * 1e3 / chip.gigahertz, chip.gigabytes / chip.gigahertz)
    return Estimate(
        chip=chip,
        text=text,
        costs=read_costs(text, _scheduled_bundles(), rates),
        argument_bytes=int(memory.argument_size_in_bytes),
        output_bytes=int(memory.output_size_in_bytes - memory.alias_size_in_bytes),
        temporary_bytes=int(memory.temp_size_in_bytes),
    )


def size(count: float) -> str:
    """Bytes, for people.

    Example:
        >>> size(3 * 2**29), size(2**20)
        ('1.50 GiB', '1.0 MiB')
    """
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"


@cache
def _schedules() -> Path:
    """The folder in which the compiler reports how many instruction bundles each operation became, until the process ends."""
    folder = tempfile.mkdtemp(prefix="minisbert-tpu-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    options = (
        f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=.*final_bundles.*"
    )
    os.environ["LIBTPU_INIT_ARGS"] = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {options}"
    return Path(folder)


def _scheduled_bundles() -> dict[str, int]:
    """Operation -> its instruction bundles, of the program compiled last."""
    bundles = {}
    for file in _schedules().glob("*-schedule-analysis_final_bundles.txt"):
        if count := re.search(r"total scheduled bundles:\s+(\d+)", file.read_text()):
            # The name is between the time and the number of the pass: 1795885480-attention.2-70-schedule-analysis...
            bundles[re.sub(r"^\d+-|-\d+-schedule-analysis.*", "", file.name)] = int(count.group(1))
    return bundles


@contextmanager
def _quiet_compiler() -> Iterator[None]:
    """One process at a time uses the compiler; others wait. What it prints to stderr is dropped unless it fails."""
    # It would ask the cloud which TPU this machine has, and would refuse to be loaded next to another process.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    _schedules()  # names its folder to the compiler, which reads it when it is loaded
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "libtpu.lock"), tempfile.TemporaryFile() as said:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(stderr, said.read()[-4000:])
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
