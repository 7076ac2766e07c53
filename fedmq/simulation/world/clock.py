"""Virtual time: a heap of (time, sequence, action); nothing waits, and ties are settled by order of planning."""

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from federation.runtime.log import configure_log

__all__ = ["SkewedClock", "World", "quiet_log"]

Action = Callable[[], None]


class World:
    """Runs actions in the order of their times."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._heap: list[tuple[float, int, Action]] = []
        self._sequence = 0

    def at(self, time: float, action: Action) -> None:
        """Plan an action at a virtual time, in seconds; what is past happens now."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(time, self.now), self._sequence, action))

    def after(self, delay_s: float, action: Action) -> None:
        """Plan an action after a time."""
        self.at(self.now + delay_s, action)

    def run(self, done: Callable[[], bool], *, limit_s: float) -> bool:
        """Run until ``done`` or until the virtual time ``limit_s``; returns whether it was done."""
        heap = self._heap
        while not done():
            if not heap or heap[0][0] > limit_s:
                return False
            time, _, action = heapq.heappop(heap)
            self.now = time
            self.steps += 1
            action()
        return True


class SkewedClock:
    """A participant's own monotonic clock: it runs like the world's, from another start."""

    def __init__(self, world: World, offset_s: float) -> None:
        self._world, self._offset = world, offset_s

    def now(self) -> float:
        """Seconds since this participant's start of time."""
        return self._world.now + self._offset

    def world_time(self, moment: float) -> float:
        """The first world time at which this clock reads at least ``moment``."""
        time, step = moment - self._offset, 1e-9
        while time + self._offset < moment:  # rounding: a timer just before its time would fire for ever
            time, step = time + step, 2.0 * step
        return time


@contextmanager
def quiet_log() -> Iterator[None]:
    """The roles log nothing meanwhile: their lines would be from another time."""
    before = structlog.get_config()
    configure_log(json=True, level="critical")
    try:
        yield
    finally:
        structlog.configure(**before)
