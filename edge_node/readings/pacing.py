"""When readings go to the disk: seldom, for the flash; and before a broker stops sending.

A broker sends only so many messages without an acknowledgement, and the acknowledgement waits for the disk. Mosquitto
takes the number that we name; others have one of their own, smaller. That shows: as many messages as before have come,
then none; and as soon as these are acknowledged, more come at once. Two such turns with one number, and half of what
was named is not waited for any more.
"""

__all__ = ["Pace"]

WITHHELD_S = 1.0
"""Messages that come so soon after an acknowledgement were there before it, in seconds."""

WITHHELD_MIN = 8
"""So many of them are no chance."""

FLUSH_MIN_S = 0.05
"""One wait for the disk serves at least what comes in this time, in seconds."""


class Pace:
    """When the next transaction is due; times are monotonic seconds.

    Args:
        flush_s: The longest wait for the disk.
        window: Messages that the broker may send without an acknowledgement.
    """

    def __init__(self, *, flush_s: float, window: int) -> None:
        self._flush_s = max(flush_s, FLUSH_MIN_S)
        self._limit = max(1, window // 2)
        self._first_at: float | None = None
        self._last_at = self._stored_at = -float("inf")
        self._messages = 0
        self._soon = 0
        self._before: int | None = None
        self._evidence = 0
        self._hurried = False

    @property
    def limit(self) -> int:
        """Messages that are stored at once."""
        return self._limit

    @property
    def due_at(self) -> float | None:
        """When the next transaction is due; None while nothing waits."""
        if self._first_at is None:
            return None
        return self._first_at if self._hurried or self._messages >= self._limit else self._first_at + self._flush_s

    def is_due(self, now: float) -> bool:
        """Whether it is due."""
        due = self.due_at
        return due is not None and now >= due

    def waits(self, now: float) -> None:
        """Something waits for the disk that nobody acknowledges."""
        self._first_at = now if self._first_at is None else self._first_at

    def message(self, now: float) -> None:
        """A message has come."""
        self.waits(now)
        self._messages += 1
        self._last_at = now
        if now - self._stored_at <= WITHHELD_S:
            self._soon += 1

    def hurry(self) -> None:
        """The broker is away: what is here may not come again."""
        self._hurried = True

    def stored(self, now: float) -> None:
        """All that waited is on the disk, and acknowledged."""
        self._learn(now)
        self._first_at, self._hurried = None, False
        self._messages = self._soon = 0
        self._stored_at = now

    def _learn(self, now: float) -> None:
        """See whether the broker has held back what follows as many messages as last time."""
        was, self._before = self._before, None
        if self._messages < self._limit and now - self._last_at > WITHHELD_S and self._messages >= WITHHELD_MIN:
            self._before = self._messages
        followed = self._soon >= max(WITHHELD_MIN, (was or 0) // 2)
        if was is None or was != self._messages or not followed:
            self._evidence = 0
            return
        self._evidence += 1
        if self._evidence >= 2:
            self._limit, self._evidence = was, 0
