"""A model as an ONNX file, for ONNX Runtime and its kin: token ids in, sentence embeddings out.

    export_onnx(encoder, Path("minilm.onnx"), length=128)

Where it works: by the package jax2onnx (an extra), for any number of rows but one padded length a file, since its
operators do not take two unknown sizes. The file is run once with ONNX Runtime and compared before it gets its place.

    token_ids   int32 [B, length]   padded with the model's padding token, special tokens and prompt included
    lengths     int32 [B]           how many of each row are real
    embeddings  float32 [B, D]      all dimensions, not scaled but where the model ends in Normalize
"""

import os
import uuid
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minisbert.errors import InputError, MinisbertError, short_repr
from minisbert.inference.batching import rectangle
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.sentence_model import define

# What the file may differ by on a text: other orders of the same sums. 5e-7 is measured.
TOLERANCE = 2e-6
_TEXTS = ("a text to compare", "and a longer one, so that the first has padding behind it")


def export_onnx(encoder: SentenceEncoder, target: Path, *, length: int) -> float:
    """Write an ONNX file; it appears whole or not at all.

    Args:
        encoder: in float32.
        target: the file to write, replaced where it is there.
        length: tokens of a row, at most `encoder.max_seq_length`.

    Returns:
        the largest difference between its embeddings of two texts and the model's.

    Raises:
        InputError: jax2onnx or onnxruntime is not installed; a length or name that will not do; a model that leaves
            prompts out of its pooling.
        MinisbertError: the file does not compute what the model does; it is not kept.
    """
    if not isinstance(encoder, SentenceEncoder) or encoder.compute_dtype != "float32":
        raise InputError(f"encoder is {short_repr(encoder)}. Expected a SentenceEncoder loaded in float32.")
    if any(getattr(module, "include_prompt", True) is False for module in encoder.model_config.modules):
        raise InputError(
            f"{encoder.model_config.model_type} leaves prompts out of its pooling, which the file cannot be told. Expected a model "
            "that pools all tokens; use `minisbert export` without --onnx-length."
        )
    shortest = encoder.tokenizer.special_tokens + 1
    if type(length) is not int or not shortest <= length <= encoder.max_seq_length:
        raise InputError(f"length is {length!r}. Expected {shortest} to {encoder.max_seq_length} tokens.")
    target = Path(target)
    if target.suffix != ".onnx" or target.is_dir():
        raise InputError(f"{target}: not a file to write. Expected a name that ends in .onnx.")
    try:
        import onnxruntime
        from jax2onnx import to_onnx
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed. Expected it here: pip install jax2onnx onnxruntime."
        ) from None
    definition, _ = define(encoder.model_config)
    params = encoder.forward.params

    def embed(token_ids_BL: jax.Array, lengths_B: jax.Array) -> jax.Array:
        return nnx.merge(definition, params)(token_ids_BL, lengths_B).sentence_BD

    (B,) = jax.export.symbolic_shape("B")
    shapes = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((B, length), (B,))]
    names = {"input_names": ["token_ids", "lengths"], "output_names": ["embeddings"]}
    content = to_onnx(embed, inputs=shapes, model_name="minisbert", **names).SerializeToString()
    temporary = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_bytes(content)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        difference = _difference(encoder, session, length)
        if not difference <= TOLERANCE:
            raise MinisbertError(
                f"{target}: embeddings are {difference:.1e} apart from the model's, more than {TOLERANCE:.0e}. Nothing was "
                "written; use `minisbert export` without --onnx-length."
            )
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def _difference(encoder: SentenceEncoder, session: object, length: int) -> float:
    ids = encoder.tokenizer.tokenize(_TEXTS, max_length=length).ids
    batch = rectangle(list(enumerate(ids)), len(ids), length, encoder.padding_id)
    inputs = {"token_ids": batch.token_ids_BL, "lengths": batch.lengths_B}
    [found_BD] = session.run(None, inputs)  # type: ignore[attr-defined]
    expected_BD = np.asarray(encoder.forward.start(batch))
    return float(np.abs(found_BD - expected_BD).max())
