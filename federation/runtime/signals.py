"""SIGTERM and Ctrl-C as an event in the inbox: the machine stops in order, and insisting ends the process at once."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Never, Self

from federation.runtime.transport import Inbox, InboxItem

__all__ = ["StopSignals", "leave_at_once"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""


class StopSignals:
    """While entered, the first signal puts ``event`` into the inbox, and the second one ends the process.

    Attributes:
        received: The first signal, or None.
    """

    def __init__(self, inbox: Inbox, event: object) -> None:
        self._inbox, self._event = inbox, event
        self._before: dict[signal.Signals, object] = {}
        self.received: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        """0 after an orderly end, also by SIGTERM; `INTERRUPTED` after Ctrl-C."""
        return INTERRUPTED if self.received is signal.SIGINT else 0

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal.signal itself returned

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(INTERRUPTED)
        self.received = signal.Signals(number)
        # Not from the handler itself: it may have interrupted this thread while it holds the inbox's lock.
        threading.Thread(target=self._inbox.put, args=(InboxItem(event=self._event),), daemon=True).start()


def leave_at_once(exit_code: int, close: Callable[[], None]) -> Never:
    """Close, and leave without the interpreter's shutdown, which crashes under a thread inside of a native library."""
    close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
