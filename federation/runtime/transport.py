"""The boundary to the broker: what a transport can do, and the events that it puts into the inbox."""

import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


def _no_ack() -> None:
    """Nothing to acknowledge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportConnected:
    """The broker accepted us; subscriptions have been sent again."""

    connection: str
    session_present: bool
    packet_bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportAnswered:
    """The broker has answered what was subscribed to at the connect: what it retains has come, or is on its way.

    What it retains of the session's ``census`` has come: Mosquitto sends retained messages right behind its answer, and
    that filter was asked for before the others. Told where `SessionSettings.tells_answer` says so; a broker may answer
    late, or never.
    """

    connection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportDisconnected:
    """The connection is gone; the transport reconnects by itself, with jitter."""

    connection: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportBlocked:
    """An attempt to connect has failed; the transport goes on trying, slowly where the broker has refused us."""

    connection: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportFailed:
    """The transport gave up: another client keeps taking over our id, or the broker cannot do what is needed."""

    connection: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceived:
    """One publish arrived."""

    topic: str
    payload: bytes
    retained: bool = False
    duplicate: bool = False


TransportEvent = (
    TransportConnected
    | TransportAnswered
    | TransportDisconnected
    | TransportBlocked
    | TransportFailed
    | MessageReceived
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxItem:
    """One thing that happened, and how to acknowledge it once its effects have run."""

    event: object
    acknowledge: Callable[[], None] = _no_ack


Inbox = queue.Queue[InboxItem]
"""Bounded queue between the network threads, the worker and the driver."""

INBOX_ITEMS_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """What the broker says for us when we vanish.

    Attributes:
        topic: Where.
        payload: What.
        delay_s: How long the broker waits for us to come back, in seconds; 0 does not even say so.
    """

    topic: str
    payload: bytes
    delay_s: int = 15


class Transport(Protocol):
    """One connection to a broker. Every method returns at once; what happens later arrives in the inbox."""

    def open(self) -> None:
        """Start to connect, and stay connected until `close`."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, now or after the reconnect.

        Raises:
            PayloadTooLarge: The packet exceeds the broker's Maximum Packet Size.
        """

    def subscribe(self, topic_filter: str, *, qos: int = 1) -> None:
        """Subscribe now and after every reconnect."""

    def unsubscribe(self, topic_filter: str) -> None:
        """Forget a subscription."""

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Flush what is queued, disconnect cleanly, and join the network thread."""
