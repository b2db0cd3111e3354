"""SIGTERM, by which a machine that is taken away says so: noticed, and acted upon after the step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM (a preempted machine) sets; the loop looks at it after each step."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    former = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, former)
