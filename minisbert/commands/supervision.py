"""Train in a child process, so that its parent can explain how it ended.

When the first of several hosts is gone, JAX's runtime ends the others itself, in C++ and with a stack trace. The parent then
prints a proper error. Parent and child end together.
"""

import ctypes
import os
import signal
import sys

from minisbert.errors import TrainingError

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def in_child(what: str) -> None:
    """Return in a child process only. The parent forwards SIGTERM, waits, and exits with the child's code.

    Raises TrainingError in the parent, with the name `what` of the work, if a signal ended the child.
    """
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            if os.getppid() != parent:  # the parent ended before the line above
                os._exit(1)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child gets it too
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise SystemExit(os.WEXITSTATUS(status))
    name = signal.Signals(os.WTERMSIG(status)).name
    raise TrainingError(
        f"{what}: ended by {name}. Expected it to finish: most likely the first host or the connection to it is gone (see "
        "above), or this machine ran out of memory. Start the same command on every host again to resume from the last "
        "checkpoint."
    )
