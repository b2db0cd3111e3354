"""Which model made an embedding: a sha256 over everything that decides it.

Embeddings of two models, or of one model with other weights, another tokenizer, pooling or number format, cannot be
compared, though their widths may agree. An index keeps this digest and refuses to mix.
"""

import hashlib
from typing import Any

import numpy as np

from minisbert.checkpoint.convert import flatten
from minisbert.errors import InputError
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.text.tokenizer import shown


def fingerprint(encoder: Any) -> str:
    """The digest of a `SentenceEncoder`; the same after saving and loading, on every machine.

    Over: encoder family and settings, pooling and the modules after it, weights in their compute dtype, tokenizer,
    maximum length, prompts, truncation of dimensions.

    Raises:
        InputError: it is something else than a SentenceEncoder.

    Example:
        >>> one, two = (SentenceEncoder.load(f"weights/tiny-{name}") for name in ("bert", "mpnet"))
        >>> len(fingerprint(one)), fingerprint(one) == fingerprint(two)
        (64, False)
    """
    if not isinstance(encoder, SentenceEncoder):
        raise InputError(
            f"encoder is {shown(encoder)}. Expected a SentenceEncoder; for another kind of model write Index(encoder, "
            "fingerprint='a name of yours')."
        )
    design = encoder.design
    settings = {
        "design": (design.model_type, design.config, design.modules),
        "compute_dtype": encoder.compute_dtype,
        "max_seq_length": encoder.max_seq_length,
        "prompts": (sorted(encoder.prompts.items()), encoder.default_prompt_name),
        "truncate_dim": encoder.truncate_dim,
        "tokenizer": encoder.tokenizer.backend.to_str(),
    }
    digest = hashlib.sha256(repr(settings).encode())
    for name, leaf in sorted(flatten(encoder.forward.params).items()):
        array = np.ascontiguousarray(np.asarray(leaf))
        digest.update(f"\n{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
