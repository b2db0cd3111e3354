"""The fingerprint of a model: a sha256 over everything that affects its embeddings.

Embeddings of two models, or of one model with different weights, tokenizer, pooling or dtype, cannot be compared even if their
widths agree. Indexes and folders of shards store this digest and reject embeddings of another model.
"""

import hashlib
from typing import Any

import numpy as np

from minisbert.checkpoint.convert import flatten
from minisbert.errors import InputError, short_repr
from minisbert.sentence_encoder import SentenceEncoder


def fingerprint(encoder: Any) -> str:
    """The digest of a `SentenceEncoder`; the same after saving and loading, on every machine.

    It covers: encoder family and settings, pooling and the modules after it, weights in their compute dtype, tokenizer,
    maximum length, prompts, truncation of dimensions.

    Raises:
        InputError: the encoder is not a SentenceEncoder.

    Example:
        >>> one, two = (SentenceEncoder.load(f"weights/tiny-{name}") for name in ("bert", "mpnet"))
        >>> len(fingerprint(one)), fingerprint(one) == fingerprint(two)
        (64, False)
    """
    if not isinstance(encoder, SentenceEncoder):
        raise InputError(
            f"encoder is {short_repr(encoder)}. Expected a SentenceEncoder; for another kind of model pass Index(encoder, "
            "fingerprint='your own name')."
        )
    router = encoder.pretrained.folder.router
    digest = hashlib.sha256(b"" if router is None else f"Routes{repr(router).removeprefix('Router')}".encode())
    for route in encoder.routes.values() or [encoder]:
        _add(digest, route, encoder)
    return digest.hexdigest()


def _add(digest: Any, route: SentenceEncoder, model: SentenceEncoder) -> None:
    """Everything that affects the embeddings of one encoder with its modules; prompts belong to the whole model."""
    model_config = route.model_config
    settings = {
        "model_config": (model_config.model_type, model_config.encoder, model_config.modules),
        "compute_dtype": route.compute_dtype,
        "max_seq_length": route.max_seq_length,
        "prompts": (sorted(model.prompts.items()), model.default_prompt_name),
        "truncate_dim": model.truncate_dim,
        "tokenizer": route.tokenizer.backend.to_str(),
    }
    digest.update(repr(settings).encode())
    for name, leaf in sorted(flatten(route.forward.cast(route.params)).items()):
        array = np.ascontiguousarray(np.asarray(leaf))
        digest.update(f"\n{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
