"""The siamese training step (Reimers & Gurevych 2019, section 3): one set of weights, S texts an example, one loss.

    embeddings = model(texts of the batch)                      all S columns in one forward pass, packed
    loss       = L(embeddings, targets)                         any row of losses.LOSSES
    parameters = optimizer(parameters, d loss / d parameters)

Read from the top: what a batch is, the loss of a batch, the step, the compiled step. Everything is a pure function of
its arguments; the state holds all that changes. With `chunk_size` the same gradient comes from GradCache. A cross-encoder
trains by the same steps (training/task.py): its "texts" are pairs, its "embeddings" logits.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from minisbert.text.packing import PackedTexts
from minisbert.training.gradcache import gradcache_value_and_grad
from minisbert.training.targets import Targets

Tree = Any  # nested dicts of arrays


class TrainBatch(NamedTuple):
    """B examples of S texts each, packed into P rows with up to T texts (text/packing.py)."""

    rows: PackedTexts
    examples_PT: jax.Array  # uint32, of each text the number of its example in the data: its dropout follows from it
    columns_PT: jax.Array  # int32, of each text its column s
    index_SB: jax.Array  # int32, where text s of example b stands: row * T + slot
    targets: Targets


class TrainState(NamedTuple):
    """All that changes in training; a checkpoint is this and the position in the data."""

    step: jax.Array  # int32, steps done
    # {"model": the SentenceModel's, or what is trained of it (lora.py); "head": the loss's own or {}}
    params: dict[str, Tree]
    optimizer_state: Tree
    key: jax.Array  # the run's dropout key, never consumed: step and example are folded in


class StepMetrics(NamedTuple):
    """What one step reports."""

    loss: jax.Array
    gradient_norm: jax.Array
    gradient_norms: jax.Array  # of each parameter, in the order of `jax.tree.leaves`
    finite: jax.Array  # False: the step was not taken


def initial_state(params: dict[str, Tree], optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.int32(0), params, optimizer.init(params), jax.random.key(seed))


def dropout_keys(key: jax.Array, step: jax.Array, batch: TrainBatch) -> jax.Array:
    """One key per text, dropout_keys_PT, from the run's key, the step, the example's own number and the column.

    Where in the batch an example stands, in which row, and on which device, does not matter.
    """
    of_step = jax.random.fold_in(key, step)

    def of_text(example: jax.Array, column: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(of_step, example), column)

    return jax.vmap(jax.vmap(of_text))(batch.examples_PT, batch.columns_PT)


def itself(params: Tree) -> Tree:
    """The model's parameters where all of them are trained."""
    return params


def siamese_loss(
    params: dict[str, Tree],
    batch: TrainBatch,
    dropout_keys_PT: jax.Array | None,
    *,
    definition: nnx.GraphDef,
    loss: Callable[..., jax.Array],
    remat: bool = False,
    whole: Callable[[Tree], Tree] = itself,
) -> jax.Array:
    """The loss of a batch: one forward pass of all its texts through one set of weights, then the loss.

    Args:
        params: {"model", "head"}.
        dropout_keys_PT: one dropout key per text, or None.
        definition: of the `SentenceModel` (`sentence_model.define`), or of a `CrossEncoderModel`.
        loss: (embeddings_SBD, targets, head) -> scalar.
        remat: see `embed`.
        whole: from what is trained to the model's parameters.
    """
    embeddings_PTD = embed(definition, whole(params["model"]), batch.rows, dropout_keys_PT, remat)
    return loss(unpack(embeddings_PTD, batch.index_SB), batch.targets, params["head"])


