"""How far the training thread goes behind other threads, and from when on."""

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Final

__all__ = ["NICE_IDLE", "SHORT_S", "Priority", "own_session"]

SESSION: Final = Path("/proc/self/autogroup")
"""How far this process's session goes behind others. Linux shares the processor among sessions first, and looks at the
priorities of threads only within one: sched(7), "The autogroup feature"."""

NICE_IDLE: Final = 19
"""From here on the thread runs only when nobody else wants the core."""

SHORT_S: Final = 0.25
"""A training that is over by then delays nobody, and who waits for it would wait for all others first; in seconds."""


class Priority:
    """The priority of one thread, which calls all methods. It is lowered once, as nobody may raise it again.

    Args:
        nice: Added to the thread's priority number (Linux).
        threads: Of one training: those that it starts keep the priority that it has then.
        session: The file that lowers the session; None where others are in it who did not ask for that.
    """

    def __init__(self, nice: int = 0, *, threads: int = 1, session: Path | None = None) -> None:
        self._nice = nice if sys.platform == "linux" else 0
        # Two steps in one: a thread is behind within its session, and whoever works without a pause takes ten parts
        # of eleven of a session at 10. What sleeps and wakes, as a score service does, is soon enough before one at 5.
        self._session, self._session_nice = session, self._nice // 2
        self._after_s = 0.0 if nice >= NICE_IDLE or threads > 1 else SHORT_S

    def passed(self, seconds: float) -> None:
        """What the thread works at has taken so long; 0 is before the first."""
        if seconds < self._after_s:
            return
        if self._nice:
            self._lower_thread()
        if self._session is not None and self._session_nice:
            self._lower_session(self._session)

    def _lower_thread(self) -> None:
        nice, self._nice = self._nice, 0
        # There each thread has its own, and threads that it starts begin with it.
        own = threading.get_native_id()
        with contextlib.suppress(OSError):  # a service's unit refuses both calls, and has a Nice of its own
            os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + nice)
            if nice >= NICE_IDLE:
                # Whoever wakes up takes the core at once, and need not wait for the end of a time slice.
                os.sched_setscheduler(own, os.SCHED_IDLE, os.sched_param(0))

    def _lower_session(self, session: Path) -> None:
        try:
            session.write_text(str(self._session_nice))
        except BlockingIOError:
            return  # the kernel takes ten of these a second from all who are not root: at the next call
        except OSError:
            pass  # a kernel without sessions' priorities
        self._session_nice = 0


def own_session() -> Path | None:
    """The file of this process's session, where it leads one, as a service does; in a terminal the shell leads it."""
    return SESSION if sys.platform == "linux" and os.getsid(0) == os.getpid() else None
