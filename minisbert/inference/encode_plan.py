"""What encoding needs on a TPU that this machine does not have: `minisbert encode ... --plan --chip v5e-8`.

    texts -> batch shapes (inference/batching.py) -> the shapes that compute most tokens, compiled by the TPU's compiler

The memory, time and share of peak of each shape are the compiler's (inference/tpu_compiler.py). Left out: tokenizing, copying
to and from the devices, batches that are not full, and the rarer shapes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from minisbert.inference.batching import ShapeTable, shapes_for
from minisbert.inference.compiled import COMPUTE_DTYPES, cast_params, compiled_output
from minisbert.inference.encode import OUTPUTS
from minisbert.inference.program_costs import forward_flops
from minisbert.inference.tpu_compiler import (
    Estimate,
    chip_devices,
    compile_for_chip,
    find_chip,
    libtpu_version,
)
from minisbert.model_config import ModelConfig
from minisbert.sentence_model import define
from minisbert.text.packing import TOKENS_PER_SLOT, PackedTexts, stream_shape

SINGLE, PACKED = "sentence embeddings", "packed sentence embeddings"
# Shapes that are compiled; each takes 10 s to a minute.
MOST_SHAPES = 3


class ShapePlan(NamedTuple):
    """One batch shape: what the texts need of it, and what one batch costs."""

    output: str
    rows: int
    length: int
    texts: int
    batches: float
    tokens: float  # computed, padding included
    flops: int  # of a batch, on one device
    estimate: Estimate


class EncodePlan(NamedTuple):
    """What the texts need on a TPU, by its compiler's estimate."""

    shapes: list[ShapePlan]
    compute_dtype: str
    chip: str
    devices: int
    tokens: float  # of all shapes

    @property
    def rate(self) -> float:
        """Texts per second of the compiled shapes."""
        seconds = sum(shape.batches * shape.estimate.seconds for shape in self.shapes)
        return sum(shape.texts for shape in self.shapes) / seconds

    def lines(self) -> list[str]:
        """The plan as text."""
        lines = [
            f"estimate    by the compiler of libtpu {libtpu_version()}, for {find_chip(self.chip).topology}: not a measurement",
        ]
        for shape in self.shapes:
            texts = f"{shape.texts:,} {'packed ' if shape.output == PACKED else ''}texts"
            lines += [
                f"shape       {shape.rows} rows of {shape.length} tokens, {self.compute_dtype}, on {self.devices} devices of "
                f"{self.chip}: {texts}, {shape.tokens / self.tokens:.0%} of the tokens that are computed",
                *shape.estimate.lines(shape.flops, top=4),
            ]
        return [
            *lines,
            f"rate        {self.rate:,.0f} texts/s in these shapes; tokenizing and copying come on top",
        ]


def encode_plan(
    model_config: ModelConfig,
    token_counts: Sequence[int],
    *,
    chip: str,
    compute_dtype: str,
    packing: bool = False,
    batch_size: int | None = None,
) -> EncodePlan:
    """Compile the batch shapes that most of these texts need.

    Args:
        token_counts: tokens per text, special tokens included, at most `max_positions` each; at least one text.
        chip: a name in `tpu_compiler.CHIPS` that has a topology.
        compute_dtype, packing, batch_size: as for `SentenceEncoder` and its `encode`.

    Raises:
        InputError: a shape that does not fit; no compiler.
    """
    mesh = Mesh(np.array(chip_devices(chip)), ("rows",))
    shapes = replace(shapes_for("tpu", compute_dtype), devices=mesh.size)
    needed = batch_shapes(token_counts, shapes, model_config.encoder.max_positions, packing, batch_size)
    by_tokens = sorted(needed, key=lambda shape: -needed[shape][1])
    plans = []
    for output, rows, length in by_tokens[:MOST_SHAPES]:
        texts, tokens = needed[output, rows, length]
        program, flops = lower_forward(model_config, compute_dtype, output, rows, length, mesh)
        estimate = compile_for_chip(program, find_chip(chip))
        plans.append(
            ShapePlan(output, rows, length, texts, tokens / (rows * length), tokens, flops // mesh.size, estimate)
        )
    return EncodePlan(plans, compute_dtype, chip, mesh.size, sum(tokens for _, tokens in needed.values()))


def batch_shapes(
    token_counts: Sequence[int],
    shapes: ShapeTable,
    max_positions: int,
    packing: bool = False,
    batch_size: int | None = None,
) -> dict[tuple[str, int, int], tuple[int, float]]:
    """(output, rows, length) -> the texts of that shape, and the tokens computed for them, as if every batch were full.

    Example:
        >>> batch_shapes([5, 6, 100], ShapeTable(), 512)
        {('sentence embeddings', 42, 12): (2, 24), ('sentence embeddings', 4, 128): (1, 128)}
        >>> batch_shapes([5, 6, 100], ShapeTable(), 512, packing=True)
        {('packed sentence embeddings', 8, 64): (2, 11), ('sentence embeddings', 4, 128): (1, 128)}
    """
    texts: Counter[tuple[str, int, int]] = Counter()
    tokens: Counter[tuple[str, int, int]] = Counter()
    P, packed_length = stream_shape(shapes.token_budget, shapes.devices)
    if batch_size is not None:
        packing, batch_size = False, -(-batch_size // shapes.devices) * shapes.devices
    for count in token_counts:
        if packing and count <= packed_length:
            shape, computed = (PACKED, P, packed_length), count
        else:
            computed = shapes.length(count, max_positions)
            shape = (SINGLE, batch_size or shapes.rows(computed), computed)
        texts[shape] += 1
        tokens[shape] += computed
    return {shape: (number, tokens[shape]) for shape, number in texts.items()}


def lower_forward(
    model_config: ModelConfig, compute_dtype: str, output: str, rows: int, length: int, mesh: Mesh
) -> tuple[Any, int]:
    """The program of one batch, not compiled yet, and the FLOPs of its matrix products on all devices."""
    definition, params = define(model_config, COMPUTE_DTYPES[compute_dtype])
    cast = jax.eval_shape(partial(cast_params, dtype=COMPUTE_DTYPES[compute_dtype]), params)
    arrays: list[tuple[int, ...]] = [(rows, length), (rows,), ()]
    if output == PACKED:
        per_text = (rows, length // TOKENS_PER_SLOT)
        arrays = [*[(rows, length)] * 3, *[per_text] * (len(PackedTexts._fields) - 3)]
    by_rows, copied = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("rows",), ()))
    given = [jax.ShapeDtypeStruct(shape, jnp.int32, sharding=by_rows if shape else copied) for shape in arrays]
    cast = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=copied), cast)
    platform = mesh.devices.flat[0].platform
    program = compiled_output(definition, compute_dtype, OUTPUTS[output], platform, mesh).lower(cast, *given)
    return program, forward_flops(params, model_config.encoder, rows, length)
