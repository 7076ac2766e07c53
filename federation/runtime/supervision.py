"""What a role tells its service manager: ready once connected, alive while its threads are, stopping when it stops.

A container engine has no such socket: for it a file, which ``FEDMQ_HEALTH_FILE`` names, is touched instead.
"""

import contextlib
import os
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from federation.runtime.obstacles import ObstacleFile
from federation.runtime.transport import (
    Inbox,
    InboxItem,
    TransportBlocked,
    TransportConnected,
    TransportDisconnected,
)

__all__ = ["Notifier", "Supervision", "hold_back", "watchdog_interval_s"]

EventT = TypeVar("EventT")
BEATS_PER_INTERVAL = 3
"""A beat may come late twice before the manager restarts the service."""

AGAIN_S = (60.0, 120.0)
"""How long a service that cannot go on waits before it ends and is started anew: between these, in seconds."""

HEALTH_S = 10.0
"""How often the health file is touched, in seconds."""


@dataclass(frozen=True, slots=True)
class _Heartbeat:
    """Goes through the inbox, so that its acknowledgement proves that the driver's loop turns."""


class Supervision:
    """While entered, keeps the manager's watchdog fed for as long as all threads live.

    Args:
        inbox: The driver's.
        alive: Whether the network threads run.
        environ: With ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``FEDMQ_HEALTH_FILE``; None is the process's own.
        folder: The state folder, in which it says why there is no broker; None: nowhere.

    Attributes:
        obstacles: What is in the way; a role adds what it knows.
    """

    def __init__(
        self,
        inbox: Inbox,
        alive: Callable[[], bool],
        environ: Mapping[str, str] | None = None,
        *,
        folder: Path | None = None,
    ) -> None:
        variables = os.environ if environ is None else environ
        self._inbox, self._alive = inbox, alive
        self._notifier, self.obstacles = Notifier(variables), ObstacleFile(folder)
        health = variables.get("FEDMQ_HEALTH_FILE")
        self._health = Path(health) if health else None
        self._connected = False
        self._pause_s = _pause_s(watchdog_interval_s(variables), health=self._health is not None)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="watchdog", daemon=True)

    def watching(self, translate: Callable[[object], EventT | None]) -> Callable[[object], EventT | None]:
        """``translate`` for the driver, with an ear for connections and heartbeats."""

        def watched(event: object) -> EventT | None:
            self.see(event)
            match event:
                case _Heartbeat():
                    return None
                case TransportBlocked(connection=connection, reason=reason, remedy=remedy):
                    why = f"{reason}; {remedy}" if remedy else reason
                    self._notifier.say_waiting(why)
                    self.obstacles.met(connection, why)
                    return None
                case TransportConnected(connection=connection) if connection != "data":
                    self._notifier.say("READY=1", "STATUS=connected to the broker")
                    self._connected = True
                    self._touch()
                case TransportDisconnected(connection=connection, reason=reason) if connection != "data":
                    self._notifier.say_waiting(reason)
                    self._connected = False
            return translate(event)

        return watched

    def see(self, event: object) -> None:
        """Take notice of a connection that works again, whosever it is."""
        if isinstance(event, TransportConnected):
            self.obstacles.gone(event.connection)

    def __enter__(self) -> Self:
        self._notifier.say("STATUS=waiting for the broker")
        if self._pause_s is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopped.set()
        if kind is None:  # after an error it may hold back, and a manager that was told would not wait for it
            self._notifier.say("STOPPING=1")
        if self._thread.is_alive():
            self._thread.join()

    def _beat(self) -> None:
        while not self._stopped.wait(self._pause_s):
            if not self._alive():
                continue
            try:
                self._inbox.put_nowait(InboxItem(event=_Heartbeat(), acknowledge=self._fed))
            except queue.Full:
                continue  # the loop does not take what is there: it is not alive either

    def _fed(self) -> None:
        self._notifier.say("WATCHDOG=1")
        if self._connected:
            self._touch()

    def _touch(self) -> None:
        if self._health is not None:
            with contextlib.suppress(OSError):
                self._health.touch()


def _pause_s(watchdog_s: float | None, *, health: bool) -> float | None:
    """Between two beats, in seconds; None where nobody listens."""
    wanted = [HEALTH_S] if health else []
    if watchdog_s is not None:
        wanted.append(watchdog_s / BEATS_PER_INTERVAL)
    return min(wanted, default=None)


class Notifier:
    """Sends to the socket that ``NOTIFY_SOCKET`` names. Never waits and never fails: it works without a manager."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        address = (os.environ if environ is None else environ).get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of Linux's abstract names.
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @property
    def listened(self) -> bool:
        """Whether there is a manager."""
        return bool(self._address)

    def say_waiting(self, reason: str) -> None:
        """Say that there is no broker, and why."""
        self.say(f"STATUS=waiting for the broker: {reason[:200]}".replace("\n", " "))

    def say(self, *words: str) -> None:
        """Send ``words`` (``READY=1``, ``STATUS=...``) as one message."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outlet:
            outlet.setblocking(False)
            outlet.sendto("\n".join(words).encode(), self._address)


def hold_back(
    reason: str, environ: Mapping[str, str] | None = None, wait: Callable[[float], object] = time.sleep
) -> None:
    """Before an end for which the role is not to blame: a manager starts it again, and not every few seconds.

    Without a manager nothing is waited for: a person reads the reason.

    Args:
        reason: Why it ends.
        environ: None is the process's own.
        wait: For so many seconds.
    """
    notifier = Notifier(environ)
    if not notifier.listened:
        return
    left_s = random.SystemRandom().uniform(*AGAIN_S)
    notifier.say(f"STATUS=tries again in {left_s:.0f} s: {reason[:200]}".replace("\n", " "))
    step_s = (watchdog_interval_s(environ) or left_s) / BEATS_PER_INTERVAL
    while left_s > 0:
        notifier.say("WATCHDOG=1")
        wait(min(step_s, left_s))
        left_s -= step_s


def watchdog_interval_s(environ: Mapping[str, str] | None = None, *, pid: int | None = None) -> float | None:
    """How often the manager wants to hear from us, in seconds; None when it has no watchdog for this process."""
    variables = os.environ if environ is None else environ
    try:
        limit_us = int(variables.get("WATCHDOG_USEC", "0"))
        meant = int(variables.get("WATCHDOG_PID") or (os.getpid() if pid is None else pid))
    except ValueError:
        return None
    return limit_us / 1e6 if limit_us > 0 and meant == (os.getpid() if pid is None else pid) else None
