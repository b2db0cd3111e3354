"""The siamese training step (Reimers & Gurevych 2019, section 3, figure 1): one set of weights, S texts per example, one loss.

    embeddings = embed(params, texts)                encoder and pooling: every text goes through the same weights
    value      = loss(embeddings, targets, head)     any row of losses.LOSSES; figure 1 draws softmax(W (u, v, |u - v|))
    params     = update(params, d value / d params)

Read from the top: the batch, the state, the embeddings, the loss, its gradient, the step. Everything is a pure function;
step_cache.py compiles the step. A step is put together from parts with one signature each:

    embed       packed_embed(definition), optionally wrapped in `remat` or `lora.with_lora`
    gradient    jax.value_and_grad(siamese_loss(embed, loss)), or gradcache(embed, loss, chunk_size), or
                deterministic.blockwise(embed, loss, devices): the same numbers in less memory, or on any number of devices
    step        train_step(state, batch, gradient=gradient, update=make_update(optimizer))

A cross-encoder trains by the same step: its "texts" are pairs and its "embeddings" are logits.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from minisbert.text.packing import Array, PackedTexts
from minisbert.training.gradcache import gradcache_value_and_grad
from minisbert.training.targets import Targets

Tree = Any  # nested dicts of arrays
# {"model": what is trained of the model (all of it, or LoRA's adapters), "head": the loss's own parameters or {}}
Params = dict[str, Tree]
# The random generator of a run: fixed, so that JAX's default does not matter.
GENERATOR = "threefry2x32"


class TrainBatch(NamedTuple):
    """B examples of S texts each, packed into P rows with up to T texts per row (text/packing.py)."""

    rows: PackedTexts
    examples_PT: Array  # uint32, the number of each text's example in the data; its dropout follows from it
    columns_PT: Array  # int32, each text's column s
    index_SB: Array  # int32, the place of text s of example b: row * T + slot
    targets: Targets

    def pad_to(self, rows: int, length: int, padding_id: int) -> "TrainBatch":
        """The same texts in more and longer rows, padded as `pack` pads: what is added is empty."""
        if (rows, length) == self.rows.token_ids_PL.shape:
            return self
        padded, (P, T) = self.rows.pad_to(rows, length, padding_id), self.examples_PT.shape
        slots = padded.lengths_PT.shape[1]
        examples_PT, columns_PT = (
            np.pad(array, [(0, rows - P), (0, slots - T)]) for array in (self.examples_PT, self.columns_PT)
        )
        targets = self.targets
        if targets.tokens_BL is not None:
            more = length - targets.tokens_BL.shape[1]
            targets = targets._replace(tokens_BL=np.pad(targets.tokens_BL, [(0, 0), (0, more)], constant_values=-1))
        return TrainBatch(padded, examples_PT, columns_PT, self.index_SB // T * slots + self.index_SB % T, targets)


class TrainState(NamedTuple):
    """All that changes in training; a checkpoint is this and the position in the data."""

    step: jax.Array  # int32, steps done
    params: Params
    optimizer_state: Tree
    key: jax.Array  # the run's dropout key, never consumed: step, example and column are folded in


class StepMetrics(NamedTuple):
    """What one step reports."""

    loss: jax.Array
    gradient_norm: jax.Array
    gradient_norms: jax.Array  # of each parameter, in the order of `jax.tree.leaves`
    finite: jax.Array  # False: the step was not taken


Embed = Callable[[Tree, PackedTexts, jax.Array | None], jax.Array]
LossFunction = Callable[[jax.Array, Targets, Tree], jax.Array]
Gradient = Callable[[Params, TrainBatch, jax.Array | None], tuple[jax.Array, Params]]
Update = Callable[[TrainState, jax.Array, Params], tuple[TrainState, StepMetrics]]


def initial_state(params: Params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step.

    Some optimizers begin with the parameters themselves, or with one array twice. Such an array is copied: a step reuses the
    memory of its state, and can do so once.
    """
    seen = set(map(id, jax.tree.leaves(params)))

    def own(leaf: Any) -> jax.Array:
        copied = jnp.array(leaf) if id(leaf) in seen or not isinstance(leaf, jax.Array) else leaf  # or a Python number
        seen.add(id(leaf))
        return copied

    optimizer_state = jax.tree.map(own, optimizer.init(params))
    return TrainState(jnp.int32(0), params, optimizer_state, jax.random.key(seed, impl=GENERATOR))


def packed_embed(definition: nnx.GraphDef[Any], embeds: str = "sentences") -> Embed:
    """The forward pass of one network: (params, packed rows, dropout_keys_PT or None) -> embeddings_PTD.

    Args:
        definition: of the `SentenceModel` (`sentence_model.define`), or of a `CrossEncoderModel`.
        embeds: "sentences"; of a `SentenceModel` also "layers" -> embeddings_PTID or "tokens" -> embeddings_PTLD.
    """
    options = {} if embeds == "sentences" else {"embeds": embeds}

    def embed(params: Tree, rows: PackedTexts, dropout_keys_PT: jax.Array | None = None) -> jax.Array:
        embeddings_PTD: jax.Array = nnx.merge(definition, params).packed(rows, dropout_keys_PT, **options)
        return embeddings_PTD

    return embed


