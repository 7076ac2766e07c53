"""The machine beside what it tells people: two files of the state folder, written between two messages."""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol

from coordinator.monitoring.status_file import StatusFile
from federation.runtime.driver import EffectT, EventT, Machine

__all__ = ["Watch", "WatchedMachine"]


class Watch(Protocol):
    """Tells who comes and goes; `PresenceFile` is one."""

    def see(self, event: object) -> None:
        """Take notice of an event."""

    def look(self, now: float, version: Callable[[], int]) -> None:
        """Tell what has changed, where the last time is long enough ago."""

    def due(self) -> float | None:
        """When to look again, in monotonic seconds."""

    def write(self, version: Callable[[], int]) -> None:
        """Tell at once."""


class WatchedMachine(Generic[EventT, EffectT]):
    """The machine for the driver, with a wake-up for what is to be told although nothing happens any more.

    Args:
        machine: Decides.
        settle: What the driver does before it acknowledges.
        now: Monotonic seconds.
        status: Tells where the machine stands.
        presence: Tells who comes and goes; None: nobody does.
    """

    def __init__(
        self,
        machine: Machine[EventT, EffectT],
        settle: Callable[[], None],
        now: Callable[[], float],
        status: StatusFile,
        presence: Watch | None = None,
    ) -> None:
        self._machine, self._settle, self._now = machine, settle, now
        self._status, self._presence = status, presence

    def handle(self, event: EventT | None, now: float) -> Sequence[EffectT]:
        """Let the machine handle it; without an event it does only what is due."""
        if event is not None and self._presence is not None:
            self._presence.see(event)
        return self._machine.handle(event, now)

    def deadline(self) -> float | None:
        """When the machine or a file wants to be called, in monotonic seconds."""
        dues = (
            self._machine.deadline(),
            self._status.due(),
            None if self._presence is None else self._presence.due(),
        )
        return min((due for due in dues if due is not None), default=None)

    def settle(self) -> None:
        """Settle, then tell.

        Raises:
            StorageError: The disk has failed.
        """
        self._settle()
        now = self._now()
        self._status.look(now)
        if self._presence is not None:
            self._presence.look(now, self._status.version)

    def close(self) -> None:
        """Tell everything a last time."""
        self._status.write(again=True)
        if self._presence is not None:
            self._presence.write(self._status.version)
