"""Pairs of texts -> scores, batch by batch: the pipeline behind `CrossEncoder.predict`.

    (prompt + a, b) -> token ids -> batches of similar lengths -> compiled forward pass -> logits_BC -> activation -> scores

Pairs are tokenized a chunk at a time and a few batches are computed ahead, as inference/encode.py does for single texts.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minisbert.arguments import check_choice, prompt_text
from minisbert.cross_encoder.folder import ACTIVATION_CLASSES
from minisbert.errors import InputError, MinisbertError, short_repr
from minisbert.inference.batching import Batch, batches
from minisbert.inference.stream import ProgressBar, run_ahead
from minisbert.text.tokenizer import CHUNK, Tokens

logger = logging.getLogger("minisbert")
Activation = Callable[[np.ndarray], Any]


def softmax(x_BC: np.ndarray) -> np.ndarray:
    """The numbers of each row as positive numbers that sum to 1."""
    exp_BC = np.exp(x_BC - x_BC.max(axis=1, keepdims=True))
    return np.asarray(exp_BC / exp_BC.sum(axis=1, keepdims=True))


# The names are those of folder.py: `ACTIVATION_CLASSES`.
ACTIVATIONS: dict[str, Activation] = {
    "identity": lambda x: x,
    "sigmoid": lambda x: np.exp(-np.logaddexp(0, -x)),  # 1 / (1 + exp(-x)) without overflow
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "softmax": softmax,
}


def prompt_for(model: Any, prompt_name: str | None, prompt: str | None) -> str:
    """The prompt before the first text of each pair: the one given, the one named, the model's default, or none.

    Raises:
        InputError: a prompt that the model does not have, or that its pooling would leave out.
    """
    found = prompt_text(prompt, prompt_name, model.prompts, model.default_prompt_name)
    check_prompt(model, found)
    return found


def check_prompt(model: Any, prompt: str) -> None:
    """Raises InputError for a prompt whose tokens the pooling of a reranker of modules would leave out."""
    if prompt and not all(getattr(module, "include_prompt", True) for module in model.model_config.modules):
        raise InputError(
            f"prompt is {short_repr(prompt)}, but the pooling in {model.pretrained.folder.path} has include_prompt false, and "
            'that is not computed for pairs. Expected no prompt (prompt=""); or use another model.'
        )


def tokenized(model: Any, pairs: Sequence[tuple[str, str]], prompt: str, exact: bool = True) -> Iterator[Tokens]:
    """The tokens of all pairs, a chunk at a time; arguments as for `CrossEncoderTokenizer.tokenize`."""
    options = {"max_length": model.max_seq_length, "prompt": prompt, "exact": exact}
    chunks = (pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK))
    return (model.tokenizer.tokenize(chunk, **options) for chunk in chunks)


def logits(
    model: Any,
    pairs: Sequence[tuple[str, str]],
    prompt: str,
    batch_size: int | None,
    show_progress_bar: bool | None,
    warn: bool,
) -> np.ndarray:
    """float32 `[pairs, C]`, in the order of the pairs.

    Args:
        prompt: put before the first text of each pair.
        batch_size: pairs per batch, or None for as many as fit the model's token budget.
        warn: log how many pairs were cut.

    Raises:
        MinisbertError: a logit is not finite.
    """
    first_lengths: list[int] = []
    truncated = 0

    def token_ids() -> Iterator[list[int]]:
        nonlocal truncated
        for tokens in tokenized(model, pairs, prompt, exact=False):
            truncated += tokens.truncated
            first_lengths.extend(tokens.first_lengths)
            yield from tokens.ids

    def start(batch: Batch) -> Any:
        first_lengths_B = np.zeros(len(batch.token_ids_BL), np.int32)
        first_lengths_B[: len(batch.rows)] = [first_lengths[row] for row in batch.rows]
        return model.forward(model.params, "logits", batch.token_ids_BL, batch.lengths_B, first_lengths_B)

    options = {"padding_id": model.padding_id, "max_positions": model.max_positions}
    stream: Iterator[Any] = batches(enumerate(token_ids()), model.shapes, batch_size=batch_size, **options)
    logits_BC = np.empty((len(pairs), model.num_labels), np.float32)
    with ProgressBar(len(pairs), show_progress_bar, "pairs", "predict") as bar:
        for batch, computed_BC in run_ahead(stream, start, model.forward.wait):
            logits_BC[batch.rows] = np.asarray(computed_BC)[: len(batch.rows)]
            bar.update(len(batch.rows))
    if not np.isfinite(logits_BC).all():
        raise MinisbertError("a logit is not finite: the weights overflow. Use another model.")
    if truncated and warn:
        logger.warning(
            f"{truncated} of {len(pairs)} pairs are longer than max_seq_length {model.max_seq_length} and were cut; "
            "token_counts() shows which. on_truncate='ignore' silences this, 'error' refuses them."
        )
    return logits_BC


def activation_name(value: Any) -> Any:
    """The name of a module of PyTorch, as a folder holds it; anything else is returned unchanged."""
    name = ACTIVATION_CLASSES.get(f"{type(value).__module__}.{type(value).__qualname__}", value)
    return value if name == "softmax" and getattr(value, "dim", None) == 0 else name  # over the pairs


def activation_of(value: Any) -> Activation:
    """The activation function of a name or of a module of PyTorch; another function is returned unchanged.

    Raises:
        InputError: neither a function nor a known name.

    Example:
        >>> activation_of("sigmoid")(np.array([0.0, -1000.0])).tolist()
        [0.5, 0.0]
    """
    value = activation_name(value)
    if not callable(value):
        check_choice("activation_fn", value, tuple(ACTIVATIONS))
    activation: Activation = value if callable(value) else ACTIVATIONS[value]
    return activation


def scores_from_logits(logits_BC: np.ndarray, activation: Activation, apply_softmax: bool = False) -> np.ndarray:
    """float32 `[B]` for one label, `[B, C]` for several; `apply_softmax` makes the C numbers of a pair sum to 1.

    Raises:
        InputError: the activation did not return finite numbers of the same shape.

    Example:
        >>> scores_from_logits(np.array([[2.0], [-3.0]]), activation_of("relu")).tolist()
        [2.0, 0.0]
    """
    try:
        scores = np.asarray(activation(logits_BC)) if len(logits_BC) else logits_BC  # your function may need a row
    except (AttributeError, TypeError) as error:  # such as a function of PyTorch
        raise InputError(
            f"activation_fn failed: {error}. Expected a function of a NumPy array [pairs, C], or one of "
            f"{', '.join(ACTIVATIONS)}; of PyTorch: lambda x: function(torch.from_numpy(x)).numpy()."
        ) from error
    if scores.shape != logits_BC.shape or scores.dtype.kind != "f" or not np.isfinite(scores).all():
        raise InputError(
            f"activation_fn returned {scores.dtype} {scores.shape} for logits {logits_BC.shape}. Expected finite numbers of "
            "the same shape."
        )
    if logits_BC.shape[1] == 1:
        return scores[:, 0].astype(np.float32)
    return (softmax(scores) if apply_softmax else scores).astype(np.float32)
