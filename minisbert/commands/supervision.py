"""A parent for a process that may be ended from below.

One of several hosts is ended by JAX's runtime itself, in C++ and with a stack trace, when the first host is gone. So the work
is done in a child, and the parent says what happened. They live and die together.
"""

import ctypes
import os
import signal
import sys

from minisbert.errors import TrainingError

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def join_in_child(run: str, coordinator: str | None, hosts: int | None, host: int | None) -> None:
    """Become one of several hosts: before jax is imported, and before anything asks it for its devices."""
    in_child(run)
    from minisbert.training.multihost import join

    join(coordinator, hosts, host)


def in_child(what: str) -> None:
    """Go on in a child process; the parent passes SIGTERM on, waits, and ends as the child did. Before jax is imported.

    Args:
        what: what is being done, for the error.

    Raises:
        TrainingError: in the parent, a signal ended the child.
    """
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child has it too
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise SystemExit(os.WEXITSTATUS(status))
    name = signal.Signals(os.WTERMSIG(status)).name
    raise TrainingError(
        f"{what}: ended by {name}. Most likely the first host or the connection to it is gone (lines above), or this machine "
        "ran out of memory. The last checkpoint is valid; start the same command on every host again."
    )
