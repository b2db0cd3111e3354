"""What a program compiled for a TPU costs, read from its HLO text: cycles, collectives, the costliest lines of code.

XLA's TPU compiler writes into each operation how many cycles it expects ("estimated_cycles"). They are estimates by a model of
the chip, not measurements. Operations of a loop's body count once per round; a loop whose rounds the compiler does not state is
taken to count from 0 in steps of 1. Collectives have no cycles there: their bytes are counted, and whether other operations run
meanwhile (an asynchronous start and done) or wait. Kernels (Pallas) have none either: ours have no branches, so that their
instruction bundles, as scheduled, times the steps of the grid are counted; or what their products need at the chip's peak, or
their arrays at the bandwidth of its memory, where that is more.
"""

import re
from collections.abc import Iterator, Mapping
from math import inf
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_OPERATION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\(")
# XLA breaks the line at what a kernel says of itself.
_METADATA = re.compile(r'kernel_metadata=\{\n((?:".*\n)+)\}')
_CALLED = {"while": "body", "call": "to_apply", "async-start": "calls"}


class Operation(NamedTuple):
    """An operation of the program, usually a fusion of many."""

    name: str
    shape: str
    line: str
    """The innermost line of minisbert that it comes from, as file:line; for a product, the line that calls `product`."""
    cycles: int  # of all its rounds together


class Collective(NamedTuple):
    """All collectives of one kind and dtype in a step."""

    kind: str
    dtype: str
    times: int
    bytes: int
    overlapped: bool


class ProgramCosts(NamedTuple):
    """The costs of one run of a program, on one device."""

    operations: list[Operation]  # those with cycles, the costliest first
    collectives: list[Collective]
    uncounted: int
    """The number of kernels whose cycles are not known, which are left out, and of loops whose rounds are not, counted once."""

    @property
    def cycles(self) -> int:
        """All cycles."""
        return sum(operation.cycles for operation in self.operations)

    def by_line(self) -> list[tuple[str, int]]:
        """The cycles of each line of code, the costliest first."""
        cycles: dict[str, int] = {}
        for operation in self.operations:
            cycles[operation.line] = cycles.get(operation.line, 0) + operation.cycles
        return sorted(cycles.items(), key=lambda item: -item[1])


class Rates(NamedTuple):
    """What a chip does per cycle at most."""

    flops: float
    bytes: float


def read_costs(text: str, bundles: Mapping[str, int] | None = None, rates: Rates | None = None) -> ProgramCosts:
    """The costs of a compiled program from its HLO text.

    Args:
        bundles: kernel -> its instruction bundles. Kernels that differ in the number at their end are the same.
        rates: a kernel takes at least as long as its products and its arrays need at these rates.

    Example:
        >>> program = '''ENTRY %main (x: f32[2]) -> f32[2] {
        ...   %x = f32[2]{0} parameter(0)
        ...   ROOT %add = f32[2]{0} fusion(%x), kind=kLoop, backend_config={"estimated_cycles":"40"}
        ... }'''
        >>> read_costs(program).cycles
        40
        >>> kernel = '''ENTRY %main (x: f32[2]) -> f32[2] {
        ...   ROOT %attend.1 = f32[2]{0} custom-call(%x), custom_call_target="tpu_custom_call", a={kernel_metadata={
        ... "flops":"90",
        ... "steps":"5"
        ... }}
        ... }'''
        >>> read_costs(kernel, {"attend.0": 8}).cycles, read_costs(kernel).uncounted
        (40, 1)
        >>> [read_costs(kernel, {"attend.0": 8}, rates).cycles for rates in (Rates(2, inf), Rates(2, 0.1))]
        [45, 80]
        >>> loop = '''%body (i: s32[]) -> s32[] {
        ...   ROOT %add = s32[] add(%i, %one), backend_config={"estimated_cycles":"40"}
        ... }
        ... %condition (i: s32[]) -> pred[] {
        ...   %rounds = s32[]{:T(128)} constant(3)
        ...   ROOT %less = pred[] compare(%i, %rounds), direction=LT
        ... }
        ... ENTRY %main (i: s32[]) -> s32[] {
        ...   ROOT %while = s32[] while(%i), condition=%condition, body=%body
        ... }'''
        >>> read_costs(loop).cycles, read_costs(loop.replace("LT", "NE")).uncounted
        (120, 1)
        >>> share = '''%all-reduce-scatter.8 (x: bf16[8,4]) -> bf16[1,4] {
        ...   %sum = bf16[8,4]{1,0} all-reduce(%x), to_apply=%add
        ...   ROOT %kept = bf16[1,4]{1,0} dynamic-slice(%sum, %start)
        ... }
        ... ENTRY %main (x: bf16[8,4]) -> bf16[1,4] {
        ...   ROOT %fusion = bf16[1,4]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.8
        ... }'''
        >>> read_costs(share).collectives
        [Collective(kind='reduce-scatter', dtype='bf16', times=1, bytes=64, overlapped=False)]
    """
    computations, entry = _computations(_METADATA.sub(lambda found: found[0].replace("\n", ""), text))
    rates = rates or Rates(inf, inf)
    of_kernels = {name.split(".")[0]: count for name, count in (bundles or {}).items()} | dict(bundles or {})
    uncounted = 0
    lines = _code_lines(text)
    operations: list[Operation] = []
    collectives: dict[tuple[str, str, bool], list[int]] = {}
    for line, rounds in _executed(computations, entry):
        if not (match := _OPERATION.match(line)):
            continue
        name, shape, kind = match.groups()
        uncounted += kind == "while" and _times(computations, line) is None
        estimated = re.search(r'"estimated_cycles":"(\d+)"', line)
        cycles = int(estimated.group(1)) if estimated else 0
        if 'custom_call_target="tpu_custom_call"' in line:
            known = {key: int(number) for key, number in re.findall(r'"(steps|flops)":"(\d+)"', line)}
            cycles = known.get("steps", 0) * of_kernels.get(name, of_kernels.get(name.split(".")[0], 0))
            uncounted += not cycles
            given = re.search(r"operand_layout_constraints=([^=]*)", line)
            moved = _bytes(shape) + (_bytes(given.group(1)) if given else 0)
            cycles = cycles and int(max(cycles, known.get("flops", 0) / rates.flops, moved / rates.bytes))
        if cycles:
            frame = re.search(r"stack_frame_id=(\d+)", line)
            place = lines.get(frame.group(1), "?") if frame else "?"
            operations.append(Operation(name, shape, place, rounds * cycles))
        if scatter := re.search(r"calls=%?(all-reduce-scatter[\w.-]*)", line):
            # A sum of which each device keeps a share.
            inner = filter(None, map(_OPERATION.match, computations[scatter[1]]))
            kind, shape = "reduce-scatter", next(found[2] for found in inner if found[3] == "all-reduce")
        if kind.removesuffix("-start") in COLLECTIVES:
            dtypes = "/".join(sorted({dtype for dtype, _ in _arrays(shape)}))
            key = kind.removesuffix("-start"), dtypes, kind.endswith("-start")
            total = collectives.setdefault(key, [0, 0])
            total[0] += rounds
            total[1] += rounds * _bytes(shape)
    return ProgramCosts(
        sorted(operations, key=lambda operation: -operation.cycles),
        [Collective(kind, dtype, n, moved, over) for (kind, dtype, over), (n, moved) in sorted(collectives.items())],
        uncounted,
    )


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and which one is the program."""
    computations: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        if match := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line):
            name = match.group(2)
            computations[name] = []
            entry = name if match.group(1) else entry
        elif line.startswith("}"):
            name = ""
        elif name:
            computations[name].append(line)
    return computations, entry


def _executed(computations: dict[str, list[str]], name: str, rounds: int = 1) -> Iterator[tuple[str, int]]:
    """The lines of a computation and of those it calls, each with how often it runs."""
    for line in computations.get(name, ()):
        yield line, rounds
        match = _OPERATION.match(line)
        if match and (attribute := _CALLED.get(match.group(3))):
            times = _times(computations, line) if match.group(3) == "while" else 1
            called = re.search(rf"{attribute}=%?([\w.-]+)", line)
            if called:
                yield from _executed(computations, called.group(1), rounds * (times or 1))


def _times(computations: Mapping[str, list[str]], line: str) -> int | None:
    """The rounds of a loop: as the compiler says, or the bound of the counter in its condition; None if unknown."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(known.group(1))
    condition = re.search(r"condition=%?([\w.-]+)", line)
    text = "\n".join(computations.get(condition.group(1), ())) if condition else ""
    compared = re.search(r"compare\(%?[\w.-]+, %?([\w.-]+)\), direction=LT", text)
    bound = re.search(rf"%?{re.escape(compared.group(1))} = \S+ constant\((\d+)\)", text) if compared else None
    return int(bound.group(1)) if bound else None


def _arrays(shape: str) -> list[tuple[str, str]]:
    return re.findall(r"\b([a-z]+\d+)\[([\d,]*)\]", shape)


def _bytes(shape: str) -> int:
    names = {"bf": "bfloat", "f": "float", "s": "int", "u": "uint"}
    total = 0
    for dtype, sizes in _arrays(shape):
        kind, bits = re.fullmatch(r"([a-z]+)(\d+)", dtype).groups()  # type: ignore[union-attr]
        size = jnp.dtype(names.get(kind, kind) + bits).itemsize
        for number in filter(None, sizes.split(",")):
            size *= int(number)
        total += size
    return total


def _code_lines(text: str) -> dict[str, str]:
    """The innermost line of minisbert of each stack frame, from the tables at the head of the text."""

    def table(title: str) -> dict[str, str]:
        section = re.search(rf"^{title}\n((?:\d+ .*\n)*)", text, re.M)
        return dict(row.split(" ", 1) for row in section.group(1).splitlines()) if section else {}

    files, frames = table("FileNames"), table("StackFrames")
    places: dict[str, str] = {}
    for number, row in table("FileLocations").items():
        file, line = re.search(r"file_name_id=(\d+).* line=(\d+)", row).groups()  # type: ignore[union-attr]
        path = files[file].strip('"').replace("\\", "/")
        ours = path.rsplit("/minisbert/", 1)[1] if "/minisbert/" in path else ""
        places[number] = f"{ours}:{line}" if ours not in ("", "transformer/products.py") else ""
    lines: dict[str, str] = {}
    for number in sorted(frames, key=int):  # a frame's parent comes before it
        location, parent = re.search(r"file_location_id=(\d+) parent_frame_id=(\d+)", frames[number]).groups()  # type: ignore[union-attr]
        # The compiler counts parents from 1 where it counts frames from 0.
        lines[number] = places[location] or lines.get(str(int(parent) - 1), "")
    return {number: place or "?" for number, place in lines.items()}


def forward_flops(params: Any, config: Any, P: int, L: int) -> int:
    """FLOPs of the encoder's matrix products for P rows of L tokens: padding is computed like the rest.

    Args:
        params: the model's; shapes are enough. Each kernel K of the encoder costs 2 |K| per token, the attention of each
            layer 4 L D more. DeBERTa's kernels also multiply 2 L + 1 distances, and each token 2 L of them per term of a score.
        config: the encoder's.
    """
    if "blocks" not in params["encoder"]:
        return 0  # a static model looks up its vectors

    def kernelsize(tree: Any, name: str = "") -> int:
        paths = jax.tree.leaves_with_path(tree)
        return sum(leaf.size for path, leaf in paths if path[-1].key == "kernel" and name in jax.tree_util.keystr(path))

    blocks, layers = params["encoder"]["blocks"], config.num_hidden_layers  # all of them ALBERT's one block
    per_layer, others = kernelsize(blocks) // len(blocks), kernelsize(params["encoder"]) - kernelsize(blocks)
    output = blocks[0].get("attention", {}).get("output")  # a family from outside may have other names
    D: int = output["kernel"].shape[0] if output else config.hidden_size  # all heads together
    flops: int = P * L * (2 * (others + layers * per_layer) + layers * 4 * L * D)
    if terms := getattr(config, "pos_att_type", ()):
        own = kernelsize(blocks[0], "['position_")  # of distances only
        mapped = (2 * L + 1) * (kernelsize(blocks[0], "['qkv']") + own)
        flops += 2 * layers * (mapped + P * L * (len(terms) * 2 * L * D - own))
    return flops
