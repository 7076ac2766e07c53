"""MQTT topic filters: who is subscribed to a topic, found without looking at everybody."""

from collections.abc import Iterator
from dataclasses import dataclass, field

FOUND_MAX = 10_000
"""Topics whose subscribers are remembered at most."""


def is_wildcard(topic_filter: str) -> bool:
    """Whether the filter can match more than the one topic of its name."""
    return "+" in topic_filter or "#" in topic_filter


def matches(topic_filter: str, topic: str) -> bool:
    """MQTT 5, section 4.7: ``+`` is one level, ``#`` the rest, and neither begins a match of a ``$`` topic."""
    if topic.startswith("$") and topic_filter[:1] in {"+", "#"}:
        return False
    wanted, given = topic_filter.split("/"), topic.split("/")
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(given) or level not in {"+", given[position]}:
            return False
    return len(wanted) == len(given)


@dataclass(slots=True)
class _Level:
    below: dict[str, "_Level"] = field(default_factory=dict)
    here: dict[str, int] = field(default_factory=dict)


class SubscriptionTree:
    """Filters of all clients: exact ones in one dictionary, wildcards in a tree by level."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, int]] = {}
        self._root = _Level()
        self._wildcards = 0
        self._found: dict[str, tuple[tuple[str, int], ...]] = {}

    def add(self, topic_filter: str, client: str, qos: int) -> None:
        """Subscribe, or change the QoS of a subscription."""
        here = self._slot(topic_filter)
        if is_wildcard(topic_filter):
            self._wildcards += client not in here
            self._found.clear()
        here[client] = qos

    def remove(self, topic_filter: str, client: str) -> None:
        """Forget a subscription; unknown ones are forgotten already."""
        here = self._slot(topic_filter)
        if here.pop(client, None) is not None and is_wildcard(topic_filter):
            self._wildcards -= 1
            self._found.clear()
        if not here and not is_wildcard(topic_filter):
            del self._exact[topic_filter]

    def subscribers(self, topic: str) -> Iterator[tuple[str, int]]:
        """Client and QoS of each matching subscription; a client with overlapping ones comes more than once."""
        yield from self._exact.get(topic, {}).items()
        if self._wildcards:
            yield from self._by_wildcard(topic)

    def _by_wildcard(self, topic: str) -> tuple[tuple[str, int], ...]:
        """What the tree says, which is the same again and again while nobody subscribes to another wildcard."""
        found = self._found.get(topic)
        if found is None:
            if len(self._found) >= FOUND_MAX:
                self._found.clear()
            matching: list[tuple[str, int]] = []
            _descend(self._root, topic.split("/"), 0, matching)
            found = self._found[topic] = tuple(matching)
        return found

    def _slot(self, topic_filter: str) -> dict[str, int]:
        if not is_wildcard(topic_filter):
            return self._exact.setdefault(topic_filter, {})
        level = self._root
        for name in topic_filter.split("/"):
            level = level.below.setdefault(name, _Level())
        return level.here


def _descend(level: _Level, names: list[str], depth: int, found: list[tuple[str, int]]) -> None:
    hidden = depth == 0 and names[0].startswith("$")
    if not hidden and (rest := level.below.get("#")) is not None:
        found += rest.here.items()
    if depth == len(names):
        found += level.here.items()
        return
    for name in (names[depth],) if hidden else (names[depth], "+"):
        if (next_level := level.below.get(name)) is not None:
            _descend(next_level, names, depth + 1, found)
