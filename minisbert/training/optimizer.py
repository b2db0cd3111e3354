"""The optimizer: AdamW (Loshchilov & Hutter 2019) with warm-up, decay of the learning rate and clipping, from two tables."""

import re
from collections.abc import Callable
from typing import Any

import jax
import optax

# name -> (learning rate, steps) -> the schedule after the warm-up, from the full rate.
DECAYS: dict[str, Callable[[float, int], optax.Schedule]] = {
    "linear": lambda rate, steps: optax.linear_schedule(rate, 0.0, max(1, steps)),
    "cosine": lambda rate, steps: optax.cosine_decay_schedule(rate, max(1, steps)),
    "constant": lambda rate, steps: optax.constant_schedule(rate),
}

# Biases and the scales of layer norms get no weight decay; matrices and tables do.
NO_WEIGHT_DECAY = r"(bias|scale)$"


def schedule(decay: str, rate: float, warmup_steps: int, steps: int) -> optax.Schedule:
    """The learning rate by step: from 0 up to `rate` in `warmup_steps`, then down by a row of `DECAYS`.

    Example:
        >>> rates = schedule("linear", 1.0, 2, 4)
        >>> [float(rates(step)) for step in range(5)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    falling = DECAYS[decay](rate, steps - warmup_steps)
    if warmup_steps == 0:
        return falling
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup_steps), falling], [warmup_steps])


def decays(params: Any) -> Any:
    """True for each parameter that weight decay applies to."""

    def rule(path: Any, _: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return re.search(NO_WEIGHT_DECAY, name) is None

    return jax.tree_util.tree_map_with_path(rule, params)


def adamw(rates: optax.Schedule, *, weight_decay: float, clip_norm: float) -> optax.GradientTransformation:
    """AdamW with the betas and epsilon of BERT's fine-tuning recipe, after clipping the gradient's global norm."""
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(rates, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay, mask=decays),
    )
