"""What a program compiled for a TPU costs, read from its HLO text: cycles, collectives, the costliest lines of code.

XLA's TPU compiler writes into each operation how many cycles it expects ("estimated_cycles"). They are estimates by a model of
the chip, not measurements. Operations of a loop's body count once per round. Collectives have no cycles there: their bytes are
counted, and whether other operations run meanwhile (an asynchronous start and done) or wait.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_OPERATION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\(")
_CALLED = {"while": "body", "call": "to_apply", "async-start": "calls"}


class Operation(NamedTuple):
    """An operation of the program, usually a fusion of many."""

    name: str
    shape: str
    line: str
    """The innermost line of minisbert that it comes from, as file:line; for a product, the line that calls `product`."""
    cycles: int
    """Of all its rounds together."""


class Collective(NamedTuple):
    """All collectives of one kind and dtype in a step."""

    kind: str
    dtype: str
    times: int
    bytes: int
    overlapped: bool


class ProgramCosts(NamedTuple):
    """The costs of one run of a program, on one device."""

    operations: list[Operation]
    """Those with cycles, the costliest first."""
    collectives: list[Collective]

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


def read_costs(text: str) -> ProgramCosts:
    """The costs of a compiled program from its HLO text.

    Example:
        >>> program = '''ENTRY %main (x: f32[2]) -> f32[2] {
        ...   %x = f32[2]{0} parameter(0)
        ...   ROOT %add = f32[2]{0} fusion(%x), kind=kLoop, backend_config={"estimated_cycles":"40"}
        ... }'''
        >>> read_costs(program).cycles
        40
    """
    computations, entry = _computations(text)
    lines = _code_lines(text)
    operations: list[Operation] = []
    collectives: dict[tuple[str, str, bool], list[int]] = {}
    for line, rounds in _executed(computations, entry):
        if not (match := _OPERATION.match(line)):
            continue
        name, shape, kind = match.groups()
        if cycles := re.search(r'"estimated_cycles":"(\d+)"', line):
            frame = re.search(r"stack_frame_id=(\d+)", line)
            place = lines.get(frame.group(1), "?") if frame else "?"
            operations.append(Operation(name, shape, place, rounds * int(cycles.group(1))))
        if kind.removesuffix("-start") in COLLECTIVES:
            key = kind.removesuffix("-start"), *_dtype_and_overlap(shape, kind)
            total = collectives.setdefault(key, [0, 0])
            total[0] += rounds
            total[1] += rounds * _bytes(shape)
    return ProgramCosts(
        sorted(operations, key=lambda operation: -operation.cycles),
        [Collective(kind, dtype, n, moved, over) for (kind, dtype, over), (n, moved) in sorted(collectives.items())],
    )


def _dtype_and_overlap(shape: str, kind: str) -> tuple[str, bool]:
    return "/".join(sorted({dtype for dtype, _ in _arrays(shape)})), kind.endswith("-start")


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
            called = re.search(rf"{attribute}=%?([\w.-]+)", line)
            times = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            if called:
                yield from _executed(computations, called.group(1), rounds * (int(times.group(1)) if times else 1))


def _arrays(shape: str) -> list[tuple[str, str]]:
    return [(dtype, sizes) for dtype, sizes in re.findall(r"\b([a-z]+\d+)\[([\d,]*)\]", shape)]


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


def forward_flops(params: Any, layers: int, P: int, L: int) -> int:
    """FLOPs of the encoder's matrix products for P rows of L tokens: padding is computed like the rest.

    Args:
        params: the model's; shapes are enough. Each kernel K of the encoder costs 2 |K| per token, the attention of each
            layer 4 L D more.
        layers: how many blocks a token passes through (all of them ALBERT's one block).
    """
    if "blocks" not in params["encoder"]:
        return 0  # a static model looks up its vectors

    def kernelsize(tree: Any) -> int:
        return sum(int(leaf.size) for path, leaf in jax.tree.leaves_with_path(tree) if path[-1].key == "kernel")

    blocks = params["encoder"]["blocks"]
    per_layer, others = kernelsize(blocks) // len(blocks), kernelsize(params["encoder"]) - kernelsize(blocks)
    D: int = blocks[0]["attention"]["output"]["kernel"].shape[0]  # all heads together
    return P * L * (2 * (others + layers * per_layer) + layers * 4 * L * D)
