"""The same bits on any number of devices: `train_step` block by block, in an order that no device decides.

Floating-point sums depend on their order, and a compiler's choices on the shapes it sees. So on other devices training
goes the same way (1e-6 a step), but not to the bit. Here

    1  the packed rows are cut into a fixed number of blocks of one shape; each device has whole blocks of them
    2  a block is embedded by a program for one device and one block, the same program wherever it runs
    3  the embeddings are brought to one device, which moves bits and changes none; there the loss of all is computed
    4  each block is embedded again and its gradient pulled through: one gradient a block
    5  blocks are added up two by two, then these sums two by two, ...: the tree is the same wherever it is cut
    6  one device updates the parameters; the others get a copy

2 to 4 are GradCache (gradcache.py) with blocks for chunks: one more forward pass, about a third more time. With each step
the parameters go to all devices, and a gradient comes back from each. Memory, in copies of the parameters in float32: the
first device holds the state (3) and, while b blocks are added up, log2(b) + 1 gradients; each other one copy and as many
gradients. Dropout follows from the examples (siamese.dropout_keys) in any case. For papers and for finding mistakes: programs
are compiled once a device, and the host starts each block by itself.

Left out: parameters that are spread over devices (`fsdp`, `tensor`), several hosts.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from minisbert.errors import InputError
from minisbert.training.gradcache import embed_chunks, pull_chunks
from minisbert.training.siamese import (
    StepMetrics,
    TrainBatch,
    TrainState,
    Tree,
    apply_gradient,
    dropout_keys,
    embed,
    unpack,
)
from minisbert.training.targets import Targets

# Enough for the devices of one host. Another number of blocks gives other bits.
BLOCKS = 8


def make_ordered_step(
    *,
    definition: nnx.GraphDef,
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    devices: Sequence[jax.Device],
    dropout: bool = True,
    chunk_size: int | None = None,
    remat: bool = False,
    blocks: int = BLOCKS,
) -> Callable[[TrainState, TrainBatch], tuple[TrainState, StepMetrics]]:
    """`siamese.make_train_step` with the same bits on any devices of one kind whose number divides the blocks.

    The state lives on the first device. Its memory is given to the new one, as there.

    Args:
        devices: where the blocks are computed; a power of two of them.
        chunk_size: texts differentiated at once; here within a block.
        blocks: how many, a power of two; they are part of what decides the bits. The packed rows are a multiple of it.

    Raises:
        InputError: blocks that the devices cannot share evenly.
    """
    check_ordered(blocks, len(devices))

    def embed_rows(params: Tree, rows: Tree, keys: jax.Array | None) -> jax.Array:
        return embed(definition, params, rows, keys, remat)

    def keys(key: jax.Array, step: jax.Array, part: TrainBatch) -> jax.Array | None:
        return dropout_keys(key, step, part) if dropout else None

    @jax.jit(static_argnums=4)
    def embed_block(params: Tree, key: jax.Array, step: jax.Array, part: TrainBatch, chunks: int) -> jax.Array:
        return embed_chunks(embed_rows, params, part.rows, keys(key, step, part), chunks)

    @jax.jit(static_argnums=5)
    def pull_block(
        params: Tree, key: jax.Array, step: jax.Array, part: TrainBatch, d_PTD: jax.Array, chunks: int
    ) -> Tree:
        return pull_chunks(embed_rows, params, part.rows, keys(key, step, part), d_PTD, chunks)

    @jax.jit
    def loss_and_slopes(every: Sequence[jax.Array], head: Tree, index_SB: jax.Array, targets: Targets):
        def loss_of_all(every: Sequence[jax.Array], head: Tree) -> jax.Array:
            return loss(unpack(jnp.concatenate(every), index_SB), targets, head)

        return jax.value_and_grad(loss_of_all, argnums=(0, 1))(every, head)

    add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b), donate_argnums=0)
    update = jax.jit(partial(apply_gradient, optimizer=optimizer), donate_argnums=0)

    def step(state: TrainState, batch: TrainBatch) -> tuple[TrainState, StepMetrics]:
        state = jax.device_put(state, devices[0])
        given = [jax.device_put((state.params["model"], state.key, state.step), device) for device in devices]
        parts, chunks = _cut(batch, blocks), _chunks(batch, blocks, chunk_size)
        own = blocks // len(devices)
        # The devices' blocks in turns, so that all are busy: first each one's first, then each one's second, ...
        turns = [(device, device * own + i) for i in range(own) for device in range(len(devices))]

        every: list[Any] = [None] * blocks
        for device, block in turns:
            parts[block] = jax.device_put(parts[block], devices[device])
            every[block] = embed_block(*given[device], parts[block], chunks)
        every = jax.device_put(every, devices[0])
        value, (d_every, d_head) = loss_and_slopes(every, state.params["head"], batch.index_SB, batch.targets)

        sums: list[list[tuple[int, Tree]]] = [[] for _ in devices]
        for device, block in turns:
            d_PTD = jax.device_put(d_every[block], devices[device])
            _push(sums[device], pull_block(*given[device], parts[block], d_PTD, chunks), add)
        total: list[tuple[int, Tree]] = []
        for [(_, of_device)] in sums:
            _push(total, jax.device_put(of_device, devices[0]), add)
        [(_, d_model)] = total
        return update(state, value, {"model": d_model, "head": d_head})

    return step


def check_ordered(blocks: int, devices: int, layout: str = "replicated") -> None:
    """Refuse blocks that the devices cannot share or that cannot be added up two by two, and spread parameters."""
    if layout != "replicated":
        raise InputError(f"reduction is 'ordered' with layout {layout!r}. Expected 'replicated', or reduction 'plain'.")
    if jax.process_count() > 1:
        raise InputError(
            "reduction is 'ordered' on several hosts. Expected the devices of one host, or reduction 'plain'."
        )
    powers = [2**i for i in range(blocks.bit_length())] if isinstance(blocks, int) else []
    if blocks not in powers or blocks % devices or devices not in powers:
        raise InputError(
            f"reduction is 'ordered' with {blocks} blocks on {devices} devices. Expected a power of two of blocks, and of "
            f"devices one that divides it: train on {', '.join(str(power) for power in powers) or '1, 2, 4 or 8'}."
        )


def _cut(batch: TrainBatch, blocks: int) -> list[Any]:
    """The packed rows of each block, without the rest."""
    rows = len(batch.examples_PT)
    if rows % blocks:
        raise InputError(
            f"the batch has {rows} packed rows for {blocks} blocks. Expected a multiple: pack(multiple=...)."
        )
    size = rows // blocks
    alone = batch._replace(index_SB=None, targets=Targets())  # type: ignore[arg-type]
    return [jax.tree.map(lambda x, i=i: x[i * size : (i + 1) * size], alone) for i in range(blocks)]


def _chunks(batch: TrainBatch, blocks: int, chunk_size: int | None) -> int:
    """In how many chunks a block is differentiated."""
    rows = len(batch.examples_PT)
    rows_a_chunk = rows if chunk_size is None else max(1, rows * chunk_size // batch.index_SB.size)
    return max(1, -(-rows // blocks // rows_a_chunk))


def _push(sums: list[tuple[int, Tree]], new: Tree, add: Callable[[Tree, Tree], Tree]) -> None:
    """One more term. As in counting with binary digits, two sums of the same number of terms become one."""
    terms = 1
    while sums and sums[-1][0] == terms:
        new, terms = add(sums.pop()[1], new), 2 * terms
    sums.append((terms, new))
