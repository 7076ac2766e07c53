"""One node's share of the coordinator's attention: what comes faster is dropped before it is read (a token bucket).

Chunks are not counted: they are granted, and one that was not is dropped for less than counting it would cost.
"""

import time
from collections.abc import Callable

from federation.types import NodeId

__all__ = ["RateLimit"]

MESSAGES_PER_S = 500.0
"""Births, offers, declines and telemetry of one node; a node with nothing to train sends a tenth of it."""

BURST_MESSAGES = 1_000.0
"""What may come at once, such as everything that waited while the coordinator was away."""

NODES_MAX = 100_000


class RateLimit:
    """Who sends too much.

    Args:
        now: Monotonic seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._left: dict[NodeId, tuple[float, float]] = {}

    def admits(self, node: NodeId) -> bool:
        """Take one message of a node; False when it has sent too many."""
        now = self._now()
        left, since = self._left.get(node, (BURST_MESSAGES, now))
        left = min(BURST_MESSAGES, left + (now - since) * MESSAGES_PER_S)
        if node not in self._left and len(self._left) >= NODES_MAX:
            self._left.clear()  # names were invented: whoever can do that is not held up by a bucket of one name
        self._left[node] = (max(0.0, left - 1.0), now)
        return left >= 1.0
