"""The siamese training step (Reimers & Gurevych 2019, section 3): one set of weights, S texts an example, one loss.

    embeddings = model(texts of the batch)                      all S columns in one forward pass: `embed`
    loss       = L(embeddings, targets)                         any row of losses.LOSSES
    parameters = optimizer(parameters, d loss / d parameters)

Read from the top: what a batch is, the loss of a batch, the step, the compiled step. Everything is a pure function of
its arguments; the state holds all that changes. With `chunk_size` the same gradient comes from GradCache. A cross-encoder
trains by the same steps with another forward pass (joint.py): its "texts" are pairs, its "embeddings" logits.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from minisbert.training.gradcache import gradcache_value_and_grad
from minisbert.training.targets import Targets

Tree = Any  # nested dicts of arrays


class TrainBatch(NamedTuple):
    """B examples of S texts (or pairs of texts) each, padded to one length."""

    token_ids_SBL: jax.Array
    lengths_SB: jax.Array
    example_ids_B: jax.Array  # uint32, an example's own number in its data: its dropout follows from it
    targets: Targets
    first_lengths_SB: jax.Array | None = None  # of pairs: how many tokens belong to the first text


class TrainState(NamedTuple):
    """All that changes in training; a checkpoint is this and the position in the data."""

    step: jax.Array  # int32, steps done
    params: dict[str, Tree]  # {"model": the SentenceModel's, "head": the loss's own or {}}
    optimizer_state: Tree
    key: jax.Array  # the run's dropout key, never consumed: step and example are folded in


class StepMetrics(NamedTuple):
    """What one step reports."""

    loss: jax.Array
    gradient_norm: jax.Array
    finite: jax.Array  # False: the step was not taken


def initial_state(params: dict[str, Tree], optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.int32(0), params, optimizer.init(params), jax.random.key(seed))


def dropout_keys(key: jax.Array, step: jax.Array, batch: TrainBatch) -> jax.Array:
    """One key per text, `[S * B]`, from the run's key, the step and the example's own number.

    Where in the batch an example stands, and on which device, does not matter.
    """
    S = batch.lengths_SB.shape[0]
    of_step = jax.random.fold_in(key, step)
    of_example_B = jax.vmap(lambda example: jax.random.fold_in(of_step, example))(batch.example_ids_B)
    keys_SB = jax.vmap(lambda s: jax.vmap(lambda k: jax.random.fold_in(k, s))(of_example_B))(jnp.arange(S))
    return keys_SB.reshape(-1)


def embed(
    model: nnx.Module,
    token_ids_RL: jax.Array,
    lengths_R: jax.Array,
    first_lengths_R: jax.Array | None,
    keys_R: jax.Array | None,
) -> jax.Array:
    """The siamese forward pass: `sentence_RD` of R texts, each by itself."""
    return model(token_ids_RL, lengths_R, keys_B=keys_R).sentence_BD  # type: ignore[operator]


def rows_of(batch: TrainBatch) -> tuple[Tree, ...]:
    """Tokens, lengths and first lengths (or None) of all texts of a batch on one axis, R = S * B."""
    return jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:]), (batch.token_ids_SBL, batch.lengths_SB, batch.first_lengths_SB)
    )


def siamese_loss(
    params: dict[str, Tree],
    batch: TrainBatch,
    keys_R: jax.Array | None,
    *,
    definition: nnx.GraphDef,
    loss: Callable[..., jax.Array],
    forward: Callable[..., jax.Array] = embed,
) -> jax.Array:
    """The loss of a batch: one forward pass of all its texts through one set of weights, then the loss.

    Args:
        params: {"model", "head"}.
        keys_R: dropout keys of the S * B texts, or None.
        definition: of the `SentenceModel` (`sentence_model.define`).
        loss: (embeddings_SBD, targets, head) -> scalar.
        forward: (model, tokens, lengths, first lengths, keys) -> embeddings_RD.
    """
    S, B, _ = batch.token_ids_SBL.shape
    embeddings_RD = forward(nnx.merge(definition, params["model"]), *rows_of(batch), keys_R)
    return loss(embeddings_RD.reshape(S, B, -1), batch.targets, params["head"])


def train_step(
    state: TrainState,
    batch: TrainBatch,
    *,
    definition: nnx.GraphDef,
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    forward: Callable[..., jax.Array] = embed,
    dropout: bool = True,
    chunk_size: int | None = None,
) -> tuple[TrainState, StepMetrics]:
    """One step: gradient of the batch's loss, update by the optimizer.

    A loss or gradient that is not finite leaves parameters and optimizer as they were (`StepMetrics.finite`).

    Args:
        dropout: False trains without, for comparisons.
        chunk_size: texts differentiated at once (GradCache), None for all.
    """
    keys_R = dropout_keys(state.key, state.step, batch) if dropout else None
    if chunk_size is None:
        value, gradient = jax.value_and_grad(siamese_loss)(
            state.params, batch, keys_R, definition=definition, loss=loss, forward=forward
        )
    else:
        value, gradient = _cached_gradient(state.params, batch, keys_R, definition, loss, forward, chunk_size)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    params, optimizer_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, optimizer_state),
        (state.params, state.optimizer_state),
    )
    return TrainState(state.step + 1, params, optimizer_state, state.key), StepMetrics(value, norm, finite)


def _cached_gradient(
    params: dict[str, Tree],
    batch: TrainBatch,
    keys_R: jax.Array | None,
    definition: nnx.GraphDef,
    loss: Callable[..., jax.Array],
    forward: Callable[..., jax.Array],
    chunk_size: int,
) -> tuple[jax.Array, dict[str, Tree]]:
    """`value_and_grad(siamese_loss)` in the memory of `chunk_size` texts."""
    S, B, _ = batch.token_ids_SBL.shape

    def embed_rows(model_params: Tree, rows: tuple[Tree, ...], keys: jax.Array | None) -> jax.Array:
        return forward(nnx.merge(definition, model_params), *rows, keys)

    def loss_of_rows(embeddings_RD: jax.Array, head: Tree, targets: Targets) -> jax.Array:
        return loss(embeddings_RD.reshape(S, B, -1), targets, head)

    value_and_grad = gradcache_value_and_grad(embed_rows, loss_of_rows, chunk_size)
    value, (model, head) = value_and_grad(params["model"], params["head"], rows_of(batch), keys_R, batch.targets)
    return value, {"model": model, "head": head}


def make_train_step(
    *,
    definition: nnx.GraphDef,
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    forward: Callable[..., jax.Array] = embed,
    dropout: bool = True,
    chunk_size: int | None = None,
) -> Callable[[TrainState, TrainBatch], tuple[TrainState, StepMetrics]]:
    """`train_step` compiled: the only `jax.jit` of training. The old state's memory is given to the new one."""

    def step(state: TrainState, batch: TrainBatch) -> tuple[TrainState, StepMetrics]:
        return train_step(
            state,
            batch,
            definition=definition,
            loss=loss,
            optimizer=optimizer,
            forward=forward,
            dropout=dropout,
            chunk_size=chunk_size,
        )

    return jax.jit(step, donate_argnums=0)