def remat(embed: Embed) -> Embed:
    """The same, saving only the products with weights for the backward pass; the rest is computed again (Chen et al. 2016)."""
    return jax.checkpoint(embed, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)


def unpack(embeddings_PTD: jax.Array, index_SB: jax.Array) -> jax.Array:
    """Embeddings in the order of the packed rows -> embeddings_SBD (of layers or tokens, with their axis before D)."""
    P, T, *others = embeddings_PTD.shape
    return embeddings_PTD.reshape(P * T, *others)[index_SB]


def siamese_loss(embed: Embed, loss: LossFunction) -> Callable[..., jax.Array]:
    """The loss of a batch: one forward pass of all its texts through one set of weights, then the loss.

    Args:
        loss: (embeddings_SBD, targets, head) -> scalar.

    Returns:
        A function ({"model", "head"}, batch, dropout_keys_PT or None) -> scalar, to be differentiated.
    """

    def loss_fn(params: Params, batch: TrainBatch, dropout_keys_PT: jax.Array | None = None) -> jax.Array:
        embeddings_PTD = embed(params["model"], batch.rows, dropout_keys_PT)
        return loss(unpack(embeddings_PTD, batch.index_SB), batch.targets, params["head"])

    return loss_fn


def gradcache(embed: Embed, loss: LossFunction, chunk_size: int) -> Gradient:
    """`jax.value_and_grad(siamese_loss(embed, loss))` in the memory of about `chunk_size` texts (gradcache.py)."""

    def gradient(params: Params, batch: TrainBatch, dropout_keys_PT: jax.Array | None) -> tuple[jax.Array, Params]:
        def loss_of_rows(embeddings_PTD: jax.Array, head: Tree) -> jax.Array:
            return loss(unpack(embeddings_PTD, batch.index_SB), batch.targets, head)

        value_and_grad = gradcache_value_and_grad(embed, loss_of_rows, rows_per_chunk(batch, chunk_size))
        value, (model, head) = value_and_grad(params["model"], params["head"], (batch.rows, dropout_keys_PT))
        return value, {"model": model, "head": head}

    return gradient


def loss_with_model(loss: LossFunction, definition: nnx.GraphDef[Any]) -> LossFunction:
    """A loss that runs the model itself: `head["model"]` holds parameters, and the loss gets the network built from them."""
    return lambda embeddings_SBD, targets, head: loss(
        embeddings_SBD, targets, {**head, "model": nnx.merge(definition, head["model"])}
    )


def loss_of_dataset(loss: LossFunction, name: str) -> LossFunction:
    """The loss of one data set of several, whose own parameters are `head[name]`."""

    def of_own_head(embeddings_SBD: jax.Array, targets: Targets, head: Tree) -> jax.Array:
        model = {"model": head["model"]} if "model" in head else {}  # for `loss_with_model`; no data set has this name
        return loss(embeddings_SBD, targets, head[name] | model)

    return of_own_head


def gradient_with_model(gradient: Gradient) -> Gradient:
    """The gradient of a `loss_with_model`, whose parameters act through the embeddings and the head: the sum of the two."""

    def summed(params: Params, batch: TrainBatch, dropout_keys_PT: jax.Array | None) -> tuple[jax.Array, Params]:
        head = {**params["head"], "model": params["model"]}
        value, slopes = gradient({**params, "head": head}, batch, dropout_keys_PT)
        head = dict(slopes["head"])
        return value, {"model": jax.tree.map(jnp.add, slopes["model"], head.pop("model")), "head": head}

    return summed


def rows_per_chunk(batch: TrainBatch, chunk_size: int) -> int:
    """How many packed rows hold about `chunk_size` texts."""
    return max(1, len(batch.examples_PT) * chunk_size // int(batch.index_SB.size))


def dropout_keys(key: jax.Array, step: jax.Array, batch: TrainBatch) -> jax.Array:
    """One key per text, dropout_keys_PT, from the run's key, the step, the example's number and the column.

    So a text's dropout does not depend on its place in the batch, its row or its device.
    """
    step_key = jax.random.fold_in(key, step)

    def text_key(example: jax.Array, column: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(step_key, example), column)

    return jax.vmap(jax.vmap(text_key))(batch.examples_PT, batch.columns_PT)


def train_step(
    state: TrainState, batch: TrainBatch, *, gradient: Gradient, update: Update, dropout: bool = True
) -> tuple[TrainState, StepMetrics]:
    """One step: the gradient of the batch's loss, then the optimizer's update (`make_update`).

    Args:
        dropout: False trains without, for comparisons.
    """
    keys = dropout_keys(state.key, state.step, batch) if dropout else None
    return update(state, *gradient(state.params, batch, keys))


def make_update(optimizer: optax.GradientTransformation) -> Update:
    """The optimizer's change of the state; only the step's number changes where loss or gradient are not finite."""

    def update(state: TrainState, value: jax.Array, gradient: Params) -> tuple[TrainState, StepMetrics]:
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norms = jnp.stack([jnp.linalg.norm(leaf.reshape(-1)) for leaf in jax.tree.leaves(gradient)])
        norm = jnp.linalg.norm(norms)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        params, optimizer_state = jax.tree.map(
            partial(jnp.where, finite), (params, optimizer_state), (state.params, state.optimizer_state)
        )
        return TrainState(state.step + 1, params, optimizer_state, state.key), StepMetrics(value, norm, norms, finite)

    return update
