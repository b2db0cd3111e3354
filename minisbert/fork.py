"""A clear error instead of a hang where a process forks after JAX has started its threads.

A child made by fork has one thread and copies of the locks of all others; a call of JAX there waits for ever. Python's
`multiprocessing` forks by default on Linux before 3.14, as do gunicorn --preload and torch's DataLoader.
"""

import os

from minisbert.errors import MinisbertError

_started = False  # in this process
_forked = False  # this process is a child of one that had started


def note_use() -> None:
    """Call before each use of a device.

    Raises:
        MinisbertError: this process was forked from one that had used a device.
    """
    global _started
    if _forked:
        raise MinisbertError(
            "this process was forked from one that had already computed embeddings, where JAX would wait for ever. Expected a "
            "fresh process: use multiprocessing.get_context('spawn'), or load and use the model only in the child."
        )
    _started = True


def _after_fork() -> None:
    global _forked
    _forked = _forked or _started


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
