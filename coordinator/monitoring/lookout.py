"""Keeps the files beside the store up to date: for ``coordinator why`` and ``coordinator status``."""

from collections.abc import Callable, Sequence
from typing import Protocol

from coordinator.engine.effects import Effect
from coordinator.engine.events import Event
from federation.runtime.driver import Machine

__all__ = ["WatchedMachine", "Watcher"]


class Watcher(Protocol):
    """Tells somebody outside of this process something about it, not more often than it needs to."""

    def look(self, now: float) -> None:
        """Tell what has changed, or remember to; ``now`` is in monotonic seconds."""

    def due(self) -> float | None:
        """When it wants to look again because something was not told yet, in monotonic seconds; None is never."""

    def write(self) -> None:
        """Tell everything at once."""


class WatchedMachine:
    """The machine for the driver, with a wake-up for what is to be told although nothing happens any more.

    Args:
        machine: Decides.
        settle: What the driver does before it acknowledges.
        now: Monotonic seconds.
        watchers: Look after each of these.
    """

    def __init__(
        self,
        machine: Machine[Event, Effect],
        settle: Callable[[], None],
        now: Callable[[], float],
        watchers: Sequence[Watcher],
    ) -> None:
        self._machine, self._settle, self._now, self._watchers = machine, settle, now, watchers

    def handle(self, event: Event | None, now: float) -> Sequence[Effect]:
        """Let the machine handle it; without an event it does only what is due."""
        return self._machine.handle(event, now)

    def deadline(self) -> float | None:
        """When the machine or a watcher wants to be called, in monotonic seconds."""
        dues = (self._machine.deadline(), *(watcher.due() for watcher in self._watchers))
        return min((due for due in dues if due is not None), default=None)

    def settle(self) -> None:
        """Settle, then look.

        Raises:
            StorageError: The disk has failed.
        """
        self._settle()
        for watcher in self._watchers:
            watcher.look(self._now())

    def close(self) -> None:
        """Tell everything a last time."""
        for watcher in self._watchers:
            watcher.write()
