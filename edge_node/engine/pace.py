"""When a node that owes nothing leaves the broker, and when it comes back: the coordinator says how often it is wanted.

A connection that stands costs more than the work of the day, so a coordinator may let its nodes check in. A node leaves
once nothing has been at hand for a while, never before its update has its verdict, and returns at a random time around
the one that was asked for, so that a fleet that left together does not come back together.
"""

from collections.abc import Callable

__all__ = ["PACE_S_MAX", "Pace"]

PACE_S_MAX = 7 * 86_400.0
"""A longer pace is not obeyed, in seconds: whoever says it would be rid of the fleet for as long."""

SHARE_LEAST, SHARE_MOST = 0.5, 1.5
"""A node is away for a random share of the pace between these: the pace in the mean."""


class Pace:
    """One node's presence by the coordinator's pace.

    Args:
        rng: Uniform numbers in [0, 1).
        linger_s: The node leaves when so long nothing was at hand, in seconds: what it is asked comes meanwhile.

    Attributes:
        away: Whether the node has left, and is not back yet.
    """

    def __init__(self, rng: Callable[[], float], linger_s: float) -> None:
        self._rng, self._linger_s = rng, linger_s
        self._pace_s: float | None = None
        self._idle_since: float | None = None
        self.away = False

    def hear(self, pace_s: float | None) -> None:
        """What the coordinator says now; None or 0: nodes stay connected."""
        self._pace_s = min(pace_s, PACE_S_MAX) if pace_s else None

    def connected(self) -> None:
        """The broker is there."""
        self.away, self._idle_since = False, None

    def deadline(self) -> float | None:
        """When `due` may say to leave, in monotonic seconds."""
        if self.away or self._pace_s is None or self._idle_since is None:
            return None
        return self._idle_since + self._linger_s

    def due(self, now: float, *, idle: bool, connected: bool) -> float | None:
        """How long to be away from now on, in seconds; 0: there is work, so come back; None: go on.

        Args:
            now: Monotonic seconds.
            idle: Whether nothing is at hand, owed or waited for.
            connected: Whether the broker is there.
        """
        if self.away:
            self.away = idle
            return None if idle else 0.0
        if not (idle and connected and self._pace_s is not None):
            self._idle_since = None
            return None
        if self._idle_since is None:
            self._idle_since = now
        if now < self._idle_since + self._linger_s:
            return None
        self.away = True
        return self._pace_s * (SHARE_LEAST + (SHARE_MOST - SHARE_LEAST) * self._rng())
