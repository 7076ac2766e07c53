"""SIGTERM, Ctrl-C and a closed terminal as an event in the inbox: an orderly stop, and insisting ends it at once.

A role that still starts has no loop yet: there a signal interrupts the main thread, as Ctrl-C does by itself.

Python runs a handler on the main thread only, between two of its instructions. A signal that comes after the last of
them and before the driver waits for its inbox interrupts nothing: the handler would run with the next message, which
may be minutes away. So a thread of our own hears of signals, by the byte that Python's lowest handler writes.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Never, Self

from federation.runtime.standard_output import flush
from federation.runtime.transport import Inbox, InboxItem

__all__ = ["StopSignals", "leave_at_once", "stopped_while_starting"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""

START_END_S = 5.0
"""So long a start that was interrupted may take to close what it has opened, in seconds."""

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


class _Terminated(KeyboardInterrupt):
    """SIGTERM has come: whoever lets Ctrl-C through, as all that runs a user's code does, lets this through."""


@contextmanager
def stopped_while_starting(within_s: float = START_END_S) -> Iterator[None]:
    """Inside, SIGTERM ends a role that still starts, or that closes, in order: what is open is closed, exit code 0.

    By itself it would end the process on the spot, and as the first process of a container not at all. While
    `StopSignals` is entered, that hears of signals. The second signal ends the process at once. A library that does
    not let Python's handlers run is left after a while, after Ctrl-C too.

    Args:
        within_s: How long the interrupted start may take to end, in seconds.

    Raises:
        SystemExit: SIGTERM has come.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are not ours to hear
        return
    ended = threading.Event()
    bell, receiver = socket.socketpair()
    bell.setblocking(False)
    listener = threading.Thread(target=_end_in_time, args=(receiver, ended, within_s), name="start", daemon=True)
    listener.start()
    wakeup_before = signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
    before = signal.signal(signal.SIGTERM, _interrupt(os.getpid()))
    try:
        yield
    except _Terminated:
        raise SystemExit(0) from None
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.set_wakeup_fd(wakeup_before)
        ended.set()
        bell.close()
        listener.join()


def _interrupt(process: int) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != process:  # a worker that a task has forked: it ends as it would without us
            os.kill(os.getpid(), number)
        raise _Terminated

    return handle


def _end_in_time(receiver: socket.socket, ended: threading.Event, within_s: float) -> None:
    with suppress(OSError), receiver:  # a task may have closed it below us
        while numbers := receiver.recv(64):
            heard = [number for number in numbers if number in (signal.SIGTERM, signal.SIGINT)]
            if heard and not ended.wait(within_s):
                os.write(2, b"stopped while it was starting, and what it was doing goes on: ended without it\n")
                os._exit(INTERRUPTED if heard[0] == signal.SIGINT else 0)


def leave_at_once(exit_code: int, close: Callable[[], None]) -> Never:
    """Close, and leave without the interpreter's shutdown, which crashes under a thread inside of a native library."""
    close()
    flush()
    os._exit(exit_code)
