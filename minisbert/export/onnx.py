"""Export a model as an ONNX file, for ONNX Runtime and others: token ids in, sentence embeddings out.

    export_onnx(encoder, Path("minilm.onnx"), length=128)

    token_ids   int32 [B, length]   padded with the model's padding token, special tokens and prompt included
    lengths     int32 [B]           how many tokens of each row are real
    embeddings  float32 [B, D]      all dimensions, normalized only if the model ends in Normalize

The package jax2onnx (an extra) translates the program. The number of rows is free; the length is fixed per file, because its
operators support only one unknown size. ONNX Runtime runs the file once to compare it with the model before it is saved.
"""

from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minisbert.atomic_write import whole_file
from minisbert.errors import InputError, MinisbertError, short_repr
from minisbert.inference.batching import rectangle
from minisbert.inference.engines import need_jax
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.sentence_model import define

# The file sums in another order; 5e-7 is measured.
TOLERANCE = 2e-6
_TEXTS = ("a text to compare", "and a longer one, so that the first has padding behind it")


def export_onnx(encoder: SentenceEncoder, target: Path, *, length: int) -> float:
    """Write an ONNX file; it appears whole or not at all.

    Args:
        encoder: in float32.
        target: the file to write; an existing file is replaced.
        length: tokens per row, at most `encoder.max_seq_length`.

    Returns:
        the largest difference between the file's embeddings of two texts and the model's.

    Raises:
        InputError: jax2onnx or onnxruntime is not installed; a wrong length or file name; a model that excludes prompts
            from its pooling.
        MinisbertError: the file does not compute what the model does; nothing is written.
    """
    check_exportable(encoder)
    if any(getattr(module, "include_prompt", True) is False for module in encoder.model_config.modules):
        raise InputError(
            f"{encoder.model_config.model_type} leaves prompts out of its pooling, which an ONNX file cannot do. Expected a "
            "model that pools all tokens; use `minisbert export` without --onnx-length."
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
        raise InputError(f"{error.name} is not installed. Run `pip install jax2onnx onnxruntime`.") from None
    definition, _ = define(encoder.model_config)
    params = encoder.params

    def embed(token_ids_BL: Any, lengths_B: Any) -> Any:
        return nnx.merge(definition, params)(token_ids_BL, lengths_B).sentence_BD

    (B,) = jax.export.symbolic_shape("B")
    shapes = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((B, length), (B,))]
    names = {"input_names": ["token_ids", "lengths"], "output_names": ["embeddings"]}
    with whole_file(target) as temporary:
        temporary.write_bytes(to_onnx(embed, inputs=shapes, model_name="minisbert", **names).SerializeToString())
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        ids = encoder.tokenizer.tokenize(_TEXTS, max_length=length).ids
        batch = rectangle(list(enumerate(ids)), len(ids), length, encoder.padding_id)
        [found_BD] = session.run(None, {"token_ids": batch.token_ids_BL, "lengths": batch.lengths_B})
        difference = float(np.abs(found_BD - embed(batch.token_ids_BL, batch.lengths_B)).max())
        if not difference <= TOLERANCE:
            raise MinisbertError(
                f"{target}: embeddings are {difference:.1e} apart from the model's. Expected at most {TOLERANCE:.0e}, so "
                "nothing was written; use `minisbert export` without --onnx-length."
            )
    return difference


def check_exportable(encoder: Any) -> None:
    """Raises InputError unless `encoder` is a SentenceEncoder in float32 whose tokenizer works without minisbert's code."""
    if not isinstance(encoder, SentenceEncoder) or encoder.compute_dtype != "float32":
        raise InputError(f"encoder is {short_repr(encoder)}. Expected a SentenceEncoder loaded in float32.")
    need_jax(encoder, "export it")
    if encoder.routes:
        raise InputError(
            "the model has a Router, which an exported model cannot follow. Expected a single model: save "
            f"model.route(...) of each of {', '.join(encoder.routes)} as a folder, and export that."
        )
    tokenizer = encoder.tokenizer
    if tokenizer.keep_end or tokenizer.rows is not None:
        what = "truncates on the left" if tokenizer.keep_end else "has tokens beyond the embedding table"
        raise InputError(
            f"{tokenizer.where}: {what}, which an exported model cannot do. Expected right truncation "
            "and ids inside the table; encode with SentenceEncoder instead."
        )
