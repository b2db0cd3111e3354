"""A model as plain JAX: its parameters as nested dicts of arrays, and a pure function of them and of token ids.

    apply, params = encoder.module()
    token_ids_BL, lengths_B = padded_tokens(encoder, ["a cat", "a dog sees it"])
    out = jax.jit(apply)(params, token_ids_BL, lengths_B)          out.sentence_BD, out.token_BLD

`jax.jit`, `jax.grad`, `jax.jacobian` and optax take both as they are. `capture` returns what is inside: every layer's hidden
states, every head's attention. `edit` changes hidden states on their way to the next block, or to the pooling.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minisbert.arguments import as_list
from minisbert.errors import InputError
from minisbert.inference.batching import rectangle
from minisbert.inference.compiled import COMPUTE_DTYPES, cast_params
from minisbert.inference.engines import need_jax
from minisbert.sentence_model import define

logger = logging.getLogger("minisbert")
CAPTURES = ("hidden", "attention")


class Output(NamedTuple):
    """The outputs of a model for a batch, and what was captured."""

    sentence_BD: jax.Array
    token_BLD: jax.Array
    hidden_IBLD: jax.Array | None = None  # I layers, the input of the first block included
    attention_YBNQK: jax.Array | None = None  # Y blocks, N heads; rows sum to 1


def module(model: Any) -> tuple[Callable[..., Output], Any]:
    """(apply, params) of a SentenceEncoder, in float32, or in float64 if it was loaded with compute_dtype="float64".

    `apply(params, token_ids_BL, lengths_B, key=None, capture=(), edit=None)` -> `Output`:

        key        of the dropout, one for the batch; None means inference
        capture    names of "hidden" and "attention"
        edit       (layer, hidden_BLD) -> hidden_BLD, called for each layer of `hidden_IBLD`, by its number; the last one is
                   the encoder's output, after its final norm if it has one

    Raises:
        InputError: a model with a Router (take one of its `routes`); float64 while JAX's x64 mode is off.

    Example:
        >>> from minisbert import SentenceEncoder
        >>> encoder = SentenceEncoder("weights/tiny-bert")
        >>> apply, params = encoder.module()
        >>> out = apply(params, *padded_tokens(encoder, ["a cat", "a dog sees it"]), capture=("hidden",))
        >>> out.sentence_BD.shape, out.hidden_IBLD.shape
        ((2, 32), (3, 2, 9, 32))
    """
    if getattr(model, "routes", None):
        raise InputError("the model has a Router, each of whose routes is a module. Expected one of model.routes.")
    need_jax(model, "compute it by hand")
    dtype = COMPUTE_DTYPES["float64" if model.compute_dtype == "float64" else "float32"]
    if dtype == jnp.float64 and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise InputError(
            "the model was loaded with compute_dtype='float64', but JAX's x64 mode is off. Run "
            'jax.config.update("jax_enable_x64", True) before module().'
        )
    definition, _ = define(model.model_config, dtype)

    def apply(
        params: Any,
        token_ids_BL: jax.Array,
        lengths_B: jax.Array,
        key: jax.Array | None = None,
        capture: Sequence[str] = (),
        edit: Callable[[int, jax.Array], jax.Array] | None = None,
    ) -> Output:
        if isinstance(capture, str) or not set(capture) <= set(CAPTURES):
            raise InputError(f"capture is {capture!r}. Expected a tuple of names of {', '.join(CAPTURES)}.")
        network: Any = nnx.merge(definition, params)
        blocks: Any = getattr(network.encoder, "blocks", ())
        hidden: list[jax.Array] = []
        attention: list[jax.Array] = []
        inside = edit is not None or "attention" in capture
        if inside and not blocks and not model.model_config.is_static:
            raise InputError(
                f"the encoder {model.model_config.model_type} has no `blocks`. Expected its layers under this name, for edit "
                "and for capture of attention."
            )
        for i, block in enumerate(blocks):  # ALBERT has one block, which runs once per layer
            if "attention" in capture:
                block.attention = RecordedAttention(getattr(block, "attention", None), attention)
            if edit is not None:
                blocks[i] = _EditedBlock(block, edit, hidden)
        encoder = network.encoder
        network.encoder = _RecordedEncoder(encoder, hidden, edit)
        if key is not None and not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            key = jax.random.wrap_key_data(key)  # of jax.random.PRNGKey
        keys_B = None if key is None else jax.random.split(key, len(lengths_B))
        with jax.default_matmul_precision("highest"):
            found = network(jnp.asarray(token_ids_BL), jnp.asarray(lengths_B), dropout_keys_B=keys_B)
        return Output(
            found.sentence_BD,
            found.token_BLD,
            jnp.stack(hidden) if "hidden" in capture else None,
            jnp.stack(attention) if attention else None,
        )

    return apply, cast_params(model.params, dtype)


def padded_tokens(model: Any, texts: str | Sequence[str], prompt: str = "") -> tuple[np.ndarray, np.ndarray]:
    """token_ids_BL and lengths_B of texts, padded on the right to the longest one; what is longer than max_seq_length is cut.

    Args:
        prompt: put before each text. `encode` takes the model's default prompt by itself; here it has to be given.
    """
    given, _ = as_list(texts)
    tokens = model.tokenizer.tokenize(given, max_length=model.max_seq_length, prompt=prompt)
    if tokens.truncated:
        logger.warning(
            f"{tokens.truncated} of {len(given)} texts are longer than max_seq_length {model.max_seq_length} and were cut"
        )
    longest = max(map(len, tokens.ids), default=0)
    batch = rectangle(list(enumerate(tokens.ids)), len(given), longest, model.padding_id)
    return batch.token_ids_BL, batch.lengths_B


class RecordedAttention:
    """An attention module that also records its weights."""

    def __init__(self, attention: Any, seen: list[jax.Array]):
        if not hasattr(attention, "weights"):
            raise InputError(
                "the blocks of this encoder have no `attention` with a method `weights`. Expected those of "
                "minisbert.transformer to look at attention; leave it out."
            )
        self.attention, self.seen = attention, seen

    def __call__(self, hidden_BLD: jax.Array, mask_BL: jax.Array, *positions: Any, dropout_keys_BL: Any = None) -> Any:
        self.seen.append(self.attention.weights(hidden_BLD, mask_BL, *positions))
        return self.attention(hidden_BLD, mask_BL, *positions, dropout_keys_BL=dropout_keys_BL)


class _RecordedEncoder:
    """An encoder that also records its layers, and whose output is edited."""

    def __init__(self, encoder: Any, hidden: list[jax.Array], edit: Callable[[int, jax.Array], jax.Array] | None):
        self.encoder, self.hidden, self.edit = encoder, hidden, edit

    def __call__(self, *args: Any, **options: Any) -> Any:
        hidden_IBLD = self.encoder(*args, **options)
        if self.edit is not None:  # `hidden` has the edited inputs of the blocks
            hidden_IBLD = [*self.hidden, self.edit(len(hidden_IBLD) - 1, hidden_IBLD[-1])]
        self.hidden[:] = hidden_IBLD
        return hidden_IBLD


class _EditedBlock:
    """A block whose input is edited; `hidden` has the edited inputs of all blocks before."""

    def __init__(self, block: Any, edit: Callable[[int, jax.Array], jax.Array], hidden: list[jax.Array]):
        self.block, self.edit, self.hidden = block, edit, hidden

    def __call__(self, hidden_BLD: jax.Array, *args: Any, **options: Any) -> Any:
        self.hidden.append(self.edit(len(self.hidden), hidden_BLD))
        return self.block(self.hidden[-1], *args, **options)
