"""Several hosts: how they find each other, agree, and notice that one is gone. The engine is `jax.distributed`.

Each host runs the same command and the same program, reads its own rows of each batch (`order.Batches`), and holds its own
devices; the loss is that of all of them together (sharding.py). What is written (metrics, models, curves) is written by
the first host; checkpoints by all of them through orbax. The run's folder must be one that all hosts see.

    minisbert train ... --coordinator 10.0.0.1:1234 --hosts 2 --host 0        on the first machine
    minisbert train ... --coordinator 10.0.0.1:1234 --hosts 2 --host 1        on the second
    minisbert train ... --cluster                                             on each worker of a TPU pod, or under SLURM

With one host, and without `join`, everything here is the identity.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np

from minisbert.errors import InputError, TrainingError
from minisbert.training.siamese import TrainBatch

# Seconds without a sign of life after which a host counts as dead, and in which the others have to leave.
HEARTBEAT = 20
LEAVE = 10
# The exit code of a host that could not leave properly.
MISTAKE = 2


def join(coordinator: str | None, hosts: int | None, host: int | None, *, seconds: int = 120) -> None:
    """Become one of several hosts. Before anything else is asked of JAX.

    Args:
        coordinator: address and port of the first host; None finds all three in the environment (TPU pods, SLURM, MPI).
        hosts: how many there are.
        host: which one this is, from 0.
        seconds: how long to wait for the others.

    Raises:
        InputError: the three do not fit together, or the others did not come.
    """
    if coordinator is not None:
        _check(coordinator, hosts, host)
    elif hosts is not None or host is not None:
        raise InputError(f"hosts is {hosts} and host is {host} without a coordinator. Expected all three, or none.")
    try:
        jax.distributed.initialize(
            coordinator,
            hosts,
            host,
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=LEAVE,
        )
    except (RuntimeError, ValueError) as error:  # JAX's own errors are RuntimeErrors
        who = f"host {host} of {hosts} at {coordinator}" if coordinator else "a host of a cluster found by JAX"
        raise InputError(
            f"could not join as {who} within {seconds} s: {str(error).splitlines()[0]}. Expected the same coordinator and "
            "number of hosts on each, each host's own number, and the first host reachable there."
        ) from None


def _check(coordinator: str, hosts: int | None, host: int | None) -> None:
    address, _, port = coordinator.rpartition(":")
    if not address or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"coordinator is {coordinator!r}. Expected address:port of the first host.")
    if hosts is None or host is None or hosts < 1 or not 0 <= host < hosts:
        raise InputError(f"hosts is {hosts}, host {host}. Expected how many there are, and which this is, from 0.")


def is_main_process() -> bool:
    """Whether this is the host that writes and reports."""
    return jax.process_index() == 0


def gather(leaf: jax.Array) -> np.ndarray:
    """An array as NumPy's, wherever its parts are; every host must call."""
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(leaf, tiled=True))


def sync_batch_shape(batch: TrainBatch, asked: Callable[[], bool], padding_id: int) -> tuple[TrainBatch, bool]:
    """What the hosts have to agree on before a step: the shape of its rows, and whether it is the last.

    Args:
        batch: this host's part.
        asked: whether this host was asked to stop.
        padding_id: what fills up rows.

    Returns:
        the batch with as many and as long rows as the host with most, so that all run one program; whether any host
        was asked to stop.
    """
    if jax.process_count() == 1:
        return batch, asked()
    from jax.experimental.multihost_utils import process_allgather

    rows, length, any_stop = np.max(
        process_allgather(np.array([*batch.rows.token_ids_PL.shape, asked()])), axis=0
    ).tolist()
    return batch.pad_to(rows, length, padding_id), bool(any_stop)


@contextmanager
def exit_on_peer_failure(place: str) -> Iterator[None]:
    """Leave in bounded time when this host or another one fails.

    When the first host is gone, JAX may end this process before the error here: commands/supervision.py speaks then.

    Raises:
        TrainingError: the connection to another host broke.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        # The proper way out waits for the hosts that are gone; this one does not, and its end is a sign to the others.
        timer = threading.Timer(LEAVE, os._exit, [MISTAKE])
        timer.daemon = True
        timer.start()
        if not _from_the_runtime(error):
            raise
        raise TrainingError(
            f"{place}: host {jax.process_index()} of {jax.process_count()} lost another one: "
            f"{str(error).splitlines()[0][:200]}. The last checkpoint stands; start the same command on every host again."
        ) from None


def _from_the_runtime(error: BaseException) -> bool:
    # What a collective raises is JAX's own error on most ways out, and on some a ValueError; both open with a status.
    if isinstance(error, jax.errors.JaxRuntimeError):
        return True
    return (
        isinstance(error, ValueError)
        and re.match(r"(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED): ", str(error)) is not None
    )
