"""The first lines of every program: until the rest of it is loaded, a signal ends it on the spot, without a traceback.

Nothing is imported here that Python has not loaded by itself: each module more is time in which nobody is prepared.
"""

import os
import sys
from typing import Any

__all__ = ["Loading", "loaded"]

INTERRUPTED = 130
TERMINATED = 143
"""Exit code after SIGTERM, as shells say it, of a program that does not know it as an orderly end."""


class Loading:
    """Around the imports of a program, when nothing is open yet: Ctrl-C ends it with exit code 130, and says nothing.

    An exception would not do: one that is raised while an import cleans up is printed and forgotten.
    The kernel lets no SIGTERM through to the first process of a container that has not asked for it: it is asked for,
    and until a role takes it as an orderly end, it is one without delay.
    """

    def __enter__(self) -> None:
        try:
            import signal  # noqa: PLC0415 - it takes others with it
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is signal.default_int_handler:  # what a shell has started in the background ignores it
            signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
        if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(TERMINATED))

    def __exit__(self, *_: object) -> None:
        import signal  # noqa: PLC0415 - it is there by now

        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._before)


def loaded(module: str) -> Any:
    """The module of a command; what it imports is what a program's start waits for."""
    with Loading():
        return __import__(module, fromlist=("main",))
