"""SIGTERM, Ctrl-C and a closed terminal as an event in the inbox: an orderly stop, and insisting ends it at once.

Python runs a handler on the main thread only, between two of its instructions. A signal that comes after the last of
them and before the driver waits for its inbox interrupts nothing: the handler would run with the next message, which
may be minutes away. So a thread of our own hears of signals, by the byte that Python's lowest handler writes.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Never, Self

from federation.runtime.standard_output import flush
from federation.runtime.transport import Inbox, InboxItem

__all__ = ["StopSignals", "leave_at_once"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""

_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """While entered, the first signal puts ``event`` into the inbox, and the second one ends the process.

    Attributes:
        received: The first signal, or None.
    """

    def __init__(self, inbox: Inbox, event: object) -> None:
        self._inbox, self._event = inbox, event
        self._before: dict[signal.Signals, object] = {}
        self._wakeup_before = -1
        self.received: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        """0 after an orderly end, also by SIGTERM and SIGHUP; `INTERRUPTED` after Ctrl-C."""
        return INTERRUPTED if self.received is signal.SIGINT else 0

    def __enter__(self) -> Self:
        self._bell, receiver = socket.socketpair()
        self._bell.setblocking(False)
        self._listener = threading.Thread(target=self._listen, args=(receiver,), name="signals", daemon=True)
        self._listener.start()
        self._wakeup_before = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        for number in _STOPPING:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: it shall outlive the terminal
            self._before[number] = signal.signal(number, _heard_elsewhere)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal.signal itself returned
        signal.set_wakeup_fd(self._wakeup_before)
        self._bell.close()
        self._listener.join()

    def _listen(self, receiver: socket.socket) -> None:
        with receiver:
            while numbers := receiver.recv(64):
                for number in numbers:
                    if number in _STOPPING:  # others with a handler ring as well
                        self._hear(signal.Signals(number))

    def _hear(self, number: signal.Signals) -> None:
        if self.received is not None:
            os._exit(INTERRUPTED)
        self.received = number
        # Not here: the inbox may be full, and the second signal must be heard.
        threading.Thread(target=self._inbox.put, args=(InboxItem(event=self._event),), daemon=True).start()


def _heard_elsewhere(_number: int, _frame: FrameType | None) -> None:
    """Takes the place of the handler that would end the process."""


def leave_at_once(exit_code: int, close: Callable[[], None]) -> Never:
    """Close, and leave without the interpreter's shutdown, which crashes under a thread inside of a native library."""
    close()
    flush()
    os._exit(exit_code)
