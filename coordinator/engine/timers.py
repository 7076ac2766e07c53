"""Keyed timers and rate limits, and the clock that stands still while the broker is away: O(log n) each."""

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)

COMPACT_FACTOR = 2
COMPACT_SLACK = 64
_ROUNDING_S = 1e-9

LATE_S = 1.0
"""A deadline that is missed by more tells that nothing was heard meanwhile, in seconds."""

MAIL_S = 2.0
"""So long whoever stood still reads what waits for it before what fell due happens, in seconds."""

EXCUSE_PAUSE_S = 10.0
"""Between two such pauses, in seconds."""


class Timers(Generic[KeyT]):
    """One due time per key; memory is proportional to the keys that are set, however often they are set again."""

    def __init__(self) -> None:
        self._due: dict[KeyT, float] = {}
        self._heap: list[tuple[float, int, KeyT]] = []
        self._sequence = 0

    def __contains__(self, key: KeyT) -> bool:
        return key in self._due

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[KeyT]:
        return iter(self._due)

    def set(self, key: KeyT, due: float) -> None:
        """Let ``key`` be due at ``due`` (seconds), whatever it was before."""
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, key))
        if len(self._heap) > COMPACT_FACTOR * len(self._due) + COMPACT_SLACK:
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def cancel(self, key: KeyT) -> None:
        """Forget ``key``; nothing happens where it is not set."""
        self._due.pop(key, None)

    def next(self) -> float | None:
        """The earliest due time, in seconds; None when nothing is set."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[KeyT]:
        """Take out every key that is due by ``now``, earliest first."""
        keys: list[KeyT] = []
        if not self._heap:
            return keys
        while (due := self.next()) is not None and due <= now:
            key = heapq.heappop(self._heap)[2]
            del self._due[key]
            keys.append(key)
        return keys


class RateLimit(Generic[KeyT]):
    """How much of something each key may have: a token bucket for each, as one number, since there may be 100,000.

    The number is when the bucket is full again (the generic cell rate algorithm, ITU-T I.371, annex A).

    Args:
        per_s: So many a second, in the long run; more than none.
        burst: So many at once.
    """

    keys_max = 100_000

    def __init__(self, *, per_s: float, burst: float) -> None:
        self._each_s, self._most_s = 1.0 / per_s, burst / per_s + _ROUNDING_S
        self._full_at: dict[KeyT, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def admits(self, key: KeyT, now: float, count: float = 1.0) -> bool:
        """Take ``count`` at ``now`` (monotonic seconds); False when the key has had too many."""
        full_at = max(now, self._full_at.get(key, now)) + count * self._each_s
        if key not in self._full_at and len(self._full_at) >= self.keys_max:
            self._full_at.clear()  # names were invented: whoever can do that is not held up by a bucket of one name
        if full_at - now > self._most_s:
            return False
        self._full_at[key] = full_at
        return True


class ConnectedClock:
    """Seconds spent connected to the broker: an outage of ten minutes must not cost every lease."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._before = 0.0
        self._excused_until = 0.0

    @property
    def running(self) -> bool:
        """Whether the broker is there."""
        return self._since is not None

    def start(self, now: float) -> None:
        """The connection came up at ``now`` (monotonic seconds)."""
        if self._since is None:
            self._since = now

    def stop(self, now: float) -> None:
        """The connection went away at ``now`` (monotonic seconds)."""
        if self._since is not None:
            self._before += now - self._since
            self._since = None

    def may_be_late(self, pause_s: float) -> bool:
        """Whether who was called so long ago can have missed a deadline by enough to be excused."""
        return pause_s > LATE_S

    def excuse(self, now: float, late_s: float) -> None:
        """The process stood still for ``late_s`` and heard nobody: that time does not count, nor a moment to read mail.

        Whoever is late again within `EXCUSE_PAUSE_S` is slow rather than stopped, and its time counts.
        """
        if self._since is not None and late_s > LATE_S and now >= self._excused_until:
            self._before -= late_s + MAIL_S
            self._excused_until = now + EXCUSE_PAUSE_S

    def read(self, now: float) -> float:
        """Connected seconds up to ``now``."""
        return self._before if self._since is None else self._before + (now - self._since)

    def when(self, connected_s: float | None) -> float | None:
        """Monotonic time at which this clock reads ``connected_s``; None while it stands still."""
        if connected_s is None or self._since is None:
            return None
        when, step = self._since + (connected_s - self._before), _ROUNDING_S
        while self.read(when) < connected_s:  # a timer that is due just before it fires would fire for ever
            when, step = when + step, 2.0 * step
        return when
