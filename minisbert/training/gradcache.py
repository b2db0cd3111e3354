"""GradCache: the gradient of any loss over a large batch, in the memory of one chunk of it.

Gao, Zhang, Han & Callan 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", section 3.2.
The encoder's activations fill the memory, but a loss sees only embeddings, one short vector per text. With E the
embeddings, dL/dparams = sum over chunks c of dL/dE_c dE_c/dparams, and dL/dE needs no activations. So:

    1  embed all chunks and keep only the embeddings          (section 3.2, step 1: graph-less forward)
    2  the loss, and its gradient for each embedding          (step 2: representation gradient)
    3  embed each chunk again, pull its gradient through,     (step 3: sub-batch gradient accumulation)
       and add up

It costs one more forward pass (about a third more time) and gives the gradient of the whole batch, not an
approximation: a plain mean of per-chunk losses would show each anchor the negatives of its chunk only. Dropout must be
the same in 1 and 3, so each row has its own key; then it is also the same for any chunk size.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from minisbert.errors import InputError

Tree = Any  # nested dicts, tuples or None of arrays


def gradcache_value_and_grad(
    embed: Callable[..., jax.Array], loss: Callable[..., jax.Array], chunk_size: int
) -> Callable[..., tuple[jax.Array, tuple[Tree, Tree]]]:
    """`jax.value_and_grad` of `loss(embed(params, *inputs), head, *rest)` for params and head, chunk by chunk.

    Args:
        embed: (params, *inputs) -> embeddings `[rows, ...]`; each row depends on its own input alone.
        loss: (embeddings `[R, ...]`, head, *rest) -> scalar; it sees all rows in their order.
        chunk_size: the most rows differentiated at a time.

    Returns:
        A function (params, head, inputs, *rest) -> (loss, (gradient of params, gradient of head)). `inputs` is a tuple of
        trees of arrays with R rows each; `head` the loss's own parameters or None.

    Example:
        >>> gradient = gradcache_value_and_grad(lambda w, x_R1: w * x_R1, lambda e_R1, _: jnp.sum(e_R1) ** 2, 2)
        >>> loss, (d_w, _) = gradient(jnp.float32(2.0), None, (jnp.array([[1.0], [2.0], [3.0]]),))
        >>> float(loss), float(d_w)  # (6 w)^2 and 72 w
        (144.0, 144.0)
    """
    if chunk_size < 1:
        raise InputError(f"chunk_size is {chunk_size}. Expected at least 1 row.")

    def value_and_grad(params: Tree, head: Tree, inputs: Tree, *rest: Any) -> tuple[jax.Array, tuple[Tree, Tree]]:
        chunks = -(-_rows(inputs) // chunk_size)
        embeddings = embed_chunks(embed, params, inputs, chunks)
        value, (d_embeddings, d_head) = jax.value_and_grad(loss, argnums=(0, 1))(embeddings, head, *rest)
        return value, (pull_chunks(embed, params, inputs, d_embeddings, chunks), d_head)

    return value_and_grad


def embed_chunks(embed: Callable[..., jax.Array], params: Tree, inputs: Tree, chunks: int) -> jax.Array:
    """The embeddings of all rows, chunk after chunk (step 1)."""
    dealt = jax.tree.map(lambda x: _deal(x, chunks), inputs)
    embeddings = jax.lax.map(lambda chunk: embed(params, *chunk), dealt)
    # In their original order, without the padding of `_deal`.
    return embeddings.swapaxes(0, 1).reshape(-1, *embeddings.shape[2:])[: _rows(inputs)]


def pull_chunks(
    embed: Callable[..., jax.Array], params: Tree, inputs: Tree, d_embeddings: jax.Array, chunks: int
) -> Tree:
    """The gradient of the parameters from that of the embeddings, chunk after chunk (step 3)."""

    def add_chunk(d_params: Tree, chunk: Tree) -> tuple[Tree, None]:
        inputs_chunk, d_embeddings_chunk = chunk
        _, pull = jax.vjp(lambda params: embed(params, *inputs_chunk), params)
        return jax.tree.map(jnp.add, d_params, *pull(d_embeddings_chunk)), None

    # The rows with which `_deal` pads get gradient 0.
    missing = -len(d_embeddings) % chunks
    d_embeddings = jnp.pad(d_embeddings, [(0, missing), *[(0, 0)] * (d_embeddings.ndim - 1)])
    dealt = jax.tree.map(lambda x: _deal(x, chunks), (inputs, d_embeddings))
    d_params, _ = jax.lax.scan(add_chunk, jax.tree.map(jnp.zeros_like, params), dealt)
    return d_params


def _rows(inputs: Tree) -> int:
    return int(jax.tree.leaves(inputs)[0].shape[0])


def _deal(x_R: jax.Array, chunks: int) -> jax.Array:
    """`[R, ...]` -> `[chunks, rows of a chunk, ...]`, dealt like cards: chunk c gets rows c, c + chunks, ...

    So every chunk has rows of every device over which the batch is spread; with consecutive rows one device would work
    while the others wait. Copies of the last row pad R to a multiple.
    """
    missing = -x_R.shape[0] % chunks
    if missing:
        x_R = jnp.concatenate([x_R, jnp.repeat(x_R[-1:], missing, axis=0)])
    return x_R.reshape(-1, chunks, *x_R.shape[1:]).swapaxes(0, 1)
