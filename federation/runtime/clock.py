"""Monotonic time, the only time that decides anything."""

from time import monotonic
from typing import Protocol


class Clock(Protocol):
    """A source of monotonic seconds."""

    def now(self) -> float:
        """Seconds since an arbitrary start; never goes back."""


class MonotonicClock:
    """The machine's own monotonic clock."""

    def now(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        return monotonic()  # bound at import: a task may put another function in its place
