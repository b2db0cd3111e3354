"""Exact search by JAX: chunks of the corpus go to the devices in turn, blocks of queries in parallel threads.

Several devices share the work (vectors.py); each keeps its own best k (top_k.py), which are merged at the end.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np

from minisbert.search.numpy_top_k import invalid_rows
from minisbert.search.top_k import Best, prepare, update_top_k, update_top_k_on_cpu
from minisbert.search.vectors import Vectors, device_chunks, device_shares

# Queries and corpus rows per product: on a CPU 8 MB of scores stay in the L3 cache. Accelerators need more.
QUERIES, ROWS, ACCELERATOR_ROWS = 512, 4096, 65_536
THREADS = 4  # blocks of queries in work at the same time
CHUNK_BYTES = 256_000_000


def search_on_devices(
    queries_BD: np.ndarray,
    corpus: Vectors,
    k: int,
    similarity: str,
    recall: float | None,
    chunk_rows: int | None,
    bar: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best scores of each query and their rows, best first; arguments and errors as for `exact.nearest`.

    Raises:
        InputError: a row contains NaN or infinity, or its squared length overflows float32.
    """
    shares = device_shares(corpus)
    size = _chunk_rows(chunk_rows, max(share.most_rows for share in shares), corpus.shape[1])
    B, vectors = len(queries_BD), shares[0].vectors
    rows = _block_rows(B)
    blocks = np.split(np.pad(queries_BD, ((0, -B % rows), (0, 0))), -(-B // rows))
    nothing: Future[Best] = Future()
    nothing.set_result((np.full((rows, k), -np.inf, np.float32), np.zeros((rows, k), np.int32)))
    update = partial(_update, k=k, recall=recall, default=jax.config.jax_default_device)  # type: ignore[attr-defined]
    queries: dict[Any, list[jax.Array]] = {}  # device -> blocks of queries
    best: dict[Any, list[Future[Best]]] = {}  # device -> the best hits so far, per block of queries
    sent: deque[tuple[int, Any, list[Future[Best]]]] = deque()
    with ThreadPoolExecutor(THREADS) as threads:
        for device, first, part, count in device_chunks(shares, size):
            if device not in queries:
                queries[device] = [jax.device_put(block, device) for block in blocks]
                best[device] = [nothing] * len(blocks)
            chunk_MD, invalid = prepare(
                jax.device_put(part, device), vectors.ranges_2D, precision=vectors.precision, similarity=similarity
            )
            chunk = chunk_MD, first, None if count == len(part) else count
            best[device] = [
                threads.submit(update, before, block, *chunk)
                for before, block in zip(best[device], queries[device], strict=True)
            ]
            sent.append((first, invalid, best[device]))
            if len(sent) > len(queries):  # at most two chunks are in a device's memory
                _wait(*sent.popleft())
            bar.update(count)
        while sent:
            _wait(*sent.popleft())
    found = [[future.result() for future in futures] for futures in best.values()]
    scores_BK, rows_BK = (
        np.concatenate([np.concatenate([np.asarray(block[i]) for block in one])[:B] for one in found], axis=1)
        for i in (0, 1)
    )
    if len(found) > 1:
        order_BK = np.lexsort((rows_BK, -scores_BK), axis=1)[:, :k]
        scores_BK, rows_BK = (np.take_along_axis(x, order_BK, axis=1) for x in (scores_BK, rows_BK))
    return scores_BK, rows_BK.astype(np.int64)


def _chunk_rows(chunk_rows: int | None, M: int, D: int) -> int:
    if chunk_rows is not None:
        return min(chunk_rows, M)
    size = ROWS if jax.default_backend() == "cpu" else ACCELERATOR_ROWS
    while size > 256 and (size >= 2 * M or size * D * 4 > CHUNK_BYTES):  # powers of two: few shapes to compile
        size //= 2
    return size


def _block_rows(B: int) -> int:
    if B <= QUERIES:
        return next(n for n in (1, 8, 64, QUERIES) if n >= B)  # few shapes to compile
    blocks = -(-B // QUERIES)
    return -(-B // blocks // 8) * 8  # blocks of equal size, a multiple of 8


def _update(
    before: Future[Best],
    queries_BD: jax.Array,
    chunk_MD: jax.Array,
    first: int,
    count: int | None,
    *,
    k: int,
    recall: float | None,
    default: Any,
) -> Best:
    # In its own thread, so that NumPy ranks one block of queries while the device compares another. Threads start tasks in
    # the order of submission, so the future waited for here is running or done.
    best = before.result()
    with jax.default_device(default):  # a thread does not inherit the caller's setting
        if recall is None and next(iter(chunk_MD.devices())).platform == "cpu":
            return update_top_k_on_cpu(best, queries_BD, chunk_MD, first, count, k=k)
        return update_top_k(best, queries_BD, chunk_MD, first, count, k=k, recall=recall)


def _wait(first: int, invalid: Any, best: list[Future[Best]]) -> None:
    jax.block_until_ready([block.result() for block in best])
    if (row := int(invalid)) >= 0:
        raise invalid_rows(first + row, "encode the text again")
