"""What the coordinator hears about itself and its broker: events, as in `coordinator.engine.events`."""

from dataclasses import dataclass

from federation.protocol.messages import CoordinatorState

__all__ = ["BrokerDropped", "CoordinatorStateHeard", "MessageRefused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorStateHeard:
    """The coordinator's own topic says something that this process has not said.

    Attributes:
        state: What; None is nothing readable: it was cleared, or overwritten.
        retained: It stood there before this connection.
    """

    state: CoordinatorState | None
    retained: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerDropped:
    """The broker has dropped this many messages since its start, for whomever (``$SYS``): a queue was full."""

    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRefused:
    """Bytes that are no message: counted, never answered."""

    topic: str
    reason: str
