"""The same bits on any number of devices: the gradient block by block, in an order that does not depend on the devices.

Floating-point sums depend on their order, and a compiler's choices depend on the shapes it sees. So on other devices
training gives nearly the same numbers (1e-6 per step), but not the same bits. Here

    1  the packed rows are cut into a fixed number of blocks of one shape; each device gets whole blocks
    2  a block is embedded by a program for one device and one block, the same program wherever it runs
    3  the embeddings are copied to one device, which changes no bits; there the loss of all of them is computed
    4  each block is embedded again and its gradient pulled through: one gradient per block
    5  blocks are added in pairs, then these sums in pairs, and so on: the same tree of sums on any number of devices
    6  one device updates the parameters; the others get a copy

2 to 4 are GradCache (gradcache.py) with blocks for chunks: one more forward pass, about a third more time. Memory, in float32
copies of the parameters: the first device holds the state (3) and, while b blocks are added, log2(b) + 1 gradients; every
other device holds one copy and as many gradients. Programs have the same form for every kind of device, so on a TPU dropout's
masks are not those of other runs. Left out: parameters spread over devices (`fsdp`, `tensor`), LoRA, several hosts.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from minisbert.errors import InputError
from minisbert.training.gradcache import embed_chunks, pull_chunks
from minisbert.training.siamese import Embed, Gradient, LossFunction, Params, TrainBatch, Tree, rows_per_chunk, unpack
from minisbert.training.targets import Targets


def blockwise(
    embed: Embed,
    loss: LossFunction,
    devices: Sequence[jax.Device],
    *,
    chunk_size: int | None = None,
    blocks: int = 8,
) -> Gradient:
    """`jax.value_and_grad(siamese_loss(embed, loss))` with the same bits on any devices of one kind.

    The parameters come from the first device and the gradient is returned there. The programs are compiled here:
    `train_step` with this gradient runs outside `jax.jit`.

    Args:
        devices: where the blocks are computed; their number is a power of two that divides `blocks`.
        chunk_size: texts differentiated at a time; here within a block.
        blocks: a power of two that divides the number of packed rows. Another number gives other bits.
    """
    check_blocks(blocks, len(devices))
    own = blocks // len(devices)
    # The first block of each device, then the second of each, ...: all devices are busy.
    order = [(device * own + i, device) for i in range(own) for device in range(len(devices))]

    embed_block = jax.jit(partial(embed_chunks, embed), static_argnums=2)
    pull_block = jax.jit(partial(pull_chunks, embed), static_argnums=3)

    @jax.jit
    def loss_and_gradient(embeddings: Sequence[jax.Array], head: Tree, index_SB: jax.Array, targets: Targets) -> Any:
        def loss_of_blocks(embeddings: Sequence[jax.Array], head: Tree) -> jax.Array:
            return loss(unpack(jnp.concatenate(embeddings), index_SB), targets, head)

        return jax.value_and_grad(loss_of_blocks, argnums=(0, 1))(embeddings, head)

    add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b), donate_argnums=0)

    def gradient(params: Params, batch: TrainBatch, dropout_keys_PT: jax.Array | None) -> tuple[jax.Array, Params]:
        rows = len(batch.examples_PT)
        if rows % blocks:
            raise InputError(
                f"the batch has {rows} packed rows for {blocks} blocks. Expected a multiple: pack(multiple=...)."
            )
        size = rows // blocks
        chunks = 1 if chunk_size is None else -(-size // rows_per_chunk(batch, chunk_size))
        models = [jax.device_put(params["model"], device) for device in devices]
        inputs: dict[int, Any] = {}
        embeddings: dict[int, jax.Array] = {}
        for block, device in order:
            part = slice(block * size, (block + 1) * size)
            inputs[block] = jax.tree.map(lambda x, part=part: x[part], (batch.rows, dropout_keys_PT))
            inputs[block] = jax.device_put(inputs[block], devices[device])
            embeddings[block] = embed_block(models[device], inputs[block], chunks)
        gathered = jax.device_put([embeddings[block] for block in range(blocks)], devices[0])
        value, (d_embeddings, d_head) = loss_and_gradient(gathered, params["head"], batch.index_SB, batch.targets)

        sums: list[list[tuple[int, Tree]]] = [[] for _ in devices]
        for block, device in order:
            d_block = jax.device_put(d_embeddings[block], devices[device])
            add_term(sums[device], pull_block(models[device], inputs[block], d_block, chunks), add)
        total: list[tuple[int, Tree]] = []
        for [(_, device_sum)] in sums:
            add_term(total, jax.device_put(device_sum, devices[0]), add)
        [(_, d_model)] = total
        return value, {"model": d_model, "head": d_head}

    return gradient


def add_term(sums: list[tuple[int, Tree]], new: Tree, add: Callable[[Tree, Tree], Tree]) -> None:
    """One more term. As in binary counting, two sums of the same number of terms become one: ((a + b) + (c + d))."""
    terms = 1
    while sums and sums[-1][0] == terms:
        new, terms = add(sums.pop()[1], new), 2 * terms
    sums.append((terms, new))


def check_blocks(blocks: int, devices: int, layout: str = "replicated", *, lora: bool = False) -> None:
    """Refuse blocks that the devices cannot share or that cannot be added in pairs, and what `blockwise` leaves out."""
    if layout != "replicated":
        raise InputError(
            f"deterministic is True with layout {layout!r}. Expected 'replicated', or deterministic False."
        )
    if lora or jax.process_count() > 1:
        raise InputError(
            "deterministic is True with LoRA or on several hosts. Expected one host and all parameters, or deterministic "
            "False."
        )
    powers = [2**i for i in range(blocks.bit_length())] if isinstance(blocks, int) else []
    if blocks not in powers or blocks % devices or devices not in powers:
        raise InputError(
            f"deterministic is True with {blocks} blocks on {devices} devices. Expected a power of two as the number of "
            f"blocks, and a divisor of it as the number of devices: {', '.join(map(str, powers)) or '1, 2, 4 or 8'}."
        )
