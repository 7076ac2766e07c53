"""When the disk cannot be written to: nothing is acknowledged for a while, longer with each failure in a row."""

from coordinator.engine.effects import AcceptFailure
from coordinator.engine.events import StorageFailed
from coordinator.engine.state import MachineState
from coordinator.engine.update_receiver import BUSY_RETRY_S
from coordinator.strategies.selection import Rng

__all__ = ["StoragePause"]

STORAGE_RETRY_S = 1.0
"""First pause after a storage failure; doubled with each failure in a row."""

STORAGE_RETRY_MAX_S = 60.0
"""Longest pause after a storage failure, in seconds."""

FAILURES_MAX = 16


class StoragePause:
    """One machine's.

    Attributes:
        until: When saving is tried again, in monotonic seconds; None while nothing is wrong.
    """

    def __init__(self, state: MachineState, rng: Rng) -> None:
        self._state, self._rng = state, rng
        self._failures = 0
        self.until: float | None = None

    def begin(self, event: StorageFailed) -> None:
        """Pause, and say so."""
        state = self._state
        pause = min(STORAGE_RETRY_MAX_S, STORAGE_RETRY_S * 2.0 ** min(self._failures, FAILURES_MAX))
        self._failures += 1
        self.until = state.now + pause
        state.count("storage_failures")
        state.pause()
        state.emit(AcceptFailure())
        state.note("storage_failed", detail=event.detail, retry_s=pause)

    def ends(self) -> bool:
        """Whether the pause ends now; then saving may be tried again."""
        if self.until is None or self._state.now < self.until:
            return False
        self.until = None
        self._state.resume()
        self._state.note("storage_resumed")
        return True

    def saved(self) -> None:
        """Something is on the disk: the failures in a row are over."""
        self._failures = 0

    def retry_s(self) -> float:
        """What a node that must come later is told, in seconds: after the pause, and not all at once."""
        pause = max(0.0, (self.until or 0.0) - self._state.now)
        return pause + BUSY_RETRY_S * (1.0 + self._rng())
