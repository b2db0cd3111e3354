"""Export a model as a portable StableHLO program with its weights and tokenizer; export/runtime.py runs it.

    export_stablehlo(encoder, Path("minilm.exported"))

The program, made by `jax.export`, is the forward pass from token ids to the sentence embedding for any number of rows, lowered
for several kinds of device. It takes any length ("symbolic" sizes) unless the family computes positions in NumPy from the
length, as MPNet and ModernBERT do: those get one program per length of a short table. The weights are arguments of the program,
so that programs share them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minisbert.atomic_write import staged_folder
from minisbert.checkpoint.convert import flatten, nest
from minisbert.checksums import digest, sealed
from minisbert.errors import InputError
from minisbert.export.exported_folder import SETTINGS, TABLE, TOKENIZER, WEIGHTS
from minisbert.export.onnx import check_exportable
from minisbert.export.runtime import need_flatbuffers
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.sentence_model import define

PLATFORMS = ("cpu", "cuda", "tpu")
_KNOWN_PLATFORMS = (*PLATFORMS, "rocm")
# What JAX raises where code depends on the value of a size.
_SIZE_ERRORS = (jax.errors.ConcretizationTypeError, jax.errors.InconclusiveDimensionOperation)


def export_stablehlo(encoder: SentenceEncoder, target: Path, platforms: Sequence[str] = PLATFORMS) -> None:
    """Write an exported model; the folder appears whole or not at all.

    Args:
        encoder: in float32; its prompts, `max_seq_length` and `truncate_dim` are exported too.
        target: a new path, or an exported model, which is replaced.
        platforms: the kinds of device that the program supports.

    Raises:
        InputError: an unknown platform, a model in bfloat16, a target that holds something else, or no flatbuffers.
    """
    need_flatbuffers()
    check_exportable(encoder)
    if not platforms or set(platforms) - set(_KNOWN_PLATFORMS):
        raise InputError(f"platforms is {platforms!r}. Expected some of {', '.join(_KNOWN_PLATFORMS)}.")
    weights = {name: np.asarray(leaf) for name, leaf in sorted(flatten(encoder.params).items())}
    if TABLE not in weights:  # the loader compares the tokenizer's ids with it
        raise InputError(f"the model has no {TABLE!r}. Expected a family whose table of tokens has this name.")
    lengths = padded_lengths(encoder.max_seq_length)
    with staged_folder(
        Path(target).absolute(), "exported model", lambda folder: (folder / SETTINGS).is_file()
    ) as staging:
        programs: dict[str, int | None] = {}
        for length, program in _programs(encoder, weights, lengths, platforms):
            name = "model.stablehlo" if length is None else f"model-{length}.stablehlo"
            (staging / name).write_bytes(program)
            programs[name] = length
        np.savez(staging / WEIGHTS, **weights)  # type: ignore[arg-type]
        (staging / TOKENIZER).write_text(encoder.tokenizer.backend.to_str(pretty=True), encoding="utf-8")
        settings = {
            "programs": programs,
            "sha256": {name: digest(staging / name) for name in (*programs, WEIGHTS, TOKENIZER)},
            "platforms": list(platforms),
            "lengths": lengths,
            "prefix": encoder.tokenizer.prefix,
            "suffix": encoder.tokenizer.suffix,
            "padding_id": encoder.padding_id,
            "dimension": encoder.model_config.dimension,
            "prompts": encoder.prompts,
            "default_prompt_name": encoder.default_prompt_name,
            "truncate_dim": encoder.truncate_dim,
            "similarity_fn_name": encoder.similarity_fn_name,
            "made_with": {"jax": jax.__version__, "model_type": encoder.model_config.model_type},
        }
        (staging / SETTINGS).write_text(
            json.dumps(sealed(settings), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def padded_lengths(longest: int) -> list[int]:
    """The lengths to which texts are padded: doubling from 16 up to `longest`.

    Example:
        >>> padded_lengths(384)
        [16, 32, 64, 128, 256, 384]
    """
    lengths = [16]
    while lengths[-1] < longest:
        lengths.append(2 * lengths[-1])
    return [*lengths[:-1], longest]


def _programs(
    encoder: SentenceEncoder, weights: dict[str, np.ndarray], lengths: Sequence[int], platforms: Sequence[str]
) -> list[tuple[int | None, bytearray]]:
    """One program for all lengths, or one per length."""
    definition, _ = define(encoder.model_config)

    def embed(weights: Any, token_ids_BL: jax.Array, lengths_B: jax.Array, prompt_length: jax.Array) -> Any:
        with jax.default_matmul_precision("highest"):  # as in inference/compiled.py
            return nnx.merge(definition, nest(weights))(token_ids_BL, lengths_B, prompt_length).sentence_BD

    def program(B: Any, L: Any) -> bytearray:
        shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()}
        texts = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((B, L), (B,), ()))
        return jax.export.export(jax.jit(embed), platforms=platforms)(shapes, *texts).serialize()

    try:
        B, L = jax.export.symbolic_shape("B, L", constraints=[f"L <= {encoder.max_positions}"])
        return [(None, program(B, L))]
    except _SIZE_ERRORS:
        (B,) = jax.export.symbolic_shape("B")
        return [(length, program(B, length)) for length in lengths]
