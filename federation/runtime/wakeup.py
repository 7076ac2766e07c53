"""Wakes a thread that waits in a selector."""

import contextlib
import socket


class Wakeup:
    """One byte through a socket pair, however often it is rung before the waiter looks."""

    def __init__(self) -> None:
        self._send, self.receiver = socket.socketpair()
        self._send.setblocking(False)
        self.receiver.setblocking(False)
        self._rung = False

    def ring(self) -> None:
        """Wake the waiter; from any thread, also after `close`."""
        if not self._rung:
            # Set before the byte, cleared before the waiter looks at its queues: what was queued in between is seen.
            self._rung = True
            with contextlib.suppress(OSError):
                self._send.send(b"\0")

    def heard(self) -> None:
        """The waiter is awake and will look at its queues now."""
        with contextlib.suppress(BlockingIOError):
            self.receiver.recv(64)
        self._rung = False

    def close(self) -> None:
        """Give the sockets back."""
        self._send.close()
        self.receiver.close()
