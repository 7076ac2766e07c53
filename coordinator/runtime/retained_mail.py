"""Takes away what is retained where nothing may be, and looks again for what the broker has dropped of it."""

import threading
import time
from collections.abc import Callable

from coordinator.engine.timers import RateLimit

__all__ = ["RetainedMail"]

CLEARED_PER_S = 1_000.0
"""Retained messages that are taken away each second, where they may not be; the rest is looked for again."""

LOOK_AGAIN_S = 2.0


class RetainedMail:
    """Takes away what is retained where nothing may be.

    Args:
        publish: Publishes an empty retained message on a topic.
        look_again: Asks the broker for all that is retained there; called on a thread of its own.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        publish: Callable[[str], None],
        look_again: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publish, self._look_again, self._now = publish, look_again, now
        # What waits for the broker in our queue must leave room for announcements.
        self._limit = RateLimit[str](per_s=CLEARED_PER_S, burst=CLEARED_PER_S)
        self._dropped, self._seen = 0, False
        self._timer: threading.Timer | None = None

    def clear(self, topic: str) -> None:
        """Take one away, now or with the next look."""
        self._seen = True
        if self._limit.admits("", self._now()):
            self._publish(topic)
        else:
            self._look_later()

    def dropped(self, total: int) -> None:
        """The broker has dropped ``total`` messages so far: some of them may stay there without having come here."""
        if self._seen and total > self._dropped:
            self._seen = False
            self._look_later()
        self._dropped = total

    def _look_later(self) -> None:
        if self._timer is None or not self._timer.is_alive():
            self._timer = threading.Timer(LOOK_AGAIN_S, self._look_again)
            self._timer.daemon = True
            self._timer.start()
