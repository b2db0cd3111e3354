"""From a cross-encoder's logits to scores: an activation, then optionally a softmax."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minisbert.arguments import check_choice
from minisbert.errors import InputError

Activation = Callable[[np.ndarray], Any]

# The names are those of folder.py: `ACTIVATION_CLASSES`.
ACTIVATIONS: dict[str, Activation] = {
    "identity": lambda x: x,
    "sigmoid": lambda x: np.exp(-np.logaddexp(0, -x)),  # 1 / (1 + exp(-x)) without overflow
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
}


def activation_of(value: Any) -> Activation:
    """The activation function of a name; a function is returned unchanged.

    Raises:
        InputError: neither a function nor a known name.

    Example:
        >>> activation_of("sigmoid")(np.array([0.0, -1000.0])).tolist()
        [0.5, 0.0]
    """
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
    scores = np.asarray(activation(logits_BC))
    if scores.shape != logits_BC.shape or scores.dtype.kind != "f" or not np.isfinite(scores).all():
        raise InputError(
            f"activation_fn returned {scores.dtype} {scores.shape} for logits {logits_BC.shape}. Expected finite numbers of "
            "the same shape."
        )
    if logits_BC.shape[1] == 1:
        return scores[:, 0].astype(np.float32)
    if apply_softmax:
        exp_BC = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores = exp_BC / exp_BC.sum(axis=1, keepdims=True)
    return scores.astype(np.float32)
