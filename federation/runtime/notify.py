"""Words for the service manager, as ``sd_notify(3)`` defines them: one datagram each, and nothing without a manager."""

import contextlib
import os
import socket
from collections.abc import Mapping

__all__ = ["Notifier", "watchdog_interval_s"]


class Notifier:
    """Sends to the socket that ``NOTIFY_SOCKET`` names. Never waits and never fails: it works without a manager."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        address = (os.environ if environ is None else environ).get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of Linux's abstract names.
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def say(self, *words: str) -> None:
        """Send ``words`` (``READY=1``, ``STATUS=...``) as one message."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outlet:
            outlet.setblocking(False)
            outlet.sendto("\n".join(words).encode(), self._address)


def watchdog_interval_s(environ: Mapping[str, str] | None = None, *, pid: int | None = None) -> float | None:
    """How often the manager wants to hear from us, in seconds; None when it has no watchdog for this process."""
    variables = os.environ if environ is None else environ
    try:
        limit_us = int(variables.get("WATCHDOG_USEC", "0"))
        meant = int(variables.get("WATCHDOG_PID") or (os.getpid() if pid is None else pid))
    except ValueError:
        return None
    return limit_us / 1e6 if limit_us > 0 and meant == (os.getpid() if pid is None else pid) else None
