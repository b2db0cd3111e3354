"""Losses around a loss in plain float64 NumPy: on shortened embeddings, and on those of every layer.

    matryoshka        Kusupati et al. 2022, section 3
    adaptive_layer    Li et al. 2024 (2D Matryoshka Sentence Embeddings), section 3

Left out: gradients.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from minisbert.reference.losses import dot, mean
from minisbert.reference.teacher_losses import log_softmax


def matryoshka(
    loss: Callable[[np.ndarray], float], texts_SBD: np.ndarray, dimensions: Sequence[int], weights: Sequence[float]
) -> float:
    """sum over d of weight_d * loss(the first d numbers of each embedding, scaled to length 1)."""
    total = 0.0
    for d, weight in zip(dimensions, weights, strict=True):
        short_SBD = texts_SBD[:, :, :d].copy()
        for short_D in short_SBD.reshape(-1, d):  # a view: short_SBD changes with it
            length = math.sqrt(dot(short_D, short_D))
            short_D /= length if length > 0 else 1.0
        total += weight * loss(short_SBD)
    return total


def adaptive_layer(
    loss: Callable[[np.ndarray], float],
    texts_SBID: np.ndarray,
    last_layer_weight: float = 1.0,
    prior_layers_weight: float = 1.0,
    layer_weighting: str = "uniform",
    kl_weight: float = 1.0,
    kl_temperature: float = 0.3,
    frozen_SBD: np.ndarray | None = None,
) -> float:
    """The loss of the last layer, the mean loss of the earlier ones, and their divergences from the last layer.

    The teacher of the divergences is `frozen_SBD`, the last layer, which finite differences do not vary.
    """
    *earlier, last_SBD = [texts_SBID[:, :, i] for i in range(texts_SBID.shape[2])]
    total = last_layer_weight * loss(last_SBD)
    frozen_SBD = last_SBD if frozen_SBD is None else frozen_SBD
    for i, layer_SBD in enumerate(earlier):
        weight = {"uniform": 1.0, "linear": 1 / (1 + i), "log": 1 / (1 + math.log(1 + i))}[layer_weighting]
        total += prior_layers_weight * weight * loss(layer_SBD) / len(earlier)
        divergences = []
        for place in np.ndindex(*layer_SBD.shape[:2]):
            log_p, log_q = (log_softmax(list(x_SBD[place] / kl_temperature)) for x_SBD in (frozen_SBD, layer_SBD))
            divergences.append(sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True)))
        total += kl_weight * kl_temperature * mean(divergences)
    return total