def embed(
    definition: nnx.GraphDef, params: Tree, rows: PackedTexts, dropout_keys_PT: jax.Array | None, remat: bool = False
) -> jax.Array:
    """The forward pass of packed rows: embeddings_PTD.

    Args:
        remat: keep only matrix products for the way back, compute the rest again (Chen et al. 2016).
    """

    def forward(params: Tree, dropout_keys_PT: jax.Array | None) -> jax.Array:
        return nnx.merge(definition, params).packed(rows, dropout_keys_PT)

    if remat:
        forward = jax.checkpoint(forward, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
    return forward(params, dropout_keys_PT)


def unpack(embeddings_PTD: jax.Array, index_SB: jax.Array) -> jax.Array:
    """Embeddings as the rows had them -> embeddings_SBD."""
    P, T, D = embeddings_PTD.shape
    return embeddings_PTD.reshape(P * T, D)[index_SB]


def train_step(
    state: TrainState,
    batch: TrainBatch,
    *,
    definition: nnx.GraphDef,
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    dropout: bool = True,
    chunk_size: int | None = None,
    remat: bool = False,
    whole: Callable[[Tree], Tree] = itself,
) -> tuple[TrainState, StepMetrics]:
    """One step: gradient of the batch's loss, update by the optimizer.

    A loss or gradient that is not finite leaves parameters and optimizer as they were (`StepMetrics.finite`).

    Args:
        dropout: False trains without, for comparisons.
        chunk_size: texts differentiated at once (GradCache), None for all.
        remat, whole: see `siamese_loss`.
    """
    dropout_keys_PT = dropout_keys(state.key, state.step, batch) if dropout else None
    if chunk_size is None:
        value, gradient = jax.value_and_grad(siamese_loss)(
            state.params, batch, dropout_keys_PT, definition=definition, loss=loss, remat=remat, whole=whole
        )
    else:
        value, gradient = _cached_gradient(
            state.params, batch, dropout_keys_PT, definition, loss, chunk_size, remat, whole
        )
    return apply_gradient(state, value, gradient, optimizer)


def apply_gradient(
    state: TrainState, value: jax.Array, gradient: dict[str, Tree], optimizer: optax.GradientTransformation
) -> tuple[TrainState, StepMetrics]:
    """The state after a step with this loss and gradient; as it was, but for the step's number, if they are not finite."""
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = jnp.stack([jnp.linalg.norm(leaf.reshape(-1)) for leaf in jax.tree.leaves(gradient)])
    norm = jnp.linalg.norm(norms)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    params, optimizer_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, optimizer_state),
        (state.params, state.optimizer_state),
    )
    return TrainState(state.step + 1, params, optimizer_state, state.key), StepMetrics(value, norm, norms, finite)


def _cached_gradient(
    params: dict[str, Tree],
    batch: TrainBatch,
    dropout_keys_PT: jax.Array | None,
    definition: nnx.GraphDef,
    loss: Callable[..., jax.Array],
    chunk_size: int,
    remat: bool,
    whole: Callable[[Tree], Tree],
) -> tuple[jax.Array, dict[str, Tree]]:
    """`value_and_grad(siamese_loss)` in the memory of about `chunk_size` texts: GradCache over the packed rows."""

    def embed_rows(trained: Tree, rows: PackedTexts, keys: jax.Array | None) -> jax.Array:
        return embed(definition, whole(trained), rows, keys, remat)

    def loss_of_rows(embeddings_PTD: jax.Array, head: Tree, targets: Targets) -> jax.Array:
        return loss(unpack(embeddings_PTD, batch.index_SB), targets, head)

    P = batch.rows.token_ids_PL.shape[0]
    rows_a_chunk = max(1, P * chunk_size // batch.index_SB.size)
    value_and_grad = gradcache_value_and_grad(embed_rows, loss_of_rows, rows_a_chunk)
    value, (model, head) = value_and_grad(params["model"], params["head"], batch.rows, dropout_keys_PT, batch.targets)
    return value, {"model": model, "head": head}


def make_train_step(
    *,
    definition: nnx.GraphDef,
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    dropout: bool = True,
    chunk_size: int | None = None,
    remat: bool = False,
    sharding: Tree | None = None,
    adapt: Callable[[Tree, Tree], Tree] | None = None,
    frozen: Tree | None = None,
) -> Callable[[TrainState, TrainBatch], tuple[TrainState, StepMetrics]]:
    """`train_step` compiled: the only `jax.jit` of training. The old state's memory is given to the new one.

    Args:
        sharding: where the state lives on several devices (sharding.py), so that the new one lives there too.
        adapt: (frozen parameters, what is trained) -> the model's parameters; None where all are trained.
        frozen: the parameters that stay as they are. An argument of the program, not a constant in it.
    """

    def step(state: TrainState, batch: TrainBatch, frozen: Tree | None = None) -> tuple[TrainState, StepMetrics]:
        return train_step(
            state,
            batch,
            definition=definition,
            loss=loss,
            optimizer=optimizer,
            dropout=dropout,
            chunk_size=chunk_size,
            remat=remat,
            whole=itself if adapt is None else partial(adapt, frozen),
        )

    if sharding is None:
        compiled = jax.jit(step, donate_argnums=0)
    else:
        compiled = jax.jit(step, donate_argnums=0, out_shardings=(sharding, None))
    return compiled if adapt is None else lambda state, batch: compiled(state, batch, frozen)
