"""A broker in memory between one coordinator and its nodes, and a clock that nobody waits for."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from federation.runtime.transport import Inbox, InboxItem, MessageReceived
from federation.testing.broker import Delivery, MemoryBroker

__all__ = ["COORDINATOR", "Bus", "End", "VirtualClock"]

COORDINATOR = "coordinator"
"""The coordinator's name on the bus; all others are nodes."""


@dataclass(slots=True)
class Bus:
    """A broker in memory between one coordinator and its nodes: what is said waits until its turn comes."""

    inbox: Inbox
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    up: deque[MessageReceived] = field(default_factory=deque)
    down: deque[Delivery] = field(default_factory=deque)

    def hand(self, deliveries: Iterable[Delivery]) -> None:
        """Put each where its receiver looks, and acknowledge it."""
        todo = deque(deliveries)
        while todo:
            one = todo.popleft()
            if one.client_id == COORDINATOR:
                event = MessageReceived(
                    topic=one.topic, payload=one.payload, retained=one.retained, duplicate=one.duplicate
                )
                self.up.append(event)
            else:
                self.down.append(one)
            if one.mid:
                todo += self.broker.ack(one.client_id, one.mid)

    def arrive(self, together: int) -> None:
        """So many messages come to the coordinator at once."""
        for _ in range(min(together, len(self.up))):
            self.inbox.put(InboxItem(event=self.up.popleft()))


class VirtualClock:
    """Time that passes as messages come, and jumps to what is due where none does."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """In seconds."""
        return self._now

    def until(self, moment: float) -> None:
        """It passes until then."""
        self._now = max(self._now, moment)


@dataclass(frozen=True, slots=True)
class End:
    """One client's end of the bus: a coordinator's publisher, and a node's wire.

    Attributes:
        said: What was published and has not left; no time of the bus is its client's.
    """

    bus: Bus
    client: str
    said: list[Callable[[], list[Delivery]]] = field(default_factory=list)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, once it is time to leave."""
        self.said.append(partial(self.bus.broker.publish, self.client, topic, payload, qos=qos, retain=retain))

    def leave(self) -> None:
        """It goes to whom it is for."""
        for say in self.said:
            self.bus.hand(say())
        self.said.clear()

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe; what is retained comes at once."""
        for one in filters:
            self.bus.hand(self.bus.broker.subscribe(self.client, one))

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe."""
        for one in filters:
            self.bus.broker.unsubscribe(self.client, one)

    def rest(self, seconds: float) -> None:
        """Nobody leaves this bus."""
