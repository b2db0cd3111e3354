"""The optimizer: AdamW (Loshchilov & Hutter 2019) with warm-up, decay of the learning rate and clipping, or one of your own.

`Numbers` are arguments of the compiled step, so that runs which differ only in them share one program; `OptimizerRecipe` is
what XLA compiles. `recipe(numbers)` is an optax transformation; inside the compiled step `numbers` are tracers.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minisbert.arguments import check_finite
from minisbert.errors import InputError, short_repr
from minisbert.training.config import TrainConfig, plain
from minisbert.training.record import name_of
from minisbert.training.siamese import Embed

logger = logging.getLogger("minisbert")

# name -> the share of the peak rate that is left when a share of the steps after the warm-up is done.
DECAYS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + jnp.cos(jnp.pi * done)) / 2,
    "constant": jnp.ones_like,
}

# Biases, those of relative positions too, and the scales of layer norms get no weight decay; matrices and tables do.
NO_WEIGHT_DECAY = r"(bias|scale)$|position_bias"


def schedule(decay: str, rate: Any, warmup_steps: Any, steps: Any) -> optax.Schedule:
    """The learning rate by step: from 0 up to `rate` in `warmup_steps`, then down by a row of `DECAYS`.

    Example:
        >>> rates = schedule("linear", 1.0, 2, 4)
        >>> [float(rates(step)) for step in range(5)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    def rate_at(step: Any) -> jax.Array:
        done = jnp.clip((step - warmup_steps) / jnp.maximum(1, steps - warmup_steps), 0, 1)
        return rate * jnp.where(step < warmup_steps, step / jnp.maximum(1, warmup_steps), DECAYS[decay](done))

    return rate_at


def path_name(path: Any) -> str:
    """The name of a parameter, such as encoder.blocks.0.attention.output.kernel; the loss's own begin with "loss_head."."""
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    return re.sub(r"^head\.", "loss_head.", name).removeprefix("model.")


def decays(params: Any) -> Any:
    """True for each parameter that weight decay applies to: matrices and tables, not a temperature or a pooling's query."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: getattr(leaf, "ndim", 2) > 1 and not re.search(NO_WEIGHT_DECAY, path_name(path)), params
    )


def adamw(rates: optax.Schedule, *, weight_decay: Any, clip_norm: Any) -> optax.GradientTransformation:
    """AdamW with the betas and epsilon of BERT's fine-tuning recipe, after clipping the gradient's global norm."""
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(rates, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay, mask=decays),
    )


class Numbers(NamedTuple):
    """The numbers of a run's optimizer, steps counted in changes of the weights."""

    learning_rate: Any
    warmup_steps: Any
    steps: Any
    weight_decay: Any
    clip_norm: Any


@dataclass(frozen=True)
class OptimizerRecipe:
    """What a run's optimizer is made of, apart from its `Numbers`; hashable. Fields as in TrainConfig."""

    decay: str
    schedule: optax.Schedule | None
    optimizer: Any
    trainable: str | Callable[[str], bool] | None
    learning_rates: tuple[tuple[str, float], ...] | Callable[[str], float]
    ema: float | None
    accumulate: int

    def rates(self, numbers: Numbers) -> optax.Schedule:
        """The learning rate by the number of changes."""
        return self.schedule or schedule(self.decay, *numbers[:3])

    def __call__(self, numbers: Numbers) -> optax.GradientTransformation:
        """The optax transformation."""
        optimizer = self.optimizer
        if optimizer is None:
            optimizer = adamw(self.rates(numbers), weight_decay=numbers.weight_decay, clip_norm=numbers.clip_norm)
        else:
            own = own_optimizer(optimizer, self.rates(numbers))
            optimizer = optax.chain(optax.clip_by_global_norm(numbers.clip_norm), own)
        if self.learning_rates:
            optimizer = optax.chain(optimizer, optax.stateless(self._scale))
        if self.trainable is not None:
            optimizer = optax.multi_transform({True: optimizer, False: optax.set_to_zero()}, self.trained)
        if self.ema is not None:
            optimizer = with_ema(optimizer, self.ema)
        if self.accumulate > 1:
            optimizer = optax.MultiSteps(optimizer, self.accumulate).gradient_transformation()
        return optimizer

    def trained(self, params: Any) -> Any:
        """True for each parameter that is trained."""
        rule: Any = partial(re.search, self.trainable) if isinstance(self.trainable, str) else self.trainable
        return jax.tree_util.tree_map_with_path(lambda path, _: bool(rule(path_name(path))), params)

    def check(self, numbers: Numbers, params: Any, state: Any) -> None:
        """Raises InputError: nothing is trained, a pattern finds no parameter, a function's result is wrong. Shapes suffice."""
        if self.trainable is None and not self.learning_rates and self.optimizer is None:
            return
        names = [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
        some = ", ".join(names[:: max(1, len(names) // 4)])
        if self.trainable is not None and not any(jax.tree.leaves(self.trained(params))):
            raise InputError(
                f"trainable is {short_repr(self.trainable)}: no parameter is trained. Expected paths such as {some}."
            )
        factors: Any = self.learning_rates
        for pattern, _ in () if callable(factors) else factors:
            if not any(re.search(pattern, name) for name in names):
                raise InputError(f"learning_rates: {pattern!r} matches no parameter. Expected paths such as {some}.")
        for name in names if callable(factors) else ():
            factor = plain(factors(name))
            check_finite(f"learning_rates({name!r})", float(factor) if isinstance(factor, bool) else factor)
        if self.optimizer is not None:
            updates, after = jax.eval_shape(self(numbers).update, params, state, params)
            shape, kind = attrgetter("shape"), attrgetter("shape", "dtype")  # updates may have another dtype
            for found, like, read, what in ((updates, params, shape, "updates"), (after, state, kind, "a state")):
                if jax.tree.map(read, found) != jax.tree.map(read, like):
                    raise InputError(
                        f"optimizer: {name_of(self.optimizer)} returns {what} of other shapes or types than it was given. "
                        "Expected the same arrays with other values."
                    )

    def frozen(self, embed: Embed) -> Embed:
        """`embed` without a gradient for parameters that are not trained."""
        if self.trainable is None:
            return embed

        def embed_frozen(model: Any, *inputs: Any) -> jax.Array:
            # Of the whole tree, so that a model's own "head." is not taken for the loss's.
            flags = self.trained({"model": model})["model"]
            stopped = jax.tree.map(lambda leaf, flag: leaf if flag else jax.lax.stop_gradient(leaf), model, flags)
            return embed(stopped, *inputs)

        return embed_frozen

    def _scale(self, updates: Any, params: Any = None) -> Any:
        def factor(name: str) -> float:
            if callable(self.learning_rates):
                with jax.ensure_compile_time_eval():  # a number of JAX too, while the step is traced
                    return float(self.learning_rates(name))
            return next((value for pattern, value in self.learning_rates if re.search(pattern, name)), 1.0)

        return jax.tree_util.tree_map_with_path(lambda path, leaf: factor(path_name(path)) * leaf, updates)


@contextmanager
def _refused(given: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise InputError(
            f"optimizer: {name_of(given)} failed ({type(error).__name__}: {error!s:.300}). Expected an optax transformation, "
            "or a function of the learning rate that makes one, which needs no more than the gradient and the parameters: no "
            "value of the loss (lbfgs, polyak_sgd, reduce_on_plateau)."
        ) from error


def own_optimizer(given: Any, rates: optax.Schedule) -> optax.GradientTransformation:
    """The transformation of the setting `optimizer`. What fails in it becomes an InputError."""
    with _refused(given):
        made = given if isinstance(given, optax.GradientTransformation) else given(rates)
        # By name: optax.MultiSteps is not a tuple of them.
        return optax.GradientTransformation(_refused(given)(made.init), _refused(given)(made.update))


def check_schedule(given: optax.Schedule) -> None:
    """Raises InputError if the setting `schedule` is not a function of the number of changes that gives a number."""
    try:
        rate, first = jax.eval_shape(given, jax.ShapeDtypeStruct((), jnp.int32)), given(0)
        if getattr(rate, "shape", None) != () or not jnp.issubdtype(rate.dtype, jnp.number):
            raise TypeError(f"it returned {short_repr(first)}")
        if not np.isfinite(float(first)):
            raise ValueError(f"it gave {float(first)} for the first change")
    except Exception as error:
        raise InputError(
            f"schedule: {name_of(given)} failed or gave no number ({error!s:.300}). Expected a function of the number of "
            "changes of the weights that gives one finite number and can be traced by JAX, such as an optax schedule."
        ) from error


class EmaState(NamedTuple):
    """The moving average of the parameters, and the state of the optimizer that changes them."""

    ema: Any
    inner: Any


def moving_average(state: Any) -> Any:
    """The moving average in the optimizer's state. An optimizer of the run may have another one inside (optax.ema)."""
    found = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, EmaState))
    return next(part.ema for part in found if isinstance(part, EmaState))


def with_ema(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """The optimizer, which also keeps an exponential moving average of the parameters (Polyak & Juditsky 1992).

    Example:
        >>> optimizer = with_ema(optax.sgd(1.0), 0.9)
        >>> state = optimizer.init(jnp.float32(1.0))
        >>> _, state = optimizer.update(jnp.float32(1.0), state, jnp.float32(1.0))  # the parameter becomes 0
        >>> round(float(state.ema), 4)
        0.9
    """

    def init(params: Any) -> EmaState:
        return EmaState(jax.tree.map(jnp.copy, params), optimizer.init(params))

    def update(gradient: Any, state: EmaState, params: Any = None) -> tuple[Any, EmaState]:
        updates, inner = optimizer.update(gradient, state.inner, params)
        new = optax.apply_updates(params, updates)
        return updates, EmaState(jax.tree.map(lambda old, now: decay * old + (1 - decay) * now, state.ema, new), inner)

    return optax.GradientTransformation(init, update)


def optimizer_for(config: TrainConfig, steps: int) -> tuple[Callable[[int], float], OptimizerRecipe, Numbers, int]:
    """The learning rate by step, the optimizer's recipe and numbers, and the steps: those of the epochs, at most `max_steps`.

    With `accumulate` k the weights change at each k-th step by the mean of k gradients. Steps that do not fill a last k are
    left out, and the schedule counts changes.
    """
    k = config.accumulate
    if config.max_steps is not None and config.max_steps > steps:
        logger.info(
            f"max_steps is {config.max_steps}, but the data ends after {steps} steps: {config.epochs} epoch(s) in batches of "
            f"{config.batch_size}. For more steps raise --epochs or lower --batch-size."
        )
    changes = min(steps, config.max_steps or steps) // k
    if changes == 0:
        raise InputError(f"accumulate is {k}, but the run has {steps} steps. Expected at most as many.")
    warmup = int(config.warmup * changes) if config.warmup_steps is None else config.warmup_steps
    if warmup >= changes and warmup > 0:
        logger.warning(
            f"The warm-up of {warmup} steps is not over when the run ends, after {changes}: the learning rate does not reach "
            "its peak. For a shorter one set --warmup-steps."
        )
    floats = np.float32(config.weight_decay), np.float32(config.clip_norm)
    numbers = Numbers(np.float32(config.learning_rate), np.int32(min(warmup, 2**31 - 1)), np.int32(changes), *floats)
    rules = config.learning_rates or ()
    factors = tuple(rules.items()) if isinstance(rules, Mapping) else rules
    recipe = OptimizerRecipe(config.decay, config.schedule, config.optimizer, config.trainable, factors, config.ema, k)
    if config.schedule is not None:
        check_schedule(config.schedule)
    rates = recipe.rates(numbers)
    return lambda step: float(rates(step // k)), recipe, numbers, changes * k
