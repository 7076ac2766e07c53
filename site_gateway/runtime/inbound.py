"""One inbox for two brokers: what arrives says from which side it comes."""

import queue
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

import coordinator.engine.events as below
import edge_node.engine.events as above
from federation.runtime.transport import Inbox, InboxItem, TransportConnected, TransportDisconnected
from site_gateway.engine.events import AboveEvent, BelowEvent, GatewayEvent

__all__ = ["Side", "SideInbox", "Translator", "from_side"]


class Side(Enum):
    """Where something comes from."""

    ABOVE = auto()
    BELOW = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tagged:
    """Something that one side's threads have said."""

    side: Side
    event: object


def from_side(side: Side, event: object) -> object:
    """What one side's threads have said, marked with its side."""
    return _Tagged(side=side, event=event)


class SideInbox(queue.Queue[InboxItem]):
    """What one side's threads write to: everything goes on to the gateway's inbox.

    Args:
        inbox: The gateway's.
        side: Whose threads write.
    """

    def __init__(self, inbox: Inbox, side: Side) -> None:
        super().__init__()
        self._target, self._side = inbox, side

    def put(self, item: InboxItem, block: bool = True, timeout: float | None = None) -> None:  # noqa: FBT001, FBT002
        """As `queue.Queue.put` of the gateway's inbox.

        Raises:
            queue.Full: There is no room there.
        """
        tagged = replace(item, event=from_side(self._side, item.event))
        self._target.put(tagged, block=block, timeout=timeout)


_LINK = (TransportConnected, TransportDisconnected)


class Translator:
    """From an inbox item to the gateway machine's event.

    Args:
        watch: Sees every item as it came, and takes what is not the machine's. Connections above are none of its
            business: a site is well while it goes on by itself, and a manager must not restart it for its link.
        from_above: Translates what the node above hears.
        from_below: Translates what the coordinator below hears.
        see: Takes notice of connections above.
    """

    def __init__(
        self,
        watch: Callable[[object], object | None],
        from_above: Callable[[object], above.Event | None],
        from_below: Callable[[object], below.Event | None],
        see: Callable[[object], None] = lambda _: None,
    ) -> None:
        self._watch, self._from_above, self._from_below, self._see = watch, from_above, from_below, see

    def __call__(self, item: object) -> GatewayEvent | None:
        """The event, or None when there is nothing to say.

        Raises:
            TransportError: A broker refuses us for good.
            StorageError: The site's store cannot be read.
        """
        tagged = item if isinstance(item, _Tagged) else None
        event = item if tagged is None else tagged.event
        linked = tagged is not None and tagged.side is Side.ABOVE and isinstance(event, _LINK)
        if linked:
            self._see(event)
        seen = event if linked else self._watch(event)
        if seen is None:
            return None
        if isinstance(seen, below.StopRequested) and tagged is None:
            return BelowEvent(event=seen)
        if tagged is None or tagged.side is Side.ABOVE:
            heard = self._from_above(seen)
            return None if heard is None else AboveEvent(event=heard)
        found = self._from_below(seen)
        return None if found is None else BelowEvent(event=found)
