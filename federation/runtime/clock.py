"""Monotonic time, the only time that decides anything; and how old something is that was said by the wall clock.

A device without a battery begins in 1970, and a wrong clock is set right while a process runs: then the difference of
two times of the wall clock is no duration. So a process counts on from the time of its start (`SteadyClock`), and
what it leaves in a file says how much time had passed since the machine's start (`stamp`), for whoever reads it.
"""

import contextlib
import math
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Protocol

__all__ = ["Clock", "MonotonicClock", "SteadyClock", "moved_s", "stamp"]

SLEWED_S = 2.0
"""A clock that is set by less was not moved, as far as people are told, in seconds."""


class Clock(Protocol):
    """A source of monotonic seconds."""

    def now(self) -> float:
        """Seconds since an arbitrary start; never goes back."""


class MonotonicClock:
    """The machine's own monotonic clock."""

    def now(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        return monotonic()  # bound at import: a task may put another function in its place


class SteadyClock:
    """Seconds since 1970 by the wall clock as it was when this was made; from there on it never jumps."""

    def __init__(self) -> None:
        self._wall, self._passed = time.time(), passed_s()

    def now(self) -> float:
        """Seconds since 1970, as the wall clock would say it if nobody had moved it."""
        return self._wall + passed_s() - self._passed

    def moved_s(self) -> float:
        """By how much the wall clock was moved meanwhile, in seconds: added to `now` it is what that says."""
        return _moved(time.time() - self.now())


def passed_s() -> float:
    """Seconds since the machine's start, those asleep with them, where the system counts them."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return monotonic()


def stamp() -> dict[str, object]:
    """What a file says beside times of the wall clock, for `moved_s`."""
    return {"wall": time.time(), "passed": passed_s(), "boot": _boot()}


def moved_s(said: object) -> float:
    """By how much the wall clock was moved since a `stamp`, in seconds, to be added to the times beside it.

    Args:
        said: The stamp, as JSON has it; one of another start of the machine, or none, says nothing: 0.
    """
    if not isinstance(said, Mapping) or not _boot() or said.get("boot") != _boot():
        return 0.0
    with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
        return _moved(time.time() - float(said["wall"]) - (passed_s() - float(said["passed"])))
    return 0.0


def _moved(seconds: float) -> float:
    return seconds if math.isfinite(seconds) and abs(seconds) >= SLEWED_S else 0.0


@cache
def _boot() -> str:
    """Which start of the machine this is; empty where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""
