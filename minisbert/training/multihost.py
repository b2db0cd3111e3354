"""Training on several hosts with `jax.distributed`: how they find each other, agree, and notice that one is gone.

Each host runs the same program, reads its own rows of each batch (data/sampler.py) and holds its own devices; the loss is that
of the global batch (sharding.py). The first host writes metrics, models and curves; all hosts write checkpoints together
through orbax. All hosts must see the run's folder. On one host the trainer calls nothing here.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np

from minisbert.errors import InputError, TrainingError
from minisbert.training.siamese import TrainBatch

# Seconds without a heartbeat after which a host counts as dead, and seconds in which the others then have to exit.
HEARTBEAT = 20
LEAVE = 10
# The exit code of a host that could not shut down properly.
MISTAKE = 2


def join(coordinator: str | None, hosts: int | None, host: int | None, *, seconds: int = 120) -> None:
    """Become one of several hosts. Call it before any other use of JAX.

    Args:
        coordinator: address and port of the first host; None takes all three from the environment (TPU pods, SLURM, MPI).
        host: the number of this one, from 0.
        seconds: how long to wait for the others.

    Raises:
        InputError: the three contradict each other, or the others did not connect.
    """
    if coordinator is not None:
        address, _, port = coordinator.rpartition(":")
        if not address or not port.isdigit() or not 0 < int(port) < 65536:
            raise InputError(f"coordinator is {coordinator!r}. Expected address:port of the first host.")
        if hosts is None or host is None or hosts < 1 or not 0 <= host < hosts:
            raise InputError(f"hosts is {hosts}, host {host}. Expected how many there are, and which this is, from 0.")
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


def sync_batch_shape(batch: TrainBatch, asked: int, padding_id: int) -> tuple[TrainBatch, int]:
    """This host's batch, padded to the largest of all hosts, so that all run one program; and the most that one was asked."""
    from jax.experimental.multihost_utils import process_allgather

    mine = np.array([*batch.rows.token_ids_PL.shape, asked])
    rows, length, asked = np.max(process_allgather(mine), axis=0).tolist()
    return batch.pad_to(rows, length, padding_id), asked


@contextmanager
def exit_on_peer_failure(place: str) -> Iterator[None]:
    """Exit in bounded time when this host or another one fails.

    When the first host is gone, JAX may end this process before the error here; commands/supervision.py reports that.

    Raises:
        TrainingError: the connection to another host broke.
    """
    try:
        yield
    except BaseException as error:
        # A proper shutdown waits for the hosts that are gone. This one does not, and its end tells the others.
        timer = threading.Timer(LEAVE, os._exit, [MISTAKE])
        timer.daemon = True
        timer.start()
        # A failed collective raises JAX's own error, or a ValueError that starts with the same status.
        status = re.match(r"(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED): ", str(error))
        if not isinstance(error, jax.errors.JaxRuntimeError) and not (isinstance(error, ValueError) and status):
            raise
        raise TrainingError(
            f"{place}: host {jax.process_index()} of {jax.process_count()} lost another one: "
            f"{str(error).splitlines()[0][:200]}. The last checkpoint is valid; start the same command on every host again."
        ) from None
