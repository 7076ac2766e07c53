"""How far the training thread goes behind other threads, and from when on."""

import contextlib
import os
import sys
import threading
from typing import Final

__all__ = ["NICE_IDLE", "SHORT_S", "Priority"]

NICE_IDLE: Final = 19
"""From here on the thread runs only when nobody else wants the core."""

SHORT_S: Final = 0.25
"""A training that is over by then delays nobody, and who waits for it would wait for all others first; in seconds."""


class Priority:
    """The priority of one thread, which calls all methods. It is lowered once, as nobody may raise it again.

    Args:
        nice: Added to the thread's priority number (Linux).
        threads: Of one training: those that it starts keep the priority that it has then.
    """

    def __init__(self, nice: int = 0, *, threads: int = 1) -> None:
        self._nice = nice if sys.platform == "linux" else 0
        self._after_s = 0.0 if nice >= NICE_IDLE or threads > 1 else SHORT_S

    def passed(self, seconds: float) -> None:
        """What the thread works at has taken so long; 0 is before the first."""
        if not self._nice or seconds < self._after_s:
            return
        nice, self._nice = self._nice, 0
        # There each thread has its own, and threads that it starts begin with it.
        own = threading.get_native_id()
        with contextlib.suppress(OSError):  # a service's unit refuses both calls, and has a Nice of its own
            os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + nice)
            if nice >= NICE_IDLE:
                # Whoever wakes up takes the core at once, and need not wait for the end of a time slice.
                os.sched_setscheduler(own, os.SCHED_IDLE, os.sched_param(0))
