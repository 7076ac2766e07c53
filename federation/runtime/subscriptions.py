"""What we want to hear, and what a session that outlived its connection must forget."""

from collections.abc import Sequence
from itertools import takewhile


class Subscriptions:
    """Filters with their QoS; not thread-safe, it belongs to the network thread.

    Args:
        own: A topic of ours, of which we may hear anyway; empty is none.
    """

    def __init__(self, own: str = "") -> None:
        self._roots = {b"$", _root(own)} if own else {b"$"}
        self._wanted: dict[str, int] = {}
        self._forgotten: set[str] = set()
        self._asked: dict[int, Sequence[str]] = {}
        self._is_answered = False

    def asked(self, packet: int, filters: Sequence[str]) -> None:
        """A SUBSCRIBE with this packet id has these filters."""
        self._asked[packet] = filters

    def refused(self, packet: int, said: Sequence[str | None]) -> dict[str, str]:
        """What the SUBACK with this packet id refuses.

        Args:
            packet: The id.
            said: Why, for each filter in the order of the SUBSCRIBE; None where it is granted.
        """
        return {one: why for one, why in zip(self._asked.pop(packet, ()), said, strict=False) if why is not None}

    def connected(self) -> None:
        """Another connection: what was asked on the one before is not answered any more."""
        self._asked.clear()
        self._is_answered = False

    def answered(self) -> bool:
        """Whether all that was asked is answered for the first time in this connection; true once."""
        news = not self._asked and not self._is_answered
        self._is_answered = self._is_answered or news
        return news

    def add(self, topic_filter: str, qos: int) -> None:
        """From now on."""
        self._wanted[topic_filter] = qos
        self._roots.add(_root(topic_filter))
        self._forgotten.discard(topic_filter)

    def remove(self, topic_filter: str, *, connected: bool) -> bool:
        """Whether the broker must be told now; when we are offline it is remembered for the next connection."""
        known = self._wanted.pop(topic_filter, None) is not None
        if known and not connected:
            self._forgotten.add(topic_filter)
        return known and connected

    def wanted(self) -> list[tuple[str, int]]:
        """To send at each CONNACK, in the order in which they were added."""
        return list(self._wanted.items())

    def wants(self, topic_filter: str) -> bool:
        """Whether somebody has subscribed to this very filter."""
        return topic_filter in self._wanted

    def is_foreign(self, topic: bytes) -> bool:
        """Whether nothing that we have ever subscribed to begins like this: somebody else has, in our session."""
        return not topic.startswith(tuple(self._roots))

    def take_forgotten(self) -> list[str]:
        """To unsubscribe at this CONNACK when the session is still there; asked once."""
        forgotten = sorted(self._forgotten)
        self._forgotten.clear()
        return forgotten


def _root(topic: str) -> bytes:
    """How all topics begin that a filter can match: two levels at most, a federation's."""
    levels = topic.split("/")
    fixed = list(takewhile(lambda level: level not in {"+", "#"}, levels[:2]))
    return "/".join(fixed + [""] * (0 < len(fixed) < len(levels))).encode()
